//! What a sandbox asks of the host. One table says for each action which tool must be granted for it and what does
//! it; what is not in the table is done by nobody. It runs in the transaction that stores the sandbox's other outputs,
//! against the grants of that moment. Who asks is the session whose socket it came on, whatever the envelope says.
//! Touches the ledger and the gateway's desk.

use rusqlite::Transaction;
use smol::channel::Sender;

use super::Sessions;
use super::actor::Event;
use crate::contract::action::{Action, Outcome};
use crate::contract::fault;
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::json::{JsonError, Value, only_fields};
use crate::contract::plain;
use crate::controlplane::audit::Exporting;
use crate::controlplane::gateway::decide;
use crate::controlplane::gateway::desk::Desk;
use crate::controlplane::gateway::facts::Facts;
use crate::controlplane::gateway::payload::{Refusals, shown};
use crate::controlplane::gateway::submit::{MOST_REASON, NotSubmitted, Origin, Request};
use crate::controlplane::store::{StoreError, calls, groups, sessions};
use crate::controlplane::tasks;

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
    Entry {
        action: "request_capability_change",
        tool: "request_capability_change",
        run: request_capability_change,
    },
    Entry { action: "create_agent", tool: "create_agent", run: create_agent },
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
    /// The session's group; known once it was looked up.
    group: GroupName,
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
        tasks::spawn(async move {
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
        Self { outcome, decided: None, is_repeat: false, refused: None }
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
        Self { outcome, decided: None, is_repeat: false, refused }
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
    action: Result<Action, JsonError>,
) -> Result<Answer, StoreError> {
    let row = sessions::get(tx, session)?.ok_or(StoreError::BadRow("a session"))?;
    let asker = Asker { desk, session, unavailable, group: row.partition.group };
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
        Ok(Granted { result, decided, is_repeat }) => {
            Answer { outcome: Outcome { name, call, ok: true, result }, decided, is_repeat, refused: None }
        }
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

    /// Hands a request to the gateway, in the name of this session's agent.
    fn submit(&self, tx: &Transaction<'_>, request: &Request) -> Result<Done, StoreError> {
        // A call that comes again has asked already, and is answered when that is recorded.
        let comes_again = match &request.key {
            Some(call) => calls::find(tx, self.session, call)?.is_some(),
            None => false,
        };
        if let Some(reason) = self.unavailable.filter(|_| !comes_again) {
            let text =
                format!("nothing was asked, because it could not be recorded: {reason}; try again later");
            return Ok(Err(refusal("audit_unavailable", text)));
        }
        let origin = Origin::Agent { session: self.session.clone(), group: self.group.clone() };
        let submitted = match self.desk.submit(tx, &origin, request)? {
            Ok(submitted) => submitted,
            Err(not) => return Ok(Err(not_submitted(not))),
        };
        // The same words for a request that was there before: a call that a crash made come again must not see it.
        let change = submitted.change;
        let result = Value::object([
            ("change", Value::from(change.id.as_str())),
            ("state", Value::from(change.state.as_str())),
        ]);
        Ok(Ok(Granted { result, decided: submitted.outcome, is_repeat: submitted.is_repeat }))
    }
}

/// The words for an agent whose request was not taken.
fn not_submitted(not: NotSubmitted) -> Refusal {
    match not {
        NotSubmitted::Unsupported(text) => refusal("unsupported_here", text),
        NotSubmitted::Invalid(refusals) => refusal("refused", sentences(&refusals)),
        NotSubmitted::Forbidden => refusal("forbidden", "an agent asks for changes of itself only"),
        NotSubmitted::TooMany(most) => refusal(
            "too_many_pending",
            format!(
                "{most} requests of this agent wait for a person, as many as may; ask when some are decided"
            ),
        ),
        NotSubmitted::TooOften(most) => refusal(
            "too_many_requests",
            format!("this agent has asked {most} times in a day, as often as it may; ask tomorrow"),
        ),
        NotSubmitted::TooMuch(most) => refusal(
            "too_many_bytes",
            format!(
                "what this agent asks for in a day may have {most} bytes, and this would be more; ask tomorrow"
            ),
        ),
        NotSubmitted::KeyReused(id) => {
            refusal("call_reused", format!("this call was made before, for something else: {id}"))
        }
    }
}

fn sentences(refusals: &Refusals) -> String {
    let all: Vec<&str> = refusals.iter().map(|refusal| refusal.text.as_str()).collect();
    all.join("; ")
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

/// Why the agent asks: a person reads it before anything else.
fn reason(action: &Action) -> Result<String, Refusal> {
    let reason = text(action, "reason")?;
    match reason.len() {
        _ if reason.trim().is_empty() => {
            Err(refusal("refused", "reason is empty: say why, for the person who decides"))
        }
        0..=MOST_REASON => Ok(reason.to_owned()),
        bytes => Err(refusal("refused", format!("reason has {bytes} bytes, and {MOST_REASON} are the most"))),
    }
}

/// `{"kind", "payload", "reason"}`: a change of the asking agent itself.
fn request_capability_change(
    asker: &Asker<'_>,
    tx: &Transaction<'_>,
    action: &Action,
) -> Result<Done, StoreError> {
    let request = (|| {
        known(action, &["kind", "payload", "reason"])?;
        let kind = text(action, "kind")?.to_owned();
        if kind == CREATE_AGENT {
            return Err(refusal("refused", "another agent is asked for with the tool create_agent"));
        }
        let payload = action.arguments.get("payload").cloned();
        Ok(Request {
            kind,
            group: asker.group.clone(),
            payload: payload.ok_or_else(|| refusal("refused", "payload is missing: an object"))?,
            reason: reason(action)?,
            key: Some(action.call.clone()),
            facts: Facts::default(),
        })
    })();
    match request {
        Ok(request) => asker.submit(tx, &request),
        Err(refusal) => Ok(Err(refusal)),
    }
}

const CREATE_AGENT: &str = "create_agent";

/// What an agent may say about another one. Members and chats are given by people.
const OF_A_NEW_AGENT: &[&str] = &["title", "identity", "soul", "instructions", "tools", "provider", "model"];

/// `{"name", "reason", …}`: another agent, which has nothing but what is asked for here.
fn create_agent(asker: &Asker<'_>, tx: &Transaction<'_>, action: &Action) -> Result<Done, StoreError> {
    let request = (|| {
        known(action, &[&["name", "reason"], OF_A_NEW_AGENT].concat())?;
        let name = text(action, "name")?;
        let group = GroupName::parse(name).map_err(|error| refusal("refused", format!("name is {error}")))?;
        let said =
            OF_A_NEW_AGENT.iter().filter_map(|field| Some((*field, action.arguments.get(field)?.clone())));
        Ok(Request {
            kind: CREATE_AGENT.to_owned(),
            group,
            payload: Value::object(said),
            reason: reason(action)?,
            key: Some(action.call.clone()),
            facts: Facts::default(),
        })
    })();
    match request {
        Ok(request) => asker.submit(tx, &request),
        Err(refusal) => Ok(Err(refusal)),
    }
}

#[cfg(test)]
mod tests;
