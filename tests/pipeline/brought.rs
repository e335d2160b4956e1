//! What is brought to a platform that is slow, refuses, or breaks: in order, once, and never at the cost of other chats.

use std::time::Duration;

use serde_json::{Value, json};

use crate::hand::{ctl, refused, said};
use crate::heard::{ingress, serve, wire};
use crate::hook::{Hook, Manner};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, marker};

fn deliveries(daemon: &Daemon, state: &str) -> Vec<Value> {
    daemon.get(&format!("/v1/deliveries?state={state}"))["deliveries"].as_array().unwrap().clone()
}

#[test]
fn what_is_not_taken_comes_again_and_what_never_is_is_kept_for_somebody() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    let say = |text: &str| assert_eq!(hook.say(ingress, &json!({"text": text, "chat": "ops"})).status, 202);
    // An error of the moment, a hint, and what was taken although no answer came: each once, under the same name.
    hook.next("ops", &[Manner::Status(500), Manner::Later(429, 1), Manner::Drop]);
    say("first");
    // What waited together would be answered together.
    eventually("it was tried", || (hook.requests() > 0).then_some(()));
    say("second");
    hook.wait("ops", "second");
    let taken = hook.taken("ops");
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert!(taken[0].text.contains("first") && taken[0].times == 2, "{taken:?}");
    assert!(taken[1].text.contains("second") && taken[1].times == 1, "in order: {taken:?}");
    assert_eq!(daemon.metric("ironclaw_delivery_retries_total"), 3.0);
    // What the platform will never take keeps nothing behind it.
    hook.next("ops", &[Manner::Status(404), Manner::Status(302)]);
    let given_up = |count: usize| {
        eventually("it is given up", || Some(deliveries(&daemon, "dead")).filter(|dead| dead.len() == count))
    };
    say("never");
    given_up(1);
    say("nor this");
    let dead = given_up(2);
    say("after it");
    hook.wait("ops", "after it");
    assert!(dead[0]["error"].as_str().unwrap().contains("404"), "{dead:?}");
    assert!(dead[1]["error"].as_str().unwrap().contains("no redirect"), "{dead:?}");
    assert_eq!(daemon.metric("ironclaw_dead_letters_total"), 2.0);
    let (one, other) = (dead[0]["id"].as_str().unwrap(), dead[1]["id"].as_str().unwrap());
    let table = said(own(&["delivery", "list"]));
    assert!(table.contains(one) && table.contains("delivery retry"), "{table}");
    said(own(&["delivery", "retry", one]));
    hook.wait("ops", "never");
    said(own(&["delivery", "discard", other]));
    assert!(said(own(&["delivery", "list"])).contains("nothing was given up"));
    refused(own(&["delivery", "retry", one]), 1, &["nothing to do"]);
    refused(own(&["delivery", "retry", other]), 1, &["nothing to do"]);
    refused(own(&["delivery", "discard", "msg_x"]), 1, &["delivery list"]);
    let acts: Vec<String> = daemon.get("/v1/audit?limit=20")["records"]
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["act"].as_str().unwrap().to_owned())
        .filter(|act| act.starts_with("delivery."))
        .collect();
    assert_eq!(acts, ["delivery.discarded", "delivery.retried"]);
    say("last");
    hook.wait("ops", "last");
    assert!(hook.taken("ops").iter().all(|taken| !taken.text.contains("nor this")));
    assert!(daemon.stop().success());
}

#[test]
fn an_account_that_is_refused_waits_and_loses_nothing() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    hook.always("ops", Some(Manner::Status(401)));
    hook.say(ingress, &json!({"text": "kept", "chat": "ops"}));
    let state =
        |daemon: &Daemon| daemon.get("/v1/channels")["channels"][0]["state"].as_str().unwrap().to_owned();
    eventually("the account is known to be refused", || (state(&daemon) == "auth_failed").then_some(()));
    // What waits says why.
    let waiting = eventually("the reason is known", || {
        let waiting = deliveries(&daemon, "waiting");
        waiting[0]["error"].is_string().then_some(waiting)
    });
    assert!(waiting.len() == 1 && waiting[0]["error"].as_str().unwrap().contains("401"), "{waiting:?}");
    assert!(deliveries(&daemon, "dead").is_empty());
    let asked = hook.requests();
    assert!(daemon.stop().success(), "it does not wait for the platform");
    assert_eq!(hook.requests(), asked, "and does not try again and again");
    hook.always("ops", None);
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    hook.wait("ops", "kept");
    assert_eq!(state(&daemon), "connected");
    assert!(daemon.stop().success());
}

/// What one chat refuses is given up with the reason, and is nothing that the account is to be held for.
#[test]
fn a_chat_that_refuses_is_no_account_that_is_refused() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    for chat in ["shut", "open"] {
        wire(&daemon, "mock-agent", chat, json!({"senders": "anyone"}));
    }
    hook.always("shut", Some(Manner::Status(403)));
    for chat in ["shut", "open"] {
        assert_eq!(hook.say(ingress, &json!({"text": "hello", "chat": chat})).status, 202);
    }
    hook.wait("open", "hello");
    let dead = eventually("it is given up", || {
        let dead = deliveries(&daemon, "dead");
        (!dead.is_empty()).then_some(dead)
    });
    assert!(dead[0]["chat"] == "shut" && dead[0]["error"].as_str().unwrap().contains("403"), "{dead:?}");
    assert_eq!(daemon.get("/v1/channels")["channels"][0]["state"], "connected");
    assert!(daemon.stop().success());
}

/// Three accounts hang in as many chats as they may be written to: every other account is brought what it is due.
#[test]
fn accounts_that_hang_keep_no_other_waiting() {
    let (home, ingress) = (Home::new(Build::Release, User::Root), ingress());
    let names = ["a", "b", "c", "good"];
    let hooks: Vec<Hook> = names.iter().map(|_| Hook::start()).collect();
    let account = |(name, hook): (&&str, &Hook)| {
        format!(
            "[[channel]]\ntype = \"webhook\"\ninstance = \"{name}\"\nurl = \"{}\"\nsecret = \"{}\"\n",
            hook.url(),
            hook.secret
        )
    };
    let accounts: String = names.iter().zip(&hooks).map(account).collect();
    crate::doors::write(&home, &accounts, 0o600);
    let daemon = Serve::new(&home, Runtime::Native).flag("--ingress-addr", ingress.to_string()).ready();
    let chats: Vec<String> = (0..16).map(|number| format!("c{number}")).collect();
    // One conversation of all of them: what counts is how many chats are written to.
    for name in names {
        let wirings: Vec<Value> = chats
            .iter()
            .map(|chat| {
                json!({"channel": "webhook", "instance": name, "chat": chat, "senders": "anyone",
                    "sessions": "agent-shared"})
            })
            .collect();
        let change = crate::hand::submit(&daemon, "wiring", "mock-agent", &json!({"add": wirings})).ok();
        assert_eq!(crate::hand::approve(&daemon, &change).status, 200);
    }
    let say = |name: &str, hook: &Hook, chat: &str| {
        let body = json!({"text": "hello", "chat": chat});
        let answer = hook.try_say(ingress, &format!("/hooks/webhook/{name}"), &marker(), &body).unwrap();
        assert_eq!(answer.status, 202, "{}", answer.text());
    };
    for (name, hook) in names.iter().zip(&hooks).take(3) {
        for chat in &chats {
            hook.always(chat, Some(Manner::Hang));
            say(name, hook, chat);
        }
    }
    for (name, hook) in names.iter().zip(&hooks).take(3) {
        eventually(&format!("{name} hangs in all chats that it may"), || {
            (hook.requests() >= 12).then_some(())
        });
    }
    say("good", &hooks[3], "c0");
    hooks[3].wait("c0", "hello");
    assert_eq!(daemon.metric("ironclaw_delivery_retries_total"), 0.0, "before any of them was waited out");
    for hook in &hooks[..3] {
        hook.release();
    }
    assert!(daemon.stop().success());
}

/// One chat always fails, one hangs, one is flooded: every other is brought what it is due while they do.
#[test]
fn a_bad_chat_keeps_no_other_waiting() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    for chat in ["fails", "hangs", "good"] {
        wire(&daemon, "mock-agent", chat, json!({"senders": "anyone"}));
    }
    hook.always("fails", Some(Manner::Status(503)));
    hook.always("hangs", Some(Manner::Slow(Duration::from_secs(14))));
    let say = |chat: &str, text: &str| {
        assert_eq!(hook.say(ingress, &json!({"text": text, "chat": chat})).status, 202);
    };
    for number in 0..3 {
        say("fails", &format!("f{number}"));
        say("hangs", &format!("h{number}"));
    }
    eventually("both are stuck", || {
        let stuck = deliveries(&daemon, "waiting");
        let is_stuck = |chat: &str| stuck.iter().any(|one| one["chat"] == chat);
        (is_stuck("fails") && is_stuck("hangs")).then_some(())
    });
    for _ in 0..5 {
        let text = marker();
        say("good", &text);
        hook.wait("good", &text);
    }
    assert!(hook.taken("fails").is_empty());
    assert!(hook.taken("hangs").len() < 3, "it hangs still");
    hook.always("fails", None);
    hook.wait("fails", "f2");
    // What waited together may be answered together; in order all the same.
    let order: String = hook.taken("fails").into_iter().map(|taken| taken.text + "\n").collect();
    let at = |text: &str| order.find(text).unwrap_or_else(|| panic!("no {text} in {order}"));
    assert!(at("f0") < at("f1") && at("f1") < at("f2"), "{order}");
    assert!(daemon.stop().success());
}

/// An agent that is taken away from a chat while it answers there says nothing there any more.
#[test]
fn an_answer_to_a_chat_that_was_taken_away_goes_nowhere() {
    let (home, hook, ingress) = (Home::new(Build::Faults, User::Root), Hook::start(), ingress());
    let gates = home.root.join("gates");
    std::fs::create_dir(&gates).unwrap();
    let daemon =
        serve(&home, Runtime::Native, &hook, ingress).fault(format!("mock-gate={}", gates.display())).ready();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    wire(&daemon, "mock-agent", "other", json!({"senders": "anyone"}));
    hook.say(ingress, &json!({"text": "hold:answer slowly", "chat": "ops"}));
    eventually("the model is asked", || (daemon.metric("ironclaw_model_requests_total") > 0.0).then_some(()));
    let gone = json!({"remove": [{"channel": "webhook", "chat": "ops"}]});
    let change = crate::hand::submit(&daemon, "wiring", "mock-agent", &gone).ok();
    assert_eq!(crate::hand::approve(&daemon, &change).status, 200);
    std::fs::write(gates.join("answer"), "").unwrap();
    eventually("its turn is over", || {
        let sessions = daemon.get("/v1/sessions")["sessions"].as_array().unwrap().clone();
        sessions.iter().all(|session| session["open_messages"] == 0).then_some(())
    });
    hook.say(ingress, &json!({"text": "here", "chat": "other"}));
    hook.wait("other", "here");
    assert!(hook.taken("ops").is_empty(), "{:?}", hook.taken("ops"));
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let records = daemon.get("/v1/audit?limit=100")["records"].as_array().unwrap().clone();
    let refused =
        records.iter().find(|record| record["act"] == "action.refused").expect("it is in the audit");
    assert_eq!((&refused["object"], &refused["detail"]["why"]), (&json!("reply"), &json!("not_wired")));
    assert!(daemon.stop().success());
}

/// What was said and waits because the platform does not take it now is not brought once its agent was taken away.
#[test]
fn what_waits_goes_nowhere_once_its_agent_is_taken_away() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    for chat in ["ops", "dead", "other"] {
        wire(&daemon, "mock-agent", chat, json!({"senders": "anyone"}));
    }
    let say = |chat: &str| assert_eq!(hook.say(ingress, &json!({"text": "x", "chat": chat})).status, 202);
    hook.always("ops", Some(Manner::Later(429, 1)));
    hook.next("dead", &[Manner::Status(404)]);
    say("dead");
    say("ops");
    let put_off = |state: &str, attempts: u64| {
        eventually(&format!("it is {state}"), || {
            let all = deliveries(&daemon, state);
            all.iter().find(|one| one["attempts"].as_u64().unwrap() >= attempts).cloned()
        })
    };
    put_off("waiting", 1);
    let dead = put_off("dead", 0);
    let gone =
        json!({"remove": [{"channel": "webhook", "chat": "ops"}, {"channel": "webhook", "chat": "dead"}]});
    let change = crate::hand::submit(&daemon, "wiring", "mock-agent", &gone).ok();
    assert_eq!(crate::hand::approve(&daemon, &change).status, 200);
    hook.always("ops", None);
    eventually("nothing waits", || deliveries(&daemon, "waiting").is_empty().then_some(()));
    // Nor does somebody bring it who did not see that.
    said(ctl(&home, &daemon, &["delivery", "retry", dead["id"].as_str().unwrap()]));
    eventually("nothing waits", || deliveries(&daemon, "waiting").is_empty().then_some(()));
    say("other");
    hook.wait("other", "x");
    assert!(hook.taken("ops").is_empty() && hook.taken("dead").is_empty());
    assert!(daemon.stop().success());
}

/// The platform took it and the ledger cannot say so: that is tried again, and the message is not sent again.
#[test]
fn what_was_taken_is_noted_until_that_is_done_and_sent_once() {
    let (home, hook, ingress) = (Home::new(Build::Faults, User::Root), Hook::start(), ingress());
    let failing = home.root.join("failing");
    std::fs::write(&failing, "").unwrap();
    let daemon = serve(&home, Runtime::Native, &hook, ingress)
        .fault(format!("noting-fails={}", failing.display()))
        .ready();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    hook.say(ingress, &json!({"text": "first", "chat": "ops"}));
    hook.wait("ops", "first");
    let is_not_noted = |line: &str| line.contains("delivery.not_noted");
    daemon.log.wait_for("that it is not noted", is_not_noted);
    assert_eq!(deliveries(&daemon, "waiting").len(), 1);
    hook.say(ingress, &json!({"text": "second", "chat": "ops"}));
    std::fs::remove_file(&failing).unwrap();
    hook.wait("ops", "second");
    let taken = hook.taken("ops");
    assert!(taken.len() == 2 && taken.iter().all(|taken| taken.times == 1), "{taken:?}");
    assert!(daemon.stop().success());
}
