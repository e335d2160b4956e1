//! Doing a step, in the transaction that decides its change; and what there is before it. Touches the ledger.

use rusqlite::{Connection, Transaction};

use super::effect::Effect;
use super::payload::Refusal;
use crate::contract::ids::GroupName;
use crate::controlplane::store::destinations;
use crate::controlplane::store::grants::{self, Sort};
use crate::controlplane::store::groups::{self, AgentGroup, NewGroup, Tools};
use crate::controlplane::store::roles;
use crate::controlplane::store::{StoreError, held, members, revisions, users, wirings};

/// Why a step cannot be done any more.
const GONE: StoreError = StoreError::Conflict("what this change is about is not there any more");

fn there(conn: &Connection, group: &GroupName) -> Result<AgentGroup, StoreError> {
    groups::live(conn, group)?.ok_or_else(|| StoreError::NoGroup(group.clone()))
}

impl Effect {
    /// What stands against the step in the ledger as it is; `created` is the group that the same change makes.
    pub(super) fn objection(
        &self,
        conn: &Connection,
        created: Option<&GroupName>,
    ) -> Result<Option<Refusal>, StoreError> {
        let refused = |field: &str, text: String| Ok(Some(Refusal::new(field, text)));
        if let Self::CreateAgent { group, .. } = self {
            return match groups::get(conn, group)? {
                Some(_) => refused("group", format!("there is or was an agent {group}; choose another name")),
                None => Ok(None),
            };
        }
        if let Some(group) = self.group().filter(|group| Some(*group) != created)
            && groups::live(conn, group)?.is_none()
        {
            return refused(
                "group",
                format!("there is no agent {group}; `ironctl agent list` shows those there are"),
            );
        }
        Ok(None)
    }

    /// Whether the step would change anything.
    pub(super) fn is_change(
        &self,
        conn: &Connection,
        created: Option<&GroupName>,
    ) -> Result<bool, StoreError> {
        let is_new = |group: &GroupName| Some(group) == created;
        Ok(match self {
            Self::CreateAgent { .. } => true,
            Self::SetDocument { group, .. }
            | Self::SetTools { group, .. }
            | Self::SetMember { group, .. }
                if is_new(group) =>
            {
                // A new agent has no tools, so that one step is told for what it leaves out.
                true
            }
            Self::SetDocument { group, document, text } => {
                there(conn, group)?.persona.document(*document) != text
            }
            Self::SetTools { group, tools } => there(conn, group)?.tools != *tools,
            Self::SetModel { group, provider, model } => {
                let now = there(conn, group)?;
                now.provider != *provider || now.model != *model
            }
            Self::SetRole { user, role, scope, given } => {
                roles::has(conn, user, *role, scope.as_ref())? != *given
            }
            Self::SetMember { group, user, given } => members::has(conn, group, user)? != *given,
            Self::SetWiring { group, chat, terms } => {
                wirings::find(conn, group, chat.parts())?.map(|wiring| wiring.terms) != *terms
            }
            Self::SetDestination { group, name, target } => {
                destinations::find(conn, group, name)?.map(|known| known.target) != *target
            }
            Self::SetPackage { group, name, package } => {
                let wanted = package.as_ref().map(|package| package.grant(name));
                grants::find(conn, group, Sort::Package, name)? != wanted
            }
            Self::SetMount { group, name, mount } => {
                let wanted = mount.as_ref().map(|mount| mount.grant(name));
                grants::find(conn, group, Sort::Mount, name)? != wanted
            }
        })
    }

    /// Does it; `record` is the audit record of that.
    pub(super) fn apply(&self, tx: &Transaction<'_>, record: u64) -> Result<(), StoreError> {
        self.take_hold(tx, record)?;
        match self {
            Self::CreateAgent { group, .. }
            | Self::SetTools { group, .. }
            | Self::SetDestination { group, .. } => groups::set_record(tx, group, record, true),
            Self::SetDocument { group, .. } | Self::SetModel { group, .. } => {
                groups::set_record(tx, group, record, false)
            }
            // People and chats are not what the agent is, and each grant has the record of its own.
            Self::SetRole { .. }
            | Self::SetMember { .. }
            | Self::SetWiring { .. }
            | Self::SetPackage { .. }
            | Self::SetMount { .. } => Ok(()),
        }
    }

    fn take_hold(&self, tx: &Transaction<'_>, record: u64) -> Result<(), StoreError> {
        match self {
            Self::CreateAgent { group, title, provider, model } => {
                let new = NewGroup {
                    name: group.clone(),
                    title: title.clone(),
                    provider: provider.clone(),
                    model: model.clone(),
                    tools: Tools::None,
                };
                if !groups::ensure(tx, &new)? {
                    return Err(GONE);
                }
            }
            Self::SetDocument { group, document, text } => groups::set_document(tx, group, *document, text)?,
            Self::SetTools { group, tools } => groups::set_tools(tx, group, tools)?,
            Self::SetModel { group, provider, model } => groups::set_model(tx, group, provider, model)?,
            Self::SetRole { user, role, scope, given: true } => {
                users::put(tx, user, "")?;
                roles::grant(tx, user, *role, scope.as_ref())?;
                // Who may speak to it now is heard.
                match (role, scope) {
                    (roles::Role::Approver, _) => {}
                    (_, Some(group)) => held::admit(tx, group, user)?,
                    (_, None) => held::admit_everywhere(tx, user)?,
                }
            }
            Self::SetRole { user, role, scope, given: false } => {
                roles::revoke(tx, user, *role, scope.as_ref())?;
            }
            Self::SetMember { group, user, given: true } => {
                users::put(tx, user, "")?;
                members::add(tx, group, user)?;
                held::admit(tx, group, user)?;
            }
            Self::SetMember { group, user, given: false } => {
                members::remove(tx, group, user)?;
            }
            Self::SetWiring { group, chat, terms: Some(terms) } => {
                wirings::put(tx, group, chat.parts(), terms)?
            }
            Self::SetWiring { group, chat, terms: None } => {
                wirings::remove(tx, group, chat.parts())?;
            }
            Self::SetDestination { group, name, target: Some(target) } => {
                destinations::put(tx, group, name, target)?
            }
            Self::SetDestination { group, name, target: None } => {
                destinations::remove(tx, group, name)?;
            }
            Self::SetPackage { group, name, package: Some(package) } => {
                grants::put(tx, group, &package.grant(name), record)?;
            }
            Self::SetPackage { group, name, package: None } => {
                grants::remove(tx, group, Sort::Package, name)?;
            }
            Self::SetMount { group, name, mount: Some(mount) } => {
                grants::put(tx, group, &mount.grant(name), record)?;
            }
            Self::SetMount { group, name, mount: None } => {
                grants::remove(tx, group, Sort::Mount, name)?;
            }
        }
        if let Some(neighbours) = self.neighbours() {
            revisions::bump(tx, &neighbours)?;
        }
        revisions::bump(tx, &self.object())
    }
}
