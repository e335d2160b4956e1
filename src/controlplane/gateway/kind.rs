//! The kinds of change, and what each payload comes to: a canonical payload in which every default is written out,
//! and the effects. A kind yields effects of its own only; a field of another kind is an unknown field. Reads the
//! ledger, changes nothing.

mod create_agent;
mod model;
mod permissions;
mod persona;
mod tools;
mod wiring;

use rusqlite::Connection;

use super::effect::Effect;
use super::payload::Refusals;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::store::StoreError;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Documents of the persona.
    Persona,
    /// The tools.
    EnabledTools,
    /// Provider and model.
    Model,
    /// Chats.
    Wiring,
    /// Roles and members.
    Permissions,
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
const ABSENT: &[&str] = &[
    "packages",
    "mounts",
    "egress",
    "mcp_access",
    "mcp_register",
    "skill_install",
    "vault_policy",
    "vault_rotate",
];

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
    pub const ALL: [Self; 6] =
        [Self::Persona, Self::EnabledTools, Self::Model, Self::Wiring, Self::Permissions, Self::CreateAgent];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Persona => "persona",
            Self::EnabledTools => "enabled_tools",
            Self::Model => "model",
            Self::Wiring => "wiring",
            Self::Permissions => "permissions",
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
        matches!(self, Self::CreateAgent | Self::Permissions)
    }

    /// What a payload comes to for a group.
    pub(super) fn read(self, conn: &Connection, group: &GroupName, payload: &Value) -> Read {
        match self {
            Self::Persona => persona::read(conn, group, payload),
            Self::EnabledTools => Ok(tools::read(group, payload)),
            Self::Model => model::read(conn, group, payload),
            Self::Wiring => Ok(wiring::read(group, payload)),
            Self::Permissions => Ok(permissions::read(group, payload)),
            Self::CreateAgent => create_agent::read(conn, group, payload),
        }
    }
}
