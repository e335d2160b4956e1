//! The one place where the host reads a file that a sandbox wrote. It takes the session's outbound key and
//! nothing else, opens the file afresh for each ring, and believes nothing: the file must be a plain file of
//! bounded size, its schema ours byte for byte, its rows few enough and well formed, its numbers the next
//! ones. SQLite never gets to write here: replaying a journal that the other side forged once deleted a file
//! of the host. What fails here is a violation, and the caller parks the session.

use std::fmt;
use std::path::Path;

use rusqlite::Connection;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::contract::cipher::{self, CipherError, FileKey, Role};
use crate::contract::conveyor::ConveyorError;
use crate::contract::outbound::{self, OutboundRow};

/// Largest `outbound.db`. An honest one holds the rows of one ring, whose predecessor's were removed in the same
/// transaction, and stays below half of this. A sandbox can write larger files, so that one whose `outbound.db`
/// is too large is caught at it.
const LARGEST: u64 = 4 * outbound::BYTES_A_RING as u64;

/// SQLCipher 4's page.
const PAGE: u64 = 4096;

/// Why nothing was read.
#[derive(Debug)]
pub(super) enum Refused {
    /// The sandbox broke the contract; the text says how and holds nothing that it wrote.
    Violation(String),
    /// The host could not look: out of descriptors or memory, or the disk failed.
    Host(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(how) => write!(f, "the sandbox broke the contract: {how}"),
            Self::Host(why) => write!(f, "outbound.db could not be read: {why}"),
        }
    }
}

/// Reads the rows after `cursor`; the last one must be `last`.
pub(super) fn read(path: &Path, key: &FileKey, cursor: u64, last: u64) -> Result<Vec<OutboundRow>, Refused> {
    check_file(path)?;
    let connection = cipher::open(path, key, Role::HostOutbound).map_err(|error| match error {
        CipherError::NotADatabase => violation("outbound.db is no database under its key"),
        CipherError::Sqlite(error) => judge(&error),
    })?;
    check_schema(&connection).map_err(|error| judge(&error))??;
    outbound::read_rows(&connection, cursor, last).map_err(|error| match error {
        ConveyorError::Cipher(_) => violation("outbound.db is no database under its key"),
        ConveyorError::Sqlite(error) => judge(&error),
        other => violation(other.to_string()),
    })
}

fn violation(how: impl Into<String>) -> Refused {
    Refused::Violation(how.into())
}

fn check_file(path: &Path) -> Result<(), Refused> {
    // Non-blocking, so that a FIFO in the file's place does not hold the reader.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP | Errno::NXIO | Errno::NOTDIR => violation("outbound.db is not a plain file"),
        error => Refused::Host(error.to_string()),
    })?;
    let stat = rustix::fs::fstat(&file).map_err(|error| Refused::Host(error.to_string()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(violation("outbound.db is not a plain file"));
    }
    if stat.st_nlink != 1 {
        return Err(violation("outbound.db has a second name"));
    }
    let size = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
    if size > LARGEST {
        return Err(violation(format!("outbound.db is larger than {} MiB", LARGEST >> 20)));
    }
    if size == 0 || size % PAGE != 0 {
        return Err(violation("outbound.db is not a whole number of pages"));
    }
    Ok(())
}

/// The schema text must be ours, byte for byte and nothing beside it, before any query names a table.
fn check_schema(connection: &Connection) -> Result<Result<(), Refused>, rusqlite::Error> {
    let mut query =
        connection.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY rowid")?;
    let mut rows = query.query([])?;
    let mut expected = outbound::statements();
    while let Some(row) = rows.next()? {
        let (kind, name): (String, String) = (row.get(0)?, row.get(1)?);
        let (table, sql): (String, Option<String>) = (row.get(2)?, row.get(3)?);
        let ours = kind == "table"
            && name == table
            && sql.as_deref().is_some_and(|sql| {
                expected.next() == Some(sql) && sql.starts_with(&format!("CREATE TABLE {name} ("))
            });
        if !ours {
            return Ok(Err(violation("the schema of outbound.db is not ours")));
        }
    }
    Ok(if expected.next().is_none() {
        Ok(())
    } else {
        Err(violation("the schema of outbound.db is not ours"))
    })
}

/// What SQLite says of a file that somebody else wrote is that somebody's doing, unless it is plainly ours.
fn judge(error: &rusqlite::Error) -> Refused {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::OutOfMemory | ErrorCode::CannotOpen) => Refused::Host(error.to_string()),
        // A file that ends too early was cut by its writer; any other failure to read is the disk's.
        Some(ErrorCode::SystemIoFailure)
            if error
                .sqlite_error()
                .is_none_or(|e| e.extended_code != rusqlite::ffi::SQLITE_IOERR_SHORT_READ) =>
        {
            Refused::Host(error.to_string())
        }
        Some(ErrorCode::OperationInterrupted) => violation("reading outbound.db takes too long"),
        Some(ErrorCode::TooBig) => violation("outbound.db holds a value that is too long"),
        // The message of SQLite may quote the file's own words, so only its code is kept.
        Some(code) => violation(format!("outbound.db is damaged ({code:?})")),
        None => violation("outbound.db holds a value of the wrong type"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::cipher::{ConveyorFile, SessionSecret};
    use crate::contract::ids::{MessageId, SessionId};
    use crate::contract::outbound::{MessageOut, OutboundBody, OutboundKind, OutboundWriter, Processing};
    use crate::contract::time::Millis;

    struct Case {
        dir: std::path::PathBuf,
        key: FileKey,
    }

    impl Case {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("hostile-{}", SessionId::mint()));
            std::fs::create_dir(&dir).unwrap();
            Self { dir, key: SessionSecret::mint().sandbox_key().file_key(ConveyorFile::Outbound) }
        }

        fn path(&self) -> std::path::PathBuf {
            self.dir.join("outbound.db")
        }

        fn raw(&self, sql: &str) {
            let connection = cipher::open(&self.path(), &self.key, Role::SandboxOutbound).unwrap();
            connection.execute_batch(sql).unwrap();
        }

        fn refused(&self, cursor: u64, last: u64) -> String {
            match read(&self.path(), &self.key, cursor, last) {
                Err(Refused::Violation(how)) => how,
                other => panic!("{other:?}"),
            }
        }
    }

    impl Drop for Case {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    fn message(seq: u64, text: &str) -> OutboundRow {
        OutboundRow {
            seq,
            body: OutboundBody::Message(MessageOut {
                in_reply_to: None,
                kind: OutboundKind::Chat,
                channel: None,
                chat: None,
                thread: None,
                text: text.to_owned(),
                created_at: Millis(0),
            }),
        }
    }

    #[test]
    fn honest_rows_are_read_in_order() {
        let case = Case::new();
        let mut writer = OutboundWriter::create(&case.path(), &case.key).unwrap();
        let done =
            OutboundRow { seq: 3, body: OutboundBody::Processing(MessageId::mint(), Processing::Done) };
        writer.append(&[message(1, "one"), done.clone(), message(5, "two")], 0).unwrap();
        let rows = read(&case.path(), &case.key, 0, 5).unwrap();
        assert_eq!(rows, [message(1, "one"), done, message(5, "two")]);
        writer.append(&[message(7, "three")], 5).unwrap();
        assert_eq!(read(&case.path(), &case.key, 5, 7).unwrap(), [message(7, "three")]);
        for (cursor, last) in [(5, 9), (7, 7), (7, 9), (0, 5)] {
            case.refused(cursor, last);
        }
    }

    #[test]
    fn the_largest_rings_take_less_than_half_of_what_is_allowed() {
        let case = Case::new();
        let mut writer = OutboundWriter::create(&case.path(), &case.key).unwrap();
        let (most, long) = (outbound::BYTES_A_RING, "x".repeat(outbound::BYTES_A_VALUE - 1));
        let (mut stored, mut seq) = (0, 1);
        for _ in 0..5 {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while bytes + message(seq, &long).body.weight() <= most {
                rows.push(message(seq, &long));
                bytes += rows.last().unwrap().body.weight();
                seq += 2;
            }
            writer.append(&rows, stored).unwrap();
            assert_eq!(read(&case.path(), &case.key, stored, seq - 2).unwrap().len(), rows.len());
            stored = seq - 2;
        }
        let size = std::fs::metadata(case.path()).unwrap().len();
        assert!(size > most as u64 && size < LARGEST / 2, "{size}");
    }

    #[test]
    fn a_foreign_schema_is_refused() {
        let triggers = "CREATE TRIGGER t AFTER INSERT ON processing BEGIN SELECT 1; END;";
        let changed = outbound::SCHEMA.replace("text TEXT NOT NULL", "text TEXT");
        let view = outbound::SCHEMA.replacen("CREATE TABLE messages_out (", "CREATE TABLE hidden (", 1)
            + "CREATE VIEW messages_out AS SELECT * FROM hidden;";
        for sql in [
            outbound::SCHEMA.to_owned() + triggers,
            outbound::SCHEMA.to_owned() + "CREATE TABLE more (x);",
            outbound::SCHEMA.to_owned() + "CREATE INDEX i ON processing (message);",
            changed,
            view,
            "CREATE TABLE processing (seq INTEGER PRIMARY KEY);".to_owned(),
        ] {
            let case = Case::new();
            case.raw(&sql);
            assert!(case.refused(0, 1).contains("schema"), "{sql}");
        }
    }

    #[test]
    fn what_is_no_plain_file_of_pages_is_refused() {
        let case = Case::new();
        case.raw(outbound::SCHEMA);
        let path = case.path();
        let good = std::fs::read(&path).unwrap();
        let hold = |bytes: &[u8]| std::fs::write(&path, bytes).unwrap();
        for bytes in [vec![], vec![1; 100], vec![7; 8192], good[..4096].to_vec()] {
            hold(&bytes);
            case.refused(0, 1);
        }
        for at in (0..good.len()).step_by(97) {
            let mut bent = good.clone();
            bent[at] ^= 1;
            hold(&bent);
            case.refused(0, 1);
        }
        hold(&good);
        std::fs::File::options().write(true).open(&path).unwrap().set_len(LARGEST + 4096).unwrap();
        assert!(case.refused(0, 1).contains("larger"));
        hold(&good);
        std::fs::hard_link(&path, case.dir.join("second")).unwrap();
        assert!(case.refused(0, 1).contains("second name"));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(case.dir.join("second"), &path).unwrap();
        assert!(case.refused(0, 1).contains("plain file"));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(case.refused(0, 1).contains("plain file"));
    }

    #[test]
    fn too_much_and_ill_typed_rows_are_refused() {
        let case = Case::new();
        case.raw(outbound::SCHEMA);
        case.raw(
            "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 2 FROM n WHERE x < 20001)
             INSERT INTO processing SELECT x, 'msg_01ARZ3NDEKTSV4RRFFQ69G5FAV', 'done' FROM n",
        );
        assert!(case.refused(0, 20001).contains("too much"));
        case.raw("DELETE FROM processing; INSERT INTO processing VALUES (1, 'no id', 'done')");
        assert!(case.refused(0, 1).contains("its message"));
        case.raw(
            "DELETE FROM processing;
             INSERT INTO messages_out VALUES (1, NULL, 'chat', NULL, NULL, NULL, hex(zeroblob(800000)), 1)",
        );
        assert!(case.refused(0, 1).contains("too long"));
        case.raw("DELETE FROM messages_out; INSERT INTO messages_out VALUES (-1, NULL, 'chat', NULL, NULL, NULL, '', 1)");
        assert!(case.refused(0, 1).contains("numbers"));
    }
}
