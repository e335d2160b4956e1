//! Every named crash point, walked one by one: the process that passes it dies there, the next start goes on,
//! and each message is answered exactly once.

use std::collections::BTreeSet;
use std::path::Path;

use crate::crash::{crashed, once_answered};
use crate::world::{Build, Home, Runtime, Serve, User, eventually, leftovers, marker};

#[test]
fn every_crash_point_is_survived() {
    let names = names();
    assert!(names.len() >= 8, "crash points in src/: {names:?}");
    let mut never = Vec::new();
    for name in &names {
        if !survive(name) {
            never.push(name.clone());
        }
    }
    assert!(never.is_empty(), "these crash points were never passed: {never:?}");
}

/// Gives whether the crash point was passed at all.
fn survive(name: &str) -> bool {
    println!("{name}");
    let home = Home::new(Build::Faults, User::Root);
    // One of them runs a tool, so that the steps of a turn are on the way.
    let first = marker();
    let second = format!(r#"tool:write_file {{"path":"note","content":"x"}} {}"#, marker());
    let (one, two) = (marker(), marker());
    let mut sessions = Vec::new();
    let mut daemon =
        Serve::new(&home, Runtime::Native).flag("--linger", "1s").fault(format!("crash={name}")).start();
    let mut passed = false;
    if daemon.is_ready() {
        for (text, event) in [(&first, &one), (&second, &two)] {
            // The connection may break under the request: the client then sends it again below.
            if let Ok(answer) = daemon.chat("mock-agent", "main").try_say(text, event)
                && answer.status == 202
            {
                sessions.push(answer.json()["session_id"].as_str().unwrap().to_owned());
            }
        }
        // Either something dies there, or everything is answered and the idle sandbox goes: then the point
        // is not on this way.
        passed = eventually(&format!("{name} is passed, or all is done"), || {
            if crashed(&mut daemon) {
                return Some(true);
            }
            let done = daemon.try_metric("ironclaw_messages_finished_total") == Some(2.0)
                && daemon.try_metric("ironclaw_sandboxes_running") == Some(0.0);
            done.then_some(false)
        });
    }
    passed |= daemon.has_ended();
    daemon.kill9();
    drop(daemon);
    let daemon = Serve::new(&home, Runtime::Native).flag("--linger", "1s").ready();
    let chat = daemon.chat("mock-agent", "main");
    sessions.push(chat.say_as(&first, &one).session_id);
    chat.say_as(&second, &two);
    once_answered(&chat, &first);
    once_answered(&chat, &second);
    assert!(chat.ask("the end").contains("the end"), "{name}");
    once_answered(&chat, &first);
    assert!(daemon.stop().success(), "{name}");
    leftovers::none_left(&home, &sessions, &[]);
    passed
}

/// The names in the source: a point that is added is walked without anybody thinking of it.
fn names() -> BTreeSet<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut names = BTreeSet::new();
    for path in leftovers::files_below(&source) {
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for part in text.split("fault::point(\"").skip(1) {
            names.insert(part.split('"').next().unwrap().to_owned());
        }
    }
    names
}
