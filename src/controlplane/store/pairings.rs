//! Codes by which whoever may admit somebody finds the change that does so: shown in the chat where they spoke, and kept
//! as digests.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::StoreError;
use crate::contract::ids::ChangeId;
use crate::contract::time::Millis;

/// Whether a code for this change is valid still.
///
/// # Errors
/// SQLite's.
pub fn has(conn: &Connection, change: &ChangeId, now: Millis) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pairings WHERE change = ?1 AND expires_at > ?2)";
    Ok(conn.prepare_cached(sql)?.query_row(params![change.as_str(), now.0], |row| row.get(0))?)
}

/// Adds a code.
///
/// # Errors
/// SQLite's.
pub fn add(
    tx: &Transaction<'_>,
    code: &[u8; 32],
    change: &ChangeId,
    expires_at: Millis,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO pairings (code, change, expires_at) VALUES (?1, ?2, ?3)";
    tx.prepare_cached(sql)?.execute(params![code, change.as_str(), expires_at.0])?;
    Ok(())
}

/// The change of a code that is valid.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(conn: &Connection, code: &[u8; 32], now: Millis) -> Result<Option<ChangeId>, StoreError> {
    let sql = "SELECT change FROM pairings WHERE code = ?1 AND expires_at > ?2";
    let found: Option<String> =
        conn.prepare_cached(sql)?.query_row(params![code, now.0], |row| row.get(0)).optional()?;
    found.map(|id| ChangeId::parse(&id).map_err(|_| StoreError::BadRow("a change's id"))).transpose()
}
