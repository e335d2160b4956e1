//! What strangers and platforms write, wherever the people of this machine read it: names, chats, topics, and what a
//! platform says when it refuses.

use serde_json::{Value, json};

use crate::hand::{approve, ctl, said, submit};
use crate::world::deceit::{CORPUS, honest};
use crate::world::http::Request;
use crate::world::telegram::{TOKEN, Telegram};
use crate::world::{Build, Home, Runtime, Serve, User, eventually};

#[test]
fn text_of_strangers_and_platforms_deceives_nobody() {
    let (home, telegram) = (Home::new(Build::Release, User::Root), Telegram::start());
    let daemon = Serve::new(&home, Runtime::Native)
        .env("TELEGRAM_BOT_TOKEN", TOKEN)
        .env("TELEGRAM_API_BASE", telegram.base())
        .ready();
    let list = |words: &[&str]| {
        let shown = said(ctl(&home, &daemon, words));
        honest(&words.join(" "), &shown);
        shown
    };
    let wire = |chat: i64, terms: Value| {
        let mut wiring = json!({"channel": "telegram", "chat": chat.to_string()});
        wiring.as_object_mut().unwrap().extend(terms.as_object().unwrap().clone());
        let change = submit(&daemon, "wiring", "mock-agent", &json!({"add": [wiring]})).ok();
        assert_eq!(change["warnings"], json!([]));
        assert_eq!(approve(&daemon, &change).status, 200, "{change}");
    };
    let dead = || daemon.get("/v1/deliveries?state=dead")["deliveries"].as_array().unwrap().len();
    for (number, (what, text)) in (1i64..).zip(CORPUS) {
        // A group of that title, in which somebody of that name says that, to whom Telegram does not bring the answer
        // and says that too.
        let chat = -1000 - number;
        telegram.tell("chat", &json!({"id": chat, "title": text}));
        wire(chat, json!({"senders": "anyone", "engage": "pattern", "pattern": "."}));
        telegram.tell(
            "fault",
            &json!({"kind": "status", "code": 403, "words": format!("Forbidden: {text}"), "method": "sendMessage",
                    "chat": chat, "times": 9}),
        );
        let known = dead();
        let from =
            json!({"id": number, "is_bot": false, "first_name": text, "last_name": text, "username": "x"});
        telegram.tell("text", &json!({"chat": chat, "from": from, "text": format!("a {text}")}));
        eventually(&format!("{what}: a dead letter"), || (dead() > known).then_some(()));
        list(&["delivery", "list"]);
        list(&["delivery", "list", "--waiting"]);
        list(&["group", "list"]);
        list(&["session", "list"]);
        // One of that name who is not known yet.
        let door = -2000 - number;
        telegram.tell("chat", &json!({"id": door, "title": text}));
        wire(door, json!({"unknown": "request_approval", "engage": "all"}));
        let stranger = json!({"id": 500 + number, "is_bot": false, "first_name": text, "last_name": text, "username": "x"});
        telegram.tell("text", &json!({"chat": door, "from": stranger, "text": text}));
        let change = eventually(&format!("{what}: somebody is to be admitted"), || {
            daemon.get("/v1/changes/pending")["changes"].as_array().unwrap().first().cloned()
        });
        let id = change["id"].as_str().unwrap();
        list(&["change", "pending"]);
        let shown = list(&["change", "show", id]);
        assert!(shown.contains(&format!("telegram:{}", 500 + number)), "{what}: {shown}");
        let shown = list(&["change", "approve", id, "--yes"]);
        assert!(shown.contains("in effect"), "{what}: {shown}");
        list(&["user", "list"]);
        list(&["member", "list", "mock-agent"]);
    }
    assert!(!list(&["wiring", "list"]).contains("no account"));
    list(&["channel", "list"]);
    list(&["change", "history"]);
    list(&["audit", "--limit", "1000"]);
    let tried = ["route", "test", "telegram", "-1001", "x", "--sender", "telegram:1"];
    assert!(list(&tried).contains("mock-agent"));
    let dead = daemon.send(Request::get("/v1/deliveries?state=dead")).text();
    honest("what was given up", &dead);
    honest("the log", &daemon.log.text());
    assert!(daemon.stop().success());
}
