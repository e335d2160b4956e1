//! Before the exporter goes on with a file that it did not just write itself: whether the file says what the ledger
//! says. A torn last line is cut off. A file that disagrees is set aside as evidence, and the records that it held
//! are written anew. Touches the ledger and the files of the chain.

use std::fs::File;
use std::io;

use rusqlite::Transaction;

use super::files::{self, CURRENT, Current, Directory, Found};
use super::{Record, record};
use crate::contract::chain::{Piece, START};
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::store::{Ledger, Step, StoreError, audit, meta};
use crate::controlplane::telemetry::log;

/// Up to which record the files were known to be on disk: written with later acts, so it may lag.
const EXPORTED: &str = "audit_exported";
/// Why the files and the ledger disagreed, until somebody acknowledges it.
const DISAGREES: &str = "audit_disagrees";
/// More is not kept: whoever spoils files again and again must not make it grow.
const DISAGREES_BYTES: usize = 4096;
/// Rows read from the ledger at once; each may be as long as a line.
pub(super) const PAGE: usize = 64;

/// Why the files cannot be written now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble(pub(super) String);

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self(format!("{CURRENT} cannot be used: {error}"))
    }
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self(format!("the ledger's records cannot be read: {error}"))
    }
}

/// Where the exporter goes on.
#[derive(Debug)]
pub(super) struct Start {
    /// The file that grows, if there is one.
    pub(super) current: Option<Current>,
    /// The last record in the files; 0 for none.
    pub(super) last: u64,
    /// Its hash.
    pub(super) tip: [u8; 32],
}

/// Notes in the transaction of an act how far the files were known to be.
pub(super) fn mark(tx: &Transaction<'_>, exported: u64) -> Result<(), StoreError> {
    meta::set(tx, EXPORTED, &exported.to_string())
}

/// How far they were known to be.
pub(super) fn marked(conn: &rusqlite::Connection) -> Result<u64, StoreError> {
    Ok(meta::get(conn, EXPORTED)?.and_then(|text| text.parse().ok()).unwrap_or(0))
}

/// Why files and ledger disagree, if that is not acknowledged.
pub(super) fn disagreement(conn: &rusqlite::Connection) -> Result<Option<String>, StoreError> {
    meta::get(conn, DISAGREES)
}

/// Forgets the disagreement; gives what it was.
pub(super) fn acknowledge(tx: &Transaction<'_>) -> Result<Option<String>, StoreError> {
    let found = disagreement(tx)?;
    meta::remove(tx, DISAGREES)?;
    Ok(found)
}

/// Compares, mends, and says where to go on.
pub(super) fn reconcile(ledger: &Ledger, directory: &Directory) -> Result<Start, Trouble> {
    // The newest closed file tells with which record the one that grows has to begin.
    let mut closed = directory.closed()?;
    let (last, tip) = loop {
        let Some(newest) = closed.pop() else { break (0, START) };
        let line = directory.last_line(&newest.name)?;
        let place = line.as_deref().and_then(crate::contract::chain::place);
        let row = match place.as_ref().and_then(|place| place.seq.checked_sub(1)) {
            Some(before) => row_after(ledger, before)?,
            None => None,
        };
        match row.filter(|row| Some(&row.line) == line.as_ref() && row.seq >= newest.first) {
            Some(row) => break (row.seq, row.hash),
            None => {
                let wrong = "it does not end with a record of the ledger";
                set_aside(ledger, directory, &newest.name, wrong, newest.first.saturating_sub(1))?;
            }
        }
    };
    let first = last + 1;
    let known = ledger.read_blocking(marked)?;
    let wrong = match directory.current()? {
        Found::Nothing if known >= first => {
            let wrong = format!("{CURRENT} is missing, with records {first} to {known} in it");
            disagree(ledger, &wrong, CURRENT, last)?;
            return Ok(Start { current: None, last, tip });
        }
        Found::Nothing => return Ok(Start { current: None, last, tip }),
        Found::Odd(wrong) => wrong,
        Found::Ours(file) => match compare(ledger, &file, last, tip, known)? {
            Ok(agreed) => {
                if agreed.torn > 0 {
                    log::warn("audit.torn_line_dropped", &[("bytes", &agreed.torn)]);
                }
                let current = Current::go_on(directory, file, first, agreed.length)?;
                return Ok(Start { current: Some(current), last: agreed.last, tip: agreed.tip });
            }
            Err(wrong) => wrong,
        },
    };
    set_aside(ledger, directory, CURRENT, &wrong, last)?;
    Ok(Start { current: None, last, tip })
}

/// What a file that agrees ends with.
struct Agreed {
    length: u64,
    torn: u64,
    last: u64,
    tip: [u8; 32],
}

/// Compares a file with the ledger's rows after `last`, or says what is wrong with it.
fn compare(
    ledger: &Ledger,
    file: &File,
    last: u64,
    tip: [u8; 32],
    known: u64,
) -> Result<Result<Agreed, String>, Trouble> {
    let mut lines = files::lines(file, u64::MAX)?;
    let mut agreed = Agreed { length: 0, torn: 0, last, tip };
    let mut rows = Vec::new().into_iter();
    loop {
        let piece = lines.read()?;
        if files::is_end(&piece) {
            if let Piece::Torn(bytes) = piece {
                agreed.torn = bytes;
            }
            break;
        }
        let mut row = rows.next();
        if row.is_none() {
            let after = agreed.last;
            rows = ledger.read_blocking(|conn| audit::after(conn, after, PAGE))?.into_iter();
            row = rows.next();
        }
        match (piece, row) {
            (Piece::Line(line), Some(row)) if row.line == line => {
                agreed.last = row.seq;
                agreed.tip = row.hash;
                agreed.length = lines.bytes();
            }
            (Piece::Foreign(what), _) => return Ok(Err(format!("its line {} {what}", lines.count()))),
            (_, Some(row)) => {
                return Ok(Err(format!(
                    "its line {} is not record {} of the ledger",
                    lines.count(),
                    row.seq
                )));
            }
            (_, None) => {
                return Ok(Err(format!("the ledger has no record for its line {}", lines.count())));
            }
        }
    }
    if agreed.last < known {
        return Ok(Err(format!("records {} to {known} are missing at its end", agreed.last + 1)));
    }
    Ok(Ok(agreed))
}

fn row_after(ledger: &Ledger, seq: u64) -> Result<Option<audit::Link>, StoreError> {
    Ok(ledger.read_blocking(|conn| audit::after(conn, seq, 1))?.into_iter().next())
}

/// Keeps something as evidence, and in the ledger that it was wrong. What is then in the files ends with `last`.
fn set_aside(
    ledger: &Ledger,
    directory: &Directory,
    name: &str,
    wrong: &str,
    last: u64,
) -> Result<(), Trouble> {
    let aside = directory.name_aside();
    // First in the ledger: a crash between the two finds the same again, and forgets nothing.
    disagree(
        ledger,
        &format!("{name} disagreed with the ledger: {wrong}; it is kept as {aside}"),
        name,
        last,
    )?;
    directory.rename(name, &aside)?;
    Ok(())
}

fn disagree(ledger: &Ledger, wrong: &str, name: &str, last: u64) -> Result<(), StoreError> {
    log::error("audit.disagrees", &[("file", &name), ("wrong", &wrong)]);
    let (told, name) = (wrong.to_owned(), name.to_owned());
    ledger.write_blocking(Step::Other, move |tx| {
        let mut all = disagreement(tx)?.unwrap_or_default();
        let at = Millis::now();
        if all.len() + told.len() < DISAGREES_BYTES {
            if !all.is_empty() {
                all.push_str("; ");
            }
            all.push_str(&format!("{at} {told}"));
        }
        meta::set(tx, DISAGREES, &all)?;
        mark(tx, last)?;
        record(
            tx,
            &Record {
                act: "audit.disagreed",
                actor: "host",
                via: "",
                group: None,
                object: &name,
                detail: Value::object([("wrong", Value::from(told))]),
            },
        )
        .map(drop)
    })
}
