//! The doors of this build: the channels through which a message reaches somebody, and what a chat is called on each.
//! What names a chat that no door leads to is refused where it is asked for, so that nothing is granted that could not
//! take effect. Pure.

use std::fmt;

use super::channels::descriptor::{self, Descriptor};
use crate::contract::plain;

/// The HTTP interface as a channel.
pub const API: &str = "api";
/// Longest name of a chat of the interface, in bytes.
pub const API_CHAT_BYTES: usize = 128;

/// Why no door leads to a chat.
#[derive(Clone, Copy, Debug)]
pub enum NoDoor {
    /// This build speaks no such platform.
    Channel,
    /// There an agent hears whoever may talk to it, and nobody else.
    Unwired,
    /// The channel has one account only.
    Instance,
    /// No account can be called so.
    BadInstance,
    /// The channel has no threads.
    Thread(&'static str),
    /// The channel has no chat of such a name.
    Chat,
    /// Nor that one.
    PlatformChat(&'static Descriptor),
    /// Nothing that is said comes from a chat of such a name.
    Unheard(&'static Descriptor),
    /// It has no thread of such a name.
    PlatformThread(&'static Descriptor),
}

impl fmt::Display for NoDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel => {
                let all: Vec<&str> = descriptor::ALL.iter().map(|known| known.platform).collect();
                write!(f, "this build brings messages to no channel but {API}, {}", all.join(", "))
            }
            Self::Unwired => write!(
                f,
                "chats of the channel {API} are not wired: who may talk to an agent there is said by its members and roles"
            ),
            Self::Instance => write!(f, "the channel {API} has no instances; leave instance out"),
            Self::BadInstance => f.write_str("an instance is called by at most 63 of a-z 0-9 -"),
            Self::Thread(channel) => write!(f, "the channel {channel} has no threads; leave thread out"),
            Self::Chat => write!(
                f,
                "a chat of the channel {API} has a name of 1 to {API_CHAT_BYTES} bytes without control characters"
            ),
            Self::PlatformChat(known) => {
                write!(f, "a chat of the channel {} is {}", known.platform, plain::line(known.chat_form))
            }
            Self::Unheard(known) => {
                write!(f, "a chat of the channel {} is {}", known.platform, plain::line(known.heard_form))
            }
            Self::PlatformThread(known) => write!(f, "the channel {} has no such thread", known.platform),
        }
    }
}

/// Whether what goes there has to be brought: it is on a platform, and not read over the interface.
pub fn is_platform(channel: &str) -> bool {
    descriptor::find(channel).is_some()
}

/// Whether an agent can be wired to a chat of a channel.
///
/// # Errors
/// Why not.
pub fn wired(channel: &str, instance: &str, chat: &str) -> Result<(), NoDoor> {
    if channel == API {
        return Err(NoDoor::Unwired);
    }
    let known = descriptor::find(channel).ok_or(NoDoor::Channel)?;
    match known.is_heard_as {
        _ if !descriptor::is_instance(instance) => Err(NoDoor::BadInstance),
        is_heard_as if !is_heard_as(chat) => Err(NoDoor::Unheard(known)),
        _ => Ok(()),
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
    if channel == API {
        return match (instance, thread) {
            ("", None) if is_api_chat(chat) => Ok(()),
            ("", None) => Err(NoDoor::Chat),
            ("", Some(_)) => Err(NoDoor::Thread(API)),
            _ => Err(NoDoor::Instance),
        };
    }
    let known = descriptor::find(channel).ok_or(NoDoor::Channel)?;
    match (thread, known.is_thread) {
        _ if !descriptor::is_instance(instance) => Err(NoDoor::BadInstance),
        _ if !(known.is_chat)(chat) => Err(NoDoor::PlatformChat(known)),
        (Some(_), None) => Err(NoDoor::Thread(known.platform)),
        (Some(thread), Some(is_thread)) if !is_thread(thread) => Err(NoDoor::PlatformThread(known)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chats_of_a_platform_are_wired_and_by_the_name_under_which_they_are_heard() {
        for (channel, instance, chat) in [("telegram", "", "-1001"), ("webhook", "two", "ops")] {
            assert!(wired(channel, instance, chat).is_ok(), "{channel}");
        }
        for (channel, instance, chat, why) in [
            ("api", "", "ops", "not wired"),
            ("pigeon", "", "ops", "no channel but api"),
            ("", "", "ops", "no channel but api"),
            ("webhook", "A", "ops", "at most 63"),
            ("webhook", "", "a b", "a chat of the channel webhook is"),
            ("telegram", "", "@news_channel", "by its number"),
            ("telegram", "", "007", "by its number"),
        ] {
            let told = wired(channel, instance, chat).unwrap_err().to_string();
            assert!(told.contains(why), "{channel} {chat}: {told}");
        }
    }

    #[test]
    fn only_what_can_be_read_somewhere_has_a_door() {
        let long = "x".repeat(API_CHAT_BYTES + 1);
        for (channel, instance, chat, thread, why) in [
            ("api", "", "ops", None, ""),
            ("webhook", "", "ops", None, ""),
            ("webhook", "two", "ops", Some("t"), ""),
            ("pigeon", "", "1", None, "no channel but api"),
            ("", "", "ops", None, "no channel but api"),
            ("api", "two", "ops", None, "no instances"),
            ("api", "", "ops", Some("t"), "no threads"),
            ("api", "", "", None, "a name of"),
            ("api", "", "a\nb", None, "a name of"),
            ("api", "", long.as_str(), None, "a name of"),
            ("webhook", "A", "ops", None, "at most 63"),
            ("webhook", "", "a b", None, "a chat of the channel webhook is"),
            ("webhook", "", "ops", Some("a b"), "no such thread"),
        ] {
            let told = lead_to(channel, instance, chat, thread).map_err(|no| no.to_string());
            match told {
                Ok(()) => assert_eq!(why, "", "{channel} {chat:?}"),
                Err(told) => assert!(!why.is_empty() && told.contains(why), "{channel} {chat:?}: {told}"),
            }
        }
    }
}
