//! The seam between the trusted host and the untrusted sandbox: the only room that both enter. It holds
//! what they must agree on (identifiers, rows, the cipher, doorbell frames, paths) and imports neither.

pub mod action;
pub mod address;
pub mod catalogue;
pub mod chain;
pub mod cipher;
pub mod conveyor;
pub mod fault;
pub mod frame;
pub mod ids;
pub mod inbound;
pub mod json;
pub mod outbound;
pub mod paths;
pub mod places;
pub mod plain;
pub mod providers;
pub mod sse;
pub mod time;
pub mod values;

#[cfg(test)]
mod cipher_exchange;
#[cfg(test)]
mod frozen;
