//! `kill -9` at random moments: of sandboxes in the middle of a turn, of the control plane in the middle of a
//! message. Afterwards every message is in exactly one answer, and nothing of the old run is left.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::world::{
    Build, Chat, Daemon, Home, Random, Runtime, Serve, User, eventually, leftovers, marker, rounds,
};

crate::in_both_back_ends!(killed_sandboxes_lose_nothing, killed_control_planes_lose_nothing);

fn killed_sandboxes_lose_nothing(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).flag("--linger", "2s").ready();
    let mut random = Random::fresh();
    println!("seed {}", random.0);
    let mut sent = Vec::new();
    let mut sessions = Vec::new();
    for round in 0..rounds() {
        // A chat of its own: deaths of one session in a row are answered with a growing pause.
        let name = format!("round-{round}");
        let chat = daemon.chat("mock-agent", &name);
        for _ in 0..=random.below(3) {
            let text = marker();
            let said = chat.say(&text);
            sessions.push(said.session_id);
            sent.push((name.clone(), text));
        }
        std::thread::sleep(Duration::from_millis(random.below(400)));
        for id in home.processes() {
            if id != daemon.id() {
                leftovers::kill(id);
            }
        }
    }
    for (chat, text) in &sent {
        once_answered(&daemon.chat("mock-agent", chat), text);
    }
    assert_eq!(daemon.metric("ironclaw_messages_failed_total"), 0.0);
    assert!(daemon.stop().success());
    leftovers::none_left(&home, &sessions, &[]);
}

fn killed_control_planes_lose_nothing(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let mut random = Random::fresh();
    println!("seed {}", random.0);
    let mut sent: Vec<String> = Vec::new();
    let mut sessions = Vec::new();
    for round in 0..rounds() {
        let mut daemon = Serve::new(&home, runtime).ready();
        let old: Vec<i32> = {
            let chat = daemon.chat("mock-agent", "main");
            let text = marker();
            let event = marker();
            let answer = chat.try_say(&text, &event);
            std::thread::sleep(Duration::from_millis(random.below(300)));
            let old = home.processes();
            daemon.kill9();
            // What was not acknowledged is sent again, as a client does.
            if answer.is_ok_and(|answer| answer.status == 202) {
                sent.push(text);
            } else {
                let again = Serve::new(&home, runtime).ready();
                sessions.push(again.chat("mock-agent", "main").say_as(&text, &event).session_id);
                sent.push(text);
            }
            old
        };
        let daemon = Serve::new(&home, runtime).ready();
        for id in old {
            eventually(&format!("round {round}: process {id} of the old run is gone"), || {
                (!leftovers::alive(id) || !home.processes().contains(&id)).then_some(())
            });
        }
        drop(daemon);
    }
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    for text in &sent {
        once_answered(&chat, text);
    }
    sessions.push(chat.say("the end").session_id);
    assert!(daemon.stop().success());
    leftovers::none_left(&home, &sessions, &[]);
}

/// Waits until the text is answered, and checks that it is answered once. A later message settles that: what
/// is answered after it cannot still bring an earlier one.
#[track_caller]
pub(crate) fn once_answered(chat: &Chat<'_>, text: &str) {
    chat.wait(0, "an answer with the marker", |entry| entry.direction == "out" && entry.text.contains(text));
    let count = answers(chat).get(text).copied().unwrap_or_default();
    assert_eq!(count, 1, "{text} is in {count} answers: {:#?}", chat.history());
}

/// How often each line of the agent's answers occurs.
pub(crate) fn answers(chat: &Chat<'_>) -> BTreeMap<String, usize> {
    let mut lines = BTreeMap::new();
    for entry in chat.history().into_iter().filter(|entry| entry.direction == "out") {
        for line in entry.text.trim_start_matches("mock-agent received: ").lines() {
            *lines.entry(line.to_owned()).or_insert(0) += 1;
        }
    }
    lines
}

/// A control plane that was told to crash either ends by itself or has lost a sandbox.
pub(crate) fn crashed(daemon: &mut Daemon) -> bool {
    let died = "ironclaw_sandbox_ends_total{reason=\"died\"}";
    daemon.has_ended() || daemon.try_metric(died).is_some_and(|count| count > 0.0)
}
