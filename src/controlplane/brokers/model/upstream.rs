//! The way to the providers: which of them this host can ask, with verified TLS, straight or through a credential
//! gateway, over connections that are kept for the next call. Nothing here is chosen by a sandbox. Touches the network
//! and, once, the files of certificates.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_rustls::TlsConnector;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::net::TcpStream;
use smol_hyper::rt::FuturesIo;

use super::credential::Source;
use super::endpoint::Endpoint;
use super::providers::Provider;
use super::unverified;
use crate::contract::address::Name;
use crate::controlplane::config::Secret;
use crate::controlplane::tasks;

/// From a name to a connection that can be written to.
const CONNECT_WAIT: Duration = Duration::from_secs(20);
/// Until an upstream begins to answer: it may read a long conversation first.
const HEAD_WAIT: Duration = Duration::from_secs(180);
/// Longest head of an answer.
const HEAD_BYTES: usize = 32 << 10;
/// Most header lines of one.
const HEADERS: usize = 100;
/// Connections of one upstream that are kept.
const KEPT: usize = 8;
/// How long; upstreams close idle ones by themselves after a minute or so.
const KEPT_FOR: Duration = Duration::from_secs(20);
/// Longest answer of a gateway to `CONNECT`.
const TUNNEL_BYTES: usize = 8 << 10;

/// A provider that this host can ask.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Who.
    pub provider: Provider,
    /// Where.
    pub endpoint: Endpoint,
    /// With what.
    pub source: Source,
    /// Whether the way leads through the gateway, which then adds the credential.
    pub is_by_gateway: bool,
}

/// A proxy that adds credentials of its own: it ends the TLS of those hosts that are listed with it.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// Where it listens; the base path is not used.
    pub endpoint: Endpoint,
    /// `user:password` for it.
    pub login: Option<Secret>,
    /// Who signs the certificates that it shows for the hosts.
    pub trust: Trust,
}

/// How the certificates that a gateway shows are judged.
#[derive(Clone, Debug)]
pub enum Trust {
    /// By the roots of this file and no others.
    Roots(PathBuf),
    /// Not at all; only for a gateway on this machine.
    Unverified,
}

/// Everything that the operator said about upstreams.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    /// Those that there are.
    pub all: Vec<Upstream>,
    /// The gateway of those that go through one.
    pub gateway: Option<Gateway>,
    /// Roots beside those that browsers trust.
    pub more_roots: Option<PathBuf>,
}

/// Why a call was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There is no connection.
    NotReached(String),
    /// It did not answer in time.
    TooSlow,
    /// The connection broke before the answer.
    Broken,
}

/// A stream in both directions.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
type Stream = Box<dyn Duplex>;

/// One connection, good for one call at a time. Dropping it ends what is on its way.
pub struct Lane {
    sender: SendRequest<Full<Bytes>>,
    _driver: smol::Task<()>,
}

/// Makes connections and keeps them.
pub struct Dialer {
    upstreams: Upstreams,
    roots: TlsConnector,
    by_gateway: Option<TlsConnector>,
    kept: Mutex<Vec<(Provider, Instant, Lane)>>,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("upstreams", &self.upstreams).finish_non_exhaustive()
    }
}

impl Dialer {
    /// Reads the certificates.
    ///
    /// # Errors
    /// A sentence that names the file and what is wrong with it.
    pub fn new(upstreams: Upstreams) -> Result<Self, String> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        if let Some(path) = &upstreams.more_roots {
            add_roots(&mut roots, path)?;
        }
        let by_gateway = match upstreams.gateway.as_ref().map(|gateway| &gateway.trust) {
            None => None,
            Some(Trust::Unverified) => Some(connector(unverified::config()?)),
            Some(Trust::Roots(path)) => {
                let mut only = RootCertStore::empty();
                add_roots(&mut only, path)?;
                Some(connector(by_roots(only)?))
            }
        };
        let roots = connector(by_roots(roots)?);
        Ok(Self { upstreams, roots, by_gateway, kept: Mutex::default() })
    }

    /// The upstream of a provider; `None` where the operator gave it no credential or address.
    pub fn upstream(&self, provider: Provider) -> Option<&Upstream> {
        self.upstreams.all.iter().find(|upstream| upstream.provider == provider)
    }

    /// What must not reach a sandbox beside the credential of its own call.
    pub fn gateways_password(&self) -> Option<&str> {
        let login = self.upstreams.gateway.as_ref()?.login.as_ref()?;
        login.expose().split_once(':').map(|(_, password)| password)
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is none; the request may have been acted on then.
    pub async fn send(
        &self,
        upstream: &Upstream,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Lane), Failure> {
        while let Some(mut lane) = self.take(upstream.provider) {
            if lane.sender.ready().await.is_err() {
                continue;
            }
            match in_time(HEAD_WAIT, lane.sender.try_send_request(request)).await.ok_or(Failure::TooSlow)? {
                Ok(response) => return Ok((response, lane)),
                // It was closed meanwhile, and nothing of the request was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(Failure::Broken),
                },
            }
        }
        let mut lane = in_time(CONNECT_WAIT, self.open(upstream))
            .await
            .unwrap_or_else(|| Err("it did not answer in time".to_owned()))
            .map_err(Failure::NotReached)?;
        let answer = in_time(HEAD_WAIT, lane.sender.send_request(request)).await.ok_or(Failure::TooSlow)?;
        answer.map(|response| (response, lane)).map_err(|_| Failure::Broken)
    }

    /// Keeps a connection whose answer was read to its end.
    pub fn keep(&self, provider: Provider, lane: Lane) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, since, lane)| since.elapsed() < KEPT_FOR && !lane.sender.is_closed());
        if kept.iter().filter(|(of, ..)| *of == provider).count() < KEPT {
            kept.push((provider, Instant::now(), lane));
        }
    }

    /// How many are kept.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().filter(|(.., lane)| !lane.sender.is_closed()).count()
    }

    fn take(&self, provider: Provider) -> Option<Lane> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(_, since, lane)| since.elapsed() < KEPT_FOR && !lane.sender.is_closed());
        let at = kept.iter().rposition(|(of, ..)| *of == provider)?;
        Some(kept.remove(at).2)
    }

    async fn open(&self, upstream: &Upstream) -> Result<Lane, String> {
        let endpoint = &upstream.endpoint;
        let stream = match self.upstreams.gateway.as_ref().filter(|_| upstream.is_by_gateway) {
            None => self.secured(tcp(endpoint).await?, endpoint, &self.roots).await?,
            Some(gateway) => {
                let way = self.secured(tcp(&gateway.endpoint).await?, &gateway.endpoint, &self.roots).await?;
                let way = tunnel(way, gateway, endpoint).await?;
                let judge = self.by_gateway.as_ref().ok_or("the gateway's certificates are not known")?;
                self.secured(way, endpoint, judge).await?
            }
        };
        let made = http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .handshake::<_, Full<Bytes>>(FuturesIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(|error| error.to_string())?;
        // Its errors are those of whoever waits for the answer.
        let driver = tasks::spawn(async move {
            let _ = connection.await;
        });
        Ok(Lane { sender, _driver: driver })
    }

    /// The stream through TLS, where the endpoint says so.
    async fn secured(&self, stream: Stream, to: &Endpoint, judge: &TlsConnector) -> Result<Stream, String> {
        if !to.is_tls {
            return Ok(stream);
        }
        let name = match &to.host {
            Name::Dns(name) => ServerName::try_from(name.clone())
                .map_err(|_| "its name cannot be in a certificate".to_owned())?,
            Name::Ip(ip) => ServerName::from(*ip),
        };
        match judge.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(format!("TLS failed: {error}")),
        }
    }
}

async fn in_time<T>(most: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(most).await;
        None
    };
    async { Some(work.await) }.or(late).await
}

async fn tcp(to: &Endpoint) -> Result<Stream, String> {
    let host = match &to.host {
        Name::Dns(name) => name.clone(),
        Name::Ip(IpAddr::V4(v4)) => v4.to_string(),
        Name::Ip(IpAddr::V6(v6)) => v6.to_string(),
    };
    let stream = TcpStream::connect((host, to.port)).await.map_err(|error| error.to_string())?;
    let _ = stream.set_nodelay(true);
    Ok(Box::new(stream))
}

/// Asks a gateway for a way to an upstream (RFC 9110 §9.3.6). Byte by byte, so that nothing of what follows is read.
async fn tunnel(mut stream: Stream, gateway: &Gateway, to: &Endpoint) -> Result<Stream, String> {
    let target = format!("{}:{}", to.host, to.port);
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n");
    if let Some(login) = &gateway.login {
        head.push_str(&format!("proxy-authorization: Basic {}\r\n", STANDARD.encode(login.expose())));
    }
    head.push_str("\r\n");
    let broken = |error: std::io::Error| format!("the credential gateway: {error}");
    stream.write_all(head.as_bytes()).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    let mut said = Vec::new();
    let mut byte = [0; 1];
    while !said.ends_with(b"\r\n\r\n") {
        if said.len() >= TUNNEL_BYTES {
            return Err("the credential gateway's answer is too long".to_owned());
        }
        stream.read_exact(&mut byte).await.map_err(broken)?;
        said.extend_from_slice(&byte);
    }
    let line = said.split(|&b| b == b'\r').next().unwrap_or_default();
    let status = line.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    match status {
        Some([b'2', ..]) => Ok(stream),
        Some(status) => Err(format!(
            "the credential gateway refuses it with {}",
            String::from_utf8_lossy(status).escape_debug()
        )),
        None => Err("the credential gateway does not answer in HTTP".to_owned()),
    }
}

fn add_roots(roots: &mut RootCertStore, path: &Path) -> Result<(), String> {
    let wrong = |why: &str| format!("{}: {why}; a PEM file of certificates is expected", path.display());
    let bytes = std::fs::read(path).map_err(|error| wrong(&error.to_string()))?;
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let certificate = certificate.map_err(|error| wrong(&error.to_string()))?;
        roots.add(certificate).map_err(|error| wrong(&error.to_string()))?;
        count += 1;
    }
    if count == 0 { Err(wrong("there is no certificate in it")) } else { Ok(()) }
}

fn by_roots(roots: RootCertStore) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn connector(mut config: ClientConfig) -> TlsConnector {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}
