//! The audit chain for people: its newest records as a table, new ones as they come, and whether anything was done
//! to its files. Touches the network, the terminal, and the files that it is told to check.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Failure;
use super::chat::Absence;
use super::client::{Client, Refused};
use super::events::Events;
use super::lists::{Output, cell, newest, one};
use super::{reopen, table};
use crate::contract::chain::{self, Lines, Piece, Walk};
use crate::contract::json::{self, Value};
use crate::contract::plain;

const HEAD: [&str; 6] = ["TIME", "ACT", "ACTOR", "OBJECT", "GROUP", "DETAIL"];

/// Whether to stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    /// End.
    Leave,
    /// Go on with what comes.
    Follow,
}

impl From<bool> for Then {
    fn from(follow: bool) -> Self {
        if follow { Self::Follow } else { Self::Leave }
    }
}

/// `ctl audit`
pub(super) fn show(client: &Client, limit: u64, then: Then, output: Output) -> Result<(), Failure> {
    let mut records = newest(client, "/v1/audit", "records", limit)?;
    records.reverse();
    let last = records.last().and_then(|record| record.get("seq")).and_then(Value::as_u64).unwrap_or(0);
    if then == Then::Leave && output == Output::Json {
        writeln!(io::stdout(), "{}", Value::from(records))?;
        return Ok(());
    }
    if then == Then::Leave && records.is_empty() {
        writeln!(io::stdout(), "no records yet")?;
        return Ok(());
    }
    let mut widths = Vec::new();
    if output == Output::Json {
        records.iter().try_for_each(|record| writeln!(io::stdout(), "{record}"))?;
    } else {
        let rows: Vec<Vec<String>> = records.iter().map(row).collect();
        widths = table::print_from(&HEAD, &rows, &[])?;
    }
    match then {
        Then::Leave => {
            writeln!(io::stdout(), "\ncheck that nothing of it was changed: ironctl audit verify")?;
            Ok(())
        }
        Then::Follow => follow(client, last, output, &widths),
    }
}

/// Prints what comes after a record until it is ended or the control plane refuses.
fn follow(client: &Client, mut last: u64, output: Output, widths: &[usize]) -> Result<(), Failure> {
    let again = |last: u64| format!("`ironctl audit --follow` goes on; the last that came is {last}");
    let path = "/v1/audit/events";
    let mut stream = reopen::open(client, path, Some(&last.to_string()), Absence::IsAnError, &again(last))?;
    loop {
        let mut events = Events::new(stream);
        while let Ok(Some(event)) = events.next() {
            let record = json::parse(event.data.as_bytes());
            let record = record.map_err(|_| Refused::Problem("the event stream is not ironclaw's".into()))?;
            last = event.id.unwrap_or(last).max(last);
            if output == Output::Json {
                let mut out = io::stdout().lock();
                writeln!(out, "{record}")?;
                out.flush()?;
            } else {
                table::print_from(&[], &[row(&record)], widths)?;
            }
        }
        stream = reopen::open(client, path, Some(&last.to_string()), Absence::IsARestart, &again(last))?;
    }
}

fn row(record: &Value) -> Vec<String> {
    let detail = record.get("detail").and_then(Value::as_object).unwrap_or_default();
    let detail: Vec<String> = detail
        .iter()
        .map(|(key, value)| {
            format!(
                "{key}={}",
                value.as_str().map_or_else(|| value.to_string(), |text| plain::word(text).into_owned())
            )
        })
        .collect();
    let mut row: Vec<String> =
        ["at", "act", "actor", "object", "group"].iter().map(|key| cell(record, key)).collect();
    row.push(detail.join(" "));
    row
}

/// `ctl audit acknowledge`
pub(super) fn acknowledge(client: &Client, output: Output) -> Result<(), Failure> {
    one(&client.post("/v1/audit/acknowledge", &Value::Object(Vec::new()))?, output)
}

/// `ctl audit verify`
pub(super) fn verify(client: &Client, output: Output) -> Result<(), Failure> {
    let report = {
        let _telling = Telling::begin("the records are compared with the files");
        client.get_slowly("/v1/audit/verify")?
    };
    let is_whole = report.get("ok").and_then(Value::as_bool) == Some(true);
    let null = Value::Null;
    let fault = report.get("fault").unwrap_or(&null);
    if output == Output::Json {
        writeln!(io::stdout(), "{report}")?;
    } else {
        say(&[
            ("files", cell(&report, "files")),
            ("records", format!("{} that fit, compared with the ledger", cell(&report, "records"))),
            ("tip", cell(&report, "tip")),
            ("disagreed", cell(&report, "disagreement")),
        ])?;
    }
    if is_whole {
        if output != Output::Json {
            let words = "\nkeep the tip in another place: a chain that was made anew does not hold it";
            writeln!(io::stdout(), "{words}")?;
        }
        return Ok(());
    }
    Err(Failure::of(match fault {
        Value::Null => {
            "the chain is whole again, but its files disagreed with the ledger earlier; find out why, \
                        then run `ironclaw ctl audit acknowledge`"
                .to_owned()
        }
        fault => wrong(&cell(fault, "file"), &cell(fault, "line"), &cell(fault, "what")),
    }))
}

/// Says on a terminal that something goes on, once it takes longer than a moment; until it is dropped.
struct Telling {
    ended: Option<mpsc::Sender<()>>,
    teller: Option<JoinHandle<()>>,
}

impl Telling {
    fn begin(what: &'static str) -> Self {
        if !io::stderr().is_terminal() {
            return Self { ended: None, teller: None };
        }
        let (ended, end) = mpsc::channel();
        let teller = std::thread::spawn(move || {
            let begun = Instant::now();
            let mut is_told = false;
            while end.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                is_told = true;
                let _ = write!(io::stderr(), "\r{what}: {} s", begun.elapsed().as_secs());
            }
            if is_told {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        });
        Self { ended: Some(ended), teller: Some(teller) }
    }
}

impl Drop for Telling {
    fn drop(&mut self) {
        drop(self.ended.take());
        if let Some(teller) = self.teller.take() {
            let _ = teller.join();
        }
    }
}

/// `ctl audit verify --file …`: the chain by itself.
pub(super) fn verify_files(files: &[String], output: Output) -> Result<(), Failure> {
    let _telling = Telling::begin("the chain is read");
    let mut ordered = Vec::new();
    for name in files {
        ordered.push((first_number(name)?, name));
    }
    // Whoever names `audit*.jsonl` gets them in the order of the alphabet, not of the chain.
    ordered.sort();
    let mut walk = Walk::default();
    let mut fault = None;
    for (_, name) in &ordered {
        fault = file_fault(name, &mut walk)?;
        if fault.is_some() {
            break;
        }
    }
    let names: Vec<Value> = ordered.iter().map(|(_, name)| Value::from(name.as_str())).collect();
    let tail = "not judged: only the control plane knows how far the chain goes";
    if output == Output::Json {
        let at = fault.as_ref().map_or(Value::Null, |(file, line, what)| {
            let fields = [
                ("file", file.as_str().into()),
                ("line", Value::from(*line)),
                ("what", what.as_str().into()),
            ];
            Value::object(fields)
        });
        let report = [
            ("ok", Value::from(fault.is_none())),
            ("records", Value::from(walk.last())),
            ("tip", Value::from(chain::hex(walk.tip()))),
            ("files", Value::from(names)),
            ("fault", at),
            ("tail", Value::from("not judged")),
        ];
        writeln!(io::stdout(), "{}", Value::object(report))?;
    } else {
        let names: Vec<&str> = ordered.iter().map(|(_, name)| name.as_str()).collect();
        say(&[
            ("files", names.join(" ")),
            ("records", format!("{} that fit", walk.last())),
            ("tip", chain::hex(walk.tip())),
            ("tail", tail.to_owned()),
        ])?;
    }
    match fault {
        None => Ok(()),
        Some((file, line, what)) => Err(Failure::of(wrong(&file, &line.to_string(), &what))),
    }
}

fn wrong(file: &str, line: &str, what: &str) -> String {
    let place = if line == "0" { String::new() } else { format!(" line {line}") };
    format!(
        "{}{place}: {}; keep the files as they are and find out who changed them",
        plain::line(file),
        plain::line(what)
    )
}

fn say(fields: &[(&str, String)]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name:<10} {}", plain::line(value))?;
    }
    Ok(())
}

fn open(name: &str) -> Result<Lines<BufReader<File>>, Failure> {
    let cannot = |error: io::Error| {
        Failure::of(format!("{} cannot be read: {error}; check the path and its mode", plain::line(name)))
    };
    let file = File::open(Path::new(name)).map_err(cannot)?;
    Ok(Lines::new(BufReader::new(file)))
}

fn read(name: &str, lines: &mut Lines<BufReader<File>>) -> Result<Piece, Failure> {
    lines.read().map_err(|error| Failure::of(format!("{} cannot be read: {error}", plain::line(name))))
}

/// The number of the first record; files without one come last.
fn first_number(name: &str) -> Result<u64, Failure> {
    let piece = read(name, &mut open(name)?)?;
    let place = if let Piece::Line(line) = piece { chain::place(&line) } else { None };
    Ok(place.map_or(u64::MAX, |place| place.seq))
}

/// The first thing that is wrong in a file: its name, line and what.
fn file_fault(name: &str, walk: &mut Walk) -> Result<Option<(String, u64, String)>, Failure> {
    let mut lines = open(name)?;
    loop {
        let what = match read(name, &mut lines)? {
            Piece::End => return Ok(None),
            Piece::Torn(_) => "the file ends in the middle of this record".to_owned(),
            Piece::Foreign(what) => format!("this line {what}, so it is no record"),
            Piece::Line(line) => match walk.step(&line) {
                Ok(()) => continue,
                Err(fault) => fault.to_string(),
            },
        };
        return Ok(Some((name.to_owned(), lines.count(), what)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_row() {
        let record = json::parse(
            br#"{"seq":7,"at":"2026-11-21T10:00:00.000Z","act":"session.released","actor":"local:owner",
                "via":"token:x","group":"mock-agent","object":"ses_1","detail":{"why":"a \u001b[2J","count":2}}"#,
        )
        .unwrap();
        let expected = [
            "2026-11-21T10:00:00.000Z",
            "session.released",
            "local:owner",
            "ses_1",
            "mock-agent",
            "why=\"a \\u{1b}[2J\" count=2",
        ];
        assert_eq!(row(&record), expected);
    }
}
