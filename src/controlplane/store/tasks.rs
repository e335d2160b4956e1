//! Scheduled tasks: what an agent is asked again at its time, where the answer goes, and how far each is. What is asked
//! is sealed with the secret of the conversation in which it was said. When a task is due is for its keeper to say.

use rusqlite::{Connection, Row, Transaction, params};
use ulid::Ulid;

use super::secrets::Texts;
use super::sessions::{Place, session_id};
use super::{StoreError, inbox, rows};
use crate::contract::ids::{GroupName, MessageId, SessionId, TaskId};
use crate::contract::time::Millis;
use crate::controlplane::keys::Keyring;

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It runs when it is due.
    Active,
    /// It does not run until it is resumed.
    Paused,
    /// Its last run was made.
    Done,
    /// Somebody ended it, or what it needs is gone.
    Cancelled,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Active, Self::Paused, Self::Done, Self::Cancelled];

    /// The word in the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether it can still run.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Active | Self::Paused)
    }
}

/// When a task runs, in the words in which that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Times {
    /// How often, in its canonical form.
    pub recurrence: String,
    /// The zone in which people read its times.
    pub zone: String,
    /// The next run; `None` when there is none.
    pub due: Option<Millis>,
    /// Nothing is due after this instant.
    pub until: Option<Millis>,
    /// So many runs in all.
    pub count: Option<u32>,
    /// What becomes of runs that were missed.
    pub misfire: String,
}

/// A task that wants to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    /// The agent.
    pub group: GroupName,
    /// The conversation that gets the runs.
    pub session: SessionId,
    /// Where the answers go.
    pub place: Place,
    /// What the agent is asked.
    pub prompt: String,
    /// When.
    pub times: Times,
    /// A user, or `agent:GROUP`.
    pub created_by: String,
    /// The agent's mark of the call that asked, and the digest of what was asked.
    pub call: Option<(String, String)>,
}

/// One task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// The agent.
    pub group: GroupName,
    /// The conversation that gets the runs.
    pub session: SessionId,
    /// Where the answers go.
    pub place: Place,
    /// When it runs.
    pub times: Times,
    /// How far it is.
    pub state: State,
    /// Why it is not active, where it says so.
    pub reason: Option<String>,
    /// How many runs came due and were made.
    pub runs: u32,
    /// When the last run was made, whoever wanted it.
    pub last_run: Option<Millis>,
    /// The message that it was.
    pub last_message: Option<MessageId>,
    /// A user, or `agent:GROUP`.
    pub created_by: String,
    /// Since when.
    pub created_at: Millis,
    /// Counts its changes, from 1.
    pub revision: u64,
    sealed: Vec<u8>,
}

impl Task {
    /// Whether an agent made it.
    pub fn is_agents(&self) -> bool {
        self.created_by.starts_with("agent:")
    }

    /// What the agent is asked; `None` when that was erased.
    ///
    /// # Errors
    /// [`StoreError::Key`] when it is damaged, or SQLite's.
    pub fn prompt(&self, conn: &Connection, keyring: &Keyring) -> Result<Option<String>, StoreError> {
        if self.sealed.is_empty() {
            return Ok(None);
        }
        let Some(texts) = Texts::to_read(conn, keyring, &self.session)? else { return Ok(None) };
        // Never older than the secret: with that the text is erased too.
        texts.open(u64::MAX, self.id.as_str(), &self.sealed)
    }
}

const COLUMNS: &str =
    "id, agent_group, session, channel, instance, chat, thread, prompt, recurrence, zone, due,
    until, count, misfire, state, reason, runs, last_run, last_message, created_by, created_at, revision";

fn read(row: &Row<'_>) -> Result<Task, StoreError> {
    let message: Option<String> = row.get(18)?;
    Ok(Task {
        id: TaskId::parse(&row.get::<_, String>(0)?).map_err(|_| StoreError::BadRow("a task's id"))?,
        group: GroupName::parse(&row.get::<_, String>(1)?)
            .map_err(|_| StoreError::BadRow("an agent group's name"))?,
        session: session_id(&row.get::<_, String>(2)?)?,
        place: Place { channel: row.get(3)?, instance: row.get(4)?, chat: row.get(5)?, thread: row.get(6)? },
        sealed: row.get(7)?,
        times: Times {
            recurrence: row.get(8)?,
            zone: row.get(9)?,
            due: row.get::<_, Option<i64>>(10)?.map(Millis),
            until: row.get::<_, Option<i64>>(11)?.map(Millis),
            count: row.get(12)?,
            misfire: row.get(13)?,
        },
        state: State::parse(&row.get::<_, String>(14)?).ok_or(StoreError::BadRow("a task's state"))?,
        reason: row.get(15)?,
        runs: row.get(16)?,
        last_run: row.get::<_, Option<i64>>(17)?.map(Millis),
        last_message: message.as_deref().map(inbox::message_id).transpose()?,
        created_by: row.get(19)?,
        created_at: Millis(row.get(20)?),
        revision: row.get(21)?,
    })
}

/// Keeps a task, active.
///
/// # Errors
/// [`StoreError::Key`], or SQLite's.
pub fn add(tx: &Transaction<'_>, keyring: &Keyring, new: &NewTask) -> Result<TaskId, StoreError> {
    let id = TaskId::mint();
    let sealed = Texts::to_write(tx, keyring, &new.session)?.seal(id.as_str(), &new.prompt)?;
    let sql = "INSERT INTO tasks (id, agent_group, session, channel, instance, chat, thread, prompt, recurrence,
                   zone, due, until, count, misfire, state, runs, created_by, created_at, revision, call, request)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, 'active', 0, ?15, ?16, 1, ?17,
                   ?18)";
    let (place, times) = (&new.place, &new.times);
    tx.prepare_cached(sql)?.execute(params![
        id.as_str(),
        new.group.as_str(),
        new.session.as_str(),
        place.channel,
        place.instance,
        place.chat,
        place.thread,
        sealed,
        times.recurrence,
        times.zone,
        times.due.map(|due| due.0),
        times.until.map(|until| until.0),
        times.count,
        times.misfire,
        new.created_by,
        Millis::now().0,
        new.call.as_ref().map(|(call, _)| call),
        new.call.as_ref().map(|(_, request)| request),
    ])?;
    Ok(id)
}

/// The task of that id.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn get(conn: &Connection, id: &TaskId) -> Result<Option<Task>, StoreError> {
    let mut query = conn.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = ?1"))?;
    query.query_and_then([id.as_str()], read)?.next().transpose()
}

/// What an agent's call made, and the digest of what it asked.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of_call(
    conn: &Connection,
    session: &SessionId,
    call: &str,
) -> Result<Option<(Task, String)>, StoreError> {
    let sql = format!("SELECT {COLUMNS}, request FROM tasks WHERE session = ?1 AND call = ?2");
    let mut query = conn.prepare_cached(&sql)?;
    let read = |row: &Row<'_>| Ok((read(row)?, row.get(22)?));
    query.query_and_then([session.as_str(), call], read)?.next().transpose()
}

/// The tasks of a conversation that can still run, the oldest first.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn of_session(conn: &Connection, session: &SessionId, most: usize) -> Result<Vec<Task>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tasks WHERE session = ?1 AND state IN ('active', 'paused') ORDER BY id LIMIT ?2"
    );
    conn.prepare_cached(&sql)?.query_and_then(params![session.as_str(), rows(most)], read)?.collect()
}

/// Up to `limit` tasks by id, after one; of one group, or of all; in one state, or those that can still run.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn list(
    conn: &Connection,
    group: Option<&GroupName>,
    state: Option<State>,
    after: &str,
    limit: usize,
) -> Result<Vec<Task>, StoreError> {
    let states = match state {
        Some(state) => format!("= '{}'", state.as_str()),
        None => "IN ('active', 'paused')".to_owned(),
    };
    let of = if group.is_some() { "agent_group = ?2" } else { "?2 IS NULL" };
    let sql =
        format!("SELECT {COLUMNS} FROM tasks WHERE {of} AND state {states} AND id > ?1 ORDER BY id LIMIT ?3");
    let values = params![after, group.map(GroupName::as_str), rows(limit)];
    conn.prepare_cached(&sql)?.query_and_then(values, read)?.collect()
}

/// How many tasks of a group can still run.
///
/// # Errors
/// SQLite's.
pub fn live_of(conn: &Connection, group: &GroupName) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM tasks WHERE agent_group = ?1 AND state IN ('active', 'paused')";
    Ok(conn.prepare_cached(sql)?.query_row([group.as_str()], |row| row.get(0))?)
}

/// How many tasks somebody has made for a group since then, whatever became of them.
///
/// # Errors
/// SQLite's.
pub fn made_since(
    conn: &Connection,
    group: &GroupName,
    created_by: &str,
    since: Millis,
) -> Result<u64, StoreError> {
    let sql = "SELECT count(*) FROM tasks WHERE agent_group = ?1 AND created_by = ?2 AND created_at > ?3";
    Ok(conn.prepare_cached(sql)?.query_row(params![group.as_str(), created_by, since.0], |row| row.get(0))?)
}

/// When the next task is due.
///
/// # Errors
/// SQLite's.
pub fn next_due(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    let sql = "SELECT min(due) FROM tasks WHERE state = 'active'";
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, Option<i64>>(0))?.map(Millis))
}

/// Up to `most` tasks that are due, the longest due first. A row that does not read is paused, so that it holds up no
/// other.
///
/// # Errors
/// SQLite's.
pub fn due(tx: &Transaction<'_>, now: Millis, most: usize) -> Result<Vec<Task>, StoreError> {
    let sql = "SELECT id FROM tasks WHERE state = 'active' AND due <= ?1 ORDER BY due LIMIT ?2";
    let mut query = tx.prepare_cached(sql)?;
    let ids: Vec<String> =
        query.query_map(params![now.0, rows(most)], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let mut due = Vec::with_capacity(ids.len());
    for id in ids {
        let mut query = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM tasks WHERE id = ?1"))?;
        let found = query.query_and_then([&id], read)?.next().transpose();
        match found {
            Ok(task) => due.extend(task),
            Err(StoreError::BadRow(what)) => {
                let sql =
                    "UPDATE tasks SET state = 'paused', reason = ?2, revision = revision + 1 WHERE id = ?1";
                tx.prepare_cached(sql)?.execute(params![id, format!("its row does not read: {what}")])?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(due)
}

/// What is written when a run was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran<'a> {
    /// The message that was made, if one was.
    pub message: Option<&'a MessageId>,
    /// When it runs next; `None` ends it.
    pub next: Option<Millis>,
    /// When that is.
    pub now: Millis,
}

/// A task was due at the instant at which it was found, and is due later now, or never. Says whether it still was: who
/// comes second has not made the run.
///
/// # Errors
/// SQLite's.
pub fn ran(tx: &Transaction<'_>, task: &Task, ran: &Ran<'_>) -> Result<bool, StoreError> {
    let sql = "UPDATE tasks SET due = ?3, state = iif(?3 IS NULL, 'done', state), runs = runs + ?4,
                   last_run = iif(?4, ?5, last_run), last_message = coalesce(?6, last_message)
               WHERE id = ?1 AND state = 'active' AND due = ?2";
    let changed = tx.prepare_cached(sql)?.execute(params![
        task.id.as_str(),
        task.times.due.map(|due| due.0),
        ran.next.map(|next| next.0),
        ran.message.is_some(),
        ran.now.0,
        ran.message.map(MessageId::as_str),
    ])?;
    Ok(changed == 1)
}

/// Somebody wanted a run now, beside those that come due.
///
/// # Errors
/// SQLite's.
pub fn ran_now(
    tx: &Transaction<'_>,
    id: &TaskId,
    message: &MessageId,
    now: Millis,
) -> Result<(), StoreError> {
    let sql = "UPDATE tasks SET last_run = ?3, last_message = ?2 WHERE id = ?1";
    tx.prepare_cached(sql)?.execute(params![id.as_str(), message.as_str(), now.0])?;
    Ok(())
}

/// Puts the next run off.
///
/// # Errors
/// SQLite's.
pub fn put_off(tx: &Transaction<'_>, id: &TaskId, due: Millis) -> Result<(), StoreError> {
    let sql = "UPDATE tasks SET due = ?2 WHERE id = ?1 AND state = 'active'";
    tx.prepare_cached(sql)?.execute(params![id.as_str(), due.0])?;
    Ok(())
}

/// Moves a task that can still run to a state, due then. Says whether it could.
///
/// # Errors
/// SQLite's.
pub fn set_state(
    tx: &Transaction<'_>,
    id: &TaskId,
    state: State,
    due: Option<Millis>,
    reason: Option<&str>,
) -> Result<bool, StoreError> {
    let sql = "UPDATE tasks SET state = ?2, due = ?3, reason = ?4, revision = revision + 1
               WHERE id = ?1 AND state IN ('active', 'paused')";
    let values = params![id.as_str(), state.as_str(), due.map(|due| due.0), reason];
    Ok(tx.prepare_cached(sql)?.execute(values)? == 1)
}

/// Changes what a task that can still run asks and when. Says whether it could.
///
/// # Errors
/// [`StoreError::Key`], or SQLite's.
pub fn set(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    task: &Task,
    prompt: Option<&str>,
    times: &Times,
) -> Result<bool, StoreError> {
    let sealed = match prompt {
        Some(prompt) => Texts::to_write(tx, keyring, &task.session)?.seal(task.id.as_str(), prompt)?,
        None => task.sealed.clone(),
    };
    let sql = "UPDATE tasks SET prompt = ?2, recurrence = ?3, zone = ?4, due = ?5, until = ?6, count = ?7,
                   misfire = ?8, revision = revision + 1 WHERE id = ?1 AND state IN ('active', 'paused')";
    let changed = tx.prepare_cached(sql)?.execute(params![
        task.id.as_str(),
        sealed,
        times.recurrence,
        times.zone,
        times.due.map(|due| due.0),
        times.until.map(|until| until.0),
        times.count,
        times.misfire,
    ])?;
    Ok(changed == 1)
}

/// Ends every task of a group.
///
/// # Errors
/// SQLite's.
pub fn end_of_group(tx: &Transaction<'_>, group: &GroupName, reason: &str) -> Result<usize, StoreError> {
    let sql = "UPDATE tasks SET state = 'cancelled', due = NULL, reason = ?2, revision = revision + 1
               WHERE agent_group = ?1 AND state IN ('active', 'paused')";
    Ok(tx.prepare_cached(sql)?.execute([group.as_str(), reason])?)
}

/// Ends every task of a conversation whose secret is erased, and deletes what they asked.
///
/// # Errors
/// SQLite's.
pub(super) fn erase(tx: &Transaction<'_>, session: &SessionId) -> Result<(), StoreError> {
    let sql = "UPDATE tasks SET state = 'cancelled', due = NULL, reason = 'the conversation was erased',
                   revision = revision + 1 WHERE session = ?1 AND state IN ('active', 'paused')";
    tx.prepare_cached(sql)?.execute([session.as_str()])?;
    tx.prepare_cached("UPDATE tasks SET prompt = x'' WHERE session = ?1")?.execute([session.as_str()])?;
    Ok(())
}

/// Forgets up to `most` tasks that are over and were made, and last ran, before an instant. Gives how many.
///
/// # Errors
/// SQLite's.
pub fn prune(tx: &Transaction<'_>, before: Millis, most: usize) -> Result<usize, StoreError> {
    // An id begins with the time at which it was made: what is younger is not looked at.
    let time = u64::try_from(before.0).unwrap_or(0);
    let first = format!("tsk_{}", Ulid::from_parts(time, 0));
    let sql = "DELETE FROM tasks WHERE id IN (SELECT id FROM tasks WHERE id < ?1
                   AND state IN ('done', 'cancelled') AND coalesce(last_run, 0) < ?2 LIMIT ?3)";
    Ok(tx.prepare_cached(sql)?.execute(params![first, before.0, rows(most)])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controlplane::store::tests::{World, group};
    use crate::controlplane::store::{inbox, sessions};

    #[test]
    fn what_is_over_for_long_is_forgotten_and_nothing_else() {
        let world = World::new();
        let accepted = world.accept("main", "1", "x");
        let (session, message) = (accepted.session, accepted.message);
        let (keyring, conversation) = (world.keyring.clone(), session.clone());
        world.write(move |tx| inbox::fail(tx, &conversation, &message, "given up"));
        let place =
            Place { channel: "api".into(), instance: String::new(), chat: "main".into(), thread: None };
        let times = Times {
            recurrence: "hourly".into(),
            zone: "UTC".into(),
            due: Some(Millis(1)),
            until: None,
            count: None,
            misfire: "skip".into(),
        };
        let new = NewTask {
            group: group(),
            session,
            place,
            prompt: "look".into(),
            times,
            created_by: "local:owner".into(),
            call: None,
        };
        let ids = world.write(move |tx| {
            let ids = (0..3).map(|_| add(tx, &keyring, &new)).collect::<Result<Vec<_>, _>>()?;
            set_state(tx, &ids[0], State::Cancelled, None, None)?;
            set_state(tx, &ids[1], State::Cancelled, None, None)?;
            ran_now(tx, &ids[1], &MessageId::mint(), Millis(i64::MAX))?;
            Ok(ids)
        });
        let long_ago = Millis(Millis::now().0 - 1000);
        assert_eq!(world.write(move |tx| prune(tx, long_ago, 10)), 0, "all are young");
        let later = Millis(Millis::now().0 + 1000);
        assert_eq!(world.write(move |tx| prune(tx, later, 10)), 1);
        let left = world.read(|conn| ids.iter().map(|id| get(conn, id)).collect::<Result<Vec<_>, _>>());
        let left: Vec<bool> = left.iter().map(Option::is_some).collect();
        assert_eq!(left, [false, true, true], "one ran of late, and one can still run");
        // A conversation in which something is to be asked does not expire; one in which nothing is any more does.
        let unused = |world: &World| {
            let due = world.read(|conn| sessions::expiring(conn, later, 10));
            due.iter().filter(|(_, is_unused)| *is_unused).count()
        };
        assert_eq!(unused(&world), 0);
        world.write(|tx| end_of_group(tx, &group(), "over"));
        assert_eq!(unused(&world), 1);
    }
}
