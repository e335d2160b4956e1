//! Talking to an agent: a message is sent under a name of its own, so that sending it again after a lost
//! connection never doubles it; the answer is read from the event stream, which resumes where it broke.

use std::collections::BTreeSet;
use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use super::client::{Client, Refused, encode};
use super::events::Events;
use super::{Failure, table};
use crate::contract::ids::MessageId;
use crate::contract::json::{self, Value};
use crate::contract::plain;

/// Pauses between tries after a lost connection; the last one repeats.
const PAUSES: [u64; 5] = [50, 200, 500, 1000, 2000];
/// How long a control plane may be away, as during its restart.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// One message, its answer, done.
pub(super) fn once(client: &Client, agent: &str, chat: &str, text: &str) -> Result<(), Failure> {
    let sent = send(client, agent, chat, text, Absence::IsAnError)?;
    answer(client, agent, chat, &sent)
}

/// A conversation: every line of the input is a message.
pub(super) fn conversation(client: &Client, agent: &str, chat: &str) -> Result<(), Failure> {
    let terminal = io::stdin().is_terminal();
    if terminal {
        let agent = plain::line(agent);
        writeln!(
            io::stderr(),
            "Talking to {agent} in chat {}. An empty line does nothing, Ctrl-D ends.",
            plain::line(chat)
        )?;
    }
    // Asked before the first line, so that a wrong name or token is said at once.
    client.get(&format!("/v1/chat/{}/messages?chat={}&limit=1", encode(agent), encode(chat)))?;
    let mut lines = io::stdin().lock();
    loop {
        if terminal {
            write!(io::stdout(), "> ")?;
            io::stdout().flush()?;
        }
        let mut line = String::new();
        let read = lines.read_line(&mut line);
        if read.map_err(|error| {
            Failure::of(format!("the input cannot be read: {error}; it must be UTF-8 text"))
        })? == 0
        {
            if terminal {
                writeln!(io::stdout())?;
            }
            return Ok(());
        }
        let text = line.trim_end_matches(['\n', '\r']);
        if !text.trim().is_empty() {
            let sent = send(client, agent, chat, text, Absence::IsARestart)?;
            answer(client, agent, chat, &sent)?;
        }
    }
}

/// A message that the control plane has.
struct Sent {
    message: String,
    position: u64,
}

/// What it means that nobody listens at the first try.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Absence {
    /// There is no control plane.
    IsAnError,
    /// It was there a moment ago.
    IsARestart,
}

/// Sends a message until it is accepted or refused. A try whose connection broke may have arrived, so it is
/// repeated under the same name.
fn send(client: &Client, agent: &str, chat: &str, text: &str, absence: Absence) -> Result<Sent, Failure> {
    let event_id = MessageId::mint();
    let body = Value::object([
        ("text", Value::from(text)),
        ("event_id", Value::from(event_id.as_str())),
        ("chat", Value::from(chat)),
    ]);
    let path = format!("/v1/chat/{}/messages", encode(agent));
    let mut pauses = Pauses::new(Instant::now() + PATIENCE);
    loop {
        match client.post(&path, &body) {
            Ok(answer) => {
                let message = answer.get("message_id").and_then(Value::as_str).map(str::to_owned);
                let position = answer.get("position").and_then(Value::as_u64);
                return match (message, position) {
                    (Some(message), Some(position)) => Ok(Sent { message, position }),
                    _ => Err(Failure::of(
                        "the control plane's answer has no message_id and position; check --addr",
                    )),
                };
            }
            Err(Refused::Problem(text)) => return Err(Failure::of(text)),
            Err(refused) => {
                let nobody = matches!(refused, Refused::Nobody(_)) && pauses.tries == 0;
                if (nobody && absence == Absence::IsAnError) || !pauses.wait() {
                    return Err(refused.into());
                }
            }
        }
    }
}

/// Waits between tries.
pub(super) struct Pauses {
    until: Instant,
    tries: usize,
}

impl Pauses {
    pub(super) fn new(until: Instant) -> Self {
        Self { until, tries: 0 }
    }

    /// Whether there is another try.
    pub(super) fn wait(&mut self) -> bool {
        if Instant::now() >= self.until {
            return false;
        }
        let pause = PAUSES.get(self.tries).or(PAUSES.last()).copied().unwrap_or(1000);
        self.tries += 1;
        std::thread::sleep(Duration::from_millis(pause));
        true
    }
}

/// Prints what is said until the message is finished.
fn answer(client: &Client, agent: &str, chat: &str, sent: &Sent) -> Result<(), Failure> {
    let path = format!("/v1/chat/{}/events?chat={}", encode(agent), encode(chat));
    let mut reading = Reading {
        message: sent.message.clone(),
        last: sent.position,
        ours: BTreeSet::from([sent.message.clone()]),
    };
    let mut pauses = Pauses::new(Instant::now() + PATIENCE);
    let mut told = false;
    loop {
        let lost = match client.stream(&path, Some(&reading.last.to_string())) {
            Ok(stream) => {
                let mut events = Events::new(stream);
                if !told && let Some(reason) = why_not_ready(client) {
                    told = true;
                    writeln!(
                        io::stderr(),
                        "ironclaw: the message is kept and waits: {}",
                        plain::line(&reason)
                    )?;
                }
                loop {
                    match events.next() {
                        Ok(Some(event)) => {
                            pauses = Pauses::new(Instant::now() + PATIENCE);
                            match reading.take(event.id, &event.data) {
                                Step::Say(text) => table::say(&text)?,
                                Step::Note(text) => {
                                    writeln!(io::stderr(), "ironclaw: {}", plain::line(&text))?
                                }
                                Step::Done => return Ok(()),
                                Step::Failed(reason) => {
                                    let reason = plain::line(&reason).into_owned();
                                    return Err(Failure::of(format!("the message was given up: {reason}")));
                                }
                                Step::Nothing => {}
                            }
                        }
                        Ok(None) => break "the stream ended".to_owned(),
                        Err(error) => break error.to_string(),
                    }
                    if !told && let Some(reason) = why_not_ready(client) {
                        told = true;
                        writeln!(
                            io::stderr(),
                            "ironclaw: the message is kept and waits: {}",
                            plain::line(&reason)
                        )?;
                    }
                }
            }
            Err(Refused::Problem(text)) => return Err(Failure::of(text)),
            Err(refused) => refused.text().to_owned(),
        };
        if !pauses.wait() {
            return Err(Failure::of(format!(
                "{lost}; the message was accepted as {} and its answer will be in GET /v1/chat/{}/messages",
                sent.message,
                encode(agent)
            )));
        }
    }
}

/// Why no sandbox can be launched, if that is so.
fn why_not_ready(client: &Client) -> Option<String> {
    let (status, document) = client.get_any("/readyz").ok()?;
    let broken = status == 503 && document.get("status").and_then(Value::as_str) == Some("broken");
    broken.then(|| {
        document.get("reason").and_then(Value::as_str).unwrap_or("sandboxes cannot be launched").to_owned()
    })
}

/// What one event means for who waits.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Say(String),
    Note(String),
    Done,
    Failed(String),
    Nothing,
}

/// Follows one message through the events of its conversation.
struct Reading {
    message: String,
    last: u64,
    /// The message and those after it: a turn may take several and answer the last.
    ours: BTreeSet<String>,
}

impl Reading {
    fn take(&mut self, id: Option<u64>, data: &str) -> Step {
        // A stream that resumes may repeat; what was seen is not said again.
        match id {
            Some(id) if id <= self.last => return Step::Nothing,
            Some(id) => self.last = id,
            None => {}
        }
        let Ok(entry) = json::parse(data.as_bytes()) else { return Step::Nothing };
        let text_of = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        let message = text_of("message_id").unwrap_or_default();
        match entry.get("direction").and_then(Value::as_str) {
            Some("in") => {
                self.ours.insert(message);
                Step::Nothing
            }
            Some("out") => match (text_of("in_reply_to"), text_of("text")) {
                (Some(other), _) if !self.ours.contains(&other) => Step::Nothing,
                (Some(_), Some(text)) => Step::Say(text),
                // It answers nothing that was said here, so it must not pass for an answer.
                (None, Some(text)) => {
                    Step::Note(format!("the agent writes from another conversation: {text}"))
                }
                _ => Step::Nothing,
            },
            Some("notice") => text_of("text").map_or(Step::Nothing, Step::Note),
            Some("finished") if message == self.message => match text_of("state").as_deref() {
                Some("failed") => {
                    Step::Failed(text_of("reason").unwrap_or_else(|| "no reason was given".to_owned()))
                }
                _ => Step::Done,
            },
            _ => Step::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_followed_to_its_end() {
        let mut reading = Reading { message: "m2".into(), last: 5, ours: BTreeSet::from(["m2".to_owned()]) };
        let mut take = |id, data: &str| reading.take(Some(id), data);
        assert_eq!(take(5, r#"{"direction":"out","in_reply_to":"m2","text":"seen"}"#), Step::Nothing);
        assert_eq!(
            take(6, r#"{"direction":"out","in_reply_to":"m1","text":"of an earlier one"}"#),
            Step::Nothing
        );
        assert_eq!(take(7, r#"{"direction":"in","message_id":"m3"}"#), Step::Nothing);
        assert_eq!(take(8, r#"{"direction":"finished","message_id":"m1","state":"done"}"#), Step::Nothing);
        assert_eq!(
            take(9, r#"{"direction":"out","in_reply_to":"m3","text":"both"}"#),
            Step::Say("both".into())
        );
        assert_eq!(take(9, r#"{"direction":"out","in_reply_to":"m3","text":"both"}"#), Step::Nothing);
        assert_eq!(
            take(10, r#"{"direction":"notice","text":"memory was lost"}"#),
            Step::Note("memory was lost".into())
        );
        assert_eq!(take(11, "not json"), Step::Nothing);
        assert_eq!(
            take(12, r#"{"direction":"out","in_reply_to":null,"text":"yes"}"#),
            Step::Note("the agent writes from another conversation: yes".into())
        );
        assert_eq!(take(13, r#"{"direction":"finished","message_id":"m2","state":"done"}"#), Step::Done);
    }

    #[test]
    fn a_message_that_was_given_up_says_why() {
        let mut reading = Reading { message: "m".into(), last: 0, ours: BTreeSet::new() };
        let data = r#"{"direction":"finished","message_id":"m","state":"failed","reason":"five deaths"}"#;
        assert_eq!(reading.take(Some(1), data), Step::Failed("five deaths".into()));
    }
}
