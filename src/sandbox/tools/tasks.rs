//! The tools with which an agent schedules what it is to be asked later. The host keeps the tasks, checks each wish
//! against its own ledger, and asks when the time comes; here are only the words. Pure.

use super::{Repeat, Task, Tool, ToolError, text};
use crate::contract::action::Outcome;
use crate::contract::catalogue;
use crate::contract::json::{Value, only_fields};

const GROUP: &str = "tasks";
/// When, as the model is told of it.
const WHEN: &[(&str, &str)] = &[
    ("at", "Once: 2026-12-24T18:00:00Z, an offset, or a local time of the zone; with every: the first time"),
    ("every", "Again and again after so long, one minute at least: 15m, 1h30m, 2d, hourly, daily, weekly"),
    ("cron", "At local times of the zone, five fields: 0 9 * * 1-5 is every weekday at nine"),
    ("zone", "Time zone of cron and of local times: Europe/Berlin; UTC if left out"),
    ("until", "Nothing after this time"),
    ("misfire", "What was missed while nothing could run: run_once (as if left out) or skip"),
];

/// Has the agent asked something at a time.
pub(super) const SCHEDULE_TASK: Tool = Tool {
    name: catalogue::SCHEDULE_TASK,
    description: "Schedule what you are to be asked later in this chat and thread, once or again and again: at its \
        time the prompt comes to you as a message from system:schedule, and your answer goes to the people here. Give \
        exactly one of at, every and cron, or every with at. Write the prompt so that it can be understood by itself.",
    group: GROUP,
    schema: || {
        let prompt = ("prompt", "What you are to be asked then, 8 KiB at most");
        schema(&[&[prompt], WHEN].concat(), true, &["prompt"])
    },
    repeat: Repeat::Idempotent,
    task: Task::Host {
        arguments: |input| arguments(input, &[&["prompt"], TIMES].concat(), "prompt"),
        tell: told,
    },
};

/// Lists what is scheduled.
pub(super) const LIST_TASKS: Tool = Tool {
    name: catalogue::LIST_TASKS,
    description: "List the tasks of this conversation that can still run, with their ids and next times.",
    group: GROUP,
    schema: || schema(&[], false, &[]),
    repeat: Repeat::ReadOnly,
    task: Task::Host {
        arguments: |input| {
            only_fields(input, &[]).map_err(|error| ToolError(error.to_string()))?;
            Ok(input.clone())
        },
        tell: listed,
    },
};

/// Changes a task.
pub(super) const UPDATE_TASK: Tool = Tool {
    name: catalogue::UPDATE_TASK,
    description: "Change what a task of this conversation asks, or when; what you leave out stays as it is.",
    group: GROUP,
    schema: || {
        let own = [("task", "Its id, tsk_…"), ("prompt", "What you are to be asked then")];
        schema(&[&own, WHEN].concat(), true, &["task"])
    },
    repeat: Repeat::Idempotent,
    task: Task::Host {
        arguments: |input| arguments(input, &[&["task", "prompt"], TIMES].concat(), "task"),
        tell: told,
    },
};

/// Lets a task rest.
pub(super) const PAUSE_TASK: Tool =
    about_one(catalogue::PAUSE_TASK, "Let a task of this conversation rest until you resume it.");

/// Lets it go on.
pub(super) const RESUME_TASK: Tool = about_one(
    catalogue::RESUME_TASK,
    "Let a task that rests go on, from its next time on; what it missed meanwhile is not made up for.",
);

/// Ends it.
pub(super) const CANCEL_TASK: Tool =
    about_one(catalogue::CANCEL_TASK, "End a task of this conversation for good.");

/// The fields of [`WHEN`], and the one that is no text.
const TIMES: &[&str] = &["at", "every", "cron", "zone", "until", "misfire", "count"];

const fn about_one(name: &'static str, description: &'static str) -> Tool {
    Tool {
        name,
        description,
        group: GROUP,
        schema: || schema(&[("task", "Its id, tsk_…")], false, &["task"]),
        repeat: Repeat::Idempotent,
        task: Task::Host { arguments: |input| arguments(input, &["task"], "task"), tell: told },
    }
}

fn schema(texts: &[(&'static str, &'static str)], counted: bool, required: &[&'static str]) -> Value {
    let field = |kind: &'static str, description: &'static str| {
        Value::object([("type", Value::from(kind)), ("description", description.into())])
    };
    let texts = texts.iter().map(|(name, description)| (*name, field("string", description)));
    let count = counted.then(|| ("count", field("integer", "So many runs in all")));
    Value::object([
        ("type", Value::from("object")),
        ("properties", Value::object(texts.chain(count))),
        ("required", Value::Array(required.iter().map(|name| Value::from(*name)).collect())),
        ("additionalProperties", false.into()),
    ])
}

/// The input as it is, if all of its fields are known.
fn arguments(input: &Value, known: &[&str], required: &str) -> Result<Value, ToolError> {
    text(input, required)?;
    only_fields(input, known).map_err(|error| ToolError(error.to_string()))?;
    Ok(input.clone())
}

fn failed(outcome: &Outcome) -> Option<ToolError> {
    let result = &outcome.result;
    (!outcome.ok).then(|| ToolError(result.as_str().map_or_else(|| result.to_string(), str::to_owned)))
}

/// What became of one task.
fn told(outcome: &Outcome) -> Result<String, ToolError> {
    failed(outcome).map_or_else(|| Ok(line(&outcome.result)), Err)
}

fn listed(outcome: &Outcome) -> Result<String, ToolError> {
    if let Some(error) = failed(outcome) {
        return Err(error);
    }
    let all = outcome.result.get("tasks").and_then(Value::as_array).unwrap_or_default();
    if all.is_empty() {
        return Ok("nothing is scheduled in this conversation".to_owned());
    }
    Ok(all.iter().map(line).collect::<Vec<_>>().join("\n"))
}

/// One task in a line: id, state, how often, the next times as people there read them, and what it asks.
fn line(task: &Value) -> String {
    let word = |name: &str| task.get(name).and_then(Value::as_str);
    let (id, state) = (word("id").unwrap_or("unknown"), word("state").unwrap_or("unknown"));
    let mut line = format!("{id}: {state}, {}", word("schedule").unwrap_or("unknown"));
    let next = task.get("next").and_then(Value::as_array).unwrap_or_default();
    let next: Vec<&str> = next.iter().filter_map(|run| run.get("local").and_then(Value::as_str)).collect();
    if !next.is_empty() {
        line.push_str(&format!("; next {} ({})", next.join(", "), word("zone").unwrap_or("UTC")));
    }
    if let Some(reason) = word("reason") {
        line.push_str(&format!("; {reason}"));
    }
    if let Some(prompt) = word("prompt") {
        line.push_str(&format!("; asks: {prompt}"));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json;

    fn value(text: &str) -> Value {
        json::parse(text.as_bytes()).unwrap()
    }

    fn outcome(ok: bool, result: &str) -> Outcome {
        Outcome { name: "list_tasks".to_owned(), call: "1".to_owned(), ok, result: value(result) }
    }

    #[test]
    fn only_known_fields_are_sent() {
        let Task::Host { arguments, .. } = SCHEDULE_TASK.task else { panic!("the host does it") };
        let good = value(r#"{"prompt":"x","cron":"0 9 * * *","zone":"UTC","count":3}"#);
        assert_eq!(arguments(&good), Ok(good.clone()));
        assert!(arguments(&value(r#"{"every":"15m"}"#)).unwrap_err().0.contains("\"prompt\""));
        assert!(arguments(&value(r#"{"prompt":"x","when":"now"}"#)).unwrap_err().0.contains("when"));
        let Task::Host { arguments, .. } = CANCEL_TASK.task else { panic!("the host does it") };
        assert!(arguments(&value("{}")).is_err());
        assert!(arguments(&value(r#"{"task":"tsk_1","prompt":"x"}"#)).is_err());
    }

    #[test]
    fn every_field_of_the_schema_is_known_and_every_known_one_is_in_it() {
        let schema = (SCHEDULE_TASK.schema)();
        let mut named: Vec<String> = schema
            .get("properties")
            .and_then(Value::as_object)
            .unwrap()
            .iter()
            .map(|(name, _)| name.clone())
            .collect();
        named.sort_unstable();
        let mut known: Vec<&str> = [&["prompt"], TIMES].concat();
        known.sort_unstable();
        assert_eq!(named, known);
    }

    #[test]
    fn the_answer_is_told_in_lines() {
        let task = r#"{"id":"tsk_1","state":"active","schedule":"0 9 * * 1-5 Europe/Berlin","zone":"Europe/Berlin",
            "next":[{"at":"2026-11-24T08:00:00.000Z","local":"2026-11-24T09:00:00+01:00"}],"reason":null,
            "prompt":"stand up"}"#;
        let said = "tsk_1: active, 0 9 * * 1-5 Europe/Berlin; next 2026-11-24T09:00:00+01:00 (Europe/Berlin); \
                    asks: stand up";
        assert_eq!(told(&outcome(true, task)), Ok(said.to_owned()));
        let both = listed(&outcome(true, &format!(r#"{{"tasks":[{task},{task}]}}"#))).unwrap();
        assert_eq!(both, format!("{said}\n{said}"));
        assert!(listed(&outcome(true, r#"{"tasks":[]}"#)).unwrap().contains("nothing"));
        let refused = listed(&outcome(false, "\"not_granted: no\""));
        assert_eq!(refused, Err(ToolError("not_granted: no".to_owned())));
    }
}
