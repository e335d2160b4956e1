//! The cap on running sandboxes. Who asks when all places are taken waits in line, and as many of the longest
//! idle sandboxes as there are waiters are asked to leave. One in a turn is never asked: it is idle again soon
//! enough.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::contract::ids::SessionId;

/// What a place's holder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupation {
    /// Starting, or with a message in flight.
    Busy,
    /// Nothing in flight since then.
    Idle(Instant),
    /// Idle, and asked to leave.
    Asked,
}

/// Who should be told what after a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// The first in line, because a place is free.
    pub(super) next: Option<SessionId>,
    /// Idle holders whose place is needed.
    pub(super) leave: Vec<SessionId>,
}

#[derive(Debug, Default)]
struct Places {
    taken: HashMap<SessionId, Occupation>,
    line: VecDeque<SessionId>,
}

/// All places.
#[derive(Debug)]
pub(super) struct Capacity {
    most: usize,
    places: Mutex<Places>,
}

impl Capacity {
    /// `most` sandboxes at once; at least one.
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), places: Mutex::default() }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a place; whether it was given. The same session may ask again: it keeps its place in the line.
    pub(super) fn ask(&self, session: &SessionId) -> (bool, Words) {
        let mut places = self.places();
        let held = places.taken.contains_key(session);
        let ahead = places.line.iter().position(|waiting| waiting == session).unwrap_or(places.line.len());
        let given = held || places.taken.len() + ahead < self.most;
        if given {
            places.line.retain(|waiting| waiting != session);
            places.taken.entry(session.clone()).or_insert(Occupation::Busy);
        } else if ahead == places.line.len() {
            places.line.push_back(session.clone());
        }
        (given, self.words(&mut places))
    }

    /// Says what the holder is doing now.
    pub(super) fn say(&self, session: &SessionId, occupation: Occupation) -> Words {
        let mut places = self.places();
        if let Some(held) = places.taken.get_mut(session) {
            *held = occupation;
        }
        self.words(&mut places)
    }

    /// Gives the place back, or leaves the line.
    pub(super) fn leave(&self, session: &SessionId) -> Words {
        let mut places = self.places();
        places.taken.remove(session);
        places.line.retain(|waiting| waiting != session);
        self.words(&mut places)
    }

    /// Whether this session has a place.
    pub(super) fn holds(&self, session: &SessionId) -> bool {
        self.places().taken.contains_key(session)
    }

    /// Whether nobody has a place.
    pub(super) fn is_empty(&self) -> bool {
        self.places().taken.is_empty()
    }

    /// Holders that are busy.
    pub(super) fn busy(&self) -> usize {
        self.places().taken.values().filter(|occupation| **occupation == Occupation::Busy).count()
    }

    fn words(&self, places: &mut Places) -> Words {
        let free = self.most.saturating_sub(places.taken.len());
        let next = places.line.front().filter(|_| free > 0).cloned();
        let asked = places.taken.values().filter(|occupation| **occupation == Occupation::Asked).count();
        let wanted = places.line.len().saturating_sub(free + asked);
        let mut idle: Vec<(Instant, SessionId)> = places
            .taken
            .iter()
            .filter_map(|(session, occupation)| match occupation {
                Occupation::Idle(since) => Some((*since, session.clone())),
                Occupation::Busy | Occupation::Asked => None,
            })
            .collect();
        idle.sort();
        let leave: Vec<SessionId> = idle.into_iter().take(wanted).map(|(_, session)| session).collect();
        for session in &leave {
            places.taken.insert(session.clone(), Occupation::Asked);
        }
        Words { next, leave }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn leaving(words: &Words) -> Vec<&SessionId> {
        words.leave.iter().collect()
    }

    #[test]
    fn the_longest_idle_leave_and_the_first_in_line_follow() {
        let capacity = Capacity::new(2);
        let ids: Vec<SessionId> = (0..4).map(|_| SessionId::mint()).collect();
        let [a, b, c, d] = [&ids[0], &ids[1], &ids[2], &ids[3]];
        assert!(capacity.ask(a).0 && capacity.ask(b).0 && capacity.ask(b).0);
        assert_eq!(capacity.ask(c), (false, Words::default()), "both are busy");
        let now = Instant::now();
        assert_eq!(leaving(&capacity.say(b, Occupation::Idle(now))), [b], "somebody waits");
        assert_eq!(capacity.say(a, Occupation::Idle(now - Duration::from_secs(1))), Words::default());
        let (given, words) = capacity.ask(d);
        assert!(!given);
        assert_eq!(leaving(&words), [a], "two wait and two are idle");
        assert_eq!(capacity.leave(b).next.as_ref(), Some(c));
        assert!(!capacity.ask(d).0, "c is ahead");
        let (given, words) = capacity.ask(c);
        assert!(given && words.next.is_none());
        assert_eq!(capacity.leave(a).next.as_ref(), Some(d));
        assert!(capacity.ask(d).0);
        assert!(capacity.holds(c) && !capacity.holds(b));
        assert_eq!(capacity.busy(), 2);
    }

    #[test]
    fn two_free_places_are_offered_one_after_the_other() {
        let capacity = Capacity::new(2);
        let ids: Vec<SessionId> = (0..4).map(|_| SessionId::mint()).collect();
        let [a, b, c, d] = [&ids[0], &ids[1], &ids[2], &ids[3]];
        assert!(capacity.ask(a).0 && capacity.ask(b).0 && !capacity.ask(c).0 && !capacity.ask(d).0);
        assert_eq!(capacity.leave(a).next.as_ref(), Some(c));
        assert_eq!(capacity.leave(b).next.as_ref(), Some(c), "c has not asked yet");
        assert_eq!(capacity.ask(c).1.next.as_ref(), Some(d));
    }

    #[test]
    fn who_became_busy_again_is_not_counted_as_leaving() {
        let capacity = Capacity::new(2);
        let ids: Vec<SessionId> = (0..3).map(|_| SessionId::mint()).collect();
        let [a, b, c] = [&ids[0], &ids[1], &ids[2]];
        assert!(capacity.ask(a).0 && capacity.ask(b).0 && !capacity.ask(c).0);
        let now = Instant::now();
        assert_eq!(leaving(&capacity.say(a, Occupation::Idle(now))), [a]);
        assert_eq!(capacity.say(a, Occupation::Busy), Words::default(), "nobody else is idle");
        assert_eq!(leaving(&capacity.say(b, Occupation::Idle(now))), [b]);
    }
}
