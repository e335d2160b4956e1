//! Opening the keystore into a keyring, and rotating the master key. Reads and writes the keystore; of the
//! ledger it only looks whether the file is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ring::hmac;

pub use super::keystore::LedgerState;
use super::keystore::{Keystore, MOST_BYTES, new_stretch};
use super::master::MasterKey;
use super::seal::{Bound, derive, seal, unseal};
use super::{KeyBytes, KeyError};
use crate::contract::cipher::{FileKey, SessionSecret};
use crate::contract::ids::SessionId;
use crate::controlplane::state::{self, Readers, StateDir};

const KEYSTORE: &str = "keystore";
pub(crate) const LEDGER: &str = "control.db";

/// What the ledger's root key gives: the key of `control.db`, the key that seals sessions' secrets, and the one that
/// buttons are known by.
/// Cloning shares it; the last clone overwrites it.
#[derive(Clone, Debug)]
pub struct Keyring {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    keystore_path: PathBuf,
    keystore: Keystore,
    ledger_key: KeyBytes,
    sealing_key: KeyBytes,
    button_key: KeyBytes,
}

/// Opens the keystore of a state directory with the master key. At a first start, when there is neither a
/// keystore nor a ledger, makes it (and lets the source make the master key).
///
/// # Errors
/// Tells a missing master key or keystore from a damaged one and from a wrong master key; see [`KeyError`].
pub fn open(state: &StateDir, source: &dyn MasterKey) -> Result<Keyring, KeyError> {
    let path = state.join(KEYSTORE);
    let ledger = state.join(LEDGER);
    let keystore = match read(&path)? {
        Some(keystore) => keystore,
        None if ledger.symlink_metadata().is_ok() => {
            return Err(KeyError::NoKeystore { keystore: path, ledger });
        }
        None => {
            let stretch = new_stretch()?;
            let master = source.load_or_mint(&stretch)?;
            let made = Keystore::wrap(&KeyBytes::mint()?, &master, stretch, LedgerState::Making)?;
            state::write_durably(&path, 0o600, made.encode().as_bytes())?;
            return Keyring::new(path, made, source, &master);
        }
    };
    let master = source.load(&keystore.stretch)?;
    Keyring::new(path, keystore, source, &master)
}

/// Whether the keystore of a state directory opens with the master key; `false` before the first start, when there is
/// none and needs to be none. Nothing is made, and no daemon is in the way.
///
/// # Errors
/// As [`open`].
pub fn check(state: &Path, source: &dyn MasterKey) -> Result<bool, KeyError> {
    let (path, ledger) = (state.join(KEYSTORE), state.join(LEDGER));
    match read(&path)? {
        Some(keystore) => {
            unwrap(&path, &keystore, source, &source.load(&keystore.stretch)?)?;
            Ok(true)
        }
        None if ledger.symlink_metadata().is_ok() => Err(KeyError::NoKeystore { keystore: path, ledger }),
        None => Ok(false),
    }
}

/// Wraps the root key anew with another master key. The ledger is not touched. A crash leaves the keystore
/// wrapped by one of the two, whole.
///
/// # Errors
/// As [`open`].
pub fn rotate(state: &StateDir, old: &dyn MasterKey, new: &dyn MasterKey) -> Result<(), KeyError> {
    let path = state.join(KEYSTORE);
    let ledger = state.join(LEDGER);
    let keystore = read(&path)?.ok_or(KeyError::NoKeystore { keystore: path.clone(), ledger })?;
    let root = unwrap(&path, &keystore, old, &old.load(&keystore.stretch)?)?;
    let stretch = new_stretch()?;
    let master = new.load_or_mint(&stretch)?;
    let wrapped = Keystore::wrap(&root, &master, stretch, keystore.ledger)?;
    Ok(state::write_durably(&path, 0o600, wrapped.encode().as_bytes())?)
}

fn read(path: &std::path::Path) -> Result<Option<Keystore>, KeyError> {
    let found = state::read_private(path, MOST_BYTES, Readers::OwnerOnly)?;
    found.map(|bytes| Keystore::decode(&bytes, path)).transpose()
}

fn unwrap(
    path: &std::path::Path,
    keystore: &Keystore,
    source: &dyn MasterKey,
    master: &KeyBytes,
) -> Result<KeyBytes, KeyError> {
    match keystore.unwrap_root(master) {
        Some(Ok(root)) => Ok(root),
        Some(Err(_)) => {
            let wrong = "the wrapped key does not open with the master key that wrapped it";
            Err(KeyError::CorruptKeystore { keystore: path.to_path_buf(), wrong })
        }
        None => Err(KeyError::WrongMaster { keystore: path.to_path_buf(), source: source.place() }),
    }
}

impl Keyring {
    fn new(
        keystore_path: PathBuf,
        keystore: Keystore,
        source: &dyn MasterKey,
        master: &KeyBytes,
    ) -> Result<Self, KeyError> {
        let root = unwrap(&keystore_path, &keystore, source, master)?;
        let ledger_key = derive(&root, "control.db");
        let sealing_key = derive(&root, "session secrets");
        let button_key = derive(&root, "buttons of decisions");
        Ok(Self { inner: Arc::new(Inner { keystore_path, keystore, ledger_key, sealing_key, button_key }) })
    }

    /// The raw key of `control.db`.
    pub fn ledger_key(&self) -> FileKey {
        FileKey::from_bytes(*self.inner.ledger_key.as_bytes())
    }

    /// Whether the ledger was made when the keystore was read.
    pub fn ledger_state(&self) -> LedgerState {
        self.inner.keystore.ledger
    }

    /// Remembers that the ledger was made; does nothing when that is known.
    ///
    /// # Errors
    /// When the keystore cannot be written.
    pub fn mark_ledger_made(&self) -> Result<(), KeyError> {
        if self.inner.keystore.ledger == LedgerState::Made {
            return Ok(());
        }
        let mut made = self.inner.keystore.clone();
        made.ledger = LedgerState::Made;
        Ok(state::write_durably(&self.inner.keystore_path, 0o600, made.encode().as_bytes())?)
    }

    /// The 128 bits that a button under a card carries, of everything that the button stands for. Nobody without the key
    /// knows them, and they are the same however often the card is sent: HMAC-SHA-256, cut. No part may hold a zero
    /// byte.
    pub fn button(&self, parts: &[&str]) -> [u8; 16] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.inner.button_key.as_bytes());
        let tag = hmac::sign(&key, parts.join("\0").as_bytes());
        let mut nonce = [0; 16];
        nonce.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        nonce
    }

    /// Seals a session's secret for its ledger row.
    ///
    /// # Errors
    /// [`KeyError::NoRandom`].
    pub fn seal_session(&self, id: &SessionId, secret: &SessionSecret) -> Result<Vec<u8>, KeyError> {
        let bound = Bound { purpose: "session secret", id: id.as_str() };
        seal(self.inner.sealing_key.as_bytes(), &bound, secret.as_bytes())
    }

    /// Opens a session's sealed secret.
    ///
    /// # Errors
    /// [`KeyError::Sealed`] when it is damaged or another session's.
    pub fn open_session(&self, id: &SessionId, sealed: &[u8]) -> Result<SessionSecret, KeyError> {
        let bound = Bound { purpose: "session secret", id: id.as_str() };
        let mut bytes = unseal(self.inner.sealing_key.as_bytes(), &bound, sealed)?;
        let secret = <[u8; 32]>::try_from(bytes.as_slice()).map(SessionSecret::from_bytes);
        super::wipe(&mut bytes);
        secret.map_err(|_| KeyError::Sealed)
    }
}
