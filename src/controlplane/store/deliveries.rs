//! What is to be brought to chats on platforms: one row for each message, from the transaction that stores the message
//! until it was brought or given up. What is said over the interface itself needs none: it is read there.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::inbox::message_id;
use super::sessions::{self, Place, session_id};
use super::{StoreError, destinations, groups, rows, stored};
use crate::contract::ids::{GroupName, MessageId, SessionId};
use crate::contract::time::Millis;
use crate::controlplane::doors;

/// Longest reason that is kept, in bytes.
const MOST_ERROR: usize = 500;

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is to be brought, perhaps again.
    Waiting,
    /// It was.
    Sent,
    /// It was given up; somebody has to look at it.
    Dead,
    /// Somebody did, and it is not to be brought.
    Discarded,
}

impl State {
    const ALL: [Self; 4] = [Self::Waiting, Self::Sent, Self::Dead, Self::Discarded];

    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Sent => "sent",
            Self::Dead => "dead",
            Self::Discarded => "discarded",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// One chat of one account of one platform: what goes there goes in order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chat {
    /// The platform.
    pub channel: String,
    /// The account on it.
    pub instance: String,
    /// The chat.
    pub chat: String,
}

/// One message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Its place in the history.
    pub position: u64,
    /// Its name.
    pub message: MessageId,
    /// The conversation in which it appears.
    pub session: SessionId,
    /// Where it goes.
    pub place: Place,
    /// The platform's own name of the message that it answers.
    pub quotes: Option<String>,
    /// The ledger's.
    pub cause: Option<MessageId>,
    /// How far it is.
    pub state: State,
    /// How many parts were sent.
    pub part: u32,
    /// How many there are, as it was cut when the first one was sent.
    pub parts: Option<u32>,
    /// How often the next one was tried.
    pub attempts: u32,
    /// When it is to be tried.
    pub due: Millis,
    /// Since when the next part is not taken; `None` where it was not tried.
    pub failing_since: Option<Millis>,
    /// What went wrong last.
    pub error: Option<String>,
    /// The platform's own names of the parts that were sent.
    pub receipts: Vec<String>,
    /// When it ended.
    pub finished_at: Option<Millis>,
}

const COLUMNS: &str =
    "d.position, d.message, d.session, d.channel, d.instance, d.chat, d.thread, d.quotes, d.cause,
    d.state, d.part, d.attempts, d.due, d.error, d.receipts, d.finished_at, d.parts, d.failing_since";

fn read(row: &Row<'_>) -> Result<Delivery, StoreError> {
    let cause: Option<String> = row.get(8)?;
    let receipts: String = row.get(14)?;
    Ok(Delivery {
        position: row.get(0)?,
        message: message_id(&row.get::<_, String>(1)?)?,
        session: session_id(&row.get::<_, String>(2)?)?,
        place: Place { channel: row.get(3)?, instance: row.get(4)?, chat: row.get(5)?, thread: row.get(6)? },
        quotes: row.get(7)?,
        cause: cause.as_deref().map(message_id).transpose()?,
        state: State::parse(&row.get::<_, String>(9)?).ok_or(StoreError::BadRow("a delivery's state"))?,
        part: row.get(10)?,
        attempts: row.get(11)?,
        due: Millis(row.get(12)?),
        error: row.get(13)?,
        receipts: receipts.lines().map(str::to_owned).collect(),
        finished_at: row.get::<_, Option<i64>>(15)?.map(Millis),
        parts: row.get(16)?,
        failing_since: row.get::<_, Option<i64>>(17)?.map(Millis),
    })
}

/// A message that was just stored is to be brought where it goes, if that is on a platform.
pub(super) fn add(
    tx: &Transaction<'_>,
    position: u64,
    message: &MessageId,
    session: &SessionId,
    place: &Place,
    cause: Option<(&MessageId, Option<String>)>,
) -> Result<(), StoreError> {
    if !doors::is_platform(&place.channel) {
        return Ok(());
    }
    let (cause, quotes) = cause.map_or((None, None), |(cause, quotes)| (Some(cause.as_str()), quotes));
    let sql =
        "INSERT INTO deliveries (position, message, session, channel, instance, chat, thread, quotes, cause,
                   state, part, attempts, due, error, receipts, finished_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'waiting', 0, 0, ?10, NULL, '', NULL)";
    tx.prepare_cached(sql)?.execute(params![
        stored(position),
        message.as_str(),
        session.as_str(),
        place.channel,
        place.instance,
        place.chat,
        place.thread,
        quotes,
        cause,
        Millis::now().0
    ])?;
    Ok(())
}

/// The chats to which something waits to be brought that came after a position, and the last position looked at: at
/// most `most` messages are.
///
/// # Errors
/// SQLite's.
pub fn chats_since(conn: &Connection, after: u64, most: usize) -> Result<(Vec<Chat>, u64), StoreError> {
    let sql = "SELECT position, channel, instance, chat FROM deliveries
               WHERE state = 'waiting' AND position > ?1 ORDER BY position LIMIT ?2";
    let mut query = conn.prepare_cached(sql)?;
    let mut found = query.query(params![stored(after), rows(most)])?;
    let (mut chats, mut last) = (Vec::new(), after);
    while let Some(row) = found.next()? {
        last = row.get(0)?;
        let chat = Chat { channel: row.get(1)?, instance: row.get(2)?, chat: row.get(3)? };
        if chats.last() != Some(&chat) {
            chats.push(chat);
        }
    }
    Ok((chats, last))
}

/// The first message that waits to be brought to a chat.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn next(conn: &Connection, chat: &Chat) -> Result<Option<Delivery>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM deliveries d WHERE d.channel = ?1 AND d.instance = ?2 AND d.chat = ?3
         AND d.state = 'waiting' ORDER BY d.position LIMIT 1"
    );
    let mut query = conn.prepare_cached(&sql)?;
    query.query_and_then([&chat.channel, &chat.instance, &chat.chat], read)?.next().transpose()
}

/// One, by the name of its message.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(conn: &Connection, message: &MessageId) -> Result<Option<Delivery>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM deliveries d WHERE d.message = ?1");
    conn.prepare_cached(&sql)?.query_and_then([message.as_str()], read)?.next().transpose()
}

/// The agent group whose message it is.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn group_of(conn: &Connection, message: &MessageId) -> Result<Option<GroupName>, StoreError> {
    let sql =
        "SELECT s.agent_group FROM deliveries d JOIN sessions s ON s.id = d.session WHERE d.message = ?1";
    let found: Option<String> =
        conn.prepare_cached(sql)?.query_row([message.as_str()], |row| row.get(0)).optional()?;
    found
        .map(|name| GroupName::parse(&name).map_err(|_| StoreError::BadRow("an agent group's name")))
        .transpose()
}

/// Up to `limit` in a state that still concerns somebody, after a position, of one group or of all, with the group.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    state: State,
    after: u64,
    limit: usize,
    among: Option<&[GroupName]>,
) -> Result<Vec<(GroupName, Delivery)>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, s.agent_group FROM deliveries d JOIN sessions s ON s.id = d.session
         WHERE d.state = '{}' AND d.position > ?1
             AND (?3 IS NULL OR s.agent_group IN (SELECT value FROM json_each(?3)))
         ORDER BY d.position LIMIT ?2",
        // In the words of the index, which only then is used.
        state.as_str()
    );
    let values = params![stored(after), rows(limit), among.map(groups::names)];
    let read = |row: &Row<'_>| {
        let group: String = row.get(18)?;
        let group = GroupName::parse(&group).map_err(|_| StoreError::BadRow("an agent group's name"))?;
        Ok((group, read(row)?))
    };
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}

/// Whether it may still go there: its agent is there, and listens in the chat or has a destination that leads to it.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn may_go(conn: &Connection, delivery: &Delivery) -> Result<bool, StoreError> {
    let Some(row) = sessions::get(conn, &delivery.session)? else { return Ok(false) };
    let group = row.partition.group;
    if groups::live(conn, &group)?.is_none() {
        return Ok(false);
    }
    destinations::reach(conn, &group, &delivery.place)
}

/// One of so many parts was brought: all of it, when it was the last.
///
/// # Errors
/// SQLite's.
pub fn brought(
    tx: &Transaction<'_>,
    delivery: &Delivery,
    receipt: &str,
    of: u32,
) -> Result<bool, StoreError> {
    let now = Millis::now().0;
    let line = format!("{}\n", receipt.replace(['\n', '\r'], " "));
    let sql =
        "UPDATE deliveries SET part = part + 1, attempts = 0, due = ?3, error = NULL, failing_since = NULL,
                   receipts = receipts || ?4, parts = ?5, state = iif(part + 1 >= ?5, 'sent', 'waiting'),
                   finished_at = iif(part + 1 >= ?5, ?3, NULL)
               WHERE position = ?1 AND part = ?2 AND state = 'waiting'";
    let values = params![stored(delivery.position), delivery.part, now, line, of];
    Ok(tx.prepare_cached(sql)?.execute(values)? == 1)
}

/// It was not brought, and is to be tried again at an instant.
///
/// # Errors
/// SQLite's.
pub fn put_off(tx: &Transaction<'_>, delivery: &Delivery, due: Millis, why: &str) -> Result<(), StoreError> {
    let sql = "UPDATE deliveries SET attempts = attempts + 1, due = ?3, error = ?4,
                   failing_since = coalesce(failing_since, ?5)
               WHERE position = ?1 AND part = ?2 AND state = 'waiting'";
    let values = params![stored(delivery.position), delivery.part, due.0, cut(why), Millis::now().0];
    tx.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// It was not brought for a reason that is the account's: it waits, with that reason, until the account is well.
///
/// # Errors
/// SQLite's.
pub fn wait(tx: &Transaction<'_>, delivery: &Delivery, why: &str) -> Result<(), StoreError> {
    let sql = "UPDATE deliveries SET error = ?3, failing_since = coalesce(failing_since, ?4)
               WHERE position = ?1 AND part = ?2 AND state = 'waiting'";
    let values = params![stored(delivery.position), delivery.part, cut(why), Millis::now().0];
    tx.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// It is given up, or not to be brought. Says whether it was waiting or dead until now.
///
/// # Errors
/// SQLite's.
pub fn end(
    tx: &Transaction<'_>,
    message: &MessageId,
    state: State,
    why: Option<&str>,
) -> Result<bool, StoreError> {
    let sql = "UPDATE deliveries SET state = ?2, error = coalesce(?3, error), finished_at = ?4
               WHERE message = ?1 AND state IN ('waiting', 'dead') AND state <> ?2";
    let values = params![message.as_str(), state.as_str(), why.map(cut), Millis::now().0];
    Ok(tx.prepare_cached(sql)?.execute(values)? == 1)
}

/// What was given up is tried again, from the part that was not brought on, as this build cuts it. Says whether it was
/// dead.
///
/// # Errors
/// SQLite's.
pub fn retry(tx: &Transaction<'_>, message: &MessageId) -> Result<bool, StoreError> {
    let sql = "UPDATE deliveries SET state = 'waiting', attempts = 0, due = ?2, failing_since = NULL,
                   parts = NULL, finished_at = NULL
               WHERE message = ?1 AND state = 'dead'";
    Ok(tx.prepare_cached(sql)?.execute(params![message.as_str(), Millis::now().0])? == 1)
}

/// How many wait, and how many were given up.
///
/// # Errors
/// SQLite's.
pub fn counts(conn: &Connection) -> Result<(i64, i64), StoreError> {
    let sql = "SELECT count(*) FILTER (WHERE state = 'waiting'), count(*) FILTER (WHERE state = 'dead')
               FROM deliveries WHERE state IN ('waiting', 'dead')";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

fn cut(why: &str) -> &str {
    let mut end = why.len().min(MOST_ERROR);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.get(..end).unwrap_or_default()
}
