//! Held changes: how much an asker has pending is kept, not counted, and must be what counting gives; and how long they
//! are kept.

use rusqlite::Connection;

use super::World;
use crate::contract::ids::{ChangeId, GroupName};
use crate::contract::time::Millis;
use crate::controlplane::store::calls::{self, Call};
use crate::controlplane::store::changes::{self, Change, Decision, State};
use crate::controlplane::store::retention;

fn asked(by: &str, state: State) -> Change {
    Change {
        id: ChangeId::mint(),
        kind: "persona".to_owned(),
        group: GroupName::parse("a").unwrap(),
        state,
        requested_by: by.to_owned(),
        via: String::new(),
        label: String::new(),
        reason: String::new(),
        payload: "{}".to_owned(),
        effects: "[]".to_owned(),
        diff: String::new(),
        base: "{}".to_owned(),
        digest: String::new(),
        idempotency_key: None,
        request: String::new(),
        submitted_at: Millis(1),
        expires_at: Millis(2),
        decision: None,
        note: String::new(),
        failure: None,
        finished_at: None,
    }
}

/// What is kept and what counting gives, for two askers and for all.
fn kept_and_counted(conn: &Connection) -> ([u64; 3], [u64; 3]) {
    let count = |by: &str| -> u64 {
        let sql = "SELECT count(*) FROM changes WHERE state = 'pending' AND requested_by LIKE ?1";
        conn.query_row(sql, [by], |row| row.get(0)).unwrap()
    };
    let kept = |by: &str| changes::pending_of(conn, by).unwrap();
    ([kept("ann"), kept("bob"), changes::pending(conn).unwrap()], [count("ann"), count("bob"), count("%")])
}

#[test]
fn what_is_kept_of_pending_changes_is_what_counting_gives() {
    let world = World::new();
    let mut sizes = Vec::new();
    let write = |work: Box<dyn FnOnce(&rusqlite::Transaction<'_>) + Send>| {
        let step = crate::controlplane::store::Step::Other;
        let both = world.ledger.write_blocking(step, move |tx| {
            work(tx);
            Ok(kept_and_counted(tx))
        });
        let (kept, counted) = both.unwrap();
        assert_eq!(kept, counted);
        kept
    };
    let all: Vec<Change> = State::ALL
        .into_iter()
        .flat_map(|_| [asked("ann", State::Pending), asked("bob", State::Pending)])
        .chain([asked("ann", State::Applied)])
        .collect();
    for change in all.clone() {
        sizes.push(write(Box::new(move |tx| changes::add(tx, &change).unwrap())));
    }
    assert_eq!(sizes.last(), Some(&[6, 6, 12]));
    // Each asker's leave in every way there is; deciding twice changes nothing.
    for (change, state) in all
        .iter()
        .filter(|change| change.state == State::Pending)
        .zip(State::ALL.into_iter().skip(1).flat_map(|state| [state, state]))
    {
        let id = change.id.clone();
        sizes.push(write(Box::new(move |tx| {
            let decision = Decision { by: "owner".to_owned(), via: String::new(), at: Millis(3) };
            assert!(changes::decide(tx, &id, (State::Pending, state), &decision, "").unwrap());
            assert!(!changes::decide(tx, &id, (State::Pending, state), &decision, "").unwrap());
            let _ = changes::finish(tx, &id, Some("no")).unwrap();
            let _ = changes::finish(tx, &id, None).unwrap();
        })));
    }
    assert_eq!(sizes.last(), Some(&[1, 1, 2]));
    let none = write(Box::new(|tx| {
        tx.execute("DELETE FROM changes", []).unwrap();
    }));
    assert_eq!(none, [0, 0, 0]);
    let left: u64 =
        world.read(|conn| Ok(conn.query_row("SELECT count(*) FROM askers", [], |row| row.get(0))?));
    assert_eq!(left, 0);
}

/// What has come to its end goes, the oldest first and so many at once, with its key and its call. What waits for a
/// person or for its work stays, however old it is.
#[test]
fn what_was_decided_long_ago_goes_and_what_waits_stays() {
    let world = World::new();
    let session = world.accept("main", "1", "x").session;
    let mut ends = Vec::new();
    for (at, state) in State::ALL.into_iter().flat_map(|state| [(10, state), (1000, state)]) {
        let change =
            Change { idempotency_key: Some(format!("{at} {state:?}")), ..asked("ann", State::Pending) };
        let (id, session) = (change.id.clone(), session.clone());
        world.write(move |tx| {
            changes::add(tx, &change)?;
            let call = Call { request: String::new(), change: id.clone() };
            calls::add(tx, &session, id.as_str(), &call)?;
            if state != State::Pending {
                let decision = Decision { by: "owner".to_owned(), via: String::new(), at: Millis(at) };
                assert!(changes::decide(tx, &id, (State::Pending, state), &decision, "")?);
            }
            Ok(())
        });
        ends.push((at, state));
    }
    let is_over = |state: State| !matches!(state, State::Pending | State::Approved);
    let left = || -> Vec<String> {
        world.read(|conn| {
            let mut query = conn.prepare("SELECT idempotency_key FROM changes ORDER BY id").unwrap();
            let keys = query.query_map([], |row| row.get(0)).unwrap();
            Ok(keys.collect::<Result<_, _>>().unwrap())
        })
    };
    let prune = |most| world.write(move |tx| retention::prune_changes(tx, Millis(1000), most));
    let old = ends.iter().filter(|(at, state)| *at == 10 && is_over(*state)).count();
    assert_eq!((prune(0), prune(old - 1), prune(100), prune(100)), (0, old - 1, 1, 0));
    let mut expected: Vec<String> = ends
        .iter()
        .filter(|(at, state)| *at == 1000 || !is_over(*state))
        .map(|(at, state)| format!("{at} {state:?}"))
        .collect();
    let mut kept = left();
    expected.sort();
    kept.sort();
    assert_eq!(kept, expected);
    assert_eq!(world.read(|conn| calls::count(conn, &session)), kept.len() as u64);
}
