//! What goes out to people and what comes in with it: texts cut to the size a platform takes, and files that are what
//! their bytes say. Pure.

pub mod chunks;
pub mod fences;
pub mod sniff;
