//! The Anthropic Messages dialect (<https://docs.anthropic.com/en/api/messages>,
//! <https://docs.anthropic.com/en/api/messages-streaming>): a request as one JSON document, the answer as a stream of
//! events that is put together here. A stream without its last event is an error, whatever came before. Pure.

use std::fmt::{self, Write};

use super::assembly::{self, Assembly, Progress, Size, broken, number, read_input, text, tool_name};
use super::{Block, Message, ModelError, Request, Response, Stop, ToolChoice, Usage, errors, limits};
use crate::contract::json::{self, Value};

/// Everything before it may be kept by the upstream and read again at a lower price
/// (<https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching>).
const CACHED: &str = r#","cache_control":{"type":"ephemeral"}"#;
/// What stands for a message that has nothing to say: the dialect refuses an empty one.
const NOTHING: &str = "(nothing)";

/// The request document. Written as text: most of it is the conversation, which is held as messages already.
pub(super) fn encode(request: &Request<'_>) -> String {
    let mut out = String::new();
    // A string takes whatever is written to it.
    let _ = write_request(&mut out, request);
    out
}

fn write_request(out: &mut String, request: &Request<'_>) -> fmt::Result {
    out.push_str(r#"{"model":"#);
    json::write_string(out, request.model)?;
    let most = limits::most_tokens(request.model, request.max_tokens);
    write!(out, r#","max_tokens":{most},"stream":true"#)?;
    if !request.system.is_empty() {
        out.push_str(r#","system":[{"type":"text","text":"#);
        json::write_string(out, request.system)?;
        write!(out, "{CACHED}}}]")?;
    }
    out.push_str(r#","messages":["#);
    for (index, message) in request.messages.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_message(out, message, index + 1 == request.messages.len())?;
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

fn write_message(out: &mut String, message: &Message, is_last: bool) -> fmt::Result {
    write!(out, r#"{{"role":"{}","content":["#, message.speaker.word())?;
    let said = |block: &&Block| match block {
        Block::Text(text) => !text.trim().is_empty(),
        Block::ToolUse { .. } | Block::ToolResult { .. } => true,
        Block::Opaque { .. } => false,
    };
    let mut blocks = message.blocks.iter().filter(said).peekable();
    if blocks.peek().is_none() {
        write!(out, r#"{{"type":"text","text":"{NOTHING}"}}"#)?;
    }
    while let Some(block) = blocks.next() {
        // An unreadable input is told as an empty one: the dialect wants an object.
        block.write(out, "{}")?;
        let is_last_block = blocks.peek().is_none();
        if is_last && is_last_block {
            out.push_str(CACHED);
        }
        out.push_str(if is_last_block { "}" } else { "}," });
    }
    out.push_str("]}");
    Ok(())
}

/// The answer as far as it has come.
#[derive(Debug, Default)]
pub(super) struct Reading {
    started: bool,
    blocks: Vec<Part>,
    open: bool,
    stop: Option<Stop>,
    size: Size,
    usage: Usage,
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

impl Assembly for Reading {
    fn event(&mut self, data: &[u8]) -> Result<Progress, ModelError> {
        let event = assembly::event(data)?;
        match text(&event, "type") {
            "message_start" if self.started => return Err(broken("two answers in one stream")),
            "message_start" => {
                self.started = true;
                self.count(event.get("message").and_then(|message| message.get("usage")));
            }
            "error" => return Err(errors::in_stream(&event)),
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
                self.count(event.get("usage"));
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
}

impl Reading {
    /// The counts so far; an event need not repeat what an earlier one said.
    fn count(&mut self, usage: Option<&Value>) {
        let cached = number(usage, "cache_read_input_tokens");
        let made = number(usage, "cache_creation_input_tokens");
        let input = number(usage, "input_tokens").saturating_add(cached).saturating_add(made);
        self.usage.input = self.usage.input.max(input);
        self.usage.cached = self.usage.cached.max(cached);
        self.usage.output = self.usage.output.max(number(usage, "output_tokens"));
    }

    fn start(&mut self, event: &Value) -> Result<(), ModelError> {
        if self.open || index(event) != Some(self.blocks.len()) {
            return Err(broken("content blocks are out of order"));
        }
        self.size.block()?;
        let block = event.get("content_block").ok_or_else(|| broken("a content block without content"))?;
        let part = match text(block, "type") {
            "text" => Part::Text(text(block, "text").to_owned()),
            "tool_use" => {
                let (id, name) = (text(block, "id"), tool_name(text(block, "name")));
                let name = name.filter(|_| !id.is_empty());
                let name = name.ok_or_else(|| broken("a tool request without name or id"))?;
                Part::Tool { id: id.to_owned(), name, input: String::new() }
            }
            _ => Part::Other,
        };
        match &part {
            Part::Text(text) => self.size.bytes(text.len())?,
            Part::Tool { id, name, .. } => self.size.bytes(id.len() + name.len())?,
            Part::Other => {}
        }
        self.blocks.push(part);
        self.open = true;
        Ok(())
    }

    fn delta(&mut self, event: &Value) -> Result<(), ModelError> {
        self.check_open(event)?;
        let delta = event.get("delta").ok_or_else(|| broken("a delta without content"))?;
        let (words, json) = (text(delta, "text"), text(delta, "partial_json"));
        self.size.bytes(words.len() + json.len())?;
        match (self.blocks.last_mut(), text(delta, "type")) {
            (Some(Part::Text(whole)), "text_delta") => whole.push_str(words),
            (Some(Part::Tool { input, .. }), "input_json_delta") => input.push_str(json),
            (Some(Part::Text(_)), "input_json_delta") | (Some(Part::Tool { .. }), "text_delta") => {
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
        Ok(Response { blocks: blocks.collect(), stop, usage: self.usage })
    }
}

fn index(event: &Value) -> Option<usize> {
    event.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Speaker, ToolInput, ToolSpec};
    use super::*;
    use crate::contract::providers::Dialect;

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
        let mut assembly = Reading::default();
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
            r#"{"type":"message_start","message":{"usage":{"input_tokens":2,"cache_read_input_tokens":4,"cache_creation_input_tokens":3,"output_tokens":1}}}"#,
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
            r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":5}}"#,
            STOP,
        ];
        let response = assemble(&events).unwrap().unwrap();
        assert_eq!(response.text(), "hellohello");
        assert!(response.wants_tools());
        assert_eq!(response.usage, Usage { input: 9, output: 5, cached: 4 });
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
            dialect: Dialect::Messages,
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
            r#"{"model":"m","max_tokens":9,"stream":true,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":[{"type":"text","text":"x"}]},{"role":"assistant","content":[{"type":"tool_use","id":"i","name":"t","input":{},"cache_control":{"type":"ephemeral"}}]}],"tools":[{"name":"t","description":"d","input_schema":{"type":"object"}}]}"#
        );
        request.choice = ToolChoice::Forbidden;
        assert!(encode(&request).ends_with(r#""tool_choice":{"type":"none"}}"#));
        let silent =
            [Block::Text(" ".into()), Block::Opaque { dialect: Dialect::Gemini, value: Value::Null }];
        let silent = [Arc::new(Message { speaker: Speaker::User, blocks: silent.into() })];
        request.messages = &silent;
        request.system = "";
        request.tools = &[];
        request.model = "claude-3-haiku";
        request.max_tokens = 16_000;
        assert_eq!(
            encode(&request),
            r#"{"model":"claude-3-haiku","max_tokens":4096,"stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"(nothing)"}]}]}"#
        );
    }
}
