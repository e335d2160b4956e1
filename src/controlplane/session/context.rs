//! What every session's actor shares: configuration, ledger, keys, the chosen runtime, places, bells.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use smol::lock::Semaphore;

use super::bells::Bells;
use super::capacity::Capacity;
use super::disk::FreeSpace;
use super::run::Times;
use crate::contract::ids::GroupName;
use crate::controlplane::brokers::model::ModelBroker;
use crate::controlplane::config::Config;
use crate::controlplane::isolation::{IsolationPaths, Isolator, Limits};
use crate::controlplane::keys::Keyring;
use crate::controlplane::state::Wall;
use crate::controlplane::store::Ledger;

/// How much an agent group may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    pub(super) bytes: u64,
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

/// Shared by all actors.
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) ledger: Ledger,
    pub(super) keyring: Keyring,
    pub(super) paths: IsolationPaths,
    pub(super) limits: Limits,
    pub(super) wall: Wall,
    pub(super) models: ModelBroker,
    pub(super) capacity: Capacity,
    pub(super) bells: Bells,
    pub(super) readers: Semaphore,
    pub(super) space: FreeSpace,
    runtime: RwLock<Runtime>,
    /// Usage that a group's sandboxes were last stopped for: they are stopped again only if it grew.
    stopped_for: Mutex<HashMap<GroupName, u64>>,
}

impl Context {
    /// Nothing is launched until [`Context::set_runtime`].
    pub(super) fn new(
        config: Config,
        ledger: Ledger,
        keyring: Keyring,
        paths: IsolationPaths,
        wall: Wall,
        models: ModelBroker,
    ) -> Self {
        let limits = Limits {
            memory_bytes: config.sandbox_memory,
            cpu_percent: config.sandbox_cpu_percent,
            pids: u64::from(config.sandbox_pids),
            ..Limits::default()
        };
        Self {
            capacity: Capacity::new(config.max_sandboxes),
            space: FreeSpace::new(&config.state_dir, config.min_free),
            wall,
            bells: Bells::default(),
            readers: Semaphore::new(READERS),
            runtime: RwLock::new(Runtime::Missing("the runtime is being tested".to_owned())),
            stopped_for: Mutex::default(),
            config,
            ledger,
            keyring,
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

    pub(super) fn quota(&self) -> Quota {
        Quota { bytes: self.config.group_quota_bytes, files: self.config.group_quota_files }
    }

    pub(super) fn times(&self) -> Times {
        Times {
            launch: self.config.launch_timeout,
            turn: self.config.turn_timeout,
            linger: self.config.linger,
        }
    }

    /// Whether a group that is over its quota grew since its sandboxes were last stopped for it; if so, this
    /// usage is remembered.
    pub(super) fn grew(&self, group: &GroupName, bytes: u64) -> bool {
        let mut stopped = self.stopped_for.lock().unwrap_or_else(PoisonError::into_inner);
        let before = stopped.get(group).copied().unwrap_or_default();
        if bytes > before {
            stopped.insert(group.clone(), bytes);
        }
        bytes > before
    }

    /// The group is within its quota again.
    pub(super) fn forget_usage(&self, group: &GroupName) {
        self.stopped_for.lock().unwrap_or_else(PoisonError::into_inner).remove(group);
    }
}
