//! Reading a payload strictly: every field is known, of its type and within its length, or the whole is refused
//! with the place that is wrong. Pure.

use crate::contract::json::{Value, only_fields};
use crate::contract::plain;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The field, or the verifier that objects.
    pub field: String,
    /// What was wrong, what was expected, what to do next; safe to show.
    pub text: String,
}

/// The verifier that objects to what this build has no part for.
pub const UNSUPPORTED: &str = "unsupported_here";

/// Everything that is wrong.
pub type Refusals = Vec<Refusal>;

impl Refusal {
    /// One.
    pub fn new(field: impl Into<String>, text: impl Into<String>) -> Self {
        Self { field: field.into(), text: text.into() }
    }
}

/// What an asker wrote, made short and safe for a sentence.
pub fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    let cut = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{cut}\"", plain::line(&short))
}

/// Checks that the value is an object with no field beside these.
pub fn fields(value: &Value, known: &[&str]) -> Result<(), Refusals> {
    only_fields(value, known).map_err(|error| {
        let takes = format!("{}; it takes: {}", plain::line(&error.to_string()), known.join(", "));
        vec![Refusal::new("payload", takes)]
    })
}

/// A required text.
pub fn text(value: &Value, name: &str, most: usize) -> Result<String, Refusals> {
    optional(value, name, most)?.ok_or_else(|| vec![Refusal::new(name, format!("{name} is missing: a text"))])
}

/// A text that may be missing or null.
pub fn optional(value: &Value, name: &str, most: usize) -> Result<Option<String>, Refusals> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.len() <= most => Ok(Some(text.clone())),
        Some(Value::String(text)) => Err(vec![Refusal::new(
            name,
            format!("{name} has {} bytes, and {most} are the most; make it shorter", text.len()),
        )]),
        Some(_) => Err(vec![Refusal::new(name, format!("{name} must be a text"))]),
    }
}

/// The elements of a list.
pub fn list(value: &Value) -> Result<&[Value], Refusals> {
    value.as_array().ok_or_else(|| vec![Refusal::new("payload", "expected a list")])
}

/// A list that may be missing, of so many elements at most.
pub fn optional_list<'a>(value: &'a Value, name: &str, most: usize) -> Result<&'a [Value], Refusals> {
    match value.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) if items.len() <= most => Ok(items),
        Some(Value::Array(items)) => Err(vec![Refusal::new(
            name,
            format!("{name} has {} elements, and {most} are the most; ask for less at once", items.len()),
        )]),
        Some(_) => Err(vec![Refusal::new(name, format!("{name} must be a list"))]),
    }
}

/// One of some words; the first is what a missing one means.
pub fn choice(value: &Value, name: &str, words: &[&'static str]) -> Result<String, Refusals> {
    let said = optional(value, name, 64)?;
    let word = match &said {
        None => words.first().copied(),
        Some(said) => words.iter().copied().find(|word| word == said),
    };
    word.map(str::to_owned).ok_or_else(|| {
        let said = said.unwrap_or_default();
        vec![Refusal::new(name, format!("{name} is {}; expected one of: {}", shown(&said), words.join(", ")))]
    })
}
