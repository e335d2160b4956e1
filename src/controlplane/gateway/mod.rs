//! The gateway: the one way in which what an agent can do is changed. A change is checked when it is asked for, held
//! until a person with the right has seen exactly what it would do, and done in the transaction of the decision.
//! Touches the ledger, and wakes the sessions that wait for an answer.

mod apply;
pub mod decide;
pub mod desk;
mod diff;
pub mod effect;
pub mod facts;
pub mod kind;
pub mod payload;
pub mod policy;
mod proposal;
pub mod submit;
pub mod work;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use rusqlite::{Connection, Transaction};

use self::decide::{Decide, NotDecided, Outcome};
use self::desk::Desk;
use self::facts::Facts;
use self::submit::{NotSubmitted, Origin, Request, Submitted};
use super::audit::ActError;
use super::bell::Bell;
use super::grants::Host;
use super::principals::{Principal, Standing};
use super::session::Sessions;
use super::store::approvals::Waiting;
use super::store::changes::{self, Change};
use super::store::{Ledger, Step, StoreError};
use super::tasks;
use crate::contract::ids::{ChangeId, UserId};
use crate::contract::time::Millis;

/// Changes that lapse in one transaction.
const LAPSES: usize = 100;

/// Whether an act waits for what the host does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Awaited,
    Aside,
}

/// What an act gave, or why it was not done or not answered as done.
pub type Acted<T> = Result<T, ActError<T>>;

/// The gateway. Clones are the same one.
#[derive(Clone)]
pub struct Gateway {
    ledger: Ledger,
    desk: Desk,
    sessions: Sessions,
    rights: Arc<Bell>,
}

impl Gateway {
    /// Puts it together.
    pub fn new(ledger: Ledger, desk: Desk, sessions: Sessions) -> Self {
        Self { ledger, desk, sessions, rights: Arc::default() }
    }

    /// Rings when somebody may have less than before, also when whoever decided it is gone.
    pub fn rights(&self) -> &Arc<Bell> {
        &self.rights
    }

    /// Whether nobody may approve what they asked for themselves, and so nobody may be two people.
    pub fn wants_four_eyes(&self) -> bool {
        self.desk.policy.wants_four_eyes()
    }

    /// The host, as far as grants are concerned.
    pub fn host(&self) -> &Arc<Host> {
        &self.desk.host
    }

    /// Takes a request of a person.
    ///
    /// # Errors
    /// Those of [`super::audit::Audit::act`]; the inner ones are the asker's.
    pub async fn submit(
        &self,
        origin: Origin,
        mut request: Request,
    ) -> Acted<Result<Submitted, NotSubmitted>> {
        // Looking may take long, and is done for nobody who will be refused anyway.
        let (asker, asked) = (origin.clone(), request.clone());
        match self.ledger.read(move |conn| submit::known(conn, &asker, &asked)).await? {
            Err(not) => return Ok(Err(not)),
            Ok(true) => {}
            Ok(false) => request.facts = self.desk.look(&request.kind, &request.payload).await,
        }
        let desk = self.desk.clone();
        let mut submitted = self
            .act(
                Step::Submit,
                move |tx| desk.submit(tx, &origin, &request),
                |submitted| submitted.outcome.as_mut(),
                Work::Awaited,
            )
            .await;
        if let Ok(Ok(Submitted { change, outcome: Some(outcome), .. })) = &mut submitted {
            change.clone_from(&outcome.change);
        }
        // What an earlier request did may not be recorded yet.
        match submitted {
            Ok(Ok(repeated)) if repeated.is_repeat => match self.desk.audit.confirm().await {
                Ok(()) => Ok(Ok(repeated)),
                Err(reason) => Err(ActError::Unexported { done: Ok(repeated), reason }),
            },
            submitted => submitted,
        }
    }

    /// Whether somebody could approve a change, if they came in by a way that lets them decide.
    ///
    /// # Errors
    /// The ledger's.
    pub fn could_approve(
        &self,
        conn: &Connection,
        user: &UserId,
        change: &Change,
    ) -> Result<bool, StoreError> {
        decide::could_approve(conn, &self.desk.policy, user, change)
    }

    /// The same for all of a kind, whatever it would do: with this nothing long is read.
    ///
    /// # Errors
    /// The ledger's.
    pub fn could_approve_such(
        &self,
        user: &UserId,
        standing: &Standing,
        waiting: &Waiting,
    ) -> Result<bool, StoreError> {
        decide::could_approve_such(&self.desk.policy, user, standing, waiting)
    }

    /// Takes a decision, and waits for what the host has to do then.
    ///
    /// # Errors
    /// Those of [`super::audit::Audit::act`]; the inner ones are the decider's.
    pub async fn decide(
        &self,
        principal: Principal,
        id: ChangeId,
        decide: Decide,
    ) -> Acted<Result<Outcome, NotDecided>> {
        self.decided(principal, id, decide, Work::Awaited).await
    }

    /// The same, and waits only until it is recorded: a package may take minutes.
    ///
    /// # Errors
    /// As [`Gateway::decide`].
    pub async fn decide_soon(
        &self,
        principal: Principal,
        id: ChangeId,
        decide: Decide,
    ) -> Acted<Result<Outcome, NotDecided>> {
        self.decided(principal, id, decide, Work::Aside).await
    }

    async fn decided(
        &self,
        principal: Principal,
        id: ChangeId,
        decide: Decide,
        work: Work,
    ) -> Acted<Result<Outcome, NotDecided>> {
        let (desk, host, asked) = (self.desk.clone(), self.desk.host.clone(), id.clone());
        // What a payload names is looked at once more; a package is what it was when it was asked for.
        let (policy, by, what) = (self.desk.policy.clone(), principal.clone(), decide.clone());
        let change = self.ledger.read(move |conn| decide::due(conn, &policy, &by, &asked, &what)).await?;
        let facts = match change {
            Some(change) => host.unblock(move |host| Facts::again(host, &change)).await,
            _ => Facts::default(),
        };
        self.act(
            Step::Decide,
            move |tx| decide::decide(tx, &desk.keyring, &desk.policy, &principal, &id, &decide, &facts),
            |outcome| Some(outcome),
            work,
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
            Work::Awaited,
        )
        .await
    }

    /// Does an act and what it sets going outside the ledger: at once, or when its record is in the audit files; and to
    /// its end, also when whoever asked is gone.
    async fn act<T: Clone + Send + 'static, E: Send + 'static>(
        &self,
        step: Step,
        work: impl FnOnce(&Transaction<'_>) -> Result<Result<T, E>, StoreError> + Send + 'static,
        outcome: impl Fn(&mut T) -> Option<&mut Outcome> + Send + 'static,
        host: Work,
    ) -> Acted<Result<T, E>> {
        let gateway = self.clone();
        let acting = tasks::unbroken(async move {
            let mut acted = gateway.desk.audit.act(step, work).await;
            gateway.rights.ring();
            // What was asked for lapses some day.
            gateway.ledger.alarm().ring();
            match &mut acted {
                Ok(Ok(done)) if host == Work::Awaited => {
                    if let Some(outcome) = outcome(done) {
                        gateway.after(outcome).await;
                    }
                }
                Ok(Ok(done)) => {
                    let (gateway, mut done) = (gateway.clone(), done.clone());
                    tasks::spawn(async move {
                        if let Some(outcome) = outcome(&mut done) {
                            gateway.after(outcome).await;
                        }
                    })
                    .detach();
                }
                Err(ActError::Unexported { done: Ok(done), .. }) => {
                    let (gateway, mut done) = (gateway.clone(), done.clone());
                    tasks::spawn(async move {
                        gateway.desk.audit.settled().await;
                        if let Some(outcome) = outcome(&mut done) {
                            gateway.after(outcome).await;
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

    /// Lets changes lapse whose time is over. A decision looks at the time by itself.
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
            lapsed.iter().for_each(|outcome| self.sessions.tell_of(outcome));
            if lapsed.len() < LAPSES {
                return Ok(());
            }
        }
    }
}
