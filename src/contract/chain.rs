//! The audit chain as lines: each is one JSON object that carries its number and the hash of the line before it;
//! a line's hash is SHA-256 of its bytes without the newline. Whoever has the files can check that nothing was
//! changed, taken out or put in between the first line and the last. Touches only the readers it is given.

use std::fmt;
use std::io::{self, BufRead, Read};

use ring::digest::{SHA256, digest};

use super::json::{self, Value};

/// What stands before the first line.
pub const START: [u8; 32] = [0; 32];

/// The longest line, without its newline: a record names an act and what it was done to, it is no place for
/// contents.
pub const LINE_BYTES: usize = 256 << 10;

/// A line's hash.
pub fn hash(line: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, line.as_bytes()).as_ref());
    hash
}

/// A hash as text.
pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a line says of its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 1.
    pub seq: u64,
    /// The hash of the line before it, as text.
    pub previous: String,
}

/// Reads a line's place; `None` when it is no line of a chain.
pub fn place(line: &str) -> Option<Place> {
    let value: Value = json::parse(line.as_bytes()).ok()?;
    Some(Place {
        seq: value.get("seq")?.as_u64().filter(|seq| *seq > 0)?,
        previous: value.get("previous")?.as_str().filter(|text| text.len() == 64)?.to_owned(),
    })
}

/// What comes next in a file of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// A line, without its newline.
    Line(String),
    /// A line that no chain has: it is longer than [`LINE_BYTES`], or not UTF-8. Nothing is read after it.
    Foreign(&'static str),
    /// The last line has no newline; so many bytes are there of it.
    Torn(u64),
    /// There is no more.
    End,
}

/// Reads lines, holding one at a time.
pub struct Lines<R> {
    from: R,
    count: u64,
    bytes: u64,
}

impl<R: BufRead> Lines<R> {
    /// Of this reader.
    pub fn new(from: R) -> Self {
        Self { from, count: 0, bytes: 0 }
    }

    /// How many lines came, the one that came last included.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many bytes the whole lines so far take, newlines included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What comes next.
    ///
    /// # Errors
    /// The reader's.
    pub fn read(&mut self) -> io::Result<Piece> {
        let mut line = Vec::new();
        let most = LINE_BYTES as u64 + 1;
        let read = (&mut self.from).take(most).read_until(b'\n', &mut line)? as u64;
        if read == 0 {
            return Ok(Piece::End);
        }
        self.count += 1;
        if line.pop() != Some(b'\n') {
            return Ok(if read == most { Piece::Foreign("is too long") } else { Piece::Torn(read) });
        }
        self.bytes += read;
        Ok(String::from_utf8(line).map_or(Piece::Foreign("is not UTF-8"), Piece::Line))
    }
}

/// Why a line does not follow from those before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no record of a chain.
    NoRecord,
    /// Another number was expected.
    Number {
        /// That number.
        expected: u64,
        /// The line's.
        found: u64,
    },
    /// It names another hash than that of the line before it.
    Link {
        /// The line's number.
        seq: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRecord => f.write_str("this is no record of an audit chain"),
            Self::Number { expected: 1, found } => {
                write!(f, "the chain begins with record {found}; what came before it is missing")
            }
            Self::Number { expected, found } if found > expected => {
                write!(f, "record {found} comes where {expected} belongs; what was between is missing")
            }
            Self::Number { expected, found } => {
                write!(f, "record {found} comes where {expected} belongs; it is in the wrong place")
            }
            Self::Link { seq } => {
                write!(f, "record {seq} does not follow from the one before it; one of the two was changed")
            }
        }
    }
}

/// Walks a chain line by line, over as many files as there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walk {
    last: u64,
    tip: [u8; 32],
}

impl Default for Walk {
    fn default() -> Self {
        Self { last: 0, tip: START }
    }
}

impl Walk {
    /// The number of the last line; 0 before the first.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The hash of the last line.
    pub fn tip(&self) -> &[u8; 32] {
        &self.tip
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// Why it cannot be the next one; it is then not taken.
    pub fn step(&mut self, line: &str) -> Result<(), Fault> {
        let Place { seq, previous } = place(line).ok_or(Fault::NoRecord)?;
        let expected = self.last.saturating_add(1);
        if seq != expected {
            return Err(Fault::Number { expected, found: seq });
        }
        if previous != hex(&self.tip) {
            return Err(Fault::Link { seq });
        }
        self.last = seq;
        self.tip = hash(line);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(length: u64) -> Vec<String> {
        let mut walk = Walk::default();
        (1..=length)
            .map(|seq| {
                let line = format!(r#"{{"seq":{seq},"act":"x","previous":"{}"}}"#, hex(walk.tip()));
                walk.step(&line).unwrap();
                line
            })
            .collect()
    }

    fn fault(lines: &[String]) -> Option<Fault> {
        let mut walk = Walk::default();
        lines.iter().find_map(|line| walk.step(line).err())
    }

    #[test]
    fn a_line_names_its_place() {
        let start = hex(&START);
        let line = format!(r#"{{"seq":1,"act":"x","previous":"{start}"}}"#);
        assert_eq!(place(&line), Some(Place { seq: 1, previous: start }));
        for bad in
            ["", "{}", "[]", r#"{"seq":0,"previous":""}"#, r#"{"seq":1,"previous":"00"}"#, "{\"seq\":1"]
        {
            assert_eq!(place(bad), None, "{bad}");
        }
        assert_eq!(hex(&hash("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn whatever_is_done_to_a_chain_is_found() {
        let whole = chain(9);
        assert_eq!(fault(&whole), None);
        let mut edited = whole.clone();
        edited[3] = edited[3].replace("\"x\"", "\"y\"");
        assert_eq!(fault(&edited), Some(Fault::Link { seq: 5 }));
        let mut deleted = whole.clone();
        deleted.remove(3);
        assert_eq!(fault(&deleted), Some(Fault::Number { expected: 4, found: 5 }));
        let mut inserted = whole.clone();
        inserted.insert(3, whole[3].clone());
        assert_eq!(fault(&inserted), Some(Fault::Number { expected: 5, found: 4 }));
        let mut swapped = whole.clone();
        swapped.swap(3, 4);
        assert_eq!(fault(&swapped), Some(Fault::Number { expected: 4, found: 5 }));
        let mut foreign = whole.clone();
        foreign[3] = "{}".to_owned();
        assert_eq!(fault(&foreign), Some(Fault::NoRecord));
        assert_eq!(fault(&whole[2..]), Some(Fault::Number { expected: 1, found: 3 }));
        // A chain that was made anew from an edited line on fits only until it meets an old one.
        let mut renumbered = chain(3);
        renumbered[2] = renumbered[2].replace("\"x\"", "\"y\"");
        renumbered.extend(whole[3..].iter().cloned());
        assert_eq!(fault(&renumbered), Some(Fault::Link { seq: 4 }));
    }

    #[test]
    fn lines_are_read_one_by_one_and_bounded() {
        let mut lines = Lines::new("a\nbc\nd".as_bytes());
        assert_eq!(lines.read().unwrap(), Piece::Line("a".into()));
        assert_eq!(lines.read().unwrap(), Piece::Line("bc".into()));
        assert_eq!((lines.count(), lines.bytes()), (2, 5));
        assert_eq!(lines.read().unwrap(), Piece::Torn(1));
        assert_eq!((lines.read().unwrap(), lines.bytes()), (Piece::End, 5));
        assert_eq!(Lines::new(&b"\xff\n"[..]).read().unwrap(), Piece::Foreign("is not UTF-8"));
        let longest = "x".repeat(LINE_BYTES);
        let mut lines = Lines::new(io::Cursor::new(format!("{longest}\n")));
        assert_eq!(lines.read().unwrap(), Piece::Line(longest));
        let endless = io::BufReader::new(io::repeat(b'x'));
        assert_eq!(Lines::new(endless).read().unwrap(), Piece::Foreign("is too long"));
    }
}
