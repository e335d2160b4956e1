//! The doors of this build: the channels through which a message reaches somebody, and what a chat is called on each.
//! What names a chat that no door leads to is refused where it is asked for, so that nothing is granted that could not
//! take effect. Pure.

use std::fmt;

/// The HTTP interface as a channel.
pub const API: &str = "api";
/// Longest name of a chat of the interface, in bytes.
pub const API_CHAT_BYTES: usize = 128;

/// Why no door leads to a chat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoDoor {
    /// This build speaks no such platform.
    Channel,
    /// The channel has one account only.
    Instance,
    /// The channel has no threads.
    Thread,
    /// The channel has no chat of such a name.
    Chat,
}

impl fmt::Display for NoDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel => write!(f, "this build brings messages to no channel but {API}"),
            Self::Instance => write!(f, "the channel {API} has no instances; leave instance out"),
            Self::Thread => write!(f, "the channel {API} has no threads; leave thread out"),
            Self::Chat => write!(
                f,
                "a chat of the channel {API} has a name of 1 to {API_CHAT_BYTES} bytes without control characters"
            ),
        }
    }
}

/// Whether the interface can have a chat of this name.
pub fn is_api_chat(chat: &str) -> bool {
    (1..=API_CHAT_BYTES).contains(&chat.len()) && !chat.chars().any(char::is_control)
}

/// Whether a message can be brought there.
///
/// # Errors
/// Why not.
pub fn lead_to(channel: &str, instance: &str, chat: &str, thread: Option<&str>) -> Result<(), NoDoor> {
    match (channel, instance, thread) {
        (API, "", None) if is_api_chat(chat) => Ok(()),
        (API, "", None) => Err(NoDoor::Chat),
        (API, "", Some(_)) => Err(NoDoor::Thread),
        (API, _, _) => Err(NoDoor::Instance),
        _ => Err(NoDoor::Channel),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_read_somewhere_has_a_door() {
        assert_eq!(lead_to("api", "", "ops", None), Ok(()));
        let long = "x".repeat(API_CHAT_BYTES + 1);
        for (channel, instance, chat, thread, why) in [
            ("telegram", "", "1", None, NoDoor::Channel),
            ("", "", "ops", None, NoDoor::Channel),
            ("api", "two", "ops", None, NoDoor::Instance),
            ("api", "", "ops", Some("t"), NoDoor::Thread),
            ("api", "", "", None, NoDoor::Chat),
            ("api", "", "a\nb", None, NoDoor::Chat),
            ("api", "", long.as_str(), None, NoDoor::Chat),
        ] {
            assert_eq!(lead_to(channel, instance, chat, thread), Err(why), "{channel} {chat:?}");
        }
    }
}
