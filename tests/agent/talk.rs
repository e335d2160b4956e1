//! What these tests share: a control plane whose providers are fakes with keys of their own, and an agent of each.

use serde_json::{Value, json};

use crate::hand::{approve, submit};
use crate::world::{Daemon, Home, Models, Runtime, Serve, marker};

/// A provider as the operator sets it up.
pub(crate) struct Set {
    pub(crate) provider: &'static str,
    pub(crate) model: &'static str,
    /// The variable that has its credential.
    pub(crate) variable: &'static str,
    /// What comes after the host in its address.
    base: &'static str,
}

const fn set(provider: &'static str, model: &'static str, variable: &'static str, base: &'static str) -> Set {
    Set { provider, model, variable, base }
}

/// Every provider that has a credential on the host, or may have one.
pub(crate) const ALL: &[Set] = &[
    set("anthropic", "claude-opus-4-8", "ANTHROPIC_API_KEY", "/v1"),
    set("openai", "gpt-4o", "OPENAI_API_KEY", "/v1"),
    set("openrouter", "openai/gpt-4o", "OPENROUTER_API_KEY", "/api/v1"),
    set("groq", "openai/gpt-oss-120b", "GROQ_API_KEY", "/openai/v1"),
    set("gemini", "gemini-3-pro", "GEMINI_API_KEY", "/v1beta"),
    set(
        "vertex",
        "gemini-2.5-pro",
        "GOOGLE_VERTEX_ACCESS_TOKEN",
        "/v1/projects/p-1/locations/europe-west4/publishers/google",
    ),
    set("local", "own-model", "IRONCLAW_LOCAL_MODEL_KEY", "/v1"),
    set("ollama", "llama3.2", "OLLAMA_API_KEY", "/v1"),
];

/// A provider with its fake and its key.
pub(crate) struct Upstream {
    pub(crate) set: &'static Set,
    pub(crate) models: Models,
    pub(crate) key: String,
}

impl Upstream {
    /// A fake that wants a key.
    pub(crate) fn of(set: &'static Set) -> Upstream {
        let (models, key) = (Models::start(), format!("sk-{}{}", marker(), marker()));
        models.tell("key", &json!({"key": key}));
        Upstream { set, models, key }
    }

    pub(crate) fn named(provider: &str) -> Upstream {
        Upstream::of(ALL.iter().find(|set| set.provider == provider).unwrap())
    }

    /// The name of the agent that it has.
    pub(crate) fn agent(&self) -> String {
        format!("of-{}", self.set.provider)
    }
}

/// A control plane that knows these providers.
pub(crate) fn serve<'a>(home: &'a Home, runtime: Runtime, upstreams: &[Upstream]) -> Serve<'a> {
    let addresses: Vec<String> = upstreams
        .iter()
        .map(|one| format!("{}={}{}", one.set.provider, one.models.base(), one.set.base))
        .collect();
    let mut serve = Serve::new(home, runtime)
        .flag("--model-upstream", addresses.join(","))
        .flag("--dev-provider", "mock");
    for one in upstreams {
        serve = serve.env(one.set.variable, &one.key);
    }
    serve
}

/// Makes an agent with these tools that asks this provider.
#[track_caller]
pub(crate) fn agent(daemon: &Daemon, upstream: &Upstream, tools: &[&str]) {
    let payload = json!({"provider": upstream.set.provider, "model": upstream.set.model, "tools": tools});
    let change = submit(daemon, "create_agent", &upstream.agent(), &payload).ok();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

/// What was asked last.
#[track_caller]
pub(crate) fn last(models: &Models) -> Value {
    models.requests().last().expect("something was asked").clone()
}
