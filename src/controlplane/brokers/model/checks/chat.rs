//! OpenAI Chat Completions, <https://platform.openai.com/docs/api-reference/chat>, and those who speak it too. Pure.

use super::{Asked, Wrong, fields, is_inside, list, may_be_text, most, not_here, outside, set, take, text};
use crate::contract::json::Value;
use crate::controlplane::brokers::model::providers::Provider;

/// What of the interface is used here. `store`, `metadata`, `web_search_options`, `prediction`, `audio` and what
/// OpenRouter adds (`plugins`, `models`, `route`, `provider`) would do more than answer, or answer with another model.
const FIELDS: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "stream",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "stop",
    "reasoning_effort",
];

pub(super) fn check(provider: Provider, mut document: Value) -> Result<Asked, Wrong> {
    fields(&document, FIELDS, "request")?;
    let model = text(&document, "model", "request")?.to_owned();
    let tokens = most(&document, "max_tokens")?;
    for (at, tool) in document.get("tools").and_then(Value::as_array).unwrap_or_default().iter().enumerate() {
        let place = format!("tools.{at}");
        function(tool, &place)?;
        let inner = tool.get("function").ok_or_else(|| format!("{place}: function is required"))?;
        fields(inner, &["name", "description", "parameters", "strict"], &place)?;
        text(inner, "name", &place)?;
    }
    for (at, message) in list(&document, "messages", "")?.iter().enumerate() {
        let place = format!("messages.{at}");
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer" | "user") => {
                fields(message, &["role", "content", "name"], &place)?;
            }
            Some("assistant") => {
                fields(message, &["role", "content", "refusal", "tool_calls", "reasoning_content"], &place)?;
                may_be_text(message, "refusal", &place)?;
                for call in message.get("tool_calls").and_then(Value::as_array).unwrap_or_default() {
                    fields(call, &["id", "type", "function"], &place)?;
                    function_type(call, &place)?;
                    let inner =
                        call.get("function").ok_or_else(|| format!("{place}: function is required"))?;
                    fields(inner, &["name", "arguments"], &place)?;
                }
            }
            Some("tool") => {
                fields(message, &["role", "tool_call_id", "content"], &place)?;
            }
            _ => return Err(format!("{place}: role must be system, developer, user, assistant or tool")),
        }
        content(message, &place)?;
    }
    set(&mut document, "stream", Value::from(true));
    set(&mut document, "stream_options", Value::object([("include_usage", Value::from(true))]));
    // Its newer models know only the new name, and its older ones know it too; others know only the old one.
    if provider == Provider::OpenAi
        && let Some(limit) = take(&mut document, "max_tokens")
    {
        set(&mut document, "max_completion_tokens", limit);
    }
    Ok(Asked { model, document, most: tokens })
}

fn function(tool: &Value, place: &str) -> Result<(), Wrong> {
    function_type(tool, place)?;
    fields(tool, &["type", "function"], place).map(drop)
}

/// A tool of another type is run by the provider.
fn function_type(value: &Value, place: &str) -> Result<(), Wrong> {
    match value.get("type").and_then(Value::as_str) {
        Some("function") => Ok(()),
        kind => Err(not_here(place, "a tool", kind.unwrap_or_default())),
    }
}

fn content(message: &Value, place: &str) -> Result<(), Wrong> {
    let parts = match message.get("content") {
        None | Some(Value::Null | Value::String(_)) => return Ok(()),
        Some(Value::Array(parts)) => parts,
        Some(_) => return Err(format!("{place}: content must be a text or a list of parts")),
    };
    for (at, part) in parts.iter().enumerate() {
        let place = format!("{place}.{at}");
        match part.get("type").and_then(Value::as_str).unwrap_or_default() {
            "text" => fields(part, &["type", "text"], &place).map(drop)?,
            "refusal" => fields(part, &["type", "refusal"], &place).map(drop)?,
            "image_url" => {
                fields(part, &["type", "image_url"], &place)?;
                let image = part.get("image_url").ok_or_else(|| format!("{place}: image_url is required"))?;
                fields(image, &["url", "detail"], &place)?;
                if !is_inside(text(image, "url", &place)?) {
                    return Err(outside(&place));
                }
            }
            kind => return Err(not_here(&place, "a part", kind)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{passes, refused};
    use crate::controlplane::brokers::model::providers::Provider;

    const SAID: &str = r#"{"model":"m","max_tokens":5,"tools":[{"type":"function","function":{"name":"t","description":"d","parameters":{}}}],
        "messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"x"},{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}]},
        {"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"t","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"a","content":"r"}]}"#;

    #[test]
    fn what_the_agent_says_passes_with_what_each_provider_calls_its_limit() {
        let openai = passes(Provider::OpenAi, SAID);
        assert!(
            openai.contains(r#""max_completion_tokens":5"#) && !openai.contains(r#""max_tokens""#),
            "{openai}"
        );
        for provider in [Provider::Groq, Provider::OpenRouter, Provider::Local, Provider::Ollama] {
            let document = passes(provider, SAID);
            assert!(document.contains(r#""max_tokens":5"#), "{document}");
            assert!(
                document.contains(r#""stream":true,"stream_options":{"include_usage":true}"#),
                "{document}"
            );
        }
    }

    #[test]
    fn what_reaches_beyond_the_answer_is_refused() {
        let p = Provider::OpenRouter;
        for (more, word) in [
            (r#","store":true"#, "store"),
            (r#","web_search_options":{}"#, "web_search_options"),
            (r#","plugins":[{"id":"web"}]"#, "plugins"),
            (r#","models":["other"]"#, "models"),
            (r#","provider":{"order":["x"]}"#, "provider"),
            (r#","tools":[{"type":"web_search"}]"#, "a tool of type"),
            (r#","tools":[{"type":"mcp","server_url":"https://x"}]"#, "a tool of type"),
            (r#","tools":[{"type":"function"}]"#, "function is required"),
            (r#","max_completion_tokens":9"#, "max_completion_tokens"),
            (r#","max_tokens":-1"#, "max_tokens"),
        ] {
            refused(
                p,
                &format!(r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}]{more}}}"#),
                word,
            );
        }
        for (message, word) in [
            (
                r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://x/?q=secret"}}]}"#,
                "no address",
            ),
            (
                r#"{"role":"user","content":[{"type":"image_url","image_url":{"url":"DATA:x"}}]}"#,
                "no address",
            ),
            (r#"{"role":"user","content":[{"type":"file","file":{"file_id":"f"}}]}"#, "a part"),
            (r#"{"role":"user","content":[{"type":"input_audio","input_audio":{}}]}"#, "a part"),
            (r#"{"role":"assistant","audio":{"id":"a"}}"#, "audio"),
            (r#"{"role":"assistant","tool_calls":[{"id":"a","type":"custom","custom":{}}]}"#, "custom"),
            (r#"{"role":"root","content":"x"}"#, "role"),
            (r#"{"role":"user","content":7}"#, "content"),
        ] {
            refused(p, &format!(r#"{{"model":"m","messages":[{message}]}}"#), word);
        }
    }
}
