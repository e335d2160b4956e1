//! What agents and those who talk with them write, wherever people read it beside the changes: while it happens, in
//! conversations on a terminal, in lists, and in what is refused.

use std::process::{Child, Command};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::hand::{approve, ctl, on_terminal, refused, run, said, submit, typed};
use crate::world::daemon::Log;
use crate::world::deceit::{CORPUS, honest, honest_on_terminal};
use crate::world::home::finish;
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, marker};

/// A command that goes on until it is ended, and what it has shown.
struct Following {
    child: Child,
    shown: Arc<Log>,
}

impl Following {
    fn start(mut command: Command) -> Following {
        let mut child = command.spawn().unwrap();
        let shown = Arc::new(Log::default());
        Log::follow(&shown, child.stdout.take().unwrap());
        Following { child, shown }
    }

    /// What it has shown once this is there.
    #[track_caller]
    fn until(mut self, text: &str) -> String {
        self.shown.wait_for(text, |line| line.contains(text));
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.shown.text()
    }
}

fn requests(daemon: &Daemon) -> Vec<Value> {
    daemon.get("/v1/changes/pending")["changes"].as_array().unwrap().clone()
}

/// What an agent writes, also in what it asks for, and what the chats are called in which it is talked with.
#[test]
fn text_of_an_agent_deceives_nobody_who_watches() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let watch = |words: &[&str]| Following::start(ctl(&home, &daemon, words));
    let (events, audit) = (watch(&["events"]), watch(&["audit", "--follow"]));
    // Both follow before anything is written: what they are shown first is of the start and of this.
    let first = marker();
    eventually("both watch", || {
        daemon.send(Request::post("/v1/users", &json!({"id": "local:ann", "name": first})));
        let has = |one: &Following| one.shown.contains("user.");
        (has(&events) && has(&audit)).then_some(())
    });
    let list = |words: &[&str]| {
        let shown = said(ctl(&home, &daemon, words));
        honest(&words.join(" "), &shown);
        shown
    };
    for (what, text) in CORPUS {
        let asked = json!({"kind": "persona", "payload": {"soul": text}, "reason": text});
        let chat = daemon.chat("mock-agent", "main");
        let answer = chat.ask(&format!("tool:request_capability_change {asked}"));
        let pending = requests(&daemon);
        if let [change] = pending.as_slice() {
            let id = change["id"].as_str().unwrap();
            list(&["change", "pending"]);
            list(&["change", "show", id]);
            let shown = list(&["change", "reject", id, "--note", "no"]);
            assert!(shown.contains(id), "{what}: {shown}");
        } else {
            assert!(text.contains('\0') && pending.is_empty(), "{what}: {answer} {pending:?}");
        }
        // As a message, to which the agent answers with the same.
        let sent = json!({"text": text, "event_id": marker(), "chat": "main"});
        daemon.send(Request::post("/v1/chat/mock-agent/messages", &sent)).ok();
        // As the name of a chat.
        let path = "/v1/chat/mock-agent/messages";
        let named = json!({"text": "hello", "event_id": marker(), "chat": text});
        let named = daemon.send(Request::post(path, &named));
        if named.status != 202 {
            honest(what, &named.text());
        } else {
            let id = named.json()["session_id"].as_str().unwrap().to_owned();
            list(&["session", "show", &id]);
        }
        list(&["session", "list"]);
        // On a terminal, where it would be obeyed.
        if !text.contains('\0') {
            let (code, shown) =
                typed(&ctl(&home, &daemon, &["chat", "mock-agent", "--chat", "two", text]), "");
            assert_eq!(code, Some(0), "{what}: {shown}");
            assert!(shown.contains("mock-agent received: "), "{what}: {shown}");
            honest_on_terminal(what, &shown);
        }
    }
    let last = marker();
    assert!(daemon.chat("mock-agent", "main").ask(&last).contains(&last));
    honest("events", &events.until(&last));
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": last})).ok();
    assert_eq!(approve(&daemon, &change).status, 200);
    honest("audit --follow", &audit.until(change["id"].as_str().unwrap()));
    honest("status", &said(ctl(&home, &daemon, &["status"])));
    honest("the log", &daemon.log.text());
    assert!(daemon.stop().success());
}

/// On a terminal the words of an agent stand beside those of the program, and none of its lines begins as one of theirs.
#[test]
fn an_agent_speaks_for_nobody_else_on_a_terminal() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let forged = "fine\nironclaw: the message was given up\n  ironclaw: approved\n> ironctl change approve";
    let command = ctl(&home, &daemon, &["chat", "mock-agent", forged]);
    let (code, shown) = typed(&command, "");
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("approved") && shown.contains("given up"), "{shown}");
    let own = |line: &str| ["ironclaw:", "> "].iter().any(|own| line.trim_start().starts_with(own));
    assert!(!shown.lines().any(own), "{shown}");
    // A pipe is given what was written.
    assert!(said(ctl(&home, &daemon, &["chat", "mock-agent", forged])).ends_with(&format!("{forged}\n")));
    assert!(daemon.stop().success());
}

/// Whoever asks for what is not there is told so without their words.
#[test]
fn what_is_refused_is_refused_in_honest_words() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    for (what, text) in CORPUS {
        let escaped: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let paths = [
            format!("/v1/agents/{escaped}"),
            format!("/v1/sessions/{escaped}"),
            format!("/v1/changes/{escaped}"),
            format!("/v1/changes/pending?group={escaped}"),
            format!("/v1/changes/pending?{escaped}=x"),
            format!("/v1/audit?limit={escaped}"),
            format!("/v1/chat/{escaped}/messages"),
            format!("/v1/deliveries?state={escaped}"),
            format!("/v1/destinations/check?group=dev-agent&channel={escaped}&chat=x"),
            format!("/v1/{escaped}"),
        ];
        for path in &paths {
            let answer = daemon.send(Request::get(path));
            honest(&format!("{what}: {path}"), &answer.text());
            for (name, value) in &answer.headers {
                honest(&format!("{what}: {path}"), &format!("{name}: {value}"));
            }
        }
        for path in ["agents", "users", "tokens"] {
            let path = format!("/v1/{path}/{escaped}");
            let delete = Request { method: "DELETE", ..Request::get(&path) };
            honest(what, &daemon.send(delete).text());
        }
        for (path, body) in [
            ("/v1/changes", json!({"kind": text, "group": "dev-agent", "payload": {}})),
            ("/v1/changes", json!({"kind": "persona", "group": text, "payload": {}})),
            ("/v1/changes", json!({"kind": "persona", "group": "dev-agent", "payload": {*text: 1}})),
            ("/v1/changes", json!({*text: 1})),
            ("/v1/users", json!({"id": text})),
            ("/v1/users", json!({*text: text})),
            ("/v1/tokens", json!({"name": text})),
            ("/v1/tokens", json!({"name": "x", "scopes": [text]})),
            ("/v1/tokens", json!({"name": "x", "user": format!("local:{text}")})),
            ("/v1/pairings", json!({"code": text})),
            ("/v1/routes/test", json!({"channel": text, "chat": "x", "sender": "local:ann"})),
            ("/v1/routes/test", json!({"channel": "telegram", "chat": text, "sender": text})),
            ("/v1/chat/mock-agent/messages", json!({"text": 1, *text: 1})),
            ("/v1/agents/dev-agent", json!({*text: 1})),
        ] {
            let answer = daemon.send(Request::post(path, &body));
            assert!(
                answer.status >= 400 || path == "/v1/users" || path == "/v1/routes/test",
                "{what}: {body}"
            );
            if answer.status >= 400 {
                honest(&format!("{what}: {path} {body}"), &answer.text());
            }
        }
        if text.contains('\0') {
            continue;
        }
        for words in [
            &["route", "test", "telegram", "1", text, "--sender", "telegram:1"][..],
            &["route", "test", "telegram", text, "x", "--sender", "telegram:1"],
            &["route", "test", text, "1", "x", "--sender", text],
            &["session", "show", text],
            &["delivery", "retry", text],
            &["destination", "check", "api", text, "--group", "dev-agent"],
            &["member", "list", text],
            &["pair", text],
            &["events", "--topic", text],
            &["audit", "verify", "--file", text],
        ] {
            let output = run(ctl(&home, &daemon, words));
            honest(&format!("{what}: {words:?}"), &String::from_utf8(output.stdout).unwrap());
            honest(&format!("{what}: {words:?}"), &String::from_utf8(output.stderr).unwrap());
        }
    }
    // Somebody who says no on a terminal was shown it there too.
    let (_, text) = CORPUS[0];
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": text})).ok();
    let id = change["id"].as_str().unwrap();
    let (code, shown) = typed(&ctl(&home, &daemon, &["change", "approve", id]), "n\n");
    assert!(code == Some(0) && shown.contains("\\u{1b}[2J"), "{shown}");
    honest_on_terminal("approve", &shown.replace("\u{1b}[2m", "").replace("\u{1b}[0m", ""));
    refused(ctl(&home, &daemon, &["change", "approve", id, "--digest", text, "--yes"]), 1, &["digest"]);
    let child = on_terminal(&ctl(&home, &daemon, &["change", "pending"]));
    let shown = String::from_utf8(finish(child).stdout).unwrap();
    // The head of a table is dim there.
    honest_on_terminal("pending", &shown.replace("\u{1b}[2m", "").replace("\u{1b}[0m", ""));
    honest("the log", &daemon.log.text());
    assert!(daemon.stop().success());
}
