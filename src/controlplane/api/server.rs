//! The listener and what is the same for every request: a place, a number, the site's check, headers, the log
//! line. It answers from the first moment on; while the control plane still opens its state, `/healthz` and
//! `/readyz` are all that it has, and everything else is told to come again. Touches the listener.

use std::convert::Infallible;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, header};
use smol::Async;
use smol::channel::Sender;
use smol::lock::Semaphore;

use super::problem::Problem;
use super::readiness::{Readiness, Stage};
use super::router::{self, Query, Route};
use super::{Api, door};
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::http::{self, Body, Closing, json_response};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A served listener.
pub struct Server {
    closer: Sender<Infallible>,
    front: Arc<Front>,
    accepting: smol::Task<()>,
}

/// What every connection shares.
struct Front {
    closing: Closing,
    readiness: Arc<Readiness>,
    requests: AtomicU64,
    started: Millis,
    /// Set once, when the state is open.
    api: OnceLock<Arc<Api>>,
}

impl Server {
    /// Serves the listener on the executor of `tasks`, until the server is stopped.
    ///
    /// # Errors
    /// When the listener cannot be used at all.
    pub fn start(listener: TcpListener, readiness: Arc<Readiness>) -> std::io::Result<Self> {
        let listener = Async::new(listener)?;
        let (closer, closing) = smol::channel::bounded(1);
        let front = Arc::new(Front {
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

    /// From now on everything is served. A second interface is not taken.
    pub fn open(&self, api: Api) {
        let _ = self.front.api.set(Arc::new(api));
    }

    /// Takes no more connections, ends the event streams, and waits for the responses in flight, a moment
    /// each.
    pub async fn stop(self) {
        self.closer.close();
        self.accepting.await;
    }
}

async fn accept(listener: Async<TcpListener>, front: Arc<Front>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let place = places.acquire_arc().await;
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::warn("api.accept_failed", &[("error", &error)]);
                    smol::Timer::after(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let front = front.clone();
            tasks::spawn(async move {
                front.connection(stream).await;
                drop(place);
            })
            .detach();
        }
    };
    let closed = async {
        let _ = front.closing.recv().await;
    };
    smol::future::or(closed, accepting).await;
    drop(listener);
    // Every place free again means that every connection ended.
    let mut all = Vec::with_capacity(CONNECTIONS);
    while all.len() < CONNECTIONS {
        all.push(places.acquire_arc().await);
    }
}

impl Front {
    async fn connection(self: Arc<Self>, stream: Async<TcpStream>) {
        METRICS.http_connections.inc();
        let _ = stream.get_ref().set_nodelay(true);
        let closing = self.closing.clone();
        http::connection(stream, closing, |request| self.clone().answer(request)).await;
        METRICS.http_connections.dec();
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        METRICS.http_requests.inc();
        let began = Instant::now();
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:x}-{number:x}", self.started.0);
        let method = request.method().clone();
        let mut response = match self.respond(request).await {
            Ok(response) => response,
            Err(problem) => {
                METRICS.http_errors.inc();
                log::info(
                    "api.refused",
                    &[("request", &id), ("status", &problem.status.as_u16()), ("code", &problem.code)],
                );
                problem.into_response(&id)
            }
        };
        log::debug(
            "api.request",
            &[
                ("request", &id),
                ("method", &method),
                ("status", &response.status().as_u16()),
                ("us", &began.elapsed().as_micros()),
            ],
        );
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

    async fn respond(&self, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        door::check_site(request.headers())?;
        let query = request.uri().query();
        // A token in a URL is refused before anything else is said about the URL.
        if let Err(problem) = Query::read(query, &[])
            && problem.code == "token_in_url"
        {
            return Err(problem);
        }
        match router::route(request.method(), request.uri().path())? {
            Route::Health => Query::read(query, &[]).map(|_| health()),
            Route::Ready => Query::read(query, &[]).map(|_| ready(self.readiness.get())),
            Route::Guarded(route) => match self.api.get() {
                Some(api) => api.respond(route, request).await,
                None => Err(Problem::starting()),
            },
        }
    }
}

fn health() -> Response<Body> {
    let version = Value::from(env!("CARGO_PKG_VERSION"));
    json_response(StatusCode::OK, &Value::object([("status", Value::from("ok")), ("version", version)]))
}

fn ready(stage: Stage) -> Response<Body> {
    let (status, fields) = match stage {
        Stage::Starting { doing } => (
            StatusCode::SERVICE_UNAVAILABLE,
            vec![("status", Value::from("starting")), ("reason", Value::from(doing))],
        ),
        Stage::Broken { reason } => (
            StatusCode::SERVICE_UNAVAILABLE,
            vec![("status", Value::from("broken")), ("reason", Value::from(reason))],
        ),
        Stage::Ready { back_end, description, notes } => (
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
        let server = Server::start(listener, readiness).unwrap();
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
