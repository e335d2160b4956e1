//! The history of a session: one numbered list of what went in, what came out, what the host had to say, and
//! when a message was finished. The number is the cursor that clients follow, so everything that a client
//! waits for is an entry of its own.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::inbox::{self, State};
use super::secrets::Texts;
use super::sessions::{self, Partition, Place};
use super::{StoreError, check_length, deliveries};
use crate::contract::ids::{MessageId, SessionId};
use crate::contract::inbound::AGENT;
use crate::contract::outbound::BYTES_A_VALUE;
use crate::contract::time::Millis;
use crate::controlplane::keys::Keyring;
use crate::controlplane::telemetry::log;

/// A page ends early when its texts reach this many bytes, whatever its limit of entries.
const PAGE_TEXT_BYTES: usize = 4 << 20;

/// Most entries of one transaction that watchers are told of directly.
const NEWS: usize = 16;
/// Most bytes of text that are worth reading back for them.
pub const NEWS_BYTES: usize = 64 << 10;

/// Most chats of one conversation that are told the same.
const MOST_TOLD: usize = 16;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// A message to the agent.
    In,
    /// A message of the agent.
    Out,
    /// The host's own words to the person.
    Notice,
    /// A message to the agent, named by `message`, is done or failed: `state` and `reason` say which and why.
    Finished,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number, rising in a session, not without gaps.
    pub position: u64,
    /// What it is.
    pub direction: Direction,
    /// The message.
    pub message: MessageId,
    /// What it answers.
    pub in_reply_to: Option<String>,
    /// Who sent it (`In`).
    pub sender_id: Option<String>,
    /// What the sender is called (`In`).
    pub sender_name: Option<String>,
    /// The text; `None` for `Finished`, and where the session was erased.
    pub text: Option<String>,
    /// When it came, was stored, or was finished.
    pub at: Millis,
    /// The message's state (`In`: as it is now; `Finished`: as it became).
    pub state: Option<State>,
    /// Why it failed.
    pub reason: Option<String>,
    /// The conversation that it came from, where that is another one (`Out`).
    pub from_session: Option<String>,
    /// The text is there and does not open: its row is damaged.
    pub is_unreadable: bool,
}

/// What one transaction added to a session's history: whoever has read up to `after` may take `entries` for the
/// rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The position of the entry before the first of these; 0 when there is none.
    pub after: u64,
    /// They, in order.
    pub entries: Vec<Entry>,
}

impl News {
    /// Bytes of text in it.
    pub fn bytes(&self) -> usize {
        self.entries.iter().filter_map(|entry| entry.text.as_ref()).map(String::len).sum()
    }
}

/// The position of a session's newest entry; 0 when it has none.
///
/// # Errors
/// SQLite's.
pub fn newest(conn: &Connection, session: &SessionId) -> Result<u64, StoreError> {
    newest_below(conn, session, u64::MAX)
}

/// The position of a session's newest entry below a position; 0 when it has none.
///
/// # Errors
/// SQLite's.
pub fn newest_below(conn: &Connection, session: &SessionId, position: u64) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(max(position), 0) FROM history WHERE session = ?1 AND position < ?2";
    let values = params![session.as_str(), super::stored(position)];
    Ok(conn.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
}

/// What this transaction added after a position that was [`newest`] before; `None` when it is more than one page.
///
/// # Errors
/// As [`page`].
pub fn news(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    session: &SessionId,
    after: u64,
) -> Result<Option<News>, StoreError> {
    let entries = page(tx, keyring, session, after, NEWS + 1)?;
    // A page ends early when its texts are long.
    let last = entries.last().map_or(after, |entry| entry.position);
    let whole = entries.len() <= NEWS && newest(tx, session)? == last;
    Ok(whole.then_some(News { after, entries }))
}

/// Adds an entry and gives its position.
pub(super) fn add(
    tx: &Transaction<'_>,
    session: &SessionId,
    kind: &str,
    message: &MessageId,
    in_reply_to: Option<&str>,
) -> Result<u64, StoreError> {
    let sql = "INSERT INTO history (session, kind, message, in_reply_to, at) VALUES (?1, ?2, ?3, ?4, ?5)";
    let values = params![session.as_str(), kind, message.as_str(), in_reply_to, Millis::now().0];
    let position = tx.prepare_cached(sql)?.insert(values)?;
    u64::try_from(position).map_err(|_| StoreError::BadRow("a negative position"))
}

/// Adds the host's own words to the person, and gives their position.
///
/// # Errors
/// [`StoreError::TooLong`], [`StoreError::Key`], or SQLite's.
pub fn notice(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    session: &SessionId,
    in_reply_to: Option<&MessageId>,
    text: &str,
) -> Result<u64, StoreError> {
    let (position, id) = say(tx, keyring, session, in_reply_to, text)?;
    // It goes where what it is about came from, else to the chat of the conversation, or where that is none to the chats
    // that it is had with.
    let cause = match in_reply_to {
        Some(cause) => inbox::find(tx, session, cause)?.map(|found| (cause, found)),
        None => None,
    };
    match cause {
        Some((cause, found)) => {
            deliveries::add(tx, position, &id, session, &found.place, Some((cause, found.platform_message)))?;
        }
        None => {
            let Some(row) = sessions::get(tx, session)? else { return Ok(position) };
            let place = row.partition.place;
            if place.channel != AGENT {
                deliveries::add(tx, position, &id, session, &place, None)?;
                return Ok(position);
            }
            let mut told = Some((position, id));
            for place in places(tx, session, MOST_TOLD)? {
                let (position, id) = match told.take() {
                    Some(first) => first,
                    None => say(tx, keyring, session, None, text)?,
                };
                deliveries::add(tx, position, &id, session, &place, None)?;
            }
        }
    }
    Ok(position)
}

/// The places that wait for this conversation to answer, oldest first; where none does, the one that it heard from
/// last.
fn places(conn: &Connection, session: &SessionId, most: usize) -> Result<Vec<Place>, StoreError> {
    let read = |row: &Row<'_>| {
        Ok::<_, rusqlite::Error>(Place {
            channel: row.get(0)?,
            instance: row.get(1)?,
            chat: row.get(2)?,
            thread: row.get(3)?,
        })
    };
    let sql = "SELECT channel, instance, chat, thread FROM inbox WHERE session = ?1 AND state = 'open'
               GROUP BY channel, instance, chat, thread ORDER BY min(position) LIMIT ?2";
    let mut query = conn.prepare_cached(sql)?;
    let waiting: Vec<Place> =
        query.query_map(params![session.as_str(), super::rows(most)], read)?.collect::<Result<_, _>>()?;
    if !waiting.is_empty() {
        return Ok(waiting);
    }
    let sql = "SELECT i.channel, i.instance, i.chat, i.thread FROM history h JOIN inbox i ON i.position = h.position
               WHERE h.session = ?1 AND h.kind = 'in' ORDER BY h.position DESC LIMIT 1";
    Ok(conn.prepare_cached(sql)?.query_map([session.as_str()], read)?.collect::<Result<_, _>>()?)
}

/// Adds the host's own words to somebody in one place of the conversation.
///
/// # Errors
/// As [`notice`].
pub fn notice_at(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    session: &SessionId,
    place: &Place,
    text: &str,
) -> Result<(), StoreError> {
    let (position, id) = say(tx, keyring, session, None, text)?;
    deliveries::add(tx, position, &id, session, place, None)
}

fn say(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    session: &SessionId,
    in_reply_to: Option<&MessageId>,
    text: &str,
) -> Result<(u64, MessageId), StoreError> {
    check_length("notice", text, BYTES_A_VALUE)?;
    let id = MessageId::mint();
    let sealed = Texts::to_write(tx, keyring, session)?.seal(id.as_str(), text)?;
    let position = add(tx, session, "notice", &id, in_reply_to.map(MessageId::as_str))?;
    tx.prepare_cached("INSERT INTO notices (position, id, session, text) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![position, id.as_str(), session.as_str(), sealed])?;
    Ok((position, id))
}

/// What the host brings to a chat: the words of an agent or its own, by their place in the history. `None` when they
/// were erased or are gone.
///
/// # Errors
/// [`StoreError::Key`] when they are damaged, or SQLite's.
pub fn words(
    conn: &Connection,
    keyring: &Keyring,
    session: &SessionId,
    position: u64,
) -> Result<Option<String>, StoreError> {
    let sql = "SELECT h.message, coalesce(o.text, n.text) FROM history h
               LEFT JOIN outbox o ON h.kind = 'out' AND o.position = h.position
               LEFT JOIN notices n ON h.kind = 'notice' AND n.position = h.position
               WHERE h.position = ?1 AND h.session = ?2";
    let mut query = conn.prepare_cached(sql)?;
    let key = params![super::stored(position), session.as_str()];
    let found: Option<(String, Option<Vec<u8>>)> =
        query.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let (Some((message, Some(sealed))), Some(texts)) = (found, Texts::to_read(conn, keyring, session)?)
    else {
        return Ok(None);
    };
    texts.open(position, &message, &sealed)
}

/// What [`read`] reads, and where it is.
const COLUMNS: &str = "h.position, h.kind, h.message, h.in_reply_to, h.at,
    i.sender_id, i.sender_name, i.state, coalesce(i.reason, f.reason), coalesce(i.text, o.text, n.text),
    nullif(o.session, h.session)";
const TABLES: &str = "history h
    LEFT JOIN inbox i ON h.kind = 'in' AND i.position = h.position
    LEFT JOIN outbox o ON h.kind = 'out' AND o.position = h.position
    LEFT JOIN notices n ON h.kind = 'notice' AND n.position = h.position
    LEFT JOIN inbox f ON h.kind = 'failed' AND f.id = h.message";

/// An entry of any session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Of which session.
    pub session: SessionId,
    /// Whose conversation that is, and where.
    pub partition: Partition,
    /// The entry.
    pub entry: Entry,
}

/// Entries of all sessions, as far as they were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Everywhere {
    /// Those that are for the one who asks, in order.
    pub told: Vec<Told>,
    /// The position of the last that was looked at, told or not; `None` when there is none after the one asked for.
    pub last: Option<u64>,
}

/// Looks at up to `limit` entries of all sessions after a position, in order, and opens the texts of those whose
/// conversation `hears` lets through; looks at fewer when these are long, never at none while there are some.
///
/// # Errors
/// What `hears` gives, and SQLite's.
pub fn everywhere(
    conn: &Connection,
    keyring: &Keyring,
    after: u64,
    limit: usize,
    mut hears: impl FnMut(&Partition) -> Result<bool, StoreError>,
) -> Result<Everywhere, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS}, h.session, s.agent_group, s.channel, s.instance, s.chat, s.thread
         FROM {TABLES} JOIN sessions s ON s.id = h.session
         WHERE h.position > ?1 ORDER BY h.position LIMIT ?2"
    );
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = query.query(params![super::stored(after), super::rows(limit)])?;
    let mut found = Everywhere::default();
    let mut known: HashMap<SessionId, Secret> = HashMap::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let session = sessions::session_id(&row.get::<_, String>(11)?)?;
        let partition = sessions::partition(row, 12)?;
        if hears(&partition)? {
            let secret = match known.entry(session.clone()) {
                Slot::Occupied(slot) => slot.into_mut(),
                Slot::Vacant(slot) => slot.insert(Secret::of(conn, keyring, &session)?),
            };
            let entry = match secret {
                Secret::Known(texts) => read(row, texts.as_ref())?,
                Secret::Damaged => {
                    let mut entry = read(row, None)?;
                    entry.is_unreadable = !matches!(entry.direction, Direction::Finished);
                    entry
                }
            };
            bytes += entry.text.as_ref().map_or(0, String::len);
            if bytes > PAGE_TEXT_BYTES && found.last.is_some() {
                break;
            }
            found.last = Some(entry.position);
            found.told.push(Told { session, partition, entry });
        } else {
            found.last = Some(row.get(0)?);
        }
    }
    Ok(found)
}

/// What opens the texts of one session among many: one that is damaged holds up no other.
enum Secret {
    Known(Option<Texts>),
    Damaged,
}

impl Secret {
    fn of(conn: &Connection, keyring: &Keyring, session: &SessionId) -> Result<Self, StoreError> {
        match Texts::to_read(conn, keyring, session) {
            Ok(texts) => Ok(Self::Known(texts)),
            Err(StoreError::Key(_)) => Ok(Self::Damaged),
            Err(error) => Err(error),
        }
    }
}

/// The position of the newest entry that there ever was in any session; 0 when there was none.
///
/// # Errors
/// SQLite's.
pub fn tip(conn: &Connection) -> Result<u64, StoreError> {
    // Old entries are pruned, and their positions are not given again.
    let sql = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'history'), 0)";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Up to `limit` entries of a session after a position, in order; fewer when their texts are long, never none
/// while there are some.
///
/// # Errors
/// [`StoreError::Key`] when the session's secret is damaged, or SQLite's.
pub fn page(
    conn: &Connection,
    keyring: &Keyring,
    session: &SessionId,
    after: u64,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let texts = Texts::to_read(conn, keyring, session)?;
    let sql = format!(
        "SELECT {COLUMNS} FROM {TABLES}
         WHERE h.session = ?1 AND h.position > ?2 ORDER BY h.position LIMIT ?3"
    );
    let mut query = conn.prepare_cached(&sql)?;
    let mut rows = query.query(params![session.as_str(), super::stored(after), super::rows(limit)])?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let entry = read(row, texts.as_ref())?;
        bytes += entry.text.as_ref().map_or(0, String::len);
        if bytes > PAGE_TEXT_BYTES && !entries.is_empty() {
            break;
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn read(row: &Row<'_>, texts: Option<&Texts>) -> Result<Entry, StoreError> {
    let position: u64 = row.get(0)?;
    let kind: String = row.get(1)?;
    let message: String = row.get(2)?;
    let (direction, finished) = match kind.as_str() {
        "in" => (Direction::In, None),
        "out" => (Direction::Out, None),
        "notice" => (Direction::Notice, None),
        "done" => (Direction::Finished, Some(State::Done)),
        "failed" => (Direction::Finished, Some(State::Failed)),
        _ => return Err(StoreError::BadRow("a kind of history entry")),
    };
    let state = match row.get::<_, Option<String>>(7)? {
        Some(word) => Some(State::parse(&word).ok_or(StoreError::BadRow("a state of a message"))?),
        None => finished,
    };
    let sealed: Option<Vec<u8>> = row.get(9)?;
    let (text, is_unreadable) = match (texts, sealed) {
        (Some(texts), Some(sealed)) => match texts.open(position, &message, &sealed) {
            Ok(text) => (text, false),
            Err(StoreError::Key(_)) => {
                tell_unreadable(&message);
                (None, true)
            }
            Err(error) => return Err(error),
        },
        _ => (None, false),
    };
    Ok(Entry {
        position,
        direction,
        message: MessageId::parse(&message).map_err(|_| StoreError::BadRow("a message's id"))?,
        in_reply_to: row.get(3)?,
        sender_id: row.get(5)?,
        sender_name: row.get(6)?,
        text,
        at: Millis(row.get(4)?),
        state,
        reason: row.get(8)?,
        from_session: row.get(10)?,
        is_unreadable,
    })
}

/// Says it once; the page says it every time.
fn tell_unreadable(message: &str) {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if !TOLD.swap(true, Ordering::Relaxed) {
        log::error("store.unreadable_text", &[("message", &message)]);
    }
}
