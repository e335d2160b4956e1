//! Sessions: one conversation with one agent group each. Their cursors and counters are the ledger's word on
//! what a sandbox may number and what was taken from it.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::{StoreError, groups};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::time::Millis;
use crate::controlplane::telemetry::log;

/// Where people are: a platform, an account on it, a chat, a thread in the chat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The platform; `api` for the HTTP API.
    pub channel: String,
    /// The account on the platform; empty where there is only one.
    pub instance: String,
    /// The chat.
    pub chat: String,
    /// The thread; `None` for the chat itself (an empty one means the same).
    pub thread: Option<String>,
}

/// What makes two messages belong to one session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition {
    /// The agent group.
    pub group: GroupName,
    /// Where; without a thread when all threads of the chat share the session.
    pub place: Place,
}

/// Whether a session may run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// It may.
    Ready,
    /// It may not until it is released.
    Parked {
        /// Why.
        reason: String,
    },
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Its name.
    pub id: SessionId,
    /// Whose conversation, and where.
    pub partition: Partition,
    /// Counts the lives of its `session.db`, from 1.
    pub epoch: u64,
    /// The last outbound number taken in this epoch.
    pub out_cursor: u64,
    /// The last inbound number minted; even.
    pub in_seq: u64,
    /// Whether it may run.
    pub state: SessionState,
    /// Deaths in a row before any turn began.
    pub launch_deaths: u32,
    /// Why the machine could not launch it, when it could not.
    pub wait_reason: Option<String>,
    /// Messages neither done nor failed.
    pub open_messages: u64,
    /// Those of them that start a turn.
    pub open_engaging: u64,
    /// When it began.
    pub created_at: Millis,
    /// When something last went in or out.
    pub last_active: Millis,
}

const COLUMNS: &str = "id, agent_group, channel, instance, chat, thread, epoch, out_cursor, in_seq, parked,
    launch_deaths, wait_reason, open_messages, open_engaging, created_at, last_active";

pub(super) fn session_id(text: &str) -> Result<SessionId, StoreError> {
    SessionId::parse(text).map_err(|_| StoreError::BadRow("a session's id"))
}

/// The partition in the five columns from one on.
pub(super) fn partition(row: &Row<'_>, from: usize) -> Result<Partition, StoreError> {
    let thread: String = row.get(from + 4)?;
    Ok(Partition {
        group: GroupName::parse(&row.get::<_, String>(from)?)
            .map_err(|_| StoreError::BadRow("an agent group's name"))?,
        place: Place {
            channel: row.get(from + 1)?,
            instance: row.get(from + 2)?,
            chat: row.get(from + 3)?,
            thread: Some(thread).filter(|thread| !thread.is_empty()),
        },
    })
}

fn read(row: &Row<'_>) -> Result<SessionRow, StoreError> {
    Ok(SessionRow {
        id: session_id(&row.get::<_, String>(0)?)?,
        partition: partition(row, 1)?,
        epoch: row.get(6)?,
        out_cursor: row.get(7)?,
        in_seq: row.get(8)?,
        state: match row.get(9)? {
            Some(reason) => SessionState::Parked { reason },
            None => SessionState::Ready,
        },
        launch_deaths: row.get(10)?,
        wait_reason: row.get(11)?,
        open_messages: row.get(12)?,
        open_engaging: row.get(13)?,
        created_at: Millis(row.get(14)?),
        last_active: Millis(row.get(15)?),
    })
}

/// The session of a partition, made when there is none.
///
/// # Errors
/// [`StoreError::NoGroup`] when its agent group is not there.
pub fn find_or_create(tx: &Transaction<'_>, partition: &Partition) -> Result<SessionId, StoreError> {
    if let Some(found) = find(tx, partition)? {
        return Ok(found);
    }
    let Partition { group, place } = partition;
    let thread = place.thread.as_deref().unwrap_or_default();
    if super::groups::get(tx, group)?.is_none() {
        return Err(StoreError::NoGroup(group.clone()));
    }
    let id = SessionId::mint();
    let sql =
        "INSERT INTO sessions (id, agent_group, channel, instance, chat, thread, epoch, out_cursor, in_seq,
                   parked, launch_deaths, wait_reason, open_messages, open_engaging, created_at, last_active, empty_from)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1, 0, 0, NULL, 0, NULL, 0, 0, ?7, ?7, ?7)";
    let now = Millis::now().0;
    tx.prepare_cached(sql)?.execute(params![
        id.as_str(),
        group.as_str(),
        place.channel,
        place.instance,
        place.chat,
        thread,
        now
    ])?;
    Ok(id)
}

/// The session.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn get(conn: &Connection, id: &SessionId) -> Result<Option<SessionRow>, StoreError> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1"))?;
    query.query_and_then([id.as_str()], read)?.next().transpose()
}

/// The session of a partition, if there is one.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn find(conn: &Connection, partition: &Partition) -> Result<Option<SessionId>, StoreError> {
    let Partition { group, place } = partition;
    let thread = place.thread.as_deref().unwrap_or_default();
    let sql = "SELECT id FROM sessions
               WHERE agent_group = ?1 AND channel = ?2 AND instance = ?3 AND chat = ?4 AND thread = ?5";
    let key = params![group.as_str(), place.channel, place.instance, place.chat, thread];
    let found: Option<String> = conn.prepare_cached(sql)?.query_row(key, |row| row.get(0)).optional()?;
    found.map(|id| session_id(&id)).transpose()
}

/// What all sessions together have waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Messages neither done nor failed.
    pub open_messages: i64,
    /// Sessions that are owed a sandbox.
    pub owed: i64,
    /// Sessions that may not run until they are released.
    pub parked: i64,
}

/// Counts them.
///
/// # Errors
/// SQLite's.
pub fn totals(conn: &Connection) -> Result<Totals, StoreError> {
    let sql = "SELECT coalesce(sum(open_messages), 0), count(*) FILTER (WHERE open_engaging > 0 AND parked IS NULL),
                   count(*) FILTER (WHERE parked IS NOT NULL) FROM sessions";
    let read =
        |row: &Row<'_>| Ok(Totals { open_messages: row.get(0)?, owed: row.get(1)?, parked: row.get(2)? });
    Ok(conn.prepare_cached(sql)?.query_row([], read)?)
}

/// Up to `limit` sessions in the order in which they began, after one, of the agent groups that are asked for, or of
/// all.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    after: Option<&SessionId>,
    limit: usize,
    among: Option<&[GroupName]>,
) -> Result<Vec<SessionRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM sessions WHERE id > ?1
         AND (?3 IS NULL OR agent_group IN (SELECT value FROM json_each(?3))) ORDER BY id LIMIT ?2"
    );
    let among = among.map(groups::names);
    let values = params![after.map_or("", SessionId::as_str), super::rows(limit), among];
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}

pub(super) const OWED: &str = "SELECT id FROM sessions
    WHERE id IN (SELECT session FROM inbox WHERE state = 'open') AND open_engaging > 0 AND parked IS NULL
    ORDER BY id";

/// The sessions that are owed a sandbox: ready, with an open message that starts a turn. A row whose id does
/// not read is left out and logged, so that it holds up no other.
///
/// # Errors
/// SQLite's.
pub fn owed(conn: &Connection) -> Result<Vec<SessionId>, StoreError> {
    let mut query = conn.prepare_cached(OWED)?;
    let mut rows = query.query([])?;
    let mut owed = Vec::new();
    while let Some(row) = rows.next()? {
        match session_id(&row.get::<_, String>(0)?) {
            Ok(id) => owed.push(id),
            Err(error) => log::error("store.bad_session", &[("error", &error)]),
        }
    }
    Ok(owed)
}

/// The sessions that may not run until they are released.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn parked(conn: &Connection) -> Result<Vec<SessionId>, StoreError> {
    let mut query = conn.prepare_cached("SELECT id FROM sessions WHERE parked IS NOT NULL")?;
    query.query_and_then([], |row| session_id(&row.get::<_, String>(0)?))?.collect()
}

/// Every session of an agent group.
///
/// # Errors
/// SQLite's.
pub fn of_group(conn: &Connection, group: &GroupName) -> Result<Vec<SessionId>, StoreError> {
    let mut query = conn.prepare_cached("SELECT id FROM sessions WHERE agent_group = ?1")?;
    let ids = query.query_map([group.as_str()], |row| row.get::<_, String>(0))?;
    // An id that does not parse names no directory.
    Ok(ids.collect::<Result<Vec<_>, _>>()?.iter().filter_map(|id| SessionId::parse(id).ok()).collect())
}

/// Changes one session's row, which must be there.
fn change(
    tx: &Transaction<'_>,
    id: &SessionId,
    set: &str,
    values: &[&dyn rusqlite::ToSql],
) -> Result<(), StoreError> {
    let mut all: Vec<&dyn rusqlite::ToSql> = Vec::with_capacity(values.len() + 1);
    let name = id.as_str();
    all.push(&name);
    all.extend_from_slice(values);
    let changed =
        tx.prepare_cached(&format!("UPDATE sessions SET {set} WHERE id = ?1"))?.execute(all.as_slice())?;
    if changed == 1 { Ok(()) } else { Err(StoreError::NoSession(id.clone())) }
}

/// Forbids it to run, with the reason that people are shown.
///
/// # Errors
/// [`StoreError::NoSession`].
pub fn park(tx: &Transaction<'_>, id: &SessionId, reason: &str) -> Result<(), StoreError> {
    change(tx, id, "parked = ?2", &[&reason])
}

/// Lets it run again and forgets what led to its parking.
///
/// # Errors
/// [`StoreError::NoSession`].
pub fn release(tx: &Transaction<'_>, id: &SessionId) -> Result<(), StoreError> {
    change(tx, id, "parked = NULL, launch_deaths = 0, wait_reason = NULL", &[])
}

/// Begins a new life of its `session.db`: the next epoch, its cursor at 0. Gives the epoch.
///
/// # Errors
/// [`StoreError::NoSession`].
pub fn new_epoch(tx: &Transaction<'_>, id: &SessionId) -> Result<u64, StoreError> {
    let sql = "UPDATE sessions SET epoch = epoch + 1, out_cursor = 0 WHERE id = ?1 RETURNING epoch";
    let epoch = tx.prepare_cached(sql)?.query_row([id.as_str()], |row| row.get(0)).optional()?;
    epoch.ok_or_else(|| StoreError::NoSession(id.clone()))
}

/// Moves the outbound cursor, if the epoch is still this one and the cursor still `from`. Says whether it did.
///
/// # Errors
/// SQLite's.
pub fn advance_cursor(
    tx: &Transaction<'_>,
    id: &SessionId,
    epoch: u64,
    from: u64,
    to: u64,
) -> Result<bool, StoreError> {
    let sql = "UPDATE sessions SET out_cursor = ?4, last_active = ?5
               WHERE id = ?1 AND epoch = ?2 AND out_cursor = ?3 AND ?4 >= ?3";
    let moved = tx.prepare_cached(sql)?.execute(params![id.as_str(), epoch, from, to, Millis::now().0])?;
    Ok(moved == 1)
}

/// Has content, owes nobody anything, was not used since `?1`, and will not be asked anything at its time.
const UNUSED: &str = "s.open_messages = 0 AND max(s.last_active, s.created_at) <= ?1
    AND EXISTS (SELECT 1 FROM session_secrets x WHERE x.session = s.id)
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.state = 'waiting' AND d.session = s.id)
    AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.state IN ('active', 'paused') AND t.session = s.id)";

/// Up to `most` sessions whose expiry counts from an instant or before, and whether nobody used one since then and it
/// owes nobody anything. Whoever uses one does not say so here, which would cost every message a page: those that were
/// used are found, and put off with [`expires_later`].
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn expiring(
    conn: &Connection,
    before: Millis,
    most: usize,
) -> Result<Vec<(SessionId, bool)>, StoreError> {
    let sql = format!(
        "SELECT s.id, {UNUSED} FROM sessions s WHERE s.expiry_from <= ?1 ORDER BY s.expiry_from LIMIT ?2"
    );
    let read = |row: &Row<'_>| Ok((session_id(&row.get::<_, String>(0)?)?, row.get(1)?));
    conn.prepare_cached(&sql)?.query_and_then(params![before.0, super::rows(most)], read)?.collect()
}

/// From when on the expiry counts of the session whose does so first.
///
/// # Errors
/// SQLite's.
pub fn expiring_first(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    let sql = "SELECT min(expiry_from) FROM sessions WHERE expiry_from IS NOT NULL";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Millis))
}

/// The expiry of a session counts from when it was used last, if that is after an instant, else from another one.
///
/// # Errors
/// SQLite's.
pub fn expires_later(
    tx: &Transaction<'_>,
    id: &SessionId,
    before: Millis,
    else_from: Millis,
) -> Result<(), StoreError> {
    let sql = "UPDATE sessions SET expiry_from =
                   iif(max(last_active, created_at) > ?2, max(last_active, created_at), ?3)
               WHERE id = ?1 AND expiry_from <= ?2";
    tx.prepare_cached(sql)?.execute(params![id.as_str(), before.0, else_from.0])?;
    Ok(())
}

/// Whether nobody used a session since an instant, and it has something to erase and owes nobody anything.
///
/// # Errors
/// SQLite's.
pub fn is_unused(conn: &Connection, id: &SessionId, before: Millis) -> Result<bool, StoreError> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM sessions s WHERE {UNUSED} AND s.id = ?2)");
    Ok(conn.prepare_cached(&sql)?.query_row(params![before.0, id.as_str()], |row| row.get(0))?)
}

/// It has something to read from now on.
pub(super) fn filled(tx: &Transaction<'_>, id: &SessionId) -> Result<(), StoreError> {
    change(tx, id, "expiry_from = ?2, empty_from = NULL", &[&Millis::now().0])
}

/// It has nothing to read from now on.
pub(super) fn emptied(tx: &Transaction<'_>, id: &SessionId) -> Result<(), StoreError> {
    change(tx, id, "expiry_from = NULL, empty_from = coalesce(empty_from, ?2)", &[&Millis::now().0])
}

/// Which of these sessions have nothing to read any more, and are there.
///
/// # Errors
/// SQLite's.
pub fn erased(conn: &Connection, ids: &[SessionId]) -> Result<Vec<SessionId>, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sessions WHERE id = ?1)
                   AND NOT EXISTS (SELECT 1 FROM session_secrets WHERE session = ?1)";
    let mut query = conn.prepare_cached(sql)?;
    let mut erased = Vec::new();
    for id in ids {
        if query.query_row([id.as_str()], |row| row.get(0))? {
            erased.push(id.clone());
        }
    }
    Ok(erased)
}

/// Notes that something came to its chat.
///
/// # Errors
/// [`StoreError::NoSession`].
pub fn touch(tx: &Transaction<'_>, id: &SessionId) -> Result<(), StoreError> {
    change(tx, id, "last_active = ?2", &[&Millis::now().0])
}

/// Mints inbound numbers: even, rising, never given again to the same conveyor. For every row of a conveyor that is no message;
/// messages get theirs from `inbox::hand_over`.
///
/// # Errors
/// [`StoreError::NoSession`].
pub fn mint_seqs(tx: &Transaction<'_>, id: &SessionId, count: usize) -> Result<Vec<u64>, StoreError> {
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    let sql = "UPDATE sessions SET in_seq = in_seq + 2 * ?2 WHERE id = ?1 RETURNING in_seq";
    let last = tx.prepare_cached(sql)?.query_row(params![id.as_str(), count], |row| row.get(0)).optional()?;
    let last: u64 = last.ok_or_else(|| StoreError::NoSession(id.clone()))?;
    Ok((0..count).rev().map(|back| last - 2 * back).collect())
}

/// Counts a death before any turn began. Gives the deaths in a row.
///
/// # Errors
/// [`StoreError::NoSession`].
pub fn note_launch_death(tx: &Transaction<'_>, id: &SessionId) -> Result<u32, StoreError> {
    let sql = "UPDATE sessions SET launch_deaths = launch_deaths + 1 WHERE id = ?1 RETURNING launch_deaths";
    let deaths = tx.prepare_cached(sql)?.query_row([id.as_str()], |row| row.get(0)).optional()?;
    deaths.ok_or_else(|| StoreError::NoSession(id.clone()))
}

/// Forgets them. `inbox::begin` does so by itself.
///
/// # Errors
/// SQLite's.
pub fn clear_launch_deaths(tx: &Transaction<'_>, id: &SessionId) -> Result<(), StoreError> {
    let sql = "UPDATE sessions SET launch_deaths = 0 WHERE id = ?1 AND launch_deaths > 0";
    tx.prepare_cached(sql)?.execute([id.as_str()])?;
    Ok(())
}

/// Says why the machine cannot launch it now, or that it can.
///
/// # Errors
/// [`StoreError::NoSession`].
pub fn set_wait_reason(tx: &Transaction<'_>, id: &SessionId, reason: Option<&str>) -> Result<(), StoreError> {
    change(tx, id, "wait_reason = ?2", &[&reason])
}

/// Changes the counts of open messages by one, and says that it is active.
pub(super) fn count_open(
    tx: &Transaction<'_>,
    id: &SessionId,
    engage: bool,
    by: i64,
) -> Result<(), StoreError> {
    let engaging = if engage { by } else { 0 };
    let set = "open_messages = open_messages + ?2, open_engaging = open_engaging + ?3, last_active = ?4";
    change(tx, id, set, &[&by, &engaging, &Millis::now().0])
}
