//! Held changes: what somebody asked for, what it would do, and what became of it.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::StoreError;
use crate::contract::ids::{ChangeId, GroupName};
use crate::contract::time::Millis;

/// How far a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A human must decide.
    Pending,
    /// A human said no.
    Rejected,
    /// Whoever asked took it back.
    Withdrawn,
    /// Nobody decided in time.
    Expired,
    /// A human said yes; what must be done outside the ledger is not done, or failed and can be tried again.
    Approved,
    /// Everything is done.
    Applied,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Rejected, Self::Withdrawn, Self::Expired, Self::Approved, Self::Applied];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::Withdrawn => "withdrawn",
            Self::Expired => "expired",
            Self::Approved => "approved",
            Self::Applied => "applied",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// Who decided, when, and what they said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The user, or `policy`.
    pub by: String,
    /// The token they came with.
    pub via: String,
    /// When.
    pub at: Millis,
}

/// One change. The JSON texts are canonical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its id.
    pub id: ChangeId,
    /// The kind, as the interface names it.
    pub kind: String,
    /// The group that it changes.
    pub group: GroupName,
    /// How far it is.
    pub state: State,
    /// A user, or `agent:GROUP`.
    pub requested_by: String,
    /// The token or the session that it came by.
    pub via: String,
    /// What the client calls the one who asks.
    pub label: String,
    /// Why it was asked.
    pub reason: String,
    /// The payload, every default explicit.
    pub payload: String,
    /// The effects.
    pub effects: String,
    /// What would be different, in plain words; safe to show.
    pub diff: String,
    /// The revision of every object that the effects replace.
    pub base: String,
    /// What an approver names.
    pub digest: String,
    /// The client's own key, so that a repeated request is one change.
    pub idempotency_key: Option<String>,
    /// Digest of the request as it was sent, by which a repeated one is known.
    pub request: String,
    /// When it was submitted.
    pub submitted_at: Millis,
    /// When it lapses.
    pub expires_at: Millis,
    /// The decision, once there is one.
    pub decision: Option<Decision>,
    /// What the decider said.
    pub note: String,
    /// Why the work outside the ledger failed.
    pub failure: Option<String>,
    /// When it reached a state that nothing leaves.
    pub finished_at: Option<Millis>,
}

const COLUMNS: &str = "id, kind, agent_group, state, requested_by, via, label, reason, payload, effects, diff, base,
    digest, idempotency_key, submitted_at, expires_at, decided_by, decided_via, decided_at, note, failure, finished_at,
    request";

fn read(row: &Row<'_>) -> Result<Change, StoreError> {
    let decision = match (row.get(16)?, row.get(17)?, row.get::<_, Option<i64>>(18)?) {
        (Some(by), Some(via), Some(at)) => Some(Decision { by, via, at: Millis(at) }),
        _ => None,
    };
    Ok(Change {
        id: ChangeId::parse(&row.get::<_, String>(0)?).map_err(|_| StoreError::BadRow("a change's id"))?,
        kind: row.get(1)?,
        group: GroupName::parse(&row.get::<_, String>(2)?)
            .map_err(|_| StoreError::BadRow("an agent group's name"))?,
        state: State::parse(&row.get::<_, String>(3)?).ok_or(StoreError::BadRow("a change's state"))?,
        requested_by: row.get(4)?,
        via: row.get(5)?,
        label: row.get(6)?,
        reason: row.get(7)?,
        payload: row.get(8)?,
        effects: row.get(9)?,
        diff: row.get(10)?,
        base: row.get(11)?,
        digest: row.get(12)?,
        idempotency_key: row.get(13)?,
        submitted_at: Millis(row.get(14)?),
        expires_at: Millis(row.get(15)?),
        decision,
        note: row.get(19)?,
        failure: row.get(20)?,
        finished_at: row.get::<_, Option<i64>>(21)?.map(Millis),
        request: row.get(22)?,
    })
}

/// Stores a new change.
///
/// # Errors
/// SQLite's.
pub fn add(tx: &Transaction<'_>, change: &Change) -> Result<(), StoreError> {
    let sql = "INSERT INTO changes (id, kind, agent_group, state, requested_by, via, label, reason, payload, effects,
                   diff, base, digest, idempotency_key, submitted_at, expires_at, request, note)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, '')";
    tx.prepare_cached(sql)?.execute(params![
        change.id.as_str(),
        change.kind,
        change.group.as_str(),
        change.state.as_str(),
        change.requested_by,
        change.via,
        change.label,
        change.reason,
        change.payload,
        change.effects,
        change.diff,
        change.base,
        change.digest,
        change.idempotency_key,
        change.submitted_at.0,
        change.expires_at.0,
        change.request,
    ])?;
    Ok(())
}

/// The change of that id.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn get(conn: &Connection, id: &ChangeId) -> Result<Option<Change>, StoreError> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM changes WHERE id = ?1"))?;
    query.query_and_then([id.as_str()], read)?.next().transpose()
}

/// The change that a client submitted with this key.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn by_key(conn: &Connection, via: &str, key: &str) -> Result<Option<Change>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM changes WHERE via = ?1 AND idempotency_key = ?2");
    conn.prepare_cached(&sql)?.query_and_then([via, key], read)?.next().transpose()
}

/// A pending change that was asked for over the same way in the same words, by the digest of the request.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn same_request(
    conn: &Connection,
    requested_by: &str,
    via: &str,
    request: &str,
) -> Result<Option<Change>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM changes WHERE state = 'pending' AND requested_by = ?1 AND via = ?2
             AND request = ?3 ORDER BY id LIMIT 1"
    );
    let mut query = conn.prepare_cached(&sql)?;
    query.query_and_then([requested_by, via, request], read)?.next().transpose()
}

/// A pending change of the same kind and payload that the same asker wants for the group, asked for over the same way:
/// who asked is the one who is told.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn twin(
    conn: &Connection,
    group: &GroupName,
    requested_by: &str,
    via: &str,
    kind: &str,
    payload: &str,
) -> Result<Option<Change>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM changes WHERE agent_group = ?1 AND state = 'pending' AND requested_by = ?2
             AND via = ?3 AND kind = ?4 AND payload = ?5 ORDER BY id LIMIT 1"
    );
    let mut query = conn.prepare_cached(&sql)?;
    query.query_and_then([group.as_str(), requested_by, via, kind, payload], read)?.next().transpose()
}

/// How many changes an asker has pending, for any group.
///
/// # Errors
/// SQLite's.
pub fn pending_of(conn: &Connection, requested_by: &str) -> Result<u64, StoreError> {
    let sql = "SELECT pending FROM askers WHERE name = ?1";
    Ok(conn.prepare_cached(sql)?.query_row([requested_by], |row| row.get(0)).optional()?.unwrap_or_default())
}

/// How many of an asker's changes of one group are pending.
///
/// # Errors
/// SQLite's.
pub fn pending_for(conn: &Connection, group: &GroupName, requested_by: &str) -> Result<u64, StoreError> {
    let sql =
        "SELECT count(*) FROM changes WHERE state = 'pending' AND agent_group = ?1 AND requested_by = ?2";
    Ok(conn.prepare_cached(sql)?.query_row([group.as_str(), requested_by], |row| row.get(0))?)
}

/// How many changes an asker has submitted since then, for any group, and how many bytes their payloads have.
///
/// # Errors
/// SQLite's.
pub fn asked_since(conn: &Connection, requested_by: &str, since: Millis) -> Result<(u64, u64), StoreError> {
    let sql = "SELECT count(*), coalesce(sum(octet_length(payload)), 0) FROM changes
               WHERE requested_by = ?1 AND submitted_at > ?2";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(conn.prepare_cached(sql)?.query_row(params![requested_by, since.0], read)?)
}

/// How many changes are pending.
///
/// # Errors
/// SQLite's.
pub fn pending(conn: &Connection) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(sum(pending), 0) FROM askers";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// What a pending change is compared with anew: its effects under the revisions of now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// The payload, as it is read now.
    pub payload: String,
    /// The effects.
    pub effects: String,
    /// The difference.
    pub diff: String,
    /// The revisions.
    pub base: String,
    /// The digest.
    pub digest: String,
}

/// Shows a pending change anew. Says whether it was pending.
///
/// # Errors
/// SQLite's.
pub fn renew(tx: &Transaction<'_>, id: &ChangeId, renewed: &Renewed) -> Result<bool, StoreError> {
    let sql = "UPDATE changes SET effects = ?2, diff = ?3, base = ?4, digest = ?5, payload = ?6
               WHERE id = ?1 AND state = 'pending'";
    let values =
        params![id.as_str(), renewed.effects, renewed.diff, renewed.base, renewed.digest, renewed.payload];
    Ok(tx.prepare_cached(sql)?.execute(values)? == 1)
}

/// Decides a change that is in a state: a compare-and-set. Says whether it was in it.
///
/// # Errors
/// SQLite's.
pub fn decide(
    tx: &Transaction<'_>,
    id: &ChangeId,
    (from, state): (State, State),
    decision: &Decision,
    note: &str,
) -> Result<bool, StoreError> {
    let finished = (state != State::Approved).then_some(decision.at.0);
    let sql = "UPDATE changes SET state = ?2, decided_by = ?3, decided_via = ?4, decided_at = ?5, note = ?6,
                   finished_at = ?7 WHERE id = ?1 AND state = ?8";
    let (by, via, at) = (&decision.by, &decision.via, decision.at.0);
    let values = params![id.as_str(), state.as_str(), by, via, at, note, finished, from.as_str()];
    Ok(tx.prepare_cached(sql)?.execute(values)? == 1)
}

/// An approved change will not be done. Whose approval it had stays with it; a failure that it had before too. Says
/// whether it was approved and unfinished.
///
/// # Errors
/// SQLite's.
pub fn undo(tx: &Transaction<'_>, id: &ChangeId, state: State, by: &Decision) -> Result<bool, StoreError> {
    let sql = "UPDATE changes SET state = ?2, finished_at = ?3, failure = COALESCE(failure || '; ', '') || ?4
               WHERE id = ?1 AND state = 'approved'";
    let words = format!("{} by {}", state.as_str(), by.by);
    Ok(tx.prepare_cached(sql)?.execute(params![id.as_str(), state.as_str(), by.at.0, words])? == 1)
}

/// What became of the work outside the ledger of an approved change: done, or why not. Says whether it was
/// approved and unfinished.
///
/// # Errors
/// SQLite's.
pub fn finish(tx: &Transaction<'_>, id: &ChangeId, failure: Option<&str>) -> Result<bool, StoreError> {
    let sql = match failure {
        None => {
            "UPDATE changes SET state = 'applied', failure = ?2, finished_at = ?3
             WHERE id = ?1 AND state = 'approved'"
        }
        Some(_) => {
            "UPDATE changes SET failure = ?2, finished_at = NULL
             WHERE id = ?1 AND state = 'approved' AND ?3 IS NOT NULL"
        }
    };
    Ok(tx.prepare_cached(sql)?.execute(params![id.as_str(), failure, Millis::now().0])? == 1)
}

/// Up to `limit` pending changes whose time is over.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn overdue(conn: &Connection, now: Millis, limit: usize) -> Result<Vec<Change>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM changes WHERE state = 'pending' AND expires_at <= ?1 ORDER BY expires_at LIMIT ?2"
    );
    conn.prepare_cached(&sql)?.query_and_then(params![now.0, super::rows(limit)], read)?.collect()
}

/// What is pending of an agent that is gone lapses now: there is nothing that anybody could decide.
///
/// # Errors
/// SQLite's.
pub fn lapse_of(tx: &Transaction<'_>, group: &GroupName, now: Millis) -> Result<(), StoreError> {
    let sql =
        "UPDATE changes SET expires_at = ?2 WHERE agent_group = ?1 AND state = 'pending' AND expires_at > ?2";
    tx.prepare_cached(sql)?.execute(params![group.as_str(), now.0])?;
    Ok(())
}

/// When the next pending change lapses.
///
/// # Errors
/// SQLite's.
pub fn next_lapse(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    let sql = "SELECT min(expires_at) FROM changes WHERE state = 'pending'";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Millis))
}

/// All changes that were approved and are not applied: their work outside the ledger is not done.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn unfinished(conn: &Connection) -> Result<Vec<ChangeId>, StoreError> {
    let mut query = conn.prepare_cached("SELECT id FROM changes WHERE state = 'approved' ORDER BY id")?;
    let read = |row: &Row<'_>| {
        ChangeId::parse(&row.get::<_, String>(0)?).map_err(|_| StoreError::BadRow("a change's id"))
    };
    query.query_and_then([], read)?.collect()
}
