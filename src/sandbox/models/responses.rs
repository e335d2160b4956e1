//! The OpenAI Responses dialect (<https://platform.openai.com/docs/api-reference/responses>), used without anything that
//! the account would keep: the whole conversation goes with every request, and a model's thoughts, which only it can
//! read, with the items that followed them. Pure.

use std::fmt::{self, Write};
use std::sync::Arc;

use super::assembly::{self, Assembly, Ids, Progress, Size, broken, number, read_input, text, tool_name};
use super::chat::{List, arguments, result};
use super::{Block, Message, ModelError, Request, Response, Speaker, Stop, ToolChoice, Usage, errors};
use crate::contract::json::{self, Value};
use crate::contract::providers::Dialect;

/// What stands for a text where the dialect wants one and there is none.
const EMPTY: &str = "(empty)";

/// The request document. How long an answer may be is not said: the upstream that is asked this way refuses the word.
pub(super) fn encode(request: &Request<'_>) -> String {
    let mut out = String::new();
    // A string takes whatever is written to it.
    let _ = write_request(&mut out, request);
    out
}

fn write_request(out: &mut String, request: &Request<'_>) -> fmt::Result {
    out.push_str(r#"{"model":"#);
    json::write_string(out, request.model)?;
    out.push_str(r#","instructions":"#);
    json::write_string(out, if request.system.is_empty() { EMPTY } else { request.system })?;
    out.push_str(r#","stream":true,"store":false,"include":["reasoning.encrypted_content"],"input":["#);
    let mut items = List::of(out);
    for message in request.messages {
        match message.speaker {
            Speaker::User => write_user(&mut items, message)?,
            Speaker::Assistant => write_assistant(&mut items, message)?,
        }
    }
    out.push(']');
    if !request.tools.is_empty() {
        out.push_str(r#","tools":["#);
        let mut tools = List::of(out);
        for tool in request.tools {
            let out = tools.next();
            out.push_str(r#"{"type":"function","name":"#);
            json::write_string(out, tool.name)?;
            out.push_str(r#","description":"#);
            json::write_string(out, tool.description)?;
            // A strict schema must name every field as required; ours have some that may be left out.
            write!(out, r#","parameters":{},"strict":false}}"#, tool.schema)?;
        }
        out.push(']');
        if request.choice == ToolChoice::Forbidden {
            out.push_str(r#","tool_choice":"none""#);
        }
    }
    out.push('}');
    Ok(())
}

/// Results first: they belong to the calls before them.
fn write_user(items: &mut List<'_>, message: &Message) -> fmt::Result {
    let mut said = Vec::new();
    let mut has_results = false;
    for block in &message.blocks {
        match block {
            Block::Text(text) if !text.is_empty() => said.push(text.as_str()),
            Block::ToolResult { id, text, is_error } => {
                has_results = true;
                let out = items.next();
                out.push_str(r#"{"type":"function_call_output","call_id":"#);
                json::write_string(out, id)?;
                out.push_str(r#","output":"#);
                json::write_string(out, &result(text, *is_error))?;
                out.push('}');
            }
            Block::Text(_) | Block::ToolUse { .. } | Block::Opaque { .. } => {}
        }
    }
    if said.is_empty() && has_results {
        return Ok(());
    }
    let said = if said.is_empty() { EMPTY.to_owned() } else { said.join("\n\n") };
    words(items.next(), ("user", "input_text"), &said)
}

fn write_assistant(items: &mut List<'_>, message: &Message) -> fmt::Result {
    let is_item = |block: &Block| match block {
        Block::Text(text) => !text.is_empty(),
        Block::ToolUse { .. } => true,
        Block::ToolResult { .. } | Block::Opaque { .. } => false,
    };
    let Some(last) = message.blocks.iter().rposition(is_item) else {
        return words(items.next(), ("assistant", "output_text"), EMPTY);
    };
    for (at, block) in message.blocks.iter().enumerate() {
        match block {
            Block::Text(text) if !text.is_empty() => {
                words(items.next(), ("assistant", "output_text"), text)?;
            }
            Block::ToolUse { id, name, input } => {
                let out = items.next();
                out.push_str(r#"{"type":"function_call","call_id":"#);
                json::write_string(out, id)?;
                out.push_str(r#","name":"#);
                json::write_string(out, name)?;
                out.push_str(r#","arguments":"#);
                json::write_string(out, &arguments(input))?;
                out.push('}');
            }
            // A thought without what it led to is refused.
            Block::Opaque { dialect: Dialect::Responses, value } if at < last => {
                write!(items.next(), "{value}")?;
            }
            Block::Text(_) | Block::ToolResult { .. } | Block::Opaque { .. } => {}
        }
    }
    Ok(())
}

fn words(out: &mut String, (role, part): (&str, &str), text: &str) -> fmt::Result {
    write!(out, r#"{{"type":"message","role":"{role}","content":[{{"type":"{part}","text":"#)?;
    json::write_string(out, text)?;
    out.push_str("}]}");
    Ok(())
}

/// The answer as far as it has come.
#[derive(Debug)]
pub(super) struct Reading {
    ids: Ids,
    items: Vec<(u64, Item)>,
    declined: bool,
    size: Size,
}

/// An item of the answer.
#[derive(Debug)]
enum Item {
    Words(String),
    Call {
        id: String,
        name: String,
        input: String,
    },
    /// A thought, sealed; `None` until it is whole.
    Thought(Option<Value>),
    /// A kind that nothing here asks for; left out.
    Other,
}

impl Reading {
    /// Of an answer to this conversation.
    pub(super) fn new(conversation: &[Arc<Message>]) -> Self {
        Self { ids: Ids::of(conversation), items: Vec::new(), declined: false, size: Size::default() }
    }

    fn begin(&mut self, at: u64, item: &Value) -> Result<(), ModelError> {
        if self.items.iter().any(|(place, _)| *place == at) {
            return Err(broken("two items in one place"));
        }
        self.size.block()?;
        let item = match text(item, "type") {
            "message" => Item::Words(String::new()),
            "function_call" => {
                let (id, name) = (text(item, "call_id").to_owned(), text(item, "name").to_owned());
                self.size.bytes(id.len() + name.len())?;
                Item::Call { id, name, input: String::new() }
            }
            "reasoning" => Item::Thought(None),
            _ => Item::Other,
        };
        self.items.push((at, item));
        Ok(())
    }

    fn item(&mut self, at: u64) -> Result<&mut Item, ModelError> {
        let found = self.items.iter_mut().find(|(place, _)| *place == at);
        found.map(|(_, item)| item).ok_or_else(|| broken("a piece of an item that has not begun"))
    }

    fn delta(&mut self, at: u64, kind: &str, delta: &str) -> Result<(), ModelError> {
        self.size.bytes(delta.len())?;
        self.declined |= kind == "response.refusal.delta";
        match (self.item(at)?, kind) {
            (Item::Words(whole), "response.output_text.delta" | "response.refusal.delta")
            | (Item::Call { input: whole, .. }, "response.function_call_arguments.delta") => {
                whole.push_str(delta);
                Ok(())
            }
            _ => Err(broken("a piece of another kind than its item")),
        }
    }

    /// What an item is in the end; servers need not have said it in pieces before.
    fn finish(&mut self, at: u64, done: &Value) -> Result<(), ModelError> {
        if self.item(at).is_err() {
            self.begin(at, done)?;
        }
        let mut more = 0;
        let declined = &mut self.declined;
        let Some((_, item)) = self.items.iter_mut().find(|(place, _)| *place == at) else { return Ok(()) };
        match item {
            Item::Words(whole) => {
                if whole.is_empty() {
                    for part in done.get("content").and_then(Value::as_array).unwrap_or_default() {
                        let (said, refused) = (text(part, "text"), text(part, "refusal"));
                        *declined |= !refused.is_empty();
                        whole.push_str(said);
                        whole.push_str(refused);
                    }
                    more = whole.len();
                }
            }
            Item::Call { id, name, input } => {
                for (field, said) in [
                    (id, text(done, "call_id")),
                    (name, text(done, "name")),
                    (input, text(done, "arguments")),
                ] {
                    if !said.is_empty() && field != said {
                        more += said.len();
                        said.clone_into(field);
                    }
                }
            }
            Item::Thought(thought) => {
                let sealed = text(done, "encrypted_content");
                if !sealed.is_empty() {
                    let summary = done.get("summary").filter(|summary| summary.as_array().is_some());
                    let kept = Value::object([
                        ("type", "reasoning".into()),
                        ("id", text(done, "id").into()),
                        ("summary", summary.cloned().unwrap_or(Value::Array(Vec::new()))),
                        ("encrypted_content", sealed.into()),
                    ]);
                    more = kept.to_string().len();
                    *thought = Some(kept);
                }
            }
            Item::Other => {}
        }
        self.size.bytes(more)
    }

    fn complete(&mut self, response: &Value) -> Result<Response, ModelError> {
        if self.items.is_empty() {
            let output = response.get("output").and_then(Value::as_array).unwrap_or_default();
            for (at, item) in output.iter().enumerate() {
                self.finish(at as u64, item)?;
            }
        }
        let mut items = std::mem::take(&mut self.items);
        items.sort_by_key(|(at, _)| *at);
        let mut blocks = Vec::new();
        for (_, item) in items {
            match item {
                Item::Words(words) if words.is_empty() => {}
                Item::Words(words) => blocks.push(Block::Text(words)),
                Item::Call { id, name, input } => {
                    let name = tool_name(&name).ok_or_else(|| broken("a tool request without a name"))?;
                    let id = self.ids.give(&id);
                    blocks.push(Block::ToolUse { id, name, input: read_input(&input) });
                }
                Item::Thought(Some(value)) => {
                    blocks.push(Block::Opaque { dialect: Dialect::Responses, value });
                }
                Item::Thought(None) | Item::Other => {}
            }
        }
        let why = response.get("incomplete_details").map_or("", |details| text(details, "reason"));
        let stop = match why {
            "content_filter" => Stop::Refused,
            "" if self.declined => Stop::Refused,
            "" => Stop::Finished,
            _ => Stop::Length,
        };
        let usage = response.get("usage");
        let details = usage.and_then(|usage| usage.get("input_tokens_details"));
        let usage = Usage {
            input: number(usage, "input_tokens"),
            output: number(usage, "output_tokens"),
            cached: number(details, "cached_tokens"),
        };
        Ok(Response { blocks, stop, usage })
    }
}

impl Assembly for Reading {
    fn event(&mut self, data: &[u8]) -> Result<Progress, ModelError> {
        let event = assembly::event(data)?;
        let at = number(Some(&event), "output_index");
        match text(&event, "type") {
            "error" => return Err(errors::in_stream(&event)),
            "response.failed" => {
                return Err(errors::in_stream(event.get("response").unwrap_or(&event)));
            }
            "response.output_item.added" => {
                self.begin(at, event.get("item").ok_or_else(|| broken("an item without content"))?)?;
            }
            "response.output_item.done" => {
                self.finish(at, event.get("item").ok_or_else(|| broken("an item without content"))?)?;
            }
            kind @ ("response.output_text.delta"
            | "response.refusal.delta"
            | "response.function_call_arguments.delta") => self.delta(at, kind, text(&event, "delta"))?,
            "response.completed" | "response.incomplete" => {
                let response = event.get("response").unwrap_or(&Value::Null);
                return self.complete(response).map(Progress::Complete);
            }
            // What only says again how far it is, summaries of thoughts, and events that are yet to be invented.
            _ => {}
        }
        Ok(Progress::More)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ToolInput;
    use super::super::streams::{self, object, tool_use};
    use super::*;

    fn read(events: &[&str]) -> Result<Response, ModelError> {
        streams::read(Dialect::Responses, &streams::of(events))
    }

    fn added(at: u64, item: &str) -> String {
        format!(r#"{{"type":"response.output_item.added","output_index":{at},"item":{item}}}"#)
    }

    fn done(at: u64, item: &str) -> String {
        format!(r#"{{"type":"response.output_item.done","output_index":{at},"item":{item}}}"#)
    }

    fn delta(at: u64, kind: &str, delta: &str) -> String {
        format!(r#"{{"type":"response.{kind}.delta","output_index":{at},"delta":{}}}"#, Value::from(delta))
    }

    const COMPLETED: &str = r#"{"type":"response.completed","response":{"status":"completed","usage":{"input_tokens":9,"output_tokens":2,"input_tokens_details":{"cached_tokens":4}}}}"#;
    const CALL: &str = r#"{"type":"function_call","call_id":"a","name":"t","arguments":""}"#;

    #[test]
    fn text_thoughts_and_tools_are_put_together() {
        let thought =
            r#"{"id":"rs","type":"reasoning","summary":[],"encrypted_content":"sealed","status":null}"#;
        let whole = r#"{"type":"function_call","call_id":"a","name":"t","arguments":"{\"x\":1}"}"#;
        let response = read(&[
            r#"{"type":"response.created","response":{}}"#,
            &added(0, r#"{"id":"rs","type":"reasoning","summary":[]}"#),
            &done(0, thought),
            &added(1, r#"{"type":"message","content":[]}"#),
            &delta(1, "output_text", "hel"),
            &delta(1, "output_text", "lo"),
            r#"{"type":"response.output_text.done","output_index":1,"text":"hello"}"#,
            &done(1, r#"{"type":"message","content":[{"type":"output_text","text":"hello"}]}"#),
            &added(2, CALL),
            &added(3, r#"{"type":"function_call","call_id":"b","name":"u","arguments":""}"#),
            &delta(2, "function_call_arguments", "{\"x\":"),
            &delta(3, "function_call_arguments", "{}"),
            &delta(2, "function_call_arguments", "1}"),
            &done(2, whole),
            &added(4, r#"{"type":"web_search_call"}"#),
            COMPLETED,
        ])
        .unwrap();
        let opaque = object(r#"{"type":"reasoning","id":"rs","summary":[],"encrypted_content":"sealed"}"#);
        let opaque = Block::Opaque { dialect: Dialect::Responses, value: opaque };
        let blocks = vec![
            opaque,
            Block::Text("hello".into()),
            tool_use("a", "t", r#"{"x":1}"#),
            tool_use("b", "u", "{}"),
        ];
        let usage = Usage { input: 9, output: 2, cached: 4 };
        assert_eq!(response, Response { blocks, stop: Stop::Finished, usage });
    }

    #[test]
    fn what_comes_only_at_the_end_of_an_item_or_of_all_counts_too() {
        let whole = r#"{"type":"function_call","call_id":"a","name":"t","arguments":"{}"}"#;
        let message = r#"{"type":"message","content":[{"type":"output_text","text":"x"}]}"#;
        let blocks = vec![Block::Text("x".into()), tool_use("a", "t", "{}")];
        assert_eq!(read(&[&done(0, message), &done(1, whole), COMPLETED]).unwrap().blocks, blocks);
        let all = format!(r#"{{"type":"response.completed","response":{{"output":[{message},{whole}]}}}}"#);
        assert_eq!(read(&[&all]).unwrap().blocks, blocks);
        let cut =
            [&added(0, CALL), &delta(0, "function_call_arguments", "{\"x"), COMPLETED].map(str::to_owned);
        let cut: Vec<&str> = cut.iter().map(String::as_str).collect();
        assert!(matches!(
            read(&cut).unwrap().blocks[..],
            [Block::ToolUse { input: ToolInput::Unreadable, .. }]
        ));
    }

    #[test]
    fn how_it_ends() {
        let begun = [added(0, r#"{"type":"message"}"#), delta(0, "output_text", "x")];
        let [item, said] = &begun;
        for (reason, stop) in [("max_output_tokens", Stop::Length), ("content_filter", Stop::Refused)] {
            let last = format!(
                r#"{{"type":"response.incomplete","response":{{"incomplete_details":{{"reason":"{reason}"}}}}}}"#
            );
            assert_eq!(read(&[item, said, &last]).unwrap().stop, stop);
        }
        let declined = read(&[item, &delta(0, "refusal", "I cannot"), COMPLETED]).unwrap();
        assert_eq!((declined.stop, declined.text().as_str()), (Stop::Refused, "I cannot"));
        for stream in [
            &[][..],
            &[item.as_str(), said],
            &[said],
            &[item, item],
            &[item, &delta(0, "function_call_arguments", "x")],
            &[&added(0, r#"{"type":"function_call","call_id":"a"}"#), COMPLETED],
            &["[DONE]"],
            &["{"],
        ] {
            assert!(matches!(read(stream), Err(ModelError::Broken(_))), "{stream:?}");
        }
        for (event, words) in [
            (
                r#"{"type":"response.failed","response":{"status":"failed","error":{"code":"rate_limit_exceeded","message":"slow"}}}"#,
                "the model answered 429: slow",
            ),
            (
                r#"{"type":"error","code":"invalid_prompt","message":"no","param":null}"#,
                "the model answered 400: no",
            ),
        ] {
            assert_eq!(read(&[item, event]).unwrap_err().to_string(), words);
        }
    }

    #[test]
    fn the_request_document() {
        let mut conversation = streams::conversation();
        let mut request = streams::request(Dialect::Responses, &conversation);
        assert_eq!(
            encode(&request),
            r#"{"model":"m","instructions":"s","stream":true,"store":false,"include":["reasoning.encrypted_content"],"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"one\n\ntwo"}]},{"type":"message","role":"assistant","content":[{"type":"output_text","text":"I look"}]},{"type":"function_call","call_id":"c1","name":"t","arguments":"{\"x\":1}"},{"type":"function_call","call_id":"c2","name":"t","arguments":"{}"},{"type":"function_call_output","call_id":"c1","output":"(empty)"},{"type":"function_call_output","call_id":"c2","output":"Error: no"},{"type":"message","role":"user","content":[{"type":"input_text","text":"three"}]},{"type":"message","role":"assistant","content":[{"type":"output_text","text":"(empty)"}]}],"tools":[{"type":"function","name":"t","description":"d","parameters":{"type":"object"},"strict":false}]}"#
        );
        request.choice = ToolChoice::Forbidden;
        assert!(encode(&request).ends_with(r#","tool_choice":"none"}"#));
        // Thoughts go with what followed them, and not without.
        let thought = Block::Opaque { dialect: Dialect::Responses, value: object(r#"{"type":"reasoning"}"#) };
        let blocks = vec![thought.clone(), tool_use("a", "t", "{}"), thought];
        conversation = vec![Arc::new(Message { speaker: Speaker::Assistant, blocks })];
        let document = encode(&streams::request(Dialect::Responses, &conversation));
        assert!(document.contains(r#""input":[{"type":"reasoning"},{"type":"function_call""#), "{document}");
        assert_eq!(document.matches(r#""reasoning""#).count(), 1);
    }
}
