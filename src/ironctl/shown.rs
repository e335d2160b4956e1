//! A change on the terminal: everything that whoever decides must see, and what became of it. Touches the terminal.

use std::io::{self, Write};

use super::Failure;
use super::client::encode;
use crate::contract::json::Value;
use crate::contract::plain;

pub(super) fn path(id: &str) -> String {
    format!("/v1/changes/{}", encode(id))
}

pub(super) fn out(document: &Value) -> Result<(), Failure> {
    writeln!(io::stdout(), "{document}")?;
    Ok(())
}

pub(super) fn text<'a>(change: &'a Value, name: &str) -> &'a str {
    change.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn done(change: &Value, json: bool, words: &str) -> Result<(), Failure> {
    if json {
        return out(change);
    }
    writeln!(io::stdout(), "{} {words}", plain::line(text(change, "id")))?;
    Ok(())
}

/// What became of a change that was approved.
pub(super) fn in_effect(change: &Value, json: bool) -> Result<(), Failure> {
    let id = plain::line(text(change, "id")).into_owned();
    if text(change, "state") == "approved" {
        if json {
            out(change)?;
        }
        return Err(Failure::of(format!(
            "{id} is approved, but not in effect: {}; when that is mended, run `ironctl change retry {id}`",
            plain::line(text(change, "failure"))
        )));
    }
    done(change, json, &format!("approved and in effect; `ironctl change show {id}` has the record"))
}

/// Everything that an approver must see. What others wrote was escaped by the control plane, and is again here.
pub(super) fn show(change: &Value) -> Result<(), Failure> {
    io::stdout().write_all(shown(change).as_bytes())?;
    Ok(())
}

pub(super) fn shown(change: &Value) -> String {
    let mut shown = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            shown.push_str(&format!("{name:<10} {}\n", plain::line(value)));
        }
    };
    line("change", text(change, "id"));
    line("kind", text(change, "kind"));
    line("agent", text(change, "group"));
    line("state", text(change, "state"));
    line("asked by", text(change, "requested_by"));
    line("called", text(change, "by"));
    line("because", text(change, "reason"));
    line("asked at", text(change, "submitted_at"));
    line("lapses at", if text(change, "state") == "pending" { text(change, "expires_at") } else { "" });
    line("decided by", text(change, "decided_by"));
    line("note", text(change, "note"));
    line("failed", text(change, "failure"));
    for warning in change.get("warnings").and_then(Value::as_array).unwrap_or_default() {
        line("warning", warning.as_str().unwrap_or_default());
    }
    shown.push('\n');
    shown.push_str(plain::block(text(change, "diff")).trim_end());
    shown.push_str(&format!("\n\ndigest     {}\n", plain::line(text(change, "digest"))));
    shown
}
