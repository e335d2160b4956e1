//! The slow safety pass over everything: what is owed is woken, what is old is pruned. Nothing depends on it in time. Touches the ledger, and sessions and gateway through their functions.

use std::time::Duration;

use smol::Timer;

use super::gateway::Gateway;
use super::session::Sessions;
use super::store::{Ledger, StoreError, happenings, questions, retention, tasks};
use super::tasks as executor;
use super::telemetry::log;
use crate::contract::time::Millis;

/// Rows pruned in one transaction, so that nobody waits long for the writer.
const PRUNED_AT_ONCE: usize = 500;
/// Pieces that are pruned in one pass.
const PIECES: usize = 100;

/// Changes pruned in one transaction; each may be a thousand times as large as a message.
const CHANGES_AT_ONCE: usize = 100;

/// The slow safety pass: what is owed is woken, what is old is pruned. Nothing depends on it in time.
pub(super) async fn slow_pass(interval: Duration, ledger: Ledger, sessions: Sessions, gateway: Gateway) {
    let following = gateway.clone();
    let _following = executor::spawn(async move { following.follow_recoveries().await });
    let resuming = gateway.clone();
    let _resuming = executor::spawn(async move {
        if let Err(error) = resuming.resume().await {
            log::warn("changes.not_resumed", &[("error", &error)]);
        }
    });
    loop {
        Timer::after(interval).await;
        if let Err(error) = sessions.wake_owed().await {
            log::warn("pass.failed", &[("error", &error)]);
        }
        if let Err(error) = gateway.lapse().await {
            log::warn("pass.failed", &[("error", &error)]);
        }
        if let Err(error) = gateway.collect().await {
            log::warn("pass.failed", &[("error", &error)]);
        }
        if let Err(error) = prune(&ledger, Millis::now()).await {
            log::warn("pass.failed", &[("error", &error)]);
        }
    }
}

/// Prunes what is old, piece by piece, with others in between; what is left after so many is the next pass's.
async fn prune(ledger: &Ledger, now: Millis) -> Result<(), StoreError> {
    let mut all = (0, 0, 0);
    for _ in 0..PIECES {
        let pruned = ledger.write(move |tx| {
            let before = |age: i64| Millis(now.0 - age);
            let history = retention::prune_history(tx, before(retention::HISTORY_MILLIS), PRUNED_AT_ONCE)?;
            let events = retention::prune_events(tx, before(retention::EVENTS_MILLIS), PRUNED_AT_ONCE)?;
            let attention = retention::prune_attention(tx, now, PRUNED_AT_ONCE)?;
            let held = retention::prune_held(tx, now, PRUNED_AT_ONCE)?;
            let ended = tasks::prune(tx, before(retention::CHANGES_MILLIS), PRUNED_AT_ONCE)?;
            let asked = questions::prune(tx, before(retention::HISTORY_MILLIS), PRUNED_AT_ONCE)?;
            let happened = happenings::prune(tx, before(retention::HISTORY_MILLIS), PRUNED_AT_ONCE)?;
            let changes = retention::prune_changes(tx, before(retention::CHANGES_MILLIS), CHANGES_AT_ONCE)?;
            Ok((history, events, attention.max(held).max(ended).max(asked).max(happened), changes))
        });
        let (history, events, waiting, changes) = pruned.await?;
        all = (all.0 + history, all.1 + events, all.2 + changes);
        if history.max(events).max(waiting) < PRUNED_AT_ONCE && changes < CHANGES_AT_ONCE {
            break;
        }
    }
    if all != (0, 0, 0) {
        let (history, events, changes) = all;
        log::info("pass.pruned", &[("messages", &history), ("events", &events), ("changes", &changes)]);
    }
    Ok(())
}
