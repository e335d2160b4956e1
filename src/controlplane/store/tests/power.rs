//! What a machine without power leaves of the log: all of it up to the last sync, and after that any beginning, or
//! one with a hole. Whatever it is, the ledger opens, and what it holds was so after one of its commits.

use std::fs;

use super::{Scratch, World, claim, keyring};
use crate::controlplane::state::StateDir;
use crate::controlplane::store::inbox::{self, Accepted, Marked};
use crate::controlplane::store::{Durability, Ledger, Step, StoreError, meta};
use crate::controlplane::tasks;

/// Commits; the last of them that is answered only when it is on disk; then those that hand a message over and
/// begin its turn.
const COMMITS: usize = 12;
const SYNCED: usize = 4;
const HANDED_OVER: usize = 7;
const BEGAN: usize = 9;

/// Makes one commit, which counts itself.
fn commit(world: &World, number: usize, accepted: &Accepted) {
    let durability = if number == SYNCED { Durability::Synced } else { Durability::Ordered };
    let accepted = accepted.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        meta::set(tx, "commits", &format!("{number} {}", "x".repeat(3000 * (number % 3))))?;
        if number == HANDED_OVER {
            assert_eq!(
                inbox::hand_over(tx, &accepted.session, std::slice::from_ref(&accepted.message))?,
                [2]
            );
        }
        if number == BEGAN {
            assert_eq!(inbox::begin(tx, &accepted.session, &accepted.message)?, Marked::Changed);
        }
        Ok(())
    };
    tasks::block_on(world.ledger.write_with(Step::Other, durability, work)).unwrap();
}

#[test]
fn a_log_without_its_unsynced_end_is_what_some_commit_left() {
    let world = World::new();
    let accepted = world.accept("main", "event", "hello");
    let (file, log) = (world.state.join("control.db"), world.state.join("control.db-wal"));
    let before = fs::read(&file).unwrap();
    let length = || usize::try_from(fs::metadata(&log).unwrap().len()).unwrap();
    let ends: Vec<usize> = (0..COMMITS)
        .map(|number| {
            commit(&world, number, &accepted);
            length()
        })
        .collect();
    let whole = fs::read(&log).unwrap();
    assert!(fs::read(&file).unwrap() == before && ends.is_sorted(), "the log was moved into the file");

    // A page's size stands in the head of 32 bytes, and before each page one of 24.
    let frame = 24 + u32::from_be_bytes(whole[8..12].try_into().unwrap()) as usize;
    let synced = ends[SYNCED];
    let boundaries: Vec<usize> = (32..=whole.len()).step_by(frame).filter(|at| *at >= synced).collect();
    assert!(boundaries.len() > COMMITS - SYNCED, "{boundaries:?} of {}", whole.len());
    for at in boundaries {
        let torn = (at + frame / 2).min(whole.len());
        for cut in [at, torn] {
            survives(&world.state, &whole[..cut], &ends, cut, &accepted);
        }
        // The disk may also have written a later page before this one.
        let mut hole = whole.clone();
        hole[at..(at + frame).min(whole.len())].fill(0);
        survives(&world.state, &hole, &ends, at, &accepted);
    }
}

/// The ledger opens with this log, of which so much is good, and everything in it is of one moment.
fn survives(from: &StateDir, log: &[u8], ends: &[usize], good: usize, accepted: &Accepted) {
    let scratch = Scratch::new();
    let path = scratch.path().join("state");
    drop(claim(&scratch));
    for name in ["control.db", "keystore", "master.key"] {
        // With the mode, which the program insists on.
        fs::copy(from.join(name), path.join(name)).unwrap();
    }
    fs::write(path.join("control.db-wal"), log).unwrap();
    let state = claim(&scratch);
    let keyring = keyring(&state);
    let ledger = Ledger::open(&state, &keyring).unwrap();

    let last = ends.iter().rposition(|end| *end <= good).unwrap();
    let commits = ledger.read_blocking(|conn| meta::get(conn, "commits")).unwrap().unwrap();
    assert_eq!(commits.split(' ').next(), Some(last.to_string().as_str()), "with {good} bytes of the log");
    let open = ledger
        .read_blocking(|conn| {
            inbox::open_messages(conn, &keyring, &accepted.session, 0, super::room(10, 1 << 20))
        })
        .unwrap();
    let [open] = open.open.as_slice() else { panic!("{open:?}") };
    assert_eq!(open.message.text, "hello");
    assert_eq!((open.seq, open.began), ((last >= HANDED_OVER).then_some(2), last >= BEGAN));

    // What is not known as handed over is not believed finished, and is handed over under the same number.
    let (session, message) = (accepted.session.clone(), accepted.message.clone());
    let done = ledger.write_blocking(Step::Other, move |tx| {
        if last < HANDED_OVER {
            assert_eq!(inbox::finish(tx, &session, &message)?, Marked::NotOfThisSession);
            assert_eq!(inbox::hand_over(tx, &session, std::slice::from_ref(&message))?, [2]);
        }
        inbox::finish(tx, &session, &message)
    });
    assert_eq!(done, Ok::<_, StoreError>(Marked::Changed));
}
