//! What the daemon tells about itself: log events and metrics. Both carry ids and counts, never content or
//! secrets. Touches standard error and nothing else.

pub mod log;
pub mod metrics;
mod queue;
