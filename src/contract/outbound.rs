//! The outbound conveyor, `outbound.db`: the sandbox writes, the host reads. The host takes nothing in it on
//! trust: [`read_rows`] only gives the rows their types, and the caller opens and judges the file.

use std::path::Path;

use rusqlite::{Connection, params};

use super::cipher::{self, FileKey, Role};
use super::conveyor::{ConveyorError, Parity, check_numbers, is_complete, seq_of, stored};
use super::ids::MessageId;
use super::inbound::Attachment;
use super::time::Millis;

/// The file's tables; frozen (`schema/README.md`).
pub const SCHEMA: &str = include_str!("../../schema/outbound.sql");

/// Most rows that one ring may carry: a reader's bound on memory and time.
pub const ROWS_A_RING: usize = 4096;

/// Most bytes of text and attachments that one ring may carry.
pub const BYTES_A_RING: usize = 8 << 20;

/// Longest text of one row, and longest chunk of an attachment; the host's SQLite refuses longer values.
pub const BYTES_A_VALUE: usize = 1 << 20;

/// What a message of the agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutboundKind {
    /// To be shown to people.
    Chat,
    /// An envelope of `contract::action`.
    Action,
}

impl OutboundKind {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Action => "action",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Chat, Self::Action].into_iter().find(|kind| kind.as_str() == word)
    }
}

/// One message of the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageOut {
    /// The message that caused it.
    pub in_reply_to: Option<MessageId>,
    /// What it is.
    pub kind: OutboundKind,
    /// Where it should go; with `in_reply_to` and no coordinates, to where that message came from.
    pub channel: Option<String>,
    /// The chat.
    pub chat: Option<String>,
    /// The thread.
    pub thread: Option<String>,
    /// The text, or the envelope.
    pub text: String,
    /// The sandbox's clock, for information.
    pub created_at: Millis,
}

/// How far a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processing {
    /// Its turn began.
    Started,
    /// Its turn is over and all it caused is in this transaction or an earlier one.
    Done,
}

impl Processing {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Done => "done",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Started, Self::Done].into_iter().find(|state| state.as_str() == word)
    }
}

/// A row of any table of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutboundBody {
    /// A message.
    Message(MessageOut),
    /// A part of a file of the message numbered so.
    Attachment(u64, Attachment),
    /// The state of an inbound message.
    Processing(MessageId, Processing),
}

impl OutboundBody {
    /// Bytes that count against [`BYTES_A_RING`].
    pub fn weight(&self) -> usize {
        match self {
            Self::Message(message) => message.text.len(),
            Self::Attachment(_, attachment) => attachment.bytes.len(),
            Self::Processing(..) => 0,
        }
    }
}

/// A row and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboundRow {
    /// Odd, minted by the sandbox in `session.db`.
    pub seq: u64,
    /// The row.
    pub body: OutboundBody,
}

/// The sandbox's end of the file.
#[derive(Debug)]
pub struct OutboundWriter {
    connection: Connection,
}

impl OutboundWriter {
    /// Makes the tables in the empty file that the host provided.
    pub fn create(path: &Path, key: &FileKey) -> Result<Self, ConveyorError> {
        let connection = cipher::open(path, key, Role::SandboxOutbound)?;
        connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?;
        Ok(Self { connection })
    }

    /// One transaction: adds `rows`, at least one, and removes those that the host has accepted, up to
    /// `accepted`. The caller rings the last number and waits for its acknowledgement before the next one.
    pub fn append(&mut self, rows: &[OutboundRow], accepted: u64) -> Result<(), ConveyorError> {
        if rows.is_empty() {
            return Err(ConveyorError::NothingAdded);
        }
        let tx = self.connection.transaction()?;
        for table in ["messages_out", "attachments_out", "processing"] {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE seq <= ?1"))?
                .execute([stored(accepted)])?;
        }
        for row in rows {
            add(&tx, row)?;
        }
        tx.commit()?;
        Ok(())
    }
}

fn add(tx: &Connection, row: &OutboundRow) -> Result<(), rusqlite::Error> {
    let seq = stored(row.seq);
    match &row.body {
        OutboundBody::Message(m) => tx
            .prepare_cached("INSERT INTO messages_out VALUES (?1,?2,?3,?4,?5,?6,?7,?8)")?
            .execute(params![
                seq,
                m.in_reply_to.as_ref().map(MessageId::as_str),
                m.kind.as_str(),
                m.channel,
                m.chat,
                m.thread,
                m.text,
                m.created_at.0
            ])?,
        OutboundBody::Attachment(message, a) => tx
            .prepare_cached("INSERT INTO attachments_out VALUES (?1,?2,?3,?4,?5,?6,?7)")?
            .execute(params![seq, stored(*message), a.ordinal, a.chunk, a.name, a.mime, a.bytes])?,
        OutboundBody::Processing(message, state) => tx
            .prepare_cached("INSERT INTO processing VALUES (?1,?2,?3)")?
            .execute(params![seq, message.as_str(), state.as_str()])?,
    };
    Ok(())
}

/// The rows after `cursor`, in order, none more than the caps allow; their numbers are checked against
/// `last`, the number that was rung. The connection is one that the host opened and hardened, with its
/// schema already compared.
pub fn read_rows(connection: &Connection, cursor: u64, last: u64) -> Result<Vec<OutboundRow>, ConveyorError> {
    let mut rows = Vec::new();
    let mut weight = 0;
    states(connection, cursor, &mut |row| keep(&mut rows, &mut weight, row))?;
    // Where every number has its row, none is left for a row of another table, and what is there all the same is
    // never read.
    if !is_complete(rows.len(), cursor, last) {
        messages(connection, cursor, &mut |row| keep(&mut rows, &mut weight, row))?;
    }
    if !is_complete(rows.len(), cursor, last) {
        attachments(connection, cursor, &mut |row| keep(&mut rows, &mut weight, row))?;
    }
    rows.sort_by_key(|row| row.seq);
    let seqs: Vec<u64> = rows.iter().map(|row| row.seq).collect();
    check_numbers(&seqs, cursor, last, Parity::Odd)?;
    Ok(rows)
}

type Keep<'a> = &'a mut dyn FnMut(OutboundRow) -> Result<(), ConveyorError>;

fn keep(rows: &mut Vec<OutboundRow>, weight: &mut usize, row: OutboundRow) -> Result<(), ConveyorError> {
    if row.body.weight() > BYTES_A_VALUE {
        return Err(ConveyorError::TooMuch("a text or chunk is longer than 1 MiB"));
    }
    *weight += row.body.weight();
    if rows.len() >= ROWS_A_RING {
        return Err(ConveyorError::TooMuch("rows"));
    }
    if *weight > BYTES_A_RING {
        return Err(ConveyorError::TooMuch("bytes"));
    }
    rows.push(row);
    Ok(())
}

fn messages(connection: &Connection, cursor: u64, keep: Keep<'_>) -> Result<(), ConveyorError> {
    let mut query = connection.prepare("SELECT * FROM messages_out WHERE seq > ?1 ORDER BY seq")?;
    let mut found = query.query([stored(cursor)])?;
    while let Some(row) = found.next()? {
        let seq = seq_of(row, 0)?;
        let wrong = |wrong| ConveyorError::Row { seq, wrong };
        let reply: Option<String> = row.get(1)?;
        let body = OutboundBody::Message(MessageOut {
            in_reply_to: match reply {
                Some(id) => Some(MessageId::parse(&id).map_err(|_| wrong("what it answers"))?),
                None => None,
            },
            kind: OutboundKind::parse(&row.get::<_, String>(2)?).ok_or_else(|| wrong("its kind"))?,
            channel: row.get(3)?,
            chat: row.get(4)?,
            thread: row.get(5)?,
            text: row.get(6)?,
            created_at: Millis(row.get(7)?),
        });
        keep(OutboundRow { seq, body })?;
    }
    Ok(())
}

fn attachments(connection: &Connection, cursor: u64, keep: Keep<'_>) -> Result<(), ConveyorError> {
    let mut query = connection.prepare("SELECT * FROM attachments_out WHERE seq > ?1 ORDER BY seq")?;
    let mut found = query.query([stored(cursor)])?;
    while let Some(row) = found.next()? {
        let body = Attachment {
            ordinal: row.get(2)?,
            chunk: row.get(3)?,
            name: row.get(4)?,
            mime: row.get(5)?,
            bytes: row.get(6)?,
        };
        keep(OutboundRow { seq: seq_of(row, 0)?, body: OutboundBody::Attachment(seq_of(row, 1)?, body) })?;
    }
    Ok(())
}

fn states(connection: &Connection, cursor: u64, keep: Keep<'_>) -> Result<(), ConveyorError> {
    let mut query = connection.prepare("SELECT * FROM processing WHERE seq > ?1 ORDER BY seq")?;
    let mut found = query.query([stored(cursor)])?;
    while let Some(row) = found.next()? {
        let seq = seq_of(row, 0)?;
        let wrong = |wrong| ConveyorError::Row { seq, wrong };
        let message = MessageId::parse(&row.get::<_, String>(1)?).map_err(|_| wrong("its message"))?;
        let state = Processing::parse(&row.get::<_, String>(2)?).ok_or_else(|| wrong("its state"))?;
        keep(OutboundRow { seq, body: OutboundBody::Processing(message, state) })?;
    }
    Ok(())
}

/// The statements that the file's schema must consist of, byte for byte.
pub fn statements() -> impl Iterator<Item = &'static str> {
    SCHEMA.split(";\n").filter(|statement| !statement.is_empty())
}
