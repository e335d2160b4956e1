//! The first API token: minted into a file of mode 0600 at the first start, or given by the environment. In
//! memory only its digest stays.

use std::fmt;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};

use super::{KeyBytes, KeyError, hex, wipe};
use crate::controlplane::state::{self, Readers, StateDir};

const FILE: &str = "api-token";
/// Marks a token as ours wherever it turns up, for people and for secret scanners.
const PREFIX: &str = "ict_";
/// Shorter is guessed; longer is a mistake and would not fit our header limits.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=256;

/// What a client must present.
pub struct ApiToken {
    digest: [u8; 32],
    minted: bool,
    path: Option<PathBuf>,
}

impl ApiToken {
    /// `given` (from `IRONCLAW_API_TOKEN`) when there is one, else the file `api-token` of the state
    /// directory, made when it is not there.
    ///
    /// # Errors
    /// [`KeyError::BadToken`] for one that is too short or not visible ASCII, [`KeyError::State`] for a file
    /// that others may read.
    pub fn open(state: &StateDir, given: Option<&str>) -> Result<Self, KeyError> {
        if let Some(given) = given {
            let digest = checked(given.trim_ascii(), "IRONCLAW_API_TOKEN")?;
            return Ok(Self { digest, minted: false, path: None });
        }
        let path = state.join(FILE);
        let found = state::read_private(&path, LENGTHS.end() + 2, Readers::OwnerOnly)?;
        let minted = found.is_none();
        let mut bytes = match found {
            Some(bytes) => bytes,
            None => {
                let text = format!("{PREFIX}{}\n", hex(KeyBytes::mint()?.as_bytes())).into_bytes();
                state::write_durably(&path, 0o600, &text)?;
                text
            }
        };
        let text = std::str::from_utf8(&bytes).unwrap_or_default().trim_ascii();
        let digest = checked(text, &path.display().to_string());
        wipe(&mut bytes);
        Ok(Self { digest: digest?, minted, path: Some(path) })
    }

    /// The form that every token has: it travels in a header and is compared as bytes.
    pub fn is_well_formed(token: &str) -> bool {
        LENGTHS.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// SHA-256 of a token: all that is stored of it.
    pub fn digest_of(token: &str) -> [u8; 32] {
        sha256(token)
    }

    /// A new token: shown once, to whoever asked for it.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn mint() -> Result<String, KeyError> {
        Ok(format!("{PREFIX}{}", hex(KeyBytes::mint()?.as_bytes())))
    }

    /// The digest of this one.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Whether it was made just now.
    pub fn was_minted(&self) -> bool {
        self.minted
    }

    /// The file that holds it, unless it came from the environment.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

impl fmt::Debug for ApiToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiToken(…)")
    }
}

fn checked(token: &str, source: &str) -> Result<[u8; 32], KeyError> {
    if ApiToken::is_well_formed(token) {
        Ok(sha256(token))
    } else {
        Err(KeyError::BadToken { source: source.to_owned() })
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    out
}
