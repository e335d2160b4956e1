//! The test world: a home of its own, the real executable started in it as root or as an ordinary user, typed
//! clients, and a look at what is left behind. It never links the crate, never sleeps to get an order right
//! (it waits for an event, with a deadline that fails the test), and ends only what it started.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "every test target uses its own part of the world"
)]

pub mod boxes;
pub mod canaries;
pub mod chat;
pub mod daemon;
pub mod deceit;
pub mod home;
pub mod http;
pub mod install;
pub mod leftovers;
pub mod models;
pub mod points;
pub mod telegram;

use std::time::{Duration, Instant};

pub use chat::{Chat, Entry};
pub use daemon::{Daemon, Serve};
pub use home::{Build, Home, User};
pub use models::Models;
pub use telegram::Telegram;

/// How long a test waits for something that should happen at once. It is long because the machine may be
/// busy with other tests; no test passes or fails by a shorter time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The two back ends, as `--runtime` names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runtime {
    Gvisor,
    Native,
}

impl Runtime {
    pub fn flag(self) -> &'static str {
        match self {
            Runtime::Gvisor => "runsc",
            Runtime::Native => "native",
        }
    }
}

/// A size of the suite, from the environment.
pub fn size(variable: &str, default: usize) -> usize {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
        Err(_) => default,
    }
}

/// Rounds of each kill test.
pub fn rounds() -> usize {
    size("IRONCLAW_TEST_ROUNDS", 20)
}

/// Looks again and again until `look` gives something; fails the test after [`PATIENCE`]. It is for what tells
/// nobody that it changed: a number of `/metrics`, a listening socket, the lists of processes, mounts and control
/// groups. What does is waited for: a log line, an event of a chat, a process's end.
#[track_caller]
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, look)
}

/// [`eventually`], for what has a time of its own before which it does not come.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < patience, "not within {} s: {what}", patience.as_secs());
        // Between two looks, so that looking does not take the processor from what is waited for.
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A word that occurs nowhere else.
pub fn marker() -> String {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
    format!("m{:016x}", u64::from_le_bytes(bytes))
}

/// Small deterministic random numbers.
pub struct Random(pub u64);

impl Random {
    /// Those of a test whose choices can be repeated: by `IRONCLAW_TEST_SEED`, or else new ones. Says which.
    pub fn of_run() -> Random {
        let given = std::env::var("IRONCLAW_TEST_SEED").ok();
        let seed = given
            .map(|text| text.parse().unwrap_or_else(|_| panic!("IRONCLAW_TEST_SEED={text} is not a number")));
        let random = seed.map_or_else(Random::fresh, Random);
        println!("IRONCLAW_TEST_SEED={}", random.0);
        random
    }

    /// New ones.
    pub fn fresh() -> Random {
        let mut bytes = [0; 8];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).unwrap();
        Random(u64::from_le_bytes(bytes))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
