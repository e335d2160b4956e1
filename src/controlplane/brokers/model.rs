//! The model socket: one per running sandbox, on which it may ask for one thing, `POST /v1/messages` in the
//! Anthropic Messages dialect. The socket is the session's identity; no header is believed. Providers are
//! one table. Touches the listener it is given and the provider's upstream.

mod dialect;
mod mock;

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use smol::Async;
use smol::lock::Semaphore;

use self::dialect::Refusal;
use crate::contract::ids::SessionId;
use crate::contract::json::Value;
use crate::controlplane::http::{self, Body, BodyError, Closing};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Connections of one sandbox at once; its client opens one a request.
const CONNECTIONS: usize = 8;
/// A transcript with everything in it; the gate takes no more either.
const BODY_BYTES: usize = 8 << 20;
/// Requests of one sandbox in a second; a turn makes one every few seconds.
const REQUESTS_A_SECOND: u32 = 20;
/// Requests that may come at once after a quiet time.
const BURST: u32 = 40;
/// Large bodies that are parsed at once, over all sessions: their parsing takes a core for a while each.
const PARSES: usize = 2;
/// A session's refusals are logged once in so long, with their number.
const REFUSALS_LOGGED_EVERY: Duration = Duration::from_secs(1);
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who answers for an agent group's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The deterministic upstream inside this process.
    Mock,
}

/// Every provider's name; `None` for those that this build does not have.
const PROVIDERS: &[(&str, Option<Provider>)] = &[
    ("mock", Some(Provider::Mock)),
    ("anthropic", None),
    ("openai", None),
    ("openrouter", None),
    ("codex", None),
    ("gemini", None),
    ("vertex", None),
    ("local", None),
    ("groq", None),
    ("ollama", None),
    ("bedrock", None),
    ("azure", None),
];

/// Why a name is no provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderError {
    /// Known, and not in this build.
    Absent(&'static str),
    /// Not known at all.
    Unknown(String),
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(name) => write!(f, "the model provider {name} is not part of this build; use mock"),
            Self::Unknown(name) => write!(f, "{name:?} is not a model provider; this build has mock"),
        }
    }
}

impl std::error::Error for ProviderError {}

impl Provider {
    /// The provider of that name.
    pub fn named(name: &str) -> Result<Self, ProviderError> {
        match PROVIDERS.iter().find(|(known, _)| *known == name) {
            Some((_, Some(provider))) => Ok(*provider),
            Some((known, None)) => Err(ProviderError::Absent(known)),
            None => Err(ProviderError::Unknown(name.chars().take(64).collect())),
        }
    }
}

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
    /// Who answers for a model; nobody for one that is not granted.
    fn provider(&self, model: &str) -> Option<Provider> {
        let terms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, before) = &*terms;
        [Some(now), before.as_ref()]
            .into_iter()
            .flatten()
            .find(|terms| terms.model == model)
            .map(|terms| terms.provider)
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
}

impl Default for ModelBroker {
    fn default() -> Self {
        Self { parses: Arc::new(Semaphore::new(PARSES)) }
    }
}

/// Delays what comes too early.
#[derive(Debug)]
struct Pace {
    /// When the next would be on time; lies up to a burst in the past.
    next: Mutex<Instant>,
}

impl Pace {
    const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / REQUESTS_A_SECOND as u64);

    /// Begins with a whole burst.
    fn new(now: Instant) -> Self {
        Self { next: Mutex::new(now.checked_sub(Self::INTERVAL * BURST).unwrap_or(now)) }
    }

    /// How long this one must wait.
    fn hold(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(Self::INTERVAL * (BURST - 1)).unwrap_or(now);
        let due = (*next).max(earliest);
        *next = due + Self::INTERVAL;
        due.saturating_duration_since(now)
    }

    async fn wait(&self) {
        let hold = self.hold(Instant::now());
        if !hold.is_zero() {
            smol::Timer::after(hold).await;
        }
    }
}

/// Refusals since the last line about them.
#[derive(Debug, Default)]
struct Refusals {
    logged: Option<Instant>,
    count: u64,
}

/// Hears of each call for a model that is not granted.
struct NotGranted(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for NotGranted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NotGranted")
    }
}

/// What the connections of one socket share.
#[derive(Debug)]
struct Served {
    session: SessionId,
    granted: Arc<Granted>,
    requests: Pace,
    /// One body is read and parsed at a time. So each session waits for its parse with one body at most, and
    /// none can keep the others out.
    body: Semaphore,
    parses: Arc<Semaphore>,
    refusals: Mutex<Refusals>,
    not_granted: NotGranted,
}

impl Served {
    fn refused(&self, status: u16) {
        METRICS.model_refusals.inc();
        let now = Instant::now();
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.count += 1;
        if refusals.logged.is_some_and(|logged| now < logged + REFUSALS_LOGGED_EVERY) {
            return;
        }
        let fields: [log::Field<'_>; 3] =
            [("session", &self.session), ("status", &status), ("count", &refusals.count)];
        log::info("model.refused", &fields);
        *refusals = Refusals { logged: Some(now), count: 0 };
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let refusals = self.refusals.get_mut().unwrap_or_else(PoisonError::into_inner);
        if refusals.count > 0 {
            log::info("model.refused", &[("session", &self.session), ("count", &refusals.count)]);
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
}

impl OpenSocket {
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
    /// One for the whole daemon.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves a listener that the caller has bound with the sandbox's owner and mode, for one session, with
    /// the provider and the model of its agent group and no other. Runs on the executor of `tasks`.
    ///
    /// # Errors
    /// For a provider that this build does not have, and when the listener cannot be used. `not_granted` hears of each
    /// call for another model.
    pub fn open(
        &self,
        listener: UnixListener,
        session: &SessionId,
        (provider, model): (&str, &str),
        peer: impl Fn(BorrowedFd<'_>) -> bool + Send + Sync + 'static,
        not_granted: impl Fn() + Send + Sync + 'static,
    ) -> Result<OpenSocket, OpenError> {
        let provider = Provider::named(provider).map_err(OpenError::Provider)?;
        let granted = Arc::new(Granted(Mutex::new((Terms { provider, model: model.to_owned() }, None))));
        let path = listener.local_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
        let listener = Async::new(listener).map_err(OpenError::Io)?;
        let (sender, closing) = smol::channel::bounded(1);
        let served = Served {
            session: session.clone(),
            granted: granted.clone(),
            requests: Pace::new(Instant::now()),
            body: Semaphore::new(1),
            parses: self.parses.clone(),
            refusals: Mutex::default(),
            not_granted: NotGranted(Box::new(not_granted)),
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
                log::warn("model.accept_failed", &[("session", &served.session), ("error", &error)]);
                smol::Timer::after(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !peers(stream.as_fd()) {
            log::warn("model.foreign_peer", &[("session", &served.session)]);
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
            served.refused(refusal.status.as_u16());
            refusal.into_response()
        }
    }
}

async fn respond(request: Request<Incoming>, served: &Served) -> Result<Response<Body>, Refusal> {
    let (head, body) = request.into_parts();
    if head.uri.path() != "/v1/messages" || head.uri.query().is_some() {
        return Err(Refusal::not_found("only /v1/messages is served here"));
    }
    if head.method != Method::POST {
        return Err(Refusal::method());
    }
    if !http::says_json(&head.headers) {
        return Err(Refusal::invalid("content-type: expected application/json"));
    }
    let asked = dialect::Request::read(document(body, served).await.map_err(|error| match error {
        BodyError::TooLarge(most) => Refusal::too_large(most),
        BodyError::TooSlow => Refusal::invalid("the body did not come in time"),
        BodyError::Broken => Refusal::invalid("the body ended early"),
        BodyError::NotJson(error) => Refusal::invalid(&format!("the body is not JSON: {error}")),
    })?)?;
    let Some(provider) = served.granted.provider(&asked.model) else {
        (served.not_granted.0)();
        return Err(Refusal::not_granted());
    };
    match provider {
        Provider::Mock => {
            let reply = mock::reply(&asked);
            mock::hold(&asked).await;
            Ok(dialect::response(&asked, &reply))
        }
    }
}

/// Reads and parses a body when it is its turn.
async fn document(body: Incoming, served: &Served) -> Result<Value, BodyError> {
    let _place = served.body.acquire().await;
    let bytes = http::body_bytes(body, BODY_BYTES).await?;
    let _parse = match bytes.len() > http::PARSE_HERE_BYTES {
        true => Some(served.parses.acquire().await),
        false => None,
    };
    http::json_of(bytes).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::path::Path;

    fn exchange(path: &Path, request: &str) -> String {
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    fn post(path: &str, body: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn one_socket_serves_one_route_and_closes_with_its_grant() {
        let path = std::env::temp_dir().join(format!("ironclaw-model-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let socket =
            ModelBroker::new().open(listener, &SessionId::mint(), ("mock", "m"), |_| true, || {}).unwrap();

        let hello =
            r#"{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"⟦x⟧\nhi"}]}"#;
        let answer = exchange(&path, &post("/v1/messages", hello));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("event: message_stop"), "{answer}");
        assert!(exchange(&path, &post("/v1/files", hello)).starts_with("HTTP/1.1 404"));
        assert!(exchange(&path, &post("/v1/messages?key=x", hello)).starts_with("HTTP/1.1 404"));
        assert!(
            exchange(&path, "GET /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
                .contains("405")
        );
        let bad = exchange(&path, &post("/v1/messages", "{"));
        assert!(bad.starts_with("HTTP/1.1 400") && bad.contains("invalid_request_error"), "{bad}");
        let huge = format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            9 << 20
        );
        assert!(exchange(&path, &huge).starts_with("HTTP/1.1 413"));

        let mut waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(socket);
        assert_eq!(waiting.read(&mut [0; 1]).unwrap_or(0), 0, "the connection ends with the grant");
        assert!(!path.exists());
    }

    #[test]
    fn a_foreign_peer_is_not_served() {
        let path = std::env::temp_dir().join(format!("ironclaw-model-f-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let _socket =
            ModelBroker::new().open(listener, &SessionId::mint(), ("mock", "m"), |_| false, || {}).unwrap();
        // Nothing is written: the connection may be closed before that.
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    }

    #[test]
    fn a_socket_has_its_pace() {
        let now = Instant::now();
        let pace = Pace::new(now);
        assert!((0..BURST).all(|_| pace.hold(now).is_zero()), "a burst comes at once");
        assert_eq!(pace.hold(now), Pace::INTERVAL);
        assert_eq!(pace.hold(now), Pace::INTERVAL * 2);
        let later = now + Duration::from_secs(3600);
        assert!((0..BURST).all(|_| pace.hold(later).is_zero()), "quiet hours save no more than a burst");
        assert!(!pace.hold(later).is_zero());
    }

    #[test]
    fn refusals_are_counted_between_two_lines() {
        let served = Served {
            session: SessionId::mint(),
            granted: Arc::new(Granted(Mutex::new((
                Terms { provider: Provider::Mock, model: "m".into() },
                None,
            )))),
            requests: Pace::new(Instant::now()),
            body: Semaphore::new(1),
            parses: ModelBroker::new().parses,
            refusals: Mutex::default(),
            not_granted: NotGranted(Box::new(|| {})),
        };
        (0..5).for_each(|_| served.refused(400));
        assert_eq!(served.refusals.lock().unwrap().count, 4, "one line, and four that wait for the next");
    }

    #[test]
    fn providers_of_later_builds_are_named_as_such() {
        assert_eq!(Provider::named("mock"), Ok(Provider::Mock));
        assert!(Provider::named("anthropic").unwrap_err().to_string().contains("not part of this build"));
        assert!(Provider::named("x").unwrap_err().to_string().contains("this build has mock"));
    }
}
