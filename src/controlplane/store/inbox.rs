//! Messages to the agents, from the moment they are accepted until they are done or failed.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::attachments::{self, File};
use super::secrets::Texts;
use super::sessions::{self, Partition, Place};
use super::{StoreError, check_length, history};
use crate::contract::ids::{MessageId, SessionId};
use crate::contract::inbound::{InboundKind, MessageIn};
use crate::contract::outbound::BYTES_A_VALUE;
use crate::contract::time::Millis;
use crate::controlplane::keys::Keyring;

/// A message that took its sandbox with it this often is failed.
pub const MOST_DEATHS: u32 = 5;
/// Open messages a session may have; a sender who does not wait for answers must not fill the disk.
pub const MOST_OPEN: u64 = 10_000;
/// Longest text of a message, in bytes.
pub const MOST_TEXT: usize = BYTES_A_VALUE;
/// Longest name of anything that comes from a platform.
const MOST_NAME: usize = 512;

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not finished.
    Open,
    /// Its turn is over and everything it caused is stored.
    Done,
    /// Given up, with a reason.
    Failed,
}

impl State {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Open, Self::Done, Self::Failed].into_iter().find(|state| state.as_str() == word)
    }
}

/// A message that wants to be accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewInbound {
    /// The session it belongs to.
    pub partition: Partition,
    /// Where it was said, and where an answer goes.
    pub place: Place,
    /// The platform's or client's name for the event, unique in (channel, instance).
    pub event_id: String,
    /// What it is.
    pub kind: InboundKind,
    /// Whether it starts a turn.
    pub engage: bool,
    /// Who sent it.
    pub sender_id: String,
    /// What the sender is called.
    pub sender_name: String,
    /// What was said.
    pub text: String,
    /// What it answers.
    pub in_reply_to: Option<String>,
    /// The session of the agent that sent it.
    pub source_session: Option<SessionId>,
    /// How many agents it passed through.
    pub hop: u32,
    /// The platform's own name of it, which an answer quotes.
    pub platform_message: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The message.
    pub message: MessageId,
    /// Its session.
    pub session: SessionId,
    /// Its place in the history.
    pub position: u64,
    /// The event had been accepted before; these are the first one's names, whatever this one said.
    pub duplicate: bool,
}

/// An open message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenMessage {
    /// Its place in the history.
    pub position: u64,
    /// The account on the platform it came by.
    pub instance: String,
    /// The number it was last handed over with; `None` when it never was.
    pub seq: Option<u64>,
    /// How many sandboxes died in its turn.
    pub deaths: u32,
    /// Whether its turn began in the sandbox it was last handed to.
    pub began: bool,
    /// The message.
    pub message: MessageIn,
    /// The files that came with it.
    pub files: Vec<File>,
}

impl OpenMessage {
    /// Bytes of its files.
    pub fn attached(&self) -> u64 {
        self.files.iter().filter(|file| file.state == attachments::State::Here).map(|file| file.size).sum()
    }
}

/// The next open messages of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub open: Vec<OpenMessage>,
    /// More are there, for which there was no room.
    pub is_cut: bool,
}

/// How much a page may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRoom {
    /// Messages.
    pub rows: usize,
    /// Bytes of texts; once they reach that it ends.
    pub bytes: usize,
    /// Bytes of files.
    pub attached: u64,
}

/// What a mark did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// It changed the message.
    Changed,
    /// The message was done or failed before.
    AlreadyFinished,
    /// The session has no such message, or it was never handed over.
    NotOfThisSession,
}

/// What is known of a message of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its place in the history.
    pub position: u64,
    /// How far it is.
    pub state: State,
    /// Where it was said.
    pub place: Place,
    /// What that chat was called before, if its name changed since.
    pub former_chat: Option<String>,
    /// The platform's own name of it.
    pub platform_message: Option<String>,
    /// How many agents it passed through.
    pub hop: u32,
}

/// Accepts a message: the session and its secret are made when there are none; an event that was accepted in
/// the last days is not accepted again.
///
/// # Errors
/// [`StoreError::NoGroup`], [`StoreError::Crowded`], [`StoreError::TooLong`], or SQLite's.
pub fn accept(tx: &Transaction<'_>, keyring: &Keyring, new: &NewInbound) -> Result<Accepted, StoreError> {
    if let Some(accepted) = seen(tx, &new.place, &new.event_id)? {
        return Ok(accepted);
    }
    let accepted = add(tx, keyring, new)?;
    note(tx, &new.place, &new.event_id, &accepted)?;
    Ok(accepted)
}

/// Adds a message to one session; the same event may be a message to several. Whether the event came before is for
/// the caller to ask, and to [`note`].
///
/// # Errors
/// As [`accept`].
pub fn add(tx: &Transaction<'_>, keyring: &Keyring, new: &NewInbound) -> Result<Accepted, StoreError> {
    for name in [&new.event_id, &new.sender_id, &new.sender_name] {
        check_length("name of the event or sender", name, MOST_NAME)?;
    }
    for place in [&new.place, &new.partition.place] {
        for name in
            [&place.channel, &place.instance, &place.chat, place.thread.as_ref().unwrap_or(&place.chat)]
        {
            check_length("name of the chat or thread", name, MOST_NAME)?;
        }
    }
    check_length("name of what it answers", new.in_reply_to.as_deref().unwrap_or_default(), MOST_NAME)?;
    check_length(
        "name of the platform's message",
        new.platform_message.as_deref().unwrap_or_default(),
        MOST_NAME,
    )?;
    check_length("message", &new.text, MOST_TEXT)?;
    let session = sessions::find_or_create(tx, &new.partition)?;
    let message = MessageId::mint();
    let sealed = Texts::to_write(tx, keyring, &session)?.seal(message.as_str(), &new.text)?;
    insert(tx, &session, &message, &sealed, new)
}

/// Stores a message whose text is sealed already, under its name.
///
/// # Errors
/// [`StoreError::Crowded`], or SQLite's.
pub(super) fn insert(
    tx: &Transaction<'_>,
    session: &SessionId,
    message: &MessageId,
    sealed: &[u8],
    new: &NewInbound,
) -> Result<Accepted, StoreError> {
    let sql = "SELECT open_messages FROM sessions WHERE id = ?1";
    let open: u64 = tx.prepare_cached(sql)?.query_row([session.as_str()], |row| row.get(0))?;
    if open >= MOST_OPEN {
        return Err(StoreError::Crowded { session: session.clone(), most: MOST_OPEN });
    }
    let position = history::add(tx, session, "in", message, new.in_reply_to.as_deref())?;
    let now = Millis::now().0;
    let sql = "INSERT INTO inbox (position, id, session, seq, kind, engage, channel, instance, chat, thread,
                   sender_id, sender_name, text, source_session, hop, in_reply_to, state, reason, began, deaths,
                   created_at, platform_message)
               VALUES (?1, ?2, ?3, NULL, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, 'open', NULL, 0,
                   0, ?16, ?17)";
    tx.prepare_cached(sql)?.execute(params![
        position,
        message.as_str(),
        session.as_str(),
        new.kind.as_str(),
        new.engage,
        new.place.channel,
        new.place.instance,
        new.place.chat,
        new.place.thread,
        new.sender_id,
        new.sender_name,
        sealed,
        new.source_session.as_ref().map(SessionId::as_str),
        new.hop,
        new.in_reply_to,
        now,
        new.platform_message
    ])?;
    sessions::count_open(tx, session, new.engage, 1)?;
    Ok(Accepted { message: message.clone(), session: session.clone(), position, duplicate: false })
}

/// Notes an event, so that it is not accepted again in the next days; the message is what a repetition is answered with.
///
/// # Errors
/// SQLite's.
pub fn note(tx: &Transaction<'_>, place: &Place, event_id: &str, first: &Accepted) -> Result<(), StoreError> {
    let sql = "INSERT INTO events (channel, instance, event_id, message, session, position, at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    tx.prepare_cached(sql)?.execute(params![
        place.channel,
        place.instance,
        event_id,
        first.message.as_str(),
        first.session.as_str(),
        first.position,
        Millis::now().0
    ])?;
    Ok(())
}

/// What became of an event that was accepted before.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn seen(conn: &Connection, place: &Place, event_id: &str) -> Result<Option<Accepted>, StoreError> {
    let sql = "SELECT message, session, position FROM events
               WHERE channel = ?1 AND instance = ?2 AND event_id = ?3";
    let mut query = conn.prepare_cached(sql)?;
    let found: Option<(String, String, u64)> = query
        .query_row([&place.channel, &place.instance, event_id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .optional()?;
    let Some((message, session, position)) = found else { return Ok(None) };
    let (message, session) = (message_id(&message)?, sessions::session_id(&session)?);
    Ok(Some(Accepted { message, session, position, duplicate: true }))
}

pub(super) fn message_id(text: &str) -> Result<MessageId, StoreError> {
    MessageId::parse(text).map_err(|_| StoreError::BadRow("a message's id"))
}

/// The open messages of a session after a position, in order: as many as there is room for, but at least one
/// where there is room for its files. Those whose text was erased are left out, and none is given that waits for a file, nor what came after it.
///
/// # Errors
/// [`StoreError::Key`] when a text is damaged, or SQLite's.
pub fn open_messages(
    conn: &Connection,
    keyring: &Keyring,
    session: &SessionId,
    after: u64,
    room: PageRoom,
) -> Result<Page, StoreError> {
    let Some(texts) = Texts::to_read(conn, keyring, session)? else { return Ok(Page::default()) };
    let sql = format!("SELECT {COLUMNS} FROM inbox WHERE {NEXT_OPEN} ORDER BY position");
    let mut query = conn.prepare_cached(&sql)?;
    let mut found = query.query(params![session.as_str(), super::stored(after)])?;
    let mut page = Page::default();
    let (mut taken, mut attached) = (0, 0);
    // Counted here and not by the query: what is left out must not hide what comes after it.
    while let Some(row) = found.next()? {
        if page.open.len() >= room.rows {
            page.is_cut = true;
            break;
        }
        let Some(message) = read(conn, keyring, row, &texts)? else { continue };
        taken += message.message.text.len();
        attached += message.attached();
        let is_first = page.open.is_empty();
        if taken > room.bytes && !is_first || attached > room.attached && !message.files.is_empty() {
            page.is_cut = true;
            break;
        }
        page.open.push(message);
    }
    Ok(page)
}

/// Bytes of the files of the open messages of a session up to a position.
///
/// # Errors
/// SQLite's.
pub fn attached_until(conn: &Connection, session: &SessionId, position: u64) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(sum(a.size), 0) FROM inbox i JOIN attachments a ON a.message = i.id
               WHERE i.session = ?1 AND i.state = 'open' AND i.position <= ?2 AND a.state = 'here'";
    let mut query = conn.prepare_cached(sql)?;
    Ok(query.query_row(params![session.as_str(), super::stored(position)], |row| row.get(0))?)
}

/// The first open message of a session after a position that starts a turn.
///
/// # Errors
/// As [`open_messages`].
pub fn open_trigger(
    conn: &Connection,
    keyring: &Keyring,
    session: &SessionId,
    after: u64,
) -> Result<Option<OpenMessage>, StoreError> {
    let Some(texts) = Texts::to_read(conn, keyring, session)? else { return Ok(None) };
    let sql = format!("SELECT {COLUMNS} FROM inbox WHERE {NEXT_OPEN} AND engage = 1 ORDER BY position");
    let mut query = conn.prepare_cached(&sql)?;
    let mut found = query.query(params![session.as_str(), super::stored(after)])?;
    while let Some(row) = found.next()? {
        if let Some(message) = read(conn, keyring, row, &texts)? {
            return Ok(Some(message));
        }
    }
    Ok(None)
}

const COLUMNS: &str =
    "position, instance, seq, deaths, began, id, kind, engage, sender_id, sender_name, channel,
    chat, thread, text, source_session, hop, in_reply_to, created_at,
    EXISTS (SELECT 1 FROM attachments a WHERE a.message = inbox.id)";
const NEXT_OPEN: &str = "session = ?1 AND state = 'open' AND position > ?2 AND position < coalesce(
    (SELECT min(w.position) FROM inbox w WHERE w.session = ?1 AND w.state = 'open' AND w.wanted > 0), 1 << 62)";

fn read(
    conn: &Connection,
    keyring: &Keyring,
    row: &Row<'_>,
    texts: &Texts,
) -> Result<Option<OpenMessage>, StoreError> {
    let position = row.get(0)?;
    let id: String = row.get(5)?;
    let Some(text) = texts.open(position, &id, &row.get::<_, Vec<u8>>(13)?)? else { return Ok(None) };
    let source: Option<String> = row.get(14)?;
    let message = message_id(&id)?;
    let files = match row.get(18)? {
        true => attachments::of(conn, keyring, position, &message)?,
        false => Vec::new(),
    };
    Ok(Some(OpenMessage {
        files,
        position,
        instance: row.get(1)?,
        seq: row.get(2)?,
        deaths: row.get(3)?,
        began: row.get(4)?,
        message: MessageIn {
            id: message,
            kind: InboundKind::parse(&row.get::<_, String>(6)?)
                .ok_or(StoreError::BadRow("a message's kind"))?,
            engage: row.get(7)?,
            sender_id: row.get(8)?,
            sender_name: row.get(9)?,
            channel: row.get(10)?,
            chat: row.get(11)?,
            thread: row.get(12)?,
            text,
            source_session: source.as_deref().map(sessions::session_id).transpose()?,
            hop: row.get(15)?,
            in_reply_to: row.get(16)?,
            created_at: Millis(row.get(17)?),
        },
    }))
}

/// Hands messages to a conveyor: each takes a new number, in the order given, and its turn counts as not
/// begun. Call it in the transaction whose commit precedes the writing of the conveyor.
///
/// # Errors
/// [`StoreError::Conflict`] when one of them is not an open message of this session.
pub fn hand_over(
    tx: &Transaction<'_>,
    session: &SessionId,
    messages: &[MessageId],
) -> Result<Vec<u64>, StoreError> {
    let seqs = sessions::mint_seqs(tx, session, messages.len())?;
    let sql = "UPDATE inbox SET seq = ?3, began = 0 WHERE id = ?1 AND session = ?2 AND state = 'open'";
    let mut update = tx.prepare_cached(sql)?;
    for (message, seq) in messages.iter().zip(&seqs) {
        if update.execute(params![message.as_str(), session.as_str(), super::stored(*seq)])? != 1 {
            return Err(StoreError::Conflict("only open messages of a session can be handed to it"));
        }
    }
    Ok(seqs)
}

/// What is known of a message, looked up in this session's inbox only.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(conn: &Connection, session: &SessionId, id: &MessageId) -> Result<Option<Found>, StoreError> {
    let sql = "SELECT position, state, channel, instance, chat, thread, platform_message, hop, former_chat
         FROM inbox WHERE id = ?1 AND session = ?2";
    let mut query = conn.prepare_cached(sql)?;
    let mut found = query.query_and_then([id.as_str(), session.as_str()], |row| {
        Ok(Found {
            position: row.get(0)?,
            state: State::parse(&row.get::<_, String>(1)?).ok_or(StoreError::BadRow("a message's state"))?,
            place: Place {
                channel: row.get(2)?,
                instance: row.get(3)?,
                chat: row.get(4)?,
                thread: row.get(5)?,
            },
            platform_message: row.get(6)?,
            hop: row.get(7)?,
            former_chat: row.get(8)?,
        })
    })?;
    found.next().transpose()
}

/// A message's turn began: from now on a death counts against it, and the session's launches count as good.
///
/// # Errors
/// SQLite's.
pub fn begin(tx: &Transaction<'_>, session: &SessionId, id: &MessageId) -> Result<Marked, StoreError> {
    let sql = "UPDATE inbox SET began = 1
               WHERE id = ?1 AND session = ?2 AND state = 'open' AND seq IS NOT NULL";
    if tx.prepare_cached(sql)?.execute([id.as_str(), session.as_str()])? == 0 {
        return why_not(tx, session, id);
    }
    sessions::clear_launch_deaths(tx, session)?;
    Ok(Marked::Changed)
}

/// A message is done. Only in the transaction that stores its turn's outputs and the cursor.
///
/// # Errors
/// SQLite's.
pub fn finish(tx: &Transaction<'_>, session: &SessionId, id: &MessageId) -> Result<Marked, StoreError> {
    let sql = "UPDATE inbox SET state = 'done', began = 0
               WHERE id = ?1 AND session = ?2 AND state = 'open' AND seq IS NOT NULL RETURNING engage";
    let mut update = tx.prepare_cached(sql)?;
    let engage: Option<bool> =
        update.query_row([id.as_str(), session.as_str()], |row| row.get(0)).optional()?;
    drop(update);
    let Some(engage) = engage else { return why_not(tx, session, id) };
    sessions::count_open(tx, session, engage, -1)?;
    history::add(tx, session, "done", id, Some(id.as_str()))?;
    Ok(Marked::Changed)
}

/// A message is given up, with a reason that the person may read.
///
/// # Errors
/// SQLite's.
pub fn fail(
    tx: &Transaction<'_>,
    session: &SessionId,
    id: &MessageId,
    reason: &str,
) -> Result<Marked, StoreError> {
    let sql = "UPDATE inbox SET state = 'failed', reason = ?3, began = 0
               WHERE id = ?1 AND session = ?2 AND state = 'open' RETURNING engage";
    let mut update = tx.prepare_cached(sql)?;
    let engage: Option<bool> =
        update.query_row([id.as_str(), session.as_str(), reason], |row| row.get(0)).optional()?;
    drop(update);
    let Some(engage) = engage else { return why_not(tx, session, id) };
    sessions::count_open(tx, session, engage, -1)?;
    history::add(tx, session, "failed", id, Some(id.as_str()))?;
    Ok(Marked::Changed)
}

/// Fails up to `most` open messages of agent groups that were deleted, so that no transaction holds the writer for
/// long. Gives how many: call it again until that is below `most`.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn fail_of_deleted(tx: &Transaction<'_>, most: usize) -> Result<usize, StoreError> {
    // In this order of tables, for few groups are deleted and few of their sessions have anything open.
    let sql = "SELECT i.session, i.id FROM agent_groups g
               CROSS JOIN sessions s ON s.agent_group = g.name AND s.open_messages > 0
               CROSS JOIN inbox i ON i.session = s.id AND i.state = 'open'
               WHERE g.deleted_at IS NOT NULL LIMIT ?1";
    let mut query = tx.prepare_cached(sql)?;
    let open: Vec<(String, String)> = query
        .query_map([super::rows(most)], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    for (session, message) in &open {
        fail(tx, &sessions::session_id(session)?, &message_id(message)?, "the agent was deleted")?;
    }
    Ok(open.len())
}

fn why_not(conn: &Connection, session: &SessionId, id: &MessageId) -> Result<Marked, StoreError> {
    Ok(match find(conn, session, id)? {
        Some(found) if found.state != State::Open => Marked::AlreadyFinished,
        _ => Marked::NotOfThisSession,
    })
}

/// A sandbox died by its own fault: counts it against the open messages whose turn had begun, and fails those
/// that reached [`MOST_DEATHS`]. Gives the failed ones. Counting the same death again changes nothing.
///
/// # Errors
/// SQLite's.
pub fn count_death(tx: &Transaction<'_>, session: &SessionId) -> Result<Vec<MessageId>, StoreError> {
    let sql = "UPDATE inbox SET deaths = deaths + 1, began = 0
               WHERE session = ?1 AND state = 'open' AND began = 1 RETURNING id, deaths";
    let mut update = tx.prepare_cached(sql)?;
    let counted: Vec<(String, u32)> = update
        .query_map([session.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut failed = Vec::new();
    for (id, deaths) in counted {
        if deaths >= MOST_DEATHS {
            let id = message_id(&id)?;
            fail(tx, session, &id, "the agent's sandbox ended five times while answering it")?;
            failed.push(id);
        }
    }
    Ok(failed)
}

/// The names of all open messages.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn open_ids(conn: &Connection, session: &SessionId) -> Result<Vec<MessageId>, StoreError> {
    let sql = "SELECT id FROM inbox WHERE session = ?1 AND state = 'open' ORDER BY position";
    let mut query = conn.prepare_cached(sql)?;
    query.query_and_then([session.as_str()], |row| message_id(&row.get::<_, String>(0)?))?.collect()
}
