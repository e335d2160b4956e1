//! `model`: `{"provider"?, "model"}`. Without a provider the group keeps the one that it has.

use rusqlite::Connection;

use super::{Read, Reading};
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::brokers::model::Provider;
use crate::controlplane::gateway::effect::Effect;
use crate::controlplane::gateway::payload::{Refusal, Refusals, fields, optional, text};
use crate::controlplane::store::groups;

/// Longest name of a model, in bytes.
const MOST: usize = 200;

/// Checks a provider and a model's name.
pub(super) fn check(provider: &str, model: &str) -> Result<(), Refusals> {
    Provider::named(provider).map_err(|error| vec![Refusal::new("provider", error.to_string())])?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/' | b'@');
    if model.is_empty() || model.len() > MOST || !model.bytes().all(plain) {
        let text =
            "model must be the provider's name for it: letters, digits and - _ . : / @, 200 bytes at most";
        return Err(vec![Refusal::new("model", text)]);
    }
    Ok(())
}

pub(super) fn read(conn: &Connection, group: &GroupName, payload: &Value) -> Read {
    let Some(now) = groups::live(conn, group)? else {
        return Ok(Err(vec![Refusal::new("group", format!("there is no agent {group}"))]));
    };
    Ok((|| {
        fields(payload, &["provider", "model"])?;
        let provider = optional(payload, "provider", 64)?.unwrap_or(now.provider);
        let model = text(payload, "model", MOST)?;
        check(&provider, &model)?;
        Ok(Reading {
            payload: Value::object([
                ("provider", Value::from(provider.as_str())),
                ("model", Value::from(model.as_str())),
            ]),
            effects: vec![Effect::SetModel { group: group.clone(), provider, model }],
        })
    })())
}
