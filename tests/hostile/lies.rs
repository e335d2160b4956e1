//! Lies about `outbound.db`: its bytes, its schema, its numbers, and its content while the host reads it.

use std::io::{Seek, SeekFrom, Write};

use ironclaw::contract::action::Action;
use ironclaw::contract::cipher::{self, FileKey, Role};
use ironclaw::contract::ids::MessageId;
use ironclaw::contract::inbound::MessageIn;
use ironclaw::contract::json::Value;
use ironclaw::contract::outbound::{
    MessageOut, OutboundBody, OutboundKind, OutboundRow, OutboundWriter, Processing, SCHEMA,
};
use ironclaw::contract::paths;
use ironclaw::contract::time::Millis;
use rusqlite::Connection;

use super::bell::Bell;
use super::{Done, Guest};

/// The first three odd numbers after what the host has stored.
fn numbers(bell: &Bell) -> [u64; 3] {
    let first = bell.next_number();
    [first, first + 2, first + 4]
}

/// A correct answer to the message: started, the text, done.
pub(super) fn reply(guest: &Guest, bell: &mut Bell, text: &str) -> Done {
    let mut writer = OutboundWriter::create(paths::OUTBOUND.as_ref(), &guest.outbound)?;
    let numbers = numbers(bell);
    writer.append(&rows(guest, numbers, text), 0)?;
    bell.ring(numbers[2])
}

/// Says that the turn began, and nothing more.
pub(super) fn begin_turn(guest: &Guest, bell: &mut Bell) -> Done {
    let numbers = numbers(bell);
    let [started, ..] = rows(guest, numbers, "");
    write_rows(guest, &[started])?;
    bell.ring(numbers[0])
}

fn rows(guest: &Guest, numbers: [u64; 3], text: &str) -> [OutboundRow; 3] {
    answer_rows(&guest.message, numbers, text)
}

/// The rows of a turn that answers one message.
pub(super) fn answer_rows(message_in: &MessageIn, numbers: [u64; 3], text: &str) -> [OutboundRow; 3] {
    let id = message_in.id.clone();
    [
        OutboundRow { seq: numbers[0], body: OutboundBody::Processing(id.clone(), Processing::Started) },
        OutboundRow { seq: numbers[1], body: OutboundBody::Message(message(Some(id.clone()), text)) },
        OutboundRow { seq: numbers[2], body: OutboundBody::Processing(id, Processing::Done) },
    ]
}

fn message(in_reply_to: Option<MessageId>, text: &str) -> MessageOut {
    MessageOut {
        in_reply_to,
        kind: OutboundKind::Chat,
        channel: None,
        chat: None,
        thread: None,
        text: text.to_owned(),
        created_at: Millis::now(),
    }
}

/// Words, or requests for an action, that answer the message whose turn is never said to begin.
pub(super) fn again(guest: &Guest, kind: OutboundKind) -> OutboundBody {
    let text = match kind {
        OutboundKind::Chat => "again".to_owned(),
        OutboundKind::Action => {
            let name = "anything".to_owned();
            Action { name, call: "again".to_owned(), arguments: Value::Object(Vec::new()) }.encode()
        }
    };
    OutboundBody::Message(MessageOut { kind, ..message(Some(guest.message.id.clone()), &text) })
}

/// Valid rings of so many rows without end, as fast as they are acknowledged.
pub(super) fn ring_without_end(guest: &Guest, rows: usize, body: &OutboundBody) -> Done {
    let mut bell = Bell::begin()?;
    let mut writer = OutboundWriter::create(paths::OUTBOUND.as_ref(), &guest.outbound)?;
    let mut seq = numbers(&bell)[0];
    loop {
        let many: Vec<OutboundRow> =
            (seq..).step_by(2).take(rows).map(|seq| OutboundRow { seq, body: body.clone() }).collect();
        writer.append(&many, seq.saturating_sub(2))?;
        seq += 2 * rows as u64;
        bell.ring(seq - 2)?;
    }
}

/// Tells one lie, then reads the doorbell until it is closed.
pub(super) fn tell(guest: &Guest, lie: &str) -> Done {
    let mut bell = Bell::begin()?;
    let [first, second, third] = numbers(&bell);
    let honest = rows(guest, [first, second, third], lie);
    let last = match lie {
        "malformed" => {
            overwrite(&noise(64 * 1024))?;
            third
        }
        "empty" => third,
        "torn" => {
            write_rows(guest, &honest)?;
            let half = std::fs::metadata(paths::OUTBOUND)?.len() / 2;
            std::fs::OpenOptions::new().write(true).open(paths::OUTBOUND)?.set_len(half / 4096 * 4096)?;
            third
        }
        "odd-size" => {
            write_rows(guest, &honest)?;
            let size = std::fs::metadata(paths::OUTBOUND)?.len();
            std::fs::OpenOptions::new().write(true).open(paths::OUTBOUND)?.set_len(size + 1)?;
            third
        }
        "oversized" => {
            write_rows(guest, &honest)?;
            grow(LARGEST + 4096, |_| Ok(()))?;
            third
        }
        "holes" => {
            write_rows(guest, &honest)?;
            grow(LARGEST, |_| Ok(()))?;
            third
        }
        "beyond" => {
            write_rows(guest, &honest)?;
            std::fs::OpenOptions::new().write(true).open(paths::OUTBOUND)?.set_len((64 << 20) + 4096)?;
            third
        }
        "sparse" => {
            write_rows(guest, &honest)?;
            grow(LARGEST, |file| {
                file.seek(SeekFrom::End(-1))?;
                file.write_all(b"x")
            })?;
            third
        }
        "plain" => {
            // An unencrypted database with the right tables.
            let plain = Connection::open("/tmp/plain.db")?;
            plain.execute_batch(SCHEMA)?;
            drop(plain);
            overwrite(&std::fs::read("/tmp/plain.db")?)?;
            third
        }
        "trigger" => {
            write_rows(guest, &honest)?;
            raw(guest, "CREATE TRIGGER t AFTER INSERT ON messages_out BEGIN DELETE FROM processing; END")?;
            third
        }
        "view" => {
            raw(
                guest,
                &format!(
                    "{SCHEMA} DROP TABLE messages_out; CREATE VIEW messages_out AS
                WITH RECURSIVE endless(seq) AS (SELECT 1 UNION ALL SELECT seq + 2 FROM endless)
                SELECT seq, NULL, 'chat', NULL, NULL, NULL, 'x', 0 FROM endless"
                ),
            )?;
            third
        }
        "index" => {
            write_rows(guest, &honest)?;
            raw(guest, "CREATE INDEX i ON messages_out (abs(seq))")?;
            third
        }
        "extra-table" => {
            write_rows(guest, &honest)?;
            raw(guest, "CREATE TABLE more (x)")?;
            third
        }
        "other-columns" => {
            raw(guest, &SCHEMA.replace("text TEXT NOT NULL", "text BLOB"))?;
            third
        }
        "schema-text" => {
            write_rows(guest, &honest)?;
            raw(
                guest,
                "PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'messages_out'",
            )?;
            third
        }
        "even" => {
            write_rows(guest, &rows(guest, [first + 1, first + 3, first + 5], lie))?;
            first + 5
        }
        "below" => {
            // Two rows are accepted; the first one's number is then rung again.
            write_rows(guest, honest.get(..2).unwrap_or_default())?;
            bell.ring(second)?;
            first
        }
        "repeated" => {
            begin_turn(guest, &mut bell)?;
            first
        }
        "after-the-end" => {
            write_rows(guest, &honest)?;
            bell.ring(third)?;
            third + 2
        }
        "ahead" => {
            write_rows(guest, &honest)?;
            third + 100
        }
        "behind" => {
            write_rows(guest, &honest)?;
            second
        }
        "huge-text" => {
            write_rows(guest, &rows(guest, [first, second, third], &"x".repeat(2 << 20)))?;
            third
        }
        "many-rows" => {
            let body = OutboundBody::Message(message(None, "x"));
            let many: Vec<OutboundRow> =
                (0..20_000).map(|n| OutboundRow { seq: first + 2 * n, body: body.clone() }).collect();
            write_rows(guest, &many)?;
            first + 2 * 19_999
        }
        "wrong-types" => {
            raw(
                guest,
                &format!("{SCHEMA} INSERT INTO processing VALUES ({first}, 'not an id', 'not a state')"),
            )?;
            first
        }
        "foreign-reply" => {
            let mut foreign = honest.clone();
            let body = OutboundBody::Message(message(Some(MessageId::mint()), "not mine to answer"));
            if let Some(row) = foreign.get_mut(1) {
                row.body = body;
            }
            write_rows(guest, &foreign)?;
            third
        }
        // To another chat, and not in full; to a thread of this chat that nobody spoke of; and an action for elsewhere.
        "half-address" | "foreign-thread" | "foreign-action" => {
            let mut row = message(Some(guest.message.id.clone()), "for elsewhere");
            match lie {
                "half-address" => row.chat = Some("elsewhere".to_owned()),
                "foreign-thread" => row.thread = Some("elsewhere".to_owned()),
                _ => {
                    row.kind = OutboundKind::Action;
                    row.channel = Some(guest.message.channel.clone());
                    row.chat = Some("elsewhere".to_owned());
                }
            }
            write_rows(guest, &[OutboundRow { seq: first, body: OutboundBody::Message(row) }])?;
            first
        }
        "foreign-done" => {
            let body = OutboundBody::Processing(MessageId::mint(), Processing::Done);
            write_rows(guest, &[OutboundRow { seq: first, body }])?;
            first
        }
        "swap" => return swap(guest, &mut bell, &honest),
        other => return Err(format!("there is no mode {other}").into()),
    };
    bell.send(format!("out {last}\n").as_bytes())?;
    bell.listen_forever()
}

/// Exchanges the file's content as fast as it can while the host reads it.
fn swap(guest: &Guest, bell: &mut Bell, honest: &[OutboundRow]) -> Done {
    write_rows(guest, honest)?;
    let good = std::fs::read(paths::OUTBOUND)?;
    let bad = noise(good.len());
    std::thread::Builder::new().spawn(move || {
        for turn in 0u64.. {
            let content = if turn % 2 == 0 { &bad } else { &good };
            if overwrite(content).is_err() {
                return;
            }
        }
    })?;
    let Some(mut last) = honest.last().map(|row| row.seq) else { return Ok(()) };
    loop {
        bell.ring(last)?;
        last += 2;
    }
}

fn write_rows(guest: &Guest, rows: &[OutboundRow]) -> Done {
    OutboundWriter::create(paths::OUTBOUND.as_ref(), &guest.outbound)?.append(rows, 0)?;
    Ok(())
}

/// How many rows these tables of a conveyor have together, between two transactions of its writer. Who writes a
/// file keeps it locked, so this reads a copy.
pub(super) fn count(path: &str, key: &FileKey, tables: &[&str]) -> Result<i64, Box<dyn std::error::Error>> {
    let copy = format!("{}/counted.db", paths::TMP);
    std::fs::copy(path, &copy)?;
    let connection = cipher::open(copy.as_ref(), key, Role::SandboxOutbound)?;
    let mut rows = 0;
    for table in tables {
        rows +=
            connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0))?;
    }
    Ok(rows)
}

/// Statements of its own in the encrypted file.
fn raw(guest: &Guest, statements: &str) -> Done {
    let connection = cipher::open(paths::OUTBOUND.as_ref(), &guest.outbound, Role::SandboxOutbound)?;
    Ok(connection.execute_batch(statements)?)
}

fn overwrite(content: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).open(paths::OUTBOUND)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)
}

/// The largest file that the host reads.
const LARGEST: u64 = 32 << 20;

/// Makes the file so long.
fn grow(length: u64, finish: impl Fn(&mut std::fs::File) -> std::io::Result<()>) -> Done {
    let mut file = std::fs::OpenOptions::new().write(true).open(paths::OUTBOUND)?;
    file.set_len(length)?;
    Ok(finish(&mut file)?)
}

/// Bytes that are no database and compress to nothing simple.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}
