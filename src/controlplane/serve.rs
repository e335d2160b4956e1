//! Start and stop of the control plane, in their order: claim the directories, open keys and ledger, answer
//! the API, and only then, behind it, choose and test the runtime, sweep what an earlier daemon left, and
//! launch what is owed. Stopping is the reverse. `kill -9` skips all of it, and the next start does the rest.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_signal::{Signal, Signals};
use smol::future::FutureExt;
use smol::stream::StreamExt;
use smol::{Task, Timer};

use super::api::readiness::{Readiness, Stage};
use super::api::tls::{Certificate, TlsError};
use super::api::{self, Api, Entrance};
use super::approvals::Approvals;
use super::audit::{self, Audit, Record};
use super::brokers::model::{self, ModelBroker};
use super::channels::fetching::Fetcher;
use super::channels::ingress::Ingress;
use super::channels::supervisor::Channels;
use super::config::{Config, MasterKeySource, Protection, Runtime};
use super::delivery::Courier;
use super::gateway::Gateway;
use super::gateway::desk::Desk;
use super::gateway::policy::{Policy, PolicyError};
use super::grants::Host;
use super::isolation::{self, Claim, Identity, IsolationPaths, Limits, RuntimeChoice, RuntimeProblem};
use super::keys::{self, ApiToken, CredentialMaster, FileMaster, KeyError, MasterKey, PassphraseMaster};
use super::listen::{self, listen};
use super::router::Inbound;
use super::schedule::sources;
use super::schedule::timer::{self, SystemClock};
use super::session::Sessions;
use super::state::{RunDir, StateDir, StateError, Wall};
use super::store::groups::{NewGroup, Tools};
use super::store::{Ledger, StoreError, groups};
use super::telemetry::log;
use super::tokens::Tokens;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::tasks;
use crate::os::{memory, process};

/// The certificate's files are read within this time, or not.
const RELOAD: Duration = Duration::from_secs(10);

/// Why the control plane did not start. Each message ends with the next step where there is one.
#[derive(Debug)]
pub enum StartError {
    /// A directory or a file in it.
    State(StateError),
    /// Keys or the token.
    Key(KeyError),
    /// The ledger.
    Store(StoreError),
    /// The operator's policy.
    Policy(PolicyError),
    /// The API's address.
    Listen(SocketAddr, std::io::Error),
    /// The ingress's address.
    Ingress(SocketAddr, std::io::Error),
    /// What an account on a platform is told, or where that stands.
    Channel(String),
    /// The certificates that model providers are judged by.
    Models(String),
    /// There is no tunnel with the address to listen on.
    Tailnet(String),
    /// The API's certificate.
    Tls(TlsError),
    /// The runtime that was asked for is not there, or its directories are not ours.
    Runtime(RuntimeProblem),
    /// The operating system refused something that every daemon needs.
    System(&'static str, std::io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(error) => error.fmt(f),
            Self::Key(error) => error.fmt(f),
            Self::Store(error) => error.fmt(f),
            Self::Policy(error) => error.fmt(f),
            Self::Runtime(problem) => problem.fmt(f),
            Self::Tailnet(wrong) | Self::Models(wrong) => f.write_str(wrong),
            Self::Tls(error) => error.fmt(f),
            Self::Listen(address, error) if error.kind() == std::io::ErrorKind::AddrInUse => write!(
                f,
                "{address} is in use, perhaps by another ironclaw; stop that one, or choose another port with \
                 --api-addr 127.0.0.1:PORT"
            ),
            Self::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error}; choose another address with --api-addr")
            }
            Self::Ingress(address, error) => {
                write!(f, "cannot listen on {address}: {error}; choose another address with --ingress-addr")
            }
            Self::Channel(wrong) => write!(f, "{wrong}; `ironclaw help channels` shows what it can be told"),
            Self::System(doing, error) => write!(f, "{doing}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<StateError> for StartError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}

impl From<TlsError> for StartError {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<KeyError> for StartError {
    fn from(error: KeyError) -> Self {
        Self::Key(error)
    }
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// A control plane that answers. Dropping it without [`ControlPlane::stop`] is like a crash.
pub struct ControlPlane {
    address: SocketAddr,
    /// The token's file, and whether this start made it.
    token: (Option<PathBuf>, bool),
    state: Arc<StateDir>,
    run_dir: RunDir,
    ledger: Ledger,
    audit: Audit,
    sessions: Sessions,
    readiness: Arc<Readiness>,
    server: api::Server,
    channels: Channels,
    courier: Courier,
    approvals: Approvals,
    fetching: Task<()>,
    ingress: Option<Ingress>,
    protection: Protection,
    preparing: Task<()>,
    background: Task<()>,
    timer: Task<()>,
    typing: Task<()>,
}

impl ControlPlane {
    /// Starts it; returns when the API answers, before the runtime is tested.
    ///
    /// # Errors
    /// With the first thing that is wrong. Nothing is damaged then, and nothing is left running.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        log::configure(config.log_format, config.log_level);
        process::forbid_core_dumps()
            .map_err(|error| StartError::System("core dumps cannot be forbidden", error))?;
        process::become_subreaper()
            .map_err(|error| StartError::System("children cannot be collected by this process", error))?;
        let clock =
            SystemClock::new().map_err(|error| StartError::System("there is no clock to wait for", error))?;
        process::raise_open_files();
        memory::share_heaps(2);
        let accounts =
            config.accounts.as_ref().map_err(|error| StartError::Channel(error.to_string()))?.clone();
        let policy = match &config.policy {
            Some(path) => Policy::load(path).map_err(StartError::Policy)?,
            None => Policy::default(),
        };
        if let Some(path) = &config.policy {
            log::info("policy.read", &[("path", &path.display()), ("sha256", &policy.digest())]);
        }
        let dialer =
            model::upstream::Dialer::new(config.models.upstreams.clone()).map_err(StartError::Models)?;
        let choice = runtime_choice(&config.runtime);
        if matches!(config.runtime, Runtime::Runsc | Runtime::Path(_)) {
            isolation::find_runtime(&choice).map_err(StartError::Runtime)?;
        }
        let wall = Wall::of_this_process(config.sandbox_uid_base);
        let (listener, mut claimed) = listen(&config, wall)?;
        let hooks = match config.ingress {
            Some(address) => {
                Some(TcpListener::bind(address).map_err(|error| StartError::Ingress(address, error))?)
            }
            None => None,
        };
        let address = listener
            .local_addr()
            .map_err(|error| StartError::System("the API's address cannot be read back", error))?;
        let certificate = match &config.door.protection {
            Protection::Way | Protection::Proxy(_) => None,
            Protection::Files { certificate, key } => Some(Certificate::from_files(certificate, key)?),
            Protection::SelfSigned => {
                let state = match claimed.take() {
                    Some(state) => state,
                    None => StateDir::claim(&config.state_dir, wall)?,
                };
                let state = claimed.insert(state);
                Some(Certificate::self_signed(state.path(), &listen::names(&config.door, address))?)
            }
        };
        if let Some(certificate) = &certificate {
            log::info("api.certificate", &[("sha256", &certificate.fingerprint())]);
        }
        // A supervisor's question is answered while the state is still being opened.
        let readiness = Arc::new(Readiness::default());
        let entrance = Entrance::new(&config.door, certificate.as_ref());
        let server = api::Server::start(listener, readiness.clone(), entrance)
            .map_err(|error| StartError::System("the API's listener cannot be used", error))?;

        let state = match claimed {
            Some(state) => state,
            None => StateDir::claim(&config.state_dir, wall)?,
        };
        let state = Arc::new(state);
        let run_dir = RunDir::claim(&config.run_base, &state)?;
        let keyring = keys::open(&state, master_key(&config, state.path()).as_ref())?;
        let ledger = Ledger::open(&state, &keyring)?;
        let token = ApiToken::open(&state, config.api_token.as_ref().map(|token| token.expose()))?;
        let audit = start_audit(&config, &ledger, &state, &readiness)?;
        tell_audit(&audit, "daemon.started", vec![("policy", Value::from(policy.digest()))]).await;
        if config.dev {
            seed(&ledger, &config)?;
        }
        let tokens = Tokens::open(&ledger, &token)?;
        // What these two recorded.
        audit.nudge();
        let paths = IsolationPaths {
            state_dir: state.path().to_owned(),
            bundle_root: config.bundle_root.clone().unwrap_or_else(|| state.join("bundles")),
            run_dir: run_dir.path().to_owned(),
        };
        let identity = match wall {
            Wall::OrdinaryUser => Identity::OwnUser,
            Wall::Root { mapped_root } => {
                Identity::Mapped { wall: mapped_root, group: mapped_root + isolation::SELF_TEST_ID }
            }
        };
        let claim = isolation::claim(&paths, identity).map_err(StartError::Runtime)?;
        let limits = config.sandbox_limits();
        let host = Arc::new(Host::new(&config, &paths, wall));
        let lifetime = i64::try_from(config.change_lifetime.as_millis()).unwrap_or(i64::MAX);
        let desk = Desk::new(audit.clone(), keyring.clone(), Arc::new(policy), host, lifetime);
        let sessions = Sessions::new(
            config.clone(),
            ledger.clone(),
            desk.clone(),
            paths.clone(),
            wall,
            ModelBroker::new(
                dialer,
                model::record::heard(audit.clone()),
                model::budget::of_ledger(ledger.clone()),
            ),
        );
        let gateway = Gateway::new(ledger.clone(), desk, sessions.clone());
        let inbound = Inbound::new(ledger.clone(), keyring.clone(), sessions.clone(), gateway.clone());
        let asking = inbound.clone();
        tasks::spawn(async move {
            if let Err(error) = asking.ask_again().await {
                log::warn("admission.not_asked_again", &[("error", &error)]);
            }
        })
        .detach();
        let channels = Channels::new(&accounts, config.ingress, &inbound).map_err(StartError::Channel)?;
        let courier =
            Courier::start(ledger.clone(), keyring.clone(), channels.clone(), &sessions, inbound.moved());
        let approvals = Approvals::start(
            ledger.clone(),
            keyring.clone(),
            gateway.clone(),
            audit.clone(),
            channels.clone(),
        );
        let due_keyring = keyring.clone();
        let fetching = Fetcher::start(
            ledger.clone(),
            keyring.clone(),
            channels.clone(),
            sessions.clone(),
            inbound.wanted(),
        );
        let token_file = (token.path().map(Path::to_owned), token.was_minted());
        server.open(Api::new(
            ledger.clone(),
            keyring,
            sessions.clone(),
            audit.clone(),
            tokens,
            gateway.clone(),
            inbound,
            channels.clone(),
            courier.clone(),
            config.door.token_rate,
            server.closing(),
        ));
        log::info("api.listening", &[("address", &address), ("state", &state.path().display())]);
        channels.start();
        let typing = tasks::spawn(sessions.typing().clone().run(channels.clone()));
        let ingress = match hooks {
            Some(listener) => {
                let ingress = Ingress::start(listener, channels.clone())
                    .map_err(|error| StartError::System("the ingress's listener cannot be used", error))?;
                log::info("ingress.listening", &[("address", &ingress.address())]);
                Some(ingress)
            }
            None => None,
        };

        let preparing =
            tasks::spawn(prepare_runtime(choice, claim, limits, sessions.clone(), readiness.clone()));
        let due = sources::all(&ledger, &due_keyring, &audit, &sessions, &gateway, config.session_expiry);
        let timer = tasks::spawn(timer::run(ledger.clone(), due, clock));
        let background = tasks::spawn(super::upkeep::slow_pass(
            config.sweep_interval,
            ledger.clone(),
            sessions.clone(),
            gateway.clone(),
        ));
        let token = token_file;
        Ok(Self {
            address,
            token,
            state,
            run_dir,
            ledger,
            audit,
            sessions,
            readiness,
            server,
            channels,
            courier,
            approvals,
            fetching,
            ingress,
            protection: config.door.protection.clone(),
            preparing,
            background,
            timer,
            typing,
        })
    }

    /// Where the API answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The file that holds the API's token; `None` when the environment gave the token.
    pub fn token_file(&self) -> Option<&Path> {
        self.token.0.as_deref()
    }

    /// The state directory.
    pub fn state_path(&self) -> &Path {
        self.state.path()
    }

    /// How far the start is.
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    /// Whether there is something to be read again while it runs.
    fn may_reload(&self) -> bool {
        matches!(self.protection, Protection::Files { .. })
    }

    /// Reads the certificate's files again. What is there is used for the connections that come from now on; where it
    /// cannot be used, the log says why and all stays as it is.
    async fn reload(&self) {
        let Protection::Files { certificate, key } = self.protection.clone() else { return };
        let name = certificate.display().to_string();
        match tasks::unblock(move || Certificate::from_files(&certificate, &key)).await {
            Ok(certificate) => {
                self.server.replace_certificate(&certificate);
                log::info("api.certificate", &[("sha256", &certificate.fingerprint())]);
            }
            Err(error) => log::error("api.certificate_refused", &[("path", &name), ("error", &error)]),
        }
    }

    /// Stops it: no new request, then no sandbox, then no unsaved row.
    pub async fn stop(self) {
        if let Some(ingress) = self.ingress {
            ingress.stop().await;
        }
        self.server.stop().await;
        drop(self.timer);
        drop(self.typing);
        drop(self.background);
        self.channels.stop();
        self.sessions.close().await;
        drop(self.fetching);
        self.approvals.stop().await;
        self.courier.stop().await;
        // A self-test under way has processes that must not be left behind; it ends by itself.
        self.preparing.await;
        self.audit.flush_logins().await;
        self.audit.flush_refusals().await;
        tell_audit(&self.audit, "daemon.stopped", Vec::new()).await;
        self.audit.stop().await;
        let ledger = self.ledger.clone();
        tasks::unblock(move || ledger.stop()).await;
        if let Err(error) = self.run_dir.remove() {
            log::warn("run_dir.not_removed", &[("error", &error)]);
        }
        log::info("daemon.stopped", &[]);
    }
}

/// The exporter; a disagreement that it finds, or that nobody acknowledged, keeps `/readyz` from being ready.
fn start_audit(
    config: &Config,
    ledger: &Ledger,
    state: &StateDir,
    readiness: &Arc<Readiness>,
) -> Result<Audit, StartError> {
    let readiness = readiness.clone();
    let tell = move |wrong: Option<String>| {
        let next = "find out who changed the files, then run `ironclaw ctl audit acknowledge`";
        readiness.hold("audit", wrong.map(|wrong| format!("the audit chain: {wrong}; {next}")));
    };
    Audit::start_with(ledger.clone(), state.path(), config.audit_file_bytes, Box::new(tell))
        .map_err(|error| StartError::System("there is no thread for the audit chain", error))
}

/// Records what the host itself did. A chain that cannot be written now does not keep it from that.
async fn tell_audit(audit: &Audit, act: &'static str, more: Vec<(&'static str, Value)>) {
    let noted = audit.note(move |tx| {
        let version = ("version", Value::from(env!("CARGO_PKG_VERSION")));
        let detail = Value::object(std::iter::once(version).chain(more));
        audit::record(tx, &Record { act, actor: "host", via: "", group: None, object: "daemon", detail })
    });
    if let Err(error) = noted.await {
        log::warn("audit.not_recorded", &[("act", &act), ("error", &error)]);
    }
}

/// `ironclaw serve`: runs until SIGTERM or SIGINT. At SIGHUP it reads the certificate's files again, if it has some.
///
/// # Errors
/// As [`ControlPlane::start`].
pub fn run(config: Config) -> Result<(), StartError> {
    let ended = tasks::block_on(async {
        // Before anything is started, so that no signal ends the process half-way through its stop.
        let wanted = [Signal::Term, Signal::Int, Signal::Hup];
        // Who started it with `nohup` wants it to go on when the terminal is closed.
        let wanted = if process::ignores_hangup() { &wanted[..2] } else { &wanted[..] };
        let mut signals =
            Signals::new(wanted).map_err(|error| StartError::System("signals cannot be caught", error))?;
        let plane = ControlPlane::start(config).await?;
        if let (Some(path), true) = &plane.token {
            log::info("token.minted", &[("path", &path.display())]);
        }
        let name = loop {
            match signals.next().await.and_then(Result::ok) {
                Some(Signal::Hup) if plane.may_reload() => plane.reload().or(gave_up()).await,
                // What a terminal sends that is closed.
                Some(Signal::Hup) => break "SIGHUP",
                Some(Signal::Term) => break "SIGTERM",
                Some(_) => break "SIGINT",
                None => break "none",
            }
        };
        log::info("daemon.stopping", &[("signal", &name)]);
        plane.stop().await;
        Ok(())
    });
    log::flush();
    ended
}

/// Files that cannot be read, as on a mount whose server is gone, keep no other signal waiting.
async fn gave_up() {
    Timer::after(RELOAD).await;
    log::error("api.certificate_refused", &[("error", &"its files could not be read in time")]);
}

/// What isolation is asked for.
pub(crate) fn runtime_choice(runtime: &Runtime) -> RuntimeChoice {
    match runtime {
        Runtime::DefaultRunsc => RuntimeChoice::Auto { allow_native: false },
        Runtime::Runsc => RuntimeChoice::Runsc,
        Runtime::Path(path) => RuntimeChoice::Path(path.clone()),
        Runtime::Native => RuntimeChoice::Native,
        Runtime::Auto => RuntimeChoice::Auto { allow_native: true },
    }
}

/// Wraps the keystore of a state directory that no daemon runs on with the master key of another file, which is
/// made when it is not there.
///
/// # Errors
/// When a daemon runs on the state directory, and for what is wrong with either key.
pub fn rotate(config: &Config, new: PathBuf) -> Result<(), StartError> {
    let state = StateDir::claim(&config.state_dir, Wall::of_this_process(config.sandbox_uid_base))?;
    Ok(keys::rotate(&state, master_key(config, state.path()).as_ref(), &FileMaster::at(new))?)
}

/// Where the master key of a state directory comes from.
pub(crate) fn master_key(config: &Config, state: &Path) -> Box<dyn MasterKey> {
    match &config.master_key {
        MasterKeySource::KeyFile(path) => Box::new(FileMaster::at(path.clone())),
        MasterKeySource::PassphraseFile(path) => Box::new(PassphraseMaster::at(path.clone())),
        MasterKeySource::Credential(directory) => Box::new(CredentialMaster::in_directory(directory)),
        MasterKeySource::StateFile => Box::new(FileMaster::at(state.join("master.key"))),
    }
}

/// The agent groups of `--dev`.
fn seed(ledger: &Ledger, config: &Config) -> Result<(), StoreError> {
    let (provider, model) = config.models.dev.clone();
    ledger.write_blocking(super::store::Step::Other, move |tx| {
        for (name, title, provider, model) in [
            ("dev-agent", "Dev Agent", provider.name(), model.as_str()),
            ("mock-agent", "Mock Agent (offline)", "mock", "mock"),
        ] {
            let Ok(name) = GroupName::parse(name) else { continue };
            let new = NewGroup {
                name,
                title: title.to_owned(),
                provider: provider.to_owned(),
                model: model.to_owned(),
                tools: Tools::All,
            };
            if groups::ensure(tx, &new)? {
                let detail = Value::object([("by", Value::from("--dev"))]);
                audit::of_host(tx, "agent.seeded", new.name.as_str(), detail)?;
            }
        }
        Ok(())
    })
}

/// Behind the API: copies the executable, tests the runtime, sweeps, and lets the sessions go.
async fn prepare_runtime(
    choice: RuntimeChoice,
    claim: Claim,
    limits: Limits,
    sessions: Sessions,
    readiness: Arc<Readiness>,
) {
    readiness.set(Stage::Starting { doing: "the runtime is being tested".to_owned() });
    let chosen = tasks::unblock(move || {
        let isolator = isolation::choose(&choice, claim, limits).map_err(|problem| problem.to_string())?;
        let swept = isolator
            .sweep()
            .map_err(|error| format!("what an earlier daemon left cannot be removed: {error}"))?;
        Ok::<_, String>((isolator, swept))
    })
    .await;
    let told = match chosen {
        Ok((isolator, swept)) => {
            log::info(
                "runtime.ready",
                &[
                    ("back_end", &isolator.back_end().name()),
                    ("description", &isolator.describe()),
                    ("swept_processes", &swept.processes),
                    ("swept_bundles", &swept.bundles),
                ],
            );
            for note in isolator.report() {
                log::warn("runtime.note", &[("note", &note)]);
            }
            let description = format!("{}; {}", isolator.describe(), isolator.back_end().strength());
            let stage = Stage::Ready {
                back_end: isolator.back_end().name().to_owned(),
                description,
                notes: isolator.report(),
            };
            if let Err(error) = sessions.sweep_erased().await {
                log::warn("sessions.not_swept", &[("error", &error)]);
            }
            let told = sessions.use_runtime(isolator).await;
            readiness.set(stage);
            told
        }
        Err(reason) => {
            log::error("runtime.missing", &[("reason", &reason)]);
            let told = sessions.lack_runtime(&reason).await;
            readiness.set(Stage::Broken { reason });
            told
        }
    };
    if let Err(error) = told {
        log::error("sessions.not_woken", &[("error", &error)]);
    }
}
