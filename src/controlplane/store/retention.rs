//! What is old is deleted, a bounded piece at a time, so that no transaction holds the writer for long.

use rusqlite::{Transaction, params};

use super::{StoreError, rows};
use crate::contract::time::Millis;

const DAY: i64 = 24 * 60 * 60 * 1000;
/// How long history is kept unless configured, in milliseconds.
pub const HISTORY_MILLIS: i64 = 90 * DAY;
/// How long an event is known, so that it is not accepted twice, in milliseconds.
pub const EVENTS_MILLIS: i64 = 7 * DAY;

/// Deletes up to `most` history entries, with their texts, from before an instant; open messages stay.
/// Gives how many: call it again until that is below `most`.
///
/// # Errors
/// SQLite's.
pub fn prune_history(tx: &Transaction<'_>, before: Millis, most: usize) -> Result<usize, StoreError> {
    let mut query = tx.prepare_cached(
        "SELECT h.position, h.kind FROM history h
         WHERE h.at < ?1
           AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.position = h.position AND i.state = 'open')
         ORDER BY h.at LIMIT ?2",
    )?;
    let old: Vec<(i64, String)> = query
        .query_map(params![before.0, rows(most)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (position, kind) in &old {
        let table = match kind.as_str() {
            "in" => Some("inbox"),
            "out" => Some("outbox"),
            "notice" => Some("notices"),
            _ => None,
        };
        if let Some(table) = table {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE position = ?1"))?.execute([position])?;
        }
        tx.prepare_cached("DELETE FROM history WHERE position = ?1")?.execute([position])?;
    }
    Ok(old.len())
}

/// Forgets up to `most` events from before an instant. Gives how many.
///
/// # Errors
/// SQLite's.
pub fn prune_events(tx: &Transaction<'_>, before: Millis, most: usize) -> Result<usize, StoreError> {
    let sql = "DELETE FROM events WHERE (channel, instance, event_id) IN
               (SELECT channel, instance, event_id FROM events WHERE at < ?1 ORDER BY at LIMIT ?2)";
    Ok(tx.prepare_cached(sql)?.execute(params![before.0, rows(most)])?)
}
