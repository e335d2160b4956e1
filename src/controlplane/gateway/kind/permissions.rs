//! `permissions`: `{"grant"?: [{"user","role","scope"?}], "revoke"?: […], "add_members"?: [USER],
//! "remove_members"?: [USER]}`. A role's scope is the group of the change, or `*` for all groups.

use super::Reading;
use crate::contract::ids::{GroupName, UserId};
use crate::contract::json::Value;
use crate::controlplane::gateway::effect::{EVERYWHERE, Effect};
use crate::controlplane::gateway::payload::{Refusal, Refusals, choice, fields, optional_list, shown, text};
use crate::controlplane::store::roles::Role;

/// Steps of one kind in one change: what a person can still read.
const MOST: usize = 50;

fn user(text: &str) -> Result<UserId, Refusals> {
    // Agents ask under names of that form.
    let user = UserId::parse(text).ok().filter(|user| user.channel() != "agent");
    user.ok_or_else(|| {
        let text = format!("{} is no user; expected channel:handle, such as telegram:12345", shown(text));
        vec![Refusal::new("user", text)]
    })
}

/// The members that a payload names under this field.
pub(super) fn members(payload: &Value, name: &str) -> Result<Vec<UserId>, Refusals> {
    let mut found = Vec::new();
    for item in optional_list(payload, name, MOST)? {
        let id = user(item.as_str().unwrap_or_default())?;
        if !found.contains(&id) {
            found.push(id);
        }
    }
    Ok(found)
}

fn roles(payload: &Value, name: &str, group: &GroupName, given: bool) -> Result<Vec<Effect>, Refusals> {
    let mut found = Vec::new();
    for item in optional_list(payload, name, MOST)? {
        fields(item, &["user", "role", "scope"])?;
        let user = user(&text(item, "user", 512)?)?;
        let word = choice(item, "role", &["approver", "admin", "owner"])?;
        let role = Role::parse(&word).ok_or_else(|| vec![Refusal::new("role", "there is no such role")])?;
        let scope = match item.get("scope") {
            None | Some(Value::Null) => None,
            Some(Value::String(word)) => Some(word.as_str()),
            Some(_) => {
                let text = format!("scope must be {group} or {EVERYWHERE:?}, or be left out");
                return Err(vec![Refusal::new("scope", text)]);
            }
        };
        let scope = match scope {
            Some(EVERYWHERE) => None,
            None if role == Role::Owner => None,
            None => Some(group.clone()),
            Some(word) if word == group.as_str() => Some(group.clone()),
            Some(word) => {
                let text = format!(
                    "scope is {}; expected {group} or {EVERYWHERE:?}; another group takes a change of its own",
                    shown(word)
                );
                return Err(vec![Refusal::new("scope", text)]);
            }
        };
        if role == Role::Owner && scope.is_some() {
            let text = format!("an owner owns everything; leave scope out or make it {EVERYWHERE:?}");
            return Err(vec![Refusal::new("scope", text)]);
        }
        let effect = Effect::SetRole { user, role, scope, given };
        if !found.contains(&effect) {
            found.push(effect);
        }
    }
    Ok(found)
}

fn written(effects: &[Effect]) -> Value {
    let roles = effects.iter().filter_map(|effect| match effect {
        Effect::SetRole { user, role, scope, .. } => Some(Value::object([
            ("user", Value::from(user.to_string())),
            ("role", Value::from(role.as_str())),
            ("scope", Value::from(scope.as_ref().map_or(EVERYWHERE, GroupName::as_str))),
        ])),
        _ => None,
    });
    Value::Array(roles.collect())
}

pub(super) fn read(group: &GroupName, payload: &Value) -> Result<Reading, Refusals> {
    fields(payload, &["grant", "revoke", "add_members", "remove_members"])?;
    let (grant, revoke) = (roles(payload, "grant", group, true)?, roles(payload, "revoke", group, false)?);
    let (add, remove) = (members(payload, "add_members")?, members(payload, "remove_members")?);
    let names =
        |users: &[UserId]| Value::Array(users.iter().map(|user| Value::from(user.to_string())).collect());
    let payload = Value::object([
        ("grant", written(&grant)),
        ("revoke", written(&revoke)),
        ("add_members", names(&add)),
        ("remove_members", names(&remove)),
    ]);
    let member = |user: UserId, given: bool| Effect::SetMember { group: group.clone(), user, given };
    let mut effects = grant;
    effects.extend(revoke);
    effects.extend(add.into_iter().map(|user| member(user, true)));
    effects.extend(remove.into_iter().map(|user| member(user, false)));
    if effects.is_empty() {
        let text = "the payload asks for nothing; give grant, revoke, add_members or remove_members";
        return Err(vec![Refusal::new("payload", text)]);
    }
    Ok(Reading { payload, effects })
}
