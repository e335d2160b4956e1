//! The model providers by name, and the wire dialect in which a sandbox asks for each. Both sides read this one
//! table: the sandbox to know how to ask, the host to know what it may be asked. Where a provider is, with what
//! credential and at which path, only the host knows. Pure.

use std::fmt::Write;

/// How a model is asked and how it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Anthropic Messages, <https://docs.anthropic.com/en/api/messages>.
    Messages,
    /// OpenAI Chat Completions, <https://platform.openai.com/docs/api-reference/chat>.
    Chat,
    /// OpenAI Responses, <https://platform.openai.com/docs/api-reference/responses>.
    Responses,
    /// Gemini, <https://ai.google.dev/api/generate-content>.
    Gemini,
}

/// Every provider and its dialect.
pub const PROVIDERS: &[(&str, Dialect)] = &[
    ("mock", Dialect::Messages),
    ("anthropic", Dialect::Messages),
    ("openai", Dialect::Chat),
    ("openrouter", Dialect::Chat),
    ("codex", Dialect::Responses),
    ("gemini", Dialect::Gemini),
    ("vertex", Dialect::Gemini),
    ("local", Dialect::Chat),
    ("groq", Dialect::Chat),
    ("ollama", Dialect::Chat),
];

impl Dialect {
    /// The dialect of a provider; `None` for one that is not in the table.
    pub fn of(provider: &str) -> Option<Self> {
        PROVIDERS.iter().find(|(name, _)| *name == provider).map(|(_, dialect)| *dialect)
    }

    /// The path, with its query, that a sandbox asks for on its model socket: the same for every provider of a
    /// dialect. Where the host asks in turn is none of its business.
    pub fn path(self, model: &str) -> String {
        match self {
            Self::Messages => "/v1/messages".to_owned(),
            Self::Chat => "/v1/chat/completions".to_owned(),
            Self::Responses => "/v1/responses".to_owned(),
            Self::Gemini => format!("/v1beta/models/{}:streamGenerateContent?alt=sse", segment(model)),
        }
    }
}

/// One segment of a path: everything but unreserved characters (RFC 3986 §2.3) is percent-encoded.
pub fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            // A string takes whatever is written to it.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(segment("gemini-2.5_pro~x"), "gemini-2.5_pro~x");
        assert_eq!(segment("a/../b?c=d#e:f@g%h é"), "a%2F..%2Fb%3Fc%3Dd%23e%3Af%40g%25h%20%C3%A9");
        let path = Dialect::Gemini.path("x:generate?alt=json#");
        assert_eq!(path, "/v1beta/models/x%3Agenerate%3Falt%3Djson%23:streamGenerateContent?alt=sse");
    }

    #[test]
    fn each_provider_stands_once_in_the_table() {
        for (name, dialect) in PROVIDERS {
            assert_eq!(Dialect::of(name), Some(*dialect), "{name}");
            assert_eq!(PROVIDERS.iter().filter(|(other, _)| other == name).count(), 1, "{name}");
        }
        assert_eq!(Dialect::of("azure"), None);
    }
}
