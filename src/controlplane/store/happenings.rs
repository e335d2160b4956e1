//! What became of messages on their way to platforms and of questions, step by step and numbered, for whoever follows it.
//! The ledger writes it by itself, with triggers on the tables of both, in the transaction in which it happens: nobody
//! can forget it. No text of a conversation is in it.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::sessions::{Place, session_id};
use super::{StoreError, rows, stored};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::time::Millis;

/// What something happened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message on its way to a platform.
    Delivery,
    /// A question of an agent.
    Question,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    /// Its number, rising, not without gaps.
    pub position: u64,
    /// What it happened to.
    pub kind: Kind,
    /// Which: the message's name, or the question's.
    pub object: String,
    /// Whose agent's.
    pub group: GroupName,
    /// In which conversation.
    pub session: SessionId,
    /// Where it goes, or was shown.
    pub place: Place,
    /// What happened.
    pub what: String,
    /// Why a delivery was given up, or who answered or ended a question.
    pub detail: Option<String>,
    /// When.
    pub at: Millis,
}

/// The number of the newest there ever was; 0 when there was none.
///
/// # Errors
/// SQLite's.
pub fn tip(conn: &Connection) -> Result<u64, StoreError> {
    // Old ones are pruned, and their numbers are not given again.
    let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'happenings'";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Up to `limit` after a number, in order.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn after(conn: &Connection, position: u64, limit: usize) -> Result<Vec<Happening>, StoreError> {
    let sql = "SELECT position, kind, object, agent_group, session, channel, instance, chat, thread, what, detail, at
               FROM happenings WHERE position > ?1 ORDER BY position LIMIT ?2";
    conn.prepare_cached(sql)?.query_and_then(params![stored(position), rows(limit)], read)?.collect()
}

fn read(row: &Row<'_>) -> Result<Happening, StoreError> {
    Ok(Happening {
        position: row.get(0)?,
        kind: match row.get::<_, String>(1)?.as_str() {
            "delivery" => Kind::Delivery,
            "question" => Kind::Question,
            _ => return Err(StoreError::BadRow("a kind of happening")),
        },
        object: row.get(2)?,
        group: GroupName::parse(&row.get::<_, String>(3)?)
            .map_err(|_| StoreError::BadRow("an agent group's name"))?,
        session: session_id(&row.get::<_, String>(4)?)?,
        place: Place { channel: row.get(5)?, instance: row.get(6)?, chat: row.get(7)?, thread: row.get(8)? },
        what: row.get(9)?,
        detail: row.get(10)?,
        at: Millis(row.get(11)?),
    })
}

/// Forgets up to `most` from before an instant. Gives how many.
///
/// # Errors
/// SQLite's.
pub fn prune(tx: &Transaction<'_>, before: Millis, most: usize) -> Result<usize, StoreError> {
    let sql = "DELETE FROM happenings WHERE position IN
               (SELECT position FROM happenings WHERE at < ?1 ORDER BY at LIMIT ?2)";
    Ok(tx.prepare_cached(sql)?.execute(params![before.0, rows(most)])?)
}
