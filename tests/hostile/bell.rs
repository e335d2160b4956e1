//! The hostile program's end of the doorbell: frames as they are, and bytes that are none.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use ironclaw::contract::frame::{FromSandbox, HelloSeq, Lines, ToSandbox, VERSION};
use ironclaw::contract::paths;

use super::Done;

type Failure = Box<dyn std::error::Error>;

pub(super) struct Bell {
    stream: UnixStream,
    lines: Lines,
    waiting: VecDeque<ToSandbox>,
    /// The outputs that the host has stored.
    pub(super) cursor: u64,
}

impl Bell {
    pub(super) fn connect() -> Result<Bell, Failure> {
        let stream = UnixStream::connect(paths::DOORBELL)?;
        Ok(Bell { stream, lines: Lines::default(), waiting: VecDeque::new(), cursor: 0 })
    }

    /// Connects and is welcomed.
    pub(super) fn greet() -> Result<Bell, Failure> {
        let mut bell = Bell::connect()?;
        // A number below the host's would mean that memory is lost.
        bell.hello(std::fs::read_to_string(REMEMBERED).ok().and_then(|text| text.parse().ok()).unwrap_or(0))?;
        bell.welcome()?;
        Ok(bell)
    }

    /// Connects, is welcomed, and acknowledges the snapshot.
    pub(super) fn begin() -> Result<Bell, Failure> {
        let mut bell = Bell::greet()?;
        loop {
            if let ToSandbox::In(last) = bell.next()? {
                bell.send(FromSandbox::Ack(last).encode().as_bytes())?;
                return Ok(bell);
            }
        }
    }

    pub(super) fn hello(&mut self, seq: u64) -> Done {
        self.send(FromSandbox::Hello { version: VERSION, seq: HelloSeq::Minted(seq) }.encode().as_bytes())
    }

    pub(super) fn welcome(&mut self) -> Done {
        match self.next()? {
            ToSandbox::Welcome(cursor) => {
                self.cursor = cursor;
                Ok(())
            }
            _ => Err("something came before the welcome".into()),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> Done {
        Ok(self.stream.write_all(bytes)?)
    }

    pub(super) fn next(&mut self) -> Result<ToSandbox, Failure> {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return Ok(frame);
            }
            let mut buffer = [0; 512];
            let count = self.stream.read(&mut buffer)?;
            if count == 0 {
                return Err("the doorbell was closed".into());
            }
            for line in self.lines.feed(buffer.get(..count).unwrap_or_default())? {
                self.waiting.push_back(ToSandbox::parse(&line)?);
            }
        }
    }

    /// Rings and waits for the acknowledgement; rings of the other file are acknowledged meanwhile.
    pub(super) fn ring(&mut self, last: u64) -> Done {
        remember(last)?;
        self.send(FromSandbox::Out(last).encode().as_bytes())?;
        loop {
            match self.next()? {
                ToSandbox::Ack(stored) if stored == last => {
                    self.cursor = stored;
                    return Ok(());
                }
                ToSandbox::In(last) => self.send(FromSandbox::Ack(last).encode().as_bytes())?,
                ToSandbox::Stop => return Err("stopped".into()),
                _ => {}
            }
        }
    }

    /// The first odd number that the host has not stored.
    pub(super) fn next_number(&self) -> u64 {
        if self.cursor == 0 { 1 } else { self.cursor + 2 }
    }

    /// Behaves until it is told to stop.
    pub(super) fn until_stop(&mut self) -> Done {
        loop {
            match self.next()? {
                ToSandbox::Stop => return Ok(()),
                ToSandbox::In(last) => self.send(FromSandbox::Ack(last).encode().as_bytes())?,
                _ => {}
            }
        }
    }

    /// Reads and never answers again, whatever comes.
    pub(super) fn listen_forever(&mut self) -> Done {
        while self.next().is_ok() {}
        super::forever()
    }
}

/// Remembers the last number that was used, before it is rung: the next sandbox of this session says hello with it.
pub(super) fn remember(last: u64) -> Done {
    Ok(std::fs::write(REMEMBERED, last.to_string())?)
}

/// Where the last number is kept between two sandboxes of the session.
const REMEMBERED: &str = "/session/remembered";
