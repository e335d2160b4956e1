//! The HTTP interface: who may come in, what each path does, one file per noun, errors as problem documents.
//! Touches the ledger, the audit chain and the session actors through their functions, and the listener.

mod audit;
mod certificate;
mod chat;
mod door;
mod events;
mod handshake;
mod lists;
mod places;
mod problem;
mod rate;
pub mod readiness;
mod router;
mod server;
mod throttle;
pub mod tls;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hyper::body::{Body as _, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, header};
use smol::channel::{Receiver, Sender};
use smol::lock::Semaphore;

use self::places::Visitor;
use self::problem::Problem;
use self::router::{Guarded, Query};
pub use self::server::{Entrance, Server};
use self::throttle::Source;
use super::audit::{Audit, By};
use super::http::{self, Body, Closing};
use super::keys::{ApiToken, Keyring};
use super::session::Sessions;
use super::store::{Ledger, sessions};
use super::telemetry::metrics::{self, METRICS};
use crate::contract::json::Value;

/// What the one token is called where tokens are told apart.
const TOKEN_ID: &str = "owner";

/// Event streams at once, so that they never take every connection.
const STREAMS: usize = 64;

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
    audit: Audit,
    token: Arc<ApiToken>,
    closing: Closing,
    failures: throttle::Failures,
    rates: rate::Rates,
    newcomers: Newcomers,
    streams: Arc<Semaphore>,
}

impl Api {
    /// Puts the interface together; `closing` is that of the server that will serve it, and a token may make
    /// `token_rate` requests a second.
    pub fn new(
        ledger: Ledger,
        keyring: Keyring,
        actors: Sessions,
        audit: Audit,
        token: Arc<ApiToken>,
        token_rate: u32,
        closing: Closing,
    ) -> Self {
        Self {
            ledger,
            keyring,
            actors,
            audit,
            token,
            closing,
            failures: throttle::Failures::default(),
            rates: rate::Rates::new(token_rate),
            newcomers: Newcomers::default(),
            streams: Arc::new(Semaphore::new(STREAMS)),
        }
    }

    /// Answers a request that only the token's holder may make, on a connection of this visitor.
    async fn respond(
        self: &Arc<Self>,
        route: Guarded,
        request: Request<Incoming>,
        visitor: &Visitor,
        source: Source,
    ) -> Result<Response<Body>, Problem> {
        let now = Instant::now();
        if !door::bearer(request.headers()).is_some_and(|token| self.token.matches(token)) {
            self.audit.login_failed(visitor.peer.ip());
            return Err(self.failures.note(source, now));
        }
        visitor.is_known();
        self.rates.take(TOKEN_ID, now).map_err(Problem::too_many_requests)?;
        let query = request.uri().query().map(str::to_owned);
        let query = query.as_deref();
        match route {
            Guarded::Metrics => {
                Query::read(query, &[])?;
                self.metrics().await
            }
            Guarded::Agents => lists::agents(self, query).await,
            Guarded::Sessions => lists::sessions(self, query).await,
            Guarded::Session { id } => {
                Query::read(query, &[])?;
                lists::session(self, &id).await
            }
            Guarded::Release { id } => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                lists::release(self, &id).await
            }
            Guarded::Send { agent } => {
                Query::read(query, &[])?;
                chat::send(self, &agent, request).await
            }
            Guarded::History { agent } => chat::page(self, &agent, query).await,
            Guarded::Events { agent } => events::stream(self, &agent, &request).await,
            Guarded::Audit => audit::list(self, query).await,
            Guarded::AuditEvents => audit::events(self, &request).await,
            Guarded::AuditVerify => {
                Query::read(query, &[])?;
                audit::verify(self)
            }
            Guarded::AuditAcknowledge => {
                Query::read(query, &[])?;
                no_fields(request).await?;
                audit::acknowledge(self).await
            }
        }
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

/// Whoever holds the token.
fn owner() -> By {
    By { actor: "local:owner".to_owned(), via: "token:api-token".to_owned() }
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
