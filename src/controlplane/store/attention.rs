//! Threads in which an agent was named a while ago and goes on to answer, each until an instant.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::StoreError;
use crate::contract::ids::WiringId;
use crate::contract::time::Millis;

/// Whether an agent is still meant in a thread; no thread is the chat itself.
///
/// # Errors
/// SQLite's.
pub fn lasts(
    conn: &Connection,
    wiring: &WiringId,
    thread: Option<&str>,
    now: Millis,
) -> Result<bool, StoreError> {
    let sql = "SELECT until FROM attention WHERE wiring = ?1 AND thread = ?2";
    let key = params![wiring.as_str(), thread.unwrap_or_default()];
    let until: Option<i64> = conn.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()?;
    Ok(until.is_some_and(|until| until > now.0))
}

/// An agent is meant in a thread until an instant.
///
/// # Errors
/// SQLite's.
pub fn pay(
    tx: &Transaction<'_>,
    wiring: &WiringId,
    thread: Option<&str>,
    until: Millis,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO attention (wiring, thread, until) VALUES (?1, ?2, ?3)
               ON CONFLICT (wiring, thread) DO UPDATE SET until = ?3";
    tx.prepare_cached(sql)?.execute(params![wiring.as_str(), thread.unwrap_or_default(), until.0])?;
    Ok(())
}
