//! The five fields of a cron line as sets, and the search for the next local minute that is in all of them. Knows
//! nothing of zones and clocks. Pure, and bounded for every input.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};

use super::error::RecurrenceError;

/// Minute, hour, day of the month, month and day of the week. Where both days are restricted, either is enough, as
/// cron has always had it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
}

/// What one field may hold.
struct Field {
    name: &'static str,
    first: u32,
    last: u32,
    /// Words for numbers, the first of them for `first`.
    words: &'static [&'static str],
}

const MINUTE: Field = Field { name: "minute", first: 0, last: 59, words: &[] };
const HOUR: Field = Field { name: "hour", first: 0, last: 23, words: &[] };
const DAY: Field = Field { name: "day of the month", first: 1, last: 31, words: &[] };
const MONTH: Field = Field {
    name: "month",
    first: 1,
    last: 12,
    words: &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
};
const WEEKDAY: Field = Field {
    name: "day of the week",
    first: 0,
    last: 6,
    words: &["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
};

/// The longest day each month can have.
const LONGEST: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// The 29th of February is at most eight years away, across a century that has none.
const MOST_MONTHS: u32 = 9 * 12;

impl Cron {
    /// Reads five fields.
    ///
    /// # Errors
    /// Says which field is wrong, what it may hold, or that the date never comes.
    pub fn parse(fields: [&str; 5]) -> Result<Cron, RecurrenceError> {
        let [minute, hour, day, month, weekday] = fields;
        let cron = Cron {
            minutes: MINUTE.read(minute)?,
            hours: HOUR.read(hour)?,
            days: DAY.read(day)?,
            months: MONTH.read(month)?,
            weekdays: WEEKDAY.read(weekday)?,
        };
        if !cron.comes() {
            return Err(RecurrenceError::Never);
        }
        Ok(cron)
    }

    /// The first minute in the sets at or after this one, in local time. `None` past the year 9999.
    pub(super) fn at_or_after(&self, from: DateTime) -> Option<DateTime> {
        let start = from.date();
        // Today is special only in that its earlier minutes are over.
        if self.has_day(start)
            && let Some(time) = self.time_from(from.hour(), from.minute())
        {
            return Some(start.to_datetime(time));
        }
        let mut first = start.tomorrow().ok()?;
        for _ in 0..MOST_MONTHS {
            if has(self.months, u32::from(first.month().unsigned_abs())) {
                let rest = first.day()..=first.days_in_month();
                let found = rest.filter_map(|day| Date::new(first.year(), first.month(), day).ok());
                if let Some(date) = found.into_iter().find(|date| self.has_day(*date)) {
                    return Some(date.to_datetime(self.time_from(0, 0)?));
                }
            }
            first = first.last_of_month().tomorrow().ok()?;
        }
        None
    }

    fn has_day(&self, date: Date) -> bool {
        let day = has(self.days, u32::from(date.day().unsigned_abs()));
        let weekday = has(self.weekdays, u32::from(date.weekday().to_sunday_zero_offset().unsigned_abs()));
        let is_named = match (self.days == DAY.all(), self.weekdays == WEEKDAY.all()) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        is_named && has(self.months, u32::from(date.month().unsigned_abs()))
    }

    /// The first time of a day that is not before this one.
    fn time_from(&self, hour: i8, minute: i8) -> Option<Time> {
        let (hour, minute) = (u32::from(hour.unsigned_abs()), u32::from(minute.unsigned_abs()));
        let this_hour = if has(self.hours, hour) { first_from(self.minutes, minute) } else { None };
        let (hour, minute) = match this_hour {
            Some(minute) => (hour, minute),
            None => (first_from(self.hours, hour + 1)?, first_from(self.minutes, 0)?),
        };
        Time::new(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0).ok()
    }

    /// Whether there is any day at all. A weekday comes in every month.
    fn comes(&self) -> bool {
        let by_weekday = self.weekdays != WEEKDAY.all();
        by_weekday
            || (1..)
                .zip(LONGEST)
                .any(|(month, longest)| has(self.months, month) && first_from(self.days, 0) <= Some(longest))
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields = [
            (MINUTE, self.minutes),
            (HOUR, self.hours),
            (DAY, self.days),
            (MONTH, self.months),
            (WEEKDAY, self.weekdays),
        ];
        for (number, (field, set)) in fields.into_iter().enumerate() {
            if number > 0 {
                f.write_str(" ")?;
            }
            field.write(f, set)?;
        }
        Ok(())
    }
}

impl Field {
    fn all(&self) -> u64 {
        (self.first..=self.last).fold(0, |set, value| set | bit(value))
    }

    fn read(&self, text: &str) -> Result<u64, RecurrenceError> {
        text.split(',').try_fold(0, |set, item| Ok(set | self.item(item)?))
    }

    /// `*`, `5`, `1-5`, each also with a step: `*/10`, `1-31/2`, and `5/15` for every 15th from 5 on.
    fn item(&self, text: &str) -> Result<u64, RecurrenceError> {
        let wrong = || RecurrenceError::Field {
            field: self.name,
            found: text.to_owned(),
            first: self.first,
            last: self.last,
            words: self.words.first().copied(),
        };
        let (range, step) = match text.split_once('/') {
            Some((range, step)) => (range, Some(number(step).filter(|step| *step > 0).ok_or_else(wrong)?)),
            None => (text, None),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (self.first, self.last),
            Some((from, to)) => {
                let (from, to) = (self.value(from).ok_or_else(wrong)?, self.value(to).ok_or_else(wrong)?);
                // Sunday at the end of a range is the seventh day.
                if self.is_weekday() && to == 0 && from > 0 { (from, 7) } else { (from, to) }
            }
            None => {
                let from = self.value(range).ok_or_else(wrong)?;
                (from, if step.is_some() { self.last } else { from })
            }
        };
        if from > to {
            return Err(wrong());
        }
        let values = (from..=to).step_by(usize::try_from(step.unwrap_or(1)).unwrap_or(usize::MAX));
        Ok(values.fold(0, |set, value| set | bit(if self.is_weekday() { value % 7 } else { value })))
    }

    fn value(&self, text: &str) -> Option<u32> {
        let word = (self.first..).zip(self.words).find(|(_, word)| text.eq_ignore_ascii_case(word));
        let value = word.map(|(value, _)| value).or_else(|| number(text))?;
        let is_seventh = self.is_weekday() && value == 7;
        (is_seventh || (self.first..=self.last).contains(&value)).then_some(value)
    }

    fn is_weekday(&self) -> bool {
        self.last == WEEKDAY.last
    }

    /// The shortest of the usual ways to write a set; the same set is always written the same way.
    fn write(&self, f: &mut fmt::Formatter<'_>, set: u64) -> fmt::Result {
        let values: Vec<u32> = (self.first..=self.last).filter(|value| has(set, *value)).collect();
        if set == self.all() {
            return f.write_str("*");
        }
        if let [from, second, .., to] = values.as_slice()
            && values.len() >= 3
            && let step = second - from
            && step > 1
            && values.iter().zip((0..).map(|index| from + index * step)).all(|(value, due)| *value == due)
        {
            return match to + step > self.last {
                true if *from == self.first => write!(f, "*/{step}"),
                _ => write!(f, "{from}-{to}/{step}"),
            };
        }
        let mut rest = values.as_slice();
        while let Some(from) = rest.first() {
            let run = rest.iter().zip(*from..).take_while(|(value, due)| *value == due).count();
            let length = if run >= 3 { run } else { 1 };
            let (written, left) = rest.split_at(length);
            match written.last() {
                Some(to) if to > from => write!(f, "{from}-{to}")?,
                _ => write!(f, "{from}")?,
            }
            if !left.is_empty() {
                f.write_str(",")?;
            }
            rest = left;
        }
        Ok(())
    }
}

/// One or two digits and nothing else.
fn number(text: &str) -> Option<u32> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

fn bit(value: u32) -> u64 {
    1_u64.checked_shl(value).unwrap_or(0)
}

fn has(set: u64, value: u32) -> bool {
    set & bit(value) != 0
}

fn first_from(set: u64, from: u32) -> Option<u32> {
    let rest = set & u64::MAX.checked_shl(from).unwrap_or(0);
    (rest != 0).then(|| rest.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron(text: &str) -> Result<Cron, RecurrenceError> {
        let fields: Vec<&str> = text.split(' ').collect();
        Cron::parse(fields.try_into().unwrap())
    }

    fn runs(text: &str, from: &str, count: usize) -> Vec<String> {
        let cron = cron(text).unwrap();
        let mut from: DateTime = from.parse().unwrap();
        let mut found = Vec::new();
        while found.len() < count {
            let Some(next) = cron.at_or_after(from) else { break };
            found.push(next.strftime("%m-%d %H:%M").to_string());
            let Ok(later) = next.checked_add(jiff::SignedDuration::from_mins(1)) else { break };
            from = later;
        }
        found
    }

    #[test]
    fn every_form_is_read_and_the_same_set_is_written_the_same_way() {
        for (text, canonical) in [
            ("* * * * *", "* * * * *"),
            ("0-59 */1 1-31 jan-DEC sun-sat", "* * * * *"),
            ("00 09 * * Mon-Fri", "0 9 * * 1-5"),
            ("*/15 9-17/2 * * *", "*/15 9-17/2 * * *"),
            ("0,15,30,45 * * * *", "*/15 * * * *"),
            ("5/15 * * * *", "5-50/15 * * * *"),
            ("0 0 1,2,3,7,9,10 * *", "0 0 1-3,7,9,10 * *"),
            ("0 0 * * 7", "0 0 * * 0"),
            ("0 0 * * fri-7", "0 0 * * 0,5,6"),
            ("0 0 * * fri-sun", "0 0 * * 0,5,6"),
            ("0 0 * * 0-7", "0 0 * * *"),
            ("0 0 29 2 *", "0 0 29 2 *"),
            ("0 0 30 2 1", "0 0 30 2 1"),
        ] {
            let read = cron(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(read.to_string(), canonical, "{text}");
            assert_eq!(cron(canonical).unwrap(), read, "{text}");
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (text, name) in [
            ("60 * * * *", "minute"),
            ("-1 * * * *", "minute"),
            ("*/0 * * * *", "minute"),
            ("1,,2 * * * *", "minute"),
            ("+1 * * * *", "minute"),
            ("100000000000000000000 * * * *", "minute"),
            ("* 24 * * *", "hour"),
            ("* 17-9 * * *", "hour"),
            ("* * 0 * *", "day of the month"),
            ("* * L * *", "day of the month"),
            ("* * ? * *", "day of the month"),
            ("* * * 13 *", "month"),
            ("* * * may-feb *", "month"),
            ("* * * * 8", "day of the week"),
            ("* * * * mon#2", "day of the week"),
            ("* * * * */2/2", "day of the week"),
        ] {
            let error = cron(text).unwrap_err().to_string();
            assert!(error.contains(name), "{text}: {error}");
        }
    }

    #[test]
    fn a_date_that_never_comes_is_refused() {
        for text in ["0 0 30 2 *", "0 0 31 2,4,6,9,11 *", "* * 31 apr *"] {
            assert_eq!(cron(text), Err(RecurrenceError::Never), "{text}");
        }
        assert_eq!(runs("0 0 29 2 *", "2097-01-01T00:00", 1), ["02-29 00:00"], "2100 is no leap year");
    }

    #[test]
    fn the_next_minute_is_in_every_set() {
        assert_eq!(
            runs("30 9,18 * * *", "2026-12-31T09:30", 3),
            ["12-31 09:30", "12-31 18:30", "01-01 09:30"]
        );
        // The 1st of March 2026 is a Sunday.
        assert_eq!(
            runs("0 9 * * 1-5", "2026-02-27T09:01", 2),
            ["03-02 09:00", "03-03 09:00"],
            "over a weekend and the end of a month"
        );
        assert_eq!(
            runs("0 0 13 * 5", "2026-02-12T00:00", 3),
            ["02-13 00:00", "02-20 00:00", "02-27 00:00"],
            "either day is enough"
        );
        assert_eq!(runs("59 23 31 12 *", "9999-12-31T23:59", 2), ["12-31 23:59"]);
    }
}
