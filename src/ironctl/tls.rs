//! TLS of the command line: a control plane is known by roots that everybody trusts, by those of a file, or by the
//! fingerprint of its certificate. Touches the file of roots that it is named, and the connections it is given.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, ring::default_provider, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
    StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

use super::Failure;

/// All the roots of an operating system are a quarter of this.
const ROOTS_BYTES: u64 = 1 << 20;

/// How a control plane is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// By the roots that browsers trust.
    Public,
    /// By the roots in this file.
    File(String),
    /// By the SHA-256 of its certificate.
    Fingerprint([u8; 32]),
}

impl Trust {
    /// What was asked for, by options or environment.
    pub(super) fn of(file: Option<String>, fingerprint: Option<String>) -> Result<Self, Failure> {
        match (file, fingerprint) {
            (Some(_), Some(_)) => {
                let text = "--ca-file and --tls-fingerprint exclude each other; give the one that you have";
                Err(Failure::usage(text))
            }
            (Some(file), None) => Ok(Self::File(file)),
            (None, Some(text)) => parse_fingerprint(&text).map(Self::Fingerprint).ok_or_else(|| {
                Failure::usage(
                    "--tls-fingerprint: expected the 64 hexadecimal digits that the control plane's log shows at \
                     its start (api.certificate sha256=…)",
                )
            }),
            (None, None) => Ok(Self::Public),
        }
    }

    /// What connects accordingly.
    pub(super) fn connector(&self) -> Result<TlsConnector, Failure> {
        let provider = Arc::new(default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self {
            Self::Fingerprint(expected) => {
                Arc::new(Pinned { expected: *expected, provider: provider.clone() })
            }
            Self::Public => {
                by_roots(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }, &provider)?
            }
            Self::File(file) => by_roots(read_roots(file)?, &provider)?,
        };
        let unusable = |error: rustls::Error| Failure::of(format!("TLS cannot be used: {error}"));
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsConnector { config: Some(Arc::new(config)) })
    }
}

/// The SHA-256 of the certificate that a control plane of this machine made for itself, if this user may read it.
pub(super) fn own(state: &Path) -> Option<[u8; 32]> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(state.join("tls/certificate.der")).ok()?;
    file.take(ROOTS_BYTES).read_to_end(&mut bytes).ok()?;
    digest(&SHA256, &bytes).as_ref().try_into().ok()
}

/// 64 hexadecimal digits, with or without colons between the bytes.
fn parse_fingerprint(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text
        .trim()
        .chars()
        .filter(|c| *c != ':')
        .map(|c| c.to_digit(16).map(|d| d as u8))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |sum, d| sum << 4 | d)).collect();
    (digits.len() == 64).then_some(bytes)?.try_into().ok()
}

fn by_roots(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, Failure> {
    let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    match built {
        Ok(verifier) => Ok(verifier),
        Err(error) => Err(Failure::of(format!("the trusted certificates cannot be used: {error}"))),
    }
}

fn read_roots(file: &str) -> Result<RootCertStore, Failure> {
    let wrong = |wrong: String| Failure::of(format!("the file of trusted certificates {file} {wrong}"));
    let mut bytes = Vec::new();
    std::fs::File::open(Path::new(file))
        .and_then(|opened| opened.take(ROOTS_BYTES + 1).read_to_end(&mut bytes))
        .map_err(|error| wrong(format!("cannot be read: {error}; check --ca-file")))?;
    if bytes.len() as u64 > ROOTS_BYTES {
        return Err(wrong(format!("is longer than {ROOTS_BYTES} bytes; is it the right one?")));
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let added = certificate.ok().is_some_and(|certificate| roots.add(certificate).is_ok());
        if !added {
            return Err(wrong("holds something that is no certificate; PEM is expected".to_owned()));
        }
    }
    if roots.is_empty() {
        return Err(wrong("holds no certificate; PEM is expected, with BEGIN CERTIFICATE".to_owned()));
    }
    Ok(roots)
}

/// Knows one certificate, whatever its names and dates say: whoever compared the fingerprint has judged those.
#[derive(Debug)]
struct Pinned {
    expected: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if digest(&SHA256, end_entity).as_ref() == self.expected {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Puts TLS around connections to `https://` addresses.
#[derive(Clone)]
pub(super) struct TlsConnector {
    config: Option<Arc<ClientConfig>>,
}

impl TlsConnector {
    /// For who has none such.
    pub(super) fn absent() -> Self {
        Self { config: None }
    }
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(other)?;
        let config = self.config.clone().ok_or(ureq::Error::TlsRequired)?;
        let mut connection = ClientConnection::new(config, name).map_err(other)?;
        let mut socket = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        let stream = StreamOwned { conn: connection, sock: socket };
        Ok(Some(Either::B(TlsTransport { buffers, stream })))
    }
}

fn other(error: impl std::error::Error + Send + Sync + 'static) -> ureq::Error {
    ureq::Error::Io(io::Error::other(error))
}

/// What TLS found wrong with the other side, if that is what an error is about: one line with the next step.
pub(super) fn distrust(error: &ureq::Error, trust: &Trust) -> Option<&'static str> {
    let ureq::Error::Io(error) = error else { return None };
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match (error, trust) {
        (rustls::Error::InvalidCertificate(_), Trust::Fingerprint(_)) => {
            "its certificate has another fingerprint; compare it with the control plane's log (api.certificate \
             sha256=…): if that shows the one you gave, somebody stands between"
        }
        (
            rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ),
            _,
        ) => {
            "its certificate is for other names; use one of them in --addr, or --tls-fingerprint with what the \
             control plane's log shows (api.certificate sha256=…)"
        }
        (
            rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ),
            _,
        ) => "its certificate has expired; renew it there, or set the clock here",
        (rustls::Error::InvalidCertificate(_), _) => {
            "nobody who is trusted here vouches for its certificate; for one of its own making, take the \
             fingerprint from the control plane's log (api.certificate sha256=…) and give it as --tls-fingerprint; \
             for a private authority, use --ca-file"
        }
        (rustls::Error::InvalidMessage(_), _) => {
            "what answers there does not speak TLS; use http:// if it is on this machine, or check the port"
        }
        _ => "TLS with it fails; check the address, and its log",
    })
}

/// A connection through TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output)?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let input = self.buffers.input_append_buf();
        let amount = self.stream.read(input)?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_are_64_digits() {
        let plain = "00ff".repeat(16);
        let bytes = parse_fingerprint(&plain).unwrap();
        assert_eq!((bytes[0], bytes[1]), (0, 0xff));
        let colons: Vec<String> = bytes.iter().map(|byte| format!("{byte:02X}")).collect();
        assert_eq!(parse_fingerprint(&format!(" {}\n", colons.join(":"))), Some(bytes));
        for bad in ["", "00", &plain[1..], &format!("{plain}00"), &plain.replace('f', "g"), "é"] {
            assert_eq!(parse_fingerprint(bad), None, "{bad}");
        }
    }

    #[test]
    fn there_is_one_way_to_be_known() {
        assert_eq!(Trust::of(None, None).unwrap(), Trust::Public);
        assert_eq!(Trust::of(Some("f".into()), None).unwrap(), Trust::File("f".into()));
        assert_eq!(Trust::of(Some("f".into()), Some("00".repeat(32))).unwrap_err().code, 2);
        assert_eq!(Trust::of(None, Some("00".into())).unwrap_err().code, 2);
        assert!(Trust::Public.connector().is_ok());
        assert_eq!(Trust::File("/nonexistent".into()).connector().unwrap_err().code, 1);
    }
}
