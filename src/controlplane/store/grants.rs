//! What an agent group was granted beside its tools: packages and mounts. Each names the change that an approver
//! decided.

use rusqlite::{Connection, Row, Transaction, params};

use super::StoreError;
use crate::contract::ids::{ChangeId, GroupName};
use crate::contract::time::Millis;

/// What kind of thing was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantKind {
    /// A directory of packages, read-only under `/opt/packages`.
    Package,
    /// A directory of the host under `/mnt`.
    Mount,
}

impl GrantKind {
    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Package => "package",
            Self::Mount => "mount",
        }
    }
}

/// One grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Its name inside the sandbox, unique in (group, kind).
    pub name: String,
    /// What exactly: JSON, as its kind defines it.
    pub terms: String,
    /// The change that granted it.
    pub change: ChangeId,
    /// Since when.
    pub since: Millis,
}

fn read(row: &Row<'_>) -> Result<Grant, StoreError> {
    Ok(Grant {
        name: row.get(0)?,
        terms: row.get(1)?,
        change: ChangeId::parse(&row.get::<_, String>(2)?)
            .map_err(|_| StoreError::BadRow("a change's id"))?,
        since: Millis(row.get(3)?),
    })
}

/// Grants it; one of the same name is replaced.
///
/// # Errors
/// SQLite's.
pub fn put(
    tx: &Transaction<'_>,
    group: &GroupName,
    kind: GrantKind,
    name: &str,
    terms: &str,
    change: &ChangeId,
) -> Result<(), StoreError> {
    let sql =
        "INSERT INTO grants (agent_group, kind, name, terms, change, since) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT (agent_group, kind, name) DO UPDATE SET terms = ?4, change = ?5, since = ?6";
    let values = params![group.as_str(), kind.as_str(), name, terms, change.as_str(), Millis::now().0];
    tx.prepare_cached(sql)?.execute(values)?;
    Ok(())
}

/// Takes it back. Says whether it was there.
///
/// # Errors
/// SQLite's.
pub fn remove(
    tx: &Transaction<'_>,
    group: &GroupName,
    kind: GrantKind,
    name: &str,
) -> Result<bool, StoreError> {
    let sql = "DELETE FROM grants WHERE agent_group = ?1 AND kind = ?2 AND name = ?3";
    Ok(tx.prepare_cached(sql)?.execute([group.as_str(), kind.as_str(), name])? == 1)
}

/// The grants of a kind that a group has, by name.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of(conn: &Connection, group: &GroupName, kind: GrantKind) -> Result<Vec<Grant>, StoreError> {
    let sql =
        "SELECT name, terms, change, since FROM grants WHERE agent_group = ?1 AND kind = ?2 ORDER BY name";
    conn.prepare_cached(sql)?.query_and_then([group.as_str(), kind.as_str()], read)?.collect()
}
