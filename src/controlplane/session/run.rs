//! What the host knows of one running sandbox: what it was handed and has not finished, what was rung and not
//! acknowledged, and since when. Pure bookkeeping, so that the actor's decisions can be read in one place.

use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::Task;

use super::context::Allowed;
use super::doorbell::Doorbell;
use super::held::Held;
use super::ingest::{Failure, Ingested, Spent};
use super::limits::STALLED_AFTER;
use crate::contract::action::Outcome;
use crate::contract::cipher::FileKey;
use crate::contract::ids::{GroupName, MessageId};
use crate::contract::inbound::{InboundWriter, Place, Usage};
use crate::controlplane::brokers::model::OpenSocket;
use crate::controlplane::isolation::{Exit, Sandbox, SessionPaths};
use crate::controlplane::store::grants::Grant;
use crate::controlplane::store::sessions;
use crate::controlplane::telemetry::metrics::{KillReason, METRICS};

/// Why a sandbox is ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing in flight for the linger.
    Idle,
    /// It is shown something else of the host than was decided since.
    Outdated,
    /// Somebody else needs its place.
    Evicted,
    /// The daemon stops.
    Shutdown,
    /// What was said is to be erased.
    Erased,
    /// The disk is nearly full.
    LowDisk,
    /// Its group is over its quota.
    Quota,
    /// The host could not do its part; the sandbox is not at fault.
    Host(String),
    /// Its memory is gone: it said so, or knows less than the ledger.
    Lost,
    /// It ended by itself.
    Died(String),
    /// It never said hello.
    Silent,
    /// No acknowledgement in time.
    Stalled,
    /// A turn took too long.
    Overran,
    /// It broke the contract.
    Violation(String),
}

impl Ending {
    /// Whether it counts as a death of the sandbox's own doing.
    pub(super) fn is_death(&self) -> bool {
        matches!(self, Self::Died(_) | Self::Silent | Self::Stalled | Self::Overran)
    }

    /// Whether the sandbox is asked to stop before it is killed.
    pub(super) fn is_polite(&self) -> bool {
        matches!(self, Self::Idle | Self::Outdated | Self::Evicted | Self::Shutdown | Self::Erased)
    }

    /// The label that it is counted under.
    pub(super) fn label(&self) -> KillReason {
        match self {
            Self::Idle | Self::Outdated => KillReason::Idle,
            Self::Evicted => KillReason::Evicted,
            Self::Shutdown | Self::Erased | Self::Host(_) => KillReason::Shutdown,
            Self::LowDisk => KillReason::LowDisk,
            Self::Quota => KillReason::Quota,
            Self::Lost | Self::Died(_) => KillReason::Died,
            Self::Silent => KillReason::Silent,
            Self::Stalled => KillReason::Stalled,
            Self::Overran => KillReason::Overran,
            Self::Violation(_) => KillReason::Violation,
        }
    }

    /// A few words for the log and for people.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Idle => "idle".to_owned(),
            Self::Outdated => "its packages or mounts were changed".to_owned(),
            Self::Evicted => "evicted".to_owned(),
            Self::Shutdown => "the daemon stops".to_owned(),
            Self::Erased => "its conversation is erased".to_owned(),
            Self::LowDisk => "the disk is nearly full".to_owned(),
            Self::Quota => "the agent's files are over their quota".to_owned(),
            Self::Host(why) => why.clone(),
            Self::Lost => "the agent's memory is lost".to_owned(),
            Self::Died(how) => format!("it ended by itself: {how}"),
            Self::Silent => "it did not say hello in time".to_owned(),
            Self::Stalled => "it did not acknowledge in time".to_owned(),
            Self::Overran => "its turn took too long".to_owned(),
            Self::Violation(how) => how.clone(),
        }
    }
}

/// Holds a sandbox to so many rings a second, by delaying what comes too early.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    /// When the next ring would be on time; lies up to a burst in the past.
    next: Instant,
}

impl Pace {
    /// Rings that may come at once after a quiet while, and at the start: a turn's first and last come together.
    const BURST: u32 = 10;
    /// Parts of the writer's time that are for others, beside one that a sandbox's actions take.
    const OTHERS: u32 = 10;

    pub(super) fn new(rings_per_second: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / rings_per_second.max(1);
        Self { interval, next: now.checked_sub(interval * Self::BURST).unwrap_or(now) }
    }

    /// How long this ring must wait.
    pub(super) fn hold(&mut self, now: Instant) -> Duration {
        let earliest = now.checked_sub(self.interval * Self::BURST).unwrap_or(now);
        let due = self.next.max(earliest);
        self.next = due + self.interval;
        due.saturating_duration_since(now)
    }

    /// Each action costs the ledger's writer as much as a ring, and so it costs the sandbox one too; and what took the
    /// writer long, a multiple of that, so that most of the writer's time is for others.
    pub(super) fn charge(&mut self, actions: u32, took: Duration) {
        self.next += self.interval * actions + took * Self::OTHERS;
    }
}

/// One running sandbox.
#[derive(Debug)]
pub(super) struct Run {
    /// Tells this run's events from an earlier one's.
    pub(super) number: u64,
    /// What its agent group may take; told with the configuration, and replaced with it.
    pub(super) allowed: Allowed,
    /// The agent group's room as it was last measured.
    pub(super) usage: Usage,
    /// A change that was decided is to be told with the next messages.
    pub(super) reconfigured: bool,
    /// What it is shown of the host.
    pub(super) grants: Vec<Grant>,
    /// What it was granted and is not shown, and why.
    pub(super) left_out: Vec<String>,
    /// Something else was granted since: it ends with the turn that runs, and is handed no more messages.
    pub(super) outdated: bool,
    /// As the agent is told of what it is shown.
    pub(super) places: Vec<Place>,
    /// The ledger may hold more messages than were handed over at the launch.
    pub(super) more: bool,
    pub(super) group: GroupName,
    pub(super) sandbox: Arc<Sandbox>,
    /// Resolves when the sandbox has ended.
    pub(super) watch: Task<Exit>,
    pub(super) doorbell: Doorbell,
    pub(super) model: OpenSocket,
    pub(super) paths: SessionPaths,
    pub(super) inbound: Option<InboundWriter>,
    pub(super) outbound_key: FileKey,
    pub(super) launched: Instant,
    pub(super) welcomed: bool,
    pub(super) epoch: u64,
    /// Outputs up to here are stored.
    pub(super) cursor: u64,
    /// The history position of the last message handed over in this run.
    pub(super) handed: u64,
    /// The last number rung, and the last acknowledged.
    pub(super) rung: u64,
    pub(super) acked: u64,
    pub(super) rung_at: Instant,
    pub(super) stalled: bool,
    /// Handed over and not finished.
    pub(super) open: Held,
    /// Numbers of finished messages that still lie in the file.
    pub(super) finished: Vec<u64>,
    /// Messages of the turn that runs.
    pub(super) turn: Vec<MessageId>,
    pub(super) turn_began: bool,
    /// Since when nothing moved although messages are open.
    pub(super) waiting_since: Instant,
    /// When the turn that runs began.
    pub(super) turn_at: Option<Instant>,
    /// The ring that is being read and stored.
    pub(super) reading: Option<(Task<Result<Ingested, Failure>>, Instant)>,
    /// What the open messages have cost so far.
    pub(super) spent: Spent,
    pub(super) pace: Pace,
    /// Answers to actions, to be handed over.
    pub(super) outcomes: Vec<Outcome>,
    /// Numbers of answers that are in the file and not yet acknowledged.
    pub(super) answered: Vec<u64>,
    pub(super) closed_at: Option<Instant>,
    pub(super) idle_since: Option<Instant>,
    /// When its group's files are to be counted next, and whether a count is under way.
    pub(super) measure_at: Instant,
    pub(super) measuring: bool,
}

impl Run {
    /// Nothing of either side is on its way.
    pub(super) fn is_idle(&self) -> bool {
        self.welcomed
            && !self.open.owes_a_turn()
            && self.rung == self.acked
            && self.reading.is_none()
            && self.outcomes.is_empty()
    }

    /// A ring waits for its acknowledgement.
    pub(super) fn is_unacknowledged(&self) -> bool {
        self.rung != self.acked
    }

    /// Notes what a ring brought; whether a message is finished with it.
    pub(super) fn note(&mut self, ingested: &Ingested) -> bool {
        let now = Instant::now();
        self.cursor = ingested.last;
        self.spent = ingested.spent;
        self.pace.charge(ingested.actions, ingested.took);
        for id in &ingested.began {
            // Said again it changes nothing: a turn's time runs from its first word.
            if self.open.holds(id) && !self.turn.contains(id) {
                self.turn_began = true;
                self.turn_at.get_or_insert(now);
                self.turn.push(id.clone());
            }
        }
        for id in &ingested.done {
            if let Some(seq) = self.open.finish(id) {
                self.finished.push(seq);
            }
            self.turn.retain(|in_turn| in_turn != id);
        }
        if ingested.done.is_empty() {
            return false;
        }
        self.waiting_since = now;
        self.spent = Spent::default();
        METRICS.finished.add(ingested.done.len() as u64);
        if self.turn.is_empty() {
            METRICS.turns.inc();
            if let Some(since) = self.turn_at.take() {
                METRICS.turn_seconds.observe(since.elapsed());
            }
            // Once more after each turn.
            self.measure_at = now;
        }
        true
    }

    /// Where the turn that runs answers.
    pub(super) fn answers(&self) -> Option<&sessions::Place> {
        self.open.place(self.turn.last()?)
    }

    /// When it has had its time. One that is idle has all of it before it; one that holds nothing that starts a
    /// turn and yet has something to say has not.
    fn turn_ends(&self) -> Option<Instant> {
        let runs = !self.open.is_empty() && self.idle_since.is_none();
        runs.then(|| self.turn_at.unwrap_or(self.waiting_since) + self.allowed.turn)
    }

    /// The next instant at which something may have to be done.
    pub(super) fn deadline(&self, times: &Times) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        let mut at = |instant: Instant| earliest = Some(earliest.map_or(instant, |e| e.min(instant)));
        if !self.welcomed {
            at(self.launched + times.launch);
        } else if self.is_unacknowledged() {
            at(self.rung_at + if self.stalled { times.stall } else { times.stall.min(STALLED_AFTER) });
        }
        if let Some(end) = self.turn_ends() {
            at(end);
        }
        if let Some(closed) = self.closed_at {
            at(closed + super::limits::CLOSED_GRACE);
        }
        if let Some(idle) = self.idle_since {
            at(idle + times.linger);
        }
        if !self.measuring {
            at(self.measure_at);
        }
        earliest
    }

    /// The ending that is due now, if any.
    pub(super) fn due(&self, now: Instant, times: &Times) -> Option<Ending> {
        if !self.welcomed && now >= self.launched + times.launch {
            return Some(Ending::Silent);
        }
        if self.welcomed && self.is_unacknowledged() && now >= self.rung_at + times.stall {
            return Some(Ending::Stalled);
        }
        if self.turn_ends().is_some_and(|end| now >= end) {
            return Some(Ending::Overran);
        }
        if self.closed_at.is_some_and(|closed| now >= closed + super::limits::CLOSED_GRACE) {
            return Some(Ending::Died("it closed its doorbell".to_owned()));
        }
        if self.idle_since.is_some_and(|idle| now >= idle + times.linger) {
            return Some(Ending::Idle);
        }
        None
    }
}

/// The configured durations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) launch: Duration,
    /// Without an acknowledgement for so long it is stopped, and that counts as a death.
    pub(super) stall: Duration,
    pub(super) linger: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_too_early_waits_and_a_flood_is_spread() {
        let start = Instant::now();
        let mut pace = Pace::new(50, start);
        let burst = (0..11).filter(|_| pace.hold(start).is_zero()).count();
        assert_eq!(burst, 11, "a turn at the start is not held");
        let held: Vec<Duration> = (0..3).map(|_| pace.hold(start)).collect();
        assert_eq!(held, [20, 40, 60].map(Duration::from_millis));
        let later = start + Duration::from_secs(10);
        let burst = (0..100).filter(|_| pace.hold(later).is_zero()).count();
        assert_eq!(burst, 11, "a burst, then one each interval");
        let last = later + Duration::from_secs(10);
        assert!(pace.hold(last).is_zero());
        pace.charge(60, Duration::from_millis(5));
        assert_eq!(pace.hold(last), Duration::from_millis(1070), "actions are paid for with the next ring");
    }
}
