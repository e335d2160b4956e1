//! Messages of people who are not admitted to an agent yet: kept sealed under the name that they will have, until they
//! are admitted or a day is over.

use rusqlite::{Connection, Row, Transaction, params};

use super::inbox::{self, Accepted, NewInbound, message_id};
use super::secrets::Texts;
use super::sessions::{self, Partition, Place, session_id};
use super::{StoreError, check_length, rows};
use crate::contract::ids::{GroupName, MessageId, UserId, WiringId};
use crate::contract::inbound::InboundKind;
use crate::contract::time::Millis;
use crate::controlplane::keys::Keyring;

/// Messages that one sender may have waiting for one agent.
pub const MOST_OF_ONE: u64 = 3;
/// Messages that may wait in one chat for one agent.
pub const MOST_OF_CHAT: u64 = 100;

/// Keeps a message. `None` when as many are kept as may be. It has no place in the history yet: 0 stands for it.
///
/// # Errors
/// As [`inbox::add`].
pub fn keep(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    wiring: &WiringId,
    new: &NewInbound,
) -> Result<Option<Accepted>, StoreError> {
    check_length("message", &new.text, inbox::MOST_TEXT)?;
    let group = &new.partition.group;
    let sql = "SELECT count(*) FILTER (WHERE sender_id = ?2), count(*) FROM held WHERE wiring = ?1";
    let (of_one, of_chat): (u64, u64) = tx
        .prepare_cached(sql)?
        .query_row(params![wiring.as_str(), new.sender_id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if of_one >= MOST_OF_ONE || of_chat >= MOST_OF_CHAT {
        return Ok(None);
    }
    let session = sessions::find_or_create(tx, &new.partition)?;
    let message = MessageId::mint();
    let sealed = Texts::to_write(tx, keyring, &session)?.seal(message.as_str(), &new.text)?;
    let sql =
        "INSERT INTO held (id, wiring, agent_group, session, channel, instance, chat, thread, sender_id,
                   sender_name, text, platform_message, created_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    tx.prepare_cached(sql)?.execute(params![
        message.as_str(),
        wiring.as_str(),
        group.as_str(),
        session.as_str(),
        new.place.channel,
        new.place.instance,
        new.place.chat,
        new.place.thread,
        new.sender_id,
        new.sender_name,
        sealed,
        new.platform_message,
        Millis::now().0
    ])?;
    Ok(Some(Accepted { message, session, position: 0, duplicate: false }))
}

/// Somebody who waits, and of whom nobody may know it yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unasked {
    /// The message that is kept.
    pub message: MessageId,
    /// Whom they spoke to, and the conversation.
    pub partition: Partition,
    /// Who.
    pub user: UserId,
    /// What they call themselves.
    pub name: String,
    /// Where.
    pub place: Place,
}

/// Up to `most` messages after one of which the sender was not told that somebody decides about them.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn unasked(conn: &Connection, after: &str, most: usize) -> Result<Vec<Unasked>, StoreError> {
    let sql = "SELECT id, session, channel, instance, chat, thread, sender_id, sender_name FROM held
               WHERE asked = 0 AND id > ?1 ORDER BY id LIMIT ?2";
    let mut query = conn.prepare_cached(sql)?;
    let found = query.query_and_then(params![after, rows(most)], |row| {
        let session = session_id(&row.get::<_, String>(1)?)?;
        let row_of = sessions::get(conn, &session)?.ok_or(StoreError::BadRow("a held message's session"))?;
        let user: String = row.get(6)?;
        Ok(Unasked {
            message: message_id(&row.get::<_, String>(0)?)?,
            partition: row_of.partition,
            user: UserId::parse(&user).map_err(|_| StoreError::BadRow("a sender's name"))?,
            name: row.get(7)?,
            place: Place {
                channel: row.get(2)?,
                instance: row.get(3)?,
                chat: row.get(4)?,
                thread: row.get(5)?,
            },
        })
    })?;
    found.collect()
}

/// Somebody was told that somebody decides about them.
///
/// # Errors
/// SQLite's.
pub fn asked(tx: &Transaction<'_>, group: &GroupName, user: &UserId) -> Result<(), StoreError> {
    let sql = "UPDATE held SET asked = 1 WHERE agent_group = ?1 AND sender_id = ?2 AND asked = 0";
    tx.prepare_cached(sql)?.execute([group.as_str(), &user.to_string()])?;
    Ok(())
}

/// Somebody is admitted: what they said is heard, in order. What does not fit any more is dropped.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn admit(tx: &Transaction<'_>, group: &GroupName, user: &UserId) -> Result<(), StoreError> {
    let sql = "DELETE FROM held WHERE agent_group = ?1 AND sender_id = ?2
               RETURNING id, session, channel, instance, chat, thread, sender_id, sender_name, text, platform_message";
    let mut query = tx.prepare_cached(sql)?;
    let mut kept = query
        .query_and_then([group.as_str(), &user.to_string()], |row| read(row, group))?
        .collect::<Result<Vec<_>, StoreError>>()?;
    kept.sort_by(|(one, ..), (other, ..)| one.as_str().cmp(other.as_str()));
    for (message, session, sealed, place) in kept {
        let Some(row) = sessions::get(tx, &session)? else { continue };
        let new = NewInbound { partition: row.partition, ..place };
        match inbox::insert(tx, &session, &message, &sealed, &new) {
            Ok(_) | Err(StoreError::Crowded { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Somebody may be heard by every agent from now on.
///
/// # Errors
/// As [`admit`].
pub fn admit_everywhere(tx: &Transaction<'_>, user: &UserId) -> Result<(), StoreError> {
    let sql = "SELECT DISTINCT agent_group FROM held WHERE sender_id = ?1";
    let mut query = tx.prepare_cached(sql)?;
    let groups: Vec<String> =
        query.query_map([user.to_string()], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for group in groups {
        let group = GroupName::parse(&group).map_err(|_| StoreError::BadRow("an agent group's name"))?;
        admit(tx, &group, user)?;
    }
    Ok(())
}

type Kept = (MessageId, crate::contract::ids::SessionId, Vec<u8>, NewInbound);

fn read(row: &Row<'_>, group: &GroupName) -> Result<Kept, StoreError> {
    let place = Place { channel: row.get(2)?, instance: row.get(3)?, chat: row.get(4)?, thread: row.get(5)? };
    let new = NewInbound {
        partition: sessions::Partition { group: group.clone(), place: place.clone() },
        place,
        event_id: String::new(),
        kind: InboundKind::Chat,
        engage: true,
        sender_id: row.get(6)?,
        sender_name: row.get(7)?,
        text: String::new(),
        in_reply_to: None,
        source_session: None,
        hop: 0,
        platform_message: row.get(9)?,
    };
    Ok((message_id(&row.get::<_, String>(0)?)?, session_id(&row.get::<_, String>(1)?)?, row.get(8)?, new))
}
