//! Who is heard, and what becomes of what they say.

use serde_json::{Value, json};

use crate::hand::{approve, ctl, json as printed, refused, said, submit};
use crate::hook::{Hook, now, sign};
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, daemon::free_port, eventually, marker};

crate::world::boxes::in_both_back_ends!(an_answer_goes_to_the_chat_and_thread_that_it_came_from);

/// Where platforms reach a control plane that is yet to be started.
pub(crate) fn ingress() -> std::net::SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// A control plane with one account, that of the fake.
pub(crate) fn serve<'a>(
    home: &'a Home,
    runtime: Runtime,
    hook: &Hook,
    ingress: std::net::SocketAddr,
) -> Serve<'a> {
    Serve::new(home, runtime)
        .env("IRONCLAW_WEBHOOK_URL", hook.url())
        .env("IRONCLAW_WEBHOOK_SECRET", hook.secret.clone())
        .flag("--ingress-addr", ingress.to_string())
}

/// Wires a chat with these terms.
#[track_caller]
pub(crate) fn wire(daemon: &Daemon, agent: &str, chat: &str, terms: Value) {
    let mut wiring = json!({"channel": "webhook", "chat": chat});
    wiring.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
    let change = submit(daemon, "wiring", agent, &json!({"add": [wiring]})).ok();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

/// Makes somebody a member.
#[track_caller]
pub(crate) fn admit(daemon: &Daemon, agent: &str, user: &str) {
    let change = submit(daemon, "permissions", agent, &json!({"add_members": [user]})).ok();
    assert_eq!(approve(daemon, &change).status, 200, "{change}");
}

fn verdicts(answer: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let outcomes = answer["outcomes"].as_array().unwrap();
    outcomes.iter().map(|one| (text(&one["agent"]), text(&one["verdict"]), text(&one["reason"]))).collect()
}

fn an_answer_goes_to_the_chat_and_thread_that_it_came_from(runtime: Runtime) {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, runtime, &hook, ingress).ready();
    let listed = printed(ctl(&home, &daemon, &["channel", "list", "--json"]));
    assert_eq!(listed[0]["state"], "connected", "{listed}");
    wire(&daemon, "mock-agent", "ops", json!({}));
    admit(&daemon, "mock-agent", "webhook:ann");
    let text = marker();
    let body = json!({"text": text, "chat": "ops", "thread": "t1", "sender": "ann", "message": "m7"});
    let answer = hook.say(ingress, &body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    let outcome = &answer.json()["outcomes"][0];
    assert_eq!((&outcome["agent"], &outcome["verdict"]), (&json!("mock-agent"), &json!("engage")));
    let taken = hook.wait("ops", &text);
    assert_eq!((taken.thread.as_deref(), taken.in_reply_to.as_deref()), (Some("t1"), Some("m7")));
    assert_eq!((taken.times, hook.unsigned()), (1, 0));
    // The agent is told who speaks, and the conversation is that of the chat.
    let sessions = daemon.get("/v1/sessions")["sessions"].as_array().unwrap().clone();
    assert_eq!((&sessions[0]["channel"], &sessions[0]["chat"]), (&json!("webhook"), &json!("ops")));
    // Who waits gets the answer in the same request, and it goes nowhere else.
    let waited = marker();
    let answer = hook.try_say(
        ingress,
        "/hooks/webhook?wait=60",
        &marker(),
        &json!({"text": waited, "chat": "ops", "sender": "ann"}),
    );
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.json()["reply"].as_str().unwrap().contains(&waited), "{}", answer.text());
    let last = marker();
    hook.say(ingress, &json!({"text": last, "chat": "ops", "sender": "ann"}));
    hook.wait("ops", &last);
    assert!(hook.all().iter().all(|taken| !taken.text.contains(&waited)));
    // The agent that is taken away from the chat hears nothing more there.
    let change =
        submit(&daemon, "wiring", "mock-agent", &json!({"remove": [{"channel": "webhook", "chat": "ops"}]}))
            .ok();
    assert_eq!(approve(&daemon, &change).status, 200);
    let answer = hook.say(ingress, &json!({"text": "still there?", "chat": "ops", "sender": "ann"}));
    assert_eq!(answer.json()["outcomes"], json!([]));
    assert!(daemon.stop().success());
}

#[test]
fn only_a_signed_request_in_its_time_is_heard_and_once() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    let body = json!({"text": "hello", "chat": "ops"});
    let (good, at) = (body.to_string(), now().to_string());
    let send = |id: &str, at: &str, signature: &str, body: &str| {
        let mut request = Request::post("/hooks/webhook", &json!({}));
        request.body = body.as_bytes().to_vec();
        for (name, value) in [("webhook-id", id), ("webhook-timestamp", at), ("webhook-signature", signature)]
        {
            if !value.is_empty() {
                request.headers.push((name, value.to_owned()));
            }
        }
        request.send(ingress).unwrap().status
    };
    let signed = |id: &str, at: &str| sign(&hook.secret, id, at, good.as_bytes());
    let (old, late) = ((now() - 400).to_string(), (now() + 400).to_string());
    for (what, status) in [
        ("no signature", send("a", &at, "", &good)),
        ("no name", send("", &at, &signed("", &at), &good)),
        ("no time", send("a", "", &signed("a", ""), &good)),
        ("another name", send("b", &at, &signed("a", &at), &good)),
        ("another body", send("a", &at, &signed("a", &at), &good.replace("hello", "hellO"))),
        (
            "another secret",
            send("a", &at, &sign("0123456789abcdef01234567", "a", &at, good.as_bytes()), &good),
        ),
        ("too old", send("a", &old, &signed("a", &old), &good)),
        ("too early", send("a", &late, &signed("a", &late), &good)),
    ] {
        assert_eq!(status, 401, "{what}");
    }
    assert_eq!(daemon.metric("ironclaw_messages_accepted_total"), 0.0);
    // What is there and what is not looks the same but for its own place.
    for (path, method, expected) in [
        ("/", "POST", 404),
        ("/hooks/webhook/none", "POST", 404),
        ("/hooks/pigeon", "POST", 404),
        ("/hooks/webhook/a/b", "POST", 404),
        ("/v1/agents", "GET", 404),
        ("/healthz", "GET", 404),
        ("/hooks/webhook", "GET", 405),
    ] {
        let mut request = Request::post(path, &json!({}));
        request.method = method;
        let answer = request.send(ingress).unwrap();
        assert_eq!((answer.status, answer.body.len()), (expected, 0), "{method} {path}");
    }
    let mut large = Request::post("/hooks/webhook", &json!({}));
    large.body = vec![b' '; (5 << 20) + 1];
    assert!(large.send(ingress).map_or(true, |answer| answer.status == 413));
    for bad in
        ["", "[]", "{}", r#"{"text":""}"#, r#"{"text":"x","model":"y"}"#, r#"{"text":"x","chat":"a b"}"#]
    {
        assert_eq!(send("bad", &at, &sign(&hook.secret, "bad", &at, bad.as_bytes()), bad), 400, "{bad}");
    }
    // The same name is the same message, however often and whatever else it says.
    let first = hook.say_as(ingress, "once", &body).json();
    assert_eq!(first["duplicate"], false);
    let again = hook.say_as(ingress, "once", &json!({"text": "other", "chat": "ops"})).json();
    assert_eq!(
        (&again["duplicate"], &again["outcomes"][0]["message_id"]),
        (&json!(true), &first["outcomes"][0]["message_id"])
    );
    hook.wait("ops", "hello");
    hook.say(ingress, &json!({"text": "last", "chat": "ops"}));
    hook.wait("ops", "last");
    assert_eq!(hook.all().len(), 2, "{:?}", hook.all());
    assert!(!daemon.log.contains(&hook.secret), "the secret is in the log");
    assert!(daemon.stop().success());
}

#[test]
fn members_strangers_and_programs_are_heard_as_the_wiring_says() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    admit(&daemon, "mock-agent", "webhook:ann");
    admit(&daemon, "mock-agent", "webhook:robot");
    wire(&daemon, "mock-agent", "strict", json!({"engage": "mention", "ignored": "accumulate"}));
    wire(
        &daemon,
        "mock-agent",
        "public",
        json!({"senders": "anyone", "engage": "pattern", "pattern": "(?i)deploy"}),
    );
    wire(&daemon, "mock-agent", "read", json!({"unknown": "public", "ignored": "accumulate"}));
    for (payload, about) in [
        (json!({"engage": "pattern", "pattern": "("}), "the pattern cannot be used"),
        (json!({"engage": "pattern", "pattern": "(?=x)"}), "the pattern cannot be used"),
        (json!({"senders": "anyone", "unknown": "strict"}), "leave one out"),
    ] {
        let mut wiring = json!({"channel": "webhook", "chat": "x"});
        wiring.as_object_mut().unwrap().extend(payload.as_object().unwrap().clone());
        let answer = submit(&daemon, "wiring", "mock-agent", &json!({"add": [wiring]}));
        assert_eq!(answer.status, 422, "{}", answer.text());
        assert!(answer.text().contains(about), "{}", answer.text());
    }
    let say = |chat: &str, sender: &str, text: &str, more: Value| {
        let mut body = json!({"text": text, "chat": chat, "sender": sender});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = verdicts(&hook.say(ingress, &body).json());
        assert_eq!(answer.len(), 1, "{answer:?}");
        (answer[0].1.clone(), answer[0].2.clone())
    };
    let said_is = |got: (String, String), verdict: &str, reason: &str| {
        assert_eq!((got.0.as_str(), got.1.as_str()), (verdict, reason));
    };
    let plain = || json!({"mentioned": false});
    said_is(say("strict", "eve", "hi", json!({})), "drop", "stranger");
    said_is(say("strict", "ann", "by the way", plain()), "accumulate", "not_mentioned");
    said_is(say("strict", "ann", "what did I say?", json!({})), "engage", "mentioned");
    let answer = hook.wait("strict", "what did I say?");
    assert!(answer.text.contains("by the way"), "what was read along is with it: {answer:?}");
    assert!(!answer.text.contains("hi"), "what a stranger said is not: {answer:?}");
    said_is(say("public", "eve", "lunch?", plain()), "drop", "not_matched");
    said_is(say("public", "eve", "DEPLOY now", plain()), "engage", "matched");
    hook.wait("public", "DEPLOY now");
    said_is(say("read", "eve", "I am eve", json!({})), "accumulate", "guest");
    // Programs: only as members, and not without end.
    let bot = || json!({"bot": true});
    said_is(say("public", "other-robot", "deploy", bot()), "drop", "bot");
    for _ in 0..5 {
        said_is(say("strict", "robot", "beep", bot()), "engage", "mentioned");
    }
    said_is(say("strict", "robot", "beep", bot()), "accumulate", "loop");
    // The same is told before anything is said, and changes nothing.
    let table = said(own(&["route", "test", "webhook", "strict", "hi", "--sender", "webhook:eve"]));
    assert!(table.contains("drop") && table.contains("is no member"), "{table}");
    let tried = printed(own(&[
        "route",
        "test",
        "webhook",
        "strict",
        "hi",
        "--sender",
        "webhook:ann",
        "--mentioned",
        "--json",
    ]));
    assert_eq!((&tried[0]["verdict"], &tried[0]["session_chat"]), (&json!("engage"), &json!("strict")));
    assert!(
        said(own(&["route", "test", "webhook", "nowhere", "--sender", "webhook:ann"])).contains("no agent")
    );
    refused(own(&["route", "test", "webhook", "strict", "--sender", "ann"]), 1, &["CHANNEL:HANDLE"]);
    assert!(daemon.stop().success());
}

#[test]
fn who_was_named_is_meant_in_that_thread_for_a_while_and_threads_are_apart() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    let terms = json!({"senders": "anyone", "engage": "mention-sticky", "sessions": "per-thread"});
    wire(&daemon, "mock-agent", "ops", terms);
    let shared = json!({"senders": "anyone", "sessions": "agent-shared"});
    wire(&daemon, "dev-agent", "one", shared.clone());
    wire(&daemon, "dev-agent", "two", shared);
    let say = |chat: &str, thread: Option<&str>, mentioned: bool, text: &str| {
        let body = json!({"text": text, "chat": chat, "thread": thread, "mentioned": mentioned});
        verdicts(&hook.say(ingress, &body).json())[0].1.clone()
    };
    assert_eq!(say("ops", Some("a"), false, "before"), "drop");
    assert_eq!(say("ops", Some("a"), true, "first of a"), "engage");
    assert_eq!(say("ops", Some("a"), false, "more of a"), "engage");
    assert_eq!(say("ops", Some("b"), false, "of b"), "drop", "another thread");
    assert_eq!(say("ops", None, false, "of the chat"), "drop", "the chat itself");
    assert_eq!(hook.wait("ops", "more of a").thread.as_deref(), Some("a"));
    assert_eq!(say("ops", Some("b"), true, "first of b"), "engage");
    hook.wait("ops", "first of b");
    let of = |agent: &str| {
        let sessions = daemon.get("/v1/sessions")["sessions"].as_array().unwrap().clone();
        sessions.into_iter().filter(|session| session["agent"] == agent).collect::<Vec<_>>()
    };
    assert_eq!(of("mock-agent").len(), 2, "one for each thread");
    // One conversation of two chats, and each is answered where it asked.
    assert_eq!(say("one", None, true, "from one"), "engage");
    assert_eq!(say("two", None, true, "from two"), "engage");
    assert!(!hook.wait("one", "from one").text.contains("from two"));
    assert!(!hook.wait("two", "from two").text.contains("from one"));
    let sessions = of("dev-agent");
    assert_eq!((sessions.len(), &sessions[0]["channel"]), (1, &json!("agent")), "{sessions:?}");
    // After a restart it is still meant.
    assert!(daemon.stop().success());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    let body = json!({"text": "after", "chat": "ops", "thread": "a", "mentioned": false});
    assert_eq!(verdicts(&hook.say(ingress, &body).json())[0].2, "sticky");
    hook.wait("ops", "after");
    eventually("all is brought", || {
        let waiting = daemon.get("/v1/deliveries?state=waiting");
        waiting["deliveries"].as_array().unwrap().is_empty().then_some(())
    });
    assert!(daemon.stop().success());
}

/// A stranger waits, is told a code, and is heard once somebody who may admit them did; once, across a kill.
#[test]
fn a_stranger_who_is_admitted_is_heard_once() {
    let (home, hook, ingress) = (Home::new(Build::Faults, User::Root), Hook::start(), ingress());
    let mut daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    wire(&daemon, "mock-agent", "ops", json!({"unknown": "request_approval", "engage": "mention"}));
    let say = |sender: &str, text: &str, mentioned: bool| {
        let body = json!({"text": text, "chat": "ops", "sender": sender, "name": "E\u{202e}ve", "mentioned": mentioned});
        verdicts(&hook.say(ingress, &body).json())[0].1.clone()
    };
    assert_eq!(say("eve", "just talking", false), "drop");
    assert_eq!(say("eve", "let me in", true), "hold");
    let told = hook.wait("ops", "You are not known here yet");
    let code = told.text.rsplit(' ').next().unwrap().to_owned();
    assert_eq!(code.len(), 9, "{code}");
    // The same again is the same; more than three do not wait.
    let body = json!({"text": "more 0", "chat": "ops", "sender": "eve", "mentioned": true});
    let id = marker();
    for _ in 0..2 {
        let answer = hook.say_as(ingress, &id, &body).json();
        assert_eq!(verdicts(&answer)[0].1, "hold", "{answer}");
    }
    assert_eq!(say("eve", "more 1", true), "hold");
    for number in 2..4 {
        assert_eq!(say("eve", &format!("more {number}"), true), "drop");
    }
    let pending = |daemon: &Daemon| printed(ctl(&home, daemon, &["change", "pending", "--json"]));
    eventually("one change is asked for", || (pending(&daemon).as_array().unwrap().len() == 1).then_some(()));
    let change = pending(&daemon)[0].clone();
    assert_eq!(
        (&change["requested_by"], &change["kind"]),
        (&json!("channel:webhook"), &json!("permissions"))
    );
    // What a stranger is called cannot alter what an approver reads.
    let shown = said(ctl(&home, &daemon, &["change", "show", change["id"].as_str().unwrap()]));
    assert!(shown.contains("E\\u{202e}ve") && shown.contains("webhook:eve"), "{shown}");
    daemon.kill9();
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    assert_eq!(daemon.metric("ironclaw_launches_total"), 0.0, "nobody was woken");
    // Guessing is bounded, and the code leads nobody there who may not decide.
    let made = ["token", "create", "reader", "--user", "local:owner", "--scope", "read", "--json"];
    let token = printed(ctl(&home, &daemon, &made))["token"].as_str().unwrap().to_owned();
    let reader = crate::hand::ctl_as(&home, &daemon, &token, &["pair", &code, "--yes"]);
    refused(reader, 1, &["scope"]);
    for _ in 0..4 {
        refused(ctl(&home, &daemon, &["pair", "AAAA-AAAA", "--yes"]), 1, &["no such code"]);
    }
    let typed = code.to_lowercase().replace('-', " ");
    let approved = said(ctl(&home, &daemon, &["pair", &typed, "--yes"]));
    assert!(approved.contains("webhook:eve"), "{approved}");
    let answer = hook.wait("ops", "let me in");
    assert!(answer.text.contains("more 0") && answer.text.contains("more 1"), "{answer:?}");
    assert!(!answer.text.contains("more 2"), "three are kept: {answer:?}");
    assert_eq!(say("eve", "and now", true), "engage");
    hook.wait("ops", "and now");
    assert_eq!(hook.taken("ops").len(), 3, "{:?}", hook.taken("ops"));
    refused(ctl(&home, &daemon, &["pair", "AAAA-AAAA", "--yes"]), 1, &["no such code"]);
    refused(ctl(&home, &daemon, &["pair", &code, "--yes"]), 1, &["too many wrong codes"]);
    assert!(daemon.stop().success());
}

/// Whoever dies between the moment in which a stranger's message is kept and that in which they are told of a code:
/// after the next start it is asked for them, once.
#[test]
fn a_stranger_is_asked_for_whenever_it_is_killed() {
    for point in ["accept.after_commit", "submit.before_commit", "submit.after_commit"] {
        let (home, hook, ingress) = (Home::new(Build::Faults, User::Root), Hook::start(), ingress());
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        wire(&daemon, "mock-agent", "ops", json!({"unknown": "request_approval"}));
        assert!(daemon.stop().success());
        let mut daemon =
            serve(&home, Runtime::Native, &hook, ingress).fault(format!("crash={point}")).ready();
        let body = json!({"text": "let me in", "chat": "ops", "sender": "eve"});
        let _ = hook.try_say(ingress, "/hooks/webhook", "once", &body);
        daemon.ended();
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        hook.wait("ops", "You are not known here yet");
        let pending = printed(ctl(&home, &daemon, &["change", "pending", "--json"]));
        assert_eq!(pending.as_array().unwrap().len(), 1, "{point}: {pending}");
        assert!(daemon.stop().success());
        // Nobody is told again what they know.
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        wire(&daemon, "mock-agent", "open", json!({"senders": "anyone"}));
        hook.say(ingress, &json!({"text": "last", "chat": "open"}));
        hook.wait("open", "last");
        assert_eq!(hook.taken("ops").len(), 1, "{point}: {:?}", hook.taken("ops"));
        assert!(daemon.stop().success());
    }
}
