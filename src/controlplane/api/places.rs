//! Places for connections. There are so many and no more; when all are taken, the oldest connection that never
//! showed a right token makes room for the next one, so that who only connects and waits keeps nobody out. Touches
//! nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use smol::channel::{Receiver, Sender};
use smol::lock::{Semaphore, SemaphoreGuardArc};

/// One connection and what is known of it.
#[derive(Debug)]
pub(super) struct Visitor {
    /// Who connected.
    pub(super) peer: SocketAddr,
    /// The address of ours that they reached.
    pub(super) local: IpAddr,
    known: AtomicBool,
    leave: Sender<Infallible>,
    left: Receiver<Infallible>,
    _place: SemaphoreGuardArc,
}

impl Visitor {
    /// A right token came: from now on this connection keeps its place.
    pub(super) fn is_known(&self) {
        self.known.store(true, Ordering::Relaxed);
    }

    /// Whether one came.
    pub(super) fn was_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Returns when the place is needed for somebody else.
    pub(super) async fn must_leave(&self) {
        let _ = self.left.recv().await;
    }
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    count: usize,
    free: Arc<Semaphore>,
    /// In the order in which they came; some have left, and some are known by now.
    strangers: Mutex<VecDeque<Weak<Visitor>>>,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { count, free: Arc::new(Semaphore::new(count)), strangers: Mutex::default() }
    }

    /// Waits for a place and gives it to a connection, which keeps it until the visitor is dropped.
    pub(super) async fn enter(&self, peer: SocketAddr, local: IpAddr) -> Arc<Visitor> {
        let place = match self.free.try_acquire_arc() {
            Some(place) => place,
            None => {
                self.send_one_away();
                self.free.acquire_arc().await
            }
        };
        let (leave, left) = smol::channel::bounded(1);
        let known = AtomicBool::new(false);
        let visitor = Arc::new(Visitor { peer, local, known, leave, left, _place: place });
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if strangers.len() >= 2 * self.count {
            strangers.retain(|other| other.upgrade().is_some_and(|visitor| !visitor.was_known()));
        }
        strangers.push_back(Arc::downgrade(&visitor));
        visitor
    }

    fn send_one_away(&self) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(oldest) = strangers.pop_front() {
            if let Some(visitor) = oldest.upgrade()
                && !visitor.was_known()
                && visitor.leave.close()
            {
                return;
            }
        }
    }

    /// Waits until every place is free, which means that every connection ended.
    pub(super) async fn all_free(&self) {
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
        first.is_known();
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
        // Where everybody is known, the next one waits.
        third.is_known();
        fourth.is_known();
        assert!(block_on(poll_once(places.enter(PEER, PEER.ip()))).is_none());
        assert!(![&first, &third, &fourth].into_iter().any(|v| must_leave(v)));
        drop(first);
        drop(block_on(places.enter(PEER, PEER.ip())));
        drop((third, fourth));
        block_on(places.all_free());
    }

    #[test]
    fn who_left_is_forgotten() {
        let places = Places::new(2);
        for _ in 0..1000 {
            drop(block_on(places.enter(PEER, PEER.ip())));
        }
        assert!(places.strangers.lock().unwrap().len() <= 5);
    }
}
