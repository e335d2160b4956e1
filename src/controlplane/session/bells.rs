//! Tells whoever watches a conversation that its history grew, and what came, so that the usual watcher, who has
//! seen all that came before, need not ask the ledger. What is told here is a convenience and never the only copy:
//! a watcher who missed something reads the ledger from where it stopped.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smol::channel::{Receiver, Sender};

use crate::contract::ids::SessionId;
use crate::controlplane::bell::Bell as Any;
use crate::controlplane::store::history::{Entry, News};

/// Changes that wait for one watcher, and bytes of text in them. One that is slower reads the ledger.
const WAITING: usize = 64;
const WAITING_BYTES: usize = 128 << 10;

/// All watched conversations.
#[derive(Debug, Default)]
pub(super) struct Bells {
    watched: Mutex<HashMap<SessionId, Vec<Bell>>>,
    /// Rings with each of them.
    any: Any,
    /// Rings when a conversation may have begun.
    births: Any,
}

/// The ringer's end.
#[derive(Debug)]
struct Bell {
    rope: Sender<()>,
    waiting: Arc<Mutex<Waiting>>,
}

/// The watcher's end.
#[derive(Debug)]
pub struct Watch {
    rung: Receiver<()>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    news: VecDeque<Arc<News>>,
    /// Bytes of text in them.
    bytes: usize,
    /// Something came that is not in `news`.
    missed: bool,
}

impl Bells {
    /// Watches a conversation from now on.
    pub(super) fn watch(&self, session: &SessionId) -> Watch {
        let (rope, rung) = smol::channel::bounded(1);
        let waiting = Arc::default();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Watchers leave by dropping their end; the newcomer sweeps up after them.
        watched.retain(|_, bells| {
            bells.retain(|bell| !bell.rope.is_closed());
            !bells.is_empty()
        });
        let bell = Bell { rope, waiting: Arc::clone(&waiting) };
        watched.entry(session.clone()).or_default().push(bell);
        Watch { rung, waiting }
    }

    /// Rings when the history of any of them grew.
    pub(super) fn watch_all(&self) -> Receiver<()> {
        self.any.watch()
    }

    /// Rings when a conversation may have begun that was not there before.
    pub(super) fn watch_births(&self) -> Receiver<()> {
        self.births.watch()
    }

    /// A conversation may have begun. To be called after the commit.
    pub(super) fn ring_births(&self) {
        self.births.ring();
    }

    /// Whether anybody would hear of this conversation now.
    pub(super) fn is_watched(&self, session: &SessionId) -> bool {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).contains_key(session)
    }

    /// Tells every watcher of this conversation that its history grew; `None` is for what only the ledger knows.
    /// To be called after the commit.
    pub(super) fn ring(&self, session: &SessionId, news: Option<News>) {
        self.any.ring();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bells) = watched.get_mut(session) else { return };
        let news = news.map(Arc::new);
        bells.retain(|bell| {
            lock(&bell.waiting).add(news.clone());
            // A full channel already holds a token that was not taken.
            let _ = bell.rope.try_send(());
            !bell.rope.is_closed()
        });
        if bells.is_empty() {
            watched.remove(session);
        }
    }
}

impl Waiting {
    fn add(&mut self, news: Option<Arc<News>>) {
        // Once something is missed, all that waits is read from the ledger anyway.
        let has_room = !self.missed && self.news.len() < WAITING;
        match news.filter(|news| has_room && self.bytes + news.bytes() <= WAITING_BYTES) {
            Some(news) => {
                self.bytes += news.bytes();
                self.news.push_back(news);
            }
            None => *self = Self { missed: true, ..Self::default() },
        }
    }
}

impl Watch {
    /// Returns when the history grew since it last returned; several changes may share one return. `Err` when
    /// nobody rings any more.
    ///
    /// # Errors
    /// As above.
    pub async fn rung(&self) -> Result<(), smol::channel::RecvError> {
        self.rung.recv().await
    }

    /// What came after `cursor`, in order, if all of it is here; else it has to be read from the ledger.
    pub fn since(&self, cursor: u64) -> Option<Vec<Entry>> {
        let Waiting { mut news, missed, .. } = std::mem::take(&mut *lock(&self.waiting));
        if missed {
            return None;
        }
        // Two commits may be told of in another order than theirs.
        news.make_contiguous().sort_by_key(|news| news.after);
        let (mut last, mut entries) = (cursor, Vec::new());
        for news in news {
            if news.after > last {
                return None;
            }
            entries.extend(news.entries.iter().filter(|entry| entry.position > last).cloned());
            last = entries.last().map_or(last, |entry| entry.position);
        }
        Some(entries)
    }
}

fn lock(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ids::MessageId;
    use crate::contract::time::Millis;
    use crate::controlplane::store::history::Direction;

    /// Entries at these positions, after another.
    fn news(after: u64, positions: &[u64]) -> Option<News> {
        let entry = |position: &u64| Entry {
            position: *position,
            direction: Direction::Out,
            message: MessageId::mint(),
            in_reply_to: None,
            sender_id: None,
            sender_name: None,
            text: Some("x".to_owned()),
            at: Millis(0),
            state: None,
            reason: None,
            from_session: None,
            is_unreadable: false,
        };
        Some(News { after, entries: positions.iter().map(entry).collect() })
    }

    fn positions(watch: &Watch, cursor: u64) -> Option<Vec<u64>> {
        Some(watch.since(cursor)?.iter().map(|entry| entry.position).collect())
    }

    #[test]
    fn a_ring_is_kept_until_it_is_taken_and_never_piles_up() {
        let bells = Bells::default();
        let (session, other) = (SessionId::mint(), SessionId::mint());
        let watch = bells.watch(&session);
        bells.ring(&other, None);
        assert!(watch.rung.try_recv().is_err());
        bells.ring(&session, None);
        bells.ring(&session, None);
        assert!(watch.rung.try_recv().is_ok());
        assert!(watch.rung.try_recv().is_err());
        drop(watch);
        bells.ring(&session, None);
        assert!(!bells.is_watched(&session));
        let _second = bells.watch(&other);
        assert_eq!(bells.watched.lock().unwrap().len(), 1);
    }

    #[test]
    fn what_follows_without_a_gap_is_taken_and_all_else_is_read() {
        let bells = Bells::default();
        let session = SessionId::mint();
        let watch = bells.watch(&session);
        bells.ring(&session, news(3, &[5]));
        bells.ring(&session, news(5, &[8, 9]));
        assert_eq!(positions(&watch, 3), Some(vec![5, 8, 9]));
        assert_eq!(positions(&watch, 9), Some(vec![]));
        // Told of in another order, and partly seen already.
        bells.ring(&session, news(12, &[13]));
        bells.ring(&session, news(9, &[11, 12]));
        assert_eq!(positions(&watch, 11), Some(vec![12, 13]));
        // One that this watcher was not told of.
        bells.ring(&session, news(14, &[15]));
        assert_eq!(positions(&watch, 13), None);
        // What only the ledger knows, or too long a text.
        bells.ring(&session, news(15, &[16]));
        bells.ring(&session, None);
        assert_eq!(positions(&watch, 15), None);
        let mut long = news(16, &[17]).unwrap();
        long.entries[0].text = Some("x".repeat(WAITING_BYTES + 1));
        bells.ring(&session, Some(long));
        assert_eq!(positions(&watch, 16), None);
        assert_eq!(positions(&watch, 17), Some(vec![]));
        // All of it together is bounded too.
        for position in 18..28 {
            let mut half = news(position - 1, &[position]).unwrap();
            half.entries[0].text = Some("x".repeat(WAITING_BYTES / 2));
            bells.ring(&session, Some(half));
            assert!(lock(&watch.waiting).bytes <= WAITING_BYTES);
        }
        assert_eq!(positions(&watch, 17), None);
    }

    #[test]
    fn a_slow_watcher_holds_a_bounded_number() {
        let bells = Bells::default();
        let session = SessionId::mint();
        let watch = bells.watch(&session);
        for position in 1..=10 * WAITING as u64 {
            bells.ring(&session, news(position - 1, &[position]));
        }
        assert!(lock(&watch.waiting).news.len() <= WAITING);
        assert_eq!(positions(&watch, 0), None);
    }
}
