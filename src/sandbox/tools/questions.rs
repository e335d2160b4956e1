//! The tool with which an agent asks the people where it is asked. The host shows the question and waits; the answer is a
//! message that starts another turn. Pure.

use super::{Repeat, Task, Tool, ToolError, text};
use crate::contract::action::Outcome;
use crate::contract::catalogue::{ASK_USER_QUESTION, MOST_OPTIONS};
use crate::contract::json::{Value, only_fields};

/// Asks people.
pub(super) const ASK: Tool = Tool {
    name: ASK_USER_QUESTION,
    description: "Ask the people in this chat and thread a question, with options to choose from, or to be answered in \
        their own words. It is shown at once, and you do not wait: end your turn, and the answer comes to you later as \
        a message of its own. Do not repeat the question in your reply.",
    group: "messages",
    schema,
    repeat: Repeat::Idempotent,
    task: Task::Host { arguments, tell },
};

fn schema() -> Value {
    let field = |kind: &'static str, description: String| {
        Value::object([("type", Value::from(kind)), ("description", Value::from(description))])
    };
    let options = Value::object([
        ("type", Value::from("array")),
        ("items", Value::object([("type", Value::from("string"))])),
        ("description", Value::from(format!("What can be chosen, {MOST_OPTIONS} at most, one line each"))),
    ]);
    Value::object([
        ("type", Value::from("object")),
        (
            "properties",
            Value::object([
                (
                    "question",
                    field("string", "The question, so that it can be understood by itself".to_owned()),
                ),
                ("options", options),
                (
                    "allow_freeform",
                    field(
                        "boolean",
                        "Whether other words will do too; without options they always do".to_owned(),
                    ),
                ),
                (
                    "expires_minutes",
                    field(
                        "integer",
                        "How long it can be answered: a day if left out, a week at most".to_owned(),
                    ),
                ),
            ]),
        ),
        ("required", Value::Array(vec![Value::from("question")])),
        ("additionalProperties", false.into()),
    ])
}

fn arguments(input: &Value) -> Result<Value, ToolError> {
    text(input, "question")?;
    only_fields(input, &["question", "options", "allow_freeform", "expires_minutes"])
        .map_err(|error| ToolError(error.to_string()))?;
    Ok(input.clone())
}

fn tell(outcome: &Outcome) -> Result<String, ToolError> {
    let result = &outcome.result;
    if !outcome.ok {
        return Err(ToolError(result.as_str().map_or_else(|| result.to_string(), str::to_owned)));
    }
    let id = result.get("question").and_then(Value::as_str).unwrap_or("unknown");
    Ok(format!("asked, {id}; the answer comes as a message of its own, so end your turn now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_told_in_words() {
        let outcome =
            |ok, result| Outcome { name: ASK_USER_QUESTION.to_owned(), call: "1".to_owned(), ok, result };
        let told = tell(&outcome(true, Value::object([("question", Value::from("q_1"))]))).unwrap();
        assert!(told.starts_with("asked, q_1;"), "{told}");
        assert_eq!(tell(&outcome(false, Value::from("no_chat: x"))), Err(ToolError("no_chat: x".into())));
        assert!(tell(&outcome(true, Value::Null)).is_ok_and(|told| told.contains("unknown")));
    }

    #[test]
    fn input_is_checked_before_it_is_sent() {
        let object = |fields: &[&str]| Value::object(fields.iter().map(|name| (*name, Value::from("x"))));
        assert!(arguments(&object(&["options"])).is_err());
        assert!(arguments(&object(&["question", "to"])).is_err(), "whom it asks is not its choice");
        assert_eq!(arguments(&object(&["question"])), Ok(object(&["question"])));
    }
}
