//! `ctl change`: ask for a change, look at what waits, decide. Nobody approves what was not shown: the difference and
//! its digest are printed before a decision is sent, and a change that became stale meanwhile is shown anew and left
//! to be decided again. Touches the files it is told to read, the terminal, and an editor.

use std::io::{self, BufRead, IsTerminal, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::{Client, encode};
use super::lists::{Output, all, of_group, print};
use super::payload::payload;
use crate::contract::json::Value;
use crate::contract::plain;

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

/// Ask for a change. It is held until somebody approves it.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "submit")]
pub(super) struct Submit {
    /// the kind: persona, enabled_tools, model, wiring, permissions, packages, mounts or create_agent
    #[argh(option)]
    pub(super) kind: String,
    /// the agent
    #[argh(option)]
    pub(super) group: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    pub(super) by: String,
    /// why
    #[argh(option, default = "String::new()")]
    pub(super) reason: String,
    /// the payload from a file: a .json file of any kind; for persona the text (IDENTITY, SOUL and AGENTS by the
    /// file's name, else the instructions); - is the input
    #[argh(option)]
    pub(super) from: Option<String>,
    /// the payload itself, JSON
    #[argh(option)]
    pub(super) payload: Option<String>,
    /// persona: who the agent is
    #[argh(option)]
    pub(super) identity: Option<String>,
    /// persona: what it cares about
    #[argh(option)]
    pub(super) soul: Option<String>,
    /// persona: what it does
    #[argh(option)]
    pub(super) instructions: Option<String>,
    /// enabled_tools: a tool to have; may be repeated
    #[argh(option)]
    pub(super) tool: Vec<String>,
    /// enabled_tools: every tool
    #[argh(switch)]
    pub(super) all_tools: bool,
    /// enabled_tools: no tool
    #[argh(switch)]
    pub(super) no_tools: bool,
    /// model: who answers
    #[argh(option)]
    pub(super) provider: Option<String>,
    /// model: the model
    #[argh(option)]
    pub(super) model: Option<String>,
    /// permissions: USER:ROLE[@*], such as telegram:12:approver; may be repeated
    #[argh(option)]
    pub(super) grant: Vec<String>,
    /// permissions: the same, taken away
    #[argh(option)]
    pub(super) revoke: Vec<String>,
    /// permissions: a user who may talk to the agent; may be repeated
    #[argh(option)]
    pub(super) add_member: Vec<String>,
    /// permissions: a user who may not any more; may be repeated
    #[argh(option)]
    pub(super) remove_member: Vec<String>,
    /// wiring: CHANNEL:CHAT to listen and write to; may be repeated
    #[argh(option)]
    pub(super) wire: Vec<String>,
    /// wiring: CHANNEL:CHAT to leave; may be repeated
    #[argh(option)]
    pub(super) unwire: Vec<String>,
    /// packages: NAME@VERSION to have; may be repeated
    #[argh(option)]
    pub(super) add: Vec<String>,
    /// packages: NAME to have no more; may be repeated
    #[argh(option)]
    pub(super) remove: Vec<String>,
    /// mounts: NAME=DIR to read, or NAME alone for a directory of its own to write; may be repeated
    #[argh(option)]
    pub(super) mount: Vec<String>,
    /// mounts: NAME to have no more; may be repeated
    #[argh(option)]
    pub(super) unmount: Vec<String>,
    /// a name of your own for this request, so that sending it again does not ask twice
    #[argh(option)]
    pub(super) key: Option<String>,
    /// approve it at once, after showing what it does
    #[argh(switch)]
    pub(super) approve: bool,
    /// with --approve: do not ask
    #[argh(switch)]
    pub(super) yes: bool,
    /// print JSON
    #[argh(switch)]
    pub(super) json: bool,
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

/// Approve a change, after showing what it does.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "approve")]
struct Approve {
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

fn path(id: &str) -> String {
    format!("/v1/changes/{}", encode(id))
}

pub(super) fn out(document: &Value) -> Result<(), Failure> {
    writeln!(io::stdout(), "{document}")?;
    Ok(())
}

pub(super) fn text<'a>(change: &'a Value, name: &str) -> &'a str {
    change.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn done(change: &Value, json: bool, words: &str) -> Result<(), Failure> {
    if json {
        return out(change);
    }
    writeln!(io::stdout(), "{} {words}", plain::line(text(change, "id")))?;
    Ok(())
}

/// What became of a change that was approved.
fn in_effect(change: &Value, json: bool) -> Result<(), Failure> {
    let id = plain::line(text(change, "id")).into_owned();
    if text(change, "state") == "approved" {
        if json {
            out(change)?;
        }
        return Err(Failure::of(format!(
            "{id} is approved, but not in effect: {}; when that is mended, run `ironctl change retry {id}`",
            plain::line(text(change, "failure"))
        )));
    }
    done(change, json, &format!("approved and in effect; `ironctl change show {id}` has the record"))
}

/// Everything that an approver must see. What others wrote was escaped by the control plane, and is again here.
fn show(change: &Value) -> Result<(), Failure> {
    io::stdout().write_all(shown(change).as_bytes())?;
    Ok(())
}

fn shown(change: &Value) -> String {
    let mut shown = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            shown.push_str(&format!("{name:<10} {}\n", plain::line(value)));
        }
    };
    line("change", text(change, "id"));
    line("kind", text(change, "kind"));
    line("agent", text(change, "group"));
    line("state", text(change, "state"));
    line("asked by", text(change, "requested_by"));
    line("called", text(change, "by"));
    line("because", text(change, "reason"));
    line("asked at", text(change, "submitted_at"));
    line("lapses at", if text(change, "state") == "pending" { text(change, "expires_at") } else { "" });
    line("decided by", text(change, "decided_by"));
    line("note", text(change, "note"));
    line("failed", text(change, "failure"));
    shown.push('\n');
    shown.push_str(plain::block(text(change, "diff")).trim_end());
    shown.push_str(&format!("\n\ndigest     {}\n", plain::line(text(change, "digest"))));
    shown
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
    let mut query = format!("limit={}", limit.clamp(1, 500));
    if let Some(group) = group {
        query.push_str(&format!("&group={}", encode(group)));
    }
    let page = client.get(&format!("/v1/changes/history?{query}"))?;
    let rows = page.get("changes").and_then(Value::as_array).unwrap_or_default();
    let columns = [
        ("CHANGE", "id"),
        ("KIND", "kind"),
        ("AGENT", "group"),
        ("STATE", "state"),
        ("ASKED BY", "requested_by"),
        ("DECIDED BY", "decided_by"),
        ("AT", "submitted_at"),
    ];
    print(rows, output, &columns, "no change was ever asked for")
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

fn approve(client: &Client, asked: &Approve) -> Result<(), Failure> {
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
        let state = plain::line(text(change, "state")).into_owned();
        return Err(Failure::of(format!("the change is {state}; only a pending one can be approved")));
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
    if status == 409 && text(&answer, "type") == "stale" {
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
    if status == 403 {
        return Ok(Decided::Denied(plain::line(text(&answer, "detail")).into_owned()));
    }
    Ok(Decided::Approved(client.judged((status, answer))?))
}

/// Says what became of it.
fn settled(decided: &Decided, change: &Value, json: bool) -> Result<(), Failure> {
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

/// A change that a command asks for.
pub(super) struct Asked<'a> {
    /// The kind.
    pub(super) kind: &'a str,
    /// The agent.
    pub(super) group: &'a str,
    /// The payload.
    pub(super) payload: Value,
    /// What the client calls whoever asks.
    pub(super) by: &'a str,
    /// Why.
    pub(super) reason: &'a str,
    /// A name for the request, by which it is known when it is sent again.
    pub(super) key: Option<&'a str>,
}

impl Asked<'_> {
    /// Sends it and gives the change that it became.
    pub(super) fn send(self, client: &Client) -> Result<Value, Failure> {
        let mut fields = vec![
            ("kind", Value::from(self.kind)),
            ("group", Value::from(self.group)),
            ("payload", self.payload),
            ("by", Value::from(self.by)),
        ];
        if !self.reason.is_empty() {
            fields.push(("reason", Value::from(self.reason)));
        }
        let answer = client.post_keyed("/v1/changes", &Value::object(fields), self.key)?;
        Ok(client.judged(answer)?)
    }
}

/// What is to become at once of a change that was asked for.
#[derive(Clone, Copy, Default)]
pub(super) struct Then {
    /// Approve it.
    pub(super) approve: bool,
    /// And do not ask.
    pub(super) yes: bool,
    /// Print JSON.
    pub(super) json: bool,
}

impl Then {
    /// # Errors
    /// When somebody would have to be asked and nobody can be: nothing was sent yet.
    pub(super) fn check(self) -> Result<(), Failure> {
        if self.yes && !self.approve {
            return Err(Failure::usage(
                "--yes goes with --approve; say both, or neither to leave the change held",
            ));
        }
        if self.approve && !self.yes && !io::stdin().is_terminal() {
            return Err(Failure::usage(
                "this is no terminal, so nobody can be asked and nothing was sent; say --yes to approve it unasked, or \
                 leave it held and decide it later",
            ));
        }
        Ok(())
    }
}

fn submit(client: &Client, asked: Submit) -> Result<(), Failure> {
    let payload = payload(&asked)?;
    let then = Then { approve: asked.approve, yes: asked.yes, json: asked.json };
    let key = asked.key.as_deref();
    let (by, reason) = (asked.by.as_str(), asked.reason.as_str());
    ask(client, Asked { kind: &asked.kind, group: &asked.group, payload, by, reason, key }, then)
}

/// Asks for a change, and leaves it held or decides it.
pub(super) fn ask(client: &Client, asked: Asked<'_>, then: Then) -> Result<(), Failure> {
    then.check()?;
    let by = asked.by;
    let change = asked.send(client)?;
    if then.approve {
        if text(&change, "state") != "pending" {
            return done(&change, then.json, "is in effect already");
        }
        let decision = Decision { by, yes: then.yes, json: then.json, ..Decision::default() };
        return settled(&decide(client, &change, &decision)?, &change, then.json);
    }
    held(&change, then.json)
}

/// Shows a change that was asked for and waits.
pub(super) fn held(change: &Value, json: bool) -> Result<(), Failure> {
    if json {
        return out(change);
    }
    show(change)?;
    let id = plain::line(text(change, "id")).into_owned();
    match text(change, "state") {
        "pending" => writeln!(
            io::stdout(),
            "\nheld: nothing changes until somebody approves it with `ironctl change approve {id}`"
        )?,
        state => writeln!(io::stdout(), "\n{}", plain::line(state))?,
    }
    Ok(())
}

/// Takes back a change that was asked for a moment ago.
pub(super) fn take_back(client: &Client, change: &Value) -> Result<(), Failure> {
    client.post(&format!("{}/withdraw", path(text(change, "id"))), &Value::object::<String>([]))?;
    Ok(())
}
