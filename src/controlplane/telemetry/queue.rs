//! What is waiting to be written to standard error, and the thread that writes it. A reader that is slow or stuck
//! costs lines, never time: what does not fit is counted, and the count takes the place of the lines. Touches
//! standard error.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of lines that wait; some ten thousand lines.
const MOST_BYTES: usize = 1 << 20;

/// Lines on their way to a writer, in order.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// Everything is written.
    emptied: Condvar,
}

struct State {
    lines: VecDeque<String>,
    bytes: usize,
    /// Lines that did not fit since the last one that did.
    dropped: u64,
    /// Whether the writer has a line in its hands.
    writing: bool,
    /// Whether there is a writer.
    has_writer: bool,
}

impl Queue {
    pub(super) const fn new() -> Self {
        Self {
            state: Mutex::new(State {
                lines: VecDeque::new(),
                bytes: 0,
                dropped: 0,
                writing: false,
                has_writer: false,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a whole line, or counts it as dropped. Never waits for the writer. `start` is called once, when there
    /// is no writer yet; it says whether there is one now. `lost` makes the line that tells of dropped ones.
    pub(super) fn push(&self, line: String, start: impl FnOnce() -> bool, lost: impl FnOnce(u64) -> String) {
        let mut state = self.lock();
        if !state.has_writer {
            state.has_writer = start();
        }
        let notice = if state.dropped > 0 { lost(state.dropped) } else { String::new() };
        if !state.has_writer || state.bytes + line.len() + notice.len() > MOST_BYTES {
            state.dropped += 1;
            return;
        }
        state.dropped = 0;
        for line in [notice, line].into_iter().filter(|line| !line.is_empty()) {
            state.bytes += line.len();
            state.lines.push_back(line);
        }
        drop(state);
        self.filled.notify_one();
    }

    /// The writer: takes lines for ever. What cannot be written is lost; whoever reads the log may be gone.
    pub(super) fn drain(&self, mut to: impl Write) -> ! {
        let mut state = self.lock();
        loop {
            match state.lines.pop_front() {
                Some(line) => {
                    state.bytes -= line.len();
                    state.writing = true;
                    drop(state);
                    let _ = to.write_all(line.as_bytes());
                    state = self.lock();
                    state.writing = false;
                }
                None => {
                    self.emptied.notify_all();
                    state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Waits until everything is written, at most this long; `lost` is as for [`Queue::push`].
    pub(super) fn flush(&self, limit: Duration, lost: impl FnOnce(u64) -> String) {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        if state.dropped > 0 && state.has_writer {
            let notice = lost(std::mem::take(&mut state.dropped));
            state.bytes += notice.len();
            state.lines.push_back(notice);
            self.filled.notify_one();
        }
        while state.has_writer && (state.writing || !state.lines.is_empty()) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.emptied.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Standard error without the lock of the library, which would make everybody else wait for a stuck reader.
pub(super) struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(io::stderr(), bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::sync::Arc;

    fn lost(count: u64) -> String {
        format!("dropped {count}\n")
    }

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_never_time() {
        const LINES: u64 = 20_000;
        let (reader, writer) = io::pipe().unwrap();
        let queue = Arc::new(Queue::new());
        let writing = Arc::clone(&queue);
        std::thread::spawn(move || writing.drain(writer));
        let push = |n: u64| queue.push(format!("line {n} {}\n", "x".repeat(200)), || true, lost);
        // The pipe holds 64 KiB and the queue 1 MiB; this is 4 MiB, and it comes back.
        (0..LINES).for_each(push);
        queue.flush(Duration::from_millis(20), lost);

        let (mut next, mut missing) = (0, 0);
        for line in BufReader::new(reader).lines() {
            let line = line.unwrap();
            if let Some(count) = line.strip_prefix("dropped ") {
                let count: u64 = count.parse().unwrap();
                missing += count;
                next += count;
            } else {
                let (number, rest) = line.strip_prefix("line ").unwrap().split_once(' ').unwrap();
                assert_eq!((number.parse(), rest.len()), (Ok(next), 200));
                next += 1;
            }
            if next == LINES {
                break;
            }
        }
        assert!((1..LINES).contains(&missing), "{missing}");
    }

    #[test]
    fn a_flush_returns_when_all_is_written() {
        let (mut reader, writer) = io::pipe().unwrap();
        let queue = Arc::new(Queue::new());
        let writing = Arc::clone(&queue);
        std::thread::spawn(move || writing.drain(writer));
        queue.push("a\n".into(), || true, lost);
        queue.push("b\n".into(), || false, lost);
        queue.flush(Duration::from_secs(600), lost);
        let mut written = [0; 4];
        assert_eq!(io::Read::read(&mut reader, &mut written).unwrap(), 4);
        assert_eq!(&written, b"a\nb\n");
    }

    #[test]
    fn without_a_writer_lines_are_counted_and_nothing_waits() {
        let queue = Queue::new();
        queue.push("a\n".into(), || false, lost);
        queue.flush(Duration::from_secs(600), lost);
        queue.push("b\n".into(), || true, lost);
        let state = queue.lock();
        assert_eq!(state.lines, ["dropped 1\n", "b\n"]);
    }
}
