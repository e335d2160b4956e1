//! Sandbox lifecycle and the host's side of the conveyors and the doorbell: one actor per session that has
//! something to do. Touches isolation, the keys and the ledger; knows nothing of HTTP or platforms.

mod actions;
mod actor;
mod bells;
mod capacity;
mod context;
mod disk;
mod doorbell;
mod ending;
mod erasing;
mod handing;
mod held;
mod hostile;
mod ingest;
mod launch;
mod letters;
mod limits;
mod peers;
mod reconfigured;
mod run;
mod states;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::{Task, Timer};

pub use self::bells::Watch;
pub use self::disk::{FreeSpace, Room};
pub use self::erasing::EraseError;
pub use self::states::{Changed, StateWatch};

use self::actor::{Actor, Event, View};
use self::capacity::Occupation;
use self::context::{Context, Runtime};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::audit::{self, ActError, Audit, Record};
use crate::controlplane::brokers::model::ModelBroker;
use crate::controlplane::channels::typing::Typing;
use crate::controlplane::config::Config;
use crate::controlplane::gateway::decide::Outcome;
use crate::controlplane::gateway::desk::Desk;
use crate::controlplane::gateway::work::Worked;
use crate::controlplane::isolation::{IsolationPaths, Isolator};
use crate::controlplane::principals::{self, Principal, Scope};
use crate::controlplane::state::Wall;
use crate::controlplane::store::changes::State;
use crate::controlplane::store::history::News;
use crate::controlplane::store::sessions::SessionState;
use crate::controlplane::store::{Ledger, Step, StoreError, sessions};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;
use crate::os::memory;

/// What a session is doing now, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Which.
    pub session: SessionId,
    /// `launching`, `busy`, `idle`, `stalled`, `stopping`, `waiting`, `backing_off`, `parked` or `asleep`.
    pub phase: &'static str,
    /// Since when.
    pub since: Millis,
    /// Why, where there is a reason.
    pub reason: Option<String>,
    /// What was granted and yet is not in its sandbox, and why.
    pub left_out: Vec<String>,
}

/// Why a session was not released.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReleaseError {
    /// There is none of that name.
    NoSession,
    /// Whoever asks may not.
    Forbidden,
    /// It is not parked.
    NotParked,
    /// It was not done, or not recorded yet.
    Act(ActError<()>),
}

struct Handle {
    events: Sender<Event>,
    view: Arc<Mutex<View>>,
    /// Empty once the actor has retired.
    task: Task<()>,
}

struct Inner {
    context: Arc<Context>,
    actors: Mutex<HashMap<SessionId, Handle>>,
    closed: AtomicBool,
    /// Has a token while the free space is worth watching.
    turns: (Sender<()>, Receiver<()>),
    watch: Mutex<Option<Task<()>>>,
}

/// All sessions. Clones are handles to the same.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

impl Sessions {
    /// Nothing is launched before [`Sessions::use_runtime`]; wakes are kept.
    pub fn new(
        config: Config,
        ledger: Ledger,
        desk: Desk,
        paths: IsolationPaths,
        wall: Wall,
        models: ModelBroker,
    ) -> Self {
        let sessions = Self {
            inner: Arc::new(Inner {
                context: Arc::new(Context::new(config, ledger, desk, paths, wall, models)),
                actors: Mutex::default(),
                closed: AtomicBool::new(false),
                turns: smol::channel::bounded(1),
                watch: Mutex::default(),
            }),
        };
        let watched = sessions.clone();
        *sessions.inner.watch.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(tasks::spawn(async move { watched.watch_space().await }));
        sessions
    }

    /// The runtime is chosen, tested and swept: every session that owes an answer gets its sandbox.
    ///
    /// # Errors
    /// When the ledger cannot say which sessions those are.
    pub async fn use_runtime(&self, isolator: Arc<dyn Isolator>) -> Result<(), StoreError> {
        self.context().set_runtime(Runtime::Ready(isolator));
        self.runtime_changed().await
    }

    /// There is no runtime, for this reason: messages are accepted and wait.
    ///
    /// # Errors
    /// As [`Sessions::use_runtime`].
    pub async fn lack_runtime(&self, reason: &str) -> Result<(), StoreError> {
        self.context().set_runtime(Runtime::Missing(reason.to_owned()));
        self.runtime_changed().await
    }

    async fn runtime_changed(&self) -> Result<(), StoreError> {
        let waiting: Vec<Sender<Event>> =
            self.actors().values().map(|handle| handle.events.clone()).collect();
        for events in waiting {
            let _ = events.try_send(Event::RuntimeChanged);
        }
        self.wake_owed().await
    }

    /// Wakes every session that owes an answer: at start, and in the slow safety pass.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn wake_owed(&self) -> Result<(), StoreError> {
        let owed = self.context().ledger.read(sessions::owed).await?;
        METRICS.sessions_owed.set(i64::try_from(owed.len()).unwrap_or(i64::MAX));
        for session in owed {
            self.wake(&session);
        }
        Ok(())
    }

    /// The ledger has something for this session.
    pub fn wake(&self, session: &SessionId) {
        self.post_or_spawn(session, Event::Wake);
    }

    /// Lets a parked session go on. One whose release could not be recorded goes on when it is.
    ///
    /// # Errors
    /// When there is no such session, when it is not parked, and when the ledger or the audit file fails.
    pub async fn release(
        &self,
        session: &SessionId,
        audit: &Audit,
        principal: &Principal,
    ) -> Result<(), ReleaseError> {
        let (id, principal) = (session.clone(), principal.clone());
        let released = audit.act(Step::Other, move |tx| {
            let Some(row) = sessions::get(tx, &id)? else { return Ok(Err(ReleaseError::NoSession)) };
            if !principals::may(tx, &principal, Scope::Operate, Some(&row.partition.group))? {
                return Ok(Err(ReleaseError::Forbidden));
            }
            let by = principal.by();
            let SessionState::Parked { reason } = row.state else { return Ok(Err(ReleaseError::NotParked)) };
            sessions::release(tx, &id)?;
            let record = Record {
                act: "session.released",
                actor: &by.actor,
                via: &by.via,
                group: Some(&row.partition.group),
                object: id.as_str(),
                detail: Value::object([("was_parked_for", Value::from(reason))]),
            };
            audit::record(tx, &record)?;
            Ok(Ok(()))
        });
        match released.await {
            Ok(released) => released?,
            Err(ActError::Unexported { done, reason }) => {
                done?;
                // It runs again once the record of it is where it belongs.
                let (sessions, session, audit) = (self.clone(), session.clone(), audit.clone());
                tasks::spawn(async move {
                    audit.settled().await;
                    sessions.post_or_spawn(&session, Event::Released);
                })
                .detach();
                return Err(ReleaseError::Act(ActError::Unexported { done: (), reason }));
            }
            Err(ActError::Unavailable(reason)) => {
                return Err(ReleaseError::Act(ActError::Unavailable(reason)));
            }
            Err(ActError::Store(error)) => return Err(ReleaseError::Act(ActError::Store(error))),
        }
        log::info("session.released", &[("session", session)]);
        self.context().states.tell(session);
        self.post_or_spawn(session, Event::Released);
        Ok(())
    }

    /// How much room the disk has.
    pub fn room(&self) -> Room {
        self.context().space.room()
    }

    /// What runs, waits or is stuck now. Sessions with nothing to do are not in it.
    pub fn live(&self) -> Vec<Live> {
        let actors = self.actors();
        let mut live: Vec<Live> = actors
            .iter()
            .map(|(session, handle)| {
                let view = handle.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
                view.live(session)
            })
            .collect();
        live.sort_by(|a, b| a.session.cmp(&b.session));
        live
    }

    /// What one session does now; `None` when it has nothing to do.
    pub fn look(&self, session: &SessionId) -> Option<Live> {
        let actors = self.actors();
        let view = actors.get(session)?.view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(view.live(session))
    }

    /// Watches what all sessions do.
    pub fn watch_states(&self) -> StateWatch {
        self.context().states.watch()
    }

    /// Where agents are at work.
    pub fn typing(&self) -> &Typing {
        &self.context().typing
    }

    /// Rings when the history of any session grew.
    pub fn watch_all(&self) -> Receiver<()> {
        self.context().bells.watch_all()
    }

    /// Rings when a conversation may have begun that was not there before.
    pub fn watch_births(&self) -> Receiver<()> {
        self.context().bells.watch_births()
    }

    /// A conversation may have begun. To be called after the commit.
    pub fn ring_births(&self) {
        self.context().bells.ring_births();
    }

    /// Watches the history of a session.
    pub fn watch(&self, session: &SessionId) -> Watch {
        self.context().bells.watch(session)
    }

    /// Whether anybody watches it.
    pub fn is_watched(&self, session: &SessionId) -> bool {
        self.context().bells.is_watched(session)
    }

    /// Tells the watchers of a session that its history grew, and what came if it is known.
    pub fn ring_bell(&self, session: &SessionId, news: Option<News>) {
        self.context().bells.ring(session, news);
    }

    /// Ends the sandboxes of an agent group that was deleted.
    pub fn close_group(&self, group: &GroupName) {
        self.tell(|known| known.is_none_or(|known| known == group).then(|| Event::Deleted(group.clone())));
    }

    /// Tells the sandboxes of an agent group what it is now, with the next message of each.
    pub fn reconfigure(&self, group: &GroupName) {
        // Whoever has not said of which group it is may be of this one.
        self.tell(|known| known.is_none_or(|known| known == group).then_some(Event::Reconfigured));
    }

    /// The same for every agent group.
    pub fn reconfigure_all(&self) {
        self.tell(|_| Some(Event::Reconfigured));
    }

    /// What a decision about a change sets going, once it is stored and recorded.
    pub fn follow(&self, outcome: &Outcome) {
        if outcome.change.state == State::Approved {
            // Its work on the host follows, and then what that sets going.
            let (sessions, id) = (self.clone(), outcome.change.id.clone());
            tasks::spawn(async move {
                let context = sessions.context();
                match context.desk.work(&context.ledger, &id).await {
                    Ok(Worked::Nothing(_)) => {}
                    Ok(Worked::Recorded(outcome)) => sessions.tell_of(&outcome),
                    Ok(Worked::Unrecorded(outcome)) => {
                        context.desk.audit.settled().await;
                        sessions.tell_of(&outcome);
                    }
                    Err(error) => log::error("change.not_finished", &[("change", &id), ("error", &error)]),
                }
            })
            .detach();
        }
        self.tell_of(outcome);
    }

    /// Tells those whom a decision concerns.
    pub fn tell_of(&self, outcome: &Outcome) {
        for group in &outcome.changed {
            self.reconfigure(group);
        }
        if let Some(session) = &outcome.answered {
            self.wake(session);
        }
        if !outcome.changed.is_empty() {
            // Whoever was admitted may have been waiting to be heard.
            let sessions = self.clone();
            tasks::spawn(async move {
                if let Err(error) = sessions.wake_owed().await {
                    log::warn("sessions.not_woken", &[("error", &error)]);
                }
            })
            .detach();
        }
    }

    /// Tells each actor what is for those of its group.
    fn tell(&self, event: impl Fn(Option<&GroupName>) -> Option<Event>) {
        for handle in self.actors().values() {
            let event = event(handle.view.lock().unwrap_or_else(PoisonError::into_inner).group.as_ref());
            if let Some(event) = event {
                let _ = handle.events.try_send(event);
            }
        }
    }

    /// Stops every sandbox, politely first, and returns when all are gone. Nothing is launched afterwards.
    pub async fn close(&self) {
        self.inner.closed.store(true, Ordering::SeqCst);
        drop(self.inner.watch.lock().unwrap_or_else(PoisonError::into_inner).take());
        let actors: Vec<Handle> = self.actors().drain().map(|(_, handle)| handle).collect();
        for handle in &actors {
            let _ = handle.events.try_send(Event::Close);
        }
        for handle in actors {
            handle.task.await;
        }
    }

    fn context(&self) -> &Arc<Context> {
        &self.inner.context
    }

    fn actors(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Handle>> {
        self.inner.actors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post_or_spawn(&self, session: &SessionId, event: Event) {
        let mut actors = self.actors();
        if self.inner.closed.load(Ordering::SeqCst) {
            return;
        }
        let handle = actors.entry(session.clone()).or_insert_with(|| {
            let queue = smol::channel::unbounded();
            let view = View {
                phase: "asleep",
                since: Millis::now(),
                reason: None,
                group: None,
                left_out: Vec::new(),
            };
            let view = Arc::new(Mutex::new(view));
            let events = queue.0.clone();
            let actor = Actor::new(session.clone(), self.clone(), queue, view.clone());
            let (all, id) = (self.clone(), session.clone());
            let task = tasks::spawn(async move {
                // A bug met in one session must not take its place, or the daemon's stop, with it.
                if AssertUnwindSafe(actor.live()).catch_unwind().await.is_err() {
                    log::error("session.panicked", &[("session", &id)]);
                    all.bury(&id);
                }
            });
            Handle { events, view, task }
        });
        let _ = handle.events.try_send(event);
    }

    fn post(&self, session: &SessionId, event: Event) {
        if let Some(handle) = self.actors().get(session) {
            let _ = handle.events.try_send(event);
        }
    }

    /// Lets an actor go that has nothing to do, unless an event came meanwhile.
    fn retire(&self, actor: &Actor) -> bool {
        let mut actors = self.actors();
        if self.inner.closed.load(Ordering::SeqCst) {
            return true;
        }
        if !actor.events.is_empty() {
            return false;
        }
        // Dropping a task cancels it, and this one is about to end by itself.
        if let Some(handle) = actors.remove(&actor.id) {
            handle.task.detach();
        }
        drop(actors);
        self.context().states.tell(&actor.id);
        true
    }

    /// Forgets an actor that did not end in order; the next wake makes a new one.
    fn bury(&self, session: &SessionId) {
        if let Some(handle) = self.actors().remove(session) {
            handle.task.detach();
        }
        self.context().states.tell(session);
        self.leave_place(session);
    }

    fn pass_on(&self, words: capacity::Words) {
        if let Some(next) = words.next {
            self.post(&next, Event::Place);
        }
        for session in words.leave {
            self.post(&session, Event::Evict);
        }
    }

    fn take_place(&self, session: &SessionId) -> bool {
        let (given, words) = self.context().capacity.ask(session);
        self.pass_on(words);
        given
    }

    fn leave_place(&self, session: &SessionId) {
        self.pass_on(self.context().capacity.leave(session));
        if self.context().capacity.is_empty() {
            // What was needed while many ran; the next message waits for a start anyway.
            tasks::unblock(memory::rest).detach();
        }
    }

    /// A free place was offered to a session that does not need one now.
    fn pass_place_on(&self, session: &SessionId) {
        if !self.context().capacity.holds(session) {
            self.leave_place(session);
        }
    }

    /// Says what a sandbox does now; somebody may be asked to leave for it, this one included.
    fn occupation(&self, session: &SessionId, idle_since: Option<Instant>) {
        let occupation = idle_since.map_or(Occupation::Busy, Occupation::Idle);
        if occupation == Occupation::Busy {
            self.turn_runs();
        }
        self.pass_on(self.context().capacity.say(session, occupation));
    }

    /// The group's other sandboxes stop too: they share the files.
    fn over_quota(&self, group: &GroupName, but: &SessionId) {
        for (session, handle) in self.actors().iter() {
            let same =
                handle.view.lock().unwrap_or_else(PoisonError::into_inner).group.as_ref() == Some(group);
            if same && session != but {
                let _ = handle.events.try_send(Event::OverQuota);
            }
        }
    }

    fn turn_runs(&self) {
        let _ = self.inner.turns.0.try_send(());
    }

    /// Looks at the free space each second while any sandbox is busy, and not at all otherwise.
    async fn watch_space(&self) {
        while self.inner.turns.1.recv().await.is_ok() {
            while self.context().capacity.busy() > 0 {
                let space = self.context().space.clone();
                if tasks::unblock(move || space.room()).await == Room::Critical {
                    log::error("disk.critical", &[]);
                    for handle in self.actors().values() {
                        let _ = handle.events.try_send(Event::LowDisk);
                    }
                }
                Timer::after(limits::SPACE_EVERY).await;
            }
            // What the turns needed for a moment, and nobody needs now.
            tasks::unblock(memory::trim_heaps).await;
        }
    }
}
