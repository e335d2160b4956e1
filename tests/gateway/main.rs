//! The one gateway and the door before it, from outside: who may come in, over what, as whom, and what becomes of
//! what they ask for. Every test starts the real executable and speaks to it as a user does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    reason = "these are tests"
)]

#[path = "../world/mod.rs"]
mod world;

mod answers;
mod asking;
mod audit;
mod changes;
mod deceit;
mod decided;
mod destinations;
mod doctor;
mod door;
mod ended;
mod events;
mod gates;
mod hand;
mod limits;
mod models;
mod mounts;
mod packages;
mod platform;
mod policy;
mod reach;
mod requests;
mod revoked;
mod routes;
mod secrets;
mod seen;
mod tailnet;
mod terminal;
mod unrecorded;
mod words;
