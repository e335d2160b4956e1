//! What the control plane knows of each platform, in one table: what help, doctor and the interface say of it, what it is
//! told, and what its chats are called. Pure.

use crate::controlplane::delivery::chunks::{Limit, Unit};

/// A platform.
#[derive(Debug)]
pub struct Descriptor {
    /// Its name, as in `channel`.
    pub platform: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// What it is told.
    pub keys: &'static [Key],
    /// The longest message.
    pub limit: Limit,
    /// What it can do beside bringing text both ways.
    pub abilities: &'static [Ability],
    /// Whether something can be sent to a chat of this name.
    pub is_chat: fn(&str) -> bool,
    /// What such a name is, for people.
    pub chat_form: &'static str,
    /// Whether what is said in a chat comes under this name.
    pub is_heard_as: fn(&str) -> bool,
    /// What such a name is, for people.
    pub heard_form: &'static str,
    /// Whether this is the name of a thread; `None` where there are none.
    pub is_thread: Option<fn(&str) -> bool>,
    /// It is told of what happens by requests to the ingress.
    pub has_hook: bool,
    /// Its people are called by whoever holds an account's secret, and so are others on another account.
    pub names_are_the_accounts: bool,
}

/// What a platform can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// What is sent again under the same name arrives once.
    Idempotent,
    /// Chats have threads.
    Threads,
    /// Messages can name the agent.
    Mentions,
    /// It shows that an answer is being written.
    Typing,
    /// A message can have buttons.
    Buttons,
    /// A message can quote what it answers.
    Quotes,
}

impl Ability {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idempotent => "idempotent",
            Self::Threads => "threads",
            Self::Mentions => "mentions",
            Self::Typing => "typing",
            Self::Buttons => "buttons",
            Self::Quotes => "quotes",
        }
    }
}

/// One setting of a platform.
#[derive(Debug)]
pub struct Key {
    /// As in `channels.toml`.
    pub name: &'static str,
    /// The variable of the environment for the account without a name.
    pub variable: &'static str,
    /// It is never shown, and may come from a file.
    pub is_secret: bool,
    /// Without it there is no account.
    pub is_required: bool,
    /// What it is, for people.
    pub help: &'static str,
}

impl Descriptor {
    /// Somebody on an account, as the ledger names users. Who is known to one account of a platform whose names are the
    /// account's own is nobody to another one: its holder could call anybody so.
    pub fn user(&self, instance: &str, handle: &str) -> String {
        match instance {
            "" => format!("{}:{handle}", self.platform),
            instance if self.names_are_the_accounts => format!("{}-{instance}:{handle}", self.platform),
            _ => format!("{}:{handle}", self.platform),
        }
    }

    /// Whether it can do this.
    pub fn can(&self, ability: Ability) -> bool {
        self.abilities.contains(&ability)
    }
}

fn is_hook_chat(chat: &str) -> bool {
    let plain = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':' | b'/' | b'@' | b'+' | b'#')
    };
    (1..=128).contains(&chat.len()) && chat.bytes().all(plain)
}

/// As Telegram writes it: no other spelling of it ever comes.
fn is_telegram_number(chat: &str) -> bool {
    chat.parse::<i64>().is_ok_and(|number| number != 0 && number.to_string() == chat)
}

fn is_telegram_chat(chat: &str) -> bool {
    let is_name = chat.strip_prefix('@').is_some_and(|name| {
        (5..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    });
    is_telegram_number(chat) || is_name
}

fn is_telegram_thread(thread: &str) -> bool {
    (1..=19).contains(&thread.len()) && !thread.starts_with('0') && thread.bytes().all(|b| b.is_ascii_digit())
}

/// The platforms of this build.
pub const ALL: &[Descriptor] = &[TELEGRAM, WEBHOOK];

const TELEGRAM: Descriptor = Descriptor {
    platform: "telegram",
    title: "Telegram bot",
    keys: &[
        Key {
            name: "token",
            variable: "TELEGRAM_BOT_TOKEN",
            is_secret: true,
            is_required: true,
            help: "of the bot, as @BotFather gives it; turn its privacy mode off there to have it read groups",
        },
        Key {
            name: "webhook_url",
            variable: "TELEGRAM_WEBHOOK_URL",
            is_secret: false,
            is_required: false,
            help: "where Telegram reaches the ingress, https://NAME/hooks/telegram; without it the bot asks for what happened",
        },
        Key {
            name: "webhook_secret",
            variable: "TELEGRAM_WEBHOOK_SECRET",
            is_secret: true,
            is_required: false,
            help: "with webhook_url: 1 to 256 of A-Z a-z 0-9 _ -, by which Telegram is known there",
        },
        Key {
            name: "api_base",
            variable: "TELEGRAM_API_BASE",
            is_secret: false,
            is_required: false,
            help: "another Bot API server than https://api.telegram.org",
        },
    ],
    // Telegram takes 4,096; markup that is closed and opened again needs some room.
    limit: Limit { size: 4000, unit: Unit::Utf16 },
    abilities: &[Ability::Threads, Ability::Mentions, Ability::Typing, Ability::Buttons, Ability::Quotes],
    is_chat: is_telegram_chat,
    chat_form: "a number, negative for groups, or @name",
    is_heard_as: is_telegram_number,
    heard_form: "heard by its number, negative for groups, as in -1001234567890; @name is only for what is sent",
    is_thread: Some(is_telegram_thread),
    has_hook: true,
    names_are_the_accounts: false,
};

const WEBHOOK: Descriptor = Descriptor {
    platform: "webhook",
    title: "Signed webhook",
    keys: &[
        Key {
            name: "secret",
            variable: "IRONCLAW_WEBHOOK_SECRET",
            is_secret: true,
            is_required: true,
            help: "signs what goes both ways: 24 to 64 bytes as whsec_BASE64, or a text of 24 to 128 bytes",
        },
        Key {
            name: "url",
            variable: "IRONCLAW_WEBHOOK_URL",
            is_secret: false,
            is_required: false,
            help: "where messages are posted: https, or http on this machine; without it only who waits is answered",
        },
        Key {
            name: "signature",
            variable: "IRONCLAW_WEBHOOK_SIGNATURE",
            is_secret: false,
            is_required: false,
            help: "how posts are signed: standard, or github for X-Hub-Signature-256 beside it",
        },
    ],
    limit: Limit { size: 256 << 10, unit: Unit::Bytes },
    abilities: &[Ability::Idempotent, Ability::Threads, Ability::Mentions, Ability::Buttons, Ability::Quotes],
    is_chat: is_hook_chat,
    chat_form: "1 to 128 of A-Z a-z 0-9 . _ - : / @ + #",
    is_heard_as: is_hook_chat,
    heard_form: "called by 1 to 128 of A-Z a-z 0-9 . _ - : / @ + #",
    is_thread: Some(is_hook_chat),
    has_hook: true,
    names_are_the_accounts: true,
};

/// The platform of this name.
pub fn find(platform: &str) -> Option<&'static Descriptor> {
    ALL.iter().find(|known| known.platform == platform)
}

/// Whether an account may be called so; no name is the account that the environment gives.
pub fn is_instance(instance: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    instance.len() <= 63 && instance.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_variables_are_used_once() {
        let mut names: Vec<&str> = ALL.iter().map(|known| known.platform).collect();
        let mut variables: Vec<&str> =
            ALL.iter().flat_map(|known| known.keys).map(|key| key.variable).collect();
        for all in [&mut names, &mut variables] {
            let before = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), before);
        }
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        assert!(names.iter().all(|name| name.bytes().all(plain) && *name != "api" && *name != "agent"));
    }

    #[test]
    fn who_holds_one_account_calls_nobody_of_another() {
        let of = |platform: &str, instance: &str| find(platform).unwrap().user(instance, "ann");
        assert_eq!(of("webhook", ""), "webhook:ann");
        assert_eq!(of("webhook", "ops"), "webhook-ops:ann");
        assert_eq!(
            (of("telegram", ""), of("telegram", "two")),
            ("telegram:ann".into(), "telegram:ann".into())
        );
    }

    #[test]
    fn chats_of_telegram_are_numbers_or_names() {
        for (chat, expected) in
            [("5", true), ("-1001", true), ("@news_channel", true), ("@abc", false), ("", false)]
                .into_iter()
                .chain([
                    ("-", false),
                    ("5/../x", false),
                    ("@a b c d", false),
                    ("+5", false),
                    ("007", false),
                    ("-0", false),
                    ("0", false),
                    ("99999999999999999999", false),
                ])
        {
            assert_eq!(is_telegram_chat(chat), expected, "{chat}");
        }
        for (chat, expected) in [("5", true), ("-1001", true), ("@news_channel", false), ("007", false)] {
            assert_eq!(is_telegram_number(chat), expected, "{chat}");
        }
        assert!(is_telegram_thread("55") && !is_telegram_thread("0") && !is_telegram_thread("-1"));
    }

    #[test]
    fn chats_of_a_hook_have_plain_names() {
        for (chat, expected) in [("ops", true), ("a/b:c", true), ("", false), ("a b", false), ("ü", false)] {
            assert_eq!(is_hook_chat(chat), expected, "{chat}");
        }
    }
}
