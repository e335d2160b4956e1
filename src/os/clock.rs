//! The clock on the wall as something that can be waited for: a descriptor that becomes readable when the clock shows
//! an instant, however it came to show it: by running, by a machine that woke up, by somebody who set it. Touches
//! nothing else.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// One alarm. Its descriptor does not block.
#[derive(Debug)]
pub struct WallClock(OwnedFd);

impl WallClock {
    /// One that is not set.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(timerfd_create(TimerfdClockId::Realtime, flags)?))
    }

    /// Becomes readable when the clock shows so many milliseconds since 1970, at once if it does already; and when
    /// somebody sets the clock before. What it was set to earlier counts no more.
    ///
    /// # Errors
    /// The system's.
    pub fn set(&self, millis: i64) -> io::Result<()> {
        // Zero would mean never.
        let millis = millis.max(1);
        let value = Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 };
        let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        match timerfd_settime(&self.0, flags, &Itimerspec { it_interval: interval, it_value: value }) {
            // The clock was set at this very moment; it is armed, and readable for that.
            Ok(_) | Err(rustix::io::Errno::CANCELED) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes what made it readable, if anything did.
    pub fn take(&self) {
        let mut count = [0; 8];
        // Nothing to read, a number, or word that the clock was set: whoever woke looks at the clock.
        let _ = rustix::io::read(&self.0, &mut count);
    }
}

impl AsFd for WallClock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{SystemTime, UNIX_EPOCH};

    fn is_readable(clock: &WallClock, wait: i64) -> bool {
        let mut polled = [rustix::event::PollFd::new(clock, rustix::event::PollFlags::IN)];
        let wait = Timespec { tv_sec: wait, tv_nsec: 0 };
        rustix::event::poll(&mut polled, Some(&wait)).unwrap() == 1
    }

    #[test]
    fn it_is_readable_when_the_clock_shows_the_instant_and_not_before() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let now = i64::try_from(now).unwrap();
        let clock = WallClock::new().unwrap();
        assert!(!is_readable(&clock, 0), "it was never set");
        for past in [i64::MIN, -1, 0, now - 1, now] {
            clock.set(past).unwrap();
            assert!(is_readable(&clock, 60), "{past}");
            clock.take();
            assert!(!is_readable(&clock, 0), "{past}: once");
        }
        for later in [now + 3_600_000, i64::MAX] {
            clock.set(later).unwrap();
            assert!(!is_readable(&clock, 0), "{later}");
        }
        clock.set(now + 20).unwrap();
        assert!(is_readable(&clock, 60));
        clock.take();
    }
}
