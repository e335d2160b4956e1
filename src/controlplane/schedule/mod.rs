//! When work is due: what an agent or an operator wrote becomes instants, runs that were missed become one or none, and
//! one timer waits for the earliest instant of everything that the ledger has. The zones' rules are inside the
//! executable. Touches the clock and, through what each thing that comes due does, the ledger.

pub mod calendar;
pub mod cron;
pub mod error;
mod firing;
pub mod sources;
pub mod tasks;
pub mod terms;
pub mod timer;
