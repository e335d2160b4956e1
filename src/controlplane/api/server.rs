//! The listener and what is the same for every request: a place, a number, the site's check, headers, the log
//! line. Where the entrance has TLS, it comes before all of them. It answers from the first moment on; while the
//! control plane still opens its state, `/healthz` and `/readyz` are all that it has, and everything else is told to
//! come again. Touches the listener.

use std::convert::Infallible;
use std::net::{TcpListener, TcpStream};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Method, Request, Response, StatusCode, header};
use smol::Async;
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncWrite};

use super::door::Site;
use super::problem::Problem;
use super::readiness::{Readiness, Stage};
use super::router::{self, Query, Route};
use super::throttle::{Source, Told};
use super::tls::Certificate;
use super::{Api, agents, handshake};
#[cfg(feature = "faults")]
use crate::contract::fault;
use crate::contract::ids::UserId;
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::config::{Door, Protection};
use crate::controlplane::http::{self, Body, Closing, json_response};
use crate::controlplane::places::{Places, Visitor};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Connections at once. Who comes when all are taken gets the place of the oldest that showed no token; where all
/// did, more wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A served listener.
pub struct Server {
    closer: Sender<Infallible>,
    front: Arc<Front>,
    accepting: smol::Task<()>,
}

/// What stands before the interface: names, and TLS where there is some.
pub struct Entrance {
    site: Site,
    /// Another one may come in its place while it is in use.
    tls: Option<RwLock<handshake::Acceptor>>,
}

impl Entrance {
    /// That of a door, with the certificate that its protection asks for.
    pub fn new(door: &Door, certificate: Option<&Certificate>) -> Self {
        let names = door.names.clone();
        let site = match (&door.protection, certificate) {
            (Protection::Proxy(public), _) => Site::behind_proxy(names, public.clone()),
            (_, Some(_)) => Site::https(names),
            (_, None) => Site::http(names),
        };
        Self { site, tls: certificate.map(|certificate| RwLock::new(certificate.acceptor())) }
    }
}

/// What every connection shares.
struct Front {
    entrance: Entrance,
    told: Told,
    closing: Closing,
    readiness: Arc<Readiness>,
    requests: AtomicU64,
    started: Millis,
    /// Set once, when the state is open.
    api: OnceLock<Arc<Api>>,
}

/// What the log has of a request beside its head, once it is known who makes it.
pub(super) struct Noted {
    /// Who.
    pub(super) user: UserId,
    /// The name of their token.
    pub(super) token: String,
    /// What it shows is somebody's own words, or what was done: who read it is to be known later.
    pub(super) is_confidential: bool,
}

impl Server {
    /// Serves the listener on the executor of `tasks`, until the server is stopped.
    ///
    /// # Errors
    /// When the listener cannot be used at all.
    pub fn start(
        listener: TcpListener,
        readiness: Arc<Readiness>,
        entrance: Entrance,
    ) -> std::io::Result<Self> {
        let listener = Async::new(listener)?;
        let (closer, closing) = smol::channel::bounded(1);
        let front = Arc::new(Front {
            entrance,
            told: Told::default(),
            closing,
            readiness,
            requests: AtomicU64::new(0),
            started: Millis::now(),
            api: OnceLock::new(),
        });
        Ok(Self { closer, accepting: tasks::spawn(accept(listener, front.clone())), front })
    }

    /// Is closed when the server stops.
    pub fn closing(&self) -> Closing {
        self.front.closing.clone()
    }

    /// From now on everything is served, and what an earlier daemon began to delete is finished. A second interface
    /// is not taken.
    pub fn open(&self, api: Api) {
        tasks::spawn(agents::finish_deletions(api.ledger.clone())).detach();
        let _ = self.front.api.set(Arc::new(api));
    }

    /// Connections that come from now on are received with this certificate; where there was none, none is used.
    pub fn replace_certificate(&self, certificate: &Certificate) {
        if let Some(acceptor) = &self.front.entrance.tls {
            *acceptor.write().unwrap_or_else(PoisonError::into_inner) = certificate.acceptor();
        }
    }

    /// Takes no more connections, ends the event streams, and waits for the responses in flight, a moment
    /// each.
    pub async fn stop(self) {
        self.closer.close();
        self.accepting.await;
    }
}

async fn accept(listener: Async<TcpListener>, front: Arc<Front>) {
    let places = Places::new(CONNECTIONS);
    let accepting = async {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    log::warn("api.accept_failed", &[("error", &error)]);
                    smol::Timer::after(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Who is gone already needs no place.
            let Ok(local) = stream.get_ref().local_addr() else { continue };
            let visitor = places.enter(peer, local.ip()).await;
            tasks::spawn(front.clone().connection(stream, visitor)).detach();
        }
    };
    let closed = async {
        let _ = front.closing.recv().await;
    };
    smol::future::or(closed, accepting).await;
    drop(listener);
    places.all_free().await;
}

impl Front {
    async fn connection(self: Arc<Self>, stream: Async<TcpStream>, visitor: Arc<Visitor>) {
        METRICS.http_connections.inc();
        let _ = stream.get_ref().set_nodelay(true);
        let served = async {
            match &self.entrance.tls {
                None => self.serve(stream, &visitor).await,
                Some(acceptor) => {
                    let acceptor = acceptor.read().unwrap_or_else(PoisonError::into_inner).clone();
                    if let Some(stream) = handshake::receive(&acceptor, stream, &self.closing).await {
                        self.serve(stream, &visitor).await;
                    }
                }
            }
        };
        let sent_away = async {
            visitor.must_leave().await;
            log::debug("api.sent_away", &[("peer", &visitor.peer)]);
        };
        served.or(sent_away).await;
        METRICS.http_connections.dec();
    }

    async fn serve<S>(self: &Arc<Self>, stream: S, visitor: &Arc<Visitor>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = |request| self.clone().answer(request, visitor.clone());
        http::connection(stream, self.closing.clone(), answer).await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, visitor: Arc<Visitor>) -> Response<Body> {
        METRICS.http_requests.inc();
        let began = Instant::now();
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}-{number:x}", self.started.0);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let _work = visitor.works();
        let noted = OnceLock::new();
        let answering = AssertUnwindSafe(self.respond(request, &visitor, &noted)).catch_unwind();
        let answered = answering.await.unwrap_or_else(|_| {
            log::error("api.panic", &[("request", &id), ("method", &method), ("path", &path)]);
            Err(Problem::internal())
        });
        let (mut response, code) = match answered {
            Ok(response) => (response, "ok"),
            Err(problem) => {
                METRICS.http_errors.inc();
                (problem.clone().into_response(&id), problem.code)
            }
        };
        let (status, took) = (response.status().as_u16(), began.elapsed().as_micros());
        let mut fields: Vec<log::Field<'_>> =
            vec![("request", &id), ("peer", &visitor.peer), ("method", &method), ("path", &path)];
        let noted = noted.into_inner();
        if let Some(noted) = &noted {
            fields.extend([("user", &noted.user as &dyn std::fmt::Display), ("token", &noted.token)]);
        }
        fields.extend([("status", &status as &dyn std::fmt::Display), ("code", &code), ("us", &took)]);
        let reads = matches!(method, Method::GET | Method::HEAD | Method::OPTIONS);
        let matters = !reads || code != "ok" || noted.as_ref().is_some_and(|noted| noted.is_confidential);
        // Who is only refused does not fill the log.
        let is_welcome = visitor.is_known() && status != 429;
        if matters && (is_welcome || self.told.may(began)) {
            log::info("api.request", &fields);
        } else {
            log::debug("api.request", &fields);
        }
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CACHE_CONTROL, "no-store"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
            (header::REFERRER_POLICY, "no-referrer"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if let Ok(value) = HeaderValue::from_str(&id) {
            headers.insert("x-request-id", value);
        }
        response
    }

    /// What somebody has to look at.
    fn held(&self) -> Option<String> {
        let failing = self.api.get().and_then(|api| api.audit.unavailable()).map(|reason| {
            format!(
                "audit_unavailable: what is asked for is refused, because it could not be recorded: {reason}; make \
                 the state directory writable again"
            )
        });
        let all: Vec<String> = [self.readiness.held(), failing].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        visitor: &Visitor,
        noted: &OnceLock<Noted>,
    ) -> Result<Response<Body>, Problem> {
        self.entrance.site.check(request.headers(), visitor.local)?;
        let query = request.uri().query();
        // A token in a URL is refused before anything else is said about the URL.
        if let Err(problem) = Query::read(query, &[])
            && problem.code == "token_in_url"
        {
            return Err(problem);
        }
        match router::route(request.method(), request.uri().path())? {
            Route::Health => Query::read(query, &[]).map(|_| health()),
            Route::Ready => Query::read(query, &[]).map(|_| ready(self.readiness.get(), self.held())),
            Route::Guarded(route) => match self.api.get() {
                #[cfg(feature = "faults")]
                Some(_) if fault::value("panic-at") == Some(request.uri().path()) => fault::panic(),
                Some(api) => {
                    let source = match self.entrance.site.is_behind_proxy() {
                        true => Source::Near,
                        false => Source::of(visitor.peer.ip()),
                    };
                    api.respond(route, request, visitor, source, noted).await
                }
                None => Err(Problem::starting()),
            },
        }
    }
}

fn health() -> Response<Body> {
    let version = Value::from(env!("CARGO_PKG_VERSION"));
    json_response(StatusCode::OK, &Value::object([("status", Value::from("ok")), ("version", version)]))
}

fn ready(stage: Stage, held: Option<String>) -> Response<Body> {
    let (status, fields) = match (stage, held) {
        (Stage::Starting { doing }, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            vec![("status", Value::from("starting")), ("reason", Value::from(doing))],
        ),
        (Stage::Broken { reason }, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            vec![("status", Value::from("broken")), ("reason", Value::from(reason))],
        ),
        (Stage::Ready { .. }, Some(reason)) => (
            StatusCode::SERVICE_UNAVAILABLE,
            vec![("status", Value::from("held")), ("reason", Value::from(reason))],
        ),
        (Stage::Ready { back_end, description, notes }, None) => (
            StatusCode::OK,
            vec![
                ("status", Value::from("ready")),
                ("back_end", Value::from(back_end)),
                ("description", Value::from(description)),
                ("notes", Value::from(notes.into_iter().map(Value::from).collect::<Vec<_>>())),
            ],
        ),
    };
    json_response(status, &Value::object(fields))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_supervisor_is_answered_before_the_state_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Arc::new(Readiness::default());
        let site = Site::http(Vec::new());
        let server = Server::start(listener, readiness, Entrance { site, tls: None }).unwrap();
        let ask = |path: &str| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        assert!(ask("/healthz").starts_with("HTTP/1.1 200 "), "{}", ask("/healthz"));
        assert!(ask("/readyz").contains(r#""status":"starting""#), "{}", ask("/readyz"));
        for path in ["/v1/agents", "/metrics"] {
            let answer = ask(path);
            assert!(
                answer.starts_with("HTTP/1.1 503 ") && answer.contains(r#""type":"starting""#),
                "{answer}"
            );
            assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
        }
        assert!(ask("/v1/agents?token=x").contains("token_in_url"));
        tasks::block_on(server.stop());
    }
}
