//! Keys of a conversation and the only way to open a database. Every file is SQLCipher 4 with its defaults
//! and a raw 256-bit key (no passphrase rounds), one key per file, derived with HKDF-SHA-256 (RFC 5869) and
//! the file's name, so that who holds one file's key holds no other's.

use std::fmt;
use std::path::Path;

use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::config::DbConfig;
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags};

use crate::os::memory::wipe;
use crate::os::sqlcipher;

/// Bytes of every key here.
pub const KEY_BYTES: usize = 32;

/// Salt of every derivation; it only has to differ from other programs'.
const SALT: &[u8] = b"ironclaw conversation v1";

struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        KEY_BYTES
    }
}

fn derive(secret: &[u8; KEY_BYTES], purpose: &str) -> [u8; KEY_BYTES] {
    let mut out = [0; KEY_BYTES];
    let prk: Prk = Salt::new(HKDF_SHA256, SALT).extract(secret);
    // 32 bytes are far below HKDF's limit of 255 blocks, so neither step can fail.
    let filled = prk.expand(&[purpose.as_bytes()], Length).and_then(|okm| okm.fill(&mut out));
    if filled.is_err() {
        panic!("HKDF refused to give 32 bytes");
    }
    out
}

macro_rules! secret {
    ($name:ident) => {
        impl $name {
            /// Takes bytes that were derived or stored before.
            pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
                Self(bytes)
            }

            /// The bytes, for handing on; never for showing.
            pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
                &self.0
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                wipe(&mut self.0);
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    };
}

/// The secret of one conversation, kept by the host alone, sealed in the ledger. Deleting it makes every
/// text of the conversation unreadable.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionSecret([u8; KEY_BYTES]);

/// What the sandbox of that conversation is given: enough for its three files, not for the ledger's rows.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey([u8; KEY_BYTES]);

/// The raw key of one database file.
#[derive(Clone, PartialEq, Eq)]
pub struct FileKey([u8; KEY_BYTES]);

secret!(SessionSecret);
secret!(SessionKey);
secret!(FileKey);

impl SessionSecret {
    /// A new random one.
    ///
    /// # Panics
    /// When the system has no random source.
    pub fn mint() -> Self {
        let mut bytes = [0; KEY_BYTES];
        if SystemRandom::new().fill(&mut bytes).is_err() {
            panic!("the system gives no random numbers");
        }
        Self(bytes)
    }

    /// The key that is handed to the sandbox.
    pub fn sandbox_key(&self) -> SessionKey {
        SessionKey(derive(&self.0, "sandbox"))
    }

    /// The key that seals this conversation's texts in the ledger. The sandbox cannot derive it.
    pub fn text_key(&self) -> [u8; KEY_BYTES] {
        derive(&self.0, "ledger text")
    }
}

/// The files whose keys come from a [`SessionKey`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConveyorFile {
    /// `inbound.db`
    Inbound,
    /// `outbound.db`
    Outbound,
    /// `session.db`
    Session,
}

impl SessionKey {
    /// The raw key of one file.
    pub fn file_key(&self, file: ConveyorFile) -> FileKey {
        FileKey(derive(
            &self.0,
            match file {
                ConveyorFile::Inbound => "inbound.db",
                ConveyorFile::Outbound => "outbound.db",
                ConveyorFile::Session => "session.db",
            },
        ))
    }
}

/// Who opens which file, and so how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The ledger's one writer: WAL, a commit on disk before it is answered unless its writer asks for less.
    LedgerWriter,
    /// One of the ledger's readers.
    LedgerReader,
    /// The host writes `inbound.db`; it is made anew for every launch, so nothing is synced.
    HostInbound,
    /// The sandbox reads `inbound.db`.
    SandboxInbound,
    /// The sandbox writes `outbound.db`; like inbound, nothing is synced.
    SandboxOutbound,
    /// The host reads `outbound.db`, which a hostile sandbox wrote.
    HostOutbound,
    /// The sandbox's own memory, synced at every commit.
    SandboxSession,
}

/// Why a database did not open.
#[derive(Debug)]
pub enum CipherError {
    /// The key does not fit or the file is no database: SQLCipher cannot tell one from the other.
    NotADatabase,
    /// Anything else SQLite said.
    Sqlite(rusqlite::Error),
}

impl fmt::Display for CipherError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADatabase => {
                f.write_str("the key does not fit, or the file is damaged or no database of ours")
            }
            Self::Sqlite(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for CipherError {}

impl From<rusqlite::Error> for CipherError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Self::NotADatabase,
            _ => Self::Sqlite(error),
        }
    }
}

/// Opens a database with its key and the discipline of its role, and reads its first page, so that a wrong
/// key fails here and not later. Writers create the file; readers never do.
///
/// # Errors
/// [`CipherError::NotADatabase`] for a wrong key or a damaged file, else what SQLite said.
pub fn open(path: &Path, key: &FileKey, role: Role) -> Result<Connection, CipherError> {
    sqlcipher::initialise();
    let is_new =
        role == Role::SandboxSession && std::fs::symlink_metadata(path).map_or(0, |meta| meta.len()) == 0;
    let common = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = match role {
        Role::LedgerWriter | Role::HostInbound | Role::SandboxOutbound | Role::SandboxSession => {
            let flags = common | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
            Connection::open_with_flags(path, flags)?
        }
        Role::LedgerReader => Connection::open_with_flags(path, common | OpenFlags::SQLITE_OPEN_READ_ONLY)?,
        Role::SandboxInbound | Role::HostOutbound => {
            // No locks, no journal, no shared memory: locks do not cross the wall, and a journal beside the
            // file is the other side's word about what this side should do to it.
            let flags = common | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(immutable_uri(path), flags)?
        }
    };
    sqlcipher::set_key(&connection, key.as_bytes())?;
    // Without it a statement that is used again with other values is parsed again, for a better plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    if role == Role::HostOutbound {
        harden(&mut connection)?;
    }
    if is_new {
        // The first page is written before there is a log. In a file with nothing in it that needs no journal, and
        // so one sync and not four. (A log beside a file without a first page would be thrown away.)
        connection.execute_batch("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=MEMORY;")?;
    }
    connection.execute_batch(match role {
        Role::LedgerWriter => {
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;
             PRAGMA trusted_schema=OFF; PRAGMA busy_timeout=5000;"
        }
        Role::LedgerReader => "PRAGMA query_only=ON; PRAGMA busy_timeout=5000;",
        // One process writes the file as long as it lives, and nothing is mended in place: no locks to take for
        // every transaction, and no journal that would outlive the process.
        Role::HostInbound | Role::SandboxOutbound => {
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=MEMORY;
             PRAGMA synchronous=OFF; PRAGMA cache_size=-128;"
        }
        Role::SandboxInbound => "PRAGMA query_only=ON;",
        Role::HostOutbound => "PRAGMA query_only=ON; PRAGMA cell_size_check=ON;",
        // Crosses no boundary and is held by one process alone, so it may have a log, whose index is then in that
        // process's own memory: one sync a commit, where a rollback journal needs four.
        Role::SandboxSession => {
            "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;
             PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=256; PRAGMA cache_size=-64;"
        }
    })?;
    tables(&connection)?;
    Ok(connection)
}

fn tables(connection: &Connection) -> Result<i64, rusqlite::Error> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
}

/// Opens `session.db` as [`Role::SandboxSession`] and gives an empty one its tables; tells whether it did.
///
/// # Errors
/// As [`open`].
pub fn open_session(path: &Path, key: &FileKey, schema: &str) -> Result<(Connection, bool), CipherError> {
    let connection = open(path, key, Role::SandboxSession)?;
    let is_empty = tables(&connection)? == 0;
    if is_empty {
        // Tables without rows are worth no sync: the first transaction's covers the whole log, and a machine that
        // loses its power before leaves an empty file again.
        connection.execute_batch(&format!(
            "PRAGMA synchronous=OFF; BEGIN; {schema} COMMIT; PRAGMA synchronous=FULL;"
        ))?;
    }
    Ok((connection, is_empty))
}

/// Work that one reading of the other side's file may take, in steps of 1,000 instructions of SQLite's machine:
/// a full ring of rows needs some hundred.
const STEPS: u32 = 5_000;

/// Takes from SQLite, before the first page is read, every power that a page of the other side could use.
fn harden(connection: &mut Connection) -> Result<(), rusqlite::Error> {
    for (setting, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DDL, false),
        (DbConfig::SQLITE_DBCONFIG_DQS_DML, false),
    ] {
        connection.set_db_config(setting, on)?;
    }
    for (limit, most) in [
        // One value, with room for the record around it.
        (Limit::SQLITE_LIMIT_LENGTH, (1 << 20) + 65_536),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, 10_000),
        (Limit::SQLITE_LIMIT_COLUMN, 64),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 10),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 3),
        (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 8),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 50),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 10),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    let mut steps = 0;
    connection.progress_handler(
        1_000,
        Some(move || {
            steps += 1;
            steps > STEPS
        }),
    )
}

/// `file:` URI of a path with everything but plain characters escaped, read as immutable.
fn immutable_uri(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.') {
            uri.push(char::from(byte));
        } else {
            uri.push_str(&format!("%{byte:02x}"));
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(std::path::PathBuf);

    impl Scratch {
        fn new() -> Self {
            let dir =
                std::env::temp_dir().join(format!("cipher-{}", crate::contract::ids::SessionId::mint()));
            std::fs::create_dir(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_file_has_a_key_of_its_own() {
        let secret = SessionSecret::from_bytes([7; 32]);
        let key = secret.sandbox_key();
        let mut seen: Vec<[u8; 32]> = [ConveyorFile::Inbound, ConveyorFile::Outbound, ConveyorFile::Session]
            .map(|file| *key.file_key(file).as_bytes())
            .to_vec();
        seen.push(secret.text_key());
        seen.push(*key.as_bytes());
        seen.push([7; 32]);
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn what_is_written_is_read_only_with_the_key_and_never_in_plain() {
        let dir = Scratch::new();
        let path = dir.0.join("inbound.db");
        let key = SessionSecret::mint().sandbox_key().file_key(ConveyorFile::Inbound);
        let marker = crate::contract::ids::MessageId::mint().to_string();
        let writer = open(&path, &key, Role::HostInbound).unwrap();
        writer.execute_batch("CREATE TABLE t (x TEXT)").unwrap();
        writer.execute("INSERT INTO t VALUES (?1)", [&marker]).unwrap();
        let reader = open(&path, &key, Role::SandboxInbound).unwrap();
        assert_eq!(reader.query_row("SELECT x FROM t", [], |r| r.get::<_, String>(0)).unwrap(), marker);
        assert!(reader.execute("INSERT INTO t VALUES ('no')", []).is_err());
        let other = SessionSecret::mint().sandbox_key().file_key(ConveyorFile::Inbound);
        assert!(matches!(open(&path, &other, Role::SandboxInbound), Err(CipherError::NotADatabase)));
        let raw = std::fs::read(&path).unwrap();
        assert!(raw.len() > 4096 && !raw.windows(marker.len()).any(|w| w == marker.as_bytes()));
        assert!(!raw.starts_with(b"SQLite format 3"));
    }

    #[test]
    fn readers_never_make_a_file() {
        let dir = Scratch::new();
        let path = dir.0.join("none ?#%.db");
        let key = FileKey::from_bytes([1; 32]);
        for role in [Role::SandboxInbound, Role::HostOutbound, Role::LedgerReader] {
            assert!(open(&path, &key, role).is_err());
            assert!(!path.exists());
        }
        open(&path, &key, Role::SandboxOutbound).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
        assert!(open(&path, &key, Role::HostOutbound).is_ok());
    }
}
