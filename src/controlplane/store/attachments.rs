//! Files that came with messages, or go with them: what each is, whether it is here yet, and its content in pieces, each
//! sealed with the secret of the conversation. A file that is to be fetched from a platform is noted with its message, so
//! that whoever dies meanwhile fetches it again; the message waits for it.

use rusqlite::{Connection, Row, Transaction, params};

use super::secrets::Texts;
use super::sessions::{Place, session_id};
use super::{StoreError, inbox, rows};
use crate::contract::ids::{MessageId, SessionId};
use crate::contract::inbound::Attachment;
use crate::contract::time::Millis;
use crate::controlplane::keys::Keyring;

/// Bytes of one piece; the last one of a file may be shorter.
pub const CHUNK: usize = 256 << 10;
/// Bytes of all files of one message.
pub const MOST_OF_A_MESSAGE: u64 = 20 << 20;
/// Bytes of all files of one conversation that are kept.
pub const MOST_OF_A_SESSION: u64 = 512 << 20;
/// A file that could not be fetched is asked for so often.
pub const MOST_ATTEMPTS: u32 = 4;

/// How far a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is put out for a message that has not come.
    Staged,
    /// It is to be fetched.
    Wanted,
    /// It is here.
    Here,
    /// It does not come.
    Missing,
}

impl State {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Wanted => "wanted",
            Self::Here => "here",
            Self::Missing => "missing",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Staged, Self::Wanted, Self::Here, Self::Missing]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// A file that is to be fetched, as the platform announced it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewFile {
    /// A name that is safe to show and to store under.
    pub name: String,
    /// By which the platform gives it.
    pub source: String,
    /// Its size, if the platform says it.
    pub size: Option<u64>,
}

/// One file of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its place among the files of its message.
    pub ordinal: u32,
    /// The conversation with whose secret it is sealed.
    pub session: SessionId,
    /// Under what its content is kept.
    pub content: String,
    /// What it is called.
    pub name: String,
    /// What it is, as its content says; empty until it is here.
    pub mime: String,
    /// Bytes.
    pub size: u64,
    /// How far it is.
    pub state: State,
    /// Why it does not come.
    pub reason: String,
}

impl File {
    /// Rows that it takes in a conveyor: a piece each, and one for what is empty or does not come.
    pub fn pieces(&self) -> usize {
        match self.state {
            State::Here => usize::try_from(self.size).unwrap_or(usize::MAX).div_ceil(CHUNK).max(1),
            State::Staged | State::Wanted | State::Missing => 1,
        }
    }
}

/// A file that is to be fetched now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its message.
    pub message: MessageId,
    /// Its place among the files of the message.
    pub ordinal: u32,
    /// The conversation.
    pub session: SessionId,
    /// The platform and the account.
    pub place: Place,
    /// By which the platform gives it.
    pub source: String,
    /// How often that was tried.
    pub attempts: u32,
    /// What the other files of the message leave for it, in bytes.
    pub room: u64,
}

/// Under what the content of a file that comes in is kept and sealed.
fn content_of(message: &MessageId, ordinal: u32) -> String {
    format!("{message}/{ordinal}")
}

/// Notes the files of a message that was added in this transaction. The message waits until each is here or is known not
/// to come.
///
/// # Errors
/// [`StoreError::Key`], or SQLite's.
pub fn want(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    session: &SessionId,
    message: &MessageId,
    files: &[NewFile],
) -> Result<(), StoreError> {
    if files.is_empty() {
        return Ok(());
    }
    let texts = Texts::to_write(tx, keyring, session)?;
    let sql = "INSERT INTO attachments (message, ordinal, session, content, name, source, mime, size, state, reason, attempts,
                   due)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, '', ?7, ?8, ?9, 0, ?10)";
    let mut insert = tx.prepare_cached(sql)?;
    let (mut announced, mut wanted) = (0_u64, 0_u32);
    for (ordinal, file) in (0_u32..).zip(files) {
        announced = announced.saturating_add(file.size.unwrap_or(0));
        let (state, reason) = match announced > MOST_OF_A_MESSAGE {
            true => (State::Missing, TOO_LARGE),
            false => (State::Wanted, ""),
        };
        wanted += u32::from(state == State::Wanted);
        let content = content_of(message, ordinal);
        let seal = |what: &str, text: &str| texts.seal(&format!("{content}/{what}"), text);
        insert.execute(params![
            message.as_str(),
            ordinal,
            session.as_str(),
            content,
            seal("name", &file.name)?,
            seal("source", &file.source)?,
            // What does not come has none.
            if state == State::Wanted { super::stored(file.size.unwrap_or(0)) } else { 0 },
            state.as_str(),
            reason,
            Millis::now().0,
        ])?;
    }
    let sql = "UPDATE inbox SET wanted = ?2 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![message.as_str(), wanted])?;
    Ok(())
}

/// What is said of a file that is too large.
pub const TOO_LARGE: &str = "the files of one message may have 20 MiB";
/// What is said of a file of a conversation that has too many.
pub const TOO_MANY: &str = "the files of this conversation take as much as they may";

/// Files that are due to be fetched: of each account up to `most`, those first that are due longest.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn due(
    conn: &Connection,
    keyring: &Keyring,
    now: Millis,
    most: usize,
) -> Result<Vec<Wanted>, StoreError> {
    let sql = "SELECT * FROM (
                   SELECT a.message, a.ordinal, a.session, a.source, a.attempts, i.channel, i.instance, i.chat, i.thread,
                       i.position, (SELECT coalesce(sum(o.size), 0) FROM attachments o
                                    WHERE o.message = a.message AND o.state = 'here'),
                       row_number() OVER (PARTITION BY i.channel, i.instance ORDER BY a.due, i.position, a.ordinal) AS n
                   FROM attachments a JOIN inbox i ON i.id = a.message WHERE a.state = 'wanted' AND a.due <= ?1)
               WHERE n <= ?2 ORDER BY n";
    let mut query = conn.prepare_cached(sql)?;
    let mut found = query.query(params![now.0, rows(most)])?;
    let mut all = Vec::new();
    while let Some(row) = found.next()? {
        let message = inbox::message_id(&row.get::<_, String>(0)?)?;
        let (ordinal, session) = (row.get(1)?, session_id(&row.get::<_, String>(2)?)?);
        let sealed: Vec<u8> = row.get(3)?;
        let id = format!("{}/source", content_of(&message, ordinal));
        let opened = Texts::to_read(conn, keyring, &session)
            .and_then(|texts| texts.map_or(Ok(None), |texts| texts.open(row.get(9)?, &id, &sealed)));
        let source = match opened {
            // Of a conversation that was erased or is damaged nothing is fetched; others are not held up by it.
            Ok(None) | Err(StoreError::Key(_)) => String::new(),
            opened => opened?.unwrap_or_default(),
        };
        all.push(Wanted {
            message,
            ordinal,
            session,
            place: Place {
                channel: row.get(5)?,
                instance: row.get(6)?,
                chat: row.get(7)?,
                thread: row.get(8)?,
            },
            source,
            attempts: row.get(4)?,
            room: MOST_OF_A_MESSAGE.saturating_sub(row.get(10)?),
        });
    }
    Ok(all)
}

/// When the next file is due to be fetched that is not due yet.
///
/// # Errors
/// SQLite's.
pub fn next_due(conn: &Connection, now: Millis) -> Result<Option<Millis>, StoreError> {
    let sql = "SELECT min(due) FROM attachments WHERE state = 'wanted' AND due > ?1";
    Ok(conn.prepare_cached(sql)?.query_row([now.0], |row| row.get::<_, Option<i64>>(0))?.map(Millis))
}

/// Puts a fetch off.
///
/// # Errors
/// SQLite's.
pub fn put_off(tx: &Transaction<'_>, wanted: &Wanted, due: Millis) -> Result<(), StoreError> {
    let sql = "UPDATE attachments SET attempts = attempts + 1, due = ?3
               WHERE message = ?1 AND ordinal = ?2 AND state = 'wanted'";
    tx.prepare_cached(sql)?.execute(params![wanted.message.as_str(), wanted.ordinal, due.0])?;
    Ok(())
}

/// Stores pieces of a file that is being fetched; one that is there is replaced. Nothing, when nobody waits for it any
/// more.
///
/// # Errors
/// [`StoreError::Key`], or SQLite's.
pub fn keep(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    wanted: &Wanted,
    from: usize,
    content: &[u8],
) -> Result<(), StoreError> {
    let sql =
        "SELECT EXISTS (SELECT 1 FROM attachments WHERE message = ?1 AND ordinal = ?2 AND state = 'wanted')";
    let key = params![wanted.message.as_str(), wanted.ordinal];
    if !tx.prepare_cached(sql)?.query_row(key, |row| row.get::<_, bool>(0))? {
        return Ok(());
    }
    let texts = Texts::to_write(tx, keyring, &wanted.session)?;
    let sql = "INSERT OR REPLACE INTO attachment_chunks (content, chunk, bytes) VALUES (?1, ?2, ?3)";
    let mut insert = tx.prepare_cached(sql)?;
    let of = content_of(&wanted.message, wanted.ordinal);
    for (chunk, bytes) in (from..).zip(content.chunks(CHUNK)) {
        insert.execute(params![of, rows(chunk), texts.seal_bytes(&format!("{of}/{chunk}"), bytes)?])?;
    }
    Ok(())
}

/// The file is here, or does not come. Says whether its message waits for no other.
///
/// # Errors
/// SQLite's.
pub fn settle(
    tx: &Transaction<'_>,
    wanted: &Wanted,
    came: Result<(u64, &str), &str>,
) -> Result<bool, StoreError> {
    let (message, ordinal) = (wanted.message.as_str(), wanted.ordinal);
    let came = match came {
        Ok((size, _)) if kept(tx, &wanted.session)?.saturating_add(size) > MOST_OF_A_SESSION => Err(TOO_MANY),
        came => came,
    };
    let sql = "UPDATE attachments SET state = ?3, mime = ?4, size = ?5, reason = ?6
               WHERE message = ?1 AND ordinal = ?2 AND state = 'wanted'";
    let mut update = tx.prepare_cached(sql)?;
    let changed = match came {
        Ok((size, mime)) => {
            update.execute(params![message, ordinal, State::Here.as_str(), mime, super::stored(size), ""])?
        }
        Err(reason) => {
            let sql = "DELETE FROM attachment_chunks WHERE content = ?1";
            tx.prepare_cached(sql)?.execute([content_of(&wanted.message, ordinal)])?;
            update.execute(params![message, ordinal, State::Missing.as_str(), "", 0, reason])?
        }
    };
    let sql = "UPDATE inbox SET wanted = max(wanted - ?2, 0) WHERE id = ?1 RETURNING wanted";
    let left: u32 = tx.prepare_cached(sql)?.query_row(params![message, changed], |row| row.get(0))?;
    Ok(left == 0)
}

/// Most files of one message.
const MOST_FILES: u32 = 10;
/// Longest name that a sandbox may give, in bytes.
const MOST_NAME: usize = 512;

/// Whether a sandbox may put out this piece at all: what is more than that no agent of ours does.
pub fn is_piece(message_seq: u64, seq: u64, piece: &Attachment) -> bool {
    message_seq > seq
        && message_seq % 2 == 1
        && piece.ordinal < MOST_FILES
        && usize::try_from(piece.chunk)
            .is_ok_and(|chunk| chunk < usize::try_from(MOST_OF_A_MESSAGE).unwrap_or(0) / CHUNK)
        && piece.bytes.len() <= CHUNK
        && piece.name.len() <= MOST_NAME
}

/// What stands for a message of a sandbox that has not come.
fn staged_for(session: &SessionId, epoch: u64, message_seq: u64) -> String {
    format!("{session}/{epoch}/{message_seq}")
}

/// Keeps a piece of a file that goes with a message which is still to come. One that does not follow the one before it,
/// or is more than a message may have, is left out, and so is the file then.
///
/// # Errors
/// [`StoreError::Key`], or SQLite's.
pub fn stage(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    session: &SessionId,
    (epoch, message_seq): (u64, u64),
    piece: &Attachment,
    (name, mime): (&str, &str),
) -> Result<(), StoreError> {
    let staged = staged_for(session, epoch, message_seq);
    let content = format!("{staged}/{}", piece.ordinal);
    let texts = Texts::to_write(tx, keyring, session)?;
    let sql =
        "SELECT coalesce(sum(size), 0), coalesce(sum(size) FILTER (WHERE ordinal = ?2), -1) FROM attachments
               WHERE message = ?1";
    let (all, before): (u64, i64) = tx
        .prepare_cached(sql)?
        .query_row(params![staged, piece.ordinal], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let size = piece.bytes.len() as u64;
    let follows = match piece.chunk {
        0 => before < 0,
        chunk => before == i64::from(chunk) * rows(CHUNK),
    };
    if !follows || all.saturating_add(size) > MOST_OF_A_MESSAGE {
        let sql = "UPDATE attachments SET reason = ?3 WHERE message = ?1 AND ordinal = ?2";
        tx.prepare_cached(sql)?.execute(params![staged, piece.ordinal, TOO_LARGE])?;
        return Ok(());
    }
    if piece.chunk == 0 {
        let sql = "INSERT INTO attachments (message, ordinal, session, content, name, source, mime, size, state, reason,
                       attempts, due)
                   VALUES (?1, ?2, ?3, ?4, ?5, x'', ?6, 0, 'staged', '', 0, 0)";
        let name = texts.seal(&format!("{content}/name"), name)?;
        tx.prepare_cached(sql)?.execute(params![
            staged,
            piece.ordinal,
            session.as_str(),
            content,
            name,
            mime
        ])?;
    }
    let sql = "INSERT INTO attachment_chunks (content, chunk, bytes) VALUES (?1, ?2, ?3)";
    let sealed = texts.seal_bytes(&format!("{content}/{}", piece.chunk), &piece.bytes)?;
    tx.prepare_cached(sql)?.execute(params![content, piece.chunk, sealed])?;
    let sql = "UPDATE attachments SET size = size + ?3 WHERE message = ?1 AND ordinal = ?2";
    tx.prepare_cached(sql)?.execute(params![staged, piece.ordinal, super::stored(size)])?;
    Ok(())
}

/// Whether files were put out for a message of this number.
///
/// # Errors
/// SQLite's.
pub fn has_staged(
    tx: &Transaction<'_>,
    session: &SessionId,
    epoch: u64,
    seq: u64,
) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM attachments WHERE message = ?1)";
    Ok(tx.prepare_cached(sql)?.query_row([staged_for(session, epoch, seq)], |row| row.get(0))?)
}

/// The message came and is stored under this name: its files go with it, those that are whole.
///
/// # Errors
/// SQLite's.
pub fn send(
    tx: &Transaction<'_>,
    session: &SessionId,
    (epoch, seq): (u64, u64),
    message: &MessageId,
) -> Result<(), StoreError> {
    let sql =
        "UPDATE attachments SET message = ?2, state = iif(reason = '', 'here', 'missing') WHERE message = ?1";
    tx.prepare_cached(sql)?.execute([staged_for(session, epoch, seq).as_str(), message.as_str()])?;
    Ok(())
}

/// Forgets what a sandbox put out for messages that never came: its turn is over.
///
/// # Errors
/// SQLite's.
pub fn sweep(tx: &Transaction<'_>, session: &SessionId) -> Result<(), StoreError> {
    let sql = "DELETE FROM attachment_chunks WHERE content IN
                   (SELECT content FROM attachments WHERE session = ?1 AND state = 'staged')";
    tx.prepare_cached(sql)?.execute([session.as_str()])?;
    tx.prepare_cached("DELETE FROM attachments WHERE session = ?1 AND state = 'staged'")?
        .execute([session.as_str()])?;
    Ok(())
}

/// Bytes of the files of a conversation.
fn kept(conn: &Connection, session: &SessionId) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(sum(size), 0) FROM attachments WHERE session = ?1 AND state = 'here'";
    Ok(conn.prepare_cached(sql)?.query_row([session.as_str()], |row| row.get(0))?)
}

/// The files of a message at a position of the history, by place; none of which the text was erased.
///
/// # Errors
/// [`StoreError::Key`], or SQLite's.
pub fn of(
    conn: &Connection,
    keyring: &Keyring,
    position: u64,
    message: &MessageId,
) -> Result<Vec<File>, StoreError> {
    let sql = "SELECT ordinal, session, content, name, mime, size, state, reason FROM attachments
               WHERE message = ?1 ORDER BY ordinal";
    let mut query = conn.prepare_cached(sql)?;
    let mut found = query.query([message.as_str()])?;
    let mut files = Vec::new();
    while let Some(row) = found.next()? {
        let session = session_id(&row.get::<_, String>(1)?)?;
        let Some(texts) = Texts::to_read(conn, keyring, &session)? else { return Ok(Vec::new()) };
        files.extend(read(row, &texts, position, session)?);
    }
    Ok(files)
}

fn read(row: &Row<'_>, texts: &Texts, position: u64, session: SessionId) -> Result<Option<File>, StoreError> {
    let (content, sealed): (String, Vec<u8>) = (row.get(2)?, row.get(3)?);
    let Some(name) = texts.open(position, &format!("{content}/name"), &sealed)? else { return Ok(None) };
    Ok(Some(File {
        ordinal: row.get(0)?,
        session,
        content,
        name,
        mime: row.get(4)?,
        size: row.get(5)?,
        state: State::parse(&row.get::<_, String>(6)?).ok_or(StoreError::BadRow("a file's state"))?,
        reason: row.get(7)?,
    }))
}

/// The content of a file, piece by piece in order.
///
/// # Errors
/// [`StoreError::Key`], [`StoreError::BadRow`] when a piece is not there, or SQLite's.
pub fn content(
    conn: &Connection,
    keyring: &Keyring,
    position: u64,
    file: &File,
) -> Result<Vec<Vec<u8>>, StoreError> {
    let Some(texts) = Texts::to_read(conn, keyring, &file.session)? else { return Ok(Vec::new()) };
    let sql = "SELECT chunk, bytes FROM attachment_chunks WHERE content = ?1 ORDER BY chunk";
    let mut query = conn.prepare_cached(sql)?;
    let mut found = query.query([&file.content])?;
    let (mut pieces, mut size) = (Vec::new(), 0_u64);
    while let Some(row) = found.next()? {
        let chunk: i64 = row.get(0)?;
        if chunk != rows(pieces.len()) {
            return Err(StoreError::BadRow("a piece of a file"));
        }
        let sealed: Vec<u8> = row.get(1)?;
        let id = format!("{}/{chunk}", file.content);
        let Some(bytes) = texts.open_bytes(position, &id, &sealed)? else { return Ok(Vec::new()) };
        size += bytes.len() as u64;
        pieces.push(bytes);
    }
    if size != file.size {
        return Err(StoreError::BadRow("the size of a file"));
    }
    Ok(pieces)
}

/// Forgets the files of a message.
///
/// # Errors
/// SQLite's.
pub(super) fn forget(tx: &Transaction<'_>, message: &str) -> Result<(), StoreError> {
    let sql =
        "DELETE FROM attachment_chunks WHERE content IN (SELECT content FROM attachments WHERE message = ?1)";
    tx.prepare_cached(sql)?.execute([message])?;
    tx.prepare_cached("DELETE FROM attachments WHERE message = ?1")?.execute([message])?;
    Ok(())
}

/// Forgets the files of a conversation that is erased: nobody can read them, and they take room.
///
/// # Errors
/// SQLite's.
pub(super) fn forget_all(tx: &Transaction<'_>, session: &SessionId) -> Result<(), StoreError> {
    let sql =
        "DELETE FROM attachment_chunks WHERE content IN (SELECT content FROM attachments WHERE session = ?1)";
    tx.prepare_cached(sql)?.execute([session.as_str()])?;
    tx.prepare_cached("DELETE FROM attachments WHERE session = ?1")?.execute([session.as_str()])?;
    Ok(())
}
