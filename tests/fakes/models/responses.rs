//! OpenAI Responses, by <https://platform.openai.com/docs/api-reference/responses>, as the ChatGPT backend of Codex
//! serves it too: stateless, with thoughts that only the model can read.

use std::collections::BTreeSet;

use crate::checks::{
    Checked, arguments, items, named_event, object_schema, only, pieces, plain, positive, words,
};
use crate::http::Request;
use crate::json::{Json, object};
use crate::plan::{Piece, Plan, Stop};
use crate::send::Events;
use crate::world::World;

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
    "text",
    "truncation",
    "metadata",
    "prompt_cache_key",
    "service_tier",
];

pub(crate) fn check(request: &Request, body: &Json, world: &World) -> Checked {
    only(body, FIELDS, "request")?;
    words(body, "model", "request")?;
    if !body.is_true("stream") {
        return Err("Stream must be set to true".to_owned());
    }
    let most = positive(body, "max_output_tokens", "request")?;
    if request.path.ends_with("/codex/responses") {
        if most.is_some() {
            return Err("Unsupported parameter: max_output_tokens".to_owned());
        }
        words(body, "instructions", "request").map_err(|_| "Instructions are required".to_owned())?;
        if body.get("store") != Some(&Json::Bool(false)) {
            return Err("Store must be set to false".to_owned());
        }
    }
    for one in body.list("include") {
        if !matches!(one, Json::Text(what) if what == "reasoning.encrypted_content") {
            return Err(format!("Invalid value in 'include': {one}"));
        }
    }
    for tool in body.list("tools") {
        only(tool, &["type", "name", "description", "parameters", "strict"], "tools")?;
        if tool.text("type") != Some("function") {
            return Err("tools: only functions are known here".to_owned());
        }
        plain(words(tool, "name", "tools")?, 64, "tools.name")?;
        object_schema(tool.get("parameters"), "tools.parameters")?;
        // Without the word it is strict.
        if tool.get("strict") != Some(&Json::Bool(false)) {
            strict(tool.get("parameters").unwrap_or(&Json::Null))?;
        }
    }
    match body.get("tool_choice") {
        None => {}
        Some(_) if body.list("tools").is_empty() => {
            return Err("Tool choice is only allowed when 'tools' are specified".to_owned());
        }
        Some(Json::Text(choice)) if ["none", "auto", "required"].contains(&choice.as_str()) => {}
        Some(_) => return Err("Invalid value for 'tool_choice'".to_owned()),
    }
    input(items(body, "input", "request")?, world)
}

fn strict(schema: &Json) -> Checked {
    let Some(Json::Object(properties)) = schema.get("properties") else { return Ok(()) };
    let required = schema.list("required");
    let all = properties.iter().all(|(name, _)| required.contains(&Json::from(name.as_str())));
    if all && schema.get("additionalProperties") == Some(&Json::Bool(false)) {
        Ok(())
    } else {
        Err("Invalid schema for function: 'additionalProperties' is required to be supplied and to be false, and \
            'required' to include every key in properties"
            .to_owned())
    }
}

fn input(items: &[Json], world: &World) -> Checked {
    let (mut open, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (at, item) in items.iter().enumerate() {
        let place = format!("input[{at}]");
        match item.text("type").unwrap_or("message") {
            "message" => message(item, &place)?,
            "function_call" => {
                only(item, &["type", "id", "call_id", "name", "arguments", "status"], &place)?;
                let id = words(item, "call_id", &place)?;
                if id.len() > 64 {
                    return Err(format!("Invalid '{place}.call_id': string too long, at most 64"));
                }
                plain(words(item, "name", &place)?, 64, &place)?;
                arguments(item, &place)?;
                if !seen.insert(id.to_owned()) {
                    return Err(format!("{place}: a call with the id {id} stands there already"));
                }
                open.insert(id.to_owned());
            }
            "function_call_output" => {
                only(item, &["type", "id", "call_id", "output", "status"], &place)?;
                let id = words(item, "call_id", &place)?;
                words(item, "output", &place)?;
                if !open.remove(id) {
                    return Err(format!("No tool call found for function call output with call_id {id}."));
                }
            }
            "reasoning" => {
                only(item, &["type", "id", "summary", "content", "encrypted_content", "status"], &place)?;
                let id = words(item, "id", &place)?;
                let Some(Json::List(_)) = item.get("summary") else {
                    return Err(format!("Missing required parameter: '{place}.summary'."));
                };
                let sealed = words(item, "encrypted_content", &place)?;
                if !world.sealed.contains(sealed) {
                    return Err(format!("The encrypted content for item {id} could not be verified."));
                }
                let next = items.get(at + 1);
                let follows = next.is_some_and(|next| {
                    matches!(next.text("type"), Some("function_call" | "reasoning"))
                        || next.text("role") == Some("assistant")
                });
                if !follows {
                    return Err(format!(
                        "Item '{id}' of type 'reasoning' was provided without its required following item."
                    ));
                }
            }
            kind => return Err(format!("Invalid value: '{kind}' in '{place}.type'.")),
        }
    }
    match open.first() {
        Some(id) => Err(format!("No tool output found for function call {id}.")),
        None => Ok(()),
    }
}

fn message(item: &Json, place: &str) -> Checked {
    only(item, &["type", "role", "content", "id", "status"], place)?;
    let part_kind = match item.text("role") {
        Some("user" | "system" | "developer") => "input_text",
        Some("assistant") => "output_text",
        _ => return Err(format!("Invalid value in '{place}.role'.")),
    };
    if item.text("content").is_some_and(|text| !text.is_empty()) {
        return Ok(());
    }
    for part in crate::checks::items(item, "content", place)? {
        only(part, &["type", "text", "annotations", "logprobs"], place)?;
        if part.text("type") != Some(part_kind) {
            return Err(format!(
                "Invalid value in '{place}.content': expected a part of type '{part_kind}'."
            ));
        }
        words(part, "text", place)?;
    }
    Ok(())
}

/// The event of an answer that failed.
pub(crate) fn failed(status: u16, words: &str) -> String {
    let code = match status {
        400 => "invalid_prompt",
        429 => "rate_limit_exceeded",
        _ => "server_error",
    };
    let response = object([
        ("id", "resp_failed".into()),
        ("status", "failed".into()),
        ("error", object([("code", code.into()), ("message", words.into())])),
    ]);
    let data = object([("type", "response.failed".into()), ("response", response)]);
    named_event("response.failed", &data)
}

/// The stream: each item is added, filled and done.
pub(crate) fn write(model: &str, plan: &Plan, world: &mut World) -> Events {
    let id = world.id("resp_");
    let response = |status: &str| {
        object([
            ("id", id.as_str().into()),
            ("object", "response".into()),
            ("status", status.into()),
            ("model", model.into()),
            ("output", Vec::new().into()),
        ])
    };
    let mut said = Said { events: Vec::new() };
    said.say("response.created", vec![("response", response("in_progress"))]);
    said.say("response.in_progress", vec![("response", response("in_progress"))]);
    let refuses = plan.stop == Stop::Refused;
    for (at, piece) in plan.pieces.iter().enumerate() {
        said.item(at, piece, refuses, world);
    }
    let last = said.events.len();
    let (input, output, cached) = plan.usage();
    let usage = object([
        ("input_tokens", input.into()),
        ("input_tokens_details", object([("cached_tokens", cached.into())])),
        ("output_tokens", output.into()),
        ("output_tokens_details", object([("reasoning_tokens", 0_i64.into())])),
        ("total_tokens", (input + output).into()),
    ]);
    let (name, status, why) = match plan.stop {
        Stop::Length => ("response.incomplete", "incomplete", Some("max_output_tokens")),
        Stop::Refused if plan.pieces.is_empty() => {
            ("response.incomplete", "incomplete", Some("content_filter"))
        }
        Stop::Refused | Stop::Finished => ("response.completed", "completed", None),
    };
    let mut end = response(status);
    end.set("usage", usage);
    end.set("incomplete_details", why.map(|why| object([("reason", why.into())])));
    said.say(name, vec![("response", end)]);
    Events { events: said.events, last }
}

struct Said {
    events: Vec<String>,
}

impl Said {
    fn say(&mut self, name: &str, fields: Vec<(&str, Json)>) {
        let mut data = object([("type", name.into()), ("sequence_number", self.events.len().into())]);
        fields.into_iter().for_each(|(name, value)| data.set(name, value));
        self.events.push(named_event(name, &data));
    }

    fn item(&mut self, at: usize, piece: &Piece, refuses: bool, world: &mut World) {
        let (id, begun, done) = match piece {
            Piece::Text(text) => {
                let id = world.id("msg_");
                let kind = if refuses { ("refusal", "refusal") } else { ("output_text", "text") };
                let part = object([("type", kind.0.into()), (kind.1, text.as_str().into())]);
                let item = |status: &str, content: Vec<Json>| {
                    object([
                        ("id", id.as_str().into()),
                        ("type", "message".into()),
                        ("status", status.into()),
                        ("role", "assistant".into()),
                        ("content", content.into()),
                    ])
                };
                let (begun, done) = (item("in_progress", Vec::new()), item("completed", vec![part]));
                (id, begun, done)
            }
            Piece::Call { id: call, name, input } => {
                let id = world.id("fc_");
                let call = call.clone().unwrap_or_else(|| world.id("call_r"));
                let item = |status: &str, input: &str| {
                    object([
                        ("id", id.as_str().into()),
                        ("type", "function_call".into()),
                        ("status", status.into()),
                        ("call_id", call.as_str().into()),
                        ("name", name.as_str().into()),
                        ("arguments", input.into()),
                    ])
                };
                let (begun, done) = (item("in_progress", ""), item("completed", input));
                (id, begun, done)
            }
            Piece::Thought => {
                let (id, sealed) = (world.id("rs_"), world.seal());
                let item = object([
                    ("id", id.as_str().into()),
                    ("type", "reasoning".into()),
                    ("summary", Vec::new().into()),
                    ("encrypted_content", sealed.into()),
                ]);
                (id, item.clone(), item)
            }
        };
        let place = ("output_index", Json::from(at));
        self.say("response.output_item.added", vec![place.clone(), ("item", begun)]);
        let (name, deltas) = match piece {
            Piece::Text(text) if refuses => ("response.refusal.delta", pieces(text)),
            Piece::Text(text) => ("response.output_text.delta", pieces(text)),
            Piece::Call { input, .. } => ("response.function_call_arguments.delta", pieces(input)),
            Piece::Thought => ("", Vec::new()),
        };
        for delta in deltas {
            let mut fields = vec![("item_id", id.as_str().into()), place.clone(), ("delta", delta.into())];
            if matches!(piece, Piece::Text(_)) {
                fields.push(("content_index", 0_i64.into()));
            }
            self.say(name, fields);
        }
        if let Piece::Call { input, .. } = piece {
            let fields = vec![("item_id", id.into()), place.clone(), ("arguments", input.as_str().into())];
            self.say("response.function_call_arguments.done", fields);
        }
        self.say("response.output_item.done", vec![place, ("item", done)]);
    }
}
