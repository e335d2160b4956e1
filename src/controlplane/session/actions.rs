//! What a sandbox asks of the host, one file for each family of actions. One table says for each action which tool must be granted for it and what does
//! it; what is not in the table is done by nobody. It runs in the transaction that stores the sandbox's other outputs,
//! against the grants of that moment. Who asks is the session whose socket it came on, whatever the envelope says.
//! Touches the ledger and the gateway's desk.

mod questions;
mod requests;
mod tasks;

use rusqlite::Transaction;
use smol::channel::Sender;

use super::Sessions;
use super::actor::Event;
use crate::contract::action::{Action, Outcome};
use crate::contract::fault;
use crate::contract::ids::{GroupName, MessageId, SessionId};
use crate::contract::json::{JsonError, Value, only_fields};
use crate::contract::plain;
use crate::controlplane::audit::Exporting;
use crate::controlplane::gateway::decide;
use crate::controlplane::gateway::desk::Desk;
use crate::controlplane::gateway::payload::shown;
use crate::controlplane::store::{StoreError, groups, sessions};
use crate::controlplane::tasks as executor;

/// One action.
struct Entry {
    /// The name in the envelope.
    action: &'static str,
    /// The tool that must be granted.
    tool: &'static str,
    run: fn(&Asker<'_>, &Transaction<'_>, &Action) -> Result<Done, StoreError>,
}

/// Every action of this build.
const TABLE: &[Entry] = &[
    requests::REQUEST_CAPABILITY_CHANGE,
    requests::CREATE_AGENT,
    questions::ASK,
    tasks::SCHEDULE,
    tasks::LIST,
    tasks::UPDATE,
    tasks::PAUSE,
    tasks::RESUME,
    tasks::CANCEL,
];

/// What unknown actions are called where they are counted: their own names are the sandbox's.
const UNKNOWN: &str = "unknown";
/// What stands for name and call of an envelope that does not read.
const UNREADABLE: &str = "unreadable";

/// Who asks, and whom.
pub(super) struct Asker<'a> {
    pub(super) desk: &'a Desk,
    pub(super) session: &'a SessionId,
    /// Why the audit files cannot be written, if that is known.
    pub(super) unavailable: Option<&'a str>,
    /// The message that the turn answers which asks, by its name in this session.
    pub(super) cause: Option<&'a MessageId>,
    /// The epoch and the number of the row that asks.
    pub(super) number: (u64, u64),
    /// The session's group; known once it was looked up.
    group: GroupName,
}

/// An envelope, read.
#[derive(Debug)]
pub(super) struct Asked {
    /// The epoch and the number of its row.
    pub(super) number: (u64, u64),
    /// The message that the turn answers which asks, by its name in this session.
    pub(super) cause: Option<MessageId>,
    /// What it asks, if that reads.
    pub(super) action: Result<Action, JsonError>,
}

/// What came of an action.
#[derive(Debug)]
pub(super) struct Answer {
    /// For the sandbox, once what was recorded of it is in the audit files.
    pub(super) outcome: Outcome,
    /// What follows outside the ledger, from then on too.
    pub(super) decided: Option<decide::Outcome>,
    /// It is the answer of an earlier call, whose record may not be there either.
    is_repeat: bool,
    /// People have something new to see.
    pub(super) spoke: bool,
    refused: Option<Refused>,
}

/// A refusal, as it is counted.
#[derive(Debug)]
struct Refused {
    group: GroupName,
    action: &'static str,
    why: &'static str,
}

impl Sessions {
    /// Hands answers back to the run that asked, and lets follow what follows from them, once everything that was
    /// recorded with them is in the audit files; however long that is, and also when the run is over meanwhile.
    pub(super) fn answer(
        &self,
        session: &SessionId,
        number: u64,
        answers: Vec<Answer>,
        exporting: Option<Exporting>,
        run: Sender<Event>,
    ) {
        let (sessions, audit) = (self.clone(), self.context().desk.audit.clone());
        // What was asked for may be due some day.
        self.context().ledger.alarm().ring();
        for Refused { group, action, why } in answers.iter().filter_map(|answer| answer.refused.as_ref()) {
            audit.action_refused(session, group, action, why);
        }
        executor::spawn(async move {
            if let Some(exporting) = exporting {
                let repeats = answers.iter().any(|answer| answer.is_repeat);
                if exporting.end().await.is_err() || repeats {
                    audit.settled().await;
                }
                fault::point("ask.recorded");
            }
            let mut outcomes = Vec::new();
            for Answer { outcome, decided, .. } in answers {
                outcomes.push(outcome);
                if let Some(decided) = decided {
                    sessions.follow(&decided);
                }
            }
            let _ = run.try_send(Event::Answered(number, outcomes));
        })
        .detach();
    }
}

/// A result, or why there is none.
type Done = Result<Granted, Refusal>;

struct Granted {
    result: Value,
    decided: Option<decide::Outcome>,
    is_repeat: bool,
    /// People have something new to see.
    spoke: bool,
}

/// Why it was not done: a word for programs, a sentence for the agent.
#[derive(Debug)]
pub(super) struct Refusal {
    why: &'static str,
    text: String,
}

impl Answer {
    /// It was done, and nothing follows.
    pub(super) fn done(outcome: Outcome) -> Self {
        Self { outcome, decided: None, is_repeat: false, spoke: false, refused: None }
    }

    /// It was refused, and that is counted under `action`.
    pub(super) fn refused(
        Refusal { why, text }: Refusal,
        group: GroupName,
        action: &'static str,
        outcome: impl FnOnce(Value) -> Outcome,
    ) -> Self {
        let outcome = outcome(Value::from(format!("{why}: {text}")));
        let refused = Some(Refused { group, action, why });
        Self { outcome, decided: None, is_repeat: false, spoke: false, refused }
    }
}

pub(super) fn refusal(why: &'static str, text: impl Into<String>) -> Refusal {
    Refusal { why, text: text.into() }
}

/// Does what an envelope asks, or refuses it; one that does not read too.
pub(super) fn execute(
    tx: &Transaction<'_>,
    desk: &Desk,
    session: &SessionId,
    unavailable: Option<&str>,
    asked: Asked,
) -> Result<Answer, StoreError> {
    let row = sessions::get(tx, session)?.ok_or(StoreError::BadRow("a session"))?;
    let Asked { number, cause, action } = asked;
    let (cause, group) = (cause.as_ref(), row.partition.group);
    let asker = Asker { desk, session, unavailable, cause, number, group };
    let (name, call, counted, done) = match action {
        Err(error) => {
            let text = format!("the action does not read: {}", plain::line(&error.to_string()));
            (UNREADABLE.to_owned(), UNREADABLE.to_owned(), UNREADABLE, Err(refusal("unreadable", text)))
        }
        Ok(action) => {
            let entry = TABLE.iter().find(|entry| entry.action == action.name);
            let done = match entry {
                Some(entry) => asker.run(tx, entry, &action)?,
                None => Err(refusal(
                    "unknown_action",
                    format!("there is no action {}; nothing was done", shown(&action.name)),
                )),
            };
            (action.name, action.call, entry.map_or(UNKNOWN, |entry| entry.action), done)
        }
    };
    Ok(match done {
        Ok(Granted { result, decided, is_repeat, spoke }) => Answer {
            outcome: Outcome { name, call, ok: true, result },
            decided,
            is_repeat,
            spoke,
            refused: None,
        },
        Err(refusal) => {
            Answer::refused(refusal, asker.group, counted, |result| Outcome { name, call, ok: false, result })
        }
    })
}

impl Asker<'_> {
    fn run(&self, tx: &Transaction<'_>, entry: &Entry, action: &Action) -> Result<Done, StoreError> {
        let group = groups::live(tx, &self.group)?.filter(|group| group.tools.has(entry.tool));
        let Some(group) = group else {
            let text = format!(
                "this agent does not have the tool {}; ask a person who runs this machine",
                entry.tool
            );
            return Ok(Err(refusal("not_granted", text)));
        };
        if let Some(reason) = group.reach_unrecorded(self.desk.audit.exported()) {
            return Ok(Err(refusal("unrecorded", format!("nothing was asked: {reason}; try again later"))));
        }
        (entry.run)(self, tx, action)
    }
}

/// The fields of an action, of which all must be known; who asks is not one of them.
fn known(action: &Action, fields: &[&str]) -> Result<(), Refusal> {
    only_fields(&action.arguments, fields).map_err(|error| {
        let text = format!("{}; it takes: {}", plain::line(&error.to_string()), fields.join(", "));
        refusal("refused", text)
    })
}

fn text<'a>(action: &'a Action, name: &str) -> Result<&'a str, Refusal> {
    let found = action.arguments.get(name).and_then(Value::as_str);
    found.ok_or_else(|| refusal("refused", format!("{name} is missing: a text")))
}

#[cfg(test)]
mod tests;
