//! Looks at what is not ours, which may never come back: a directory of a server that is gone. Each has a thread of its
//! own and is waited for only so long; what does not answer is not asked again before it has. Touches nothing itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How long all looks of one launch or request are waited for together.
const PATIENCE: Duration = Duration::from_secs(5);

/// The looks that are under way. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Looks {
    open: Arc<Mutex<BTreeMap<u64, (PathBuf, Instant)>>>,
    patience: Duration,
}

/// How long somebody still waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until(Instant);

impl Default for Looks {
    fn default() -> Self {
        Self { open: Arc::default(), patience: PATIENCE }
    }
}

/// Ends a look, however it ends.
struct Open(Looks, u64);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open().remove(&self.1);
    }
}

impl Looks {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, (PathBuf, Instant)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait.
    pub(super) fn begin(&self) -> Until {
        Until(Instant::now() + self.patience)
    }

    /// Does `work`, which looks at `path`, and gives what it found.
    ///
    /// # Errors
    /// What `work` says; or that nothing came back in time, or an earlier look has not come back.
    pub(super) fn look<T: Send + 'static>(
        &self,
        path: &Path,
        until: Until,
        work: impl FnOnce() -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let silent =
            || format!("{} does not answer; see whether the server that it is on is there", path.display());
        let now = Instant::now();
        let number = {
            let mut open = self.open();
            // One thread may wait for what is gone, and no more.
            if open.values().any(|(other, since)| other == path && now >= *since + self.patience) {
                return Err(silent());
            }
            let number = open.last_key_value().map_or(0, |(last, _)| last + 1);
            open.insert(number, (path.to_owned(), now));
            number
        };
        let ends = Open(self.clone(), number);
        let (reply, answer) = mpsc::sync_channel(1);
        let looking = std::thread::Builder::new().name("look".to_owned()).spawn(move || {
            let found = work();
            drop(ends);
            let _ = reply.send(found);
        });
        if let Err(error) = looking {
            return Err(format!("{} cannot be looked at: {error}", path.display()));
        }
        answer
            .recv_timeout(until.0.saturating_duration_since(Instant::now()))
            .unwrap_or_else(|_| Err(silent()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_answer_keeps_nobody_and_one_thread() {
        let looks = Looks { patience: Duration::ZERO, ..Looks::default() };
        let path = Path::new("/gone");
        let (answer, waits) = mpsc::channel::<()>();
        let said = looks.look(path, looks.begin(), move || {
            let _ = waits.recv();
            Ok(1)
        });
        assert!(said.unwrap_err().contains("/gone does not answer"));
        assert_eq!(looks.open().len(), 1);
        // Not asked again; another is.
        assert!(looks.look(path, looks.begin(), || -> Result<u8, String> { panic!("asked") }).is_err());
        let later = Until(Instant::now() + Duration::from_secs(60));
        assert_eq!(looks.look(Path::new("/there"), later, || Ok(2)), Ok(2));
        answer.send(()).unwrap();
        while !looks.open().is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(looks.look(path, later, || Ok(3)), Ok(3), "it is there again");
        assert_eq!(looks.look(path, later, || Err::<u8, _>("no".to_owned())), Err("no".to_owned()));
    }
}
