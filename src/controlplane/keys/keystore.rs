//! The `keystore` file: the ledger's root key, wrapped by the master key. Pure text in and out; reading and
//! writing the file is the caller's.
//!
//! Lines of `name value`, the last one a SHA-256 of what is above it. The sum tells a damaged file from a
//! wrong master key, and the check value a wrong master key from a damaged wrap; neither is a secret's proof,
//! which the wrap's own tag is.

use std::num::NonZeroU32;
use std::path::Path;

use ring::digest::{SHA256, digest};

use super::master::{MOST_ROUNDS, ROUNDS, SALT_BYTES, Stretch};
use super::seal::{Bound, derive, random, seal, unseal};
use super::{KeyBytes, KeyError, hex, wipe};

/// First line; its number is the version.
const FIRST: &str = "ironclaw keystore 1";
/// What first lines of every version start with.
const FIRST_OF_ANY: &str = "ironclaw keystore ";
/// A keystore is below 512 bytes.
pub(super) const MOST_BYTES: usize = 4096;

/// Whether `control.db` was made. A first start writes `Making`, makes the ledger, then writes `Made`: a
/// crash between resumes, and a ledger that is missing later is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LedgerState {
    /// A first start is under way.
    Making,
    /// The ledger is there and must be.
    Made,
}

impl LedgerState {
    fn word(self) -> &'static str {
        match self {
            Self::Making => "making",
            Self::Made => "made",
        }
    }
}

/// The file's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keystore {
    pub(super) ledger: LedgerState,
    pub(super) stretch: Stretch,
    check: Vec<u8>,
    wrapped: Vec<u8>,
}

/// A new salt with today's rounds.
pub(super) fn new_stretch() -> Result<Stretch, KeyError> {
    let mut salt = [0; SALT_BYTES];
    random(&mut salt)?;
    Ok(Stretch { salt, rounds: NonZeroU32::new(ROUNDS).unwrap_or(NonZeroU32::MAX) })
}

const BOUND: Bound<'static> = Bound { purpose: "ledger root key", id: "keystore 1" };

/// Tells whether a master key is the one, without opening anything.
fn check_value(master: &KeyBytes) -> Vec<u8> {
    derive(master, "master key check").as_bytes().iter().take(16).copied().collect()
}

impl Keystore {
    /// Wraps a root key.
    pub(super) fn wrap(
        root: &KeyBytes,
        master: &KeyBytes,
        stretch: Stretch,
        ledger: LedgerState,
    ) -> Result<Self, KeyError> {
        let wrapping = derive(master, "master key wrap");
        let wrapped = seal(wrapping.as_bytes(), &BOUND, root.as_bytes())?;
        Ok(Self { ledger, stretch, check: check_value(master), wrapped })
    }

    /// The root key. `None` when another master key wrapped it.
    pub(super) fn unwrap_root(&self, master: &KeyBytes) -> Option<Result<KeyBytes, KeyError>> {
        if check_value(master) != self.check {
            return None;
        }
        let wrapping = derive(master, "master key wrap");
        Some(unseal(wrapping.as_bytes(), &BOUND, &self.wrapped).and_then(|mut bytes| {
            let root = <[u8; 32]>::try_from(bytes.as_slice()).map(KeyBytes).map_err(|_| KeyError::Sealed);
            wipe(&mut bytes);
            root
        }))
    }

    pub(super) fn encode(&self) -> String {
        let body = format!(
            "{FIRST}\nledger {}\nsalt {}\nrounds {}\ncheck {}\nroot {}\n",
            self.ledger.word(),
            hex(&self.stretch.salt),
            self.stretch.rounds,
            hex(&self.check),
            hex(&self.wrapped)
        );
        let sum = hex(digest(&SHA256, body.as_bytes()).as_ref());
        format!("{body}sum {sum}\n")
    }

    pub(super) fn decode(bytes: &[u8], path: &Path) -> Result<Self, KeyError> {
        let corrupt = |wrong| KeyError::CorruptKeystore { keystore: path.to_path_buf(), wrong };
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("it is not text"))?;
        let first = text.lines().next().unwrap_or_default();
        if text.is_empty() {
            return Err(corrupt("it is empty"));
        }
        if first != FIRST {
            return Err(match first.strip_prefix(FIRST_OF_ANY).map(str::parse::<u32>) {
                Some(Ok(_)) => KeyError::NewerKeystore { keystore: path.to_path_buf() },
                _ => corrupt("its first line is not a keystore's"),
            });
        }
        let (body, sum) = text
            .strip_suffix('\n')
            .and_then(|text| text.rsplit_once("\nsum "))
            .ok_or_else(|| corrupt("it is cut short"))?;
        if hex(digest(&SHA256, format!("{body}\n").as_bytes()).as_ref()) != sum {
            return Err(corrupt("its sum does not fit its content"));
        }
        let field = |name: &str| {
            body.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
                .ok_or_else(|| corrupt("a line is missing"))
        };
        let bytes_of = |name: &str| unhex(field(name)?).ok_or_else(|| corrupt("a value is not hexadecimal"));
        let ledger = match field("ledger")? {
            "making" => LedgerState::Making,
            "made" => LedgerState::Made,
            _ => return Err(corrupt("the state of the ledger is neither making nor made")),
        };
        let rounds = field("rounds")?
            .parse::<NonZeroU32>()
            .ok()
            .filter(|rounds| rounds.get() <= MOST_ROUNDS)
            .ok_or_else(|| corrupt("the number of rounds is out of range"))?;
        let salt = bytes_of("salt")?.try_into().map_err(|_| corrupt("the salt has the wrong length"))?;
        let (check, wrapped) = (bytes_of("check")?, bytes_of("root")?);
        Ok(Self { ledger, stretch: Stretch { salt, rounds }, check, wrapped })
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |d: &u8| char::from(*d).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}
