//! Sessions and the state of the control plane, as tables or as the JSON that came.

use std::io::{self, Write};

use super::Failure;
use super::client::{Client, Refused, encode};
use super::decide::confirmed;
use super::shown::out;
use super::table;
use crate::contract::json::Value;
use crate::contract::plain;

/// Rows in one answer of the control plane.
const PAGE: u64 = 500;
/// As many are held at once to be printed.
const MOST: u64 = 100_000;

/// How a result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Output {
    pub(super) fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Table }
    }
}

/// All pages of a list.
pub(super) fn all(client: &Client, path: &str, key: &str) -> Result<Vec<Value>, Failure> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let mark = if path.contains('?') { '&' } else { '?' };
        let query = if after.is_empty() { String::new() } else { format!("{mark}after={}", encode(&after)) };
        let page = client.get(&format!("{path}{query}"))?;
        found.extend_from_slice(page.get(key).and_then(Value::as_array).unwrap_or_default());
        let next = cell(&page, "next");
        // A cursor that stands still would make this endless.
        if next.is_empty() || next == after {
            return Ok(found);
        }
        after = next;
    }
}

/// The newest of a list, the newest first; a page at a time, each before what the last one ended with.
pub(super) fn newest(client: &Client, path: &str, key: &str, limit: u64) -> Result<Vec<Value>, Failure> {
    if !(1..=MOST).contains(&limit) {
        return Err(Failure::usage(format!("--limit {limit} is out of range; expected 1 to {MOST}")));
    }
    let mark = if path.contains('?') { '&' } else { '?' };
    let mut rows: Vec<Value> = Vec::new();
    let mut before = String::new();
    while let left = limit.saturating_sub(rows.len() as u64)
        && left > 0
    {
        let page = client.get(&format!("{path}{mark}limit={}{before}", left.min(PAGE)))?;
        let found = page.get(key).and_then(Value::as_array).unwrap_or_default();
        rows.extend_from_slice(found);
        let next = cell(&page, "next");
        // A page that brings nothing would make this endless.
        if next.is_empty() || found.is_empty() {
            break;
        }
        before = format!("&before={}", encode(&next));
    }
    Ok(rows)
}

/// The path of a list, of one agent where one is named.
pub(super) fn of_group(path: &str, group: Option<&str>) -> String {
    match group {
        Some(group) => format!("{path}?group={}", encode(group)),
        None => path.to_owned(),
    }
}

pub(super) fn cell(row: &Value, key: &str) -> String {
    match row.get(key) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(" "),
        Some(other) => other.to_string(),
    }
}

/// Prints rows as a table, or as JSON; `none` is said where there are none.
pub(super) fn print(
    rows: &[Value],
    output: Output,
    columns: &[(&str, &str)],
    none: &str,
) -> Result<(), Failure> {
    if output == Output::Json {
        writeln!(io::stdout(), "{}", Value::from(rows.to_vec()))?;
        return Ok(());
    }
    if rows.is_empty() {
        writeln!(io::stdout(), "{none}")?;
        return Ok(());
    }
    let head: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|(_, key)| cell(row, key)).collect()).collect();
    table::print(&head, &rows)?;
    Ok(())
}

/// `ctl session list`
pub(super) fn sessions(client: &Client, output: Output) -> Result<(), Failure> {
    let rows = all(client, "/v1/sessions", "sessions")?;
    let columns = [
        ("SESSION", "id"),
        ("AGENT", "agent"),
        ("CHAT", "chat"),
        ("STATE", "state"),
        ("PHASE", "phase"),
        ("OPEN", "open_messages"),
        ("REASON", "reason"),
    ];
    print(&rows, output, &columns, "no sessions yet; `ironclaw ctl chat AGENT` begins one")
}

/// `ctl session show`
pub(super) fn session(client: &Client, id: &str, output: Output) -> Result<(), Failure> {
    one(&client.get(&format!("/v1/sessions/{}", encode(id)))?, output)
}

/// `ctl session release`
pub(super) fn release(client: &Client, id: &str, output: Output) -> Result<(), Failure> {
    let empty = Value::Object(Vec::new());
    one(&client.post(&format!("/v1/sessions/{}/release", encode(id)), &empty)?, output)
}

/// `ctl session erase`
pub(super) fn erase(client: &Client, id: &str, yes: bool, output: Output) -> Result<(), Failure> {
    let shown = plain::line(id).into_owned();
    let question =
        format!("erase what was said in {shown}? Nobody can read it any more, and nothing brings it back.");
    if !confirmed(&question, yes)? {
        writeln!(io::stdout(), "{shown} stays as it is")?;
        return Ok(());
    }
    let answer = client.delete(&format!("/v1/sessions/{}", encode(id)))?;
    if output == Output::Json {
        return out(&answer);
    }
    writeln!(io::stdout(), "what was said in {shown} is erased")?;
    Ok(())
}

pub(super) fn one(document: &Value, output: Output) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    if output == Output::Json {
        writeln!(out, "{document}")?;
        return Ok(());
    }
    for (key, _) in document.as_object().unwrap_or_default() {
        let value = cell(document, key);
        let value = if value.is_empty() { "-" } else { &value };
        writeln!(out, "{:<14} {}", plain::line(key), plain::line(value))?;
    }
    Ok(())
}

/// `ctl status`
pub(super) fn status(client: &Client, output: Output) -> Result<(), Failure> {
    let health = client.get_any("/healthz");
    let ready = match &health {
        Ok(_) => client.get_any("/readyz"),
        Err(_) => Err(Refused::Nobody(String::new())),
    };
    let is_ready = matches!(&ready, Ok((200, _)));
    let failure = health.as_ref().err().map(|refused| refused.text().to_owned());
    let null = Value::Null;
    let (health, ready) =
        (health.as_ref().map_or(&null, |(_, d)| d), ready.as_ref().map_or(&null, |(_, d)| d));
    if output == Output::Json {
        let document = Value::object([
            ("address", Value::from(client.base())),
            ("certificate", Value::from(client.certificate())),
            ("up", Value::from(failure.is_none())),
            ("ready", Value::from(is_ready)),
            ("health", health.clone()),
            ("readiness", ready.clone()),
        ]);
        writeln!(io::stdout(), "{document}")?;
    } else if failure.is_none() {
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "control plane  up at {}, version {}",
            client.base(),
            plain::line(&cell(health, "version"))
        )?;
        if let Some(sha256) = client.certificate() {
            writeln!(out, "certificate    sha256 {sha256}, which other machines give as --tls-fingerprint")?;
        }
        let words = [cell(ready, "back_end"), cell(ready, "description"), cell(ready, "reason")];
        let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
        writeln!(
            out,
            "sandboxes      {}: {}",
            plain::line(&cell(ready, "status")),
            plain::line(&words.join(", "))
        )?;
        for note in ready.get("notes").and_then(Value::as_array).unwrap_or_default() {
            writeln!(out, "note           {}", plain::line(note.as_str().unwrap_or_default()))?;
        }
    }
    match failure {
        Some(text) => Err(Failure::of(text)),
        None if is_ready => Ok(()),
        None if cell(ready, "status") == "held" => Err(Failure::of(
            "messages go on, but somebody has to look at something first (the reason is above)",
        )),
        None => Err(Failure::of(
            "sandboxes cannot be launched now; messages are kept and wait (the reason is above)",
        )),
    }
}
