//! The boundary around the agent: it launches one sandbox per conversation in gVisor or in a native cage, says
//! what the chosen one cannot enforce on this host, and leaves nothing behind. Comes in: a session's paths, ids,
//! limits and key; goes out: a running [`Sandbox`]. Touches the operating system, the bundle root and the
//! directories of sessions; never the ledger.

mod cgroup;
pub mod choose;
mod gvisor;
mod launch;
pub mod layout;
mod native;
mod plan;
pub mod sandbox;
mod setup;
mod shown;
#[cfg(feature = "faults")]
mod spill;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::contract::cipher::SessionKey;
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::paths;

pub use choose::{Claim, RuntimeProblem, Survey, choose, claim, find_runtime, survey};
pub use launch::Staged;
pub use layout::{PathProblem, bind_socket, check, hand_over, peer_is_ours, prepare, wall_directory};
pub use sandbox::{Exit, Sandbox};
pub use setup::sweep_abandoned;
pub use shown::Shown;

/// The two kinds of boundary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackEnd {
    /// `runsc`: the agent's system calls are answered by a second kernel in user space.
    Gvisor,
    /// Namespaces, seccomp and landlock of the host's own kernel.
    Native,
}

impl BackEnd {
    /// The word in logs, status and flags.
    pub fn name(self) -> &'static str {
        match self {
            BackEnd::Gvisor => "gvisor",
            BackEnd::Native => "native",
        }
    }

    /// One honest line for people, wherever the back end is shown.
    pub fn strength(self) -> &'static str {
        match self {
            BackEnd::Gvisor => "strong: the agent never talks to the host's kernel",
            BackEnd::Native => "weaker: shares the host kernel",
        }
    }
}

/// As whom the sandbox acts on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A root daemon: ids that belong to nobody else on this host.
    Mapped {
        /// A: the one id that may pass the directories above the sessions (`--sandbox-uid-base`).
        wall: u32,
        /// B: the id of this agent group, owner of whatever the guest touches. Never A.
        group: u32,
    },
    /// An ordinary user's daemon: the sandbox is that user, and file modes protect nothing against an escape.
    OwnUser,
}

impl Identity {
    /// The owner of what the guest may touch; `None` leaves it to this process's own user.
    pub fn owner(self) -> Option<(u32, u32)> {
        match self {
            Identity::Mapped { group, .. } => Some((group, group)),
            Identity::OwnUser => None,
        }
    }
}

/// How far above the wall's id the one is that owns the files of a root daemon's self-test. Agent groups' ids
/// come after it.
pub const SELF_TEST_ID: u32 = 1;

/// Which boundary the operator asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeChoice {
    /// `runsc`, found on the search path.
    Runsc,
    /// The native cage.
    Native,
    /// `runsc` if it is there and works, else the cage where that is allowed.
    Auto {
        /// True for `--dev` and `demo` only.
        allow_native: bool,
    },
    /// `runsc` at this path.
    Path(PathBuf),
}

/// The directories that isolation works in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsolationPaths {
    /// Sessions, workspaces and memory are below it.
    pub state_dir: PathBuf,
    /// Belongs to isolation alone: executable copies, the shared sandbox root, one bundle per running sandbox.
    pub bundle_root: PathBuf,
    /// One directory of sockets per session.
    pub run_dir: PathBuf,
}

impl IsolationPaths {
    /// Copies of the executable, named by digest.
    pub fn executables(&self) -> PathBuf {
        self.bundle_root.join("bin")
    }

    /// The shared sandbox root: mount points only.
    pub fn rootfs(&self) -> PathBuf {
        self.bundle_root.join("rootfs")
    }

    /// runsc's own state.
    pub fn runsc_root(&self) -> PathBuf {
        self.bundle_root.join("runsc")
    }

    /// Where directories of the host are put for those that may not pass what is above them.
    pub fn staging(&self) -> PathBuf {
        self.bundle_root.join("staging")
    }

    /// Bundles of running sandboxes.
    pub fn bundles(&self) -> PathBuf {
        self.bundle_root.join("running")
    }
}

/// Every host path of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionPaths {
    /// `sessions/ID`: root:A 0710.
    pub session_root: PathBuf,
    /// The directory of the inbound conveyor.
    pub inbound_dir: PathBuf,
    /// The inbound conveyor, written by the host.
    pub inbound: PathBuf,
    /// The outbound conveyor, written by the sandbox.
    pub outbound: PathBuf,
    /// The sandbox's own directory. The host never opens a file in it.
    pub session_dir: PathBuf,
    /// Sockets of the session.
    pub sockets: PathBuf,
    /// The doorbell.
    pub doorbell: PathBuf,
    /// The model proxy.
    pub model: PathBuf,
    /// The group's files.
    pub workspace: PathBuf,
    /// The group's memory.
    pub memory: PathBuf,
    /// The directories that were made for the group's mounts.
    pub mounts: PathBuf,
    /// config.json, recorded pids: exists while the sandbox runs.
    pub bundle: PathBuf,
    /// Mount points for what it is shown of the host: exists while a sandbox runs that is shown something.
    pub staging: PathBuf,
}

impl SessionPaths {
    /// What a session has on the host beside its group's files.
    pub fn root(paths: &IsolationPaths, id: &SessionId) -> PathBuf {
        paths.state_dir.join("sessions").join(id.as_str())
    }

    /// The paths of session `id` of `group`. Makes nothing; see [`prepare`].
    pub fn new(paths: &IsolationPaths, id: &SessionId, group: &GroupName) -> Self {
        let session_root = Self::root(paths, id);
        let sockets = paths.run_dir.join(id.as_str());
        let inbound_dir = session_root.join("in");
        Self {
            inbound: inbound_dir.join("inbound.db"),
            inbound_dir,
            outbound: session_root.join("outbound.db"),
            session_dir: session_root.join("session"),
            session_root,
            doorbell: sockets.join(file_name(paths::DOORBELL)),
            model: sockets.join(file_name(paths::MODEL)),
            sockets,
            workspace: paths.state_dir.join("workspaces").join(group.as_str()),
            memory: paths.state_dir.join("memory").join(group.as_str()),
            mounts: paths.state_dir.join("mounts").join(group.as_str()),
            bundle: paths.bundles().join(id.as_str()),
            staging: paths.staging().join(id.as_str()),
        }
    }
}

fn file_name(path: &'static str) -> &'static str {
    path.rsplit('/').next().unwrap_or(path)
}

/// What one sandbox may use. Every figure is a ceiling for a hostile agent, far above what an honest one needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the agent, in bytes. An idle one uses 1 to 4 MiB, a long turn some tens.
    pub memory_bytes: u64,
    /// Share of one core, in percent; 200 is two cores. gVisor's start uses more than one for a moment.
    pub cpu_percent: u32,
    /// Host tasks, stubs of gVisor included; see [`GVISOR_PIDS`].
    pub pids: u64,
    /// Threads inside; the agent has two.
    pub threads: u64,
    /// Largest file it may write, in bytes; an `outbound.db` is refused at half of that.
    pub file_bytes: u64,
    /// Open files inside.
    pub open_files: u64,
    /// Size of `/tmp`, in bytes: it is memory.
    pub tmp_bytes: u64,
    /// Size of the memory around `outbound.db`, in bytes: an honest agent writes nothing there.
    pub out_bytes: u64,
}

/// Fewer host tasks than these, and a gVisor sentry may fail to start a stub and die.
pub const GVISOR_PIDS: u64 = 256;

impl Default for Limits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            memory_bytes: 256 * MIB,
            cpu_percent: 200,
            pids: GVISOR_PIDS,
            threads: 64,
            file_bytes: 64 * MIB,
            open_files: 256,
            tmp_bytes: 16 * MIB,
            out_bytes: 64 * MIB,
        }
    }
}

/// One launch.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// Whose sandbox it is.
    pub session: SessionId,
    /// Its host paths.
    pub paths: SessionPaths,
    /// As whom it acts.
    pub identity: Identity,
    /// What it may use.
    pub limits: Limits,
    /// What it is shown of the host beside its own directories.
    pub shown: Vec<Shown>,
    /// Arguments after `ironclaw sandbox`.
    pub args: Vec<String>,
    /// Another program in the place of `/ironclaw`, for tests that play a hostile agent.
    #[cfg(feature = "faults")]
    pub executable_override: Option<PathBuf>,
}

/// What the sweep at start found of an earlier daemon with the same roots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Processes that were killed.
    pub processes: usize,
    /// Bundles that were removed.
    pub bundles: usize,
    /// Control groups that were removed.
    pub cgroups: usize,
}

/// A boundary that sandboxes can be launched in.
pub trait Isolator: Send + Sync {
    /// Which of the two it is.
    fn back_end(&self) -> BackEnd;

    /// Runtime, version and platform, for people: `gVisor (runsc 20221219.0, platform ptrace)`.
    fn describe(&self) -> String;

    /// What it cannot enforce on this host, one plain sentence each. Empty when it enforces everything.
    fn report(&self) -> Vec<String>;

    /// The first half of a launch, which needs no more than the session's name and limits: a process in the
    /// sandbox's cgroups, waiting. Blocks for some milliseconds; call it from the blocking pool.
    fn stage(&self, session: &SessionId, limits: &Limits) -> Result<Staged, LaunchError>;

    /// The second half: starts a sandbox whose directories [`prepare`] has made. Blocks for as long as the start
    /// takes, at most 30 s; call it from the blocking pool. On an error nothing is left behind.
    fn start(&self, staged: Staged, spec: &SandboxSpec, key: &SessionKey) -> Result<Sandbox, LaunchError>;

    /// Kills and removes what an earlier daemon with the same roots left. Blocks; to be called before the first
    /// launch.
    fn sweep(&self) -> Result<Swept, std::io::Error>;
}

/// Why a sandbox was not launched. All are reasons of the machine: no message is at fault.
#[derive(Debug)]
pub enum LaunchError {
    /// A directory or file does not have the owner or mode that the boundary needs.
    Path(PathProblem),
    /// The host refused something that launching needs.
    Host {
        /// What was being done.
        doing: String,
        /// The answer.
        error: std::io::Error,
    },
    /// The cage could not be built.
    Cage {
        /// The step and the system's answer.
        reason: String,
    },
    /// The runtime ended with an error.
    Runtime {
        /// How it ended.
        how: String,
        /// The end of what it printed, made safe to show.
        said: String,
    },
    /// The runtime did not finish starting in time, and was killed.
    TimedOut {
        /// Seconds it was given.
        seconds: u64,
    },
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LaunchError::Path(problem) => problem.fmt(f),
            LaunchError::Host { doing, error } => write!(f, "{doing}: {error}"),
            LaunchError::Cage { reason } => write!(f, "the native cage could not be built: {reason}"),
            LaunchError::Runtime { how, said } if said.is_empty() => {
                write!(f, "the runtime ended with {how} and said nothing; run `ironclaw doctor`")
            }
            LaunchError::Runtime { how, said } => write!(f, "the runtime ended with {how}: {said}"),
            LaunchError::TimedOut { seconds } => write!(
                f,
                "the sandbox did not start within {seconds} s and was killed; is the machine overloaded?"
            ),
        }
    }
}

impl std::error::Error for LaunchError {}

impl From<PathProblem> for LaunchError {
    fn from(problem: PathProblem) -> Self {
        LaunchError::Path(problem)
    }
}

/// Names what was being done when the host refused.
pub(crate) fn host(doing: impl Into<String>) -> impl FnOnce(std::io::Error) -> LaunchError {
    let doing = doing.into();
    move |error| LaunchError::Host { doing, error }
}

/// Names a path in an error about it.
pub(crate) fn at(doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> LaunchError {
    host(format!("{doing} {}", path.display()))
}
