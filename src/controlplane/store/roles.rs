//! What people may do beside talking: owners, admins and approvers, of one agent group or of all.

use rusqlite::{Connection, Row, Transaction, params};

use super::StoreError;
use super::users::user_id;
use crate::contract::ids::{GroupName, UserId};
use crate::contract::time::Millis;

/// A role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Everything, everywhere.
    Owner,
    /// Operates and decides, but makes no admin and no owner.
    Admin,
    /// Decides changes.
    Approver,
}

impl Role {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Admin => "admin",
            Self::Approver => "approver",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Owner, Self::Admin, Self::Approver].into_iter().find(|role| role.as_str() == word)
    }
}

/// A role that somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleGrant {
    /// Who.
    pub user: UserId,
    /// Which.
    pub role: Role,
    /// For which group; `None` is all.
    pub scope: Option<GroupName>,
    /// Since when.
    pub since: Millis,
}

fn scope_text(scope: Option<&GroupName>) -> &str {
    scope.map_or("", GroupName::as_str)
}

fn read(row: &Row<'_>) -> Result<RoleGrant, StoreError> {
    let scope: String = row.get(2)?;
    Ok(RoleGrant {
        user: user_id(&row.get::<_, String>(0)?)?,
        role: Role::parse(&row.get::<_, String>(1)?).ok_or(StoreError::BadRow("a role"))?,
        scope: match scope.as_str() {
            "" => None,
            name => Some(GroupName::parse(name).map_err(|_| StoreError::BadRow("a role's scope"))?),
        },
        since: Millis(row.get(3)?),
    })
}

/// Gives a role. Says whether it is new.
///
/// # Errors
/// SQLite's.
pub fn grant(
    tx: &Transaction<'_>,
    user: &UserId,
    role: Role,
    scope: Option<&GroupName>,
) -> Result<bool, StoreError> {
    let sql = "INSERT INTO roles (user, role, scope, since) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
    let values = params![user.to_string(), role.as_str(), scope_text(scope), Millis::now().0];
    Ok(tx.prepare_cached(sql)?.execute(values)? == 1)
}

/// Takes a role away. Says whether it was there.
///
/// # Errors
/// SQLite's.
pub fn revoke(
    tx: &Transaction<'_>,
    user: &UserId,
    role: Role,
    scope: Option<&GroupName>,
) -> Result<bool, StoreError> {
    let sql = "DELETE FROM roles WHERE user = ?1 AND role = ?2 AND scope = ?3";
    Ok(tx.prepare_cached(sql)?.execute(params![user.to_string(), role.as_str(), scope_text(scope)])? == 1)
}

/// Takes away every role for a group that is deleted.
///
/// # Errors
/// SQLite's.
pub fn forget(tx: &Transaction<'_>, group: &GroupName) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM roles WHERE scope = ?1")?.execute([group.as_str()])?;
    Ok(())
}

/// Whether somebody has exactly this role.
///
/// # Errors
/// SQLite's.
pub fn has(
    conn: &Connection,
    user: &UserId,
    role: Role,
    scope: Option<&GroupName>,
) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM roles WHERE user = ?1 AND role = ?2 AND scope = ?3)";
    let values = params![user.to_string(), role.as_str(), scope_text(scope)];
    Ok(conn.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
}

/// The roles that somebody has.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of(conn: &Connection, user: &UserId) -> Result<Vec<RoleGrant>, StoreError> {
    let sql = "SELECT user, role, scope, since FROM roles WHERE user = ?1 ORDER BY role, scope";
    conn.prepare_cached(sql)?.query_and_then([user.to_string()], read)?.collect()
}

/// How many owners there are.
///
/// # Errors
/// SQLite's.
pub fn owners(conn: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM roles WHERE role = 'owner' AND scope = ''";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Up to `limit` roles by user, role and scope, after one of these.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    after: (&str, &str, &str),
    limit: usize,
) -> Result<Vec<RoleGrant>, StoreError> {
    let sql = "SELECT user, role, scope, since FROM roles WHERE (user, role, scope) > (?1, ?2, ?3)
               ORDER BY user, role, scope LIMIT ?4";
    let values = params![after.0, after.1, after.2, super::rows(limit)];
    conn.prepare_cached(sql)?.query_and_then(values, read)?.collect()
}
