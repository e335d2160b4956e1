//! Requests that wait for an answer. The first answer to a message goes to those that brought it and wait, and nowhere
//! else, if one of them is there to take it; for a moment it is kept, so that who lost the line may ask again. Touches
//! nothing.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender};

use crate::contract::ids::MessageId;
use crate::controlplane::channels::written::{self, Outcome, Written};

/// How long an answer is kept that a request took.
const KEPT: Duration = Duration::from_secs(60);
/// Answers that are kept; the oldest goes first.
const MOST_KEPT: usize = 64;
/// Bytes of them, a few of the longest.
const MOST_KEPT_BYTES: usize = 1 << 20;

/// All that wait.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Those of which it is not known yet what they asked: closed once it is.
    unnamed: HashMap<u64, Receiver<Infallible>>,
    /// Who waits for an answer to a message.
    asked: HashMap<MessageId, Vec<(u64, Sender<Answer>)>>,
    kept: VecDeque<(Instant, MessageId, Arc<str>)>,
}

impl State {
    fn find_kept(&mut self, asked: &[MessageId], now: Instant) -> Option<Arc<str>> {
        while self.kept.front().is_some_and(|(at, ..)| now.duration_since(*at) >= KEPT) {
            self.kept.pop_front();
        }
        self.kept.iter().find(|(_, message, _)| asked.contains(message)).map(|(.., text)| text.clone())
    }
}

/// What a request is answered with.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: Arc<str>,
    /// Goes with the response; nothing does where nobody asks whether it was written.
    pub(super) written: Option<Written>,
}

/// One that waits.
#[derive(Debug)]
pub(super) struct Answers {
    all: Waiting,
    number: u64,
    asked: Vec<MessageId>,
    /// Closed once it is known what was asked.
    naming: Sender<Infallible>,
}

impl Waiting {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait, for what is said from now on.
    pub(super) fn watch(&self) -> Answers {
        let (naming, named) = smol::channel::bounded(1);
        let mut state = self.state();
        state.next += 1;
        let number = state.next;
        state.unnamed.insert(number, named);
        Answers { all: self.clone(), number, asked: Vec::new(), naming }
    }

    /// Hands an answer to whoever asked and waits. Says whether one of them was there to take it.
    pub(super) async fn answer(&self, cause: &MessageId, text: &str) -> bool {
        // An answer may be quicker than the names of what was asked.
        let unnamed: Vec<Receiver<Infallible>> = self.state().unnamed.values().cloned().collect();
        for named in unnamed {
            let _ = named.recv().await;
        }
        let Some(outcomes) = self.hand(cause, text, Instant::now()) else { return false };
        for outcome in outcomes {
            if outcome.is_written().await {
                return true;
            }
        }
        false
    }

    fn hand(&self, cause: &MessageId, text: &str, now: Instant) -> Option<Vec<Outcome>> {
        let mut state = self.state();
        // Only the first answer: what else is said goes its usual way.
        let waiting = state.asked.remove(cause)?;
        let text: Arc<str> = text.into();
        state.kept.push_back((now, cause.clone(), text.clone()));
        let bytes = |state: &State| state.kept.iter().map(|(.., text)| text.len()).sum::<usize>();
        while state.kept.len() > MOST_KEPT || bytes(&state) > MOST_KEPT_BYTES {
            state.kept.pop_front();
        }
        let hand = |(_, sender): (u64, Sender<Answer>)| {
            let (written, outcome) = written::pair();
            let _ = sender.try_send(Answer { text: text.clone(), written: Some(written) });
            outcome
        };
        Some(waiting.into_iter().map(hand).collect())
    }

    /// The answer to a message went elsewhere: who asks again does not get it too.
    pub(super) fn forget(&self, cause: &MessageId) {
        self.state().kept.retain(|(_, message, _)| message != cause);
    }
}

impl Answers {
    /// The first answer to one of these messages, also if it was given to an earlier request a moment ago.
    pub(super) async fn first_of(&mut self, asked: Vec<MessageId>) -> Option<Answer> {
        let (sender, answers) = smol::channel::bounded(asked.len().max(1));
        {
            let mut state = self.all.state();
            let kept = state.find_kept(&asked, Instant::now());
            if kept.is_none() {
                for message in &asked {
                    state.asked.entry(message.clone()).or_default().push((self.number, sender.clone()));
                }
                self.asked = asked;
            }
            state.unnamed.remove(&self.number);
            self.naming.close();
            if let Some(text) = kept {
                return Some(Answer { text, written: None });
            }
        }
        drop(sender);
        // None when nothing that was asked can be answered here any more.
        answers.recv().await.ok()
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        let mut state = self.all.state();
        state.unnamed.remove(&self.number);
        for message in &self.asked {
            if let Some(waiting) = state.asked.get_mut(message) {
                waiting.retain(|(number, _)| *number != self.number);
                if waiting.is_empty() {
                    state.asked.remove(message);
                }
            }
        }
        self.naming.close();
    }
}

#[cfg(test)]
mod tests {
    use smol::future::{poll_once, zip};

    use super::*;
    use crate::controlplane::channels::written::Slot;

    /// Takes an answer as a connection that writes it does.
    fn take(answer: Option<Answer>) -> Option<String> {
        let answer = answer?;
        let slot = Slot::default();
        slot.expect(answer.written);
        slot.flushed();
        Some(answer.text.to_string())
    }

    #[test]
    fn one_answer_goes_to_the_one_that_asked() {
        let (asked, other) = (MessageId::mint(), MessageId::mint());
        let waiting = Waiting::default();
        smol::block_on(async {
            assert!(!waiting.answer(&asked, "nobody").await);
            let mut answers = waiting.watch();
            let asking = async { take(answers.first_of(vec![asked.clone()]).await) };
            let answering = async {
                // Before it is known what was asked.
                assert!(!waiting.answer(&other, "not this").await);
                assert!(waiting.answer(&asked, "one").await);
                assert!(!waiting.answer(&asked, "two").await);
            };
            let (answer, ()) = zip(asking, answering).await;
            assert_eq!(answer.as_deref(), Some("one"));
            drop(answers);
            assert!(!waiting.answer(&asked, "late").await);
            assert!(waiting.state().asked.is_empty() && waiting.state().unnamed.is_empty());
        });
    }

    #[test]
    fn who_is_gone_takes_nothing_and_who_asks_again_does() {
        let asked = MessageId::mint();
        let waiting = Waiting::default();
        smol::block_on(async {
            let mut gone = waiting.watch();
            let asking = async {
                let answer = gone.first_of(vec![asked.clone()]).await.unwrap();
                // Its response is not written.
                drop(answer);
            };
            let (taken, ()) = zip(waiting.answer(&asked, "one"), asking).await;
            assert!(!taken);
            let again = waiting.watch().first_of(vec![asked.clone()]).await;
            assert_eq!(take(again).as_deref(), Some("one"), "kept for who asks again");
            // Once it went elsewhere there is nothing to get.
            waiting.forget(&asked);
            assert!(poll_once(waiting.watch().first_of(vec![asked.clone()])).await.is_none());
            // Two wait for the same, and one of them is gone.
            let (mut one, mut two) = (waiting.watch(), waiting.watch());
            let lost = async { drop(one.first_of(vec![asked.clone()]).await) };
            let asking = async { take(two.first_of(vec![asked.clone()]).await) };
            let (taken, (answer, ())) = zip(waiting.answer(&asked, "two"), zip(asking, lost)).await;
            assert_eq!((taken, answer.as_deref()), (true, Some("two")));
        });
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_time() {
        let waiting = Waiting::default();
        let began = Instant::now();
        let messages: Vec<MessageId> = (0..MOST_KEPT + 5).map(|_| MessageId::mint()).collect();
        for message in &messages {
            let mut answers = waiting.watch();
            assert!(smol::block_on(poll_once(answers.first_of(vec![message.clone()]))).is_none());
            waiting.hand(message, "x", began);
        }
        let found = |message: &MessageId, after: Duration| {
            waiting.state().find_kept(std::slice::from_ref(message), began + after).is_some()
        };
        assert_eq!(waiting.state().kept.len(), MOST_KEPT);
        assert!(!found(&messages[4], Duration::ZERO) && found(&messages[5], KEPT - Duration::from_secs(1)));
        assert!(!found(&messages[5], KEPT));
        assert!(waiting.state().kept.is_empty());
        for message in &messages[..5] {
            let mut answers = waiting.watch();
            assert!(smol::block_on(poll_once(answers.first_of(vec![message.clone()]))).is_none());
            waiting.hand(message, &"x".repeat(MOST_KEPT_BYTES / 4), began);
        }
        assert!(!found(&messages[0], Duration::ZERO) && found(&messages[1], Duration::ZERO));
    }
}
