//! The envelope of an action: what a sandbox asks of the host in an outbound row of kind `action`, and what
//! the host answers in an inbound row of kind `system`. The text of either row is one JSON object. Asking
//! proves nothing: the host checks each action against the ledger in the transaction that executes it.

use super::json::{self, JsonError, Value};

/// An action that the sandbox asks for: `{"action":NAME,"call":ID,"arguments":{…}}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Action {
    /// What is asked, `[a-z_]`, at most 64 bytes.
    pub name: String,
    /// The asker's own mark, given back in the answer; at most 128 bytes.
    pub call: String,
    /// Depends on the action.
    pub arguments: Value,
}

/// The host's answer: `{"action":NAME,"call":ID,"ok":BOOL,"result":…}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The action that is answered.
    pub name: String,
    /// The asker's mark.
    pub call: String,
    /// Whether it was done.
    pub ok: bool,
    /// The result, or what was wrong and what to do next.
    pub result: Value,
}

fn short(value: Option<&Value>, longest: usize) -> Option<String> {
    value.and_then(Value::as_str).filter(|text| !text.is_empty() && text.len() <= longest).map(str::to_owned)
}

impl Action {
    /// Reads an envelope; unknown fields are refused because an action may change something.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        let value = json::parse(text)?;
        json::only_fields(&value, &["action", "call", "arguments"])?;
        let name = short(value.get("action"), 64)
            .filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
            .ok_or_else(|| JsonError::shape("an action needs \"action\", 1 to 64 of a-z and _"))?;
        let call = short(value.get("call"), 128)
            .ok_or_else(|| JsonError::shape("an action needs \"call\", a text of 1 to 128 bytes"))?;
        let arguments = value.get("arguments").cloned().unwrap_or_else(|| Value::Object(Vec::new()));
        Ok(Self { name, call, arguments })
    }

    /// The row's text.
    pub fn encode(&self) -> String {
        Value::object([
            ("action", Value::from(self.name.as_str())),
            ("call", Value::from(self.call.as_str())),
            ("arguments", self.arguments.clone()),
        ])
        .to_string()
    }
}

impl Outcome {
    /// Reads an answer.
    pub fn parse(text: &[u8]) -> Result<Self, JsonError> {
        let value = json::parse(text)?;
        let missing = || JsonError::shape("an answer needs \"action\", \"call\", \"ok\" and \"result\"");
        Ok(Self {
            name: short(value.get("action"), 64).ok_or_else(missing)?,
            call: short(value.get("call"), 128).ok_or_else(missing)?,
            ok: value.get("ok").and_then(Value::as_bool).ok_or_else(missing)?,
            result: value.get("result").cloned().ok_or_else(missing)?,
        })
    }

    /// The row's text.
    pub fn encode(&self) -> String {
        Value::object([
            ("action", Value::from(self.name.as_str())),
            ("call", Value::from(self.call.as_str())),
            ("ok", Value::from(self.ok)),
            ("result", self.result.clone()),
        ])
        .to_string()
    }
}
