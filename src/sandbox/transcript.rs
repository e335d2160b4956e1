//! What the agent remembers of earlier turns: whole turns in `session.db`, the newest of them within a budget
//! of characters told to the model. Long tool inputs and results are cut when a turn is put away. It touches
//! the transaction it is given and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;

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
    pub messages: Vec<Arc<Message>>,
    /// How many still earlier turns are left out.
    pub left_out: u64,
}

/// The transcript as the file has it, in memory: a turn reads nothing back and costs the same however long the
/// conversation is.
#[derive(Debug, Default)]
pub struct Transcript {
    /// Every kept turn, oldest first.
    turns: VecDeque<Turn>,
}

#[derive(Debug)]
struct Turn {
    number: u64,
    /// Characters in the file.
    size: u64,
    /// Empty for those that are kept and not told.
    messages: Vec<Arc<Message>>,
}

/// A turn that was written and is not committed yet.
#[derive(Debug)]
pub struct Appended {
    turn: Turn,
    /// How many of the oldest went to make room.
    pub removed: usize,
}

impl Transcript {
    /// Reads what the file has.
    ///
    /// # Errors
    /// When the file fails or holds what was never written to it.
    pub fn load(db: &Connection) -> Result<Self, JournalError> {
        let mut query = db.prepare("SELECT turn, size FROM transcript ORDER BY turn")?;
        let row = |row: &rusqlite::Row<'_>| {
            Ok(Turn { number: row.get(0)?, size: row.get(1)?, messages: Vec::new() })
        };
        let mut read = Self { turns: query.query_map([], row)?.collect::<Result<_, _>>()? };
        let told = read.told();
        let mut query = db.prepare("SELECT entry FROM transcript WHERE turn = ?1")?;
        for turn in read.turns.range_mut(told..) {
            let entry: String = query.query_row([turn.number], |row| row.get(0))?;
            turn.messages =
                messages(&entry).ok_or_else(|| JournalError::Lost("an earlier turn does not read".into()))?;
        }
        Ok(read)
    }

    /// Puts a turn away and removes the oldest that no longer fit. Memory follows with [`Transcript::keep`], when
    /// the transaction is committed.
    ///
    /// # Errors
    /// When the file fails.
    pub fn append(
        &self,
        tx: &Connection,
        turn: u64,
        messages: &[Arc<Message>],
    ) -> Result<Appended, JournalError> {
        let mut kept: Vec<Arc<Message>> = messages.iter().map(shortened).collect();
        let mut entry = text(&kept);
        if entry.len() > ENTRY_BYTES {
            kept = brief(messages);
            entry = text(&kept);
        }
        let size = entry.chars().count() as u64;
        tx.prepare_cached("INSERT INTO transcript VALUES (?1, ?2, ?3)")?
            .execute(params![turn, entry, size])?;
        let removed = self.first_within(KEPT.saturating_sub(size));
        if let Some(last) = removed.checked_sub(1).and_then(|last| self.turns.get(last)) {
            tx.prepare_cached("DELETE FROM transcript WHERE turn <= ?1")?.execute([last.number])?;
        }
        Ok(Appended { turn: Turn { number: turn, size, messages: kept }, removed })
    }

    /// Takes over what is committed.
    pub fn keep(&mut self, appended: Appended) {
        self.turns.drain(..appended.removed.min(self.turns.len()));
        self.turns.push_back(appended.turn);
        let told = self.told();
        self.turns.range_mut(..told).for_each(|turn| turn.messages = Vec::new());
    }

    /// The newest turns within the budget; the newest of all in any case. `removed` earlier ones are gone.
    pub fn window(&self, removed: u64) -> Window {
        let told = self.told();
        let messages = self.turns.range(told..).flat_map(|turn| turn.messages.iter().cloned()).collect();
        Window { messages, left_out: removed + told as u64 }
    }

    /// How many turns are told, and how many are not; `removed` earlier ones are gone.
    pub fn counts(&self, removed: u64) -> (u64, u64) {
        let told = self.told();
        ((self.turns.len() - told) as u64, removed + told as u64)
    }

    /// The place of the oldest turn that is told.
    fn told(&self) -> usize {
        self.first_within(TOLD).min(self.turns.len().saturating_sub(1))
    }

    /// The place of the oldest turn that fits into `budget` together with all newer ones.
    fn first_within(&self, budget: u64) -> usize {
        let mut sum = 0_u64;
        let fit = self.turns.iter().rev().take_while(|turn| {
            sum = sum.saturating_add(turn.size);
            sum <= budget
        });
        self.turns.len() - fit.count()
    }
}

fn text(messages: &[Arc<Message>]) -> String {
    let texts: Vec<String> = messages.iter().map(|message| message.to_text()).collect();
    format!("[{}]", texts.join(","))
}

fn messages(entry: &str) -> Option<Vec<Arc<Message>>> {
    let value = json::parse(entry.as_bytes()).ok()?;
    value.as_array()?.iter().map(|message| Message::from_value(message).map(Arc::new)).collect()
}

/// The first message and the last, their texts only.
fn brief(messages: &[Arc<Message>]) -> Vec<Arc<Message>> {
    let last = messages.last().filter(|_| messages.len() > 1);
    let texts = |message: &Arc<Message>| {
        let text = |block: &Block| match block {
            Block::Text(text) => Some(Block::Text(cut(text, BRIEF_TEXT))),
            Block::ToolUse { .. } | Block::ToolResult { .. } | Block::Opaque { .. } => None,
        };
        let blocks = message.blocks.iter().filter_map(text).collect();
        Arc::new(Message { speaker: message.speaker, blocks })
    };
    messages.first().into_iter().chain(last).map(texts).collect()
}

fn shortened(message: &Arc<Message>) -> Arc<Message> {
    if !message.blocks.iter().any(is_long) {
        return Arc::clone(message);
    }
    let block = |block: &Block| match block {
        Block::Text(text) => Some(Block::Text(cut(text, TEXT))),
        Block::ToolUse { id, name, input } => Some(Block::ToolUse {
            id: id.clone(),
            name: name.clone(),
            input: match input {
                ToolInput::Object(value) => ToolInput::Object(cut_strings(value)),
                ToolInput::Unreadable => ToolInput::Unreadable,
            },
        }),
        Block::ToolResult { id, text, is_error } => {
            Some(Block::ToolResult { id: id.clone(), text: cut(text, TOOL_TEXT), is_error: *is_error })
        }
        // Models want their own back within a turn only, and what it belongs to may have been cut.
        Block::Opaque { .. } => None,
    };
    Arc::new(Message { speaker: message.speaker, blocks: message.blocks.iter().filter_map(block).collect() })
}

/// Whether something of it may have to be cut.
fn is_long(block: &Block) -> bool {
    match block {
        Block::Text(text) => text.len() > TEXT,
        Block::ToolResult { text, .. } => text.len() > TOOL_TEXT,
        Block::ToolUse { input, .. } => matches!(input, ToolInput::Object(_)),
        Block::Opaque { .. } => true,
    }
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
        crate::os::sqlcipher::initialise();
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE transcript (turn INTEGER PRIMARY KEY, entry TEXT, size INTEGER)")
            .unwrap();
        db
    }

    fn said(text: &str) -> Vec<Arc<Message>> {
        vec![Arc::new(Message { speaker: Speaker::User, blocks: vec![Block::Text(text.into())] })]
    }

    /// Puts a turn away as the journal does; memory and file must then tell the same.
    fn put(transcript: &mut Transcript, db: &Connection, turn: u64, messages: &[Arc<Message>]) -> u64 {
        let appended = transcript.append(db, turn, messages).unwrap();
        let removed = appended.removed as u64;
        transcript.keep(appended);
        assert_eq!(transcript.window(0), Transcript::load(db).unwrap().window(0));
        removed
    }

    #[test]
    fn the_oldest_whole_turns_are_left_out() {
        let (db, mut all) = (db(), Transcript::default());
        let long = "x".repeat(9_900);
        for turn in 1..=6 {
            assert_eq!(put(&mut all, &db, turn, &said(&format!("{turn}{long}"))), 0);
        }
        let told = all.window(0);
        assert_eq!((told.messages.len(), told.left_out), (6, 0));
        put(&mut all, &db, 7, &said("short"));
        put(&mut all, &db, 8, &said(&long));
        let told = all.window(3);
        assert_eq!((told.messages.len(), told.left_out), (7, 4));
        assert_eq!(told.messages[0].blocks, said(&format!("2{long}"))[0].blocks);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (db, mut all) = (db(), Transcript::default());
        let mut removed = 0;
        for turn in 1..=100 {
            removed += put(&mut all, &db, turn, &said(&"x".repeat(100_000)));
        }
        let kept: u64 = db.query_row("SELECT sum(size) FROM transcript", [], |row| row.get(0)).unwrap();
        assert!(kept <= KEPT, "{kept}");
        let told = all.window(removed);
        assert_eq!(told.messages.len() as u64 + told.left_out, 100);
        let in_memory = all.turns.iter().filter(|turn| !turn.messages.is_empty()).count();
        assert_eq!(in_memory, told.messages.len(), "what is not told is not held");
    }

    #[test]
    fn a_turn_larger_than_the_budget_is_still_told_if_it_is_the_newest() {
        let (db, mut all) = (db(), Transcript::default());
        let result =
            |i: usize| Block::ToolResult { id: i.to_string(), text: "y".repeat(100_000), is_error: false };
        let big = Arc::new(Message { speaker: Speaker::User, blocks: (0..40).map(result).collect() });
        put(&mut all, &db, 1, &said("old"));
        put(&mut all, &db, 2, &[big]);
        let told = all.window(0);
        assert_eq!((told.messages.len(), told.left_out), (1, 1));
    }

    #[test]
    fn a_turn_of_many_long_texts_is_kept_in_brief() {
        let (db, mut all) = (db(), Transcript::default());
        let block = |_| Block::Text("\u{1}".repeat(50_000));
        let asked = Arc::new(Message { speaker: Speaker::User, blocks: (0..64).map(block).collect() });
        let answered = Message { speaker: Speaker::Assistant, blocks: vec![Block::Text("yes".into())] };
        let answered = Arc::new(answered);
        put(&mut all, &db, 1, &[asked.clone(), asked, answered.clone()]);
        let told = all.window(0).messages;
        assert_eq!((told.len(), told.last()), (2, Some(&answered)));
        assert_eq!(told[0].blocks.len(), 64);
        let size: usize =
            db.query_row("SELECT sum(length(entry)) FROM transcript", [], |row| row.get(0)).unwrap();
        assert!(size <= ENTRY_BYTES, "{size}");
    }

    #[test]
    fn a_file_with_an_entry_of_somebody_elses_is_lost() {
        let db = db();
        db.execute_batch("INSERT INTO transcript VALUES (1, '{}', 2)").unwrap();
        assert!(matches!(Transcript::load(&db), Err(JournalError::Lost(_))));
    }

    #[test]
    fn long_tool_texts_are_cut_on_a_character() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äöü… (cut; 4 characters in all)");
        let value = Value::object([("content", "z".repeat(5000).into())]);
        assert!(cut_strings(&value).to_string().len() < 2_200);
    }
}
