//! Who may come in: the Host and Origin of a request, and its token. Pure but for the count of failures.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::header::{self, HeaderMap};

use super::problem::Problem;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Wrong tokens in a [`WINDOW`]; after them a wrong one gets 429. A right one is always served.
const FAILURES: u32 = 20;
/// How long failures are counted together; one log line tells of them.
const WINDOW: Duration = Duration::from_secs(60);

/// Refuses what a browser sends for somebody else: another host's name resolved to this machine, or a page
/// of another site.
pub(super) fn check_site(headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next().map(|host| host.to_str()), hosts.next()) {
        (Some(Ok(host)), None) if is_local(host) => host,
        _ => return Err(Problem::wrong_host()),
    };
    for origin in headers.get_all(header::ORIGIN) {
        let same = origin.to_str().ok().and_then(|text| text.strip_prefix("http://"));
        if !same.is_some_and(|same| same.eq_ignore_ascii_case(host)) {
            return Err(Problem::cross_site());
        }
    }
    for site in headers.get_all("sec-fetch-site") {
        if !matches!(site.as_bytes(), b"same-origin" | b"none") {
            return Err(Problem::cross_site());
        }
    }
    Ok(())
}

/// Whether a Host names loopback. The port is not looked at: it differs behind `ssh -L`, and a page that
/// rebinds a name cannot choose the name.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    literal.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The token of `Authorization: Bearer`, if there is exactly one.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let only = all.next().filter(|_| all.next().is_none())?.to_str().ok()?;
    let (scheme, token) = only.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Counts wrong tokens.
#[derive(Debug, Default)]
pub(super) struct Failures {
    window: Mutex<Option<(Instant, u32)>>,
}

impl Failures {
    /// One more; gives the problem to answer with.
    pub(super) fn note(&self, now: Instant) -> Problem {
        METRICS.failed_logins.inc();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        match window.as_mut().filter(|(since, _)| now.duration_since(*since) < WINDOW) {
            Some((_, count)) => {
                *count = count.saturating_add(1);
                if *count == FAILURES + 1 {
                    log::warn("api.many_wrong_tokens", &[("count", count)]);
                }
                if *count > FAILURES { Problem::too_many_failures() } else { Problem::unauthorized() }
            }
            None => {
                *window = Some((now, 1));
                log::warn("api.wrong_token", &[]);
                Problem::unauthorized()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in all {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn only_loopback_names_are_this_host() {
        for good in ["127.0.0.1:8787", "localhost", "LOCALHOST:1", "[::1]:8787", "127.1.2.3", "[::1]"] {
            assert_eq!(check_site(&headers(&[("host", good)])), Ok(()), "{good}");
        }
        for bad in [
            "evil.example:8787",
            "localhost.evil.example",
            "10.0.0.1:8787",
            "",
            "127.0.0.1:x",
            "127.0.0.1.evil",
        ] {
            assert!(check_site(&headers(&[("host", bad)])).is_err(), "{bad}");
        }
        assert!(check_site(&headers(&[])).is_err());
        assert!(check_site(&headers(&[("host", "localhost"), ("host", "localhost")])).is_err());
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let host = ("host", "127.0.0.1:8787");
        for good in [
            &[("origin", "http://127.0.0.1:8787")][..],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(check_site(&headers(&[&[host][..], good].concat())), Ok(()));
        }
        for bad in [
            ("origin", "http://localhost:3000"),
            ("origin", "https://127.0.0.1:8787"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
            ("sec-fetch-site", "same-site"),
        ] {
            assert!(check_site(&headers(&[host, bad])).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_comes_in_one_header() {
        assert_eq!(bearer(&headers(&[("authorization", "Bearer abc")])), Some("abc"));
        assert_eq!(bearer(&headers(&[("authorization", "bearer abc")])), Some("abc"));
        for bad in [
            &[("authorization", "Basic abc")][..],
            &[("authorization", "abc")],
            &[],
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
        ] {
            assert_eq!(bearer(&headers(bad)), None);
        }
    }

    #[test]
    fn after_many_wrong_tokens_the_answer_is_to_wait() {
        let failures = Failures::default();
        let start = Instant::now();
        for _ in 0..FAILURES {
            assert_eq!(failures.note(start).code, "unauthorized");
        }
        assert_eq!(failures.note(start).code, "too_many_failures");
        assert_eq!(failures.note(start + WINDOW).code, "unauthorized");
    }
}
