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

/// One test for each back end, as root.
macro_rules! in_both_back_ends {
    ($($name:ident),+ $(,)?) => {
        $(mod $name {
            use crate::world::Runtime;

            #[test]
            fn gvisor() {
                super::$name(Runtime::Gvisor);
            }

            #[test]
            fn native() {
                super::$name(Runtime::Native);
            }
        })+
    };
}

use {in_both_back_ends, in_every_box};
