//! What all dialects have in common: where they are asked, with what credential, how a refusal is written, and the words
//! in which a check says no.

use crate::http::Request;
use crate::json::{Json, object};
use crate::plan::Plan;
use crate::send::Events;
use crate::world::World;
use crate::{chat, gemini, messages, responses};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Messages,
    Chat,
    Responses,
    Gemini,
}

/// No, with this status.
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) words: String,
}

/// What a check gives: why not.
pub(crate) type Checked<T = ()> = Result<T, String>;

impl Dialect {
    const ALL: [Dialect; 4] = [Dialect::Messages, Dialect::Chat, Dialect::Responses, Dialect::Gemini];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Dialect::Messages => "messages",
            Dialect::Chat => "chat",
            Dialect::Responses => "responses",
            Dialect::Gemini => "gemini",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Dialect> {
        Dialect::ALL.into_iter().find(|dialect| dialect.name() == name)
    }

    /// By the paths of all providers: OpenRouter, Groq, Codex and Vertex have others before the same ends.
    pub(crate) fn of_path(path: &str) -> Option<Dialect> {
        match path {
            path if path.ends_with("/v1/messages") => Some(Dialect::Messages),
            path if path.ends_with("/v1/chat/completions") => Some(Dialect::Chat),
            path if path.ends_with("/v1/responses") || path.ends_with("/codex/responses") => {
                Some(Dialect::Responses)
            }
            path if path.contains("/models/") && path.ends_with(":streamGenerateContent") => {
                Some(Dialect::Gemini)
            }
            _ => None,
        }
    }

    /// The model that is asked.
    pub(crate) fn model(self, request: &Request, body: &Json) -> String {
        if self != Dialect::Gemini {
            return body.text("model").unwrap_or_default().to_owned();
        }
        let last = request.path.rsplit('/').next().unwrap_or_default();
        crate::http::decoded(last.strip_suffix(":streamGenerateContent").unwrap_or(last))
    }

    /// The text that a person said last.
    pub(crate) fn last_text(self, body: &Json) -> String {
        let (list, parts, own) = match self {
            Dialect::Messages | Dialect::Chat => ("messages", "content", "content"),
            Dialect::Responses => ("input", "content", "content"),
            Dialect::Gemini => ("contents", "parts", "parts"),
        };
        for message in body.list(list).iter().rev().filter(|message| message.text("role") == Some("user")) {
            let texts: Vec<&str> = message.list(parts).iter().filter_map(|part| part.text("text")).collect();
            if let Some(text) = message.text(own) {
                return text.to_owned();
            }
            if !texts.is_empty() {
                return texts.join("\n");
            }
        }
        String::new()
    }

    /// The document of a refusal.
    pub(crate) fn error(self, status: u16, words: &str) -> Json {
        match self {
            Dialect::Messages => messages::error(status, words),
            Dialect::Chat => chat::error(status, words),
            Dialect::Responses if matches!(status, 400 | 403) => object([("detail", words.into())]),
            Dialect::Responses => chat::error(status, words),
            Dialect::Gemini => gemini::error(status, words),
        }
    }

    /// The event of a refusal inside a stream.
    pub(crate) fn error_event(self, status: u16, words: &str) -> String {
        match self {
            Dialect::Messages => named_event("error", &messages::error(status, words)),
            Dialect::Chat => event(&chat::error(status, words)),
            Dialect::Responses => responses::failed(status, words),
            Dialect::Gemini => event(&gemini::error(status, words)),
        }
    }

    /// The answer as a stream of events.
    pub(crate) fn write(self, model: &str, body: &Json, plan: &Plan, world: &mut World) -> Events {
        match self {
            Dialect::Messages => messages::write(model, plan, world),
            Dialect::Chat => chat::write(model, body, plan, world),
            Dialect::Responses => responses::write(model, plan, world),
            Dialect::Gemini => gemini::write(model, plan, world),
        }
    }
}

/// Judges a request as the real interface does.
pub(crate) fn check(dialect: Dialect, request: &Request, body: &Json, world: &World) -> Result<(), Refusal> {
    let refuse = |status, words: &str| Err(Refusal { status, words: words.to_owned() });
    if request.method != "POST" {
        return refuse(405, "Method Not Allowed");
    }
    if let Some(key) = &world.key {
        let given = match dialect {
            Dialect::Messages => "x-api-key",
            Dialect::Gemini => "x-goog-api-key",
            Dialect::Chat | Dialect::Responses => "authorization",
        };
        if request.header(given) != key && request.header("authorization") != format!("Bearer {key}") {
            return refuse(401, "invalid credential");
        }
    }
    if !request.header("content-type").starts_with("application/json") {
        return refuse(400, "the content type must be application/json");
    }
    if !request.header("accept-encoding").is_empty() && request.header("accept-encoding") != "identity" {
        return refuse(400, "a test's client must not ask for a compressed answer");
    }
    let judged = match dialect {
        Dialect::Messages => messages::check(request, body),
        Dialect::Chat => chat::check(body),
        Dialect::Responses => responses::check(request, body, world),
        Dialect::Gemini => gemini::check(request, &dialect.model(request, body), body, world),
    };
    judged.map_err(|words| Refusal { status: 400, words })
}

/// One event of a stream.
pub(crate) fn event(data: &Json) -> String {
    format!("data: {data}\n\n")
}

/// The same with its name.
pub(crate) fn named_event(name: &str, data: &Json) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

/// A text in small pieces, as models give it.
pub(crate) fn pieces(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(7).map(|piece| piece.iter().collect()).collect()
}

/// An object with no other fields than these.
pub(crate) fn only(value: &Json, known: &[&str], place: &str) -> Checked {
    let Json::Object(fields) = value else { return Err(format!("{place}: expected an object")) };
    for (at, (name, _)) in fields.iter().enumerate() {
        if !known.contains(&name.as_str()) {
            return Err(format!("{place}.{name}: Extra inputs are not permitted"));
        }
        if fields.iter().take(at).any(|(other, _)| other == name) {
            return Err(format!("{place}.{name}: stands there twice"));
        }
    }
    Ok(())
}

/// A text that is not empty.
pub(crate) fn words<'a>(value: &'a Json, name: &str, place: &str) -> Checked<&'a str> {
    let text = value.text(name).ok_or_else(|| format!("{place}.{name}: Field required, a string"))?;
    if text.is_empty() { Err(format!("{place}.{name}: must not be empty")) } else { Ok(text) }
}

/// A list that is not empty.
pub(crate) fn items<'a>(value: &'a Json, name: &str, place: &str) -> Checked<&'a [Json]> {
    match value.get(name) {
        Some(Json::List(items)) if !items.is_empty() => Ok(items),
        _ => Err(format!("{place}.{name}: expected a list with at least one item")),
    }
}

/// A name of letters, digits, `_` and `-`.
pub(crate) fn plain(name: &str, most: usize, place: &str) -> Checked {
    let fits = name.len() <= most && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if fits && !name.is_empty() {
        Ok(())
    } else {
        Err(format!("{place}: {name:?} does not match '^[a-zA-Z0-9_-]{{1,{most}}}$'"))
    }
}

/// A JSON schema of an object.
pub(crate) fn object_schema(schema: Option<&Json>, place: &str) -> Checked {
    match schema {
        Some(schema @ Json::Object(_)) if schema.text("type") == Some("object") => {
            match schema.get("properties") {
                None | Some(Json::Object(_)) => Ok(()),
                Some(_) => Err(format!("{place}.properties: expected an object")),
            }
        }
        _ => Err(format!("{place}: schema must be a JSON Schema of 'type: \"object\"'")),
    }
}

/// Arguments of a call, as text.
pub(crate) fn arguments(value: &Json, place: &str) -> Checked {
    match value.text("arguments").and_then(Json::parse) {
        Some(Json::Object(_)) => Ok(()),
        _ => Err(format!("{place}.arguments: expected the text of a JSON object")),
    }
}

/// A whole number from 1 on.
pub(crate) fn positive(value: &Json, name: &str, place: &str) -> Checked<Option<i64>> {
    match value.get(name) {
        None => Ok(None),
        Some(Json::Int(number)) if *number >= 1 => Ok(Some(*number)),
        Some(_) => Err(format!("{place}.{name}: expected a whole number of at least 1")),
    }
}
