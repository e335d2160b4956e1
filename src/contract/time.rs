//! Instants on the wire and in files: whole milliseconds since 1970 in UTC, written as RFC 3339 with
//! exactly three decimals, so that text order is time order.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

impl Millis {
    /// The system clock.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// `2026-11-21T10:00:00.000Z`. Years outside 0 to 9999 are shown as the nearest instant inside.
    pub fn to_rfc3339(self) -> String {
        const FIRST: i64 = -62_167_219_200_000;
        const LAST: i64 = 253_402_207_200_999;
        let instant = Timestamp::from_millisecond(self.0.clamp(FIRST, LAST)).unwrap_or(Timestamp::UNIX_EPOCH);
        format!("{instant:.3}")
    }

    /// Any RFC 3339 instant with an offset or `Z`; digits past the millisecond are cut. `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        // jiff also accepts a space for the T and bracketed zones; RFC 3339 in our files has neither.
        if text.len() > 40 || !text.contains('T') || text.contains(['[', ' ']) {
            return None;
        }
        text.parse::<Timestamp>().ok().map(|instant| Self(instant.as_millisecond()))
    }
}

impl Millis {
    /// The date of an HTTP header: `Sun, 06 Nov 1994 08:49:37 GMT`. `None` for anything else.
    pub fn parse_http(text: &str) -> Option<Self> {
        if text.len() != 29 || !text.ends_with(" GMT") {
            return None;
        }
        jiff::fmt::rfc2822::parse(text).ok().map(|instant| Self(instant.timestamp().as_millisecond()))
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_with_three_decimals_and_read_back() {
        assert_eq!(Millis(0).to_rfc3339(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Millis(1_795_255_200_120).to_rfc3339(), "2026-11-21T10:00:00.120Z");
        let now = Millis::now();
        assert_eq!(Millis::parse(&now.to_rfc3339()), Some(now));
        assert_eq!(Millis::parse("2026-11-21T11:00:00.1209+01:00"), Some(Millis(1_795_255_200_120)));
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for bad in ["", "2026-11-21", "2026-11-21T10:00:00", "yesterday", "2026-13-01T00:00:00Z", "0"] {
            assert_eq!(Millis::parse(bad), None, "{bad}");
        }
        assert_eq!(Millis::parse_http("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Millis(784_111_777_000)));
        for bad in [
            "",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Xxx, 99 Nov 1994 08:49:37 GMT",
            "1994-11-06T08:49:37.000Z GMT",
        ] {
            assert_eq!(Millis::parse_http(bad), None, "{bad}");
        }
        let _ = Millis(i64::MAX).to_rfc3339();
        let _ = Millis(i64::MIN).to_rfc3339();
    }
}
