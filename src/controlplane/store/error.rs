//! What can go wrong with the ledger, told apart so that the caller can say the right next step.

use std::fmt;
use std::path::PathBuf;

use rusqlite::ErrorCode;

use crate::contract::cipher::CipherError;
use crate::contract::ids::{GroupName, SessionId};
use crate::controlplane::keys::KeyError;
use crate::controlplane::state::StateError;

/// An error of the ledger. Each message ends with the next step where there is one. Cloning is for a batch
/// whose jobs all failed of one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// The disk is full. Nothing of the batch was stored; the ledger goes on when there is space.
    Full,
    /// The disk failed. Nothing of the batch was stored.
    Io(String),
    /// The keystore says that the ledger was made, and the file is not there.
    Missing(PathBuf),
    /// The file is cut short, damaged, or something else.
    Damaged {
        /// The ledger.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// A later version wrote it.
    Newer {
        /// The ledger.
        path: PathBuf,
        /// The version of its schema.
        found: i64,
        /// The latest this build knows.
        known: i64,
    },
    /// The ledger is stopped or was stopped while the job waited.
    Stopped,
    /// The job panicked; nothing of it was stored.
    Panicked,
    /// No such agent group.
    NoGroup(GroupName),
    /// No such session.
    NoSession(SessionId),
    /// The session has as many open messages as it may have.
    Crowded {
        /// The session.
        session: SessionId,
        /// The limit.
        most: u64,
    },
    /// Something is too long.
    TooLong {
        /// What.
        what: &'static str,
        /// Its limit in bytes.
        most: usize,
    },
    /// The caller asked for something that contradicts the ledger.
    Conflict(&'static str),
    /// A stored value is not what this build writes.
    BadRow(&'static str),
    /// A sealed value does not open, or a key file could not be written.
    Key(String),
    /// Anything else that SQLite said.
    Sqlite(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the disk is full, nothing was stored; free some space and try again"),
            Self::Io(error) => {
                write!(f, "the disk failed ({error}), nothing was stored; check the disk and try again")
            }
            Self::Missing(path) => write!(
                f,
                "the ledger {} is missing, but the keystore says that it was made; restore it from a backup, or \
                 move the keystore away to start empty",
                path.display()
            ),
            Self::Damaged { path, wrong } => write!(
                f,
                "the ledger {} cannot be used: {wrong}; restore it from a backup (it was left as it is)",
                path.display()
            ),
            Self::Newer { path, found, known } => write!(
                f,
                "the ledger {} was written by a later ironclaw (schema {found}, this one knows {known}); start \
                 that version, or restore an older backup",
                path.display()
            ),
            Self::Stopped => {
                f.write_str("the ledger is stopped; the daemon is going down, try again after its start")
            }
            Self::Panicked => {
                f.write_str("an internal error undid this; nothing of it was stored (please report it)")
            }
            Self::NoGroup(name) => {
                write!(f, "there is no agent group {name}; ironctl agent list shows those there are")
            }
            Self::NoSession(id) => write!(f, "there is no session {id}"),
            Self::Crowded { session, most } => write!(
                f,
                "session {session} has {most} messages waiting, as many as it may; wait until some are answered"
            ),
            Self::TooLong { what, most } => write!(f, "the {what} is too long: at most {most} bytes"),
            Self::Conflict(what) => f.write_str(what),
            Self::BadRow(what) => {
                write!(
                    f,
                    "the ledger holds {what} that this build does not know; was it written by a later version?"
                )
            }
            Self::Key(error) => f.write_str(error),
            Self::Sqlite(error) => write!(f, "the ledger refused: {error}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// Whether the disk is at fault, so that everything of the batch failed and trying later may help.
    pub fn is_disk(&self) -> bool {
        matches!(self, Self::Full | Self::Io(_))
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            // A journal or a temporary file that cannot be made is the disk's doing too.
            Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen | ErrorCode::ReadOnly) => {
                Self::Io(error.to_string())
            }
            _ => Self::Sqlite(error.to_string()),
        }
    }
}

impl From<CipherError> for StoreError {
    fn from(error: CipherError) -> Self {
        match error {
            CipherError::NotADatabase => Self::Sqlite(error.to_string()),
            CipherError::Sqlite(error) => error.into(),
        }
    }
}

impl From<KeyError> for StoreError {
    fn from(error: KeyError) -> Self {
        Self::Key(error.to_string())
    }
}

impl From<StateError> for StoreError {
    fn from(error: StateError) -> Self {
        Self::Io(error.to_string())
    }
}
