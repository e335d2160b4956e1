//! The inbound conveyor, `inbound.db`: the host writes, the sandbox reads. The reader's type has no function
//! that writes; its connection is read-only, and so is the mount it lies on.

use std::path::Path;

use rusqlite::{Connection, params};

use super::cipher::{self, FileKey, Role};
use super::conveyor::{ConveyorError, Parity, check_numbers, is_complete, seq_of, stored};
use super::ids::{MessageId, SessionId};
use super::json::{self, JsonError, Value};
use super::time::Millis;

/// The file's tables; frozen (`schema/README.md`).
pub const SCHEMA: &str = include_str!("../../schema/inbound.sql");

/// What kind of thing a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundKind {
    /// A person wrote it.
    Chat,
    /// A scheduled task is due.
    Task,
    /// Another agent wrote it.
    Agent,
    /// A person answered a question, or decided a request.
    Answer,
    /// The host answers an action; starts no turn and needs no done mark.
    System,
}

impl InboundKind {
    /// The word in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Task => "task",
            Self::Agent => "agent",
            Self::Answer => "answer",
            Self::System => "system",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Chat, Self::Task, Self::Agent, Self::Answer, Self::System]
            .into_iter()
            .find(|kind| kind.as_str() == word)
    }
}

/// One message to the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageIn {
    /// Known by this when it is handed over again under a new number.
    pub id: MessageId,
    /// What it is.
    pub kind: InboundKind,
    /// Whether it starts a turn, or waits to ride along with one.
    pub engage: bool,
    /// Who sent it, as the host knows it.
    pub sender_id: String,
    /// What the sender is called; chosen by the sender.
    pub sender_name: String,
    /// The platform it came from.
    pub channel: String,
    /// The chat on that platform.
    pub chat: String,
    /// The thread in that chat.
    pub thread: Option<String>,
    /// What was said.
    pub text: String,
    /// The session of the agent that sent it.
    pub source_session: Option<SessionId>,
    /// How many agents it passed through.
    pub hop: u32,
    /// What it answers.
    pub in_reply_to: Option<String>,
    /// When the host accepted it.
    pub created_at: Millis,
}

/// A part of a file that came with a message, 256 KiB at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The file's place among its message's files.
    pub ordinal: u32,
    /// The part's place in the file.
    pub chunk: u32,
    /// The file's name, chosen by the sender.
    pub name: String,
    /// The type that the host found.
    pub mime: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// The channel of messages between agents: the chat is the other agent.
pub const AGENT: &str = "agent";

/// The channel of a message that is addressed to a destination: the chat is its name. Two chats on two accounts of a
/// platform, or two threads of one chat, have the same coordinates for an agent.
pub const DESTINATION: &str = "destination";

/// Somewhere the agent may send to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// What the agent calls it.
    pub name: String,
    /// `chat` or `agent`.
    pub kind: String,
    /// What people call it.
    pub display_name: String,
    /// The platform, for a chat.
    pub channel: Option<String>,
    /// The chat, for a chat.
    pub chat: Option<String>,
    /// The agent group, for an agent.
    pub agent_group: Option<String>,
}

/// How much of its group's room a session finds used, and how much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes in the group's directories.
    pub bytes: u64,
    /// Files in them.
    pub files: u64,
    /// Most bytes allowed.
    pub bytes_limit: u64,
    /// Most files allowed.
    pub files_limit: u64,
}

impl Usage {
    /// Over either limit: only reading is left.
    pub fn is_over(&self) -> bool {
        self.bytes > self.bytes_limit || self.files > self.files_limit
    }
}

/// Something of the host that the agent sees beside its own directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it is in the box.
    pub at: String,
    /// Whether the agent may write in it.
    pub is_writable: bool,
}

/// What the agent is told of itself. Information, not enforcement: the host checks on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionConfig {
    /// The agent group's name.
    pub agent: String,
    /// Who the agent is, in the operator's words.
    pub persona: String,
    /// Who has the model, by its name in [`super::providers::PROVIDERS`].
    pub provider: String,
    /// The model to ask for.
    pub model: String,
    /// Longest answer of the model, in tokens.
    pub max_tokens: u64,
    /// What a turn may take by the host's clock, in seconds; the host ends a sandbox that takes longer.
    pub turn_seconds: u64,
    /// The tools switched on; `None` is all.
    pub tools: Option<Vec<String>>,
    /// The group's room on the disk.
    pub usage: Usage,
    /// Packages and mounts.
    pub places: Vec<Place>,
}

impl SessionConfig {
    /// The row's body.
    pub fn encode(&self) -> String {
        Value::object([
            ("agent", Value::from(self.agent.as_str())),
            ("persona", Value::from(self.persona.as_str())),
            ("provider", Value::from(self.provider.as_str())),
            ("model", Value::from(self.model.as_str())),
            ("max_tokens", Value::from(self.max_tokens)),
            ("turn_seconds", Value::from(self.turn_seconds)),
            (
                "tools",
                self.tools.as_ref().map_or(Value::Null, |tools| {
                    Value::Array(tools.iter().map(|tool| Value::from(tool.as_str())).collect())
                }),
            ),
            (
                "usage",
                Value::object([
                    ("bytes", Value::from(self.usage.bytes)),
                    ("files", Value::from(self.usage.files)),
                    ("bytes_limit", Value::from(self.usage.bytes_limit)),
                    ("files_limit", Value::from(self.usage.files_limit)),
                ]),
            ),
            (
                "places",
                Value::Array(
                    self.places
                        .iter()
                        .map(|place| {
                            Value::object([
                                ("at", Value::from(place.at.as_str())),
                                ("writable", Value::from(place.is_writable)),
                            ])
                        })
                        .collect(),
                ),
            ),
        ])
        .to_string()
    }

    /// Reads a body; what is missing has its default, what is unknown is ignored.
    pub fn parse(body: &[u8]) -> Result<Self, JsonError> {
        let value = json::parse(body)?;
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let usage = |name: &str| {
            value.get("usage").and_then(|usage| usage.get(name)).and_then(Value::as_u64).unwrap_or_default()
        };
        Ok(Self {
            agent: text("agent"),
            persona: text("persona"),
            provider: text("provider"),
            model: text("model"),
            max_tokens: value.get("max_tokens").and_then(Value::as_u64).unwrap_or(4096),
            turn_seconds: value.get("turn_seconds").and_then(Value::as_u64).unwrap_or(600),
            tools: value
                .get("tools")
                .and_then(Value::as_array)
                .map(|tools| tools.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
            usage: Usage {
                bytes: usage("bytes"),
                files: usage("files"),
                bytes_limit: usage("bytes_limit"),
                files_limit: usage("files_limit"),
            },
            places: value
                .get("places")
                .and_then(Value::as_array)
                .unwrap_or_default()
                .iter()
                .filter_map(|place| {
                    let at = place.get("at").and_then(Value::as_str)?.to_owned();
                    let is_writable = place.get("writable").and_then(Value::as_bool).unwrap_or_default();
                    Some(Place { at, is_writable })
                })
                .collect(),
        })
    }
}

/// A row of any table of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboundBody {
    /// A message.
    Message(MessageIn),
    /// A part of a file of a message.
    Attachment(MessageId, Attachment),
    /// A destination; replaces an earlier one of that name.
    Destination(Destination),
    /// The agent's configuration; replaces the earlier one and ends all destinations before it, so that those that
    /// follow it are the whole set.
    Config(SessionConfig),
}

/// A row and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundRow {
    /// Even, minted by the ledger.
    pub seq: u64,
    /// The row.
    pub body: InboundBody,
}

/// The host's end of the file.
#[derive(Debug)]
pub struct InboundWriter {
    connection: Connection,
}

impl InboundWriter {
    /// Makes a new file with its first rows and opens it. The file must not exist.
    pub fn create(path: &Path, key: &FileKey, rows: &[InboundRow]) -> Result<Self, ConveyorError> {
        let mut writer = Self { connection: cipher::open(path, key, Role::HostInbound)? };
        writer.connection.execute_batch(&format!("BEGIN; {SCHEMA} COMMIT;"))?;
        writer.append(rows, &[])?;
        Ok(writer)
    }

    /// One transaction: adds `rows`, at least one, and removes the messages numbered in `finished`. The
    /// caller rings the last number and waits for its acknowledgement before the next one.
    pub fn append(&mut self, rows: &[InboundRow], finished: &[u64]) -> Result<(), ConveyorError> {
        if rows.is_empty() {
            return Err(ConveyorError::NothingAdded);
        }
        let tx = self.connection.transaction()?;
        for seq in finished {
            tx.prepare_cached(
                "DELETE FROM attachments_in WHERE message = (SELECT id FROM messages_in WHERE seq = ?1)",
            )?
            .execute([stored(*seq)])?;
            tx.prepare_cached("DELETE FROM messages_in WHERE seq = ?1")?.execute([stored(*seq)])?;
        }
        for row in rows {
            add(&tx, row)?;
        }
        tx.commit()?;
        Ok(())
    }
}

fn add(tx: &Connection, row: &InboundRow) -> Result<(), rusqlite::Error> {
    let seq = stored(row.seq);
    match &row.body {
        InboundBody::Message(m) => tx
            .prepare_cached(
                "INSERT INTO messages_in VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14)",
            )?
            .execute(params![
                seq,
                m.id.as_str(),
                m.kind.as_str(),
                m.engage,
                m.sender_id,
                m.sender_name,
                m.channel,
                m.chat,
                m.thread,
                m.text,
                m.source_session.as_ref().map(SessionId::as_str),
                m.hop,
                m.in_reply_to,
                m.created_at.0,
            ])?,
        InboundBody::Attachment(message, a) => tx
            .prepare_cached("INSERT INTO attachments_in VALUES (?1,?2,?3,?4,?5,?6,?7)")?
            .execute(params![seq, message.as_str(), a.ordinal, a.chunk, a.name, a.mime, a.bytes])?,
        InboundBody::Destination(d) => {
            tx.execute("DELETE FROM destinations WHERE name = ?1", [&d.name])?;
            tx.prepare_cached("INSERT INTO destinations VALUES (?1,?2,?3,?4,?5,?6,?7)")?.execute(params![
                seq,
                d.name,
                d.kind,
                d.display_name,
                d.channel,
                d.chat,
                d.agent_group
            ])?
        }
        InboundBody::Config(config) => {
            tx.execute("DELETE FROM session_config", [])?;
            tx.execute("DELETE FROM destinations", [])?;
            tx.execute("INSERT INTO session_config VALUES (?1,?2)", params![seq, config.encode()])?
        }
    };
    Ok(())
}

/// The sandbox's end: opened afresh for each ring, able only to read.
#[derive(Debug)]
pub struct InboundReader {
    connection: Connection,
}

impl InboundReader {
    /// Opens the file as it is now. Call it only between a ring and its acknowledgement.
    pub fn open(path: &Path, key: &FileKey) -> Result<Self, ConveyorError> {
        Ok(Self { connection: cipher::open(path, key, Role::SandboxInbound)? })
    }

    /// The rows after `cursor`, in order; their numbers are checked against `last`, the number that was rung.
    pub fn rows(&self, cursor: u64, last: u64) -> Result<Vec<InboundRow>, ConveyorError> {
        let mut rows = self.messages(cursor)?;
        // Most rings carry messages alone, and then no number is left for a row of another table.
        if !is_complete(rows.len(), cursor, last) {
            rows.extend(self.attachments(cursor)?);
            rows.extend(self.destinations(cursor)?);
            rows.extend(self.configs(cursor)?);
            rows.sort_by_key(|row| row.seq);
        }
        let seqs: Vec<u64> = rows.iter().map(|row| row.seq).collect();
        check_numbers(&seqs, cursor, last, Parity::Even)?;
        Ok(rows)
    }

    fn messages(&self, cursor: u64) -> Result<Vec<InboundRow>, ConveyorError> {
        let mut query =
            self.connection.prepare_cached("SELECT * FROM messages_in WHERE seq > ?1 ORDER BY seq")?;
        let mut found = query.query([stored(cursor)])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let seq = seq_of(row, 0)?;
            let wrong = |wrong| ConveyorError::Row { seq, wrong };
            let source: Option<String> = row.get(10)?;
            rows.push(InboundRow {
                seq,
                body: InboundBody::Message(MessageIn {
                    id: MessageId::parse(&row.get::<_, String>(1)?).map_err(|_| wrong("its id"))?,
                    kind: InboundKind::parse(&row.get::<_, String>(2)?).ok_or_else(|| wrong("its kind"))?,
                    engage: row.get(3)?,
                    sender_id: row.get(4)?,
                    sender_name: row.get(5)?,
                    channel: row.get(6)?,
                    chat: row.get(7)?,
                    thread: row.get(8)?,
                    text: row.get(9)?,
                    source_session: match source {
                        Some(id) => Some(SessionId::parse(&id).map_err(|_| wrong("its source"))?),
                        None => None,
                    },
                    hop: row.get(11)?,
                    in_reply_to: row.get(12)?,
                    created_at: Millis(row.get(13)?),
                }),
            });
        }
        Ok(rows)
    }

    fn attachments(&self, cursor: u64) -> Result<Vec<InboundRow>, ConveyorError> {
        let mut query =
            self.connection.prepare_cached("SELECT * FROM attachments_in WHERE seq > ?1 ORDER BY seq")?;
        let mut found = query.query([stored(cursor)])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let seq = seq_of(row, 0)?;
            let message = MessageId::parse(&row.get::<_, String>(1)?)
                .map_err(|_| ConveyorError::Row { seq, wrong: "its message" })?;
            let body = Attachment {
                ordinal: row.get(2)?,
                chunk: row.get(3)?,
                name: row.get(4)?,
                mime: row.get(5)?,
                bytes: row.get(6)?,
            };
            rows.push(InboundRow { seq, body: InboundBody::Attachment(message, body) });
        }
        Ok(rows)
    }

    fn destinations(&self, cursor: u64) -> Result<Vec<InboundRow>, ConveyorError> {
        let mut query =
            self.connection.prepare_cached("SELECT * FROM destinations WHERE seq > ?1 ORDER BY seq")?;
        let mut found = query.query([stored(cursor)])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            rows.push(InboundRow {
                seq: seq_of(row, 0)?,
                body: InboundBody::Destination(Destination {
                    name: row.get(1)?,
                    kind: row.get(2)?,
                    display_name: row.get(3)?,
                    channel: row.get(4)?,
                    chat: row.get(5)?,
                    agent_group: row.get(6)?,
                }),
            });
        }
        Ok(rows)
    }

    fn configs(&self, cursor: u64) -> Result<Vec<InboundRow>, ConveyorError> {
        let mut query =
            self.connection.prepare_cached("SELECT * FROM session_config WHERE seq > ?1 ORDER BY seq")?;
        let mut found = query.query([stored(cursor)])?;
        let mut rows = Vec::new();
        while let Some(row) = found.next()? {
            let seq = seq_of(row, 0)?;
            let config = SessionConfig::parse(row.get::<_, String>(1)?.as_bytes())
                .map_err(|_| ConveyorError::Row { seq, wrong: "its configuration is no JSON object" })?;
            rows.push(InboundRow { seq, body: InboundBody::Config(config) });
        }
        Ok(rows)
    }
}
