//! The native cage as a back end: a stage builds it and stays outside as its guard. Starts in milliseconds and
//! works for any user; weaker than gVisor, because the agent's system calls reach the host's kernel. Touches the
//! bundle directory, cgroups and the processes it starts.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::cgroup::Controller;
use super::launch::{Stage, Staged};
use super::sandbox::{Remains, Sandbox};
use super::setup::Ground;
use super::{
    BackEnd, Identity, Isolator, LaunchError, Limits, SandboxSpec, Swept, at, host, layout, plan, shown,
};
use crate::contract::cipher::SessionKey;
use crate::contract::ids::SessionId;
use crate::os::cage::{Access, Cage, Mount, Who};
use crate::os::files::remove_tree;
use crate::os::process;
use crate::os::stage::{Plan, Task};

/// How long the cage may take to stand. It takes milliseconds.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Device files of the host that the sandbox has.
const DEVICES: [&str; 2] = ["/dev/null", "/dev/urandom"];

/// The back end.
pub(super) struct Native {
    pub(super) ground: Arc<Ground>,
}

impl Native {
    fn who(&self, identity: Identity) -> Who {
        match identity {
            Identity::OwnUser => Who::OwnUser,
            Identity::Mapped { wall, group } if self.ground.user_namespaces() => Who::Mapped { group, wall },
            Identity::Mapped { group, .. } => Who::NoUserNamespace { group },
        }
    }

    fn cage(&self, spec: &SandboxSpec) -> Cage {
        let program = plan::program(spec, &self.ground.executable);
        let mut mounts = plan::mounts(spec, &program);
        mounts.extend(DEVICES.map(|device| Mount::Bind {
            source: device.into(),
            at: device.into(),
            access: Access::Device,
        }));
        let who = self.who(spec.identity);
        let cgroups = &self.ground.cgroups;
        let mut limits = plan::process_limits(&spec.limits, cgroups.has(Controller::Memory));
        if matches!(who, Who::NoUserNamespace { .. }) && cgroups.has(Controller::Pids) {
            // The kernel would count the tasks of all the group's sandboxes together.
            limits.threads = None;
        }
        Cage {
            who,
            mounts,
            limits,
            program: crate::contract::paths::EXECUTABLE.into(),
            args: plan::arguments(spec).into_iter().map(OsString::from).collect(),
            env: plan::environment().into_iter().map(OsString::from).collect(),
        }
    }

    fn start_in(&self, staged: Staged, spec: &SandboxSpec, key: &SessionKey) -> Result<Sandbox, LaunchError> {
        let plan = Plan::new(Task::Cage(self.cage(spec))).showing(shown::seen(spec));
        staged.go(&plan, key, |stage, groups| self.take_charge(stage, spec, groups))
    }

    /// Waits until the cage stands.
    fn take_charge(
        &self,
        mut stage: Stage,
        spec: &SandboxSpec,
        groups: &[PathBuf],
    ) -> Result<Sandbox, LaunchError> {
        let report = match stage.report(START_LIMIT) {
            Ok(Some(report)) => report,
            Ok(None) => {
                stage.abandon();
                return Err(LaunchError::TimedOut { seconds: START_LIMIT.as_secs() });
            }
            Err(error) => {
                stage.abandon();
                return Err(host("waiting for the cage")(error));
            }
        };
        let init = match (report.failure, report.init) {
            (None, Some(init)) => process::pidfd_open(init),
            (Some((_, reason)), _) => {
                stage.abandon();
                return Err(LaunchError::Cage { reason });
            }
            (None, None) => {
                let said = stage.said();
                stage.abandon();
                return Err(LaunchError::Cage { reason: format!("the stage ended without a word; {said}") });
            }
        };
        // A sandbox that has ended by now has no first process any more: its stage tells how.
        let others = init.into_iter().collect();
        if let Err(error) = self.ground.record(&spec.paths.bundle, &[stage.child.id()]) {
            // Its end is the cage's: nothing else holds the pipe that the first process inside watches.
            stage.abandon();
            return Err(host("recording the sandbox")(error));
        }
        let remains = Remains {
            cgroups: groups.to_vec(),
            bundle: spec.paths.bundle.clone(),
            staging: spec.paths.staging.clone(),
            forget: None,
        };
        Ok(Sandbox::new(
            BackEnd::Native,
            (stage.child.id(), stage.pidfd),
            others,
            vec![],
            Some(stage.child),
            stage.words,
            remains,
        ))
    }
}

impl Isolator for Native {
    fn back_end(&self) -> BackEnd {
        BackEnd::Native
    }

    fn describe(&self) -> String {
        format!("native cage (kernel {})", process::kernel_release())
    }

    fn report(&self) -> Vec<String> {
        let mut report = vec![
            "the native cage is weaker than gVisor: the agent's system calls reach the host's kernel".into(),
        ];
        report.extend(self.ground.report());
        if !self.ground.rootless()
            && !self.ground.user_namespaces()
            && !self.ground.cgroups.has(Controller::Pids)
        {
            report.push(
                "without user namespaces and without a cgroup for pids, all sandboxes of an agent group share one \
                 limit of threads"
                    .into(),
            );
        }
        report
    }

    fn stage(&self, session: &SessionId, limits: &Limits) -> Result<Staged, LaunchError> {
        self.ground.stage(session, limits, 0)
    }

    fn start(&self, staged: Staged, spec: &SandboxSpec, key: &SessionKey) -> Result<Sandbox, LaunchError> {
        #[cfg(feature = "faults")]
        let spec = &super::spill::spill(spec, key)?;
        let program = plan::program(spec, &self.ground.executable);
        layout::check(spec, &[&program])?;
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

impl std::fmt::Debug for Native {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Native")
    }
}

/// Keeps the two back ends' use of cgroups in one place.
impl Ground {
    /// A stage in the groups of one sandbox, with `overhead` bytes for the runtime itself.
    pub(super) fn stage(
        &self,
        session: &SessionId,
        limits: &Limits,
        overhead: u64,
    ) -> Result<Staged, LaunchError> {
        let groups = self
            .cgroups
            .make(session.as_str(), limits, overhead)
            .map_err(host("making the sandbox's cgroups"))?;
        Staged::start(&self.executable, groups)
    }
}
