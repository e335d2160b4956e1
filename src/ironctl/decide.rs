//! Approving a change. Nobody approves what was not shown: the difference and its digest are printed before a decision is
//! sent, and a change that is another one meanwhile is shown anew and left to be decided again. Touches the network and
//! the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::Client;
use super::shown::{in_effect, out, path, show, shown, text};
use crate::contract::json::Value;
use crate::contract::plain;

/// Approve a change, after showing what it does.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "approve")]
pub(super) struct Approve {
    /// its id
    #[argh(positional)]
    id: String,
    /// what to call you; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// a word to whoever asked
    #[argh(option, default = "String::new()")]
    note: String,
    /// the digest that you saw; without it the one that is shown now
    #[argh(option)]
    digest: Option<String>,
    /// do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Admit somebody who was told a code in a chat, after showing what that does.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "pair")]
pub(super) struct Pair {
    /// the code
    #[argh(positional)]
    code: String,
    /// what to call you; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// a word to go with the decision
    #[argh(option, default = "String::new()")]
    note: String,
    /// do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl pair`
pub(super) fn pair(client: &Client, asked: Pair) -> Result<(), Failure> {
    let Pair { code, by, note, yes, json } = asked;
    let found = client.post("/v1/pairings", &Value::object([("code", Value::from(code))]))?;
    approve(client, &Approve { id: text(&found, "change").to_owned(), by, note, digest: None, yes, json })
}

/// Asks on a terminal; elsewhere only `--yes` goes on.
pub(super) fn confirmed(question: &str, yes: bool) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(
            "this is no terminal, so nobody can be asked; look at what is shown, and say --yes",
        ));
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

pub(super) fn approve(client: &Client, asked: &Approve) -> Result<(), Failure> {
    let change = client.get(&path(&asked.id))?;
    let decision = Decision {
        by: &asked.by,
        note: &asked.note,
        digest: asked.digest.as_deref(),
        yes: asked.yes,
        json: asked.json,
    };
    settled(&decide(client, &change, &decision)?, &change, asked.json)
}

/// How an approval is asked for and sent.
#[derive(Default)]
pub(super) struct Decision<'a> {
    /// What the client calls whoever decides.
    pub(super) by: &'a str,
    /// A word to whoever asked.
    pub(super) note: &'a str,
    /// The digest that was seen before.
    pub(super) digest: Option<&'a str>,
    /// Do not ask.
    pub(super) yes: bool,
    /// Print JSON.
    pub(super) json: bool,
}

/// What became of a change that was shown.
pub(super) enum Decided {
    /// It is in effect.
    Approved(Value),
    /// The person said no, so nothing was sent.
    Declined,
    /// Whoever asks may not approve it, and why.
    Denied(String),
}

/// Why there is nothing to approve, and what can be done instead.
fn over(change: &Value) -> String {
    let state = text(change, "state");
    let next = match state {
        "applied" => "what it asked for is done; `ironctl change submit` asks for another".to_owned(),
        "approved" => {
            format!(
                "`ironctl change retry {}` tries again what is left of it",
                plain::word(text(change, "id"))
            )
        }
        _ => "`ironctl change submit` asks for it again".to_owned(),
    };
    format!("the change is {}, and only a pending one can be approved; {next}", plain::line(state))
}

/// Shows a change, asks, and sends the decision for exactly what was shown.
pub(super) fn decide(client: &Client, change: &Value, asked: &Decision<'_>) -> Result<Decided, Failure> {
    let digest = text(change, "digest");
    if let Some(named) = asked.digest
        && named != digest
    {
        show(change)?;
        return Err(Failure::of("the digest that you name is not that of this change, which is shown above"));
    }
    if text(change, "state") != "pending" {
        return Err(Failure::of(over(change)));
    }
    if asked.json {
        // The document is for the program; what a person must see goes beside it.
        io::stderr().write_all(shown(change).as_bytes())?;
    } else {
        show(change)?;
    }
    if !confirmed("approve this?", asked.yes)? {
        return Ok(Decided::Declined);
    }
    let body = Value::object([
        ("outcome", Value::from("approve")),
        ("digest", Value::from(digest)),
        ("note", Value::from(asked.note)),
        ("by", Value::from(asked.by)),
    ]);
    let (status, answer) = client.post_any(&format!("{}/decision", path(text(change, "id"))), &body)?;
    if status == 409 && matches!(text(&answer, "type"), "stale" | "wrong_digest") {
        if let Some(now) = answer.get("change") {
            if asked.json {
                out(now)?;
            } else {
                writeln!(io::stdout(), "\nchanged meanwhile; this is what it would do now:\n")?;
                show(now)?;
            }
        }
        return Err(Failure::of(
            "nothing was approved: what the change replaces was changed meanwhile; look at it, and decide again",
        ));
    }
    if status == 409 && text(&answer, "type") == "not_possible" {
        let (id, why) = (plain::line(text(change, "id")), plain::line(text(&answer, "detail")).into_owned());
        return Err(Failure::of(format!(
            "{why}; it stays held until somebody says `ironctl change withdraw {id}` or `ironctl change reject {id}`"
        )));
    }
    if status == 403 {
        return Ok(Decided::Denied(plain::line(text(&answer, "detail")).into_owned()));
    }
    Ok(Decided::Approved(client.judged((status, answer))?))
}

/// Says what became of it.
pub(super) fn settled(decided: &Decided, change: &Value, json: bool) -> Result<(), Failure> {
    let id = plain::line(text(change, "id")).into_owned();
    match decided {
        Decided::Approved(change) => in_effect(change, json),
        Decided::Declined => {
            writeln!(io::stdout(), "nothing was decided; `ironctl change reject {id}` says no")?;
            Ok(())
        }
        Decided::Denied(why) => Err(Failure::of(format!(
            "{id} is held, and you may not approve it: {why}; somebody who may says `ironctl change approve {id}`"
        ))),
    }
}
