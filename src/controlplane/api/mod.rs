//! The HTTP interface: who may come in, what each path does, one file per noun, errors as problem documents.
//! Touches the ledger and the session actors through their functions, and the listener.

mod chat;
mod door;
mod events;
mod lists;
mod problem;
pub mod readiness;
mod router;

use std::convert::Infallible;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, header};
use smol::Async;
use smol::channel::{Receiver, Sender};
use smol::lock::Semaphore;

use self::problem::Problem;
use self::readiness::{Readiness, Stage};
use self::router::{Query, Route};
use super::http::{self, Body, Closing, json_response};
use super::keys::{ApiToken, Keyring};
use super::session::Sessions;
use super::store::{Ledger, sessions};
use super::telemetry::log;
use super::telemetry::metrics::{self, METRICS};
use crate::contract::json::Value;
use crate::contract::time::Millis;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// Event streams at once, so that they never take every connection.
const STREAMS: usize = 64;
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Rings for every watcher when a message was accepted: it may have begun the conversation they wait for.
#[derive(Debug, Default)]
struct Newcomers(Mutex<Vec<Sender<()>>>);

impl Newcomers {
    fn watch(&self) -> Receiver<()> {
        let (sender, receiver) = smol::channel::bounded(1);
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| !watcher.is_closed());
        watchers.push(sender);
        receiver
    }

    fn ring(&self) {
        for watcher in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = watcher.try_send(());
        }
    }
}

/// Everything the interface needs.
pub struct Api {
    ledger: Ledger,
    keyring: Keyring,
    actors: Sessions,
    readiness: Arc<Readiness>,
    token: Arc<ApiToken>,
    closer: Sender<Infallible>,
    closing: Closing,
    failures: door::Failures,
    newcomers: Newcomers,
    streams: Arc<Semaphore>,
    requests: AtomicU64,
    started: Millis,
}

/// A served interface.
pub struct Server {
    closer: Sender<Infallible>,
    accepting: smol::Task<()>,
}

impl Server {
    /// Takes no more connections, ends the event streams, and waits for the responses in flight, a moment
    /// each.
    pub async fn stop(self) {
        self.closer.close();
        self.accepting.await;
    }
}

/// Serves the listener on the executor of `smol::spawn`, until the server is stopped.
///
/// # Errors
/// When the listener cannot be used at all.
pub fn serve(listener: TcpListener, api: Api) -> std::io::Result<Server> {
    let listener = Async::new(listener)?;
    let closer = api.closer.clone();
    Ok(Server { closer, accepting: smol::spawn(accept(listener, Arc::new(api))) })
}

async fn accept(listener: Async<TcpListener>, api: Arc<Api>) {
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
            let api = api.clone();
            smol::spawn(async move {
                api.connection(stream).await;
                drop(place);
            })
            .detach();
        }
    };
    let closed = async {
        let _ = api.closing.recv().await;
    };
    smol::future::or(closed, accepting).await;
    drop(listener);
    // Every place free again means that every connection ended.
    let mut all = Vec::with_capacity(CONNECTIONS);
    while all.len() < CONNECTIONS {
        all.push(places.acquire_arc().await);
    }
}

impl Api {
    /// Puts the interface together.
    pub fn new(
        ledger: Ledger,
        keyring: Keyring,
        actors: Sessions,
        readiness: Arc<Readiness>,
        token: Arc<ApiToken>,
    ) -> Self {
        let (closer, closing) = smol::channel::bounded(1);
        Self {
            ledger,
            keyring,
            actors,
            readiness,
            token,
            closer,
            closing,
            failures: door::Failures::default(),
            newcomers: Newcomers::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
            requests: AtomicU64::new(0),
            started: Millis::now(),
        }
    }

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

    async fn respond(self: &Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Problem> {
        door::check_site(request.headers())?;
        let query = request.uri().query().map(str::to_owned);
        // A token in a URL is refused before anything else is said about the URL.
        if let Err(problem) = Query::read(query.as_deref(), &[])
            && problem.code == "token_in_url"
        {
            return Err(problem);
        }
        let route = router::route(request.method(), request.uri().path())?;
        if !route.is_open() && !door::bearer(request.headers()).is_some_and(|token| self.token.matches(token))
        {
            return Err(self.failures.note(Instant::now()));
        }
        let query = query.as_deref();
        match route {
            Route::Health => Query::read(query, &[]).map(|_| self.health()),
            Route::Ready => Query::read(query, &[]).map(|_| self.ready()),
            Route::Metrics => {
                Query::read(query, &[])?;
                self.metrics().await
            }
            Route::Agents => lists::agents(self, query).await,
            Route::Sessions => lists::sessions(self, query).await,
            Route::Session { id } => {
                Query::read(query, &[])?;
                lists::session(self, &id).await
            }
            Route::Release { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                lists::release(self, &id).await
            }
            Route::Send { agent } => {
                Query::read(query, &[])?;
                chat::send(self, &agent, request).await
            }
            Route::History { agent } => chat::page(self, &agent, query).await,
            Route::Events { agent } => events::stream(self, &agent, &request).await,
        }
    }

    fn health(&self) -> Response<Body> {
        let version = Value::from(env!("CARGO_PKG_VERSION"));
        json_response(StatusCode::OK, &Value::object([("status", Value::from("ok")), ("version", version)]))
    }

    fn ready(&self) -> Response<Body> {
        let (status, fields) = match self.readiness.get() {
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

    async fn metrics(&self) -> Result<Response<Body>, Problem> {
        let totals = self.ledger.read(sessions::totals).await?;
        METRICS.open_messages.set(totals.open_messages);
        METRICS.sessions_owed.set(totals.owed);
        METRICS.parked.set(totals.parked);
        let mut response = Response::new(http::full(metrics::render()));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        Ok(response)
    }
}

/// The JSON body of a request that must have one.
async fn body(request: Request<Incoming>, most: usize) -> Result<Value, Problem> {
    if !http::says_json(request.headers()) {
        return Err(Problem::not_json());
    }
    Ok(http::json_body(request.into_body(), most).await?)
}

/// For a request that says everything with its path: no body, or an empty JSON object.
async fn no_fields(request: Request<Incoming>) -> Result<(), Problem> {
    if request.body().is_end_stream() {
        return Ok(());
    }
    match body(request, 1024).await? {
        Value::Object(fields) if fields.is_empty() => Ok(()),
        _ => Err(Problem::invalid("this path takes no fields; send no body, or {}")),
    }
}
