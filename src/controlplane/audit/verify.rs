//! All files of the audit chain, walked in their order and compared with the ledger line by line: what was edited,
//! deleted, put in, swapped, torn or cut off is found, and a file that is missing too. Holds a page of rows and one
//! line at a time. Touches the ledger and the files, reading.

use std::fs::File;

use super::exporter::Snapshot;
use super::files::{self, CURRENT};
use super::reconcile::{self, PAGE};
use crate::contract::chain::{self, Piece, Walk};
use crate::contract::json::Value;
use crate::controlplane::store::audit::{self, Link};
use crate::controlplane::store::{Ledger, StoreError};

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The files, in the order in which they were walked.
    pub files: Vec<String>,
    /// The last record that fits, with all before it; 0 for none.
    pub last: u64,
    /// Its hash.
    pub tip: [u8; 32],
    /// The first thing that is wrong.
    pub fault: Option<Fault>,
    /// Why files and ledger disagreed earlier, until somebody acknowledges it.
    pub disagreement: Option<String>,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// In which file; the last one for what is missing at the end.
    pub file: String,
    /// In which of its lines, from 1.
    pub line: u64,
    /// What.
    pub what: String,
}

impl Report {
    /// As the API gives it.
    pub fn to_json(&self) -> Value {
        let fault = self.fault.as_ref().map(|fault| {
            Value::object([
                ("file", Value::from(fault.file.as_str())),
                ("line", Value::from(fault.line)),
                ("what", Value::from(fault.what.as_str())),
            ])
        });
        let files: Vec<Value> = self.files.iter().map(|name| Value::from(name.as_str())).collect();
        Value::object([
            ("ok", Value::from(self.fault.is_none() && self.disagreement.is_none())),
            ("records", Value::from(self.last)),
            ("tip", Value::from(chain::hex(&self.tip))),
            ("files", Value::from(files)),
            ("fault", fault.unwrap_or(Value::Null)),
            ("disagreement", Value::from(self.disagreement.clone())),
        ])
    }
}

/// Compares the files of a snapshot with the ledger.
///
/// # Errors
/// When the ledger cannot be read. What is wrong with the files is in the report.
pub(super) fn check(ledger: &Ledger, snapshot: &Snapshot) -> Result<Report, StoreError> {
    let mut walk = Walk::default();
    let mut rows = Rows { ledger, page: Vec::new().into_iter(), last: 0 };
    let mut walked = Vec::new();
    let mut fault = None;
    for closed in &snapshot.closed {
        walked.push(closed.name.clone());
        fault = match snapshot.directory.read(&closed.name) {
            Ok(Some(file)) => file_fault(&closed.name, &file, u64::MAX, &mut walk, &mut rows)?,
            Ok(None) => Some(Fault::at(&closed.name, 0, "it is missing")),
            Err(error) => Some(Fault::at(&closed.name, 0, &format!("it cannot be read: {error}"))),
        };
        if fault.is_some() {
            break;
        }
    }
    if let (None, Some((file, length))) = (&fault, &snapshot.current) {
        walked.push(CURRENT.to_owned());
        fault = file_fault(CURRENT, file, *length, &mut walk, &mut rows)?;
    }
    let (tip, disagreement) =
        ledger.read_blocking(|conn| Ok((audit::tip(conn)?.0, reconcile::disagreement(conn)?)))?;
    // What is committed only now need not be there; what could not be written is missing.
    let expected = if snapshot.trouble.is_some() { tip } else { snapshot.exported };
    if fault.is_none() && walk.last() < expected {
        let mut what = format!("records {} to {expected} are missing at the end", walk.last() + 1);
        if let Some(trouble) = &snapshot.trouble {
            what.push_str(&format!(" ({trouble})"));
        }
        fault = Some(Fault::at(walked.last().map_or(CURRENT, String::as_str), 0, &what));
    }
    Ok(Report { files: walked, last: walk.last(), tip: *walk.tip(), fault, disagreement })
}

impl Fault {
    fn at(file: &str, line: u64, what: &str) -> Self {
        Self { file: file.to_owned(), line, what: what.to_owned() }
    }
}

/// Walks one file.
fn file_fault(
    name: &str,
    file: &File,
    length: u64,
    walk: &mut Walk,
    rows: &mut Rows<'_>,
) -> Result<Option<Fault>, StoreError> {
    let unreadable = |error: std::io::Error| Fault::at(name, 0, &format!("it cannot be read: {error}"));
    let mut lines = match files::lines(file, length) {
        Ok(lines) => lines,
        Err(error) => return Ok(Some(unreadable(error))),
    };
    loop {
        let piece = match lines.read() {
            Ok(piece) => piece,
            Err(error) => return Ok(Some(unreadable(error))),
        };
        let wrong = match piece {
            Piece::End => return Ok(None),
            Piece::Torn(_) => "the file ends in the middle of this record".to_owned(),
            Piece::Foreign(what) => format!("this line {what}, so it is no record"),
            Piece::Line(line) => match walk.clone().step(&line) {
                Err(fault) => fault.to_string(),
                Ok(()) => match rows.next()? {
                    None => "the ledger has no such record".to_owned(),
                    Some(row) if row.line != line => {
                        format!("record {} is not what the ledger says; it was changed", row.seq)
                    }
                    Some(row) if row.previous != *walk.tip() || row.hash != chain::hash(&line) => {
                        format!("the ledger's own hashes of record {} do not fit", row.seq)
                    }
                    Some(_) => {
                        let _ = walk.step(&line);
                        continue;
                    }
                },
            },
        };
        return Ok(Some(Fault::at(name, lines.count(), &wrong)));
    }
}

/// The rows of the ledger, a page at a time.
struct Rows<'a> {
    ledger: &'a Ledger,
    page: std::vec::IntoIter<Link>,
    last: u64,
}

impl Rows<'_> {
    fn next(&mut self) -> Result<Option<Link>, StoreError> {
        let mut row = self.page.next();
        if row.is_none() {
            let after = self.last;
            self.page = self.ledger.read_blocking(|conn| audit::after(conn, after, PAGE))?.into_iter();
            row = self.page.next();
        }
        if let Some(row) = &row {
            self.last = row.seq;
        }
        Ok(row)
    }
}
