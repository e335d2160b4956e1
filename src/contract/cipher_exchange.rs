//! Tests that our files are SQLCipher 4's: written here and read by another build of it, and the other way
//! round, with every role; and that what a role must not do is refused. The other build is a package of
//! Python's registry; `IRONCLAW_TEST_PYTHON` names an interpreter that has it, and `tests/run` makes one.
//! Without it these tests fail. They touch files in a temporary directory of their own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::Connection;

use super::cipher::{self, CipherError, FileKey, Role};

/// Rows of each exchange: enough for several levels of pages.
const ROWS: i64 = 2_000;

/// Reads a job from standard input (so that no key is an argument) and prints what it found.
const OTHER_BUILD: &str = r#"
import sqlcipher3, sys
job, path, key = sys.stdin.read().split("\n")[:3]
db = sqlcipher3.connect(path)
db.execute("PRAGMA key=\"x'%s'\"" % key)
print(db.execute("PRAGMA cipher_version").fetchone()[0])
if job == "write":
    db.execute("CREATE TABLE exchanged (n INTEGER PRIMARY KEY, word TEXT, bytes BLOB)")
    for n in range(2000):
        db.execute("INSERT INTO exchanged VALUES (?,?,?)", (n, "wörd %d" % n, bytes([n % 256]) * (n % 97)))
if job == "add":
    db.execute("INSERT INTO exchanged VALUES (-1, 'added', x'00')")
db.commit()
print(len(db.execute("PRAGMA cipher_integrity_check").fetchall()))
print(db.execute("PRAGMA integrity_check").fetchone()[0])
wrong = sum(1 for n, w, b in db.execute("SELECT n, word, bytes FROM exchanged WHERE n >= 0")
            if w != "wörd %d" % n or bytes(b) != bytes([n % 256]) * (n % 97))
print(db.execute("SELECT count(*) FROM exchanged").fetchone()[0], wrong)
"#;

const WRITERS: [Role; 4] =
    [Role::HostInbound, Role::SandboxOutbound, Role::SandboxSession, Role::LedgerWriter];
const READERS: [Role; 3] = [Role::SandboxInbound, Role::HostOutbound, Role::LedgerReader];

#[test]
fn another_build_reads_what_every_writer_wrote() {
    let scratch = Scratch::new();
    for role in WRITERS {
        let (path, key) = (scratch.path(role), random_key());
        fill(&path, &key, role);
        assert_eq!(other("read", &path, &key), Ok(sound(ROWS)), "{role:?}");
    }
}

#[test]
fn every_reader_reads_what_another_build_wrote() {
    let scratch = Scratch::new();
    let (path, key) = (scratch.path("theirs"), random_key());
    assert_eq!(other("write", &path, &key), Ok(sound(ROWS)));
    for role in READERS.into_iter().chain(WRITERS) {
        let connection = cipher::open(&path, &key, role).unwrap();
        assert_eq!(check(&connection), ROWS, "{role:?}");
    }
}

#[test]
fn a_file_goes_there_and_back() {
    let scratch = Scratch::new();
    for role in WRITERS {
        let (path, key) = (scratch.path(role), random_key());
        fill(&path, &key, role);
        assert_eq!(other("add", &path, &key), Ok(sound(ROWS + 1)), "{role:?}");
        let connection = cipher::open(&path, &key, role).unwrap();
        assert_eq!(check(&connection), ROWS + 1, "{role:?}");
        connection.execute("DELETE FROM exchanged WHERE n = -1", []).unwrap();
        drop(connection);
        assert_eq!(other("read", &path, &key), Ok(sound(ROWS)), "{role:?}");
    }
}

#[test]
fn a_wrong_key_is_refused_on_both_sides() {
    let scratch = Scratch::new();
    let (path, key) = (scratch.path("ours"), random_key());
    fill(&path, &key, Role::HostInbound);
    let wrong = random_key();
    assert!(other("read", &path, &wrong).is_err_and(|error| error.contains("not a database")));
    for role in READERS.into_iter().chain(WRITERS) {
        let refused = cipher::open(&path, &wrong, role);
        assert!(matches!(refused, Err(CipherError::NotADatabase)), "{role:?}");
    }
    assert_eq!(other("read", &path, &key), Ok(sound(ROWS)), "a refused key changed the file");
}

#[test]
fn readers_cannot_write() {
    let scratch = Scratch::new();
    let (path, key) = (scratch.path("ours"), random_key());
    fill(&path, &key, Role::HostInbound);
    let before = std::fs::read(&path).unwrap();
    for role in READERS {
        let reader = cipher::open(&path, &key, role).unwrap();
        for statement in [
            "INSERT INTO exchanged VALUES (-1, 'no', x'00')",
            "UPDATE exchanged SET word = 'no'",
            "DELETE FROM exchanged",
            "CREATE TABLE other (x)",
            "DROP TABLE exchanged",
            "PRAGMA user_version = 7",
            "PRAGMA query_only = 0; DELETE FROM exchanged",
            "VACUUM",
        ] {
            assert!(reader.execute_batch(statement).is_err(), "{role:?} could {statement}");
        }
        assert_eq!(check(&reader), ROWS);
    }
    assert!(std::fs::read(&path).unwrap() == before, "a reader changed the file");
}

#[test]
fn nothing_is_on_disk_in_plain() {
    let scratch = Scratch::new();
    for role in WRITERS {
        let (path, key) = (scratch.path(role), random_key());
        let writer = fill(&path, &key, role);
        // While the writer is open its journal or log is beside the file; both are looked at.
        writer.execute_batch("BEGIN IMMEDIATE; UPDATE exchanged SET word = word || ' again'").unwrap();
        let mut seen = 0;
        for file in std::fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().path()) {
            let raw = std::fs::read(&file).unwrap();
            seen += raw.len();
            for marker in
                ["SQLite format 3".as_bytes(), "exchanged".as_bytes(), "wörd".as_bytes(), "again".as_bytes()]
            {
                let found = raw.windows(marker.len()).any(|window| window == marker);
                assert!(!found, "{} holds {:?}", file.display(), String::from_utf8_lossy(marker));
            }
            let mut bytes = key.as_bytes().to_vec();
            for _ in 0..2 {
                assert!(!raw.windows(bytes.len()).any(|window| window == bytes), "the key is on disk");
                bytes.reverse();
            }
        }
        assert!(seen > 100_000);
    }
}

#[test]
fn one_changed_bit_is_noticed() {
    let scratch = Scratch::new();
    let (path, key) = (scratch.path("ours"), random_key());
    fill(&path, &key, Role::HostInbound);
    let good = std::fs::read(&path).unwrap();
    for at in [0, 20, 4095, 4096 * 3 + 100, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        std::fs::write(&path, &bad).unwrap();
        let read = cipher::open(&path, &key, Role::HostOutbound).and_then(|connection| {
            connection
                .query_row("SELECT sum(length(word) + length(bytes)) FROM exchanged", [], |row| {
                    row.get::<_, i64>(0)
                })
                .map_err(CipherError::from)
        });
        assert!(read.is_err(), "byte {at}");
    }
}

#[test]
fn our_cipher_is_version_four() {
    let scratch = Scratch::new();
    let connection = fill(&scratch.path("ours"), &random_key(), Role::HostInbound);
    let version: String = connection.query_row("PRAGMA cipher_version", [], |row| row.get(0)).unwrap();
    assert!(version.starts_with("4."), "{version}");
}

/// Writes the rows that the other build expects, and gives the open connection.
fn fill(path: &Path, key: &FileKey, role: Role) -> Connection {
    let writer = cipher::open(path, key, role).unwrap();
    writer
        .execute_batch("BEGIN; CREATE TABLE exchanged (n INTEGER PRIMARY KEY, word TEXT, bytes BLOB)")
        .unwrap();
    for n in 0..ROWS {
        let bytes = vec![(n % 256) as u8; (n % 97) as usize];
        writer.execute("INSERT INTO exchanged VALUES (?1,?2,?3)", (n, format!("wörd {n}"), bytes)).unwrap();
    }
    writer.execute_batch("COMMIT").unwrap();
    writer
}

/// Checks every row's content and gives their number.
fn check(connection: &Connection) -> i64 {
    let mut query = connection.prepare("SELECT n, word, bytes FROM exchanged WHERE n >= 0").unwrap();
    let mut rows = query.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let n: i64 = row.get(0).unwrap();
        assert_eq!(row.get::<_, String>(1).unwrap(), format!("wörd {n}"));
        assert_eq!(row.get::<_, Vec<u8>>(2).unwrap(), vec![(n % 256) as u8; (n % 97) as usize]);
    }
    connection.query_row("SELECT count(*) FROM exchanged", [], |row| row.get(0)).unwrap()
}

/// What the other build prints for a sound file of so many rows, after its version.
fn sound(rows: i64) -> String {
    format!("0\nok\n{rows} 0")
}

/// Runs a job in the other build. Its first line must name a SQLCipher 4.
fn other(job: &str, path: &Path, key: &FileKey) -> Result<String, String> {
    let python = std::env::var_os("IRONCLAW_TEST_PYTHON").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-python/bin/python")),
        PathBuf::from,
    );
    let mut child = Command::new(&python)
        .args(["-c", OTHER_BUILD])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("{}: {error}; run tests/run, which installs another SQLCipher 4 build", python.display())
        });
    let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let input = format!("{job}\n{}\n{hex}\n", path.display());
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let (version, rest) = said.split_once('\n').unwrap();
    assert!(version.starts_with("4."), "the other build is SQLCipher {version}");
    Ok(rest.trim_end().to_owned())
}

fn random_key() -> FileKey {
    let mut bytes = [0; cipher::KEY_BYTES];
    SystemRandom::new().fill(&mut bytes).unwrap();
    FileKey::from_bytes(bytes)
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let name = format!("exchange-{}", super::ids::MessageId::mint());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).unwrap();
        Scratch(directory)
    }

    fn path(&self, name: impl std::fmt::Debug) -> PathBuf {
        self.0.join(format!("{name:?}.db").replace('"', ""))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
