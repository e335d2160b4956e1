//! A running sandbox as the daemon holds it: descriptors of its processes, the pipe that takes its last words,
//! and the list of what must be removed afterwards. Touches those processes, their cgroups and bundle.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::BackEnd;
use crate::controlplane::tasks;
use crate::os::files::remove_tree;
use crate::os::process::{self, Ended};

/// How long the processes of a killed sandbox may take to disappear before that is an error.
const REAP_LIMIT: Duration = Duration::from_secs(10);

/// Characters of a sandbox's last words that are kept.
const WORDS_LIMIT: usize = 2000;

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Its status, as far as the back end tells it.
    pub how: Ended,
    /// Whether the kernel killed for want of memory below the sandbox's own limit.
    pub out_of_memory: bool,
    /// The beginning of what it printed, escaped for showing; untrusted text. Empty from a well-behaved one.
    pub words: String,
}

/// What remains of a sandbox when its processes are gone.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// Control groups to remove.
    pub(super) cgroups: Vec<PathBuf>,
    /// The bundle directory.
    pub(super) bundle: PathBuf,
    /// The mount points of what it was shown.
    pub(super) staging: PathBuf,
    /// The command that makes the runtime forget it.
    pub(super) forget: Option<Command>,
}

/// A sandbox that was launched. Dropping it kills it; [`Sandbox::clean_up`] also removes what it leaves.
#[derive(Debug)]
pub struct Sandbox {
    back_end: BackEnd,
    pid: u32,
    /// The process whose end is the sandbox's end.
    first: OwnedFd,
    /// Every process that may become our child: killed and collected with it. The first one is the inmost.
    others: Vec<OwnedFd>,
    /// Keeps the collecting of orphans from the processes above.
    held: Vec<process::Hold>,
    /// The stage of a cage, whose standard input is the lifeline.
    stage: Option<Child>,
    words: File,
    remains: Remains,
}

impl Sandbox {
    pub(super) fn new(
        back_end: BackEnd,
        (pid, first): (u32, OwnedFd),
        others: Vec<OwnedFd>,
        held: Vec<process::Hold>,
        stage: Option<Child>,
        words: File,
        remains: Remains,
    ) -> Self {
        Self { back_end, pid, first, others, held, stage, words, remains }
    }

    /// The host's number of its first process, for logs.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The boundary it is in.
    pub fn back_end(&self) -> BackEnd {
        self.back_end
    }

    /// SIGKILL to all of it. Returns at once; [`Sandbox::exited`] then resolves within milliseconds.
    pub fn kill(&self) {
        // The inmost process takes all others of a cage with it and lets its stage end in order; a gVisor
        // sandbox ends with its sentry.
        let target = match self.back_end {
            BackEnd::Native => self.others.first().unwrap_or(&self.first),
            BackEnd::Gvisor => &self.first,
        };
        // The only possible failures are a bug in the number of the descriptor or a signal.
        let _ = process::kill(target.as_fd());
    }

    /// Resolves when the sandbox has ended. Does not collect it.
    pub async fn exited(&self) -> Exit {
        let waited = match self.first.try_clone().and_then(smol::Async::new_nonblocking) {
            Ok(pidfd) => pidfd.readable().await,
            Err(error) => Err(error),
        };
        if waited.is_err() {
            // Without a reactor (out of descriptors) a thread waits instead.
            if let Ok(pidfd) = self.first.try_clone() {
                tasks::unblock(move || process::wait_readable(pidfd.as_fd(), Duration::from_secs(86_400)))
                    .await
                    .ok();
            }
        }
        self.exit()
    }

    /// Waits for its end at most this long. Blocks.
    pub fn wait(&self, limit: Duration) -> Option<Exit> {
        match process::wait_readable(self.first.as_fd(), limit) {
            Ok(true) => Some(self.exit()),
            Ok(false) | Err(_) => None,
        }
    }

    /// How it ended. Its groups are still there: [`Sandbox::clean_up`] removes them.
    fn exit(&self) -> Exit {
        Exit {
            how: process::peek(self.first.as_fd()).unwrap_or(Ended::Unknown),
            out_of_memory: super::cgroup::ran_out_of_memory(&self.remains.cgroups),
            words: self.last_words(),
        }
    }

    /// Takes what it printed so far, up to a limit. Never waits.
    pub fn last_words(&self) -> String {
        let mut bytes = vec![0u8; 4 * WORDS_LIMIT];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match (&self.words).read(rest) {
                Ok(0) | Err(_) => break,
                Ok(count) => filled += count,
            }
        }
        bytes.truncate(filled);
        safe_to_show(&bytes)
    }

    /// Kills what still runs, collects every process, and removes bundle, cgroups and the runtime's record.
    /// Blocks, typically 20 ms in gVisor and 1 ms natively. Removes what it can even when something fails.
    pub fn clean_up(mut self) -> io::Result<()> {
        self.kill();
        let mut first_error = None;
        let mut keep = |result: io::Result<()>| {
            if let Err(error) = result {
                first_error.get_or_insert(error);
            }
        };
        if process::wait(self.first.as_fd(), Duration::from_secs(2)).is_none() {
            keep(process::kill(self.first.as_fd()));
            if process::wait(self.first.as_fd(), REAP_LIMIT).is_none() {
                keep(Err(io::Error::other(format!("process {} does not end", self.pid))));
            }
        }
        for pidfd in &self.others {
            keep(process::kill(pidfd.as_fd()));
            if process::wait(pidfd.as_fd(), REAP_LIMIT).is_none() {
                keep(Err(io::Error::other(format!("a process of sandbox {} does not end", self.pid))));
            }
        }
        if let Some(mut stage) = self.stage.take() {
            drop(stage.stdin.take());
            // Already collected through its pidfd.
            let _ = stage.try_wait();
        }
        keep(std::mem::take(&mut self.remains).remove());
        self.held.clear();
        // A sentry leaves the processes in which it ran the guest.
        process::reap_orphans();
        match first_error {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Remains {
    /// Removes everything; goes on after an error and returns the first.
    pub(super) fn remove(self) -> io::Result<()> {
        let mut result = Ok(());
        if let Some(mut forget) = self.forget {
            let done = forget.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            result = result.and(match done {
                Ok(status) if status.success() => Ok(()),
                Ok(status) => Err(io::Error::other(format!("the runtime's delete ended with {status}"))),
                Err(error) => Err(error),
            });
        }
        result = result.and(super::cgroup::remove_all(&self.cgroups));
        result.and(remove_tree(&self.bundle)).and(remove_tree(&self.staging))
    }
}

/// Text from behind the boundary, as one line that is safe in a terminal or a log.
pub(super) fn safe_to_show(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown = String::new();
    for c in text.trim_end().chars().take(WORDS_LIMIT) {
        let plain = c == ' ' || (c.is_ascii_graphic() && c != '\\') || (!c.is_ascii() && c.is_alphanumeric());
        match c {
            '\n' => shown.push_str(" | "),
            _ if plain => shown.push(c),
            _ => shown.extend(c.escape_default()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_cannot_forge_a_terminal_or_a_log_line() {
        let shown = safe_to_show("ok\n\u{1b}[2Jfake\u{202e}\r\u{0}é\n".as_bytes());
        assert_eq!(shown, "ok | \\u{1b}[2Jfake\\u{202e}\\r\\u{0}é");
        assert!(safe_to_show(&[b'a'; 100_000]).len() <= WORDS_LIMIT);
    }
}
