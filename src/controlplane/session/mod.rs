//! Sandbox lifecycle: one actor per session.

pub mod hostile;
