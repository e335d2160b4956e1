//! How often each object that a change can replace was replaced. A change remembers the revisions that its
//! approver saw; when one of them has moved, what he saw is no longer what would happen.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::StoreError;

/// The revision of an object; 0 for one that no change has touched.
///
/// # Errors
/// SQLite's.
pub fn get(conn: &Connection, object: &str) -> Result<u64, StoreError> {
    let mut query = conn.prepare_cached("SELECT revision FROM revisions WHERE object = ?1")?;
    Ok(query.query_row([object], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Counts one more replacement. In the transaction that replaces it.
///
/// # Errors
/// SQLite's.
pub fn bump(tx: &Transaction<'_>, object: &str) -> Result<(), StoreError> {
    let sql = "INSERT INTO revisions (object, revision) VALUES (?1, 1)
               ON CONFLICT (object) DO UPDATE SET revision = revision + 1";
    tx.prepare_cached(sql)?.execute(params![object])?;
    Ok(())
}
