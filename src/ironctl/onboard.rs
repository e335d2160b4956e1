//! `ctl onboard`: the first run, step by step: is all well, who are you, an agent, a first message, and what comes next.
//! Where nobody can be asked it prints the steps as commands. Touches the network and the terminal.

use std::io::{self, IsTerminal, Write};

use argh::{ArgsInfo, FromArgs};

use super::client::Client;
use super::lists::{all, cell};
use super::{Failure, chat, create, doctor, people};
use crate::contract::plain;

/// Your first agent, step by step: what is well here, who you are, an agent, a first message.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "onboard")]
pub(super) struct Onboard {}

/// What the agent is told first.
const GREETING: &str = "Hello! Who are you, and what can you do for me?";
/// The chat of the first message.
const CHAT: &str = "main";

const STEPS: &str = "\
ironctl doctor                                        # is all well here?
ironctl whoami                                        # who you are, and what you may
ironctl agent create NAME --template assistant --yes  # an agent
ironctl chat NAME \"Hello\"                             # a first message
";

const NEXT: &str = "
What comes next:

  ironctl chat NAME                    talk to it
  ironctl change pending               what somebody asked for, and nobody decided
  ironctl change approve ID            see what it does, and decide
  ironctl audit                        what was done, and by whom
  ironctl token create NAME            a token for a script, or for somebody else
  ironctl events                       what happens, as it happens
  ironclaw help                        the manual
";

/// `ctl onboard`
pub(super) fn run(client: impl Fn() -> Result<Client, Failure>) -> Result<(), Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Ok(write!(io::stdout(), "{STEPS}{NEXT}")?);
    }
    let client = client()?;
    say("Is all well?")?;
    let checks = doctor::ask(&client);
    doctor::show(&mut io::stdout(), &checks)?;
    if checks.iter().any(|check| cell(check, "state") == "fail") {
        return Err(Failure::of(
            "mend what failed, then run `ironctl onboard` again; `ironctl doctor` says more",
        ));
    }
    say("Who are you?")?;
    people::whoami(&client, &people::Whoami { json: false })?;
    say("An agent")?;
    let Some(agent) = agent(&client)? else {
        return Ok(write!(io::stdout(), "{NEXT}")?);
    };
    say("A first message")?;
    writeln!(io::stdout(), "you: {GREETING}")?;
    chat::once(&client, &agent, CHAT, GREETING)?;
    let next = NEXT.replacen(&format!("{:<24}", "NAME"), &format!("{agent:<24}"), 1);
    Ok(write!(io::stdout(), "{next}")?)
}

fn say(title: &str) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "\n{title}\n")?)
}

/// One that is there, or a new one; `None` when the new one is held.
fn agent(client: &Client) -> Result<Option<String>, Failure> {
    let agents = all(client, "/v1/agents", "agents")?;
    let names: Vec<String> = agents.iter().map(|agent| cell(agent, "name")).collect();
    let Some(first) = names.first() else {
        return create::guide(client);
    };
    for agent in &agents {
        writeln!(
            io::stdout(),
            "  {:<20} {}",
            plain::line(&cell(agent, "name")),
            plain::line(&cell(agent, "title"))
        )?;
    }
    loop {
        write!(io::stdout(), "one of these, or new [{}]: ", plain::line(first))?;
        io::stdout().flush()?;
        let mut answer = String::new();
        let read = io::stdin().read_line(&mut answer);
        if read.map_err(|error| Failure::of(format!("the answer cannot be read: {error}")))? == 0 {
            return Err(Failure::of("the input ended, so nothing was done; start again when you like"));
        }
        match answer.trim() {
            "" => return Ok(Some(first.clone())),
            "new" => return create::guide(client),
            name if names.iter().any(|known| known == name) => return Ok(Some(name.to_owned())),
            other => writeln!(io::stdout(), "  there is no agent {}", plain::line(other))?,
        }
    }
}
