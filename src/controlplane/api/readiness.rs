//! Whether sandboxes can be launched, as `/readyz` tells it: set by the start-up sequence, read by the API
//! and by whoever waits for the start to be over; and what else a person has to look at before all is well. Touches
//! nothing.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};

use smol::channel::Sender;

/// How far the start-up is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Under way; the text says with what.
    Starting {
        /// What is being done.
        doing: String,
    },
    /// Sandboxes can be launched.
    Ready {
        /// The back end's name: `gvisor` or `native`.
        back_end: String,
        /// One line that a person reads: version, platform, and that native is weaker.
        description: String,
        /// What this machine does not let the back end enforce, one sentence each.
        notes: Vec<String>,
    },
    /// Nothing can be launched until a person does something.
    Broken {
        /// What is wrong and the next step.
        reason: String,
    },
}

/// The stage, shared.
#[derive(Debug)]
pub struct Readiness {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    stage: Stage,
    waiting: Vec<Sender<Infallible>>,
    /// What keeps it from being ready though sandboxes can be launched, by who says so.
    held: BTreeMap<&'static str, String>,
}

impl Default for Readiness {
    fn default() -> Self {
        let stage = Stage::Starting { doing: "the control plane starts".to_owned() };
        Self { inner: Mutex::new(Inner { stage, waiting: Vec::new(), held: BTreeMap::new() }) }
    }
}

impl Readiness {
    /// Moves to another stage.
    pub fn set(&self, stage: Stage) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.stage = stage;
        // Dropping the senders wakes everybody who waits.
        inner.waiting.clear();
    }

    /// Says that somebody has to look at something, or with `None` that nobody has to any more. Launches and
    /// messages go on all the same.
    pub fn hold(&self, who: &'static str, reason: Option<String>) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => drop(inner.held.insert(who, reason)),
            None => drop(inner.held.remove(who)),
        }
    }

    /// What somebody has to look at.
    pub fn held(&self) -> Option<String> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let reasons: Vec<&str> = inner.held.values().map(String::as_str).collect();
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }

    /// The stage now.
    pub fn get(&self) -> Stage {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).stage.clone()
    }

    /// Waits until the start is over, and says how it ended.
    pub async fn settled(&self) -> Stage {
        loop {
            let change = {
                let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
                if !matches!(inner.stage, Stage::Starting { .. }) {
                    return inner.stage.clone();
                }
                let (sender, receiver) = smol::channel::bounded(1);
                inner.waiting.push(sender);
                receiver
            };
            let _ = change.recv().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controlplane::tasks;
    use std::sync::Arc;

    #[test]
    fn who_waits_is_woken_by_the_end_of_the_start() {
        let readiness = Arc::new(Readiness::default());
        let waiting = {
            let readiness = readiness.clone();
            tasks::spawn(async move { readiness.settled().await })
        };
        readiness.set(Stage::Starting { doing: "self-test".into() });
        let broken = Stage::Broken { reason: "no runsc".into() };
        readiness.set(broken.clone());
        assert_eq!(tasks::block_on(waiting), broken);
        assert_eq!(readiness.get(), broken);
    }

    #[test]
    fn what_is_held_stays_held_until_its_holder_lets_go() {
        let readiness = Readiness::default();
        assert_eq!(readiness.held(), None);
        readiness.hold("a", Some("one".into()));
        readiness.hold("b", Some("two".into()));
        readiness.hold("a", Some("three".into()));
        assert_eq!(readiness.held().as_deref(), Some("three; two"));
        readiness.hold("a", None);
        readiness.hold("c", None);
        assert_eq!(readiness.held().as_deref(), Some("two"));
    }
}
