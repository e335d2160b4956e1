//! `ctl agent create`: the payload of a change that makes an agent, from a template, a directory, flags or a
//! conversation; sent, shown, and approved by whoever may. Touches the files it is told to read, the network and the
//! terminal.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use argh::{ArgsInfo, FromArgs};

use super::client::Client;
use super::decide::{Decided, Decision, decide};
use super::flags::{chats, destinations};
use super::payload::read_file;
use super::shown::{out, text};
use super::submit::{Asked, Then, held, take_back};
use super::wizard::{Begin, Wizard};
use super::{Failure, agent};
use crate::contract::catalogue::{TEMPLATES, Template, template};
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::contract::plain;

/// Make an agent. Without flags, on a terminal, it is asked for step by step.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "create")]
pub(super) struct Create {
    /// its name: a-z 0-9 . _ -
    #[argh(positional)]
    agent: Option<String>,
    /// the same
    #[argh(option)]
    name: Option<String>,
    /// what people call it
    #[argh(option)]
    title: Option<String>,
    /// what to start from; `agent templates` lists them
    #[argh(option)]
    template: Option<String>,
    /// a tool to have, instead of the template's; may be repeated
    #[argh(option)]
    tool: Vec<String>,
    /// every tool
    #[argh(switch)]
    all_tools: bool,
    /// who it is
    #[argh(option)]
    identity: Option<String>,
    /// what it cares about
    #[argh(option)]
    soul: Option<String>,
    /// what it does
    #[argh(option)]
    instructions: Option<String>,
    /// a directory with IDENTITY.md, SOUL.md and AGENTS.md, or some of them
    #[argh(option)]
    persona_dir: Option<String>,
    /// who answers for its model
    #[argh(option)]
    provider: Option<String>,
    /// its model
    #[argh(option)]
    model: Option<String>,
    /// a user who may talk to it; may be repeated
    #[argh(option)]
    member: Vec<String>,
    /// CHANNEL:CHAT to listen and write to; may be repeated
    #[argh(option)]
    wire: Vec<String>,
    /// NAME=CHANNEL:CHAT to send to; may be repeated
    #[argh(option)]
    destination: Vec<String>,
    /// why
    #[argh(option, default = "String::new()")]
    reason: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// approve it without being asked
    #[argh(switch)]
    yes: bool,
    /// leave it held
    #[argh(switch)]
    no_approve: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Runs it; what is wrong with the words is said before anybody is connected to.
pub(super) fn run(client: impl Fn() -> Result<Client, Failure>, mut asked: Create) -> Result<(), Failure> {
    if asked.yes && asked.no_approve {
        return Err(Failure::usage("--yes and --no-approve exclude each other; leave one out"));
    }
    let name = match (asked.agent.take(), asked.name.take()) {
        (Some(_), Some(_)) => return Err(Failure::usage("the name is given twice; leave --name out")),
        (Some(name), None) | (None, Some(name)) => name,
        (None, None) if asked.is_bare() && io::stdin().is_terminal() && !asked.json => {
            return guided(&client()?, asked).map(drop);
        }
        (None, None) => {
            return Err(Failure::usage(
                "a name is missing; say `ironctl agent create NAME --template assistant --yes`, or only `ironctl agent \
                 create` on a terminal to be asked",
            ));
        }
    };
    let name = GroupName::parse(&name).map_err(|error| Failure::usage(format!("the name is {error}")))?;
    let payload = payload(&asked)?;
    Then { approve: !asked.no_approve, yes: asked.yes, json: asked.json }.check()?;
    let client = client()?;
    let change = request(name.as_str(), payload, &asked).send(&client)?;
    match finish(&client, name.as_str(), &change, &asked)? {
        Made::Declined(why) => Err(Failure::of(why)),
        Made::Now | Made::Held => Ok(()),
    }
}

/// Asks for everything on a terminal, and makes it. Gives its name; `None` when it is held.
pub(super) fn guide(client: &Client) -> Result<Option<String>, Failure> {
    let nothing_said = Create::from_args(&["ironctl agent create"], &[]);
    guided(client, nothing_said.map_err(|early| Failure::usage(early.output))?)
}

/// Asks for everything, then goes on as with flags; what is refused or declined is asked for again, the rest kept.
fn guided(client: &Client, asked: Create) -> Result<Option<String>, Failure> {
    let is_taken = |name: &str| -> Result<bool, Failure> {
        let answer = client.get_any(&agent::path(name))?;
        match answer.0 {
            // Who may not look learns it from the request itself.
            403 | 404 => Ok(false),
            _ => Ok(client.judged(answer).map(|_| true)?),
        }
    };
    // The input is held only while it is read: the approval is asked for on it too.
    let wizard = |from: Begin| {
        let (stdin, mut out) = (io::stdin(), io::stdout());
        Wizard { input: &mut stdin.lock(), out: &mut out, is_taken: &is_taken }.run(from)
    };
    let mut answers = wizard(Begin::Nothing)?;
    loop {
        let (name, payload) = (answers.name.clone(), answers.payload());
        let why = match request(&name, payload, &asked).send(client) {
            Err(refused) => refused.text,
            Ok(change) => match finish(client, &name, &change, &asked)? {
                Made::Now => return Ok(Some(name)),
                Made::Held => return Ok(None),
                Made::Declined(why) => why,
            },
        };
        answers = wizard(Begin::Again(Box::new(answers), why))?;
    }
}

/// What became of it.
enum Made {
    /// It is there.
    Now,
    /// Somebody has to approve it.
    Held,
    /// The person said no, so it was withdrawn.
    Declined(String),
}

fn words<T: AsRef<str>>(all: &[T]) -> Value {
    Value::Array(all.iter().map(|word| Value::from(word.as_ref())).collect())
}

fn request<'a>(name: &'a str, payload: Value, asked: &'a Create) -> Asked<'a> {
    Asked { kind: "create_agent", group: name, payload, by: &asked.by, reason: &asked.reason, key: None }
}

/// Leaves a change that was asked for held, or approves what it shows.
fn finish(client: &Client, name: &str, change: &Value, asked: &Create) -> Result<Made, Failure> {
    if asked.no_approve {
        held(change, asked.json)?;
        return Ok(Made::Held);
    }
    let decision = Decision { by: &asked.by, yes: asked.yes, json: asked.json, ..Decision::default() };
    let id = plain::line(text(change, "id")).into_owned();
    match decide(client, change, &decision)? {
        Decided::Approved(change) if asked.json => out(&change).map(|()| Made::Now),
        Decided::Approved(_) => {
            writeln!(io::stdout(), "\n{name} is made; talk to it with `ironctl chat {name}`")?;
            Ok(Made::Now)
        }
        Decided::Denied(_) if asked.json => out(change).map(|()| Made::Held),
        Decided::Denied(why) => {
            writeln!(
                io::stdout(),
                "\nheld: {why}; there is no {name} until somebody approves it with `ironctl change approve {id}`"
            )?;
            Ok(Made::Held)
        }
        Decided::Declined => {
            take_back(client, change)?;
            Ok(Made::Declined(format!("{name} was not made: you did not approve it, so {id} was withdrawn")))
        }
    }
}

impl Create {
    /// Whether nothing says what the agent is to be.
    fn is_bare(&self) -> bool {
        let texts = [
            &self.title,
            &self.template,
            &self.identity,
            &self.soul,
            &self.instructions,
            &self.persona_dir,
            &self.provider,
            &self.model,
        ];
        texts.iter().all(|text| text.is_none())
            && self.tool.is_empty()
            && self.member.is_empty()
            && self.wire.is_empty()
            && self.destination.is_empty()
            && !self.all_tools
            && !self.yes
            && !self.no_approve
    }
}

fn named(id: &str) -> Result<&'static Template, Failure> {
    template(id).ok_or_else(|| {
        let all: Vec<&str> = TEMPLATES.iter().map(|template| template.id).collect();
        Failure::usage(format!(
            "there is no template {}; expected one of: {}",
            plain::line(id),
            all.join(", ")
        ))
    })
}

/// What the flags come to: they go before the directory, and that goes before the template.
fn payload(asked: &Create) -> Result<Value, Failure> {
    let start = asked.template.as_deref().map(named).transpose()?;
    let directory = asked.persona_dir.as_deref().map(persona).transpose()?.unwrap_or_default();
    let mut fields = Vec::new();
    let mut add = |name: &'static str, value: Option<Value>| fields.extend(value.map(|value| (name, value)));
    let text = |text: &Option<String>| text.as_deref().map(Value::from);
    add("title", text(&asked.title));
    add("provider", text(&asked.provider));
    add("model", text(&asked.model));
    for (name, flag, file, document) in [
        ("identity", &asked.identity, directory.identity, start.map(|start| start.identity)),
        ("soul", &asked.soul, directory.soul, start.map(|start| start.soul)),
        ("instructions", &asked.instructions, directory.instructions, start.map(|start| start.instructions)),
    ] {
        let chosen = flag.clone().or(file).or_else(|| document.map(str::to_owned));
        add(name, chosen.filter(|text| !text.is_empty()).map(Value::from));
    }
    add(
        "tools",
        match (asked.all_tools, asked.tool.is_empty()) {
            (true, false) => return Err(Failure::usage("--tool and --all-tools exclude each other")),
            (true, true) => Some(Value::from("all")),
            (false, false) => Some(words(&asked.tool)),
            (false, true) => start.map(|start| words(start.tools)),
        },
    );
    add("members", (!asked.member.is_empty()).then(|| words(&asked.member)));
    let (wirings, given) = (chats("--wire", &asked.wire, &[])?, destinations(&asked.destination, &[])?);
    add("wirings", (!asked.wire.is_empty()).then_some(wirings));
    add("destinations", (!asked.destination.is_empty()).then_some(given));
    Ok(Value::object(fields))
}

/// The documents of a directory.
#[derive(Default)]
struct Persona {
    identity: Option<String>,
    soul: Option<String>,
    instructions: Option<String>,
}

fn persona(directory: &str) -> Result<Persona, Failure> {
    let document = |name: &str| {
        let path = Path::new(directory).join(name);
        if path.exists() { read_file(&path.display().to_string()).map(Some) } else { Ok(None) }
    };
    let found = Persona {
        identity: document("IDENTITY.md")?,
        soul: document("SOUL.md")?,
        instructions: document("AGENTS.md")?,
    };
    if found.identity.is_none() && found.soul.is_none() && found.instructions.is_none() {
        return Err(Failure::of(format!(
            "{} holds no persona; expected IDENTITY.md, SOUL.md or AGENTS.md in it",
            plain::line(directory)
        )));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(all: &[&str]) -> Create {
        Create::from_args(&["create"], all).unwrap()
    }

    #[test]
    fn flags_go_before_the_directory_and_that_before_the_template() {
        let directory = std::env::temp_dir().join(format!("ironctl-persona-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("SOUL.md"), "from the file").unwrap();
        std::fs::write(directory.join("AGENTS.md"), "from the file").unwrap();
        let at = directory.display().to_string();
        let made = payload(&given(&[
            "--template",
            "assistant",
            "--persona-dir",
            &at,
            "--instructions",
            "from the flag",
            "--tool",
            "read_file",
        ]));
        std::fs::remove_dir_all(&directory).unwrap();
        let made = made.unwrap();
        assert_eq!(text(&made, "identity"), template("assistant").unwrap().identity);
        assert_eq!((text(&made, "soul"), text(&made, "instructions")), ("from the file", "from the flag"));
        assert_eq!(made.get("tools").unwrap().to_string(), "[\"read_file\"]");
        assert_eq!(made.get("title"), None);
        assert_eq!(payload(&given(&[])).unwrap().to_string(), "{}");
    }

    #[test]
    fn wrong_words_are_told_before_anybody_is_connected_to() {
        let nobody = || -> Result<Client, Failure> { Err(Failure::of("connected")) };
        for (all, about) in [
            (&["a", "--name", "b"][..], "twice"),
            (&["Bad Name", "--yes"], "agent group"),
            (&["a", "--yes", "--template", "king"], "assistant"),
            (&["a", "--yes", "--tool", "x", "--all-tools"], "exclude"),
            (&["a", "--yes", "--no-approve"], "exclude"),
            (&["--template", "blank"], "a name is missing"),
        ] {
            let failure = run(nobody, given(all)).unwrap_err();
            assert!(failure.code == 2 && failure.text.contains(about), "{failure:?}");
        }
        assert_eq!(run(nobody, given(&["a", "--yes"])).unwrap_err().text, "connected");
    }
}
