//! Changes as a list shows them: what is long is left out, and nothing is copied that is only looked at.

use rusqlite::{Connection, Row, ToSql, params};

use super::StoreError;
use crate::contract::ids::{ChangeId, GroupName};
use crate::contract::time::Millis;

/// One change, as long as its row is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary<'a> {
    /// Its id.
    pub id: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// The group that it changes.
    pub group: &'a str,
    /// How far it is.
    pub state: &'a str,
    /// Who asked.
    pub requested_by: &'a str,
    /// What the client calls the one who asks.
    pub label: &'a str,
    /// Why it was asked.
    pub reason: &'a str,
    /// What an approver names.
    pub digest: &'a str,
    /// When it was submitted.
    pub submitted_at: Millis,
    /// When it lapses.
    pub expires_at: Millis,
    /// Who decided.
    pub decided_by: Option<&'a str>,
    /// When.
    pub decided_at: Option<Millis>,
    /// Why the work outside the ledger failed.
    pub failure: Option<&'a str>,
}

const COLUMNS: &str =
    "id, kind, agent_group, state, requested_by, label, reason, digest, submitted_at, expires_at,
    decided_by, decided_at, failure";

fn read<'a>(row: &'a Row<'_>) -> Result<Summary<'a>, StoreError> {
    let wrong = |_| StoreError::BadRow("a change");
    let text = |at: usize| row.get_ref(at)?.as_str().map_err(wrong);
    let maybe = |at: usize| row.get_ref(at)?.as_str_or_null().map_err(wrong);
    Ok(Summary {
        id: text(0)?,
        kind: text(1)?,
        group: text(2)?,
        state: text(3)?,
        requested_by: text(4)?,
        label: text(5)?,
        reason: text(6)?,
        digest: text(7)?,
        submitted_at: Millis(row.get(8)?),
        expires_at: Millis(row.get(9)?),
        decided_by: maybe(10)?,
        decided_at: row.get::<_, Option<i64>>(11)?.map(Millis),
        failure: maybe(12)?,
    })
}

fn list(
    conn: &Connection,
    sql: &str,
    values: &[&dyn ToSql],
    mut each: impl FnMut(&Summary<'_>),
) -> Result<(), StoreError> {
    let mut query = conn.prepare_cached(sql)?;
    let mut rows = query.query(values)?;
    while let Some(row) = rows.next()? {
        each(&read(row)?);
    }
    Ok(())
}

/// Shows up to `limit` pending changes after one, the oldest first; of one group, or of all.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn pending(
    conn: &Connection,
    group: Option<&GroupName>,
    after: Option<&ChangeId>,
    limit: usize,
    each: impl FnMut(&Summary<'_>),
) -> Result<(), StoreError> {
    let of = if group.is_some() { "agent_group = ?2 AND" } else { "?2 IS NULL AND" };
    let sql = format!(
        "SELECT {COLUMNS} FROM changes WHERE {of} state = 'pending' AND id > ?1 ORDER BY id LIMIT ?3"
    );
    let after = after.map_or("", ChangeId::as_str);
    list(conn, &sql, params![after, group.map(GroupName::as_str), super::rows(limit)], each)
}

/// Shows up to `limit` changes before one, the newest first; of one group, or of all.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn history(
    conn: &Connection,
    group: Option<&GroupName>,
    before: Option<&ChangeId>,
    limit: usize,
    each: impl FnMut(&Summary<'_>),
) -> Result<(), StoreError> {
    let of = if group.is_some() { "agent_group = ?2 AND" } else { "?2 IS NULL AND" };
    let sql =
        format!("SELECT {COLUMNS} FROM changes WHERE {of} (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?3");
    let before = before.map(ChangeId::as_str);
    list(conn, &sql, params![before, group.map(GroupName::as_str), super::rows(limit)], each)
}
