//! The tokens of the API: whose each is, how far it narrows what they may do, until when. Only a digest is stored.

use rusqlite::{Connection, Row, Transaction, params};

use super::users::user_id;
use super::{StoreError, check_length};
use crate::contract::ids::UserId;
use crate::contract::time::Millis;

/// Longest name of a token, in bytes.
const MOST_NAME: usize = 64;

/// The token that this machine keeps in the file `api-token`.
pub const FROM_FILE: &str = "first";
/// The token that the environment gave.
pub const FROM_ENVIRONMENT: &str = "environment";
/// Names that nobody gives a token of their own.
pub const RESERVED: [&str; 2] = [FROM_FILE, FROM_ENVIRONMENT];

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is called; unique.
    pub name: String,
    /// Whose it is.
    pub user: UserId,
    /// The scopes, as the interface writes them.
    pub scopes: String,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    /// When it was made.
    pub created_at: Millis,
    /// When it ends.
    pub expires_at: Option<Millis>,
    /// When it was revoked.
    pub revoked_at: Option<Millis>,
}

const COLUMNS: &str = "name, user, scopes, digest, created_at, expires_at, revoked_at";

fn read(row: &Row<'_>) -> Result<Token, StoreError> {
    Ok(Token {
        name: row.get(0)?,
        user: user_id(&row.get::<_, String>(1)?)?,
        scopes: row.get(2)?,
        digest: row.get(3)?,
        created_at: Millis(row.get(4)?),
        expires_at: row.get::<_, Option<i64>>(5)?.map(Millis),
        revoked_at: row.get::<_, Option<i64>>(6)?.map(Millis),
    })
}

/// Stores a new token.
///
/// # Errors
/// [`StoreError::Conflict`] when the name is taken, or SQLite's.
pub fn add(tx: &Transaction<'_>, token: &Token) -> Result<(), StoreError> {
    check_length("name of the token", &token.name, MOST_NAME)?;
    let sql = "INSERT INTO tokens (name, user, scopes, digest, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
               ON CONFLICT DO NOTHING";
    let made = tx.prepare_cached(sql)?.execute(params![
        token.name,
        token.user.to_string(),
        token.scopes,
        token.digest,
        token.created_at.0,
        token.expires_at.map(|at| at.0)
    ])?;
    if made == 1 {
        Ok(())
    } else {
        Err(StoreError::Conflict("a token of that name exists; choose another name"))
    }
}

/// The token of that name, revoked ones too.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn get(conn: &Connection, name: &str) -> Result<Option<Token>, StoreError> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM tokens WHERE name = ?1"))?;
    query.query_and_then([name], read)?.next().transpose()
}

/// Replaces a token that this machine keeps in a file or in the environment.
///
/// # Errors
/// SQLite's.
pub fn replace(
    tx: &Transaction<'_>,
    name: &str,
    user: &UserId,
    scopes: &str,
    digest: &[u8; 32],
) -> Result<(), StoreError> {
    let sql = "UPDATE tokens SET user = ?2, scopes = ?3, digest = ?4, revoked_at = NULL WHERE name = ?1";
    tx.prepare_cached(sql)?.execute(params![name, user.to_string(), scopes, digest])?;
    Ok(())
}

/// Revokes a token. Says whether it was valid till now.
///
/// # Errors
/// SQLite's.
pub fn revoke(tx: &Transaction<'_>, name: &str) -> Result<bool, StoreError> {
    let sql = "UPDATE tokens SET revoked_at = ?2 WHERE name = ?1 AND revoked_at IS NULL";
    Ok(tx.prepare_cached(sql)?.execute(params![name, Millis::now().0])? == 1)
}

/// Up to `limit` tokens by name, after one.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(conn: &Connection, after: &str, limit: usize) -> Result<Vec<Token>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE name > ?1 ORDER BY name LIMIT ?2");
    conn.prepare_cached(&sql)?.query_and_then(params![after, super::rows(limit)], read)?.collect()
}

/// Whether a token of that name and digest opens the door now.
///
/// # Errors
/// SQLite's.
pub fn opens(conn: &Connection, name: &str, digest: &[u8; 32]) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM tokens WHERE name = ?1 AND digest = ?2 AND revoked_at IS NULL
               AND (expires_at IS NULL OR expires_at > ?3))";
    let values = params![name, digest, Millis::now().0];
    Ok(conn.prepare_cached(sql)?.query_row(values, |row| row.get(0))?)
}

/// Those that were not revoked.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn valid(conn: &Connection) -> Result<Vec<Token>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM tokens WHERE revoked_at IS NULL");
    conn.prepare_cached(&sql)?.query_and_then([], read)?.collect()
}
