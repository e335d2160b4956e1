//! Requests that wait for an answer. The first answer to a message that one of them brought goes to it, and nowhere else.
//! Touches nothing.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use smol::channel::{Receiver, Sender};

use crate::contract::ids::MessageId;

/// All that wait.
#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<Vec<Weak<One>>>);

/// One that waits.
#[derive(Debug)]
pub(super) struct Answers {
    one: Arc<One>,
    changed: Receiver<()>,
    /// Closed once it is known what was asked.
    naming: Sender<Infallible>,
}

#[derive(Debug)]
struct One {
    state: Mutex<State>,
    changed: Sender<()>,
    named: Receiver<Infallible>,
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<MessageId>,
    answer: Option<String>,
    is_over: bool,
}

impl One {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Begins to wait, for what is said from now on.
    pub(super) fn watch(&self) -> Answers {
        let (changed, receiver) = smol::channel::bounded(1);
        let (naming, named) = smol::channel::bounded(1);
        let one = Arc::new(One { state: Mutex::default(), changed, named });
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&one));
        Answers { one, changed: receiver, naming }
    }

    /// Hands an answer to whoever asked. Says whether somebody takes it.
    pub(super) async fn answer(&self, cause: &MessageId, text: &str) -> bool {
        let all: Vec<_> = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        for one in all {
            // An answer may be quicker than the names of what was asked.
            let _ = one.named.recv().await;
            let mut state = one.state();
            if !state.is_over && state.answer.is_none() && state.asked.contains(cause) {
                state.answer = Some(text.to_owned());
                let _ = one.changed.try_send(());
                return true;
            }
        }
        false
    }
}

impl Answers {
    /// The first answer to one of these messages.
    pub(super) async fn first_of(&self, asked: &[MessageId]) -> Option<String> {
        self.one.state().asked = asked.to_vec();
        self.naming.close();
        loop {
            if let Some(answer) = self.one.state().answer.take() {
                return Some(answer);
            }
            self.changed.recv().await.ok()?;
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.one.state().is_over = true;
        self.naming.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_answer_goes_to_the_one_that_asked() {
        let (asked, other) = (MessageId::mint(), MessageId::mint());
        let waiting = Waiting::default();
        smol::block_on(async {
            assert!(!waiting.answer(&asked, "nobody").await);
            let answers = waiting.watch();
            let answering = async {
                // Before it is known what was asked.
                assert!(!waiting.answer(&other, "not this").await);
                assert!(waiting.answer(&asked, "one").await);
                assert!(!waiting.answer(&asked, "two").await);
            };
            let names = [asked.clone()];
            let (answer, ()) = smol::future::zip(answers.first_of(&names), answering).await;
            assert_eq!(answer.as_deref(), Some("one"));
            drop(answers);
            assert!(!waiting.answer(&asked, "late").await);
        });
    }
}
