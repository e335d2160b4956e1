//! How far a role and a token reach, seen from outside: to what is named and to nothing else, not even to its name; and
//! who has a token keeps nobody else out.

use std::net::TcpStream;

use serde_json::{Value, json};

use crate::hand::{approve, submit};
use crate::world::http::{Answer, Events, Request};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User};

/// A person with roles by a change of this agent, and a token of all scopes.
#[track_caller]
pub(crate) fn person(daemon: &Daemon, user: &str, agent: &str, permissions: &Value) -> String {
    daemon.send(Request::post("/v1/users", &json!({"id": user}))).ok();
    assert_eq!(approve(daemon, &submit(daemon, "permissions", agent, permissions).ok()).status, 200);
    let scopes = ["read", "operate", "approve", "admin", "metrics", "chat"];
    let body = json!({"name": user.replace(':', "."), "user": user, "scopes": scopes, "days": 1});
    daemon.send(Request::post("/v1/tokens", &body)).ok()["token"].as_str().unwrap().to_owned()
}

pub(crate) fn approver(user: &str) -> Value {
    json!({"grant": [{"user": user, "role": "approver"}]})
}

#[test]
fn inv_037_an_approver_decides_for_the_own_agent_and_for_as_long_as_one_is_it() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let ann = person(&daemon, "local:ann", "dev-agent", &approver("local:ann"));
    let decide = |change: &Value, token: &str| -> Answer {
        let path = format!("/v1/changes/{}/decision", change["id"].as_str().unwrap());
        let body = json!({"outcome": "approve", "digest": change["digest"]});
        Request::post(&path, &body).token(token).send(daemon.address).unwrap()
    };
    let soul = |agent: &str, soul: &str| submit(&daemon, "persona", agent, &json!({"soul": soul})).ok();
    let own = soul("dev-agent", "by ann");
    let decided = decide(&own, &ann).ok();
    assert_eq!((&decided["state"], &decided["decided_by"]), (&json!("applied"), &json!("local:ann")));
    let admin = json!({"grant": [{"user": "local:ann", "role": "admin"}]});
    let late = soul("dev-agent", "late");
    let others = [
        soul("mock-agent", "elsewhere"),
        submit(&daemon, "create_agent", "made", &json!({})).ok(),
        submit(&daemon, "permissions", "dev-agent", &admin).ok(),
    ];
    for change in &others {
        assert_eq!(decide(change, &ann).status, 403, "{change}");
    }
    let revoke = json!({"revoke": [{"user": "local:ann", "role": "approver"}]});
    assert_eq!(approve(&daemon, &submit(&daemon, "permissions", "dev-agent", &revoke).ok()).status, 200);
    assert_eq!(decide(&late, &ann).status, 403);
    let pending = daemon.get("/v1/changes/pending")["changes"].as_array().unwrap().len();
    assert_eq!((pending, daemon.get("/v1/agents/dev-agent")["soul"].clone()), (4, json!("by ann")));
    assert!(daemon.stop().success());
}

#[test]
fn inv_029_of_two_who_decide_at_once_one_does() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let ann = person(&daemon, "local:ann", "dev-agent", &approver("local:ann"));
    let bob = person(&daemon, "local:bob", "dev-agent", &approver("local:bob"));
    for round in 0..10 {
        let soul = format!("round {round}");
        let before = daemon.get("/v1/agents/dev-agent")["soul"].clone();
        let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": soul})).ok();
        let id = change["id"].as_str().unwrap();
        let act = |outcome: &'static str, token: &str| {
            let path = match outcome {
                "withdraw" => format!("/v1/changes/{id}/withdraw"),
                _ => format!("/v1/changes/{id}/decision"),
            };
            let body = match outcome {
                "withdraw" => json!({}),
                _ => json!({"outcome": outcome, "digest": change["digest"]}),
            };
            Request::post(&path, &body).token(token).send(daemon.address).unwrap().status
        };
        let (owner, other) = (daemon.token(), if round % 2 == 0 { "reject" } else { "withdraw" });
        let by = if other == "reject" { &bob } else { &owner };
        let (approved, ended) = std::thread::scope(|scope| {
            let approving = scope.spawn(|| act("approve", &ann));
            let ending = scope.spawn(|| act(other, by));
            (approving.join().unwrap(), ending.join().unwrap())
        });
        let mut statuses = [approved, ended];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{other}");
        let now = daemon.get("/v1/agents/dev-agent")["soul"].clone();
        let state = daemon.get(&format!("/v1/changes/{id}"))["state"].clone();
        let expected = match (approved, other) {
            (200, _) => (json!(soul), json!("applied")),
            (_, "reject") => (before, json!("rejected")),
            _ => (before, json!("withdrawn")),
        };
        assert_eq!((now, state), expected);
    }
    assert!(daemon.stop().success());
}

/// What is left out of a list is not named by its cursor either.
#[test]
fn nobody_learns_the_name_of_what_is_out_of_reach() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let ann = person(&daemon, "local:ann", "mock-agent", &approver("local:ann"));
    for agent in ["dev-agent", "mock-agent"] {
        daemon.chat(agent, "main").say("hello");
    }
    let pages = |route: &str, list: &str| {
        let (mut after, mut seen) = (String::new(), Vec::new());
        loop {
            let path = format!("{route}?limit=1{after}");
            let page = Request::get(&path).token(&ann).send(daemon.address).unwrap().ok();
            assert!(!page.to_string().contains("dev-agent"), "{page}");
            seen.extend(page[list].as_array().unwrap().clone());
            let Some(next) = page["next"].as_str() else { return seen };
            after = format!("&after={next}");
        }
    };
    let agents = pages("/v1/agents", "agents");
    assert_eq!(agents.len(), 1, "{agents:?}");
    let sessions = pages("/v1/sessions", "sessions");
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    let member = person(&daemon, "local:max", "mock-agent", &json!({"add_members": ["local:max"]}));
    for agent in ["dev-agent", "no-such-agent"] {
        let path = format!("/v1/chat/{agent}/events?chat=main");
        let events = Request::get(&path).token(&member).send(daemon.address).unwrap();
        assert_eq!(events.status, 403, "{agent}");
        let body = json!({"text": "hello", "event_id": "x", "chat": "main"});
        let path = format!("/v1/chat/{agent}/messages");
        let sent = Request::post(&path, &body).token(&member).send(daemon.address).unwrap();
        assert_eq!(sent.status, 403, "{agent}");
    }
    assert!(daemon.stop().success());
}

/// All places for connections, and all for streams.
#[test]
fn who_has_a_token_keeps_nobody_else_out() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let max = person(&daemon, "local:max", "mock-agent", &json!({"add_members": ["local:max"]}));
    let keep = |path: &str| Request::get(path).token(&max).keep(daemon.address);
    let kept: Vec<(u16, TcpStream)> = (0..256).map(|_| keep("/v1/whoami")).collect();
    assert!(kept.iter().all(|(status, _)| [200, 429].contains(status)));
    assert_eq!(daemon.get("/v1/whoami")["user"], "local:owner");
    drop(kept);
    // Streams: as many as there may be are one member's, until somebody else wants one.
    let stream = || keep("/v1/chat/mock-agent/events?chat=main");
    let streams: Vec<(u16, TcpStream)> = std::iter::repeat_with(stream).take(200).collect();
    let taken = streams.iter().take_while(|(status, _)| *status == 200).count();
    assert!((32..128).contains(&taken), "{taken}");
    assert!(streams[taken..].iter().all(|(status, _)| [503, 429].contains(status)));
    let chat = daemon.chat("mock-agent", "main");
    let mut own: Events = chat.events(0);
    let sent = chat.say("hello");
    let event = own.next().expect("a stream of the owner");
    assert!(event.data.contains(sent.message_id.as_str()), "{}", event.data);
    assert!(daemon.stop().success());
}
