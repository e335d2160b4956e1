//! The gateway: the one way in which what an agent can do is changed. A change is checked when it is asked for, held
//! until a person with the right has seen exactly what it would do, and done in the transaction of the decision.
//! Touches the ledger, and wakes the sessions that wait for an answer.

mod apply;
pub mod decide;
mod diff;
pub mod effect;
pub mod kind;
pub mod payload;
pub mod policy;
mod proposal;
pub mod submit;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::decide::{Decide, NotDecided, Outcome};
use self::policy::Policy;
use self::submit::{NotSubmitted, Origin, Request, Submitted};
use super::keys::Keyring;
use super::principals::Principal;
use super::session::Sessions;
use super::store::{Ledger, Step, StoreError, changes};
use crate::contract::ids::ChangeId;
use crate::contract::time::Millis;

/// Changes that lapse in one transaction.
const LAPSES: usize = 100;

/// The gateway. Clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    ledger: Ledger,
    keyring: Keyring,
    sessions: Sessions,
    policy: Arc<Policy>,
    lifetime: i64,
}

impl Gateway {
    /// Puts it together; `lifetime` is in milliseconds.
    pub fn new(
        ledger: Ledger,
        keyring: Keyring,
        sessions: Sessions,
        policy: Arc<Policy>,
        lifetime: i64,
    ) -> Self {
        Self { ledger, keyring, sessions, policy, lifetime }
    }

    /// Takes a request of a person.
    ///
    /// # Errors
    /// The ledger's; the inner ones are the asker's.
    pub async fn submit(
        &self,
        origin: Origin,
        request: Request,
    ) -> Result<Result<Submitted, NotSubmitted>, StoreError> {
        let (keyring, policy, lifetime) = (self.keyring.clone(), self.policy.clone(), self.lifetime);
        let submitted = self
            .ledger
            .write_step(Step::Submit, move |tx| {
                submit::submit(tx, &keyring, &policy, lifetime, &origin, &request)
            })
            .await?;
        if let Ok(Submitted { outcome: Some(outcome), .. }) = &submitted {
            self.after(outcome);
        }
        Ok(submitted)
    }

    /// Takes a decision.
    ///
    /// # Errors
    /// The ledger's; the inner ones are the decider's.
    pub async fn decide(
        &self,
        principal: Principal,
        id: ChangeId,
        decide: Decide,
    ) -> Result<Result<Outcome, NotDecided>, StoreError> {
        let (keyring, policy) = (self.keyring.clone(), self.policy.clone());
        let decided = self
            .ledger
            .write_step(Step::Decide, move |tx| {
                decide::decide(tx, &keyring, &policy, &principal, &id, &decide)
            })
            .await?;
        if let Ok(outcome) = &decided {
            self.after(outcome);
        }
        Ok(decided)
    }

    /// Takes a request back.
    ///
    /// # Errors
    /// The ledger's; the inner ones are the asker's.
    pub async fn withdraw(
        &self,
        principal: Principal,
        id: ChangeId,
    ) -> Result<Result<Outcome, NotDecided>, StoreError> {
        let keyring = self.keyring.clone();
        let withdrawn = self
            .ledger
            .write_step(Step::Decide, move |tx| decide::withdraw(tx, &keyring, &principal, &id))
            .await?;
        if let Ok(outcome) = &withdrawn {
            self.after(outcome);
        }
        Ok(withdrawn)
    }

    /// Lets changes lapse whose time is over. Part of the slow pass; a decision looks at the time by itself.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn lapse(&self) -> Result<(), StoreError> {
        loop {
            let keyring = self.keyring.clone();
            let lapsed = self
                .ledger
                .write_step(Step::Decide, move |tx| {
                    let overdue = changes::overdue(tx, Millis::now(), LAPSES)?;
                    overdue
                        .iter()
                        .map(|change| decide::expire(tx, &keyring, change))
                        .collect::<Result<Vec<_>, _>>()
                })
                .await?;
            lapsed.iter().for_each(|outcome| self.after(outcome));
            if lapsed.len() < LAPSES {
                return Ok(());
            }
        }
    }

    /// What a decision that is stored sets going.
    fn after(&self, outcome: &Outcome) {
        for group in &outcome.changed {
            self.sessions.reconfigure(group);
        }
        if let Some(session) = &outcome.answered {
            self.sessions.wake(session);
        }
    }
}
