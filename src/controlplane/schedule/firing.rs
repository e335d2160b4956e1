//! Tasks that are due: each becomes a message to its agent and is due later, in one transaction, so that a control plane
//! that dies makes each run once. Touches the ledger, and wakes sessions after the commit.

use crate::contract::time::Millis;
use crate::controlplane::audit::Audit;
use crate::controlplane::keys::Keyring;
use crate::controlplane::schedule::tasks::{self, Fired};
use crate::controlplane::session::Sessions;
use crate::controlplane::store::{self, Ledger, Step, StoreError};
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Tasks that are done in one transaction, so that nobody waits long for the writer.
const AT_ONCE: usize = 32;

/// What firing needs.
#[derive(Clone)]
pub(super) struct Firing {
    /// Where tasks are.
    pub(super) ledger: Ledger,
    /// Reads what they ask.
    pub(super) keyring: Keyring,
    /// Where it is recorded that one ended.
    pub(super) audit: Audit,
    /// Whom they wake.
    pub(super) sessions: Sessions,
}

impl Firing {
    /// Does everything that is due now.
    ///
    /// # Errors
    /// The ledger's.
    pub(super) async fn run(self) -> Result<(), StoreError> {
        loop {
            let keyring = self.keyring.clone();
            let fired = self.ledger.write_step(Step::Run, move |tx| {
                let now = Millis::now();
                let due = store::tasks::due(tx, now, AT_ONCE)?;
                let fire = |task: store::tasks::Task| {
                    let fired = match tasks::fire(tx, &keyring, &task, now) {
                        // One that cannot be run keeps nothing from the others.
                        Err(error) if !error.is_disk() => {
                            log::error("task.broken", &[("task", &task.id), ("error", &error)]);
                            tasks::give_up(tx, &task)?
                        }
                        fired => fired?,
                    };
                    Ok::<_, StoreError>((task, fired))
                };
                due.into_iter().map(fire).collect::<Result<Vec<_>, _>>()
            });
            let fired = fired.await?;
            let mut recorded = false;
            for (task, fired) in &fired {
                let (id, session) = (&task.id as _, &task.session as _);
                match fired {
                    Fired::Ran(message) => {
                        METRICS.task_runs.inc();
                        METRICS.accepted.inc();
                        log::info("task.ran", &[("task", id), ("session", session), ("message", message)]);
                        self.sessions.wake(&task.session);
                        self.sessions.ring_bell(&task.session, None);
                    }
                    Fired::Skipped => log::info("task.skipped", &[("task", id), ("session", session)]),
                    Fired::PutOff => log::warn("task.put_off", &[("task", id), ("session", session)]),
                    Fired::Ended(why) => {
                        recorded = true;
                        log::warn("task.ended", &[("task", id), ("session", session), ("why", why)]);
                    }
                }
            }
            if recorded {
                self.audit.nudge();
            }
            if fired.len() < AT_ONCE {
                return Ok(());
            }
        }
    }
}
