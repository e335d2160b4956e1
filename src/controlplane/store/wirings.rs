//! Which chats an agent group listens and writes to, and how it takes part in each.

use rusqlite::{Connection, Row, Transaction, params};

use super::StoreError;
use crate::contract::ids::{GroupName, WiringId};
use crate::contract::time::Millis;

/// How a group takes part in a chat. The words are those of the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What makes it answer: `all`, `mention`, `mention-sticky` or `pattern`.
    pub engage: String,
    /// The pattern, for the engage mode `pattern`.
    pub pattern: Option<String>,
    /// Whom it answers: `anyone` or `members`.
    pub senders: String,
    /// What becomes of people who are no members: `strict`, `request_approval` or `public`.
    pub unknown: String,
    /// What becomes of messages it does not answer: `drop` or `accumulate`.
    pub ignored: String,
    /// How conversations are cut: `shared`, `per-thread` or `agent-shared`.
    pub sessions: String,
}

/// One chat wired to one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// Its id.
    pub id: WiringId,
    /// The group.
    pub group: GroupName,
    /// The platform.
    pub channel: String,
    /// The account on the platform.
    pub instance: String,
    /// The chat.
    pub chat: String,
    /// How.
    pub terms: Terms,
    /// Since when.
    pub created_at: Millis,
}

const SELECT: &str =
    "SELECT w.id, w.agent_group, m.channel, m.instance, m.chat, w.engage, w.pattern, w.senders,
    w.ignored, w.sessions, w.created_at, w.unknown FROM wirings w JOIN messaging_groups m ON m.id = w.messaging_group";

fn read(row: &Row<'_>) -> Result<Wiring, StoreError> {
    Ok(Wiring {
        id: WiringId::parse(&row.get::<_, String>(0)?).map_err(|_| StoreError::BadRow("a wiring's id"))?,
        group: GroupName::parse(&row.get::<_, String>(1)?)
            .map_err(|_| StoreError::BadRow("an agent group's name"))?,
        channel: row.get(2)?,
        instance: row.get(3)?,
        chat: row.get(4)?,
        terms: Terms {
            engage: row.get(5)?,
            pattern: row.get(6)?,
            senders: row.get(7)?,
            unknown: row.get(11)?,
            ignored: row.get(8)?,
            sessions: row.get(9)?,
        },
        created_at: Millis(row.get(10)?),
    })
}

/// Wires a chat to a group, or changes how they are wired.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn put(
    tx: &Transaction<'_>,
    group: &GroupName,
    (channel, instance, chat): (&str, &str, &str),
    terms: &Terms,
) -> Result<(), StoreError> {
    let messaging_group = super::messaging_groups::ensure(tx, channel, instance, chat)?;
    let sql = "INSERT INTO wirings (id, agent_group, messaging_group, engage, pattern, senders, ignored, sessions,
                   created_at, unknown)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
               ON CONFLICT (agent_group, messaging_group) DO UPDATE SET engage = ?4, pattern = ?5, senders = ?6,
                   ignored = ?7, sessions = ?8, unknown = ?10";
    tx.prepare_cached(sql)?.execute(params![
        WiringId::mint().as_str(),
        group.as_str(),
        messaging_group.as_str(),
        terms.engage,
        terms.pattern,
        terms.senders,
        terms.ignored,
        terms.sessions,
        Millis::now().0,
        terms.unknown
    ])?;
    Ok(())
}

/// Takes a chat away from a group. Says whether it was wired.
///
/// # Errors
/// SQLite's.
pub fn remove(
    tx: &Transaction<'_>,
    group: &GroupName,
    (channel, instance, chat): (&str, &str, &str),
) -> Result<bool, StoreError> {
    let sql = "DELETE FROM wirings WHERE agent_group = ?1 AND messaging_group IN
               (SELECT id FROM messaging_groups WHERE channel = ?2 AND instance = ?3 AND chat = ?4)";
    Ok(tx.prepare_cached(sql)?.execute([group.as_str(), channel, instance, chat])? == 1)
}

/// How a chat is wired to a group, if it is.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(
    conn: &Connection,
    group: &GroupName,
    (channel, instance, chat): (&str, &str, &str),
) -> Result<Option<Wiring>, StoreError> {
    let sql =
        format!("{SELECT} WHERE w.agent_group = ?1 AND m.channel = ?2 AND m.instance = ?3 AND m.chat = ?4");
    let mut query = conn.prepare_cached(&sql)?;
    query.query_and_then([group.as_str(), channel, instance, chat], read)?.next().transpose()
}

/// How a chat is wired, to every group that listens there, in the order in which they came: at most `most`.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of_chat(
    conn: &Connection,
    (channel, instance, chat): (&str, &str, &str),
    most: usize,
) -> Result<Vec<Wiring>, StoreError> {
    let sql =
        format!("{SELECT} WHERE m.channel = ?1 AND m.instance = ?2 AND m.chat = ?3 ORDER BY w.id LIMIT ?4");
    let values = params![channel, instance, chat, super::rows(most)];
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}

/// The names of the other groups that are wired to a chat.
///
/// # Errors
/// SQLite's.
pub fn others(
    conn: &Connection,
    group: &GroupName,
    (channel, instance, chat): (&str, &str, &str),
) -> Result<Vec<String>, StoreError> {
    let sql = "SELECT w.agent_group FROM wirings w JOIN messaging_groups m ON m.id = w.messaging_group
               WHERE m.channel = ?2 AND m.instance = ?3 AND m.chat = ?4 AND w.agent_group <> ?1
               ORDER BY w.agent_group LIMIT 50";
    let mut query = conn.prepare_cached(sql)?;
    let rows = query.query_map([group.as_str(), channel, instance, chat], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Takes every chat away from a group that is deleted.
///
/// # Errors
/// SQLite's.
pub fn forget(tx: &Transaction<'_>, group: &GroupName) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM wirings WHERE agent_group = ?1")?.execute([group.as_str()])?;
    Ok(())
}

/// Up to `limit` wirings by id, after one; of one group, or of all.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    group: Option<&GroupName>,
    after: &str,
    limit: usize,
) -> Result<Vec<Wiring>, StoreError> {
    let sql =
        format!("{SELECT} WHERE w.id > ?1 AND (?2 IS NULL OR w.agent_group = ?2) ORDER BY w.id LIMIT ?3");
    let values = params![after, group.map(GroupName::as_str), super::rows(limit)];
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}
