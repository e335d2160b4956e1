//! Telegram's Bot API as values: an update becomes an event, an agent's text becomes Telegram's HTML, a request has its
//! body and an answer its meaning. Pure: connections, tokens and the clock are the caller's.

pub mod markup;
pub mod media;
pub mod normalize;
pub mod spans;
pub mod wire;
