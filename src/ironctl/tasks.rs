//! `ctl task`: what agents are asked at its time. Touches the network and the terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::{Client, encode};
use super::lists::{Output, all, cell, of_group};
use super::shown::out;
use super::table;
use crate::contract::json::Value;
use crate::contract::plain;

/// What agents are asked at its time.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "task")]
pub(super) struct Task {
    #[argh(subcommand)]
    verb: Verb,
}

#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand)]
enum Verb {
    List(List),
    Show(Show),
    Create(Create),
    Update(Update),
    Pause(Pause),
    Resume(Resume),
    Cancel(Cancel),
    Run(Run),
}

/// Tasks that can still run.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "list")]
struct List {
    /// of this agent only
    #[argh(option)]
    group: Option<String>,
    /// in this state: live (active or paused), active, paused, done, cancelled
    #[argh(option)]
    state: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// One task, with what it asks and its next times.
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

/// Have an agent asked something: once, after each so long, or at local times.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "create")]
struct Create {
    /// what it is asked
    #[argh(positional)]
    prompt: String,
    /// the agent
    #[argh(option)]
    group: String,
    /// once: 2026-12-24T18:00:00Z, or a local time of --zone; with --every the first time
    #[argh(option)]
    at: Option<String>,
    /// again and again: 15m, 1h30m, 2d, hourly, daily, weekly
    #[argh(option)]
    every: Option<String>,
    /// at local times: "0 9 * * 1-5" is every weekday at nine
    #[argh(option)]
    cron: Option<String>,
    /// the time zone (UTC): Europe/Berlin
    #[argh(option)]
    zone: Option<String>,
    /// nothing after this time
    #[argh(option)]
    until: Option<String>,
    /// so many runs in all
    #[argh(option)]
    count: Option<u64>,
    /// what was missed: run_once, or skip
    #[argh(option)]
    misfire: Option<String>,
    /// where the answers go: the platform (api)
    #[argh(option)]
    channel: Option<String>,
    /// the account on the platform, where there are several
    #[argh(option)]
    instance: Option<String>,
    /// the chat (main, of the API)
    #[argh(option)]
    chat: Option<String>,
    /// the thread in the chat, where there are such
    #[argh(option)]
    thread: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Change what a task asks, or when; what is not named stays.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "update")]
struct Update {
    /// its id
    #[argh(positional)]
    id: String,
    /// what the agent is asked
    #[argh(option)]
    prompt: Option<String>,
    /// once: 2026-12-24T18:00:00Z, or a local time of --zone; with --every the first time
    #[argh(option)]
    at: Option<String>,
    /// again and again: 15m, 1h30m, 2d, hourly, daily, weekly
    #[argh(option)]
    every: Option<String>,
    /// at local times: "0 9 * * 1-5" is every weekday at nine
    #[argh(option)]
    cron: Option<String>,
    /// the time zone
    #[argh(option)]
    zone: Option<String>,
    /// nothing after this time; `never` takes the end away
    #[argh(option)]
    until: Option<String>,
    /// so many runs in all; 0 takes the end away
    #[argh(option)]
    count: Option<u64>,
    /// what was missed: run_once, or skip
    #[argh(option)]
    misfire: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Let a task rest.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "pause")]
struct Pause {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Let it go on, from its next time on.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "resume")]
struct Resume {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// End a task for good.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "cancel")]
struct Cancel {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// Ask now, beside the runs that come due.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "run")]
struct Run {
    /// its id
    #[argh(positional)]
    id: String,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

/// `ctl task`
pub(super) fn run(client: &Client, words: Task) -> Result<(), Failure> {
    match words.verb {
        Verb::List(words) => list(client, &words),
        Verb::Show(Show { id, json }) => shown(&client.get(&path(&id))?, json),
        Verb::Create(words) => {
            let json = words.json;
            shown(&client.post("/v1/tasks", &made(words))?, json)
        }
        Verb::Update(words) => {
            let (id, json) = (words.id.clone(), words.json);
            shown(&client.post(&path(&id), &changed(words)?)?, json)
        }
        Verb::Pause(Pause { id, json }) => state(client, &id, "paused", json),
        Verb::Resume(Resume { id, json }) => state(client, &id, "active", json),
        Verb::Cancel(Cancel { id, json }) => {
            let task = client.delete(&path(&id))?;
            told(&task, "is cancelled", json)
        }
        Verb::Run(Run { id, json }) => {
            let task = client.post(&format!("{}/run", path(&id)), &Value::Object(Vec::new()))?;
            told(&task, "is asked now", json)
        }
    }
}

fn path(id: &str) -> String {
    format!("/v1/tasks/{}", encode(id))
}

fn state(client: &Client, id: &str, state: &str, json: bool) -> Result<(), Failure> {
    let task = client.post(&path(id), &Value::object([("state", Value::from(state))]))?;
    shown(&task, json)
}

fn told(task: &Value, words: &str, json: bool) -> Result<(), Failure> {
    if json {
        return out(task);
    }
    writeln!(io::stdout(), "{} {words}", plain::line(&cell(task, "id")))?;
    Ok(())
}

/// What was said; what was not is the control plane's to choose.
fn made(asked: Create) -> Value {
    let texts = [
        ("prompt", Some(asked.prompt)),
        ("group", Some(asked.group)),
        ("at", asked.at),
        ("every", asked.every),
        ("cron", asked.cron),
        ("zone", asked.zone),
        ("until", asked.until),
        ("misfire", asked.misfire),
        ("channel", asked.channel),
        ("instance", asked.instance),
        ("chat", asked.chat),
        ("thread", asked.thread),
    ];
    let texts = texts.into_iter().filter_map(|(name, value)| Some((name, Value::from(value?))));
    Value::object(texts.chain(asked.count.map(|count| ("count", Value::from(count)))))
}

fn changed(asked: Update) -> Result<Value, Failure> {
    let texts = [
        ("prompt", asked.prompt),
        ("at", asked.at),
        ("every", asked.every),
        ("cron", asked.cron),
        ("zone", asked.zone),
        ("misfire", asked.misfire),
    ];
    let mut fields: Vec<(&str, Value)> =
        texts.into_iter().filter_map(|(name, value)| Some((name, Value::from(value?)))).collect();
    fields.extend(
        asked.until.map(|until| ("until", if until == "never" { Value::Null } else { Value::from(until) })),
    );
    fields.extend(
        asked.count.map(|count| ("count", if count == 0 { Value::Null } else { Value::from(count) })),
    );
    if fields.is_empty() {
        return Err(Failure::usage(
            "say what is to be different: --prompt, --at, --every, --cron, --zone, --until, --count or --misfire",
        ));
    }
    Ok(Value::object(fields))
}

fn list(client: &Client, asked: &List) -> Result<(), Failure> {
    let mut query = of_group("/v1/tasks", asked.group.as_deref());
    if let Some(state) = &asked.state {
        let mark = if query.contains('?') { '&' } else { '?' };
        query.push_str(&format!("{mark}state={}", encode(state)));
    }
    let rows = all(client, &query, "tasks")?;
    if Output::of(asked.json) == Output::Json {
        return out(&Value::from(rows));
    }
    if rows.is_empty() {
        writeln!(io::stdout(), "nothing is scheduled; `ironctl task create` does")?;
        return Ok(());
    }
    let head = ["TASK", "AGENT", "STATE", "SCHEDULE", "NEXT", "CHANNEL", "CHAT", "RUNS", "MADE BY"];
    let line = |task: &Value| {
        let next = next(task).into_iter().next().map(|(local, _)| local).unwrap_or_default();
        let cells = ["id", "group", "state", "schedule", "", "channel", "chat", "runs", "created_by"];
        cells.map(|name| if name.is_empty() { next.clone() } else { cell(task, name) }).to_vec()
    };
    table::print(&head, &rows.iter().map(line).collect::<Vec<_>>())?;
    Ok(())
}

/// The runs to come, in the task's zone and in UTC.
fn next(task: &Value) -> Vec<(String, String)> {
    let all = task.get("next").and_then(Value::as_array).unwrap_or_default();
    all.iter().map(|run| (cell(run, "local"), cell(run, "at"))).collect()
}

fn shown(task: &Value, json: bool) -> Result<(), Failure> {
    if json {
        return out(task);
    }
    io::stdout().write_all(described(task).as_bytes())?;
    Ok(())
}

/// Everything about a task; what others wrote is escaped.
fn described(task: &Value) -> String {
    let mut shown = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            shown.push_str(&format!("{name:<10}{}\n", plain::line(value)));
        }
    };
    line("task", &cell(task, "id"));
    line("agent", &cell(task, "group"));
    line("state", &cell(task, "state"));
    line("why", &cell(task, "reason"));
    line("schedule", &cell(task, "schedule"));
    for (local, utc) in next(task) {
        line("next", &format!("{local}  {}  (UTC {utc})", cell(task, "zone")));
    }
    line("until", &cell(task, "until"));
    line("count", &cell(task, "count"));
    line("missed", &cell(task, "misfire"));
    line("runs", &cell(task, "runs"));
    line("last run", &cell(task, "last_run"));
    line("channel", &cell(task, "channel"));
    line("instance", &cell(task, "instance"));
    line("chat", &cell(task, "chat"));
    line("thread", &cell(task, "thread"));
    line("made by", &cell(task, "created_by"));
    line("made at", &cell(task, "created_at"));
    let prompt = cell(task, "prompt");
    if !prompt.is_empty() {
        shown.push_str(&format!("asks\n{}\n", plain::block(&prompt)));
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json;

    #[test]
    fn what_was_not_given_is_left_out() {
        let words = ["stand up", "--group", "ann", "--cron", "0 9 * * 1-5", "--zone", "Europe/Berlin"];
        let create = Create::from_args(&["create"], &words).unwrap();
        let sent = r#"{"prompt":"stand up","group":"ann","cron":"0 9 * * 1-5","zone":"Europe/Berlin"}"#;
        assert_eq!(made(create).to_string(), sent);
        let update = |words: &[&str]| changed(Update::from_args(&["update"], words).unwrap());
        assert_eq!(update(&["tsk_1"]).unwrap_err().code, 2);
        let sent = update(&["tsk_1", "--until", "never", "--count", "0"]).unwrap();
        assert_eq!(sent.to_string(), r#"{"until":null,"count":null}"#);
        assert_eq!(update(&["tsk_1", "--count", "3"]).unwrap().to_string(), r#"{"count":3}"#);
    }

    #[test]
    fn a_task_is_shown_with_its_times_and_without_tricks() {
        let task = r#"{"id":"tsk_1","state":"active","schedule":"0 9 * * 1-5 Europe/Berlin","zone":"Europe/Berlin",
            "reason":null,"next":[{"at":"2026-11-24T08:00:00.000Z","local":"2026-11-24T09:00:00+01:00"}],
            "prompt":"a\u001b[2Jb\nc"}"#;
        let shown = described(&json::parse(task.as_bytes()).unwrap());
        assert!(
            shown.contains(
                "next      2026-11-24T09:00:00+01:00  Europe/Berlin  (UTC 2026-11-24T08:00:00.000Z)\n"
            ),
            "{shown}"
        );
        assert!(shown.ends_with("asks\na\\u{1b}[2Jb\nc\n"), "{shown}");
    }
}
