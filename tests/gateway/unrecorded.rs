//! What is decided and not in the audit files yet: nothing comes of it, also across a restart, until it is there.

use std::fs;

use serde_json::json;

use crate::destinations::{give, ops, send};
use crate::hand::{approve, ctl, run, submit};
use crate::mounts::{Shared, problem, read};
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, marker};

/// While this file is there, nothing is added to the audit files.
fn gate(home: &Home) -> std::path::PathBuf {
    home.root.join("user/no-audit")
}

fn serve<'a>(home: &'a Home, shared: &Shared) -> Serve<'a> {
    Serve::new(home, Runtime::Native)
        .fault(format!("export-fails={}", gate(home).display()))
        .flag("--mount-root", shared.root())
}

/// With all that its start recorded in the audit files: from then on only what the test does is to be added.
fn recorded(daemon: Daemon) -> Daemon {
    eventually("its start is recorded", || (daemon.get("/v1/audit/verify")["ok"] == true).then_some(()));
    daemon
}

/// Waits until it could launch sandboxes and says that nothing can be recorded; gives its words.
#[track_caller]
fn held(daemon: &mut Daemon) -> String {
    eventually("it is held", || {
        assert!(!daemon.has_ended(), "it ended:\n{}", daemon.log.text());
        let document = Request::get("/readyz").send(daemon.address).ok().filter(|a| a.status == 503)?.json();
        (document["status"] == "held").then(|| document["reason"].as_str().unwrap().to_owned())
    })
}

/// Who waits for readiness is told that nothing can be recorded, for as long as that is so.
#[test]
fn a_chain_that_cannot_be_written_is_a_reason_not_to_be_ready() {
    let home = Home::new(Build::Faults, User::Root);
    let shared = Shared::new();
    let mut daemon = recorded(serve(&home, &shared).ready());
    fs::write(gate(&home), "").unwrap();
    let add = || daemon.send(Request::post("/v1/users", &json!({"id": "local:ann"}))).status;
    assert_eq!((add(), add()), (503, 503));
    let reason = held(&mut daemon);
    for word in ["audit_unavailable: ", "told to fail", "make the state directory writable"] {
        assert!(reason.contains(word), "no {word:?} in: {reason}");
    }
    let status = run(ctl(&home, &daemon, &["status"]));
    let shown = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(!status.status.success() && shown.contains("audit_unavailable: "), "{shown}");
    // Conversations go on.
    let text = marker();
    assert!(daemon.chat("mock-agent", "main").ask(&text).contains(&text));
    fs::remove_file(gate(&home)).unwrap();
    daemon.wait_ready();
    assert!(daemon.stop().success());
}

#[test]
fn a_grant_counts_only_once_it_is_recorded() {
    let home = Home::new(Build::Faults, User::Root);
    let shared = Shared::new();
    let source = shared.holding("data", "from the host");
    let mut daemon = recorded(serve(&home, &shared).ready());
    let payload = json!({"add": [{"name": "data", "source": source}]});
    let change = submit(&daemon, "mounts", "mock-agent", &payload).ok();
    fs::write(gate(&home), "").unwrap();
    let answer = approve(&daemon, &change);
    assert_eq!((answer.status, answer.json()["committed"].clone()), (503, json!(true)), "{}", answer.text());
    assert_eq!(daemon.get(&format!("/v1/changes/{}", change["id"].as_str().unwrap()))["state"], "applied");
    let nothing = |daemon: &Daemon| {
        let said = read(&daemon.chat("mock-agent", "main"), "/mnt/data/note");
        assert!(said.contains("no such file"), "{said}");
        let why = problem(daemon, "data");
        assert!(why.as_str().is_some_and(|why| why.contains("not in the audit files")), "{why}");
    };
    nothing(&daemon);
    daemon.kill9();
    drop(daemon);
    let mut daemon = serve(&home, &shared).start();
    held(&mut daemon);
    nothing(&daemon);
    fs::remove_file(gate(&home)).unwrap();
    // The sandbox that was launched meanwhile goes, without another change.
    eventually("it is recorded", || (problem(&daemon, "data") == json!(null)).then_some(()));
    let chat = daemon.chat("mock-agent", "main");
    eventually("the agent has it", || (read(&chat, "/mnt/data/note") == "from the host").then_some(()));
    assert_eq!(daemon.get("/v1/audit/verify")["ok"], true);
    assert!(daemon.stop().success());
}

/// What the sessions of an agent wait for, by chat.
fn waits(daemon: &Daemon, chat: &str) -> Option<String> {
    let sessions = daemon.get("/v1/sessions");
    let found = sessions["sessions"].as_array().unwrap().iter().find(|session| session["chat"] == chat)?;
    Some(found["reason"].as_str()?.to_owned())
}

/// Another model, persona or tools: who runs goes on as what it was, and who does not run waits.
#[test]
fn an_agent_becomes_only_what_is_recorded() {
    let home = Home::new(Build::Faults, User::Root);
    let shared = Shared::new();
    let mut daemon = recorded(serve(&home, &shared).ready());
    let write = format!("tool:write_file {}", json!({"path": "note", "content": "x"}));
    let less = json!({"tools": ["read_file"]});
    assert_eq!(approve(&daemon, &submit(&daemon, "enabled_tools", "mock-agent", &less).ok()).status, 200);
    let does_nothing = |answer: &str| assert!(!answer.contains("tool result"), "{answer}");
    does_nothing(&daemon.chat("mock-agent", "main").ask(&write));
    let more = submit(&daemon, "enabled_tools", "mock-agent", &json!({"tools": ["write_file"]})).ok();
    fs::write(gate(&home), "").unwrap();
    let answer = approve(&daemon, &more);
    assert_eq!((answer.status, answer.json()["committed"].clone()), (503, json!(true)), "{}", answer.text());
    does_nothing(&daemon.chat("mock-agent", "main").ask(&write));
    let event = marker();
    let sent = daemon.chat("mock-agent", "other").say_as(&write, &event).position;
    let waiting = |daemon: &Daemon| {
        let why = eventually("it waits", || waits(daemon, "other"));
        assert!(why.contains("mock-agent is not in the audit files"), "{why}");
    };
    waiting(&daemon);
    daemon.kill9();
    drop(daemon);
    let mut daemon = serve(&home, &shared).start();
    held(&mut daemon);
    waiting(&daemon);
    let (chat, main) = (daemon.chat("mock-agent", "other"), daemon.chat("mock-agent", "main"));
    let asked = main.say(&write).position;
    eventually("that waits too", || waits(&daemon, "main"));
    assert!(chat.history().iter().all(|entry| entry.direction == "in"), "{:?}", chat.history());
    fs::remove_file(gate(&home)).unwrap();
    for answer in [chat.answer_after(sent), main.answer_after(asked)] {
        assert!(answer.text.contains("tool result"), "{}", answer.text);
    }
    assert_eq!((waits(&daemon, "main"), waits(&daemon, "other")), (None, None));
    assert_eq!(daemon.get("/v1/audit/verify")["ok"], true);
    assert!(daemon.stop().success());
}

/// An agent that runs does nothing with what it was given a moment ago, before that is recorded.
#[test]
fn nothing_is_sent_on_what_is_not_recorded() {
    let home = Home::new(Build::Faults, User::Root);
    let gates = home.root.join("user/gates");
    fs::create_dir(&gates).unwrap();
    let daemon = Serve::new(&home, Runtime::Native)
        .fault(format!("export-fails={},mock-gate={}", gate(&home).display(), gates.display()))
        .ready();
    give(&daemon, "mock-agent", ops());
    let more = json!({"destinations": [{"name": "more", "channel": "api", "chat": "more"}]});
    let more = submit(&daemon, "wiring", "mock-agent", &more).ok();
    let chat = daemon.chat("mock-agent", "main");
    let stored = daemon.metric("ironclaw_ingest_seconds_count");
    let sent = chat.say(&format!("hold:go {}", send("word", "ops")));
    eventually("the turn began", || (daemon.metric("ironclaw_ingest_seconds_count") > stored).then_some(()));
    fs::write(gate(&home), "").unwrap();
    assert_eq!(approve(&daemon, &more).status, 503);
    fs::write(gates.join("go"), "").unwrap();
    let answer = chat.answer_after(sent.position).text;
    assert!(answer.contains("tool result: unrecorded: nothing was sent"), "{answer}");
    assert_eq!(daemon.chat("mock-agent", "ops").history(), []);
    fs::remove_file(gate(&home)).unwrap();
    eventually("it is recorded", || (daemon.get("/v1/audit/verify")["ok"] == true).then_some(()));
    let answer = chat.ask(&send("word", "more"));
    assert!(answer.contains("tool result: sent"), "{answer}");
    assert!(daemon.stop().success());
}

/// The answer to a call that comes again is that of the first one, and as little as that one it is told before the
/// question is recorded.
#[test]
fn a_repeated_call_is_answered_only_once_the_first_one_is_recorded() {
    let home = Home::new(Build::Faults, User::Root);
    let shared = Shared::new();
    let mut daemon = recorded(serve(&home, &shared).ready());
    fs::write(gate(&home), "").unwrap();
    let (text, event) = (
        r#"tool:request_capability_change {"kind":"persona","payload":{"soul":"x"},"reason":"x"}"#,
        marker(),
    );
    let sent = daemon.chat("mock-agent", "main").say_as(text, &event).position;
    eventually("it is asked", || {
        (daemon.get("/v1/changes/pending")["changes"].as_array().unwrap().len() == 1).then_some(())
    });
    daemon.kill9();
    drop(daemon);
    let mut daemon = serve(&home, &shared).start();
    held(&mut daemon);
    let chat = daemon.chat("mock-agent", "main");
    eventually("it is asked again", || (daemon.metric("ironclaw_ingest_seconds_count") > 0.0).then_some(()));
    // Another's whole turn is time enough for an answer that does not wait.
    let text = marker();
    assert!(daemon.chat("dev-agent", "main").ask(&text).contains(&text));
    assert!(chat.history().iter().all(|entry| entry.direction == "in"), "{:?}", chat.history());
    fs::remove_file(gate(&home)).unwrap();
    let answer = chat.answer_after(sent).text;
    assert!(answer.contains("tool result: asked, chg_"), "{answer}");
    assert_eq!(daemon.get("/v1/changes/history")["changes"].as_array().unwrap().len(), 1);
    assert!(daemon.stop().success());
}

/// A sandbox that runs and is about to be told what its agent is now: it is told nothing of what is not recorded, is
/// handed no message with it, and its successor waits.
#[test]
fn who_runs_is_not_told_what_is_not_recorded() {
    let home = Home::new(Build::Faults, User::Root);
    let shared = Shared::new();
    let daemon = serve(&home, &shared).flag("--linger", "1h").ready();
    let chat = daemon.chat("mock-agent", "main");
    let tools = |name: &str| submit(&daemon, "enabled_tools", "mock-agent", &json!({"tools": [name]})).ok();
    assert!(chat.ask("one").contains("one"));
    // Recorded, and to be told with the next message.
    assert_eq!(approve(&daemon, &tools("read_file")).status, 200);
    let more = tools("write_file");
    fs::write(gate(&home), "").unwrap();
    let answer = approve(&daemon, &more);
    assert_eq!((answer.status, answer.json()["committed"].clone()), (503, json!(true)), "{}", answer.text());
    let write = format!("tool:write_file {}", json!({"path": "note", "content": "x"}));
    let sent = chat.say(&write);
    let why = eventually("it waits", || {
        let answered =
            chat.history().iter().any(|entry| entry.position > sent.position && entry.direction == "out");
        assert!(!answered, "it was handed over: {:?}", chat.history());
        waits(&daemon, "main")
    });
    assert!(why.contains("mock-agent is not in the audit files"), "{why}");
    assert!(daemon.log.any(|line| line.contains("\"sandbox.ended\"") && line.contains(&sent.session_id)));
    fs::remove_file(gate(&home)).unwrap();
    let answer = chat.answer_after(sent.position).text;
    assert!(answer.contains("tool result"), "{answer}");
    assert_eq!(daemon.get("/v1/audit/verify")["ok"], true);
    assert!(daemon.stop().success());
}
