//! The one thread that writes the ledger. It takes what waits, runs each job in a savepoint inside one
//! transaction, commits once, and only then answers: the commit itself is the time in which the next batch
//! gathers. Touches the one writing connection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use smol::channel::{Receiver, Sender};

use super::{StoreError, happenings};
use crate::contract::fault;
use crate::controlplane::bell::Bell;
use crate::controlplane::telemetry::metrics::METRICS;

/// Jobs in one transaction. More would only make the first of them wait.
const BATCH: usize = 256;
/// Jobs that may wait; who comes later waits to submit.
pub(super) const WAITING: usize = 1024;

/// The durable steps whose commits the crash tests can stop at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A message is accepted.
    Accept,
    /// Messages are handed to a new conveyor.
    Launch,
    /// What a sandbox put out is stored.
    Ingest,
    /// What a sandbox put out is stored, and what it asks for in it is done or refused.
    Ask,
    /// What a sandbox put out is stored, and what of it is for another chat goes there.
    Send,
    /// A message becomes done or failed by the host's word.
    Finish,
    /// A change is asked for.
    Submit,
    /// A change is decided, and what it does is done.
    Decide,
    /// What an approved change does outside the ledger is done.
    Apply,
    /// What became of a message on its way to a platform is noted.
    Deliver,
    /// A file that came with a message is stored, or known not to come.
    Attach,
    /// What was said in a conversation is erased.
    Erase,
    /// Tasks that are due become messages.
    Run,
    /// A card that shows a change to somebody who may decide is made, shown, or forgotten.
    Card,
    /// Any other write: no crash point.
    Other,
}

impl Step {
    fn before_commit(self) {
        match self {
            Self::Accept => fault::point("accept.before_commit"),
            Self::Launch => fault::point("launch.before_commit"),
            Self::Ingest => fault::point("ingest.before_commit"),
            Self::Ask => fault::point("ask.before_commit"),
            Self::Send => fault::point("send.before_commit"),
            Self::Finish => fault::point("finish.before_commit"),
            Self::Submit => fault::point("submit.before_commit"),
            Self::Decide => fault::point("decide.before_commit"),
            Self::Apply => fault::point("apply.before_commit"),
            Self::Deliver => fault::point("deliver.before_commit"),
            Self::Attach => fault::point("attach.before_commit"),
            Self::Erase => fault::point("erase.before_commit"),
            Self::Run => fault::point("run.before_commit"),
            Self::Card => fault::point("card.before_commit"),
            Self::Other => {}
        }
    }

    fn after_commit(self) {
        match self {
            Self::Accept => fault::point("accept.after_commit"),
            Self::Launch => fault::point("launch.after_commit"),
            Self::Ingest => fault::point("ingest.after_commit"),
            Self::Ask => fault::point("ask.after_commit"),
            Self::Send => fault::point("send.after_commit"),
            Self::Finish => fault::point("finish.after_commit"),
            Self::Submit => fault::point("submit.after_commit"),
            Self::Decide => fault::point("decide.after_commit"),
            Self::Apply => fault::point("apply.after_commit"),
            Self::Deliver => fault::point("deliver.after_commit"),
            Self::Attach => fault::point("attach.after_commit"),
            Self::Erase => fault::point("erase.after_commit"),
            Self::Run => fault::point("run.after_commit"),
            Self::Card => fault::point("card.after_commit"),
            Self::Other => {}
        }
    }
}

/// Whether a commit is answered only when it is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is: whoever is answered may tell the world.
    Synced,
    /// It outlives this process, and whatever is synced later takes it along; only a machine that loses its power
    /// may lose it. For bookkeeping about running sandboxes, which such a machine loses too.
    Ordered,
}

/// What the thread is sent.
pub(super) enum Order {
    /// Run this in the next transaction.
    Run(Step, Durability, Box<dyn Job>),
    /// Move what the log holds into the file and empty the log.
    Checkpoint(Sender<Result<(), StoreError>>),
    /// Finish what came before, then end.
    Stop,
}

/// A job that waits. `run` leaves the connection's transaction open; `answer` comes exactly once, after it.
pub(super) trait Job: Send {
    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), StoreError>;
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A closure, then its result until the commit.
struct Call<F, T> {
    work: Option<F>,
    result: Option<T>,
    reply: Sender<Result<T, StoreError>>,
}

/// Makes a job of a closure and gives the end that its answer comes out of.
pub(super) fn job<T, F>(work: F) -> (Box<dyn Job>, Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send + 'static,
{
    let (reply, answer) = smol::channel::bounded(1);
    (Box::new(Call { work: Some(work), result: None, reply }), answer)
}

impl<T, F> Job for Call<F, T>
where
    T: Send,
    F: FnOnce(&Transaction<'_>) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, tx: &Transaction<'_>) -> Result<(), StoreError> {
        let work = self.work.take().ok_or(StoreError::Stopped)?;
        // The savepoint undoes whatever a panicking job left half done, so nothing broken is seen later.
        self.result = Some(catch_unwind(AssertUnwindSafe(|| work(tx))).unwrap_or(Err(StoreError::Panicked))?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let Call { result, reply, .. } = *self;
        // Whoever asked may have gone; what was stored stays stored.
        let _ = reply.try_send(committed.and_then(|()| result.ok_or(StoreError::Stopped)));
    }
}

/// The thread: ends when told to or when every sender is gone. Rings when something happened that people follow.
pub(super) fn run(mut connection: Connection, orders: &Receiver<Order>, happened: &Bell) {
    let mut going = true;
    let mut newest = happenings::tip(&connection).unwrap_or(0);
    let mut set = None;
    while going {
        let Ok(first) = orders.recv_blocking() else { break };
        let mut batch = Vec::new();
        let mut durability = Durability::Ordered;
        let mut checkpoints = Vec::new();
        let mut next = Some(first);
        while let Some(order) = next.take() {
            match order {
                Order::Run(step, asked, job) => {
                    batch.push((step, job));
                    if asked == Durability::Synced {
                        durability = asked;
                    }
                }
                Order::Checkpoint(reply) => checkpoints.push(reply),
                Order::Stop => {
                    going = false;
                    break;
                }
            }
            if batch.len() < BATCH {
                next = orders.try_recv().ok();
            }
        }
        let waiting = |more: usize| i64::try_from(orders.len() + more).unwrap_or(i64::MAX);
        METRICS.ledger_queue.set(waiting(batch.len()));
        if !batch.is_empty() {
            commit(&mut connection, durability, &mut set, batch);
            match happenings::tip(&connection) {
                Ok(tip) if tip == newest => {}
                Ok(tip) => {
                    newest = tip;
                    happened.ring();
                }
                // Whoever hears it looks for itself.
                Err(_) => happened.ring(),
            }
        }
        METRICS.ledger_queue.set(waiting(0));
        if !checkpoints.is_empty() {
            let done = checkpoint(&connection);
            for reply in checkpoints {
                let _ = reply.try_send(done.clone());
            }
        }
    }
    // From here nobody is answered any more: senders see a closed channel and their answers never come.
    orders.close();
    while orders.recv_blocking().is_ok() {}
    let _ = checkpoint(&connection);
}

fn checkpoint(connection: &Connection) -> Result<(), StoreError> {
    let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if busy == 0 { Ok(()) } else { Err(StoreError::Sqlite("a reader held the log; try again".to_owned())) }
}

/// One batch: all jobs that went well are durable when this returns, as far as any of them needs it, or none is.
/// `set` is what the connection was last told to do.
fn commit(
    connection: &mut Connection,
    durability: Durability,
    set: &mut Option<Durability>,
    batch: Vec<(Step, Box<dyn Job>)>,
) {
    let mut went_well = Vec::with_capacity(batch.len());
    let mut steps: Vec<Step> = Vec::new();
    let mut waiting = batch.into_iter();
    let committed = (|| {
        // Without a sync the log is written all the same, and the next commit with one syncs all of it.
        if set.replace(durability) != Some(durability) {
            let told = connection.execute_batch(match durability {
                Durability::Synced => "PRAGMA synchronous=FULL",
                Durability::Ordered => "PRAGMA synchronous=NORMAL",
            });
            if told.is_err() {
                *set = None;
            }
            told?;
        }
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (step, mut job) in waiting.by_ref() {
            let outcome = in_savepoint(&tx, job.as_mut());
            if let Ok(Err(error)) = outcome {
                job.answer(Err(error));
                continue;
            }
            went_well.push(job);
            outcome??;
            if !steps.contains(&step) {
                steps.push(step);
            }
        }
        steps.iter().for_each(|step| step.before_commit());
        tx.commit()?;
        steps.iter().for_each(|step| step.after_commit());
        Ok(())
    })();
    for job in went_well.into_iter().chain(waiting.map(|(_, job)| job)) {
        job.answer(committed.clone());
    }
}

/// The inner result is the job's own; the outer error is everyone's, because the transaction is lost.
fn in_savepoint(tx: &Transaction<'_>, job: &mut dyn Job) -> Result<Result<(), StoreError>, StoreError> {
    tx.prepare_cached("SAVEPOINT job")?.execute([])?;
    let done = job.run(tx);
    match &done {
        // The disk's failure is everyone's; SQLite may have undone the whole transaction by itself.
        Err(error) if error.is_disk() => return Err(error.clone()),
        Err(error) if tx.is_autocommit() => return Err(error.clone()),
        Ok(()) if tx.is_autocommit() => {
            return Err(StoreError::Sqlite("a job ended the transaction".to_owned()));
        }
        Err(_) => drop(tx.prepare_cached("ROLLBACK TO job")?.execute([])?),
        Ok(()) => {}
    }
    tx.prepare_cached("RELEASE job")?.execute([])?;
    Ok(done)
}
