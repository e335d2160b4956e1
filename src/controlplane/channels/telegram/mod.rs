//! Telegram: [`account`] is the connection of one bot, and the rest is its Bot API as values, pure: an update becomes an
//! event, an agent's text becomes Telegram's HTML, a request has its body and an answer its meaning.

pub mod account;
pub mod markup;
pub mod media;
pub mod normalize;
pub mod spans;
pub mod told;
pub mod upload;
pub mod wire;
