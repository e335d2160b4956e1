//! The platforms on which people talk to agents. Each has a room that turns what it sends into one kind of event, and
//! what an agent says into its requests.

pub mod event;
pub mod telegram;
pub mod webhook;
