//! What agents are asked at its time: once for each time, whoever dies when, in the chat and thread in which it was
//! asked for, and by nobody who may not.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::hand::{approve, ctl, json as printed, refused, said, submit};
use crate::heard::{admit, ingress, serve, wire};
use crate::hook::Hook;
use crate::world::http::{Answer, Request};
use crate::world::telegram::TOKEN;
use crate::world::{Build, Daemon, Home, Runtime, Serve, Telegram, User, eventually, leftovers, marker};

crate::world::boxes::in_both_back_ends!(a_reminder_comes_in_the_topic_in_which_it_was_asked_for);

const ANN: i64 = 42;
const GROUP: i64 = -1001;

/// A time so many seconds from now, as RFC 3339 writes it.
fn time(from_now: i64) -> String {
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let (days, second) = ((now + from_now).div_euclid(86_400), (now + from_now).rem_euclid(86_400));
    // Days since 1970 into a date, by eras of 400 years that begin on the first of March.
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// What the mock agent says to this.
fn answer(prompt: &str) -> String {
    format!("mock-agent received: {prompt}")
}

fn tool(name: &str, input: &Value) -> String {
    format!("tool:{name} {input}")
}

#[track_caller]
fn tasks(daemon: &Daemon, state: &str) -> Vec<Value> {
    daemon.get(&format!("/v1/tasks?state={state}"))["tasks"].as_array().unwrap().clone()
}

fn make(daemon: &Daemon, body: &Value) -> Answer {
    daemon.send(Request::post("/v1/tasks", body))
}

fn edit(daemon: &Daemon, id: &str, body: &Value) -> Answer {
    daemon.send(Request::post(&format!("/v1/tasks/{id}"), body))
}

fn a_reminder_comes_in_the_topic_in_which_it_was_asked_for(runtime: Runtime) {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    telegram.tell("chat", &json!({"id": GROUP, "topics": [55, 77]}));
    let daemon = Serve::new(&home, runtime)
        .env("TELEGRAM_BOT_TOKEN", TOKEN)
        .env("TELEGRAM_API_BASE", telegram.base())
        .ready();
    let wiring = json!({"channel": "telegram", "chat": GROUP.to_string(), "engage": "mention", "sessions": "per-thread"});
    let change = submit(&daemon, "wiring", "mock-agent", &json!({"add": [wiring]})).ok();
    assert_eq!(approve(&daemon, &change).status, 200, "{change}");
    admit(&daemon, "mock-agent", &format!("telegram:{ANN}"));
    let say = |text: &str| {
        let said = json!({"chat": GROUP, "from": ANN, "thread": 55, "text": text, "mention": true});
        telegram.tell("text", &said);
    };
    let wait = |what: &str, fits: &dyn Fn(&str) -> bool| -> Value {
        eventually(what, || {
            telegram.sent(GROUP).into_iter().find(|sent| fits(sent["plain"].as_str().unwrap()))
        })
    };
    // A second ahead.
    let prompt = marker();
    say(&tool("schedule_task", &json!({"prompt": prompt, "at": time(1)})));
    let run = wait("the reminder", &|text| text == answer(&prompt));
    assert_eq!(run["message_thread_id"], 55, "{run}");
    let done = eventually("the task is done", || tasks(&daemon, "done").first().cloned());
    assert_eq!((&done["runs"], &done["created_by"]), (&json!(1), &json!("agent:mock-agent")), "{done}");
    assert_eq!((&done["chat"], &done["thread"]), (&json!(GROUP.to_string()), &json!("55")));
    // Every weekday at nine: the next times, in the zone and in UTC.
    say(&tool(
        "schedule_task",
        &json!({"prompt": "stand up", "cron": "0 9 * * 1-5", "zone": "Europe/Berlin"}),
    ));
    wait("what was scheduled", &|text| text.contains("active, 0 9 * * 1-5 Europe/Berlin; next 2"));
    let task = tasks(&daemon, "live").remove(0);
    let id = task["id"].as_str().unwrap();
    let next = task["next"].as_array().unwrap();
    assert_eq!(next.len(), 3, "{task}");
    for run in next {
        let (local, utc) = (run["local"].as_str().unwrap(), run["at"].as_str().unwrap());
        let summer = local.ends_with("T09:00:00+02:00") && utc.ends_with("T07:00:00.000Z");
        let winter = local.ends_with("T09:00:00+01:00") && utc.ends_with("T08:00:00.000Z");
        assert!(summer || winter, "{run}");
    }
    say(&tool("list_tasks", &json!({})));
    wait("the list", &|text| {
        text.contains(&format!("tool result: {id}: active")) && text.contains("asks: stand up")
    });
    // In another topic there is another conversation, and nothing is scheduled there.
    telegram.tell(
        "text",
        &json!({"chat": GROUP, "from": ANN, "thread": 77, "text": tool("list_tasks", &json!({})), "mention": true}),
    );
    let other = wait("the other list", &|text| text.contains("nothing is scheduled"));
    assert_eq!(other["message_thread_id"], 77, "{other}");
    say(&tool("cancel_task", &json!({"task": id})));
    wait("that it is cancelled", &|text| text.contains(&format!("tool result: {id}: cancelled")));
    assert_eq!(tasks(&daemon, "live"), Vec::<Value>::new());
    // The agent that was taken away from the chat is not asked there any more.
    let gone = marker();
    say(&tool("schedule_task", &json!({"prompt": gone, "every": "1h"})));
    let id = eventually("the task", || Some(tasks(&daemon, "live").first()?["id"].as_str()?.to_owned()));
    let away = json!({"remove": [{"channel": "telegram", "chat": GROUP.to_string()}]});
    let change = submit(&daemon, "wiring", "mock-agent", &away).ok();
    assert_eq!(approve(&daemon, &change).status, 200);
    edit(&daemon, &id, &json!({"at": time(0)})).ok();
    let ended = eventually("the task is ended", || {
        let task = daemon.get(&format!("/v1/tasks/{id}"));
        (task["state"] == "cancelled").then_some(task)
    });
    assert_eq!(ended["reason"], "the agent was taken away from that chat", "{ended}");
    assert!(telegram.sent(GROUP).iter().all(|sent| sent["plain"] != answer(&gone)));
    assert!(daemon.stop().success());
}

/// The control plane dies right before and right after each thing that it writes down between a wish and its run: there
/// is one task, and one run of it.
#[test]
fn every_crash_point_of_scheduling_is_survived() {
    for point in [
        "accept.before_commit",
        "accept.after_commit",
        "ask.before_commit",
        "ask.after_commit",
        "ask.recorded",
        "run.before_commit",
        "run.after_commit",
        "launch.before_commit",
        "launch.after_commit",
        "finish.before_commit",
        "finish.after_commit",
        // Those of the run, where the first is of the wish.
        "finish.before_commit@2",
        "finish.after_commit@2",
        "deliver.before_commit@2",
        "deliver.after_commit@2",
    ] {
        let (home, hook, ingress) = (Home::new(Build::Faults, User::Root), Hook::start(), ingress());
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
        assert!(daemon.stop().success());
        let mut daemon =
            serve(&home, Runtime::Native, &hook, ingress).fault(format!("crash={point}")).ready();
        let (id, prompt) = (marker(), marker());
        let text = tool("schedule_task", &json!({"prompt": prompt, "at": time(0)}));
        let body = json!({"text": text, "chat": "ops"});
        let first = hook.try_say(ingress, "/hooks/webhook", &id, &body);
        assert!(leftovers::ended(daemon.id(), crate::world::PATIENCE), "{point}: it does not die");
        daemon.kill9();
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        if !first.is_ok_and(|answer| answer.status == 202) {
            // As a sender does that got no answer.
            assert_eq!(hook.say_as(ingress, &id, &body).status, 202, "{point}");
        }
        hook.until(&format!("{point}: the run"), |taken| {
            taken.iter().any(|taken| taken.text == answer(&prompt)).then_some(())
        });
        hook.say(ingress, &json!({"text": "last", "chat": "ops"}));
        hook.until(&format!("{point}: the last answer"), |taken| {
            taken.iter().any(|taken| taken.text == answer("last")).then_some(())
        });
        let taken = hook.taken("ops");
        assert_eq!(taken.len(), 3, "{point}: {taken:?}");
        let done = tasks(&daemon, "done");
        assert_eq!((done.len(), &done[0]["runs"]), (1, &json!(1)), "{point}: {done:?}");
        assert_eq!(tasks(&daemon, "live").len(), 0, "{point}");
        assert_eq!(daemon.get("/v1/audit/verify")["ok"], true, "{point}");
        assert!(daemon.stop().success());
    }
}

/// What was due while nothing ran is one run, and what rests does not run.
#[test]
fn what_was_missed_runs_once_and_what_rests_not_at_all() {
    let home = Home::new(Build::Faults, User::Root);
    let mut daemon = Serve::new(&home, Runtime::Native).fault("crash=run.before_commit").ready();
    let (missed, resting, later) = (marker(), marker(), marker());
    let resting_body = json!({"group": "mock-agent", "prompt": resting, "chat": "rest", "every": "1h"});
    let rest = make(&daemon, &resting_body).json();
    let rest = rest["id"].as_str().unwrap();
    assert_eq!(edit(&daemon, rest, &json!({"state": "paused"})).json()["state"], "paused");
    edit(&daemon, rest, &json!({"at": time(0)})).ok();
    let every = json!({"group": "mock-agent", "prompt": missed, "every": "1m", "at": time(-250)});
    // It dies before the run that is due at once: nothing ran at any of five times.
    let _ = Request::post("/v1/tasks", &every).token(&daemon.token()).send(daemon.address);
    assert!(leftovers::ended(daemon.id(), crate::world::PATIENCE), "it does not die");
    daemon.kill9();
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    let run = chat.wait(0, "the run", |entry| entry.direction == "out");
    assert_eq!(run.text, answer(&missed));
    let task = tasks(&daemon, "active").remove(0);
    assert_eq!(task["runs"], 1, "{task}");
    // One that is due later has run, and the one that rests has not.
    make(&daemon, &json!({"group": "mock-agent", "prompt": later, "chat": "later", "at": time(0)})).ok();
    daemon.chat("mock-agent", "later").wait(0, "the later run", |entry| entry.text == answer(&later));
    assert_eq!(daemon.get(&format!("/v1/tasks/{rest}"))["runs"], 0);
    assert_eq!(daemon.chat("mock-agent", "rest").history().len(), 0);
    // Its time is over, so that it goes on when it has another.
    let answered = edit(&daemon, rest, &json!({"state": "active"}));
    assert_eq!((answered.status, &answered.json()["why"]), (409, &json!("passed")), "{}", answered.text());
    edit(&daemon, rest, &json!({"every": "1h"})).ok();
    assert_eq!(edit(&daemon, rest, &json!({"state": "active"})).json()["state"], "active");
    edit(&daemon, rest, &json!({"every": "1h", "at": time(0)})).ok();
    daemon.chat("mock-agent", "rest").wait(0, "the run at last", |entry| entry.text == answer(&resting));
    assert!(daemon.stop().success());
}

/// Whoever asks for a run and hangs up before it is recorded has it all the same: nothing else wakes the agent for an
/// hour.
#[test]
fn a_run_is_made_for_whoever_went_meanwhile() {
    let home = Home::new(Build::Faults, User::Root);
    let gate = home.root.join("user/gate");
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--sweep-interval", "1h")
        .fault(format!("export-waits={}", gate.display()))
        .ready();
    let prompt = marker();
    let task = make(&daemon, &json!({"group": "mock-agent", "prompt": prompt, "every": "1h"})).json();
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    fs::write(&gate, "").unwrap();
    let run = format!("{path}/run");
    let mut asking = Request::post(&run, &json!({})).token(&daemon.token()).hold(daemon.address);
    asking.send();
    eventually("it is in the ledger", || daemon.get(&path)["last_message"].is_string().then_some(()));
    drop(asking);
    eventually("nobody waits for the answer", || {
        (daemon.metric("ironclaw_http_connections") == 1.0).then_some(())
    });
    fs::remove_file(&gate).unwrap();
    daemon.chat("mock-agent", "main").wait(0, "the run", |entry| entry.text == answer(&prompt));
    assert!(daemon.stop().success());
}

/// An agent without the tools asks in vain, whatever program it is.
#[test]
fn an_agent_that_may_not_schedule_does_not() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = Serve::new(&home, Runtime::Native)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .ready();
    let change = submit(&daemon, "enabled_tools", "dev-agent", &json!({"tools": ["list_tasks"]})).ok();
    assert_eq!(approve(&daemon, &change).status, 200);
    let other = json!({"group": "mock-agent", "prompt": "x", "every": "1h"});
    let other = make(&daemon, &other).json()["id"].as_str().unwrap().to_owned();
    let envelope = |action: &str, arguments: Value| {
        json!({"action": action, "call": action, "arguments": arguments}).to_string()
    };
    let envelopes = [
        envelope("schedule_task", json!({"prompt": "x", "every": "1m"})),
        envelope("cancel_task", json!({"task": other})),
        envelope("update_task", json!({"task": other, "prompt": "y"})),
        envelope("pause_task", json!({"task": other})),
        envelope("resume_task", json!({"task": other})),
        envelope("list_tasks", json!({})),
    ];
    let told = daemon.chat("dev-agent", "main").ask(&format!("hostile act\n{}", envelopes.join("\n")));
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), envelopes.len(), "{told:?}");
    for answer in &told[..5] {
        assert!(answer["result"].as_str().unwrap().starts_with("not_granted: "), "{answer}");
    }
    assert_eq!(told[5]["result"], json!({"tasks": []}), "it sees nobody else's");
    assert_eq!(tasks(&daemon, "active").len(), 1);
    let token = daemon.token();
    assert!(daemon.stop().success());
    // What was refused is recorded, at the latest when the control plane ends.
    let daemon = Serve::new(&home, Runtime::Native).ready();
    assert_eq!(token, daemon.token());
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    let refused: Vec<&str> = records
        .iter()
        .filter(|record| record["act"] == "action.refused")
        .map(|record| record["object"].as_str().unwrap())
        .collect();
    for action in ["schedule_task", "cancel_task", "update_task", "pause_task", "resume_task"] {
        assert!(refused.contains(&action), "{action}: {refused:?}");
    }
    assert!(daemon.stop().success());
}

/// What operators do with tasks, by the command line and the interface, and that nobody else does.
#[test]
fn operators_schedule_and_others_look() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let run = |words: &[&str]| printed(ctl(&home, &daemon, words));
    let made = run(&[
        "task",
        "create",
        "stand up",
        "--group",
        "mock-agent",
        "--cron",
        "0 9 * * 1-5",
        "--zone",
        "Europe/Berlin",
        "--json",
    ]);
    let id = made["id"].as_str().unwrap();
    assert_eq!((&made["channel"], &made["chat"]), (&json!("api"), &json!("main")), "{made}");
    let shown = said(ctl(&home, &daemon, &["task", "show", id]));
    assert_eq!(shown.matches("Europe/Berlin  (UTC ").count(), 3, "{shown}");
    assert!(shown.ends_with("asks\nstand up\n"), "{shown}");
    let listed = said(ctl(&home, &daemon, &["task", "list", "--group", "mock-agent"]));
    assert!(listed.contains(id) && listed.contains("0 9 * * 1-5 Europe/Berlin"), "{listed}");
    let updated = run(&["task", "update", id, "--cron", "30 8 * * *", "--count", "2", "--json"]);
    assert_eq!((&updated["schedule"], &updated["revision"]), (&json!("30 8 * * * Europe/Berlin"), &json!(2)));
    let stale = edit(&daemon, id, &json!({"prompt": "x", "revision": 1}));
    assert_eq!((stale.status, &stale.json()["type"]), (409, &json!("conflict")), "{}", stale.text());
    assert_eq!(run(&["task", "pause", id, "--json"])["state"], "paused");
    assert_eq!(run(&["task", "resume", id, "--json"])["state"], "active");
    // Now, beside its times.
    run(&["task", "run", id, "--json"]);
    let chat = daemon.chat("mock-agent", "main");
    let ran = chat.wait(0, "the run", |entry| entry.direction == "out");
    assert_eq!(ran.text, answer("stand up"));
    let task = daemon.get(&format!("/v1/tasks/{id}"));
    assert_eq!((&task["runs"], task["last_message"].is_string()), (&json!(0), true), "{task}");
    // Whoever does not know whether that arrived sends it again under its key, and it is asked once.
    let path = format!("/v1/tasks/{id}/run");
    let asked = |key: &str| {
        let answered = daemon.send(Request::post(&path, &json!({})).header("Idempotency-Key", key));
        (answered.status, answered.json()["last_message"].clone())
    };
    let key = marker();
    let (status, first) = asked(&key);
    assert_eq!(status, 202);
    assert_ne!(first, task["last_message"]);
    chat.wait(0, "its answer", |entry| entry.in_reply_to.as_deref() == first.as_str());
    assert_eq!(asked(&key), (202, first.clone()));
    let (status, other) = asked(&marker());
    assert_eq!((status, other != first), (202, true));
    chat.wait(0, "another answer", |entry| entry.in_reply_to.as_deref() == other.as_str());
    assert_eq!(asked(&key), (202, other), "asked again later, it is still the one that was");
    assert_eq!(asked(&"x".repeat(129)).0, 400);
    // Who decides and does not operate sees that it is there, and not what it asks.
    daemon.send(Request::post("/v1/users", &json!({"id": "local:ann"}))).ok();
    let grant = json!({"grant": [{"user": "local:ann", "role": "approver"}]});
    let change = submit(&daemon, "permissions", "mock-agent", &grant).ok();
    assert_eq!(approve(&daemon, &change).status, 200, "{change}");
    let token = json!({"name": "ann", "user": "local:ann", "scopes": ["read", "approve"]});
    let token = daemon.send(Request::post("/v1/tokens", &token)).json()["token"].as_str().unwrap().to_owned();
    let as_ann = |request: Request<'_>| request.token(&token).send(daemon.address).unwrap();
    let path = format!("/v1/tasks/{id}");
    assert_eq!(as_ann(Request::get(&path)).json()["prompt"], Value::Null);
    assert_eq!(as_ann(Request::get("/v1/tasks?group=mock-agent")).json()["tasks"][0]["prompt"], Value::Null);
    assert_eq!(as_ann(Request::get("/v1/tasks?group=dev-agent")).status, 403);
    assert_eq!(as_ann(Request::post(&path, &json!({"state": "paused"}))).status, 403);
    assert_eq!(as_ann(Request::post(&format!("{path}/run"), &json!({}))).status, 403);
    let one = json!({"group": "mock-agent", "prompt": "x", "every": "1h"});
    assert_eq!(as_ann(Request::post("/v1/tasks", &one)).status, 403);
    // What is wrong is said.
    for (body, about) in [
        (json!({"group": "mock-agent", "prompt": "x"}), "one of at"),
        (json!({"group": "mock-agent", "prompt": "x", "every": "1s"}), "one minute"),
        (json!({"group": "mock-agent", "prompt": "", "every": "1h"}), "prompt"),
        (
            json!({"group": "mock-agent", "prompt": "x", "every": "1h", "channel": "telegram", "chat": "7"}),
            "not wired",
        ),
        (
            json!({"group": "mock-agent", "prompt": "x", "every": "1h", "channel": "pigeon", "chat": "7"}),
            "no channel",
        ),
        (json!({"group": "nobody", "prompt": "x", "every": "1h"}), "nobody"),
    ] {
        let answer = make(&daemon, &body);
        assert!([400, 404].contains(&answer.status), "{body}: {}", answer.text());
        assert!(answer.json()["detail"].as_str().unwrap().contains(about), "{body}: {}", answer.text());
    }
    refused(ctl(&home, &daemon, &["task", "show", "tsk_1"]), 1, &["tsk_1", "ironctl task list"]);
    assert!(said(ctl(&home, &daemon, &["task", "cancel", id])).contains("is cancelled"));
    assert!(said(ctl(&home, &daemon, &["task", "list"])).contains("nothing is scheduled"));
    // An agent that is deleted takes its tasks with it.
    let other = make(&daemon, &json!({"group": "dev-agent", "prompt": "x", "every": "1h"})).json();
    let delete = Request { method: "DELETE", ..Request::get("/v1/agents/dev-agent") };
    daemon.send(delete).ok();
    let ended = daemon.get(&format!("/v1/tasks/{}", other["id"].as_str().unwrap()));
    assert_eq!((&ended["state"], &ended["reason"]), (&json!("cancelled"), &json!("the agent was deleted")));
    let acts: Vec<String> = daemon.get("/v1/audit?limit=100")["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["act"].as_str().unwrap().to_owned())
        .collect();
    for act in ["created", "updated", "paused", "resumed", "run", "cancelled"] {
        assert!(acts.contains(&format!("task.{act}")), "{act}: {acts:?}");
    }
    assert!(daemon.stop().success());
}
