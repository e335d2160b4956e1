//! The timer over a ledger, with a clock that the test turns by hand.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use smol::Task;
use smol::channel::{Receiver, Sender};

use super::*;
use crate::controlplane::bell::Bell;
use crate::controlplane::store::tests::World;
use crate::controlplane::store::{Step, meta};

/// A clock that stands still until it is turned, and counts who waits for it.
#[derive(Clone)]
struct Hand(Arc<Face>);

/// The instant on the wall, and the pause.
type Wait = (Option<i64>, Option<Duration>);

struct Face {
    shown: Mutex<(Millis, Duration)>,
    turned: Bell,
    /// Says what the timer waits for, whenever it begins to wait.
    waits: (Sender<Wait>, Receiver<Wait>),
}

impl Hand {
    fn new() -> Self {
        Self(Arc::new(Face {
            shown: Mutex::new((Millis(0), Duration::ZERO)),
            turned: Bell::default(),
            waits: smol::channel::unbounded(),
        }))
    }

    /// Sets the clock on the wall; the other one does not mind.
    fn set(&self, now: i64) {
        self.0.shown.lock().unwrap().0 = Millis(now);
        self.0.turned.ring();
    }

    /// Time passes on both.
    fn pass(&self, millis: u64) {
        let mut shown = self.0.shown.lock().unwrap();
        shown.0.0 += i64::try_from(millis).unwrap();
        shown.1 += Duration::from_millis(millis);
        drop(shown);
        self.0.turned.ring();
    }

    /// What the timer waits for next.
    fn waits(&self) -> Wait {
        self.0.waits.1.recv_blocking().unwrap()
    }

    /// Waits until it waits for this.
    #[track_caller]
    fn waits_for(&self, wall: Option<i64>) {
        while self.waits() != (wall, None) {}
    }
}

impl Clock for Hand {
    fn now(&self) -> Millis {
        self.0.shown.lock().unwrap().0
    }

    fn elapsed(&self) -> Duration {
        self.0.shown.lock().unwrap().1
    }

    async fn wait(&self, until: Option<Millis>, pause: Option<Duration>) {
        let turned = self.0.turned.watch();
        let over = pause.map(|pause| self.elapsed() + pause);
        let set_from = self.now();
        let _ = self.0.waits.0.try_send((until.map(|until| until.0), pause));
        loop {
            let (now, elapsed) = *self.0.shown.lock().unwrap();
            // As the real one: it is noticed that the clock went back, and that it shows the instant.
            let is_set = until.is_some() && now < set_from;
            if is_set || until.is_some_and(|until| now >= until) || over.is_some_and(|over| elapsed >= over) {
                return;
            }
            turned.recv().await.unwrap();
        }
    }
}

/// A due instant is a row of the ledger; a run says at which instant it was made, and does what it is told.
#[derive(Clone)]
struct Thing {
    ledger: Ledger,
    clock: Hand,
    name: &'static str,
    orders: Arc<Mutex<VecDeque<Order>>>,
    ran: (Sender<i64>, Receiver<i64>),
}

enum Order {
    Fail,
    Panic,
    DoNothing,
    Hang(Receiver<()>),
}

fn due(conn: &Connection, name: &'static str) -> Result<Option<Millis>, StoreError> {
    let found = meta::get(conn, name)?;
    match found.as_deref() {
        None | Some("") => Ok(None),
        Some("bad") => Err(StoreError::BadRow("an instant")),
        Some(text) => Ok(text.parse().ok().map(Millis)),
    }
}

fn one(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    due(conn, "one")
}

fn other(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    due(conn, "other")
}

impl Thing {
    fn is_due(&self, at: &str) {
        let (name, at) = (self.name, at.to_owned());
        self.ledger.write_blocking(Step::Other, move |tx| meta::set(tx, name, &at)).unwrap();
    }

    fn then(&self, order: Order) {
        self.orders.lock().unwrap().push_back(order);
    }

    async fn run(self) -> Result<(), StoreError> {
        let (name, at) = (self.name, self.clock.now().0);
        let order = self.orders.lock().unwrap().pop_front();
        // What is done is said when it is done, so that nothing that is due then is taken for it.
        if order.is_some() {
            let _ = self.ran.0.try_send(at);
        }
        match order {
            Some(Order::Fail) => return Err(StoreError::Conflict("told to fail")),
            Some(Order::Panic) => panic!("told to panic"),
            Some(Order::DoNothing) => return Ok(()),
            Some(Order::Hang(gate)) => {
                let _ = gate.recv().await;
                return self.ledger.write(move |tx| meta::set(tx, name, "")).await;
            }
            None => {}
        }
        self.ledger.write(move |tx| meta::set(tx, name, "")).await?;
        let _ = self.ran.0.try_send(at);
        Ok(())
    }

    fn ran(&self) -> i64 {
        self.ran.1.recv_blocking().unwrap()
    }

    fn rests(&self) -> bool {
        self.ran.1.is_empty()
    }
}

struct Room {
    world: World,
    clock: Hand,
    one: Thing,
    other: Thing,
    _timer: Task<()>,
}

fn room() -> Room {
    let (world, clock) = (World::new(), Hand::new());
    let thing = |name| Thing {
        ledger: world.ledger.clone(),
        clock: clock.clone(),
        name,
        orders: Arc::default(),
        ran: smol::channel::unbounded(),
    };
    let (first, second) = (thing("one"), thing("other"));
    let source = |thing: &Thing, next: fn(&Connection) -> Result<Option<Millis>, StoreError>| {
        let thing = thing.clone();
        Source::new(thing.name, next, move || thing.clone().run())
    };
    let sources = vec![source(&first, one), source(&second, other)];
    let timer = tasks::spawn(run(world.ledger.clone(), sources, clock.clone()));
    clock.waits_for(None);
    Room { world, clock, one: first, other: second, _timer: timer }
}

#[test]
fn it_sleeps_until_the_earliest_instant_and_is_told_of_an_earlier_one() {
    let Room { world, clock, one, other, _timer } = room();
    one.is_due("1000");
    world.ledger.alarm().at(Millis(1000));
    clock.waits_for(Some(1000));
    other.is_due("500");
    world.ledger.alarm().at(Millis(500));
    clock.waits_for(Some(500));
    clock.pass(499);
    assert!(one.rests() && other.rests());
    clock.pass(1);
    assert_eq!(other.ran(), 500);
    clock.waits_for(Some(1000));
    clock.pass(600);
    assert_eq!(one.ran(), 1100);
    clock.waits_for(None);
    assert!(one.rests() && other.rests(), "each once");
    // Nobody rings for nothing: what is later than all it waits for does not wake it.
    one.is_due("2000");
    world.ledger.alarm().at(Millis(2000));
    clock.waits_for(Some(2000));
    world.ledger.alarm().at(Millis(2001));
    assert!(clock.0.waits.1.is_empty());
}

#[test]
fn a_clock_that_is_set_is_believed() {
    let Room { world, clock, one, other: _, _timer } = room();
    one.is_due("1000");
    world.ledger.alarm().ring();
    clock.waits_for(Some(1000));
    clock.set(5000);
    assert_eq!(one.ran(), 5000, "set forth, or asleep meanwhile");
    clock.waits_for(None);
    one.is_due("6000");
    world.ledger.alarm().ring();
    clock.waits_for(Some(6000));
    clock.set(10);
    clock.waits_for(Some(6000));
    clock.pass(5989);
    assert!(one.rests());
    clock.pass(1);
    assert_eq!(one.ran(), 6000, "set back: when the clock shows it again");
}

#[test]
fn a_source_that_fails_is_tried_later_and_later_and_keeps_no_other_waiting() {
    let Room { world, clock, one, other, _timer } = room();
    [Order::Fail, Order::Panic, Order::Fail].into_iter().for_each(|order| one.then(order));
    one.is_due("100");
    world.ledger.alarm().ring();
    clock.waits_for(Some(100));
    clock.pass(100);
    let mut at = 100;
    for pause in [1000, 2000, 4000] {
        assert_eq!(one.ran(), at);
        while clock.waits() != (None, Some(Duration::from_millis(pause))) {}
        other.is_due(&at.to_string());
        world.ledger.alarm().ring();
        assert_eq!(other.ran(), at, "the other is done meanwhile");
        clock.pass(pause);
        at += i64::try_from(pause).unwrap();
    }
    assert_eq!(one.ran(), at);
    clock.waits_for(None);
    // The next failure is a first one.
    one.then(Order::Fail);
    one.is_due("1");
    world.ledger.alarm().ring();
    assert_eq!(one.ran(), at);
    while clock.waits() != (None, Some(PAUSE_FIRST)) {}
}

#[test]
fn a_source_that_changes_nothing_or_does_not_read_is_not_asked_again_and_again() {
    let Room { world, clock, one, other, _timer } = room();
    one.then(Order::DoNothing);
    one.is_due("0");
    world.ledger.alarm().ring();
    assert_eq!(one.ran(), 0);
    while clock.waits() != (None, Some(PAUSE_FIRST)) {}
    assert!(one.rests());
    other.is_due("bad");
    world.ledger.alarm().ring();
    while clock.waits() != (None, Some(PAUSE_FIRST)) {}
    assert!(other.rests());
    clock.pass(1000);
    assert_eq!(one.ran(), 1000);
    other.is_due("1000");
    // It is left alone for a while after its second failure, and then goes on by itself.
    clock.pass(2000);
    assert_eq!(other.ran(), 3000);
    clock.waits_for(None);
}

#[test]
fn a_source_that_takes_long_keeps_no_other_waiting_and_runs_once_at_a_time() {
    let Room { world, clock, one, other, _timer } = room();
    let (open, gate) = smol::channel::bounded(1);
    one.then(Order::Hang(gate));
    one.is_due("0");
    world.ledger.alarm().ring();
    assert_eq!(one.ran(), 0);
    other.is_due("50");
    world.ledger.alarm().ring();
    clock.waits_for(Some(50));
    clock.pass(50);
    assert_eq!(other.ran(), 50);
    assert!(one.rests(), "it runs still");
    open.try_send(()).unwrap();
    clock.waits_for(None);
    assert!(one.rests());
}

#[test]
fn the_machines_clock_ends_the_wait() {
    let (world, clock) = (World::new(), SystemClock::new().unwrap());
    let (said, ran) = smol::channel::unbounded();
    let ledger = world.ledger.clone();
    let source = Source::new("one", one, move || {
        let (said, ledger) = (said.clone(), ledger.clone());
        async move {
            let now = Millis::now();
            // What the test writes next must not be struck out with it.
            let done = ledger.write(|tx| meta::set(tx, "one", "")).await;
            let _ = said.try_send(now);
            done
        }
    });
    let _timer = tasks::spawn(run(world.ledger.clone(), vec![source], clock));
    for wait in [0, 20, 0] {
        let due = Millis(Millis::now().0 + wait);
        world.write(move |tx| meta::set(tx, "one", &due.0.to_string()));
        world.ledger.alarm().at(due);
        assert!(ran.recv_blocking().unwrap() >= due);
    }
}
