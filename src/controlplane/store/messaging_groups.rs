//! The chats that the control plane knows: one row for each chat on each platform.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::StoreError;
use crate::contract::ids::MessagingGroupId;
use crate::contract::time::Millis;

/// One chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessagingGroup {
    /// Its id.
    pub id: MessagingGroupId,
    /// The platform.
    pub channel: String,
    /// The account on the platform; empty where there is only one.
    pub instance: String,
    /// The chat on the platform.
    pub chat: String,
    /// What people call it.
    pub title: String,
    /// When it became known.
    pub created_at: Millis,
}

const COLUMNS: &str = "id, channel, instance, chat, title, created_at";

fn read(row: &Row<'_>) -> Result<MessagingGroup, StoreError> {
    Ok(MessagingGroup {
        id: MessagingGroupId::parse(&row.get::<_, String>(0)?)
            .map_err(|_| StoreError::BadRow("a messaging group's id"))?,
        channel: row.get(1)?,
        instance: row.get(2)?,
        chat: row.get(3)?,
        title: row.get(4)?,
        created_at: Millis(row.get(5)?),
    })
}

/// The id of a chat, which is made known if it is not.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn ensure(
    tx: &Transaction<'_>,
    channel: &str,
    instance: &str,
    chat: &str,
) -> Result<MessagingGroupId, StoreError> {
    if let Some(found) = find(tx, channel, instance, chat)? {
        return Ok(found);
    }
    let id = MessagingGroupId::mint();
    let sql = "INSERT INTO messaging_groups (id, channel, instance, chat, title, created_at)
               VALUES (?1, ?2, ?3, ?4, '', ?5)";
    tx.prepare_cached(sql)?.execute(params![id.as_str(), channel, instance, chat, Millis::now().0])?;
    Ok(id)
}

/// The id of a chat, if it is known.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(
    conn: &Connection,
    channel: &str,
    instance: &str,
    chat: &str,
) -> Result<Option<MessagingGroupId>, StoreError> {
    let sql = "SELECT id FROM messaging_groups WHERE channel = ?1 AND instance = ?2 AND chat = ?3";
    let found: Option<String> =
        conn.prepare_cached(sql)?.query_row([channel, instance, chat], |row| row.get(0)).optional()?;
    found
        .map(|id| MessagingGroupId::parse(&id).map_err(|_| StoreError::BadRow("a messaging group's id")))
        .transpose()
}

/// A chat has another name now: wirings and destinations lead to it, its conversations go on there, what was not
/// answered or heard yet is of it, and what waits to be brought goes there. Where that name is known already, both stay as they are.
///
/// # Errors
/// SQLite's.
pub fn rename(
    tx: &Transaction<'_>,
    channel: &str,
    instance: &str,
    chat: &str,
    to: &str,
) -> Result<(), StoreError> {
    let sql = "UPDATE OR IGNORE messaging_groups SET chat = ?4
               WHERE channel = ?1 AND instance = ?2 AND chat = ?3";
    tx.prepare_cached(sql)?.execute([channel, instance, chat, to])?;
    for sql in [
        "UPDATE OR IGNORE sessions SET chat = ?4 WHERE channel = ?1 AND instance = ?2 AND chat = ?3",
        "UPDATE inbox SET chat = ?4, former_chat = ?3
             WHERE state = 'open' AND channel = ?1 AND instance = ?2 AND chat = ?3",
        "UPDATE questions SET chat = ?4 WHERE channel = ?1 AND instance = ?2 AND chat = ?3",
        "UPDATE held SET chat = ?4 WHERE channel = ?1 AND instance = ?2 AND chat = ?3",
        // Nothing was asked of that one yet.
        "UPDATE deliveries SET chat = ?4, due = 0 WHERE state = 'waiting' AND channel = ?1 AND instance = ?2 AND chat = ?3",
    ] {
        // Chats are renamed once in their life, so that none of these needs an index.
        tx.prepare_cached(sql)?.execute([channel, instance, chat, to])?;
    }
    Ok(())
}

/// Up to `limit` chats by id, after one.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(conn: &Connection, after: &str, limit: usize) -> Result<Vec<MessagingGroup>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM messaging_groups WHERE id > ?1 ORDER BY id LIMIT ?2");
    conn.prepare_cached(&sql)?.query_and_then(params![after, super::rows(limit)], read)?.collect()
}
