//! What a sandbox may ask of a provider, dialect by dialect: words, tools that the sandbox itself runs, and what is
//! inside the request. Everything that would have the provider do more is refused: tools that run at the provider (they
//! reach the internet), addresses that the provider would fetch (they carry what stands in them to anybody), files and
//! answers that the account keeps (they are not this session's). What is passed on is written anew from what was read,
//! so that no two readers can read it differently. Pure.

mod chat;
mod gemini;
mod messages;
mod responses;

use super::providers::Provider;
use super::refusal::Refusal;
use crate::contract::json::{Value, only_fields};
use crate::contract::providers::Dialect;

/// Longest answer that is asked for where a request does not say.
const MOST_OUTPUT: u64 = 65_536;
/// Longest name of a tool that a refusal repeats.
const SHOWN: usize = 64;

/// A request that may be passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    /// The model.
    pub(super) model: String,
    /// What to send.
    pub(super) document: Value,
    /// Most tokens of the answer.
    pub(super) most: u64,
}

/// Reads a request on the path of a dialect. `of_path` is the model that the path names, where the dialect has it there.
pub(super) fn check(provider: Provider, of_path: Option<&str>, document: Value) -> Result<Asked, Refusal> {
    let checked = match provider.dialect() {
        Dialect::Messages => messages::check(document),
        Dialect::Chat => chat::check(provider, document),
        Dialect::Responses => responses::check(document),
        Dialect::Gemini => gemini::check(of_path.unwrap_or_default(), document),
    };
    checked.map_err(|wrong| Refusal::invalid(&wrong))
}

/// What is wrong with a request, and where.
type Wrong = String;

/// The fields of an object that has no others than these.
fn fields<'a>(value: &'a Value, known: &[&str], place: &str) -> Result<&'a [(String, Value)], Wrong> {
    only_fields(value, known).map_err(|error| format!("{place}: {error}"))?;
    Ok(value.as_object().unwrap_or_default())
}

/// A list, not empty.
fn list<'a>(value: &'a Value, key: &str, place: &str) -> Result<&'a [Value], Wrong> {
    let list = value.get(key).and_then(Value::as_array).filter(|list| !list.is_empty());
    list.ok_or_else(|| format!("{place}{key}: a list of at least one is required"))
}

/// A text, not empty.
fn text<'a>(value: &'a Value, key: &str, place: &str) -> Result<&'a str, Wrong> {
    let text = value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or_else(|| format!("{place}: {key} is required, a text"))
}

/// A text that may be absent, `null` or empty.
fn may_be_text(value: &Value, key: &str, place: &str) -> Result<(), Wrong> {
    match value.get(key) {
        None | Some(Value::Null | Value::String(_)) => Ok(()),
        Some(_) => Err(format!("{place}: {key} must be a text")),
    }
}

/// How many tokens an answer may have at the most.
fn most(value: &Value, key: &str) -> Result<u64, Wrong> {
    match value.get(key) {
        None => Ok(MOST_OUTPUT),
        Some(number) => match number.as_u64() {
            Some(number @ 1..=1_000_000) => Ok(number),
            _ => Err(format!("{key}: expected a whole number from 1 to 1000000")),
        },
    }
}

/// Whether an address holds its content itself.
fn is_inside(address: &str) -> bool {
    address.starts_with("data:")
}

/// The refusal of an address.
fn outside(place: &str) -> Wrong {
    format!("{place}: only content that is in the request itself may be sent, no address of it")
}

/// The refusal of a kind of thing.
fn not_here(place: &str, what: &str, kind: &str) -> Wrong {
    format!("{place}: {what} of type {:?} is not allowed here", kind.chars().take(SHOWN).collect::<String>())
}

/// The document with a field set, where it was or at the end.
fn set(document: &mut Value, key: &str, to: Value) {
    if let Value::Object(fields) = document {
        match fields.iter_mut().find(|(name, _)| name == key) {
            Some((_, value)) => *value = to,
            None => fields.push((key.to_owned(), to)),
        }
    }
}

/// The document without a field; gives what it was.
fn take(document: &mut Value, key: &str) -> Option<Value> {
    let Value::Object(fields) = document else { return None };
    let at = fields.iter().position(|(name, _)| name == key)?;
    Some(fields.remove(at).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json;

    /// What is sent of this, as text.
    pub(super) fn passes(provider: Provider, text: &str) -> String {
        let asked = check(provider, Some("m"), json::parse(text.as_bytes()).unwrap()).unwrap();
        assert_eq!((asked.model.as_str(), asked.most), ("m", 5));
        asked.document.to_string()
    }

    #[track_caller]
    pub(super) fn refused(provider: Provider, text: &str, word: &str) {
        let document = json::parse(text.as_bytes()).unwrap();
        let refusal = check(provider, Some("m"), document).unwrap_err();
        assert!(refusal.message.contains(word), "{text}: {}", refusal.message);
    }
}
