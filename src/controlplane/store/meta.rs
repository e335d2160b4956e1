//! Single values of the ledger by name.

use rusqlite::{Connection, OptionalExtension, Transaction};

use super::StoreError;

/// The value, if there is one.
///
/// # Errors
/// SQLite's.
pub fn get(conn: &Connection, name: &str) -> Result<Option<String>, StoreError> {
    let mut query = conn.prepare_cached("SELECT value FROM meta WHERE name = ?1")?;
    Ok(query.query_row([name], |row| row.get(0)).optional()?)
}

/// Sets the value.
///
/// # Errors
/// SQLite's.
pub fn set(tx: &Transaction<'_>, name: &str, value: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2";
    tx.prepare_cached(sql)?.execute([name, value])?;
    Ok(())
}

/// Removes the value, if there is one.
///
/// # Errors
/// SQLite's.
pub fn remove(tx: &Transaction<'_>, name: &str) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM meta WHERE name = ?1")?.execute([name])?;
    Ok(())
}
