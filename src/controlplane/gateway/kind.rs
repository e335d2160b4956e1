//! The kinds of change, and what each payload comes to: a canonical payload in which every default is written out,
//! and the effects. A kind yields effects of its own only; a field of another kind is an unknown field. Reads the
//! ledger, changes nothing.

mod create_agent;
mod destinations;
mod model;
mod mounts;
mod packages;
mod permissions;
mod persona;
mod tools;
mod wiring;

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::effect::Effect;
use super::facts::Facts;
use super::payload::{Refusal, Refusals, optional_list, shown};
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::grants::{MOST_MOUNTS, MOST_PACKAGES, NAME_RULE, is_name};
use crate::controlplane::store::StoreError;
use crate::controlplane::store::grants::{self, Sort};

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Documents of the persona.
    Persona,
    /// The tools.
    EnabledTools,
    /// Provider and model.
    Model,
    /// Chats, and where else it may send.
    Wiring,
    /// Roles and members.
    Permissions,
    /// Trees of files to read.
    Packages,
    /// Directories of the host.
    Mounts,
    /// A new agent group.
    CreateAgent,
}

/// Why a word is no kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoKind {
    /// It is one of the system, and this build does not have it.
    Absent,
    /// Nobody knows it.
    Unknown,
}

/// Kinds of which this build has no part that they could take effect on.
const ABSENT: &[&str] =
    &["egress", "mcp_access", "mcp_register", "skill_install", "vault_policy", "vault_rotate"];

/// What a payload comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The payload with every default written out.
    pub payload: Value,
    /// What it does.
    pub effects: Vec<Effect>,
}

/// Reading needs the ledger, which may fail.
pub type Read = Result<Result<Reading, Refusals>, StoreError>;

impl Kind {
    /// All of this build.
    pub const ALL: [Self; 8] = [
        Self::Persona,
        Self::EnabledTools,
        Self::Model,
        Self::Wiring,
        Self::Permissions,
        Self::Packages,
        Self::Mounts,
        Self::CreateAgent,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persona => "persona",
            Self::EnabledTools => "enabled_tools",
            Self::Model => "model",
            Self::Wiring => "wiring",
            Self::Permissions => "permissions",
            Self::Packages => "packages",
            Self::Mounts => "mounts",
            Self::CreateAgent => "create_agent",
        }
    }

    /// Reads the word.
    ///
    /// # Errors
    /// Whether it is a kind that this build does not have, or none at all.
    pub fn parse(word: &str) -> Result<Self, NoKind> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.ok_or(if ABSENT.contains(&word) { NoKind::Absent } else { NoKind::Unknown })
    }

    /// Whether no policy may approve it, whatever its file says.
    pub fn is_for_humans_only(self) -> bool {
        // Roles are credentials: who has one can decide the next change.
        matches!(self, Self::CreateAgent | Self::Permissions | Self::Mounts)
    }

    /// What a payload comes to for a group.
    pub(super) fn read(self, conn: &Connection, group: &GroupName, payload: &Value, facts: &Facts) -> Read {
        match self {
            Self::Persona => persona::read(conn, group, payload),
            Self::EnabledTools => Ok(tools::read(group, payload)),
            Self::Model => model::read(conn, group, payload),
            Self::Wiring => destinations::within(conn, group, wiring::read(group, payload)),
            Self::Permissions => Ok(permissions::read(group, payload)),
            Self::Packages => packages::read(conn, group, payload, facts),
            Self::Mounts => mounts::read(conn, group, payload, facts),
            Self::CreateAgent => create_agent::read(conn, group, payload),
        }
    }
}

/// The names that a payload takes away under this field.
fn names(payload: &Value, field: &str) -> Result<Vec<String>, Refusals> {
    /// What a person can still read.
    const MOST: usize = 50;
    let name = |item: &Value| {
        let word = item.as_str().unwrap_or_default();
        is_name(word).then(|| word.to_owned()).ok_or_else(|| {
            vec![Refusal::new(field, format!("{} is no name; expected {NAME_RULE}", shown(word)))]
        })
    };
    optional_list(payload, field, MOST)?.iter().map(name).collect()
}

/// The reading, unless the group would have more packages or mounts than it may.
fn within(conn: &Connection, group: &GroupName, reading: Result<Reading, Refusals>) -> Read {
    let Ok(asked) = &reading else { return Ok(reading) };
    let refusal = too_many(conn, group, &asked.effects)?;
    Ok(refusal.map_or(reading, |refusal| Err(vec![refusal])))
}

/// What stands against steps after which the group would have more packages or mounts than it may.
pub(super) fn too_many(
    conn: &Connection,
    group: &GroupName,
    effects: &[Effect],
) -> Result<Option<Refusal>, StoreError> {
    let had = grants::of(conn, group)?;
    for (sort, most) in [(Sort::Package, MOST_PACKAGES), (Sort::Mount, MOST_MOUNTS)] {
        let of_sort = had.iter().filter(|grant| grant.what.sort() == sort);
        let mut names: BTreeSet<&str> = of_sort.map(|grant| grant.name.as_str()).collect();
        for effect in effects {
            let (name, is_given) = match effect {
                Effect::SetPackage { name, package, .. } if sort == Sort::Package => {
                    (name, package.is_some())
                }
                Effect::SetMount { name, mount, .. } if sort == Sort::Mount => (name, mount.is_some()),
                _ => continue,
            };
            if is_given {
                names.insert(name.as_str())
            } else {
                names.remove(name.as_str())
            };
        }
        if names.len() > most {
            let (count, sort) = (names.len(), sort.as_str());
            let text = format!("{group} would have {count} {sort}s, and {most} are the most; remove some");
            return Ok(Some(Refusal::new("add", text)));
        }
    }
    Ok(None)
}
