//! `wiring`: `{"add"?: [{"channel","instance"?,"chat","engage"?,"pattern"?,"senders"?,"unknown"?,"ignored"?,"sessions"?}],
//! "remove"?: [{"channel","instance"?,"chat"}], "destinations"?: […], "remove_destinations"?: [NAME]}`. Adding a chat that
//! is wired changes how, and its platform must be one of this build; adding a destination that is there lets it lead elsewhere.

use super::{Reading, destinations};
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::contract::plain;
use crate::controlplane::doors;
use crate::controlplane::gateway::effect::{Chat, Effect};
use crate::controlplane::gateway::payload::{
    Refusal, Refusals, UNSUPPORTED, choice, fields, optional, optional_list, text,
};
use crate::controlplane::router::pattern;
use crate::controlplane::store::wirings::Terms;

/// Steps of one kind in one change: what a person can still read.
const MOST: usize = 50;
/// Longest part of a chat's name, in bytes; as long as the inbox takes it.
const MOST_NAME: usize = 512;
/// Longest pattern, in bytes.
const MOST_PATTERN: usize = 1000;

/// Which chat is meant.
pub(super) fn chat(item: &Value) -> Result<Chat, Refusals> {
    let chat = Chat {
        channel: text(item, "channel", MOST_NAME)?,
        instance: optional(item, "instance", MOST_NAME)?.unwrap_or_default(),
        chat: text(item, "chat", MOST_NAME)?,
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if chat.channel.is_empty() || !chat.channel.bytes().all(plain) {
        return Err(vec![Refusal::new("channel", "channel must be a platform's name of a-z 0-9 -")]);
    }
    if chat.chat.is_empty() || chat.chat.contains('\0') {
        return Err(vec![Refusal::new("chat", "chat must be the platform's name of the chat")]);
    }
    Ok(chat)
}

fn terms(item: &Value) -> Result<Terms, Refusals> {
    let engage = choice(item, "engage", &["all", "mention", "mention-sticky", "pattern"])?;
    let pattern = optional(item, "pattern", MOST_PATTERN)?.filter(|pattern| !pattern.is_empty());
    match (engage.as_str(), &pattern) {
        ("pattern", None) => {
            return Err(vec![Refusal::new("pattern", "the engage mode \"pattern\" needs a pattern")]);
        }
        ("pattern", Some(pattern)) => {
            if let Err(wrong) = pattern::compile(pattern) {
                let why = format!("the pattern cannot be used: {}", plain::line(&wrong));
                return Err(vec![Refusal::new("pattern", why)]);
            }
        }
        (_, None) => {}
        (_, Some(_)) => {
            return Err(vec![Refusal::new(
                "pattern",
                "a pattern goes with the engage mode \"pattern\" only",
            )]);
        }
    }
    let senders = choice(item, "senders", &["members", "anyone"])?;
    let mut policies = ["strict", "request_approval", "public"];
    if senders == "anyone" {
        policies.rotate_right(1);
    }
    let unknown = choice(item, "unknown", &policies)?;
    if senders == "anyone" && unknown != "public" {
        let why = format!(
            "senders anyone hears strangers too, and unknown {unknown} keeps them away; leave one out"
        );
        return Err(vec![Refusal::new("unknown", why)]);
    }
    Ok(Terms {
        engage,
        pattern,
        senders,
        unknown,
        ignored: choice(item, "ignored", &["drop", "accumulate"])?,
        sessions: choice(item, "sessions", &["shared", "per-thread", "agent-shared"])?,
    })
}

fn written(chat: &Chat, terms: Option<&Terms>) -> Value {
    let mut fields = vec![
        ("channel", Value::from(chat.channel.as_str())),
        ("instance", Value::from(chat.instance.as_str())),
        ("chat", Value::from(chat.chat.as_str())),
    ];
    if let Some(terms) = terms {
        fields.extend([
            ("engage", Value::from(terms.engage.as_str())),
            ("pattern", terms.pattern.as_deref().map_or(Value::Null, Value::from)),
            ("senders", Value::from(terms.senders.as_str())),
            ("unknown", Value::from(terms.unknown.as_str())),
            ("ignored", Value::from(terms.ignored.as_str())),
            ("sessions", Value::from(terms.sessions.as_str())),
        ]);
    }
    Value::object(fields)
}

/// The wirings that a payload adds under this field: as they are written, and their effects.
pub(super) fn added(
    group: &GroupName,
    payload: &Value,
    name: &str,
) -> Result<(Vec<Value>, Vec<Effect>), Refusals> {
    let (mut shown, mut effects): (Vec<Value>, Vec<Effect>) = (Vec::new(), Vec::new());
    for item in optional_list(payload, name, MOST)? {
        fields(
            item,
            &[
                "channel", "instance", "chat", "engage", "pattern", "senders", "unknown", "ignored",
                "sessions",
            ],
        )?;
        let (chat, terms) = (chat(item)?, terms(item)?);
        doors::wired(&chat.channel, &chat.instance, &chat.chat)
            .map_err(|no| vec![Refusal::new(UNSUPPORTED, no.to_string())])?;
        shown.push(written(&chat, Some(&terms)));
        effects.push(Effect::SetWiring { group: group.clone(), chat, terms: Some(terms) });
    }
    Ok((shown, effects))
}

pub(super) fn read(group: &GroupName, payload: &Value) -> Result<Reading, Refusals> {
    fields(payload, &["add", "remove", "destinations", "remove_destinations"])?;
    let (add, mut effects) = added(group, payload, "add")?;
    let mut remove = Vec::new();
    for item in optional_list(payload, "remove", MOST)? {
        fields(item, &["channel", "instance", "chat"])?;
        let chat = chat(item)?;
        remove.push(written(&chat, None));
        effects.push(Effect::SetWiring { group: group.clone(), chat, terms: None });
    }
    let (taken, without) = destinations::removed(group, payload, "remove_destinations")?;
    effects.extend(without);
    let (given, with) = destinations::added(group, payload, "destinations")?;
    effects.extend(with);
    if effects.is_empty() {
        let why = "the payload asks for nothing; give add or remove, or destinations or remove_destinations";
        return Err(vec![Refusal::new("payload", why)]);
    }
    let payload = Value::object([
        ("add", Value::Array(add)),
        ("remove", Value::Array(remove)),
        ("destinations", Value::Array(given)),
        ("remove_destinations", Value::Array(taken)),
    ]);
    Ok(Reading { payload, effects })
}
