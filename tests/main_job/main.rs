//! The main job, from outside: one static file answers from a sealed sandbox. Every test starts the real
//! executable in a home of its own, as root or as an ordinary user, in gVisor or in the native cage, and
//! speaks to it as a user does. `tests/run` builds what they need; without it they fail and say so.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "these are tests"
)]

#[path = "../world/mod.rs"]
mod world;

mod bad_input;
mod crash;
mod crash_points;
mod demo;
mod face;
mod hostile;
mod inside;
mod limits;
mod no_user_namespaces;
mod power;
mod restart;
mod rotate;
mod talk;
mod traffic;
mod world_check;
