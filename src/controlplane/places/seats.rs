//! Places for what takes long: event streams, comparisons of the audit, long bodies. There are fewer than places for
//! connections, and when all are taken the name that has most of them makes room for another one. Touches nothing.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use smol::channel::{Receiver, Sender};

use super::fair;

/// A place, for as long as it is held.
#[derive(Debug)]
pub(crate) struct Place {
    name: Arc<str>,
    leave: Sender<Infallible>,
    left: Receiver<Infallible>,
}

impl Place {
    fn new(name: &str) -> Self {
        let (leave, left) = smol::channel::bounded(1);
        Self { name: name.into(), leave, left }
    }

    /// Returns when it is needed for somebody else.
    pub(crate) async fn must_leave(&self) {
        let _ = self.left.recv().await;
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Seats {
    count: usize,
    /// Oldest first; some are free again.
    taken: Mutex<Vec<Weak<Place>>>,
}

impl Seats {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, taken: Mutex::default() }
    }

    /// Takes one for who is known by this name; none when nobody has more than they would have then.
    pub(crate) fn take(&self, name: &str) -> Option<Arc<Place>> {
        self.enter(name, |own, most| own + 1 < most)
    }

    /// Takes one for who is known by this name, from themselves if nobody has more: what comes now is worth more than
    /// what takes long.
    pub(crate) fn take_over(&self, name: &str) -> Arc<Place> {
        self.enter(name, |_, _| true).unwrap_or_else(|| Arc::new(Place::new(name)))
    }

    /// Takes one, where all are taken if it may be done by who has so many of them while somebody has most.
    fn enter(&self, name: &str, may: impl Fn(usize, usize) -> bool) -> Option<Arc<Place>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.retain(|place| place.strong_count() > 0);
        let held: Vec<Arc<Place>> = taken.iter().filter_map(Weak::upgrade).collect();
        // Who was told to leave is on the way out.
        let held: Vec<Arc<Place>> = held.into_iter().filter(|place| !place.leave.is_closed()).collect();
        if held.len() >= self.count {
            let own = held.iter().filter(|place| *place.name == *name).count();
            let (greediest, most) = fair::most(held.iter().map(|place| &place.name))?;
            if !may(own, most) {
                return None;
            }
            held.iter().find(|place| place.name == greediest)?.leave.close();
        }
        let place = Arc::new(Place::new(name));
        taken.push(Arc::downgrade(&place));
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use smol::future::poll_once;

    use super::*;
    use crate::controlplane::tasks::block_on;

    #[test]
    fn who_has_most_makes_room_and_no_more_than_that() {
        let seats = Seats::new(4);
        let leaves = |place: &Place| block_on(poll_once(place.must_leave())).is_some();
        let many: Vec<Arc<Place>> = (0..4).map(|_| seats.take("greedy").unwrap()).collect();
        assert!(seats.take("greedy").is_none());
        let one = seats.take("other").unwrap();
        assert!(leaves(&many[0]) && !many[1..].iter().any(|place| leaves(place)));
        let two = seats.take("other").unwrap();
        assert!(leaves(&many[1]) && !many[2..].iter().any(|place| leaves(place)));
        // Two of each are even, and a third one is nobody's; but who has none takes from who has most.
        assert!(seats.take("greedy").is_none() && seats.take("other").is_none());
        let third = seats.take("third").unwrap();
        assert!(leaves(&many[2]) && ![&many[3], &one, &two, &third].into_iter().any(|place| leaves(place)));
        assert!(seats.take("greedy").is_none() && seats.take("other").is_none());
        drop(one);
        assert!(seats.take("fourth").is_some(), "one is free");
    }

    #[test]
    fn what_comes_now_takes_over_from_who_has_most() {
        let seats = Seats::new(3);
        let leaves = |place: &Place| block_on(poll_once(place.must_leave())).is_some();
        let first: Vec<Arc<Place>> = (0..3).map(|_| seats.take_over("one")).collect();
        let newest = seats.take_over("one");
        assert!(leaves(&first[0]) && !leaves(&first[1]) && !leaves(&newest), "from itself");
        let other = seats.take_over("other");
        assert!(leaves(&first[1]) && !leaves(&first[2]) && !leaves(&other));
    }
}
