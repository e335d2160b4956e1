//! What the agents said. A row is known by (session, epoch, number, ordinal), so an output that comes again
//! is stored once; its global name is the host's.

use rusqlite::{OptionalExtension, Transaction, params};

use super::inbox::{MOST_TEXT, message_id};
use super::secrets::Texts;
use super::sessions::Place;
use super::{StoreError, check_length, deliveries, history, inbox, stored};
use crate::contract::ids::{MessageId, SessionId};
use crate::contract::time::Millis;
use crate::controlplane::keys::Keyring;

/// An output that was read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The session whose sandbox put it out.
    pub session: SessionId,
    /// The session's epoch.
    pub epoch: u64,
    /// The row's number in that epoch.
    pub seq: u64,
    /// Its place among the outputs of that row.
    pub ordinal: u32,
    /// The message it answers, looked up in this session's inbox.
    pub in_reply_to: Option<MessageId>,
    /// Where it goes.
    pub place: Place,
    /// The session in whose chat it appears, with whose secret its text is sealed; the same unless it goes elsewhere.
    pub shown_in: SessionId,
    /// The text.
    pub text: String,
}

/// The stored output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub message: MessageId,
    /// Its place in the history.
    pub position: u64,
    /// It was stored before; nothing was changed.
    pub duplicate: bool,
}

/// Up to `most` other conversations that a session has written to for messages that are not finished.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn sent_elsewhere(
    tx: &Transaction<'_>,
    session: &SessionId,
    most: usize,
) -> Result<Vec<SessionId>, StoreError> {
    // From where the oldest of them is on, whoever wrote: what a session ever said is more.
    let sql = "SELECT DISTINCT h.session FROM outbox o JOIN history h ON h.position = o.position
               WHERE o.position > (SELECT min(position) FROM inbox WHERE session = ?1 AND state = 'open')
                   AND +o.session = ?1 AND h.session <> ?1
                   AND o.in_reply_to IN (SELECT id FROM inbox WHERE session = ?1 AND state = 'open') LIMIT ?2";
    let mut query = tx.prepare_cached(sql)?;
    let read = |row: &rusqlite::Row<'_>| super::sessions::session_id(&row.get::<_, String>(0)?);
    query.query_and_then(params![session.as_str(), super::rows(most)], read)?.collect()
}

/// Stores an output.
///
/// # Errors
/// [`StoreError::TooLong`], [`StoreError::Key`], or SQLite's.
pub fn store(tx: &Transaction<'_>, keyring: &Keyring, output: &Output) -> Result<Stored, StoreError> {
    check_length("message", &output.text, MOST_TEXT)?;
    let sql =
        "SELECT id, position FROM outbox WHERE session = ?1 AND epoch = ?2 AND seq = ?3 AND ordinal = ?4";
    let key = params![output.session.as_str(), stored(output.epoch), stored(output.seq), output.ordinal];
    let there: Option<(String, u64)> =
        tx.prepare_cached(sql)?.query_row(key, |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    if let Some((id, position)) = there {
        return Ok(Stored { message: message_id(&id)?, position, duplicate: true });
    }
    let message = MessageId::mint();
    let sealed = Texts::to_write(tx, keyring, &output.shown_in)?.seal(message.as_str(), &output.text)?;
    let in_reply_to = output.in_reply_to.as_ref().map(MessageId::as_str);
    // What it answers is nothing in another chat.
    let shown = in_reply_to.filter(|_| output.shown_in == output.session);
    let position = history::add(tx, &output.shown_in, "out", &message, shown)?;
    let sql = "INSERT INTO outbox (position, id, session, epoch, seq, ordinal, in_reply_to, channel, instance, chat,
                   thread, text, created_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
    tx.prepare_cached(sql)?.execute(params![
        position,
        message.as_str(),
        output.session.as_str(),
        stored(output.epoch),
        stored(output.seq),
        output.ordinal,
        in_reply_to,
        output.place.channel,
        output.place.instance,
        output.place.chat,
        output.place.thread,
        sealed,
        Millis::now().0
    ])?;
    let cause = match &output.in_reply_to {
        // What is said elsewhere quotes nothing there.
        Some(id) if output.shown_in == output.session => {
            inbox::find(tx, &output.session, id)?.map(|found| (id, found.platform_message))
        }
        _ => None,
    };
    deliveries::add(tx, position, &message, &output.shown_in, &output.place, cause)?;
    Ok(Stored { message, position, duplicate: false })
}
