//! What an act is told, and when.

use std::fs;
use std::net::IpAddr;
use std::sync::mpsc;

use super::{World, act, add, by, stop, walk};
use crate::controlplane::audit::ActError;
use crate::controlplane::audit::exporter::{Note, Order};
use crate::controlplane::store::audit;
use crate::controlplane::store::{Durability, Step, StoreError, meta};
use crate::controlplane::tasks;

#[test]
fn an_act_is_in_the_file_when_it_is_answered() {
    use std::os::unix::fs::PermissionsExt;
    let world = World::new();
    let audit = world.start();
    assert!(world.names().is_empty(), "there is no file before there is a record");
    for seq in 1..=5 {
        assert_eq!(act(&audit, "thing"), Ok(seq));
        assert_eq!(world.text(), world.rows());
        assert_eq!(walk(&world.text()), seq);
    }
    assert_eq!(fs::metadata(world.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let three = audit.act(Step::Other, |tx| {
        add(tx, "a")?;
        add(tx, "b")?;
        add(tx, "c")
    });
    assert_eq!(tasks::block_on(three), Ok(8));
    // More than are carried along.
    let many = audit.act(Step::Other, |tx| (0..200).try_fold(0, |_, _| add(tx, "many")));
    assert_eq!(tasks::block_on(many), Ok(208));
    assert_eq!(world.text(), world.rows());
    stop(audit);
}

#[test]
fn an_act_that_fails_or_adds_nothing_leaves_the_chain_alone() {
    let world = World::new();
    let audit = world.start();
    assert_eq!(tasks::block_on(audit.act(Step::Other, |_| Ok("nothing"))), Ok("nothing"));
    let failed: Result<(), _> = tasks::block_on(audit.act(Step::Other, |tx| {
        add(tx, "undone")?;
        Err(StoreError::Conflict("no"))
    }));
    assert_eq!(failed, Err(ActError::Store(StoreError::Conflict("no"))));
    let long = "x".repeat(300 << 10);
    assert!(matches!(act(&audit, &long), Err(ActError::Store(StoreError::TooLong { .. }))));
    assert!(world.names().is_empty());
    assert_eq!(act(&audit, "first"), Ok(1));
    stop(audit);
}

#[test]
fn acts_of_eight_at_once_come_in_order_and_all() {
    let world = World::new();
    let audit = world.start();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let (audit, world) = (&audit, &world);
            scope.spawn(move || {
                for at in 0..50 {
                    let object = format!("of {worker}, number {at}.");
                    act(audit, &object).unwrap();
                    assert!(world.text().contains(&object), "it was answered before it was there");
                }
            });
        }
    });
    assert_eq!(walk(&world.text()), 400);
    assert_eq!(world.text(), world.rows());
    stop(audit);
}

#[test]
fn notes_may_come_out_of_order_or_not_at_all() {
    let world = World::new();
    let audit = world.start();
    world.commit(5);
    let links = world.ledger.read_blocking(|conn| audit::after(conn, 0, 10)).unwrap();
    let note = |seqs: &[usize]| {
        let (reply, answer) = smol::channel::bounded(1);
        let links: Vec<_> = seqs.iter().map(|seq| links[seq - 1].clone()).collect();
        let last = links.last().unwrap().seq;
        audit.orders.send(Order::Export(Note { last, links, reply })).unwrap();
        answer
    };
    // The third is there first; what comes before it is read from the ledger.
    let third = note(&[3]);
    assert_eq!(third.recv_blocking(), Ok(Ok(())));
    assert!(walk(&world.text()) >= 3);
    let late = [note(&[2]), note(&[1]), note(&[5])];
    for answer in late {
        assert_eq!(answer.recv_blocking(), Ok(Ok(())));
    }
    assert_eq!(world.text(), world.rows());
    stop(audit);
}

#[test]
fn what_nobody_waits_for_comes_by_itself() {
    let world = World::new();
    let audit = world.start();
    tasks::block_on(async {
        let rung = audit.watch();
        audit.note(|tx| add(tx, "outcome").map(drop)).await.unwrap();
        rung.recv().await.unwrap();
        audit.settled().await;
    });
    assert_eq!(world.text(), world.rows());
    assert_eq!(walk(&world.text()), 1);
    stop(audit);
}

#[test]
fn an_act_whose_asker_went_is_exported_all_the_same() {
    let world = World::new();
    let audit = world.start();
    let (release, held) = mpsc::channel::<()>();
    let executor = smol::LocalExecutor::new();
    let asked = audit.clone();
    let task = executor.spawn(async move {
        let work = move |tx: &rusqlite::Transaction<'_>| {
            let _ = held.recv();
            add(tx, "given up")
        };
        asked.act(Step::Other, work).await
    });
    while executor.try_tick() {}
    drop(task);
    let rung = audit.watch();
    release.send(()).unwrap();
    rung.recv_blocking().unwrap();
    tasks::block_on(audit.settled());
    assert!(world.text().contains("given up"));
    assert_eq!(world.text(), world.rows());
    stop(audit);
}

/// The ledger's files stay open; a new file can be opened nowhere.
#[test]
fn while_the_files_fail_nothing_is_done_and_later_everything_is_there() {
    let world = World::new();
    let audit = world.start();
    act(&audit, "before").unwrap();
    let away = world.scratch.join("away");
    fs::rename(world.path(), &away).unwrap();
    let Err(ActError::Unexported { done, reason }) = act(&audit, "committed") else {
        panic!("it was answered as exported")
    };
    assert_eq!(done, 2);
    assert!(!reason.is_empty());
    let refused = tasks::block_on(audit.act(Step::Other, |tx| {
        meta::set(tx, "written", "yes")?;
        add(tx, "refused")
    }));
    assert!(matches!(refused, Err(ActError::Unavailable(_))), "{refused:?}");
    let written = world.ledger.read_blocking(|conn| meta::get(conn, "written")).unwrap();
    assert_eq!(written, None, "something was written before it was refused");
    assert_eq!(walk(&world.rows()), 2);

    fs::rename(&away, world.path()).unwrap();
    // It tries again by itself.
    tasks::block_on(audit.settled());
    assert_eq!(act(&audit, "after"), Ok(3));
    assert_eq!(world.text(), world.rows());
    assert_eq!(*world.told.lock().unwrap(), None, "nothing disagreed");
    stop(audit);
    assert!(matches!(tasks::block_on(world_stopped(&world)), Ok(())));
}

/// What was recorded long ago is recorded, also while a daemon has never come to its files, and when they are gone.
#[test]
fn what_was_recorded_stays_recorded() {
    let world = World::new();
    let audit = world.start();
    act(&audit, "first").unwrap();
    act(&audit, "second").unwrap();
    audit.shared.set_exported(1);
    assert_eq!(audit.exported(), 2, "files were taken away");
    audit.shared.set_exported(2);
    stop(audit);
    let away = world.scratch.join("away");
    fs::rename(world.path(), &away).unwrap();
    for _ in 0..2 {
        let audit = world.start();
        assert!(audit.unavailable().is_some());
        assert_eq!(audit.exported(), 2);
        let commit = audit.commit(Step::Other, Durability::Synced, |tx| add(tx, "third"));
        let (last, exporting) = tasks::block_on(commit).unwrap();
        assert!(tasks::block_on(exporting.end()).is_err());
        assert!(last > 2 && audit.exported() == 2, "what is not in the files is not recorded");
        stop(audit);
    }
    let audit = world.start();
    let recovered = audit.watch_recovered();
    fs::rename(&away, world.path()).unwrap();
    recovered.recv_blocking().unwrap();
    assert_eq!(audit.exported(), 4, "who is told finds all of it there");
    assert!(recovered.try_recv().is_err());
    stop(audit);
}

/// After its end acts are refused.
async fn world_stopped(world: &World) -> Result<(), String> {
    let audit = world.start();
    audit.stop().await;
    match audit.act(Step::Other, |tx| add(tx, "late")).await {
        Err(ActError::Unavailable(_)) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

#[test]
fn failed_logins_are_one_record_for_each_source() {
    let world = World::new();
    let audit = world.start();
    let source = |last: u8| IpAddr::from([127, 0, 0, last]);
    for _ in 0..5 {
        audit.login_failed(source(1));
    }
    audit.login_failed("::ffff:127.0.0.1".parse().unwrap());
    for last in 2..=200 {
        audit.login_failed(source(last));
    }
    tasks::block_on(async {
        audit.flush_logins().await;
        audit.flush_logins().await;
        audit.settled().await;
    });
    let text = world.text();
    assert_eq!(walk(&text), 33, "32 sources and the others");
    let of = |object: &str| {
        let line = text.lines().find(|line| line.contains(&format!("\"object\":\"{object}\""))).unwrap();
        let value = crate::contract::json::parse(line.as_bytes()).unwrap();
        assert_eq!(value.get("act").and_then(|act| act.as_str()), Some("login.failed"));
        value.get("detail").and_then(|detail| detail.get("count")).and_then(|count| count.as_u64()).unwrap()
    };
    assert_eq!((of("127.0.0.1"), of("127.0.0.2"), of("others")), (6, 1, 168));
    stop(audit);
}

#[test]
fn an_acknowledgement_is_an_act() {
    let world = World::new();
    let audit = world.start();
    assert_eq!(tasks::block_on(audit.acknowledge(by(), |_| Ok(true))), Ok(None));
    act(&audit, "thing").unwrap();
    stop(audit);
    fs::write(world.file(), "{}\n").unwrap();
    let audit = world.start();
    let told = world.told.lock().unwrap().clone().unwrap();
    assert_eq!(tasks::block_on(audit.acknowledge(by(), |_| Ok(true))), Ok(Some(told)));
    assert_eq!(*world.told.lock().unwrap(), None);
    assert!(world.text().lines().last().unwrap().contains("audit.acknowledged"));
    assert_eq!(tasks::block_on(audit.acknowledge(by(), |_| Ok(true))), Ok(None));
    stop(audit);
    let audit = world.start();
    assert_eq!(*world.told.lock().unwrap(), None, "it stays acknowledged");
    stop(audit);
}
