//! Refused actions of agents as records: one for each session, action, reason and minute, however many there were, so that a
//! sandbox that asks without end fills no disk, and no agent's noise hides another's. Nothing waits for them: what was
//! counted in the last minute is lost with a daemon that is killed, but for the line in the log with which each count
//! begins. Touches the ledger through the exporter's handle.

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
/// Kinds of one agent counted apart in a window; its others share one record.
const KINDS: usize = 32;
/// What the others are called.
const OTHERS: &str = "others";

/// Refusals that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    group: GroupName,
    session: Option<SessionId>,
    action: &'static str,
    /// Why it was refused.
    why: &'static str,
}

/// Refusals of this minute.
#[derive(Debug, Default)]
pub(super) struct Counts(BTreeMap<Kind, u64>);

impl Counts {
    /// Counts one. Says whether it is the first of its kind.
    fn add(
        &mut self,
        session: &SessionId,
        group: &GroupName,
        action: &'static str,
        why: &'static str,
    ) -> bool {
        let mut kind = Kind { group: group.clone(), session: Some(session.clone()), action, why };
        let of_group = self.0.keys().filter(|known| known.group == *group && known.session.is_some());
        if !self.0.contains_key(&kind) && of_group.count() >= KINDS {
            kind = Kind { group: group.clone(), session: None, action: OTHERS, why };
        }
        let count = self.0.entry(kind).or_default();
        *count = count.saturating_add(1);
        *count == 1
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
        let is_first = counts.add(session, group, action, why);
        drop(counts);
        if is_first {
            let about = &[
                ("session", session as _),
                ("group", group as _),
                ("action", &action as _),
                ("why", &why as _),
            ];
            log::info("action.refused", about);
        }
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
            for (Kind { group, session, action, why }, count) in &counts.0 {
                let actor = format!("agent:{group}");
                let via = session.as_ref().map(|session| format!("session:{session}")).unwrap_or_default();
                let detail = Value::object([("why", Value::from(*why)), ("count", Value::from(*count))]);
                let act = "action.refused";
                let group = Some(group);
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
        assert_eq!(counts.0.values().sum::<u64>(), 20_000, "none is lost");
        // Another agent's are told apart all the same.
        let (quiet, session) = (GroupName::parse("b").unwrap(), SessionId::mint());
        assert!(counts.add(&session, &quiet, "create_agent", "not_granted"));
        assert!(!counts.add(&session, &quiet, "create_agent", "not_granted"));
        // And what was refused for another reason.
        assert!(counts.add(&session, &quiet, "create_agent", "too_many"));
        let kind =
            |why| Kind { group: quiet.clone(), session: Some(session.clone()), action: "create_agent", why };
        assert_eq!(counts.0.get(&kind("not_granted")), Some(&2));
        assert_eq!(counts.0.get(&kind("too_many")), Some(&1));
    }
}
