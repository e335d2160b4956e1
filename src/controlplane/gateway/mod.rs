//! The gateway: the one way in which what an agent can do is changed. A change is checked when it is asked for, held
//! until a person with the right has seen exactly what it would do, and done in the transaction of the decision.
//! Touches the ledger, and wakes the sessions that wait for an answer.

mod apply;
pub mod decide;
pub mod desk;
mod diff;
pub mod effect;
pub mod kind;
pub mod payload;
pub mod policy;
mod proposal;
pub mod submit;

#[cfg(test)]
mod tests;

use rusqlite::Transaction;

use self::decide::{Decide, NotDecided, Outcome};
use self::desk::Desk;
use self::submit::{NotSubmitted, Origin, Request, Submitted};
use super::audit::ActError;
use super::principals::Principal;
use super::session::Sessions;
use super::store::{Ledger, Step, StoreError, changes};
use super::tasks;
use crate::contract::ids::ChangeId;
use crate::contract::time::Millis;

/// Changes that lapse in one transaction.
const LAPSES: usize = 100;

/// What an act gave, or why it was not done or not answered as done.
pub type Acted<T> = Result<T, ActError<T>>;

/// The gateway. Clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    ledger: Ledger,
    desk: Desk,
    sessions: Sessions,
}

impl Gateway {
    /// Puts it together.
    pub fn new(ledger: Ledger, desk: Desk, sessions: Sessions) -> Self {
        Self { ledger, desk, sessions }
    }

    /// Takes a request of a person.
    ///
    /// # Errors
    /// Those of [`super::audit::Audit::act`]; the inner ones are the asker's.
    pub async fn submit(&self, origin: Origin, request: Request) -> Acted<Result<Submitted, NotSubmitted>> {
        let desk = self.desk.clone();
        self.act(
            Step::Submit,
            move |tx| desk.submit(tx, &origin, &request),
            |submitted| submitted.outcome.as_ref(),
        )
        .await
    }

    /// Takes a decision.
    ///
    /// # Errors
    /// Those of [`super::audit::Audit::act`]; the inner ones are the decider's.
    pub async fn decide(
        &self,
        principal: Principal,
        id: ChangeId,
        decide: Decide,
    ) -> Acted<Result<Outcome, NotDecided>> {
        let desk = self.desk.clone();
        self.act(
            Step::Decide,
            move |tx| decide::decide(tx, &desk.keyring, &desk.policy, &principal, &id, &decide),
            |outcome| Some(outcome),
        )
        .await
    }

    /// Takes a request back.
    ///
    /// # Errors
    /// Those of [`super::audit::Audit::act`]; the inner ones are the asker's.
    pub async fn withdraw(&self, principal: Principal, id: ChangeId) -> Acted<Result<Outcome, NotDecided>> {
        let keyring = self.desk.keyring.clone();
        self.act(
            Step::Decide,
            move |tx| decide::withdraw(tx, &keyring, &principal, &id),
            |outcome| Some(outcome),
        )
        .await
    }

    /// Does an act and what it sets going outside the ledger: at once, or when its record is in the audit files; and to
    /// its end, also when whoever asked is gone.
    async fn act<T: Clone + Send + 'static, E: Send + 'static>(
        &self,
        step: Step,
        work: impl FnOnce(&Transaction<'_>) -> Result<Result<T, E>, StoreError> + Send + 'static,
        outcome: impl Fn(&T) -> Option<&Outcome> + Send + 'static,
    ) -> Acted<Result<T, E>> {
        let gateway = self.clone();
        let acting = tasks::unbroken(async move {
            let acted = gateway.desk.audit.act(step, work).await;
            match &acted {
                Ok(Ok(done)) => {
                    if let Some(outcome) = outcome(done) {
                        gateway.sessions.follow(outcome);
                    }
                }
                Err(ActError::Unexported { done: Ok(done), .. }) => {
                    let (gateway, done) = (gateway.clone(), done.clone());
                    tasks::spawn(async move {
                        gateway.desk.audit.settled().await;
                        if let Some(outcome) = outcome(&done) {
                            gateway.sessions.follow(outcome);
                        }
                    })
                    .detach();
                }
                _ => {}
            }
            acted
        });
        acting.await.unwrap_or(Err(ActError::Store(StoreError::Panicked)))
    }

    /// Lets changes lapse whose time is over. Part of the slow pass; a decision looks at the time by itself.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn lapse(&self) -> Result<(), StoreError> {
        loop {
            let keyring = self.desk.keyring.clone();
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
            self.desk.audit.nudge();
            lapsed.iter().for_each(|outcome| self.sessions.follow(outcome));
            if lapsed.len() < LAPSES {
                return Ok(());
            }
        }
    }
}
