//! `ctl events`: what happens, a line each as it happens, until it is ended. A stream that breaks is opened again after
//! the last event that came. Touches the network and the terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::chat::Absence;
use super::client::{Client, Refused, encode};
use super::events::{Event, Events};
use super::lists::cell;
use super::{reopen, table};
use crate::contract::json::{self, Value};
use crate::contract::plain;

/// Follow what happens, until Ctrl-C: changes that are asked for and decided, sessions, chats, what is brought to platforms,
/// questions, audit records.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "events")]
pub(super) struct Follow {
    /// approvals, sessions, chat, deliveries, questions or audit; may be repeated (all that you may follow)
    #[argh(option)]
    topic: Vec<String>,
    /// go on after the event with this id, as --json prints it (what comes from now on)
    #[argh(option)]
    after: Option<String>,
    /// print JSON, an object a line
    #[argh(switch)]
    json: bool,
}

const HEAD: [&str; 3] = ["TIME", "WHAT", "ABOUT"];
/// Of a time and of the longest word for an event.
const WIDTHS: [usize; 2] = [24, 8];

/// `ctl events`
pub(super) fn run(client: &Client, words: &Follow) -> Result<(), Failure> {
    let topics = words.topic.join(",");
    let path = match topics.as_str() {
        "" => "/v1/events".to_owned(),
        topics => format!("/v1/events?topics={}", encode(topics)),
    };
    let again = |last: Option<&str>| match last {
        Some(last) => format!("`ironctl events --after {last}` goes on from here"),
        None => String::new(),
    };
    let mut last = words.after.clone();
    let mut stream =
        reopen::open(client, &path, last.as_deref(), Absence::IsAnError, &again(last.as_deref()))?;
    if !words.json {
        table::print_from(&HEAD, &[], &WIDTHS)?;
    }
    loop {
        let mut events = Events::new(stream);
        // What ends it, a daemon that stops or a line that breaks, is told by the next try.
        while let Ok(Some(event)) = events.next() {
            show(events.last(), &event, words.json)?;
        }
        last = events.last().map(str::to_owned).or(last);
        stream = reopen::open(client, &path, last.as_deref(), Absence::IsARestart, &again(last.as_deref()))?;
    }
}

fn show(id: Option<&str>, event: &Event, is_json: bool) -> Result<(), Failure> {
    let data = json::parse(event.data.as_bytes());
    let data = data.map_err(|_| Refused::Problem("the event stream is not ironclaw's".into()))?;
    if is_json {
        let mut out = io::stdout().lock();
        let fields = [("id", Value::from(id)), ("event", Value::from(event.name.as_str())), ("data", data)];
        writeln!(out, "{}", Value::object(fields))?;
        out.flush()?;
    } else if let Some(row) = row(&event.name, &data) {
        table::print_from(&[], &[row], &WIDTHS)?;
    }
    Ok(())
}

/// Time, what, about what; `None` for what says nothing to people.
fn row(event: &str, data: &Value) -> Option<Vec<String>> {
    let of = |key: &str| cell(data, key);
    // What others chose stands among words of the host's.
    let name = |key: &str| plain::word(&of(key)).into_owned();
    let (time, about) = match event {
        "approval" => {
            let kind = data.get("detail").map(|detail| cell(detail, "kind")).unwrap_or_default();
            let act = of("act");
            let act = act.strip_prefix("change.").unwrap_or(&act);
            (of("at"), format!("{} {act} by {}: {kind} of {}", name("object"), name("actor"), name("group")))
        }
        "audit" => (of("at"), format!("{} {} by {}", of("act"), name("object"), name("actor"))),
        "chat" => {
            let said = match of("text") {
                text if text.is_empty() => of("state"),
                text => text,
            };
            (of("at"), format!("{}/{} {}: {said}", name("agent"), name("chat"), of("direction")))
        }
        "session" => {
            let phase = if of("state") == "parked" { "parked".to_owned() } else { of("phase") };
            let reason = of("reason");
            let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            (of("phase_since"), format!("{} {}/{} {phase}{why}", of("id"), name("agent"), name("chat")))
        }
        "delivery" | "question" => {
            let because = match (of("error"), of("by")) {
                (error, by) if error.is_empty() && by.is_empty() => String::new(),
                (error, by) if by.is_empty() => format!(": {error}"),
                _ => format!(": by {}", name("by")),
            };
            let (channel, chat) = (name("channel"), name("chat"));
            (of("at"), format!("{} {} of {}, {channel}/{chat}{because}", of("id"), of("what"), name("group")))
        }
        _ => return None,
    };
    Some(vec![time, event.to_owned(), about])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_row() {
        let told = |name: &str, data: &str| row(name, &json::parse(data.as_bytes()).unwrap());
        for (name, data, about) in [
            (
                "approval",
                r#"{"at":"t","act":"change.approved","actor":"local:ann","object":"chg_1","group":"a","detail":{"kind":"model"}}"#,
                "chg_1 approved by local:ann: model of a",
            ),
            (
                "audit",
                r#"{"at":"t","act":"daemon.started","actor":"host","object":"daemon"}"#,
                "daemon.started daemon by host",
            ),
            (
                "chat",
                r#"{"at":"t","agent":"a","chat":"main","direction":"out","text":"hi"}"#,
                "a/main out: hi",
            ),
            (
                "chat",
                r#"{"at":"t","agent":"a","chat":"main","direction":"finished","text":null,"state":"done"}"#,
                "a/main finished: done",
            ),
            (
                "chat",
                r#"{"at":"t","agent":"a","chat":"main out: approved","direction":"in","text":"hi"}"#,
                "a/\"main out: approved\" in: hi",
            ),
            (
                "session",
                r#"{"phase_since":"t","id":"ses_1","agent":"a","chat":"main","state":"parked","phase":"asleep","reason":"it lied"}"#,
                "ses_1 a/main parked: it lied",
            ),
            (
                "delivery",
                r#"{"at":"t","id":"msg_1","what":"dead","group":"a","channel":"telegram","chat":"7","error":"it answers 403"}"#,
                "msg_1 dead of a, telegram/7: it answers 403",
            ),
            (
                "question",
                r#"{"at":"t","id":"q_1","what":"answered","group":"a","channel":"telegram","chat":"7","by":"telegram:42"}"#,
                "q_1 answered of a, telegram/7: by telegram:42",
            ),
            (
                "question",
                r#"{"at":"t","id":"q_1","what":"asked","group":"a","channel":"api","chat":"main","by":null}"#,
                "q_1 asked of a, api/main",
            ),
        ] {
            assert_eq!(told(name, data).unwrap(), ["t", name, about]);
        }
        assert_eq!(told("sessions", r#"{"count":0}"#), None);
    }
}
