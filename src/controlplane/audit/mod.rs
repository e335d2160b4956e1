//! The audit chain: what was done, by whom, in the order in which it was stored. A record is a row of the ledger
//! in the transaction of the act, so there is never one without the other; its line is in the file `audit.jsonl`
//! before the act is answered. Touches the ledger and the files of the chain.

mod exporter;
mod files;
mod logins;
mod reconcile;
mod refusals;
pub mod verify;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Transaction};
use smol::channel::{Receiver, Sender};

use self::exporter::{Exporter, Note, Order};
use self::files::Directory;
use super::bell::Bell;
use super::store::{Durability, Ledger, Step, StoreError, audit};
use super::tasks;
use super::telemetry::log;
use crate::contract::chain;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::contract::time::Millis;

/// A file this large is closed, and a new one begun, unless told otherwise.
pub const FILE_BYTES: u64 = 64 << 20;
/// More records of one act than these are not carried to the exporter, which reads them from the ledger.
const CARRIED: usize = 64;

/// One act.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// What was done: `noun.verb`.
    pub act: &'static str,
    /// Who did it: a user, `agent:GROUP`, `policy` or `host`.
    pub actor: &'a str,
    /// How they came in: `token:NAME`, `session:ID`, or empty for the host itself.
    pub via: &'a str,
    /// The agent group it concerns.
    pub group: Option<&'a GroupName>,
    /// What it was done to.
    pub object: &'a str,
    /// More, as an object. Never a secret, and never a text of a conversation.
    pub detail: Value,
}

/// Who does an act, and how they came in, as [`Record::actor`] and [`Record::via`] name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// The user.
    pub actor: String,
    /// The token or the session.
    pub via: String,
}

/// Adds the record of something that the host did by itself.
///
/// # Errors
/// As [`record`].
pub fn of_host(
    tx: &Transaction<'_>,
    act: &'static str,
    object: &str,
    detail: Value,
) -> Result<u64, StoreError> {
    record(tx, &Record { act, actor: "host", via: "", group: None, object, detail })
}

/// Adds a record in the transaction of its act. Gives its number.
///
/// # Errors
/// [`StoreError::TooLong`] for a record that is no line of a chain any more, and SQLite's.
pub fn record(tx: &Transaction<'_>, record: &Record<'_>) -> Result<u64, StoreError> {
    let (last, previous) = audit::tip(tx)?;
    let seq = last + 1;
    let mut fields = vec![
        ("seq", Value::from(seq)),
        ("at", Value::from(Millis::now().to_string())),
        ("act", Value::from(record.act)),
        ("actor", Value::from(record.actor)),
        ("via", Value::from(record.via)),
    ];
    fields.extend(record.group.map(|group| ("group", Value::from(group.as_str()))));
    fields.push(("object", Value::from(record.object)));
    if record.detail != Value::Null {
        fields.push(("detail", record.detail.clone()));
    }
    fields.push(("previous", Value::from(chain::hex(&previous))));
    let line = Value::object(fields).to_string();
    if line.len() > chain::LINE_BYTES {
        return Err(StoreError::TooLong { what: "audit record", most: chain::LINE_BYTES });
    }
    let hash = chain::hash(&line);
    audit::add(tx, &audit::Link { seq, previous, hash, line })?;
    Ok(seq)
}

/// Why an act was not done, or not answered as done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActError<T> {
    /// The audit files cannot be written, so nothing was done; the text says why.
    Unavailable(String),
    /// It is done and in the ledger, but its record is not in the audit files yet. Its outside effects wait for that
    /// ([`Audit::settled`]).
    Unexported {
        /// What the act gave.
        done: T,
        /// Why it is not there.
        reason: String,
    },
    /// The act itself failed; nothing was done.
    Store(StoreError),
}

impl<T> fmt::Display for ActError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(reason) => {
                write!(f, "nothing was done, because it could not be recorded: {reason}")
            }
            Self::Unexported { reason, .. } => {
                write!(f, "it is done, but its record is not in the audit file yet: {reason}")
            }
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl<T: fmt::Debug> std::error::Error for ActError<T> {}

impl<T> From<StoreError> for ActError<T> {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Records that are committed and on their way to the audit files; none where the act added none.
pub struct Exporting {
    awaited: Option<Receiver<Result<(), String>>>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Exporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporting")
    }
}

impl Exporting {
    /// Waits until they are there.
    ///
    /// # Errors
    /// Why they are not.
    pub async fn end(self) -> Result<(), String> {
        let Some(awaited) = self.awaited else { return Ok(()) };
        awaited.recv().await.unwrap_or_else(|_| {
            Err(self.shared.failing().unwrap_or_else(|| "the exporter has ended".to_owned()))
        })
    }
}

/// Is told why files and ledger disagree, and `None` when they do not or that is acknowledged.
pub type Tell = Box<dyn Fn(Option<String>) + Send + Sync>;

/// The running exporter. Clones are handles to the same.
#[derive(Clone)]
pub struct Audit {
    ledger: Ledger,
    orders: mpsc::Sender<Order>,
    shared: Arc<Shared>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Audit")
    }
}

/// What the handles and the thread share.
struct Shared {
    /// Why the files cannot be written.
    failing: Mutex<Option<String>>,
    /// The last record in the files. Less than before when somebody took files away.
    exported: AtomicU64,
    /// The last record that ever was in the files.
    recorded: AtomicU64,
    /// Rings when the files can be written again.
    recovered: Bell,
    /// Whether the thread was nudged and did not look yet.
    looking: AtomicBool,
    watchers: Mutex<Vec<Sender<()>>>,
    /// Failed logins of this minute by source.
    logins: Mutex<BTreeMap<String, u64>>,
    /// Refused actions of this minute.
    refusals: Mutex<refusals::Counts>,
    tell: Tell,
    /// One at a time compares everything.
    verifying: Arc<smol::lock::Mutex<()>>,
}

impl Shared {
    fn failing(&self) -> Option<String> {
        lock(&self.failing).clone()
    }

    /// Gives what it was before.
    fn set_failing(&self, reason: Option<String>) -> Option<String> {
        std::mem::replace(&mut *lock(&self.failing), reason)
    }

    fn set_exported(&self, last: u64) {
        self.exported.store(last, Ordering::SeqCst);
        self.recorded.fetch_max(last, Ordering::SeqCst);
    }

    fn ring(&self) {
        for watcher in lock(&self.watchers).iter() {
            let _ = watcher.try_send(());
        }
    }

    fn tell_disagreement(&self, ledger: &Ledger) {
        match ledger.read_blocking(reconcile::disagreement) {
            Ok(wrong) => (self.tell)(wrong),
            Err(error) => log::warn("audit.not_read", &[("error", &error)]),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Audit {
    /// Compares the files of a state directory with the ledger, adds what is missing, and starts the exporter, with
    /// files of the usual size. Blocks until that is done, or has failed and is tried again later.
    ///
    /// # Errors
    /// When the machine has no thread for it. That the files cannot be written is no error: acts are refused until
    /// they can.
    pub fn start(ledger: Ledger, state: &Path) -> Result<Self, std::io::Error> {
        Self::start_with(ledger, state, FILE_BYTES, Box::new(|_| ()))
    }

    /// [`Audit::start`] with the size at which a file is closed, and somebody who is told of disagreements.
    ///
    /// # Errors
    /// As [`Audit::start`].
    pub fn start_with(
        ledger: Ledger,
        state: &Path,
        file_bytes: u64,
        tell: Tell,
    ) -> Result<Self, std::io::Error> {
        // The first try may fail, and what was recorded long ago is recorded all the same.
        let marked = ledger.read_blocking(reconcile::marked).unwrap_or_else(|error| {
            log::warn("audit.not_read", &[("error", &error)]);
            0
        });
        let shared = Arc::new(Shared {
            failing: Mutex::new(None),
            exported: AtomicU64::new(marked),
            recorded: AtomicU64::new(marked),
            recovered: Bell::default(),
            looking: AtomicBool::new(false),
            watchers: Mutex::new(Vec::new()),
            logins: Mutex::default(),
            refusals: Mutex::default(),
            tell,
            verifying: Arc::default(),
        });
        let (orders, waiting) = mpsc::channel();
        let (started, has_started) = smol::channel::bounded(1);
        let exporter = Exporter::new(ledger.clone(), Directory::new(state), file_bytes, shared.clone());
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || exporter.run(&waiting, &started))?;
        let _ = has_started.recv_blocking();
        Ok(Self { ledger, orders, shared })
    }

    /// Does an act: runs `work` in the ledger's next transaction, and waits until the records that it added are in
    /// the audit files. An act that adds none waits for nothing. Dropping the future undoes nothing, and the
    /// records are exported all the same.
    ///
    /// # Errors
    /// [`ActError::Unavailable`] before anything is written, when the audit files are known to fail;
    /// [`ActError::Unexported`] when they failed after the commit; else what the ledger or `work` said.
    pub async fn act<T, F>(&self, step: Step, work: F) -> Result<T, ActError<T>>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        if let Some(reason) = self.shared.failing() {
            return Err(ActError::Unavailable(reason));
        }
        let (reply, answer) = smol::channel::bounded(1);
        let audit = self.clone();
        // On its own, because whoever asked may go while it is between the commit and the export.
        tasks::spawn(async move {
            let done = audit.commit_and_export(step, work).await;
            let _ = reply.try_send(done);
        })
        .detach();
        answer.recv().await.unwrap_or(Err(ActError::Store(StoreError::Stopped)))
    }

    async fn commit_and_export<T, F>(&self, step: Step, work: F) -> Result<T, ActError<T>>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let (done, exporting) = self.commit(step, Durability::Synced, work).await?;
        match exporting.end().await {
            Ok(()) => Ok(done),
            Err(reason) => Err(ActError::Unexported { done, reason }),
        }
    }

    /// The first half of [`Audit::act`], for whoever has something to do between the commit and the export. Whoever
    /// drops this future undoes nothing; what was recorded is then exported with the next record.
    ///
    /// # Errors
    /// What the ledger or `work` said.
    pub async fn commit<T, F>(
        &self,
        step: Step,
        durability: Durability,
        work: F,
    ) -> Result<(T, Exporting), StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let exported = self.shared.exported.load(Ordering::SeqCst);
        let committed = self.ledger.write_with(step, durability, move |tx| {
            let before = audit::tip(tx)?.0;
            let done = work(tx)?;
            let last = audit::tip(tx)?.0;
            if last == before {
                return Ok((done, None));
            }
            let links = audit::after(tx, before, CARRIED)?;
            reconcile::mark(tx, exported)?;
            Ok((done, Some((last, links))))
        });
        let (done, noted) = committed.await?;
        let awaited = noted.map(|(last, links)| {
            let (reply, answer) = smol::channel::bounded(1);
            let _ = self.orders.send(Order::Export(Note { last, links, reply }));
            answer
        });
        Ok((done, Exporting { awaited, shared: self.shared.clone() }))
    }

    /// The last record that is in the audit files, or was, and with it all before it. Never falls: what came of a record
    /// is not taken back because somebody took the files away, which is told on its own.
    pub fn exported(&self) -> u64 {
        self.shared.recorded.load(Ordering::SeqCst)
    }

    /// Rings when the audit files can be written again after they could not, with all that is in the ledger in them.
    pub fn watch_recovered(&self) -> Receiver<()> {
        self.shared.recovered.watch()
    }

    /// Waits until all that is in the ledger now is in the audit files, or could not be written: for whoever answers
    /// with what an earlier act did.
    ///
    /// # Errors
    /// Why they are not there; the ledger's error among them.
    pub async fn confirm(&self) -> Result<(), String> {
        let last = self.ledger.read(audit::tip).await.map_err(|error| error.to_string())?.0;
        if self.shared.exported.load(Ordering::SeqCst) >= last {
            return Ok(());
        }
        let (reply, awaited) = smol::channel::bounded(1);
        let _ = self.orders.send(Order::Export(Note { last, links: Vec::new(), reply }));
        Exporting { awaited: Some(awaited), shared: self.shared.clone() }.end().await
    }

    /// Why acts are refused now, if they are.
    pub fn unavailable(&self) -> Option<String> {
        self.shared.failing()
    }

    /// Stores what is no act of a person and cannot be refused any more, such as an outcome. It is exported soon;
    /// nobody waits for that.
    ///
    /// # Errors
    /// As [`Ledger::write`].
    pub async fn note<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let done = self.ledger.write(work).await?;
        self.nudge();
        Ok(done)
    }

    /// Makes the exporter look for records that nobody waits for, within 100 ms. To be called after their commit.
    pub fn nudge(&self) {
        if !self.shared.looking.swap(true, Ordering::SeqCst) {
            let _ = self.orders.send(Order::Look);
        }
    }

    /// Waits until everything that is in the ledger now is in the audit files and acts are taken again, however long
    /// that is. Once the exporter has ended it waits for ever.
    pub async fn settled(&self) {
        loop {
            // Watched before it is asked, so that what comes between the two rings.
            let rung = self.watch();
            let tip = self.ledger.read(audit::tip).await.map(|(last, _)| last);
            match tip {
                Ok(last)
                    if self.shared.failing().is_none()
                        && self.shared.exported.load(Ordering::SeqCst) >= last =>
                {
                    return;
                }
                _ => self.nudge(),
            }
            let _ = rung.recv().await;
        }
    }

    /// Rings when the files have grown, and when they may have.
    pub fn watch(&self) -> Receiver<()> {
        let (sender, receiver) = smol::channel::bounded(1);
        let mut watchers = lock(&self.shared.watchers);
        watchers.retain(|watcher| !watcher.is_closed());
        watchers.push(sender);
        receiver
    }

    /// Acknowledges that files and ledger disagreed, if whoever does it `may`; gives what was wrong, or `None` when
    /// nothing was.
    ///
    /// # Errors
    /// As [`Audit::act`].
    pub async fn acknowledge(
        &self,
        by: By,
        may: impl FnOnce(&Connection) -> Result<bool, StoreError> + Send + 'static,
    ) -> Result<Option<String>, ActError<Option<String>>> {
        let acknowledged = self
            .act(Step::Other, move |tx| {
                if !may(tx)? {
                    return Ok(None);
                }
                let Some(wrong) = reconcile::acknowledge(tx)? else { return Ok(None) };
                record(
                    tx,
                    &Record {
                        act: "audit.acknowledged",
                        actor: &by.actor,
                        via: &by.via,
                        group: None,
                        object: files::CURRENT,
                        detail: Value::object([("wrong", Value::from(wrong.as_str()))]),
                    },
                )?;
                Ok(Some(wrong))
            })
            .await;
        if matches!(&acknowledged, Ok(Some(_)) | Err(ActError::Unexported { .. })) {
            // What is wrong now, which may have come meanwhile.
            let audit = self.clone();
            tasks::unblock(move || audit.shared.tell_disagreement(&audit.ledger)).await;
        }
        acknowledged
    }

    /// Compares all files with the ledger, once everything is exported that can be. One at a time does; this waits
    /// for its turn.
    ///
    /// # Errors
    /// When the ledger cannot be read or the exporter has ended.
    pub async fn verify(&self) -> Result<verify::Report, StoreError> {
        let turn = self.shared.verifying.lock_arc().await;
        let (reply, answer) = smol::channel::bounded(1);
        let _ = self.orders.send(Order::Snapshot(reply));
        let snapshot = answer.recv().await.map_err(|_| StoreError::Stopped)?;
        let audit = self.clone();
        tasks::unblock(move || {
            let report = verify::check(&audit.ledger, &snapshot);
            drop(turn);
            report
        })
        .await
    }

    /// Exports what is left and ends the exporter. Later acts get [`ActError::Unavailable`].
    pub async fn stop(&self) {
        let (reply, answer) = smol::channel::bounded(1);
        let _ = self.orders.send(Order::Stop(reply));
        let _ = answer.recv().await;
    }
}
