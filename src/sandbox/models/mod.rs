//! What a conversation with a model is made of, whatever dialect carries it: messages of blocks, a response,
//! and the ways in which a call fails. [`client`] makes the call, one file per dialect says how it is written and
//! read; [`http`] is the only thing that opens a socket here, and the only socket is the one the host granted.

mod assembly;
mod chat;
pub mod client;
mod errors;
mod gemini;
pub mod http;
mod limits;
mod messages;
mod responses;
#[cfg(test)]
mod streams;

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::contract::json::{self, Value};
use crate::contract::providers::Dialect;

/// Who speaks in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// People, tool results, notes of the sandbox.
    User,
    /// The model.
    Assistant,
}

impl Speaker {
    fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// What a model gave as a tool's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolInput {
    /// A JSON object.
    Object(Value),
    /// No JSON object, for instance because the answer was cut in the middle of it.
    Unreadable,
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// Words.
    Text(String),
    /// The model asks for a tool.
    ToolUse {
        /// Links the result to the request.
        id: String,
        /// The tool.
        name: String,
        /// What to do.
        input: ToolInput,
    },
    /// What a tool gave.
    ToolResult {
        /// The id of the request.
        id: String,
        /// The result, or what went wrong.
        text: String,
        /// Whether it went wrong.
        is_error: bool,
    },
    /// What a model wants to see again as it gave it, before the block that it belongs to: thoughts that only it can
    /// read, a signature. Other dialects are not told of it.
    Opaque {
        /// Whose it is.
        dialect: Dialect,
        /// The dialect's own; nothing else looks inside.
        value: Value,
    },
}

impl Block {
    /// Writes the object without its closing brace.
    fn write(&self, out: &mut String, unreadable: &str) -> fmt::Result {
        match self {
            Self::Text(text) => {
                out.push_str(r#"{"type":"text","text":"#);
                json::write_string(out, text)?;
            }
            Self::ToolUse { id, name, input } => {
                out.push_str(r#"{"type":"tool_use","id":"#);
                json::write_string(out, id)?;
                out.push_str(r#","name":"#);
                json::write_string(out, name)?;
                match input {
                    ToolInput::Object(value) => write!(out, r#","input":{value}"#)?,
                    ToolInput::Unreadable => write!(out, r#","input":{unreadable}"#)?,
                }
            }
            Self::ToolResult { id, text, is_error } => {
                out.push_str(r#"{"type":"tool_result","tool_use_id":"#);
                json::write_string(out, id)?;
                out.push_str(r#","content":"#);
                // An empty result is left out by some upstreams' validators as missing; a blank is not.
                json::write_string(out, if text.is_empty() { "(empty)" } else { text })?;
                write!(out, r#","is_error":{is_error}"#)?;
            }
            Self::Opaque { dialect, value } => {
                write!(out, r#"{{"type":"opaque","dialect":"{}","value":{value}"#, kept_name(*dialect))?;
            }
        }
        Ok(())
    }
}

/// The dialects by the names that `session.db` knows.
const KEPT_NAMES: &[(Dialect, &str)] = &[
    (Dialect::Messages, "messages"),
    (Dialect::Chat, "chat"),
    (Dialect::Responses, "responses"),
    (Dialect::Gemini, "gemini"),
];

fn kept_name(dialect: Dialect) -> &'static str {
    KEPT_NAMES.iter().find(|(kept, _)| *kept == dialect).map_or("", |(_, name)| name)
}

/// One message of a conversation with the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Whose it is.
    pub speaker: Speaker,
    /// Its pieces, in order.
    pub blocks: Vec<Block>,
}

impl Message {
    /// The form in which `session.db` keeps a message. It is also the Messages dialect's, except that an
    /// unreadable input is kept as `null`, and what another dialect wants to see again is kept too.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        // A string takes whatever is written to it.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> fmt::Result {
        write!(out, r#"{{"role":"{}","content":["#, self.speaker.word())?;
        let kept = self.blocks.iter().filter(|block| !matches!(block, Block::Text(text) if text.is_empty()));
        for (index, block) in kept.enumerate() {
            if index > 0 {
                out.push(',');
            }
            block.write(out, "null")?;
            out.push('}');
        }
        out.push_str("]}");
        Ok(())
    }

    /// Reads what [`Self::to_text`] wrote, parsed. `None` when it is something else.
    pub fn from_value(value: &Value) -> Option<Self> {
        let speaker = match value.get("role")?.as_str()? {
            "user" => Speaker::User,
            "assistant" => Speaker::Assistant,
            _ => return None,
        };
        let text = |block: &Value, name: &str| Some(block.get(name)?.as_str()?.to_owned());
        let block = |block: &Value| {
            Some(match block.get("type")?.as_str()? {
                "text" => Block::Text(text(block, "text")?),
                "tool_use" => Block::ToolUse {
                    id: text(block, "id")?,
                    name: text(block, "name")?,
                    input: match block.get("input")? {
                        Value::Null => ToolInput::Unreadable,
                        input => ToolInput::Object(input.clone()),
                    },
                },
                "tool_result" => Block::ToolResult {
                    id: text(block, "tool_use_id")?,
                    text: text(block, "content")?,
                    is_error: block.get("is_error")?.as_bool()?,
                },
                "opaque" => {
                    let name = block.get("dialect")?.as_str()?;
                    let (dialect, _) = KEPT_NAMES.iter().find(|(_, kept)| *kept == name)?;
                    Block::Opaque { dialect: *dialect, value: block.get("value")?.clone() }
                }
                _ => return None,
            })
        };
        let blocks = value.get("content")?.as_array()?.iter().map(block).collect::<Option<_>>()?;
        Some(Self { speaker, blocks })
    }
}

/// Whether the model may ask for tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// It may.
    Free,
    /// It must answer in words.
    Forbidden,
}

/// A tool as the model is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSpec {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub description: &'static str,
    /// The JSON schema of its input.
    pub schema: Value,
}

/// One call of a model.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// How the model is asked.
    pub dialect: Dialect,
    /// The model's name.
    pub model: &'a str,
    /// Longest answer, in tokens.
    pub max_tokens: u64,
    /// The system prompt.
    pub system: &'a str,
    /// The tools.
    pub tools: &'a [ToolSpec],
    /// Whether it may use them.
    pub choice: ToolChoice,
    /// The conversation; begins with a user's message.
    pub messages: &'a [Arc<Message>],
    /// How long the call may take.
    pub within: Duration,
}

/// Why the model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was done, or wants a tool.
    Finished,
    /// The answer reached its longest length.
    Length,
    /// It declined.
    Refused,
}

/// How many tokens a call took, as far as the upstream says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Read by the model, those out of a cache with them.
    pub input: u64,
    /// Written by it, its thoughts with them.
    pub output: u64,
    /// Those of `input` that came out of a cache.
    pub cached: u64,
}

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Text and tool requests, in order.
    pub blocks: Vec<Block>,
    /// Why it ended.
    pub stop: Stop,
    /// What it took.
    pub usage: Usage,
}

impl Response {
    /// All text of the answer.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for block in &self.blocks {
            if let Block::Text(piece) = block {
                text.push_str(piece);
            }
        }
        text
    }

    /// Whether it asks for a tool.
    pub fn wants_tools(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block, Block::ToolUse { .. }))
    }
}

/// Why a call gave no complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelError {
    /// The socket, or the stream on it, failed before the answer was complete.
    Broken(String),
    /// The upstream said no.
    Refused {
        /// The HTTP status.
        status: u16,
        /// How long it asks to wait.
        retry_after: Option<Duration>,
        /// What it says, cut short; a stranger's words.
        said: String,
    },
    /// The time for the turn was over.
    OutOfTime,
}

impl ModelError {
    /// Whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Broken(_) | Self::OutOfTime => true,
            Self::Refused { status, .. } => matches!(status, 408 | 409 | 425 | 429 | 500..=599),
        }
    }

    /// How long the upstream asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Broken(_) | Self::OutOfTime => None,
            Self::Refused { retry_after, .. } => *retry_after,
        }
    }
}

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfTime => f.write_str("the time for one turn was over before the model had answered"),
            Self::Broken(why) => write!(f, "the connection to the model failed: {why}"),
            Self::Refused { status, said, .. } if said.is_empty() => write!(f, "the model answered {status}"),
            Self::Refused { status, said, .. } => write!(f, "the model answered {status}: {said}"),
        }
    }
}

impl std::error::Error for ModelError {}

/// Something that answers requests; the tests have one of their own.
pub trait Model {
    /// Calls the model once and waits for the whole answer. `sent` is called when the request is on its way, for
    /// what can be done while the model thinks; not when it could not be sent. When it gives `false`, the answer is
    /// not waited for.
    ///
    /// # Errors
    /// [`ModelError`] when there is no complete answer; nothing is retried here.
    fn call(&self, request: &Request<'_>, sent: &mut dyn FnMut() -> bool) -> Result<Response, ModelError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_as_they_were_kept() {
        let message = Message {
            speaker: Speaker::Assistant,
            blocks: vec![
                Block::Text("hello".into()),
                Block::ToolUse { id: "a".into(), name: "t".into(), input: ToolInput::Unreadable },
                Block::ToolUse {
                    id: "b".into(),
                    name: "t".into(),
                    input: ToolInput::Object(Value::object([("x", 1u64.into())])),
                },
                Block::ToolResult { id: "b".into(), text: "r".into(), is_error: true },
                Block::Opaque {
                    dialect: Dialect::Gemini,
                    value: Value::object([("signature", "s\u{2028}".into())]),
                },
            ],
        };
        let kept = json::parse(message.to_text().as_bytes()).unwrap();
        assert_eq!(Message::from_value(&kept), Some(message));
        assert_eq!(Message::from_value(&Value::Null), None);
        for (dialect, name) in KEPT_NAMES {
            let text =
                format!(r#"{{"role":"user","content":[{{"type":"opaque","dialect":"{name}","value":1}}]}}"#);
            let read = Message::from_value(&json::parse(text.as_bytes()).unwrap()).unwrap();
            assert!(matches!(read.blocks[..], [Block::Opaque { dialect: read, .. }] if read == *dialect));
            assert_eq!(read.to_text(), text);
        }
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let refused = |status| ModelError::Refused { status, retry_after: None, said: String::new() };
        for status in [429, 500, 502, 503, 529, 408] {
            assert!(refused(status).is_passing(), "{status}");
        }
        for status in [400, 401, 402, 403, 404, 413, 301, 204] {
            assert!(!refused(status).is_passing(), "{status}");
        }
        assert!(ModelError::Broken(String::new()).is_passing());
    }
}
