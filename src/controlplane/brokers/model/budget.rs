//! How many tokens an agent may use in a day, looked at before each call: what it has used is in the ledger, and what its
//! running calls may still take is held against it, so that many at once use no more than one after the other. A ledger
//! that cannot be read lets nothing through. Touches the ledger.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::calls::Reserved;
use super::refusal::Refusal;
use crate::contract::ids::GroupName;
use crate::contract::time::Millis;
use crate::controlplane::store::usage::{self, Day};
use crate::controlplane::store::{Ledger, StoreError, groups};
use crate::controlplane::telemetry::log;

/// What an agent may use today, and has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `None`: as much as it likes.
    pub most: Option<u64>,
    /// In records that are written.
    pub used: u64,
}

/// Looks up how an agent stands.
pub type Look = Arc<
    dyn Fn(GroupName) -> Pin<Box<dyn Future<Output = Result<Standing, StoreError>> + Send>> + Send + Sync,
>;

/// As the ledger has it.
pub fn of_ledger(ledger: Ledger) -> Look {
    Arc::new(move |group| {
        let ledger = ledger.clone();
        Box::pin(async move {
            let standing = ledger.read(move |conn| {
                let most = groups::live(conn, &group)?.and_then(|group| group.limits.tokens_a_day);
                // Most agents have no limit, and nothing is added up for them.
                let used = match most {
                    None => 0,
                    Some(_) => usage::of_day(conn, Day::of(Millis::now()), &group)?,
                };
                Ok(Standing { most, used })
            });
            standing.await
        })
    })
}

/// Whether a call may be made that has this reserved.
pub(super) async fn check(look: &Look, group: &GroupName, reserved: &Reserved) -> Result<(), Refusal> {
    match look(group.clone()).await {
        Ok(standing) => judge(standing, reserved.by_others()),
        Err(error) => {
            log::error("model.budget_unknown", &[("agent", group), ("error", &error)]);
            Err(Refusal::unknown_budget())
        }
    }
}

fn judge(Standing { most, used }: Standing, by_others: u64) -> Result<(), Refusal> {
    let Some(most) = most else { return Ok(()) };
    if used >= most {
        let message = format!(
            "this agent has used {used} of the {most} tokens that it may use in a day; it may again from 00:00 UTC, or \
             when an operator allows more"
        );
        return Err(Refusal::budget(&message));
    }
    if used.saturating_add(by_others) >= most {
        return Err(Refusal::busy("calls of this agent are running that may use up what it may use today"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_has_an_end_and_what_runs_counts() {
        let status = |most, used, others| {
            judge(Standing { most, used }, others).map_err(|refusal| refusal.status.as_u16())
        };
        assert_eq!(status(None, u64::MAX, u64::MAX), Ok(()));
        assert_eq!(status(Some(100), 99, 0), Ok(()));
        assert_eq!(status(Some(100), 100, 0), Err(402));
        assert_eq!(status(Some(100), 0, 99), Ok(()));
        assert_eq!(status(Some(100), 0, 100), Err(429), "the others may leave something");
        assert_eq!(status(Some(100), 1, u64::MAX), Err(429));
    }
}
