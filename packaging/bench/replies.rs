//! Figures of replies: from sending a message to reading its answer from the event stream, for a conversation
//! that has no sandbox yet and for one that has.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::table::{Amount, Row, Samples};
use crate::world::http::Events;
use crate::world::{Chat, Daemon, Home, Runtime, Serve, eventually};
use crate::{Bench, bare, processes};

const AGENT: &str = "mock-agent";

/// How long a sandbox stays in the runs that measure launches: long enough to read its bundle.
const SHORT_LINGER: &str = "500ms";

/// A person's pause before the next message, so that the doorbell's limit of rings is never reached.
pub const PAUSE: Duration = Duration::from_millis(80);

/// Synced commits that stand between a message and its answer: the ledger accepts it, the sandbox's journal begins
/// the turn and ends it, the ledger stores the answer.
const COMMITS: u32 = 4;

/// Rings and acknowledgements between the two sides for one message: in, out, out.
const ROUND_TRIPS: u32 = 3;

/// One chat and its open event stream.
pub struct Talk<'a> {
    chat: Chat<'a>,
    events: Events,
}

impl<'a> Talk<'a> {
    pub fn open(daemon: &'a Daemon, name: &'a str) -> Talk<'a> {
        let chat = daemon.chat(AGENT, name);
        let events = chat.events(0);
        Talk { chat, events }
    }

    /// Sends a message and waits for its answer.
    pub fn reply(&mut self, text: &str) -> Duration {
        let begun = Instant::now();
        let sent = self.chat.say(text);
        loop {
            let event = self.events.next().expect("the event stream goes on");
            let Ok(entry) = serde_json::from_str::<Value>(&event.data) else { continue };
            if entry["direction"] == "out" && entry["in_reply_to"] == sent.message_id.as_str() {
                return begun.elapsed();
            }
        }
    }
}

pub fn first_gvisor(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = short_lived(&home, Runtime::Gvisor);
    let mut runsc = None;
    let (mut replies, mut floors) = (Samples::default(), Samples::default());
    // The first of each only warms the page cache.
    for number in 0..=bench.launches {
        let took = Talk::open(&daemon, &format!("first-{number}")).reply("hello");
        let runsc = runsc.get_or_insert_with(|| bare::Runsc::like(&home, &daemon));
        alone(&daemon);
        let floor = runsc.first_output();
        if number > 0 {
            replies.push(took);
            floors.push(floor);
        }
    }
    let row = Row::times("new session to first reply, gVisor", &replies)
        .floor(Amount::Time(floors.median()), "bare runsc run to first output")
        .at_most_times_floor(1.4);
    vec![row]
}

pub fn first_native(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = short_lived(&home, Runtime::Native);
    let (mut replies, mut floors) = (Samples::default(), Samples::default());
    for number in 0..=bench.launches {
        let took = Talk::open(&daemon, &format!("first-{number}")).reply("hello");
        alone(&daemon);
        let floor = bare::cage_first_output(&home.exe);
        if number > 0 {
            replies.push(took);
            floors.push(floor);
        }
    }
    let row = Row::times("new session to first reply, native", &replies)
        .floor(Amount::Time(floors.median()), "unshare to first output")
        .at_most(Amount::ms(30));
    vec![row]
}

fn short_lived(home: &Home, runtime: Runtime) -> Daemon {
    Serve::new(home, runtime).flag("--linger", SHORT_LINGER).ready()
}

/// Waits until no sandbox of the daemon runs, so that the next sample has the machine for itself.
fn alone(daemon: &Daemon) {
    eventually("the sandbox has ended", || processes::descendants(daemon.id()).is_empty().then_some(()));
}

pub fn warm_gvisor(bench: &Bench) -> Vec<Row> {
    warm(bench, Runtime::Gvisor, "warm reply, gVisor", Amount::ms(25))
}

pub fn warm_native(bench: &Bench) -> Vec<Row> {
    warm(bench, Runtime::Native, "warm reply, native", Amount::ms(8))
}

fn warm(bench: &Bench, runtime: Runtime, figure: &str, bound: Amount) -> Vec<Row> {
    let home = bench.home();
    let daemon = Serve::new(&home, runtime).ready();
    let mut talk = Talk::open(&daemon, "warm");
    talk.reply("hello");
    let replies = Samples::of(bench.replies, || {
        std::thread::sleep(PAUSE);
        talk.reply("How are you?")
    });
    let write = bare::durable_write(&home, bench.replies);
    let trip = bare::socket_round_trip(bench.replies);
    let floor = write * COMMITS + trip * ROUND_TRIPS;
    let what = format!(
        "{COMMITS} durable writes of {} us, {ROUND_TRIPS} socket round trips of {} us",
        write.as_micros(),
        trip.as_micros()
    );
    vec![Row::times(figure, &replies).floor(Amount::Time(floor), what).at_most(bound)]
}
