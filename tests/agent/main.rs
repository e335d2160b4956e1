//! The agent and its models: what it is asked through the host's proxy, what it keeps and what it can do. Every test
//! starts the real executable; the providers of models are fakes written from their documentation.

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
#[path = "../world/mod.rs"]
mod world;

mod budgets;
mod commands;
mod faults;
mod files;
mod gateway;
mod kept_out;
mod memory;
mod providers;
mod talk;
