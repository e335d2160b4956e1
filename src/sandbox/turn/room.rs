//! How much a turn may put before the model. The host's proxy takes a request of 8 MiB and 200,000 JSON values;
//! a prompt, its earlier turns, the model's own answers and the tools' results each have a part of it that they
//! cannot leave. Pure: it touches nothing.

use crate::contract::json::{self, Value};
use crate::sandbox::models::{Block, Message, ToolInput};

/// What the messages of one turn may take as JSON. One message is taken whatever it takes: 64 KiB of text are
/// 384 KiB at most.
pub(super) const PROMPT_BYTES: usize = 1 << 20;
/// What the result of one tool may take as JSON.
const RESULT_BYTES: usize = 256 << 10;
/// What all of a turn's results may take.
const RESULTS_BYTES: usize = 3 << 20;
/// What the model's requests for tools may take, each JSON value counted with [`VALUE_BYTES`] more.
const ANSWERS_BYTES: usize = 1 << 20;
/// Makes the limit one of values too: 65,536 of them at most.
const VALUE_BYTES: usize = 16;

/// What is left for the rest of the turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    results: usize,
    answers: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { results: RESULTS_BYTES, answers: ANSWERS_BYTES }
    }
}

impl Room {
    /// Whether there is room for this answer; it takes it.
    pub(super) fn takes(&mut self, answer: &Message) -> bool {
        let weight =
            answer.to_text().len() + VALUE_BYTES * answer.blocks.iter().map(values_of).sum::<usize>();
        let fits = weight <= self.answers;
        self.answers = self.answers.saturating_sub(weight);
        fits
    }

    /// As much of a result as there is room for; it takes it.
    pub(super) fn result(&mut self, text: String) -> String {
        let text = cut(text, self.results);
        self.results = self.results.saturating_sub(encoded(&text));
        text
    }
}

/// A result as the journal keeps it.
pub(super) fn one_result(text: String) -> String {
    cut(text, RESULT_BYTES)
}

/// What the text takes as JSON, without its quotation marks.
pub(super) fn encoded(text: &str) -> usize {
    text.chars().map(encoded_char).sum()
}

fn encoded_char(c: char) -> usize {
    match c {
        '"' | '\\' => 2,
        c if c.is_control() => 6,
        c => c.len_utf8(),
    }
}

fn cut(text: String, most: usize) -> String {
    let mut taken = 0;
    let end = text.char_indices().find_map(|(at, c)| {
        taken += encoded_char(c);
        (taken > most).then_some(at)
    });
    match end {
        None => text,
        Some(end) => {
            let kept = text.get(..end).unwrap_or_default();
            format!("{kept}\n(cut here; {} of {} bytes are shown)", end, text.len())
        }
    }
}

/// An answer that can be kept and sent again: an input so deep that it would not be read back inside a request
/// counts as unreadable.
pub(super) fn keepable(answer: Message) -> Message {
    let reads = |block: &Block| match block {
        Block::ToolUse { input: ToolInput::Object(value), .. } => {
            json::parse(format!("[[[[[[[[{value}]]]]]]]]").as_bytes()).is_ok()
        }
        _ => true,
    };
    let blocks = answer.blocks.into_iter().map(|block| match block {
        Block::ToolUse { id, name, .. } if !reads(&block) => {
            Block::ToolUse { id, name, input: ToolInput::Unreadable }
        }
        block => block,
    });
    Message { speaker: answer.speaker, blocks: blocks.collect() }
}

/// The JSON values that a block is written as.
fn values_of(block: &Block) -> usize {
    match block {
        Block::Text(_) => 3,
        Block::ToolUse { input: ToolInput::Object(value), .. } => 4 + values(value),
        Block::ToolUse { .. } | Block::ToolResult { .. } => 5,
        Block::Opaque { value, .. } => 3 + values(value),
    }
}

/// The gate that read it bounds its depth.
fn values(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(values).sum(),
        Value::Object(fields) => fields.iter().map(|(_, value)| values(value)).sum(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::models::Speaker;

    fn asking(input: &str) -> Message {
        let input = ToolInput::Object(json::parse(input.as_bytes()).unwrap());
        let block = Block::ToolUse { id: "i".into(), name: "n".into(), input };
        Message { speaker: Speaker::Assistant, blocks: vec![block] }
    }

    #[test]
    fn what_a_text_takes_is_never_less_than_what_is_written() {
        let text = "plain \"quoted\" \\ \n\t\u{0}\u{1f}\u{7f}\u{85} \u{2028}ä😀";
        assert!(encoded(text) + 2 >= Value::from(text).to_string().len());
    }

    #[test]
    fn results_are_cut_on_a_character_and_end_with_a_note() {
        assert_eq!(cut("äöü".into(), 6), "äöü");
        assert_eq!(cut("äöü".into(), 5), "äö\n(cut here; 4 of 6 bytes are shown)");
        let mut room = Room::default();
        let all: usize = (0..300).map(|_| encoded(&room.result("\u{1}".repeat(200_000)))).sum();
        assert!(all < RESULTS_BYTES + 300 * 64, "{all}");
        assert!(encoded(&one_result("\u{1}".repeat(1 << 20))) < RESULT_BYTES + 64);
    }

    #[test]
    fn answers_have_room_for_bytes_and_for_values() {
        let mut room = Room::default();
        assert!(room.takes(&asking(r#"{"content":"x"}"#)));
        let many = format!(r#"{{"content":[{}0]}}"#, "0,".repeat(60_000));
        assert!(!room.takes(&asking(&many)));
        assert!(!room.takes(&asking("{}")), "what is full stays full");
        let long = format!(r#"{{"content":"{}"}}"#, "x".repeat(ANSWERS_BYTES));
        assert!(!Room::default().takes(&asking(&long)));
    }

    #[test]
    fn an_input_that_would_not_read_back_is_unreadable() {
        let deep = |n: usize| asking(&format!(r#"{{"a":{}{}}}"#, "[".repeat(n), "]".repeat(n)));
        assert_eq!(keepable(deep(10)), deep(10));
        let kept = keepable(deep(60));
        assert!(matches!(kept.blocks.first(), Some(Block::ToolUse { input: ToolInput::Unreadable, .. })));
        assert!(json::parse(format!("[[[{}]]]", kept.to_text()).as_bytes()).is_ok());
    }
}
