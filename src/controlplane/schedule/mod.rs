//! When work is due: what an agent or an operator wrote becomes instants, and runs that were missed become one or
//! none. Pure: the clock and the ledger are the caller's, and the zones' rules are inside the executable.

pub mod calendar;
pub mod cron;
pub mod error;
