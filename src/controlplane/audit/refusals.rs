//! Refused actions of agents as records: one for each session, action and minute, however many there were, so that a
//! sandbox that asks without end fills no disk. Nothing waits for them. Touches the ledger through the exporter's
//! handle.

use std::collections::BTreeMap;
use std::time::Duration;

use smol::Timer;

use super::{Audit, Record, lock, record};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::json::Value;
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// How long refusals of one kind are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Kinds counted apart in a window; all others share one record.
const KINDS: usize = 256;
/// What the others are called.
const OTHERS: &str = "others";

/// Refusals that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    session: Option<SessionId>,
    action: &'static str,
}

/// What is known of them.
#[derive(Clone, Debug)]
struct Count {
    group: Option<GroupName>,
    /// Why the first one was refused.
    why: &'static str,
    count: u64,
}

/// Refusals of this minute.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<Kind, Count>);

impl Counts {
    fn add(&mut self, session: &SessionId, group: &GroupName, action: &'static str, why: &'static str) {
        let mut kind = Kind { session: Some(session.clone()), action };
        let mut group = Some(group.clone());
        if self.0.len() >= KINDS && !self.0.contains_key(&kind) {
            kind = Kind { session: None, action: OTHERS };
            group = None;
        }
        let count = self.0.entry(kind).or_insert(Count { group, why, count: 0 });
        count.count = count.count.saturating_add(1);
    }
}

impl Audit {
    /// An action of an agent was refused: counted, and recorded within a minute. Neither word is the agent's own.
    pub fn action_refused(
        &self,
        session: &SessionId,
        group: &GroupName,
        action: &'static str,
        why: &'static str,
    ) {
        let mut counts = lock(&self.shared.refusals);
        let begins = counts.0.is_empty();
        counts.add(session, group, action, why);
        drop(counts);
        if begins {
            let audit = self.clone();
            tasks::spawn(async move {
                Timer::after(WINDOW).await;
                audit.flush_refusals().await;
            })
            .detach();
        }
    }

    /// Records the refused actions that were counted so far.
    pub async fn flush_refusals(&self) {
        let counts = std::mem::take(&mut *lock(&self.shared.refusals));
        if counts.0.is_empty() {
            return;
        }
        let noted = self.note(move |tx| {
            for (Kind { session, action }, Count { group, why, count }) in &counts.0 {
                let actor =
                    group.as_ref().map_or_else(|| "agents".to_owned(), |group| format!("agent:{group}"));
                let via = session.as_ref().map(|session| format!("session:{session}")).unwrap_or_default();
                let detail = Value::object([("why", Value::from(*why)), ("count", Value::from(*count))]);
                let act = "action.refused";
                let group = group.as_ref();
                record(tx, &Record { act, actor: &actor, via: &via, group, object: action, detail })?;
            }
            Ok(())
        });
        if let Err(error) = noted.await {
            log::warn("audit.refusals_not_recorded", &[("error", &error)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_bounded_number_of_records() {
        let group = GroupName::parse("a").unwrap();
        let mut counts = Counts::default();
        let session = SessionId::mint();
        for _ in 0..10_000 {
            counts.add(&session, &group, "unknown", "unknown_action");
        }
        assert_eq!(counts.0.len(), 1);
        for _ in 0..10_000 {
            counts.add(&SessionId::mint(), &group, "unknown", "unknown_action");
        }
        assert_eq!(counts.0.len(), KINDS + 1);
        assert_eq!(counts.0.values().map(|count| count.count).sum::<u64>(), 20_000, "none is lost");
    }
}
