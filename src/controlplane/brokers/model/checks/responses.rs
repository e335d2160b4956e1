//! OpenAI Responses, <https://platform.openai.com/docs/api-reference/responses>. Pure.

use super::{Asked, Wrong, fields, is_inside, list, may_be_text, most, not_here, outside, set, text};
use crate::contract::json::Value;

/// What of the interface is used here. `previous_response_id`, `conversation`, `prompt`, `background` and `metadata`
/// name what the account keeps; `store` is set below.
const FIELDS: &[&str] = &[
    "model",
    "instructions",
    "input",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "stream",
    "store",
    "include",
    "reasoning",
    "max_output_tokens",
    "temperature",
    "top_p",
];

pub(super) fn check(mut document: Value) -> Result<Asked, Wrong> {
    fields(&document, FIELDS, "request")?;
    let model = text(&document, "model", "request")?.to_owned();
    let most = most(&document, "max_output_tokens")?;
    may_be_text(&document, "instructions", "request")?;
    for (at, tool) in document.get("tools").and_then(Value::as_array).unwrap_or_default().iter().enumerate() {
        let place = format!("tools.{at}");
        // A tool of another type is run by the provider.
        match tool.get("type").and_then(Value::as_str) {
            Some("function") => {}
            kind => return Err(not_here(&place, "a tool", kind.unwrap_or_default())),
        }
        fields(tool, &["type", "name", "description", "parameters", "strict"], &place)?;
        text(tool, "name", &place)?;
    }
    for what in document.get("include").and_then(Value::as_array).unwrap_or_default() {
        if what.as_str() != Some("reasoning.encrypted_content") {
            return Err("include: only reasoning.encrypted_content may be asked for".to_owned());
        }
    }
    if let Some(reasoning) = document.get("reasoning") {
        fields(reasoning, &["effort", "summary"], "reasoning")?;
    }
    for (at, item) in list(&document, "input", "")?.iter().enumerate() {
        check_item(item, &format!("input.{at}"))?;
    }
    set(&mut document, "stream", Value::from(true));
    // Nothing of a conversation is kept by the account.
    set(&mut document, "store", Value::from(false));
    Ok(Asked { model, document, most })
}

fn check_item(item: &Value, place: &str) -> Result<(), Wrong> {
    match item.get("type").and_then(Value::as_str).unwrap_or("message") {
        "message" => {
            fields(item, &["type", "role", "content", "id", "status"], place)?;
            match item.get("content") {
                Some(Value::String(_)) => Ok(()),
                Some(Value::Array(parts)) => parts
                    .iter()
                    .enumerate()
                    .try_for_each(|(at, part)| check_part(part, &format!("{place}.{at}"))),
                _ => Err(format!("{place}: content must be a text or a list of parts")),
            }
        }
        "function_call" => {
            fields(item, &["type", "call_id", "name", "arguments", "id", "status"], place).map(drop)
        }
        "function_call_output" => {
            fields(item, &["type", "call_id", "output", "id", "status"], place)?;
            may_be_text(item, "output", place)
        }
        "reasoning" => {
            fields(item, &["type", "id", "summary", "encrypted_content", "content", "status"], place)
                .map(drop)
        }
        kind => Err(not_here(place, "an item", kind)),
    }
}

fn check_part(part: &Value, place: &str) -> Result<(), Wrong> {
    match part.get("type").and_then(Value::as_str).unwrap_or_default() {
        "input_text" => fields(part, &["type", "text"], place).map(drop),
        "output_text" => fields(part, &["type", "text", "annotations", "logprobs"], place).map(drop),
        "refusal" => fields(part, &["type", "refusal"], place).map(drop),
        "input_image" => {
            fields(part, &["type", "image_url", "detail"], place)?;
            if is_inside(text(part, "image_url", place)?) { Ok(()) } else { Err(outside(place)) }
        }
        kind => Err(not_here(place, "a part", kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{passes, refused};
    use crate::controlplane::brokers::model::providers::Provider;

    const P: Provider = Provider::Codex;

    #[test]
    fn what_the_agent_says_passes_and_is_not_kept() {
        let document = passes(
            P,
            r#"{"model":"m","instructions":"s","store":true,"max_output_tokens":5,"include":["reasoning.encrypted_content"],"reasoning":{"effort":"low"},
            "tools":[{"type":"function","name":"t","description":"d","parameters":{},"strict":false}],"tool_choice":"auto",
            "input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"x"},{"type":"input_image","image_url":"data:image/png;base64,AA=="}]},
            {"type":"reasoning","id":"rs","summary":[],"encrypted_content":"e"},
            {"type":"function_call","call_id":"a","name":"t","arguments":"{}"},{"type":"function_call_output","call_id":"a","output":"r"}]}"#,
        );
        assert!(document.contains(r#""store":false"#) && document.contains(r#""stream":true"#), "{document}");
    }

    #[test]
    fn what_reaches_beyond_the_answer_is_refused() {
        for (more, word) in [
            (r#","previous_response_id":"r""#, "previous_response_id"),
            (r#","conversation":"c""#, "conversation"),
            (r#","background":true"#, "background"),
            (r#","tools":[{"type":"web_search"}]"#, "a tool of type"),
            (r#","tools":[{"type":"mcp","server_url":"https://x"}]"#, "a tool of type"),
            (r#","tools":[{"type":"file_search","vector_store_ids":[]}]"#, "a tool of type"),
            (r#","include":["file_search_call.results"]"#, "include"),
            (r#","reasoning":{"x":1}"#, "reasoning"),
        ] {
            refused(P, &format!(r#"{{"model":"m","input":[{{"role":"user","content":"x"}}]{more}}}"#), word);
        }
        for (item, word) in [
            (r#"{"type":"item_reference","id":"i"}"#, "an item"),
            (r#"{"type":"web_search_call"}"#, "an item"),
            (r#"{"role":"user","content":[{"type":"input_image","image_url":"https://x"}]}"#, "no address"),
            (
                r#"{"role":"user","content":[{"type":"input_image","file_id":"f","image_url":"data:x"}]}"#,
                "file_id",
            ),
            (r#"{"role":"user","content":[{"type":"input_file","file_url":"https://x"}]}"#, "a part"),
            (r#"{"type":"function_call_output","call_id":"a","output":[{"type":"input_image"}]}"#, "output"),
        ] {
            refused(P, &format!(r#"{{"model":"m","input":[{item}]}}"#), word);
        }
        refused(P, r#"{"model":"m","input":"x"}"#, "input");
    }
}
