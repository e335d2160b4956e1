//! gVisor as a back end: writes a bundle, starts `runsc run --detach` with the key as standard input, and takes
//! charge of the two processes that remain. Touches the bundle directory, runsc's own state directory, cgroups and
//! the processes it starts.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::cgroup::Controller;
use super::launch::{Stage, Staged};
use super::plan::Spaces;
use super::sandbox::{Remains, Sandbox};
use super::setup::Ground;
use super::{BackEnd, Isolator, LaunchError, Limits, SandboxSpec, Swept, at, host, layout, plan, shown};
use crate::contract::cipher::SessionKey;
use crate::contract::fault;
use crate::contract::ids::SessionId;
use crate::os::files::remove_tree;
use crate::os::process::{self, Ended};
use crate::os::stage::{Plan, Task};

/// How long a start may take. It takes 150 to 200 ms.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The file in the bundle into which runsc writes the sentry's number.
const PID_FILE: &str = "pid";

/// Memory of the sentry and the gofer themselves, added to what the agent may use.
const OVERHEAD: u64 = 64 * 1024 * 1024;

/// The back end.
pub(super) struct Gvisor {
    pub(super) ground: Arc<Ground>,
    pub(super) program: PathBuf,
    pub(super) version: String,
    pub(super) platform: &'static str,
    pub(super) start_limit: Duration,
}

impl Gvisor {
    pub(super) fn new(
        ground: Arc<Ground>,
        program: PathBuf,
        version: String,
        platform: &'static str,
    ) -> Self {
        Self { ground, program, version, platform, start_limit: START_LIMIT }
    }

    /// The flags before the command.
    fn flags(&self, spaces: Spaces) -> Vec<OsString> {
        let mut root = OsString::from("--root=");
        root.push(&self.ground.runsc_root);
        let mut flags = vec![root];
        let network = if fault::weakened("network") { "--network=host" } else { "--network=none" };
        flags.extend(
            [
                network,
                "--host-uds=open",
                "--overlay2=none",
                // The stage has joined our own groups before it became runsc.
                "--ignore-cgroups",
                "--oci-seccomp",
            ]
            .map(OsString::from),
        );
        flags.push(format!("--platform={}", self.platform).into());
        match spaces {
            Spaces::Rootless => flags.push("--rootless".into()),
            Spaces::Unmapped { .. } | Spaces::Mapped { .. } => {}
        }
        flags
    }

    fn start_in(&self, staged: Staged, spec: &SandboxSpec, key: &SessionKey) -> Result<Sandbox, LaunchError> {
        let bundle = &spec.paths.bundle;
        let spaces = Spaces::of(spec.identity);
        let program = plan::program(spec, &self.ground.executable);
        let limits = plan::process_limits(&spec.limits, self.ground.cgroups.has(Controller::Memory));
        let config = plan::bundle(spec, spaces, &self.ground.rootfs, &program, &limits);
        let config_path = bundle.join("config.json");
        std::fs::write(&config_path, config.to_string()).map_err(at("writing", &config_path))?;

        let mut args = self.flags(spaces);
        args.extend([OsString::from("run"), "--detach".into()]);
        args.push(joined("--pid-file=", &bundle.join(PID_FILE)));
        args.push(joined("--bundle=", bundle));
        args.push(spec.session.as_str().into());
        let plan = Plan::new(Task::Exec { program: self.program.clone(), args }).showing(shown::seen(spec));
        staged.go(&plan, key, |stage, groups| self.take_charge(stage, spec, groups))
    }

    /// Waits until runsc has started the sandbox and left its processes to us.
    fn take_charge(
        &self,
        mut stage: Stage,
        spec: &SandboxSpec,
        groups: &[PathBuf],
    ) -> Result<Sandbox, LaunchError> {
        let bundle = &spec.paths.bundle;
        let spaces = Spaces::of(spec.identity);
        let pid_file = bundle.join(PID_FILE);
        drop(stage.child.stdin.take());

        let ended = process::wait(stage.pidfd.as_fd(), self.start_limit);
        match ended {
            Some(Ended::Code(0)) => {}
            Some(how) => {
                let said = stage.said();
                self.discard(spec, spaces);
                let report = stage.report(Duration::ZERO).ok().flatten().and_then(|report| report.failure);
                let said = report.map_or(said, |(_, reason)| reason);
                return Err(LaunchError::Runtime { how: how.to_string(), said });
            }
            None => {
                let seconds = self.start_limit.as_secs();
                stage.abandon();
                self.discard(spec, spaces);
                return Err(LaunchError::TimedOut { seconds });
            }
        }
        let taken = left_to_us(bundle, &pid_file);
        let (pid, boot, others) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                self.discard(spec, spaces);
                return Err(host("taking charge of the sandbox")(error));
            }
        };
        let mut pids = vec![pid];
        pids.extend(others.iter().map(|(pid, _)| *pid));
        if let Err(error) = self.ground.record(bundle, &pids) {
            drop(others);
            self.discard(spec, spaces);
            return Err(host("recording the sandbox")(error));
        }
        let remains = Remains {
            cgroups: groups.to_vec(),
            bundle: bundle.clone(),
            staging: spec.paths.staging.clone(),
            forget: Some(self.forget(spec, spaces)),
        };
        let others = others.into_iter().map(|(_, pidfd)| pidfd).collect();
        let held = pids.into_iter().map(process::hold).collect();
        Ok(Sandbox::new(BackEnd::Gvisor, (pid, boot), others, held, None, stage.words, remains))
    }

    /// `runsc delete`, for when every process has been collected: it then takes 20 ms.
    fn forget(&self, spec: &SandboxSpec, spaces: Spaces) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().current_dir("/").args(self.flags(spaces)).arg("delete");
        command.arg(spec.session.as_str());
        command
    }

    /// After a start that failed: kills what it left behind and makes runsc forget it.
    fn discard(&self, spec: &SandboxSpec, spaces: Spaces) {
        let needle = spec.session.as_str();
        for _ in 0..3 {
            let left = own_descendants(needle);
            for (_, pidfd) in &left {
                let _ = process::kill(pidfd.as_fd());
                let _ = process::wait(pidfd.as_fd(), Duration::from_secs(2));
            }
            if left.is_empty() {
                break;
            }
        }
        let mut forget = self.forget(spec, spaces);
        let quiet = std::process::Stdio::null;
        let _ = forget.stdin(quiet()).stdout(quiet()).stderr(quiet()).status();
    }
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut word = OsString::from(flag);
    word.push(path);
    word
}

/// A process and its descriptor.
type Held = (u32, OwnedFd);

/// Opens the sentry, named by the pid file, and the gofer, found among our children by the bundle's name.
fn left_to_us(bundle: &Path, pid_file: &Path) -> io::Result<(u32, OwnedFd, Vec<Held>)> {
    let text = std::fs::read_to_string(pid_file)?;
    let boot: u32 = text.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
    let pidfd = process::pidfd_open(boot)?;
    let name = bundle.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let others = own_descendants(&name).into_iter().filter(|(pid, _)| *pid != boot).collect();
    Ok((boot, pidfd, others))
}

/// Our children that carry this name in an argument.
fn own_descendants(name: &str) -> Vec<Held> {
    let named = |pid: &u32| {
        let words = process::arguments(*pid).unwrap_or_default();
        words.iter().any(|word| word.to_string_lossy().contains(name))
    };
    let children = process::children().unwrap_or_default();
    children.into_iter().filter(named).filter_map(|pid| Some((pid, process::pidfd_open(pid).ok()?))).collect()
}

impl Isolator for Gvisor {
    fn back_end(&self) -> BackEnd {
        BackEnd::Gvisor
    }

    fn describe(&self) -> String {
        format!("gVisor (runsc {}, platform {})", self.version, self.platform)
    }

    fn report(&self) -> Vec<String> {
        let mut report = self.ground.report();
        if self.ground.rootless() {
            report.push(
                "gVisor without root maps only one id: the agent is uid 0 inside, without any capability"
                    .into(),
            );
        }
        report.push("gVisor has no landlock; its own file system layer takes that place".into());
        report
    }

    fn stage(&self, session: &SessionId, limits: &Limits) -> Result<Staged, LaunchError> {
        self.ground.stage(session, limits, OVERHEAD)
    }

    fn start(&self, staged: Staged, spec: &SandboxSpec, key: &SessionKey) -> Result<Sandbox, LaunchError> {
        #[cfg(feature = "faults")]
        let spec = &super::spill::spill(spec, key)?;
        let program = plan::program(spec, &self.ground.executable);
        layout::check(spec, &[&program, &self.ground.rootfs])?;
        self.ground.make_bundle(&spec.paths.bundle).map_err(at("making", &spec.paths.bundle))?;
        shown::stage(spec).and_then(|()| self.start_in(staged, spec, key)).inspect_err(|_| {
            let _ = std::fs::remove_dir_all(&spec.paths.bundle);
            let _ = remove_tree(&spec.paths.staging);
        })
    }

    fn sweep(&self) -> Result<Swept, io::Error> {
        self.ground.sweep()
    }
}
