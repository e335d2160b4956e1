//! The Anthropic Messages dialect (<https://docs.anthropic.com/en/api/messages-streaming>): a request as one
//! JSON document, the answer as a stream of events that is put together here. A stream without its last
//! event is an error, whatever came before. It touches the model socket through [`super::http`].

use std::fmt::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::http::{self, Answer, Patience, Target};
use super::{Block, Model, ModelError, Request, Response, Stop, ToolChoice, ToolInput};
use crate::contract::json::{self, Value};
use crate::contract::sse::Events;

/// Most content blocks of one answer.
const BLOCKS: usize = 256;
/// Most bytes of text and tool input of one answer.
const ANSWER_BYTES: usize = 1 << 20;
/// Most bytes of the stream that carries it.
const STREAM_BYTES: usize = 64 << 20;
/// Most bytes of an error document.
const ERROR_BYTES: usize = 64 << 10;
/// Most characters of it that are shown to a person.
const SAID: usize = 300;
/// An upstream that asks for more is not worth waiting for within a turn.
const LONGEST_RETRY_AFTER: u64 = 3600;

/// A model behind the host's proxy.
#[derive(Clone, Debug)]
pub struct Anthropic {
    /// The proxy's socket.
    pub socket: PathBuf,
    /// The `host` header; the proxy knows the real upstream.
    pub host: String,
    /// How long a call may take.
    pub patience: Patience,
}

impl Anthropic {
    /// Two minutes of silence (a model may think that long before its first word), eight in all; less where
    /// the turn has less left.
    pub fn new(socket: PathBuf, host: String) -> Self {
        let patience = Patience { idle: Duration::from_secs(120), whole: Duration::from_secs(480) };
        Self { socket, host, patience }
    }
}

impl Model for Anthropic {
    fn call(&self, request: &Request<'_>, sent: &mut dyn FnMut() -> bool) -> Result<Response, ModelError> {
        let target = Target { socket: &self.socket, host: &self.host, path: "/v1/messages" };
        let headers = [("content-type", "application/json"), ("anthropic-version", "2023-06-01")];
        let patience = Patience { whole: self.patience.whole.min(request.within), ..self.patience };
        let body = encode(request);
        let mut answer = http::post(target, &headers, body.as_bytes(), patience, sent).map_err(broken)?;
        if answer.status != 200 {
            return Err(refusal(&mut answer));
        }
        let mut events = Events::default();
        let mut assembly = Assembly::default();
        let mut received = 0;
        while let Some(piece) = answer.piece().map_err(broken)? {
            received += piece.len();
            if received > STREAM_BYTES {
                return Err(broken("the stream is too long"));
            }
            for data in events.feed(&piece).map_err(|_| broken("an event is too long"))? {
                if let Progress::Complete(response) = assembly.event(&data)? {
                    return Ok(response);
                }
            }
        }
        Err(broken("the stream ended before its last event"))
    }
}

fn broken(why: impl ToString) -> ModelError {
    ModelError::Broken(why.to_string())
}

/// The request document. Written as text: most of it is the conversation, which is held as messages already.
fn encode(request: &Request<'_>) -> String {
    let mut out = String::new();
    // A string takes whatever is written to it.
    let _ = write_request(&mut out, request);
    out
}

fn write_request(out: &mut String, request: &Request<'_>) -> fmt::Result {
    out.push_str(r#"{"model":"#);
    json::write_string(out, request.model)?;
    write!(out, r#","max_tokens":{},"stream":true,"system":"#, request.max_tokens)?;
    json::write_string(out, request.system)?;
    out.push_str(r#","messages":["#);
    for (index, message) in request.messages.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        // An unreadable input is replayed as an empty one: the dialect wants an object.
        message.write(out, "{}")?;
    }
    out.push(']');
    for (index, tool) in request.tools.iter().enumerate() {
        out.push_str(if index == 0 { r#","tools":[{"name":"# } else { r#",{"name":"# });
        json::write_string(out, tool.name)?;
        out.push_str(r#","description":"#);
        json::write_string(out, tool.description)?;
        write!(out, r#","input_schema":{}}}"#, tool.schema)?;
    }
    if !request.tools.is_empty() {
        out.push(']');
        if request.choice == ToolChoice::Forbidden {
            out.push_str(r#","tool_choice":{"type":"none"}"#);
        }
    }
    out.push('}');
    Ok(())
}

fn refusal(answer: &mut Answer) -> ModelError {
    let retry_after = answer
        .header("retry-after")
        .and_then(|value| value.parse().ok())
        .map(|seconds: u64| Duration::from_secs(seconds.min(LONGEST_RETRY_AFTER)));
    let body = answer.body(ERROR_BYTES).unwrap_or_default();
    let document = json::parse(&body).ok();
    let said = document.as_ref().map(said).unwrap_or_default();
    ModelError::Refused { status: answer.status, retry_after, said }
}

/// The sentence of an error document: the dialect's, or a problem document's of the proxy itself.
fn said(document: &Value) -> String {
    let words = document
        .get("error")
        .and_then(|error| error.get("message"))
        .or_else(|| document.get("detail"))
        .or_else(|| document.get("title"))
        .and_then(Value::as_str)
        .unwrap_or_default();
    words.chars().take(SAID).collect()
}

/// What an event led to.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    More,
    Complete(Response),
}

/// The answer as far as it has come.
#[derive(Debug, Default)]
struct Assembly {
    started: bool,
    blocks: Vec<Part>,
    open: bool,
    stop: Option<Stop>,
    bytes: usize,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Tool {
        id: String,
        name: String,
        input: String,
    },
    /// A kind of block that nothing here asks for; left out.
    Other,
}

impl Assembly {
    fn event(&mut self, data: &[u8]) -> Result<Progress, ModelError> {
        let event = json::parse(data).map_err(|error| broken(format!("an event is not JSON: {error}")))?;
        let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "message_start" if self.started => return Err(broken("two answers in one stream")),
            "message_start" => self.started = true,
            "error" => return Err(stream_error(&event)),
            "content_block_start"
            | "content_block_delta"
            | "content_block_stop"
            | "message_delta"
            | "message_stop"
                if !self.started =>
            {
                return Err(broken("the stream does not begin with its first event"));
            }
            "content_block_start" => self.start(&event)?,
            "content_block_delta" => self.delta(&event)?,
            "content_block_stop" => self.finish(&event)?,
            "message_delta" => {
                let reason = event.get("delta").and_then(|delta| delta.get("stop_reason"));
                match reason.and_then(Value::as_str) {
                    None => {}
                    Some("max_tokens" | "model_context_window_exceeded") => self.stop = Some(Stop::Length),
                    Some("refusal") => self.stop = Some(Stop::Refused),
                    Some(_) => self.stop = Some(Stop::Finished),
                }
            }
            "message_stop" => return self.complete().map(Progress::Complete),
            // `ping`, and events that are yet to be invented.
            _ => {}
        }
        Ok(Progress::More)
    }

    fn start(&mut self, event: &Value) -> Result<(), ModelError> {
        if self.open || index(event) != Some(self.blocks.len()) {
            return Err(broken("content blocks are out of order"));
        }
        if self.blocks.len() >= BLOCKS {
            return Err(broken("too many content blocks"));
        }
        let block = event.get("content_block").ok_or_else(|| broken("a content block without content"))?;
        let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let part = match block.get("type").and_then(Value::as_str) {
            Some("text") => Part::Text(text("text")),
            Some("tool_use") => Part::Tool { id: text("id"), name: text("name"), input: String::new() },
            _ => Part::Other,
        };
        match &part {
            Part::Text(text) => self.count(text.len())?,
            Part::Tool { id, name, .. } if id.is_empty() || name.is_empty() => {
                return Err(broken("a tool request without name or id"));
            }
            Part::Tool { id, name, .. } => self.count(id.len() + name.len())?,
            Part::Other => {}
        }
        self.blocks.push(part);
        self.open = true;
        Ok(())
    }

    fn delta(&mut self, event: &Value) -> Result<(), ModelError> {
        self.check_open(event)?;
        let delta = event.get("delta").ok_or_else(|| broken("a delta without content"))?;
        let text = |name: &str| delta.get(name).and_then(Value::as_str).unwrap_or_default();
        let (text, json) = (text("text"), text("partial_json"));
        self.count(text.len() + json.len())?;
        match (self.blocks.last_mut(), delta.get("type").and_then(Value::as_str)) {
            (Some(Part::Text(whole)), Some("text_delta")) => whole.push_str(text),
            (Some(Part::Tool { input, .. }), Some("input_json_delta")) => input.push_str(json),
            (Some(Part::Text(_)), Some("input_json_delta"))
            | (Some(Part::Tool { .. }), Some("text_delta")) => {
                return Err(broken("a delta of another kind than its block"));
            }
            // Citations, thoughts, signatures.
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self, event: &Value) -> Result<(), ModelError> {
        self.check_open(event)?;
        self.open = false;
        Ok(())
    }

    fn check_open(&self, event: &Value) -> Result<(), ModelError> {
        let current = self.blocks.len().checked_sub(1);
        if self.open && index(event) == current {
            Ok(())
        } else {
            Err(broken("content blocks are out of order"))
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), ModelError> {
        self.bytes += bytes;
        if self.bytes > ANSWER_BYTES { Err(broken("the answer is too long")) } else { Ok(()) }
    }

    fn complete(&mut self) -> Result<Response, ModelError> {
        let Some(stop) = self.stop else { return Err(broken("the stream gives no reason for its end")) };
        if self.open {
            return Err(broken("the last content block is not complete"));
        }
        let blocks = std::mem::take(&mut self.blocks).into_iter().filter_map(|part| match part {
            Part::Text(text) if text.is_empty() => None,
            Part::Text(text) => Some(Block::Text(text)),
            Part::Tool { id, name, input } => Some(Block::ToolUse { id, name, input: read_input(&input) }),
            Part::Other => None,
        });
        Ok(Response { blocks: blocks.collect(), stop })
    }
}

/// No input at all is how the dialect streams an empty object.
fn read_input(text: &str) -> ToolInput {
    if text.trim().is_empty() {
        return ToolInput::Object(Value::Object(Vec::new()));
    }
    match json::parse(text.as_bytes()) {
        Ok(value @ Value::Object(_)) => ToolInput::Object(value),
        _ => ToolInput::Unreadable,
    }
}

fn index(event: &Value) -> Option<usize> {
    event.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok())
}

/// An error inside a stream has a name instead of a status; these are the statuses of the same names.
fn stream_error(event: &Value) -> ModelError {
    let name = event.get("error").and_then(|error| error.get("type")).and_then(Value::as_str);
    let status = match name.unwrap_or_default() {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "overloaded_error" => 529,
        _ => 500,
    };
    ModelError::Refused { status, retry_after: None, said: said(event) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::{Message, Speaker, ToolSpec};
    use super::*;

    const START: &str = r#"{"type":"message_start","message":{"usage":{"input_tokens":1}}}"#;
    const TEXT: &str =
        r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}"#;
    const HELLO: &str =
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}"#;
    const END: &str = r#"{"type":"content_block_stop","index":0}"#;
    const WHY: &str =
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#;
    const STOP: &str = r#"{"type":"message_stop"}"#;

    fn assemble(events: &[&str]) -> Result<Option<Response>, ModelError> {
        let mut assembly = Assembly::default();
        for event in events {
            if let Progress::Complete(response) = assembly.event(event.as_bytes())? {
                return Ok(Some(response));
            }
        }
        Ok(None)
    }

    #[test]
    fn text_and_tools_are_put_together() {
        let events = [
            START,
            r#"{"type":"ping"}"#,
            TEXT,
            HELLO,
            HELLO,
            END,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"thinking","thinking":""}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"thinking_delta","thinking":"x"}}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"content_block_start","index":2,"content_block":{"type":"tool_use","id":"t1","name":"read_file","input":{}}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"{\"pa"}}"#,
            r#"{"type":"content_block_delta","index":2,"delta":{"type":"input_json_delta","partial_json":"th\":\"a\"}"}}"#,
            r#"{"type":"content_block_stop","index":2}"#,
            r#"{"type":"some_day","data":1}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"}}"#,
            STOP,
        ];
        let response = assemble(&events).unwrap().unwrap();
        assert_eq!(response.text(), "hellohello");
        assert!(response.wants_tools());
        let input = ToolInput::Object(json::parse(br#"{"path":"a"}"#).unwrap());
        assert_eq!(response.blocks[1], Block::ToolUse { id: "t1".into(), name: "read_file".into(), input });
    }

    #[test]
    fn every_prefix_of_a_stream_is_incomplete() {
        let events = [START, TEXT, HELLO, END, WHY, STOP];
        for length in 0..events.len() {
            assert_eq!(assemble(&events[..length]), Ok(None), "{length} events");
        }
        assert!(assemble(&events).unwrap().is_some());
    }

    #[test]
    fn streams_out_of_order_are_refused() {
        for bad in [
            &[TEXT][..],
            &[STOP],
            &[START, START],
            &[START, HELLO],
            &[START, TEXT, TEXT],
            &[START, TEXT, END, HELLO],
            &[START, TEXT, HELLO, WHY, STOP],
            &[START, TEXT, END, STOP],
            &["{"],
            &[START, r#"{"type":"content_block_start","index":7,"content_block":{"type":"text"}}"#],
            &[START, r#"{"type":"content_block_start","index":0,"content_block":{"type":"tool_use"}}"#],
            &[
                START,
                TEXT,
                r#"{"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":"1"}}"#,
            ],
        ] {
            assert!(matches!(assemble(bad), Err(ModelError::Broken(_))), "{bad:?}");
        }
    }

    #[test]
    fn an_error_in_the_stream_keeps_its_meaning() {
        let event = r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#;
        let error = assemble(&[START, event]).unwrap_err();
        assert!(error.is_passing());
        assert_eq!(error.to_string(), "the model answered 529: busy");
        let event = r#"{"type":"error","error":{"type":"invalid_request_error"}}"#;
        assert!(!assemble(&[START, event]).unwrap_err().is_passing());
    }

    #[test]
    fn a_cut_tool_input_is_unreadable_and_an_absent_one_empty() {
        assert_eq!(read_input(""), ToolInput::Object(Value::Object(Vec::new())));
        for bad in ["{\"path\":\"a", "[1]", "1", "{\"a\":1}{"] {
            assert_eq!(read_input(bad), ToolInput::Unreadable, "{bad}");
        }
    }

    #[test]
    fn the_request_document() {
        let tools =
            [ToolSpec { name: "t", description: "d", schema: Value::object([("type", "object".into())]) }];
        let unreadable = Block::ToolUse { id: "i".into(), name: "t".into(), input: ToolInput::Unreadable };
        let messages = [
            Arc::new(Message {
                speaker: Speaker::User,
                blocks: vec![Block::Text("x".into()), Block::Text(String::new())],
            }),
            Arc::new(Message { speaker: Speaker::Assistant, blocks: vec![unreadable] }),
        ];
        let mut request = Request {
            model: "m",
            max_tokens: 9,
            system: "s",
            tools: &tools,
            choice: ToolChoice::Free,
            within: Duration::from_secs(5),
            messages: &messages,
        };
        assert_eq!(
            encode(&request),
            r#"{"model":"m","max_tokens":9,"stream":true,"system":"s","messages":[{"role":"user","content":[{"type":"text","text":"x"}]},{"role":"assistant","content":[{"type":"tool_use","id":"i","name":"t","input":{}}]}],"tools":[{"name":"t","description":"d","input_schema":{"type":"object"}}]}"#
        );
        request.choice = ToolChoice::Forbidden;
        assert!(encode(&request).ends_with(r#""tool_choice":{"type":"none"}}"#));
    }
}
