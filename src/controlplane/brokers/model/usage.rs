//! What a call used, read from the answer as it passes: each dialect says it somewhere in its stream. Where it does not,
//! or the answer is cut, the bytes that went by are the measure, so that no call counts as nothing. Pure.

use crate::contract::json::{self, Value};
use crate::contract::providers::Dialect;
use crate::contract::sse::Events;

/// Larger events are not read; the one that ends a Responses stream repeats the whole answer.
const EVENT_BYTES: usize = 1 << 20;
/// A token is about so many bytes of text.
const BYTES_A_TOKEN: u64 = 4;

/// Tokens of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What was asked, what was read from a cache among it.
    pub input: u64,
    /// What of it was read from a cache.
    pub cached: u64,
    /// What was answered, thoughts among it.
    pub output: u64,
    /// The upstream did not say it.
    pub is_estimate: bool,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Meter {
    dialect: Dialect,
    /// `None` when the stream cannot be read as events any more.
    events: Option<Events>,
    asked_bytes: u64,
    answered_bytes: u64,
    /// Most tokens that the answer may have.
    most: u64,
    said: Option<Usage>,
    /// The answer's last event went by.
    is_over: bool,
}

impl Meter {
    /// For an answer to a request of so many bytes that asked for so many tokens at most.
    pub fn new(dialect: Dialect, asked_bytes: usize, most: u64) -> Self {
        Self {
            dialect,
            events: Some(Events::default()),
            asked_bytes: asked_bytes as u64,
            answered_bytes: 0,
            most,
            said: None,
            is_over: false,
        }
    }

    /// Most tokens that the call may use, as far as can be told before.
    pub fn most(&self) -> u64 {
        self.asked_bytes.div_ceil(BYTES_A_TOKEN).saturating_add(self.most)
    }

    /// Takes a piece of the answer.
    pub fn read(&mut self, piece: &[u8]) {
        self.answered_bytes += piece.len() as u64;
        let Some(events) = &mut self.events else { return };
        match events.feed(piece) {
            Ok(complete) => complete.iter().for_each(|event| self.event(event)),
            Err(_) => self.events = None,
        }
    }

    /// What was used; of an answer that did not come to its end, at least what went by.
    pub fn usage(&self, is_complete: bool) -> Usage {
        let went_by = self.answered_bytes.div_ceil(BYTES_A_TOKEN).min(self.most);
        match self.said {
            Some(said) if is_complete => said,
            Some(said) => Usage { output: said.output.max(went_by), is_estimate: true, ..said },
            None => Usage {
                input: self.asked_bytes.div_ceil(BYTES_A_TOKEN),
                cached: 0,
                output: went_by,
                is_estimate: true,
            },
        }
    }

    /// Whether the answer's last event went by: whoever goes away then has what was asked for.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    fn event(&mut self, data: &[u8]) {
        let mentions = |word: &[u8]| data.windows(word.len()).any(|window| window == word);
        if data.trim_ascii() == b"[DONE]" {
            self.is_over |= self.dialect == Dialect::Chat;
            return;
        }
        let words: &[&[u8]] = match self.dialect {
            Dialect::Messages => &[b"\"usage\"", b"\"message_stop\""],
            Dialect::Chat => &[b"\"usage\""],
            Dialect::Responses => &[b"\"usage\"", b"\"response.completed\"", b"\"response.incomplete\""],
            Dialect::Gemini => &[b"\"usageMetadata\"", b"\"finishReason\""],
        };
        if data.len() > EVENT_BYTES || !words.iter().any(|word| mentions(word)) {
            return;
        }
        let Ok(event) = json::parse(data) else { return };
        self.is_over |= is_last(self.dialect, &event);
        let before = self.said.unwrap_or_default();
        let read = match self.dialect {
            Dialect::Messages => messages(&event, before),
            Dialect::Chat => event.get("usage").map(chat),
            Dialect::Responses => event.get("response").and_then(|r| r.get("usage")).map(responses),
            Dialect::Gemini => event.get("usageMetadata").map(gemini),
        };
        // A usage without any number says nothing.
        if let Some(read) = read.filter(|read| read.input + read.output > 0) {
            self.said = Some(read);
        }
    }
}

/// Whether nothing of an answer comes after this event. In Chat a word that is no document says so.
fn is_last(dialect: Dialect, event: &Value) -> bool {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    match dialect {
        Dialect::Messages => kind == "message_stop",
        Dialect::Chat => false,
        Dialect::Responses => matches!(kind, "response.completed" | "response.incomplete"),
        Dialect::Gemini => {
            let first = event.get("candidates").and_then(Value::as_array).and_then(<[Value]>::first);
            first.and_then(|one| one.get("finishReason")).is_some_and(|reason| reason.as_str().is_some())
        }
    }
}

fn number(value: &Value, key: &str) -> u64 {
    value.get(key).and_then(Value::as_u64).unwrap_or_default()
}

/// The first event has the input; the last has the output so far, and may have all of it again.
fn messages(event: &Value, before: Usage) -> Option<Usage> {
    let usage =
        event.get("message").and_then(|message| message.get("usage")).or_else(|| event.get("usage"))?;
    let cached = number(usage, "cache_read_input_tokens");
    let input = number(usage, "input_tokens") + number(usage, "cache_creation_input_tokens") + cached;
    Some(Usage {
        input: input.max(before.input),
        cached: cached.max(before.cached),
        output: number(usage, "output_tokens").max(before.output),
        is_estimate: false,
    })
}

fn chat(usage: &Value) -> Usage {
    let cached = usage.get("prompt_tokens_details").map_or(0, |details| number(details, "cached_tokens"));
    Usage {
        input: number(usage, "prompt_tokens"),
        cached,
        output: number(usage, "completion_tokens"),
        is_estimate: false,
    }
}

fn responses(usage: &Value) -> Usage {
    let cached = usage.get("input_tokens_details").map_or(0, |details| number(details, "cached_tokens"));
    Usage {
        input: number(usage, "input_tokens"),
        cached,
        output: number(usage, "output_tokens"),
        is_estimate: false,
    }
}

fn gemini(usage: &Value) -> Usage {
    Usage {
        input: number(usage, "promptTokenCount") + number(usage, "toolUsePromptTokenCount"),
        cached: number(usage, "cachedContentTokenCount"),
        output: number(usage, "candidatesTokenCount") + number(usage, "thoughtsTokenCount"),
        is_estimate: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(dialect: Dialect, stream: &str) -> Usage {
        let of = |cut: usize| {
            let mut meter = Meter::new(dialect, 400, 50);
            stream.as_bytes().chunks(cut).for_each(|piece| meter.read(piece));
            meter.usage(true)
        };
        assert_eq!(of(1), of(stream.len().max(1)), "the same in any pieces");
        of(7)
    }

    #[test]
    fn each_dialect_says_what_was_used() {
        let messages = "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":10,\
            \"cache_read_input_tokens\":5,\"cache_creation_input_tokens\":2,\"output_tokens\":1}}}\n\n\
            data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":42}}\n\n";
        assert_eq!(
            used(Dialect::Messages, messages),
            Usage { input: 17, cached: 5, output: 42, is_estimate: false }
        );
        let chat = "data: {\"choices\":[{\"delta\":{\"content\":\"usage\"}}],\"usage\":null}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\
            \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n";
        assert_eq!(used(Dialect::Chat, chat), Usage { input: 7, cached: 4, output: 3, is_estimate: false });
        let responses = "data: {\"type\":\"response.created\",\"response\":{\"usage\":null}}\n\n\
            data: {\"type\":\"response.completed\",\"response\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":8,\
            \"input_tokens_details\":{\"cached_tokens\":1}}}}\n\n";
        assert_eq!(
            used(Dialect::Responses, responses),
            Usage { input: 9, cached: 1, output: 8, is_estimate: false }
        );
        let gemini = "data: {\"usageMetadata\":{\"promptTokenCount\":6,\"candidatesTokenCount\":1}}\r\n\r\n\
            data: {\"usageMetadata\":{\"promptTokenCount\":6,\"candidatesTokenCount\":5,\"thoughtsTokenCount\":2,\
            \"cachedContentTokenCount\":3}}\r\n\r\n";
        assert_eq!(
            used(Dialect::Gemini, gemini),
            Usage { input: 6, cached: 3, output: 7, is_estimate: false }
        );
    }

    #[test]
    fn the_last_event_is_known_and_nothing_else_is_taken_for_it() {
        for (dialect, last, others) in [
            (
                Dialect::Messages,
                r#"{"type":"message_stop"}"#,
                &[r#"{"type":"content_block_start","content_block":{"name":"message_stop"}}"#, "[DONE]"][..],
            ),
            (Dialect::Chat, "[DONE]", &[r#"{"usage":{"completion_tokens":1}}"#, r#"{"x":"[DONE]"}"#]),
            (
                Dialect::Responses,
                r#"{"type":"response.completed","response":{}}"#,
                &[r#"{"type":"response.output_text.delta","delta":"response.completed"}"#],
            ),
            (
                Dialect::Gemini,
                r#"{"candidates":[{"finishReason":"STOP"}]}"#,
                &[r#"{"candidates":[{"content":{"parts":[{"text":"finishReason"}]}}]}"#],
            ),
        ] {
            let mut meter = Meter::new(dialect, 4, 9);
            for other in others {
                meter.read(format!("data: {other}\n\n").as_bytes());
                assert!(!meter.is_over(), "{other}");
            }
            meter.read(format!("data: {last}\n\n").as_bytes());
            assert!(meter.is_over(), "{last}");
        }
    }

    #[test]
    fn an_answer_that_does_not_say_it_counts_by_its_bytes() {
        let silent = used(Dialect::Chat, "data: {\"choices\":[]}\n\n");
        assert_eq!(silent, Usage { input: 100, cached: 0, output: 6, is_estimate: true });
        assert_eq!(used(Dialect::Chat, &"data: x\n\n".repeat(1000)).output, 50, "no more than was asked for");
        assert_eq!(used(Dialect::Messages, "data: {\"usage\":{\"input_tokens\":0}}\n\n").input, 100);
        let mut endless = Meter::new(Dialect::Gemini, 4, 9);
        (0..8).for_each(|_| endless.read(&vec![b'x'; 1 << 20]));
        assert_eq!(endless.usage(true), Usage { input: 1, cached: 0, output: 9, is_estimate: true });
        let mut cut = Meter::new(Dialect::Messages, 4, 9);
        cut.read(b"data: {\"message\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\ndata: a half");
        assert_eq!(cut.usage(false), Usage { input: 3, cached: 0, output: 9, is_estimate: true });
        assert_eq!(cut.usage(true).output, 1);
    }
}
