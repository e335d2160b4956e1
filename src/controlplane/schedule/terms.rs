//! When a task is to run, as it is written and as it is kept. An agent and an operator write the same fields: one of
//! `at`, `every` and `cron`, a zone, and where they like an end. Pure: the clock is the caller's.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::DateTime;

use super::calendar::{Due, End, Misfire, Recurrence, Zone};
use super::error::RecurrenceError;
use crate::contract::json::Value;
use crate::contract::plain;
use crate::contract::time::Millis;
use crate::controlplane::store::tasks::Times;

/// The fields.
pub const FIELDS: &[&str] = &["at", "every", "cron", "zone", "until", "count", "misfire"];

/// A first run may be written down so late, for whoever reckons takes a moment: five minutes, in milliseconds.
const LATE: i64 = 5 * 60 * 1000;
/// And so far ahead: ten years.
const AHEAD: i64 = 3660 * 24 * 60 * 60 * 1000;
/// Most runs that may be counted.
const MOST_RUNS: u64 = 1_000_000;

/// When a task runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How often.
    pub recurrence: Recurrence,
    /// The zone in which people read its times.
    pub zone: Zone,
    /// The next run.
    pub due: Option<Millis>,
    /// Where it ends.
    pub end: End,
    /// What becomes of runs that were missed.
    pub misfire: Misfire,
}

/// Why fields are no terms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Which of them.
    pub field: &'static str,
    /// What was found, what is expected.
    pub text: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.text)
    }
}

fn wrong(field: &'static str, text: impl fmt::Display) -> Wrong {
    Wrong { field, text: text.to_string() }
}

impl Terms {
    /// Reads the fields of a new task.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn read(fields: &Value, now: Millis) -> Result<Self, Wrong> {
        let zone = zone(fields)?.map_or_else(|| Zone::named("UTC").map_err(|e| wrong("zone", e)), Ok)?;
        let (recurrence, due) = when(fields, &zone, now)?.ok_or_else(|| {
            wrong("at", "say when: one of at (2026-12-24T18:00:00Z), every (15m) and cron (0 9 * * 1-5)")
        })?;
        let end = End { at: until(fields, &zone)?.flatten(), count: count(fields)?.flatten() };
        let terms =
            Self { recurrence, zone, due: Some(due), end, misfire: misfire(fields)?.unwrap_or_default() };
        terms.checked(0, now)
    }

    /// Reads the fields in which a task is to be different; what is not said stays, and what is `null` is taken away.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn changed(self, fields: &Value, runs: u32, now: Millis) -> Result<Self, Wrong> {
        let given = zone(fields)?;
        let is_moved = given.as_ref().is_some_and(|zone| *zone != self.zone);
        let zone = given.unwrap_or_else(|| self.zone.clone());
        let (recurrence, due) = match when(fields, &zone, now)? {
            Some((recurrence, due)) => (recurrence, Some(due)),
            None => match self.recurrence {
                // The same local times, elsewhere.
                Recurrence::Calendar { cron, .. } if is_moved => {
                    let moved = Recurrence::Calendar { cron, zone: zone.clone() };
                    let due = moved.next(now);
                    (moved, due)
                }
                same => (same, self.due),
            },
        };
        let end = End {
            at: until(fields, &zone)?.unwrap_or(self.end.at),
            count: count(fields)?.unwrap_or(self.end.count),
        };
        let misfire = misfire(fields)?.unwrap_or(self.misfire);
        Self { recurrence, zone, due, end, misfire }.checked(runs, now)
    }

    fn checked(self, runs: u32, now: Millis) -> Result<Self, Wrong> {
        match self.due {
            Some(due) if self.end.admits(due, runs) => Ok(self),
            Some(_) if self.end.count.is_some_and(|count| runs >= count) => {
                Err(wrong("count", format!("it has run {runs} times; give a greater number")))
            }
            Some(due) => Err(wrong("until", format!("the first run would be at {due}, after the end"))),
            None => Err(wrong("at", format!("it would never run again; now is {now}"))),
        }
    }

    /// What happens now: whether a run is made, and when the next is due.
    pub fn misfire(&self, runs: u32, now: Millis) -> Due {
        let Some(due) = self.due else { return Due { run: None, next: None } };
        let Due { run, next } = self.recurrence.misfire(self.misfire, due, now);
        let runs = runs.saturating_add(u32::from(run.is_some()));
        Due { run, next: next.filter(|next| self.end.admits(*next, runs)) }
    }

    /// When it goes on that was paused: what was due meanwhile was not missed. `None` when nothing is left.
    pub fn resumed(&self, runs: u32, now: Millis) -> Option<Millis> {
        let next = match self.due {
            Some(due) if due > now => Some(due),
            Some(due) => self.recurrence.misfire(Misfire::Skip, due, now).next,
            None => None,
        };
        next.filter(|next| self.end.admits(*next, runs))
    }

    /// Up to `most` runs to come.
    pub fn coming(&self, runs: u32, most: u32) -> Vec<Millis> {
        let mut coming = Vec::new();
        let mut next = self.due;
        for made in 0..most {
            let Some(due) = next.filter(|due| self.end.admits(*due, runs.saturating_add(made))) else {
                break;
            };
            coming.push(due);
            next = self.recurrence.next(due);
        }
        coming
    }

    /// As the ledger keeps it.
    pub fn kept(&self) -> Times {
        Times {
            recurrence: self.recurrence.to_string(),
            zone: self.zone.name().to_owned(),
            due: self.due,
            until: self.end.at,
            count: self.end.count,
            misfire: match self.misfire {
                Misfire::RunOnce => "run_once",
                Misfire::Skip => "skip",
            }
            .to_owned(),
        }
    }

    /// As the ledger has it.
    ///
    /// # Errors
    /// When this build does not understand it.
    pub fn of(times: &Times) -> Result<Self, RecurrenceError> {
        Ok(Self {
            recurrence: times.recurrence.parse()?,
            zone: Zone::named(&times.zone)?,
            due: times.due,
            end: End { at: times.until, count: times.count },
            misfire: if times.misfire == "skip" { Misfire::Skip } else { Misfire::RunOnce },
        })
    }
}

/// An instant as people in a zone write it: `2026-11-24T09:00:00+01:00`.
pub fn local(zone: &Zone, at: Millis) -> String {
    let instant = Timestamp::from_millisecond(at.0).unwrap_or(Timestamp::UNIX_EPOCH);
    let offset = zone.0.to_offset(instant);
    format!("{:.0}", instant.display_with_offset(offset))
}

/// A text; `null` is as if it were not said.
fn text<'a>(fields: &'a Value, field: &'static str) -> Result<Option<&'a str>, Wrong> {
    match fields.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            value.as_str().map(|text| Some(text.trim())).ok_or_else(|| wrong(field, "it is a text"))
        }
    }
}

fn zone(fields: &Value) -> Result<Option<Zone>, Wrong> {
    let named = text(fields, "zone")?.map(Zone::named).transpose();
    named.map_err(|error| wrong("zone", error))
}

/// An instant, or a local time of the zone.
fn instant(field: &'static str, text: &str, zone: &Zone) -> Result<Millis, Wrong> {
    let local = || text.parse::<DateTime>().ok().filter(|_| text.contains('T') && !text.contains('['));
    let found = Millis::parse(text).or_else(|| Some(Millis(zone.instant(local()?)?.as_millisecond())));
    found.ok_or_else(|| {
        let found = plain::word(text);
        wrong(
            field,
            format!("{found} is no time; write 2026-12-24T18:00:00Z, an offset, or a local time with a zone"),
        )
    })
}

/// How often and when first, if anything is said of that.
fn when(fields: &Value, zone: &Zone, now: Millis) -> Result<Option<(Recurrence, Millis)>, Wrong> {
    let (at, every, cron) = (text(fields, "at")?, text(fields, "every")?, text(fields, "cron")?);
    let first = at.map(|at| instant("at", at, zone)).transpose()?;
    if let Some(first) = first {
        if first.0 < now.0.saturating_sub(LATE) {
            return Err(wrong("at", format!("{first} is over; now is {now}")));
        }
        if first.0 > now.0.saturating_add(AHEAD) {
            return Err(wrong("at", "that is more than ten years ahead"));
        }
    }
    match (first, every, cron) {
        (None, None, None) => Ok(None),
        (Some(first), None, None) => Ok(Some((Recurrence::Once, first))),
        (first, Some(every), None) => {
            let recurrence: Recurrence = every.parse().map_err(|error| wrong("every", error))?;
            if !matches!(recurrence, Recurrence::Every(_)) {
                let text = "write a duration such as 15m, 1h30m or 2d, or hourly, daily or weekly";
                return Err(wrong("every", text));
            }
            let next = first.or_else(|| recurrence.next(now));
            Ok(next.map(|next| (recurrence, next)))
        }
        (None, None, Some(cron)) => {
            let recurrence = Recurrence::parse_in(cron, zone.name()).map_err(|error| wrong("cron", error))?;
            if !matches!(recurrence, Recurrence::Calendar { .. }) {
                let text = "write five fields: minute, hour, day of the month, month, day of the week";
                return Err(wrong("cron", text));
            }
            let next = recurrence.next(now).ok_or_else(|| wrong("cron", "it would never run"))?;
            Ok(Some((recurrence, next)))
        }
        _ => {
            Err(wrong("cron", "give one of at, every and cron; at and every together say when the first is"))
        }
    }
}

/// `Some(None)` is that there is to be none.
fn until(fields: &Value, zone: &Zone) -> Result<Option<Option<Millis>>, Wrong> {
    match fields.get("until") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(_) => {
            let text = text(fields, "until")?.unwrap_or_default();
            instant("until", text, zone).map(|at| Some(Some(at)))
        }
    }
}

fn count(fields: &Value) -> Result<Option<Option<u32>>, Wrong> {
    match fields.get("count") {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(value) => {
            let count = value.as_u64().filter(|count| (1..=MOST_RUNS).contains(count));
            let count = count.and_then(|count| u32::try_from(count).ok());
            count
                .map(|count| Some(Some(count)))
                .ok_or_else(|| wrong("count", format!("it is a number from 1 to {MOST_RUNS}")))
        }
    }
}

fn misfire(fields: &Value) -> Result<Option<Misfire>, Wrong> {
    match text(fields, "misfire")? {
        None => Ok(None),
        Some("run_once") => Ok(Some(Misfire::RunOnce)),
        Some("skip") => Ok(Some(Misfire::Skip)),
        Some(_) => Err(wrong("misfire", "it is run_once or skip")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json;

    fn at(text: &str) -> Millis {
        Millis::parse(text).unwrap()
    }

    fn fields(text: &str) -> Value {
        json::parse(text.as_bytes()).unwrap()
    }

    fn read(text: &str) -> Result<Terms, Wrong> {
        Terms::read(&fields(text), at("2026-11-23T12:00:00Z"))
    }

    #[test]
    fn what_is_written_is_kept_and_read_back() {
        for (text, recurrence, due) in [
            (r#"{"at":"2026-12-24T18:00:00Z"}"#, "once", "2026-12-24T18:00:00.000Z"),
            (r#"{"at":"2026-12-24T18:00:00+01:00","zone":"Asia/Tokyo"}"#, "once", "2026-12-24T17:00:00.000Z"),
            (r#"{"at":"2026-12-24T18:00","zone":"Europe/Berlin"}"#, "once", "2026-12-24T17:00:00.000Z"),
            (r#"{"at":"2026-11-23T11:58:00Z"}"#, "once", "2026-11-23T11:58:00.000Z"),
            (r#"{"every":"15m"}"#, "15m", "2026-11-23T12:15:00.000Z"),
            (r#"{"every":"daily","at":"2026-11-24T08:00:00Z"}"#, "daily", "2026-11-24T08:00:00.000Z"),
            (
                r#"{"cron":"0 9 * * 1-5","zone":"Europe/Berlin"}"#,
                "0 9 * * 1-5 Europe/Berlin",
                "2026-11-24T08:00:00.000Z",
            ),
            (r#"{"cron":"@daily"}"#, "0 0 * * *", "2026-11-24T00:00:00.000Z"),
        ] {
            let terms = read(text).unwrap_or_else(|wrong| panic!("{text}: {wrong}"));
            assert_eq!(terms.recurrence.to_string(), recurrence, "{text}");
            assert_eq!(terms.due.unwrap().to_string(), due, "{text}");
            assert_eq!(Terms::of(&terms.kept()), Ok(terms), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_field() {
        for (text, field) in [
            ("{}", "at"),
            (r#"{"at":"tomorrow"}"#, "at"),
            (r#"{"at":"2026-11-23T11:00:00Z"}"#, "at"),
            (r#"{"at":"2126-11-23T11:00:00Z"}"#, "at"),
            (r#"{"at":7}"#, "at"),
            (r#"{"every":"59s"}"#, "every"),
            (r#"{"every":"0 9 * * *"}"#, "every"),
            (r#"{"every":"once"}"#, "every"),
            (r#"{"cron":"15m"}"#, "cron"),
            (r#"{"cron":"61 * * * *"}"#, "cron"),
            (r#"{"cron":"0 9 * * *","every":"15m"}"#, "cron"),
            (r#"{"cron":"0 9 * * *","at":"2026-12-24T18:00:00Z"}"#, "cron"),
            (r#"{"cron":"0 9 * * *","zone":"Berlin"}"#, "zone"),
            (r#"{"every":"15m","until":"2026-11-23T12:14:00Z"}"#, "until"),
            (r#"{"every":"15m","count":0}"#, "count"),
            (r#"{"every":"15m","misfire":"all"}"#, "misfire"),
        ] {
            assert_eq!(read(text).map_err(|wrong| wrong.field), Err(field), "{text}");
        }
    }

    #[test]
    fn what_is_not_said_stays_as_it_was() {
        let now = at("2026-11-23T12:00:00Z");
        let daily = read(r#"{"cron":"0 9 * * *","zone":"Europe/Berlin","count":3}"#).unwrap();
        let changed = |text: &str| daily.clone().changed(&fields(text), 2, now);
        assert_eq!(changed("{}"), Ok(daily.clone()));
        let moved = changed(r#"{"zone":"Asia/Tokyo"}"#).unwrap();
        assert_eq!(moved.recurrence.to_string(), "0 9 * * * Asia/Tokyo");
        assert_eq!(moved.due, Some(at("2026-11-24T00:00:00Z")));
        assert_eq!(changed(r#"{"count":null}"#).unwrap().end.count, None);
        assert_eq!(changed(r#"{"count":2}"#).unwrap_err().field, "count");
        let once = changed(r#"{"at":"2026-11-24T18:00"}"#).unwrap();
        assert_eq!((once.recurrence, once.due), (Recurrence::Once, Some(at("2026-11-24T17:00:00Z"))));
        assert_eq!(changed(r#"{"until":"2026-11-23T20:00:00Z"}"#).unwrap_err().field, "until");
    }

    #[test]
    fn runs_come_until_the_end() {
        let terms = read(r#"{"every":"hourly","count":3}"#).unwrap();
        let due = terms.due.unwrap();
        assert_eq!(terms.coming(0, 9).len(), 3);
        assert_eq!(terms.coming(2, 9), [due]);
        let late = Millis(due.0 + 5 * 3_600_000 + 1);
        assert_eq!(terms.misfire(0, late), Due { run: Some(due), next: Some(Millis(due.0 + 6 * 3_600_000)) });
        assert_eq!(terms.misfire(2, late), Due { run: Some(due), next: None });
        let until = read(r#"{"every":"hourly","until":"2026-11-23T14:30:00Z"}"#).unwrap();
        assert_eq!(until.coming(0, 9).len(), 2);
        assert_eq!(until.misfire(1, at("2026-11-23T14:00:00Z")).next, None);
        // What was due while it was paused was not missed.
        assert_eq!(terms.resumed(0, late), Some(Millis(due.0 + 6 * 3_600_000)));
        assert_eq!(terms.resumed(3, late), None);
        let once = read(r#"{"at":"2026-11-23T13:00:00Z"}"#).unwrap();
        assert_eq!(once.resumed(0, at("2026-11-23T12:30:00Z")), once.due);
        assert_eq!(once.resumed(0, at("2026-11-23T13:30:00Z")), None);
    }
}
