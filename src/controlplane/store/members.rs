//! Who may talk to which agent group.

use std::collections::BTreeSet;

use rusqlite::{Connection, Transaction, params};

use super::StoreError;
use super::users::user_id;
use crate::contract::ids::{GroupName, UserId};
use crate::contract::time::Millis;

/// One membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub user: UserId,
    /// Since when.
    pub since: Millis,
}

/// Adds one. Says whether it is new.
///
/// # Errors
/// SQLite's.
pub fn add(tx: &Transaction<'_>, group: &GroupName, user: &UserId) -> Result<bool, StoreError> {
    let sql = "INSERT INTO members (agent_group, user, since) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    Ok(tx.prepare_cached(sql)?.execute(params![group.as_str(), user.to_string(), Millis::now().0])? == 1)
}

/// Removes one. Says whether it was there.
///
/// # Errors
/// SQLite's.
pub fn remove(tx: &Transaction<'_>, group: &GroupName, user: &UserId) -> Result<bool, StoreError> {
    let sql = "DELETE FROM members WHERE agent_group = ?1 AND user = ?2";
    Ok(tx.prepare_cached(sql)?.execute(params![group.as_str(), user.to_string()])? == 1)
}

/// Forgets the members of a group that is deleted.
///
/// # Errors
/// SQLite's.
pub fn forget(tx: &Transaction<'_>, group: &GroupName) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM members WHERE agent_group = ?1")?.execute([group.as_str()])?;
    Ok(())
}

/// Whether somebody is one.
///
/// # Errors
/// SQLite's.
pub fn has(conn: &Connection, group: &GroupName, user: &UserId) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM members WHERE agent_group = ?1 AND user = ?2)";
    Ok(conn.prepare_cached(sql)?.query_row(params![group.as_str(), user.to_string()], |row| row.get(0))?)
}

/// The groups of which somebody is one.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of(conn: &Connection, user: &UserId) -> Result<BTreeSet<GroupName>, StoreError> {
    let mut query = conn.prepare_cached("SELECT agent_group FROM members WHERE user = ?1")?;
    let group =
        |name: String| GroupName::parse(&name).map_err(|_| StoreError::BadRow("an agent group's name"));
    query.query_and_then([user.to_string()], |row| group(row.get(0)?))?.collect()
}

/// Up to `limit` members of a group by user, after one.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    group: &GroupName,
    after: &str,
    limit: usize,
) -> Result<Vec<Member>, StoreError> {
    let sql = "SELECT user, since FROM members WHERE agent_group = ?1 AND user > ?2 ORDER BY user LIMIT ?3";
    let mut query = conn.prepare_cached(sql)?;
    query
        .query_and_then(params![group.as_str(), after, super::rows(limit)], |row| {
            Ok(Member { user: user_id(&row.get::<_, String>(0)?)?, since: Millis(row.get(1)?) })
        })?
        .collect()
}
