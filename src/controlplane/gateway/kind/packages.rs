//! `packages`: `{"add"?: ["NAME@VERSION", …], "remove"?: [NAME, …]}`. A package is a directory of that name that the
//! operator put into `packages/` in the state directory. Another version takes the place of the one that is there.

use rusqlite::Connection;

use super::{Read, Reading, names};
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::contract::plain;
use crate::controlplane::gateway::effect::{Effect, Package};
use crate::controlplane::gateway::facts::{Facts, split};
use crate::controlplane::gateway::payload::{Refusal, Refusals, fields, optional_list, shown};
use crate::controlplane::grants::{MOST_PACKAGES, NAME_RULE};

/// Name, version, and what is in it.
fn added(item: &Value, facts: &Facts) -> Result<(String, Package), Refusals> {
    let word = item.as_str().unwrap_or_default();
    let Some((name, version)) = split(word) else {
        let text = format!("{} is no package; expected NAME@VERSION, each of {NAME_RULE}", shown(word));
        return Err(vec![Refusal::new("add", text)]);
    };
    let tree = facts.package(word).map_err(|wrong| vec![Refusal::new("add", plain::line(&wrong))])?;
    Ok((name.to_owned(), Package { version: version.to_owned(), tree }))
}

pub(super) fn read(conn: &Connection, group: &GroupName, payload: &Value, facts: &Facts) -> Read {
    let reading = (|| {
        fields(payload, &["add", "remove"])?;
        let (mut shown, mut effects) = (Vec::new(), Vec::new());
        for item in optional_list(payload, "add", MOST_PACKAGES)? {
            let (name, package) = added(item, facts)?;
            shown.push(Value::from(format!("{name}@{}", package.version)));
            effects.push(Effect::SetPackage { group: group.clone(), name, package: Some(package) });
        }
        let removed = names(payload, "remove")?;
        effects.extend(removed.iter().map(|name| Effect::SetPackage {
            group: group.clone(),
            name: name.clone(),
            package: None,
        }));
        if effects.is_empty() {
            return Err(vec![Refusal::new("payload", "the payload asks for nothing; give add or remove")]);
        }
        let removed: Vec<Value> = removed.into_iter().map(Value::from).collect();
        let payload = Value::object([("add", Value::Array(shown)), ("remove", Value::Array(removed))]);
        Ok(Reading { payload, effects })
    })();
    super::within(conn, group, reading)
}
