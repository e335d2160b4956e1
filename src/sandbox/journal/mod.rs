//! `session.db`: what the sandbox remembers, and the journal that makes a turn survive its death. Every
//! number the outbound conveyor will carry is minted here, in the transaction that creates its row; every
//! output stays here until the host has stored it. Only the turn's thread writes; the file is synced at every
//! commit and nobody else ever opens it.

mod rows;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::HashSet;
use std::fmt;
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};

use crate::contract::cipher::{self, CipherError, FileKey};
use crate::contract::ids::MessageId;
use crate::contract::outbound::{MessageOut, OutboundBody, OutboundRow};
use crate::sandbox::transcript::Transcript;

pub use turns::{Ending, Kept, OpenTurn, Outcome, RunPlan, Step, ToolRun, plan_run};

/// Written to `user_version`; another number is another program's file.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE outputs (seq INTEGER PRIMARY KEY, body TEXT NOT NULL) STRICT;
CREATE TABLE finished (id TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE turn (id INTEGER PRIMARY KEY, prompt TEXT NOT NULL) STRICT;
CREATE TABLE turn_messages (turn INTEGER NOT NULL, ordinal INTEGER NOT NULL, id TEXT NOT NULL,
  PRIMARY KEY (turn, ordinal)) STRICT, WITHOUT ROWID;
CREATE TABLE steps (turn INTEGER NOT NULL, ordinal INTEGER NOT NULL, response TEXT NOT NULL,
  PRIMARY KEY (turn, ordinal)) STRICT;
CREATE TABLE tool_runs (turn INTEGER NOT NULL, step INTEGER NOT NULL, ordinal INTEGER NOT NULL,
  result TEXT, is_error INTEGER, PRIMARY KEY (turn, step, ordinal)) STRICT;
CREATE TABLE transcript (turn INTEGER PRIMARY KEY, entry TEXT NOT NULL, size INTEGER NOT NULL) STRICT;
INSERT INTO meta VALUES ('minted', 0), ('turns', 0), ('left_out', 0),
  ('tag', random() & 0x7fffffffffffffff);
PRAGMA user_version = 1;
";

/// Why the journal cannot go on.
#[derive(Debug)]
pub enum JournalError {
    /// The file is there and is not, or no longer, a journal that this key opens: memory is lost.
    Lost(String),
    /// The file was written by another version of the program.
    Version(i64),
    /// The process is stopping; nothing is written any more.
    Stopping,
    /// Anything else that SQLite said.
    Failed(rusqlite::Error),
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(why) => write!(f, "session.db is damaged: {why}"),
            Self::Version(found) => write!(
                f,
                "session.db has format {found}, this program writes {VERSION}; start the version that wrote it"
            ),
            Self::Stopping => f.write_str("the sandbox is stopping"),
            Self::Failed(error) => write!(f, "session.db failed: {error}"),
        }
    }
}

impl std::error::Error for JournalError {}

impl From<rusqlite::Error> for JournalError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Lost(error.to_string()),
            _ => Self::Failed(error),
        }
    }
}

impl From<CipherError> for JournalError {
    fn from(error: CipherError) -> Self {
        match error {
            CipherError::NotADatabase => Self::Lost(error.to_string()),
            CipherError::Sqlite(error) => error.into(),
        }
    }
}

/// Lets another thread wait for the transaction in progress and forbid the next one.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Mutex<GateState>>);

#[derive(Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Open,
    Closed,
}

impl Gate {
    /// Returns when no transaction is in progress; none begins afterwards.
    pub fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = GateState::Closed;
    }
}

/// The open file.
#[derive(Debug)]
pub struct Journal {
    connection: Connection,
    gate: Gate,
    transcript: Transcript,
    /// Outputs up to here are stored by the host; they are removed with the next transaction.
    accepted: u64,
}

/// Removes what was being made when everything was killed. gVisor's file server makes a file as its own and then gives it
/// away; between the two it is empty, and would for ever be somebody else's.
fn clear_unfinished(path: &Path) {
    for suffix in ["", "-wal", "-journal"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = Path::new(&name);
        let is_empty = file.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == 0);
        let is_foreign = || {
            let opened = OpenOptions::new().write(true).open(file);
            opened.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
        };
        if is_empty && is_foreign() {
            // What cannot be removed is told by the opening that follows.
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Journal {
    /// Opens the file, or makes it when there is none.
    ///
    /// # Errors
    /// [`JournalError::Lost`] when a file is there and does not read; it is left as it is.
    pub fn open(path: &Path, key: &FileKey) -> Result<Self, JournalError> {
        clear_unfinished(path);
        let (connection, is_made) = cipher::open_session(path, key, SCHEMA)?;
        match connection.query_row("PRAGMA user_version", [], |row| row.get(0))? {
            VERSION if is_made => {}
            VERSION => {
                let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
                if found != "ok" {
                    return Err(JournalError::Lost(found));
                }
            }
            version => return Err(JournalError::Version(version)),
        }
        let transcript = Transcript::load(&connection)?;
        Ok(Self { connection, gate: Gate::default(), transcript, accepted: 0 })
    }

    /// See [`Gate`].
    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// The highest outbound number ever minted; 0 when none was.
    ///
    /// # Errors
    /// When the file fails.
    pub fn minted(&self) -> Result<u64, JournalError> {
        meta(&self.connection, "minted")
    }

    /// A random number of this file's own: sessions of one group share a workspace, and what they put aside
    /// there must not collide.
    ///
    /// # Errors
    /// When the file fails.
    pub fn tag(&self) -> Result<u64, JournalError> {
        meta(&self.connection, "tag")
    }

    /// Notes that the host has stored outputs up to `seq`. They, and the finished ids that went with them,
    /// are removed with the next transaction: a commit of its own would cost a sync for nothing.
    pub fn accept(&mut self, seq: u64) {
        self.accepted = self.accepted.max(seq);
    }

    /// The message that a turn's tool sent last, with its number, unless the host has stored it.
    ///
    /// # Errors
    /// When the file fails or holds what was never written to it.
    pub fn last_sent(&self) -> Result<Option<(u64, MessageOut)>, JournalError> {
        let mut query = self.connection.prepare_cached("SELECT value FROM meta WHERE name = 'sent'")?;
        let seq: Option<u64> = query.query_row([], |row| row.get(0)).optional()?;
        let sent = self.outputs()?.into_iter().find(|row| Some(row.seq) == seq);
        Ok(sent.and_then(|row| match row.body {
            OutboundBody::Message(message) => Some((row.seq, message)),
            _ => None,
        }))
    }

    /// The outputs that the host has not stored, in order.
    ///
    /// # Errors
    /// When the file fails or holds what was never written to it.
    pub fn outputs(&self) -> Result<Vec<OutboundRow>, JournalError> {
        let mut query =
            self.connection.prepare_cached("SELECT seq, body FROM outputs WHERE seq > ?1 ORDER BY seq")?;
        let mut found = query.query([self.accepted])?;
        let mut outputs = Vec::new();
        while let Some(row) = found.next()? {
            let body: String = row.get(1)?;
            let body =
                rows::decode(&body).ok_or_else(|| JournalError::Lost("an output does not read".into()))?;
            outputs.push(OutboundRow { seq: row.get(0)?, body });
        }
        Ok(outputs)
    }

    /// The messages whose turn is over, accepted or not, as far as they have not been forgotten.
    ///
    /// # Errors
    /// When the file fails or holds what was never written to it.
    pub fn finished(&self) -> Result<HashSet<MessageId>, JournalError> {
        let mut query = self.connection.prepare_cached("SELECT id FROM finished")?;
        let ids = query.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        ids.iter().map(|id| message_id(id)).collect()
    }

    /// Runs `write` in one transaction, with what the host has accepted forgotten in it.
    fn transaction<T>(
        &mut self,
        write: impl FnOnce(&Connection) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        let gate = self.gate.0.clone();
        let state = gate.lock().unwrap_or_else(PoisonError::into_inner);
        if *state == GateState::Closed {
            return Err(JournalError::Stopping);
        }
        let tx = self.connection.transaction()?;
        tx.prepare_cached("DELETE FROM outputs WHERE seq <= ?1")?.execute([self.accepted])?;
        tx.prepare_cached("DELETE FROM finished WHERE seq <= ?1")?.execute([self.accepted])?;
        let result = write(&tx)?;
        tx.commit()?;
        Ok(result)
    }
}

/// Gives an output its number and keeps it.
fn mint(tx: &Connection, body: OutboundBody) -> Result<OutboundRow, JournalError> {
    let minted = meta(tx, "minted")?;
    let seq = if minted == 0 { 1 } else { minted + 2 };
    set_meta(tx, "minted", seq)?;
    tx.prepare_cached("INSERT INTO outputs VALUES (?1, ?2)")?.execute(params![seq, rows::encode(&body)])?;
    Ok(OutboundRow { seq, body })
}

fn meta(connection: &Connection, name: &str) -> Result<u64, JournalError> {
    connection
        .prepare_cached("SELECT value FROM meta WHERE name = ?1")?
        .query_row([name], |row| row.get(0))
        .optional()?
        .ok_or_else(|| JournalError::Lost(format!("{name} is missing")))
}

fn set_meta(tx: &Connection, name: &str, value: u64) -> Result<(), JournalError> {
    tx.prepare_cached("UPDATE meta SET value = ?2 WHERE name = ?1")?.execute(params![name, value])?;
    Ok(())
}

fn message_id(text: &str) -> Result<MessageId, JournalError> {
    MessageId::parse(text).map_err(|_| JournalError::Lost("an id does not read".into()))
}

/// A crash point on each side of a step. The callers write them out, so that their names can be found in the
/// source.
fn around<T, E>(
    before: impl FnOnce(),
    after: impl FnOnce(),
    step: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    before();
    let result = step()?;
    after();
    Ok(result)
}
