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

mod audit;
mod changes;
mod deceit;
mod destinations;
mod doctor;
mod door;
mod events;
mod hand;
mod mounts;
mod packages;
mod requests;
mod routes;
mod secrets;
mod unrecorded;
mod words;

/// One test for each back end and each kind of user, from a function of both.
macro_rules! in_every_box {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            use crate::world::{Runtime, User};

            #[test]
            fn gvisor_root() {
                super::$name(Runtime::Gvisor, User::Root);
            }

            #[test]
            fn gvisor_user() {
                super::$name(Runtime::Gvisor, User::Ordinary);
            }

            #[test]
            fn native_root() {
                super::$name(Runtime::Native, User::Root);
            }

            #[test]
            fn native_user() {
                super::$name(Runtime::Native, User::Ordinary);
            }
        })+
    };
}

use in_every_box;
