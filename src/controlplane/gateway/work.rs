//! What an approved change does on the host, after its decision is in the ledger: copying packages. It is done once
//! more after a crash and when somebody asks, until it is done; nothing is shown to an agent before that. Touches the
//! ledger, and the host through `grants`.

use super::decide::{self, NotDecided, Outcome, effects_of};
use super::desk::Desk;
use super::effect::{Effect, Package};
use super::{Acted, Gateway};
use crate::contract::fault;
use crate::contract::ids::ChangeId;
use crate::contract::plain;
use crate::controlplane::grants::{Host, packages};
use crate::controlplane::principals::Principal;
use crate::controlplane::store::changes::{self, Change, State};
use crate::controlplane::store::{Ledger, Step, StoreError};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// Longest reason that is kept, in characters.
const MOST_REASON: usize = 1000;

impl Desk {
    /// Does the host's part of a change that is approved, one change at a time. Gives the change as it is then, `None`
    /// when there is none, and what that sets going.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn work(
        &self,
        ledger: &Ledger,
        id: &ChangeId,
    ) -> Result<(Option<Change>, Option<Outcome>), StoreError> {
        let _turn = self.working.lock().await;
        let asked = id.clone();
        let Some(change) = ledger.read(move |conn| changes::get(conn, &asked)).await? else {
            return Ok((None, None));
        };
        if change.state != State::Approved {
            return Ok((Some(change), None));
        }
        let effects = effects_of(&change)?;
        let host = self.host.clone();
        let done = smol::unblock(move || effects.iter().try_for_each(|effect| on_host(&host, effect))).await;
        let failure = done.err().map(|why| plain::line(&why).chars().take(MOST_REASON).collect::<String>());
        if let Some(why) = &failure {
            log::warn("change.failed", &[("change", id), ("why", why)]);
        }
        fault::point("apply.copied");
        let keyring = self.keyring.clone();
        let finished = ledger
            .write_step(Step::Apply, move |tx| decide::finish(tx, &keyring, &change, failure.as_deref()))
            .await?;
        self.audit.nudge();
        let asked = id.clone();
        let change = ledger.read(move |conn| changes::get(conn, &asked)).await?;
        Ok((change, finished))
    }
}

impl Gateway {
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
        Ok(())
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
        Ok(Ok(worked.unwrap_or(Err(StoreError::Panicked))?.unwrap_or(change)))
    }

    /// The same, with what it sets going.
    async fn work(&self, id: &ChangeId) -> Result<Option<Change>, StoreError> {
        let (change, finished) = self.desk.work(&self.ledger, id).await?;
        if let Some(outcome) = &finished {
            self.sessions.tell_of(outcome);
        }
        Ok(change)
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

fn on_host(host: &Host, effect: &Effect) -> Result<(), String> {
    match effect {
        Effect::SetPackage { name, package: Some(Package { version, tree }), .. } => {
            packages::keep(host, name, version, &tree.digest)
        }
        _ => Ok(()),
    }
}
