//! Anthropic Messages, <https://docs.anthropic.com/en/api/messages>. Pure.

use super::{Asked, Wrong, fields, list, most, not_here, outside, set, text};
use crate::contract::json::Value;

/// What of the interface is used here. `mcp_servers`, `container`, `context_management`, `service_tier`, `metadata` and
/// the like would have the provider do more than answer.
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
    "thinking",
];

pub(super) fn check(mut document: Value) -> Result<Asked, Wrong> {
    fields(&document, FIELDS, "request")?;
    let model = text(&document, "model", "request")?.to_owned();
    if document.get("max_tokens").is_none() {
        return Err("max_tokens: field required, a whole number of at least 1".to_owned());
    }
    let most = most(&document, "max_tokens")?;
    match document.get("system") {
        None | Some(Value::String(_)) => {}
        Some(Value::Array(blocks)) => {
            blocks
                .iter()
                .enumerate()
                .try_for_each(|(at, one)| block(one, &format!("system.{at}"), ONLY_TEXT))?;
        }
        Some(_) => return Err("system: expected a text or a list of texts".to_owned()),
    }
    for (at, tool) in document.get("tools").and_then(Value::as_array).unwrap_or_default().iter().enumerate() {
        let place = format!("tools.{at}");
        // A tool of another type is run by the provider.
        if let Some(kind) = tool.get("type").filter(|kind| kind.as_str() != Some("custom")) {
            return Err(not_here(&place, "a tool", kind.as_str().unwrap_or_default()));
        }
        fields(tool, &["type", "name", "description", "input_schema", "cache_control"], &place)?;
        text(tool, "name", &place)?;
        tool.get("input_schema")
            .and_then(Value::as_object)
            .ok_or_else(|| format!("{place}: input_schema is required, an object"))?;
    }
    for (at, message) in list(&document, "messages", "")?.iter().enumerate() {
        let place = format!("messages.{at}");
        fields(message, &["role", "content"], &place)?;
        match message.get("role").and_then(Value::as_str) {
            Some("user" | "assistant") => {}
            _ => return Err(format!("{place}: role must be user or assistant")),
        }
        match message.get("content") {
            Some(Value::String(_)) => {}
            Some(Value::Array(blocks)) => {
                blocks
                    .iter()
                    .enumerate()
                    .try_for_each(|(b, one)| block(one, &format!("{place}.{b}"), ALL))?;
            }
            _ => return Err(format!("{place}: content must be a text or a list of blocks")),
        }
    }
    set(&mut document, "stream", Value::from(true));
    Ok(Asked { model, document, most })
}

const ONLY_TEXT: &[&str] = &["text"];
const IN_A_RESULT: &[&str] = &["text", "image", "document"];
const ALL: &[&str] =
    &["text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"];

/// Checks one block; `kinds` are those that may stand here.
fn block(value: &Value, place: &str, kinds: &[&str]) -> Result<(), Wrong> {
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    if !kinds.contains(&kind) {
        return Err(not_here(place, "a block", kind));
    }
    match kind {
        "text" => fields(value, &["type", "text", "cache_control"], place).map(drop),
        "image" => {
            fields(value, &["type", "source", "cache_control"], place)?;
            source(value, place)
        }
        "document" => {
            fields(value, &["type", "source", "title", "context", "cache_control"], place)?;
            source(value, place)
        }
        "tool_use" => fields(value, &["type", "id", "name", "input", "cache_control"], place).map(drop),
        "tool_result" => {
            fields(value, &["type", "tool_use_id", "content", "is_error", "cache_control"], place)?;
            match value.get("content") {
                Some(Value::Array(blocks)) => blocks
                    .iter()
                    .enumerate()
                    .try_for_each(|(at, one)| block(one, &format!("{place}.{at}"), IN_A_RESULT)),
                None | Some(Value::String(_)) => Ok(()),
                Some(_) => Err(format!("{place}: content must be a text or a list of blocks")),
            }
        }
        "thinking" => fields(value, &["type", "thinking", "signature"], place).map(drop),
        _ => fields(value, &["type", "data"], place).map(drop),
    }
}

/// Only what is in the request itself: the provider fetches a `url`, and a `file` is the account's.
fn source(value: &Value, place: &str) -> Result<(), Wrong> {
    let source = value.get("source").ok_or_else(|| format!("{place}: source is required"))?;
    match source.get("type").and_then(Value::as_str) {
        Some("base64" | "text") => fields(source, &["type", "media_type", "data"], place).map(drop),
        _ => Err(outside(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{passes, refused};
    use crate::controlplane::brokers::model::providers::Provider;

    const P: Provider = Provider::Anthropic;

    #[test]
    fn what_the_agent_says_passes() {
        let document = passes(
            P,
            r#"{"model":"m","max_tokens":5,"stream":false,"system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],
            "tools":[{"name":"t","description":"d","input_schema":{"type":"object"}}],"tool_choice":{"type":"none"},
            "messages":[{"role":"user","content":"x"},
            {"role":"assistant","content":[{"type":"thinking","thinking":"","signature":"s"},{"type":"tool_use","id":"a","name":"t","input":{}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"AA=="}}]}]}]}"#,
        );
        assert!(document.contains(r#""stream":true"#), "{document}");
    }

    #[test]
    fn what_reaches_beyond_the_answer_is_refused() {
        let say = |more: &str| {
            format!(r#"{{"model":"m","max_tokens":5,"messages":[{{"role":"user","content":"x"}}]{more}}}"#)
        };
        for (more, word) in [
            (r#","mcp_servers":[]"#, "mcp_servers"),
            (r#","container":"c""#, "container"),
            (r#","metadata":{"user_id":"x"}"#, "metadata"),
            (r#","tools":[{"type":"web_search_20250305","name":"web_search"}]"#, "a tool of type"),
            (r#","tools":[{"type":"code_execution_20250825","name":"code_execution"}]"#, "a tool of type"),
            (r#","tools":[{"name":"t","input_schema":{},"allowed_callers":["x"]}]"#, "allowed_callers"),
            (r#","system":[{"type":"image","source":{}}]"#, "a block"),
        ] {
            refused(P, &say(more), word);
        }
        let with = |block: &str| {
            format!(r#"{{"model":"m","max_tokens":5,"messages":[{{"role":"user","content":[{block}]}}]}}"#)
        };
        for (block, word) in [
            (r#"{"type":"image","source":{"type":"url","url":"https://x/"}}"#, "no address"),
            (r#"{"type":"document","source":{"type":"file","file_id":"f"}}"#, "no address"),
            (r#"{"type":"container_upload","file_id":"f"}"#, "container_upload"),
            (r#"{"type":"server_tool_use","id":"a","name":"web_fetch","input":{}}"#, "server_tool_use"),
            (r#"{"type":"mcp_tool_use"}"#, "mcp_tool_use"),
            (
                r#"{"type":"tool_result","tool_use_id":"a","content":[{"type":"image","source":{"type":"url","url":"x"}}]}"#,
                "no address",
            ),
            (r#"{"type":"tool_result","tool_use_id":"a","content":[{"type":"tool_use"}]}"#, "a block"),
        ] {
            refused(P, &with(block), word);
        }
        refused(P, r#"{"model":"m","messages":[{"role":"user","content":"x"}]}"#, "max_tokens");
        refused(
            P,
            r#"{"model":"m","max_tokens":0,"messages":[{"role":"user","content":"x"}]}"#,
            "max_tokens",
        );
        refused(P, r#"{"model":"m","max_tokens":1,"messages":[{"role":"system","content":"x"}]}"#, "role");
        refused(P, r#"{"max_tokens":1,"messages":[]}"#, "model");
        refused(P, "[]", "object");
    }
}
