//! What both conveyors share: the errors of a file, and the rule that every reader checks before it believes
//! a row: numbers above the cursor, strictly rising, of the right parity, the last one as rung.

use std::fmt;

use super::cipher::CipherError;

/// Which numbers a file's rows carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parity {
    /// Inbound.
    Even,
    /// Outbound.
    Odd,
}

/// Why a conveyor could not be written, or cannot be believed.
#[derive(Debug)]
pub enum ConveyorError {
    /// The file did not open.
    Cipher(CipherError),
    /// SQLite failed while in use.
    Sqlite(rusqlite::Error),
    /// The host could not do its part.
    Host(String),
    /// The numbers break the rule.
    Numbers(String),
    /// A row holds what no row may hold.
    Row {
        /// Its number.
        seq: u64,
        /// What is wrong with it.
        wrong: &'static str,
    },
    /// More than one ring may carry.
    TooMuch(&'static str),
    /// A transaction without a new row: it would be rung with no number of its own.
    NothingAdded,
}

impl fmt::Display for ConveyorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cipher(error) => write!(f, "the conveyor does not open: {error}"),
            Self::Sqlite(error) => write!(f, "the conveyor failed in use: {error}"),
            Self::Host(why) => f.write_str(why),
            Self::Numbers(wrong) => write!(f, "the conveyor's numbers are wrong: {wrong}"),
            Self::Row { seq, wrong } => write!(f, "row {seq} of the conveyor is wrong: {wrong}"),
            Self::TooMuch(what) => write!(f, "one ring carries too much: {what}"),
            Self::NothingAdded => f.write_str("a conveyor transaction must add a row"),
        }
    }
}

impl std::error::Error for ConveyorError {}

impl From<CipherError> for ConveyorError {
    fn from(error: CipherError) -> Self {
        Self::Cipher(error)
    }
}

impl From<rusqlite::Error> for ConveyorError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Whether so many rows are all that the numbers after `cursor` up to `last` have room for.
pub fn is_complete(rows: usize, cursor: u64, last: u64) -> bool {
    u64::try_from(rows).is_ok_and(|rows| rows > 0 && rows == last.saturating_sub(cursor).div_ceil(2))
}

/// Checks the numbers of one reading: `seqs` in reading order, everything after `cursor`, `last` as rung.
pub fn check_numbers(seqs: &[u64], cursor: u64, last: u64, parity: Parity) -> Result<(), ConveyorError> {
    let wrong = |text: String| Err(ConveyorError::Numbers(text));
    let mut previous = cursor;
    for &seq in seqs {
        if seq <= previous {
            return wrong(format!("{seq} comes after {previous}"));
        }
        if (seq % 2 == 0) != (parity == Parity::Even) {
            return wrong(format!("{seq} has the wrong parity"));
        }
        previous = seq;
    }
    if seqs.is_empty() || previous != last {
        return wrong(format!("{last} was rung, but the last row is {previous}"));
    }
    Ok(())
}

/// SQLite's integers are signed; a number that does not fit is never minted.
pub(super) fn stored(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}

/// Reads a number column; a negative one is a lie and shown as one that breaks the rule.
pub(super) fn seq_of(row: &rusqlite::Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    Ok(u64::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_numbers() {
        let odd = |seqs: &[u64], cursor, last| check_numbers(seqs, cursor, last, Parity::Odd).is_ok();
        assert!(odd(&[1, 3, 9], 0, 9));
        assert!(odd(&[11], 9, 11));
        assert!(!odd(&[], 9, 11), "rung without a row");
        assert!(!odd(&[], 9, 9), "rung twice");
        assert!(!odd(&[11], 9, 13), "the last row is missing");
        assert!(!odd(&[11, 13], 9, 11), "a row that was not rung");
        assert!(!odd(&[9], 9, 9), "not above the cursor");
        assert!(!odd(&[11, 11], 9, 11), "repeated");
        assert!(!odd(&[13, 11], 9, 11), "falling");
        assert!(!odd(&[12], 9, 12), "parity");
        assert!(check_numbers(&[2, 4], 0, 4, Parity::Even).is_ok());
        assert!(check_numbers(&[2, 3], 0, 3, Parity::Even).is_err());
    }
}
