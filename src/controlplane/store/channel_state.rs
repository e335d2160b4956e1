//! What a channel keeps for itself: how far it has read, for one. It is written in the transaction that accepts what
//! was read, so that nothing is read twice or not at all.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{StoreError, check_length};

/// Longest value, in bytes.
const MOST_VALUE: usize = 4096;

/// The value of this name, if there is one.
///
/// # Errors
/// SQLite's.
pub fn get(
    conn: &Connection,
    channel: &str,
    instance: &str,
    name: &str,
) -> Result<Option<String>, StoreError> {
    let sql = "SELECT value FROM channel_state WHERE channel = ?1 AND instance = ?2 AND name = ?3";
    Ok(conn.prepare_cached(sql)?.query_row([channel, instance, name], |row| row.get(0)).optional()?)
}

/// Sets it.
///
/// # Errors
/// [`StoreError::TooLong`], or SQLite's.
pub fn set(
    tx: &Transaction<'_>,
    channel: &str,
    instance: &str,
    name: &str,
    value: &str,
) -> Result<(), StoreError> {
    check_length("state of a channel", value, MOST_VALUE)?;
    let sql = "INSERT INTO channel_state (channel, instance, name, value) VALUES (?1, ?2, ?3, ?4)
               ON CONFLICT (channel, instance, name) DO UPDATE SET value = ?4";
    tx.prepare_cached(sql)?.execute(params![channel, instance, name, value])?;
    Ok(())
}
