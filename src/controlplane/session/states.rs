//! Tells whoever watches all sessions which of them may be in another state than before. Only names are told, each
//! once however often it changed, so that somebody slow sees what is and never a queue of what was.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smol::channel::{Receiver, Sender};

use crate::contract::ids::SessionId;

/// More names than these wait for nobody: who is that far behind looks at all sessions.
const WAITING: usize = 1024;

/// Which sessions may have changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// These.
    Some(BTreeSet<SessionId>),
    /// Any of them.
    Any,
}

/// Everybody who watches.
#[derive(Debug, Default)]
pub(super) struct States(Mutex<Vec<Watcher>>);

#[derive(Debug)]
struct Watcher {
    rope: Sender<()>,
    changed: Arc<Mutex<Changed>>,
}

/// The watcher's end.
#[derive(Debug)]
pub struct StateWatch {
    rung: Receiver<()>,
    changed: Arc<Mutex<Changed>>,
}

impl States {
    /// Watches from now on. The first that is told is that any may have changed.
    pub(super) fn watch(&self) -> StateWatch {
        let (rope, rung) = smol::channel::bounded(1);
        let changed = Arc::new(Mutex::new(Changed::Any));
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| !watcher.rope.is_closed());
        watchers.push(Watcher { rope, changed: Arc::clone(&changed) });
        StateWatch { rung, changed }
    }

    /// To be called after the change.
    pub(super) fn tell(&self, session: &SessionId) {
        for watcher in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            lock(&watcher.changed).add(session);
            let _ = watcher.rope.try_send(());
        }
    }
}

impl Changed {
    fn add(&mut self, session: &SessionId) {
        if let Self::Some(names) = self {
            names.insert(session.clone());
            if names.len() > WAITING {
                *self = Self::Any;
            }
        }
    }
}

impl StateWatch {
    /// Rings when something changed.
    pub fn bell(&self) -> &Receiver<()> {
        &self.rung
    }

    /// What may have changed since this was last asked.
    pub fn take(&self) -> Changed {
        std::mem::replace(&mut *lock(&self.changed), Changed::Some(BTreeSet::new()))
    }
}

fn lock(changed: &Mutex<Changed>) -> MutexGuard<'_, Changed> {
    changed.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_once_and_too_many_are_all() {
        let states = States::default();
        let watch = states.watch();
        assert_eq!(watch.take(), Changed::Any);
        let (one, other) = (SessionId::mint(), SessionId::mint());
        for session in [&one, &other, &one] {
            states.tell(session);
        }
        assert!(watch.bell().try_recv().is_ok() && watch.bell().try_recv().is_err());
        assert_eq!(watch.take(), Changed::Some(BTreeSet::from([one, other])));
        assert_eq!(watch.take(), Changed::Some(BTreeSet::new()));
        for _ in 0..=WAITING {
            states.tell(&SessionId::mint());
        }
        assert_eq!(watch.take(), Changed::Any);
        drop(watch);
        let _next = states.watch();
        assert_eq!(states.0.lock().unwrap().len(), 1);
    }
}
