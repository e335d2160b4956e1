//! What the writer thread promises.

use std::sync::mpsc;

use super::World;
use crate::controlplane::store::{Durability, Step, StoreError, meta};
use crate::controlplane::tasks;

/// Keeps the writer inside a job until told, so that what is submitted meanwhile becomes one batch.
fn hold(world: &World) -> mpsc::Sender<()> {
    let (release, held) = mpsc::channel();
    let (entered, inside) = mpsc::channel();
    let ledger = world.ledger.clone();
    std::thread::spawn(move || {
        ledger.write_blocking(Step::Other, move |_| {
            entered.send(()).unwrap();
            let _ = held.recv();
            Ok(())
        })
    });
    inside.recv().unwrap();
    release
}

type Work = Box<dyn FnOnce(&rusqlite::Transaction<'_>) -> Result<u32, StoreError> + Send>;

/// Submits jobs while the writer is held, so that they share one transaction, and gives their answers.
fn batch(world: &World, jobs: Vec<Work>) -> Vec<Result<u32, StoreError>> {
    let release = hold(world);
    let executor = smol::LocalExecutor::new();
    let tasks: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            let ledger = world.ledger.clone();
            executor.spawn(async move { ledger.write_step(Step::Accept, job).await })
        })
        .collect();
    while executor.try_tick() {}
    release.send(()).unwrap();
    tasks::block_on(executor.run(async {
        let mut answers = Vec::new();
        for task in tasks {
            answers.push(task.await);
        }
        answers
    }))
}

fn value(world: &World, name: &'static str) -> Option<String> {
    world.read(move |conn| meta::get(conn, name))
}

#[test]
fn a_jobs_error_or_panic_undoes_only_itself() {
    let world = World::new();
    let answers = batch(
        &world,
        vec![
            Box::new(|tx| meta::set(tx, "first", "1").map(|()| 1)),
            Box::new(|tx| {
                meta::set(tx, "second", "2")?;
                Err(StoreError::Conflict("no"))
            }),
            Box::new(|tx| {
                meta::set(tx, "third", "3")?;
                panic!("a job that breaks")
            }),
            Box::new(|tx| {
                assert_eq!(meta::get(tx, "first")?.as_deref(), Some("1"), "one transaction");
                meta::set(tx, "fourth", "4").map(|()| 4)
            }),
        ],
    );
    assert_eq!(answers, [Ok(1), Err(StoreError::Conflict("no")), Err(StoreError::Panicked), Ok(4)]);
    let kept = ["first", "second", "third", "fourth"].map(|name| value(&world, name).is_some());
    assert_eq!(kept, [true, false, false, true]);
}

#[test]
fn a_full_disk_fails_the_batch_and_the_writer_goes_on() {
    let world = World::new();
    let pages: i64 = world.write(|tx| Ok(tx.query_row("PRAGMA page_count", [], |row| row.get(0))?));
    world.write(move |tx| {
        Ok(tx.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get::<_, i64>(0))?)
    });
    let answers = batch(
        &world,
        vec![
            Box::new(|tx| meta::set(tx, "small", "1").map(|()| 1)),
            Box::new(|tx| meta::set(tx, "large", &"x".repeat(1 << 20)).map(|()| 2)),
            Box::new(|tx| meta::set(tx, "later", "3").map(|()| 3)),
        ],
    );
    assert_eq!(answers, [Err(StoreError::Full), Err(StoreError::Full), Err(StoreError::Full)]);
    assert_eq!(["small", "large", "later"].map(|name| value(&world, name)), [None, None, None]);
    world.write(|tx| Ok(tx.query_row("PRAGMA max_page_count = 1000000", [], |row| row.get::<_, i64>(0))?));
    world.write(|tx| meta::set(tx, "large", &"x".repeat(1 << 20)));
    assert_eq!(value(&world, "large").map(|text| text.len()), Some(1 << 20));
}

#[test]
fn a_failing_disk_fails_the_batch_even_where_sqlite_undoes_nothing() {
    let world = World::new();
    let failed = || StoreError::Io("made up by the test".to_owned());
    let answers = batch(
        &world,
        vec![
            Box::new(|tx| meta::set(tx, "before", "1").map(|()| 1)),
            Box::new(move |tx| {
                meta::set(tx, "half", "2")?;
                assert!(!tx.is_autocommit());
                Err(failed())
            }),
            Box::new(|tx| meta::set(tx, "after", "3").map(|()| 3)),
        ],
    );
    assert_eq!(answers, [Err(failed()), Err(failed()), Err(failed())]);
    assert_eq!(["before", "half", "after"].map(|name| value(&world, name)), [None, None, None]);
    world.write(|tx| meta::set(tx, "before", "1"));
    assert_eq!(value(&world, "before").as_deref(), Some("1"));
}

#[test]
fn a_job_that_ends_the_transaction_is_answered_with_an_error() {
    let world = World::new();
    let answers = batch(
        &world,
        vec![
            Box::new(|tx| meta::set(tx, "before", "1").map(|()| 1)),
            Box::new(|tx| Ok(tx.execute_batch("ROLLBACK").map(|()| 2)?)),
            Box::new(|tx| meta::set(tx, "after", "3").map(|()| 3)),
        ],
    );
    assert!(answers.iter().all(|answer| matches!(answer, Err(StoreError::Sqlite(_)))), "{answers:?}");
    assert_eq!(["before", "after"].map(|name| value(&world, name)), [None, None]);
    world.write(|tx| meta::set(tx, "before", "1"));
}

#[test]
fn what_was_submitted_is_stored_though_nobody_waits() {
    let world = World::new();
    let release = hold(&world);
    let executor = smol::LocalExecutor::new();
    let ledger = world.ledger.clone();
    let task = executor.spawn(async move { ledger.write(|tx| meta::set(tx, "given up", "1")).await });
    while executor.try_tick() {}
    drop(task);
    release.send(()).unwrap();
    world.write(|_| Ok(()));
    assert_eq!(value(&world, "given up").as_deref(), Some("1"));
}

#[test]
fn stopping_stores_what_came_before_and_refuses_what_comes_after() {
    let world = World::new();
    let release = hold(&world);
    let executor = smol::LocalExecutor::new();
    let ledger = world.ledger.clone();
    let before = executor.spawn(async move { ledger.write(|tx| meta::set(tx, "before", "1")).await });
    while executor.try_tick() {}
    let stopping = std::thread::spawn({
        let ledger = world.ledger.clone();
        move || ledger.stop()
    });
    release.send(()).unwrap();
    stopping.join().unwrap();
    assert_eq!(tasks::block_on(executor.run(before)), Ok(()));
    assert_eq!(world.ledger.write_blocking(Step::Other, |_| Ok(())), Err(StoreError::Stopped));
    assert_eq!(tasks::block_on(world.ledger.checkpoint()), Err(StoreError::Stopped));
    world.ledger.stop();
    assert_eq!(value(&world, "before").as_deref(), Some("1"));
    assert_eq!(std::fs::metadata(world.state.join("control.db-wal")).map_or(0, |meta| meta.len()), 0);
}

#[test]
fn a_reader_that_panics_or_fails_gives_its_connection_back() {
    let world = World::new();
    for _ in 0..10 {
        let broken: Result<(), _> = world.ledger.read_blocking(|_| panic!("a reader that breaks"));
        assert_eq!(broken, Err(StoreError::Panicked));
        let broken: Result<(), _> = tasks::block_on(world.ledger.read(|_| Err(StoreError::Stopped)));
        assert_eq!(broken, Err(StoreError::Stopped));
    }
    let refused = world.ledger.read_blocking(|conn| Ok(conn.execute("DELETE FROM meta", [])?));
    assert!(matches!(refused, Err(StoreError::Io(_) | StoreError::Sqlite(_))), "readers cannot write");
    assert_eq!(value(&world, "anything"), None);
}

/// SQLite syncs a commit only at FULL; what a commit was made with is asked inside it.
#[test]
fn a_commit_is_synced_if_anyone_in_it_needs_that() {
    let world = World::new();
    let level = |tx: &rusqlite::Transaction<'_>| {
        Ok(tx.query_row("PRAGMA synchronous", [], |row| row.get::<_, u32>(0))?)
    };
    let (normal, full) = (1, 2);
    let ledger = &world.ledger;
    let write = |durability| tasks::block_on(ledger.write_with(Step::Other, durability, level)).unwrap();
    assert_eq!(write(Durability::Ordered), normal);
    assert_eq!(write(Durability::Synced), full);
    assert_eq!(write(Durability::Ordered), normal);
    assert_eq!(tasks::block_on(ledger.write(level)).unwrap(), full);
    let release = hold(&world);
    let executor = smol::LocalExecutor::new();
    let tasks = [Durability::Ordered, Durability::Synced, Durability::Ordered]
        .map(|durability| executor.spawn(ledger.write_with(Step::Other, durability, level)));
    while executor.try_tick() {}
    release.send(()).unwrap();
    for task in tasks {
        assert_eq!(tasks::block_on(executor.run(task)).unwrap(), full);
    }
}
