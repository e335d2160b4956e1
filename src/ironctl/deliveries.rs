//! `ctl delivery`: what is on its way to platforms and what was given up. Touches the network and the terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::{Client, encode};
use super::lists::{Output, all, print};
use super::shown::out;
use crate::contract::json::Value;
use crate::contract::plain;

/// Messages on their way to platforms.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "delivery")]
pub(super) struct Delivery {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    List(List),
    Retry(Retry),
    Discard(Discard),
}

/// What was given up, or with --waiting what is on its way.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct List {
    /// what is on its way
    #[argh(switch)]
    waiting: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Try again to bring what was given up.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "retry")]
struct Retry {
    /// the message
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Bring it no more.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "discard")]
struct Discard {
    /// the message
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl delivery`
pub(super) fn run(client: &Client, words: Delivery) -> Result<(), Failure> {
    match words.verb {
        Verb::List(List { waiting, json }) => list(client, waiting, Output::of(json)),
        Verb::Retry(Retry { id, json }) => act(client, &id, "retry", "is tried again", json),
        Verb::Discard(Discard { id, json }) => act(client, &id, "discard", "is brought no more", json),
    }
}

fn list(client: &Client, waiting: bool, output: Output) -> Result<(), Failure> {
    let (state, none) = match waiting {
        true => ("waiting", "nothing is on its way"),
        false => ("dead", "nothing was given up; --waiting shows what is on its way"),
    };
    let rows = all(client, &format!("/v1/deliveries?state={state}"), "deliveries")?;
    let columns = [
        ("MESSAGE", "id"),
        ("AGENT", "group"),
        ("CHANNEL", "channel"),
        ("INSTANCE", "instance"),
        ("CHAT", "chat"),
        ("PARTS", "parts_sent"),
        ("TRIES", "attempts"),
        ("ERROR", "error"),
    ];
    print(&rows, output, &columns, none)?;
    if output == Output::Table && !waiting && !rows.is_empty() {
        writeln!(
            io::stdout(),
            "\n`ironctl delivery retry MESSAGE` tries again, `discard` gives it up for good"
        )?;
    }
    Ok(())
}

fn act(client: &Client, id: &str, verb: &str, done: &str, json: bool) -> Result<(), Failure> {
    let empty = Value::Object(Vec::new());
    let answer = client.post(&format!("/v1/deliveries/{}/{verb}", encode(id)), &empty)?;
    if json {
        return out(&answer);
    }
    writeln!(io::stdout(), "{} {done}", plain::line(id))?;
    Ok(())
}
