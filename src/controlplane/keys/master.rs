//! Where the master key comes from: a file beside the ledger, a systemd credential, or a passphrase in a
//! file. Reads that one file, and writes it once when a first start mints it.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use ring::pbkdf2;

use super::{KEY_BYTES, KeyBytes, KeyError, hex, wipe};
use crate::controlplane::state::{self, Readers};

/// PBKDF2 rounds for a passphrase: what OWASP asks for with HMAC-SHA-256. PBKDF2 because `ring` has it; a
/// memory-hard function would be better against a weak passphrase, and costs a dependency.
pub(super) const ROUNDS: u32 = 600_000;
/// A keystore that asks for more would only make the start hang.
pub(super) const MOST_ROUNDS: u32 = 20_000_000;
/// Bytes of the salt.
pub(super) const SALT_BYTES: usize = 16;
/// The name of the systemd credential.
const CREDENTIAL: &str = "ironclaw-master-key";
/// 64 digits, and room for a line end.
const HEX_FILE_BYTES: usize = 80;
/// A passphrase shorter than this is guessed in spite of the rounds.
const FEWEST_PASSPHRASE_BYTES: usize = 12;
/// Longer is a mistake in the path.
const MOST_PASSPHRASE_BYTES: usize = 1024;

/// What turns a passphrase into a key; the keystore remembers it. Keys that are random already ignore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Random, so that two keystores of one passphrase share nothing.
    pub salt: [u8; SALT_BYTES],
    /// PBKDF2 rounds.
    pub rounds: NonZeroU32,
}

/// A source of the master key.
pub trait MasterKey: Send + Sync {
    /// Where the key is, for messages. Never the key.
    fn place(&self) -> String;

    /// The key.
    ///
    /// # Errors
    /// [`KeyError::NoMaster`] when it is not there, [`KeyError::BadMaster`] when it is damaged,
    /// [`KeyError::State`] when others may read it.
    fn load(&self, stretch: &Stretch) -> Result<KeyBytes, KeyError>;

    /// The key at a first start, when nothing was ever sealed with it: a source that can make one does.
    ///
    /// # Errors
    /// As [`MasterKey::load`].
    fn load_or_mint(&self, stretch: &Stretch) -> Result<KeyBytes, KeyError> {
        self.load(stretch)
    }
}

/// 64 hexadecimal digits in a file of mode 0600, minted at the first start.
#[derive(Clone, Debug)]
pub struct FileMaster {
    path: PathBuf,
}

impl FileMaster {
    /// The default is `master.key` in the state directory.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }
}

impl MasterKey for FileMaster {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn load(&self, _: &Stretch) -> Result<KeyBytes, KeyError> {
        read_hex(&self.path, Readers::OwnerOnly)
    }

    fn load_or_mint(&self, stretch: &Stretch) -> Result<KeyBytes, KeyError> {
        match self.load(stretch) {
            Err(KeyError::NoMaster { .. }) => {
                let key = KeyBytes::mint()?;
                let mut text = hex(key.as_bytes()).into_bytes();
                text.push(b'\n');
                let written = state::write_durably(&self.path, 0o600, &text);
                wipe(&mut text);
                written?;
                Ok(key)
            }
            other => other,
        }
    }
}

/// 64 hexadecimal digits in the systemd credential `ironclaw-master-key` (`LoadCredentialEncrypted=`).
#[derive(Clone, Debug)]
pub struct CredentialMaster {
    path: PathBuf,
}

impl CredentialMaster {
    /// `directory` is what systemd put into `$CREDENTIALS_DIRECTORY`.
    pub fn in_directory(directory: &Path) -> Self {
        Self { path: directory.join(CREDENTIAL) }
    }
}

impl MasterKey for CredentialMaster {
    fn place(&self) -> String {
        format!("the systemd credential {CREDENTIAL} ({})", self.path.display())
    }

    fn load(&self, _: &Stretch) -> Result<KeyBytes, KeyError> {
        match read_hex(&self.path, Readers::GroupToo) {
            Err(KeyError::NoMaster { .. }) => Err(KeyError::NoMaster { source: self.place() }),
            other => other,
        }
    }
}

/// A passphrase in a file of mode 0600; one line end after it is not part of it.
#[derive(Clone, Debug)]
pub struct PassphraseMaster {
    path: PathBuf,
}

impl PassphraseMaster {
    /// The file.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }
}

impl MasterKey for PassphraseMaster {
    fn place(&self) -> String {
        format!("the passphrase file {}", self.path.display())
    }

    fn load(&self, stretch: &Stretch) -> Result<KeyBytes, KeyError> {
        let found = state::read_private(&self.path, MOST_PASSPHRASE_BYTES, Readers::OwnerOnly)?;
        let mut bytes = found.ok_or_else(|| KeyError::NoMaster { source: self.place() })?;
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let passphrase = line.strip_suffix(b"\r").unwrap_or(line);
        let mut key = KeyBytes([0; KEY_BYTES]);
        let long_enough = passphrase.len() >= FEWEST_PASSPHRASE_BYTES;
        if long_enough {
            let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
            pbkdf2::derive(algorithm, stretch.rounds, &stretch.salt, passphrase, &mut key.0);
        }
        wipe(&mut bytes);
        let expected = "a passphrase of 12 to 1024 bytes";
        if long_enough { Ok(key) } else { Err(KeyError::BadMaster { source: self.place(), expected }) }
    }
}

fn read_hex(path: &Path, readers: Readers) -> Result<KeyBytes, KeyError> {
    let source = || path.display().to_string();
    let found = state::read_private(path, HEX_FILE_BYTES, readers)?;
    let mut bytes = found.ok_or_else(|| KeyError::NoMaster { source: source() })?;
    let key = KeyBytes::from_hex(&bytes);
    wipe(&mut bytes);
    key.ok_or_else(|| KeyError::BadMaster { source: source(), expected: "64 hexadecimal digits" })
}
