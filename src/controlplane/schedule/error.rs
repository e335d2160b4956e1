//! What may be wrong with a recurrence, in the words that its writer reads. Pure.

use std::fmt;

use super::calendar::MOST_BYTES;
use crate::contract::plain;

/// Why a text is no recurrence. Each says what was found, what is expected and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecurrenceError {
    /// Longer than [`MOST_BYTES`], or its canonical form would be.
    TooLong,
    /// None of the known forms.
    Unknown(String),
    /// Not a whole duration with units.
    Duration(String),
    /// Shorter than a minute or longer than ten years.
    Interval(String),
    /// A cron line with more or fewer than five fields.
    Fields(usize),
    /// One field of a cron line.
    Field {
        /// Which.
        field: &'static str,
        /// What it held.
        found: String,
        /// The least number it may hold.
        first: u32,
        /// The greatest.
        last: u32,
        /// The first of the words it may hold, if it may hold any.
        words: Option<&'static str>,
    },
    /// No zone of that name.
    Zone(String),
    /// A date that no year has.
    Never,
}

impl fmt::Display for RecurrenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "the recurrence is longer than {MOST_BYTES} bytes; list fewer values"),
            Self::Unknown(found) => write!(
                f,
                "{} is no recurrence; write once, hourly, daily, weekly, a duration such as 1h30m, or five cron \
                 fields and a zone such as 0 9 * * 1-5 Europe/Berlin",
                plain::word(found)
            ),
            Self::Duration(found) => write!(
                f,
                "{} is no duration; write numbers with the units d, h, m and s, such as 15m or 1h30m",
                plain::word(found)
            ),
            Self::Interval(found) => write!(
                f,
                "{} is not between one minute and ten years; write an interval of 1m or more",
                plain::word(found)
            ),
            Self::Fields(found) => write!(
                f,
                "a cron line has five fields (minute, hour, day of the month, month, day of the week) and a zone \
                 after them, not {found} words; write 0 9 * * 1-5 Europe/Berlin, without seconds or years"
            ),
            Self::Field { field, found, first, last, words } => {
                write!(f, "the {field} {} is not understood; write {first} to {last}", plain::word(found))?;
                if let Some(word) = words {
                    write!(f, " or names such as {word}")?;
                }
                f.write_str(", with *, ranges (1-5), steps (*/2) and lists (1,3)")
            }
            Self::Zone(found) => write!(
                f,
                "there is no time zone {}; write an IANA name such as Europe/Berlin or UTC",
                plain::word(found)
            ),
            Self::Never => f.write_str("no year has that date; write a day that the month has"),
        }
    }
}

impl std::error::Error for RecurrenceError {}
