//! The actions of agents that made a change: the same call again is answered with the same change. The newest of
//! each session are kept, more than one turn can make, so that no sandbox fills the table.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::StoreError;
use crate::contract::ids::{ChangeId, SessionId};

/// Calls that are remembered of each session: a turn has 256 at most, and only those of a turn come again.
const KEPT: u64 = 512;

/// What an earlier call asked and made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Digest of what was asked.
    pub request: String,
    /// The change.
    pub change: ChangeId,
}

/// The earlier call of this mark.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(conn: &Connection, session: &SessionId, call: &str) -> Result<Option<Call>, StoreError> {
    let mut query =
        conn.prepare_cached("SELECT request, change FROM calls WHERE session = ?1 AND call = ?2")?;
    let found = query
        .query_row([session.as_str(), call], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))
        .optional()?;
    let Some((request, change)) = found else { return Ok(None) };
    let change = ChangeId::parse(&change).map_err(|_| StoreError::BadRow("a change's id"))?;
    Ok(Some(Call { request, change }))
}

/// Remembers a call, and forgets the oldest ones of the session.
///
/// # Errors
/// SQLite's.
pub fn add(tx: &Transaction<'_>, session: &SessionId, mark: &str, call: &Call) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO calls (session, call, request, change) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![session.as_str(), mark, call.request, call.change.as_str()])?;
    let sql = "DELETE FROM calls WHERE session = ?1 AND id <=
                   (SELECT id FROM calls WHERE session = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)";
    tx.prepare_cached(sql)?.execute(params![session.as_str(), super::stored(KEPT)])?;
    Ok(())
}

/// How many calls are remembered of a session.
///
/// # Errors
/// SQLite's.
#[cfg(test)]
pub fn count(conn: &Connection, session: &SessionId) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM calls WHERE session = ?1";
    Ok(conn.query_row(sql, [session.as_str()], |row| row.get(0))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controlplane::store::tests::World;

    #[test]
    fn the_newest_calls_are_known_and_no_more() {
        let world = World::new();
        let session = world.accept("main", "1", "x").session;
        let other = world.accept("other", "2", "x").session;
        let call = |mark: u64| Call { request: mark.to_string(), change: ChangeId::mint() };
        let kept = call(0);
        let (session_, other_, first) = (session.clone(), other.clone(), kept.clone());
        world.write(move |tx| {
            add(tx, &other_, "0", &first)?;
            (0..KEPT + 100).try_for_each(|mark| add(tx, &session_, &mark.to_string(), &call(mark)))
        });
        assert_eq!(world.read(|conn| count(conn, &session)), KEPT);
        assert_eq!(world.read(|conn| find(conn, &session, "99")), None);
        assert_eq!(world.read(|conn| find(conn, &session, "100")).unwrap().request, "100");
        assert_eq!(world.read(|conn| find(conn, &other, "0")), Some(kept), "another session's stay");
    }
}
