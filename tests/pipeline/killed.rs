//! Whoever is killed, and wherever: each message that was accepted is answered, and each answer comes once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::heard::{ingress, serve, wire};
use crate::hook::{Hook, Manner};
use crate::world::{Build, Home, Random, Runtime, User, leftovers, marker, rounds};

/// The control plane dies right before and right after each thing that it writes down on the way of a message.
#[test]
fn every_crash_point_of_bringing_is_survived() {
    for point in [
        "accept.before_commit",
        "accept.after_commit",
        "finish.before_commit",
        "finish.after_commit",
        "deliver.before_commit",
        "deliver.after_commit",
    ] {
        let (home, hook, ingress) = (Home::new(Build::Faults, User::Root), Hook::start(), ingress());
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
        assert!(daemon.stop().success());
        let mut daemon =
            serve(&home, Runtime::Native, &hook, ingress).fault(format!("crash={point}")).ready();
        let (id, text) = (marker(), marker());
        let body = json!({"text": text, "chat": "ops"});
        let first = hook.try_say(ingress, "/hooks/webhook", &id, &body);
        assert!(leftovers::ended(daemon.id(), crate::world::PATIENCE), "{point}: it does not die");
        daemon.kill9();
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        if !first.is_ok_and(|answer| answer.status == 202) {
            // As a sender does that got no answer.
            assert_eq!(hook.say_as(ingress, &id, &body).status, 202, "{point}");
        }
        hook.wait("ops", &text);
        hook.say(ingress, &json!({"text": "last", "chat": "ops"}));
        hook.wait("ops", "last");
        let taken = hook.taken("ops");
        assert_eq!(taken.len(), 2, "{point}: {taken:?}");
        assert!(daemon.stop().success());
    }
}

/// The control plane is killed at random while three chats of two agents are busy, over a platform that now and then
/// refuses and breaks: nothing is lost and nothing comes under two names.
#[test]
fn nothing_is_lost_or_doubled_whenever_it_is_killed() {
    let mut random = Random::fresh();
    let seed = random.0;
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let chats = [("mock-agent", "one"), ("mock-agent", "two"), ("dev-agent", "three")];
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    for (agent, chat) in chats {
        wire(&daemon, agent, chat, json!({"senders": "anyone"}));
    }
    assert!(daemon.stop().success());
    let mut sent: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for round in 0..rounds() {
        let mut daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        for (_, chat) in chats {
            if random.below(2) == 0 {
                hook.next(chat, &[[Manner::Status(503), Manner::Drop][random.below(2) as usize].clone()]);
            }
        }
        let pause = Duration::from_millis(random.below(400));
        let over = AtomicBool::new(false);
        let said: Vec<(&str, Vec<(String, String)>)> = std::thread::scope(|scope| {
            let speakers: Vec<_> = chats
                .iter()
                .map(|(_, chat)| {
                    let (over, hook) = (&over, &hook);
                    scope.spawn(move || {
                        let mut said = Vec::new();
                        while !over.load(Ordering::Relaxed) {
                            let (id, text) = (marker(), marker());
                            let body = json!({"text": text, "chat": chat});
                            said.push((id.clone(), text));
                            if hook.try_say(ingress, "/hooks/webhook", &id, &body).is_err() {
                                break;
                            }
                        }
                        (*chat, said)
                    })
                })
                .collect();
            std::thread::sleep(pause);
            daemon.kill9();
            over.store(true, Ordering::Relaxed);
            speakers.into_iter().map(|speaker| speaker.join().unwrap()).collect()
        });
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        for (chat, said) in said {
            // Whoever got no answer says it again under the same name.
            if let Some((id, text)) = said.last() {
                let answer = hook.say_as(ingress, id, &json!({"text": text, "chat": chat}));
                assert_eq!(answer.status, 202, "round {round}, seed {seed}");
            }
            sent.entry(chat).or_default().extend(said.into_iter().map(|(_, text)| text));
        }
        for (_, chat) in chats {
            let text = marker();
            hook.say(ingress, &json!({"text": text, "chat": chat}));
            hook.wait(chat, &text);
            sent.entry(chat).or_default().push(text);
        }
        assert!(daemon.stop().success());
    }
    let mut count = 0;
    for (_, chat) in chats {
        let taken = hook.taken(chat);
        for text in &sent[chat] {
            let answers = taken.iter().filter(|taken| taken.text.contains(text)).count();
            assert_eq!(answers, 1, "{text} in {chat}, seed {seed}: {taken:#?}");
            count += 1;
        }
    }
    println!("{count} messages over {} kills, seed {seed}", rounds());
}
