//! `ctl change`: its words, and what needs no room of its own: what waits, what was decided, saying no. Touches the
//! network and the terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::Client;
use super::decide::{Approve, approve};
use super::lists::{Output, all, newest, of_group, print};
use super::shown::{done, in_effect, out, path, show};
use super::submit::{Submit, submit};
use crate::contract::json::Value;

/// Ask for changes of what an agent is, and decide them.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "change")]
pub(super) struct Change {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
enum Verb {
    Submit(Submit),
    Show(Show),
    Pending(Pending),
    History(History),
    Approve(Approve),
    Reject(Reject),
    Withdraw(Withdraw),
    Retry(Retry),
}

/// One change: what it would do, or did.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "show")]
struct Show {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// What waits for a decision.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "pending")]
struct Pending {
    /// of this agent only
    #[argh(option)]
    group: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// All changes, the newest first.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "history")]
struct History {
    /// of this agent only
    #[argh(option)]
    group: Option<String>,
    /// so many (50)
    #[argh(option, default = "50")]
    limit: u64,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Reject a change.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "reject")]
struct Reject {
    /// its id
    #[argh(positional)]
    id: String,
    /// what to call you; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// a word to whoever asked
    #[argh(option, default = "String::new()")]
    note: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Take back what you asked for.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "withdraw")]
struct Withdraw {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Try again what an approved change still has to do on the host.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "retry")]
struct Retry {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Runs it.
pub(super) fn run(client: &Client, change: Change) -> Result<(), Failure> {
    match change.verb {
        Verb::Submit(asked) => submit(client, asked),
        Verb::Show(Show { id, json }) => {
            let change = client.get(&path(&id))?;
            if json { out(&change) } else { show(&change) }
        }
        Verb::Pending(Pending { group, json }) => pending(client, group.as_deref(), Output::of(json)),
        Verb::History(History { group, limit, json }) => {
            history(client, group.as_deref(), limit, Output::of(json))
        }
        Verb::Approve(asked) => approve(client, &asked),
        Verb::Reject(Reject { id, by, note, json }) => {
            let body = Value::object([
                ("outcome", Value::from("reject")),
                ("note", Value::from(note)),
                ("by", Value::from(by)),
            ]);
            let change = client.post(&format!("{}/decision", path(&id)), &body)?;
            done(&change, json, "rejected; nothing was changed")
        }
        Verb::Withdraw(Withdraw { id, json }) => {
            let change = client.post(&format!("{}/withdraw", path(&id)), &Value::object::<String>([]))?;
            done(&change, json, "withdrawn; nothing was changed")
        }
        Verb::Retry(Retry { id, json }) => {
            let change = client.post(&format!("{}/retry", path(&id)), &Value::object::<String>([]))?;
            in_effect(&change, json)
        }
    }
}

fn pending(client: &Client, group: Option<&str>, output: Output) -> Result<(), Failure> {
    let rows = all(client, &of_group("/v1/changes/pending", group), "changes")?;
    let columns = [
        ("CHANGE", "id"),
        ("KIND", "kind"),
        ("AGENT", "group"),
        ("ASKED BY", "requested_by"),
        ("AT", "submitted_at"),
        ("BECAUSE", "reason"),
    ];
    print(&rows, output, &columns, "no change waits for a decision")?;
    if output == Output::Table && !rows.is_empty() {
        writeln!(io::stdout(), "\nsee what one does and decide: ironctl change approve ID")?;
    }
    Ok(())
}

fn history(client: &Client, group: Option<&str>, limit: u64, output: Output) -> Result<(), Failure> {
    let rows = newest(client, &of_group("/v1/changes/history", group), "changes", limit)?;
    let columns = [
        ("CHANGE", "id"),
        ("KIND", "kind"),
        ("AGENT", "group"),
        ("STATE", "state"),
        ("ASKED BY", "requested_by"),
        ("DECIDED BY", "decided_by"),
        ("AT", "submitted_at"),
    ];
    print(&rows, output, &columns, "no change was ever asked for")?;
    if output == Output::Table && !rows.is_empty() {
        writeln!(io::stdout(), "\nsee what one did: ironctl change show ID")?;
    }
    Ok(())
}
