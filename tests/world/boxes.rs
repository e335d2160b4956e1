//! Every box that a test can be run in: each back end, and each kind of user that starts it.

#![allow(unused_macros, reason = "every test target uses its own part of the world")]

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

pub(crate) use {in_both_back_ends, in_every_box};
