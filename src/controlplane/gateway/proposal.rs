//! What a payload would do to the ledger as it is now: effects, difference, the revisions they stand on, and the
//! digest over all of it. Made when a change is submitted, and made again when it is decided: if it is not the same,
//! the approver saw something else. Reads the ledger.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::diff;
use super::effect::{self, Effect};
use super::facts::Facts;
use super::kind::Kind;
use super::payload::{Refusal, Refusals};
use crate::contract::chain;
use crate::contract::ids::{ChangeId, GroupName};
use crate::contract::json::{Value, canonical};
use crate::controlplane::store::changes::Renewed;
use crate::controlplane::store::roles::{self, Role};
use crate::controlplane::store::{StoreError, revisions};

/// A payload, worked out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proposal {
    /// The payload with every default written out, canonical.
    pub(super) payload: Value,
    /// What it does.
    pub(super) effects: Vec<Effect>,
    /// What would be different.
    diff: String,
    /// The revision of every object that an effect replaces, or that is shown beside it.
    base: Value,
}

impl Proposal {
    /// Works a payload out, or says everything that is wrong with it.
    pub(super) fn of(
        conn: &Connection,
        kind: Kind,
        group: &GroupName,
        payload: &Value,
        facts: &Facts,
    ) -> Result<Result<Self, Refusals>, StoreError> {
        let reading = match kind.read(conn, group, payload, facts)? {
            Ok(reading) => reading,
            Err(refusals) => return Ok(Err(refusals)),
        };
        let created = reading.effects.iter().find_map(|effect| match effect {
            Effect::CreateAgent { group, .. } => Some(group.clone()),
            _ => None,
        });
        let (mut refusals, mut effects): (Refusals, Vec<Effect>) = (Vec::new(), Vec::new());
        let mut objects: BTreeMap<String, u64> = BTreeMap::new();
        for effect in reading.effects {
            if let Some(refusal) = effect.objection(conn, created.as_ref())? {
                refusals.push(refusal);
                continue;
            }
            if !effect.is_change(conn, created.as_ref())? {
                continue;
            }
            let object = effect.object();
            let revision = revisions::get(conn, &object)?;
            if objects.insert(object.clone(), revision).is_some() {
                let text = format!(
                    "two steps of this change replace the same thing ({object}); ask for one of them"
                );
                refusals.push(Refusal::new("payload", crate::contract::plain::line(&text).into_owned()));
            }
            effects.push(effect);
        }
        for neighbours in effects.iter().filter_map(Effect::neighbours) {
            let revision = revisions::get(conn, &neighbours)?;
            objects.insert(neighbours, revision);
        }
        // An agent that is deleted and made anew is another one.
        let owner = format!("agent/{group}");
        let revision = revisions::get(conn, &owner)?;
        objects.entry(owner).or_insert(revision);
        if effects.iter().any(|effect| matches!(effect, Effect::SetRole { role: Role::Owner, .. })) {
            let by = |wanted: bool| {
                let is_one = |effect: &&Effect| matches!(effect, Effect::SetRole { role: Role::Owner, given, .. } if *given == wanted);
                effects.iter().filter(is_one).count() as u64
            };
            if roles::owners(conn)? + by(true) <= by(false) {
                refusals.push(Refusal::new(
                    "revoke",
                    "nobody would be an owner any more; make another one first",
                ));
            }
        }
        if refusals.is_empty() && effects.is_empty() {
            refusals
                .push(Refusal::new("payload", "nothing would change: everything is already as this asks"));
        }
        if !refusals.is_empty() {
            return Ok(Err(refusals));
        }
        let base = objects.into_iter().map(|(object, revision)| {
            Value::object([("object", Value::from(object)), ("revision", Value::from(revision))])
        });
        Ok(Ok(Self {
            payload: canonical(&reading.payload),
            diff: diff::all(conn, &effects)?,
            base: Value::Array(base.collect()),
            effects,
        }))
    }

    /// What an approver names: SHA-256 over id, kind, group, payload, effects and base.
    fn digest(&self, id: &ChangeId, kind: Kind, group: &GroupName) -> String {
        let signed = Value::object([
            ("id", Value::from(id.as_str())),
            ("kind", Value::from(kind.as_str())),
            ("group", Value::from(group.as_str())),
            ("payload", self.payload.clone()),
            ("effects", effect::to_list(&self.effects)),
            ("base", self.base.clone()),
        ]);
        chain::hex(&chain::hash(&canonical(&signed).to_string()))
    }

    /// As it is stored.
    pub(super) fn stored(&self, id: &ChangeId, kind: Kind, group: &GroupName) -> Renewed {
        Renewed {
            payload: self.payload.to_string(),
            effects: canonical(&effect::to_list(&self.effects)).to_string(),
            diff: self.diff.clone(),
            base: canonical(&self.base).to_string(),
            digest: self.digest(id, kind, group),
        }
    }
}
