//! How often something runs: `hourly`, `1h30m`, or a cron line with its zone. Text comes in and is written in one
//! canonical form; from it come the next instant and what to do about runs that were missed. Zones are read from the
//! database inside the executable, never from the machine. Pure, and bounded for every input.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use super::cron::Cron;
use super::error::RecurrenceError;
use crate::contract::time::Millis;

/// The longest text that is read, and the longest canonical form, in bytes.
pub const MOST_BYTES: usize = 200;

/// The shortest interval: a run is a turn of an agent and costs money.
pub const SHORTEST: Duration = Duration::from_secs(60);

/// The longest interval: ten years.
pub const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// A run is late, and not missed, for this long: 60 s.
const GRACE_MS: i64 = 60_000;

/// How often something runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recurrence {
    /// One run and no other.
    Once,
    /// A fixed time after the last due instant, from [`SHORTEST`] to [`LONGEST`], in whole milliseconds.
    Every(Duration),
    /// At local times of a zone.
    Calendar {
        /// The local times.
        cron: Cron,
        /// Where they are local.
        zone: Zone,
    },
}

/// A zone of the IANA database, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(pub(super) TimeZone);

/// When a recurrence is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// Nothing is due after this instant; what is due at it still runs.
    pub at: Option<Millis>,
    /// So many runs in all.
    pub count: Option<u32>,
}

/// What to do about runs whose time passed while nothing could run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misfire {
    /// However many were missed, one run makes up for them, now.
    #[default]
    RunOnce,
    /// What was missed is left out; what is due within the last 60 s was not missed.
    Skip,
}

/// What is to be done at an instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The due instant that runs now, if one does.
    pub run: Option<Millis>,
    /// When to look again: strictly after now.
    pub next: Option<Millis>,
}

impl Recurrence {
    /// Reads a text whose times are local in `zone`, where it names none itself.
    ///
    /// # Errors
    /// Says what was wrong, what is expected, and what to write.
    pub fn parse_in(text: &str, zone: &str) -> Result<Recurrence, RecurrenceError> {
        let text = text.trim();
        if text.len() > MOST_BYTES || zone.len() > MOST_BYTES {
            return Err(RecurrenceError::TooLong);
        }
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let mut zone = zone;
        if let Some(named) =
            words.first().and_then(|word| word.strip_prefix("CRON_TZ=").or_else(|| word.strip_prefix("TZ=")))
        {
            zone = named;
            words.remove(0);
        }
        let read = match words.as_slice() {
            [] => Recurrence::Once,
            [word] => one_word(word, zone)?,
            ["@every", duration] => every(duration)?,
            [word, named] if word.starts_with('@') => one_word(word, named)?,
            [minute, hour, day, month, weekday] => calendar([minute, hour, day, month, weekday], zone)?,
            // A sixth field that is no name was meant as seconds or a year.
            [minute, hour, day, month, weekday, named] if !is_field(named) => {
                calendar([minute, hour, day, month, weekday], named)?
            }
            [first, _, _, ..] if first.starts_with(|c: char| c.is_ascii_digit() || c == '*') => {
                return Err(RecurrenceError::Fields(words.len()));
            }
            _ => return Err(RecurrenceError::Unknown(text.to_owned())),
        };
        if read.to_string().len() > MOST_BYTES {
            return Err(RecurrenceError::TooLong);
        }
        Ok(read)
    }

    /// The first due instant strictly after this one. A local time that does not exist, since the clocks went
    /// forward over it, is the first instant after the gap; one that comes twice is the first of the two.
    pub fn next(&self, after: Millis) -> Option<Millis> {
        match self {
            Recurrence::Once => None,
            Recurrence::Every(step) => after.0.checked_add(millis(*step)).map(Millis),
            Recurrence::Calendar { cron, zone } => zone.next(cron, after),
        }
    }

    /// What happens at `now`, when the next run was due at `due`. However long nothing ran, this gives one run at
    /// most.
    pub fn misfire(&self, policy: Misfire, due: Millis, now: Millis) -> Due {
        if now < due {
            return Due { run: None, next: Some(due) };
        }
        let run = match policy {
            Misfire::RunOnce => Some(due),
            Misfire::Skip => {
                let recent = Millis(now.0.saturating_sub(GRACE_MS));
                if due >= recent {
                    Some(due)
                } else {
                    self.slot_after(due, Millis(recent.0.saturating_sub(1))).filter(|slot| *slot <= now)
                }
            }
        };
        Due { run, next: self.slot_after(due, now) }
    }

    /// The first due instant strictly after `after`, counted on from one that was due.
    fn slot_after(&self, due: Millis, after: Millis) -> Option<Millis> {
        let Recurrence::Every(step) = self else { return self.next(after.max(due)) };
        let step = i128::from(millis(*step).max(1));
        let (from, after) = (i128::from(due.0), i128::from(after.0));
        let steps = ((after - from).div_euclid(step) + 1).max(1);
        i64::try_from(from + steps * step).ok().map(Millis)
    }
}

impl FromStr for Recurrence {
    type Err = RecurrenceError;

    /// Reads a text whose times are in UTC, where it names no zone.
    fn from_str(text: &str) -> Result<Recurrence, RecurrenceError> {
        Recurrence::parse_in(text, "UTC")
    }
}

impl End {
    /// Whether a run may be due at `next`, after so many runs.
    pub fn admits(&self, next: Millis, runs: u32) -> bool {
        self.at.is_none_or(|at| next <= at) && self.count.is_none_or(|count| runs < count)
    }
}

impl Zone {
    /// A zone by its IANA name, in any case of letters.
    ///
    /// # Errors
    /// When the database has no such zone.
    pub fn named(name: &str) -> Result<Zone, RecurrenceError> {
        let unknown = || RecurrenceError::Zone(name.to_owned());
        let zone = TimeZoneDatabase::bundled().get(name).map_err(|_| unknown())?;
        if zone.is_unknown() || zone.iana_name().is_none() {
            return Err(unknown());
        }
        Ok(Zone(zone))
    }

    /// Its IANA name.
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    fn next(&self, cron: &Cron, after: Millis) -> Option<Millis> {
        let mut from = self.0.to_datetime(Timestamp::from_millisecond(after.0).ok()?);
        // In the second pass of an hour that comes twice, its minutes ran in the first: at most a day of them.
        for _ in 0..=24 * 60 {
            let local = cron.at_or_after(from)?;
            let found = Millis(self.instant(local)?.as_millisecond());
            if found > after {
                return Some(found);
            }
            from = local.checked_add(SignedDuration::from_mins(1)).ok()?;
        }
        None
    }

    /// The instant of a local time, by the rules of [`Recurrence::next`].
    pub(super) fn instant(&self, local: DateTime) -> Option<Timestamp> {
        let times = self.0.to_ambiguous_timestamp(local);
        if let AmbiguousOffset::Gap { .. } = times.offset() {
            // The time before the gap that is as far from it; the next change of the clocks is the gap's end.
            let before = times.earlier().ok()?;
            return self.0.following(before).next().map(|change| change.timestamp());
        }
        times.earlier().ok()
    }
}

impl fmt::Display for Recurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Recurrence::Once => f.write_str("once"),
            Recurrence::Every(step) => write_duration(f, millis(*step)),
            Recurrence::Calendar { cron, zone } if zone.name() == "UTC" => cron.fmt(f),
            Recurrence::Calendar { cron, zone } => write!(f, "{cron} {}", zone.name()),
        }
    }
}

fn one_word(word: &str, zone: &str) -> Result<Recurrence, RecurrenceError> {
    const HOUR: u64 = 60 * 60;
    let fields = match word.to_ascii_lowercase().as_str() {
        "once" | "none" => return Ok(Recurrence::Once),
        "hourly" => return Ok(Recurrence::Every(Duration::from_secs(HOUR))),
        "daily" => return Ok(Recurrence::Every(Duration::from_secs(24 * HOUR))),
        "weekly" => return Ok(Recurrence::Every(Duration::from_secs(7 * 24 * HOUR))),
        "@hourly" => ["0", "*", "*", "*", "*"],
        "@daily" | "@midnight" => ["0", "0", "*", "*", "*"],
        "@weekly" => ["0", "0", "*", "*", "0"],
        "@monthly" => ["0", "0", "1", "*", "*"],
        "@yearly" | "@annually" => ["0", "0", "1", "1", "*"],
        _ if word.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => return every(word),
        _ => return Err(RecurrenceError::Unknown(word.to_owned())),
    };
    calendar(fields, zone)
}

fn calendar(fields: [&str; 5], zone: &str) -> Result<Recurrence, RecurrenceError> {
    Ok(Recurrence::Calendar { cron: Cron::parse(fields)?, zone: Zone::named(zone)? })
}

/// Whether a word looks like a field of a cron line and not like a zone.
fn is_field(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit() || b"*/,-?".contains(&byte))
}

fn every(text: &str) -> Result<Recurrence, RecurrenceError> {
    let nanos = nanoseconds(text).ok_or_else(|| RecurrenceError::Duration(text.to_owned()))?;
    let step = u64::try_from(nanos / 1_000_000).map(Duration::from_millis).unwrap_or(Duration::MAX);
    if text.starts_with('-') || step < SHORTEST || step > LONGEST {
        return Err(RecurrenceError::Interval(text.to_owned()));
    }
    Ok(Recurrence::Every(step))
}

/// `[+-]`, then one or more `<digits>[.<digits>]<unit>`. `None` for anything else.
fn nanoseconds(text: &str) -> Option<u128> {
    /// More digits than any interval needs, and so few that nothing overflows.
    const MOST_DIGITS: usize = 15;
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = after.strip_prefix('.').map_or(("", after), digits);
        let unit_length = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at_checked(unit_length)?;
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            "w" => 604_800_000_000_000,
            _ => return None,
        };
        let number = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
        if whole.len() + fraction.len() == 0 || whole.len() > MOST_DIGITS || fraction.len() > MOST_DIGITS {
            return None;
        }
        let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        total = total.checked_add(number(whole)?.checked_mul(unit)?)?;
        total = total.checked_add(number(fraction)?.checked_mul(unit)? / scale)?;
        rest = after;
    }
    (total > 0).then_some(total)
}

fn digits(text: &str) -> (&str, &str) {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    text.split_at_checked(length).unwrap_or((text, ""))
}

fn write_duration(f: &mut fmt::Formatter<'_>, mut millis: i64) -> fmt::Result {
    match millis {
        3_600_000 => return f.write_str("hourly"),
        86_400_000 => return f.write_str("daily"),
        604_800_000 => return f.write_str("weekly"),
        _ => {}
    }
    for (unit, length) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        let count = millis / length;
        millis %= length;
        if count > 0 {
            write!(f, "{count}{unit}")?;
        }
    }
    Ok(())
}

fn millis(step: Duration) -> i64 {
    i64::try_from(step.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Recurrence {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn at(text: &str) -> Millis {
        Millis::parse(text).unwrap()
    }

    /// The next runs, without seconds.
    fn runs(text: &str, after: &str, count: usize) -> Vec<String> {
        let recurrence = read(text);
        let first = recurrence.next(at(after));
        std::iter::successors(first, |last| recurrence.next(*last))
            .take(count)
            .map(|run| run.to_string().replace(":00.000Z", ""))
            .collect()
    }

    #[test]
    fn every_form_has_one_canonical_form() {
        for (text, canonical) in [
            ("", "once"),
            (" none ", "once"),
            ("hourly", "hourly"),
            ("60m", "hourly"),
            ("Daily", "daily"),
            ("24h", "daily"),
            ("1w", "weekly"),
            ("15m", "15m"),
            ("1h30m", "1h30m"),
            ("1.5h", "1h30m"),
            ("+90m", "1h30m"),
            ("2d", "2d"),
            ("36h", "1d12h"),
            ("61.5s", "1m1s500ms"),
            ("60000000000ns", "1m"),
            ("@every 2h", "2h"),
            ("@hourly", "0 * * * *"),
            ("@daily Europe/Berlin", "0 0 * * * Europe/Berlin"),
            ("@weekly", "0 0 * * 0"),
            ("@monthly", "0 0 1 * *"),
            ("@annually", "0 0 1 1 *"),
            ("0  9 * * MON-FRI\teurope/berlin", "0 9 * * 1-5 Europe/Berlin"),
            ("CRON_TZ=Asia/Tokyo 0 9 * * *", "0 9 * * * Asia/Tokyo"),
            ("0 9 * * * UTC", "0 9 * * *"),
        ] {
            let recurrence = read(text);
            assert_eq!(recurrence.to_string(), canonical, "{text}");
            assert_eq!(read(canonical), recurrence, "{text}");
        }
        let local = Recurrence::parse_in("0 9 * * *", "America/New_York").unwrap();
        assert_eq!(local.to_string(), "0 9 * * * America/New_York");
        let named = Recurrence::parse_in("0 9 * * * Asia/Tokyo", "America/New_York").unwrap();
        assert_eq!(named.to_string(), "0 9 * * * Asia/Tokyo");
    }

    #[test]
    fn a_wrong_text_is_refused_with_what_to_write() {
        for (text, said) in [
            ("fortnightly", "write once, hourly"),
            ("every day at nine", "write once, hourly"),
            ("@reboot", "write once, hourly"),
            ("15", "such as 15m"),
            ("15 m", "write once, hourly"),
            ("1h-5m", "no duration"),
            ("1..5h", "no duration"),
            (".h", "no duration"),
            ("0s", "no duration"),
            ("99999999999999999999h", "no duration"),
            ("-1h", "not between"),
            ("59s", "not between"),
            ("1ns", "not between"),
            ("100000d", "not between"),
            ("999999999999999w", "not between"),
            ("0 9 * *", "five fields"),
            ("0 0 9 * * 1", "without seconds"),
            ("0 9 * * * Europe/Berlin 2027", "not 7 words"),
            ("0 25 * * *", "the hour 25"),
            ("0 9 * * * Mars/Olympus", "no time zone Mars/Olympus"),
            ("0 9 * * * +02:00", "no time zone"),
            ("0 9 * * * ../../etc/passwd", "no time zone"),
            ("0 9 * * * Etc/Unknown", "no time zone"),
            ("0 0 30 2 *", "no year has that date"),
        ] {
            let error = text.parse::<Recurrence>().unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert_eq!("9".repeat(201).parse::<Recurrence>(), Err(RecurrenceError::TooLong));
        let told = "\u{202e}x\n".parse::<Recurrence>().unwrap_err().to_string();
        assert!(!told.contains('\u{202e}'), "what a stranger wrote is shown escaped");
    }

    #[test]
    fn local_times_stay_local_when_the_clocks_change() {
        // Friday before the change to summer time on Sunday 29 March 2026, and before the change back.
        assert_eq!(
            runs("0 9 * * 1-5 Europe/Berlin", "2026-03-27T00:00:00Z", 2),
            ["2026-03-27T08:00", "2026-03-30T07:00"]
        );
        assert_eq!(
            runs("0 9 * * 1-5 Europe/Berlin", "2026-10-23T00:00:00Z", 2),
            ["2026-10-23T07:00", "2026-10-26T08:00"]
        );
        // 02:30 does not exist on 29 March: 03:00 in summer time is the first instant after the gap.
        assert_eq!(
            runs("30 2 * * * Europe/Berlin", "2026-03-28T00:00:00Z", 3),
            ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]
        );
        // All times in the gap and the one at its end are one run.
        assert_eq!(
            runs("*/30 * * * * Europe/Berlin", "2026-03-29T00:00:00Z", 4),
            ["2026-03-29T00:30", "2026-03-29T01:00", "2026-03-29T01:30", "2026-03-29T02:00"]
        );
        // 02:30 comes twice on 25 October: it runs once, in summer time.
        assert_eq!(
            runs("30 2 * * * Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["2026-10-25T00:30", "2026-10-26T01:30"]
        );
        assert_eq!(runs("30 2 * * * Europe/Berlin", "2026-10-25T00:45:00Z", 1), ["2026-10-26T01:30"]);
        assert_eq!(
            runs("*/30 * * * * Europe/Berlin", "2026-10-25T00:15:00Z", 2),
            ["2026-10-25T00:30", "2026-10-25T02:00"],
            "the second pass of the hour is left out"
        );
    }

    #[test]
    fn zones_with_odd_changes() {
        // Lord Howe moves by half an hour: 02:00 to 02:30 on 4 October 2026, 02:00 to 01:30 on 5 April.
        assert_eq!(
            runs("15 2 * * * Australia/Lord_Howe", "2026-10-02T15:00:00Z", 3),
            ["2026-10-02T15:45", "2026-10-03T15:30", "2026-10-04T15:15"]
        );
        assert_eq!(
            runs("45 1 * * * Australia/Lord_Howe", "2026-04-04T00:00:00Z", 2),
            ["2026-04-04T14:45", "2026-04-05T15:15"]
        );
        // In Beirut and Santiago it is midnight that does not exist.
        assert_eq!(
            runs("0 0 * * * Asia/Beirut", "2026-03-27T22:00:00Z", 2),
            ["2026-03-28T22:00", "2026-03-29T21:00"]
        );
        assert_eq!(
            runs("0 0 * * 0 America/Santiago", "2026-09-04T12:00:00Z", 2),
            ["2026-09-06T04:00", "2026-09-13T03:00"]
        );
        // Samoa had no 30 December 2011 at all.
        assert_eq!(
            runs("0 9 * * * Pacific/Apia", "2011-12-29T12:00:00Z", 3),
            ["2011-12-29T19:00", "2011-12-30T10:00", "2011-12-30T19:00"]
        );
        assert_eq!(runs("0 9 * * * Asia/Kathmandu", "2026-01-01T00:00:00Z", 1), ["2026-01-01T03:15"]);
    }

    #[test]
    fn what_was_missed_runs_once_or_not_at_all() {
        let due = at("2026-01-01T10:00:00Z");
        let late = at("2026-01-01T13:30:00Z");
        let hourly = read("hourly");
        let next = Some(at("2026-01-01T14:00:00Z"));
        assert_eq!(hourly.misfire(Misfire::RunOnce, due, late), Due { run: Some(due), next });
        assert_eq!(hourly.misfire(Misfire::Skip, due, late), Due { run: None, next });
        for recurrence in [hourly, read("0 * * * *")] {
            for policy in [Misfire::RunOnce, Misfire::Skip] {
                let early = Millis(due.0 - 1);
                assert_eq!(recurrence.misfire(policy, due, early), Due { run: None, next: Some(due) });
                let punctual = Due { run: Some(due), next: Some(at("2026-01-01T11:00:00Z")) };
                assert_eq!(recurrence.misfire(policy, due, due), punctual);
                assert_eq!(recurrence.misfire(policy, due, Millis(due.0 + 60_000)), punctual);
            }
            // The slot of 13:00 is not missed five seconds later, though those before it are.
            let now = at("2026-01-01T13:00:05Z");
            let slot = at("2026-01-01T13:00:00Z");
            assert_eq!(recurrence.misfire(Misfire::Skip, due, now), Due { run: Some(slot), next });
        }
        let once = read("once");
        assert_eq!(once.misfire(Misfire::RunOnce, due, late), Due { run: Some(due), next: None });
        assert_eq!(once.misfire(Misfire::Skip, due, late), Due { run: None, next: None });
        assert_eq!(once.next(due), None);
    }

    #[test]
    fn an_end_is_an_instant_or_a_count() {
        let end = End { at: Some(Millis(100)), count: Some(2) };
        assert!(end.admits(Millis(100), 1));
        assert!(!end.admits(Millis(101), 1));
        assert!(!end.admits(Millis(100), 2));
        assert!(End::default().admits(Millis(i64::MAX), u32::MAX));
    }

    #[test]
    fn instants_at_the_edge_of_time_are_no_panic() {
        for text in ["hourly", "* * * * *", "0 9 * * * Europe/Berlin", "once"] {
            let recurrence = read(text);
            for edge in [i64::MIN, i64::MIN + 1, -1, 0, 253_402_207_200_000, i64::MAX - 1, i64::MAX] {
                let _ = recurrence.next(Millis(edge));
                for policy in [Misfire::RunOnce, Misfire::Skip] {
                    let _ = recurrence.misfire(policy, Millis(i64::MIN), Millis(edge));
                    let _ = recurrence.misfire(policy, Millis(edge), Millis(i64::MAX));
                }
            }
        }
    }

    #[test]
    fn hostile_texts_neither_panic_nor_run_too_often() {
        let pieces = [
            "*",
            "/",
            "-",
            ",",
            " ",
            "0",
            "7",
            "59",
            "31",
            "mon",
            "feb",
            "h",
            "m",
            "d",
            ".",
            "@",
            "@daily",
            "1h",
            "2",
            "30",
            "Europe/Berlin",
            "Asia/Beirut",
            "UTC",
            "TZ=",
            "\u{e9}",
            "\0",
            "* * ",
            "*/5 ",
            "0 9 ",
        ];
        let mut seed: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % 1_000_003).unwrap() % below
        };
        let mut understood = 0;
        for _ in 0..30_000 {
            let text: String = (0..random(9)).map(|_| pieces[random(pieces.len())]).collect();
            let Ok(recurrence) = text.parse::<Recurrence>() else { continue };
            understood += 1;
            assert_eq!(read(&recurrence.to_string()), recurrence, "{text}");
            let mut last = Millis(946_684_800_000 + i64::try_from(random(1_000_000_000)).unwrap() * 3_000);
            for _ in 0..4 {
                let Some(next) = recurrence.next(last) else { break };
                assert!(next > last, "{text}");
                let then = recurrence.next(next);
                assert!(then.is_none_or(|then| then.0 - next.0 >= 60_000), "{text}: {next}");
                last = next;
            }
        }
        assert!(understood > 300, "only {understood} texts were understood");
    }
}
