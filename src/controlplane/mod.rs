//! The trusted host daemon: it holds the keys and the ledger, launches the sandboxes, and checks whatever
//! they ask. Imports `contract` and `os`; never the sandbox.

pub mod alarm;
pub mod api;
pub mod approvals;
pub mod audit;
pub mod bell;
pub mod brokers;
pub mod channels;
pub mod config;
pub mod delivery;
pub mod doors;
pub mod gateway;
pub mod grants;
pub mod http;
pub mod isolation;
pub mod keys;
pub(crate) mod listen;
pub mod places;
pub mod principals;
pub mod questions;
pub mod router;
pub mod schedule;
pub mod serve;
pub mod session;
pub mod state;
pub mod store;
pub mod tasks;
pub mod telemetry;
pub mod tokens;
mod upkeep;
