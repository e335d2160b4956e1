//! `kill -9` at random moments: of sandboxes in the middle of a turn, of the control plane in the middle of a
//! message. Afterwards every message is in exactly one answer, and nothing of the old run is left.

use std::time::Duration;

use crate::world::{
    Build, Chat, Daemon, Entry, Home, PATIENCE, Random, Runtime, Serve, User, leftovers, marker, rounds,
};

crate::in_both_back_ends!(killed_sandboxes_lose_nothing, killed_control_planes_lose_nothing);

fn killed_sandboxes_lose_nothing(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).flag("--linger", "2s").ready();
    let mut random = Random::fresh();
    println!("seed {}", random.0);
    let mut sent: Vec<(String, Vec<String>)> = Vec::new();
    let mut sessions = Vec::new();
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
        std::thread::sleep(Duration::from_millis(random.below(400)));
        for id in home.processes() {
            if id != daemon.id() {
                leftovers::kill(id);
            }
        }
    }
    for (chat, texts) in &sent {
        all_answered_once(&daemon.chat("mock-agent", chat), texts);
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
            // Another process may have the number by now.
            let gone = !home.processes().contains(&id) || leftovers::ended(id, PATIENCE);
            assert!(gone, "round {round}: process {id} of the old run is still there");
        }
        drop(daemon);
    }
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    all_answered_once(&chat, &sent);
    sessions.push(chat.say("the end").session_id);
    assert!(daemon.stop().success());
    leftovers::none_left(&home, &sessions, &[]);
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
