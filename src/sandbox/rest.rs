//! Rest: a sandbox that has had nothing to do for a moment gives back the memory that only its work needed. Touches the
//! process's own memory.

use std::time::{Duration, Instant};

use crate::os::memory;

/// So long after the last work, a message would not have waited for what comes back from the file.
const AFTER: Duration = Duration::from_secs(1);

/// Whether the process works, waits, or has given back what it could.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// There is something to do, or was a moment ago.
    #[default]
    Working,
    /// Nothing has happened since; at this instant the memory goes.
    From(Instant),
    /// It is gone, until something happens.
    Resting,
}

impl Rest {
    /// To be asked whenever the process is about to wait: when it must be asked again at the latest, if nothing else
    /// happens. Gives the memory back when that time has come.
    pub(super) fn due(&mut self, is_busy: bool, something_came: bool, now: Instant) -> Option<Instant> {
        *self = match *self {
            _ if is_busy => Self::Working,
            Self::From(due) if !something_came && now >= due => {
                memory::rest();
                Self::Resting
            }
            Self::From(due) if !something_came => Self::From(due),
            Self::Resting if !something_came => Self::Resting,
            _ => Self::From(now + AFTER),
        };
        match *self {
            Self::From(due) => Some(due),
            Self::Working | Self::Resting => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_once_nothing_has_come_for_a_while() {
        let start = Instant::now();
        let mut rest = Rest::default();
        assert_eq!(rest.due(true, true, start), None);
        let due = rest.due(false, true, start).unwrap();
        assert_eq!(due, start + AFTER);
        // A wait that was cut short changes nothing; something that comes, or work, begins it anew.
        assert_eq!(rest.due(false, false, start), Some(due));
        assert_eq!(rest.due(false, true, start + AFTER), Some(due + AFTER));
        assert_eq!(rest.due(true, false, due + AFTER), None);
        assert_eq!(rest.due(false, false, due), Some(due + AFTER));
        assert_eq!((rest.due(false, false, due + AFTER), rest), (None, Rest::Resting));
        assert_eq!(rest.due(false, false, due + AFTER * 2), None);
        assert_eq!(rest.due(false, true, due), Some(due + AFTER));
    }
}
