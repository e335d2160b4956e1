//! Counts wrong tokens by where they come from, so that guessing is slow and the log tells of it once. Pure but
//! for its table, which has a bounded number of rows.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::problem::Problem;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Wrong tokens of one source in a [`WINDOW`]; after them a wrong one gets 429. A right one is always served.
const FAILURES: u32 = 20;
/// How long failures are counted together; one log line tells of them.
const WINDOW: Duration = Duration::from_secs(60);
/// Sources counted apart; those beyond share one count, so that many sources are no way around it.
const SOURCES: usize = 1024;

/// Lines of the log in a [`WINDOW`] about strangers' requests.
const TOLD: u32 = 60;

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// Everybody on this machine, and everybody behind the proxy: they cannot be told apart.
    Near,
    /// One address, or the 64 bits of an IPv6 network, all of which one machine may use.
    Far(IpAddr),
}

impl Source {
    /// The source of a connection that came straight from a peer.
    pub(super) fn of(peer: IpAddr) -> Self {
        match peer.to_canonical() {
            peer if peer.is_loopback() => Self::Near,
            IpAddr::V6(v6) => Self::Far(IpAddr::V6(std::net::Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64))),
            v4 => Self::Far(v4),
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Near => f.write_str("near"),
            Self::Far(address) => address.fmt(f),
        }
    }
}

/// Counts wrong tokens.
#[derive(Debug, Default)]
pub(super) struct Failures {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    sources: HashMap<Source, Count>,
    /// Of all sources that found no row.
    others: Option<Count>,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Instant,
    failures: u32,
}

impl Count {
    fn is_current(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < WINDOW
    }
}

impl Failures {
    /// One more; gives the problem to answer with.
    pub(super) fn note(&self, source: Source, now: Instant) -> Problem {
        METRICS.failed_logins.inc();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Count { since: now, failures: 0 };
        if table.sources.len() >= SOURCES && !table.sources.contains_key(&source) {
            table.sources.retain(|_, count| count.is_current(now));
        }
        let full = table.sources.len() >= SOURCES && !table.sources.contains_key(&source);
        let (count, shown): (&mut Count, &dyn std::fmt::Display) = if full {
            (table.others.get_or_insert(new), &"others")
        } else {
            (table.sources.entry(source).or_insert(new), &source)
        };
        if !count.is_current(now) {
            *count = new;
        }
        count.failures = count.failures.saturating_add(1);
        match count.failures {
            1 => log::warn("api.wrong_token", &[("source", shown)]),
            n if n == FAILURES + 1 => log::warn("api.many_wrong_tokens", &[("source", shown), ("count", &n)]),
            _ => {}
        }
        if count.failures > FAILURES { Problem::too_many_failures() } else { Problem::unauthorized() }
    }
}

/// Log lines about requests of those who showed no token: so many a minute, so that strangers cannot fill the log.
#[derive(Debug, Default)]
pub(super) struct Told {
    window: Mutex<Option<Count>>,
}

impl Told {
    /// Whether one more is told.
    pub(super) fn may(&self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let count = window.get_or_insert(Count { since: now, failures: 0 });
        if !count.is_current(now) {
            *count = Count { since: now, failures: 0 };
        }
        count.failures = count.failures.saturating_add(1);
        count.failures <= TOLD
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_so_many_lines_a_minute() {
        let told = Told::default();
        let start = Instant::now();
        assert_eq!((0..1000).filter(|_| told.may(start)).count(), TOLD as usize);
        assert!(told.may(start + WINDOW));
    }

    fn far(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn after_many_wrong_tokens_the_answer_is_to_wait() {
        let failures = Failures::default();
        let start = Instant::now();
        for _ in 0..FAILURES {
            assert_eq!(failures.note(far("192.0.2.1"), start).code, "unauthorized");
        }
        assert_eq!(failures.note(far("192.0.2.1"), start).code, "too_many_failures");
        assert_eq!(failures.note(far("192.0.2.2"), start).code, "unauthorized", "sources are apart");
        assert_eq!(failures.note(Source::Near, start).code, "unauthorized");
        assert_eq!(failures.note(far("192.0.2.1"), start + WINDOW).code, "unauthorized");
    }

    #[test]
    fn what_one_machine_can_be_is_one_source() {
        assert_eq!(far("127.0.0.1"), Source::Near);
        assert_eq!(far("127.9.9.9"), Source::Near);
        assert_eq!(far("::1"), Source::Near);
        assert_eq!(far("::ffff:127.0.0.1"), Source::Near);
        assert_eq!(far("::ffff:192.0.2.1"), far("192.0.2.1"));
        assert_eq!(far("2001:db8::1"), far("2001:db8::ffff:1"));
        assert_ne!(far("2001:db8::1"), far("2001:db8:0:1::1"));
    }

    #[test]
    fn many_sources_share_what_is_left_and_none_is_remembered_for_ever() {
        let failures = Failures::default();
        let start = Instant::now();
        let source = |n: usize| Source::Far(IpAddr::V4(std::net::Ipv4Addr::from_bits(n as u32)));
        for n in 0..SOURCES {
            assert_eq!(failures.note(source(n), start).code, "unauthorized");
        }
        let refused = (SOURCES..2 * SOURCES)
            .filter(|n| failures.note(source(*n), start).code == "too_many_failures")
            .count();
        assert_eq!(refused, SOURCES - FAILURES as usize);
        assert_eq!(failures.table.lock().unwrap().sources.len(), SOURCES);
        // One that has a row keeps it, and a minute later there is room.
        assert_eq!(failures.note(source(7), start).code, "unauthorized");
        failures.note(source(9999), start + WINDOW);
        assert_eq!(failures.table.lock().unwrap().sources.len(), 1);
    }
}
