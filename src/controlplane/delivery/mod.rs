//! What goes out to people: texts cut to the size that a platform takes. Pure.

pub mod chunks;
pub mod fences;
