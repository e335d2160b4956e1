//! What is old is deleted, a bounded piece at a time, so that no transaction holds the writer for long.

use rusqlite::{Connection, Transaction, params};

use super::{StoreError, attachments, rows};
use crate::contract::time::Millis;

const DAY: i64 = 24 * 60 * 60 * 1000;
/// How long history is kept unless configured, in milliseconds.
pub const HISTORY_MILLIS: i64 = 90 * DAY;
/// How long a change is kept after it was decided or done, in milliseconds. Its records stay in the audit for ever.
pub const CHANGES_MILLIS: i64 = 90 * DAY;
/// How long an event is known, so that it is not accepted twice, in milliseconds.
pub const EVENTS_MILLIS: i64 = 7 * DAY;

/// Deletes up to `most` history entries, with their texts, from before an instant; open messages, and what
/// is still to be brought to a chat, stay.
/// Gives how many: call it again until that is below `most`.
///
/// # Errors
/// SQLite's.
pub fn prune_history(tx: &Transaction<'_>, before: Millis, most: usize) -> Result<usize, StoreError> {
    let mut query = tx.prepare_cached(
        "SELECT h.position, h.kind, h.message FROM history h
         WHERE h.at < ?1
           AND NOT EXISTS (SELECT 1 FROM inbox i WHERE i.position = h.position AND i.state = 'open')
           AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.position = h.position AND d.state = 'waiting')
         ORDER BY h.at LIMIT ?2",
    )?;
    let old: Vec<(i64, String, String)> = query
        .query_map(params![before.0, rows(most)], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<_, _>>()?;
    for (position, kind, message) in &old {
        let table = match kind.as_str() {
            "in" => Some("inbox"),
            "out" => Some("outbox"),
            "notice" => Some("notices"),
            _ => None,
        };
        if let Some(table) = table {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE position = ?1"))?.execute([position])?;
            tx.prepare_cached("DELETE FROM deliveries WHERE position = ?1")?.execute([position])?;
            attachments::forget(tx, message)?;
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

/// Forgets up to `most` threads in which an agent is not meant any more. Gives how many.
///
/// # Errors
/// SQLite's.
pub fn prune_attention(tx: &Transaction<'_>, now: Millis, most: usize) -> Result<usize, StoreError> {
    let sql = "DELETE FROM attention WHERE (wiring, thread) IN
               (SELECT wiring, thread FROM attention WHERE until <= ?1 ORDER BY until LIMIT ?2)";
    Ok(tx.prepare_cached(sql)?.execute(params![now.0, rows(most)])?)
}

/// When an agent is not meant any more in the next thread.
///
/// # Errors
/// SQLite's.
pub fn next_attention(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    earliest(conn, "SELECT min(until) FROM attention")
}

fn earliest(conn: &Connection, sql: &str) -> Result<Option<Millis>, StoreError> {
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Millis))
}

/// How long a message of somebody who is not admitted is kept, in milliseconds.
pub const HELD_MILLIS: i64 = DAY;

/// Forgets up to `most` messages of people who were not admitted, and as many codes that are over. Gives how many.
///
/// # Errors
/// SQLite's.
pub fn prune_held(tx: &Transaction<'_>, now: Millis, most: usize) -> Result<usize, StoreError> {
    let sql = "DELETE FROM held WHERE id IN (SELECT id FROM held WHERE created_at <= ?1 ORDER BY created_at LIMIT ?2)";
    let held = tx.prepare_cached(sql)?.execute(params![now.0 - HELD_MILLIS, rows(most)])?;
    let sql =
        "DELETE FROM pairings WHERE code IN (SELECT code FROM pairings WHERE expires_at <= ?1 LIMIT ?2)";
    Ok(held + tx.prepare_cached(sql)?.execute(params![now.0, rows(most)])?)
}

/// When the next of these is over.
///
/// # Errors
/// SQLite's.
pub fn next_held(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    let held = earliest(conn, "SELECT min(created_at) FROM held")?;
    let held = held.map(|at| Millis(at.0.saturating_add(HELD_MILLIS)));
    let codes = earliest(conn, "SELECT min(expires_at) FROM pairings")?;
    Ok([held, codes].into_iter().flatten().min())
}

/// Deletes up to `most` changes that came to their end before an instant, with their idempotency keys, the calls that
/// asked for them and the cards that showed them. One that is pending or not done yet has come to none, and no grant refers to a change. Gives
/// how many.
///
/// # Errors
/// SQLite's.
pub fn prune_changes(tx: &Transaction<'_>, before: Millis, most: usize) -> Result<usize, StoreError> {
    let mut query = tx.prepare_cached(
        "SELECT id FROM changes WHERE finished_at < ?1 AND state IN ('rejected', 'withdrawn', 'expired', 'applied')
         ORDER BY finished_at LIMIT ?2",
    )?;
    let old: Vec<String> =
        query.query_map(params![before.0, rows(most)], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in &old {
        tx.prepare_cached("DELETE FROM calls WHERE change = ?1")?.execute([id])?;
        tx.prepare_cached("DELETE FROM approval_cards WHERE change = ?1")?.execute([id])?;
        tx.prepare_cached("DELETE FROM changes WHERE id = ?1")?.execute([id])?;
    }
    Ok(old.len())
}

/// How long the row of a conversation is kept after it was emptied, in milliseconds: all that names one, its history, its
/// tasks, and the changes that it asked for, is kept no longer, and the audit has it as text.
pub const SESSIONS_MILLIS: i64 = CHANGES_MILLIS;

/// Nothing refers to it, and nobody is to look at it. Messages, notices and deliveries go with their line of the history.
const FORGOTTEN: &str = "id = ?1 AND parked IS NULL AND open_messages = 0
    AND NOT EXISTS (SELECT 1 FROM session_secrets x WHERE x.session = sessions.id)
    AND NOT EXISTS (SELECT 1 FROM history x WHERE x.session = sessions.id)
    AND NOT EXISTS (SELECT 1 FROM outbox x WHERE x.session = sessions.id)
    AND NOT EXISTS (SELECT 1 FROM held x WHERE x.session = sessions.id)
    AND NOT EXISTS (SELECT 1 FROM calls x WHERE x.session = sessions.id)
    AND NOT EXISTS (SELECT 1 FROM tasks x WHERE x.session = sessions.id)
    AND NOT EXISTS (SELECT 1 FROM attachments x WHERE x.session = sessions.id)
    AND NOT EXISTS (SELECT 1 FROM questions x WHERE x.session = sessions.id)";

/// Looks at up to `most` conversations that have been empty for long, and deletes the rows of those to which nothing
/// refers; the others are looked at again a day later. Gives how many were looked at.
///
/// # Errors
/// SQLite's.
pub fn prune_sessions(tx: &Transaction<'_>, now: Millis, most: usize) -> Result<usize, StoreError> {
    let before = now.0.saturating_sub(SESSIONS_MILLIS);
    let mut query =
        tx.prepare_cached("SELECT id FROM sessions WHERE empty_from <= ?1 ORDER BY empty_from LIMIT ?2")?;
    let empty: Vec<String> =
        query.query_map(params![before, rows(most)], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for id in &empty {
        let deleted = tx.prepare_cached(&format!("DELETE FROM sessions WHERE {FORGOTTEN}"))?.execute([id])?;
        if deleted == 0 {
            tx.prepare_cached("UPDATE sessions SET empty_from = ?2 WHERE id = ?1")?
                .execute(params![id, before.saturating_add(DAY)])?;
        }
    }
    Ok(empty.len())
}

/// When the next of these is looked at.
///
/// # Errors
/// SQLite's.
pub fn next_session(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    let empty = earliest(conn, "SELECT min(empty_from) FROM sessions WHERE empty_from IS NOT NULL")?;
    Ok(empty.map(|from| Millis(from.0.saturating_add(SESSIONS_MILLIS))))
}
