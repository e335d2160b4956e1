//! Asking for a change, by `ctl change submit` and by every command that asks for one in words of its own. Touches the
//! network, the terminal, and the files it is told to read.

use std::io::{self, IsTerminal, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::Client;
use super::decide::{Decision, decide, settled};
use super::payload::payload;
use super::shown::{done, out, path, show, text};
use crate::contract::json::Value;
use crate::contract::plain;

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
    /// persona, create_agent: who the agent is
    #[argh(option)]
    pub(super) identity: Option<String>,
    /// persona, create_agent: what it cares about
    #[argh(option)]
    pub(super) soul: Option<String>,
    /// persona, create_agent: what it does
    #[argh(option)]
    pub(super) instructions: Option<String>,
    /// enabled_tools, create_agent: a tool to have; may be repeated
    #[argh(option)]
    pub(super) tool: Vec<String>,
    /// enabled_tools, create_agent: every tool
    #[argh(switch)]
    pub(super) all_tools: bool,
    /// enabled_tools, create_agent: no tool
    #[argh(switch)]
    pub(super) no_tools: bool,
    /// model, create_agent: who answers
    #[argh(option)]
    pub(super) provider: Option<String>,
    /// model, create_agent: the model
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
    /// wiring, create_agent: CHANNEL:CHAT to listen and write to; may be repeated
    #[argh(option)]
    pub(super) wire: Vec<String>,
    /// wiring: CHANNEL:CHAT to leave; may be repeated
    #[argh(option)]
    pub(super) unwire: Vec<String>,
    /// create_agent: what people call it
    #[argh(option)]
    pub(super) title: Option<String>,
    /// create_agent: a user who may talk to it; may be repeated
    #[argh(option)]
    pub(super) member: Vec<String>,
    /// with --wire, --unwire, --destination: the account on the platform, where there are several
    #[argh(option)]
    pub(super) instance: Option<String>,
    /// with --wire: what it answers: all, mention, mention-sticky or pattern (all)
    #[argh(option)]
    pub(super) engage: Option<String>,
    /// with --engage pattern: the pattern
    #[argh(option)]
    pub(super) pattern: Option<String>,
    /// with --wire: whom it answers: members or anyone (members)
    #[argh(option)]
    pub(super) senders: Option<String>,
    /// with --wire: what becomes of strangers: strict, request_approval or public
    #[argh(option)]
    pub(super) unknown: Option<String>,
    /// with --wire: what becomes of the rest: drop or accumulate (drop)
    #[argh(option)]
    pub(super) ignored: Option<String>,
    /// with --wire: what is one conversation: shared, per-thread or agent-shared (shared)
    #[argh(option)]
    pub(super) sessions: Option<String>,
    /// wiring, create_agent: NAME=CHANNEL:CHAT to send to; may be repeated
    #[argh(option)]
    pub(super) destination: Vec<String>,
    /// with one --destination: what people call it
    #[argh(option)]
    pub(super) display_name: Option<String>,
    /// with one --destination: the thread in the chat
    #[argh(option)]
    pub(super) thread: Option<String>,
    /// wiring: NAME to send to no more; may be repeated
    #[argh(option)]
    pub(super) remove_destination: Vec<String>,
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

/// How a command that asks for a change in words of its own was told to ask.
pub(super) struct Manner {
    /// What the client calls whoever asks.
    pub(super) by: String,
    /// Why.
    pub(super) reason: String,
    /// What is to become of it.
    pub(super) then: Then,
}

impl Manner {
    /// Asks for a change of one step, and leaves it held or decides it.
    pub(super) fn ask(
        &self,
        client: &Client,
        kind: &str,
        group: &str,
        step: &'static str,
        one: Value,
    ) -> Result<(), Failure> {
        let payload = Value::object([(step, Value::Array(vec![one]))]);
        let (by, reason) = (self.by.as_str(), self.reason.as_str());
        ask(client, Asked { kind, group, payload, by, reason, key: None }, self.then)
    }
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

pub(super) fn submit(client: &Client, asked: Submit) -> Result<(), Failure> {
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
