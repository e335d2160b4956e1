//! Session secrets as sealed rows, and the texts they seal. A secret that is not there is told from one that
//! does not open; erasing it makes every text of the session unreadable.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{StoreError, attachments, inbox, questions, sessions, tasks};
use crate::contract::cipher::SessionSecret;
use crate::contract::ids::SessionId;
use crate::controlplane::keys::{self, KeyError, Keyring};
use crate::os::memory::wipe;

/// The secret of a session; `None` when it never had one or was erased.
///
/// # Errors
/// [`StoreError::Key`] when it is there and does not open.
pub fn get(
    conn: &Connection,
    keyring: &Keyring,
    id: &SessionId,
) -> Result<Option<SessionSecret>, StoreError> {
    Ok(load(conn, keyring, id)?.map(|(secret, _)| secret))
}

fn load(
    conn: &Connection,
    keyring: &Keyring,
    id: &SessionId,
) -> Result<Option<(SessionSecret, u64)>, StoreError> {
    let mut query = conn.prepare_cached("SELECT sealed, since FROM session_secrets WHERE session = ?1")?;
    let found: Option<(Vec<u8>, u64)> =
        query.query_row([id.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((sealed, since)) = found else { return Ok(None) };
    Ok(Some((keyring.open_session(id, &sealed)?, since)))
}

/// The secret of a session, made in this transaction when there is none, and the history's position at which
/// it was made.
pub(super) fn get_or_create(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    id: &SessionId,
) -> Result<(SessionSecret, u64), StoreError> {
    if let Some(found) = load(tx, keyring, id)? {
        return Ok(found);
    }
    let secret = SessionSecret::mint();
    let sealed = keyring.seal_session(id, &secret)?;
    let since: Option<u64> = tx
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'history'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    let since = since.unwrap_or(0);
    tx.prepare_cached("INSERT INTO session_secrets (session, sealed, since) VALUES (?1, ?2, ?3)")?
        .execute(params![id.as_str(), sealed, since])?;
    sessions::filled(tx, id)?;
    Ok((secret, since))
}

/// Deletes the secret of a session, and with it all that was sealed with it: its open messages are failed, its tasks end,
/// and those that wait for somebody's admission are gone. The bytes are overwritten in the file; `Ledger::checkpoint`
/// afterwards empties the log of them too.
///
/// # Errors
/// SQLite's.
pub fn erase(tx: &Transaction<'_>, id: &SessionId) -> Result<(), StoreError> {
    for message in inbox::open_ids(tx, id)? {
        inbox::fail(tx, id, &message, "the conversation was erased")?;
    }
    tx.prepare_cached("DELETE FROM held WHERE session = ?1")?.execute([id.as_str()])?;
    tasks::erase(tx, id)?;
    questions::erase(tx, id)?;
    attachments::forget_all(tx, id)?;
    tx.prepare_cached("DELETE FROM session_secrets WHERE session = ?1")?.execute([id.as_str()])?;
    sessions::emptied(tx, id)
}

/// Seals and opens the texts of one session's rows.
pub(super) struct Texts {
    key: [u8; 32],
    since: u64,
}

impl Drop for Texts {
    fn drop(&mut self) {
        wipe(&mut self.key);
    }
}

impl Texts {
    /// For writing: makes the secret when there is none.
    pub(super) fn to_write(
        tx: &Transaction<'_>,
        keyring: &Keyring,
        id: &SessionId,
    ) -> Result<Self, StoreError> {
        let (secret, since) = get_or_create(tx, keyring, id)?;
        Ok(Self { key: secret.text_key(), since })
    }

    /// For reading: `None` when the session has no secret, so that no text of it can be read.
    pub(super) fn to_read(
        conn: &Connection,
        keyring: &Keyring,
        id: &SessionId,
    ) -> Result<Option<Self>, StoreError> {
        Ok(load(conn, keyring, id)?.map(|(secret, since)| Self { key: secret.text_key(), since }))
    }

    pub(super) fn seal(&self, row_id: &str, text: &str) -> Result<Vec<u8>, StoreError> {
        self.seal_bytes(row_id, text.as_bytes())
    }

    pub(super) fn seal_bytes(&self, row_id: &str, bytes: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(keys::seal_text(&self.key, row_id, bytes)?)
    }

    /// `None` for a text that was sealed with an erased secret.
    pub(super) fn open(
        &self,
        position: u64,
        row_id: &str,
        sealed: &[u8],
    ) -> Result<Option<String>, StoreError> {
        let plain = self.open_bytes(position, row_id, sealed)?;
        plain.map(|plain| String::from_utf8(plain).map_err(|_| KeyError::Sealed.into())).transpose()
    }

    /// The same for what is no text.
    pub(super) fn open_bytes(
        &self,
        position: u64,
        row_id: &str,
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if position <= self.since {
            return Ok(None);
        }
        Ok(Some(keys::open_text(&self.key, row_id, sealed)?))
    }
}
