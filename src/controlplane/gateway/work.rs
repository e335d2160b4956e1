//! What an approved change does on the host, after its decision is in the ledger: copying packages. It is done once
//! more after a crash and when somebody asks, until all of it is done; only then the change takes effect, and an agent
//! is shown something of it when that too is in the audit files. Touches the ledger, and the host through `grants`.

use std::collections::BTreeSet;

use rusqlite::{Connection, Transaction};

use super::decide::{self, NotDecided, Outcome, effects_of, is_superseded};
use super::desk::Desk;
use super::effect::{Effect, Package};
use super::{Acted, Gateway};
use crate::contract::fault;
use crate::contract::ids::ChangeId;
use crate::contract::plain;
use crate::controlplane::grants::{Host, packages};
use crate::controlplane::principals::Principal;
use crate::controlplane::store::changes::{self, Change, State};
use crate::controlplane::store::{Durability, Ledger, Step, StoreError, grants};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Longest reason that is kept, in characters.
const MOST_REASON: usize = 1000;

/// What the host's part of a change came to.
#[derive(Debug)]
pub enum Worked {
    /// There was nothing to do. The change as it is; `None` when there is none.
    Nothing(Option<Change>),
    /// It is done, or failed, and that is in the audit files.
    Recorded(Outcome),
    /// The same, but it is not in the audit files, so nobody may be told and nothing may follow yet
    /// ([`crate::controlplane::audit::Audit::settled`]).
    Unrecorded(Outcome),
}

impl Desk {
    /// Does the host's part of a change that is approved, one change at a time.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn work(&self, ledger: &Ledger, id: &ChangeId) -> Result<Worked, StoreError> {
        let turn = self.working.lock().await;
        let asked = id.clone();
        let found = ledger.read(move |conn| {
            let Some(change) = changes::get(conn, &asked)? else { return Ok(None) };
            let effects = effects_of(&change)?;
            let superseded = change.state == State::Approved && is_superseded(conn, &change, &effects)?;
            // What will not take effect needs nothing on the host.
            Ok(Some((change, if superseded { Vec::new() } else { effects })))
        });
        let Some((change, effects)) = found.await? else { return Ok(Worked::Nothing(None)) };
        if change.state != State::Approved {
            return Ok(Worked::Nothing(Some(change)));
        }
        let host = self.host.clone();
        let done = tasks::unblock(move || effects.iter().try_for_each(|effect| on_host(&host, effect))).await;
        let failure = done.err().map(|why| plain::line(&why).chars().take(MOST_REASON).collect::<String>());
        if let Some(why) = &failure {
            log::warn("change.failed", &[("change", id), ("why", why)]);
        }
        fault::point("apply.copied");
        let (keyring, asked) = (self.keyring.clone(), id.clone());
        let finish = move |tx: &Transaction<'_>| decide::finish(tx, &keyring, &asked, failure.as_deref());
        let (finished, exporting) = self.audit.commit(Step::Apply, Durability::Synced, finish).await?;
        drop(turn);
        let Some(outcome) = finished else {
            let asked = id.clone();
            return Ok(Worked::Nothing(ledger.read(move |conn| changes::get(conn, &asked)).await?));
        };
        Ok(match exporting.end().await {
            Ok(()) => Worked::Recorded(outcome),
            Err(_) => Worked::Unrecorded(outcome),
        })
    }
}

impl Gateway {
    /// Removes the copies of packages that no grant and no approved change names, unless a sandbox runs, which may still
    /// be shown one.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn collect(&self) -> Result<(), StoreError> {
        if METRICS.sandboxes.get() > 0 {
            return Ok(());
        }
        let (host, ledger) = (self.desk.host.clone(), self.ledger.clone());
        let removed =
            tasks::unblock(move || packages::collect(&host, || ledger.read_blocking(used_copies))).await?;
        if removed > 0 {
            log::info("packages.collected", &[("copies", &removed)]);
        }
        Ok(())
    }

    /// Sees to it that what was launched while the audit files could not be written, and was shown nothing of what was
    /// not recorded, is launched anew once they can. Never ends.
    pub async fn follow_recoveries(&self) {
        let recovered = self.desk.audit.watch_recovered();
        // One may have come before this was watched.
        self.sessions.reconfigure_all();
        while recovered.recv().await.is_ok() {
            self.sessions.reconfigure_all();
        }
    }

    /// Takes up what an earlier daemon left undone, once the records of it are in the audit files. To be called at the
    /// start.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn resume(&self) -> Result<(), StoreError> {
        self.desk.audit.settled().await;
        for id in self.ledger.read(changes::unfinished).await? {
            // One that cannot be worked on keeps no other from it.
            if let Err(error) = self.work(&id).await {
                log::warn("change.failed", &[("change", &id), ("why", &error)]);
            }
        }
        self.collect().await
    }

    /// Tries the host's part of an approved change again, and gives the change as it is then.
    ///
    /// # Errors
    /// Those of [`crate::controlplane::audit::Audit::act`]; the inner ones are the asker's.
    pub async fn retry(&self, principal: Principal, id: ChangeId) -> Acted<Result<Change, NotDecided>> {
        let asked = id.clone();
        let begun =
            self.desk.audit.act(Step::Decide, move |tx| decide::retry(tx, &principal, &asked)).await?;
        let change = match begun {
            Ok(change) => change,
            Err(not) => return Ok(Err(not)),
        };
        let gateway = self.clone();
        let worked = tasks::unbroken(async move { gateway.work(&id).await }).await;
        let change = worked.unwrap_or(Err(StoreError::Panicked))?.unwrap_or(change);
        Ok(match change.state {
            State::Approved | State::Applied => Ok(change),
            // It has lapsed.
            _ => Err(NotDecided::NotApproved(Box::new(change))),
        })
    }

    /// The same, with what it sets going. Gives the change as it is then, as far as anybody may be told.
    async fn work(&self, id: &ChangeId) -> Result<Option<Change>, StoreError> {
        Ok(match self.desk.work(&self.ledger, id).await? {
            Worked::Nothing(change) => change,
            Worked::Recorded(outcome) => {
                self.sessions.tell_of(&outcome);
                Some(outcome.change)
            }
            Worked::Unrecorded(outcome) => {
                let gateway = self.clone();
                tasks::spawn(async move {
                    gateway.desk.audit.settled().await;
                    gateway.sessions.tell_of(&outcome);
                })
                .detach();
                None
            }
        })
    }

    /// What a decision that is stored sets going. Ends when the host's part is done, or has failed.
    pub(super) async fn after(&self, outcome: &mut Outcome) {
        self.sessions.tell_of(outcome);
        if outcome.change.state != State::Approved {
            return;
        }
        match self.work(&outcome.change.id).await {
            Ok(Some(change)) => outcome.change = change,
            Ok(None) => {}
            Err(error) => {
                log::error("change.not_finished", &[("change", &outcome.change.id), ("error", &error)])
            }
        }
    }
}

/// The digests of the packages that are granted, or will be.
fn used_copies(conn: &Connection) -> Result<BTreeSet<String>, StoreError> {
    let mut used = grants::digests(conn)?;
    for id in changes::unfinished(conn)? {
        let Some(change) = changes::get(conn, &id)? else { continue };
        used.extend(effects_of(&change)?.into_iter().filter_map(|effect| match effect {
            Effect::SetPackage { package, .. } => package.map(|package| package.tree.digest),
            _ => None,
        }));
    }
    Ok(used)
}

fn on_host(host: &Host, effect: &Effect) -> Result<(), String> {
    match effect {
        Effect::SetPackage { name, package: Some(Package { version, tree }), .. } => {
            packages::keep(host, name, version, &tree.digest)
        }
        _ => Ok(()),
    }
}
