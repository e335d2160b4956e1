//! Starting the stage: a fresh copy of this executable that is handed its cgroups, then its plan and the key,
//! through a pipe, with nothing in its arguments or environment, and whose words and report come back through two
//! others. Touches the executable copy, the processes it starts and their cgroups.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::sandbox::{Sandbox, safe_to_show};
use super::{LaunchError, cgroup, host};
use crate::contract::cipher::SessionKey;
use crate::os::stage::{Plan, ROLE, Report, encode_cgroups};
use crate::os::{files, memory, process};

/// What a stage may report before it is taken for broken.
const REPORT_LIMIT: u64 = 8 * 1024;

/// The first half of a launch: a stage that joins the sandbox's cgroups and waits for its plan. Dropping it ends
/// the stage and removes the cgroups.
pub struct Staged {
    stage: Option<Stage>,
    groups: Vec<PathBuf>,
}

impl Staged {
    /// Starts the stage; the groups are there already, and are this value's from now on.
    pub(super) fn start(executable: &Path, groups: Vec<PathBuf>) -> Result<Self, LaunchError> {
        let mut staged = Self { stage: None, groups };
        let procs: Vec<PathBuf> = staged.groups.iter().map(|group| cgroup::joining(group)).collect();
        staged.stage = Some(spawn(executable, &procs)?);
        Ok(staged)
    }

    /// Hands it the plan, and stage and groups to whoever takes charge of the sandbox that it becomes. Where that
    /// fails the groups are removed.
    pub(super) fn go(
        mut self,
        plan: &Plan,
        key: &SessionKey,
        take_charge: impl FnOnce(Stage, &[PathBuf]) -> Result<Sandbox, LaunchError>,
    ) -> Result<Sandbox, LaunchError> {
        let Some(mut stage) = self.stage.take() else {
            return Err(host("handing the plan to the stage")(io::ErrorKind::BrokenPipe.into()));
        };
        if let Err(error) = stage.hand_over(plan, key) {
            self.stage = Some(stage);
            return Err(host("handing the plan to the stage")(error));
        }
        let sandbox = take_charge(stage, &self.groups)?;
        // They are the sandbox's now.
        self.groups.clear();
        Ok(sandbox)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(stage) = self.stage.take() {
            stage.abandon();
        }
        let _ = cgroup::remove_all(&self.groups);
    }
}

/// A stage that runs.
pub(super) struct Stage {
    pub(super) child: Child,
    pub(super) pidfd: OwnedFd,
    /// Whatever the stage and the sandbox print; never waits.
    pub(super) words: File,
    report: File,
}

/// Starts a stage that joins the cgroups of these files and waits for its plan. Its standard input stays open in
/// `child`: closing it ends a cage.
pub(super) fn spawn(executable: &Path, procs: &[PathBuf]) -> Result<Stage, LaunchError> {
    let (words, words_in) = io::pipe().map_err(host("making a pipe"))?;
    let mut child = Command::new(executable)
        .arg(ROLE)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(words_in)
        .spawn()
        .map_err(host(format!("starting {}", executable.display())))?;
    let handed_over = write(&mut child, &encode_cgroups(procs));
    let words = File::from(OwnedFd::from(words));
    let ready = handed_over
        .and_then(|()| files::set_nonblocking(&words))
        .and_then(|()| process::pidfd_open(child.id()))
        .and_then(|pidfd| Ok((pidfd, child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?)));
    match ready {
        Ok((pidfd, report)) => Ok(Stage { child, pidfd, words, report: File::from(OwnedFd::from(report)) }),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(host("talking to the stage")(error))
        }
    }
}

fn write(child: &mut Child, bytes: &[u8]) -> io::Result<()> {
    match &mut child.stdin {
        // A stage that has ended already says why in its report, which is read next.
        Some(pipe) => match pipe.write_all(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        },
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

impl Stage {
    /// Hands it its plan and the key.
    pub(super) fn hand_over(&mut self, plan: &Plan, key: &SessionKey) -> io::Result<()> {
        let mut bytes = plan.encode(key.as_bytes());
        let written = write(&mut self.child, &bytes);
        memory::wipe(&mut bytes);
        written
    }

    /// Reads what it reports until it closes the pipe, as it does when the sandbox runs. `None` when that takes
    /// longer than `limit`.
    pub(super) fn report(&mut self, limit: Duration) -> io::Result<Option<Report>> {
        let until = Instant::now() + limit;
        let mut text = Vec::new();
        loop {
            if !process::wait_readable(self.report.as_fd(), until.saturating_duration_since(Instant::now()))?
            {
                return Ok(None);
            }
            let mut part = [0u8; 1024];
            let count = self.report.read(&mut part)?;
            text.extend_from_slice(part.get(..count).unwrap_or_default());
            if count == 0 || text.len() as u64 > REPORT_LIMIT {
                return Ok(Some(Report::parse(&String::from_utf8_lossy(&text))));
            }
        }
    }

    /// What was printed so far.
    pub(super) fn said(&mut self) -> String {
        let mut bytes = vec![0u8; 8192];
        let count = self.words.read(&mut bytes).unwrap_or(0);
        bytes.truncate(count);
        safe_to_show(&bytes)
    }

    /// Kills and collects it.
    pub(super) fn abandon(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
