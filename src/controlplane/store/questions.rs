//! Questions of agents to people: what is asked, where it was shown, and what came of it. What is asked is sealed with the
//! secret of its conversation. Who may answer, and what an answer is, is for their keeper to say.

use rusqlite::{Connection, Row, Transaction, params};

use super::inbox::message_id;
use super::secrets::Texts;
use super::sessions::{Place, session_id};
use super::{StoreError, groups, rows};
use crate::contract::ids::{GroupName, MessageId, QuestionId, SessionId};
use crate::contract::time::Millis;
use crate::controlplane::keys::Keyring;

/// How far a question is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It can be answered.
    Open,
    /// It was.
    Answered,
    /// Nobody answered in time.
    Expired,
    /// Somebody ended it, or its conversation was erased.
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Open, Self::Answered, Self::Expired, Self::Cancelled];

    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Answered => "answered",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// A question that wants to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewQuestion {
    /// Its id.
    pub id: QuestionId,
    /// The conversation that asks, and hears the answer.
    pub session: SessionId,
    /// The message that shows it.
    pub message: MessageId,
    /// Where that goes.
    pub place: Place,
    /// What is asked, in its keeper's form.
    pub content: String,
    /// From then on nobody can answer.
    pub expires_at: Millis,
    /// The agent's mark of the call that asked.
    pub call: String,
    /// The digest of what was asked.
    pub request: String,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Its id.
    pub id: QuestionId,
    /// The agent.
    pub group: GroupName,
    /// The conversation that asks, and hears the answer.
    pub session: SessionId,
    /// The message that shows it.
    pub message: MessageId,
    /// Where that goes.
    pub place: Place,
    /// How far it is.
    pub state: State,
    /// Since when.
    pub created_at: Millis,
    /// From then on nobody can answer.
    pub expires_at: Millis,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Who answered or ended it; `None` where nobody did.
    pub ended_by: Option<String>,
    /// The message that tells the agent of the answer.
    pub answer: Option<MessageId>,
    sealed: Vec<u8>,
}

impl Question {
    /// What is asked; `None` when that was erased.
    ///
    /// # Errors
    /// [`StoreError::Key`] when it is damaged, or SQLite's.
    pub fn content(&self, conn: &Connection, keyring: &Keyring) -> Result<Option<String>, StoreError> {
        if self.sealed.is_empty() {
            return Ok(None);
        }
        let Some(texts) = Texts::to_read(conn, keyring, &self.session)? else { return Ok(None) };
        // Never older than the secret: with that it is erased too.
        texts.open(u64::MAX, self.id.as_str(), &self.sealed)
    }
}

const COLUMNS: &str =
    "q.id, s.agent_group, q.session, q.message, q.channel, q.instance, q.chat, q.thread, q.content,
    q.state, q.created_at, q.expires_at, q.ended_at, q.ended_by, q.answer";
const FROM: &str = "questions q JOIN sessions s ON s.id = q.session";

fn read(row: &Row<'_>) -> Result<Question, StoreError> {
    let answer: Option<String> = row.get(14)?;
    Ok(Question {
        id: QuestionId::parse(&row.get::<_, String>(0)?)
            .map_err(|_| StoreError::BadRow("a question's id"))?,
        group: GroupName::parse(&row.get::<_, String>(1)?)
            .map_err(|_| StoreError::BadRow("an agent group's name"))?,
        session: session_id(&row.get::<_, String>(2)?)?,
        message: message_id(&row.get::<_, String>(3)?)?,
        place: Place { channel: row.get(4)?, instance: row.get(5)?, chat: row.get(6)?, thread: row.get(7)? },
        sealed: row.get(8)?,
        state: State::parse(&row.get::<_, String>(9)?).ok_or(StoreError::BadRow("a question's state"))?,
        created_at: Millis(row.get(10)?),
        expires_at: Millis(row.get(11)?),
        ended_at: row.get::<_, Option<i64>>(12)?.map(Millis),
        ended_by: row.get(13)?,
        answer: answer.as_deref().map(message_id).transpose()?,
    })
}

/// Keeps a question, open.
///
/// # Errors
/// [`StoreError::Key`], or SQLite's.
pub fn add(tx: &Transaction<'_>, keyring: &Keyring, new: &NewQuestion) -> Result<(), StoreError> {
    let sealed = Texts::to_write(tx, keyring, &new.session)?.seal(new.id.as_str(), &new.content)?;
    let sql = "INSERT INTO questions (id, session, message, channel, instance, chat, thread, content, state,
                   created_at, expires_at, has_buttons, call, request)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'open', ?9, ?10, 0, ?11, ?12)";
    tx.prepare_cached(sql)?.execute(params![
        new.id.as_str(),
        new.session.as_str(),
        new.message.as_str(),
        new.place.channel,
        new.place.instance,
        new.place.chat,
        new.place.thread,
        sealed,
        Millis::now().0,
        new.expires_at.0,
        new.call,
        new.request,
    ])?;
    Ok(())
}

/// The question of that id.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn get(conn: &Connection, id: &QuestionId) -> Result<Option<Question>, StoreError> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE q.id = ?1"))?;
    query.query_and_then([id.as_str()], read)?.next().transpose()
}

/// The question that a message shows.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn shown_by(conn: &Connection, message: &MessageId) -> Result<Option<Question>, StoreError> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM {FROM} WHERE q.message = ?1"))?;
    query.query_and_then([message.as_str()], read)?.next().transpose()
}

/// What an agent's call asked, and the digest of that.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of_call(
    conn: &Connection,
    session: &SessionId,
    call: &str,
) -> Result<Option<(Question, String)>, StoreError> {
    let sql = format!("SELECT {COLUMNS}, q.request FROM {FROM} WHERE q.session = ?1 AND q.call = ?2");
    let read = |row: &Row<'_>| Ok((read(row)?, row.get(15)?));
    conn.prepare_cached(&sql)?.query_and_then([session.as_str(), call], read)?.next().transpose()
}

/// Up to `most` open questions that were shown in a place, the newest first.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn open_in(conn: &Connection, place: &Place, most: usize) -> Result<Vec<Question>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE q.state = 'open' AND q.channel = ?1 AND q.instance = ?2 AND q.chat = ?3
         AND q.thread IS ?4 ORDER BY q.id DESC LIMIT ?5"
    );
    let values = params![place.channel, place.instance, place.chat, place.thread, rows(most)];
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}

/// How many questions of a conversation are open.
///
/// # Errors
/// SQLite's.
pub fn open_of(conn: &Connection, session: &SessionId) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM questions WHERE session = ?1 AND state = 'open'";
    Ok(conn.prepare_cached(sql)?.query_row([session.as_str()], |row| row.get(0))?)
}

/// Up to `limit` questions by id, after one; of some groups, or of all; in one state.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    among: Option<&[GroupName]>,
    state: State,
    after: &str,
    limit: usize,
) -> Result<Vec<Question>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {FROM} WHERE q.state = '{}' AND q.id > ?1
             AND (?2 IS NULL OR s.agent_group IN (SELECT value FROM json_each(?2)))
         ORDER BY q.id LIMIT ?3",
        // In the words of the index, which only then is used.
        state.as_str()
    );
    let values = params![after, among.map(groups::names), rows(limit)];
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}

/// It ends. Says whether it was open until now.
///
/// # Errors
/// SQLite's.
pub fn end(
    tx: &Transaction<'_>,
    id: &QuestionId,
    state: State,
    by: Option<&str>,
    answer: Option<&MessageId>,
) -> Result<bool, StoreError> {
    let sql = "UPDATE questions SET state = ?2, ended_at = ?3, ended_by = ?4, answer = ?5
               WHERE id = ?1 AND state = 'open'";
    let values = params![id.as_str(), state.as_str(), Millis::now().0, by, answer.map(MessageId::as_str)];
    Ok(tx.prepare_cached(sql)?.execute(values)? == 1)
}

/// When the next open question ends by itself.
///
/// # Errors
/// SQLite's.
pub fn next_expiry(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    let sql = "SELECT min(expires_at) FROM questions WHERE state = 'open'";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Millis))
}

/// Up to `most` open questions whose time is over. A row that does not read ends, so that it holds up no other.
///
/// # Errors
/// SQLite's.
pub fn due(tx: &Transaction<'_>, now: Millis, most: usize) -> Result<Vec<Question>, StoreError> {
    let sql =
        "SELECT id FROM questions WHERE state = 'open' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2";
    let mut query = tx.prepare_cached(sql)?;
    let ids: Vec<String> =
        query.query_map(params![now.0, rows(most)], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut due = Vec::with_capacity(ids.len());
    for id in ids {
        let found = match QuestionId::parse(&id) {
            Ok(id) => get(tx, &id),
            Err(_) => Ok(None),
        };
        match found {
            Ok(Some(question)) => due.push(question),
            Ok(None) | Err(StoreError::BadRow(_)) => {
                let sql = "UPDATE questions SET state = 'expired', ended_at = ?2 WHERE id = ?1";
                tx.prepare_cached(sql)?.execute(params![id, now.0])?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(due)
}

/// Every open question of a conversation ends, and nothing of what any of them asked is left.
///
/// # Errors
/// SQLite's.
pub(super) fn erase(tx: &Transaction<'_>, session: &SessionId) -> Result<(), StoreError> {
    let sql = "UPDATE questions SET content = x'', state = iif(state = 'open', 'cancelled', state),
                   ended_at = coalesce(ended_at, ?2)
               WHERE session = ?1";
    tx.prepare_cached(sql)?.execute(params![session.as_str(), Millis::now().0])?;
    Ok(())
}

/// The message of a question is shown with buttons from now on.
///
/// # Errors
/// SQLite's.
pub fn has_buttons(tx: &Transaction<'_>, message: &MessageId) -> Result<(), StoreError> {
    let sql = "UPDATE questions SET has_buttons = 1 WHERE message = ?1";
    tx.prepare_cached(sql)?.execute([message.as_str()])?;
    Ok(())
}

/// A message whose question ended, under which there are still buttons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    /// The question.
    pub id: QuestionId,
    /// Where it was shown.
    pub place: Place,
    /// The platform's own name of the message; `None` when that is not known any more.
    pub receipt: Option<String>,
}

/// Up to `most` of them by id, after one.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn stale(conn: &Connection, after: &str, most: usize) -> Result<Vec<Stale>, StoreError> {
    let sql = "SELECT q.id, q.channel, q.instance, q.chat, q.thread, d.receipts FROM questions q
               LEFT JOIN deliveries d ON d.message = q.message
               WHERE q.has_buttons = 1 AND q.state <> 'open' AND q.id > ?1 ORDER BY q.id LIMIT ?2";
    let read = |row: &Row<'_>| {
        let receipts: Option<String> = row.get(5)?;
        Ok::<_, StoreError>(Stale {
            id: QuestionId::parse(&row.get::<_, String>(0)?)
                .map_err(|_| StoreError::BadRow("a question's id"))?,
            place: Place {
                channel: row.get(1)?,
                instance: row.get(2)?,
                chat: row.get(3)?,
                thread: row.get(4)?,
            },
            receipt: receipts.and_then(|all| all.lines().next_back().map(str::to_owned)),
        })
    };
    conn.prepare_cached(sql)?.query_and_then(params![after, rows(most)], read)?.collect()
}

/// The buttons were taken from its message, or cannot be.
///
/// # Errors
/// SQLite's.
pub fn settled(tx: &Transaction<'_>, id: &QuestionId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE questions SET has_buttons = 0 WHERE id = ?1")?.execute([id.as_str()])?;
    Ok(())
}

/// Forgets up to `most` questions that ended before an instant. Gives how many.
///
/// # Errors
/// SQLite's.
pub fn prune(tx: &Transaction<'_>, before: Millis, most: usize) -> Result<usize, StoreError> {
    let sql = "DELETE FROM questions WHERE id IN
               (SELECT id FROM questions WHERE state <> 'open' AND ended_at < ?1 ORDER BY ended_at LIMIT ?2)";
    Ok(tx.prepare_cached(sql)?.execute(params![before.0, rows(most)])?)
}
