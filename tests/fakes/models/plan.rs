//! What a test has ordered as the next answer: its pieces, why it ends, what it cost, and what goes wrong with it.

use crate::checks::Dialect;
use crate::json::{Json, object};

/// A piece of an answer.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Text(String),
    /// A request for a tool; `input` is text, so that it can be cut.
    Call {
        id: Option<String>,
        name: String,
        input: String,
    },
    /// Something that the model wants to see again as it was.
    Thought,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Finished,
    Length,
    Refused,
}

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Only for this dialect and this model, where they are given.
    pub(crate) dialect: Option<Dialect>,
    pub(crate) model: Option<String>,
    /// How often it is given.
    pub(crate) left: i64,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) stop: Stop,
    /// Tokens: read, written, and those read out of a cache.
    pub(crate) usage: Option<(i64, i64, i64)>,
    /// What goes wrong; empty for nothing.
    pub(crate) fault: String,
    pub(crate) status: u16,
    pub(crate) retry_after: Option<i64>,
    pub(crate) words: Option<String>,
    pub(crate) millis: u64,
    pub(crate) bytes: usize,
    /// How servers of the Chat dialect leave out or repeat what marks a request for a tool: `no_id`, `no_index`,
    /// `same_index`, `no_done`.
    pub(crate) quirks: Vec<String>,
}

const FAULTS: &[&str] = &[
    "",
    "status",
    "error",
    "cut",
    "garbage",
    "garbage_event",
    "silence",
    "hang",
    "hold",
    "drip",
    "unfinished",
    "gzip",
    "huge",
    "empty",
    "endless",
    "close",
];
const FIELDS: &[&str] = &[
    "dialect",
    "model",
    "times",
    "text",
    "calls",
    "pieces",
    "thoughts",
    "stop",
    "usage",
    "fault",
    "status",
    "retry_after",
    "words",
    "ms",
    "bytes",
    "quirks",
];

impl Plan {
    /// What is said when nothing was ordered.
    pub(crate) fn echo(said: &str) -> Plan {
        let mut plan = Plan::read(&object([])).unwrap_or_else(|| unreachable!());
        plan.pieces = vec![Piece::Text(format!("fake-models received: {said}"))];
        plan
    }

    /// Reads an order; `None` for one that is not understood. The answer is `thoughts` (a number), `text`, then `calls`
    /// (each with `name`, `input` or, to be cut, `raw`, and perhaps `id`); or `pieces`, a list of such in any order.
    pub(crate) fn read(order: &Json) -> Option<Plan> {
        let Json::Object(fields) = order else { return None };
        if fields.iter().any(|(name, _)| !FIELDS.contains(&name.as_str())) {
            return None;
        }
        let mut pieces = Vec::new();
        let thoughts = order.int("thoughts").unwrap_or(0);
        pieces.extend((0..thoughts).map(|_| Piece::Thought));
        if let Some(text) = order.text("text") {
            pieces.push(Piece::Text(text.to_owned()));
        }
        for one in order.list("calls") {
            pieces.push(call(one)?);
        }
        for one in order.list("pieces") {
            pieces.push(match one.text("text") {
                Some(text) => Piece::Text(text.to_owned()),
                None if one.is_true("thought") => Piece::Thought,
                None => call(one)?,
            });
        }
        let fault = order.text("fault").unwrap_or_default().to_owned();
        let number = |name: &str, usual: i64| order.int(name).unwrap_or(usual);
        let usage = order.get("usage").map(|usage| {
            let of = |name: &str| usage.int(name).unwrap_or(0);
            (of("input"), of("output"), of("cached"))
        });
        let dialect = match order.text("dialect") {
            None => None,
            Some(name) => Some(Dialect::named(name)?),
        };
        let stop = match order.text("stop").unwrap_or("finished") {
            "finished" => Stop::Finished,
            "length" => Stop::Length,
            "refused" => Stop::Refused,
            _ => return None,
        };
        let texts = |name: &str| {
            let words = order.list(name).iter().filter_map(|word| match word {
                Json::Text(word) => Some(word.clone()),
                _ => None,
            });
            words.collect::<Vec<_>>()
        };
        FAULTS.contains(&fault.as_str()).then_some(())?;
        Some(Plan {
            dialect,
            model: order.text("model").map(str::to_owned),
            left: number("times", 1),
            pieces,
            stop,
            usage,
            fault,
            status: u16::try_from(number("status", 500)).ok()?,
            retry_after: order.int("retry_after"),
            words: order.text("words").map(str::to_owned),
            millis: u64::try_from(number("ms", 1)).ok()?,
            bytes: usize::try_from(number("bytes", 5 << 20)).ok()?.min(64 << 20),
            quirks: texts("quirks"),
        })
    }

    pub(crate) fn is(&self, quirk: &str) -> bool {
        self.quirks.iter().any(|one| one == quirk)
    }

    /// Whether it asks for a tool.
    pub(crate) fn calls(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Call { .. }))
    }

    /// What it says, in all.
    pub(crate) fn usage(&self) -> (i64, i64, i64) {
        self.usage.unwrap_or((11, 7, 0))
    }
}

fn call(one: &Json) -> Option<Piece> {
    let input = match (one.text("raw"), one.get("input")) {
        (Some(raw), None) => raw.to_owned(),
        (None, Some(input @ Json::Object(_))) => input.to_string(),
        (None, None) => String::new(),
        _ => return None,
    };
    Some(Piece::Call { id: one.text("id").map(str::to_owned), name: one.text("name")?.to_owned(), input })
}
