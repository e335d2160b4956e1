//! The admin command line: a client of the HTTP interface and nothing more. Words come in, requests go out,
//! tables and texts are printed. Touches the network, the terminal, and the token file it is pointed to.

mod agent;
mod audit;
mod change;
mod channels;
mod chat;
mod client;
mod completions;
mod create;
mod decide;
mod deliveries;
mod destinations;
mod doctor;
mod events;
mod feed;
mod flags;
mod lists;
mod metrics;
mod onboard;
mod payload;
mod people;
mod places;
mod questions;
mod reopen;
mod resolve;
mod shown;
mod submit;
mod table;
mod tasks;
mod tls;
mod tokens;
mod tools;
mod usage;
mod wizard;

use std::fmt;
use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use self::client::{Client, Target};
use crate::contract::plain;

/// Why a command did not do what it was asked: the exit code and one line with the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// 0 when nothing is wrong and only the output ended early, 1 for a failure, 2 for wrong usage.
    pub code: u8,
    /// The line; empty when there is nothing to say.
    pub text: String,
}

impl Failure {
    /// Wrong words: exit 2.
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    /// Anything else that went wrong: exit 1.
    pub fn of(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }
}

impl fmt::Display for Failure {
    /// Safe to show, since it may repeat what somebody else wrote.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain::block(&self.text))
    }
}

impl std::error::Error for Failure {}

impl From<io::Error> for Failure {
    /// For output: whoever reads it may stop reading, which is no failure of ours.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self { code: 0, text: String::new() };
        }
        Self::of(format!("the output cannot be written: {error}"))
    }
}

/// Talk to a control plane. Before or after the command: --addr URL (http://127.0.0.1:8787), --token T,
/// --token-file FILE, and for https:// --ca-file FILE or --tls-fingerprint SHA256.
#[derive(FromArgs, ArgsInfo)]
struct Words {
    #[argh(subcommand)]
    command: Command,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Command {
    Change(change::Change),
    Chat(Chat),
    Session(Session),
    Agent(agent::Agent),
    User(people::User),
    Role(people::Role),
    Member(people::Member),
    Token(tokens::Token),
    Wiring(places::Wiring),
    Group(places::Group),
    Destination(destinations::Destination),
    Channel(channels::Channel),
    Route(channels::Route),
    Delivery(deliveries::Delivery),
    Task(tasks::Task),
    Question(questions::Question),
    Usage(usage::Usage),
    Pair(decide::Pair),
    Tools(tools::Tools),
    Whoami(people::Whoami),
    Audit(Audit),
    Events(feed::Follow),
    Doctor(doctor::Doctor),
    Status(Status),
    Metrics(metrics::Metrics),
    Onboard(onboard::Onboard),
    Completions(completions::Completions),
    Version(Version),
}

/// Talk to an agent: with a text, send it and print the answer; without, a conversation.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "chat")]
struct Chat {
    /// the agent, as `agent list` names it
    #[argh(positional)]
    agent: String,
    /// what to say; without it every line of the input is a message
    #[argh(positional)]
    text: Option<String>,
    /// the conversation (main)
    #[argh(option, default = "String::from(\"main\")")]
    chat: String,
}

/// Look at sessions, release a parked one, or erase what was said in one.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "session")]
struct Session {
    #[argh(subcommand)]
    verb: SessionVerb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum SessionVerb {
    List(SessionList),
    Show(SessionShow),
    Release(SessionRelease),
    Erase(SessionErase),
}

/// All sessions and what they do.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct SessionList {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// One session.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "show")]
struct SessionShow {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Let a parked session run again.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "release")]
struct SessionRelease {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Erase what was said in a session: nobody can read it any more, in no file and in no copy of one. Who writes there next
/// begins anew.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "erase")]
struct SessionErase {
    /// its id
    #[argh(positional)]
    id: String,
    /// do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// What was done and by whom: the newest records, the oldest of them first; or check the chain.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "audit")]
struct Audit {
    /// how many records (50)
    #[argh(option)]
    limit: Option<u64>,
    /// go on with new records as they come
    #[argh(switch)]
    follow: bool,
    /// print JSON; with --follow an object a line
    #[argh(switch)]
    json: bool,
    #[argh(subcommand)]
    verb: Option<AuditVerb>,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum AuditVerb {
    Verify(AuditVerify),
    Acknowledge(AuditAcknowledge),
}

/// Check that nothing was changed, taken out or put in: all files against the ledger, or without a control plane
/// the files that are named.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "verify")]
struct AuditVerify {
    /// a file of the chain, to check by itself; give all of them, in any order
    #[argh(option)]
    file: Vec<String>,
    /// further files
    #[argh(positional)]
    more: Vec<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Say that you know that files and ledger disagreed, so that the control plane is ready again.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "acknowledge")]
struct AuditAcknowledge {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Whether the control plane answers and can launch sandboxes; exit 1 when not.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "status")]
struct Status {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// The version of this program.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "version")]
struct Version {}

/// Commands of later builds.
const ABSENT: &[&str] = &["skill", "mcp", "vault", "registry"];

/// The options that every command takes, each with a value.
const GLOBALS: &[(&str, &str)] = &[
    ("--addr", "where the control plane answers"),
    ("--token", "the token"),
    ("--token-file", "a file that holds the token"),
    ("--ca-file", "the roots to trust, a PEM file"),
    ("--tls-fingerprint", "SHA-256 of the certificate to trust"),
];

/// Runs one command. `words` are those after `ctl`.
///
/// # Errors
/// One line with the next step, and the exit code.
pub fn run(words: &[&str]) -> Result<(), Failure> {
    let (globals, words) = globals(words)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if words.first() == Some(&"--version") {
        return version();
    }
    if words.is_empty() {
        return Err(Failure::usage("a command is missing; `ironclaw ctl --help` lists them"));
    }
    if let Some(absent) = ABSENT.iter().find(|absent| words.first() == Some(absent)) {
        return Err(Failure::usage(format!(
            "`ctl {absent}` is not part of this build; `ironclaw ctl --help` lists what is"
        )));
    }
    let words = match Words::from_args(&["ironclaw ctl"], &words) {
        Ok(words) => words,
        Err(early) if early.status.is_ok() => {
            io::stdout().write_all(early.output.as_bytes())?;
            return Ok(());
        }
        Err(early) => {
            let said = early.output.lines().map(str::trim).filter(|line| !line.is_empty());
            let said: Vec<&str> = said.collect();
            let command = [&["ironclaw", "ctl"][..], &completions::command_of(&words), &["--help"]].concat();
            return Err(Failure::usage(format!("{}; see `{}`", said.join(" "), command.join(" "))));
        }
    };
    let client = || Client::new(Target::find(&globals)?);
    match words.command {
        Command::Change(words) => change::run(&client()?, words),
        Command::Chat(Chat { agent, text: Some(text), chat }) => chat::once(&client()?, &agent, &chat, &text),
        Command::Chat(Chat { agent, text: None, chat }) => chat::conversation(&client()?, &agent, &chat),
        Command::Session(Session { verb }) => match verb {
            SessionVerb::List(SessionList { json }) => lists::sessions(&client()?, lists::Output::of(json)),
            SessionVerb::Show(SessionShow { id, json }) => {
                lists::session(&client()?, &id, lists::Output::of(json))
            }
            SessionVerb::Release(SessionRelease { id, json }) => {
                lists::release(&client()?, &id, lists::Output::of(json))
            }
            SessionVerb::Erase(SessionErase { id, yes, json }) => {
                lists::erase(&client()?, &id, yes, lists::Output::of(json))
            }
        },
        Command::Agent(words) => agent::run(client, words),
        Command::User(words) => people::users(&client()?, words),
        Command::Role(words) => people::roles(&client()?, words),
        Command::Member(words) => people::members(&client()?, words),
        Command::Token(words) => tokens::run(&client()?, words),
        Command::Wiring(words) => places::wirings(&client()?, words),
        Command::Group(words) => places::groups(&client()?, words),
        Command::Destination(words) => destinations::run(&client()?, words),
        Command::Channel(words) => channels::channels(&client()?, words),
        Command::Route(words) => channels::routes(&client()?, words),
        Command::Pair(words) => decide::pair(&client()?, words),
        Command::Delivery(words) => deliveries::run(&client()?, words),
        Command::Task(words) => tasks::run(&client()?, words),
        Command::Question(words) => questions::run(&client()?, words),
        Command::Usage(words) => usage::run(&client()?, &words),
        Command::Tools(words) => tools::run(&words),
        Command::Whoami(words) => people::whoami(&client()?, &words),
        Command::Audit(Audit { limit, follow, json, verb: None }) => {
            audit::show(&client()?, limit.unwrap_or(50), follow.into(), lists::Output::of(json))
        }
        Command::Audit(Audit { limit: Some(_), verb: Some(_), .. }) => {
            Err(Failure::usage("--limit is of the list of records; leave it out to verify or acknowledge"))
        }
        Command::Audit(Audit { follow: true, verb: Some(_), .. }) => {
            Err(Failure::usage("--follow is of the list of records; leave it out to verify or acknowledge"))
        }
        Command::Audit(Audit { verb: Some(AuditVerb::Verify(words)), json, .. }) => {
            let output = lists::Output::of(json || words.json);
            match [words.file, words.more].concat().as_slice() {
                [] => audit::verify(&client()?, output),
                files => audit::verify_files(files, output),
            }
        }
        Command::Audit(Audit { verb: Some(AuditVerb::Acknowledge(words)), json, .. }) => {
            audit::acknowledge(&client()?, lists::Output::of(json || words.json))
        }
        Command::Doctor(words) => {
            // The token is looked for where the doctor looks.
            let globals = Globals { state_dir: words.state_dir.clone(), ..globals };
            doctor::run(Target::find(&globals).and_then(Client::new), &words)
        }
        Command::Events(words) => feed::run(&client()?, &words),
        Command::Status(Status { json }) => lists::status(&client()?, lists::Output::of(json)),
        Command::Onboard(onboard::Onboard {}) => onboard::run(client),
        Command::Metrics(words) => metrics::run(&client()?, &words),
        Command::Completions(words) => completions::run(&words),
        Command::Version(Version {}) => version(),
    }
}

fn version() -> Result<(), Failure> {
    writeln!(io::stdout(), "ironctl {}", env!("CARGO_PKG_VERSION"))?;
    Ok(())
}

/// The options that every command takes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Globals {
    addr: Option<String>,
    token: Option<String>,
    token_file: Option<String>,
    ca_file: Option<String>,
    tls_fingerprint: Option<String>,
    /// Where the token is looked for when nothing else says so; no option of every command.
    state_dir: Option<String>,
}

/// Takes the global options out, wherever they stand before `--`, and splits `--option=value`.
fn globals(words: &[&str]) -> Result<(Globals, Vec<String>), Failure> {
    let mut found = Globals::default();
    let mut rest = Vec::new();
    let valued = completions::valued();
    let mut words = words.iter().copied();
    while let Some(word) = words.next() {
        if word == "--" {
            rest.push(word.to_owned());
            rest.extend(words.map(str::to_owned));
            break;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) if valued.iter().any(|known| known == name) => (name, Some(value.to_owned())),
            _ => (word, None),
        };
        let slot = match name {
            "--addr" => &mut found.addr,
            "--token" => &mut found.token,
            "--token-file" => &mut found.token_file,
            "--ca-file" => &mut found.ca_file,
            "--tls-fingerprint" => &mut found.tls_fingerprint,
            _ => {
                rest.push(name.to_owned());
                rest.extend(value);
                continue;
            }
        };
        let value = value.or_else(|| words.next().map(str::to_owned));
        match value {
            Some(value) if slot.is_none() && !value.is_empty() => *slot = Some(value),
            Some(_) if slot.is_some() => return Err(Failure::usage(format!("{name} is given twice"))),
            _ => return Err(Failure::usage(format!("{name} needs a value"))),
        }
    }
    Ok((found, numbers_last(rest, &valued)))
}

/// A chat's name may be a number below zero, which is no option: from the first such word on, what is no option goes
/// behind `--`.
fn numbers_last(words: Vec<String>, valued: &[String]) -> Vec<String> {
    let is_number = |word: &str| {
        let digits = word.strip_prefix('-').unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    };
    let (mut first, mut last) = (Vec::new(), Vec::new());
    let mut ends = false;
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word == "--" {
            ends = true;
            last.extend(words);
            break;
        }
        if valued.contains(&word) {
            first.push(word);
            first.extend(words.next());
        } else if is_number(&word) || (!last.is_empty() && !word.starts_with('-')) {
            last.push(word);
        } else {
            first.push(word);
        }
    }
    if ends || !last.is_empty() {
        first.push("--".to_owned());
        first.extend(last);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn global_options_stand_anywhere_before_the_dashes() {
        let (found, rest) =
            globals(&["--addr=http://x", "chat", "a", "--chat=c", "--token", "t", "--", "--token"]).unwrap();
        assert_eq!(found.addr.as_deref(), Some("http://x"));
        assert_eq!(found.token.as_deref(), Some("t"));
        assert_eq!(rest, ["chat", "a", "--chat", "c", "--", "--token"]);
        for bad in [&["--addr"][..], &["--addr="], &["--token", "a", "--token", "b"]] {
            assert_eq!(globals(bad).unwrap_err().code, 2);
        }
    }

    #[test]
    fn what_is_not_there_and_what_is_wrong_is_usage() {
        for words in [
            &["change", "approve"][..],
            &["agent", "show"],
            &["agent", "edit", "x"],
            &["role", "grant", "local:ann", "approver"],
            &["wiring", "add", "telegram", "1"],
            &["destination", "add", "ops", "api", "1"],
            &["task", "create", "x"],
            &["task", "update", "tsk_1", "--count", "x"],
            &["vault"],
            &["nonsense"],
            &["chat"],
            &["session", "show"],
            &["audit", "--follow", "verify"],
            &["audit", "--limit", "5", "acknowledge"],
            &["change", "history", "--limit", "0"],
        ] {
            let failure = run(words).unwrap_err();
            assert_eq!(failure.code, 2, "{words:?} {failure}");
            assert!(!failure.text.contains('\n'), "{failure}");
        }
        assert!(run(&["skill"]).unwrap_err().text.contains("not part of this build"));
        // The help that is named is that of the command, as far as one is named.
        for (words, help) in [
            (&["change", "submit", "--tools", "x"][..], "`ironclaw ctl change submit --help`"),
            (&["change", "x"], "`ironclaw ctl change --help`"),
            (&["nonsense", "change"], "`ironclaw ctl --help`"),
        ] {
            let failure = run(words).unwrap_err();
            assert!(failure.text.ends_with(help), "{words:?}: {failure}");
        }
    }

    #[test]
    fn every_option_with_a_value_may_be_written_with_its_value() {
        let (_, rest) = globals(&["change", "submit", "--kind=x", "--json=x", "a=b", "--ca-file=f"]).unwrap();
        assert_eq!(rest, ["change", "submit", "--kind", "x", "--json=x", "a=b"]);
    }

    #[test]
    fn a_chat_below_zero_is_no_option() {
        let last = |words: &[&str]| globals(words).unwrap().1.join(" ");
        assert_eq!(
            last(&["wiring", "add", "telegram", "-1001", "--group", "a", "--approve"]),
            "wiring add telegram --group a --approve -- -1001"
        );
        assert_eq!(
            last(&["route", "test", "telegram", "-1", "x", "--sender=-2"]),
            "route test telegram --sender -2 -- -1 x"
        );
        assert_eq!(last(&["chat", "a", "--", "-1", "-x"]), "chat a -- -1 -x");
        assert_eq!(last(&["chat", "a", "-1", "--", "-x"]), "chat a -- -1 -x");
        assert_eq!(last(&["chat", "a", "-x", "-"]), "chat a -x -");
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).code, 0);
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).code, 1);
    }
}
