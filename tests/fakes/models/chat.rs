//! OpenAI Chat Completions, by <https://platform.openai.com/docs/api-reference/chat> and its error codes; with what
//! other servers of the dialect do differently where a test orders it.

use std::collections::BTreeSet;

use crate::checks::{Checked, arguments, event, items, object_schema, only, pieces, plain, positive, words};
use crate::json::{Json, object};
use crate::plan::{Piece, Plan, Stop};
use crate::send::Events;
use crate::world::World;

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "max_tokens",
    "max_completion_tokens",
    "stream",
    "stream_options",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "stop",
    "n",
    "seed",
    "user",
    "reasoning_effort",
    "response_format",
    "presence_penalty",
    "frequency_penalty",
    "logprobs",
    "top_logprobs",
    "store",
    "metadata",
    "service_tier",
];
/// Longest id of a call.
const ID: usize = 40;

pub(crate) fn check(body: &Json) -> Checked {
    only(body, FIELDS, "request")?;
    let model = words(body, "model", "request")?;
    let old = positive(body, "max_tokens", "request")?;
    let new = positive(body, "max_completion_tokens", "request")?;
    let thinks = ["o1", "o3", "o4", "gpt-5"].iter().any(|beginning| model.starts_with(beginning));
    if old.is_some() && (thinks || new.is_some()) {
        return Err("Unsupported parameter: 'max_tokens' is not supported with this model. Use \
            'max_completion_tokens' instead."
            .to_owned());
    }
    if !body.is_true("stream") {
        return Err("this fake only streams".to_owned());
    }
    if let Some(options) = body.get("stream_options") {
        only(options, &["include_usage", "include_obfuscation"], "stream_options")?;
    }
    let tools = body.list("tools");
    for tool in tools {
        only(tool, &["type", "function"], "tools")?;
        let function = tool.get("function").filter(|_| tool.text("type") == Some("function"));
        let function = function.ok_or("tools: a tool of type function with a function is required")?;
        only(function, &["name", "description", "parameters", "strict"], "tools.function")?;
        plain(words(function, "name", "tools.function")?, 64, "tools.function.name")?;
        if let Some(schema) = function.get("parameters") {
            object_schema(Some(schema), "tools.function.parameters")?;
        }
    }
    if matches!(body.get("tools"), Some(Json::List(tools)) if tools.is_empty()) {
        return Err("Invalid 'tools': empty array. Expected an array with minimum length 1".to_owned());
    }
    match body.get("tool_choice") {
        None => {}
        Some(_) if tools.is_empty() => {
            return Err("'tool_choice' is only allowed when 'tools' are specified".to_owned());
        }
        Some(Json::Text(choice)) if ["none", "auto", "required"].contains(&choice.as_str()) => {}
        Some(Json::Object(_)) => {}
        Some(_) => return Err("Invalid value for 'tool_choice'".to_owned()),
    }
    conversation(items(body, "messages", "request")?)
}

fn conversation(messages: &[Json]) -> Checked {
    let mut open: BTreeSet<String> = BTreeSet::new();
    for (at, message) in messages.iter().enumerate() {
        let place = format!("messages[{at}]");
        let role = message.text("role").unwrap_or_default();
        if role != "tool" && !open.is_empty() {
            return Err(unanswered(&open));
        }
        match role {
            "system" | "developer" | "user" => {
                only(message, &["role", "content", "name"], &place)?;
                content(message, &place)?;
            }
            "assistant" => {
                only(message, &["role", "content", "refusal", "tool_calls", "name"], &place)?;
                match message.get("tool_calls") {
                    None => content(message, &place)?,
                    Some(Json::List(calls)) if !calls.is_empty() => {
                        if !matches!(message.get("content"), None | Some(Json::Null)) {
                            content(message, &place)?;
                        }
                        for call in calls {
                            let id = one_call(call, &place)?;
                            if !open.insert(id.to_owned()) {
                                return Err(format!(
                                    "Duplicate value for 'tool_call_id' of '{id}' in {place}"
                                ));
                            }
                        }
                    }
                    Some(_) => return Err(format!("Invalid '{place}.tool_calls': empty array.")),
                }
            }
            "tool" => {
                only(message, &["role", "content", "tool_call_id"], &place)?;
                content(message, &place)?;
                let id = words(message, "tool_call_id", &place)?;
                if !open.remove(id) {
                    return Err(format!(
                        "Invalid parameter: {place} with role 'tool' must be a response to a preceeding message \
                         with 'tool_calls'."
                    ));
                }
            }
            _ => {
                return Err(format!(
                    "Invalid value: '{role}'. Supported values are: 'system', 'assistant', …"
                ));
            }
        }
    }
    if open.is_empty() { Ok(()) } else { Err(unanswered(&open)) }
}

fn unanswered(open: &BTreeSet<String>) -> String {
    format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each \
         'tool_call_id'. The following tool_call_ids did not have response messages: {open:?}"
    )
}

fn one_call<'a>(call: &'a Json, place: &str) -> Checked<&'a str> {
    only(call, &["id", "type", "function"], place)?;
    let id = words(call, "id", place)?;
    if id.len() > ID {
        return Err(format!("Invalid '{place}.tool_calls[].id': string too long, at most {ID}"));
    }
    let function = call.get("function").filter(|_| call.text("type") == Some("function"));
    let function =
        function.ok_or_else(|| format!("{place}: a call of type function with a function is required"))?;
    only(function, &["name", "arguments"], place)?;
    plain(words(function, "name", place)?, 64, place)?;
    arguments(function, place)?;
    Ok(id)
}

/// A text, or a list of parts; neither may be empty: the strict servers of the dialect refuse it.
fn content(message: &Json, place: &str) -> Checked {
    match message.get("content") {
        Some(Json::Text(text)) if !text.is_empty() => Ok(()),
        Some(Json::List(parts)) if !parts.is_empty() => {
            for part in parts {
                only(part, &["type", "text"], place)?;
                words(part, "text", place)?;
            }
            Ok(())
        }
        _ => Err(format!("Invalid value for '{place}.content': expected a string, got null or nothing.")),
    }
}

pub(crate) fn error(status: u16, words: &str) -> Json {
    let (kind, code) = match status {
        400 => ("invalid_request_error", Json::Null),
        401 => ("invalid_request_error", "invalid_api_key".into()),
        404 => ("invalid_request_error", "model_not_found".into()),
        429 => ("requests", "rate_limit_exceeded".into()),
        _ => ("server_error", Json::Null),
    };
    let error =
        object([("message", words.into()), ("type", kind.into()), ("param", Json::Null), ("code", code)]);
    object([("error", error)])
}

pub(crate) fn write(model: &str, body: &Json, plan: &Plan, world: &mut World) -> Events {
    let id = world.id("chatcmpl-");
    let wants_usage = body.get("stream_options").is_some_and(|options| options.is_true("include_usage"));
    let chunk = |choices: Vec<Json>, usage: Option<Json>| {
        let mut data = object([
            ("id", id.as_str().into()),
            ("object", "chat.completion.chunk".into()),
            ("created", 1_700_000_000_i64.into()),
            ("model", model.into()),
            ("choices", choices.into()),
        ]);
        if let Some(usage) = usage {
            data.set("usage", usage);
        } else if wants_usage {
            data.set("usage", Json::Null);
        }
        event(&data)
    };
    let choice = |delta: Json, finish: Option<&str>| {
        let choice = object([
            ("index", 0_i64.into()),
            ("delta", delta),
            ("logprobs", Json::Null),
            ("finish_reason", finish.into()),
        ]);
        chunk(vec![choice], None)
    };
    let mut events = vec![choice(
        object([("role", "assistant".into()), ("content", "".into()), ("refusal", Json::Null)]),
        None,
    )];
    // What several calls say comes interleaved, as the documentation allows.
    let mut parts: Vec<Vec<Json>> = Vec::new();
    for piece in &plan.pieces {
        match piece {
            Piece::Text(text) => {
                let field = if plan.stop == Stop::Refused { "refusal" } else { "content" };
                events.extend(
                    pieces(text).into_iter().map(|text| choice(object([(field, text.into())]), None)),
                );
            }
            Piece::Thought => {
                events.push(choice(object([("reasoning_content", "hm".into())]), None));
            }
            Piece::Call { id, name, input } => {
                let id = id.clone().unwrap_or_else(|| world.id("call_f"));
                let mut first = object([("type", "function".into())]);
                if !plan.is("no_id") {
                    first.set("id", id);
                }
                let whole = plan.is("no_index") || plan.is("same_index") || plan.is("no_id");
                let given = if whole { input.as_str() } else { "" };
                first.set("function", object([("name", name.as_str().into()), ("arguments", given.into())]));
                let mut of_call = vec![first];
                if !whole {
                    let more = |text: String| object([("function", object([("arguments", text.into())]))]);
                    of_call.extend(pieces(input).into_iter().map(more));
                }
                for part in &mut of_call {
                    if !plan.is("no_index") {
                        let index = if plan.is("same_index") { 0 } else { parts.len() };
                        part.set("index", index);
                    }
                }
                parts.push(of_call);
            }
        }
    }
    let longest = parts.iter().map(Vec::len).max().unwrap_or(0);
    for round in 0..longest {
        for part in parts.iter().filter_map(|of_call| of_call.get(round)) {
            events.push(choice(object([("tool_calls", vec![part.clone()].into())]), None));
        }
    }
    let last = events.len();
    let reason = match plan.stop {
        Stop::Length => "length",
        Stop::Refused if plan.pieces.is_empty() => "content_filter",
        Stop::Finished if plan.calls() => "tool_calls",
        Stop::Refused | Stop::Finished => "stop",
    };
    events.push(choice(object([]), Some(reason)));
    if wants_usage {
        let (input, output, cached) = plan.usage();
        let usage = object([
            ("prompt_tokens", input.into()),
            ("completion_tokens", output.into()),
            ("total_tokens", (input + output).into()),
            ("prompt_tokens_details", object([("cached_tokens", cached.into())])),
        ]);
        events.push(chunk(Vec::new(), Some(usage)));
    }
    if !plan.is("no_done") {
        events.push("data: [DONE]\n\n".to_owned());
    }
    Events { events, last }
}
