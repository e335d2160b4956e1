//! The manual inside the executable, one Markdown file a topic.

use std::io::{self, Write};

use crate::contract::plain;
use crate::ironctl::Failure;

/// Topics in reading order: name, one line, text.
const TOPICS: &[(&str, &str, &str)] = &[
    ("overview", "what IronClaw is and how its parts fit", include_str!("../help/overview.md")),
    ("quickstart", "from nothing to an answer", include_str!("../help/quickstart.md")),
    (
        "isolation",
        "what a sandbox can and cannot do, gVisor and the native cage",
        include_str!("../help/isolation.md"),
    ),
    (
        "sessions",
        "life of a conversation: launch, linger, restart, park, release",
        include_str!("../help/sessions.md"),
    ),
    ("chat", "talking to an agent from the command line", include_str!("../help/chat.md")),
    ("agents", "what an agent is; making, showing and ending one", include_str!("../help/agents.md")),
    (
        "changes",
        "how what an agent may do is asked for and decided; roles, tokens, policy",
        include_str!("../help/changes.md"),
    ),
    (
        "channels",
        "platforms on which people talk to agents: accounts, who is heard, what is brought",
        include_str!("../help/channels.md"),
    ),
    ("models", "model providers: credentials, what may be asked", include_str!("../help/models.md")),
    (
        "tasks",
        "what agents are asked at its time: reminders, reports, checks",
        include_str!("../help/tasks.md"),
    ),
    ("questions", "what agents ask people: buttons, numbers, answers", include_str!("../help/questions.md")),
    ("keys", "master key, token, what is encrypted with what", include_str!("../help/keys.md")),
    (
        "audit",
        "what was done and by whom, and how to check that nobody changed it",
        include_str!("../help/audit.md"),
    ),
    ("configuration", "flags, environment, file", include_str!("../help/configuration.md")),
    ("api", "routes, errors, events", include_str!("../help/api.md")),
    ("tls", "the API from other machines: TLS, tailnet, proxy", include_str!("../help/tls.md")),
    ("troubleshooting", "when something does not work", include_str!("../help/troubleshooting.md")),
];

/// `ironclaw help [topic]`
///
/// # Errors
/// For a topic that is not there, and when the output cannot be written.
pub fn run(words: &[&str]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match words {
        [] => {
            writeln!(
                out,
                "ironclaw {}: personal assistants, each conversation in its own sandbox\n",
                env!("CARGO_PKG_VERSION")
            )?;
            writeln!(
                out,
                "  ironclaw demo [--once]          an answer from a sealed agent, nothing to set up"
            )?;
            writeln!(
                out,
                "  ironclaw serve [flags]          run the control plane (--help lists the flags)"
            )?;
            writeln!(out, "  ironclaw ctl chat AGENT [TEXT]  talk to an agent")?;
            writeln!(out, "  ironclaw ctl agent create       make an agent, step by step")?;
            writeln!(out, "  ironclaw ctl status             is it up, can it launch sandboxes")?;
            writeln!(out, "  ironclaw ctl doctor             what is well here and what is not")?;
            writeln!(out, "  ironclaw rotate-key …           another master key (ironclaw help keys)")?;
            writeln!(out, "  ironclaw help TOPIC             one page of the manual")?;
            writeln!(out, "  ironclaw version\n")?;
            writeln!(out, "Topics:")?;
            for (name, line, _) in TOPICS {
                writeln!(out, "  {name:<16} {line}")?;
            }
            Ok(())
        }
        [topic] => match TOPICS.iter().find(|(name, _, _)| name == topic) {
            Some((_, _, text)) => Ok(out.write_all(text.as_bytes())?),
            None => Err(Failure::usage(format!(
                "there is no topic {}; `ironclaw help` lists them",
                plain::line(topic)
            ))),
        },
        _ => Err(Failure::usage("`ironclaw help` takes one topic; `ironclaw help` alone lists them")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_title_and_ends_its_last_line() {
        for (name, line, text) in TOPICS {
            assert!(text.starts_with("# ") && text.ends_with('\n') && text.len() > 300, "{name}");
            assert!(!line.is_empty());
        }
    }
}
