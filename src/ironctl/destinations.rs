//! `ctl destination`: where an agent may send beside the chat that it answers. That is what an agent can do, so giving and
//! taking one asks for a change. Touches the network and the terminal.

use std::io::{self, Write};
use std::mem::take;

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::{Client, encode};
use super::lists::{Output, all, cell, of_group, print};
use super::shown::out;
use super::submit::{Manner, Then};
use crate::contract::inbound::AGENT;
use crate::contract::json::Value;
use crate::contract::plain;

/// Where agents may send beside the chat that they answer.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "destination")]
pub(super) struct Destination {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    List(List),
    Add(Add),
    Remove(Remove),
    Check(Check),
}

/// All destinations.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct List {
    /// of this agent only
    #[argh(option)]
    group: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ask that an agent may send to a chat or to another agent, or that a destination of its lead elsewhere. It is held until somebody approves
/// it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "add")]
struct Add {
    /// what the agent calls it
    #[argh(positional)]
    name: String,
    /// the platform, api, or agent for another agent
    #[argh(positional)]
    channel: String,
    /// the chat, by the platform's name for it, or the other agent
    #[argh(positional)]
    chat: String,
    /// the agent
    #[argh(option)]
    group: String,
    /// what people call it
    #[argh(option)]
    display_name: Option<String>,
    /// the account on the platform, where there are several
    #[argh(option)]
    instance: Option<String>,
    /// the thread in the chat, where there are such
    #[argh(option)]
    thread: Option<String>,
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

/// Ask that an agent may not send there any more. It is held until somebody approves it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "remove")]
struct Remove {
    /// what the agent calls it
    #[argh(positional)]
    name: String,
    /// the agent
    #[argh(option)]
    group: String,
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

/// Whether an agent may send to a chat now; exit 1 when not.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "check")]
struct Check {
    /// the platform, api, or agent for another agent
    #[argh(positional)]
    channel: String,
    /// the chat, by the platform's name for it, or the other agent
    #[argh(positional)]
    chat: String,
    /// the agent
    #[argh(option)]
    group: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl destination`
pub(super) fn run(client: &Client, words: Destination) -> Result<(), Failure> {
    match words.verb {
        Verb::List(List { group, json }) => list(client, group.as_deref(), Output::of(json)),
        Verb::Add(mut asked) => {
            let (by, reason) = (take(&mut asked.by), take(&mut asked.reason));
            let manner = Manner {
                by,
                reason,
                then: Then { approve: asked.approve, yes: asked.yes, json: asked.json },
            };
            let group = take(&mut asked.group);
            manner.ask(client, "wiring", &group, "destinations", given(asked))
        }
        Verb::Remove(asked) => {
            let manner = Manner {
                by: asked.by,
                reason: asked.reason,
                then: Then { approve: asked.approve, yes: asked.yes, json: asked.json },
            };
            manner.ask(client, "wiring", &asked.group, "remove_destinations", Value::from(asked.name))
        }
        Verb::Check(asked) => check(client, &asked),
    }
}

/// What was said; what was not is the control plane's to choose.
fn given(asked: Add) -> Value {
    let mut fields = vec![("name", Value::from(asked.name))];
    if asked.channel == AGENT {
        fields.extend([("kind", Value::from(AGENT)), ("agent_group", Value::from(asked.chat))]);
    } else {
        fields.extend([("channel", Value::from(asked.channel)), ("chat", Value::from(asked.chat))]);
    }
    let more = [("display_name", asked.display_name), ("instance", asked.instance), ("thread", asked.thread)];
    fields.extend(more.into_iter().filter_map(|(name, value)| Some((name, Value::from(value?)))));
    Value::object(fields)
}

fn list(client: &Client, group: Option<&str>, output: Output) -> Result<(), Failure> {
    let rows = all(client, &of_group("/v1/destinations", group), "destinations")?;
    let columns = [
        ("AGENT", "group"),
        ("NAME", "name"),
        ("CALLED", "display_name"),
        ("CHANNEL", "channel"),
        ("INSTANCE", "instance"),
        ("CHAT", "chat"),
        ("THREAD", "thread"),
        ("SINCE", "created_at"),
        ("PROBLEM", "problem"),
    ];
    print(&rows, output, &columns, "no agent may send anywhere but to the chat that it answers")
}

fn check(client: &Client, asked: &Check) -> Result<(), Failure> {
    let Check { channel, chat, group, json } = asked;
    let query = format!("group={}&channel={}&chat={}", encode(group), encode(channel), encode(chat));
    let answer = client.get(&format!("/v1/destinations/check?{query}"))?;
    if *json {
        out(&answer)?;
    }
    let is = |name: &str| answer.get(name).and_then(Value::as_bool).unwrap_or_default();
    let (group, name) = (plain::line(group), cell(&answer, "destination"));
    if is("allowed") {
        if !json {
            let name = plain::line(&name);
            writeln!(io::stdout(), "{group} may send there, and calls it {name}")?;
        }
        return Ok(());
    }
    Err(Failure::of(match (name.is_empty(), is("tool")) {
        (true, _) => format!(
            "{group} may not send there: that chat is no destination of it; `ironctl destination add` asks for one"
        ),
        (false, false) => format!(
            "{group} may not send there: it has the destination {name}, and not the tool send_message; give it with \
             `ironctl change submit --kind enabled_tools`"
        ),
        (false, true) => format!("{group} may not send there"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_given_is_left_out() {
        let words = ["ops", "api", "main", "--group", "ann", "--display-name", "Operations"];
        let add = Add::from_args(&["add"], &words).unwrap();
        let shown = r#"{"name":"ops","channel":"api","chat":"main","display_name":"Operations"}"#;
        assert_eq!(given(add).to_string(), shown);
    }
}
