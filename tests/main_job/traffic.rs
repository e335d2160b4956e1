//! Thousands of transactions each way across the boundary, on the mounts as shipped, with random pauses: no
//! row is torn, missing, repeated or reordered. A test program takes the agent's place and answers each
//! message with its own text, so that every transaction is visible from both ends.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::world::{Build, Daemon, Entry, Home, Random, Runtime, Serve, User, eventually, size};

crate::world::boxes::in_both_back_ends!(rows_cross_whole_once_and_in_order);

/// Chats that talk at the same time, each with a sandbox and conveyors of its own.
const CHATS: usize = 4;

fn rows_cross_whole_once_and_in_order(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let wanted = size("IRONCLAW_TEST_TRANSACTIONS", 2_000);
    let seed = Random::of_run().0;
    let daemon = start(&home, runtime);
    let enough = AtomicUsize::new(0);
    let mut said: Vec<Vec<String>> = std::thread::scope(|scope| {
        let talkers: Vec<_> = (0..CHATS)
            .map(|number| {
                let (daemon, enough) = (&daemon, &enough);
                scope.spawn(move || talk(daemon, number, Random(seed + number as u64), wanted, enough))
            })
            .collect();
        talkers.into_iter().map(|talker| talker.join().unwrap()).collect()
    });
    for (number, texts) in said.iter().enumerate() {
        complete(&daemon, number, texts);
    }
    println!("{} messages, {} transactions each way", said.concat().len(), transactions(&daemon));
    assert!(transactions(&daemon) >= wanted);

    // Both files are pruned to what the last transaction wrote; after a restart one message more arrives.
    for number in 0..CHATS {
        pruned(&daemon, number);
    }
    assert!(daemon.stop().success());
    let daemon = start(&home, runtime);
    for (number, texts) in said.iter_mut().enumerate() {
        let text = format!("hostile traffic {}", texts.len());
        assert_eq!(daemon.chat("dev-agent", &chat_name(number)).ask(&text), text);
        texts.push(text);
        complete(&daemon, number, texts);
    }
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
}

fn start(home: &Home, runtime: Runtime) -> Daemon {
    Serve::new(home, runtime)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .flag("--rings-per-second", "100000")
        .ready()
}

fn chat_name(number: usize) -> String {
    format!("chat-{number}")
}

/// Transactions that crossed in the direction with fewer of them.
fn transactions(daemon: &Daemon) -> usize {
    let rings = daemon.metric("ironclaw_ring_seconds_count");
    rings.min(daemon.metric("ironclaw_ingest_seconds_count")) as usize
}

/// Talks until enough transactions crossed: bursts of a few messages with random pauses, each answered with
/// its own text and in order. Gives what was said.
fn talk(
    daemon: &Daemon,
    number: usize,
    mut random: Random,
    wanted: usize,
    enough: &AtomicUsize,
) -> Vec<String> {
    let name = chat_name(number);
    let chat = daemon.chat("dev-agent", &name);
    let mut texts = vec!["hostile traffic".to_owned()];
    let mut position = chat.say(&texts[0]).position;
    position = chat.answer_after(position).position;
    let mut events = chat.events(position);
    while enough.load(Ordering::Relaxed) < wanted {
        let burst = 1 + random.below(4) as usize;
        for _ in 0..burst {
            let text = line(texts.len(), &mut random);
            chat.say(&text);
            texts.push(text);
            match random.below(20) {
                0 => std::thread::sleep(Duration::from_millis(random.below(10))),
                1..5 => std::thread::sleep(Duration::from_micros(random.below(2_000))),
                _ => {}
            }
        }
        for text in &texts[texts.len() - burst..] {
            let answer = loop {
                let event = events.next().expect("the stream goes on");
                let Ok(value) = serde_json::from_str::<Value>(&event.data) else { continue };
                match value["direction"].as_str() {
                    Some("out") => break Entry::from_json(&value),
                    Some("notice") => panic!("{value}"),
                    _ => {}
                }
            };
            assert!(answer.text == *text, "{name}: answer {} is not what was sent", answer.position);
        }
        enough.store(transactions(daemon), Ordering::Relaxed);
        assert!(texts.len() < wanted * 20, "{} messages made too few transactions", texts.len());
    }
    texts
}

/// A numbered text of one byte to some pages, its own check at its end.
fn line(number: usize, random: &mut Random) -> String {
    let longest = if random.below(10) == 0 { 20_000 } else { 300 };
    let filler = "x".repeat(random.below(longest) as usize);
    let sum = filler.len() * 31 + number;
    format!("{number} {filler} {sum}")
}

/// Both sides have forgotten everything that is finished: what asks is alone in its file, and only the answer to
/// the same question before it lies in the other. The host hears of an answer's storing twice, by itself and by
/// its commit, and may prune a message later for that.
fn pruned(daemon: &Daemon, number: usize) {
    eventually(&format!("both files of chat {number} are pruned"), || {
        let answer = daemon.chat("dev-agent", &chat_name(number)).ask(COUNT);
        (answer == format!("{COUNT}: 1 in, 3 out")).then_some(())
    });
}

/// To this the test program answers with the rows of both files.
const COUNT: &str = "hostile traffic rows";

/// Compares all answers of a chat with what was sent.
#[track_caller]
fn complete(daemon: &Daemon, number: usize, texts: &[String]) {
    let mut all = daemon.chat("dev-agent", &chat_name(number)).history();
    all.retain(|entry| !entry.text.starts_with(COUNT));
    for direction in ["in", "out"] {
        let said: Vec<&String> =
            all.iter().filter(|entry| entry.direction == direction).map(|entry| &entry.text).collect();
        assert_eq!(said.len(), texts.len(), "{direction} in chat {number}");
        for (at, (said, text)) in said.into_iter().zip(texts).enumerate() {
            assert!(said == text, "{direction} {at} of chat {number} is not what was sent");
        }
    }
}
