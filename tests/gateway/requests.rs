//! What agents ask for themselves: held for a person, answered to the agent, and checked against the ledger, whoever
//! sits in the sandbox. That a sandbox has no way to the API at all is in the main job, `inside.rs`.

use serde_json::{Value, json};

use crate::hand::{approve, ctl, decide, said, submit};
use crate::world::http::Request;
use crate::world::{Build, Chat, Daemon, Entry, Home, Runtime, Serve, User, eventually, marker};

crate::world::boxes::in_both_back_ends!(
    an_agent_asks_and_is_told_the_decision,
    a_request_outlives_the_control_plane,
    what_lapses_or_is_withdrawn_is_told,
    every_crash_point_of_asking_is_survived,
    inv_039_nothing_unknown_is_done,
);

/// What makes the mock model ask for this soul.
fn wish(soul: &str) -> String {
    format!(
        r#"tool:request_capability_change {{"kind":"persona","payload":{{"soul":"{soul}"}},"reason":"for {soul}"}}"#
    )
}

/// The id in the answer of an agent that has asked.
#[track_caller]
fn asked(answer: &str) -> String {
    let (_, rest) =
        answer.split_once("tool result: asked, ").unwrap_or_else(|| panic!("not asked: {answer}"));
    let (id, told) = rest.split_once(':').unwrap();
    assert_eq!(told, " pending; you will be told when it is decided", "{answer}");
    id.to_owned()
}

fn pending(daemon: &Daemon) -> Vec<Value> {
    daemon.get("/v1/changes/pending")["changes"].as_array().unwrap().clone()
}

fn soul(daemon: &Daemon) -> String {
    daemon.get("/v1/agents/mock-agent")["soul"].as_str().unwrap().to_owned()
}

/// Waits until the agent has answered what it was told of this change, which names all these words. What comes while a
/// turn has not begun is answered in that turn, so one answer may speak of several changes.
#[track_caller]
fn told(chat: &Chat<'_>, id: &str, words: &[&str]) {
    let about = format!("The change {id} (persona)");
    let entry =
        chat.wait(0, "word of the decision", |entry| entry.direction == "out" && entry.text.contains(&about));
    let of_this = entry.text.split("The change ").find(|part| part.starts_with(id)).unwrap();
    for word in words {
        assert!(of_this.contains(word), "no {word:?} in {of_this:?} of {entry:?}");
    }
    let all = chat.history();
    let times = |entry: &Entry| entry.text.matches(&about).count();
    assert_eq!(all.iter().filter(|entry| entry.direction == "out").map(times).sum::<usize>(), 1);
}

fn an_agent_asks_and_is_told_the_decision(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    let first = asked(&chat.ask(&wish("kind")));
    // The same again is the same request.
    assert_eq!(asked(&chat.ask(&wish("kind"))), first);
    let second = asked(&chat.ask(&wish("cruel")));
    let bad =
        chat.ask(r#"tool:request_capability_change {"kind":"persona","payload":{"sole":"x"},"reason":"x"}"#);
    assert!(bad.contains("tool result: refused: ") && bad.contains("sole"), "{bad}");
    let bad = chat.ask(r#"tool:create_agent {"name":"../etc","reason":"x"}"#);
    assert!(bad.contains("tool result: refused: name is"), "{bad}");

    let list = said(ctl(&home, &daemon, &["change", "pending"]));
    for word in [first.as_str(), &second, "agent:mock-agent", "for kind", "for cruel"] {
        assert!(list.contains(word), "no {word:?} in {list}");
    }
    assert_eq!((pending(&daemon).len(), soul(&daemon)), (2, String::new()));
    said(ctl(&home, &daemon, &["change", "approve", &first, "--yes"]));
    told(&chat, &first, &["was approved and is in effect"]);
    assert_eq!(soul(&daemon), "kind");
    said(ctl(&home, &daemon, &["change", "reject", &second, "--note", "be \u{202e}nice"]));
    told(
        &chat,
        &second,
        &["was rejected; nothing was changed", "Note of the person who decided: be \\u{202e}nice"],
    );
    assert_eq!(soul(&daemon), "kind");
    let body = json!({"outcome": "approve", "note": "late"});
    assert_eq!(decide(&daemon, &first, &body).status, 409);

    // Another agent, which is nobody's until a person says so.
    let answer = chat.ask(r#"tool:create_agent {"name":"helper","soul":"small","reason":"I need one"}"#);
    let id = asked(&answer);
    assert_eq!(daemon.send(Request::get("/v1/agents/helper")).status, 404);
    let change = daemon.get(&format!("/v1/changes/{id}"));
    let noted = json!({"outcome": "approve", "digest": change["digest"], "note": "be good to it"});
    assert_eq!(decide(&daemon, &id, &noted).status, 200);
    chat.wait(0, "word of the new agent", |entry| {
        entry.direction == "out" && entry.text.contains(&id) && entry.text.contains("be good to it")
    });
    let helper = daemon.get("/v1/agents/helper");
    assert_eq!((&helper["soul"], &helper["tools"]), (&json!("small"), &json!([])));

    // Without the tool there is nothing to ask with.
    let change = submit(&daemon, "enabled_tools", "mock-agent", &json!({"tools": ["create_agent"]})).json();
    assert_eq!(approve(&daemon, &change).status, 200);
    let answer = chat.ask(&wish("sly"));
    assert!(!answer.contains("tool result"), "{answer}");
    assert!(daemon.stop().success());
}

/// Killed between the question and the decision: it is still asked, once, and the decision is told.
fn a_request_outlives_the_control_plane(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let mut daemon = Serve::new(&home, runtime).ready();
    let (one, two) = {
        let chat = daemon.chat("mock-agent", "main");
        (asked(&chat.ask(&wish("one"))), asked(&chat.ask(&wish("two"))))
    };
    daemon.kill9();
    drop(daemon);
    let daemon = Serve::new(&home, runtime).ready();
    let ids: Vec<Value> = pending(&daemon).iter().map(|change| change["id"].clone()).collect();
    assert_eq!(ids, [json!(one), json!(two)]);
    let change = daemon.get(&format!("/v1/changes/{one}"));
    assert_eq!(approve(&daemon, &change).status, 200);
    assert_eq!(decide(&daemon, &two, &json!({"outcome": "reject"})).status, 200);
    let chat = daemon.chat("mock-agent", "main");
    told(&chat, &one, &["approved"]);
    told(&chat, &two, &["rejected"]);
    assert_eq!(soul(&daemon), "one");
    assert!(daemon.stop().success());
}

/// A request that nobody decides, and one that a person takes back: the agent hears of both, once.
fn what_lapses_or_is_withdrawn_is_told(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let words = ["--change-lifetime", "2s", "--sweep-interval", "1s"];
    let serve = Serve::new(&home, runtime).flag(words[0], words[1]).flag(words[2], words[3]);
    let daemon = serve.ready();
    let chat = daemon.chat("mock-agent", "main");
    let lapsing = asked(&chat.ask(&wish("one")));
    told(&chat, &lapsing, &["was not decided in time and has lapsed; nothing was changed"]);
    let change = daemon.get(&format!("/v1/changes/{lapsing}"));
    assert_eq!(change["state"], "expired");
    let late = approve(&daemon, &change);
    assert_eq!((late.status, late.json()["type"].clone()), (409, json!("not_pending")), "{}", late.text());
    assert!(daemon.stop().success());

    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    let withdrawn = asked(&chat.ask(&wish("two")));
    daemon.send(Request::post(&format!("/v1/changes/{withdrawn}/withdraw"), &json!({}))).ok();
    told(&chat, &withdrawn, &["was withdrawn; nothing was changed"]);
    assert_eq!((soul(&daemon), pending(&daemon).len()), (String::new(), 0));
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    let count = |act: &str, id: &str| {
        records.iter().filter(|record| record["act"] == act && record["object"] == id).count()
    };
    assert_eq!((count("change.expired", &lapsing), count("change.withdrawn", &withdrawn)), (1, 1));
    assert!(daemon.stop().success());
}

/// Whoever dies on the way from the question to its answer: one change is pending, and the agent knows which.
fn every_crash_point_of_asking_is_survived(runtime: Runtime) {
    for name in [
        "step.asked.before",
        "step.asked.after",
        "ask.before_commit",
        "ask.after_commit",
        "export.before_append",
        "export.appended",
        "export.synced",
        "ask.recorded",
    ] {
        let home = Home::new(Build::Faults, User::Root);
        // What a start records is exported too. A sandbox does not see the file, and has no such way twice.
        let armed = home.root.join("armed");
        let crash = match name.starts_with("export.") {
            true => format!("crash={name},armed={}", armed.display()),
            false => format!("crash={name}"),
        };
        let mut daemon = Serve::new(&home, runtime).fault(crash).ready();
        // Answered when that is in the files.
        daemon.get("/v1/audit/verify");
        std::fs::write(&armed, "").unwrap();
        let (text, event) = (wish("once"), marker());
        let _ = daemon.chat("mock-agent", "main").try_say(&text, &event);
        eventually(&format!("{name} is passed"), || {
            let deaths = daemon.try_metric("ironclaw_sandbox_ends_total{reason=\"died\"}");
            (daemon.has_ended() || deaths.is_some_and(|count| count > 0.0)).then_some(())
        });
        daemon.kill9();
        drop(daemon);
        let daemon = Serve::new(&home, runtime).ready();
        let chat = daemon.chat("mock-agent", "main");
        let sent = chat.say_as(&text, &event);
        let id = asked(&chat.answer_after(sent.position).text);
        let waiting = pending(&daemon);
        assert_eq!((waiting.len(), &waiting[0]["id"]), (1, &json!(id)), "{name}");
        let change = daemon.get(&format!("/v1/changes/{id}"));
        assert_eq!(approve(&daemon, &change).status, 200, "{name}");
        told(&chat, &id, &["approved"]);
        assert_eq!(daemon.get("/v1/changes/history")["changes"].as_array().unwrap().len(), 1, "{name}");
        assert_eq!(daemon.get("/v1/audit/verify")["ok"], true, "{name}");
        assert!(daemon.stop().success());
    }
}

fn with_hostile_agent(home: &Home, runtime: Runtime) -> Daemon {
    Serve::new(home, runtime)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .flag("--rings-per-second", "100000")
        .ready()
}

/// What the hostile program was told for each of these envelopes.
fn act(daemon: &Daemon, chat: &str, envelopes: &[String]) -> Vec<Value> {
    let answer = daemon.chat("dev-agent", chat).ask(&format!("hostile act\n{}", envelopes.join("\n")));
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn envelope(action: &str, call: &str, arguments: &Value) -> String {
    json!({"action": action, "call": call, "arguments": arguments}).to_string()
}

fn records(daemon: &Daemon) -> Vec<Value> {
    daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone()
}

/// Unknown actions, the gateway's own verbs, another group's name, and what is no envelope: refused, each of them
/// with a sentence, and counted in the audit.
fn inv_039_nothing_unknown_is_done(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = with_hostile_agent(&home, runtime);
    let waiting = submit(&daemon, "persona", "dev-agent", &json!({"soul": "waiting"})).json();
    let aimed = json!({"id": waiting["id"], "digest": waiting["digest"], "outcome": "approve"});
    let persona = json!({"kind": "persona", "payload": {"soul": "x"}, "reason": "x"});
    let forged = |field: &str, value: Value| {
        let mut arguments = persona.clone();
        arguments[field] = value;
        arguments
    };
    let mut inside = persona.clone();
    inside["payload"]["group"] = json!("mock-agent");
    let mut envelopes: Vec<String> =
        ["decide", "approve", "change_approve", "exec", "x", "create_agents", "withdraw"]
            .map(|name| envelope(name, name, &aimed))
            .into();
    let unknown = envelopes.len();
    envelopes.extend([
        envelope("request_capability_change", "1", &forged("group", json!("mock-agent"))),
        envelope("request_capability_change", "2", &inside),
        envelope("request_capability_change", "3", &forged("requested_by", json!("local:owner"))),
        envelope("create_agent", "4", &json!({"name": "../etc/passwd", "reason": "x"})),
        envelope("create_agent", "5", &json!({"name": "mock-agent", "reason": "x"})),
        "no JSON at all".to_owned(),
        "[".repeat(10_000),
        json!({"action": "request_capability_change", "call": "6", "group": "mock-agent"}).to_string(),
        format!("{{\"action\":\"{}\",\"call\":\"7\"}}", "x".repeat(1_000)),
        "\u{0}".to_owned(),
    ]);
    let answers = act(&daemon, "main", &envelopes);
    assert_eq!(answers.len(), envelopes.len());
    for (number, answer) in answers.iter().enumerate() {
        let told = answer["result"].as_str().unwrap();
        assert!(answer["ok"] == false && told.len() > 20, "{answer}");
        let code = told.split(':').next().unwrap();
        let expected = match number {
            _ if number < unknown => "unknown_action",
            _ if number < unknown + 5 => "refused",
            _ => "unreadable",
        };
        assert_eq!(code, expected, "{answer}");
    }
    let all = daemon.get("/v1/changes/history");
    assert_eq!(all["changes"].as_array().unwrap().len(), 1, "{all}");
    assert_eq!(pending(&daemon)[0]["id"], waiting["id"]);

    // Its own agent, and nobody else's, whatever it says; until the tool is taken away.
    let answer = &act(&daemon, "other", &[envelope("request_capability_change", "8", &persona)])[0];
    assert_eq!((&answer["ok"], &answer["result"]["state"]), (&json!(true), &json!("pending")));
    let change = daemon.get(&format!("/v1/changes/{}", answer["result"]["change"].as_str().unwrap()));
    assert_eq!((&change["group"], &change["requested_by"]), (&json!("dev-agent"), &json!("agent:dev-agent")));
    let none = submit(&daemon, "enabled_tools", "dev-agent", &json!({"tools": ["read_file"]})).json();
    assert_eq!(approve(&daemon, &none).status, 200);
    let envelopes = [
        envelope("request_capability_change", "9", &forged("reason", json!("y"))),
        envelope("create_agent", "10", &json!({"name": "new", "reason": "x"})),
    ];
    for answer in act(&daemon, "third", &envelopes) {
        assert!(answer["result"].as_str().unwrap().starts_with("not_granted"), "{answer}");
    }
    assert_eq!(pending(&daemon).len(), 2);
    assert!(daemon.stop().success());

    // Counted together: a record for each session and action.
    let daemon = Serve::new(&home, runtime).ready();
    let mut refused: Vec<(String, u64)> = records(&daemon)
        .iter()
        .filter(|record| record["act"] == "action.refused" && record["actor"] == "agent:dev-agent")
        .map(|record| {
            (record["object"].as_str().unwrap().to_owned(), record["detail"]["count"].as_u64().unwrap())
        })
        .collect();
    refused.sort();
    let expected = [
        ("create_agent", 1),
        ("create_agent", 2),
        ("request_capability_change", 1),
        ("request_capability_change", 3),
        ("unknown", 7),
        ("unreadable", 5),
    ];
    assert_eq!(refused, expected.map(|(name, count)| (name.to_owned(), count)));
    assert!(daemon.stop().success());
}

/// Ten thousand proposals from two conversations of one agent: every one is answered, no more wait for a person than
/// may, others are answered meanwhile, and the ledger holds what was taken.
#[test]
fn inv_040_a_flood_of_proposals_reaches_the_approver_as_a_few() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = with_hostile_agent(&home, Runtime::Native);
    let bystander = daemon.chat("mock-agent", "main");
    let floods = ["one", "two"].map(|name| (name, daemon.chat("dev-agent", name)));
    let sent: Vec<u64> = floods.iter().map(|(_, chat)| chat.say("hostile propose 5000").position).collect();
    let mut answered = 0;
    let is_over = |chat: &Chat<'_>| chat.history().iter().any(|entry| entry.direction == "out");
    eventually("both are answered", || {
        let text = marker();
        assert_eq!(bystander.ask(&text), format!("mock-agent received: {text}"));
        answered += 1;
        floods.iter().all(|(_, chat)| is_over(chat)).then_some(())
    });
    assert!(answered >= 3, "the bystander was answered only {answered} times meanwhile");
    let mut taken = 0;
    for ((name, chat), sent) in floods.iter().zip(sent) {
        let answer = chat.answer_after(sent).text;
        let (mine, rest) = answer.split_once(" taken, ").unwrap();
        let refused: usize = rest.strip_suffix(" refused").unwrap().parse().unwrap();
        let mine: usize = mine.parse().unwrap();
        assert_eq!(mine + refused, 5_000, "{name}");
        taken += mine;
    }
    assert_eq!(taken, 100);
    assert_eq!(daemon.get("/v1/changes/pending?limit=500")["changes"].as_array().unwrap().len(), 100);
    // Another agent asks all the same.
    asked(&bystander.ask(&wish("still")));
    let submitted = records(&daemon).iter().filter(|record| record["act"] == "change.submitted").count();
    assert_eq!(submitted, 101);
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, Runtime::Native).ready();
    assert!(records(&daemon).len() < 120, "the audit grew with the flood");
    assert!(daemon.stop().success());
}
