//! Requests for what an agent does not have: each becomes a change that a person decides. Touches the gateway's desk.

use rusqlite::Transaction;

use super::{Asker, Done, Entry, Granted, Refusal, known, refusal, text};
use crate::contract::action::Action;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::gateway::facts::Facts;
use crate::controlplane::gateway::payload::Refusals;
use crate::controlplane::gateway::submit::{MOST_REASON, NotSubmitted, Origin, Request};
use crate::controlplane::store::{StoreError, calls};

/// Asks for a change of the asking agent.
pub(super) const REQUEST_CAPABILITY_CHANGE: Entry = Entry {
    action: "request_capability_change",
    tool: "request_capability_change",
    run: request_capability_change,
};

/// Asks for another agent.
pub(super) const CREATE_AGENT: Entry = Entry { action: NEW_AGENT, tool: NEW_AGENT, run: create_agent };

impl Asker<'_> {
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
        Ok(Ok(Granted { result, decided: submitted.outcome, is_repeat: submitted.is_repeat, spoke: false }))
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
        if kind == NEW_AGENT {
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

const NEW_AGENT: &str = "create_agent";

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
            kind: NEW_AGENT.to_owned(),
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
