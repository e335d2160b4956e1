//! Agents that write to each other: only where a person allowed it, under the name that the host knows, back to where it
//! was asked, so far and so often and no more; and once, whoever dies when.

use serde_json::{Value, json};

use crate::hand::{approve, ctl, json as printed, refused, said, submit};
use crate::heard::{admit, ingress, serve, wire};
use crate::hook::Hook;
use crate::world::{Build, Daemon, Entry, Home, Runtime, Serve, User, eventually, marker};

crate::world::boxes::in_both_back_ends!(
    what_another_agent_says_comes_back_to_who_asked,
    every_crash_point_between_agents_is_survived,
);

/// Makes the agent `helper`.
fn helper(daemon: &Daemon, more: &Value) {
    let mut payload = json!({"provider": "mock", "model": "mock"});
    payload.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let change = submit(daemon, "create_agent", "helper", &payload).ok();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

fn to_agent(name: &str) -> Value {
    json!({"destinations": [{"name": name, "kind": "agent", "agent_group": name}]})
}

#[track_caller]
fn give(daemon: &Daemon, agent: &str, payload: &Value) {
    let change = submit(daemon, "wiring", agent, payload).ok();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

/// What makes the mock model send this text there.
fn send(text: &str, to: &str) -> String {
    format!("tool:send_message {}", json!({"text": text, "to": to}))
}

fn sessions_of(daemon: &Daemon, agent: &str) -> Vec<Value> {
    let mut all = daemon.get("/v1/sessions")["sessions"].as_array().unwrap().clone();
    all.retain(|session| session["agent"] == agent);
    all
}

/// Refused messages in the audit, by why and how often.
fn refusals(daemon: &Daemon, action: &str) -> Vec<(String, u64)> {
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    let refused =
        records.iter().filter(|record| record["act"] == "action.refused" && record["object"] == action);
    let mut found: Vec<_> = refused
        .map(|record| {
            let detail = &record["detail"];
            (detail["why"].as_str().unwrap().to_owned(), detail["count"].as_u64().unwrap())
        })
        .collect();
    found.sort();
    found
}

fn what_another_agent_says_comes_back_to_who_asked(runtime: Runtime) {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, runtime, &hook, ingress).ready();
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    wire(&daemon, "mock-agent", "ops", json!({"sessions": "per-thread"}));
    admit(&daemon, "mock-agent", "webhook:ann");
    // Nobody can be written to who is not there, nor oneself.
    let add = |to: &str| ["destination", "add", "h", "agent", to, "--group=mock-agent"].map(str::to_owned);
    let add = |to: &str| own(&add(to).iter().map(String::as_str).collect::<Vec<_>>());
    refused(add("helper"), 1, &["there is no agent helper"]);
    refused(add("mock-agent"), 1, &["cannot write to itself"]);
    helper(&daemon, &json!({"title": "The Helper", "tools": "none"}));
    let held = said(add("helper"));
    assert!(
        held.contains("another agent that it may write to") && held.contains("the agent helper"),
        "{held}"
    );
    let change = printed(own(&["change", "pending", "--json"]))[0].clone();
    said(own(&["change", "approve", change["id"].as_str().unwrap(), "--yes"]));
    assert!(
        said(own(&["destination", "check", "agent", "helper", "--group=mock-agent"])).contains("calls it h")
    );
    // Two threads ask; each has what is answered to it, quoting what was asked there.
    let ask = |thread: &str, text: &str| {
        let body = json!({"text": text, "chat": "ops", "thread": thread, "sender": "ann", "message": thread});
        assert_eq!(hook.say(ingress, &body).status, 202);
    };
    ask("t0", "tool:list_destinations {}");
    hook.wait("ops", r#"[{"name":"h","agent":"helper"}]"#);
    let (one, two) = (marker(), marker());
    ask("t1", &send(&one, "h"));
    ask("t2", &send(&two, "h"));
    for (thread, text) in [("t1", &one), ("t2", &two)] {
        let echo = format!("mock-agent received: {text}");
        hook.wait("ops", &echo);
        let all = hook.taken("ops");
        let came: Vec<_> = all.iter().filter(|taken| taken.text.contains(&echo)).collect();
        assert_eq!(came.len(), 1, "{all:?}");
        assert_eq!(came[0].thread.as_deref(), Some(thread), "{came:?}");
        assert_eq!(came[0].in_reply_to.as_deref(), Some(thread), "{came:?}");
    }
    // The one who was asked has a conversation for each, in which the host says who writes.
    let sessions = sessions_of(&daemon, "helper");
    assert_eq!(sessions.len(), 2, "{sessions:?}");
    for session in &sessions {
        assert_eq!(
            (&session["channel"], &session["chat"]),
            (&json!("agent"), &json!("mock-agent")),
            "{session}"
        );
    }
    // Who is taken away is not written to, and does not answer what was asked before.
    let gate = said(own(&["destination", "remove", "h", "--group=mock-agent", "--approve", "--yes"]));
    assert!(gate.contains("the agent helper"), "{gate}");
    ask("t3", &send("late", "h"));
    hook.wait("ops", "you have none");
    give(&daemon, "mock-agent", &to_agent("helper"));
    said(own(&["agent", "delete", "helper", "--yes"]));
    assert_eq!(daemon.get("/v1/destinations")["destinations"], json!([]), "nobody writes to who is gone");
    assert!(daemon.stop().success());
}

/// What says this to the other one, and has that one say the rest back, and so on.
fn round_and_round(times: u32) -> String {
    let mut text = "the end".to_owned();
    for turn in (0..times).rev() {
        text = if turn % 2 == 0 { send(&text, "helper") } else { send(&text, "here") };
    }
    text
}

#[test]
fn inv_045_agents_write_where_they_may_and_not_for_ever() {
    let home = Home::new(Build::Faults, User::Root);
    let hostile = format!("sandbox-exe@dev-agent={}", home.hostile().display());
    let daemon = Serve::new(&home, Runtime::Native).fault(hostile).ready();
    helper(&daemon, &json!({"tools": "all"}));
    // Deny by default, whatever a sandbox says that it is.
    let post = |chat: &str, places: &[&str]| -> Vec<Value> {
        let answer = daemon.chat("dev-agent", chat).ask(&format!("hostile post\n{}", places.join("\n")));
        answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for answer in post("one", &["agent helper", "agent mock-agent", "agent dev-agent", "agent nobody"]) {
        assert_eq!(answer["ok"], false, "{answer}");
        assert!(answer["result"].as_str().unwrap().starts_with("no_destination: "), "{answer}");
    }
    give(&daemon, "dev-agent", &to_agent("helper"));
    // Five go at once, and what comes of them is not more than may go in a minute.
    let answers = post("two", &["agent helper"]);
    assert_eq!(answers[0]["ok"], true, "{answers:?}");
    let id = answers[0]["result"]["message"].as_str().unwrap().to_owned();
    let back = daemon.chat("dev-agent", "two").wait(0, "the helper's answer", |entry: &Entry| {
        entry.direction == "in" && entry.in_reply_to.as_deref() == Some(id.as_str())
    });
    assert!(back.text.starts_with("mock-agent received: "), "{back:?}");
    let sessions = sessions_of(&daemon, "helper");
    assert_eq!(
        (sessions.len(), &sessions[0]["chat"]),
        (1, &json!("dev-agent")),
        "who writes is the host's word"
    );

    // Round and round, until somebody is told that it is enough.
    give(&daemon, "mock-agent", &to_agent("helper"));
    let chat = daemon.chat("mock-agent", "main");
    chat.say(&round_and_round(8));
    // What one is sent is there before the other one is done with what it sent, so this is the end of it.
    eventually("it is enough", || {
        let mut all = sessions_of(&daemon, "mock-agent");
        all.extend(sessions_of(&daemon, "helper"));
        all.iter().all(|session| session["open_messages"] == 0).then_some(())
    });
    // So often in a minute: what is more is refused, and nobody is stopped for it.
    let many = vec!["agent helper"; 60];
    let (mut sent, mut too_often) = (0, 0);
    for chat in ["a", "b", "c"] {
        for answer in post(chat, &many) {
            match answer["result"].as_str() {
                None => sent += 1,
                Some(why) => {
                    assert!(why.starts_with("too_often: "), "{answer}");
                    too_often += 1;
                }
            }
        }
    }
    assert_eq!((sent, too_often), (119, 61), "120 a minute, one of which went before");
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, Runtime::Native).ready();
    assert!(refusals(&daemon, "reply").iter().any(|(why, _)| why == "too_many_hops"));
    let refused = refusals(&daemon, "send_message");
    let often: u64 = refused.iter().filter(|(why, _)| why == "too_often").map(|(_, count)| count).sum();
    assert_eq!(often, 61, "{refused:?}");
}

#[test]
fn who_decides_for_one_agent_lets_it_not_write_to_another() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    helper(&daemon, &json!({}));
    said(own(&["user", "add", "local:bea"]));
    said(own(&["role", "grant", "local:bea", "approver", "--group=mock-agent", "--approve", "--yes"]));
    let minted = printed(own(&[
        "token",
        "create",
        "bea",
        "--user=local:bea",
        "--scope=read",
        "--scope=approve",
        "--json",
    ]));
    let token = minted["token"].as_str().unwrap();
    let change = submit(&daemon, "wiring", "mock-agent", &to_agent("helper")).ok();
    let id = change["id"].as_str().unwrap();
    let as_bea = |words: &[&str]| crate::hand::ctl_as(&home, &daemon, token, words);
    refused(as_bea(&["change", "approve", id, "--yes"]), 1, &["the agent that would be written to"]);
    said(own(&["role", "grant", "local:bea", "approver", "--group=helper", "--approve", "--yes"]));
    said(as_bea(&["change", "approve", id, "--yes"]));
    assert!(daemon.stop().success());
}

/// Whoever dies on the way to another agent and back: the person has the answer once.
fn every_crash_point_between_agents_is_survived(runtime: Runtime) {
    for name in [
        "send.before_commit",
        "send.after_commit",
        "step.sent.after",
        "finish.before_commit",
        "finish.after_commit",
        "finish.before_commit@2",
        "finish.after_commit@2",
        "finish.before_commit@3",
        "finish.after_commit@3",
    ] {
        let home = Home::new(Build::Faults, User::Root);
        let daemon = Serve::new(&home, runtime).ready();
        helper(&daemon, &json!({"tools": "none"}));
        give(&daemon, "mock-agent", &to_agent("helper"));
        assert!(daemon.stop().success());
        let mut daemon = Serve::new(&home, runtime).fault(format!("crash={name}")).ready();
        let (text, event) = (marker(), marker());
        let _ = daemon.chat("mock-agent", "main").try_say(&send(&text, "helper"), &event);
        eventually(&format!("{name} is passed"), || {
            let deaths = daemon.try_metric("ironclaw_sandbox_ends_total{reason=\"died\"}");
            (daemon.has_ended() || deaths.is_some_and(|count| count > 0.0)).then_some(())
        });
        daemon.kill9();
        drop(daemon);
        let daemon = Serve::new(&home, runtime).ready();
        let chat = daemon.chat("mock-agent", "main");
        let sent = chat.say_as(&send(&text, "helper"), &event);
        let echo = format!("mock-agent received: mock-agent received: {text}");
        let is_echo = |entry: &Entry| entry.direction == "out" && entry.text.contains(&echo);
        chat.wait(sent.position, "the other agent's answer", is_echo);
        // Whatever else came of it would have come by now: one word after it is answered.
        chat.ask("and now");
        let out = chat.history().into_iter().filter(is_echo).count();
        assert_eq!(out, 1, "{name}");
        let came = chat.history().into_iter().filter(|entry| entry.direction == "in").count();
        assert_eq!(came, 3, "{name}: what was asked, what came back, and the last word");
        assert!(daemon.stop().success());
    }
}
