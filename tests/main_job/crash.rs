//! `kill -9` at random moments: of sandboxes in the middle of a turn, of the control plane in the middle of a
//! message. Afterwards every message is in exactly one answer, and nothing of the old run is left.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::world::{
    Build, Chat, Daemon, Entry, Home, Random, Runtime, Serve, User, eventually, leftovers, marker, rounds,
};

crate::world::boxes::in_both_back_ends!(
    killed_sandboxes_lose_nothing,
    killed_control_planes_lose_nothing,
    a_file_that_was_being_made_is_made_again,
);

fn killed_sandboxes_lose_nothing(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).flag("--linger", "2s").ready();
    let mut random = Random::of_run();
    let mut sent: Vec<(String, Vec<String>)> = Vec::new();
    let mut sessions = Vec::new();
    let mut seen = BTreeSet::new();
    for round in 0..rounds() {
        // A chat of its own: deaths of one session in a row are answered with a growing pause.
        let name = format!("round-{round}");
        let chat = daemon.chat("mock-agent", &name);
        let mut texts = Vec::new();
        for _ in 0..=random.below(3) {
            let text = marker();
            sessions.push(chat.say(&text).session_id);
            texts.push(text);
        }
        sent.push((name.clone(), texts));
        if round == 0 {
            was_launched(&daemon);
        }
        std::thread::sleep(Duration::from_millis(random.below(400)));
        let mut killed = leftovers::traces(&home);
        killed.retain(|trace| !of_the_daemon(trace, &daemon));
        seen.append(&mut leftovers::kinds(&home, &killed));
        for id in home.processes() {
            if id != daemon.id() {
                leftovers::kill(id);
            }
        }
        // While the daemon goes on, and may have launched the session anew.
        eventually("nothing of the killed launches is left", || {
            let here = leftovers::traces(&home);
            killed.is_disjoint(&here).then_some(())
        });
    }
    much_was_seen(&seen, runtime);
    for (chat, texts) in &sent {
        all_answered_once(&daemon.chat("mock-agent", chat), texts);
    }
    assert_eq!(daemon.metric("ironclaw_messages_failed_total"), 0.0);
    assert!(daemon.stop().success());
    leftovers::none_left(&home, &sessions, &[]);
}

/// gVisor's file server makes a file as root and then gives it to the agent; killed between the two, it is empty and
/// stays root's.
fn a_file_that_was_being_made_is_made_again(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let mut daemon = Serve::new(&home, runtime).fault("crash=launch.conveyors_ready").ready();
    let (text, event) = (marker(), marker());
    // The connection may break under it.
    let _ = daemon.chat("mock-agent", "main").try_say(&text, &event);
    daemon.ended();
    let sessions: Vec<_> = std::fs::read_dir(home.state().join("sessions")).unwrap().collect();
    let [Ok(session)] = sessions.as_slice() else { panic!("{sessions:?}") };
    let own = session.path().join("session");
    assert!(own.is_dir() && !own.join("session.db").exists(), "{}", own.display());
    std::fs::write(own.join("session.db"), "").unwrap();
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    chat.say_as(&text, &event);
    all_answered_once(&chat, &[text]);
    assert_eq!(deaths(&daemon), Some(0.0));
    assert!(daemon.stop().success());
}

fn killed_control_planes_lose_nothing(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let mut random = Random::of_run();
    let mut sent: Vec<String> = Vec::new();
    let mut sessions = Vec::new();
    let mut seen = BTreeSet::new();
    for round in 0..rounds() {
        let mut daemon = Serve::new(&home, runtime).ready();
        let text = marker();
        let event = marker();
        let answer = daemon.chat("mock-agent", "main").try_say(&text, &event);
        if round == 0 {
            was_launched(&daemon);
        }
        std::thread::sleep(Duration::from_millis(random.below(300)));
        let mut old = leftovers::traces(&home);
        let of_sandboxes = old.iter().filter(|trace| !of_the_daemon(trace, &daemon)).cloned().collect();
        seen.append(&mut leftovers::kinds(&home, &of_sandboxes));
        daemon.kill9();
        // What was not acknowledged is sent again, as a client does.
        if !answer.is_ok_and(|answer| answer.status == 202) {
            let again = Serve::new(&home, runtime).ready();
            sessions.push(again.chat("mock-agent", "main").say_as(&text, &event).session_id);
            old.append(&mut leftovers::traces(&home));
        }
        sent.push(text);
        // It is ready when it has swept; the session may run again by then, with everything new.
        let daemon = Serve::new(&home, runtime).ready();
        let here = leftovers::traces(&home);
        let left: Vec<&String> = old.intersection(&here).collect();
        assert!(left.is_empty(), "round {round}: of the old run there still are {left:#?}");
        drop(daemon);
    }
    much_was_seen(&seen, runtime);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    all_answered_once(&chat, &sent);
    sessions.push(chat.say("the end").session_id);
    assert!(daemon.stop().success());
    leftovers::none_left(&home, &sessions, &[]);
}

/// Everything ends in the middle of a turn, and what lay in the conveyors is no longer what either side wrote.
#[test]
fn the_conveyors_of_an_ended_run_are_made_anew() {
    let spoil = |whole: Vec<u8>, how| match how {
        "empty" => Vec::new(),
        "torn" => whole[..whole.len() / 2].to_vec(),
        "zeros" => vec![0; whole.len()],
        _ => whole.iter().enumerate().map(|(at, byte)| byte ^ (at * 31 + 7) as u8).collect(),
    };
    for how in ["empty", "torn", "zeros", "noise"] {
        let home = Home::new(Build::Faults, User::Root);
        // A file in this directory opens the gate of its name; there is none, so the turn goes on until its end.
        let gates = home.root.join("user").display().to_string();
        let mut daemon = Serve::new(&home, Runtime::Native).fault(format!("mock-gate={gates}")).ready();
        let text = format!("hold:shut {}", marker());
        let session = daemon.chat("mock-agent", "main").say(&text).session_id;
        eventually("the turn began", || {
            (daemon.metric("ironclaw_ingest_seconds_count") >= 1.0).then_some(())
        });
        daemon.kill9();
        home.processes().into_iter().for_each(leftovers::kill);
        for name in ["inbound.db", "outbound.db"] {
            let files = leftovers::files_below(&home.state().join("sessions"));
            let mut files = files.into_iter().filter(|path| path.ends_with(name));
            let (path, more) = (files.next().unwrap(), files.next());
            assert_eq!(more, None);
            let whole = std::fs::read(&path).unwrap();
            assert!(whole.len() >= 8192, "{how}: {name} has {} bytes", whole.len());
            std::fs::write(&path, spoil(whole, how)).unwrap();
        }
        let daemon = Serve::new(&home, Runtime::Native).ready();
        let chat = daemon.chat("mock-agent", "main");
        all_answered_once(&chat, &[text]);
        assert!(chat.history().iter().all(|entry| entry.direction != "notice"), "{how}");
        assert_eq!(deaths(&daemon), Some(0.0), "{how}");
        assert!(daemon.stop().success());
        leftovers::none_left(&home, &[session], &[]);
    }
}

/// In one round at least there is something to kill, whatever the others find.
fn was_launched(daemon: &Daemon) {
    daemon.log.wait_for("that it was launched", |line| line.contains("sandbox.launched"));
}

/// That nothing of a killed run is left says something only where there was something.
#[track_caller]
fn much_was_seen(seen: &BTreeSet<&str>, runtime: Runtime) {
    println!("seen before the kills: {seen:?}");
    assert!(seen.contains("process"), "no round saw a sandbox's process before its kill, only {seen:?}");
    let beside = ["mount", "group", "socket"].iter().any(|kind| seen.contains(kind));
    assert!(beside, "no round saw a mount, group or socket before its kill, only {seen:?}");
    let on_disk = ["bundle", "state of runsc"].iter().all(|kind| seen.contains(kind));
    assert!(on_disk || runtime == Runtime::Native, "no round saw what gVisor keeps on disk, only {seen:?}");
}

/// Whether a trace is the daemon's own and not a sandbox's.
fn of_the_daemon(trace: &str, daemon: &Daemon) -> bool {
    trace.starts_with(&format!("process {} ", daemon.id()))
}

/// Waits until every text is answered, sends one message more, and then counts each text in the whole history:
/// what is answered after a later message cannot still bring an earlier one.
#[track_caller]
pub(crate) fn all_answered_once(chat: &Chat<'_>, texts: &[String]) {
    let has = |entry: &Entry, text: &str| entry.direction == "out" && entry.text.contains(text);
    for text in texts {
        chat.wait(0, &format!("an answer with {text}"), |entry| has(entry, text));
    }
    let last = marker();
    assert!(chat.ask(&last).contains(&last));
    let history = chat.history();
    for text in texts.iter().chain([&last]) {
        let count: usize = history
            .iter()
            .filter(|entry| entry.direction == "out")
            .map(|e| e.text.matches(text.as_str()).count())
            .sum();
        assert_eq!(count, 1, "{text} is in {count} answers: {history:#?}");
    }
}

/// Sandboxes that ended by themselves.
pub(crate) fn deaths(daemon: &Daemon) -> Option<f64> {
    daemon.try_metric("ironclaw_sandbox_ends_total{reason=\"died\"}")
}
