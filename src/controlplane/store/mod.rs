//! The ledger `control.db`: what must survive is here before anyone is told that it is accepted. One file per
//! noun holds small typed functions over a transaction; one thread writes, four connections read. Touches
//! `control.db` and nothing else; texts in it are sealed with their session's own key.

pub mod approvals;
pub mod attachments;
pub mod attention;
pub mod audit;
pub mod calls;
pub mod changes;
pub mod channel_state;
pub mod deliveries;
pub mod destinations;
mod error;
pub mod grants;
pub mod groups;
pub mod happenings;
pub mod held;
pub mod history;
pub mod inbox;
pub mod limits;
pub mod members;
pub mod messaging_groups;
pub mod meta;
mod migrations;
pub mod outbox;
pub mod pairings;
pub mod questions;
mod reader;
pub mod retention;
pub mod revisions;
pub mod roles;
pub mod secrets;
pub mod sessions;
pub mod summaries;
pub mod tasks;
pub mod tokens;
pub mod usage;
pub mod users;
pub mod wirings;
mod writer;

#[cfg(test)]
pub(super) mod tests;

use std::fs;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rusqlite::{Connection, Transaction};
use smol::channel::{Receiver, Sender};

pub use error::StoreError;
pub use writer::{Durability, Step};

use super::alarm::Alarm;
use super::bell::Bell;
use super::keys::{Keyring, LedgerState};
use super::state::StateDir;
use crate::contract::cipher::{self, CipherError, Role};
use reader::Readers;
use writer::Order;

/// The file in the state directory.
const FILE: &str = "control.db";
/// An SQLite file is at least one page.
const PAGE_BYTES: u64 = 4096;
/// Page cache of the writer and of each reader, in KiB: the interior pages of every index stay in it, and the
/// daemon's memory stays the same however much the ledger holds.
const WRITER_CACHE_KIB: i64 = 256;
const READER_CACHE_KIB: i64 = 64;

/// The open ledger. Clones share the writer and the readers.
#[derive(Clone)]
pub struct Ledger {
    orders: Sender<Order>,
    readers: Readers,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
    alarm: Alarm,
    happened: Arc<Bell>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ledger")
    }
}

impl Ledger {
    /// Opens the ledger of a state directory, makes it at a first start, and brings an older one up to date.
    /// Blocks for a few milliseconds.
    ///
    /// # Errors
    /// Tells a missing ledger from a damaged one and from one of a later version, and leaves each as it is.
    pub fn open(state: &StateDir, keyring: &Keyring) -> Result<Self, StoreError> {
        let path = state.join(FILE);
        check_file(&path, keyring.ledger_state())?;
        let key = keyring.ledger_key();
        let damaged = |error: CipherError| match error {
            CipherError::NotADatabase => StoreError::Damaged {
                path: path.clone(),
                wrong: "it is damaged, or belongs to another keystore, or is no ledger".to_owned(),
            },
            CipherError::Sqlite(error) => match error.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DatabaseCorrupt) => {
                    StoreError::Damaged { path: path.clone(), wrong: "it is cut short or damaged".to_owned() }
                }
                _ => error.into(),
            },
        };
        let mut connection = cipher::open(&path, &key, Role::LedgerWriter).map_err(damaged)?;
        // What is deleted is overwritten: a session's sealed secret must be gone when it is erased.
        connection.execute_batch(&format!(
            "PRAGMA cache_size=-{WRITER_CACHE_KIB}; PRAGMA secure_delete=ON; PRAGMA journal_size_limit=8388608;"
        ))?;
        connection.set_prepared_statement_cache_capacity(64);
        migrations::bring_up_to_date(&mut connection, &path, keyring.ledger_state())?;
        let readers = Readers::open(|| {
            let connection = cipher::open(&path, &key, Role::LedgerReader).map_err(damaged)?;
            connection.execute_batch(&format!("PRAGMA cache_size=-{READER_CACHE_KIB};"))?;
            Ok(connection)
        })?;
        keyring.mark_ledger_made()?;
        #[cfg(feature = "faults")]
        if crate::contract::fault::value("busy-ledger").is_some() {
            busy(&path, &key);
        }
        let (orders, waiting) = smol::channel::bounded(writer::WAITING);
        let happened = Arc::new(Bell::default());
        let thread = std::thread::Builder::new()
            .name("ledger".to_owned())
            .spawn({
                let happened = Arc::clone(&happened);
                move || writer::run(connection, &waiting, &happened)
            })
            .map_err(|error| StoreError::Io(format!("no thread for the ledger: {error}")))?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        Ok(Self { orders, readers, thread, alarm: Alarm::default(), happened })
    }

    /// Runs a closure in the next transaction and gives its result once that is on disk. A closure's error
    /// undoes only itself. Dropping the future does not undo a closure that was already submitted.
    ///
    /// # Errors
    /// The closure's own; [`StoreError::Full`] or [`StoreError::Io`] when the disk failed the whole batch;
    /// [`StoreError::Stopped`].
    pub async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_step(Step::Other, work).await
    }

    /// [`Ledger::write`] with the crash points of a durable step around its commit.
    ///
    /// # Errors
    /// As [`Ledger::write`].
    pub async fn write_step<T, F>(&self, step: Step, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        self.write_with(step, Durability::Synced, work).await
    }

    /// [`Ledger::write_step`] with a choice of how much it may lose.
    ///
    /// # Errors
    /// As [`Ledger::write`].
    pub async fn write_with<T, F>(&self, step: Step, durability: Durability, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (job, answer) = writer::job(work);
        self.orders.send(Order::Run(step, durability, job)).await.map_err(|_| StoreError::Stopped)?;
        answer.recv().await.unwrap_or(Err(StoreError::Stopped))
    }

    /// [`Ledger::write_step`] for a thread that may wait.
    ///
    /// # Errors
    /// As [`Ledger::write`].
    pub fn write_blocking<T, F>(&self, step: Step, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (job, answer) = writer::job(work);
        self.orders
            .send_blocking(Order::Run(step, Durability::Synced, job))
            .map_err(|_| StoreError::Stopped)?;
        answer.recv_blocking().unwrap_or(Err(StoreError::Stopped))
    }

    /// Runs a closure on one of the readers, which sees one committed state throughout.
    ///
    /// # Errors
    /// The closure's own, or SQLite's.
    pub async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    {
        let lease = self.readers.lease().await?;
        crate::controlplane::tasks::unblock(move || lease.run(work)).await
    }

    /// [`Ledger::read`] for a thread that may wait.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub fn read_blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(&Connection) -> Result<T, StoreError>,
    {
        self.readers.lease_blocking()?.run(work)
    }

    /// Rings when something in it may be due earlier than before. Whoever stores a due instant says so there, after the
    /// commit.
    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Rings after each commit with which something happened that is in [`happenings`].
    pub fn watch_happenings(&self) -> Receiver<()> {
        self.happened.watch()
    }

    /// Moves the log into the file and empties it, so that what was deleted is on disk no more.
    ///
    /// # Errors
    /// When a reader holds the log for long, or the disk fails.
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        let (reply, answer) = smol::channel::bounded(1);
        self.orders.send(Order::Checkpoint(reply)).await.map_err(|_| StoreError::Stopped)?;
        answer.recv().await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Stores what was submitted before, moves the log into the file, and ends the thread. Blocks until that
    /// is done. Later writes get [`StoreError::Stopped`].
    pub fn stop(&self) {
        let _ = self.orders.send_blocking(Order::Stop);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// A number as SQLite stores it. Those of ours stay far below 2⁶³; one that does not finds no row.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A limit of rows as SQLite takes it.
fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn check_length(what: &'static str, text: &str, most: usize) -> Result<(), StoreError> {
    if text.len() > most { Err(StoreError::TooLong { what, most }) } else { Ok(()) }
}

/// Looks at the file before SQLite does: SQLite takes an empty file for a new database, and deletes the log
/// beside it.
fn check_file(path: &Path, ledger: LedgerState) -> Result<(), StoreError> {
    let damaged = |wrong: &str| StoreError::Damaged { path: path.to_path_buf(), wrong: wrong.to_owned() };
    let io = |error: std::io::Error| StoreError::Io(format!("{}: {error}", path.display()));
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.is_file() => Err(damaged("it is no regular file")),
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => {
            Err(damaged("it belongs to another user"))
        }
        Ok(meta) if ledger == LedgerState::Made && meta.len() < PAGE_BYTES => Err(damaged("it is cut short")),
        // Half a page at the end is what a crash leaves while the log is moved into the file; the log, which
        // still has it, mends that. Without a log it is a loss, which SQLite would not see.
        Ok(meta) if meta.len() % PAGE_BYTES != 0 && is_without_log(path) => Err(damaged("it is cut short")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match ledger {
            LedgerState::Made => Err(StoreError::Missing(path.to_path_buf())),
            // SQLite would make it readable by others; the log takes the mode of the file.
            LedgerState::Making => fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map(drop)
                .map_err(io),
        },
        Err(error) => Err(io(error)),
    }
}

/// Whether the log beside the file holds nothing.
fn is_without_log(path: &Path) -> bool {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    fs::symlink_metadata(log).map_or(0, |meta| meta.len()) == 0
}

/// Threads that open the ledger and read in it until the process ends.
#[cfg(feature = "faults")]
fn busy(path: &Path, key: &cipher::FileKey) {
    for _ in 0..8 {
        let (path, key) = (path.to_owned(), key.clone());
        std::thread::spawn(move || {
            while let Ok(connection) = cipher::open(&path, &key, Role::LedgerReader) {
                let _ = connection.query_row("SELECT count(*) FROM users", [], |_| Ok(()));
            }
        });
    }
}
