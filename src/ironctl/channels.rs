//! `ctl channel` and `ctl route`: the accounts on platforms, and what would become of a message in a chat. Touches the
//! network and the terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::Client;
use super::lists::{Output, cell, print};
use crate::contract::json::Value;
use crate::contract::plain;

/// The accounts on platforms.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "channel")]
pub(super) struct Channel {
    #[argh(subcommand)]
    verb: ChannelVerb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum ChannelVerb {
    List(List),
    Platforms(Platforms),
}

/// All accounts and their state.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct List {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// The platforms of this build, and what an account on each is told.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "platforms")]
struct Platforms {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// How messages find their agents.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "route")]
pub(super) struct Route {
    #[argh(subcommand)]
    verb: RouteVerb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum RouteVerb {
    Test(Test),
}

/// What would become of a message, for every agent in its chat. Nothing is changed.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "test")]
struct Test {
    /// the platform, such as webhook
    #[argh(positional)]
    channel: String,
    /// the chat, by the platform's name for it
    #[argh(positional)]
    chat: String,
    /// what is said
    #[argh(positional, default = "String::new()")]
    text: String,
    /// who says it: CHANNEL:HANDLE
    #[argh(option)]
    sender: String,
    /// the account on the platform, where there are several
    #[argh(option)]
    instance: Option<String>,
    /// the thread in the chat
    #[argh(option)]
    thread: Option<String>,
    /// the message names the agent's account
    #[argh(switch)]
    mentioned: bool,
    /// the sender is a program
    #[argh(switch)]
    bot: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl channel`
pub(super) fn channels(client: &Client, words: Channel) -> Result<(), Failure> {
    let document = client.get("/v1/channels")?;
    let rows = |key: &str| document.get(key).and_then(Value::as_array).unwrap_or_default();
    match words.verb {
        ChannelVerb::List(List { json }) => {
            let columns = [
                ("CHANNEL", "channel"),
                ("INSTANCE", "instance"),
                ("STATE", "state"),
                ("SINCE", "since"),
                ("REASON", "reason"),
            ];
            let none = "no accounts; `ironclaw help channels` says how to give the control plane one";
            print(rows("channels"), Output::of(json), &columns, none)
        }
        ChannelVerb::Platforms(Platforms { json: true }) => {
            writeln!(io::stdout(), "{}", Value::from(rows("platforms").to_vec()))?;
            Ok(())
        }
        ChannelVerb::Platforms(Platforms { json: false }) => {
            let mut out = io::stdout().lock();
            for platform in rows("platforms") {
                let line = |key: &str| plain::line(&cell(platform, key)).into_owned();
                writeln!(out, "{}: {}", line("channel"), line("title"))?;
                writeln!(out, "  a chat is {}", line("chat_form"))?;
                for key in platform.get("keys").and_then(Value::as_array).unwrap_or_default() {
                    let line = |name: &str| plain::line(&cell(key, name)).into_owned();
                    let must = if cell(key, "required") == "true" { "" } else { " (may be left out)" };
                    writeln!(out, "  {} or {}{must}: {}", line("name"), line("variable"), line("help"))?;
                }
            }
            Ok(())
        }
    }
}

/// `ctl route`
pub(super) fn routes(client: &Client, words: Route) -> Result<(), Failure> {
    let RouteVerb::Test(asked) = words.verb;
    let document = Value::object([
        ("channel", Value::from(asked.channel)),
        ("instance", Value::from(asked.instance)),
        ("chat", Value::from(asked.chat)),
        ("thread", Value::from(asked.thread)),
        ("sender", Value::from(asked.sender)),
        ("text", Value::from(asked.text)),
        ("mentioned", Value::from(asked.mentioned)),
        ("bot", Value::from(asked.bot)),
    ]);
    let answer = client.post("/v1/routes/test", &document)?;
    let rows = answer.get("outcomes").and_then(Value::as_array).unwrap_or_default();
    let columns = [
        ("AGENT", "agent"),
        ("VERDICT", "verdict"),
        ("BECAUSE", "because"),
        ("SESSION OF", "session_chat"),
        ("THREAD", "session_thread"),
    ];
    let none = "no agent that you may see listens there; `ironctl wiring list` shows which listen where";
    print(rows, Output::of(asked.json), &columns, none)
}
