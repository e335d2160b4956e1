//! Where an agent may send beside the chat that it answers: asked for, approved, used and taken away, by an agent that
//! behaves and by one that does not; and sent once, whoever dies when.

use std::time::Duration;

use serde_json::{Value, json};

use crate::hand::{approve, ctl, json as printed, refused, said, submit};
use crate::world::http::Request;
use crate::world::{
    Build, Chat, Daemon, Home, Random, Runtime, Serve, User, eventually, leftovers, marker, rounds,
};

crate::world::boxes::in_both_back_ends!(
    an_agent_sends_where_it_may_and_nowhere_else,
    what_is_taken_away_during_a_turn_is_refused_and_told,
    a_message_of_a_hostile_agent_reaches_no_other_chat,
    every_crash_point_of_sending_is_survived,
    what_is_killed_sends_once,
);

/// What makes the mock model send this text there.
pub(crate) fn send(text: &str, to: &str) -> String {
    format!("tool:send_message {}", json!({"text": text, "to": to}))
}

#[track_caller]
pub(crate) fn give(daemon: &Daemon, agent: &str, payload: Value) {
    let change = submit(daemon, "wiring", agent, &payload).json();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

pub(crate) fn ops() -> Value {
    json!({"destinations": [{"name": "ops", "channel": "api", "chat": "ops"}]})
}

/// What the agent said in a chat.
fn out(chat: &Chat<'_>) -> Vec<String> {
    chat.history().into_iter().filter(|entry| entry.direction == "out").map(|entry| entry.text).collect()
}

/// How often refused messages to other chats are in the audit, by why.
fn refusals(daemon: &Daemon) -> Vec<(String, u64)> {
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    let refused = records
        .iter()
        .filter(|record| record["act"] == "action.refused" && record["object"] == "send_message");
    let mut found: Vec<(String, u64)> = refused
        .map(|record| {
            let detail = &record["detail"];
            (detail["why"].as_str().unwrap().to_owned(), detail["count"].as_u64().unwrap())
        })
        .collect();
    found.sort();
    found
}

fn an_agent_sends_where_it_may_and_nowhere_else(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    let (chat, other) = (daemon.chat("mock-agent", "main"), daemon.chat("mock-agent", "ops"));
    let tool =
        |answer: &str| answer.split_once("tool result: ").unwrap_or_else(|| panic!("{answer}")).1.to_owned();
    assert_eq!(tool(&chat.ask("tool:list_destinations {}")), "[]");
    assert!(tool(&chat.ask(&send("x", "ops"))).contains("you have none"));

    refused(own(&["destination", "check", "api", "ops", "--group=mock-agent"]), 1, &["no destination"]);
    refused(
        own(&["destination", "add", "x", "pigeon", "1", "--group=mock-agent"]),
        1,
        &["no channel but api"],
    );
    refused(own(&["destination", "add", "here", "api", "1", "--group=mock-agent"]), 1, &["another name"]);
    let add =
        ["destination", "add", "ops", "api", "ops", "--group=mock-agent", "--display-name=The \u{202e}desk"];
    let held = said(own(&add));
    assert!(
        held.contains("+ chat ops on api, called \"The \\u{202e}desk\"") && held.contains("held:"),
        "{held}"
    );
    assert!(said(own(&["destination", "list"])).contains("no agent may send"));
    assert!(tool(&chat.ask(&send("x", "ops"))).contains("you have none"), "held is not given");
    let change = printed(own(&["change", "pending", "--json"]))[0].clone();
    said(own(&["change", "approve", change["id"].as_str().unwrap(), "--yes"]));
    let listed = said(own(&["destination", "list", "--group", "mock-agent"]));
    assert!(listed.contains("The \\u{202e}desk") && listed.contains("ops"), "{listed}");
    let listed = printed(own(&["destination", "list", "--json"]));
    assert_eq!((&listed[0]["name"], &listed[0]["thread"]), (&json!("ops"), &Value::Null));
    assert!(
        said(own(&["destination", "check", "api", "ops", "--group=mock-agent"])).contains("calls it ops")
    );
    let check = daemon.get("/v1/destinations/check?group=mock-agent&channel=api&chat=main");
    assert_eq!(check, json!({"allowed": false, "tool": true, "destination": null}));

    // With the next message, and without another sandbox. Who waits for a chat that nobody ever wrote in sees it begin.
    let mut stream = other.events(0);
    let list: Value = serde_json::from_str(&tool(&chat.ask("tool:list_destinations {}"))).unwrap();
    assert_eq!(list, json!([{"name": "ops", "display_name": "The \u{202e}desk", "channel": "api"}]));
    let text = marker();
    assert_eq!(tool(&chat.ask(&send(&text, "OPS"))), "sent");
    while !stream.next().unwrap().data.contains(&text) {}
    drop(stream);
    let entries = other.history();
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!((&entries[0].direction[..], &entries[0].text, &entries[0].in_reply_to), ("out", &text, &None));
    assert!(!out(&chat).contains(&text), "it is in that chat alone");
    assert_eq!(daemon.metric("ironclaw_launches_total"), 1.0);
    // A chat that only heard from the agent goes on as any other.
    assert!(other.ask("hello").contains("mock-agent received: hello"));

    let here = marker();
    assert_eq!(chat.ask(&send(&here, "here")), here, "before the answer");
    chat.wait(0, "the answer", |entry| {
        entry.text.contains(&here) && entry.text.ends_with("tool result: sent")
    });

    said(own(&["destination", "remove", "ops", "--group=mock-agent", "--approve", "--yes"]));
    assert!(tool(&chat.ask(&send("late", "ops"))).contains("you have none"));
    refused(own(&["destination", "remove", "ops", "--group=mock-agent"]), 1, &["nothing would change"]);
    assert_eq!(daemon.get("/v1/destinations?group=mock-agent")["destinations"], json!([]));
    assert!(!out(&other).iter().any(|text| text == "late"));
    let gone = daemon.send(Request::get("/v1/destinations/check?group=nobody&channel=api&chat=x"));
    assert_eq!(gone.status, 404);
    assert!(daemon.stop().success());
}

/// The turn knows what it began with; the ledger knows better, and its word comes back as the tool's result.
fn what_is_taken_away_during_a_turn_is_refused_and_told(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let gates = home.root.join("user");
    let daemon = Serve::new(&home, runtime).fault(format!("mock-gate={}", gates.display())).ready();
    let chat = daemon.chat("mock-agent", "main");
    for (gate, kind, payload, why) in [
        ("one", "wiring", json!({"remove_destinations": ["ops"]}), "no_destination: "),
        ("two", "enabled_tools", json!({"tools": ["read_file"]}), "not_granted: "),
    ] {
        give(&daemon, "mock-agent", ops());
        let stored = daemon.metric("ironclaw_ingest_seconds_count");
        let sent = chat.say(&format!("hold:{gate} {}", send("too late", "ops")));
        eventually("the turn began", || {
            (daemon.metric("ironclaw_ingest_seconds_count") > stored).then_some(())
        });
        let change = submit(&daemon, kind, "mock-agent", &payload).json();
        assert_eq!(approve(&daemon, &change).status, 200);
        std::fs::write(gates.join(gate), "").unwrap();
        let answer = chat.answer_after(sent.position).text;
        assert!(answer.contains(&format!("tool result: {why}")), "{answer}");
    }
    assert_eq!(daemon.chat("mock-agent", "ops").history(), []);
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, runtime).ready();
    let expected = [("no_destination".to_owned(), 1), ("not_granted".to_owned(), 1)];
    assert_eq!(refusals(&daemon), expected, "each reason by itself");
    assert!(daemon.stop().success());
}

/// What the hostile program was told of messages for these places.
fn post(daemon: &Daemon, chat: &str, places: &[&str]) -> Vec<Value> {
    let answer = daemon.chat("dev-agent", chat).ask(&format!("hostile post\n{}", places.join("\n")));
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn a_message_of_a_hostile_agent_reaches_no_other_chat(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let hostile = format!("sandbox-exe@dev-agent={}", home.hostile().display());
    let daemon = Serve::new(&home, runtime).fault(hostile).ready();
    give(&daemon, "dev-agent", ops());
    // Another agent's destination is nothing to this one.
    give(
        &daemon,
        "mock-agent",
        json!({"destinations": [{"name": "x", "channel": "api", "chat": "elsewhere"}]}),
    );
    let why = |answer: &Value| {
        assert_eq!((&answer["ok"], &answer["action"]), (&json!(false), &json!("send_message")), "{answer}");
        answer["result"].as_str().unwrap().split(':').next().unwrap().to_owned()
    };
    let places = ["api ops", "api elsewhere", "telegram ops", "api OPS", "api ops thread", "api ops\u{200b}"];
    let answers = post(&daemon, "first", &places);
    assert_eq!(answers.len(), places.len());
    assert!(answers[0]["ok"] == true && answers[0]["result"]["message"].is_string(), "{}", answers[0]);
    for answer in &answers[1..] {
        assert_eq!(why(answer), "no_destination", "{answer}");
    }
    for (chat, kind, payload, expected) in [
        ("second", "enabled_tools", json!({"tools": ["list_destinations"]}), "not_granted"),
        ("third", "enabled_tools", json!({"tools": "all"}), ""),
        ("fourth", "wiring", json!({"remove_destinations": ["ops"]}), "no_destination"),
    ] {
        let change = submit(&daemon, kind, "dev-agent", &payload).json();
        assert_eq!(approve(&daemon, &change).status, 200);
        let answer = &post(&daemon, chat, &["api ops"])[0];
        match expected {
            "" => assert_eq!(answer["ok"], true, "{answer}"),
            expected => assert_eq!(why(answer), expected, "{answer}"),
        }
    }
    assert_eq!(daemon.chat("dev-agent", "ops").history().len(), 2);
    for agent in ["dev-agent", "mock-agent"] {
        for chat in ["elsewhere", "OPS"] {
            assert_eq!(daemon.chat(agent, chat).history(), [], "{agent} {chat}");
        }
    }
    assert_eq!(daemon.chat("mock-agent", "ops").history(), []);
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, runtime).ready();
    let expected = [("no_destination", 1), ("no_destination", 5), ("not_granted", 1)];
    assert_eq!(refusals(&daemon), expected.map(|(why, count)| (why.to_owned(), count)));
    assert!(daemon.stop().success());
}

/// Whoever dies on the way from the message to its answer: it is in the other chat once, and the turn is answered.
fn every_crash_point_of_sending_is_survived(runtime: Runtime) {
    for name in [
        "step.sent.before",
        "step.sent.after",
        "send.before_commit",
        "send.after_commit",
        "ring.in.written",
        "ring.in.rung",
        "step.tool_ran",
        "step.tool_result.before",
        "step.tool_result.after",
    ] {
        let home = Home::new(Build::Faults, User::Root);
        let daemon = Serve::new(&home, runtime).ready();
        give(&daemon, "mock-agent", ops());
        assert!(daemon.stop().success());
        let mut daemon = Serve::new(&home, runtime).fault(format!("crash={name}")).ready();
        let (text, event) = (marker(), marker());
        let words = send(&text, "ops");
        let _ = daemon.chat("mock-agent", "main").try_say(&words, &event);
        eventually(&format!("{name} is passed"), || {
            let deaths = daemon.try_metric("ironclaw_sandbox_ends_total{reason=\"died\"}");
            (daemon.has_ended() || deaths.is_some_and(|count| count > 0.0)).then_some(())
        });
        daemon.kill9();
        drop(daemon);
        let daemon = Serve::new(&home, runtime).ready();
        let chat = daemon.chat("mock-agent", "main");
        let sent = chat.say_as(&words, &event);
        let answer = chat.answer_after(sent.position).text;
        let told = ["tool result: sent", "tool result: handed over before an interruption, once"];
        assert!(told.iter().any(|told| answer.contains(told)), "{name}: {answer}");
        assert_eq!(out(&daemon.chat("mock-agent", "ops")), [text], "{name}");
        assert_eq!(out(&chat).len(), 1, "{name}");
        assert!(daemon.stop().success());
    }
}

/// `kill -9` at random moments, of every sandbox or of everything.
fn what_is_killed_sends_once(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let mut daemon = Serve::new(&home, runtime).ready();
    give(&daemon, "mock-agent", ops());
    let mut random = Random::of_run();
    let mut texts = Vec::new();
    for round in 0..rounds() {
        // A chat of its own: deaths of one session in a row are answered with a growing pause.
        let (name, text) = (format!("round-{round}"), marker());
        daemon.chat("mock-agent", &name).say(&send(&text, "ops"));
        texts.push((name, text));
        std::thread::sleep(Duration::from_millis(random.below(400)));
        if random.below(2) == 0 {
            daemon.kill9();
            drop(daemon);
            daemon = Serve::new(&home, runtime).ready();
        } else {
            for id in home.processes().into_iter().filter(|id| *id != daemon.id()) {
                leftovers::kill(id);
            }
        }
    }
    for (name, text) in &texts {
        let answer = daemon.chat("mock-agent", name).wait(0, "the answer", |entry| entry.direction == "out");
        assert!(answer.text.contains("tool result: "), "{answer:?}");
        assert!(answer.text.contains(text.as_str()), "{answer:?}");
    }
    let mut arrived = out(&daemon.chat("mock-agent", "ops"));
    let mut expected: Vec<String> = texts.into_iter().map(|(_, text)| text).collect();
    arrived.sort();
    expected.sort();
    assert_eq!(arrived, expected);
    assert!(daemon.stop().success());
}
