//! The rows of the audit chain: each holds the exact line that is exported, its hash, and the hash before it.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::StoreError;

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its number, from 1, without gaps.
    pub seq: u64,
    /// The hash of the line before it; zeros for the first.
    pub previous: [u8; 32],
    /// SHA-256 of the line.
    pub hash: [u8; 32],
    /// The line, without its newline.
    pub line: String,
}

const COLUMNS: &str = "seq, previous, hash, line";

fn read(row: &Row<'_>) -> Result<Link, StoreError> {
    Ok(Link { seq: row.get(0)?, previous: row.get(1)?, hash: row.get(2)?, line: row.get(3)? })
}

/// The last link.
///
/// # Errors
/// SQLite's.
pub fn last(conn: &Connection) -> Result<Option<Link>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit ORDER BY seq DESC LIMIT 1");
    let mut query = conn.prepare_cached(&sql)?;
    query.query_and_then([], read)?.next().transpose()
}

/// Number and hash of the last link; 0 and zeros when there is none.
///
/// # Errors
/// SQLite's.
pub fn tip(conn: &Connection) -> Result<(u64, [u8; 32]), StoreError> {
    let sql = "SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1";
    let found = conn.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(found.unwrap_or_default())
}

/// Adds a link. The caller has made it from [`tip`] in the same transaction.
///
/// # Errors
/// SQLite's.
pub fn add(tx: &Transaction<'_>, link: &Link) -> Result<(), StoreError> {
    let sql = "INSERT INTO audit (seq, previous, hash, line) VALUES (?1, ?2, ?3, ?4)";
    tx.prepare_cached(sql)?.execute(params![super::stored(link.seq), link.previous, link.hash, link.line])?;
    Ok(())
}

/// Up to `limit` links after a number, in order.
///
/// # Errors
/// SQLite's.
pub fn after(conn: &Connection, seq: u64, limit: usize) -> Result<Vec<Link>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    conn.prepare_cached(&sql)?
        .query_and_then(params![super::stored(seq), super::rows(limit)], read)?
        .collect()
}

/// Up to `limit` links before a number, the newest first.
///
/// # Errors
/// SQLite's.
pub fn before(conn: &Connection, seq: u64, limit: usize) -> Result<Vec<Link>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2");
    conn.prepare_cached(&sql)?
        .query_and_then(params![super::stored(seq), super::rows(limit)], read)?
        .collect()
}
