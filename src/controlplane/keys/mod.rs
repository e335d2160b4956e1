//! The keys of the host: the operator's master key, the keystore it wraps, and what is derived from the
//! ledger's own root key to open `control.db` and to seal rows in it. Touches the keystore, the master key's
//! file and the API token's file; knows nothing of the ledger's tables.
//!
//! One direction only: master key → (unwraps) root key → (derives) the ledger's file key and the sealing key
//! → (unseals) a session's secret → (derives) that session's keys. Rotating the master key rewrites the one
//! small keystore; deleting a session's sealed secret makes its texts unreadable for ever.

mod keyring;
mod keystore;
mod master;
mod seal;
mod token;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

pub use keyring::{Keyring, LedgerState, check, open, rotate};
pub use master::{CredentialMaster, FileMaster, MasterKey, PassphraseMaster, Stretch};
pub use seal::{open_text, seal_text};
pub use token::ApiToken;

use super::state::StateError;
use crate::os::memory::wipe;

/// Bytes of every key here.
const KEY_BYTES: usize = 32;

/// Thirty-two secret bytes, overwritten when dropped and never shown.
#[derive(Clone)]
pub struct KeyBytes([u8; KEY_BYTES]);

impl KeyBytes {
    /// New random ones.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`] when the system gives none.
    pub fn mint() -> Result<Self, KeyError> {
        let mut bytes = [0; KEY_BYTES];
        seal::random(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// From 64 hexadecimal digits, white space around them ignored.
    fn from_hex(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let mut key = Self([0; KEY_BYTES]);
        if text.len() != 2 * KEY_BYTES {
            return None;
        }
        for (byte, pair) in key.0.iter_mut().zip(text.chunks_exact(2)) {
            let [high, low] = pair else { return None };
            let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok());
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Some(key)
    }

    fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl Drop for KeyBytes {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl fmt::Debug for KeyBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyBytes(…)")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a key could not be had, or a sealed thing not be opened. Each message ends with the next step.
#[derive(Debug)]
pub enum KeyError {
    /// The master key's file, credential or passphrase is not there.
    NoMaster {
        /// What was looked for.
        source: String,
    },
    /// It is there and is not what a master key looks like.
    BadMaster {
        /// Where it is.
        source: String,
        /// What was expected.
        expected: &'static str,
    },
    /// The keystore is whole and another master key wrapped it.
    WrongMaster {
        /// The keystore.
        keystore: PathBuf,
        /// The master key that was tried.
        source: String,
    },
    /// The keystore is damaged.
    CorruptKeystore {
        /// The keystore.
        keystore: PathBuf,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// The keystore is of a later version.
    NewerKeystore {
        /// The keystore.
        keystore: PathBuf,
    },
    /// There is a ledger and no keystore.
    NoKeystore {
        /// The keystore.
        keystore: PathBuf,
        /// The ledger.
        ledger: PathBuf,
    },
    /// A sealed value does not open: it is damaged, or was sealed for something else.
    Sealed,
    /// A token that was given is too weak or cannot be sent in a header.
    BadToken {
        /// Where it came from.
        source: String,
    },
    /// The system gives no random numbers.
    NoRandom,
    /// A file could not be read or written.
    State(StateError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMaster { source } => {
                write!(
                    f,
                    "no master key: {source} is not there; put it back, it is needed to open the keystore"
                )
            }
            Self::BadMaster { source, expected } => write!(
                f,
                "the master key in {source} is damaged: expected {expected}; restore it from a backup"
            ),
            Self::WrongMaster { keystore, source } => write!(
                f,
                "the master key in {source} does not open {}: it was wrapped with another one; start with the \
                 master key that belongs to this keystore",
                keystore.display()
            ),
            Self::CorruptKeystore { keystore, wrong } => write!(
                f,
                "the keystore {} is damaged ({wrong}); restore it from a backup, nothing else opens the ledger",
                keystore.display()
            ),
            Self::NewerKeystore { keystore } => write!(
                f,
                "the keystore {} was written by a later ironclaw; start that version, or restore an older backup",
                keystore.display()
            ),
            Self::NoKeystore { keystore, ledger } => write!(
                f,
                "{} is missing, but {} is there and cannot be opened without it; restore the keystore from a \
                 backup, or move control.db away to start empty",
                keystore.display(),
                ledger.display()
            ),
            Self::Sealed => f.write_str(
                "a sealed value in the ledger does not open: it is damaged; restore control.db from a backup",
            ),
            Self::BadToken { source } => write!(
                f,
                "the API token in {source} cannot be used: expected 16 to 256 visible ASCII characters; choose \
                 another, or remove it to have one made"
            ),
            Self::NoRandom => {
                f.write_str("the system gives no random numbers; check that getrandom works here")
            }
            Self::State(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for KeyError {}

impl From<StateError> for KeyError {
    fn from(error: StateError) -> Self {
        Self::State(error)
    }
}
