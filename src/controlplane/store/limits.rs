//! What an operator allows one agent group where it differs from the daemon's own settings: how long a turn may take,
//! how much its files, and how many tokens of models it may use. No capability of the agent, so no change of it goes through the gateway.

use rusqlite::{Transaction, params};

use super::StoreError;
use crate::contract::ids::GroupName;

/// The limits of one group; `None` is the daemon's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupLimits {
    /// How long a turn may take, in seconds.
    pub turn_seconds: Option<u64>,
    /// How many bytes it may keep.
    pub quota_bytes: Option<u64>,
    /// How many files it may keep.
    pub quota_files: Option<u64>,
    /// How many tokens of models it may use in a day; `None` is as many as it likes.
    pub tokens_a_day: Option<u64>,
}

/// Sets them all. The agent is told of them, so they count as a change of what it is told.
///
/// # Errors
/// [`StoreError::NoGroup`], or SQLite's.
pub fn set(tx: &Transaction<'_>, name: &GroupName, limits: GroupLimits) -> Result<(), StoreError> {
    let sql =
        "UPDATE agent_groups SET turn_seconds = ?2, quota_bytes = ?3, quota_files = ?4, tokens_a_day = ?5,
                 revision = revision + 1
               WHERE name = ?1 AND deleted_at IS NULL";
    let stored = |limit: Option<u64>| limit.map(super::stored);
    let values = params![
        name.as_str(),
        stored(limits.turn_seconds),
        stored(limits.quota_bytes),
        stored(limits.quota_files),
        stored(limits.tokens_a_day)
    ];
    match tx.prepare_cached(sql)?.execute(values)? {
        1 => Ok(()),
        _ => Err(StoreError::NoGroup(name.clone())),
    }
}
