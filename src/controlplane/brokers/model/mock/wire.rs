//! The Anthropic Messages dialect, seen from the server: a request read and checked as the real interface
//! checks it, a reply written as one document or as its event stream, a refusal in its error shape. Pure.

use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{self, HeaderValue};

use crate::contract::json::{Value, only_fields};
use crate::controlplane::brokers::model::refusal::Refusal;
use crate::controlplane::http::{self, Body};

/// Fields of a request that the interface knows; it refuses others, and so do we.
const FIELDS: &[&str] = &[
    "model",
    "max_tokens",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "metadata",
    "thinking",
];
/// Text goes out in about so many pieces at most, each of at least [`PIECE_BYTES`].
const PIECES: usize = 64;
/// Small enough that a short answer comes in several pieces, as from a real model.
const PIECE_BYTES: usize = 12;

/// One piece of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controlplane::brokers::model) enum Block {
    /// What somebody said.
    Text(String),
    /// A call of the model.
    ToolUse { id: String },
    /// What a call gave.
    ToolResult { id: String, content: String },
    /// A kind that a deterministic upstream has no use for.
    Other,
}

/// One message of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controlplane::brokers::model) struct Message {
    pub(in crate::controlplane::brokers::model) from_user: bool,
    pub(in crate::controlplane::brokers::model) blocks: Vec<Block>,
}

/// A request that the interface would accept.
#[derive(Clone, Debug)]
pub(in crate::controlplane::brokers::model) struct Request {
    pub(in crate::controlplane::brokers::model) model: String,
    pub(in crate::controlplane::brokers::model) stream: bool,
    pub(in crate::controlplane::brokers::model) messages: Vec<Message>,
    /// Names of the tools offered.
    pub(in crate::controlplane::brokers::model) tools: Vec<String>,
    /// Bytes of the whole conversation, for the usage figures.
    bytes: usize,
}

/// One piece of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::controlplane::brokers::model) enum Said {
    /// Text.
    Text(String),
    /// A tool call; the input is a JSON object.
    Call { id: String, name: String, input: Value },
}

impl Request {
    /// Checks a document the way the interface does.
    pub(in crate::controlplane::brokers::model) fn read(document: Value) -> Result<Self, Refusal> {
        only_fields(&document, FIELDS).map_err(|error| Refusal::invalid(&error.to_string()))?;
        let model = document.get("model").and_then(Value::as_str).filter(|name| !name.is_empty());
        let model = model.ok_or_else(|| Refusal::invalid("model: field required, a name"))?.to_owned();
        if document.get("max_tokens").and_then(Value::as_u64).is_none_or(|most| most < 1) {
            return Err(Refusal::invalid("max_tokens: field required, a whole number of at least 1"));
        }
        let stream = match document.get("stream") {
            None => false,
            Some(value) => {
                value.as_bool().ok_or_else(|| Refusal::invalid("stream: expected true or false"))?
            }
        };
        let mut tools = Vec::new();
        if let Some(list) = document.get("tools") {
            let list = list.as_array().ok_or_else(|| Refusal::invalid("tools: expected a list"))?;
            for (at, tool) in list.iter().enumerate() {
                let name = tool.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
                let schema = tool.get("input_schema").and_then(Value::as_object);
                match (name, schema) {
                    (Some(name), Some(_)) => tools.push(name.to_owned()),
                    _ => {
                        return Err(Refusal::invalid(&format!("tools.{at}: expected name and input_schema")));
                    }
                }
            }
        }
        let list = document.get("messages").and_then(Value::as_array).filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| Refusal::invalid("messages: at least one message is required"))?;
        let messages =
            list.iter().enumerate().map(|(at, one)| message(at, one)).collect::<Result<Vec<_>, _>>()?;
        if !messages.first().is_some_and(|first| first.from_user) {
            return Err(Refusal::invalid("messages: the first message must have the role user"));
        }
        answered(&messages)?;
        let bytes = messages.iter().flat_map(|message| &message.blocks).map(Block::bytes).sum();
        Ok(Self { model, stream, messages, tools, bytes })
    }
}

impl Block {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) | Self::ToolResult { content: text, .. } => text.len(),
            Self::ToolUse { .. } | Self::Other => 0,
        }
    }
}

fn message(at: usize, value: &Value) -> Result<Message, Refusal> {
    let wrong = |what: &str| Refusal::invalid(&format!("messages.{at}: {what}"));
    let from_user = match value.get("role").and_then(Value::as_str) {
        Some("user") => true,
        Some("assistant") => false,
        _ => return Err(wrong("role must be user or assistant")),
    };
    let blocks = match value.get("content") {
        Some(Value::String(text)) if !text.is_empty() => vec![Block::Text(text.clone())],
        Some(Value::Array(items)) if !items.is_empty() => items
            .iter()
            .map(|item| block(item, from_user).map_err(|what| wrong(&what)))
            .collect::<Result<_, _>>()?,
        _ => return Err(wrong("content must not be empty")),
    };
    Ok(Message { from_user, blocks })
}

fn block(value: &Value, from_user: bool) -> Result<Block, String> {
    let text_of = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    match text_of("type") {
        Some("text") => match text_of("text") {
            Some(text) => Ok(Block::Text(text.to_owned())),
            None => Err("text content blocks must be non-empty".to_owned()),
        },
        Some("tool_use") if !from_user => {
            let id = text_of("id").ok_or("tool_use: id is required")?;
            text_of("name").ok_or("tool_use: name is required")?;
            value.get("input").and_then(Value::as_object).ok_or("tool_use: input must be an object")?;
            Ok(Block::ToolUse { id: id.to_owned() })
        }
        Some("tool_result") if from_user => {
            let id = text_of("tool_use_id").ok_or("tool_result: tool_use_id is required")?.to_owned();
            let content = match value.get("content") {
                None => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(items)) => {
                    let texts: Vec<&str> =
                        items.iter().filter_map(|item| item.get("text")?.as_str()).collect();
                    texts.join("\n")
                }
                Some(_) => return Err("tool_result: content must be text or a list".to_owned()),
            };
            Ok(Block::ToolResult { id, content })
        }
        Some("image" | "document" | "thinking" | "redacted_thinking") => Ok(Block::Other),
        Some(other) => Err(format!(
            "a block of type {:?} is not allowed here",
            other.chars().take(32).collect::<String>()
        )),
        None => Err("a block has no type".to_owned()),
    }
}

/// Every call must be answered in the very next message, and nothing else may be.
fn answered(messages: &[Message]) -> Result<(), Refusal> {
    let mut open: Vec<&str> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let results: Vec<&str> = message
            .blocks
            .iter()
            .filter_map(
                |block| if let Block::ToolResult { id, .. } = block { Some(id.as_str()) } else { None },
            )
            .collect();
        if let Some(missing) = open.iter().find(|id| !results.contains(id)) {
            let what =
                format!("messages.{at}: the tool_use {missing:.64} has no tool_result immediately after it");
            return Err(Refusal::invalid(&what));
        }
        if let Some(stray) = results.iter().find(|id| !open.contains(id)) {
            let what = format!(
                "messages.{at}: the tool_result {stray:.64} answers no tool_use of the message before"
            );
            return Err(Refusal::invalid(&what));
        }
        open = message
            .blocks
            .iter()
            .filter_map(|block| if let Block::ToolUse { id } = block { Some(id.as_str()) } else { None })
            .collect();
    }
    match open.first() {
        Some(id) => {
            Err(Refusal::invalid(&format!("messages: the tool_use {id:.64} has no tool_result after it")))
        }
        None => Ok(()),
    }
}

/// The reply as the request wants it: one document or an event stream.
pub(in crate::controlplane::brokers::model) fn response(asked: &Request, said: &[Said]) -> Response<Body> {
    if !asked.stream {
        return http::json_response(hyper::StatusCode::OK, &document(asked, said, true));
    }
    let events: Vec<Bytes> = events(asked, said)
        .into_iter()
        .map(|(name, data)| Bytes::from(format!("event: {name}\ndata: {data}\n\n")))
        .collect();
    let mut response = Response::new(http::pieces(smol::stream::iter(events)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn stop_reason(said: &[Said]) -> &'static str {
    if said.iter().any(|one| matches!(one, Said::Call { .. })) { "tool_use" } else { "end_turn" }
}

/// A token is about four bytes.
fn tokens(bytes: usize) -> Value {
    Value::from(bytes.div_ceil(4).max(1))
}

fn output_tokens(said: &[Said]) -> Value {
    let bytes = said.iter().map(|one| match one {
        Said::Text(text) => text.len(),
        Said::Call { name, input, .. } => name.len() + input.to_string().len(),
    });
    tokens(bytes.sum())
}

fn document(asked: &Request, said: &[Said], complete: bool) -> Value {
    let content = said.iter().map(|one| match one {
        Said::Text(text) => {
            Value::object([("type", Value::from("text")), ("text", Value::from(text.as_str()))])
        }
        Said::Call { id, name, input } => call(id, name, input.clone()),
    });
    let (content, reason, output) = if complete {
        (content.collect(), Value::from(stop_reason(said)), output_tokens(said))
    } else {
        (Vec::new(), Value::Null, Value::from(1u64))
    };
    Value::object([
        ("id", Value::from("msg_mock")),
        ("type", Value::from("message")),
        ("role", Value::from("assistant")),
        ("model", Value::from(asked.model.as_str())),
        ("content", Value::from(content)),
        ("stop_reason", reason),
        ("stop_sequence", Value::Null),
        ("usage", Value::object([("input_tokens", tokens(asked.bytes)), ("output_tokens", output)])),
    ])
}

fn call(id: &str, name: &str, input: Value) -> Value {
    Value::object([
        ("type", Value::from("tool_use")),
        ("id", Value::from(id)),
        ("name", Value::from(name)),
        ("input", input),
    ])
}

fn events(asked: &Request, said: &[Said]) -> Vec<(&'static str, Value)> {
    let typed = |kind: &'static str, fields: Vec<(&str, Value)>| {
        let all = std::iter::once(("type", Value::from(kind))).chain(fields);
        (kind, Value::object(all))
    };
    let mut all = vec![typed("message_start", vec![("message", document(asked, said, false))])];
    for (index, one) in said.iter().enumerate() {
        let index = || ("index", Value::from(index));
        let (empty, kind, key, text) = match one {
            Said::Text(text) => {
                let empty = Value::object([("type", Value::from("text")), ("text", Value::from(""))]);
                (empty, "text_delta", "text", text.clone())
            }
            Said::Call { id, name, input } => {
                let empty = call(id, name, Value::Object(Vec::new()));
                (empty, "input_json_delta", "partial_json", input.to_string())
            }
        };
        all.push(typed("content_block_start", vec![index(), ("content_block", empty)]));
        if index().1 == Value::from(0usize) {
            all.push(typed("ping", vec![]));
        }
        for piece in split(&text) {
            let delta = Value::object([("type", Value::from(kind)), (key, Value::from(piece))]);
            all.push(typed("content_block_delta", vec![index(), ("delta", delta)]));
        }
        all.push(typed("content_block_stop", vec![index()]));
    }
    let delta =
        Value::object([("stop_reason", Value::from(stop_reason(said))), ("stop_sequence", Value::Null)]);
    let usage = Value::object([("output_tokens", output_tokens(said))]);
    all.push(typed("message_delta", vec![("delta", delta), ("usage", usage)]));
    all.push(typed("message_stop", vec![]));
    all
}

/// Cuts a text at character boundaries into pieces of about one size.
fn split(text: &str) -> Vec<&str> {
    let size = PIECE_BYTES.max(text.len().div_ceil(PIECES));
    let mut pieces = Vec::new();
    let mut rest = text;
    while rest.len() > size {
        // No character is longer than four bytes, so a boundary is found above zero.
        let at = (0..=size).rev().find(|at| rest.is_char_boundary(*at)).unwrap_or(rest.len());
        let (piece, tail) = rest.split_at(at);
        pieces.push(piece);
        rest = tail;
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    pieces
}

#[cfg(test)]
mod tests {
    use hyper::StatusCode;

    use super::*;
    use crate::contract::json;

    fn read(text: &str) -> Result<Request, Refusal> {
        Request::read(json::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn what_the_interface_refuses_is_refused_with_its_place() {
        let cases = [
            (r#"{"max_tokens":1,"messages":[{"role":"user","content":"x"}]}"#, "model"),
            (r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#, "max_tokens"),
            (r#"{"model":"m","max_tokens":1,"messages":[]}"#, "at least one"),
            (r#"{"model":"m","max_tokens":1,"messages":[{"role":"system","content":"x"}]}"#, "role"),
            (r#"{"model":"m","max_tokens":1,"messages":[{"role":"assistant","content":"x"}]}"#, "first"),
            (
                r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"text","text":""}]}]}"#,
                "non-empty",
            ),
            (r#"{"model":"m","max_tokens":1,"extra":1,"messages":[{"role":"user","content":"x"}]}"#, "extra"),
            (
                r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"t"}]}]}"#,
                "input must be an object",
            ),
            (
                r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"t","input":{}}]},{"role":"user","content":"y"}]}"#,
                "has no tool_result",
            ),
            (
                r#"{"model":"m","max_tokens":1,"messages":[{"role":"user","content":[{"type":"tool_result","tool_use_id":"b"}]}]}"#,
                "answers no tool_use",
            ),
        ];
        for (text, expected) in cases {
            let refusal = read(text).unwrap_err();
            assert!(refusal.message.contains(expected), "{}", refusal.message);
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn pieces_are_cut_between_characters_and_lose_nothing() {
        for text in ["", "a", "héllo wörld, 日本語のテキスト ❤", &"é".repeat(5000)] {
            let pieces = split(text);
            assert_eq!(pieces.concat(), text);
            assert!(pieces.len() <= PIECES + 40 && !pieces.contains(&""));
        }
        assert!(split("twenty-six characters here").len() > 1);
    }

    #[test]
    fn the_event_stream_has_the_real_order() {
        let asked =
            read(r#"{"model":"m","max_tokens":1,"stream":true,"messages":[{"role":"user","content":"x"}]}"#)
                .unwrap();
        let said = [
            Said::Text("hi".to_owned()),
            Said::Call {
                id: "mocktool_1".to_owned(),
                name: "t".to_owned(),
                input: json::parse(b"{\"a\":1}").unwrap(),
            },
        ];
        let names: Vec<&str> = events(&asked, &said).into_iter().map(|(name, _)| name).collect();
        assert_eq!(
            names,
            [
                "message_start",
                "content_block_start",
                "ping",
                "content_block_delta",
                "content_block_stop",
                "content_block_start",
                "content_block_delta",
                "content_block_stop",
                "message_delta",
                "message_stop"
            ]
        );
        let (_, delta) =
            events(&asked, &said).into_iter().rfind(|(name, _)| *name == "message_delta").unwrap();
        assert_eq!(
            delta.get("delta").and_then(|d| d.get("stop_reason")).and_then(Value::as_str),
            Some("tool_use")
        );
    }
}
