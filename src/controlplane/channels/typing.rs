//! Shows people that an agent is at work on what they said, where their platform can show that: for the chat and thread
//! that the running turn answers, now and then while it runs. It is a courtesy: what cannot be shown at once is not shown,
//! and no message waits for it. Touches platforms through their channels.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender};
use smol::lock::Semaphore;

use super::descriptor::{self, Ability};
use super::supervisor::Channels;
use crate::controlplane::store::sessions::Place;
use crate::controlplane::tasks;

/// It is shown in one place no more often than this; platforms show it for about five seconds.
const EVERY: Duration = Duration::from_millis(4_500);
/// Shown at once, in all places; more are left out.
const AT_ONCE: usize = 8;
/// Places that wait to be shown; more are left out.
const WAITING: usize = 64;
/// Places that are remembered; with more it is shown nowhere for a while.
const PLACES: usize = 10_000;

/// Where agents are at work. Clones are handles to the same.
#[derive(Clone, Debug)]
pub struct Typing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shown: Mutex<HashMap<Place, Instant>>,
    waiting: (Sender<Place>, Receiver<Place>),
}

impl Default for Typing {
    fn default() -> Self {
        Self(Arc::new(Inner { shown: Mutex::default(), waiting: smol::channel::bounded(WAITING) }))
    }
}

impl Typing {
    /// An agent is at work on what was said there. How often this is said changes nothing.
    pub fn show(&self, place: &Place) {
        let shows = descriptor::find(&place.channel).is_some_and(|known| known.can(Ability::Typing));
        if shows && self.is_due(place, Instant::now()) {
            let _ = self.0.waiting.0.try_send(place.clone());
        }
    }

    fn is_due(&self, place: &Place, now: Instant) -> bool {
        let mut shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.get(place).is_some_and(|at| now.duration_since(*at) < EVERY) {
            return false;
        }
        if shown.len() >= PLACES {
            shown.retain(|_, at| now.duration_since(*at) < EVERY);
            if shown.len() >= PLACES {
                return false;
            }
        }
        shown.insert(place.clone(), now);
        true
    }

    /// Shows it, for ever.
    pub async fn run(self, channels: Channels) {
        let free = Arc::new(Semaphore::new(AT_ONCE));
        while let Ok(place) = self.0.waiting.1.recv().await {
            let Some(turn) = free.try_acquire_arc() else { continue };
            let channels = channels.clone();
            tasks::spawn(async move {
                channels.typing(&place).await;
                drop(turn);
            })
            .detach();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(channel: &str, chat: &str) -> Place {
        Place { channel: channel.into(), instance: String::new(), chat: chat.into(), thread: None }
    }

    #[test]
    fn it_is_shown_now_and_then_where_it_can_be() {
        let typing = Typing::default();
        let now = Instant::now();
        let (one, other) = (place("telegram", "1"), place("telegram", "2"));
        assert!(typing.is_due(&one, now) && !typing.is_due(&one, now + EVERY / 2));
        assert!(typing.is_due(&other, now + EVERY / 2));
        assert!(typing.is_due(&one, now + EVERY));
        for (channel, waits) in [("api", 0), ("webhook", 0), ("pigeon", 0), ("telegram", 1)] {
            for _ in 0..3 {
                typing.show(&place(channel, "3"));
            }
            assert_eq!(typing.0.waiting.0.len(), waits, "{channel}");
        }
        for chat in 0..WAITING + 10 {
            typing.show(&place("telegram", &format!("9{chat}")));
        }
        assert_eq!(typing.0.waiting.0.len(), WAITING, "the rest is left out");
    }
}
