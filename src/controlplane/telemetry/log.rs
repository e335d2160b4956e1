//! Log lines: an event with fields, as `TIME LEVEL event key=value` or as one JSON object a line, to standard
//! error. A thread of its own writes them, whole and in order: a standard error that is closed or full never stops
//! or fails the daemon, it only costs lines.
//!
//! ```ignore
//! log::info("sandbox.launched", &[("session", &id), ("ms", &elapsed)]);
//! ```

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU8, Ordering};

use std::thread;
use std::time::Duration;

use super::queue::{Queue, StandardError};
use crate::contract::json::Value;
use crate::contract::plain;
use crate::contract::time::Millis;

/// One field of an event.
pub type Field<'a> = (&'a str, &'a dyn Display);

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `TIME LEVEL event key=value`.
    Text,
    /// One JSON object.
    Json,
}

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something is broken and needs a person.
    Error,
    /// Something went wrong and was handled.
    Warn,
    /// What an operator wants to see on an ordinary day.
    Info,
    /// What a developer wants to see.
    Debug,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// A value longer than this is cut: a log line is a line.
const VALUE_BYTES: usize = 1024;

/// What a reader of the log that is stuck may delay the end of the process by.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

static QUEUE: Queue = Queue::new();
static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static FORMAT: AtomicU8 = AtomicU8::new(Format::Text as u8);

/// Sets format and level for the whole process.
pub fn configure(format: Format, level: Level) {
    FORMAT.store(format as u8, Ordering::Relaxed);
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Something is broken and needs a person.
pub fn error(event: &str, fields: &[Field<'_>]) {
    write(Level::Error, event, fields);
}

/// Something went wrong and was handled.
pub fn warn(event: &str, fields: &[Field<'_>]) {
    write(Level::Warn, event, fields);
}

/// What an operator wants to see on an ordinary day.
pub fn info(event: &str, fields: &[Field<'_>]) {
    write(Level::Info, event, fields);
}

/// What a developer wants to see.
pub fn debug(event: &str, fields: &[Field<'_>]) {
    write(Level::Debug, event, fields);
}

fn write(level: Level, event: &str, fields: &[Field<'_>]) {
    if level as u8 > LEVEL.load(Ordering::Relaxed) {
        return;
    }
    QUEUE.push(line(format(), Millis::now(), level, event, fields), start_writer, dropped);
}

/// Waits until every line is written, at most a second; to be called before the process ends.
pub fn flush() {
    QUEUE.flush(FLUSH_LIMIT, dropped);
}

fn start_writer() -> bool {
    thread::Builder::new().name("log".to_owned()).spawn(|| QUEUE.drain(StandardError)).is_ok()
}

/// The line in the place of lines that did not fit.
fn dropped(count: u64) -> String {
    line(format(), Millis::now(), Level::Warn, "log.dropped", &[("count", &count)])
}

fn format() -> Format {
    if FORMAT.load(Ordering::Relaxed) == Format::Json as u8 { Format::Json } else { Format::Text }
}

fn line(format: Format, at: Millis, level: Level, event: &str, fields: &[Field<'_>]) -> String {
    match format {
        Format::Text => {
            let mut line = format!("{at} {:<5} {event}", level.name());
            for (key, value) in fields {
                let _ = write!(line, " {key}={}", quoted(&cut(value)));
            }
            line.push('\n');
            line
        }
        Format::Json => {
            let mut all = vec![
                ("time".to_owned(), Value::from(at.to_rfc3339())),
                ("level".to_owned(), Value::from(level.name())),
                ("event".to_owned(), Value::from(event)),
            ];
            // The three names above are taken; a field of that name would make a duplicate key.
            all.extend(fields.iter().map(|(key, value)| {
                let key = if matches!(*key, "time" | "level" | "event") {
                    format!("{key}_")
                } else {
                    (*key).to_owned()
                };
                (key, Value::from(plain::line(&cut(value)).into_owned()))
            }));
            format!("{}\n", Value::object(all))
        }
    }
}

fn cut(value: &dyn Display) -> String {
    let mut text = value.to_string();
    if text.len() > VALUE_BYTES {
        let end = (0..=VALUE_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// The bare text when it is a word, else in quotes, so that a value cannot look like another field.
fn quoted(text: &str) -> String {
    let shown = plain::line(text);
    let bare =
        !shown.is_empty() && !shown.contains([' ', '"', '=', '\\']) && !shown.contains(char::is_whitespace);
    if bare {
        shown.into_owned()
    } else {
        format!("\"{}\"", shown.replace('\\', "\\\\").replace('"', "\\\""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Millis = Millis(0);

    #[test]
    fn text_lines_keep_values_apart() {
        let fields: &[Field<'_>] = &[
            ("id", &"ses_1"),
            ("why", &"no \"such\" file"),
            ("evil", &"x\nerror y=1\u{202e}"),
            ("n", &3),
            ("e", &""),
        ];
        assert_eq!(
            line(Format::Text, AT, Level::Warn, "sandbox.died", fields),
            "1970-01-01T00:00:00.000Z warn  sandbox.died id=ses_1 why=\"no \\\"such\\\" file\" \
             evil=\"x\\\\u{a}error y=1\\\\u{202e}\" n=3 e=\"\"\n"
        );
    }

    #[test]
    fn json_lines_are_one_object_each() {
        let out = line(Format::Json, AT, Level::Info, "a.b", &[("event", &"x\ny"), ("n", &3)]);
        let value = crate::contract::json::parse(out.as_bytes()).unwrap();
        assert_eq!(value.get("event").and_then(Value::as_str), Some("a.b"));
        assert_eq!(value.get("event_").and_then(Value::as_str), Some("x\\u{a}y"));
        assert_eq!(value.get("n").and_then(Value::as_str), Some("3"));
        assert_eq!(out.matches('\n').count(), 1);
    }

    #[test]
    fn long_values_are_cut_between_characters() {
        let long = "é".repeat(VALUE_BYTES);
        assert!(line(Format::Text, AT, Level::Info, "e", &[("v", &long)]).len() < VALUE_BYTES + 64);
    }
}
