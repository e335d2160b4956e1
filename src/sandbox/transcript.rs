//! What the agent remembers of earlier turns: whole turns in `session.db`, the newest of them within a budget
//! of characters told to the model. Long tool inputs and results are cut when a turn is put away. It touches
//! the transaction it is given and nothing else.

use rusqlite::{Connection, params};

use super::journal::JournalError;
use super::models::{Block, Message, ToolInput};
use crate::contract::json::{self, Value};

/// Characters of earlier turns that the model is told of: about 15,000 tokens.
const TOLD: u64 = 60_000;
/// Characters that are kept; more than is told, for the day on which more can be told.
const KEPT: u64 = 240_000;
/// Longest text of a tool's input or result in an earlier turn.
const TOOL_TEXT: usize = 2_000;
/// Longest other text in an earlier turn.
const TEXT: usize = 20_000;

/// Most bytes of one earlier turn; of a longer one only the question and the answer are kept, cut short.
const ENTRY_BYTES: usize = 128 << 10;
/// Longest text in such a one.
const BRIEF_TEXT: usize = 300;

/// Earlier turns, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Their messages.
    pub messages: Vec<Message>,
    /// How many still earlier turns are left out.
    pub left_out: u64,
}

/// Puts a turn away and removes the oldest that no longer fit; says how many those were.
///
/// # Errors
/// When the file fails.
pub fn append(tx: &Connection, turn: u64, messages: &[Message]) -> Result<u64, JournalError> {
    let kept = messages.iter().map(|message| shortened(message).to_value()).collect();
    let mut entry = Value::Array(kept).to_string();
    if entry.len() > ENTRY_BYTES {
        entry = Value::Array(brief(messages)).to_string();
    }
    let size = entry.chars().count() as u64;
    tx.prepare_cached("INSERT INTO transcript VALUES (?1, ?2, ?3)")?.execute(params![turn, entry, size])?;
    let first = first_within(tx, KEPT)?;
    Ok(tx.prepare_cached("DELETE FROM transcript WHERE turn < ?1")?.execute([first])? as u64)
}

/// The newest turns within the budget; the newest of all in any case. `removed` earlier ones are gone.
///
/// # Errors
/// When the file fails or holds what was never written to it.
pub fn window(db: &Connection, removed: u64) -> Result<Window, JournalError> {
    let first = first_within(db, TOLD)?;
    let mut messages = Vec::new();
    let mut query = db.prepare_cached("SELECT entry FROM transcript WHERE turn >= ?1 ORDER BY turn")?;
    let mut found = query.query([first])?;
    while let Some(row) = found.next()? {
        let entry: String = row.get(0)?;
        let turn = json::parse(entry.as_bytes()).ok();
        let turn = turn.as_ref().and_then(Value::as_array).unwrap_or_default();
        for message in turn {
            let read = Message::from_value(message);
            messages.push(read.ok_or_else(|| JournalError::Lost("an earlier turn does not read".into()))?);
        }
    }
    let untold = db
        .prepare_cached("SELECT count(*) FROM transcript WHERE turn < ?1")?
        .query_row([first], |row| row.get::<_, u64>(0))?;
    Ok(Window { messages, left_out: removed + untold })
}

/// The number of the oldest turn that fits into `budget` together with all newer ones.
fn first_within(db: &Connection, budget: u64) -> Result<u64, JournalError> {
    let mut query = db.prepare_cached("SELECT turn, size FROM transcript ORDER BY turn DESC")?;
    let mut found = query.query([])?;
    let mut first = u64::try_from(i64::MAX).unwrap_or(0);
    let mut sum = 0;
    let mut is_newest = true;
    while let Some(row) = found.next()? {
        sum += row.get::<_, u64>(1)?;
        if sum > budget && !is_newest {
            break;
        }
        is_newest = false;
        first = row.get(0)?;
    }
    Ok(first)
}

/// The first message and the last, their texts only.
fn brief(messages: &[Message]) -> Vec<Value> {
    let last = messages.last().filter(|_| messages.len() > 1);
    let texts = |message: &Message| {
        let text = |block: &Block| match block {
            Block::Text(text) => Some(Block::Text(cut(text, BRIEF_TEXT))),
            Block::ToolUse { .. } | Block::ToolResult { .. } => None,
        };
        Message { speaker: message.speaker, blocks: message.blocks.iter().filter_map(text).collect() }
    };
    messages.first().into_iter().chain(last).map(|message| texts(message).to_value()).collect()
}

fn shortened(message: &Message) -> Message {
    let block = |block: &Block| match block {
        Block::Text(text) => Block::Text(cut(text, TEXT)),
        Block::ToolUse { id, name, input } => Block::ToolUse {
            id: id.clone(),
            name: name.clone(),
            input: match input {
                ToolInput::Object(value) => ToolInput::Object(cut_strings(value)),
                ToolInput::Unreadable => ToolInput::Unreadable,
            },
        },
        Block::ToolResult { id, text, is_error } => {
            Block::ToolResult { id: id.clone(), text: cut(text, TOOL_TEXT), is_error: *is_error }
        }
    };
    Message { speaker: message.speaker, blocks: message.blocks.iter().map(block).collect() }
}

/// The gate that read the value bounds its depth.
fn cut_strings(value: &Value) -> Value {
    match value {
        Value::String(text) => cut(text, TOOL_TEXT).into(),
        Value::Array(items) => Value::Array(items.iter().map(cut_strings).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), cut_strings(value))).collect())
        }
        other => other.clone(),
    }
}

/// Keeps the first `most` characters and says how many there were.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => {
            let kept = text.get(..end).unwrap_or_default();
            format!("{kept}… (cut; {} characters in all)", text.chars().count())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::models::Speaker;

    fn db() -> Connection {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE transcript (turn INTEGER PRIMARY KEY, entry TEXT, size INTEGER)")
            .unwrap();
        db
    }

    fn said(text: &str) -> Vec<Message> {
        vec![Message { speaker: Speaker::User, blocks: vec![Block::Text(text.into())] }]
    }

    #[test]
    fn the_oldest_whole_turns_are_left_out() {
        let db = db();
        let long = "x".repeat(9_900);
        for turn in 1..=6 {
            assert_eq!(append(&db, turn, &said(&format!("{turn}{long}"))).unwrap(), 0);
        }
        let all = window(&db, 0).unwrap();
        assert_eq!((all.messages.len(), all.left_out), (6, 0));
        append(&db, 7, &said("short")).unwrap();
        append(&db, 8, &said(&long)).unwrap();
        let some = window(&db, 3).unwrap();
        assert_eq!((some.messages.len(), some.left_out), (7, 4));
        assert_eq!(some.messages[0].blocks, said(&format!("2{long}"))[0].blocks);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let db = db();
        let mut removed = 0;
        for turn in 1..=100 {
            removed += append(&db, turn, &said(&"x".repeat(100_000))).unwrap();
        }
        let kept: u64 = db.query_row("SELECT sum(size) FROM transcript", [], |row| row.get(0)).unwrap();
        assert!(kept <= KEPT, "{kept}");
        let told = window(&db, removed).unwrap();
        assert_eq!(told.messages.len() as u64 + told.left_out, 100);
    }

    #[test]
    fn a_turn_larger_than_the_budget_is_still_told_if_it_is_the_newest() {
        let db = db();
        let result =
            |i: usize| Block::ToolResult { id: i.to_string(), text: "y".repeat(100_000), is_error: false };
        let big = Message { speaker: Speaker::User, blocks: (0..40).map(result).collect() };
        append(&db, 1, &said("old")).unwrap();
        append(&db, 2, &[big]).unwrap();
        let told = window(&db, 0).unwrap();
        assert_eq!((told.messages.len(), told.left_out), (1, 1));
    }

    #[test]
    fn a_turn_of_many_long_texts_is_kept_in_brief() {
        let db = db();
        let block = |_| Block::Text("\u{1}".repeat(50_000));
        let asked = Message { speaker: Speaker::User, blocks: (0..64).map(block).collect() };
        let answered = Message { speaker: Speaker::Assistant, blocks: vec![Block::Text("yes".into())] };
        append(&db, 1, &[asked.clone(), asked, answered.clone()]).unwrap();
        let told = window(&db, 0).unwrap().messages;
        assert_eq!((told.len(), told.last()), (2, Some(&answered)));
        assert_eq!(told[0].blocks.len(), 64);
        let size: usize =
            db.query_row("SELECT sum(length(entry)) FROM transcript", [], |row| row.get(0)).unwrap();
        assert!(size <= ENTRY_BYTES, "{size}");
    }

    #[test]
    fn long_tool_texts_are_cut_on_a_character() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äöü… (cut; 4 characters in all)");
        let value = Value::object([("content", "z".repeat(5000).into())]);
        assert!(cut_strings(&value).to_string().len() < 2_200);
    }
}
