//! One session's actor: everything that happens to the session (a message accepted, a frame heard, a sandbox
//! gone, a time reached) is an event in one queue, taken one at a time, so that two wakes are one launch and
//! no two decisions about a session are ever made at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::channel::{Receiver, Sender};

use super::context::Runtime;
use super::disk::{self, Room};
use super::doorbell::Heard;
use super::erasing::Erase;
use super::ingest::{self, Failure, Ingested, Ring};
use super::launch::{Unlaunched, launch};
use super::limits::{LOOK_AGAIN, MEASURE_EVERY, STALLED_AFTER, backoff};
use super::run::{Ending, Run};
use super::{Live, Sessions, handing};
use crate::contract::action::Outcome;
use crate::contract::frame::{FromSandbox, HelloSeq, ToSandbox, VERSION};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::inbound::Usage;
use crate::contract::time::Millis;
use crate::controlplane::store::sessions;
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Something that happened to a session.
#[derive(Debug)]
pub(super) enum Event {
    /// The ledger has something for it.
    Wake,
    /// The runtime is known now, or known better.
    RuntimeChanged,
    /// What was decided is in the audit files.
    Recorded,
    /// A place is free.
    Place,
    /// Somebody waits for a place.
    Evict,
    /// An operator released it.
    Released,
    /// The disk is nearly full.
    LowDisk,
    /// Its group is over the quota.
    OverQuota,
    /// The daemon stops.
    Close,
    /// This agent group was deleted.
    Deleted(GroupName),
    /// A change of its agent group was decided.
    Reconfigured,
    /// What was said in it is to be erased.
    Erase(Erase),
    /// The doorbell of this run spoke.
    Heard(u64, Heard),
    /// The sandbox of this run has ended.
    Exited(u64),
    /// A ring of this run is read and stored, or not.
    Ingested(u64),
    /// Actions that this run asked for are answered.
    Answered(u64, Vec<Outcome>),
    /// The files of this run's group are counted.
    Measured(u64, Usage),
}

/// What keeps an owed session from being launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    None,
    Runtime,
    Place,
    Parked,
    Record,
    Until(Instant),
}

/// What others see of an actor.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) phase: &'static str,
    pub(super) since: Millis,
    pub(super) reason: Option<String>,
    /// The agent group, once it is known.
    pub(super) group: Option<GroupName>,
    /// What was granted and yet is not in its sandbox, and why.
    pub(super) left_out: Vec<String>,
}

impl View {
    /// As it is shown to people.
    pub(super) fn live(self, session: &SessionId) -> Live {
        let Self { phase, since, reason, left_out, .. } = self;
        Live { session: session.clone(), phase, since, reason, left_out }
    }
}

/// One session's actor.
pub(super) struct Actor {
    pub(super) id: SessionId,
    pub(super) sessions: Sessions,
    pub(super) events: Receiver<Event>,
    pub(super) sender: Sender<Event>,
    pub(super) view: Arc<Mutex<View>>,
    pub(super) run: Option<Run>,
    runs: u64,
    /// The ledger may hold messages that no sandbox has been handed.
    pub(super) owed: bool,
    obstacle: Obstacle,
    /// Deaths in a row, for the wait before the next launch.
    pub(super) deaths: u32,
    closing: bool,
    /// A reason to wait is stored in the ledger; one of an earlier daemon may be.
    waited: bool,
}

impl Actor {
    pub(super) fn new(
        id: SessionId,
        sessions: Sessions,
        (sender, events): (Sender<Event>, Receiver<Event>),
        view: Arc<Mutex<View>>,
    ) -> Self {
        Self {
            id,
            sessions,
            events,
            sender,
            view,
            run: None,
            runs: 0,
            owed: false,
            obstacle: Obstacle::None,
            deaths: 0,
            closing: false,
            waited: true,
        }
    }

    /// Lives until there is nothing left to do for the session.
    pub(super) async fn live(mut self) {
        loop {
            // Lets everybody else go first, so that no mistake about a time in here can stop the daemon.
            smol::future::yield_now().await;
            self.settle().await;
            if self.run.is_none() && (!self.owed || self.closing) && self.sessions.retire(&self) {
                return;
            }
            let event = match self.deadline() {
                None => self.events.recv().await.ok(),
                Some(at) => {
                    let timer = async {
                        Timer::at(at).await;
                        None
                    };
                    smol::future::or(async { self.events.recv().await.ok() }, timer).await
                }
            };
            if let Some(event) = event {
                self.handle(event).await;
            }
        }
    }

    pub(super) fn show(&self, phase: &'static str, reason: Option<String>) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        if view.phase != phase || view.reason != reason {
            *view = View {
                phase,
                since: Millis::now(),
                reason,
                group: view.group.clone(),
                left_out: std::mem::take(&mut view.left_out),
            };
            drop(view);
            self.sessions.context().states.tell(&self.id);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match (&self.run, self.obstacle) {
            (Some(run), _) => run.deadline(&self.sessions.context().times()),
            (None, Obstacle::Until(at)) if self.owed => Some(at),
            _ => None,
        }
    }

    /// Does what can be done now.
    async fn settle(&mut self) {
        if self.closing {
            if self.run.is_some() {
                self.end(Ending::Shutdown).await;
            }
            return;
        }
        if self.run.as_ref().is_some_and(|run| run.outdated && run.is_idle()) {
            // What waits is for its successor, which is launched at once.
            self.end(Ending::Outdated).await;
        }
        if self.run.is_none() {
            let due = match self.obstacle {
                Obstacle::None => true,
                Obstacle::Until(at) => Instant::now() >= at,
                Obstacle::Runtime | Obstacle::Place | Obstacle::Parked | Obstacle::Record => false,
            };
            if self.owed && due {
                self.obstacle = Obstacle::None;
                self.try_launch().await;
            }
            return;
        }
        let times = self.sessions.context().times();
        let now = Instant::now();
        if let Some(ending) = self.run.as_ref().and_then(|run| run.due(now, &times)) {
            return self.end(ending).await;
        }
        self.notice_stall(now);
        self.start_measuring(now);
        if let Err(ending) = handing::pump(self).await {
            return self.end(ending).await;
        }
        self.notice_idleness();
    }

    fn notice_stall(&mut self, now: Instant) {
        let Some(run) = &mut self.run else { return };
        if run.welcomed && run.is_unacknowledged() && !run.stalled && now >= run.rung_at + STALLED_AFTER {
            run.stalled = true;
            log::warn("sandbox.stalled", &[("session", &self.id), ("rung", &run.rung)]);
            self.show("stalled", Some("it does not acknowledge".to_owned()));
        }
    }

    fn start_measuring(&mut self, now: Instant) {
        let Some(run) = &mut self.run else { return };
        if run.measuring || now < run.measure_at {
            return;
        }
        run.measuring = true;
        let (paths, group, number, sender) =
            (run.paths.clone(), run.group.clone(), run.number, self.sender.clone());
        let (context, id, allowed) = (self.sessions.context().clone(), self.id.clone(), run.allowed);
        tasks::spawn(async move {
            let usage = disk::measure(&context, &group, &id, &paths, allowed).await;
            let _ = sender.try_send(Event::Measured(number, usage));
        })
        .detach();
    }

    fn notice_idleness(&mut self) {
        let owed = self.owed;
        let Some(run) = &mut self.run else { return };
        let idle = run.is_idle() && !owed;
        if idle == run.idle_since.is_some() {
            return;
        }
        run.idle_since = idle.then(Instant::now);
        self.sessions.occupation(&self.id, run.idle_since);
        self.show(if idle { "idle" } else { "busy" }, None);
    }

    async fn try_launch(&mut self) {
        let context = self.sessions.context().clone();
        let isolator = match context.runtime() {
            Runtime::Ready(isolator) => isolator,
            Runtime::Missing(reason) => {
                self.obstacle = Obstacle::Runtime;
                return self.wait(&reason).await;
            }
        };
        if context.space.room() != Room::Enough {
            self.obstacle = Obstacle::Until(Instant::now() + LOOK_AGAIN);
            return self.wait("the disk is nearly full; free some space or lower --min-free").await;
        }
        if !self.sessions.take_place(&self.id) {
            self.obstacle = Obstacle::Place;
            self.show("waiting", Some("all places for sandboxes are taken (--max-sandboxes)".to_owned()));
            return;
        }
        self.runs += 1;
        self.owed = false;
        self.show("launching", None);
        match launch(&context, &isolator, &self.id, self.runs, &self.sender).await {
            Ok(run) => {
                METRICS.launches.inc();
                METRICS.sandboxes.inc();
                log::info(
                    "sandbox.launched",
                    &[
                        ("session", &self.id),
                        ("back_end", &run.sandbox.back_end().name()),
                        ("pid", &run.sandbox.pid()),
                        ("messages", &run.open.len()),
                    ],
                );
                {
                    let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
                    view.group = Some(run.group.clone());
                    view.left_out.clone_from(&run.left_out);
                }
                self.owed |= run.more;
                self.run = Some(run);
                self.sessions.turn_runs();
                self.forget_wait().await;
            }
            Err(Unlaunched::NothingOwed) => {
                self.sessions.leave_place(&self.id);
                self.show("asleep", None);
                self.forget_wait().await;
            }
            Err(Unlaunched::Parked) => {
                self.sessions.leave_place(&self.id);
                self.owed = true;
                self.obstacle = Obstacle::Parked;
                self.show("parked", None);
            }
            Err(Unlaunched::Unrecorded(reason)) => {
                self.sessions.leave_place(&self.id);
                self.owed = true;
                self.obstacle = Obstacle::Record;
                let (audit, sender) = (context.desk.audit.clone(), self.sender.clone());
                tasks::spawn(async move {
                    audit.settled().await;
                    let _ = sender.try_send(Event::Recorded);
                })
                .detach();
                self.wait(&reason).await;
            }
            Err(Unlaunched::Machine(reason)) => {
                self.sessions.leave_place(&self.id);
                METRICS.launch_failures.inc();
                log::warn("sandbox.launch_failed", &[("session", &self.id), ("reason", &reason)]);
                self.owed = true;
                self.deaths = self.deaths.saturating_add(1);
                self.put_off();
                self.wait(&reason).await;
            }
        }
    }

    /// The next launch waits, longer after each death in a row.
    pub(super) fn put_off(&mut self) {
        self.obstacle = Obstacle::Until(Instant::now() + backoff(self.deaths));
    }

    /// Shows why an owed session has no sandbox.
    pub(super) async fn wait(&mut self, reason: &str) {
        self.waited = true;
        self.show("waiting", Some(reason.to_owned()));
        let (id, reason) = (self.id.clone(), reason.to_owned());
        let stored =
            self.sessions.context().ledger.write(move |tx| sessions::set_wait_reason(tx, &id, Some(&reason)));
        if let Err(error) = stored.await {
            log::warn("session.reason_not_stored", &[("session", &self.id), ("error", &error)]);
        }
    }

    async fn forget_wait(&mut self) {
        if !std::mem::take(&mut self.waited) {
            return;
        }
        let id = self.id.clone();
        let stored = self.sessions.context().ledger.write(move |tx| sessions::set_wait_reason(tx, &id, None));
        if let Err(error) = stored.await {
            log::warn("session.reason_not_stored", &[("session", &self.id), ("error", &error)]);
        }
    }

    async fn handle(&mut self, event: Event) {
        let current = self.run.as_ref().map(|run| run.number);
        match event {
            Event::Wake => self.owed = true,
            Event::RuntimeChanged if self.obstacle == Obstacle::Runtime => self.obstacle = Obstacle::None,
            Event::Place if self.obstacle == Obstacle::Place => self.obstacle = Obstacle::None,
            Event::Recorded if self.obstacle == Obstacle::Record => self.obstacle = Obstacle::None,
            Event::Released => {
                self.deaths = 0;
                self.owed = true;
                self.obstacle = Obstacle::None;
            }
            Event::Place => self.sessions.pass_place_on(&self.id),
            Event::RuntimeChanged | Event::Recorded => {}
            Event::Evict => {
                if self.run.as_ref().is_some_and(|run| run.idle_since.is_some()) {
                    self.end(Ending::Evicted).await;
                }
            }
            Event::LowDisk if self.run.is_some() => self.end(Ending::LowDisk).await,
            Event::OverQuota if self.run.is_some() => self.end(Ending::Quota).await,
            Event::LowDisk | Event::OverQuota => {}
            Event::Close => self.closing = true,
            Event::Deleted(group) => {
                // Its messages are failed already, so nothing more is owed to it.
                self.closing |= self.run.as_ref().is_some_and(|run| run.group == group);
            }
            Event::Reconfigured => self.reconfigured().await,
            Event::Erase(erase) => self.erase(erase).await,
            Event::Answered(number, outcomes) if Some(number) == current => {
                if let Some(run) = &mut self.run {
                    run.outcomes.extend(outcomes);
                }
            }
            Event::Heard(number, heard) if Some(number) == current => self.hear(heard).await,
            Event::Exited(number) if Some(number) == current => {
                self.end(Ending::Died(String::new())).await;
            }
            Event::Ingested(number) if Some(number) == current => self.ingested().await,
            Event::Measured(number, usage) if Some(number) == current => self.measured(usage).await,
            // Of a run that is over.
            Event::Heard(..)
            | Event::Exited(_)
            | Event::Ingested(_)
            | Event::Answered(..)
            | Event::Measured(..) => {}
        }
    }

    async fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Frame(frame) => {
                if let Err(ending) = self.frame(frame) {
                    self.end(ending).await;
                }
            }
            Heard::Garbage => {
                self.end(Ending::Violation("it sent something that is no doorbell frame".to_owned())).await;
            }
            Heard::Closed => {
                if let Some(run) = &mut self.run {
                    run.closed_at.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    fn frame(&mut self, frame: FromSandbox) -> Result<(), Ending> {
        let Some(run) = &mut self.run else { return Ok(()) };
        let violation = |how: String| Err(Ending::Violation(how));
        let now = Instant::now();
        match frame {
            FromSandbox::Hello { version, .. } if version != VERSION => {
                violation(format!("it speaks version {version} of the doorbell, not {VERSION}"))
            }
            FromSandbox::Hello { .. } if run.welcomed => violation("it said hello twice".to_owned()),
            FromSandbox::Hello { seq: HelloSeq::Lost, .. } => Err(Ending::Lost),
            FromSandbox::Hello { seq: HelloSeq::Minted(seq), .. } if seq < run.cursor => Err(Ending::Lost),
            FromSandbox::Hello { .. } => {
                run.welcomed = true;
                run.rung_at = now;
                run.waiting_since = now;
                METRICS.launch_seconds.observe(run.launched.elapsed());
                // Four frames at most wait at a time, and the queue is empty here.
                run.doorbell.send(ToSandbox::Welcome(run.cursor));
                run.doorbell.send(ToSandbox::In(run.rung));
                self.show("busy", None);
                Ok(())
            }
            _ if !run.welcomed => violation("it spoke before hello".to_owned()),
            FromSandbox::Alive(_) => {
                if let Some(place) = run.answers() {
                    self.sessions.context().typing.show(place);
                }
                Ok(())
            }
            FromSandbox::Ack(seq) if seq == run.rung && run.is_unacknowledged() => {
                run.acked = seq;
                // What the host answered has been read and may go with the next transaction.
                run.finished.append(&mut run.answered);
                run.stalled = false;
                METRICS.ring_seconds.observe(run.rung_at.elapsed());
                Ok(())
            }
            FromSandbox::Ack(seq) => violation(format!("it acknowledged {seq}, which was not rung")),
            FromSandbox::Out(_) if run.reading.is_some() => {
                violation("it rang before its last ring was acknowledged".to_owned())
            }
            // A sandbox that owes nothing has nothing to say; otherwise it could keep itself running.
            FromSandbox::Out(_) if run.open.is_empty() => {
                violation("it rang although no message was open".to_owned())
            }
            FromSandbox::Out(seq) if seq <= run.cursor || seq % 2 == 0 => {
                violation(format!("it rang {seq} after {}", run.cursor))
            }
            FromSandbox::Out(seq) => {
                let hold = run.pace.hold(now);
                self.read(seq, hold);
                Ok(())
            }
        }
    }

    /// Reads and stores a ring in a task of its own, so that frames of the sandbox are heard meanwhile.
    fn read(&mut self, last: u64, hold: Duration) {
        let Some(run) = &mut self.run else { return };
        let mut ring = Ring {
            session: self.id.clone(),
            epoch: run.epoch,
            cursor: run.cursor,
            last,
            path: run.paths.outbound.clone(),
            key: run.outbound_key.clone(),
            spent: run.spent,
            watched: false,
            rate: self.sessions.context().letters.clone(),
        };
        let (context, sender, number) = (self.sessions.context().clone(), self.sender.clone(), run.number);
        let sessions = self.sessions.clone();
        let task = tasks::spawn(async move {
            if !hold.is_zero() {
                Timer::after(hold).await;
            }
            let turn = context.readers.acquire().await;
            ring.watched = context.bells.is_watched(&ring.session);
            let session = ring.session.clone();
            let mut result = ingest::ingest(&context.ledger, &context.desk, ring).await;
            drop(turn);
            if let Ok(ingested) = &mut result
                && let Some((answers, exporting)) = ingested.answers.take()
            {
                sessions.answer(&session, number, answers, exporting, sender.clone());
            }
            if let Ok(ingested) = &mut result
                && ingested.spoke
            {
                context.bells.ring(&session, ingested.news.take());
            }
            if let Ok(ingested) = &mut result {
                sessions.delivered(&session, std::mem::take(&mut ingested.elsewhere));
            }
            let _ = sender.try_send(Event::Ingested(number));
            result
        });
        run.reading = Some((task, Instant::now()));
    }

    /// Takes the result of the reading that has ended.
    async fn ingested(&mut self) {
        let Some(run) = &mut self.run else { return };
        let Some((reading, since)) = run.reading.take() else { return };
        match reading.await {
            Ok(ingested) => {
                METRICS.ingest_seconds.observe(since.elapsed());
                let last = ingested.last;
                self.take_in(ingested);
                if let Some(run) = &self.run {
                    run.doorbell.send(ToSandbox::Ack(last));
                }
            }
            Err(Failure::Violation(how)) => self.end(Ending::Violation(how)).await,
            Err(Failure::Host(why)) => self.end(Ending::Host(why)).await,
        }
    }

    /// Notes what a ring brought. It is in the ledger already.
    fn take_in(&mut self, ingested: Ingested) {
        let Some(run) = &mut self.run else { return };
        let is_over = !ingested.done.is_empty();
        if run.note(&ingested) {
            self.deaths = 0;
        }
        if let Some(place) = run.answers().filter(|_| !ingested.began.is_empty()) {
            self.sessions.context().typing.show(place);
        }
        if is_over && run.turn.is_empty() {
            run.model.settle();
        }
    }

    async fn measured(&mut self, usage: Usage) {
        let context = self.sessions.context().clone();
        let Some(run) = &mut self.run else { return };
        run.measuring = false;
        run.usage = usage;
        run.measure_at = Instant::now() + MEASURE_EVERY;
        let group = run.group.clone();
        if !usage.is_over() {
            context.forget_usage(&group);
        } else if context.grew(&group, usage) {
            log::warn(
                "group.over_quota",
                &[("group", &group), ("bytes", &usage.bytes), ("files", &usage.files)],
            );
            self.sessions.over_quota(&group, &self.id);
            self.end(Ending::Quota).await;
        }
    }
}
