//! Where somebody can be shown what waits for them: a chat in which nobody but them, and whoever holds the account, can
//! press. Pure.

use crate::contract::ids::UserId;
use crate::controlplane::channels::descriptor::{self, Ability, Descriptor, is_instance};

/// A chat of somebody's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The platform.
    pub channel: &'static str,
    /// The account on it.
    pub instance: String,
    /// The chat there.
    pub chat: String,
}

/// The chat for somebody, with what an operator says of it.
///
/// # Errors
/// What is wrong, and what to give.
pub fn place(user: &UserId, instance: Option<&str>, chat: Option<&str>) -> Result<Place, String> {
    let Some((platform, own)) = platform(user) else {
        return Err(format!(
            "{} is nobody on a platform with buttons; give somebody such as telegram:12345 or webhook:ann",
            user.channel()
        ));
    };
    let given = instance.unwrap_or(own);
    if !is_instance(given) || (platform.names_are_the_accounts && given != own) {
        return Err(match platform.names_are_the_accounts {
            true => format!("{user} is known to one account only; leave instance out"),
            false => "instance must be the name of an account: lower-case letters, digits and -".to_owned(),
        });
    }
    let handle = user.handle();
    let chat = match (platform.names_are_the_accounts, chat) {
        // There the chat of two is called as its person is.
        // A group or a channel that speaks as itself is nobody, and everybody in it would be shown.
        (false, _) if handle.starts_with('-') => {
            return Err(format!("{user} is a group or a channel; give somebody of their own"));
        }
        (false, None) => handle,
        (false, Some(chat)) if chat == handle => chat,
        (false, Some(_)) => {
            return Err(format!(
                "on {} it is their own chat with the bot; leave chat out",
                platform.platform
            ));
        }
        (true, Some(chat)) => chat,
        (true, None) => return Err("chat is missing: what the receiver calls it".to_owned()),
    };
    if !(platform.is_heard_as)(chat) {
        return Err(format!("chat must be {}", platform.heard_form));
    }
    Ok(Place { channel: platform.platform, instance: given.to_owned(), chat: chat.to_owned() })
}

/// The platform on which somebody is called so, and the account that calls them so where it is one.
fn platform(user: &UserId) -> Option<(&'static Descriptor, &str)> {
    let channel = user.channel();
    let all = descriptor::ALL.iter().filter(|known| known.can(Ability::Buttons));
    all.filter_map(|known| match channel.strip_prefix(known.platform)? {
        "" => Some((known, "")),
        rest if known.names_are_the_accounts => Some((known, rest.strip_prefix('-')?)),
        _ => None,
    })
    .next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_chat_of_ones_own_will_do() {
        for (user, instance, chat, expected) in [
            ("telegram:42", None, None, Ok(("telegram", "", "42"))),
            ("telegram:42", Some("two"), Some("42"), Ok(("telegram", "two", "42"))),
            ("telegram:42", None, Some("-1001"), Err("own chat")),
            ("telegram:42", Some("No"), None, Err("instance must be")),
            ("telegram:ann", None, None, Err("chat must be")),
            ("telegram:-1001", None, None, Err("a group or a channel")),
            ("webhook:ann", None, Some("ops"), Ok(("webhook", "", "ops"))),
            ("webhook-ops:ann", None, Some("dm/ann"), Ok(("webhook", "ops", "dm/ann"))),
            ("webhook-ops:ann", Some("ops"), Some("ann"), Ok(("webhook", "ops", "ann"))),
            ("webhook-ops:ann", Some("other"), Some("ann"), Err("one account only")),
            ("webhook:ann", Some("other"), Some("ann"), Err("one account only")),
            ("webhook:ann", None, None, Err("chat is missing")),
            ("webhook:ann", None, Some("a b"), Err("chat must be")),
            ("local:ann", None, None, Err("nobody on a platform")),
            ("telegram-two:42", None, None, Err("nobody on a platform")),
            ("webhooks:ann", None, Some("x"), Err("nobody on a platform")),
        ] {
            let found = place(&UserId::parse(user).unwrap(), instance, chat);
            match expected {
                Ok((channel, instance, chat)) => {
                    assert_eq!(found, Ok(Place { channel, instance: instance.into(), chat: chat.into() }));
                }
                Err(about) => assert!(found.as_ref().is_err_and(|wrong| wrong.contains(about)), "{found:?}"),
            }
        }
    }
}
