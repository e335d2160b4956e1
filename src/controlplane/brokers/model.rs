//! The model socket: one per running sandbox, on which it may ask for one thing, an answer of its agent's model in the
//! dialect of that model's provider. The socket is the session's identity; no header is believed, and none goes on.
//! Touches the listener it is given and the provider's upstream.

pub mod budget;
pub mod calls;
mod checks;
pub mod credential;
mod echo;
pub mod endpoint;
mod mock;
mod pace;
mod providers;
pub mod record;
mod redact;
mod refusal;
mod relay;
mod unverified;
pub mod upstream;
pub mod usage;

pub use providers::{Provider, ProviderError, Shown};

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Method, Request, Response, header};
use smol::Async;
use smol::lock::Semaphore;

use self::budget::Look;
use self::calls::{Caller, Calls, Heard};
use self::checks::Asked;
use self::pace::Pace;
use self::refusal::Refusal;
use self::upstream::Dialer;
use self::usage::Meter;
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::json::{self, Value};
use crate::contract::providers::Dialect;
use crate::controlplane::http::{self, Body, BodyError, Closing};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Connections of one sandbox at once; its client opens one a request.
const CONNECTIONS: usize = 8;
/// A transcript with everything in it; the gate takes no more either.
const BODY_BYTES: usize = 8 << 20;
/// Large bodies that are parsed at once, over all sessions: their parsing takes a core for a while each.
const PARSES: usize = 2;
/// A session's refusals are logged once in so long, with their number.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(1);
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a session may ask for: a model, and who answers for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Terms {
    provider: Provider,
    model: String,
}

/// The terms of one socket: those of now, and those before them, with which a turn that runs may end.
#[derive(Debug)]
struct Granted(Mutex<(Terms, Option<Terms>)>);

impl Granted {
    /// Those of the terms that are asked for on this path, with its query.
    fn on_path(&self, path: &str) -> Vec<Terms> {
        let terms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, before) = &*terms;
        let all = [Some(now), before.as_ref()].into_iter().flatten();
        all.filter(|terms| terms.provider.dialect().path(&terms.model) == path).cloned().collect()
    }

    /// Whether some terms are of a dialect whose paths name the model.
    fn names_models_in_paths(&self) -> bool {
        let terms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, before) = &*terms;
        [Some(now), before.as_ref()].into_iter().flatten().any(|t| t.provider.dialect() == Dialect::Gemini)
    }
}

/// Says whether a connected peer may speak on this socket.
type PeerCheck = Arc<dyn Fn(BorrowedFd<'_>) -> bool + Send + Sync>;

/// Why a model socket could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// The group's provider cannot answer in this build.
    Provider(ProviderError),
    /// The system refused.
    Io(io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provider(error) => error.fmt(f),
            Self::Io(error) => write!(f, "the model socket cannot be served: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens model sockets.
#[derive(Clone, Debug)]
pub struct ModelBroker {
    parses: Arc<Semaphore>,
    dialer: Arc<Dialer>,
    calls: Arc<Calls>,
    budgets: Budgets,
}

/// Says what agents may still use.
#[derive(Clone)]
struct Budgets(Look);

impl fmt::Debug for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Budgets")
    }
}

/// Refusals since the last line about them.
#[derive(Debug, Default)]
struct Refusals {
    logged: Option<Instant>,
    count: u64,
}

/// Hears why each refused request was refused, in one word.
struct Refused(Box<dyn Fn(&'static str) + Send + Sync>);

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refused")
    }
}

/// What the connections of one socket share.
#[derive(Debug)]
struct Served {
    caller: Caller,
    granted: Arc<Granted>,
    requests: Pace,
    /// One body is read and parsed at a time. So each session waits for its parse with one body at most, and
    /// none can keep the others out.
    body: Semaphore,
    broker: ModelBroker,
    refusals: Mutex<Refusals>,
    refused: Refused,
}

impl Served {
    fn note_refusal(&self, status: u16, why: &'static str) {
        METRICS.model_refusals.inc();
        // That an upstream gave no answer is no act of the sandbox's; the call has a record of its own.
        if why != refusal::UPSTREAM {
            (self.refused.0)(why);
        }
        let now = Instant::now();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.count += 1;
        if refusals.logged.is_some_and(|logged| now < logged + REFUSALS_LOGGED_EVERY) {
            return;
        }
        let fields: [log::Field<'_>; 4] = [
            ("session", &self.caller.session),
            ("status", &status),
            ("why", &why),
            ("count", &refusals.count),
        ];
        log::info("model.refused", &fields);
        *refusals = Refusals { logged: Some(now), count: 0 };
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let refusals = self.refusals.get_mut().unwrap_or_else(PoisonError::into_inner);
        if refusals.count > 0 {
            log::info("model.refused", &[("session", &self.caller.session), ("count", &refusals.count)]);
        }
    }
}

/// An open model socket. Dropping it unlinks the socket and ends its connections at once.
#[derive(Debug)]
pub struct OpenSocket {
    path: Option<PathBuf>,
    granted: Arc<Granted>,
    _accepting: smol::Task<()>,
    _closing: smol::channel::Sender<std::convert::Infallible>,
}

impl OpenSocket {
    /// Grants another model from now on; a turn that runs may end with the one before.
    ///
    /// # Errors
    /// For a provider that this build does not have: nothing is changed then.
    pub fn grant(&self, provider: &str, model: &str, turn_runs: bool) -> Result<(), ProviderError> {
        let next = Terms { provider: Provider::named(provider)?, model: model.to_owned() };
        let mut terms = self.granted.0.lock().unwrap_or_else(PoisonError::into_inner);
        if terms.0 != next {
            let before = std::mem::replace(&mut terms.0, next);
            terms.1 = turn_runs.then_some(before);
        }
        Ok(())
    }

    /// The turn that ran when the model changed is over: what was granted before is granted no more.
    pub fn settle(&self) {
        self.granted.0.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
    }
}

impl Drop for OpenSocket {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl ModelBroker {
    /// One for the whole daemon, with the upstreams that it can ask. `heard` is told of each call of one that is over,
    /// `look` says what an agent may use.
    pub fn new(dialer: Dialer, heard: Heard, look: Look) -> Self {
        Self {
            parses: Arc::new(Semaphore::new(PARSES)),
            dialer: Arc::new(dialer),
            calls: Arc::new(Calls::new(heard)),
            budgets: Budgets(look),
        }
    }

    /// Serves a listener that the caller has bound with the sandbox's owner and mode, for one session, with
    /// the provider and the model of its agent group and no other. Runs on the executor of `tasks`.
    ///
    /// # Errors
    /// For a provider that this build does not have, and when the listener cannot be used. `refused` hears of each
    /// request that is refused.
    pub fn open(
        &self,
        listener: UnixListener,
        (session, group): (&SessionId, &GroupName),
        (provider, model): (&str, &str),
        peer: impl Fn(BorrowedFd<'_>) -> bool + Send + Sync + 'static,
        refused: impl Fn(&'static str) + Send + Sync + 'static,
    ) -> Result<OpenSocket, OpenError> {
        let provider = Provider::named(provider).map_err(OpenError::Provider)?;
        let granted = Arc::new(Granted(Mutex::new((Terms { provider, model: model.to_owned() }, None))));
        let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
        let listener = Async::new(listener).map_err(OpenError::Io)?;
        let (sender, closing) = smol::channel::bounded(1);
        let served = Served {
            caller: self.calls.caller(session, group),
            granted: granted.clone(),
            requests: Pace::new(Instant::now()),
            body: Semaphore::new(1),
            broker: self.clone(),
            refusals: Mutex::default(),
            refused: Refused(Box::new(refused)),
        };
        let accepting = tasks::spawn(accept(listener, Arc::new(served), Arc::new(peer), closing));
        Ok(OpenSocket { path, granted, _accepting: accepting, _closing: sender })
    }
}

async fn accept(listener: Async<UnixListener>, served: Arc<Served>, peers: PeerCheck, closing: Closing) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let connections = Pace::new(Instant::now());
    loop {
        connections.wait().await;
        let place = places.acquire_arc().await;
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn("model.accept_failed", &[("session", &served.caller.session), ("error", &error)]);
                smol::Timer::after(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !peers(stream.as_fd()) {
            log::warn("model.foreign_peer", &[("session", &served.caller.session)]);
            continue;
        }
        let (served, closing) = (served.clone(), closing.clone());
        tasks::spawn(async move {
            let connection =
                http::connection(stream, closing.clone(), |request| answer(request, served.clone()));
            let closed = async {
                let _ = closing.recv().await;
            };
            // A closed grant ends at once, without the grace that the API's connections have.
            smol::future::or(closed, connection).await;
            drop(place);
        })
        .detach();
    }
}

async fn answer(request: Request<Incoming>, served: Arc<Served>) -> Response<Body> {
    served.requests.wait().await;
    METRICS.model_requests.inc();
    match respond(request, &served).await {
        Ok(response) => response,
        Err(refusal) => {
            served.note_refusal(refusal.status.as_u16(), refusal.why);
            refusal.into_response()
        }
    }
}

async fn respond(request: Request<Incoming>, served: &Served) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().map_or("", |path| path.as_str());
    // An absolute address in the request line names another host, whatever it is.
    let terms = if head.uri.authority().is_some() { Vec::new() } else { served.granted.on_path(path) };
    let Some(dialect) = terms.first().map(|terms| terms.provider.dialect()) else {
        let of_another = path.starts_with("/v1beta/models/") && served.granted.names_models_in_paths();
        return Err(if of_another { Refusal::not_granted() } else { Refusal::not_found() });
    };
    if head.method != Method::POST {
        return Err(Refusal::method());
    }
    if !http::says_json(&head.headers) {
        return Err(Refusal::invalid("content-type: expected application/json"));
    }
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::invalid("content-encoding: the body must not be encoded"));
    }
    let of_path = match dialect {
        Dialect::Gemini => terms.first().map(|terms| terms.model.clone()),
        Dialect::Messages | Dialect::Chat | Dialect::Responses => None,
    };
    let (provider, asked, document) = document(body, served, terms, of_path).await?;
    if provider == Provider::Mock {
        let asked = mock::wire::Request::read(asked.document)?;
        let reply = mock::reply(&asked);
        mock::hold(&asked).await;
        return Ok(mock::wire::response(&asked, &reply));
    }
    let ModelBroker { dialer, calls, budgets, .. } = &served.broker;
    let Some(upstream) = dialer.upstream(provider) else {
        let name = provider.name();
        let variable = provider.facts().keys.first().copied().unwrap_or("a credential gateway");
        let message = format!(
            "the operator of this host has set up no way to {name}: its credential or address is missing ({variable})"
        );
        return Err(Refusal::not_configured(&message));
    };
    let meter = Meter::new(dialect, document.len(), asked.most);
    let reserved = served.caller.reserve(meter.most());
    budget::check(&budgets.0, &served.caller.group, &reserved).await?;
    let call = calls
        .begin(&served.caller, provider, &asked.model, document.len(), (meter, reserved))
        .map_err(Refusal::busy)?;
    relay::ask(dialer, upstream, &asked.model, document, call).await
}

/// Reads, parses and checks a body when it is its turn, and writes down what is passed on of it.
async fn document(
    body: Incoming,
    served: &Served,
    terms: Vec<Terms>,
    of_path: Option<String>,
) -> Result<(Provider, Asked, Vec<u8>), Refusal> {
    let _place = served.body.acquire().await;
    let read = http::body_bytes(body, BODY_BYTES).await;
    let bytes = read.map_err(|error| match error {
        BodyError::TooLarge(most) => Refusal::too_large(most),
        BodyError::TooSlow => Refusal::invalid("the body did not come in time"),
        BodyError::Broken | BodyError::NotJson(_) => Refusal::invalid("the body ended early"),
    })?;
    if bytes.len() <= http::PARSE_HERE_BYTES {
        return checked(&bytes, &terms, of_path.as_deref());
    }
    let _parse = served.broker.parses.acquire().await;
    tasks::unblock(move || checked(&bytes, &terms, of_path.as_deref())).await
}

fn checked(
    bytes: &[u8],
    terms: &[Terms],
    of_path: Option<&str>,
) -> Result<(Provider, Asked, Vec<u8>), Refusal> {
    let document =
        json::parse(bytes).map_err(|error| Refusal::invalid(&format!("the body is not JSON: {error}")))?;
    let model = of_path.or_else(|| document.get("model").and_then(Value::as_str));
    let model = model.ok_or_else(|| Refusal::invalid("model: field required, a name"))?;
    let of_model = terms.iter().find(|terms| terms.model == model);
    let Some(Terms { provider, .. }) = of_model else { return Err(Refusal::not_granted()) };
    let asked = checks::check(*provider, of_path, document)?;
    let text = asked.document.to_string().into_bytes();
    Ok((*provider, asked, text))
}

#[cfg(test)]
mod tests;
