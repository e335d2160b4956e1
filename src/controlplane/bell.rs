//! Rings for everybody who watches, whatever each of them waits for. Nothing is said but that something came: who
//! wakes looks for it where it is kept. Touches nothing.

use std::sync::{Mutex, PoisonError};

use smol::channel::{Receiver, Sender};

/// A bell.
#[derive(Debug, Default)]
pub struct Bell(Mutex<Vec<Sender<()>>>);

impl Bell {
    /// Watches from now on. One ring is kept until it is taken, and more than one are one.
    pub fn watch(&self) -> Receiver<()> {
        let (sender, receiver) = smol::channel::bounded(1);
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Watchers leave by dropping their end; the newcomer sweeps up after them.
        watchers.retain(|watcher| !watcher.is_closed());
        watchers.push(sender);
        receiver
    }

    /// Rings it.
    pub fn ring(&self) {
        for watcher in self.0.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = watcher.try_send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_kept_until_it_is_taken_and_never_piles_up() {
        let bell = Bell::default();
        bell.ring();
        let (one, other) = (bell.watch(), bell.watch());
        assert!(one.try_recv().is_err(), "what was before is not told");
        bell.ring();
        bell.ring();
        assert!(one.try_recv().is_ok() && one.try_recv().is_err());
        drop(one);
        let _third = bell.watch();
        assert_eq!(bell.0.lock().unwrap().len(), 2);
        assert!(other.try_recv().is_ok());
    }
}
