//! The part of `wiring` and `create_agent` that says where an agent may send beside the chat that it answers: a list of
//! `{"name", "kind"?: "chat", "display_name"?, "channel", "instance"?, "chat", "thread"?}` or `{"name", "kind": "agent",
//! "display_name"?, "agent_group"}` to give, and of names to take away. What no door of this build leads to is refused,
//! and an agent that is not there. Reads the ledger, changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::{Read, Reading, names, wiring};
use crate::contract::catalogue::TITLE_BYTES;
use crate::contract::ids::GroupName;
use crate::contract::inbound::AGENT;
use crate::contract::json::Value;
use crate::controlplane::doors;
use crate::controlplane::gateway::effect::{Effect, target_value};
use crate::controlplane::gateway::payload::{
    Refusal, Refusals, UNSUPPORTED, choice, fields, optional, optional_list, shown, text,
};
use crate::controlplane::grants::{NAME_RULE, is_name};
use crate::controlplane::store::destinations::{self, Target};
use crate::controlplane::store::groups;

/// Steps of one kind in one change: what a person can still read.
const MOST: usize = 50;
/// Destinations of one agent: what a model can still choose from.
const MOST_OF_A_GROUP: usize = 100;
/// Longest name of a thread, in bytes; as long as the inbox takes it.
const MOST_NAME: usize = 512;
/// What an agent calls the chat that it answers.
const HERE: &[&str] = &["current", "here"];

/// The destinations that a payload gives under this field: as they are written, and their effects.
pub(super) fn added(
    group: &GroupName,
    payload: &Value,
    field: &str,
) -> Result<(Vec<Value>, Vec<Effect>), Refusals> {
    let (mut shown, mut effects): (Vec<Value>, Vec<Effect>) = (Vec::new(), Vec::new());
    for item in optional_list(payload, field, MOST)? {
        let is_agent = choice(item, "kind", &["chat", "agent"])? == "agent";
        let target = if is_agent {
            fields(item, &["name", "kind", "display_name", "agent_group"])?;
            agent(item)?
        } else {
            fields(item, &["name", "kind", "display_name", "channel", "instance", "chat", "thread"])?;
            target(item)?
        };
        let name = name(item)?;
        let mut written = vec![("name", Value::from(name.as_str()))];
        if is_agent {
            written.extend([
                ("kind", Value::from("agent")),
                ("display_name", Value::from(target.display_name.as_str())),
                ("agent_group", Value::from(target.chat.as_str())),
            ]);
        } else {
            written.push(("kind", Value::from("chat")));
            written.extend(target_value(&target));
        }
        shown.push(Value::object(written));
        effects.push(Effect::SetDestination { group: group.clone(), name, target: Some(target) });
    }
    Ok((shown, effects))
}

/// The destinations that a payload takes away under this field.
pub(super) fn removed(
    group: &GroupName,
    payload: &Value,
    field: &str,
) -> Result<(Vec<Value>, Vec<Effect>), Refusals> {
    let names = names(payload, field)?;
    let shown = names.iter().map(|name| Value::from(name.as_str())).collect();
    let effect = |name| Effect::SetDestination { group: group.clone(), name, target: None };
    Ok((shown, names.into_iter().map(effect).collect()))
}

fn name(item: &Value) -> Result<String, Refusals> {
    let name = text(item, "name", MOST_NAME)?;
    if HERE.contains(&name.as_str()) {
        let why = format!("{name} is what an agent calls the chat that it answers; choose another name");
        return Err(vec![Refusal::new("name", why)]);
    }
    if !is_name(&name) {
        let why = format!("{} is no name; expected {NAME_RULE}", shown(&name));
        return Err(vec![Refusal::new("name", why)]);
    }
    Ok(name)
}

fn target(item: &Value) -> Result<Target, Refusals> {
    let chat = wiring::chat(item)?;
    let thread = optional(item, "thread", MOST_NAME)?.filter(|thread| !thread.is_empty());
    doors::lead_to(&chat.channel, &chat.instance, &chat.chat, thread.as_deref())
        .map_err(|no| vec![Refusal::new(UNSUPPORTED, no.to_string())])?;
    let display_name = display_name(item)?;
    Ok(Target { display_name, channel: chat.channel, instance: chat.instance, chat: chat.chat, thread })
}

/// Another agent, which is written to like a chat.
fn agent(item: &Value) -> Result<Target, Refusals> {
    let agent = text(item, "agent_group", MOST_NAME)?;
    let agent = GroupName::parse(&agent)
        .map_err(|error| vec![Refusal::new("agent_group", format!("agent_group is {error}"))])?;
    Ok(Target {
        display_name: display_name(item)?,
        channel: AGENT.to_owned(),
        instance: String::new(),
        chat: agent.to_string(),
        thread: None,
    })
}

fn display_name(item: &Value) -> Result<String, Refusals> {
    let display_name = optional(item, "display_name", TITLE_BYTES)?.unwrap_or_default();
    if display_name.contains('\0') {
        return Err(vec![Refusal::new("display_name", "display_name must be a text without NUL")]);
    }
    Ok(display_name)
}

/// The reading, unless the group would have more destinations than it may, or two for one chat: by a chat the host knows
/// which of them is meant.
pub(super) fn within(conn: &Connection, group: &GroupName, reading: Result<Reading, Refusals>) -> Read {
    let Ok(asked) = &reading else { return Ok(reading) };
    let refused = |why: String| Ok(Err(vec![Refusal::new("destinations", why)]));
    let mut names = BTreeSet::new();
    for effect in &asked.effects {
        // What would change nothing is not shown, so one of two steps could hide behind the other.
        if let Effect::SetDestination { name, .. } = effect
            && !names.insert(name)
        {
            return refused(format!("{name} is there twice; say once what becomes of it"));
        }
    }
    for effect in &asked.effects {
        let Some(agent) = effect.agent_written_to() else { continue };
        if agent.as_str() == group.as_str() {
            return refused(format!("{group} cannot write to itself; name another agent"));
        }
        if groups::live(conn, &agent)?.is_none() {
            return refused(format!("there is no agent {agent}; `ironctl agent list` shows those that are"));
        }
    }
    let known = destinations::of(conn, group)?.into_iter();
    let mut all: BTreeMap<String, Target> = known.map(|known| (known.name, known.target)).collect();
    for effect in &asked.effects {
        match effect {
            Effect::SetDestination { name, target: Some(target), .. } => {
                all.insert(name.clone(), target.clone());
            }
            Effect::SetDestination { name, target: None, .. } => {
                all.remove(name);
            }
            _ => {}
        }
    }
    if all.len() > MOST_OF_A_GROUP {
        let count = all.len();
        return refused(format!(
            "{group} would have {count} destinations, and {MOST_OF_A_GROUP} are the most; remove some"
        ));
    }
    let mut chats: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    for (name, target) in &all {
        if let Some(other) = chats.insert((&target.channel, &target.chat), name) {
            return refused(format!(
                "{other} and {name} would be the same chat; a chat has one name, so remove one of them"
            ));
        }
    }
    Ok(reading)
}
