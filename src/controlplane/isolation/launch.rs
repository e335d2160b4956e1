//! Starting the stage: a fresh copy of this executable that is handed its plan and the key through a pipe, with
//! nothing in its arguments or environment, and whose words and report come back through two others. Touches the
//! executable copy and the processes it starts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::sandbox::safe_to_show;
use super::{LaunchError, host};
use crate::contract::cipher::SessionKey;
use crate::os::stage::{Plan, ROLE, Report};
use crate::os::{files, memory, process};

/// What a stage may report before it is taken for broken.
const REPORT_LIMIT: u64 = 8 * 1024;

/// A stage that was handed its plan.
pub(super) struct Stage {
    pub(super) child: Child,
    pub(super) pidfd: OwnedFd,
    /// Whatever the stage and the sandbox print; never waits.
    pub(super) words: File,
    report: File,
}

/// Starts the stage. Its standard input stays open in `child`: closing it ends a cage.
pub(super) fn spawn(executable: &Path, plan: &Plan, key: &SessionKey) -> Result<Stage, LaunchError> {
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
    let handed_over = hand_over(&mut child, plan, key);
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
            Err(host("handing the plan to the stage")(error))
        }
    }
}

fn hand_over(child: &mut Child, plan: &Plan, key: &SessionKey) -> io::Result<()> {
    let mut bytes = plan.encode(key.as_bytes());
    let written = match &mut child.stdin {
        Some(pipe) => pipe.write_all(&bytes),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    };
    memory::wipe(&mut bytes);
    written
}

impl Stage {
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
