//! The way of a message, from a platform to an agent and back: who is heard, what is brought where, and that nothing is
//! lost and nothing comes twice, whoever dies when. Every test starts the real executable; the platforms are fakes
//! written from their documentation.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    reason = "these are tests"
)]

#[allow(dead_code, reason = "each test target uses its own part of it")]
#[path = "../gateway/hand.rs"]
mod hand;
#[path = "../fakes/hook.rs"]
mod hook;
#[path = "../world/mod.rs"]
mod world;

mod approved;
mod asked;
mod brought;
mod doors;
mod erased;
mod files;
mod heard;
mod killed;
mod models;
mod peers;
mod random;
mod scenario;
mod scheduled;
mod secrets;
mod seen;
mod telegram;
mod told;
mod waited;
