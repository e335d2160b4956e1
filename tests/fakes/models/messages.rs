//! Anthropic Messages, by <https://docs.anthropic.com/en/api/messages> and <https://docs.anthropic.com/en/api/errors>.

use std::collections::BTreeSet;

use crate::checks::{Checked, items, named_event, object_schema, only, pieces, plain, positive, words};
use crate::http::Request;
use crate::json::{Json, object};
use crate::plan::{Piece, Plan, Stop};
use crate::send::Events;
use crate::world::World;

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
    "service_tier",
];
/// Models with short answers.
const LIMITS: &[(&str, i64)] = &[("claude-3-haiku", 4096), ("claude-3-opus", 4096), ("claude-3-5-", 8192)];
/// Most marks for the cache.
const MARKS: usize = 4;

pub(crate) fn check(request: &Request, body: &Json) -> Checked {
    if request.header("anthropic-version") != "2023-06-01" {
        return Err("anthropic-version: header is required".to_owned());
    }
    only(body, FIELDS, "request")?;
    let model = words(body, "model", "request")?;
    let most = positive(body, "max_tokens", "request")?.ok_or("max_tokens: Field required")?;
    if let Some((name, limit)) = LIMITS.iter().find(|(name, limit)| model.starts_with(name) && most > *limit)
    {
        return Err(format!(
            "max_tokens: {most} > {limit}, which is the maximum allowed number of output tokens for {name}"
        ));
    }
    if !body.is_true("stream") {
        return Err("this fake only streams".to_owned());
    }
    let mut marks = 0;
    match body.get("system") {
        None => {}
        Some(Json::Text(_)) => {}
        Some(Json::List(blocks)) => {
            for block in blocks {
                text(block, "system", &mut marks)?;
            }
        }
        Some(_) => return Err("system: Input should be a valid string or list".to_owned()),
    }
    let mut names = BTreeSet::new();
    for tool in body.list("tools") {
        only(tool, &["type", "name", "description", "input_schema", "cache_control"], "tools")?;
        let name = words(tool, "name", "tools")?;
        plain(name, 128, "tools.name")?;
        if !names.insert(name) {
            return Err("tools: Tool names must be unique.".to_owned());
        }
        object_schema(tool.get("input_schema"), "tools.input_schema")?;
        marks += mark(tool, "tools")?;
    }
    if let Some(choice) = body.get("tool_choice") {
        if names.is_empty() {
            return Err("tool_choice: may only be specified while providing tools".to_owned());
        }
        if !["auto", "any", "tool", "none"].contains(&choice.text("type").unwrap_or_default()) {
            return Err("tool_choice.type: unknown".to_owned());
        }
    }
    conversation(items(body, "messages", "request")?, &mut marks)?;
    if marks > MARKS {
        return Err(format!(
            "A maximum of {MARKS} blocks with cache_control may be provided. Found {marks}."
        ));
    }
    Ok(())
}

fn conversation(messages: &[Json], marks: &mut usize) -> Checked {
    let mut open: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for (at, message) in messages.iter().enumerate() {
        let place = format!("messages.{at}");
        only(message, &["role", "content"], &place)?;
        let from_user = match message.text("role") {
            Some("user") => true,
            Some("assistant") if at > 0 => false,
            Some("assistant") => return Err("messages: first message must use the \"user\" role".to_owned()),
            _ => return Err(format!("{place}: role must be user or assistant")),
        };
        let blocks = match message.get("content") {
            Some(Json::Text(text)) if !text.trim().is_empty() => &[][..],
            Some(Json::List(blocks)) if !blocks.is_empty() => blocks,
            _ => {
                return Err(format!("{place}: all messages must have non-empty content"));
            }
        };
        let (mut results, mut calls, mut other) = (Vec::new(), Vec::new(), false);
        for (at, block) in blocks.iter().enumerate() {
            let place = format!("{place}.content.{at}");
            match block.text("type") {
                Some("text") => {
                    text(block, &place, marks)?;
                    other = true;
                }
                Some("tool_use") if !from_user => {
                    only(block, &["type", "id", "name", "input", "cache_control"], &place)?;
                    let id = words(block, "id", &place)?;
                    plain(id, 256, &place)?;
                    plain(words(block, "name", &place)?, 128, &place)?;
                    let Some(Json::Object(_)) = block.get("input") else {
                        return Err(format!("{place}.tool_use.input: Field required, a dictionary"));
                    };
                    if !seen.insert(id.to_owned()) {
                        return Err(format!("{place}: `tool_use` ids must be unique"));
                    }
                    calls.push(id.to_owned());
                    *marks += mark(block, &place)?;
                }
                Some("tool_result") if from_user => {
                    only(block, &["type", "tool_use_id", "content", "is_error", "cache_control"], &place)?;
                    let id = words(block, "tool_use_id", &place)?;
                    if other {
                        return Err(format!("{place}: tool_result blocks must come first in the content"));
                    }
                    match block.get("content") {
                        Some(Json::Text(_)) | None => {}
                        Some(Json::List(parts)) => {
                            for part in parts {
                                text(part, &place, marks)?;
                            }
                        }
                        Some(_) => return Err(format!("{place}.content: expected text or a list")),
                    }
                    if !matches!(block.get("is_error"), None | Some(Json::Bool(_))) {
                        return Err(format!("{place}.is_error: expected a boolean"));
                    }
                    results.push(id.to_owned());
                    *marks += mark(block, &place)?;
                }
                kind => {
                    return Err(format!("{place}: Input tag {kind:?} is not one that may stand here"));
                }
            }
        }
        if let Some(id) = open.iter().find(|id| !results.contains(id)) {
            return Err(format!(
                "{place}: `tool_use` ids were found without `tool_result` blocks immediately after: {id}"
            ));
        }
        if let Some(id) = results.iter().find(|id| !open.contains(id)) {
            return Err(format!("{place}: unexpected `tool_use_id` found in `tool_result` blocks: {id}"));
        }
        open = calls;
    }
    match open.first() {
        Some(id) => Err(format!("`tool_use` ids were found without `tool_result` blocks after: {id}")),
        None if messages.last().is_some_and(|last| last.text("role") == Some("assistant")) => {
            Err("the conversation must end with a user message".to_owned())
        }
        None => Ok(()),
    }
}

fn text(block: &Json, place: &str, marks: &mut usize) -> Checked {
    only(block, &["type", "text", "cache_control"], place)?;
    if block.text("type") != Some("text") {
        return Err(format!("{place}: expected a text block"));
    }
    if block.text("text").is_none_or(|text| text.trim().is_empty()) {
        return Err(format!("{place}: text content blocks must contain non-whitespace text"));
    }
    *marks += mark(block, place)?;
    Ok(())
}

/// How many marks for the cache a block has.
fn mark(block: &Json, place: &str) -> Checked<usize> {
    let Some(mark) = block.get("cache_control") else { return Ok(0) };
    only(mark, &["type", "ttl"], place)?;
    if mark.text("type") == Some("ephemeral") {
        Ok(1)
    } else {
        Err(format!("{place}.cache_control.type: Input should be 'ephemeral'"))
    }
}

pub(crate) fn error(status: u16, words: &str) -> Json {
    let kind = match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        _ => "api_error",
    };
    let error = object([("type", kind.into()), ("message", words.into())]);
    object([("type", "error".into()), ("error", error), ("request_id", "req_fake".into())])
}

pub(crate) fn write(model: &str, plan: &Plan, world: &mut World) -> Events {
    let (input, output, cached) = plan.usage();
    let usage = object([
        ("input_tokens", (input - cached).into()),
        ("cache_creation_input_tokens", 0_i64.into()),
        ("cache_read_input_tokens", cached.into()),
        ("output_tokens", 1_i64.into()),
    ]);
    let message = object([
        ("id", world.id("msg_").into()),
        ("type", "message".into()),
        ("role", "assistant".into()),
        ("model", model.into()),
        ("content", Vec::new().into()),
        ("stop_reason", Json::Null),
        ("stop_sequence", Json::Null),
        ("usage", usage),
    ]);
    let mut events = Vec::new();
    let mut say = |name: &str, fields: Vec<(&str, Json)>| {
        let mut data = object([("type", name.into())]);
        fields.into_iter().for_each(|(name, value)| data.set(name, value));
        events.push(named_event(name, &data));
    };
    say("message_start", vec![("message", message)]);
    say("ping", Vec::new());
    for (at, piece) in plan.pieces.iter().enumerate() {
        let (block, deltas, kind, field) = match piece {
            Piece::Text(text) => {
                (object([("type", "text".into()), ("text", "".into())]), pieces(text), "text_delta", "text")
            }
            Piece::Call { id, name, input } => {
                let id = id.clone().unwrap_or_else(|| world.id("toolu_"));
                let block = object([
                    ("type", "tool_use".into()),
                    ("id", id.into()),
                    ("name", name.as_str().into()),
                    ("input", object([])),
                ]);
                let mut deltas = pieces(input);
                deltas.insert(0, String::new());
                (block, deltas, "input_json_delta", "partial_json")
            }
            Piece::Thought => {
                let block =
                    object([("type", "thinking".into()), ("thinking", "".into()), ("signature", "".into())]);
                (block, vec![world.seal()], "signature_delta", "signature")
            }
        };
        say("content_block_start", vec![("index", at.into()), ("content_block", block)]);
        for delta in deltas {
            let delta = object([("type", kind.into()), (field, delta.into())]);
            say("content_block_delta", vec![("index", at.into()), ("delta", delta)]);
        }
        say("content_block_stop", vec![("index", at.into())]);
    }
    let reason = match plan.stop {
        Stop::Length => "max_tokens",
        Stop::Refused => "refusal",
        Stop::Finished if plan.calls() => "tool_use",
        Stop::Finished => "end_turn",
    };
    let delta = object([("stop_reason", reason.into()), ("stop_sequence", Json::Null)]);
    say("message_delta", vec![("delta", delta), ("usage", object([("output_tokens", output.into())]))]);
    say("message_stop", Vec::new());
    let last = events.len() - 1;
    Events { events, last }
}
