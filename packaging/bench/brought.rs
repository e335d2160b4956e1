//! Figures of the way over a platform: from a message that was accepted to its answer in the chat, alone and beside a chat
//! that refuses, one that hangs and one that is flooded; and how many messages a second many conversations come to.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::receiver::{HANGS, REFUSES, Receiver, wait};
use crate::replies::PAUSE;
use crate::table::{Amount, Row, Samples};
use crate::world::daemon::free_port;
use crate::world::{Daemon, Runtime, Serve};
use crate::{Bench, processes, said};

/// More than any chat here sends, so that the program and not its limit is measured.
const RINGS: &str = "100000";
/// Whoever is flooded.
const FLOODED: &str = "flooded";
/// Whoever is measured.
const CALM: &str = "calm";
/// Conversations that are asked at the same time.
const AT_ONCE: usize = 16;
/// Seconds of sustained work.
const SUSTAINED: Duration = Duration::from_secs(10);

/// From a message to its answer in the chat.
pub fn brought(bench: &Bench) -> Vec<Row> {
    let (home, receiver) = (bench.home(), Receiver::start());
    let ingress = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let daemon = Serve::new(&home, Runtime::Native)
        .env("IRONCLAW_WEBHOOK_URL", format!("http://{}/in", receiver.address))
        .env("IRONCLAW_WEBHOOK_SECRET", receiver.secret.clone())
        .flag("--ingress-addr", ingress.to_string())
        .flag("--rings-per-second", RINGS)
        .flag("--linger", "1h")
        .flag("--log-level", "warn")
        .ready();
    wire(&daemon);
    let (mut ann, heard) = (receiver.person(ingress, CALM), receiver.watch(CALM));
    let mut number = 0;
    let mut look = || {
        Samples::of(bench.replies, || {
            std::thread::sleep(PAUSE);
            number += 1;
            let text = format!("message {number}.");
            ann.say(&text);
            let accepted = Instant::now();
            wait(&heard, &text).saturating_duration_since(accepted)
        })
    };
    drop(look());
    let alone = look();
    let before = processes::resident(daemon.id());
    for bad in [REFUSES, HANGS] {
        receiver.person(ingress, bad).say("Are you there?");
    }
    let (mut flooder, flooded) = (receiver.person(ingress, FLOODED), receiver.watch(FLOODED));
    let count = bench.flood;
    let flooding = std::thread::spawn(move || {
        for number in 0..count {
            flooder.say(&format!("flood {number}."));
        }
    });
    let beside = look();
    let is_over = flooded.try_iter().any(|(text, _)| text.contains(&format!("flood {}.", count - 1)));
    flooding.join().unwrap();
    if !is_over {
        wait(&flooded, &format!("flood {}.", count - 1));
    }
    let after = processes::resident(daemon.id());
    let note = if is_over {
        "the flood was over before the last of them"
    } else {
        "the flood went on all the while"
    };
    vec![
        Row::times("accepted to delivered, native", &alone),
        Row::times(format!("the same beside chats that refuse, hang, and are flooded ({count})"), &beside)
            .floor(Amount::Time(alone.median()), "the same alone")
            .at_most_times_floor(2.0),
        Row::new("the same, p99", Amount::Time(beside.p99()))
            .note(note)
            .floor(Amount::Time(alone.p99()), "the same alone")
            .at_most_times_floor(2.0),
        Row::new("control plane, resident, when the flood is answered", Amount::Bytes(after))
            .floor(Amount::Bytes(before), "before it")
            .at_most_times_floor(1.5),
    ]
}

fn wire(daemon: &Daemon) {
    let mut client = Client::connect(daemon.address, &daemon.token());
    let chats: Vec<Value> =
        [CALM, REFUSES, HANGS, FLOODED].map(|chat| json!({"channel": "webhook", "chat": chat})).to_vec();
    let mut held = |kind: &str, payload: Value| {
        let body = json!({"kind": kind, "group": "mock-agent", "payload": payload}).to_string();
        let (status, answer) = client.post("/v1/changes", &body);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(answer));
        let change: Value = serde_json::from_slice(answer).unwrap();
        let decision = json!({"outcome": "approve", "digest": change["digest"]}).to_string();
        let path = format!("/v1/changes/{}/decision", change["id"].as_str().unwrap());
        let (status, answer) = client.post(&path, &decision);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(answer));
    };
    held("wiring", json!({"add": chats}));
    held("permissions", json!({"add_members": ["webhook:ann"]}));
}

/// Messages a second over so many conversations, each with a sandbox that runs. Whoever asks opens a stream for each
/// answer: the door has fewer places than there are conversations.
pub fn sustained(bench: &Bench) -> Vec<Row> {
    [
        (Runtime::Gvisor, "gVisor", bench.sessions),
        (Runtime::Native, "native", bench.sessions),
        (Runtime::Native, "native", 10 * bench.sessions),
    ]
    .into_iter()
    .map(|(runtime, name, count)| {
        let figure = format!("messages a second, {count} conversations, {name}");
        let measured = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rate(bench, runtime, count)));
        match measured {
            Ok(rate) => Row::new(figure, Amount::Rate(rate)),
            Err(panic) => Row::failed(figure, &said(panic.as_ref())),
        }
    })
    .collect()
}

fn rate(bench: &Bench, runtime: Runtime, count: usize) -> f64 {
    let home = bench.home();
    let daemon = Serve::new(&home, runtime)
        .flag("--max-sandboxes", (count + AT_ONCE).to_string())
        .flag("--rings-per-second", RINGS)
        .flag("--linger", "1h")
        .flag("--log-level", "warn")
        .ready();
    let names: Vec<String> = (0..count).map(|number| format!("many-{number}")).collect();
    let (daemon, names) = (&daemon, &names);
    let warm = std::sync::Barrier::new(AT_ONCE);
    let warm = &warm;
    let answered: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|worker| {
                scope.spawn(move || {
                    let chats: Vec<_> = names
                        .iter()
                        .skip(worker)
                        .step_by(AT_ONCE)
                        .map(|name| daemon.chat("mock-agent", name))
                        .collect();
                    for chat in &chats {
                        chat.ask("hello");
                    }
                    warm.wait();
                    let until = Instant::now() + SUSTAINED;
                    let mut answered = 0;
                    for chat in chats.iter().cycle() {
                        if Instant::now() >= until {
                            break;
                        }
                        chat.ask("How are you?");
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    answered as f64 / SUSTAINED.as_secs_f64()
}
