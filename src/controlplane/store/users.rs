//! People, as the operator knows them: `channel:handle` and what they are called.

use rusqlite::{Connection, Row, Transaction, params};

use super::{StoreError, approvals, check_length};
use crate::contract::ids::UserId;
use crate::contract::time::Millis;

/// Longest name of a person, in bytes.
pub const MOST_NAME: usize = 200;

/// One person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// `channel:handle`.
    pub id: UserId,
    /// What people call them.
    pub name: String,
    /// When they were added.
    pub created_at: Millis,
}

pub(super) fn user_id(text: &str) -> Result<UserId, StoreError> {
    UserId::parse(text).map_err(|_| StoreError::BadRow("a user's id"))
}

fn read(row: &Row<'_>) -> Result<User, StoreError> {
    Ok(User { id: user_id(&row.get::<_, String>(0)?)?, name: row.get(1)?, created_at: Millis(row.get(2)?) })
}

/// Adds a person, or gives a known one another name (an empty one changes nothing). Says whether they are new.
///
/// # Errors
/// [`StoreError::TooLong`], or SQLite's.
pub fn put(tx: &Transaction<'_>, id: &UserId, name: &str) -> Result<bool, StoreError> {
    check_length("name of the user", name, MOST_NAME)?;
    let sql = "INSERT INTO users (id, name, created_at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO NOTHING";
    let new = tx.prepare_cached(sql)?.execute(params![id.to_string(), name, Millis::now().0])? == 1;
    if !new && !name.is_empty() {
        tx.prepare_cached("UPDATE users SET name = ?2 WHERE id = ?1")?
            .execute(params![id.to_string(), name])?;
    }
    Ok(new)
}

/// The person of that id.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn get(conn: &Connection, id: &UserId) -> Result<Option<User>, StoreError> {
    let mut query = conn.prepare_cached("SELECT id, name, created_at FROM users WHERE id = ?1")?;
    query.query_and_then([id.to_string()], read)?.next().transpose()
}

/// Up to `limit` people by id, after one.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(conn: &Connection, after: &str, limit: usize) -> Result<Vec<User>, StoreError> {
    let sql = "SELECT id, name, created_at FROM users WHERE id > ?1 ORDER BY id LIMIT ?2";
    conn.prepare_cached(sql)?.query_and_then(params![after, super::rows(limit)], read)?.collect()
}

/// Forgets a person who has no role, no membership and no token. Says whether there was one.
///
/// # Errors
/// [`StoreError::Conflict`] while something still names them, or SQLite's.
pub fn delete(tx: &Transaction<'_>, id: &UserId) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM roles WHERE user = ?1) OR EXISTS (SELECT 1 FROM members WHERE user = ?1)
                   OR EXISTS (SELECT 1 FROM tokens WHERE user = ?1 AND revoked_at IS NULL)";
    if tx.prepare_cached(sql)?.query_row([id.to_string()], |row| row.get(0))? {
        return Err(StoreError::Conflict(
            "this user still has a role, a membership or a token; take those away first",
        ));
    }
    tx.prepare_cached("DELETE FROM tokens WHERE user = ?1")?.execute([id.to_string()])?;
    approvals::end_chat(tx, id)?;
    Ok(tx.prepare_cached("DELETE FROM users WHERE id = ?1")?.execute([id.to_string()])? == 1)
}
