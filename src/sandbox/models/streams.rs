//! What the dialects' tests share: a conversation, a request, and streams read in every cut. A stream that was cut gives
//! no other answer than the whole one, and a stream of rubbish gives an error and nothing worse.

use std::sync::Arc;
use std::time::Duration;

use super::client::{assembly, read as read_pieces};
use super::{Block, Message, ModelError, Request, Response, Speaker, ToolChoice, ToolInput, ToolSpec};
use crate::contract::json::{self, Value};
use crate::contract::providers::Dialect;

pub(super) fn object(text: &str) -> Value {
    json::parse(text.as_bytes()).unwrap()
}

pub(super) fn tool_use(id: &str, name: &str, input: &str) -> Block {
    Block::ToolUse { id: id.into(), name: name.into(), input: ToolInput::Object(object(input)) }
}

/// Everything that a conversation may have: several texts, several calls, results of all kinds, nothing at all.
pub(super) fn conversation() -> Vec<Arc<Message>> {
    let said = |speaker, blocks: &[Block]| Arc::new(Message { speaker, blocks: blocks.to_vec() });
    let text = |text: &str| Block::Text(text.into());
    let result =
        |id: &str, text: &str, is_error| Block::ToolResult { id: id.into(), text: text.into(), is_error };
    let unreadable = Block::ToolUse { id: "c2".into(), name: "t".into(), input: ToolInput::Unreadable };
    let foreign = Block::Opaque { dialect: Dialect::Messages, value: Value::from("of another dialect") };
    vec![
        said(Speaker::User, &[text("one"), text(""), text("two")]),
        said(Speaker::Assistant, &[foreign, text("I look"), tool_use("c1", "t", r#"{"x":1}"#), unreadable]),
        said(Speaker::User, &[result("c1", "", false), result("c2", "no", true), text("three")]),
        said(Speaker::Assistant, &[]),
    ]
}

pub(super) fn request(dialect: Dialect, messages: &[Arc<Message>]) -> Request<'_> {
    // Schemas are made by functions; a test's one lives as long as the tests.
    let tools: &'static [ToolSpec] =
        Vec::leak(vec![ToolSpec { name: "t", description: "d", schema: object(r#"{"type":"object"}"#) }]);
    Request {
        dialect,
        model: "m",
        max_tokens: 9,
        system: "s",
        tools,
        choice: ToolChoice::Free,
        messages,
        within: Duration::from_secs(5),
    }
}

/// A stream of these events.
pub(super) fn of(events: &[&str]) -> Vec<u8> {
    events.iter().flat_map(|event| format!("data: {event}\n\n").into_bytes()).collect()
}

fn read_in(dialect: Dialect, pieces: &[&[u8]]) -> Result<Response, ModelError> {
    let mut pieces = pieces.iter().map(|piece| piece.to_vec());
    read_pieces(&mut || Ok(pieces.next()), assembly(&request(dialect, &[])).as_mut())
}

/// The answer that a stream gives, the same in whatever pieces it comes; what is cut off it gives none, or the same.
#[track_caller]
pub(super) fn read(dialect: Dialect, stream: &[u8]) -> Result<Response, ModelError> {
    let whole = read_in(dialect, &[stream]);
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    assert_eq!(read_in(dialect, &bytes), whole, "byte by byte");
    for at in 0..stream.len() {
        let (before, after) = stream.split_at(at);
        assert_eq!(read_in(dialect, &[before, after]), whole, "in two pieces, at {at}");
        match (read_in(dialect, &[before]), &whole) {
            (Err(ModelError::Broken(_)), _) => {}
            (Ok(cut), Ok(whole)) => assert_eq!((cut.blocks, cut.stop), (whole.blocks.clone(), whole.stop)),
            (cut, _) => assert_eq!(&cut, &whole, "cut at {at}"),
        }
    }
    whole
}

/// Streams of each dialect from which rubbish is made.
const SEEDS: &[(Dialect, &[&str])] = &[
    (
        Dialect::Messages,
        &[
            r#"{"type":"message_start","message":{"usage":{"input_tokens":1}}}"#,
            r#"{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}"#,
            r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hello"}}"#,
            r#"{"type":"content_block_stop","index":0}"#,
            r#"{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t1","name":"t"}}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{}"}}"#,
            r#"{"type":"content_block_stop","index":1}"#,
            r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}"#,
            r#"{"type":"message_stop"}"#,
        ],
    ),
    (
        Dialect::Chat,
        &[
            r#"{"choices":[{"index":0,"delta":{"content":"hello"},"finish_reason":null}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"id":"a","function":{"name":"t","arguments":"{"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1,"function":{"name":"u","arguments":"{}"}}]}}]}"#,
            r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}}]}"#,
            r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#,
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2}}"#,
            "[DONE]",
        ],
    ),
    (
        Dialect::Responses,
        &[
            r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"reasoning","id":"rs"}}"#,
            r#"{"type":"response.output_item.done","output_index":0,"item":{"type":"reasoning","id":"rs","encrypted_content":"e"}}"#,
            r#"{"type":"response.output_item.added","output_index":1,"item":{"type":"message"}}"#,
            r#"{"type":"response.output_text.delta","output_index":1,"delta":"hello"}"#,
            r#"{"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","call_id":"a","name":"t"}}"#,
            r#"{"type":"response.function_call_arguments.delta","output_index":2,"delta":"{}"}"#,
            r#"{"type":"response.output_item.done","output_index":2,"item":{"type":"function_call","arguments":"{}"}}"#,
            r#"{"type":"response.completed","response":{"usage":{"input_tokens":1}}}"#,
        ],
    ),
    (
        Dialect::Gemini,
        &[
            r#"{"candidates":[{"content":{"parts":[{"text":"hel"}]}}]}"#,
            r#"{"candidates":[{"content":{"parts":[{"text":"lo","thoughtSignature":"s"}]}}]}"#,
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"t","args":{"x":1}}}]}}]}"#,
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{"id":"a","name":"u"}}]},"finishReason":"STOP"}]}"#,
            r#"{"usageMetadata":{"promptTokenCount":1}}"#,
        ],
    ),
];

/// A sequence of numbers that is the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % most.max(1) as u64).unwrap()
    }
}

#[test]
fn rubbish_gives_an_error_or_an_answer_that_can_be_sent_again() {
    const PIECES: &[&str] =
        &["", "{", "}", "[", "null", "\"", "-1", "18446744073709551616", "\\u0000", "\u{2028}", "\n\n", ":"];
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    for round in 0..4_000 {
        let (dialect, events) = SEEDS[round % SEEDS.len()];
        let mut events: Vec<String> = events.iter().map(|event| (*event).to_owned()).collect();
        for _ in 0..=numbers.below(3) {
            let (at, other) = (numbers.below(events.len()), numbers.below(events.len()));
            match numbers.below(5) {
                0 => events.swap(at, other),
                1 => drop(events.remove(at)),
                2 => events.insert(at, events[other].clone()),
                _ => {
                    let event = &mut events[at];
                    let from = numbers.below(event.len());
                    let to = (from + numbers.below(6)).min(event.len());
                    event.replace_range(from..to, PIECES[numbers.below(PIECES.len())]);
                }
            }
            if events.is_empty() {
                break;
            }
        }
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        let Ok(response) = read_in(dialect, &[&of(&events)]) else { continue };
        let answer = Message { speaker: Speaker::Assistant, blocks: response.blocks };
        let kept = Message::from_value(&object(&answer.to_text())).expect("session.db reads it back");
        for dialect in [Dialect::Messages, Dialect::Chat, Dialect::Responses, Dialect::Gemini] {
            let again = super::client::encode(&request(dialect, &[Arc::new(kept.clone())]));
            assert!(json::parse(again.as_bytes()).is_ok(), "{events:?}: {again}");
        }
    }
}

#[test]
fn no_answer_grows_without_end() {
    let long = "x".repeat(200 << 10);
    let endless: &[(Dialect, &str, String)] = &[
        (
            Dialect::Messages,
            r#"{"type":"message_start","message":{}}
data: {"type":"content_block_start","index":0,"content_block":{"type":"text"}}"#,
            format!(
                r#"{{"type":"content_block_delta","index":0,"delta":{{"type":"text_delta","text":"{long}"}}}}"#
            ),
        ),
        (Dialect::Chat, "{}", format!(r#"{{"choices":[{{"delta":{{"content":"{long}"}}}}]}}"#)),
        (
            Dialect::Chat,
            "{}",
            format!(
                r#"{{"choices":[{{"delta":{{"tool_calls":[{{"function":{{"arguments":"{long}"}}}}]}}}}]}}"#
            ),
        ),
        (
            Dialect::Chat,
            "{}",
            r#"{"choices":[{"delta":{"tool_calls":[{"function":{"name":"t","arguments":"{}"}}]}}]}"#.into(),
        ),
        (
            Dialect::Responses,
            r#"{"type":"response.output_item.added","output_index":0,"item":{"type":"message"}}"#,
            format!(r#"{{"type":"response.output_text.delta","output_index":0,"delta":"{long}"}}"#),
        ),
        (
            Dialect::Responses,
            "{}",
            format!(
                r#"{{"type":"response.output_item.done","output_index":0,"item":{{"type":"reasoning","encrypted_content":"{long}"}}}}"#
            ),
        ),
        (
            Dialect::Gemini,
            "{}",
            format!(r#"{{"candidates":[{{"content":{{"parts":[{{"text":"{long}"}}]}}}}]}}"#),
        ),
        (
            Dialect::Gemini,
            "{}",
            r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"t"}}]}}]}"#.into(),
        ),
    ];
    for (dialect, first, again) in endless {
        let first = of(&first.split("\ndata: ").collect::<Vec<_>>());
        let again = of(&[again]);
        let (mut given, mut asked) = (Some(first), 0_u32);
        let mut pieces = || {
            asked += 1;
            Ok(Some(given.take().unwrap_or_else(|| again.clone())))
        };
        let error = read_pieces(&mut pieces, assembly(&request(*dialect, &[])).as_mut()).unwrap_err();
        assert!(error.to_string().contains("too "), "{error}");
        assert!(asked < 300, "{asked} pieces of {dialect:?}");
    }
}
