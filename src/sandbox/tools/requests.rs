//! The tools with which an agent asks for what it does not have. They change nothing here: each becomes an action for
//! the host, which checks it against its own ledger, and a person decides. Pure.

use super::{Repeat, Task, Tool, ToolError, text};
use crate::contract::action::Outcome;
use crate::contract::json::{Value, only_fields};

/// Asks for a change of this agent.
pub(super) const REQUEST_CAPABILITY_CHANGE: Tool = Tool {
    name: "request_capability_change",
    description: "Ask for a change of what you are or may do. Nothing changes until a person approves it: you get \
        the id of the request at once and are told in a new message when it is decided, so do not wait for it and do \
        not ask again. Kinds and payloads: persona {identity?, soul?, instructions?} (texts); enabled_tools {tools: \
        \"all\" | \"none\" | [names]}; model {provider?, model}; wiring {add: [{channel, chat}], \
        destinations: [{name, channel, chat} or {name, kind: \"agent\", agent_group}], remove_destinations: [names]}. The host says what \
        is wrong with a payload.",
    group: "requests",
    schema: || {
        Value::object([
            ("type", Value::from("object")),
            (
                "properties",
                Value::object([
                    ("kind", word("The kind of change")),
                    (
                        "payload",
                        Value::object([
                            ("type", Value::from("object")),
                            ("description", Value::from("What is to be different")),
                        ]),
                    ),
                    ("reason", word("Why, for the person who decides")),
                ]),
            ),
            ("required", Value::Array(["kind", "payload", "reason"].map(Value::from).to_vec())),
            ("additionalProperties", false.into()),
        ])
    },
    repeat: Repeat::Idempotent,
    task: Task::Host { arguments: change, tell: asked },
};

/// Asks for another agent.
pub(super) const CREATE_AGENT: Tool = Tool {
    name: "create_agent",
    description: "Ask for another agent of that name. A person decides; you are told in a new message. The new agent \
        has nothing of yours: no tools, files, chats or members but what the people who run this machine give it.",
    group: "requests",
    schema: || {
        Value::object([
            ("type", Value::from("object")),
            (
                "properties",
                Value::object([
                    ("name", word("a-z, 0-9 and . _ - inside; 63 characters at most")),
                    ("title", word("What people call it")),
                    ("identity", word("Who it is")),
                    ("soul", word("What it cares about and how it speaks")),
                    ("instructions", word("What it does and how")),
                    (
                        "tools",
                        Value::object([
                            ("type", Value::from("array")),
                            ("items", Value::object([("type", Value::from("string"))])),
                            ("description", Value::from("Names of the tools it needs; none if left out")),
                        ]),
                    ),
                    ("provider", word("Who runs its model")),
                    ("model", word("The model")),
                    ("reason", word("Why, for the person who decides")),
                ]),
            ),
            ("required", Value::Array(["name", "reason"].map(Value::from).to_vec())),
            ("additionalProperties", false.into()),
        ])
    },
    repeat: Repeat::Idempotent,
    task: Task::Host { arguments: agent, tell: asked },
};

fn word(description: &'static str) -> Value {
    Value::object([("type", Value::from("string")), ("description", description.into())])
}

/// The input as it is, if all of its fields are known: what is unknown would be refused by the host, with less to say.
fn arguments(input: &Value, known: &[&str], required: &[&str]) -> Result<Value, ToolError> {
    for name in required {
        text(input, name)?;
    }
    only_fields(input, known).map_err(|error| ToolError(error.to_string()))?;
    Ok(input.clone())
}

fn change(input: &Value) -> Result<Value, ToolError> {
    if input.get("payload").and_then(Value::as_object).is_none() {
        return Err(ToolError("the input needs \"payload\", an object".to_owned()));
    }
    arguments(input, &["kind", "payload", "reason"], &["kind", "reason"])
}

fn agent(input: &Value) -> Result<Value, ToolError> {
    arguments(
        input,
        &["name", "title", "identity", "soul", "instructions", "tools", "provider", "model", "reason"],
        &["name", "reason"],
    )
}

/// What the host made of it.
fn asked(outcome: &Outcome) -> Result<String, ToolError> {
    if !outcome.ok {
        return Err(ToolError(
            outcome.result.as_str().map_or_else(|| outcome.result.to_string(), str::to_owned),
        ));
    }
    let word = |name: &str| outcome.result.get(name).and_then(Value::as_str).unwrap_or("unknown");
    let (change, state) = (word("change"), word("state"));
    Ok(match state {
        "pending" => format!("asked, {change}: pending; you will be told when it is decided"),
        "applied" => format!("{change}: approved by the operator's policy; it holds from the next turn on"),
        other => format!("{change}: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ok: bool, result: Value) -> Outcome {
        Outcome { name: "request_capability_change".to_owned(), call: "1".to_owned(), ok, result }
    }

    #[test]
    fn the_answer_is_told_in_words() {
        let result =
            |state: &str| Value::object([("change", Value::from("chg_1")), ("state", Value::from(state))]);
        let told = |state: &str| asked(&outcome(true, result(state))).unwrap();
        assert_eq!(told("pending"), "asked, chg_1: pending; you will be told when it is decided");
        assert!(told("applied").contains("policy"));
        assert_eq!(told("rejected"), "chg_1: rejected");
        assert_eq!(asked(&outcome(false, Value::from("refused: no"))), Err(ToolError("refused: no".into())));
        assert!(asked(&outcome(false, Value::Null)).is_err());
        assert_eq!(asked(&outcome(true, Value::Null)).unwrap(), "unknown: unknown");
    }

    #[test]
    fn input_is_checked_before_it_is_sent() {
        let object = |fields: &[&str]| Value::object(fields.iter().map(|name| (*name, Value::from("x"))));
        assert!(change(&object(&["kind", "payload", "reason"])).is_err(), "a payload is an object");
        assert!(agent(&object(&["name"])).unwrap_err().0.contains("\"reason\""));
        assert!(agent(&object(&["name", "reason", "members"])).unwrap_err().0.contains("members"));
        assert_eq!(agent(&object(&["name", "reason"])), Ok(object(&["name", "reason"])));
    }
}
