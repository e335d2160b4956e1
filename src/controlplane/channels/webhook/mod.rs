//! Webhooks of no particular platform: what proves that a request comes from who holds the secret. Pure.

mod base64;
pub mod signature;
