//! What programs hear of the way of a message: each step of what is brought to platforms and of what agents ask, once,
//! whatever breaks; for whoever may know, and without a word of what was said.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::hand::{approve, ctl, said, submit};
use crate::heard::{ingress, serve, wire};
use crate::hook::{Hook, Manner};
use crate::world::daemon::lasting_port;
use crate::world::http::{Event, Events, Request};
use crate::world::{Build, Daemon, Home, Runtime, User, marker};

const STEPS: &str = "/v1/events?topics=deliveries,questions";

fn follow(daemon: &Daemon, token: &str, after: Option<&str>) -> Events {
    let request = Request::get(STEPS).token(token);
    let request = match after {
        Some(id) => request.header("Last-Event-ID", id),
        None => request,
    };
    Events::open(request, daemon.address)
}

fn data(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

/// What it is of, and its number.
fn step(event: &Event) -> (u64, Value) {
    let (_, number) = event.id.split_once(".h").unwrap();
    (number.parse().unwrap(), data(event))
}

/// Reads until a step of this kind and name, and adds all to those that were read before.
#[track_caller]
fn until(events: &mut Events, seen: &mut Vec<Event>, name: &str, what: &str) -> Value {
    loop {
        let event = events.next().expect("the stream ended");
        let told = data(&event);
        let is_it = event.name == name && told["what"] == what;
        seen.push(event);
        if is_it {
            return told;
        }
    }
}

#[test]
fn each_step_of_deliveries_and_questions_is_told_once_across_kills() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let port = lasting_port();
    let start = || serve(&home, Runtime::Native, &hook, ingress).port(port).ready();
    let mut daemon = start();
    let token = daemon.token();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    let secret = marker();
    let say = |text: &str| {
        let answer = hook.say(ingress, &json!({"text": format!("{secret} {text}"), "chat": "ops"}));
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    let mut seen = Vec::new();
    let mut events = follow(&daemon, &token, None);
    say("one");
    let first = until(&mut events, &mut seen, "delivery", "accepted");
    assert_eq!((&first["channel"], &first["chat"]), (&json!("webhook"), &json!("ops")), "{first}");
    assert_eq!((&first["group"], &first["at"].is_string()), (&json!("mock-agent"), &true), "{first}");
    let done = until(&mut events, &mut seen, "delivery", "delivered");
    assert_eq!((&done["id"], &done["error"]), (&first["id"], &Value::Null), "{done}");
    // What happens while the reader is away, and the control plane dies, is told when it comes again.
    let again = |daemon: &mut Daemon, seen: &[Event]| {
        daemon.kill9();
        *daemon = start();
        follow(daemon, &token, Some(&seen.last().unwrap().id))
    };
    drop(events);
    hook.next("ops", &[Manner::Status(404)]);
    say("two");
    events = again(&mut daemon, &seen);
    let dead = until(&mut events, &mut seen, "delivery", "dead");
    assert!(dead["error"].as_str().unwrap().contains("404"), "{dead}");
    let id = dead["id"].as_str().unwrap().to_owned();
    said(ctl(&home, &daemon, &["delivery", "retry", &id]));
    events = again(&mut daemon, &seen);
    assert_eq!(until(&mut events, &mut seen, "delivery", "retried")["id"], id);
    assert_eq!(until(&mut events, &mut seen, "delivery", "delivered")["id"], id);
    hook.next("ops", &[Manner::Status(404)]);
    say("three");
    let dead = until(&mut events, &mut seen, "delivery", "dead");
    said(ctl(&home, &daemon, &["delivery", "discard", dead["id"].as_str().unwrap()]));
    assert_eq!(until(&mut events, &mut seen, "delivery", "discarded")["id"], dead["id"]);
    let ask = |word: &str| {
        let input = json!({"question": format!("{secret} {word}"), "options": ["Tea", "Coffee"]});
        let text = format!("tool:ask_user_question {input}");
        let answer = hook.say(ingress, &json!({"text": text, "chat": "ops"}));
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    ask("which");
    let asked = until(&mut events, &mut seen, "question", "asked");
    assert_eq!((&asked["chat"], &asked["by"]), (&json!("ops"), &Value::Null), "{asked}");
    let path = format!("/v1/questions/{}/answer", asked["id"].as_str().unwrap());
    assert_eq!(daemon.send(Request::post(&path, &json!({"option": 1}))).status, 200);
    events = again(&mut daemon, &seen);
    let answered = until(&mut events, &mut seen, "question", "answered");
    assert_eq!((&answered["id"], &answered["by"]), (&asked["id"], &json!("local:owner")), "{answered}");
    ask("or else");
    let asked = until(&mut events, &mut seen, "question", "asked");
    said(ctl(&home, &daemon, &["question", "cancel", asked["id"].as_str().unwrap()]));
    let over = until(&mut events, &mut seen, "question", "cancelled");
    assert_eq!((&over["id"], &over["by"]), (&asked["id"], &json!("local:owner")), "{over}");

    let steps: Vec<(u64, Value)> = seen.iter().map(step).collect();
    assert!(steps.windows(2).all(|pair| pair[0].0 < pair[1].0), "one came twice or late: {steps:?}");
    assert!(seen.iter().all(|event| !event.data.contains(&secret)), "what was said is told");
    let mut of: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (_, told) in &steps {
        let what = told["what"].as_str().unwrap().to_owned();
        of.entry(told["id"].as_str().unwrap().to_owned()).or_default().push(what);
    }
    for (id, steps) in &of {
        let words: Vec<&str> = steps.iter().map(String::as_str).collect();
        assert!(
            matches!(
                words[..],
                // The last ones are on their way.
                ["accepted"]
                    | ["accepted", "delivered"]
                    | ["accepted", "dead", "retried", "delivered"]
                    | ["accepted", "dead", "discarded"]
                    | ["asked", "answered"]
                    | ["asked", "cancelled"]
            ),
            "{id}: {words:?}"
        );
    }
    // Whoever begins at the beginning is told the same.
    let mut whole = follow(&daemon, &token, Some("a0.c0.h0"));
    for expected in &steps {
        assert_eq!(&step(&whole.next().unwrap()), expected);
    }
    let mut child = ctl(&home, &daemon, &["events", "--topic", "questions", "--after", "a0.c0.h0"]);
    let mut child = child.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let line = lines.map(Result::unwrap).find(|line| line.contains("answered")).unwrap();
    assert!(line.contains(answered["id"].as_str().unwrap()) && line.contains("by local:owner"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(daemon.stop().success());
}

#[test]
fn steps_are_told_to_whoever_may_read_their_agent() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    for (agent, chat) in [("mock-agent", "ops"), ("dev-agent", "dev")] {
        wire(&daemon, agent, chat, json!({"senders": "anyone"}));
    }
    let role = json!({"grant": [{"user": "local:ann", "role": "approver"}]});
    let change = submit(&daemon, "permissions", "dev-agent", &role).json();
    assert_eq!(approve(&daemon, &change).status, 200, "{change}");
    let token_of = |name: &str, user: &str, scopes: Value| {
        let body = json!({"name": name, "user": user, "scopes": scopes});
        daemon.send(Request::post("/v1/tokens", &body)).ok()["token"].as_str().unwrap().to_owned()
    };
    let ann = token_of("ann", "local:ann", json!(["read"]));
    let talks = token_of("talks", "local:owner", json!(["chat"]));
    for topic in ["deliveries", "questions"] {
        let path = format!("/v1/events?topics={topic}");
        assert_eq!(Request::get(&path).token(&talks).send(daemon.address).unwrap().status, 403, "{topic}");
    }
    let mut events = follow(&daemon, &ann, None);
    let say = |chat: &str| {
        let text = marker();
        assert_eq!(hook.say(ingress, &json!({"text": text, "chat": chat})).status, 202);
        hook.wait(chat, &text);
    };
    say("ops");
    // Had the first been for them, it would come first.
    say("dev");
    let told = data(&events.next().unwrap());
    assert_eq!((&told["group"], &told["chat"]), (&json!("dev-agent"), &json!("dev")), "{told}");
    assert!(daemon.stop().success());
}
