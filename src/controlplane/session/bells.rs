//! Tells whoever watches a conversation that its history grew. A bell carries nothing: the watcher reads the
//! ledger from where it stopped, so a missed or doubled ring changes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use smol::channel::{Receiver, Sender};

use crate::contract::ids::SessionId;

/// All watched conversations.
#[derive(Debug, Default)]
pub(super) struct Bells {
    watched: Mutex<HashMap<SessionId, Vec<Sender<()>>>>,
}

impl Bells {
    /// A receiver that gets a token after each change; several changes may share one.
    pub(super) fn watch(&self, session: &SessionId) -> Receiver<()> {
        let (sender, receiver) = smol::channel::bounded(1);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // Watchers leave by dropping their end; the newcomer sweeps up after them.
        watched.retain(|_, senders| {
            senders.retain(|sender| !sender.is_closed());
            !senders.is_empty()
        });
        watched.entry(session.clone()).or_default().push(sender);
        receiver
    }

    /// Rings for every watcher of this conversation.
    pub(super) fn ring(&self, session: &SessionId) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(senders) = watched.get_mut(session) {
            senders.retain(|sender| {
                // A full channel already holds a token that was not taken.
                let _ = sender.try_send(());
                !sender.is_closed()
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_kept_until_it_is_taken_and_never_piles_up() {
        let bells = Bells::default();
        let (session, other) = (SessionId::mint(), SessionId::mint());
        let receiver = bells.watch(&session);
        bells.ring(&other);
        assert!(receiver.try_recv().is_err());
        bells.ring(&session);
        bells.ring(&session);
        assert!(receiver.try_recv().is_ok());
        assert!(receiver.try_recv().is_err());
        drop(receiver);
        bells.ring(&session);
        let _second = bells.watch(&other);
        assert_eq!(bells.watched.lock().unwrap().len(), 1);
    }
}
