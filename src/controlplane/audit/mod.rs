//! The audit chain: what was done, by whom, in the order in which it was stored. A record is a row of the ledger
//! in the transaction of the act, so there is never one without the other. Touches the ledger.

use rusqlite::Transaction;

use super::store::{StoreError, audit};
use crate::contract::chain;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::contract::time::Millis;

/// One act.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// What was done: `noun.verb`.
    pub act: &'static str,
    /// Who did it: a user, `agent:GROUP`, `policy` or `host`.
    pub actor: &'a str,
    /// How they came in: `token:NAME`, `session:ID`, or empty for the host itself.
    pub via: &'a str,
    /// The agent group it concerns.
    pub group: Option<&'a GroupName>,
    /// What it was done to.
    pub object: &'a str,
    /// More, as an object. Never a secret, and never a text of a conversation.
    pub detail: Value,
}

/// Adds a record in the transaction of its act. Gives its number.
///
/// # Errors
/// SQLite's.
pub fn record(tx: &Transaction<'_>, record: &Record<'_>) -> Result<u64, StoreError> {
    let (last, previous) = audit::tip(tx)?;
    let seq = last + 1;
    let mut fields = vec![
        ("seq", Value::from(seq)),
        ("at", Value::from(Millis::now().to_string())),
        ("act", Value::from(record.act)),
        ("actor", Value::from(record.actor)),
        ("via", Value::from(record.via)),
    ];
    fields.extend(record.group.map(|group| ("group", Value::from(group.as_str()))));
    fields.push(("object", Value::from(record.object)));
    if record.detail != Value::Null {
        fields.push(("detail", record.detail.clone()));
    }
    fields.push(("previous", Value::from(chain::hex(&previous))));
    let line = Value::object(fields).to_string();
    let hash = chain::hash(&line);
    audit::add(tx, &audit::Link { seq, previous, hash, line })?;
    Ok(seq)
}
