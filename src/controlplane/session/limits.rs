//! The fixed times and counts of a session's life, each with its reason.

use std::time::Duration;

/// Without an acknowledgement for so long a sandbox is shown as stalled; mail waits in the ledger.
pub(super) const STALLED_AFTER: Duration = Duration::from_secs(5);

/// From the end of the doorbell's connection to the end of the process; an honest one takes milliseconds.
pub(super) const CLOSED_GRACE: Duration = Duration::from_secs(2);

/// From `stop` to the kill. An honest sandbox only has a transaction to finish.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(2);

/// How long a killed sandbox may take to be gone before the host says so and goes on.
pub(super) const KILL_GRACE: Duration = Duration::from_secs(10);

/// Wait after the first death; doubles with each further one.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_secs(1);

/// Longest wait between two launches of a session whose sandboxes die.
pub(super) const BACKOFF_MOST: Duration = Duration::from_secs(300);

/// Deaths in a row before any turn began that park the session.
pub(super) const DEATHS_TO_PARK: u32 = 5;

/// Deaths after which the wait is the longest.
pub(super) const DEATHS_FOR_LONGEST_WAIT: u32 = 10;

/// Time between two looks at a cause that passes by itself, a full disk for one.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Time between two counts of a group's files while a turn runs.
pub(super) const MEASURE_EVERY: Duration = Duration::from_secs(10);

/// Time between two looks at the free space while a turn runs.
pub(super) const SPACE_EVERY: Duration = Duration::from_secs(1);

/// Messages handed over in one transaction; the rest follows with the next ring.
pub(super) const MESSAGES_A_RING: usize = 256;

/// Bytes of text handed over in one transaction.
pub(super) const BYTES_A_RING: usize = 4 << 20;

/// Unfinished messages that a running sandbox holds at most; the rest waits in the ledger. It keeps all of them in
/// its memory, and takes a few dozen in one turn.
pub(super) const MESSAGES_HELD: usize = 1024;

/// Bytes of text of these, beyond which no further message is handed over.
pub(super) const BYTES_HELD: usize = 16 << 20;

/// The wait before the next launch after this many deaths in a row.
pub(super) fn backoff(deaths: u32) -> Duration {
    let doubled =
        BACKOFF_FIRST.saturating_mul(1u32.checked_shl(deaths.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(BACKOFF_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        let seconds: Vec<u64> = [1, 2, 3, 9, 10, 32, 33, u32::MAX].map(|n| backoff(n).as_secs()).to_vec();
        assert_eq!(seconds, [1, 2, 4, 256, 300, 300, 300, 300]);
    }
}
