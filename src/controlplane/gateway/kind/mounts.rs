//! `mounts`: `{"add"?: [{"name", "source"?, "access"?}], "remove"?: [NAME]}`. With a source it is a directory of the
//! host, to be read; without one the daemon makes a directory for the group, to be read and written.

use rusqlite::Connection;

use super::{Read, Reading, names};
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::contract::plain;
use crate::controlplane::gateway::effect::{Effect, Mount, READ, WRITE};
use crate::controlplane::gateway::facts::Facts;
use crate::controlplane::gateway::payload::{
    Refusal, Refusals, fields, optional, optional_list, shown, text,
};
use crate::controlplane::grants::{MOST_MOUNTS, NAME_RULE, is_name, mounts};

/// Name, mount and how it is written.
fn added(item: &Value, facts: &Facts) -> Result<(String, Mount, Value), Refusals> {
    fields(item, &["name", "source", "access"])?;
    let name = text(item, "name", 1000)?;
    if !is_name(&name) {
        let text = format!("{} is no name of a mount; expected {NAME_RULE}", shown(&name));
        return Err(vec![Refusal::new("name", text)]);
    }
    let source = optional(item, "source", mounts::MOST_PATH)?;
    let access = optional(item, "access", 16)?;
    let written = |access: &str| {
        Value::object([
            ("name", Value::from(name.as_str())),
            ("source", source.as_deref().map_or(Value::Null, Value::from)),
            ("access", Value::from(access)),
        ])
    };
    match (&source, access.as_deref()) {
        (Some(source), None | Some(READ)) => {
            let found = facts.directory(source).map_err(|wrong| {
                vec![Refusal::new("source", format!("mount {name}: {}", plain::line(&wrong)))]
            })?;
            let mount = Mount::Directory { source: source.clone(), which: found.which };
            let written = written(READ);
            Ok((name, mount, written))
        }
        (None, None | Some(WRITE)) => {
            let written = written(WRITE);
            Ok((name, Mount::Own, written))
        }
        (Some(_), Some(WRITE)) => {
            let text = "an agent writes only in a directory that the control plane makes for it; leave source out, or \
                        make access \"ro\"";
            Err(vec![Refusal::new("access", text)])
        }
        (None, Some(READ)) => {
            let text = "a mount to be read needs source: a directory of the host";
            Err(vec![Refusal::new("source", text)])
        }
        (_, Some(word)) => {
            let text = format!("access is {}; expected one of: {READ}, {WRITE}", shown(word));
            Err(vec![Refusal::new("access", text)])
        }
    }
}

pub(super) fn read(conn: &Connection, group: &GroupName, payload: &Value, facts: &Facts) -> Read {
    let reading = (|| {
        fields(payload, &["add", "remove"])?;
        let (mut shown, mut effects) = (Vec::new(), Vec::new());
        for item in optional_list(payload, "add", MOST_MOUNTS)? {
            let (name, mount, written) = added(item, facts)?;
            shown.push(written);
            effects.push(Effect::SetMount { group: group.clone(), name, mount: Some(mount) });
        }
        let removed = names(payload, "remove")?;
        effects.extend(removed.iter().map(|name| Effect::SetMount {
            group: group.clone(),
            name: name.clone(),
            mount: None,
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
