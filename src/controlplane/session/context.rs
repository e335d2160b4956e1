//! What every session's actor shares: configuration, ledger, keys, the chosen runtime, places, bells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use smol::lock::Semaphore;

use super::bells::Bells;
use super::capacity::Capacity;
use super::disk::{Counted, FreeSpace};
use super::letters::Rates;
use super::run::Times;
use super::states::States;
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::inbound::Usage;
use crate::controlplane::brokers::model::ModelBroker;
use crate::controlplane::channels::typing::Typing;
use crate::controlplane::config::Config;
use crate::controlplane::gateway::desk::Desk;
use crate::controlplane::grants::Host;
use crate::controlplane::isolation::{IsolationPaths, Isolator, Limits};
use crate::controlplane::keys::Keyring;
use crate::controlplane::state::Wall;
use crate::controlplane::store::groups::AgentGroup;
use crate::controlplane::store::{Ledger, sessions};

/// What an agent group may take: its own limits, and the daemon's where it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Allowed {
    /// How long a turn may take.
    pub(super) turn: Duration,
    /// How much it may keep.
    pub(super) bytes: u64,
    /// How many files.
    pub(super) files: u64,
}

/// The runtime, as far as it is known.
#[derive(Clone)]
pub(super) enum Runtime {
    /// Being chosen and tested, or not to be had: nothing is launched, for this reason.
    Missing(String),
    /// Launch.
    Ready(Arc<dyn Isolator>),
}

/// Readers of outbound files at work at once; the rest waits in the order of arrival.
const READERS: usize = 4;

/// Launches at work at once; each holds a thread of the blocking pool for as long as the runtime takes.
const LAUNCHES: usize = 16;

/// Shared by all actors.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) ledger: Ledger,
    pub(super) keyring: Keyring,
    /// Takes what agents ask for.
    pub(super) desk: Desk,
    pub(super) paths: IsolationPaths,
    pub(super) host: Arc<Host>,
    pub(super) limits: Limits,
    pub(super) wall: Wall,
    pub(super) models: ModelBroker,
    pub(super) capacity: Capacity,
    pub(super) bells: Bells,
    /// How often agents write to other chats.
    pub(super) letters: Arc<Rates>,
    pub(super) states: States,
    /// Where agents are at work, for platforms that show it.
    pub(super) typing: Typing,
    pub(super) readers: Semaphore,
    pub(super) space: FreeSpace,
    runtime: RwLock<Runtime>,
    /// Launches at work at once.
    pub(super) launches: Semaphore,
    /// Usage that a group's sandboxes were last stopped for: they are stopped again only if it grew.
    stopped_for: Mutex<HashMap<GroupName, Usage>>,
    /// What the directories of each group's sessions hold, as last counted.
    counted: Mutex<HashMap<GroupName, HashMap<SessionId, Counted>>>,
}

impl Context {
    /// Nothing is launched until [`Context::set_runtime`].
    pub(super) fn new(
        config: Config,
        ledger: Ledger,
        desk: Desk,
        paths: IsolationPaths,
        wall: Wall,
        models: ModelBroker,
    ) -> Self {
        let limits = config.sandbox_limits();
        Self {
            capacity: Capacity::new(config.max_sandboxes),
            space: FreeSpace::new(&config.state_dir, config.min_free),
            wall,
            bells: Bells::default(),
            letters: Arc::default(),
            states: States::default(),
            typing: Typing::default(),
            readers: Semaphore::new(READERS),
            runtime: RwLock::new(Runtime::Missing("the runtime is being tested".to_owned())),
            launches: Semaphore::new(LAUNCHES),
            stopped_for: Mutex::default(),
            counted: Mutex::default(),
            config,
            ledger,
            keyring: desk.keyring.clone(),
            host: desk.host.clone(),
            desk,
            paths,
            limits,
            models,
        }
    }

    pub(super) fn runtime(&self) -> Runtime {
        self.runtime.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_runtime(&self, runtime: Runtime) {
        *self.runtime.write().unwrap_or_else(PoisonError::into_inner) = runtime;
    }

    pub(super) fn allowed(&self, group: &AgentGroup) -> Allowed {
        let own = group.limits;
        Allowed {
            turn: own.turn_seconds.map_or(self.config.turn_timeout, Duration::from_secs),
            bytes: own.quota_bytes.unwrap_or(self.config.group_quota_bytes),
            files: own.quota_files.unwrap_or(self.config.group_quota_files),
        }
    }

    pub(super) fn times(&self) -> Times {
        Times {
            launch: self.config.launch_timeout,
            stall: self.config.stall_timeout,
            linger: self.config.linger,
        }
    }

    /// Whether a group that is over its quota grew since its sandboxes were last stopped for it; if so, this
    /// usage is remembered.
    pub(super) fn grew(&self, group: &GroupName, usage: Usage) -> bool {
        let mut stopped = self.stopped_for.lock().unwrap_or_else(PoisonError::into_inner);
        let before = stopped.get(group).copied().unwrap_or_default();
        let grew = usage.bytes > before.bytes || usage.files > before.files;
        if grew {
            stopped.insert(group.clone(), usage);
        }
        grew
    }

    /// The group is within its quota again.
    pub(super) fn forget_usage(&self, group: &GroupName) {
        self.stopped_for.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
    }

    /// The sessions of a group whose directories were not counted since the start.
    pub(super) async fn uncounted(&self, group: &GroupName) -> Vec<SessionId> {
        let known = |counted: &HashMap<GroupName, _>| counted.contains_key(group);
        if known(&self.counted.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Vec::new();
        }
        let name = group.clone();
        self.ledger.read(move |conn| sessions::of_group(conn, &name)).await.unwrap_or_default()
    }

    /// Remembers what was counted and gives the sum of all sessions of the group.
    pub(super) fn count_sessions(
        &self,
        group: &GroupName,
        session: &SessionId,
        own: Counted,
        others: Vec<(SessionId, Counted)>,
    ) -> Counted {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let of_group = counted.entry(group.clone()).or_default();
        for (id, count) in others {
            of_group.entry(id).or_insert(count);
        }
        of_group.insert(session.clone(), own);
        of_group.values().copied().fold(Counted::default(), Counted::and)
    }
}
