//! The one timer. It sleeps until the earliest instant at which anything in the ledger is due, and no shorter: whoever
//! makes something due earlier rings the ledger's alarm, and whoever sets the clock wakes it too. What is due is done by
//! its source, side by side with the others; a source that fails is tried again later and later, and keeps none of the
//! others waiting. Touches the clock, and the ledger through its sources.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use smol::future::FutureExt;
use smol::{Async, Timer};

use crate::contract::time::Millis;
use crate::controlplane::store::{Ledger, StoreError};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::os::clock::WallClock;

/// Wait after the first failure of a source; doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// Longest wait of a source that fails.
const PAUSE_MOST: Duration = Duration::from_secs(300);

/// What is done when something is due.
type Work = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// Where the ledger has the next instant.
type Look = Arc<dyn Fn(&Connection) -> Result<Option<Millis>, StoreError> + Send + Sync>;

/// One kind of thing that comes due.
pub struct Source {
    name: &'static str,
    next: Look,
    run: Box<dyn Fn() -> Work + Send + Sync>,
}

impl Source {
    /// `next` gives the earliest due instant that the ledger has, by an index: it is asked whenever the timer wakes.
    /// `run` does everything that is due when it is called, so that `next` gives a later instant afterwards.
    pub fn new<F>(
        name: &'static str,
        next: impl Fn(&Connection) -> Result<Option<Millis>, StoreError> + Send + Sync + 'static,
        run: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<(), StoreError>> + Send + 'static,
    {
        Self { name, next: Arc::new(next), run: Box::new(move || Box::pin(run())) }
    }
}

/// The clocks that the timer goes by.
pub trait Clock: Send + Sync + 'static {
    /// What the clock on the wall shows; somebody may set it.
    fn now(&self) -> Millis;

    /// How long this clock has run; nobody can set that.
    fn elapsed(&self) -> Duration;

    /// Ends when the clock on the wall shows an instant or somebody set it, or never; or when so much time passed.
    fn wait(&self, until: Option<Millis>, pause: Option<Duration>) -> impl Future<Output = ()> + Send;
}

/// The machine's clocks.
#[derive(Debug)]
pub struct SystemClock {
    wall: Async<WallClock>,
    begun: Instant,
}

impl SystemClock {
    /// Puts it together.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        Ok(Self { wall: Async::new(WallClock::new()?)?, begun: Instant::now() })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Millis {
        Millis::now()
    }

    fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn wait(&self, until: Option<Millis>, pause: Option<Duration>) {
        let paused = async {
            match pause {
                Some(pause) => drop(Timer::after(pause).await),
                None => smol::future::pending().await,
            }
        };
        let Some(until) = until else { return paused.await };
        self.wall.get_ref().take();
        if let Err(error) = self.wall.get_ref().set(until.0) {
            log::error("timer.not_set", &[("error", &error)]);
            // Then it looks again by itself; the slow pass does no better.
            Timer::after(PAUSE_MOST).await;
            return;
        }
        let shown = async {
            if let Err(error) = self.wall.readable().await {
                log::error("timer.not_heard", &[("error", &error)]);
                Timer::after(PAUSE_MOST).await;
            }
        };
        shown.or(paused).await;
    }
}

/// How a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It waits for its next instant.
    Waiting,
    /// It does what was due at this one.
    Running(Millis),
    /// It failed, and is left alone until the clock has run so long.
    Paused(Duration),
}

/// What the timer knows of a source beside what the ledger says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watched {
    state: State,
    /// Failures in a row.
    failures: u32,
    /// The instant that was due when it last ran well.
    done: Option<Millis>,
}

/// What follows from a look at a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It runs now.
    Run,
    /// Nothing before the clock on the wall shows this.
    At(Millis),
    /// Nothing before the clock has run so long.
    After(Duration),
    /// Nothing.
    Never,
}

impl Watched {
    const NEW: Self = Self { state: State::Waiting, failures: 0, done: None };

    /// The ledger says that this is its next instant, or does not read.
    fn look(&mut self, found: Result<Option<Millis>, ()>, now: Millis, elapsed: Duration) -> Next {
        match self.state {
            State::Running(_) => return Next::Never,
            State::Paused(until) if elapsed < until => return Next::After(until),
            State::Paused(_) => {
                // It may go on where it stood.
                (self.state, self.done) = (State::Waiting, None);
            }
            State::Waiting => {}
        }
        match found {
            Err(()) => self.fail(elapsed),
            Ok(Some(due)) if due > now => {
                (self.failures, self.done) = (0, None);
                Next::At(due)
            }
            // It ran well and changed nothing: without a pause it would do so again and again.
            Ok(Some(due)) if self.done == Some(due) => self.fail(elapsed),
            Ok(Some(due)) => {
                if self.done.is_some() {
                    self.failures = 0;
                }
                self.state = State::Running(due);
                Next::Run
            }
            Ok(None) => {
                (self.failures, self.done) = (0, None);
                Next::Never
            }
        }
    }

    /// Its run ended.
    fn ended(&mut self, well: bool, elapsed: Duration) {
        let State::Running(due) = self.state else { return };
        if well {
            (self.state, self.done) = (State::Waiting, Some(due));
        } else {
            self.fail(elapsed);
        }
    }

    fn fail(&mut self, elapsed: Duration) -> Next {
        let doubled = 1u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let until = elapsed + PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_MOST);
        self.failures = self.failures.saturating_add(1);
        self.state = State::Paused(until);
        Next::After(until)
    }
}

/// Waits and does what is due, for ever.
pub async fn run<C: Clock>(ledger: Ledger, sources: Vec<Source>, clock: C) {
    let (bell, alarm) = (ledger.alarm().watch(), ledger.alarm().clone());
    let (ends, ended) = smol::channel::unbounded();
    let mut watched = vec![Watched::NEW; sources.len()];
    loop {
        alarm.look();
        while let Ok((at, well)) = ended.try_recv() {
            if let Some(one) = watched.get_mut::<usize>(at) {
                one.ended(well, clock.elapsed());
            }
        }
        let asked: Vec<_> = sources.iter().map(|source| Arc::clone(&source.next)).collect();
        let found = ledger.read(move |conn| Ok(asked.into_iter().map(|next| next(conn)).collect::<Vec<_>>()));
        let found = match found.await {
            Ok(found) => found,
            Err(StoreError::Stopped) => return,
            Err(error) => sources.iter().map(|_| Err(error.clone())).collect(),
        };
        let (now, elapsed) = (clock.now(), clock.elapsed());
        let (mut wall, mut pause): (Option<Millis>, Option<Duration>) = (None, None);
        for (at, ((source, one), found)) in sources.iter().zip(&mut watched).zip(found).enumerate() {
            let found = found.map_err(|error| {
                log::warn("timer.not_read", &[("source", &source.name), ("error", &error)]);
            });
            match one.look(found, now, elapsed) {
                Next::Run => {
                    let (work, name, ends) = ((source.run)(), source.name, ends.clone());
                    tasks::spawn(async move {
                        let well = match tasks::unbroken(work).await {
                            Some(Ok(())) => true,
                            Some(Err(error)) => {
                                log::warn("timer.failed", &[("source", &name), ("error", &error)]);
                                false
                            }
                            None => {
                                log::error("timer.panicked", &[("source", &name)]);
                                false
                            }
                        };
                        let _ = ends.try_send((at, well));
                    })
                    .detach();
                }
                Next::At(due) => wall = Some(wall.map_or(due, |wall| wall.min(due))),
                Next::After(until) => {
                    let left = until.saturating_sub(elapsed);
                    pause = Some(pause.map_or(left, |pause| pause.min(left)));
                }
                Next::Never => {}
            }
        }
        alarm.wait_for(wall);
        let rung = async {
            let _ = bell.recv().await;
            None
        };
        let over = async { ended.recv().await.ok() };
        let shown = async {
            clock.wait(wall, pause).await;
            None
        };
        if let Some((at, well)) = rung.or(over).or(shown).await
            && let Some(one) = watched.get_mut::<usize>(at)
        {
            one.ended(well, clock.elapsed());
        }
    }
}

#[cfg(test)]
mod tests;
