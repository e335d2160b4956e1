//! Changes from outside: asked for, shown, decided, in effect, and never without a decision, whatever is killed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::hand::{approve, ctl, decide, refused, run, said, submit};
use crate::world::http::{Events, Request};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, marker};

pub(super) fn acts(daemon: &Daemon, object: &str) -> Vec<String> {
    let page = daemon.get("/v1/audit?limit=1000");
    let mut acts: Vec<String> = page["records"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|record| record["object"] == object)
        .map(|record| record["act"].as_str().unwrap().to_owned())
        .collect();
    acts.reverse();
    acts
}

#[test]
fn the_first_run_as_a_stranger_types_it() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let words = ["change", "submit", "--kind", "persona", "--group", "dev-agent", "--by", "you"];
    refused(ctl(&home, &daemon, &words), 2, &["--instructions", "--from"]);

    let mut with_text = words.to_vec();
    with_text.extend(["--instructions", "Answer in rhymes.\u{1b}[2J\u{202e}"]);
    let shown = said(ctl(&home, &daemon, &with_text));
    assert!(shown.contains("+ Answer in rhymes.\\u{1b}[2J\\u{202e}"), "{shown}");
    let id = shown.split_whitespace().nth(1).unwrap().to_owned();
    assert!(shown.contains(&format!("ironctl change approve {id}")), "{shown}");

    let pending = said(ctl(&home, &daemon, &["change", "pending"]));
    assert!(pending.contains(&id) && pending.contains("ironctl change approve"), "{pending}");
    assert_eq!(daemon.get("/v1/agents/dev-agent")["instructions"], "");

    // Nobody can be asked here, and nothing is approved unasked.
    refused(ctl(&home, &daemon, &["change", "approve", &id]), 2, &["--yes"]);
    assert_eq!(daemon.get("/v1/agents/dev-agent")["instructions"], "");
    let done = said(ctl(&home, &daemon, &["change", "approve", &id, "--by", "you", "--yes"]));
    let digest = daemon.get(&format!("/v1/changes/{id}"))["digest"].as_str().unwrap().to_owned();
    assert!(done.contains(&digest) && done.contains("in effect"), "{done}");
    assert_eq!(daemon.get("/v1/agents/dev-agent")["instructions"], "Answer in rhymes.\u{1b}[2J\u{202e}");

    let audit = said(ctl(&home, &daemon, &["audit"]));
    let order = ["change.submitted", "change.approved", "change.applied"].map(|act| audit.find(act).unwrap());
    assert!(order.is_sorted(), "{audit}");
    assert!(audit.ends_with("\ncheck that nothing of it was changed: ironctl audit verify\n"), "{audit}");
    let checked = said(ctl(&home, &daemon, &["audit", "verify"]));
    assert!(checked.contains("keep the tip in another place"), "{checked}");
    let history = said(ctl(&home, &daemon, &["change", "history"]));
    assert!(history.contains("applied") && history.contains("ironctl change show ID"), "{history}");
    refused(ctl(&home, &daemon, &["change", "approve", &id, "--yes"]), 1, &["applied"]);
    let words = ["change", "submit", "--kind", "egress", "--group", "dev-agent", "--payload", "{}"];
    refused(ctl(&home, &daemon, &words), 1, &["this build"]);
    assert!(daemon.stop().success());
}

/// What is decided reaches a running agent with its next message; its sandbox stays.
#[test]
fn inv_044_an_approved_change_is_in_effect_at_the_next_message() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    let text = r#"tool:write_file {"path":"note","content":"x"}"#;
    assert!(chat.ask(text).contains("tool result: wrote 1 bytes"), "the tool works");
    let change = submit(&daemon, "enabled_tools", "mock-agent", &json!({"tools": ["read_file"]})).json();
    assert!(chat.ask(text).contains("tool result: wrote 1 bytes"), "nothing changes before the decision");
    assert_eq!(approve(&daemon, &change).status, 200);
    let answer = chat.ask(text);
    assert!(!answer.contains("tool result"), "{answer}");
    // The model too, which the host's own socket judges.
    let change = submit(&daemon, "model", "mock-agent", &json!({"model": "another"})).json();
    assert_eq!(approve(&daemon, &change).status, 200);
    assert!(chat.ask("hello").contains("mock-agent received: hello"));
    assert_eq!(daemon.metric("ironclaw_launches_total"), 1.0, "one sandbox answered all of it");
    assert!(daemon.stop().success());
}

/// A control plane and a change that waits.
fn waiting(home: &Home, soul: &str) -> (Daemon, Value) {
    let daemon = Serve::new(home, Runtime::Native).ready();
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": soul})).json();
    (daemon, change)
}

fn soul(daemon: &Daemon) -> String {
    daemon.get("/v1/agents/dev-agent")["soul"].as_str().unwrap().to_owned()
}

#[test]
fn inv_024_a_rejection_is_final_and_changes_nothing() {
    let home = Home::new(Build::Release, User::Root);
    let (daemon, change) = waiting(&home, "two");
    let id = change["id"].as_str().unwrap();
    assert_eq!(decide(&daemon, id, &json!({"outcome": "reject", "note": "no"})).json()["state"], "rejected");
    let late = approve(&daemon, &change);
    assert_eq!((late.status, late.json()["type"].clone()), (409, json!("not_pending")));
    assert_eq!(decide(&daemon, id, &json!({"outcome": "reject"})).status, 409);
    assert_eq!(soul(&daemon), "");
    assert_eq!(acts(&daemon, id), ["change.submitted", "change.rejected"]);
    assert!(daemon.stop().success());
}

#[test]
fn inv_027_what_is_approved_is_what_was_seen() {
    let home = Home::new(Build::Release, User::Root);
    let (daemon, change) = waiting(&home, "one");
    let id = change["id"].as_str().unwrap();
    assert_eq!(decide(&daemon, id, &json!({"outcome": "approve"})).status, 400);
    let wrong = decide(&daemon, id, &json!({"outcome": "approve", "digest": "0".repeat(64)}));
    assert_eq!((wrong.status, wrong.json()["type"].clone()), (409, json!("wrong_digest")));
    assert_eq!(soul(&daemon), "");

    // The second of two for the same object is shown anew, never applied blind.
    let second = submit(&daemon, "persona", "dev-agent", &json!({"soul": "two"})).json();
    assert_eq!(approve(&daemon, &change).status, 200);
    let stale = approve(&daemon, &second);
    assert_eq!((stale.status, stale.json()["type"].clone()), (409, json!("stale")));
    let now = stale.json()["change"].clone();
    assert!(now["diff"].as_str().unwrap().contains("- one\n+ two"), "{now}");
    assert_eq!(soul(&daemon), "one");
    let [id, digest] = ["id", "digest"].map(|field| second[field].as_str().unwrap());
    let shown = run(ctl(&home, &daemon, &["change", "approve", id, "--digest", digest, "--yes"]));
    assert_eq!(shown.status.code(), Some(1), "a digest that is not shown any more approves nothing");
    assert_eq!(approve(&daemon, &now).status, 200);
    assert_eq!(soul(&daemon), "two");
    assert!(daemon.stop().success());
}

#[test]
fn inv_029_one_decision_and_never_two() {
    let home = Home::new(Build::Release, User::Root);
    let (daemon, change) = waiting(&home, "one");
    let id = change["id"].as_str().unwrap();
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let both: Vec<_> = (0..8).map(|_| scope.spawn(|| approve(&daemon, &change).status)).collect();
        both.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 409).count(), 7, "{answers:?}");
    assert_eq!(acts(&daemon, id), ["change.submitted", "change.approved", "change.applied"]);
    assert_eq!(decide(&daemon, id, &json!({"outcome": "reject"})).status, 409);
    assert_eq!(soul(&daemon), "one");
    assert!(daemon.stop().success());
}

#[test]
fn inv_030_a_decision_cannot_precede_its_change() {
    let home = Home::new(Build::Release, User::Root);
    let (daemon, change) = waiting(&home, "one");
    for name in ["chg_01ARZ3NDEKTSV4RRFFQ69G5FAV", "x", "..%2f..%2fetc"] {
        for body in [json!({"outcome": "approve", "digest": change["digest"]}), json!({"outcome": "reject"})]
        {
            assert_eq!(decide(&daemon, name, &body).status, 404, "{name}");
        }
    }
    // Nobody chooses the id of what they ask for, so nobody can decide it beforehand.
    let body = json!({"id": "chg_01ARZ3NDEKTSV4RRFFQ69G5FAV", "kind": "persona", "group": "dev-agent",
        "payload": {"soul": "mine"}});
    assert_eq!(daemon.send(Request::post("/v1/changes", &body)).status, 400);
    let next = submit(&daemon, "persona", "dev-agent", &json!({"soul": "two"})).json();
    assert_eq!((&next["state"], &next["decided_by"]), (&json!("pending"), &Value::Null));
    assert!(daemon.stop().success());
}

/// What an operator may write without the gateway is no capability of an agent, and is recorded with their name.
#[test]
fn inv_036_a_capability_changes_by_the_gateway_only() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let before = daemon.get("/v1/agents/dev-agent");
    for (field, value) in [
        ("tools", json!("all")),
        ("model", json!("other")),
        ("provider", json!("other")),
        ("soul", json!("other")),
        ("instructions", json!("other")),
        ("members", json!(["local:eve"])),
    ] {
        for method in ["POST", "PUT", "PATCH"] {
            let body = json!({"title": "Dev", field: value});
            let request = Request { method, ..Request::post("/v1/agents/dev-agent", &body) };
            assert!(matches!(daemon.send(request).status, 400 | 405), "{method} {field}");
        }
    }
    for path in ["/v1/wirings", "/v1/roles", "/v1/agents/dev-agent/members", "/v1/agents"] {
        for method in ["POST", "PUT", "PATCH", "DELETE"] {
            let request = Request { method, ..Request::post(path, &json!({"user": "local:eve"})) };
            assert_eq!(daemon.send(request).status, 405, "{method} {path}");
        }
    }
    assert_eq!(daemon.get("/v1/agents/dev-agent"), before);
    // What is left to write directly, and the record of each.
    daemon.send(Request::post("/v1/agents/dev-agent", &json!({"title": "Dev"}))).ok();
    daemon.send(Request::post("/v1/agents/dev-agent", &json!({"turn_seconds": 60}))).ok();
    daemon.send(Request::post("/v1/users", &json!({"id": "local:ann"}))).ok();
    daemon.send(Request::post("/v1/tokens", &json!({"name": "one"}))).ok();
    for path in ["/v1/tokens/one", "/v1/users/local:ann", "/v1/agents/mock-agent"] {
        daemon.send(Request { method: "DELETE", ..Request::get(path) }).ok();
    }
    for (object, expected) in [
        ("dev-agent", &["agent.renamed", "agent.limited"][..]),
        ("local:ann", &["user.added", "user.deleted"]),
        ("one", &["token.made", "token.revoked"]),
        ("mock-agent", &["agent.deleted"]),
    ] {
        let acts: Vec<String> =
            acts(&daemon, object).into_iter().filter(|act| expected.contains(&act.as_str())).collect();
        assert_eq!(acts, expected, "{object}");
    }
    // Nothing is recorded of what is not there.
    assert_eq!(daemon.send(Request::post("/v1/agents/nobody", &json!({"title": "x"}))).status, 404);
    assert_eq!(acts(&daemon, "nobody"), Vec::<String>::new());
    assert!(daemon.stop().success());
}

#[test]
fn inv_028_a_request_sent_twice_is_one_change_and_another_under_its_key_none() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let key = marker();
    let send = |soul: &str| {
        let body = json!({"kind": "persona", "group": "dev-agent", "payload": {"soul": soul}});
        daemon.send(Request::post("/v1/changes", &body).header("Idempotency-Key", key.as_str()))
    };
    let first = send("one");
    assert_eq!(first.status, 201);
    let again = send("one");
    assert_eq!((again.status, again.json()["id"].clone()), (200, first.json()["id"].clone()));
    let other = send("two");
    assert_eq!((other.status, other.json()["type"].clone()), (409, json!("key_reused")));
    assert_eq!(approve(&daemon, &first.json()).status, 200);
    let after = send("one");
    assert_eq!((after.status, after.json()["state"].clone()), (200, json!("applied")));
    assert!(daemon.stop().success());
}

/// Every documented route, by what it wants: nobody without a token, with a wrong, an expired or a narrow one.
#[test]
fn inv_099_every_route_wants_a_token_that_reaches_it() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).flag("--token-rate", "0").ready();
    daemon.send(Request::post("/v1/users", &json!({"id": "local:ann"}))).ok();
    let make = |name: &str, scopes: Value| {
        let body = json!({"name": name, "user": "local:ann", "scopes": scopes});
        daemon.send(Request::post("/v1/tokens", &body)).ok()["token"].as_str().unwrap().to_owned()
    };
    // One of somebody without a role, one that was revoked, one of an owner that narrows all but talking away.
    let powerless = make("powerless", json!(["read", "operate", "approve", "admin", "metrics", "chat"]));
    let revoked = make("revoked", json!(["read"]));
    assert_eq!(
        Request { method: "DELETE", ..Request::get("/v1/tokens/revoked") }
            .token(&daemon.token())
            .send(daemon.address)
            .unwrap()
            .status,
        200
    );
    let narrow = daemon.send(Request::post("/v1/tokens", &json!({"name": "narrow", "scopes": ["chat"]})));
    let narrow = narrow.ok()["token"].as_str().unwrap().to_owned();
    // One whose time is over when it is first refused.
    let soon = (jiff::Timestamp::now() + Duration::from_secs(1)).to_string();
    let expired = json!({"name": "expired", "scopes": ["read", "chat"], "expires_at": soon});
    let expired =
        daemon.send(Request::post("/v1/tokens", &expired)).ok()["token"].as_str().unwrap().to_owned();
    let opens = || Request::get("/v1/whoami").token(&expired).send(daemon.address).unwrap().status == 200;
    eventually("the token ends", || (!opens()).then_some(()));
    // One that ends makes none that lasts longer.
    let later = |hours: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(hours)).to_string();
    let short = json!({"name": "short", "scopes": ["admin", "read"], "expires_at": later(2)});
    let short = daemon.send(Request::post("/v1/tokens", &short)).ok()["token"].as_str().unwrap().to_owned();
    for (expires_at, status) in [(Value::Null, 403), (json!(later(3)), 403), (json!(later(1)), 201)] {
        let body = json!({"name": "of-short", "scopes": ["read"], "expires_at": expires_at});
        let answer = Request::post("/v1/tokens", &body).token(&short).send(daemon.address).unwrap();
        assert_eq!(answer.status, status, "{body}");
    }
    let routes = crate::world::canaries::routes();
    assert!(routes.len() > 30, "{routes:?}");
    for (method, path) in &routes {
        let real = path
            .replace("{agent}", "mock-agent")
            .replace("{name}", "mock-agent")
            .replace("{id}", "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV");
        let send = |token: Option<&str>| {
            // Who may talk is judged with the message, so there it must be one.
            let body = match path.rsplit('/').next() {
                Some("messages") => json!({"text": "x", "event_id": "e"}),
                Some("answer") => json!({"option": 1}),
                _ => json!({}),
            };
            let mut request = Request::post(&real, &body);
            request.method = method;
            if let Some(token) = token {
                request = request.token(token);
            }
            request.send(daemon.address).unwrap()
        };
        if matches!(path.as_str(), "/healthz" | "/readyz") {
            assert_eq!(send(None).status, 200, "{path}");
            continue;
        }
        for token in [None, Some("ict_wrong"), Some(""), Some(revoked.as_str()), Some(expired.as_str())] {
            // After some wrong ones the answer is to wait.
            assert!(matches!(send(token).status, 401 | 429), "{method} {path} with {token:?}");
        }
        // Streams are closed as soon as their head was read.
        if path.ends_with("/events") {
            continue;
        }
        // Whose a token is, everybody may know who holds it.
        if path == "/v1/whoami" {
            assert_eq!(send(Some(narrow.as_str())).json()["scopes"], json!(["chat"]));
            continue;
        }
        // Who may talk to no agent is not told which of them asks.
        let talks = path.starts_with("/v1/chat/") || path.ends_with("/answer");
        let refused = if path.ends_with("/answer") { 404 } else { 403 };
        assert_eq!(send(Some(powerless.as_str())).status, refused, "{method} {path} without a role");
        assert_eq!(send(Some(narrow.as_str())).status == 403, !talks, "{method} {path} with a narrow token");
    }
    assert!(daemon.stop().success());
}

/// Who was let in is let out: a revoked token and a membership that ended close the streams that they opened.
#[test]
fn closing_a_grant_ends_open_connections() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let change = submit(&daemon, "permissions", "mock-agent", &json!({"add_members": ["local:ann"]})).json();
    assert_eq!(approve(&daemon, &change).status, 200);
    let make = |name: &str| {
        let body = json!({"name": name, "user": "local:ann", "scopes": ["chat"]});
        daemon.send(Request::post("/v1/tokens", &body)).ok()["token"].as_str().unwrap().to_owned()
    };
    let (first, second) = (make("first-of-ann"), make("second-of-ann"));
    let listen = |token: &str| {
        let request = Request::get("/v1/chat/mock-agent/events?chat=main").token(token);
        let mut events = Events::open(request, daemon.address);
        // The stream lives: what is said comes.
        let said = daemon.chat("mock-agent", "main").say("hello");
        while !events.next().unwrap().data.contains(&said.message_id) {}
        events
    };
    // A member talks to this agent, and to no other.
    let talk = |token: &str, agent: &str| {
        let path = format!("/v1/chat/{agent}/messages");
        let body = json!({"text": "hi", "event_id": marker()});
        Request::post(&path, &body).token(token).send(daemon.address).unwrap().status
    };
    assert_eq!((talk(&first, "mock-agent"), talk(&first, "dev-agent")), (202, 403));
    let mut with_first = listen(&first);
    let revoke = Request { method: "DELETE", ..Request::get("/v1/tokens/first-of-ann") };
    assert_eq!(revoke.token(&daemon.token()).send(daemon.address).unwrap().status, 200);
    while with_first.try_next().is_some() {}
    assert_eq!(talk(&first, "mock-agent"), 401);

    let mut with_second = listen(&second);
    let change =
        submit(&daemon, "permissions", "mock-agent", &json!({"remove_members": ["local:ann"]})).json();
    assert_eq!(approve(&daemon, &change).status, 200);
    while with_second.try_next().is_some() {}
    assert_eq!(talk(&second, "mock-agent"), 403);
    assert!(daemon.stop().success());
}

/// A deleted agent answers no more, what waited for it is told so, and its name stays taken.
#[test]
fn a_deleted_agent_is_gone() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let make = submit(&daemon, "create_agent", "helper", &json!({"soul": "kind"})).json();
    assert_eq!(daemon.send(Request::get("/v1/agents/helper")).status, 404);
    assert_eq!(approve(&daemon, &make).status, 200);
    assert!(daemon.chat("helper", "main").ask("hello").contains("mock-agent received: hello"));
    let pending = submit(&daemon, "persona", "helper", &json!({"soul": "other"})).json();
    let delete = Request { method: "DELETE", ..Request::get("/v1/agents/helper") };
    assert_eq!(delete.token(&daemon.token()).send(daemon.address).unwrap().status, 200);
    let body = json!({"text": "hi", "event_id": marker()});
    assert_eq!(daemon.send(Request::post("/v1/chat/helper/messages", &body)).status, 404);
    eventually("its sandbox is gone", || (daemon.metric("ironclaw_sandboxes_running") == 0.0).then_some(()));
    // Nobody is asked to decide what nothing can come of.
    let late = approve(&daemon, &pending);
    assert_eq!((late.status, late.json()["type"].clone()), (409, json!("not_pending")));
    assert_eq!(late.json()["change"]["state"], "expired", "{}", late.text());
    eventually("nothing waits for a decision", || {
        (daemon.get("/v1/changes/pending")["changes"] == json!([])).then_some(())
    });
    let again = submit(&daemon, "create_agent", "helper", &json!({}));
    assert_eq!((again.status, again.json()["type"].clone()), (422, json!("refused")));
    assert!(daemon.stop().success());
}

/// The operator's policy takes effect where it may, and is refused where it may not.
#[test]
fn a_policy_approves_what_it_names_and_nothing_else() {
    let home = Home::new(Build::Release, User::Root);
    let file = home.root.join("user/policy.json");
    for (text, says) in [
        (r#"{"auto_approve":["create_agent"]}"#, "never approved without a person"),
        (r#"{"auto":[]}"#, "auto"),
        ("{", "policy"),
    ] {
        std::fs::write(&file, text).unwrap();
        let mut command = home.command(["serve", "--dev", "--runtime", "native"]);
        command.arg("--state-dir").arg(home.state()).arg("--policy").arg(&file);
        let output = run(command);
        let line = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(line.lines().last().unwrap().contains(says), "{line}");
    }
    std::fs::write(&file, r#"{"auto_approve":["persona"]}"#).unwrap();
    let daemon = Serve::new(&home, Runtime::Native).flag("--policy", file.display().to_string()).ready();
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": "kind"})).json();
    assert_eq!((&change["state"], &change["decided_by"]), (&json!("applied"), &json!("policy")));
    let change = submit(&daemon, "enabled_tools", "dev-agent", &json!({"tools": "none"})).json();
    assert_eq!(change["state"], "pending");
    assert!(daemon.stop().success());
}
