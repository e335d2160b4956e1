//! The cap on running sandboxes. Who asks when all places are taken waits in line, and the sandbox that has
//! been idle longest is asked to leave. One in a turn is never asked: it is idle again soon enough.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::contract::ids::SessionId;

/// What a place's holder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupation {
    /// Starting, or with a message in flight.
    Busy,
    /// Nothing in flight since then.
    Idle(Instant),
}

/// The answer to who asks for a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Launch.
    Yours,
    /// Wait for a word; meanwhile ask this one to leave.
    Wait(Option<SessionId>),
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

    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a place. The same session may ask again; it keeps its place in the line.
    pub(super) fn ask(&self, session: &SessionId) -> Place {
        let mut places = self.places();
        if places.taken.contains_key(session) {
            return Place::Yours;
        }
        let ahead = places.line.iter().position(|waiting| waiting == session).unwrap_or(places.line.len());
        if places.taken.len() + ahead < self.most {
            places.line.retain(|waiting| waiting != session);
            places.taken.insert(session.clone(), Occupation::Busy);
            return Place::Yours;
        }
        if !places.line.contains(session) {
            places.line.push_back(session.clone());
        }
        Place::Wait(longest_idle(&places))
    }

    /// Says what the holder is doing now. The answer is to leave, if somebody waits and this one is the
    /// longest idle.
    #[must_use]
    pub(super) fn say(&self, session: &SessionId, occupation: Occupation) -> bool {
        let mut places = self.places();
        let Some(held) = places.taken.get_mut(session) else { return false };
        *held = occupation;
        !places.line.is_empty() && longest_idle(&places).as_ref() == Some(session)
    }

    /// Gives the place back, or leaves the line. The answer is who should ask again.
    #[must_use]
    pub(super) fn leave(&self, session: &SessionId) -> Option<SessionId> {
        let mut places = self.places();
        places.taken.remove(session);
        places.line.retain(|waiting| waiting != session);
        places.line.front().cloned()
    }

    /// Who should ask next, if a place is free: two may be given back before the first in line has asked.
    pub(super) fn next(&self) -> Option<SessionId> {
        let places = self.places();
        if places.taken.len() < self.most { places.line.front().cloned() } else { None }
    }

    /// Whether this session has a place.
    pub(super) fn holds(&self, session: &SessionId) -> bool {
        self.places().taken.contains_key(session)
    }

    /// Holders that are busy.
    pub(super) fn busy(&self) -> usize {
        self.places().taken.values().filter(|occupation| **occupation == Occupation::Busy).count()
    }
}

fn longest_idle(places: &Places) -> Option<SessionId> {
    places
        .taken
        .iter()
        .filter_map(|(session, occupation)| match occupation {
            Occupation::Idle(since) => Some((since, session)),
            Occupation::Busy => None,
        })
        .min()
        .map(|(_, session)| session.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_leaves_and_the_first_in_line_follows() {
        let capacity = Capacity::new(2);
        let ids: Vec<SessionId> = (0..4).map(|_| SessionId::mint()).collect();
        let [a, b, c, d] = [&ids[0], &ids[1], &ids[2], &ids[3]];
        assert_eq!(capacity.ask(a), Place::Yours);
        assert_eq!(capacity.ask(b), Place::Yours);
        assert_eq!(capacity.ask(b), Place::Yours);
        assert_eq!(capacity.ask(c), Place::Wait(None), "both are busy");
        let now = Instant::now();
        assert!(capacity.say(b, Occupation::Idle(now)), "somebody waits");
        assert!(!capacity.say(a, Occupation::Idle(now + std::time::Duration::from_secs(1))));
        assert_eq!(capacity.ask(d), Place::Wait(Some(b.clone())));
        assert_eq!(capacity.leave(b), Some(c.clone()));
        assert_eq!(capacity.ask(d), Place::Wait(Some(a.clone())), "c is ahead");
        assert_eq!(capacity.ask(c), Place::Yours);
        assert_eq!(capacity.leave(d), None);
        assert!(!capacity.say(a, Occupation::Idle(now)), "nobody waits");
        assert!(capacity.holds(c) && !capacity.holds(b));
        assert_eq!(capacity.busy(), 1);
    }
}
