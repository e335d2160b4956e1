//! `ctl wiring` and `ctl group`: the chats that there are, and which agent listens and writes to which. A wiring is
//! what an agent can do, so making and unmaking one asks for a change. Touches the network and the terminal.

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::Client;
use super::lists::{Output, all, of_group, print};
use super::submit::{Manner, Then};
use crate::contract::json::Value;

/// Which agent listens and writes to which chats.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "wiring")]
pub(super) struct Wiring {
    #[argh(subcommand)]
    verb: WiringVerb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum WiringVerb {
    List(WiringList),
    Add(WiringAdd),
    Remove(WiringRemove),
}

/// All wirings.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct WiringList {
    /// of this agent only
    #[argh(option)]
    group: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ask that an agent listen and write to a chat, or do so in another way. It is held until somebody approves it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "add")]
struct WiringAdd {
    /// the platform, such as telegram
    #[argh(positional)]
    channel: String,
    /// the chat, by the platform's name for it
    #[argh(positional)]
    chat: String,
    /// the agent
    #[argh(option)]
    group: String,
    /// the account on the platform, where there are several
    #[argh(option)]
    instance: Option<String>,
    /// what it answers: all, mention, mention-sticky or pattern (all)
    #[argh(option)]
    engage: Option<String>,
    /// with --engage pattern: the pattern
    #[argh(option)]
    pattern: Option<String>,
    /// whom it answers: members or anyone (members)
    #[argh(option)]
    senders: Option<String>,
    /// what becomes of people who are no members: strict, request_approval or public (strict; with anyone public)
    #[argh(option)]
    unknown: Option<String>,
    /// what becomes of the rest: drop or accumulate (drop)
    #[argh(option)]
    ignored: Option<String>,
    /// what is one conversation: shared, per-thread or agent-shared (shared)
    #[argh(option)]
    sessions: Option<String>,
    /// why
    #[argh(option, default = "String::new()")]
    reason: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// approve it at once, after showing what it does
    #[argh(switch)]
    approve: bool,
    /// with --approve: do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ask that an agent leave a chat. It is held until somebody approves it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "remove")]
struct WiringRemove {
    /// the platform, such as telegram
    #[argh(positional)]
    channel: String,
    /// the chat, by the platform's name for it
    #[argh(positional)]
    chat: String,
    /// the agent
    #[argh(option)]
    group: String,
    /// the account on the platform, where there are several
    #[argh(option)]
    instance: Option<String>,
    /// why
    #[argh(option, default = "String::new()")]
    reason: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// approve it at once, after showing what it does
    #[argh(switch)]
    approve: bool,
    /// with --approve: do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// The chats that there are on platforms.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "group")]
pub(super) struct Group {
    #[argh(subcommand)]
    verb: GroupVerb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum GroupVerb {
    List(GroupList),
}

/// All chats, wired or not.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct GroupList {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl wiring`
pub(super) fn wirings(client: &Client, words: Wiring) -> Result<(), Failure> {
    match words.verb {
        WiringVerb::List(WiringList { group, json }) => list(client, group.as_deref(), Output::of(json)),
        WiringVerb::Add(asked) => {
            let terms = [
                ("instance", asked.instance),
                ("engage", asked.engage),
                ("pattern", asked.pattern),
                ("senders", asked.senders),
                ("unknown", asked.unknown),
                ("ignored", asked.ignored),
                ("sessions", asked.sessions),
            ];
            let one = chat(asked.channel, asked.chat, terms);
            let manner = Manner {
                by: asked.by,
                reason: asked.reason,
                then: Then { approve: asked.approve, yes: asked.yes, json: asked.json },
            };
            manner.ask(client, "wiring", &asked.group, "add", one)
        }
        WiringVerb::Remove(asked) => {
            let chat = chat(asked.channel, asked.chat, [("instance", asked.instance)]);
            let manner = Manner {
                by: asked.by,
                reason: asked.reason,
                then: Then { approve: asked.approve, yes: asked.yes, json: asked.json },
            };
            manner.ask(client, "wiring", &asked.group, "remove", chat)
        }
    }
}

/// A chat with whatever else was given; what was not is the control plane's to choose.
pub(super) fn chat<const N: usize>(
    channel: String,
    chat: String,
    more: [(&'static str, Option<String>); N],
) -> Value {
    let mut fields = vec![("channel", Value::from(channel)), ("chat", Value::from(chat))];
    fields.extend(more.into_iter().filter_map(|(name, value)| Some((name, Value::from(value?)))));
    Value::object(fields)
}

fn list(client: &Client, group: Option<&str>, output: Output) -> Result<(), Failure> {
    let mut rows = all(client, &of_group("/v1/wirings", group), "wirings")?;
    if output == Output::Table {
        rows = rows.iter().map(flat).collect();
    }
    let columns = [
        ("AGENT", "group"),
        ("CHANNEL", "channel"),
        ("INSTANCE", "instance"),
        ("CHAT", "chat"),
        ("ENGAGE", "engage"),
        ("PATTERN", "pattern"),
        ("SENDERS", "senders"),
        ("STRANGERS", "unknown"),
        ("IGNORED", "ignored"),
        ("SESSIONS", "sessions"),
        ("PROBLEM", "problem"),
    ];
    print(&rows, output, &columns, "no chat is wired to an agent")
}

/// A wiring with its terms beside its chat.
fn flat(wiring: &Value) -> Value {
    let terms = wiring.get("terms").and_then(Value::as_object).unwrap_or_default();
    Value::Object(wiring.as_object().unwrap_or_default().iter().chain(terms).cloned().collect())
}

/// `ctl group`
pub(super) fn groups(client: &Client, words: Group) -> Result<(), Failure> {
    let GroupVerb::List(GroupList { json }) = words.verb;
    let rows = all(client, "/v1/messaging_groups", "messaging_groups")?;
    let columns = [
        ("CHANNEL", "channel"),
        ("INSTANCE", "instance"),
        ("CHAT", "chat"),
        ("TITLE", "title"),
        ("SINCE", "created_at"),
    ];
    print(&rows, Output::of(json), &columns, "no chat of a platform is known")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_given_is_left_out() {
        let given =
            chat("telegram".into(), "12".into(), [("engage", Some("mention".into())), ("pattern", None)]);
        assert_eq!(given.to_string(), "{\"channel\":\"telegram\",\"chat\":\"12\",\"engage\":\"mention\"}");
    }

    #[test]
    fn terms_are_columns() {
        let terms = Value::object([("engage", Value::from("all"))]);
        let row = flat(&Value::object([("chat", Value::from("12")), ("terms", terms)]));
        assert_eq!(row.get("engage").and_then(Value::as_str), Some("all"));
        assert_eq!(row.get("chat").and_then(Value::as_str), Some("12"));
    }
}
