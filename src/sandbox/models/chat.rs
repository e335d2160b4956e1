//! The OpenAI Chat Completions dialect (<https://platform.openai.com/docs/api-reference/chat>), which many servers
//! speak, each a little differently: some leave out the index or the id of a request for a tool, or give every one the
//! same, and some end without the last event. An answer is complete when it has a reason for its end. Pure.

use std::fmt::{self, Write};
use std::sync::Arc;

use super::assembly::{self, Assembly, Ids, Progress, Size, broken, number, read_input, text, tool_name};
use super::{
    Block, Message, ModelError, Request, Response, Speaker, Stop, ToolChoice, ToolInput, Usage, errors,
    limits,
};
use crate::contract::json::{self, Value};

/// What stands for a text where the dialect wants one and there is none.
const EMPTY: &str = "(empty)";

/// The request document.
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
    write!(out, r#","max_tokens":{most},"stream":true,"messages":["#)?;
    let mut messages = List::of(out);
    if !request.system.is_empty() {
        words(messages.next(), "system", request.system)?;
    }
    for message in request.messages {
        match message.speaker {
            Speaker::User => write_user(&mut messages, message)?,
            Speaker::Assistant => write_assistant(messages.next(), message)?,
        }
    }
    out.push(']');
    if !request.tools.is_empty() {
        out.push_str(r#","tools":["#);
        let mut tools = List::of(out);
        for tool in request.tools {
            let out = tools.next();
            out.push_str(r#"{"type":"function","function":{"name":"#);
            json::write_string(out, tool.name)?;
            out.push_str(r#","description":"#);
            json::write_string(out, tool.description)?;
            write!(out, r#","parameters":{}}}}}"#, tool.schema)?;
        }
        out.push(']');
        if request.choice == ToolChoice::Forbidden {
            out.push_str(r#","tool_choice":"none""#);
        }
    }
    out.push('}');
    Ok(())
}

/// Results first, each a message of its own: they must come right after what asked for them.
fn write_user(messages: &mut List<'_>, message: &Message) -> fmt::Result {
    let mut said = Vec::new();
    for block in &message.blocks {
        match block {
            Block::Text(text) if !text.is_empty() => said.push(text.as_str()),
            Block::ToolResult { id, text, is_error } => {
                let out = messages.next();
                out.push_str(r#"{"role":"tool","tool_call_id":"#);
                json::write_string(out, id)?;
                out.push_str(r#","content":"#);
                json::write_string(out, &result(text, *is_error))?;
                out.push('}');
            }
            Block::Text(_) | Block::ToolUse { .. } | Block::Opaque { .. } => {}
        }
    }
    let has_results = message.blocks.iter().any(|block| matches!(block, Block::ToolResult { .. }));
    if said.is_empty() && has_results {
        return Ok(());
    }
    let said = if said.is_empty() { EMPTY.to_owned() } else { said.join("\n\n") };
    words(messages.next(), "user", &said)
}

fn write_assistant(out: &mut String, message: &Message) -> fmt::Result {
    let mut said = String::new();
    for block in &message.blocks {
        if let Block::Text(text) = block {
            said.push_str(text);
        }
    }
    let mut uses = message.blocks.iter().filter(|block| matches!(block, Block::ToolUse { .. })).peekable();
    if uses.peek().is_none() {
        return words(out, "assistant", if said.is_empty() { EMPTY } else { &said });
    }
    out.push_str(r#"{"role":"assistant","content":"#);
    if said.is_empty() {
        out.push_str("null");
    } else {
        json::write_string(out, &said)?;
    }
    out.push_str(r#","tool_calls":["#);
    let mut calls = List::of(out);
    for block in uses {
        let Block::ToolUse { id, name, input } = block else { continue };
        let out = calls.next();
        out.push_str(r#"{"id":"#);
        json::write_string(out, id)?;
        out.push_str(r#","type":"function","function":{"name":"#);
        json::write_string(out, name)?;
        out.push_str(r#","arguments":"#);
        json::write_string(out, &arguments(input))?;
        out.push_str("}}");
    }
    out.push_str("]}");
    Ok(())
}

fn words(out: &mut String, role: &str, content: &str) -> fmt::Result {
    write!(out, r#"{{"role":"{role}","content":"#)?;
    json::write_string(out, content)?;
    out.push('}');
    Ok(())
}

/// A tool's result in a dialect that has no field for whether it went wrong, and refuses an empty one.
pub(super) fn result(text: &str, is_error: bool) -> String {
    let text = if text.is_empty() { EMPTY } else { text };
    if is_error { format!("Error: {text}") } else { text.to_owned() }
}

/// A tool's input as text; an unreadable one is told as an empty one.
pub(super) fn arguments(input: &ToolInput) -> String {
    match input {
        ToolInput::Object(value) => value.to_string(),
        ToolInput::Unreadable => "{}".to_owned(),
    }
}

/// Writes the elements of a JSON list.
pub(super) struct List<'a> {
    out: &'a mut String,
    begun: bool,
}

impl<'a> List<'a> {
    /// A list that is open and has nothing yet.
    pub(super) fn of(out: &'a mut String) -> Self {
        Self { out, begun: false }
    }

    /// Where the next element is written.
    pub(super) fn next(&mut self) -> &mut String {
        if std::mem::replace(&mut self.begun, true) {
            self.out.push(',');
        }
        self.out
    }
}

/// The answer as far as it has come.
#[derive(Debug)]
pub(super) struct Reading {
    ids: Ids,
    said: String,
    calls: Vec<Call>,
    stop: Option<Stop>,
    declined: bool,
    size: Size,
    usage: Usage,
}

/// A request for a tool.
#[derive(Debug)]
struct Call {
    index: Option<u64>,
    id: String,
    name: String,
    input: String,
}

impl Reading {
    /// Of an answer to this conversation.
    pub(super) fn new(conversation: &[Arc<Message>]) -> Self {
        Self {
            ids: Ids::of(conversation),
            said: String::new(),
            calls: Vec::new(),
            stop: None,
            declined: false,
            size: Size::default(),
            usage: Usage::default(),
        }
    }

    fn choice(&mut self, choice: &Value) -> Result<(), ModelError> {
        // Only one was asked for.
        if number(Some(choice), "index") != 0 {
            return Ok(());
        }
        if let Some(delta) = choice.get("delta") {
            let refused = text(delta, "refusal");
            self.declined |= !refused.is_empty();
            for words in [text(delta, "content"), refused] {
                self.size.bytes(words.len())?;
                self.said.push_str(words);
            }
            for part in delta.get("tool_calls").and_then(Value::as_array).unwrap_or_default() {
                self.part(part)?;
            }
        }
        match choice.get("finish_reason").and_then(Value::as_str) {
            None | Some("") => {}
            Some("length") => self.stop = Some(Stop::Length),
            Some("content_filter") => self.stop = Some(Stop::Refused),
            Some("error") => return Err(broken("the upstream ended its answer with an error")),
            Some(_) => self.stop = Some(Stop::Finished),
        }
        Ok(())
    }

    /// A piece of a request for a tool.
    fn part(&mut self, part: &Value) -> Result<(), ModelError> {
        let index = part.get("index").and_then(Value::as_u64);
        let function = part.get("function");
        let (id, name) = (text(part, "id"), function.map_or("", |function| text(function, "name")));
        // A few servers give the object itself.
        let given = function.and_then(|function| function.get("arguments"));
        let object = given.filter(|given| given.as_object().is_some()).map(Value::to_string);
        let input = object.as_deref().or_else(|| given.and_then(Value::as_str)).unwrap_or_default();
        self.size.bytes(id.len() + name.len() + input.len())?;
        let at = match self.continued(index, id, name) {
            Some(at) => at,
            None => {
                self.size.block()?;
                let call = Call { index, id: String::new(), name: String::new(), input: String::new() };
                self.calls.push(call);
                self.calls.len() - 1
            }
        };
        if let Some(call) = self.calls.get_mut(at) {
            for (field, said) in [(&mut call.id, id), (&mut call.name, name)] {
                if field.is_empty() {
                    field.push_str(said);
                }
            }
            call.input.push_str(input);
        }
        Ok(())
    }

    /// The request that a piece goes on with; `None` when it begins a new one.
    fn continued(&self, index: Option<u64>, id: &str, name: &str) -> Option<usize> {
        let same_place = |call: &Call| match index {
            Some(_) => call.index == index,
            None => id.is_empty() || call.id == id,
        };
        let (at, call) = self.calls.iter().enumerate().rev().find(|(_, call)| same_place(call))?;
        let other_id = !id.is_empty() && !call.id.is_empty() && call.id != id;
        // A name and no id, where a whole request stands already: servers that count every one as the first.
        let begins_anew =
            !name.is_empty() && id.is_empty() && !call.name.is_empty() && !call.input.is_empty();
        (!(other_id || begins_anew)).then_some(at)
    }

    fn count(&mut self, usage: &Value) {
        let cached = number(usage.get("prompt_tokens_details"), "cached_tokens");
        let read = |name: &str| number(Some(usage), name);
        self.usage = Usage { input: read("prompt_tokens"), output: read("completion_tokens"), cached };
    }

    fn complete(&mut self) -> Result<Response, ModelError> {
        let Some(stop) = self.stop else { return Err(broken("the stream gives no reason for its end")) };
        let mut blocks = Vec::new();
        if !self.said.is_empty() {
            blocks.push(Block::Text(std::mem::take(&mut self.said)));
        }
        for call in std::mem::take(&mut self.calls) {
            let name = tool_name(&call.name).ok_or_else(|| broken("a tool request without a name"))?;
            let id = self.ids.give(&call.id);
            blocks.push(Block::ToolUse { id, name, input: read_input(&call.input) });
        }
        let stop = if self.declined && stop == Stop::Finished { Stop::Refused } else { stop };
        Ok(Response { blocks, stop, usage: self.usage })
    }
}

impl Assembly for Reading {
    fn event(&mut self, data: &[u8]) -> Result<Progress, ModelError> {
        if data.trim_ascii() == b"[DONE]" {
            return self.complete().map(Progress::Complete);
        }
        let event = assembly::event(data)?;
        if event.get("error").is_some_and(|error| !error.is_null()) {
            return Err(errors::in_stream(&event));
        }
        if let Some(usage) = event.get("usage").filter(|usage| !usage.is_null()) {
            self.count(usage);
        }
        for choice in event.get("choices").and_then(Value::as_array).unwrap_or_default() {
            self.choice(choice)?;
        }
        Ok(Progress::More)
    }

    fn end(&mut self) -> Result<Response, ModelError> {
        self.complete()
    }
}

#[cfg(test)]
mod tests {
    use super::super::streams::{self, object, tool_use};
    use super::*;
    use crate::contract::providers::Dialect;

    fn read(events: &[&str]) -> Result<Response, ModelError> {
        streams::read(Dialect::Chat, &streams::of(events))
    }

    fn chunk(delta: &str, finish: &str) -> String {
        format!(r#"{{"choices":[{{"index":0,"delta":{delta},"finish_reason":{finish}}}]}}"#)
    }

    fn calls(parts: &[&str]) -> Vec<Block> {
        let mut events: Vec<String> =
            parts.iter().map(|part| chunk(&format!(r#"{{"tool_calls":[{part}]}}"#), "null")).collect();
        events.push(chunk("{}", r#""tool_calls""#));
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        read(&events).unwrap().blocks
    }

    #[test]
    fn text_and_counts() {
        let response = read(&[
            &chunk(r#"{"role":"assistant","content":""}"#, "null"),
            &chunk(r#"{"content":"hel"}"#, "null"),
            &chunk(r#"{"content":"lo","reasoning_content":"hm"}"#, "null"),
            r#"{"choices":[{"index":1,"delta":{"content":"another"},"finish_reason":null}]}"#,
            &chunk("{}", r#""stop""#),
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}}"#,
            "[DONE]",
        ]);
        let usage = Usage { input: 9, output: 2, cached: 4 };
        let blocks = vec![Block::Text("hello".into())];
        assert_eq!(response, Ok(Response { blocks, stop: Stop::Finished, usage }));
    }

    #[test]
    fn requests_for_tools_are_told_apart_however_they_are_marked() {
        let two = [tool_use("a", "t", r#"{"x":1}"#), tool_use("b", "u", "{}")];
        let by_index = calls(&[
            r#"{"index":0,"id":"a","type":"function","function":{"name":"t","arguments":""}}"#,
            r#"{"index":1,"id":"b","type":"function","function":{"name":"u","arguments":"{"}}"#,
            r#"{"index":0,"function":{"arguments":"{\"x\":"}}"#,
            r#"{"index":1,"function":{"arguments":"}"}}"#,
            r#"{"index":0,"function":{"arguments":"1}"}}"#,
        ]);
        assert_eq!(by_index, two);
        let by_id = calls(&[
            r#"{"id":"a","function":{"name":"t","arguments":"{\"x\":"}}"#,
            r#"{"id":"a","function":{"name":"t","arguments":"1}"}}"#,
            r#"{"id":"b","function":{"name":"u","arguments":""}}"#,
        ]);
        assert_eq!(by_id, two);
        let all_first = calls(&[
            r#"{"index":0,"id":"a","function":{"name":"t","arguments":"{\"x\":1}"}}"#,
            r#"{"index":0,"id":"b","function":{"name":"u","arguments":{}}}"#,
        ]);
        assert_eq!(all_first, two);
        let minted = [tool_use("call_0", "t", r#"{"x":1}"#), tool_use("call_1", "u", "{}")];
        for unmarked in [
            &[
                r#"{"function":{"name":"t","arguments":"{\"x\":1}"}},{"function":{"name":"u","arguments":"{}"}}"#,
            ][..],
            &[
                r#"{"index":0,"id":"","function":{"name":"t","arguments":"{\"x\":"}}"#,
                r#"{"index":0,"function":{"arguments":"1}"}}"#,
                r#"{"index":0,"function":{"name":"u","arguments":"{}"}}"#,
            ],
        ] {
            assert_eq!(calls(unmarked), minted);
        }
        let cut = calls(&[r#"{"index":0,"id":"a","function":{"name":"t","arguments":"{\"x"}}"#]);
        assert!(matches!(cut[..], [Block::ToolUse { input: ToolInput::Unreadable, .. }]));
    }

    #[test]
    fn how_it_ends() {
        let said = chunk(r#"{"content":"x"}"#, "null");
        for (reason, stop) in [
            ("stop", Stop::Finished),
            ("tool_calls", Stop::Finished),
            ("length", Stop::Length),
            ("content_filter", Stop::Refused),
        ] {
            let last = chunk("{}", &format!("{reason:?}"));
            assert_eq!(read(&[&said, &last, "[DONE]"]).unwrap().stop, stop);
            assert_eq!(read(&[&said, &last]).unwrap().stop, stop, "some leave out the last event");
        }
        let declined =
            read(&[&chunk(r#"{"refusal":"I cannot"}"#, "null"), &chunk("{}", r#""stop""#)]).unwrap();
        assert_eq!((declined.stop, declined.text().as_str()), (Stop::Refused, "I cannot"));
        let broken = [
            &[][..],
            &[said.as_str()],
            &[&said, "[DONE]"],
            &[&said, &chunk("{}", r#""error""#)],
            &[&chunk(r#"{"tool_calls":[{"index":0,"id":"a"}]}"#, r#""tool_calls""#)],
            &["{"],
        ];
        for stream in broken {
            assert!(matches!(read(stream), Err(ModelError::Broken(_))), "{stream:?}");
        }
        let error = read(&[&said, r#"{"error":{"message":"slow","code":429},"choices":[]}"#]).unwrap_err();
        assert_eq!(error.to_string(), "the model answered 429: slow");
    }

    #[test]
    fn the_request_document() {
        let conversation = streams::conversation();
        let mut request = streams::request(Dialect::Chat, &conversation);
        let call = r#"{"id":"c2","type":"function","function":{"name":"t","arguments":"{}"}}"#;
        assert_eq!(
            encode(&request),
            format!(
                r#"{{"model":"m","max_tokens":9,"stream":true,"messages":[{{"role":"system","content":"s"}},{{"role":"user","content":"one\n\ntwo"}},{{"role":"assistant","content":"I look","tool_calls":[{{"id":"c1","type":"function","function":{{"name":"t","arguments":"{{\"x\":1}}"}}}},{call}]}},{{"role":"tool","tool_call_id":"c1","content":"(empty)"}},{{"role":"tool","tool_call_id":"c2","content":"Error: no"}},{{"role":"user","content":"three"}},{{"role":"assistant","content":"(empty)"}}],"tools":[{{"type":"function","function":{{"name":"t","description":"d","parameters":{{"type":"object"}}}}}}]}}"#
            )
        );
        request.choice = ToolChoice::Forbidden;
        assert!(encode(&request).ends_with(r#","tool_choice":"none"}"#));
        let only_calls = [Arc::new(Message {
            speaker: Speaker::Assistant,
            blocks: vec![Block::ToolUse {
                id: "c".into(),
                name: "t".into(),
                input: ToolInput::Object(object("{}")),
            }],
        })];
        request.messages = &only_calls;
        assert!(encode(&request).contains(r#"{"role":"assistant","content":null,"tool_calls":["#));
    }
}
