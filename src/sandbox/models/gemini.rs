//! The Gemini dialect (<https://ai.google.dev/api/generate-content>), which Vertex AI speaks too. A request for a tool
//! comes whole and often without an id; results are told apart by name and order. What a model thought is a signature
//! (<https://ai.google.dev/gemini-api/docs/thought-signatures>) that goes back on the part that it came on. A stream has
//! no last event: it is complete when it ends after a reason for its end. Pure.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use super::assembly::{self, Assembly, Ids, Progress, Size, broken, number, text, tool_name};
use super::chat::List;
use super::{
    Block, Message, ModelError, Request, Response, Speaker, Stop, ToolChoice, ToolInput, Usage, errors,
    limits,
};
use crate::contract::json::{self, Value};
use crate::contract::providers::Dialect;

/// What stands for a text where the dialect wants one and there is none.
const EMPTY: &str = "(empty)";
/// The field of a signature.
const SIGNATURE: &str = "thoughtSignature";
/// Stands for the signature of a call that another model made; the documentation has it for that.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// The request document.
pub(super) fn encode(request: &Request<'_>) -> String {
    let mut out = String::new();
    // A string takes whatever is written to it.
    let _ = write_request(&mut out, request);
    out
}

fn write_request(out: &mut String, request: &Request<'_>) -> fmt::Result {
    let most = limits::most_tokens(request.model, request.max_tokens);
    write!(out, r#"{{"generationConfig":{{"maxOutputTokens":{most}}}"#)?;
    if !request.system.is_empty() {
        out.push_str(r#","systemInstruction":{"parts":[{"text":"#);
        json::write_string(out, request.system)?;
        out.push_str("}]}");
    }
    out.push_str(r#","contents":["#);
    let mut contents = List::of(out);
    let mut names = HashMap::new();
    // Of a call without one these models refuse the request.
    let wants_signatures = request.model.starts_with("gemini-3");
    for message in request.messages {
        match message.speaker {
            Speaker::User => write_user(&mut contents, message, &names)?,
            Speaker::Assistant => {
                write_model(contents.next(), message, wants_signatures)?;
                for block in &message.blocks {
                    if let Block::ToolUse { id, name, .. } = block {
                        names.insert(id.as_str(), name.as_str());
                    }
                }
            }
        }
    }
    out.push(']');
    if !request.tools.is_empty() {
        out.push_str(r#","tools":[{"functionDeclarations":["#);
        let mut tools = List::of(out);
        for tool in request.tools {
            let out = tools.next();
            out.push_str(r#"{"name":"#);
            json::write_string(out, tool.name)?;
            out.push_str(r#","description":"#);
            json::write_string(out, tool.description)?;
            // `parameters` takes a part of OpenAPI only.
            write!(out, r#","parametersJsonSchema":{}}}"#, tool.schema)?;
        }
        out.push_str("]}]");
        if request.choice == ToolChoice::Forbidden {
            out.push_str(r#","toolConfig":{"functionCallingConfig":{"mode":"NONE"}}"#);
        }
    }
    out.push('}');
    Ok(())
}

/// Results stand alone, right after the calls; what a person says comes after them.
fn write_user(contents: &mut List<'_>, message: &Message, names: &HashMap<&str, &str>) -> fmt::Result {
    let mut said = Vec::new();
    let mut results = Vec::new();
    for block in &message.blocks {
        match block {
            Block::Text(text) if !text.is_empty() => said.push(text.as_str()),
            Block::ToolResult { id, text, is_error } => results.push((id, text, *is_error)),
            Block::Text(_) | Block::ToolUse { .. } | Block::Opaque { .. } => {}
        }
    }
    if !results.is_empty() {
        let out = contents.next();
        out.push_str(r#"{"role":"user","parts":["#);
        let mut parts = List::of(out);
        for (id, text, is_error) in &results {
            let out = parts.next();
            out.push_str(r#"{"functionResponse":{"name":"#);
            json::write_string(out, names.get(id.as_str()).copied().unwrap_or(id))?;
            out.push_str(if *is_error { r#","response":{"error":"# } else { r#","response":{"output":"# });
            json::write_string(out, text)?;
            out.push_str("}}}");
        }
        out.push_str("]}");
    }
    if said.is_empty() && !results.is_empty() {
        return Ok(());
    }
    let out = contents.next();
    out.push_str(r#"{"role":"user","parts":["#);
    let mut parts = List::of(out);
    for text in if said.is_empty() { &[EMPTY][..] } else { &said } {
        let out = parts.next();
        words(out, text)?;
        out.push('}');
    }
    out.push_str("]}");
    Ok(())
}

/// A part of text, without its closing brace.
fn words(out: &mut String, text: &str) -> fmt::Result {
    out.push_str(r#"{"text":"#);
    json::write_string(out, text)
}

fn write_model(out: &mut String, message: &Message, wants_signatures: bool) -> fmt::Result {
    out.push_str(r#"{"role":"model","parts":["#);
    let mut parts = List::of(out);
    let (mut signature, mut is_empty, mut has_call) = (None, true, false);
    for block in &message.blocks {
        let out = match block {
            Block::Opaque { dialect: Dialect::Gemini, value } => {
                signature = value.get(SIGNATURE).and_then(Value::as_str);
                continue;
            }
            Block::Text(text) if !text.is_empty() => {
                let out = parts.next();
                words(out, text)?;
                out
            }
            Block::ToolUse { name, input, .. } => {
                let out = parts.next();
                out.push_str(r#"{"functionCall":{"name":"#);
                json::write_string(out, name)?;
                match input {
                    ToolInput::Object(value) => write!(out, r#","args":{value}}}"#)?,
                    ToolInput::Unreadable => out.push_str(r#","args":{}}"#),
                }
                // Only the first call of several at once has one.
                if !std::mem::replace(&mut has_call, true) && wants_signatures {
                    signature = signature.or(Some(NO_SIGNATURE));
                }
                out
            }
            Block::Text(_) | Block::ToolResult { .. } | Block::Opaque { .. } => continue,
        };
        is_empty = false;
        if let Some(signature) = signature.take() {
            write!(out, r#","{SIGNATURE}":"#)?;
            json::write_string(out, signature)?;
        }
        out.push('}');
    }
    if is_empty {
        let out = parts.next();
        words(out, EMPTY)?;
        out.push('}');
    }
    out.push_str("]}");
    Ok(())
}

/// The answer as far as it has come.
#[derive(Debug)]
pub(super) struct Reading {
    ids: Ids,
    blocks: Vec<Block>,
    stop: Option<Stop>,
    size: Size,
    usage: Usage,
}

impl Reading {
    /// Of an answer to this conversation.
    pub(super) fn new(conversation: &[Arc<Message>]) -> Self {
        Self {
            ids: Ids::of(conversation),
            blocks: Vec::new(),
            stop: None,
            size: Size::default(),
            usage: Usage::default(),
        }
    }

    fn part(&mut self, part: &Value) -> Result<(), ModelError> {
        let signature = text(part, SIGNATURE);
        if !signature.is_empty() {
            self.size.block()?;
            self.size.bytes(signature.len())?;
            let value = Value::object([(SIGNATURE, signature.into())]);
            self.blocks.push(Block::Opaque { dialect: Dialect::Gemini, value });
        }
        let said = text(part, "text");
        // A summary of thoughts is not part of the answer.
        if !said.is_empty() && part.get("thought").and_then(Value::as_bool) != Some(true) {
            self.size.bytes(said.len())?;
            match self.blocks.last_mut() {
                Some(Block::Text(whole)) => whole.push_str(said),
                _ => {
                    self.size.block()?;
                    self.blocks.push(Block::Text(said.to_owned()));
                }
            }
        }
        let Some(call) = part.get("functionCall") else { return Ok(()) };
        let name = tool_name(text(call, "name")).ok_or_else(|| broken("a tool request without a name"))?;
        let input = match call.get("args") {
            None | Some(Value::Null) => ToolInput::Object(Value::Object(Vec::new())),
            Some(args @ Value::Object(_)) => {
                self.size.bytes(args.to_string().len())?;
                ToolInput::Object(args.clone())
            }
            Some(_) => ToolInput::Unreadable,
        };
        self.size.block()?;
        self.size.bytes(name.len())?;
        let id = self.ids.give(text(call, "id"));
        self.blocks.push(Block::ToolUse { id, name, input });
        Ok(())
    }

    fn count(&mut self, usage: &Value) {
        let read = |name: &str| number(Some(usage), name);
        self.usage = Usage {
            input: read("promptTokenCount"),
            output: read("candidatesTokenCount").saturating_add(read("thoughtsTokenCount")),
            cached: read("cachedContentTokenCount"),
        };
    }
}

impl Assembly for Reading {
    fn event(&mut self, data: &[u8]) -> Result<Progress, ModelError> {
        let event = assembly::event(data)?;
        if event.get("error").is_some_and(|error| !error.is_null()) {
            return Err(errors::in_stream(&event));
        }
        if let Some(usage) = event.get("usageMetadata") {
            self.count(usage);
        }
        if event.get("promptFeedback").is_some_and(|feedback| !text(feedback, "blockReason").is_empty()) {
            self.stop = Some(Stop::Refused);
        }
        let candidates = event.get("candidates").and_then(Value::as_array).unwrap_or_default();
        // Only one was asked for.
        for candidate in candidates.iter().filter(|one| number(Some(one), "index") == 0) {
            let parts = candidate.get("content").and_then(|content| content.get("parts"));
            for part in parts.and_then(Value::as_array).unwrap_or_default() {
                self.part(part)?;
            }
            match text(candidate, "finishReason") {
                "" => {}
                "MAX_TOKENS" => self.stop = Some(Stop::Length),
                "SAFETY" | "RECITATION" | "BLOCKLIST" | "PROHIBITED_CONTENT" | "SPII" | "LANGUAGE"
                | "IMAGE_SAFETY" => self.stop = Some(Stop::Refused),
                reason @ ("MALFORMED_FUNCTION_CALL" | "UNEXPECTED_TOOL_CALL") => {
                    return Err(broken(format!("the model's request for a tool is none: {reason}")));
                }
                _ => self.stop = Some(Stop::Finished),
            }
        }
        Ok(Progress::More)
    }

    fn end(&mut self) -> Result<Response, ModelError> {
        let Some(stop) = self.stop else { return Err(broken("the stream gives no reason for its end")) };
        Ok(Response { blocks: std::mem::take(&mut self.blocks), stop, usage: self.usage })
    }
}

#[cfg(test)]
mod tests {
    use super::super::streams::{self, tool_use};
    use super::*;

    fn read(events: &[&str]) -> Result<Response, ModelError> {
        streams::read(Dialect::Gemini, &streams::of(events))
    }

    fn chunk(parts: &str, more: &str) -> String {
        format!(r#"{{"candidates":[{{"content":{{"role":"model","parts":[{parts}]}}{more}}}]}}"#)
    }

    const STOP: &str = r#","finishReason":"STOP""#;

    fn signed(signature: &str) -> Block {
        let value = Value::object([(SIGNATURE, signature.into())]);
        Block::Opaque { dialect: Dialect::Gemini, value }
    }

    #[test]
    fn text_signatures_and_tools_are_put_together() {
        let response = read(&[
            &chunk(r#"{"text":"I think","thought":true},{"text":"hel"}"#, ""),
            r#"{"candidates":[{"index":1,"content":{"parts":[{"text":"another"}]}}]}"#,
            &chunk(r#"{"text":"lo"}"#, ""),
            &chunk(r#"{"functionCall":{"name":"t","args":{"x":1}},"thoughtSignature":"s1"}"#, ""),
            &chunk(r#"{"functionCall":{"name":"t"}},{"functionCall":{"id":"own","name":"u","args":null}}"#, ""),
            r#"{"candidates":[{"content":{"parts":[{"text":""}]},"finishReason":"STOP"}],"usageMetadata":{"promptTokenCount":9,"candidatesTokenCount":2,"thoughtsTokenCount":3,"cachedContentTokenCount":4}}"#,
        ])
        .unwrap();
        let blocks = vec![
            Block::Text("hello".into()),
            signed("s1"),
            tool_use("call_0", "t", r#"{"x":1}"#),
            tool_use("call_1", "t", "{}"),
            tool_use("own", "u", "{}"),
        ];
        let usage = Usage { input: 9, output: 5, cached: 4 };
        assert_eq!(response, Response { blocks, stop: Stop::Finished, usage });
        let odd = read(&[&chunk(r#"{"functionCall":{"name":"t","args":[1]}}"#, STOP)]).unwrap();
        assert!(matches!(odd.blocks[..], [Block::ToolUse { input: ToolInput::Unreadable, .. }]));
    }

    #[test]
    fn how_it_ends() {
        let said = chunk(r#"{"text":"x"}"#, "");
        for (reason, stop) in [
            ("STOP", Stop::Finished),
            ("MAX_TOKENS", Stop::Length),
            ("SAFETY", Stop::Refused),
            ("NEW", Stop::Finished),
        ] {
            let last = chunk("", &format!(r#","finishReason":"{reason}""#));
            assert_eq!(read(&[&said, &last]).unwrap().stop, stop, "{reason}");
        }
        let blocked = read(&[r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#]).unwrap();
        assert_eq!((blocked.stop, blocked.blocks.len()), (Stop::Refused, 0));
        for stream in [
            &[][..],
            &[said.as_str()],
            &[&chunk(r#"{"functionCall":{}}"#, STOP)],
            &[&chunk("", r#","finishReason":"MALFORMED_FUNCTION_CALL""#)],
            &["{"],
        ] {
            assert!(matches!(read(stream), Err(ModelError::Broken(_))), "{stream:?}");
        }
        let error = r#"{"error":{"code":503,"message":"busy","status":"UNAVAILABLE"}}"#;
        assert_eq!(read(&[&said, error]).unwrap_err().to_string(), "the model answered 503: busy");
    }

    #[test]
    fn the_request_document() {
        let mut conversation = streams::conversation();
        let mut request = streams::request(Dialect::Gemini, &conversation);
        assert_eq!(
            encode(&request),
            r#"{"generationConfig":{"maxOutputTokens":9},"systemInstruction":{"parts":[{"text":"s"}]},"contents":[{"role":"user","parts":[{"text":"one"},{"text":"two"}]},{"role":"model","parts":[{"text":"I look"},{"functionCall":{"name":"t","args":{"x":1}}},{"functionCall":{"name":"t","args":{}}}]},{"role":"user","parts":[{"functionResponse":{"name":"t","response":{"output":""}}},{"functionResponse":{"name":"t","response":{"error":"no"}}}]},{"role":"user","parts":[{"text":"three"}]},{"role":"model","parts":[{"text":"(empty)"}]}],"tools":[{"functionDeclarations":[{"name":"t","description":"d","parametersJsonSchema":{"type":"object"}}]}]}"#
        );
        request.choice = ToolChoice::Forbidden;
        assert!(encode(&request).ends_with(r#","toolConfig":{"functionCallingConfig":{"mode":"NONE"}}}"#));
        // A signature goes back on its part; where another model made the call, the word for that stands there.
        let blocks = vec![signed("s1"), tool_use("a", "t", "{}"), tool_use("b", "u", "{}")];
        let other = vec![tool_use("c", "v", "{}")];
        conversation =
            [blocks, other].map(|blocks| Arc::new(Message { speaker: Speaker::Assistant, blocks })).into();
        let mut request = streams::request(Dialect::Gemini, &conversation);
        request.model = "gemini-3-pro";
        let document = encode(&request);
        for part in [
            r#"{"functionCall":{"name":"t","args":{}},"thoughtSignature":"s1"},{"functionCall":{"name":"u","args":{}}}"#,
            r#"{"functionCall":{"name":"v","args":{}},"thoughtSignature":"skip_thought_signature_validator"}"#,
        ] {
            assert!(document.contains(part), "{document}");
        }
    }
}
