//! How often a socket may be asked: a burst at once, then so many a second. Pure but for its timer.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Requests of one sandbox in a second; a turn makes one every few seconds.
const REQUESTS_A_SECOND: u32 = 20;
/// Requests that may come at once after a quiet time.
const BURST: u32 = 40;

/// Delays what comes too early.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the next would be on time; lies up to a burst in the past.
    next: Mutex<Instant>,
}

impl Pace {
    const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / REQUESTS_A_SECOND as u64);

    /// Begins with a whole burst.
    pub(super) fn new(now: Instant) -> Self {
        Self { next: Mutex::new(now.checked_sub(Self::INTERVAL * BURST).unwrap_or(now)) }
    }

    /// How long this one must wait.
    fn hold(&self, now: Instant) -> Duration {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = now.checked_sub(Self::INTERVAL * (BURST - 1)).unwrap_or(now);
        let due = (*next).max(earliest);
        *next = due + Self::INTERVAL;
        due.saturating_duration_since(now)
    }

    /// Waits until it is time for one more.
    pub(super) async fn wait(&self) {
        let hold = self.hold(Instant::now());
        if !hold.is_zero() {
            smol::Timer::after(hold).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_its_pace() {
        let now = Instant::now();
        let pace = Pace::new(now);
        assert!((0..BURST).all(|_| pace.hold(now).is_zero()), "a burst comes at once");
        assert_eq!(pace.hold(now), Pace::INTERVAL);
        assert_eq!(pace.hold(now), Pace::INTERVAL * 2);
        let later = now + Duration::from_secs(3600);
        assert!((0..BURST).all(|_| pace.hold(later).is_zero()), "quiet hours save no more than a burst");
        assert!(!pace.hold(later).is_zero());
    }
}
