//! The doorbell's frames: ASCII lines of at most 64 bytes that carry numbers and never content. The host
//! owns the socket; a sandbox has one connection. Numbers are decimal without sign or leading zero, below
//! 2^63 so that they fit SQLite's integers.

use std::fmt;

/// The protocol's version, said in `hello`.
pub const VERSION: u32 = 1;

/// Longest line, its newline included.
pub const LONGEST: usize = 64;

/// What a sandbox knows of the outputs it ever numbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HelloSeq {
    /// The highest outbound number ever minted; 0 when there was none.
    Minted(u64),
    /// `session.db` does not open: memory is lost.
    Lost,
}

/// Sandbox to host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromSandbox {
    /// The first frame of a connection.
    Hello {
        /// See [`VERSION`].
        version: u32,
        /// See [`HelloSeq`].
        seq: HelloSeq,
    },
    /// Outbound is committed up to this number.
    Out(u64),
    /// Inbound was read up to this number.
    Ack(u64),
    /// A turn is running; the word says what it waits for.
    Alive(String),
}

/// Host to sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToSandbox {
    /// The answer to `hello`: outputs up to this number are stored.
    Welcome(u64),
    /// Inbound is committed up to this number.
    In(u64),
    /// Outputs up to this number are stored and may be forgotten.
    Ack(u64),
    /// Commit and exit.
    Stop,
}

/// Why a line is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Longer than [`LONGEST`] bytes.
    TooLong,
    /// Not one of the frames.
    Unknown,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "a doorbell line is longer than {LONGEST} bytes"),
            Self::Unknown => f.write_str("a doorbell line is not one of the frames"),
        }
    }
}

impl std::error::Error for FrameError {}

impl FromSandbox {
    /// The line, newline included.
    pub fn encode(&self) -> String {
        match self {
            Self::Hello { version, seq: HelloSeq::Minted(seq) } => format!("hello {version} {seq}\n"),
            Self::Hello { version, seq: HelloSeq::Lost } => format!("hello {version} lost\n"),
            Self::Out(seq) => format!("out {seq}\n"),
            Self::Ack(seq) => format!("ack {seq}\n"),
            Self::Alive(word) => format!("alive {word}\n"),
        }
    }

    /// Reads a line without its newline.
    pub fn parse(line: &[u8]) -> Result<Self, FrameError> {
        match words(line)? {
            ["hello", version, "lost"] => {
                Ok(Self::Hello { version: version_number(version)?, seq: HelloSeq::Lost })
            }
            ["hello", version, seq] => {
                Ok(Self::Hello { version: version_number(version)?, seq: HelloSeq::Minted(number(seq)?) })
            }
            ["out", seq, ""] => Ok(Self::Out(number(seq)?)),
            ["ack", seq, ""] => Ok(Self::Ack(number(seq)?)),
            ["alive", word, ""]
                if !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') =>
            {
                Ok(Self::Alive(word.to_owned()))
            }
            _ => Err(FrameError::Unknown),
        }
    }
}

impl ToSandbox {
    /// The line, newline included.
    pub fn encode(&self) -> String {
        match self {
            Self::Welcome(seq) => format!("welcome {seq}\n"),
            Self::In(seq) => format!("in {seq}\n"),
            Self::Ack(seq) => format!("ack {seq}\n"),
            Self::Stop => "stop\n".to_owned(),
        }
    }

    /// Reads a line without its newline.
    pub fn parse(line: &[u8]) -> Result<Self, FrameError> {
        match words(line)? {
            ["welcome", seq, ""] => Ok(Self::Welcome(number(seq)?)),
            ["in", seq, ""] => Ok(Self::In(number(seq)?)),
            ["ack", seq, ""] => Ok(Self::Ack(number(seq)?)),
            ["stop", "", ""] => Ok(Self::Stop),
            _ => Err(FrameError::Unknown),
        }
    }
}

/// Up to three words parted by single spaces; missing ones are empty.
fn words(line: &[u8]) -> Result<[&str; 3], FrameError> {
    if line.len() >= LONGEST {
        return Err(FrameError::TooLong);
    }
    if !line.iter().all(|b| (b' '..=b'~').contains(b)) || line.ends_with(b" ") {
        return Err(FrameError::Unknown);
    }
    let text = std::str::from_utf8(line).map_err(|_| FrameError::Unknown)?;
    let mut parts = text.split(' ');
    let found = [parts.next(), parts.next(), parts.next()].map(|word| word.unwrap_or_default());
    if parts.next().is_some() { Err(FrameError::Unknown) } else { Ok(found) }
}

fn number(word: &str) -> Result<u64, FrameError> {
    let plain = word == "0" || (!word.starts_with('0') && word.bytes().all(|b| b.is_ascii_digit()));
    let value: u64 = word.parse().map_err(|_| FrameError::Unknown)?;
    if plain && i64::try_from(value).is_ok() { Ok(value) } else { Err(FrameError::Unknown) }
}

fn version_number(word: &str) -> Result<u32, FrameError> {
    u32::try_from(number(word)?).map_err(|_| FrameError::Unknown)
}

/// Splits a stream into lines without ever holding more than one line's bytes.
#[derive(Debug, Default)]
pub struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Takes what was read and gives the complete lines in it, without their newlines. After an error the
    /// stream has lost its framing and must be closed.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut complete = Vec::new();
        for &byte in bytes {
            if byte == b'\n' {
                complete.push(std::mem::take(&mut self.pending));
            } else if self.pending.len() + 1 >= LONGEST {
                return Err(FrameError::TooLong);
            } else {
                self.pending.push(byte);
            }
        }
        Ok(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_reads_back_and_is_frozen() {
        let from = [
            (FromSandbox::Hello { version: 1, seq: HelloSeq::Minted(0) }, "hello 1 0\n"),
            (FromSandbox::Hello { version: 1, seq: HelloSeq::Lost }, "hello 1 lost\n"),
            (FromSandbox::Out(7), "out 7\n"),
            (FromSandbox::Ack(8), "ack 8\n"),
            (FromSandbox::Alive("model".into()), "alive model\n"),
        ];
        for (frame, line) in from {
            assert_eq!(frame.encode(), line);
            assert_eq!(FromSandbox::parse(line.trim_end().as_bytes()), Ok(frame));
        }
        let to = [
            (ToSandbox::Welcome(0), "welcome 0\n"),
            (ToSandbox::In(2), "in 2\n"),
            (ToSandbox::Ack(3), "ack 3\n"),
            (ToSandbox::Stop, "stop\n"),
        ];
        for (frame, line) in to {
            assert_eq!(frame.encode(), line);
            assert_eq!(ToSandbox::parse(line.trim_end().as_bytes()), Ok(frame));
        }
    }

    #[test]
    fn what_is_not_a_frame_is_refused() {
        let long = "out ".to_owned() + &"1".repeat(60);
        for bad in [
            "",
            "out",
            "out ",
            "out 01",
            "out -1",
            "out +1",
            "out 1 ",
            " out 1",
            "out  1",
            "out 1 2",
            "OUT 1",
            "out 9223372036854775808",
            "out 18446744073709551616",
            "out 1\r",
            "alive",
            "alive A",
            "alive a b",
            "hello 1",
            "hello lost",
            "hello 1 1 1",
            "hello 4294967296 1",
            "stop 1",
            "welcome",
            "ack \u{0661}",
            long.as_str(),
        ] {
            assert!(FromSandbox::parse(bad.as_bytes()).is_err(), "{bad:?}");
            assert!(ToSandbox::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(FromSandbox::parse(b"out \xff").is_err());
    }

    #[test]
    fn lines_come_in_any_pieces_and_never_pile_up() {
        let mut lines = Lines::default();
        assert_eq!(lines.feed(b"out 1\nac"), Ok(vec![b"out 1".to_vec()]));
        assert_eq!(lines.feed(b"k 2\n\n"), Ok(vec![b"ack 2".to_vec(), Vec::new()]));
        assert_eq!(lines.feed(&[b'a'; 64]), Err(FrameError::TooLong));
        assert_eq!(Lines::default().feed(&[b'a'; 63]).map(|l| l.len()), Ok(0));
    }
}
