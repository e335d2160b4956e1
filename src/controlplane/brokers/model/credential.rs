//! What an upstream is shown: a credential that was given, one in a file that somebody else renews, or one that
//! `gcloud` prints. A source that fails gives no credential, and then nothing is sent. Touches that file and that
//! program.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::lock::Mutex;

use crate::controlplane::config::Secret;
use crate::controlplane::tasks;
use crate::os::process;

/// Longest credential.
const MOST: usize = 8 << 10;
/// How long `gcloud` may take.
const PRINT_WAIT: Duration = Duration::from_secs(15);
/// How long the last of its output may take when it has ended.
const READ_WAIT: Duration = Duration::from_secs(1);
/// How long what it printed is used: its tokens hold for an hour.
const PRINTED_HOLDS: Duration = Duration::from_secs(45 * 60);
/// So long after a failure it is not asked again; calls that come meanwhile fail at once.
const FAILED_HOLDS: Duration = Duration::from_secs(5);

/// Where the credential of an upstream comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// It wants none, or a credential gateway adds it.
    Nothing,
    /// Given in the environment.
    Given(Secret),
    /// In a file, read for each call: whoever renews it replaces the file.
    File(PathBuf),
    /// Printed by `gcloud`.
    Gcloud(Arc<Gcloud>),
}

/// Why there is no credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError(String);

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SourceError {}

impl Source {
    /// The credential of now.
    ///
    /// # Errors
    /// When the file or the program gives none.
    pub async fn read(&self) -> Result<Option<Secret>, SourceError> {
        match self {
            Self::Nothing => Ok(None),
            Self::Given(secret) => Ok(Some(secret.clone())),
            Self::File(path) => {
                let path = path.clone();
                tasks::unblock(move || from_file(&path)).await.map(Some)
            }
            Self::Gcloud(gcloud) => gcloud.token().await.map(Some),
        }
    }

    /// What is wrong with it now, for a start that wants to know.
    ///
    /// # Errors
    /// When a file gives no credential.
    pub fn check(&self) -> Result<(), SourceError> {
        match self {
            Self::File(path) => from_file(path).map(drop),
            Self::Nothing | Self::Given(_) | Self::Gcloud(_) => Ok(()),
        }
    }
}

/// Whether a text can be the value of a header.
pub fn is_credential(text: &str) -> bool {
    (1..=MOST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

fn from_file(path: &Path) -> Result<Secret, SourceError> {
    let wrong = |why: &str| SourceError(format!("the credential's file {}: {why}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| wrong(&error.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MOST as u64 + 2).read_to_end(&mut bytes).map_err(|error| wrong(&error.to_string()))?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let text = text.trim_end_matches(['\r', '\n']);
    if is_credential(text) {
        Ok(Secret::new(text.to_owned()))
    } else {
        Err(wrong("expected one line of visible ASCII characters, at most 8 KiB"))
    }
}

/// Google Cloud's own program, which knows who is logged in on this machine.
#[derive(Debug)]
pub struct Gcloud {
    program: PathBuf,
    environment: Vec<(String, String)>,
    printed: Mutex<Option<(Instant, Result<Secret, SourceError>)>>,
}

impl Gcloud {
    /// `environment` is all that the program gets to see of this process's.
    pub fn new(program: PathBuf, environment: Vec<(String, String)>) -> Self {
        Self { program, environment, printed: Mutex::new(None) }
    }

    /// The token of now. Who comes while it is printed waits for the same.
    async fn token(&self) -> Result<Secret, SourceError> {
        let mut printed = self.printed.lock().await;
        if let Some((at, result)) = &*printed {
            let holds = if result.is_ok() { PRINTED_HOLDS } else { FAILED_HOLDS };
            if at.elapsed() < holds {
                return result.clone();
            }
        }
        let (program, environment) = (self.program.clone(), self.environment.clone());
        let result = tasks::unblock(move || print(&program, &environment)).await;
        *printed = Some((Instant::now(), result.clone()));
        result
    }
}

fn print(program: &Path, environment: &[(String, String)]) -> Result<Secret, SourceError> {
    let wrong = |why: String| SourceError(format!("{} auth print-access-token: {why}", program.display()));
    let mut child = Command::new(program)
        .args(["auth", "print-access-token"])
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| wrong(format!("it cannot be started: {error}")))?;
    let began = Instant::now();
    let mut out = child.stdout.take().map(|out| out.take(MOST as u64 + 2));
    let (sender, printed) = std::sync::mpsc::channel();
    // A thread of its own: something that it started may keep its output open for ever.
    let reading = std::thread::Builder::new().name("gcloud".to_owned()).spawn(move || {
        let mut bytes = Vec::new();
        let _ = out.as_mut().map(|out| out.read_to_end(&mut bytes));
        let _ = sender.send(bytes);
    });
    let ended = process::pidfd_open(child.id())
        .and_then(|fd| process::wait_readable(std::os::fd::AsFd::as_fd(&fd), PRINT_WAIT));
    if !matches!(ended, Ok(true)) {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|error| wrong(error.to_string()))?;
    if !matches!(ended, Ok(true)) {
        return Err(wrong(format!("it did not end within {} s", began.elapsed().as_secs())));
    }
    if !status.success() {
        return Err(wrong(format!("it failed ({status}); log in with `gcloud auth login`")));
    }
    let bytes = reading.map_err(|error| wrong(error.to_string())).map(|_| printed.recv_timeout(READ_WAIT))?;
    let bytes = bytes.unwrap_or_default();
    let text = String::from_utf8(bytes).unwrap_or_default();
    let text = text.trim_end();
    if is_credential(text) {
        Ok(Secret::new(text.to_owned()))
    } else {
        Err(wrong("it printed no token".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::controlplane::tasks;

    fn temporary(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("ironclaw-credential-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_file_is_read_again_for_each_call_and_fails_closed() {
        let path = temporary("file");
        let source = Source::File(path.clone());
        let read = || tasks::block_on(source.read());
        assert!(read().unwrap_err().to_string().contains("file"));
        for good in ["first", "second\n", "third\r\n"] {
            std::fs::write(&path, good).unwrap();
            assert_eq!(read().unwrap().unwrap().expose(), good.trim_end());
        }
        for bad in ["", "\n", "a b", "a\nb", "é", "a\u{1}"] {
            std::fs::write(&path, bad).unwrap();
            assert!(read().is_err(), "{bad:?}");
        }
        std::fs::write(&path, "x".repeat(MOST + 1)).unwrap();
        assert!(read().is_err());
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn gcloud_is_asked_once_for_all_and_told_nothing_of_ours() {
        let path = temporary("gcloud");
        let log = temporary("gcloud-log");
        let script = format!(
            "#!/bin/sh\necho run >> {}\n[ \"$*\" = 'auth print-access-token' ] || exit 1\nenv | grep -q SECRET && exit 1\necho token-of-$NAME\n",
            log.display()
        );
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let environment =
            vec![("NAME".to_owned(), "ann".to_owned()), ("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        let source = Source::Gcloud(Arc::new(Gcloud::new(path.clone(), environment)));
        for _ in 0..3 {
            assert_eq!(tasks::block_on(source.read()).unwrap().unwrap().expose(), "token-of-ann");
        }
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "run\n");
        std::fs::write(&path, "#!/bin/sh\nexit 3\n").unwrap();
        let failing = Source::Gcloud(Arc::new(Gcloud::new(path.clone(), Vec::new())));
        let said = tasks::block_on(failing.read()).unwrap_err().to_string();
        assert!(said.contains("gcloud auth login"), "{said}");
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&log).unwrap();
    }
}
