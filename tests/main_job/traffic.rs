//! Thousands of transactions each way across the boundary, on the mounts as shipped, with random pauses: no
//! row is torn, missing, repeated or reordered. A test program takes the agent's place and answers each
//! message with its own text, so that every transaction is visible from both ends.

use std::time::Duration;

use crate::world::{Build, Daemon, Home, Random, Runtime, Serve, User, eventually, size};

crate::in_both_back_ends!(rows_cross_whole_once_and_in_order);

fn rows_cross_whole_once_and_in_order(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let wanted = size("IRONCLAW_TEST_TRANSACTIONS", 2_000);
    let mut random = Random::fresh();
    println!("seed {}", random.0);
    let daemon = start(&home, runtime);
    let chat = daemon.chat("dev-agent", "main");
    let first = chat.say("hostile traffic");
    chat.answer_after(first.position);

    let mut texts: Vec<String> = vec!["hostile traffic".to_owned()];
    let both = |daemon: &Daemon| {
        let rings = daemon.metric("ironclaw_ring_seconds_count");
        rings.min(daemon.metric("ironclaw_ingest_seconds_count")) as usize
    };
    while both(&daemon) < wanted {
        for _ in 0..100 {
            let text = line(texts.len(), &mut random);
            chat.say(&text);
            texts.push(text);
            match random.below(20) {
                0 => std::thread::sleep(Duration::from_millis(random.below(20))),
                1..5 => std::thread::sleep(Duration::from_micros(random.below(2_000))),
                _ => {}
            }
        }
        assert!(
            texts.len() < wanted * 20,
            "{} messages made only {} transactions",
            texts.len(),
            both(&daemon)
        );
    }
    complete(&daemon, &texts);
    println!("{} messages, {} transactions each way", texts.len(), both(&daemon));

    // Everything is pruned by now; after a restart one message more arrives.
    assert!(daemon.stop().success());
    let daemon = start(&home, runtime);
    let text = format!("hostile traffic {}", texts.len());
    daemon.chat("dev-agent", "main").say(&text);
    texts.push(text);
    complete(&daemon, &texts);
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
}

fn start(home: &Home, runtime: Runtime) -> Daemon {
    Serve::new(home, runtime)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .flag("--rings-per-second", "100000")
        .ready()
}

/// A numbered text of one byte to some pages, its own check at its end.
fn line(number: usize, random: &mut Random) -> String {
    let longest = if random.below(10) == 0 { 20_000 } else { 300 };
    let filler = "x".repeat(random.below(longest) as usize);
    let sum = filler.len() * 31 + number;
    format!("{number} {filler} {sum}")
}

/// Waits for the last answer and compares all of them with what was sent.
#[track_caller]
fn complete(daemon: &Daemon, texts: &[String]) {
    let chat = daemon.chat("dev-agent", "main");
    let all = eventually("every message is answered", || {
        let done = daemon.metric("ironclaw_open_messages") == 0.0;
        done.then(|| chat.history())
    });
    let answers: Vec<&str> =
        all.iter().filter(|entry| entry.direction == "out").map(|entry| entry.text.as_str()).collect();
    assert_eq!(answers.len(), texts.len(), "answers and messages");
    for (number, (answer, text)) in answers.iter().zip(texts).enumerate() {
        assert!(answer == text, "answer {number} is not what was sent");
    }
}
