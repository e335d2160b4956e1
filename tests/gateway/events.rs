//! The feed of `GET /v1/events`: each topic for whoever may follow it, nothing lost and nothing twice whatever breaks,
//! and closed to whoever may follow less than before.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::hand::{approve, ctl, refused, submit};
use crate::world::http::{Event, Events, Request};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, daemon::lasting_port, marker};

fn follow(daemon: &Daemon, token: &str, path: &str, after: Option<&str>) -> Events {
    let request = Request::get(path).token(token);
    let request = match after {
        Some(id) => request.header("Last-Event-ID", id),
        None => request,
    };
    Events::open(request, daemon.address)
}

/// Reads until an event fits; gives all up to that one.
#[track_caller]
fn until(events: &mut Events, fits: impl Fn(&Event, &Value) -> bool) -> Vec<Event> {
    let mut all = Vec::new();
    loop {
        let event = events.next().expect("the stream ended");
        let data = serde_json::from_str(&event.data).unwrap();
        let is_last = fits(&event, &data);
        all.push(event);
        if is_last {
            return all;
        }
    }
}

/// The number of the record, or the position of the entry, that an event is of.
fn place(event: &Event) -> Option<(String, u64)> {
    let data: Value = serde_json::from_str(&event.data).unwrap();
    let number = data.get("seq").or(data.get("position"))?;
    let kind = if event.name == "chat" { "entry" } else { "record" };
    Some((kind.to_owned(), number.as_u64().unwrap()))
}

fn token_of(daemon: &Daemon, name: &str, user: &str, scopes: Value) -> String {
    let body = json!({"name": name, "user": user, "scopes": scopes});
    daemon.send(Request::post("/v1/tokens", &body)).ok()["token"].as_str().unwrap().to_owned()
}

fn status(daemon: &Daemon, token: &str, path: &str) -> u16 {
    Request::get(path).token(token).send(daemon.address).unwrap().status
}

fn permit(daemon: &Daemon, group: &str, payload: Value) {
    let change = submit(daemon, "permissions", group, &payload).json();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

#[test]
fn what_happens_comes_once_across_a_kill() {
    let home = Home::new(Build::Release, User::Root);
    let port = lasting_port();
    let serve = || Serve::new(&home, Runtime::Native).port(port).ready();
    let mut daemon = serve();
    let token = daemon.token();
    let mut events = follow(&daemon, &token, "/v1/events", None);
    assert_eq!(events.next().unwrap().name, "sessions", "what sessions do comes first, and anew");

    let mut seen: Vec<Event> = Vec::new();
    for round in 0..3 {
        let text = marker();
        let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": text})).json();
        assert_eq!(approve(&daemon, &change).status, 200);
        let said = daemon.chat("mock-agent", "main").say(&text);
        seen.extend(until(&mut events, |_, data| {
            data["direction"] == "finished" && data["message_id"] == said.message_id
        }));
        // The reader has part of what follows, or none of it, when both ends go.
        let other = submit(&daemon, "persona", "dev-agent", &json!({"identity": text})).json();
        let id = other["id"].clone();
        if round % 2 == 0 {
            seen.extend(until(&mut events, |_, data| data["object"] == id));
        }
        let after = seen.iter().rev().find(|event| !event.id.is_empty()).unwrap().id.clone();
        drop(events);
        daemon.kill9();
        drop(daemon);
        daemon = serve();
        assert_eq!(approve(&daemon, &other).status, 200);
        events = follow(&daemon, &token, "/v1/events", Some(&after));
        seen.extend(until(&mut events, |event, data| {
            event.name == "approval" && data["object"] == id && data["act"] == "change.applied"
        }));
    }
    let acts: Vec<Value> = seen
        .iter()
        .filter(|event| event.name == "approval")
        .map(|event| serde_json::from_str::<Value>(&event.data).unwrap()["act"].clone())
        .collect();
    assert_eq!(acts.len(), 6 * 3, "{acts:?}");
    for kind in ["record", "entry"] {
        let places: Vec<u64> =
            seen.iter().filter_map(place).filter(|(of, _)| of == kind).map(|(_, number)| number).collect();
        assert!(places.windows(2).all(|pair| pair[0] < pair[1]), "one came twice or late: {places:?}");
        if kind == "record" {
            let whole: Vec<u64> = (places[0]..=*places.last().unwrap()).collect();
            assert_eq!(places, whole, "one is missing");
        }
    }
    let entries = daemon.get("/v1/chat/mock-agent/messages?limit=200");
    let told: Vec<&Event> = seen.iter().filter(|event| event.name == "chat").collect();
    assert_eq!(told.len(), entries["entries"].as_array().unwrap().len());
    assert!(daemon.stop().success());
}

#[test]
fn each_hears_what_their_scopes_and_roles_reach() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    permit(&daemon, "mock-agent", json!({"grant": [{"user": "local:ann", "role": "approver"}]}));
    permit(&daemon, "dev-agent", json!({"add_members": ["local:bob"]}));
    let all = json!(["read", "operate", "approve", "admin", "metrics", "chat"]);
    let ann = token_of(&daemon, "ann", "local:ann", all.clone());
    let bob = token_of(&daemon, "bob", "local:bob", all.clone());
    let narrow = token_of(&daemon, "narrow", "local:owner", json!(["chat"]));
    daemon.send(Request::post("/v1/users", &json!({"id": "local:eve"}))).ok();
    let eve = token_of(&daemon, "eve", "local:eve", all);

    for (token, may) in [
        (&ann, &["approvals", "sessions", "approvals,sessions"][..]),
        (&bob, &["chat"]),
        (&narrow, &["chat"]),
        (&eve, &[]),
    ] {
        for topics in ["approvals", "sessions", "chat", "audit", "approvals,sessions", "chat,audit"] {
            let path = format!("/v1/events?topics={topics}");
            if may.contains(&topics) {
                follow(&daemon, token, &path, None);
            } else {
                assert_eq!(status(&daemon, token, &path), 403, "{topics} of {may:?}");
            }
        }
    }
    assert_eq!(status(&daemon, &eve, "/v1/events"), 403);
    assert_eq!(status(&daemon, "ict_wrong", "/v1/events"), 401);

    let (mut to_ann, mut to_bob) =
        (follow(&daemon, &ann, "/v1/events", None), follow(&daemon, &bob, "/v1/events", None));
    // What is not for somebody comes first, what is for them after it: had the first been told, it would be there.
    let secret = marker();
    let hidden = submit(&daemon, "persona", "dev-agent", &json!({"soul": secret})).json();
    daemon.chat("mock-agent", "main").ask(&secret);
    let shown = submit(&daemon, "persona", "mock-agent", &json!({"soul": "x"})).json();
    let told = until(&mut to_ann, |event, data| event.name == "approval" && data["object"] == shown["id"]);
    for event in &told {
        let data: Value = serde_json::from_str(&event.data).unwrap();
        assert_ne!(data["object"], hidden["id"], "{event:?}");
        match event.name.as_str() {
            "approval" => assert_eq!(data["group"], "mock-agent"),
            "session" => assert_eq!(data["agent"], "mock-agent"),
            "sessions" => {}
            other => panic!("{other} is not for an approver of one agent"),
        }
    }
    assert!(told.iter().any(|event| event.name == "session"), "{told:?}");
    let text = marker();
    daemon.chat("dev-agent", "main").ask(&text);
    let told = until(&mut to_bob, |_, data| data["direction"] == "finished");
    assert!(told.iter().all(|event| event.name == "chat" && !event.data.contains(&secret)), "{told:?}");
    assert!(told[0].data.contains(&text), "{told:?}");
    assert!(daemon.stop().success());
}

#[test]
fn a_right_that_is_taken_away_ends_the_feed() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let role = json!({"user": "local:ann", "role": "approver"});
    permit(&daemon, "mock-agent", json!({"grant": [role], "add_members": ["local:ann"]}));
    let scopes = json!(["read", "chat"]);
    let (first, second) = (
        token_of(&daemon, "one-of-ann", "local:ann", scopes.clone()),
        token_of(&daemon, "other-of-ann", "local:ann", scopes),
    );
    let listen = |token: &str| {
        let mut events = follow(&daemon, token, "/v1/events", None);
        let said = daemon.chat("mock-agent", "main").say("hello");
        until(&mut events, |_, data| data["message_id"] == said.message_id);
        events
    };
    let mut with_first = listen(&first);
    let revoke = Request { method: "DELETE", ..Request::get("/v1/tokens/one-of-ann") };
    assert_eq!(revoke.token(&daemon.token()).send(daemon.address).unwrap().status, 200);
    while with_first.try_next().is_some() {}
    assert_eq!(status(&daemon, &first, "/v1/events"), 401);

    // One of two rights ends it; what is left is there for whoever comes again.
    let mut with_second = listen(&second);
    permit(&daemon, "mock-agent", json!({"revoke": [role]}));
    while with_second.try_next().is_some() {}
    assert_eq!(status(&daemon, &second, "/v1/events?topics=approvals"), 403);
    let mut with_second = listen(&second);
    permit(&daemon, "mock-agent", json!({"remove_members": ["local:ann"]}));
    while with_second.try_next().is_some() {}
    assert_eq!(status(&daemon, &second, "/v1/events"), 403);
    assert!(daemon.stop().success());
}

#[test]
fn ids_that_are_none_of_the_streams_are_refused() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let token = daemon.token();
    let long = "9".repeat(4000);
    for bad in [
        "",
        "7",
        "a1",
        "a1.c",
        "a1.c1.c1",
        "c1.a1",
        "a01.c1",
        "a-1.c1",
        "a+1.c1",
        "a1.c1x",
        "a1.c\u{e4}",
        &long,
        "a18446744073709551615.c18446744073709551615",
        "a9223372036854775807.c0",
        "a0.c9223372036854775807",
        "a0.c1",
        "a0.c0.h1",
        "a0.c0.h",
        "a0.c0.h9223372036854775807",
        "a0.h0",
        "a1.c0' OR 1=1 --",
    ] {
        let asked = Request::get("/v1/events").token(&token).header("Last-Event-ID", bad);
        let answer = asked.send(daemon.address).unwrap();
        assert_eq!((answer.status, answer.json()["type"].clone()), (400, json!("invalid_request")), "{bad}");
    }
    for bad in ["topics=", "topics=all", "topics=chat,,audit", "after=7", "token=x", "x=1"] {
        let answer = Request::get(&format!("/v1/events?{bad}")).token(&token).send(daemon.address).unwrap();
        assert_eq!(answer.status, 400, "{bad}");
    }
    // From the beginning of everything: all records are there.
    let mut events = follow(&daemon, &token, "/v1/events?topics=audit&after=a0.c0", None);
    let first = events.next().unwrap();
    assert_eq!((first.id.as_str(), first.name.as_str()), ("a1.c0.h0", "audit"));
    assert!(daemon.stop().success());
}

#[test]
fn sessions_are_told_as_they_are_when_somebody_comes() {
    let home = Home::new(Build::Faults, User::Root);
    let hostile = format!("sandbox-exe@dev-agent={}", home.hostile().display());
    let daemon = Serve::new(&home, Runtime::Native).fault(hostile).ready();
    let token = daemon.token();
    let session = daemon.chat("dev-agent", "main").say("hostile garbage").session_id;
    let parked = |_: &Event, data: &Value| data["id"] == session && data["state"] == "parked";
    let mut live = follow(&daemon, &token, "/v1/events?topics=sessions", None);
    until(&mut live, parked);
    // Nothing runs, and who comes now is told of it all the same.
    let mut late = follow(&daemon, &token, "/v1/events?topics=sessions", None);
    let told = until(&mut late, parked);
    assert_eq!(told[0].name, "sessions");
    let path = format!("/v1/sessions/{session}/release");
    assert_eq!(daemon.send(Request::post(&path, &json!({}))).status, 200);
    until(&mut live, |_, data| data["id"] == session && data["state"] == "ready");
    assert!(daemon.stop().success());
}

/// What was said with an agent is not told again when it is gone, as its chats are not.
#[test]
fn the_chats_of_an_agent_that_is_gone_are_not_told_again() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let token = daemon.token();
    let (gone, kept) = (marker(), marker());
    daemon.chat("dev-agent", "main").ask(&gone);
    daemon.chat("mock-agent", "main").ask(&kept);
    let path = "/v1/events?topics=chat&after=a0.c0";
    let mut events = follow(&daemon, &token, path, None);
    until(&mut events, |_, data| data["text"].as_str().is_some_and(|text| text.contains(&gone)));
    drop(events);
    let delete = Request { method: "DELETE", ..Request::get("/v1/agents/dev-agent") };
    assert_eq!(daemon.send(delete).status, 200);
    let mut events = follow(&daemon, &token, path, None);
    let seen = until(&mut events, |_, data| data["text"].as_str().is_some_and(|text| text.contains(&kept)));
    assert!(seen.iter().all(|event| !event.data.contains(&gone)), "{seen:?}");
    assert!(daemon.stop().success());
}

/// Who is far behind hears how far it is before all of that is read: silence would be taken for the end, and what was
/// passed would be passed again.
#[test]
fn a_reader_far_behind_is_told_its_place_on_the_way() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let token = daemon.token();
    // Records, and none of them is of a change.
    for round in 0..450 {
        let body = json!({"title": format!("name {round}")});
        assert_eq!(daemon.send(Request::post("/v1/agents/dev-agent", &body)).status, 200);
    }
    let mut events = follow(&daemon, &token, "/v1/events?topics=approvals&after=a0.c0", None);
    assert_eq!(events.next_id(), "a0.c0.h0", "as of an id from before there was more to tell");
    let on_the_way = events.next_id();
    assert_eq!(on_the_way, "a400.c0.h0");
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": marker()})).json();
    let mut events = follow(&daemon, &token, "/v1/events?topics=approvals", Some(&on_the_way));
    until(&mut events, |event, data| event.name == "approval" && data["object"] == change["id"]);
    assert!(daemon.stop().success());
}

#[test]
fn the_command_follows_across_a_restart() {
    let home = Home::new(Build::Release, User::Root);
    let port = lasting_port();
    let serve = || Serve::new(&home, Runtime::Native).port(port).ready();
    let daemon = serve();
    refused(ctl(&home, &daemon, &["events", "--topic", "nothing"]), 1, &["topics", "approvals"]);
    refused(ctl(&home, &daemon, &["events", "--after", "x"]), 1, &["Last-Event-ID"]);
    let mut child =
        ctl(&home, &daemon, &["events", "--topic=approvals", "--topic", "audit", "--json", "--after=a0.c0"])
            .spawn()
            .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().expect("it ended").unwrap()).unwrap();
    assert_eq!(next()["data"]["act"], "daemon.started");
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": "x"})).json();
    let told = std::iter::repeat_with(&mut next)
        .find(|told| !told["data"]["act"].as_str().is_some_and(|act| act.ends_with(".seeded")))
        .unwrap();
    assert_eq!((&told["event"], &told["data"]["object"]), (&json!("approval"), &change["id"]));
    assert!(daemon.stop().success());
    let daemon = serve();
    let acts: Vec<Value> = (0..2).map(|_| next()["data"]["act"].clone()).collect();
    assert_eq!(acts, ["daemon.stopped", "daemon.started"]);
    child.kill().unwrap();
    child.wait().unwrap();
    // For people, a line each.
    let mut child = ctl(&home, &daemon, &["events", "--after", "a0.c0"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("TIME"));
    let told = lines.map(Result::unwrap).find(|line| line.contains(change["id"].as_str().unwrap())).unwrap();
    assert!(told.contains("submitted by local:owner: persona of dev-agent"), "{told}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(daemon.stop().success());
}
