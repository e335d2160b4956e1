//! `ctl change`: ask for a change, look at what waits, decide. Nobody approves what was not shown: the difference and
//! its digest are printed before a decision is sent, and a change that became stale meanwhile is shown anew and left
//! to be decided again. Touches the files it is told to read, the terminal, and an editor.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::Path;

use argh::FromArgs;

use super::Failure;
use super::client::{Client, encode};
use super::lists::{Output, all, print};
use crate::contract::json::{self, Value};
use crate::contract::plain;

/// Largest file that is read for a payload.
const FILE_BYTES: u64 = 512 << 10;

/// Ask for changes of what an agent is, and decide them.
#[derive(FromArgs)]
#[argh(subcommand, name = "change")]
pub(super) struct Change {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs)]
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
}

/// Ask for a change. It is held until somebody approves it.
#[derive(FromArgs)]
#[argh(subcommand, name = "submit")]
struct Submit {
    /// the kind: persona, enabled_tools, model, wiring, permissions or create_agent
    #[argh(option)]
    kind: String,
    /// the agent
    #[argh(option)]
    group: String,
    /// what to call you in the list; whose token it is counts
    #[argh(option, default = "String::new()")]
    by: String,
    /// why
    #[argh(option, default = "String::new()")]
    reason: String,
    /// the payload from a file: a .json file of any kind; for persona the text (IDENTITY, SOUL and AGENTS by the
    /// file's name, else the instructions); - is the input
    #[argh(option)]
    from: Option<String>,
    /// the payload itself, JSON
    #[argh(option)]
    payload: Option<String>,
    /// persona: who the agent is
    #[argh(option)]
    identity: Option<String>,
    /// persona: what it cares about
    #[argh(option)]
    soul: Option<String>,
    /// persona: what it does
    #[argh(option)]
    instructions: Option<String>,
    /// enabled_tools: a tool to have; may be repeated
    #[argh(option)]
    tool: Vec<String>,
    /// enabled_tools: every tool
    #[argh(switch)]
    all_tools: bool,
    /// enabled_tools: no tool
    #[argh(switch)]
    no_tools: bool,
    /// model: who answers
    #[argh(option)]
    provider: Option<String>,
    /// model: the model
    #[argh(option)]
    model: Option<String>,
    /// permissions: USER:ROLE[@*], such as telegram:12:approver; may be repeated
    #[argh(option)]
    grant: Vec<String>,
    /// permissions: the same, taken away
    #[argh(option)]
    revoke: Vec<String>,
    /// permissions: a user who may talk to the agent; may be repeated
    #[argh(option)]
    add_member: Vec<String>,
    /// permissions: a user who may not any more; may be repeated
    #[argh(option)]
    remove_member: Vec<String>,
    /// wiring: CHANNEL:CHAT to listen and write to; may be repeated
    #[argh(option)]
    wire: Vec<String>,
    /// wiring: CHANNEL:CHAT to leave; may be repeated
    #[argh(option)]
    unwire: Vec<String>,
    /// a name of your own for this request, so that sending it again does not ask twice
    #[argh(option)]
    key: Option<String>,
    /// approve it at once, after showing what it does
    #[argh(switch)]
    approve: bool,
    /// with --approve: do not ask
    #[argh(switch)]
    yes: bool,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// One change: what it would do, or did.
#[derive(FromArgs)]
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
#[derive(FromArgs)]
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
#[derive(FromArgs)]
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
#[derive(FromArgs)]
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
#[derive(FromArgs)]
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
#[derive(FromArgs)]
#[argh(subcommand, name = "withdraw")]
struct Withdraw {
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
    }
}

fn path(id: &str) -> String {
    format!("/v1/changes/{}", encode(id))
}

fn out(document: &Value) -> Result<(), Failure> {
    writeln!(io::stdout(), "{document}")?;
    Ok(())
}

fn text<'a>(change: &'a Value, name: &str) -> &'a str {
    change.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn done(change: &Value, json: bool, words: &str) -> Result<(), Failure> {
    if json {
        return out(change);
    }
    writeln!(io::stdout(), "{} {words}", plain::line(text(change, "id")))?;
    Ok(())
}

/// Everything that an approver must see. What others wrote was escaped by the control plane, and is again here.
fn show(change: &Value) -> Result<(), Failure> {
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
    io::stdout().write_all(shown.as_bytes())?;
    Ok(())
}

fn pending(client: &Client, group: Option<&str>, output: Output) -> Result<(), Failure> {
    let path = match group {
        Some(group) => format!("/v1/changes/pending?group={}", encode(group)),
        None => "/v1/changes/pending".to_owned(),
    };
    let rows = all(client, &path, "changes")?;
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
    write!(io::stdout(), "{question} [y/N] ")?;
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn approve(client: &Client, asked: &Approve) -> Result<(), Failure> {
    let change = client.get(&path(&asked.id))?;
    decide(client, &change, asked)
}

/// Shows a change, asks, and sends the decision for exactly what was shown.
fn decide(client: &Client, change: &Value, asked: &Approve) -> Result<(), Failure> {
    let digest = text(change, "digest");
    if let Some(named) = &asked.digest
        && named != digest
    {
        show(change)?;
        return Err(Failure::of("the digest that you name is not that of this change, which is shown above"));
    }
    if text(change, "state") != "pending" {
        let state = plain::line(text(change, "state")).into_owned();
        return Err(Failure::of(format!("the change is {state}; only a pending one can be approved")));
    }
    if !asked.json {
        show(change)?;
    }
    if !confirmed("approve this?", asked.yes)? {
        writeln!(
            io::stdout(),
            "nothing was decided; `ironctl change reject {}` says no",
            plain::line(&asked.id)
        )?;
        return Ok(());
    }
    let body = Value::object([
        ("outcome", Value::from("approve")),
        ("digest", Value::from(digest)),
        ("note", Value::from(asked.note.as_str())),
        ("by", Value::from(asked.by.as_str())),
    ]);
    let (status, answer) = client.post_any(&format!("{}/decision", path(&asked.id)), &body)?;
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
    let change = client.judged((status, answer))?;
    let id = plain::line(text(&change, "id")).into_owned();
    done(&change, asked.json, &format!("approved and in effect; `ironctl change show {id}` has the record"))
}

fn submit(client: &Client, asked: Submit) -> Result<(), Failure> {
    let payload = payload(&asked)?;
    let mut fields = vec![
        ("kind", Value::from(asked.kind.as_str())),
        ("group", Value::from(asked.group.as_str())),
        ("payload", payload),
        ("by", Value::from(asked.by.as_str())),
    ];
    if !asked.reason.is_empty() {
        fields.push(("reason", Value::from(asked.reason.as_str())));
    }
    let (status, answer) = client.post_keyed("/v1/changes", &Value::object(fields), asked.key.as_deref())?;
    let change = client.judged((status, answer))?;
    let id = text(&change, "id").to_owned();
    if asked.approve {
        if text(&change, "state") != "pending" {
            return done(&change, asked.json, "is in effect already");
        }
        let decision =
            Approve { id, by: asked.by, note: String::new(), digest: None, yes: asked.yes, json: asked.json };
        return decide(client, &change, &decision);
    }
    if asked.json {
        return out(&change);
    }
    show(&change)?;
    let id = plain::line(&id).into_owned();
    match text(&change, "state") {
        "pending" => writeln!(
            io::stdout(),
            "\nheld: nothing changes until somebody approves it with `ironctl change approve {id}`"
        )?,
        state => writeln!(io::stdout(), "\n{}", plain::line(state))?,
    }
    Ok(())
}

fn read_file(name: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::of(format!("{} cannot be read: {error}", plain::line(name)));
    let mut bytes = Vec::new();
    if name == "-" {
        io::stdin().lock().take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let file = std::fs::File::open(name).map_err(failed)?;
        file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > FILE_BYTES {
        return Err(Failure::of(format!("{} is larger than {FILE_BYTES} bytes", plain::line(name))));
    }
    String::from_utf8(bytes).map_err(|_| Failure::of(format!("{} is not UTF-8 text", plain::line(name))))
}

fn parse(text: &str, from: &str) -> Result<Value, Failure> {
    json::parse(text.as_bytes()).map_err(|error| {
        Failure::usage(format!("{} is not JSON: {}", plain::line(from), plain::line(&error.to_string())))
    })
}

/// Which document a file holds, by its name.
fn document(name: &str) -> &'static str {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    match stem.to_ascii_uppercase().as_str() {
        "IDENTITY" => "identity",
        "SOUL" => "soul",
        _ => "instructions",
    }
}

fn payload(asked: &Submit) -> Result<Value, Failure> {
    let by_flags = flags(asked)?;
    let ways = usize::from(asked.payload.is_some())
        + usize::from(asked.from.is_some())
        + usize::from(by_flags.is_some());
    if ways > 1 {
        return Err(Failure::usage(
            "--payload, --from and the flags of a kind exclude each other; use one of them",
        ));
    }
    if let Some(text) = &asked.payload {
        return parse(text, "--payload");
    }
    if let Some(name) = &asked.from {
        let text = read_file(name)?;
        if name.ends_with(".json") || asked.kind != "persona" {
            return parse(&text, name);
        }
        return Ok(Value::object([(document(name), Value::from(text))]));
    }
    if let Some(payload) = by_flags {
        return Ok(payload);
    }
    if asked.kind == "persona" && io::stdin().is_terminal() && io::stdout().is_terminal() {
        let text = edited()?;
        return Ok(Value::object([("instructions", Value::from(text))]));
    }
    Err(Failure::usage(missing(&asked.kind)))
}

/// What a kind wants, where nothing was given.
fn missing(kind: &str) -> String {
    let how = match kind {
        "persona" => {
            "the text of the persona: --instructions TEXT, --identity TEXT, --soul TEXT, or --from FILE"
        }
        "enabled_tools" => {
            "the tools: --tool NAME for each, --all-tools or --no-tools (`ironctl tools` lists them)"
        }
        "model" => "the model: --model NAME, and --provider NAME to change that too",
        "permissions" => {
            "who: --grant USER:ROLE, --revoke USER:ROLE, --add-member USER or --remove-member USER"
        }
        "wiring" => "the chats: --wire CHANNEL:CHAT or --unwire CHANNEL:CHAT",
        _ => "the payload: --from FILE.json or --payload JSON",
    };
    format!("what is to change is missing; give {how}")
}

/// The payload that the flags of a kind make; a flag of another kind is wrong usage.
fn flags(asked: &Submit) -> Result<Option<Value>, Failure> {
    let given = [
        ("persona", "--identity", asked.identity.is_some()),
        ("persona", "--soul", asked.soul.is_some()),
        ("persona", "--instructions", asked.instructions.is_some()),
        ("enabled_tools", "--tool", !asked.tool.is_empty()),
        ("enabled_tools", "--all-tools", asked.all_tools),
        ("enabled_tools", "--no-tools", asked.no_tools),
        ("model", "--provider", asked.provider.is_some()),
        ("model", "--model", asked.model.is_some()),
        ("permissions", "--grant", !asked.grant.is_empty()),
        ("permissions", "--revoke", !asked.revoke.is_empty()),
        ("permissions", "--add-member", !asked.add_member.is_empty()),
        ("permissions", "--remove-member", !asked.remove_member.is_empty()),
        ("wiring", "--wire", !asked.wire.is_empty()),
        ("wiring", "--unwire", !asked.unwire.is_empty()),
    ];
    let mut any = false;
    for (kind, flag, is_given) in given {
        if is_given && kind != asked.kind {
            let kind = plain::line(&asked.kind).into_owned();
            return Err(Failure::usage(format!("{flag} is no flag of --kind {kind}; leave it out")));
        }
        any |= is_given;
    }
    if !any {
        return Ok(None);
    }
    let texts = |all: &[(&'static str, &Option<String>)]| {
        let there = all
            .iter()
            .filter_map(|(name, text)| text.as_ref().map(|text| (*name, Value::from(text.as_str()))));
        Value::object(there)
    };
    let words =
        |all: &[String]| Value::from(all.iter().map(|word| Value::from(word.as_str())).collect::<Vec<_>>());
    Ok(Some(match asked.kind.as_str() {
        "persona" => texts(&[
            ("identity", &asked.identity),
            ("soul", &asked.soul),
            ("instructions", &asked.instructions),
        ]),
        "model" => texts(&[("provider", &asked.provider), ("model", &asked.model)]),
        "enabled_tools" => {
            let tools = match (asked.tool.is_empty(), asked.all_tools, asked.no_tools) {
                (false, false, false) => words(&asked.tool),
                (true, true, false) => Value::from("all"),
                (true, false, true) => Value::from("none"),
                _ => {
                    return Err(Failure::usage("--tool, --all-tools and --no-tools exclude each other"));
                }
            };
            Value::object([("tools", tools)])
        }
        "permissions" => Value::object([
            ("grant", roles("--grant", &asked.grant)?),
            ("revoke", roles("--revoke", &asked.revoke)?),
            ("add_members", words(&asked.add_member)),
            ("remove_members", words(&asked.remove_member)),
        ]),
        _ => Value::object([
            ("add", chats("--wire", &asked.wire)?),
            ("remove", chats("--unwire", &asked.unwire)?),
        ]),
    }))
}

/// `USER:ROLE`, with `@*` after it for all agents.
fn roles(flag: &str, all: &[String]) -> Result<Value, Failure> {
    let mut found = Vec::new();
    for text in all {
        let (rest, everywhere) = match text.strip_suffix("@*") {
            Some(rest) => (rest, true),
            None => (text.as_str(), false),
        };
        let Some((user, role)) = rest.rsplit_once(':').filter(|(user, _)| user.contains(':')) else {
            return Err(Failure::usage(format!(
                "{flag} {} is not CHANNEL:HANDLE:ROLE, such as telegram:12:approver",
                plain::line(text)
            )));
        };
        let mut fields = vec![("user", Value::from(user)), ("role", Value::from(role))];
        if everywhere {
            fields.push(("scope", Value::from("*")));
        }
        found.push(Value::object(fields));
    }
    Ok(Value::from(found))
}

fn chats(flag: &str, all: &[String]) -> Result<Value, Failure> {
    let mut found = Vec::new();
    for text in all {
        let Some((channel, chat)) = text.split_once(':') else {
            return Err(Failure::usage(format!("{flag} {} is not CHANNEL:CHAT", plain::line(text))));
        };
        found.push(Value::object([("channel", Value::from(channel)), ("chat", Value::from(chat))]));
    }
    Ok(Value::from(found))
}

/// What the person writes in their editor, or on the terminal when they have none.
fn edited() -> Result<String, Failure> {
    let editor =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let Some(editor) = editor else {
        writeln!(io::stdout(), "the instructions of the persona; end with a line that holds only a dot:")?;
        let mut text = String::new();
        for line in io::stdin().lock().lines() {
            let line = line?;
            if line == "." {
                return Ok(text);
            }
            text.push_str(&line);
            text.push('\n');
            if text.len() as u64 > FILE_BYTES {
                break;
            }
        }
        return Err(Failure::of(
            "the text has no end, so nothing was asked for; end it with a line that is a dot",
        ));
    };
    let directory = std::env::temp_dir().join(format!("ironctl-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let file = directory.join("AGENTS.md");
    let result = (|| {
        std::fs::write(&file, "")?;
        // As the shell would, so that `EDITOR="code --wait"` works.
        let status = std::process::Command::new("sh")
            .args(["-c", &format!("{editor} \"$1\""), "sh"])
            .arg(&file)
            .status()?;
        if !status.success() {
            return Err(Failure::of("the editor failed, so nothing was asked for"));
        }
        read_file(&file.display().to_string())
    })();
    let _ = std::fs::remove_dir_all(&directory);
    let text = result?;
    if text.trim().is_empty() {
        return Err(Failure::of("the text is empty, so nothing was asked for"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_persona_is_known_by_its_name() {
        assert_eq!(document("/x/IDENTITY.md"), "identity");
        assert_eq!(document("soul.txt"), "soul");
        assert_eq!(document("AGENTS.md"), "instructions");
        assert_eq!(document("notes"), "instructions");
    }

    #[test]
    fn roles_are_split_at_the_last_colon() {
        let found =
            roles("--grant", &["matrix:@ann:example.org:approver".into(), "local:b:admin@*".into()]).unwrap();
        assert_eq!(
            found.to_string(),
            "[{\"user\":\"matrix:@ann:example.org\",\"role\":\"approver\"},\
             {\"user\":\"local:b\",\"role\":\"admin\",\"scope\":\"*\"}]"
        );
        assert_eq!(roles("--grant", &["ann:approver".into()]).unwrap_err().code, 2);
    }
}
