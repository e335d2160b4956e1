//! What the agent can do beside talking: one table of tools, each with its name, its schema, whether it may
//! be repeated after a crash, and its function. What the model is told, what is switched on and what is
//! refused are all derived from it. A tool touches what its own file says.

mod calculate;
mod clock;
mod editing;
mod files;
pub mod jail;
mod looking;
mod messages;
mod questions;
mod requests;
mod sending;
mod tasks;

use std::fmt;

use crate::contract::action::Outcome;
use crate::contract::inbound::SessionConfig;
use crate::contract::json::Value;

use super::models::{ToolInput, ToolSpec};
use jail::Jail;

pub use messages::{Address, Destinations, Letter, Parcel};

/// The family of the tools that touch nothing.
const REASONING: &str = "reasoning";

/// What may be done with a run that a crash interrupted: its intent is known, its result is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing; run it again. Such tools also work when the space for files is used up.
    ReadOnly,
    /// Twice is the same as once; run it again.
    Idempotent,
    /// Nobody knows whether it happened; the model is told so.
    Never,
}

/// One line of the table.
#[derive(Debug)]
pub struct Tool {
    /// What the model calls it.
    pub name: &'static str,
    /// What the model is told.
    pub description: &'static str,
    /// The family it belongs to.
    pub group: &'static str,
    /// The JSON schema of its input.
    pub schema: fn() -> Value,
    /// See [`Repeat`].
    pub repeat: Repeat,
    /// What it does.
    pub task: Task,
}

/// Who does a tool's work.
#[derive(Clone, Copy, Debug)]
pub enum Task {
    /// This process, at once. The text names this one run, the same again after a crash.
    Here(fn(&Bench, &Value, &str) -> Result<String, ToolError>),
    /// The host, asked by an action of the tool's name.
    Host {
        /// The action's arguments.
        arguments: fn(&Value) -> Result<Value, ToolError>,
        /// The answer as the model is told of it.
        tell: fn(&Outcome) -> Result<String, ToolError>,
    },
    /// The turn, which sends the message that this makes of the input.
    Send(fn(&Bench, &Value) -> Result<Letter, ToolError>),
}

/// What tools work on.
#[derive(Debug)]
pub struct Bench {
    /// The workspace.
    pub files: Jail,
    /// Where messages may be sent.
    pub destinations: Destinations,
}

/// Why a tool gave no result; the words are for the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolError(pub String);

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ToolError {}

/// Every tool of this build.
pub static TABLE: &[Tool] = &[
    files::READ_FILE,
    files::WRITE_FILE,
    editing::APPEND_FILE,
    editing::EDIT_FILE,
    looking::LIST_DIR,
    looking::SEARCH_FILES,
    editing::MOVE_FILE,
    editing::DELETE_FILE,
    messages::LIST_DESTINATIONS,
    messages::SEND_MESSAGE,
    sending::SEND_FILE,
    questions::ASK,
    requests::REQUEST_CAPABILITY_CHANGE,
    requests::CREATE_AGENT,
    tasks::SCHEDULE_TASK,
    tasks::LIST_TASKS,
    tasks::UPDATE_TASK,
    tasks::PAUSE_TASK,
    tasks::RESUME_TASK,
    tasks::CANCEL_TASK,
    clock::CURRENT_TIME,
    calculate::CALCULATE,
];

/// The tools that a session has switched on.
pub fn enabled(config: &SessionConfig) -> impl Iterator<Item = &'static Tool> {
    TABLE.iter().filter(|tool| match &config.tools {
        None => true,
        Some(names) => names.iter().any(|name| name == tool.name),
    })
}

/// Whether a tool is there and switched on.
pub fn is_on(config: &SessionConfig, name: &str) -> bool {
    enabled(config).any(|tool| tool.name == name)
}

/// Those tools as the model is told of them.
pub fn specs(config: &SessionConfig) -> Vec<ToolSpec> {
    enabled(config)
        .map(|tool| ToolSpec { name: tool.name, description: tool.description, schema: (tool.schema)() })
        .collect()
}

/// The mark of a tool; one that is not in the table does nothing and may be repeated.
pub fn repeat(name: &str) -> Repeat {
    TABLE.iter().find(|tool| tool.name == name).map_or(Repeat::ReadOnly, |tool| tool.repeat)
}

/// Whether a tool sends a message of the turn's.
pub fn sends(name: &str) -> bool {
    TABLE.iter().any(|tool| tool.name == name && matches!(tool.task, Task::Send(_)))
}

/// A tool that the model asked for and may use, with the input it gave.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The tool.
    pub tool: &'static Tool,
    /// Its input.
    pub input: &'a Value,
}

/// Finds the tool that the model asked for.
///
/// # Errors
/// Says why it does not run, and what the model can do instead.
pub fn find<'a>(config: &SessionConfig, name: &str, input: &'a ToolInput) -> Result<Asked<'a>, ToolError> {
    let Some(tool) = enabled(config).find(|tool| tool.name == name) else {
        let names: Vec<&str> = enabled(config).map(|tool| tool.name).collect();
        let is_known = TABLE.iter().any(|tool| tool.name == name);
        let wrong = if is_known { "this tool is switched off" } else { "there is no such tool" };
        return Err(ToolError(match names.as_slice() {
            [] => format!("{wrong}; none is switched on"),
            names => format!("{wrong}; those that are switched on: {}", names.join(", ")),
        }));
    };
    if config.usage.is_over() && tool.repeat != Repeat::ReadOnly && tool.name != editing::DELETE {
        let usage = config.usage;
        return Err(ToolError(format!(
            "the space for files is used up ({} of {} bytes, {} of {} files): only reading and deleting are \
             left until there is room again",
            usage.bytes, usage.bytes_limit, usage.files, usage.files_limit
        )));
    }
    match input {
        ToolInput::Object(input) => Ok(Asked { tool, input }),
        ToolInput::Unreadable => Err(ToolError(
            "the input was not a complete JSON object; give it again, shorter if it was cut".into(),
        )),
    }
}

/// A required text of a tool's input.
fn text<'a>(input: &'a Value, name: &str) -> Result<&'a str, ToolError> {
    input
        .get(name)
        .and_then(Value::as_str)
        .ok_or_else(|| ToolError(format!("the input needs {name:?}, a text")))
}

/// The schema of an object whose fields are all required texts.
fn texts(fields: &[(&'static str, &'static str)]) -> Value {
    let properties = fields.iter().map(|(name, description)| {
        (*name, Value::object([("type", Value::from("string")), ("description", (*description).into())]))
    });
    Value::object([
        ("type", Value::from("object")),
        ("properties", Value::object(properties)),
        ("required", Value::Array(fields.iter().map(|(name, _)| Value::from(*name)).collect())),
        ("additionalProperties", false.into()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::catalogue;
    use crate::contract::inbound::Usage;
    use crate::sandbox::scratch::Scratch;

    fn run(
        bench: &Bench,
        config: &SessionConfig,
        name: &str,
        input: &ToolInput,
        stamp: &str,
    ) -> Result<String, ToolError> {
        let Asked { tool, input } = find(config, name, input)?;
        match tool.task {
            Task::Here(work) => work(bench, input, stamp),
            Task::Host { .. } | Task::Send(_) => panic!("{name} is not done here"),
        }
    }

    fn input(fields: &[(&str, &str)]) -> ToolInput {
        ToolInput::Object(Value::object(fields.iter().map(|(name, text)| (*name, Value::from(*text)))))
    }

    #[test]
    fn the_catalogue_names_the_same_tools() {
        let names = |all: &mut dyn Iterator<Item = (&'static str, &'static str)>| {
            let mut names: Vec<_> = all.collect();
            names.sort_unstable();
            names
        };
        let here = names(&mut TABLE.iter().map(|tool| (tool.name, tool.group)));
        assert_eq!(here, names(&mut catalogue::TOOLS.iter().map(|tool| (tool.name, tool.category))));
        assert_eq!(repeat("write_file"), Repeat::Idempotent);
    }

    #[test]
    fn only_what_is_switched_on_runs() {
        let scratch = Scratch::new();
        let bench =
            Bench { files: Jail::open(scratch.path()).unwrap(), destinations: Destinations::default() };
        let write = input(&[("path", "a"), ("content", "x")]);
        let read = input(&[("path", "a")]);
        let all = SessionConfig::default();
        assert!(run(&bench, &all, "write_file", &write, "1").is_ok());
        let config = SessionConfig { tools: Some(vec!["read_file".into()]), ..SessionConfig::default() };
        assert_eq!(specs(&config).len(), 1);
        assert_eq!(run(&bench, &config, "read_file", &read, "1"), Ok("x".into()));
        let refused = run(&bench, &config, "write_file", &write, "1").unwrap_err();
        assert_eq!(refused.0, "this tool is switched off; those that are switched on: read_file");
        let refused = run(&bench, &config, "no_such", &write, "1").unwrap_err();
        assert_eq!(refused.0, "there is no such tool; those that are switched on: read_file");
        assert!(is_on(&config, "read_file") && !is_on(&config, "write_file") && !is_on(&all, "no_such"));
        assert!(run(&bench, &all, "write_file", &read, "1").unwrap_err().0.contains("\"content\""));
        assert!(run(&bench, &all, "write_file", &ToolInput::Unreadable, "1").is_err());
    }

    #[test]
    fn a_full_workspace_is_only_read() {
        let scratch = Scratch::new();
        std::fs::write(scratch.path().join("a"), "x").unwrap();
        let bench =
            Bench { files: Jail::open(scratch.path()).unwrap(), destinations: Destinations::default() };
        let usage = Usage { bytes: 11, files: 1, bytes_limit: 10, files_limit: 10 };
        let config = SessionConfig { usage, ..SessionConfig::default() };
        let write = input(&[("path", "a"), ("content", "y")]);
        assert!(run(&bench, &config, "write_file", &write, "1").unwrap_err().0.contains("11 of 10 bytes"));
        assert_eq!(run(&bench, &config, "read_file", &input(&[("path", "a")]), "1"), Ok("x".into()));
    }
}
