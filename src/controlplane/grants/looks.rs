//! Looks at what is not ours, which may never come back: a directory of a server that is gone. Each has a thread of its
//! own and is waited for only so long; what does not answer is not asked again before it has. Touches nothing itself.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// How long all looks of one launch or request are waited for together.
const PATIENCE: Duration = Duration::from_secs(5);
/// Looks, and so threads, under way at once.
const MOST: usize = 32;

/// What a look finds, or says.
type Found<T> = Result<T, String>;

/// The looks that are under way. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Looks<T> {
    all: Arc<All<T>>,
    patience: Duration,
}

#[derive(Debug)]
struct All<T> {
    open: Mutex<BTreeMap<PathBuf, Look<T>>>,
    /// Told when one ends.
    ended: Condvar,
}

/// One look, and whoever waits for it.
#[derive(Debug)]
struct Look<T> {
    since: Instant,
    waiting: Vec<mpsc::SyncSender<Found<T>>>,
}

/// How long somebody still waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Until(Instant);

impl Until {
    fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// A look that was asked for.
#[derive(Debug)]
#[must_use]
pub(super) struct Asked<T>(Result<(PathBuf, mpsc::Receiver<Found<T>>), String>);

impl<T> Asked<T> {
    /// Waits for what it found.
    ///
    /// # Errors
    /// What the look says; or that nothing came back in time, or that it was not begun and why.
    pub(super) fn answer(self, until: Until) -> Found<T> {
        let (path, answer) = self.0?;
        answer.recv_timeout(until.left()).unwrap_or_else(|_| Err(silent(&path)))
    }
}

fn silent(path: &Path) -> String {
    format!("{} does not answer; see whether the server that it is on is there", path.display())
}

impl<T> Default for Looks<T> {
    fn default() -> Self {
        let all = All { open: Mutex::default(), ended: Condvar::new() };
        Self { all: Arc::new(all), patience: PATIENCE }
    }
}

#[cfg(test)]
impl<T> Looks<T> {
    /// Looks that are waited for so long.
    pub(super) fn waiting(patience: Duration) -> Self {
        Self { patience, ..Self::default() }
    }
}

impl<T> All<T> {
    fn open(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Look<T>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a look, however it ends.
struct Ends<T>(Arc<All<T>>, Option<PathBuf>);

impl<T> Ends<T> {
    /// Gives who waits. Who comes later has a look of its own, for all may be different by then.
    fn end(&mut self) -> Vec<mpsc::SyncSender<Found<T>>> {
        let ended = self.1.take().and_then(|path| self.0.open().remove(&path));
        self.0.ended.notify_all();
        ended.map(|look| look.waiting).unwrap_or_default()
    }
}

impl<T> Drop for Ends<T> {
    fn drop(&mut self) {
        self.end();
    }
}

impl<T: Clone + Send + 'static> Looks<T> {
    /// Begins to wait.
    pub(super) fn begin(&self) -> Until {
        Until(Instant::now() + self.patience)
    }

    /// Begins `work`, which looks at `path`; or joins the look at it that is under way. Waits only while there are too
    /// many of them, and no longer than `until`.
    pub(super) fn start(
        &self,
        path: &Path,
        until: Until,
        work: impl FnOnce() -> Found<T> + Send + 'static,
    ) -> Asked<T> {
        let mut open = self.all.open();
        loop {
            let now = Instant::now();
            let is_silent = |look: &Look<T>| now >= look.since + self.patience;
            if let Some(look) = open.get_mut(path) {
                // One thread may wait for what is gone, and no more.
                if is_silent(look) {
                    return Asked(Err(silent(path)));
                }
                let (reply, answer) = mpsc::sync_channel(1);
                look.waiting.push(reply);
                return Asked(Ok((path.to_owned(), answer)));
            }
            let oldest = open.iter().min_by_key(|(_, look)| look.since);
            let Some((oldest, _)) = oldest.filter(|_| open.len() >= MOST) else { break };
            if open.values().all(is_silent) || until.left().is_zero() {
                return Asked(Err(format!(
                    "{} is not looked at, because {MOST} directories do not answer; {} has not for the longest time, \
                     see whether the server that it is on is there",
                    path.display(),
                    oldest.display()
                )));
            }
            let waited = self.all.ended.wait_timeout(open, until.left());
            open = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let (reply, answer) = mpsc::sync_channel(1);
        open.insert(path.to_owned(), Look { since: Instant::now(), waiting: vec![reply] });
        drop(open);
        let mut ends = Ends(self.all.clone(), Some(path.to_owned()));
        let looking = std::thread::Builder::new().name("look".to_owned()).spawn(move || {
            let found = work();
            // Nobody is answered by a look that others can still join.
            for reply in ends.end() {
                let _ = reply.try_send(found.clone());
            }
        });
        match looking {
            Ok(_) => Asked(Ok((path.to_owned(), answer))),
            Err(error) => Asked(Err(format!("{} cannot be looked at: {error}", path.display()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATER: Duration = Duration::from_secs(60);

    fn later() -> Until {
        Until(Instant::now() + LATER)
    }

    fn impatient() -> Looks<u8> {
        Looks::waiting(Duration::ZERO)
    }

    /// A look that ends when the sender goes.
    fn held(looks: &Looks<u8>, path: &str, found: u8) -> (mpsc::Sender<()>, Asked<u8>) {
        let (answer, waits) = mpsc::channel::<()>();
        let asked = looks.start(Path::new(path), looks.begin(), move || {
            let _ = waits.recv();
            Ok(found)
        });
        (answer, asked)
    }

    fn all_ended(looks: &Looks<u8>) {
        while !looks.all.open().is_empty() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_does_not_answer_keeps_nobody_and_one_thread() {
        let looks = impatient();
        let path = Path::new("/gone");
        let (answer, said) = held(&looks, "/gone", 1);
        assert!(said.answer(looks.begin()).unwrap_err().contains("/gone does not answer"));
        assert_eq!(looks.all.open().len(), 1);
        // Not asked again; another is.
        assert!(looks.start(path, later(), || panic!("asked")).answer(later()).is_err());
        assert_eq!(looks.start(Path::new("/there"), later(), || Ok(2)).answer(later()), Ok(2));
        drop(answer);
        all_ended(&looks);
        assert_eq!(looks.start(path, later(), || Ok(3)).answer(later()), Ok(3), "it is there again");
        all_ended(&looks);
        let said = looks.start(path, later(), || Err("no".to_owned())).answer(later());
        assert_eq!(said, Err("no".to_owned()));
    }

    #[test]
    fn who_asks_for_the_same_waits_for_the_same_look() {
        let looks = Looks::<u8>::waiting(LATER);
        let (answer, first) = held(&looks, "/slow", 1);
        let joined = looks.start(Path::new("/slow"), later(), || panic!("asked"));
        assert_eq!(looks.all.open().len(), 1);
        drop(answer);
        assert_eq!((first.answer(later()), joined.answer(later())), (Ok(1), Ok(1)));
    }

    #[test]
    fn too_many_that_do_not_answer_let_no_more_be_begun_and_are_named() {
        let looks = impatient();
        let mut all: Vec<_> = (0..MOST).map(|number| held(&looks, &format!("/{number}"), 0)).collect();
        let more = || looks.start(Path::new("/more"), later(), || Ok(1));
        let said = more().answer(later()).unwrap_err();
        assert!(said.contains("/more is not looked at") && said.contains("; /0 has not"), "{said}");
        assert_eq!(looks.all.open().len(), MOST);
        drop(all.remove(0));
        while looks.all.open().len() == MOST {
            std::thread::yield_now();
        }
        assert_eq!(more().answer(later()), Ok(1));
    }

    #[test]
    fn who_finds_all_places_taken_has_the_next_that_is_free() {
        let looks = Looks::<u8>::waiting(LATER);
        let mut all: Vec<_> = (0..MOST).map(|number| held(&looks, &format!("/{number}"), 0)).collect();
        let said = looks.start(Path::new("/more"), Until(Instant::now()), || Ok(1)).answer(later());
        assert!(said.unwrap_err().contains("/more is not looked at"));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| looks.start(Path::new("/more"), later(), || Ok(1)).answer(later()));
            drop(all.pop());
            assert_eq!(waits.join().unwrap(), Ok(1));
        });
    }
}
