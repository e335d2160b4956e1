//! The one thread that writes the files of the audit chain. It takes the records of all acts that wait, appends
//! their lines, syncs once, and only then answers them: the sync is the time in which the next batch gathers. What
//! an act does not bring along is read from the ledger. After a failure it tries again by itself, once a second.
//! Touches the files of the chain, and reads the ledger.

use std::fs::File;
#[cfg(feature = "faults")]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use smol::channel::Sender;

use super::Shared;
use super::files::{CURRENT, Closed, Current, Directory};
use super::reconcile::{PAGE, Start, Trouble, mark, reconcile};
#[cfg(feature = "faults")]
use crate::contract::fault;
use crate::controlplane::store::audit::{self, Link};
use crate::controlplane::store::{Ledger, Step};
use crate::controlplane::telemetry::log;

/// From a nudge to the export.
const BATCH: Duration = Duration::from_millis(100);
/// Why acts are refused at the end.
const STOPPED: &str = "the control plane stops";
/// What is read from the ledger is written in pieces of about this size, with a sync for each.
const PIECE: u64 = 1 << 20;
/// Between two tries while the files cannot be written.
const RETRY: Duration = Duration::from_secs(1);

/// What the thread is sent.
pub(super) enum Order {
    /// Export up to this record and answer.
    Export(Note),
    /// Records that nobody waits for are in the ledger.
    Look,
    /// Export everything, then say what is there.
    Snapshot(Sender<Snapshot>),
    /// Export everything, then end.
    Stop(Sender<()>),
}

/// An act that is committed.
pub(super) struct Note {
    /// The number of its last record.
    pub(super) last: u64,
    /// Its records; none where they are too many to be carried.
    pub(super) links: Vec<Link>,
    /// Answered once they are on disk.
    pub(super) reply: Sender<Result<(), String>>,
}

/// The files as they were at one moment.
pub(super) struct Snapshot {
    /// Where they are.
    pub(super) directory: Directory,
    /// The last record that was written to them.
    pub(super) exported: u64,
    /// The files that grow no more.
    pub(super) closed: Vec<Closed>,
    /// The file that grows and its length, however it came to be there.
    pub(super) current: Option<(File, u64)>,
    /// Why they cannot be looked at, or not be written.
    pub(super) trouble: Option<String>,
}

/// The thread's own.
pub(super) struct Exporter {
    ledger: Ledger,
    directory: Directory,
    /// A file this large is closed.
    most: u64,
    shared: Arc<Shared>,
    /// What was compared with the ledger, or written since.
    state: Option<Start>,
    retry_at: Option<Instant>,
}

impl Exporter {
    pub(super) fn new(ledger: Ledger, directory: Directory, most: u64, shared: Arc<Shared>) -> Self {
        Self { ledger, directory, most, shared, state: None, retry_at: None }
    }

    /// Ends when told to, or when nobody can send any more. `started` is answered after the first try.
    pub(super) fn run(mut self, orders: &Receiver<Order>, started: &Sender<()>) {
        let _ended = Ended(self.shared.clone());
        let _ = self.attempt(Vec::new());
        let _ = started.try_send(());
        let mut look_at: Option<Instant> = None;
        loop {
            let wake = [look_at, self.retry_at].into_iter().flatten().min();
            let first = match wake {
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => orders.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let (mut notes, mut snapshots, mut stops) = (Vec::new(), Vec::new(), Vec::new());
            let mut next = match first {
                Ok(order) => Some(order),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while let Some(order) = next.take() {
                match order {
                    Order::Export(note) => notes.push(note),
                    Order::Look => look_at = look_at.or_else(|| Some(Instant::now() + BATCH)),
                    Order::Snapshot(reply) => snapshots.push(reply),
                    Order::Stop(reply) => stops.push(reply),
                }
                next = orders.try_recv().ok();
            }
            let now = Instant::now();
            let looks = look_at.is_some_and(|at| at <= now);
            let all = looks || !snapshots.is_empty() || !stops.is_empty();
            if all {
                self.shared.looking.store(false, Ordering::SeqCst);
                look_at = None;
            }
            if all || !notes.is_empty() || self.retry_at.is_some_and(|at| at <= now) {
                self.export(notes, all);
            }
            for reply in snapshots {
                let _ = reply.try_send(self.snapshot());
            }
            if !stops.is_empty() {
                self.leave_a_mark();
                // Said before the answer, so that no act slips in after it.
                let _ = self.shared.set_failing(Some(STOPPED.to_owned()));
                for reply in stops {
                    let _ = reply.try_send(());
                }
                return;
            }
        }
    }

    /// Exports what acts wait for, and with `all`, or after a failure, whatever else is in the ledger.
    fn export(&mut self, notes: Vec<Note>, all: bool) {
        let everything = all || self.retry_at.is_some();
        let mut links: Vec<Link> = Vec::new();
        if !everything {
            links = notes.iter().flat_map(|note| note.links.iter().cloned()).collect();
            links.sort_by_key(|link| link.seq);
            let target = notes.iter().map(|note| note.last).max().unwrap_or(0);
            let after = self.state.as_ref().map_or(0, |state| state.last);
            links.retain(|link| link.seq > after);
            let is_all_of_it = links.len() as u64 == target.saturating_sub(after);
            if !is_all_of_it {
                links.clear();
            } else if links.is_empty() {
                // An earlier batch read them from the ledger.
                notes.iter().for_each(|note| drop(note.reply.try_send(Ok(()))));
                return;
            }
        }
        let done = self.attempt(links);
        for note in notes {
            let _ = note.reply.try_send(done.clone());
        }
    }

    /// Appends these records, or all that the ledger has where none are given.
    fn attempt(&mut self, links: Vec<Link>) -> Result<(), String> {
        let tried = self.try_to(links);
        match &tried {
            Ok(()) => {
                self.retry_at = None;
                if self.shared.set_failing(None).is_some() {
                    log::info(
                        "audit.exported_again",
                        &[("last", &self.shared.exported.load(Ordering::SeqCst))],
                    );
                    self.shared.recovered.ring();
                }
                self.shared.ring();
            }
            Err(Trouble(reason)) => {
                self.retry_at = Some(Instant::now() + RETRY);
                if let Some(current) = self.state.as_mut().and_then(|state| state.current.as_mut()) {
                    current.tidy();
                }
                if self.shared.set_failing(Some(reason.clone())).as_ref() != Some(reason) {
                    log::error("audit.not_exported", &[("reason", reason)]);
                }
            }
        }
        tried.map_err(|Trouble(reason)| reason)
    }

    fn try_to(&mut self, links: Vec<Link>) -> Result<(), Trouble> {
        let is_in_place = match self.state.as_ref().map(|state| state.current.as_ref()) {
            None => false,
            Some(None) => true,
            Some(Some(current)) => current.is_in_place()?,
        };
        if !is_in_place {
            self.state = None;
            let start = reconcile(&self.ledger, &self.directory);
            self.shared.tell_disagreement(&self.ledger);
            let start = start?;
            self.shared.set_exported(start.last);
            self.state = Some(start);
        }
        // Lines that do not follow were brought along for a file that is no more.
        let follows = |state: &Start| {
            links.first().is_some_and(|link| link.seq == state.last + 1 && link.previous == state.tip)
        };
        if self.state.as_ref().is_some_and(follows) {
            return self.append(&links);
        }
        loop {
            let mut after = self.state.as_ref().map_or(0, |state| state.last);
            let (mut piece, mut bytes) = (Vec::new(), 0);
            while bytes < PIECE.min(self.most) {
                let page = self.ledger.read_blocking(|conn| audit::after(conn, after, PAGE))?;
                let Some(last) = page.last() else { break };
                after = last.seq;
                bytes += page.iter().map(|link| link.line.len() as u64).sum::<u64>();
                piece.extend(page);
            }
            if piece.is_empty() {
                return Ok(());
            }
            self.append(&piece)?;
        }
    }

    fn append(&mut self, links: &[Link]) -> Result<(), Trouble> {
        let Some(state) = self.state.as_mut() else { return Ok(()) };
        let (mut last, mut tip) = (state.last, state.tip);
        let mut text = Vec::new();
        for link in links {
            if link.seq != last + 1 || link.previous != tip {
                let wrong = "does not follow from the one before it; restore the ledger from a backup";
                return Err(Trouble(format!("record {} of the ledger {wrong}", link.seq)));
            }
            text.extend_from_slice(link.line.as_bytes());
            text.push(b'\n');
            (last, tip) = (link.seq, link.hash);
        }
        if let Some(full) = state.current.take_if(|current| current.length() >= self.most) {
            let closed = full.close();
            let name = full.closed_name();
            if let Err(error) = closed {
                // Something else may have that name; the next try compares anew, and sets that aside.
                self.state = None;
                return Err(Trouble(format!("{CURRENT} cannot be renamed to {name}: {error}")));
            }
            log::info("audit.rotated", &[("file", &name)]);
        }
        #[cfg(feature = "faults")]
        fault::wait("export-waits");
        #[cfg(feature = "faults")]
        if fault::value("export-fails").is_some_and(|while_there| Path::new(while_there).exists()) {
            return Err(Trouble("told to fail".to_owned()));
        }
        let current = match &mut state.current {
            Some(current) => current,
            none => none.insert(Current::make(&self.directory, state.last + 1)?),
        };
        current.append(&text)?;
        (state.last, state.tip) = (last, tip);
        self.shared.set_exported(last);
        Ok(())
    }

    fn snapshot(&self) -> Snapshot {
        let looked = self.directory.closed().and_then(|closed| {
            let current = match self.directory.read(CURRENT)? {
                Some(file) => {
                    let length = file.metadata()?.len();
                    Some((file, length))
                }
                None => None,
            };
            Ok((closed, current))
        });
        let exported = self.shared.exported.load(Ordering::SeqCst);
        let trouble = self.shared.failing();
        let directory = self.directory.clone();
        match looked {
            Ok((closed, current)) => Snapshot { directory, exported, closed, current, trouble },
            Err(error) => Snapshot {
                directory,
                exported,
                closed: Vec::new(),
                current: None,
                trouble: Some(format!("the files cannot be read: {error}")),
            },
        }
    }

    /// After a clean end the next start knows exactly how far the files went.
    fn leave_a_mark(&self) {
        let exported = self.shared.exported.load(Ordering::SeqCst);
        if let Err(error) = self.ledger.write_blocking(Step::Other, move |tx| mark(tx, exported)) {
            log::warn("audit.not_marked", &[("error", &error)]);
        }
    }
}

/// However the thread ends, no act may wait for it or be taken any more.
struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        let why = if std::thread::panicking() {
            log::error("audit.exporter_broke", &[]);
            "the exporter broke; restart the control plane"
        } else {
            STOPPED
        };
        let _ = self.0.set_failing(Some(why.to_owned()));
        self.0.ring();
    }
}
