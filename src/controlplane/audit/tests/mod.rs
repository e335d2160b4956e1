//! Tests of the chain over a real ledger and real files in a directory of their own.

mod acts;
mod files;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::{Audit, By, Record, lock, record};
use crate::contract::chain::Walk;
use crate::contract::ids::SessionId;
use crate::contract::json::Value;
use crate::controlplane::keys::{self, FileMaster};
use crate::controlplane::state::{StateDir, Wall};
use crate::controlplane::store::{Ledger, Step, StoreError, audit};
use crate::controlplane::tasks;

/// A state directory with its ledger; exporters come and go.
pub(super) struct World {
    pub(super) ledger: Ledger,
    state: StateDir,
    scratch: PathBuf,
    /// What was told of disagreements last.
    pub(super) told: Arc<Mutex<Option<String>>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.ledger.stop();
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

impl World {
    pub(super) fn new() -> Self {
        let scratch = std::env::temp_dir().join(format!("audit-{}", SessionId::mint()));
        fs::create_dir(&scratch).unwrap();
        let state = StateDir::claim(&scratch.join("state"), Wall::OrdinaryUser).unwrap();
        let keyring = keys::open(&state, &FileMaster::at(state.join("master.key"))).unwrap();
        let ledger = Ledger::open(&state, &keyring).unwrap();
        Self { ledger, state, scratch, told: Arc::default() }
    }

    pub(super) fn start(&self) -> Audit {
        self.start_with(super::FILE_BYTES)
    }

    pub(super) fn start_with(&self, file_bytes: u64) -> Audit {
        let told = self.told.clone();
        let tell = Box::new(move |wrong| *lock(&told) = wrong);
        Audit::start_with(self.ledger.clone(), self.state.path(), file_bytes, tell).unwrap()
    }

    pub(super) fn path(&self) -> &Path {
        self.state.path()
    }

    pub(super) fn file(&self) -> PathBuf {
        self.state.join("audit.jsonl")
    }

    pub(super) fn text(&self) -> String {
        fs::read_to_string(self.file()).unwrap_or_default()
    }

    /// Adds records behind the exporter's back, as a crash after the commit leaves them.
    pub(super) fn commit(&self, count: u64) {
        for _ in 0..count {
            self.ledger.write_blocking(Step::Other, |tx| add(tx, "committed")).unwrap();
        }
    }

    /// All records of the ledger as the lines of a file.
    pub(super) fn rows(&self) -> String {
        let links = self.ledger.read_blocking(|conn| audit::after(conn, 0, 10_000)).unwrap();
        links.into_iter().map(|link| link.line + "\n").collect()
    }

    /// Names in the state directory that begin with `audit`, in order.
    pub(super) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("audit"));
        names.sort();
        names
    }

    /// What was set aside.
    pub(super) fn aside(&self) -> Vec<String> {
        self.names().into_iter().filter(|name| name.starts_with("audit-disagrees-")).collect()
    }

    /// All files in the order of the chain, together.
    pub(super) fn chain(&self) -> String {
        let mut names = self.names();
        names.retain(|name| !name.starts_with("audit-disagrees-") && name != "audit.jsonl");
        let mut all: String =
            names.iter().map(|name| fs::read_to_string(self.path().join(name)).unwrap()).collect();
        all.push_str(&self.text());
        all
    }
}

pub(super) fn add(tx: &rusqlite::Transaction<'_>, object: &str) -> Result<u64, StoreError> {
    let detail = Value::object([("count", Value::from(1u64))]);
    record(tx, &Record { act: "test.done", actor: "local:owner", via: "", group: None, object, detail })
}

/// One act with one record; gives its number.
pub(super) fn act(audit: &Audit, object: &str) -> Result<u64, super::ActError<u64>> {
    let object = object.to_owned();
    tasks::block_on(audit.act(Step::Other, move |tx| add(tx, &object)))
}

pub(super) fn stop(audit: Audit) {
    tasks::block_on(audit.stop());
}

pub(super) fn by() -> By {
    By { actor: "local:owner".to_owned(), via: "token:test".to_owned() }
}

/// Whether the lines are a chain from its beginning on; gives how many.
pub(super) fn walk(text: &str) -> u64 {
    let mut walk = Walk::default();
    for line in text.lines() {
        walk.step(line).unwrap_or_else(|fault| panic!("{fault}: {line}"));
    }
    walk.last()
}
