//! A conversation that is erased: nobody can read it any more, the agent least of all, and it goes on.

use std::path::PathBuf;

use serde_json::json;

use crate::hand::{ctl, refused, said};
use crate::heard::{ingress, serve, wire};
use crate::hook::{Hook, Manner};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, marker};

crate::world::boxes::in_both_back_ends!(what_is_erased_is_gone_and_the_conversation_begins_anew);

fn directory(home: &Home, session: &str) -> PathBuf {
    home.state().join("sessions").join(session)
}

fn acts(daemon: &Daemon, act: &str) -> usize {
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    records.iter().filter(|record| record["act"] == act).count()
}

fn what_is_erased_is_gone_and_the_conversation_begins_anew(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let gates = home.root.join("user");
    let daemon = Serve::new(&home, runtime).fault(format!("mock-gate={}", gates.display())).ready();
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    let (chat, other) = (daemon.chat("mock-agent", "main"), daemon.chat("mock-agent", "other"));
    let (text, kept) = (marker(), marker());
    let sent = chat.say(&text);
    chat.answer_after(sent.position);
    other.ask(&kept);
    // One turn is on its way, and its answer never comes.
    let held = chat.say(&format!("hold:gate {text}"));
    eventually("the turn began", || {
        let shown = daemon.get(&format!("/v1/sessions/{}", sent.session_id));
        (shown["phase"] == "busy" && shown["open_messages"] == 1).then_some(())
    });
    refused(own(&["session", "erase", "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV", "--yes"]), 1, &["no session"]);
    assert!(said(own(&["session", "erase", &sent.session_id, "--yes"])).contains("is erased"));
    std::fs::write(gates.join("gate"), "").unwrap();
    assert!(!directory(&home, &sent.session_id).exists());
    let entries = chat.history();
    assert!(entries.iter().all(|entry| entry.text.is_empty()), "{entries:?}");
    let failed = |entry: &crate::world::Entry| entry.in_reply_to.as_deref() == Some(held.message_id.as_str());
    assert!(entries.iter().any(failed), "it is said that no answer comes: {entries:?}");
    assert!(other.history().iter().any(|entry| entry.text == kept), "what is of others stays");
    // It goes on, and knows of nothing.
    let answer = chat.ask("who am I");
    assert!(answer.contains("mock-agent received: who am I") && !answer.contains(&text), "{answer}");
    assert_eq!(daemon.get(&format!("/v1/sessions/{}", sent.session_id))["state"], "ready");
    assert!(!chat.history().iter().any(|entry| entry.text.contains("memory")), "that is no accident");
    assert_eq!(acts(&daemon, "session.erased"), 1);
    // Again, while nothing runs and when nothing is there.
    said(own(&["session", "erase", &sent.session_id, "--yes"]));
    said(own(&["session", "erase", &sent.session_id, "--yes"]));
    assert!(daemon.stop().success());
}

/// Whoever dies meanwhile: it is erased, or it is as it was and can be erased again.
#[test]
fn every_crash_point_of_erasing_is_survived() {
    for name in ["erase.before_commit", "erase.after_commit"] {
        let home = Home::new(Build::Faults, User::Root);
        let daemon = Serve::new(&home, Runtime::Native).fault(format!("crash={name}")).ready();
        let chat = daemon.chat("mock-agent", "main");
        let (text, answer) = (marker(), chat.say("hello"));
        chat.answer_after(answer.position);
        chat.ask(&text);
        let session = answer.session_id;
        assert!(
            !ctl(&home, &daemon, &["session", "erase", &session, "--yes"]).output().unwrap().status.success()
        );
        let mut daemon = daemon;
        daemon.ended();
        drop(daemon);
        let daemon = Serve::new(&home, Runtime::Native).ready();
        let chat = daemon.chat("mock-agent", "main");
        let was_erased = name == "erase.after_commit";
        assert_eq!(chat.history().iter().any(|entry| entry.text == text), !was_erased, "{name}");
        assert_eq!(
            directory(&home, &session).exists(),
            !was_erased,
            "{name}: what is left is swept at the start"
        );
        assert_eq!(acts(&daemon, "session.erased"), usize::from(was_erased), "{name}");
        assert_eq!(daemon.get("/v1/audit/verify")["ok"], true);
        said(ctl(&home, &daemon, &["session", "erase", &session, "--yes"]));
        assert!(chat.history().iter().all(|entry| entry.text.is_empty()), "{name}");
        assert!(chat.ask("hello").contains("received: hello"));
        assert!(daemon.stop().success());
    }
}

/// What nobody uses is erased by itself, but not while somebody is owed something.
#[test]
fn what_nobody_uses_expires() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    let chat = daemon.chat("mock-agent", "main");
    let sent = chat.say("hello");
    chat.answer_after(sent.position);
    // A platform that does not take it for long.
    hook.next("ops", &[Manner::Later(429, 3600)]);
    hook.say(ingress, &json!({"text": "owed", "chat": "ops"}));
    eventually("it is put off", || {
        let waiting = daemon.get("/v1/deliveries?state=waiting")["deliveries"].as_array().unwrap().clone();
        waiting.iter().any(|one| one["attempts"] == 1).then_some(())
    });
    assert!(daemon.stop().success());
    let daemon = serve(&home, Runtime::Native, &hook, ingress)
        .flag("--session-expiry", "1s")
        .flag("--sweep-interval", "1h")
        .ready();
    let chat = daemon.chat("mock-agent", "main");
    eventually("it is erased", || chat.history().iter().all(|entry| entry.text.is_empty()).then_some(()));
    eventually("its files are gone", || (!directory(&home, &sent.session_id).exists()).then_some(()));
    assert_eq!(acts(&daemon, "session.expired"), 1, "the other one is owed an answer");
    assert!(chat.ask("hello").contains("received: hello"));
    eventually("and again", || (acts(&daemon, "session.expired") == 2).then_some(()));
    let waiting = daemon.get("/v1/deliveries?state=waiting")["deliveries"].as_array().unwrap().clone();
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert!(daemon.stop().success());
}
