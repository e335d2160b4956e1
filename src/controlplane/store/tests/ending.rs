//! When a conversation expires, and when its row goes.

use super::World;
use crate::contract::time::Millis;
use crate::controlplane::store::inbox::{self, Accepted};
use crate::controlplane::store::{retention, secrets, sessions};

/// Whoever uses a conversation does not say so to the timer, which finds out when it looks.
#[test]
fn the_expiry_counts_from_the_last_use() {
    let world = World::new();
    let said = world.accept("main", "a", "one");
    world.hand_over(&said);
    world.mark(&said, inbox::finish);
    let first = world.read(sessions::expiring_first).unwrap();
    let due = |before: i64| world.read(move |conn| sessions::expiring(conn, Millis(before), 10));
    assert!(due(first.0 - 1).is_empty());
    let used = world.session(&said).last_active.0.max(first.0);
    assert_eq!(due(used), [(said.session.clone(), true)]);
    // It was used after that.
    let id = said.session.clone();
    world.write(move |tx| {
        Ok(tx.execute("UPDATE sessions SET last_active = ?2 WHERE id = ?1", (id.as_str(), used + 50))?)
    });
    assert_eq!(due(used), [(said.session.clone(), false)]);
    let later = |before: i64, else_from: i64| {
        let id = said.session.clone();
        world.write(move |tx| sessions::expires_later(tx, &id, Millis(before), Millis(else_from)));
        world.read(sessions::expiring_first).unwrap().0
    };
    assert_eq!(later(used, used + 7), used + 50, "as of its last use");
    assert_eq!(later(used + 60, used + 70), used + 70, "it owes something, and is looked at again");
    assert_eq!(later(used + 60, used + 80), used + 70, "that is later already");
    let id = said.session.clone();
    world.write(move |tx| secrets::erase(tx, &id));
    assert_eq!((world.read(sessions::expiring_first), due(i64::MAX)), (None, vec![]));
}

#[test]
fn an_empty_conversation_is_forgotten_when_nothing_refers_to_it() {
    let world = World::new();
    let ended = world.accept("main", "a", "one");
    let used = world.accept("other", "b", "two");
    for accepted in [&ended, &used] {
        world.mark(accepted, inbox::finish);
    }
    let there = |accepted: &Accepted| world.read(|conn| sessions::get(conn, &accepted.session)).is_some();
    assert_eq!(world.read(retention::next_session), None, "neither is empty");
    let (id, begun) = (ended.session.clone(), Millis::now());
    world.write(move |tx| secrets::erase(tx, &id));
    let due = world.read(retention::next_session).unwrap();
    assert!(due.0 >= begun.0 + retention::SESSIONS_MILLIS);
    let prune = |now: i64| world.write(move |tx| retention::prune_sessions(tx, Millis(now), 10));
    assert_eq!(prune(due.0 - 1), 0, "it is not old enough");
    // Its history refers to it, and is looked for again later.
    assert_eq!((prune(due.0), there(&ended)), (1, true));
    let again = world.read(retention::next_session).unwrap();
    assert!(again > due, "it would be looked at again and again");
    world.write(move |tx| retention::prune_history(tx, Millis(due.0), 10));
    assert_eq!((prune(again.0 - 1), there(&ended)), (0, true));
    assert_eq!((prune(again.0), there(&ended), there(&used)), (1, false, true));
    assert_eq!(world.read(retention::next_session), None);
    // Who writes there again begins anew, and what is used is not forgotten.
    let anew = world.accept("main", "c", "three");
    assert!(anew.session != ended.session && there(&anew));
    let id = used.session.clone();
    world.write(move |tx| secrets::erase(tx, &id));
    world.accept("other", "d", "four");
    assert_eq!(world.read(retention::next_session), None, "there is something to read again");
}
