//! The table of what comes due by itself: for each kind of thing where the ledger has its next instant, and what is done
//! then. Whoever adds one adds a line here, and rings the ledger's alarm where its instants are written down. Touches
//! the ledger, the gateway and the sessions.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction};
use smol::Timer;

use super::firing::Firing;
use super::timer::Source;
use crate::contract::time::Millis;
use crate::controlplane::audit::Audit;
use crate::controlplane::gateway::Gateway;
use crate::controlplane::keys::Keyring;
use crate::controlplane::questions;
use crate::controlplane::session::Sessions;
use crate::controlplane::store::questions as kept;
use crate::controlplane::store::{Ledger, StoreError, changes, retention, sessions as rows, tasks, usage};
use crate::controlplane::telemetry::log;

/// Rows deleted in one transaction, so that nobody waits long for the writer.
const PRUNED_AT_ONCE: usize = 500;

/// Questions that end in one transaction.
const EXPIRED_AT_ONCE: usize = 32;

/// Everything.
pub fn all(
    ledger: &Ledger,
    keyring: &Keyring,
    audit: &Audit,
    sessions: &Sessions,
    gateway: &Gateway,
    expiry: Duration,
) -> Vec<Source> {
    let firing = Firing {
        ledger: ledger.clone(),
        keyring: keyring.clone(),
        audit: audit.clone(),
        sessions: sessions.clone(),
    };
    let (asked, keys, asking) = (ledger.clone(), keyring.clone(), sessions.clone());
    let expire = move || {
        let (ledger, keyring, sessions) = (asked.clone(), keys.clone(), asking.clone());
        async move {
            loop {
                let keyring = keyring.clone();
                let over = ledger.write(move |tx| questions::expire(tx, &keyring, EXPIRED_AT_ONCE)).await?;
                for question in &over {
                    log::info("question.expired", &[("question", &question.id)]);
                    sessions.ring_bell(&question.session, None);
                }
                if over.len() < EXPIRED_AT_ONCE {
                    return Ok(());
                }
            }
        }
    };
    let expiry = i64::try_from(expiry.as_millis()).unwrap_or(i64::MAX);
    let ending = sessions.clone();
    let end = move || {
        let sessions = ending.clone();
        async move {
            let ended = sessions.expire(expiry).await?;
            if ended > 0 {
                log::info("sessions.expired", &[("sessions", &ended)]);
            }
            Ok(())
        }
    };
    // Where none is, the first that begins from now on is the next: nobody needs to say that it did.
    let next_end = move |conn: &Connection| {
        let now = Millis::now();
        let first = rows::expiring_first(conn)?.map_or(now, |first| first.min(now));
        Ok(Some(Millis(first.0.saturating_add(expiry))))
    };
    let gateway = gateway.clone();
    let lapse = move || {
        let gateway = gateway.clone();
        async move { gateway.lapse().await }
    };
    vec![
        Source::new("tasks", tasks::next_due, move || firing.clone().run()),
        Source::new("changes", changes::next_lapse, lapse),
        Source::new("questions", kept::next_expiry, expire),
        Source::new("sessions", next_end, end),
        Source::new("empty sessions", retention::next_session, forget_sessions(ledger)),
        forgetting("held", ledger, retention::next_held, retention::prune_held),
        forgetting("attention", ledger, retention::next_attention, retention::prune_attention),
        forgetting("usage", ledger, usage::next_old, usage::prune),
    ]
}

/// The rows of empty conversations, one at a time and with room for others between them: whether anything refers to one is
/// looked for in tables that have no index for it, which every message would pay for.
fn forget_sessions(
    ledger: &Ledger,
) -> impl Fn() -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>> + Send + Sync + 'static {
    let ledger = ledger.clone();
    move || {
        let ledger = ledger.clone();
        Box::pin(async move {
            loop {
                let begun = Instant::now();
                let looked_at = ledger.write(|tx| retention::prune_sessions(tx, Millis::now(), 1));
                if looked_at.await? == 0 {
                    return Ok(());
                }
                Timer::after(begun.elapsed().saturating_mul(9)).await;
            }
        })
    }
}

/// Something that is forgotten when it is over. `prune` forgets so many and gives how many those were.
fn forgetting(
    name: &'static str,
    ledger: &Ledger,
    next: fn(&Connection) -> Result<Option<Millis>, StoreError>,
    prune: fn(&Transaction<'_>, Millis, usize) -> Result<usize, StoreError>,
) -> Source {
    let ledger = ledger.clone();
    Source::new(name, next, move || {
        let ledger = ledger.clone();
        async move {
            while ledger.write(move |tx| prune(tx, Millis::now(), PRUNED_AT_ONCE)).await? >= PRUNED_AT_ONCE {}
            Ok(())
        }
    })
}
