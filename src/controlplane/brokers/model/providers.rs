//! The providers of models as the host knows them: where each is, at which path it is asked, how it is shown its
//! credential. Their names and dialects are the contract's ([`crate::contract::providers`]). Pure.

use std::fmt;

use crate::contract::providers::{Dialect, segment};

/// Who answers for an agent group's model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// The deterministic upstream inside this process.
    Mock,
    /// Anthropic.
    Anthropic,
    /// OpenAI.
    OpenAi,
    /// OpenRouter.
    OpenRouter,
    /// ChatGPT's Codex; its credential is a credential gateway's.
    Codex,
    /// Google's Gemini.
    Gemini,
    /// Google Cloud's Vertex AI.
    Vertex,
    /// A server of the operator's own that speaks OpenAI Chat Completions.
    Local,
    /// Groq.
    Groq,
    /// Ollama.
    Ollama,
}

/// How a request shows its credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// `authorization: Bearer …`.
    Bearer,
    /// In a header of the provider's own.
    Header(&'static str),
}

/// One line of the table.
#[derive(Debug)]
pub struct Facts {
    /// The provider.
    pub provider: Provider,
    /// Its name.
    pub name: &'static str,
    /// Where it is unless told otherwise; empty where only the operator knows.
    pub base: &'static str,
    /// How it is shown its credential.
    pub shown: Shown,
    /// Environment variables of the credential, the first that is set counts; each also with `_FILE`.
    pub keys: &'static [&'static str],
    /// The model of an agent for which nobody named one.
    pub model: &'static str,
    /// Headers that every request carries.
    pub headers: &'static [(&'static str, &'static str)],
}

const MOCK: Facts = Facts {
    provider: Provider::Mock,
    name: "mock",
    base: "",
    shown: Shown::Bearer,
    keys: &[],
    model: "mock",
    headers: &[],
};

/// The table. The version of Anthropic's interface is the one that its documentation names as current.
const TABLE: &[Facts] = &[
    MOCK,
    Facts {
        provider: Provider::Anthropic,
        name: "anthropic",
        base: "https://api.anthropic.com/v1",
        shown: Shown::Header("x-api-key"),
        keys: &["ANTHROPIC_API_KEY"],
        model: "claude-opus-4-8",
        headers: &[("anthropic-version", "2023-06-01")],
    },
    Facts {
        provider: Provider::OpenAi,
        name: "openai",
        base: "https://api.openai.com/v1",
        shown: Shown::Bearer,
        keys: &["OPENAI_API_KEY"],
        model: "gpt-4o",
        headers: &[],
    },
    Facts {
        provider: Provider::OpenRouter,
        name: "openrouter",
        base: "https://openrouter.ai/api/v1",
        shown: Shown::Bearer,
        keys: &["OPENROUTER_API_KEY"],
        model: "openai/gpt-4o",
        headers: &[],
    },
    Facts {
        provider: Provider::Codex,
        name: "codex",
        base: "https://chatgpt.com/backend-api/codex",
        shown: Shown::Bearer,
        keys: &[],
        model: "gpt-5.5",
        headers: &[("openai-beta", "responses=experimental"), ("originator", "codex_cli_rs")],
    },
    Facts {
        provider: Provider::Gemini,
        name: "gemini",
        base: "https://generativelanguage.googleapis.com/v1beta",
        shown: Shown::Header("x-goog-api-key"),
        keys: &["GOOGLE_API_KEY", "GEMINI_API_KEY"],
        model: "gemini-2.5-pro",
        headers: &[],
    },
    Facts {
        provider: Provider::Vertex,
        name: "vertex",
        base: "",
        shown: Shown::Bearer,
        keys: &["GOOGLE_VERTEX_ACCESS_TOKEN"],
        model: "gemini-2.5-pro",
        headers: &[],
    },
    Facts {
        provider: Provider::Groq,
        name: "groq",
        base: "https://api.groq.com/openai/v1",
        shown: Shown::Bearer,
        keys: &["GROQ_API_KEY"],
        model: "openai/gpt-oss-120b",
        headers: &[],
    },
    Facts {
        provider: Provider::Local,
        name: "local",
        base: "",
        shown: Shown::Bearer,
        keys: &["IRONCLAW_LOCAL_MODEL_KEY"],
        model: "",
        headers: &[],
    },
    Facts {
        provider: Provider::Ollama,
        name: "ollama",
        base: "http://127.0.0.1:11434/v1",
        shown: Shown::Bearer,
        keys: &["OLLAMA_API_KEY"],
        model: "llama3.2",
        headers: &[],
    },
];

/// Known, and not in this build.
const ABSENT: &[&str] = &["bedrock", "azure"];

/// Why a name is no provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderError {
    /// Known, and not in this build.
    Absent(&'static str),
    /// Not known at all.
    Unknown(String),
}

impl fmt::Display for ProviderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = TABLE.iter().map(|facts| facts.name).collect();
        let names = names.join(", ");
        match self {
            Self::Absent(name) => {
                write!(f, "the model provider {name} is not part of this build, which has {names}")
            }
            Self::Unknown(name) => write!(f, "{name:?} is not a model provider; this build has {names}"),
        }
    }
}

impl std::error::Error for ProviderError {}

impl Provider {
    /// The provider of that name.
    ///
    /// # Errors
    /// For a name that is none, or is of one that this build does not have.
    pub fn named(name: &str) -> Result<Self, ProviderError> {
        match TABLE.iter().find(|facts| facts.name == name) {
            Some(facts) => Ok(facts.provider),
            None => Err(match ABSENT.iter().find(|absent| **absent == name) {
                Some(absent) => ProviderError::Absent(absent),
                None => ProviderError::Unknown(name.chars().take(64).collect()),
            }),
        }
    }

    /// Its line of the table.
    pub fn facts(self) -> &'static Facts {
        TABLE.iter().find(|facts| facts.provider == self).unwrap_or(&MOCK)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        self.facts().name
    }

    /// Every provider, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        TABLE.iter().map(|facts| facts.provider)
    }

    /// What sandboxes speak to it.
    pub fn dialect(self) -> Dialect {
        Dialect::of(self.name()).unwrap_or(Dialect::Messages)
    }

    /// The path and query at which it is asked for a model's answer, below the path of its base.
    pub fn operation(self, model: &str) -> String {
        match self.dialect() {
            Dialect::Messages => "/messages".to_owned(),
            Dialect::Chat => "/chat/completions".to_owned(),
            Dialect::Responses => "/responses".to_owned(),
            Dialect::Gemini => format!("/models/{}:streamGenerateContent?alt=sse", segment(model)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::providers::PROVIDERS;

    #[test]
    fn the_table_and_the_contract_name_the_same_providers() {
        for (name, dialect) in PROVIDERS {
            let provider = Provider::named(name).unwrap();
            assert_eq!((provider.name(), provider.dialect()), (*name, *dialect));
        }
        assert_eq!(TABLE.len(), PROVIDERS.len());
        for provider in Provider::all() {
            assert_eq!(provider.facts().provider, provider);
        }
    }

    #[test]
    fn what_is_no_provider_is_answered_with_those_that_are() {
        assert!(Provider::named("azure").unwrap_err().to_string().contains("not part of this build"));
        let unknown = Provider::named("x\u{202e}").unwrap_err().to_string();
        assert!(unknown.contains("openrouter") && unknown.contains("\\u{202e}"), "{unknown}");
    }

    #[test]
    fn a_models_name_stays_in_its_segment() {
        let path = Provider::Gemini.operation("../../files?x=");
        assert_eq!(path, "/models/..%2F..%2Ffiles%3Fx%3D:streamGenerateContent?alt=sse");
    }
}
