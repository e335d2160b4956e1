//! Who is shown in a chat what waits for their decision, and the cards that show it: one for each change and person. What
//! is on a card, and what a press of its buttons does, is for their keeper to say.

use rusqlite::{Connection, Row, Transaction, params};

use super::inbox::message_id;
use super::sessions::Place;
use super::users::user_id;
use super::{StoreError, rows};
use crate::contract::ids::{ChangeId, GroupName, MessageId, UserId};
use crate::contract::time::Millis;

/// People who are shown something, at most.
pub const MOST_CHATS: u64 = 50;

/// Where somebody is shown what waits for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chat {
    /// Who.
    pub user: UserId,
    /// The platform.
    pub channel: String,
    /// The account on it.
    pub instance: String,
    /// The chat there.
    pub chat: String,
    /// Why the last card could not be shown.
    pub failure: Option<String>,
    /// Since when.
    pub since: Millis,
}

/// What somebody is, or was, shown of one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its number. That of one that is forgotten may be given again.
    pub number: u64,
    /// The change.
    pub change: ChangeId,
    /// Whom it is for.
    pub user: UserId,
    /// The platform.
    pub channel: String,
    /// The account on it.
    pub instance: String,
    /// The chat there.
    pub chat: String,
    /// The name under which the platform is to know it.
    pub message: MessageId,
    /// What it shows, in its keeper's word; empty before it was sent.
    pub shown: String,
    /// How often it was shown as something else.
    pub edits: u32,
    /// The platform's own name of it.
    pub receipt: Option<String>,
}

impl Card {
    /// Whether this is where its person is shown things now.
    pub fn is_in(&self, chat: &Chat) -> bool {
        (&self.channel, &self.instance, &self.chat) == (&chat.channel, &chat.instance, &chat.chat)
    }
}

fn read_chat(row: &Row<'_>) -> Result<Chat, StoreError> {
    Ok(Chat {
        user: user_id(&row.get::<_, String>(0)?)?,
        channel: row.get(1)?,
        instance: row.get(2)?,
        chat: row.get(3)?,
        failure: row.get(4)?,
        since: Millis(row.get(5)?),
    })
}

const CHAT: &str = "SELECT user, channel, instance, chat, failure, since FROM approval_chats";

/// Where somebody is shown things.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn chat_of(conn: &Connection, user: &UserId) -> Result<Option<Chat>, StoreError> {
    let mut query = conn.prepare_cached(&format!("{CHAT} WHERE user = ?1"))?;
    query.query_and_then([user.to_string()], read_chat)?.next().transpose()
}

/// Who is shown things, or has a card that is not over.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn people(conn: &Connection) -> Result<Vec<UserId>, StoreError> {
    let sql = "SELECT user FROM approval_chats UNION SELECT user FROM approval_cards WHERE is_over = 0";
    conn.prepare_cached(sql)?.query_and_then([], |row| user_id(&row.get::<_, String>(0)?))?.collect()
}

/// From now on somebody is shown things there, and nowhere else. Says whether that is new.
///
/// # Errors
/// [`StoreError::Conflict`] when there are as many people as may be, or SQLite's.
pub fn set_chat(
    tx: &Transaction<'_>,
    user: &UserId,
    (channel, instance, chat): (&str, &str, &str),
) -> Result<bool, StoreError> {
    let known = chat_of(tx, user)?;
    // What could not be shown is tried once more, wherever.
    forget_refused(tx, user)?;
    if known.as_ref().is_some_and(|known| {
        known.failure.is_none()
            && (known.channel.as_str(), known.instance.as_str(), known.chat.as_str())
                == (channel, instance, chat)
    }) {
        return Ok(false);
    }
    let all: u64 = tx
        .prepare_cached("SELECT count(*) FROM approval_chats")?
        .query_row([], |row| row.get::<_, u64>(0))?;
    if known.is_none() && all >= MOST_CHATS {
        return Err(StoreError::Conflict("50 users are shown changes in chats, and that is the most"));
    }
    let sql = "INSERT INTO approval_chats (user, channel, instance, chat, since) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (user) DO UPDATE SET channel = ?2, instance = ?3, chat = ?4, since = ?5, failure = NULL";
    tx.prepare_cached(sql)?.execute(params![user.to_string(), channel, instance, chat, Millis::now().0])?;
    // What could not be shown is tried once more.
    let sql = "DELETE FROM approval_cards WHERE user = ?1 AND receipt IS NULL";
    tx.prepare_cached(sql)?.execute([user.to_string()])?;
    Ok(true)
}

/// From now on somebody is shown nothing more. Says whether they were.
///
/// # Errors
/// SQLite's.
pub fn end_chat(tx: &Transaction<'_>, user: &UserId) -> Result<bool, StoreError> {
    let sql = "DELETE FROM approval_chats WHERE user = ?1";
    Ok(tx.prepare_cached(sql)?.execute([user.to_string()])? == 1)
}

/// Why the last card could not be shown there; `None` when it was.
///
/// # Errors
/// SQLite's.
pub fn set_failure(tx: &Transaction<'_>, user: &UserId, failure: Option<&str>) -> Result<(), StoreError> {
    let sql = "UPDATE approval_chats SET failure = ?2 WHERE user = ?1 AND failure IS NOT ?2";
    tx.prepare_cached(sql)?.execute(params![user.to_string(), failure])?;
    Ok(())
}

const CARD: &str = "SELECT number, change, user, channel, instance, chat, message, shown, edits, receipt
    FROM approval_cards";

fn read_card(row: &Row<'_>) -> Result<Card, StoreError> {
    Ok(Card {
        number: row.get(0)?,
        change: change_id(&row.get::<_, String>(1)?)?,
        user: user_id(&row.get::<_, String>(2)?)?,
        channel: row.get(3)?,
        instance: row.get(4)?,
        chat: row.get(5)?,
        message: message_id(&row.get::<_, String>(6)?)?,
        shown: row.get(7)?,
        edits: row.get(8)?,
        receipt: row.get(9)?,
    })
}

fn change_id(text: &str) -> Result<ChangeId, StoreError> {
    ChangeId::parse(text).map_err(|_| StoreError::BadRow("a change's id"))
}

/// One card.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn card(conn: &Connection, number: u64) -> Result<Option<Card>, StoreError> {
    let Ok(number) = i64::try_from(number) else { return Ok(None) };
    let mut query = conn.prepare_cached(&format!("{CARD} WHERE number = ?1"))?;
    query.query_and_then([number], read_card)?.next().transpose()
}

/// The cards of somebody that are not over, the oldest first.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn cards_of(conn: &Connection, user: &UserId) -> Result<Vec<Card>, StoreError> {
    let mut query =
        conn.prepare_cached(&format!("{CARD} WHERE user = ?1 AND is_over = 0 ORDER BY number"))?;
    query.query_and_then([user.to_string()], read_card)?.collect()
}

/// Whether a card is one by which somebody decides: it is theirs, is not over, and is where they are shown things.
///
/// # Errors
/// SQLite's.
pub fn is_open(conn: &Connection, number: u64, user: &UserId) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM approval_cards c JOIN approval_chats p
                   ON (p.user, p.channel, p.instance, p.chat) = (c.user, c.channel, c.instance, c.chat)
               WHERE c.number = ?1 AND c.user = ?2 AND c.is_over = 0)";
    let Ok(number) = i64::try_from(number) else { return Ok(false) };
    Ok(conn.prepare_cached(sql)?.query_row(params![number, user.to_string()], |row| row.get(0))?)
}

/// Whether a message of a platform, by its name there, is a card.
///
/// # Errors
/// SQLite's.
pub fn is_card(conn: &Connection, place: &Place, message: &str) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM approval_cards
               WHERE channel = ?1 AND instance = ?2 AND chat = ?3 AND receipt = ?4)";
    let values = [place.channel.as_str(), place.instance.as_str(), place.chat.as_str(), message];
    Ok(conn.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
}

/// Makes a card for somebody, to be sent. Does nothing when there is one of that change.
///
/// # Errors
/// SQLite's.
pub fn add_card(tx: &Transaction<'_>, change: &ChangeId, chat: &Chat) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO approval_cards (change, user, channel, instance, chat, message, shown, edits, is_over)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, '', 0, 0) ON CONFLICT (change, user) DO NOTHING";
    tx.prepare_cached(sql)?.execute(params![
        change.as_str(),
        chat.user.to_string(),
        chat.channel,
        chat.instance,
        chat.chat,
        MessageId::mint().as_str()
    ])?;
    Ok(())
}

/// What a card shows now.
///
/// # Errors
/// SQLite's.
pub fn set_shown(
    tx: &Transaction<'_>,
    card: &Card,
    shown: &str,
    receipt: Option<&str>,
    is_over: bool,
) -> Result<(), StoreError> {
    let edits = card.edits.saturating_add(1);
    let sql =
        "UPDATE approval_cards SET shown = ?2, receipt = coalesce(?3, receipt), is_over = ?4, edits = ?5
               WHERE number = ?1 AND message = ?6";
    tx.prepare_cached(sql)?.execute(params![
        card.number,
        shown,
        receipt,
        is_over,
        edits,
        card.message.as_str()
    ])?;
    Ok(())
}

/// Forgets a card; not another one that was given its number meanwhile.
///
/// # Errors
/// SQLite's.
pub fn forget_card(tx: &Transaction<'_>, card: &Card) -> Result<(), StoreError> {
    let sql = "DELETE FROM approval_cards WHERE number = ?1 AND message = ?2";
    tx.prepare_cached(sql)?.execute(params![card.number, card.message.as_str()])?;
    Ok(())
}

/// Forgets the cards of somebody that were refused when they were sent, so that they are tried once more. Says whether
/// there were any.
///
/// # Errors
/// SQLite's.
pub fn forget_refused(tx: &Transaction<'_>, user: &UserId) -> Result<bool, StoreError> {
    let sql = "DELETE FROM approval_cards WHERE user = ?1 AND receipt IS NULL AND is_over = 1";
    Ok(tx.prepare_cached(sql)?.execute([user.to_string()])? > 0)
}

/// A change that waits: as much of it as says who may decide it, as a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Its id.
    pub id: ChangeId,
    /// The agent that it is about.
    pub group: GroupName,
    /// Its kind.
    pub kind: String,
    /// Who asked.
    pub requested_by: String,
}

/// The agents about which changes wait.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn groups_waiting(conn: &Connection) -> Result<Vec<GroupName>, StoreError> {
    let sql = "SELECT DISTINCT agent_group FROM changes WHERE state = 'pending'";
    let read = |row: &Row<'_>| {
        GroupName::parse(&row.get::<_, String>(0)?).map_err(|_| StoreError::BadRow("an agent group's name"))
    };
    conn.prepare_cached(sql)?.query_and_then([], read)?.collect()
}

/// Up to `most` changes about an agent that wait and of which somebody has no card, after one, the oldest first.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn without_card(
    conn: &Connection,
    user: &UserId,
    group: &GroupName,
    after: &str,
    most: usize,
) -> Result<Vec<Waiting>, StoreError> {
    let sql = "SELECT id, agent_group, kind, requested_by FROM changes
               WHERE state = 'pending' AND agent_group = ?4 AND id > ?2 AND NOT EXISTS
                   (SELECT 1 FROM approval_cards c WHERE c.change = changes.id AND c.user = ?1)
               ORDER BY id LIMIT ?3";
    let read = |row: &Row<'_>| {
        let group = GroupName::parse(&row.get::<_, String>(1)?);
        Ok(Waiting {
            id: change_id(&row.get::<_, String>(0)?)?,
            group: group.map_err(|_| StoreError::BadRow("an agent group's name"))?,
            kind: row.get(2)?,
            requested_by: row.get(3)?,
        })
    };
    let values = params![user.to_string(), after, rows(most), group.as_str()];
    conn.prepare_cached(sql)?.query_and_then(values, read)?.collect()
}
