//! What an attack costs a bystander: the time of a reply while nobody else runs, and while a sandbox of another
//! group floods its doorbell as fast as it can. There is no bound: both contend for the same processors, and what
//! matters is that the bystander goes on being answered. Only the faults build can launch the flooding program.

use crate::replies::{PAUSE, Talk};
use crate::table::{Amount, Row, Samples};
use crate::world::home::executable;
use crate::world::{Build, Home, Runtime, Serve, User};
use crate::{Bench, said};

const FIGURE: &str = "bystander reply";

pub fn bystander(bench: &Bench) -> Vec<Row> {
    let missing = [Build::Faults, Build::Hostile].into_iter().find_map(|build| {
        // The world says in a panic what is not there and what builds it.
        std::panic::catch_unwind(|| executable(build)).err()
    });
    if let Some(why) = missing {
        return vec![Row::left_out(FIGURE, &said(why.as_ref()))];
    }
    [(Runtime::Gvisor, "gVisor"), (Runtime::Native, "native")]
        .into_iter()
        .flat_map(|(runtime, name)| beside_a_flood(bench, runtime, name))
        .collect()
}

fn beside_a_flood(bench: &Bench, runtime: Runtime, name: &str) -> Vec<Row> {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = Serve::new(&home, runtime)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .ready();
    let mut talk = Talk::open(&daemon, "bystander");
    talk.reply("hello");
    let mut replies = || {
        Samples::of(bench.replies, || {
            std::thread::sleep(PAUSE);
            talk.reply("How are you?")
        })
    };
    let alone = replies();
    let attacker = daemon.chat("dev-agent", "attacker").say("hostile flood").session_id;
    let of_the_attacker = |line: &str, event: &str| line.contains(event) && line.contains(&attacker);
    daemon.log.wait_for("that the attacker runs", |line| of_the_attacker(line, "\"sandbox.launched\""));
    let attacked = replies();
    let ended = daemon.log.any(|line| of_the_attacker(line, "\"sandbox.ended\""));
    assert!(!ended, "the attacker was ended before the last reply");
    vec![
        Row::times(format!("{FIGURE} beside a flood, {name}"), &attacked)
            .floor(Amount::Time(alone.median()), "the same alone"),
        Row::new(format!("{FIGURE} beside a flood, {name}, p99"), Amount::Time(attacked.p99()))
            .floor(Amount::Time(alone.p99()), "the same alone"),
    ]
}
