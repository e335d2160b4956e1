//! What the dialects share in putting an answer together out of its events: how far it has come, how large it may
//! become, how a tool's input is read, and under which id and name a request for a tool is kept. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use super::{Block, Message, ModelError, Response, ToolInput};
use crate::contract::json::{self, Value};

/// Most blocks of one answer.
const BLOCKS: usize = 256;
/// Most bytes of text, tool input and what a model wants to see again of one answer.
const ANSWER_BYTES: usize = 1 << 20;
/// Longest id of a request for a tool that every dialect takes.
const ID: usize = 64;
/// Longest name of a tool that every dialect takes.
const NAME: usize = 64;

/// What an event led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The answer goes on.
    More,
    /// It was the last event.
    Complete(Response),
}

/// An answer as far as it has come.
pub(super) trait Assembly {
    /// Takes the data of one event.
    fn event(&mut self, data: &[u8]) -> Result<Progress, ModelError>;

    /// The stream has ended. Gives the answer if the dialect has no last event and nothing is missing.
    fn end(&mut self) -> Result<Response, ModelError> {
        Err(broken("the stream ended before its last event"))
    }
}

/// The call failed on the way, for this reason.
pub(super) fn broken(why: impl ToString) -> ModelError {
    ModelError::Broken(why.to_string())
}

/// One event.
pub(super) fn event(data: &[u8]) -> Result<Value, ModelError> {
    json::parse(data).map_err(|error| broken(format!("an event is not JSON: {error}")))
}

/// How much of an answer there is already.
#[derive(Debug, Default)]
pub(super) struct Size {
    blocks: usize,
    bytes: usize,
}

impl Size {
    /// One more block.
    pub(super) fn block(&mut self) -> Result<(), ModelError> {
        self.blocks += 1;
        if self.blocks > BLOCKS { Err(broken("too many content blocks")) } else { Ok(()) }
    }

    /// So many more bytes.
    pub(super) fn bytes(&mut self, bytes: usize) -> Result<(), ModelError> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > ANSWER_BYTES { Err(broken("the answer is too long")) } else { Ok(()) }
    }
}

/// The text of a field; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The number of a field; zero where there is none.
pub(super) fn number(value: Option<&Value>, name: &str) -> u64 {
    value.and_then(|value| value.get(name)).and_then(Value::as_u64).unwrap_or_default()
}

/// A tool's input as it was streamed. No input at all is how the dialects stream an empty object.
pub(super) fn read_input(text: &str) -> ToolInput {
    if text.trim().is_empty() {
        return ToolInput::Object(Value::Object(Vec::new()));
    }
    match json::parse(text.as_bytes()) {
        Ok(value @ Value::Object(_)) => ToolInput::Object(value),
        _ => ToolInput::Unreadable,
    }
}

/// The name of a tool as every dialect takes it back; a model may invent any. `None` for no name.
pub(super) fn tool_name(said: &str) -> Option<String> {
    let name: String = said.trim().chars().take(NAME).map(|c| if is_plain(c) { c } else { '_' }).collect();
    (!name.is_empty()).then_some(name)
}

/// The characters that every dialect takes in ids and names.
pub(super) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// Ids for requests for tools, each once in a conversation: some upstreams give none, others the same ones again.
#[derive(Debug, Default)]
pub(super) struct Ids {
    taken: HashSet<String>,
    next: u64,
}

impl Ids {
    /// Beside those that the conversation has.
    pub(super) fn of(conversation: &[Arc<Message>]) -> Self {
        let ids = conversation.iter().flat_map(|message| &message.blocks).filter_map(|block| match block {
            Block::ToolUse { id, .. } => Some(id.clone()),
            _ => None,
        });
        Self { taken: ids.collect(), next: 0 }
    }

    /// The offered id if every dialect takes it and it is new, else one of our own.
    pub(super) fn give(&mut self, offered: &str) -> String {
        let fits = !offered.is_empty() && offered.len() <= ID && offered.chars().all(is_plain);
        let mut id = offered.to_owned();
        while !fits && id == offered || self.taken.contains(&id) {
            id = format!("call_{}", self.next);
            self.next += 1;
        }
        self.taken.insert(id.clone());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::super::Speaker;
    use super::*;

    #[test]
    fn a_cut_tool_input_is_unreadable_and_an_absent_one_empty() {
        assert_eq!(read_input(""), ToolInput::Object(Value::Object(Vec::new())));
        for bad in ["{\"path\":\"a", "[1]", "1", "{\"a\":1}{"] {
            assert_eq!(read_input(bad), ToolInput::Unreadable, "{bad}");
        }
    }

    #[test]
    fn an_id_is_given_once() {
        let input = ToolInput::Unreadable;
        let block = |id: &str| Block::ToolUse { id: id.into(), name: "t".into(), input: input.clone() };
        let message = Message { speaker: Speaker::Assistant, blocks: vec![block("call_1"), block("a")] };
        let mut ids = Ids::of(&[Arc::new(message)]);
        let given: Vec<String> =
            ["", "a", "b", "b", "call_9", "x y", &"z".repeat(65), "call_9"].map(|id| ids.give(id)).into();
        assert_eq!(
            given,
            ["call_0", "call_2", "b", "call_3", "call_9", "call_4", "call_5", "call_6"],
            "none twice, none of before"
        );
    }

    #[test]
    fn a_name_is_one_that_can_be_sent_again() {
        assert_eq!(tool_name("read_file").as_deref(), Some("read_file"));
        assert_eq!(tool_name("functions.read file:0\u{e9}").as_deref(), Some("functions_read_file_0_"));
        assert_eq!(tool_name(&"n".repeat(99)).map(|name| name.len()), Some(NAME));
        assert_eq!(tool_name(" "), None);
    }

    #[test]
    fn an_answer_has_its_size() {
        let mut size = Size::default();
        assert!((0..BLOCKS).all(|_| size.block().is_ok()) && size.block().is_err());
        assert!(size.bytes(ANSWER_BYTES).is_ok() && size.bytes(1).is_err());
        assert!(size.bytes(usize::MAX).is_err());
    }
}
