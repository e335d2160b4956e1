//! `ctl token`: what opens the door of the API, and for whom. A token is shown once, when it is made. Touches the
//! network and the terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::{Client, encode};
use super::lists::{Output, all, cell, print};
use super::shown::out;
use crate::contract::json::Value;
use crate::contract::plain;

/// Tokens of the API.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "token")]
pub(super) struct Token {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    List(List),
    Create(Create),
    Revoke(Revoke),
}

/// All tokens, without their secrets.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct List {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Make a token. It is shown once.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "create")]
struct Create {
    /// its name: letters, digits and - _ .
    #[argh(positional)]
    name: String,
    /// whom it speaks for (you)
    #[argh(option)]
    user: Option<String>,
    /// what it lets through: read, operate, approve, admin, metrics or chat; may be repeated (read and chat)
    #[argh(option)]
    scope: Vec<String>,
    /// for how many days (until it is revoked)
    #[argh(option)]
    days: Option<u64>,
    /// until when, as 2027-01-31T12:00:00Z, instead of --days
    #[argh(option)]
    until: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Make a token worthless, at once and for ever.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "revoke")]
struct Revoke {
    /// its name
    #[argh(positional)]
    name: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Runs it.
pub(super) fn run(client: &Client, words: Token) -> Result<(), Failure> {
    match words.verb {
        Verb::List(List { json }) => {
            let rows = all(client, "/v1/tokens", "tokens")?;
            let columns = [
                ("TOKEN", "name"),
                ("USER", "user"),
                ("SCOPES", "scopes"),
                ("STATE", "state"),
                ("MADE", "created_at"),
                ("UNTIL", "expires_at"),
            ];
            print(&rows, Output::of(json), &columns, "no tokens but the one of the state directory")
        }
        Verb::Create(asked) => create(client, asked),
        Verb::Revoke(Revoke { name, json }) => {
            let answer = client.delete(&format!("/v1/tokens/{}", encode(&name)))?;
            if json {
                return out(&answer);
            }
            writeln!(io::stdout(), "{} is revoked", plain::line(&name))?;
            Ok(())
        }
    }
}

fn create(client: &Client, asked: Create) -> Result<(), Failure> {
    let mut fields = vec![("name", Value::from(asked.name))];
    fields.extend(asked.user.map(|user| ("user", Value::from(user))));
    if !asked.scope.is_empty() {
        fields.push(("scopes", Value::Array(asked.scope.into_iter().map(Value::from).collect())));
    }
    fields.extend(asked.days.map(|days| ("days", Value::from(days))));
    fields.extend(asked.until.map(|until| ("expires_at", Value::from(until))));
    let made = client.post("/v1/tokens", &Value::object(fields))?;
    if asked.json {
        return out(&made);
    }
    let until = match cell(&made, "expires_at") {
        at if at.is_empty() => "until it is revoked".to_owned(),
        at => at,
    };
    let mut out = io::stdout().lock();
    for (name, value) in [
        ("name", cell(&made, "name")),
        ("user", cell(&made, "user")),
        ("scopes", cell(&made, "scopes")),
        ("valid", until),
        ("token", cell(&made, "token")),
    ] {
        writeln!(out, "{name:<10} {}", plain::line(&value))?;
    }
    writeln!(out, "\nThe token is not shown again: keep it now, in a file that only its user can read.")?;
    Ok(())
}
