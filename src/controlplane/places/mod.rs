//! Places for connections. There are so many and no more; when all are taken, the oldest connection of a stranger makes
//! room for the next one, from the network that has most of them, or else one of who is known and has most. So neither
//! who only connects and waits nor who is known keeps others out. Touches nothing.

mod fair;
pub(crate) mod seats;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use smol::channel::{Receiver, Sender};
use smol::lock::{Semaphore, SemaphoreGuardArc};

use self::fair::{Holder, Who};

/// One connection and what is known of it.
#[derive(Debug)]
pub(crate) struct Visitor {
    /// Who connected.
    pub(crate) peer: SocketAddr,
    /// The address of ours that they reached.
    pub(crate) local: IpAddr,
    /// By what it is known: the token that it showed last, if that was right.
    token: Mutex<Option<Arc<str>>>,
    /// Requests in work.
    requests: AtomicUsize,
    leave: Sender<Infallible>,
    left: Receiver<Infallible>,
    _place: SemaphoreGuardArc,
}

impl Visitor {
    /// A right token came, or one that is none or none any more.
    pub(crate) fn showed(&self, token: Option<&str>) {
        let mut shown = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.as_deref() != token {
            *shown = token.map(Into::into);
        }
    }

    /// From where: what one host can come from is one.
    pub(crate) fn network(&self) -> String {
        fair::network(self.peer.ip()).to_string()
    }

    /// Whether what it showed last was right.
    pub(crate) fn is_known(&self) -> bool {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Counts a request until what is given is dropped.
    pub(crate) fn works(&self) -> impl Drop + '_ {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Work(&self.requests)
    }

    fn holder(&self) -> Holder {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let who = token.map_or_else(|| Who::Stranger(fair::network(self.peer.ip())), Who::Known);
        Holder { who, busy: self.requests.load(Ordering::Relaxed) > 0 }
    }

    /// Returns when the place is needed for somebody else.
    pub(crate) async fn must_leave(&self) {
        let _ = self.left.recv().await;
    }
}

struct Work<'a>(&'a AtomicUsize);

impl Drop for Work<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All places.
#[derive(Debug)]
pub(crate) struct Places {
    count: usize,
    free: Arc<Semaphore>,
    /// In the order in which they came; some have left.
    visitors: Mutex<VecDeque<Weak<Visitor>>>,
}

impl Places {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, free: Arc::new(Semaphore::new(count)), visitors: Mutex::default() }
    }

    /// Waits for a place and gives it to a connection, which keeps it until the visitor is dropped.
    pub(crate) async fn enter(&self, peer: SocketAddr, local: IpAddr) -> Arc<Visitor> {
        let place = match self.free.try_acquire_arc() {
            Some(place) => place,
            None => {
                self.send_one_away();
                self.free.acquire_arc().await
            }
        };
        let (leave, left) = smol::channel::bounded(1);
        let (token, requests) = (Mutex::default(), AtomicUsize::new(0));
        let visitor = Arc::new(Visitor { peer, local, token, requests, leave, left, _place: place });
        let mut visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
        if visitors.len() >= 2 * self.count {
            visitors.retain(|other| other.strong_count() > 0);
        }
        visitors.push_back(Arc::downgrade(&visitor));
        visitor
    }

    fn send_one_away(&self) {
        let visitors = self.visitors.lock().unwrap_or_else(PoisonError::into_inner);
        // Who was told to leave is on the way out.
        let stay = |visitor: &Arc<Visitor>| !visitor.leave.is_closed();
        let visitors: Vec<Arc<Visitor>> = visitors.iter().filter_map(Weak::upgrade).filter(stay).collect();
        let holders: Vec<Holder> = visitors.iter().map(|visitor| visitor.holder()).collect();
        if let Some(visitor) = fair::who_leaves(&holders).and_then(|one| visitors.get(one)) {
            visitor.leave.close();
        }
    }

    /// Waits until every place is free, which means that every connection ended.
    pub(crate) async fn all_free(&self) {
        let mut all = Vec::with_capacity(self.count);
        while all.len() < self.count {
            all.push(self.free.acquire_arc().await);
        }
    }
}

#[cfg(test)]
mod tests {
    use smol::future::{FutureExt, poll_once};

    use super::*;
    use crate::controlplane::tasks::block_on;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

    fn must_leave(visitor: &Visitor) -> bool {
        block_on(poll_once(visitor.must_leave())).is_some()
    }

    #[test]
    fn the_oldest_stranger_makes_room() {
        let places = Places::new(3);
        let enter = || block_on(places.enter(PEER, PEER.ip()));
        let (first, second, third) = (enter(), enter(), enter());
        first.showed(Some("a"));
        assert!(![&first, &second, &third].into_iter().any(|v| must_leave(v)), "there was room");
        let fourth = block_on(async {
            let leaving = async {
                second.must_leave().await;
                drop(second);
                std::future::pending().await
            };
            places.enter(PEER, PEER.ip()).or(leaving).await
        });
        assert!(!must_leave(&first) && !must_leave(&third) && !must_leave(&fourth));
        // Where everybody is known, who has most makes room, with what is idle first; and with a token that is none any
        // more one is a stranger again.
        third.showed(Some("b"));
        fourth.showed(Some("b"));
        let work = third.works();
        assert!(block_on(poll_once(places.enter(PEER, PEER.ip()))).is_none());
        assert!(![&first, &third].into_iter().any(|v| must_leave(v)) && must_leave(&fourth));
        drop((work, fourth));
        let fifth = enter();
        fifth.showed(Some("a"));
        third.showed(None);
        assert!(block_on(poll_once(places.enter(PEER, PEER.ip()))).is_none());
        assert!(![&first, &fifth].into_iter().any(|v| must_leave(v)) && must_leave(&third));
        drop((first, third, fifth));
        block_on(places.all_free());
    }

    /// One host that comes and comes and never says anything keeps nobody else out.
    #[test]
    fn a_crowd_makes_room_for_others_first() {
        let places = Places::new(4);
        let from = |host: u8| SocketAddr::from(([10, 0, 0, host], 9));
        let enter = |host: u8| block_on(places.enter(from(host), PEER.ip()));
        let one = enter(1);
        let mut crowd = std::collections::VecDeque::from([enter(2), enter(2), enter(2)]);
        for _ in 0..20 {
            let newest = block_on(async {
                let oldest = crowd.pop_front().unwrap();
                let leaving = async {
                    oldest.must_leave().await;
                    drop(oldest);
                    std::future::pending().await
                };
                places.enter(from(2), PEER.ip()).or(leaving).await
            });
            crowd.push_back(newest);
        }
        assert!(!must_leave(&one));
    }

    #[test]
    fn who_left_is_forgotten() {
        let places = Places::new(2);
        for _ in 0..1000 {
            drop(block_on(places.enter(PEER, PEER.ip())));
        }
        assert!(places.visitors.lock().unwrap().len() <= 5);
    }
}
