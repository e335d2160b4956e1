//! Figures after many messages: the latency of a reply and the memory of both sides, beside the same after the
//! first hundred. Several chats send at once, and the one that is measured is among them.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::replies::{PAUSE, Talk};
use crate::table::{Amount, Row, Samples};
use crate::world::{Daemon, Runtime, Serve};
use crate::{Bench, processes};

/// Messages after which the first look is taken.
pub const EARLY: usize = 100;

/// Chats that send at the same time.
const CHATS: usize = 8;

/// Characters of a message. An agent is told of the newest 60,000 characters of its conversation; with the answers,
/// which repeat them, these fill that before the first look. So what is seen is growth and not a window that fills.
const MESSAGE: usize = 2_700;

/// More than any chat here sends, so that the program and not its limit is measured.
const RINGS: &str = "100000";

/// What is looked at.
struct Look {
    latency: Samples,
    daemon: u64,
    sandbox: u64,
}

pub fn endurance(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--rings-per-second", RINGS)
        .flag("--linger", "1h")
        .flag("--log-level", "warn")
        .ready();
    let mut talks: Vec<(String, Talk<'_>)> = Vec::new();
    let names: Vec<String> = (0..CHATS).map(|number| format!("endurance-{number}")).collect();
    for name in &names {
        talks.push((name.clone(), Talk::open(&daemon, name)));
    }
    let mut talks: Vec<Talk<'_>> = talks.into_iter().map(|(_, talk)| talk).collect();
    send(&mut talks, EARLY);
    let early = look(bench, &daemon, &mut talks);
    let rest = bench.messages.saturating_sub(EARLY + bench.replies);
    send(&mut talks, rest);
    let late = look(bench, &daemon, &mut talks);

    let after = format!("after {} messages", EARLY + bench.replies + rest);
    let beside = format!("after {EARLY}");
    let bytes = |figure: &str, late: u64, early: u64| {
        Row::new(format!("{figure} {after}"), Amount::Bytes(late))
            .floor(Amount::Bytes(early), &beside)
            .at_most_times_floor(1.1)
    };
    vec![
        Row::times(format!("warm reply, native, {after}"), &late.latency)
            .floor(Amount::Time(early.latency.median()), &beside)
            .at_most_times_floor(1.1),
        bytes("control plane, resident", late.daemon, early.daemon),
        bytes("native sandboxes, resident,", late.sandbox, early.sandbox),
    ]
}

/// Sends this many messages in all, each answered before its chat sends the next.
fn send(talks: &mut [Talk<'_>], count: usize) {
    let text = "one of many messages ".repeat(MESSAGE / 21);
    let text = text.as_str();
    let left = AtomicUsize::new(count);
    let left = &left;
    std::thread::scope(|scope| {
        for talk in talks {
            scope.spawn(move || {
                let take = |left: usize| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    talk.reply(text);
                }
            });
        }
    });
}

fn look(bench: &Bench, daemon: &Daemon, talks: &mut [Talk<'_>]) -> Look {
    let text = "one of many messages ".repeat(MESSAGE / 21);
    let talk = talks.first_mut().expect("there are chats");
    let latency = Samples::of(bench.replies, || {
        std::thread::sleep(PAUSE);
        talk.reply(&text)
    });
    std::thread::sleep(processes::REST);
    let below = processes::descendants(daemon.id());
    let sandbox = below.iter().map(|id| processes::proportional(*id)).sum();
    Look { latency, daemon: processes::resident(daemon.id()), sandbox }
}
