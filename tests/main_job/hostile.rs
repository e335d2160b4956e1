//! A hostile sandbox: whatever it does at the doorbell or in `outbound.db`, bystanders are answered while it
//! does it, it is stopped, and where it broke the contract it is parked until an operator releases it, with
//! the reason in the log.

use serde_json::json;

use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, marker};

/// What must become of a mode.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Parked at once: it broke the contract.
    Parked,
    /// Stopped and launched again after a pause, in the end given up: it died or was silent.
    Ended,
    /// Not stopped for it: it only costs itself.
    Tolerated,
}

/// One group of modes per test, so that a failure names it and two run at a time.
macro_rules! modes {
    ($($name:ident: $fate:ident [$($mode:literal),+ $(,)?])+) => {
        $(mod $name {
            use super::{Fate, Runtime, misbehave};

            #[test]
            fn native() {
                for mode in [$($mode),+] {
                    misbehave(mode, Fate::$fate, Runtime::Native);
                }
            }

            #[test]
            fn gvisor() {
                for mode in [$($mode),+] {
                    misbehave(mode, Fate::$fate, Runtime::Gvisor);
                }
            }
        })+
    };
}

modes! {
    garbage_on_the_doorbell: Parked [
        "garbage", "garbage-text", "garbage-long", "garbage-negative", "garbage-huge", "garbage-zero",
        "garbage-hello", "ack-ahead", "version", "early",
    ]
    a_file_that_is_no_database: Parked ["malformed", "empty", "torn", "odd-size", "plain", "oversized", "sparse"]
    a_schema_that_is_not_ours: Parked [
        "trigger", "view", "index", "extra-table", "other-columns", "schema-text", "wrong-types",
    ]
    numbers_that_lie: Parked ["even", "below", "repeated", "ahead", "behind"]
    too_much_at_once: Parked ["huge-text", "many-rows"]
    a_file_that_changes_while_it_is_read: Parked ["swap"]
    a_flood: Tolerated ["flood", "flood-valid", "busy"]
    silence: Ended ["mute", "never-ack", "deaf"]
    an_end_by_itself: Ended ["exit", "abort"]
    further_connections: Tolerated ["two"]
}

fn start(home: &Home, runtime: Runtime) -> Daemon {
    Serve::new(home, runtime)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .flag("--launch-timeout", "10s")
        .flag("--linger", "1s")
        .ready()
}

fn misbehave(mode: &str, fate: Fate, runtime: Runtime) {
    println!("{mode}");
    let home = Home::new(Build::Faults, User::Root);
    let daemon = start(&home, runtime);
    let bystander = daemon.chat("mock-agent", "main");
    bystander.ask("warm");
    let sent = daemon.chat("dev-agent", "main").say(&format!("hostile {mode}"));
    daemon.log.wait_for("that the hostile sandbox was launched", |line| {
        line.contains("sandbox.launched") && line.contains(&sent.session_id)
    });
    // While it misbehaves, others are served.
    for _ in 0..5 {
        let text = marker();
        assert_eq!(bystander.ask(&text), format!("mock-agent received: {text}"), "{mode}");
    }
    match fate {
        Fate::Parked => {
            let line = daemon.log.wait_for(&format!("that {mode} was parked"), |line| {
                line.contains("session.parked") && line.contains(&sent.session_id)
            });
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(line["why"].as_str().is_some_and(|why| why.len() > 10), "{mode}: {line}");
            eventually("its sandbox is gone", || {
                (daemon.metric("ironclaw_sessions_parked") == 1.0).then_some(())
            });
            assert!(session(&daemon, &sent.session_id).to_string().contains("parked"), "{mode}");
            // Parked means that mail waits; the others go on.
            daemon.chat("dev-agent", "main").say("hostile honest");
            assert!(bystander.ask("after").contains("after"));
            assert_eq!(daemon.metric("ironclaw_sessions_parked"), 1.0, "{mode}");
        }
        Fate::Ended => {
            eventually(&format!("{mode} is stopped and counted"), || {
                (daemon.metric("ironclaw_sandbox_ends_total") >= 1.0).then_some(())
            });
        }
        Fate::Tolerated => {}
    }
    assert!(daemon.stop().success(), "{mode}");
    crate::world::leftovers::none_left(&home, &[sent.session_id], &[]);
}

/// The test program's honest mode is answered like an agent: each lie above fails for its own reason.
#[test]
fn the_hostile_program_can_be_honest() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = start(&home, Runtime::Native);
    assert_eq!(daemon.chat("dev-agent", "main").ask("hostile honest"), "honest");
    assert_eq!(
        daemon.chat("dev-agent", "two").ask("hostile two"),
        "50 of 50 further connections were closed"
    );
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
}

#[test]
fn a_sandbox_that_ignores_stop_is_killed() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = start(&home, Runtime::Native);
    assert_eq!(daemon.chat("dev-agent", "main").ask("hostile ignore-stop"), "ignoring");
    eventually("it is gone after the linger", || (home.processes() == [daemon.id()]).then_some(()));
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
}

#[test]
fn what_it_may_not_answer_reaches_nobody() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = start(&home, Runtime::Native);
    let bystander = daemon.chat("mock-agent", "main");
    bystander.ask("warm");
    let sent = daemon.chat("dev-agent", "main").say("hostile foreign-reply");
    daemon.log.wait_for("that it was launched", |line| {
        line.contains("sandbox.launched") && line.contains(&sent.session_id)
    });
    eventually("it was judged", || {
        let parked = daemon.metric("ironclaw_sessions_parked") == 1.0;
        (parked || daemon.metric("ironclaw_messages_finished_total") >= 2.0).then_some(())
    });
    assert!(bystander.history().iter().all(|entry| !entry.text.contains("not mine to answer")));
}

#[test]
fn a_released_session_goes_on() {
    let home = Home::new(Build::Faults, User::Root);
    let sent = {
        let daemon = start(&home, Runtime::Native);
        let sent = daemon.chat("dev-agent", "main").say("hostile garbage");
        daemon.log.wait_for("that it was parked", |line| line.contains("session.parked"));
        assert!(daemon.stop().success());
        sent
    };
    // Without the hostile program in its place, and parked still.
    let daemon = Serve::new(&home, Runtime::Native).ready();
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 1.0);
    let path = format!("/v1/sessions/{}/release", sent.session_id);
    let answer = daemon.send(Request::post(&path, &json!({})));
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    let answer = daemon.chat("dev-agent", "main").answer_after(sent.position);
    assert!(answer.text.contains("hostile garbage"), "{answer:?}");
}

#[test]
fn a_full_disk_is_the_groups_own() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = Serve::new(&home, Runtime::Native)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .flag("--group-quota-bytes", "33554432")
        .ready();
    daemon.chat("dev-agent", "main").say("hostile fill");
    let bystander = daemon.chat("mock-agent", "main");
    eventually("the group is stopped for its quota", || {
        bystander.ask("meanwhile");
        daemon.log.contains("quota").then_some(())
    });
}

#[track_caller]
fn session(daemon: &Daemon, id: &str) -> serde_json::Value {
    let all = daemon.get("/v1/sessions");
    let list = all.as_array().or_else(|| all["sessions"].as_array()).unwrap_or_else(|| panic!("{all}"));
    list.iter()
        .find(|one| one.to_string().contains(id))
        .cloned()
        .unwrap_or_else(|| panic!("no {id} in {all}"))
}
