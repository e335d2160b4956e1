//! How many requests one token may make: so many in a second, four times as many at once after a pause. Pure
//! but for what it remembers, which is one instant a token that is in use.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Seconds' worth of requests that may come at once.
const BURST: u32 = 4;
/// With so many tokens remembered, those that are not in use are forgotten before another is added.
const REMEMBERED: usize = 1024;

/// Allows requests by the name of their token.
///
/// A token is served when, at the promised rate, all that it has asked for would be done less than [`BURST`]
/// seconds from now. Only that moment is kept; one that has passed says nothing, so it can be forgotten.
#[derive(Debug)]
pub(super) struct Rates {
    /// Between two requests at the promised rate; `None` allows everything.
    interval: Option<Duration>,
    done_at: Mutex<HashMap<String, Instant>>,
}

impl Rates {
    /// So many requests a second for each token; 0 for no limit.
    pub(super) fn new(per_second: u32) -> Self {
        let interval = (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        Self { interval, done_at: Mutex::new(HashMap::new()) }
    }

    /// Takes one request of a token that was found to be right.
    ///
    /// # Errors
    /// After how long the next one will be allowed.
    pub(super) fn take(&self, token_id: &str, now: Instant) -> Result<(), Duration> {
        let Some(interval) = self.interval else { return Ok(()) };
        let mut all = self.done_at.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done_at) = all.get_mut(token_id) {
            let next = (*done_at).max(now) + interval;
            let ahead = next.duration_since(now);
            let most = Duration::from_secs(1) * BURST;
            if ahead > most {
                return Err(ahead - most);
            }
            *done_at = next;
            return Ok(());
        }
        if all.len() >= REMEMBERED {
            all.retain(|_, done_at| *done_at > now);
        }
        all.insert(token_id.to_owned(), now + interval);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_promised_rate() {
        let rates = Rates::new(10);
        let start = Instant::now();
        for n in 0..40 {
            assert_eq!(rates.take("a", start), Ok(()), "{n}");
        }
        assert_eq!(rates.take("a", start), Err(Duration::from_millis(100)));
        // A refusal costs nothing.
        assert_eq!(rates.take("a", start), Err(Duration::from_millis(100)));
        assert_eq!(rates.take("b", start), Ok(()), "tokens do not share");
        let later = start + Duration::from_millis(100);
        assert_eq!(rates.take("a", later), Ok(()));
        assert!(rates.take("a", later).is_err());
        let rested = later + Duration::from_secs(60);
        for n in 0..40 {
            assert_eq!(rates.take("a", rested), Ok(()), "{n}");
        }
        assert!(rates.take("a", rested).is_err());
    }

    #[test]
    fn none_is_no_limit_and_remembers_nothing() {
        let rates = Rates::new(0);
        let now = Instant::now();
        assert!((0..10_000).all(|_| rates.take("a", now).is_ok()));
        assert!(rates.done_at.lock().unwrap().is_empty());
    }

    #[test]
    fn tokens_out_of_use_are_forgotten() {
        let rates = Rates::new(1);
        let mut now = Instant::now();
        for n in 0..10 * REMEMBERED {
            now += Duration::from_millis(10);
            assert_eq!(rates.take(&n.to_string(), now), Ok(()));
        }
        assert!(rates.done_at.lock().unwrap().len() <= REMEMBERED);
    }
}
