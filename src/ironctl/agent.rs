//! `ctl agent`: agents listed, shown, renamed and ended, and what a new one can start from. What an agent can do is
//! changed by `ctl change`; making one is a change too, in a room of its own. Touches the network and the terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::client::{Client, encode};
use super::decide::confirmed;
use super::lists::{Output, all, cell, print};
use super::shown::out;
use super::{Failure, create};
use crate::contract::catalogue::TEMPLATES;
use crate::contract::json::Value;
use crate::contract::plain;
use crate::contract::values;

/// Look at agents, make them, end them.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "agent")]
pub(super) struct Agent {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, for a moment")]
enum Verb {
    List(List),
    Show(Show),
    Create(create::Create),
    Edit(Edit),
    Delete(Delete),
    Templates(Templates),
}

/// All agents.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct List {
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// One agent, with its whole persona.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "show")]
struct Show {
    /// its name
    #[argh(positional)]
    name: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Call an agent something else, or limit what it may take. Its name stays; anything else of it changes by
/// `change submit`.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "edit")]
struct Edit {
    /// its name
    #[argh(positional)]
    name: String,
    /// what people call it
    #[argh(option)]
    title: Option<String>,
    /// how long a turn of it may take, as in 30s or 2h; `default` is what the control plane allows every agent
    #[argh(option)]
    turn_timeout: Option<String>,
    /// bytes that its files may take, as in 64MiB; or `default`
    #[argh(option)]
    quota_bytes: Option<String>,
    /// how many files it may keep; or `default`
    #[argh(option)]
    quota_files: Option<String>,
    /// tokens of models that it may use in a day (UTC); `default` is as many as it likes
    #[argh(option)]
    tokens_per_day: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// End an agent: it answers no more. Nothing brings it back, and its name is not given again.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "delete")]
struct Delete {
    /// its name
    #[argh(positional)]
    name: String,
    /// do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// What a new agent can start from. Needs no control plane.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "templates")]
struct Templates {
    /// print JSON, with the texts
    #[argh(switch)]
    json: bool,
}

/// Runs it; `client` is asked for only where one is needed.
pub(super) fn run(client: impl Fn() -> Result<Client, Failure>, agent: Agent) -> Result<(), Failure> {
    match agent.verb {
        Verb::List(List { json }) => list(&client()?, Output::of(json)),
        Verb::Show(Show { name, json }) => show(&client()?, &name, Output::of(json)),
        Verb::Create(words) => create::run(client, words),
        Verb::Edit(words) => {
            let asked = asked(&words)?;
            edit(&client()?, &words.name, &asked, Output::of(words.json))
        }
        Verb::Delete(Delete { name, yes, json }) => delete(&client()?, &name, yes, Output::of(json)),
        Verb::Templates(Templates { json }) => templates(Output::of(json)),
    }
}

pub(super) fn path(name: &str) -> String {
    format!("/v1/agents/{}", encode(name))
}

fn list(client: &Client, output: Output) -> Result<(), Failure> {
    let rows = all(client, "/v1/agents", "agents")?;
    let columns = [
        ("AGENT", "name"),
        ("TITLE", "title"),
        ("PROVIDER", "provider"),
        ("MODEL", "model"),
        ("TOOLS", "tools"),
    ];
    print(&rows, output, &columns, "no agents; `ironctl agent create` makes one")
}

fn show(client: &Client, name: &str, output: Output) -> Result<(), Failure> {
    let agent = client.get(&path(name))?;
    if output == Output::Json {
        writeln!(io::stdout(), "{agent}")?;
        return Ok(());
    }
    io::stdout().write_all(page(&agent).as_bytes())?;
    Ok(())
}

/// The limits of an agent: what people call each, and its field.
const LIMITS: [(&str, &str); 4] = [
    ("turn limit", "turn_seconds"),
    ("max bytes", "quota_bytes"),
    ("max files", "quota_files"),
    ("tokens a day", "tokens_a_day"),
];

/// A limit for people.
fn limit(agent: &Value, key: &str) -> String {
    match agent.get(key).and_then(Value::as_u64) {
        Some(seconds) if key == "turn_seconds" => format!("{seconds} s"),
        Some(limit) => limit.to_string(),
        None if key == "tokens_a_day" => "as many as it likes".to_owned(),
        None => "the control plane's default".to_owned(),
    }
}

/// An agent for people: its fields, then each document under its heading.
fn page(agent: &Value) -> String {
    let mut page = String::new();
    for (title, key) in [
        ("agent", "name"),
        ("title", "title"),
        ("provider", "provider"),
        ("model", "model"),
        ("tools", "tools"),
        ("made at", "created_at"),
    ] {
        let value = cell(agent, key);
        let value = if value.is_empty() { "-" } else { &value };
        page.push_str(&format!("{title:<12} {}\n", plain::line(value)));
    }
    for (what, key) in LIMITS {
        page.push_str(&format!("{what:<12} {}\n", limit(agent, key)));
    }
    for (title, key) in [("package", "packages"), ("mount", "mounts")] {
        for grant in agent.get(key).and_then(Value::as_array).unwrap_or_default() {
            page.push_str(&format!("{title:<12} {}\n", plain::line(&granted(grant))));
        }
    }
    for (heading, key) in [("IDENTITY", "identity"), ("SOUL", "soul"), ("INSTRUCTIONS", "instructions")] {
        let text = cell(agent, key);
        let text = if text.trim().is_empty() { "(none)" } else { text.trim_end() };
        // Indented, so that no line of a document passes for a heading.
        page.push_str(&format!("\n{heading}\n"));
        for line in plain::block(text).lines() {
            page.push_str(format!("  {line}").trim_end());
            page.push('\n');
        }
    }
    page
}

/// A package or a mount in one line, with what is wrong with it.
fn granted(grant: &Value) -> String {
    let field = |key: &str| cell(grant, key);
    let mut line = match (grant.get("version"), grant.get("source").and_then(Value::as_str)) {
        (Some(_), _) => format!("{}@{} (digest {})", field("name"), field("version"), field("digest")),
        (None, Some(source)) => format!("{} of {source}, {}", field("name"), field("access")),
        (None, None) => format!("{} of its own, {}", field("name"), field("access")),
    };
    if let Some(problem) = grant.get("problem").and_then(Value::as_str) {
        line.push_str(&format!("; left out: {problem}"));
    }
    line
}

/// The body of an edit.
fn asked(words: &Edit) -> Result<Value, Failure> {
    let limit = |flag: &str, text: &Option<String>, read: &dyn Fn(&str) -> Result<u64, String>| match text
        .as_deref()
    {
        None => Ok(None),
        Some("default") => Ok(Some(Value::Null)),
        Some(text) => {
            let wrong = |wrong| Failure::usage(format!("{flag}: {wrong}, or `default`"));
            read(text).map(|limit| Some(Value::from(limit))).map_err(wrong)
        }
    };
    let seconds = |text: &str| {
        let asked = values::duration(text)?;
        if asked.subsec_millis() > 0 {
            Err(format!("{text:?} is not in whole seconds"))
        } else {
            Ok(asked.as_secs())
        }
    };
    let asked = [
        ("title", words.title.as_deref().map(Value::from)),
        ("turn_seconds", limit("--turn-timeout", &words.turn_timeout, &seconds)?),
        ("quota_bytes", limit("--quota-bytes", &words.quota_bytes, &values::size)?),
        (
            "quota_files",
            limit("--quota-files", &words.quota_files, &|text| values::count(text, 0, u64::MAX))?,
        ),
        (
            "tokens_a_day",
            limit("--tokens-per-day", &words.tokens_per_day, &|text| values::count(text, 1, (1 << 53) - 1))?,
        ),
    ];
    let asked: Vec<(&str, Value)> =
        asked.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    if asked.is_empty() {
        return Err(Failure::usage(
            "give --title, --turn-timeout, --quota-bytes, --quota-files or --tokens-per-day",
        ));
    }
    Ok(Value::object(asked))
}

fn edit(client: &Client, name: &str, asked: &Value, output: Output) -> Result<(), Failure> {
    let agent = client.post(&path(name), asked)?;
    if output == Output::Json {
        return out(&agent);
    }
    let (name, title) = (cell(&agent, "name"), cell(&agent, "title"));
    let shown = plain::line(&name);
    if asked.get("title").is_some() {
        writeln!(io::stdout(), "{shown} is called {} now", plain::line(&title))?;
    }
    for (what, key) in LIMITS {
        if asked.get(key).is_some() {
            writeln!(io::stdout(), "{shown}: {what} {}", limit(&agent, key))?;
        }
    }
    Ok(())
}

fn delete(client: &Client, name: &str, yes: bool, output: Output) -> Result<(), Failure> {
    let shown = plain::line(name).into_owned();
    let question = format!("end {shown}? It answers no more, and nothing brings it back.");
    if !confirmed(&question, yes)? {
        writeln!(io::stdout(), "{shown} stays as it is")?;
        return Ok(());
    }
    let answer = client.delete(&path(name))?;
    if output == Output::Json {
        return out(&answer);
    }
    writeln!(io::stdout(), "{shown} is deleted")?;
    Ok(())
}

fn templates(output: Output) -> Result<(), Failure> {
    let texts = |texts: &[&str]| Value::from(texts.iter().map(|text| Value::from(*text)).collect::<Vec<_>>());
    let rows: Vec<Value> = TEMPLATES
        .iter()
        .map(|template| {
            Value::object([
                ("id", Value::from(template.id)),
                ("title", Value::from(template.title)),
                ("tools", texts(template.tools)),
                ("identity", Value::from(template.identity)),
                ("soul", Value::from(template.soul)),
                ("instructions", Value::from(template.instructions)),
            ])
        })
        .collect();
    print(&rows, output, &[("TEMPLATE", "id"), ("WHAT", "title"), ("TOOLS", "tools")], "no templates")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_forges_no_heading_and_commands_no_terminal() {
        let agent = Value::object([
            ("name", Value::from("a")),
            ("tools", Value::Array(Vec::new())),
            ("identity", Value::from("x\nSOUL\n\u{1b}[2J")),
            ("soul", Value::from("")),
        ]);
        let page = page(&agent);
        assert!(page.contains("\nIDENTITY\n  x\n  SOUL\n  \\u{1b}[2J\n\nSOUL\n  (none)\n"), "{page}");
        assert!(page.contains("tools        -\n"), "{page}");
    }
}
