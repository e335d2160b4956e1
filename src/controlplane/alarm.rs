//! Word that something may be due earlier than whoever waits for it knows. Whoever writes a due instant down says it
//! here after the commit; who hears it looks for it where it is kept. Touches nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use smol::channel::Receiver;

use super::bell::Bell;
use crate::contract::time::Millis;

/// An alarm. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Alarm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The instant that is waited for; the end of time while nobody waits, so that everything is earlier.
    waited_for: AtomicI64,
    bell: Bell,
}

impl Default for Alarm {
    fn default() -> Self {
        Self(Arc::new(Inner { waited_for: AtomicI64::new(i64::MAX), bell: Bell::default() }))
    }
}

impl Alarm {
    /// Something is due at this instant.
    pub fn at(&self, due: Millis) {
        if due.0 < self.0.waited_for.load(Ordering::SeqCst) {
            self.0.bell.ring();
        }
    }

    /// Something may be due at any instant.
    pub fn ring(&self) {
        self.0.bell.ring();
    }

    /// Hears it from now on.
    pub fn watch(&self) -> Receiver<()> {
        self.0.bell.watch()
    }

    /// Whoever waits looks for what is due: everything that is said meanwhile is heard afterwards.
    pub fn look(&self) {
        self.0.waited_for.store(i64::MAX, Ordering::SeqCst);
    }

    /// They found that this instant is the next.
    pub fn wait_for(&self, next: Option<Millis>) {
        self.0.waited_for.store(next.map_or(i64::MAX, |next| next.0), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_earlier_rings_and_nothing_is_missed_while_one_looks() {
        let alarm = Alarm::default();
        let bell = alarm.watch();
        alarm.wait_for(Some(Millis(10)));
        for later in [10, 11, i64::MAX] {
            alarm.at(Millis(later));
            assert!(bell.try_recv().is_err(), "{later}");
        }
        alarm.at(Millis(9));
        assert!(bell.try_recv().is_ok());
        alarm.look();
        alarm.at(Millis(11));
        assert!(bell.try_recv().is_ok(), "it was not known whether it would be found");
        alarm.wait_for(None);
        alarm.at(Millis(11));
        assert!(bell.try_recv().is_ok(), "nothing is waited for");
        alarm.wait_for(Some(Millis(10)));
        alarm.ring();
        assert!(bell.try_recv().is_ok());
    }
}
