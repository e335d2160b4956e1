//! Every named crash point, walked one by one: the process that passes it dies there, the next start goes on,
//! and each message is answered exactly once.

use std::collections::BTreeSet;

use crate::crash::{all_answered_once, deaths};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, leftovers, marker, points};

/// Points that only a turn passes which an earlier sandbox left open, or only a long chain of records, or only a
/// change or an agent that asks for one. They have tests of their own.
const OFF_THE_PLAIN_WAY: &[&str] = &[
    "step.turn_resumed.before",
    "step.turn_resumed.after",
    "step.abandon.before",
    "export.rotated",
    "step.asked.before",
    "step.asked.after",
    "step.sent.before",
    "step.sent.after",
    "ask.before_commit",
    "ask.after_commit",
    "ask.recorded",
    "send.before_commit",
    "send.after_commit",
    "attach.before_commit",
    "attach.after_commit",
    "erase.before_commit",
    "erase.after_commit",
    "submit.before_commit",
    "submit.after_commit",
    "decide.before_commit",
    "decide.after_commit",
    "apply.written",
    "apply.copied",
    "apply.before_commit",
    "apply.after_commit",
    "agent.messages_failed",
    "deliver.before_commit",
    "deliver.after_commit",
    "run.before_commit",
    "run.after_commit",
    "card.before_commit",
    "card.after_commit",
];

#[test]
fn every_crash_point_is_survived() {
    let mut names = points::names();
    assert!(names.len() >= 25, "crash points in src/: {names:?}");
    for area in ["accept.", "launch.", "step.", "ring.", "ingest.", "finish.", "export."] {
        assert!(names.iter().any(|name| name.starts_with(area)), "no point of {area} in {names:?}");
    }
    for name in OFF_THE_PLAIN_WAY {
        assert!(names.remove(*name), "{name} is no point any more");
    }
    walk(names, Runtime::Native);
}

/// What happens inside of a sandbox is not the same in gVisor, whose files and sockets are its own: the points
/// there once more, in two tests that can run at the same time.
#[test]
fn those_of_the_box_and_the_doorbell_in_gvisor() {
    walk_areas(&["box.", "ring."], Runtime::Gvisor);
}

#[test]
fn those_of_a_turn_in_gvisor() {
    walk_areas(&["step."], Runtime::Gvisor);
}

fn walk_areas(areas: &[&str], runtime: Runtime) {
    let mut names = points::names();
    names.retain(|name| {
        areas.iter().any(|area| name.starts_with(area)) && !OFF_THE_PLAIN_WAY.contains(&name.as_str())
    });
    assert!(names.len() >= 5 * areas.len(), "crash points of {areas:?} in src/: {names:?}");
    walk(names, runtime);
}

#[track_caller]
fn walk(names: BTreeSet<String>, runtime: Runtime) {
    let never: Vec<String> = names.into_iter().filter(|name| !survive(name, runtime)).collect();
    assert!(never.is_empty(), "these crash points were never passed: {never:?}");
}

/// Gives whether the crash point was passed at all.
fn survive(name: &str, runtime: Runtime) -> bool {
    println!("{name}");
    let home = Home::new(Build::Faults, User::Root);
    // One of them runs a tool, so that the steps of a turn are on the way.
    let texts = [marker(), format!(r#"tool:write_file {{"path":"note","content":"x"}} {}"#, marker())];
    let events = [marker(), marker()];
    let mut sessions = Vec::new();
    let mut daemon = crashing(&home, runtime, name).start();
    let mut passed = false;
    if daemon.is_ready() {
        for (text, event) in texts.iter().zip(&events) {
            // The connection may break under the request: the client then sends it again below.
            if let Ok(answer) = daemon.chat("mock-agent", "main").try_say(text, event)
                && answer.status == 202
            {
                sessions.push(answer.json()["session_id"].as_str().unwrap().to_owned());
            }
            // Else the next message might travel with the launch of the first, and nothing would be handed to a
            // running sandbox.
            eventually("its sandbox is launched, or all is over", || {
                let is_launched =
                    daemon.try_metric("ironclaw_launches_total").is_some_and(|count| count >= 1.0);
                (daemon.has_ended() || is_launched).then_some(())
            });
        }
        // Either something dies there, or everything is answered and the idle sandbox goes: then the point
        // is not on this way.
        passed = eventually(&format!("{name} is passed, or all is done"), || {
            // Whether all is done is read first: a sandbox that is gone has been counted before, so that one which
            // dies between two of these readings is not taken for one that went by itself.
            let done = daemon.try_metric("ironclaw_messages_finished_total") == Some(2.0)
                && daemon.try_metric("ironclaw_sandboxes_running") == Some(0.0);
            // One that dies with nothing open counts against nobody, and is told of all the same.
            let died = daemon.log.contains("it ended by itself");
            if daemon.has_ended() || died || deaths(&daemon).is_some_and(|count| count > 0.0) {
                return Some(true);
            }
            done.then_some(false)
        });
    }
    passed |= daemon.has_ended();
    daemon.kill9();
    drop(daemon);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    for (text, event) in texts.iter().zip(&events) {
        sessions.push(chat.say_as(text, event).session_id);
    }
    all_answered_once(&chat, &texts);
    assert!(daemon.stop().success(), "{name}");
    leftovers::none_left(&home, &sessions, &[]);
    passed
}

fn crashing<'a>(home: &'a Home, runtime: Runtime, name: &str) -> Serve<'a> {
    // A file in this directory opens the gate of its name; there is none.
    let gates = home.root.join("user").display().to_string();
    Serve::new(home, runtime)
        .flag("--linger", "1s")
        .fault(format!("mock-gate={gates}"))
        .fault(format!("crash={name}"))
}

/// A sandbox dies in a held turn; the next one takes the turn up again, and dies doing so.
#[test]
fn a_turn_is_taken_up_again() {
    for name in ["step.turn_resumed.before", "step.turn_resumed.after"] {
        let home = Home::new(Build::Faults, User::Root);
        let daemon = crashing(&home, Runtime::Native, name).ready();
        let text = format!("hold:shut {}", marker());
        daemon.chat("mock-agent", "main").say(&text);
        eventually("the turn began", || {
            (daemon.metric("ironclaw_ingest_seconds_count") >= 1.0).then_some(())
        });
        kill_sandboxes(&home, &daemon);
        // The gate is shut: only the crash point can end the second one.
        eventually(&format!("{name} is passed"), || (deaths(&daemon)? >= 2.0).then_some(()));
        goes_on(home, daemon, &[text]);
    }
}

/// A message whose sandbox died five times is given up; the sandbox that then finds its turn open forgets it,
/// and dies doing so.
#[test]
fn a_turn_given_up_is_forgotten() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = crashing(&home, Runtime::Native, "step.abandon.before").ready();
    let chat = daemon.chat("mock-agent", "main");
    let given_up = chat.say(&format!("hold:shut {}", marker()));
    let mut stored = 0.0;
    for count in 1..=5u8 {
        turn_began(&daemon, stored);
        kill_sandboxes(&home, &daemon);
        stored = daemon.metric("ironclaw_ingest_seconds_count");
        eventually("the death is counted", || (deaths(&daemon)? >= f64::from(count)).then_some(()));
    }
    let told = chat.wait(given_up.position, "word that it was given up", |entry| entry.direction == "notice");
    assert_eq!(told.in_reply_to.as_deref(), Some(given_up.message_id.as_str()));
    let text = format!("hold:shut {}", marker());
    chat.say(&text);
    eventually("step.abandon.before is passed", || (deaths(&daemon)? >= 6.0).then_some(()));
    goes_on(home, daemon, &[text]);
}

/// Waits until more rings are stored than these: the first one of a sandbox says that its turn began.
fn turn_began(daemon: &Daemon, stored: f64) {
    eventually("the turn began", || (daemon.metric("ironclaw_ingest_seconds_count") > stored).then_some(()));
}

fn kill_sandboxes(home: &Home, daemon: &Daemon) {
    for id in home.processes().into_iter().filter(|id| *id != daemon.id()) {
        leftovers::kill(id);
    }
}

/// After a `kill -9` of the control plane and a start without faults, every text is answered once.
fn goes_on(home: Home, mut daemon: Daemon, texts: &[String]) {
    daemon.kill9();
    drop(daemon);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    all_answered_once(&daemon.chat("mock-agent", "main"), texts);
    assert!(daemon.stop().success());
    leftovers::none_left(&home, &[], &[]);
}
