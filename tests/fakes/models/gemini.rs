//! Gemini, by <https://ai.google.dev/api/generate-content>, <https://ai.google.dev/api/caching#FunctionDeclaration> and
//! <https://ai.google.dev/gemini-api/docs/thought-signatures>; Vertex AI speaks it too.

use crate::checks::{Checked, event, items, only, pieces, positive, words};
use crate::http::Request;
use crate::json::{Json, object};
use crate::plan::{Piece, Plan, Stop};
use crate::send::Events;
use crate::world::World;

const FIELDS: &[&str] =
    &["contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings"];
const GENERATION: &[&str] = &[
    "maxOutputTokens",
    "temperature",
    "topP",
    "topK",
    "stopSequences",
    "thinkingConfig",
    "candidateCount",
    "seed",
];
/// What a `Schema` of `parameters` may have: a part of OpenAPI, not of JSON Schema.
const SCHEMA: &[&str] = &[
    "type",
    "format",
    "title",
    "description",
    "nullable",
    "enum",
    "maxItems",
    "minItems",
    "properties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "example",
    "anyOf",
    "propertyOrdering",
    "default",
    "items",
    "minimum",
    "maximum",
];
const TYPES: &[&str] = &["STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL"];
/// What a part is; it is one of these.
const DATA: &[&str] = &["text", "functionCall", "functionResponse", "inlineData"];
/// Stands for a signature of a call that another model made, as the documentation has it.
const NO_SIGNATURE: &str = "skip_thought_signature_validator";
/// Longest answers, from where a request for more is refused.
const LIMITS: &[(&str, i64)] =
    &[("gemini-1.5", 8192), ("gemini-2.0", 8192), ("gemini-2.5", 65_536), ("gemini-3", 65_536)];

pub(crate) fn check(request: &Request, model: &str, body: &Json, world: &World) -> Checked {
    if request.query != "alt=sse" {
        return Err("this fake only streams events: alt=sse".to_owned());
    }
    only(body, FIELDS, "request")?;
    if let Some(generation) = body.get("generationConfig") {
        only(generation, GENERATION, "generation_config")?;
        let most = positive(generation, "maxOutputTokens", "generation_config")?.unwrap_or(1);
        let limit =
            LIMITS.iter().find(|(name, _)| model.starts_with(name)).map_or(i64::MAX, |(_, limit)| *limit);
        if most > limit {
            return Err(format!(
                "Unable to submit request because it has a maxOutputTokens value of {most} but the supported range \
                 is from 1 (inclusive) to {} (exclusive).",
                limit + 1
            ));
        }
    }
    let mut functions = 0;
    for tool in body.list("tools") {
        only(tool, &["functionDeclarations"], "tools")?;
        for function in items(tool, "functionDeclarations", "tools")? {
            declaration(function)?;
            functions += 1;
        }
    }
    if let Some(config) = body.get("toolConfig") {
        only(config, &["functionCallingConfig"], "tool_config")?;
        let calling =
            config.get("functionCallingConfig").ok_or("tool_config: expected functionCallingConfig")?;
        only(calling, &["mode", "allowedFunctionNames"], "tool_config")?;
        if !["AUTO", "ANY", "NONE", "VALIDATED"].contains(&calling.text("mode").unwrap_or_default()) {
            return Err("tool_config.function_calling_config.mode: invalid value".to_owned());
        }
        if functions == 0 {
            return Err("Function calling config is set without function_declarations.".to_owned());
        }
    }
    if let Some(system) = body.get("systemInstruction") {
        only(system, &["role", "parts"], "system_instruction")?;
        for part in items(system, "parts", "system_instruction")? {
            only(part, &["text"], "system_instruction.parts")?;
            words(part, "text", "system_instruction.parts")?;
        }
    }
    let contents = items(body, "contents", "request")?;
    for (at, content) in contents.iter().enumerate() {
        one_content(content, &format!("contents[{at}]"))?;
    }
    turns(contents)?;
    signatures(contents, model, world)
}

fn declaration(function: &Json) -> Checked {
    const PLACE: &str = "tools.function_declarations";
    only(function, &["name", "description", "parameters", "parametersJsonSchema"], PLACE)?;
    let name = words(function, "name", PLACE)?;
    words(function, "description", PLACE)?;
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let fits = name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-:".contains(c)) && name.len() <= 64;
    if !begins || !fits {
        return Err(format!("{PLACE}: Invalid function name {name:?}."));
    }
    match (function.get("parameters"), function.get("parametersJsonSchema")) {
        (Some(_), Some(_)) => Err(format!("{PLACE}: parameters and parametersJsonSchema exclude each other")),
        (Some(parameters), None) => schema(parameters, &format!("{PLACE}.parameters")),
        (None, Some(of_json)) if of_json.text("type") == Some("object") => Ok(()),
        (None, Some(_)) => Err(format!("{PLACE}: parametersJsonSchema must be of type object")),
        (None, None) => Ok(()),
    }
}

fn schema(value: &Json, place: &str) -> Checked {
    only(value, SCHEMA, place)
        .map_err(|words| format!("Invalid JSON payload received. Unknown name: {words}"))?;
    let kind = value.text("type").unwrap_or_default().to_ascii_uppercase();
    if value.get("anyOf").is_none() && !TYPES.contains(&kind.as_str()) {
        return Err(format!("{place}.type: must be specified"));
    }
    if let Some(properties) = value.get("properties") {
        let Json::Object(fields) = properties else { return Err(format!("{place}.properties: an object")) };
        if fields.is_empty() && kind == "OBJECT" {
            return Err(format!("{place}.properties: should be non-empty for OBJECT type"));
        }
        for (name, property) in fields {
            schema(property, &format!("{place}.properties[{name}]"))?;
        }
        for name in value.list("required") {
            if !matches!(name, Json::Text(name) if properties.get(name).is_some()) {
                return Err(format!("{place}.required: property {name} is not defined"));
            }
        }
    }
    if kind == "ARRAY" && value.get("items").is_none() {
        return Err(format!("{place}.items: missing field."));
    }
    if value.get("enum").is_some() && kind != "STRING" {
        return Err(format!("{place}.enum: only allowed for STRING type"));
    }
    value.get("items").map_or(Ok(()), |items| schema(items, &format!("{place}.items")))?;
    value.list("anyOf").iter().try_for_each(|one| schema(one, &format!("{place}.any_of")))
}

fn one_content(content: &Json, place: &str) -> Checked {
    only(content, &["role", "parts"], place)?;
    let from_model = match content.text("role") {
        Some("user" | "function") => false,
        Some("model") => true,
        _ => return Err("Please use a valid role: user, model.".to_owned()),
    };
    for part in items(content, "parts", place)? {
        let known = [DATA, &["thought", "thoughtSignature"]].concat();
        only(part, &known, place)?;
        let is_signed = part.text("thoughtSignature").is_some();
        if DATA.iter().filter(|name| part.get(name).is_some()).count() != 1
            || part.text("text") == Some("") && !is_signed
        {
            return Err(format!("{place}.parts: contents.parts must have one initialized field 'data'"));
        }
        if is_signed && !from_model {
            return Err(format!("{place}.parts: only a model's part has a signature"));
        }
        if let Some(call) = part.get("functionCall") {
            only(call, &["id", "name", "args"], place)?;
            words(call, "name", place)?;
            if !matches!(call.get("args"), None | Some(Json::Object(_))) || !from_model {
                return Err(format!("{place}.parts.function_call: args of a model's call are an object"));
            }
        }
        if let Some(response) = part.get("functionResponse") {
            only(response, &["id", "name", "response"], place)?;
            words(response, "name", place)?;
            if !matches!(response.get("response"), Some(Json::Object(_))) || from_model {
                return Err(format!("{place}.parts.function_response: a user's response is an object"));
            }
        }
    }
    Ok(())
}

fn names<'a>(content: &'a Json, kind: &str) -> Vec<&'a str> {
    content.list("parts").iter().filter_map(|part| part.get(kind)?.text("name")).collect()
}

/// Calls come after a user's turn, and their results right after them, as many and of the same names.
fn turns(contents: &[Json]) -> Checked {
    let mut open: Vec<&str> = Vec::new();
    for (at, content) in contents.iter().enumerate() {
        let (calls, mut results) = (names(content, "functionCall"), names(content, "functionResponse"));
        if open.len() != results.len() {
            return Err("Please ensure that the number of function response parts is equal to the number of function \
                call parts of the function call turn."
                .to_owned());
        }
        open.sort_unstable();
        results.sort_unstable();
        if open != results {
            return Err(format!(
                "contents[{at}]: the names of responses {results:?} are not those of calls {open:?}"
            ));
        }
        if !results.is_empty() && content.list("parts").len() != results.len() {
            return Err(format!("contents[{at}]: a function response turn has function responses only"));
        }
        let before = at.checked_sub(1).and_then(|at| contents.get(at));
        if !calls.is_empty() && before.is_none_or(|before| before.text("role") == Some("model")) {
            return Err("Please ensure that function call turn comes immediately after a user turn or after a function \
                response turn."
                .to_owned());
        }
        open = calls;
    }
    if !open.is_empty() || contents.last().is_some_and(|last| last.text("role") == Some("model")) {
        return Err("Please ensure that the conversation ends with a user turn.".to_owned());
    }
    Ok(())
}

/// Since the last words of a person, the first call of each step has its signature, as it was given.
fn signatures(contents: &[Json], model: &str, world: &World) -> Checked {
    let says = |content: &Json| {
        content.text("role") == Some("user")
            && content.list("parts").iter().any(|part| part.get("text").is_some())
    };
    let turn = contents.iter().rposition(says).unwrap_or(0);
    for (at, content) in contents.iter().enumerate() {
        for part in content.list("parts") {
            if let Some(signature) = part.text("thoughtSignature")
                && signature != NO_SIGNATURE
                && !world.sealed.contains(signature)
            {
                return Err(format!("contents[{at}]: Corrupted thought signature."));
            }
        }
        let first = content.list("parts").iter().find(|part| part.get("functionCall").is_some());
        if let Some(call) = first.filter(|_| at > turn && model.starts_with("gemini-3"))
            && call.text("thoughtSignature").is_none()
        {
            let name = names(content, "functionCall").first().copied().unwrap_or_default();
            return Err(format!(
                "Function call `{name}` in the `{at}.` content block is missing a `thought_signature`."
            ));
        }
    }
    Ok(())
}

pub(crate) fn error(status: u16, words: &str) -> Json {
    let name = match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "INTERNAL",
    };
    let mut error =
        object([("code", i64::from(status).into()), ("message", words.into()), ("status", name.into())]);
    if status == 429 {
        let detail = object([
            ("@type", "type.googleapis.com/google.rpc.RetryInfo".into()),
            ("retryDelay", "1.5s".into()),
        ]);
        error.set("details", vec![detail]);
    }
    object([("error", error)])
}

/// A call comes whole; a thought is a signature on the part that comes next, or on an empty text at the end.
pub(crate) fn write(model: &str, plan: &Plan, world: &mut World) -> Events {
    let id = world.id("resp-");
    let chunk = |parts: Vec<Json>, finish: Option<&str>, usage: (i64, i64, i64)| {
        let mut candidate = object([
            ("content", object([("role", "model".into()), ("parts", parts.into())])),
            ("index", 0_i64.into()),
        ]);
        if let Some(finish) = finish {
            candidate.set("finishReason", finish);
        }
        let (input, output, cached) = usage;
        let usage = object([
            ("promptTokenCount", input.into()),
            ("candidatesTokenCount", output.into()),
            ("cachedContentTokenCount", cached.into()),
            ("totalTokenCount", (input + output).into()),
        ]);
        event(&object([
            ("candidates", vec![candidate].into()),
            ("usageMetadata", usage),
            ("modelVersion", model.into()),
            ("responseId", id.as_str().into()),
        ]))
    };
    let usage = plan.usage();
    let so_far = (usage.0, 1, usage.2);
    let mut events = Vec::new();
    let mut signature: Option<String> = None;
    for piece in &plan.pieces {
        let mut parts: Vec<Json> = match piece {
            Piece::Thought => {
                signature = Some(world.seal());
                continue;
            }
            Piece::Text(text) => {
                pieces(text).into_iter().map(|text| object([("text", text.into())])).collect()
            }
            Piece::Call { id, name, input } => {
                let args = Json::parse(input).unwrap_or_else(|| object([]));
                let mut call = object([("name", name.as_str().into()), ("args", args)]);
                if let Some(id) = id {
                    call.set("id", id.as_str());
                }
                vec![object([("functionCall", call)])]
            }
        };
        if let (Some(signature), Some(part)) = (signature.take(), parts.first_mut()) {
            part.set("thoughtSignature", signature);
        }
        events.extend(parts.into_iter().map(|part| chunk(vec![part], None, so_far)));
    }
    let last = events.len();
    let finish = match plan.stop {
        Stop::Finished => "STOP",
        Stop::Length => "MAX_TOKENS",
        Stop::Refused => "SAFETY",
    };
    let mut end = object([("text", "".into())]);
    if let Some(signature) = signature {
        end.set("thoughtSignature", signature);
    }
    events.push(chunk(vec![end], Some(finish), usage));
    Events { events, last }
}
