//! What a person tells the agent by a word of its own instead of asking the model: `/reset`, `/status`, `/help`. Only a
//! message that is nothing else counts, so that nobody's sentence is taken for one. Pure.

use crate::contract::inbound::{InboundKind, MessageIn, SessionConfig};
use crate::sandbox::tools;

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Forget the conversation.
    Reset,
    /// How things are.
    Status,
    /// What there is.
    Help,
}

/// The words, and what each does.
const TABLE: &[(&str, Command, &str)] = &[
    ("/reset", Command::Reset, "I forget this conversation; files and what is scheduled stay"),
    ("/status", Command::Status, "my model, and how much of this conversation I remember"),
    ("/help", Command::Help, "this list"),
];

/// What was said of a conversation that is forgotten.
pub(super) const FORGOTTEN: &str =
    "I have forgotten this conversation. My files and what is scheduled are as they were.";

impl Command {
    /// The command that a person's message is.
    pub(super) fn of(message: &MessageIn) -> Option<Self> {
        if message.kind != InboundKind::Chat || !message.engage {
            return None;
        }
        let word = message.text.trim();
        TABLE.iter().find(|(name, ..)| word.eq_ignore_ascii_case(name)).map(|(_, command, _)| *command)
    }
}

/// What is remembered, for `/status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Remembered {
    /// Turns that the model is told of.
    pub(super) told: u64,
    /// Earlier ones that it is not.
    pub(super) left_out: u64,
}

/// The answer to `/help`.
pub(super) fn help(config: &SessionConfig) -> String {
    let mut text = String::from("You can tell me:");
    for (name, _, what) in TABLE {
        text.push_str(&format!("\n{name}: {what}"));
    }
    let names: Vec<&str> = tools::enabled(config).map(|tool| tool.name).collect();
    text.push_str("\nAnything else is a question to me. My tools: ");
    text.push_str(&if names.is_empty() { "none".to_owned() } else { names.join(", ") });
    text.push('.');
    text
}

/// The answer to `/status`.
pub(super) fn status(config: &SessionConfig, model: &str, remembered: Remembered) -> String {
    let agent = if config.agent.is_empty() { "I am an agent" } else { &config.agent };
    let provider = if config.provider.is_empty() { "mock" } else { &config.provider };
    let Remembered { told, left_out } = remembered;
    let mut text = format!("{agent}: model {model} of {provider}.\n");
    text.push_str(&match (told, left_out) {
        (0, 0) => "This conversation is new to me.".to_owned(),
        (told, 0) => format!("Turns of this conversation that I remember: {told}, all of it."),
        (told, left_out) => {
            format!("Turns of this conversation that I remember: the last {told}; left out before them: {left_out}.")
        }
    });
    let usage = &config.usage;
    if let Some(percent) = usage.bytes.saturating_mul(100).checked_div(usage.bytes_limit) {
        text.push_str(&format!("\nMy files take {percent} % of their space."));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ids::MessageId;
    use crate::contract::time::Millis;

    fn message(kind: InboundKind, text: &str) -> MessageIn {
        MessageIn {
            id: MessageId::mint(),
            kind,
            engage: true,
            sender_id: "local:ann".into(),
            sender_name: String::new(),
            channel: "local".into(),
            chat: "main".into(),
            thread: None,
            text: text.to_owned(),
            source_session: None,
            hop: 0,
            in_reply_to: None,
            created_at: Millis(0),
        }
    }

    #[test]
    fn only_a_persons_whole_message_is_a_command() {
        for (text, command) in [
            ("/reset", Some(Command::Reset)),
            ("  /RESET \n", Some(Command::Reset)),
            ("/status", Some(Command::Status)),
            ("/help", Some(Command::Help)),
            ("/reset please", None),
            ("what does /reset do?", None),
            ("/reset@other_bot", None),
            ("reset", None),
            ("/resets", None),
            ("", None),
        ] {
            assert_eq!(Command::of(&message(InboundKind::Chat, text)), command, "{text}");
        }
        for kind in [InboundKind::Agent, InboundKind::Task, InboundKind::Answer, InboundKind::System] {
            assert_eq!(Command::of(&message(kind, "/reset")), None, "{kind:?}");
        }
        let unheard = MessageIn { engage: false, ..message(InboundKind::Chat, "/reset") };
        assert_eq!(Command::of(&unheard), None);
    }

    #[test]
    fn what_is_told() {
        let config = SessionConfig { tools: Some(vec!["read_file".into()]), ..SessionConfig::default() };
        let help = help(&config);
        assert!(TABLE.iter().all(|(name, ..)| help.contains(name)) && help.contains("read_file."), "{help}");
        assert!(!help.contains("write_file"), "{help}");
        let status = |told, left_out| status(&config, "m", Remembered { told, left_out });
        assert!(status(0, 0).contains("model m of mock") && status(0, 0).contains("is new to me"));
        assert!(status(3, 0).contains("3, all of it") && status(3, 2).contains("before them: 2"));
    }
}
