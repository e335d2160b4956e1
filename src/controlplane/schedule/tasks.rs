//! What is done with scheduled tasks, whoever wants it: an agent for the conversation in which it is asked, an operator
//! for any of an agent. Each is one piece of a transaction that its caller makes, with the checks and the record that
//! belong to it. Touches the ledger.

use rusqlite::{Connection, Transaction};

use super::terms::{self, Terms, Wrong};
use crate::contract::catalogue::SCHEDULE_TASK;
use crate::contract::ids::{GroupName, MessageId};
use crate::contract::inbound::InboundKind;
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::audit::{self, By, Record};
use crate::controlplane::doors;
use crate::controlplane::keys::Keyring;
use crate::controlplane::store::inbox::{self, Accepted, NewInbound};
use crate::controlplane::store::sessions::{self, Place};
use crate::controlplane::store::tasks::{self, NewTask, State, Task};
use crate::controlplane::store::{StoreError, destinations, groups};

/// Longest prompt, in bytes: it is said again with every run.
pub const MOST_PROMPT: usize = 8 << 10;
/// Tasks that an agent may have waiting, of whomever, before it may make another.
pub const MOST_OF_AGENT: u64 = 100;
/// Tasks that an agent may make in a day, whatever became of them: each stays in the ledger for a while.
pub const MOST_A_DAY: u64 = 200;
/// Tasks that people may have waiting with one agent.
pub const MOST_OF_PEOPLE: u64 = 1000;
/// Runs to come that are shown.
pub const COMING: u32 = 3;
/// Who asks when a task is due.
pub const SENDER: &str = "system:schedule";

/// In milliseconds.
const DAY: i64 = 24 * 60 * 60 * 1000;
/// A conversation that is full is asked again after this time, in milliseconds.
const CROWDED: i64 = 60_000;

/// Why nothing was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// What was said is wrong.
    Wrong(Wrong),
    /// As many as may wait.
    TooMany(u64),
    /// As many as may be made in a day.
    TooOften(u64),
    /// The call made another task before.
    CallReused,
    /// It cannot run any more.
    Over(State),
    /// Nothing is left to be resumed for.
    Passed,
    /// Its last run is not answered yet.
    Busy,
    /// The conversation takes no more messages.
    Crowded,
}

impl Refused {
    /// A word for programs.
    pub fn why(&self) -> &'static str {
        match self {
            Self::Wrong(_) => "refused",
            Self::TooMany(_) => "too_many_tasks",
            Self::TooOften(_) => "too_often",
            Self::CallReused => "call_reused",
            Self::Over(_) => "over",
            Self::Passed => "passed",
            Self::Busy => "busy",
            Self::Crowded => "crowded",
        }
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong(wrong) => wrong.fmt(f),
            Self::TooMany(most) => {
                write!(f, "{most} tasks wait for this agent, as many as may; cancel one that is not needed")
            }
            Self::TooOften(most) => {
                write!(f, "this agent has made {most} tasks in a day, as many as it may; go on tomorrow")
            }
            Self::CallReused => f.write_str("this call was made before, for another task"),
            Self::Over(state) => write!(f, "the task is {}; make a new one", state.as_str()),
            Self::Passed => f.write_str("no run of it is left; give it a new time, or make a new one"),
            Self::Busy => f.write_str("its last run is not answered yet; wait for that"),
            Self::Crowded => f.write_str("too many messages wait in its conversation; try again later"),
        }
    }
}

impl From<Wrong> for Refused {
    fn from(wrong: Wrong) -> Self {
        Self::Wrong(wrong)
    }
}

/// What came of it, or why nothing did.
pub type Outcome<T> = Result<Result<T, Refused>, StoreError>;

/// What is asked of an agent, if it can be.
///
/// # Errors
/// What is wrong with it.
pub fn prompt(text: &str) -> Result<&str, Wrong> {
    if text.trim().is_empty() || text.len() > MOST_PROMPT {
        let text = format!("it has 1 to {MOST_PROMPT} bytes and not only spaces");
        return Err(Wrong { field: "prompt", text });
    }
    Ok(text)
}

/// Whether another task may wait for an agent.
///
/// # Errors
/// The ledger's; the inner one is that it may not.
pub fn room(conn: &Connection, group: &GroupName, most: u64) -> Outcome<()> {
    Ok(if tasks::live_of(conn, group)? >= most { Err(Refused::TooMany(most)) } else { Ok(()) })
}

/// Keeps a new task. One that the same call of an agent made before is given as it is.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn create(tx: &Transaction<'_>, keyring: &Keyring, new: &NewTask, by: &By) -> Outcome<Task> {
    const GONE: StoreError = StoreError::BadRow("a task");
    if let Some((call, request)) = &new.call {
        if let Some((task, asked)) = tasks::of_call(tx, &new.session, call)? {
            return Ok(if asked == *request { Ok(task) } else { Err(Refused::CallReused) });
        }
        let since = Millis(Millis::now().0 - DAY);
        if tasks::made_since(tx, &new.group, &new.created_by, since)? >= MOST_A_DAY {
            return Ok(Err(Refused::TooOften(MOST_A_DAY)));
        }
    }
    let most = if new.call.is_some() { MOST_OF_AGENT } else { MOST_OF_PEOPLE };
    if let Err(refused) = room(tx, &new.group, most)? {
        return Ok(Err(refused));
    }
    let id = tasks::add(tx, keyring, new)?;
    let task = tasks::get(tx, &id)?.ok_or(GONE)?;
    record(tx, "task.created", &task, by, Value::Null)?;
    Ok(Ok(task))
}

/// Changes what a task asks and when; `fields` are those of its [`Terms`]. It runs no earlier than `earliest`.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn update(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    task: &Task,
    text: Option<&str>,
    fields: &Value,
    earliest: Option<Millis>,
) -> Outcome<Task> {
    if !task.state.is_live() {
        return Ok(Err(Refused::Over(task.state)));
    }
    let changed = text.map(prompt).transpose().and_then(|_| {
        let found = Terms::of(&task.times);
        let found = found.map_err(|error| Wrong { field: "schedule", text: error.to_string() })?;
        found.changed(fields, task.runs, Millis::now())
    });
    let changed = match changed {
        Ok(changed) => changed,
        Err(wrong) => return Ok(Err(wrong.into())),
    };
    if let Some(earliest) = earliest.filter(|earliest| changed.due.is_some_and(|due| due < *earliest)) {
        let text = format!("it ran a moment ago; {earliest} is the earliest");
        return Ok(Err(Wrong { field: "at", text }.into()));
    }
    tasks::set(tx, keyring, task, text, &changed.kept())?;
    again(tx, task)
}

/// A task does not run until it is resumed.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn pause(tx: &Transaction<'_>, task: &Task) -> Outcome<Task> {
    match task.state {
        State::Active => {
            tasks::set_state(tx, &task.id, State::Paused, task.times.due, None)?;
            again(tx, task)
        }
        State::Paused => Ok(Ok(task.clone())),
        over => Ok(Err(Refused::Over(over))),
    }
}

/// It runs again, from its next time on.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn resume(tx: &Transaction<'_>, task: &Task) -> Outcome<Task> {
    match task.state {
        State::Active => Ok(Ok(task.clone())),
        State::Paused => {
            let due = Terms::of(&task.times).ok().and_then(|terms| terms.resumed(task.runs, Millis::now()));
            if due.is_none() {
                return Ok(Err(Refused::Passed));
            }
            tasks::set_state(tx, &task.id, State::Active, due, None)?;
            again(tx, task)
        }
        over => Ok(Err(Refused::Over(over))),
    }
}

/// It never runs again. One that was cancelled stays so.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn cancel(tx: &Transaction<'_>, task: &Task, by: &By) -> Outcome<Task> {
    match task.state {
        State::Cancelled => return Ok(Ok(task.clone())),
        State::Done => return Ok(Err(Refused::Over(State::Done))),
        State::Active | State::Paused => {}
    }
    tasks::set_state(tx, &task.id, State::Cancelled, None, None)?;
    record(tx, "task.cancelled", task, by, Value::Null)?;
    again(tx, task)
}

/// Where the asker's own names of runs are noted: no chat has that account.
fn asked(task: &Task) -> Place {
    Place { channel: doors::API.to_owned(), instance: task.id.to_string(), ..task.place.clone() }
}

/// Whether the run that the asker calls so was made already, as long as the events of a platform are kept.
///
/// # Errors
/// The ledger's.
pub fn was_run_for(conn: &Connection, task: &Task, key: &str) -> Result<bool, StoreError> {
    Ok(inbox::seen(conn, &asked(task), key)?.is_some())
}

/// Makes a run now, beside those that come due; under the asker's name for it, if it has one.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn run_now(tx: &Transaction<'_>, keyring: &Keyring, task: &Task, key: Option<&str>) -> Outcome<Task> {
    if !task.state.is_live() {
        return Ok(Err(Refused::Over(task.state)));
    }
    if is_open(tx, task)? {
        return Ok(Err(Refused::Busy));
    }
    let Some(text) = task.prompt(tx, keyring)? else { return Ok(Err(Refused::Passed)) };
    let Some(accepted) = ask(tx, keyring, task, text)? else { return Ok(Err(Refused::Crowded)) };
    if let Some(key) = key {
        inbox::note(tx, &asked(task), key, &accepted)?;
    }
    tasks::ran_now(tx, &task.id, &accepted.message, Millis::now())?;
    again(tx, task)
}

fn again(tx: &Transaction<'_>, task: &Task) -> Outcome<Task> {
    Ok(Ok(tasks::get(tx, &task.id)?.ok_or(StoreError::BadRow("a task"))?))
}

/// What became of a task that was due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fired {
    /// A run was made.
    Ran(MessageId),
    /// No run was made, and it goes on: it was missed, or the one before is not answered yet.
    Skipped,
    /// It is due again a little later.
    PutOff,
    /// It was ended, or waits for somebody to look at it.
    Ended(&'static str),
}

/// Does what is due of a task that was found due in this transaction.
///
/// # Errors
/// The ledger's.
pub fn fire(tx: &Transaction<'_>, keyring: &Keyring, task: &Task, now: Millis) -> Result<Fired, StoreError> {
    if let Some((state, why)) = unfit(tx, task)? {
        return end(tx, task, state, why);
    }
    let Ok(terms) = Terms::of(&task.times) else {
        return end(tx, task, State::Paused, "its times are those of another version");
    };
    let text = match task.prompt(tx, keyring) {
        Ok(Some(text)) => text,
        Ok(None) => return end(tx, task, State::Cancelled, "what it asks was erased"),
        Err(StoreError::Key(_)) => return end(tx, task, State::Paused, "what it asks cannot be read"),
        Err(error) => return Err(error),
    };
    let due = terms.misfire(task.runs, now);
    // Who does not answer is not asked again and again; a last run is asked all the same.
    let waits = due.next.is_some() && is_open(tx, task)?;
    let message = match due.run {
        Some(_) if !waits => match ask(tx, keyring, task, text)? {
            Some(accepted) => Some(accepted.message),
            None => {
                tasks::put_off(tx, &task.id, Millis(now.0.saturating_add(CROWDED)))?;
                return Ok(Fired::PutOff);
            }
        },
        _ => None,
    };
    let ran = tasks::Ran { message: message.as_ref(), next: due.next, now };
    if !tasks::ran(tx, task, &ran)? {
        return Err(StoreError::Conflict("the task was changed meanwhile"));
    }
    Ok(message.map_or(Fired::Skipped, Fired::Ran))
}

/// A task cannot be run: it waits for somebody to look at it.
///
/// # Errors
/// The ledger's.
pub fn give_up(tx: &Transaction<'_>, task: &Task) -> Result<Fired, StoreError> {
    end(tx, task, State::Paused, "it could not be run; the log says why")
}

/// Why a task does not run any more, whatever its time.
fn unfit(tx: &Transaction<'_>, task: &Task) -> Result<Option<(State, &'static str)>, StoreError> {
    let Some(group) = groups::live(tx, &task.group)? else {
        return Ok(Some((State::Cancelled, "the agent was deleted")));
    };
    if !reaches(tx, &task.group, &task.place)? {
        return Ok(Some((State::Cancelled, "the agent was taken away from that chat")));
    }
    if task.is_agents() && !group.tools.has(SCHEDULE_TASK) {
        return Ok(Some((State::Paused, "the agent may not schedule any more")));
    }
    Ok(None)
}

/// Whether what an agent says there would arrive: on a platform it must be wired to the chat, or have a destination that
/// leads there.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn reaches(conn: &Connection, group: &GroupName, place: &Place) -> Result<bool, StoreError> {
    Ok(!doors::is_platform(&place.channel) || destinations::reach(conn, group, place)?)
}

fn end(tx: &Transaction<'_>, task: &Task, state: State, why: &'static str) -> Result<Fired, StoreError> {
    let due = if state == State::Paused { task.times.due } else { None };
    tasks::set_state(tx, &task.id, state, due, Some(why))?;
    let act = if state == State::Paused { "task.paused" } else { "task.ended" };
    let host = By { actor: "host".to_owned(), via: String::new() };
    record(tx, act, task, &host, Value::object([("why", Value::from(why))]))?;
    Ok(Fired::Ended(why))
}

/// Whether the last run is not answered yet.
fn is_open(tx: &Transaction<'_>, task: &Task) -> Result<bool, StoreError> {
    let Some(last) = &task.last_message else { return Ok(false) };
    Ok(inbox::find(tx, &task.session, last)?.is_some_and(|found| found.state == inbox::State::Open))
}

/// Asks the agent. `None` when its conversation takes no more messages.
fn ask(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    task: &Task,
    text: String,
) -> Result<Option<Accepted>, StoreError> {
    let row = sessions::get(tx, &task.session)?.ok_or(StoreError::BadRow("a session"))?;
    let new = NewInbound {
        partition: row.partition,
        place: task.place.clone(),
        event_id: String::new(),
        kind: InboundKind::Task,
        engage: true,
        sender_id: SENDER.to_owned(),
        sender_name: task.id.to_string(),
        text,
        in_reply_to: None,
        source_session: None,
        hop: 0,
        platform_message: None,
    };
    match inbox::add(tx, keyring, &new) {
        Ok(accepted) => Ok(Some(accepted)),
        Err(StoreError::Crowded { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Records what was done with a task.
///
/// # Errors
/// As [`audit::record`].
pub fn record(
    tx: &Transaction<'_>,
    act: &'static str,
    task: &Task,
    by: &By,
    detail: Value,
) -> Result<(), StoreError> {
    let By { actor, via } = by;
    let (group, object) = (Some(&task.group), task.id.as_str());
    audit::record(tx, &Record { act, actor, via, group, object, detail }).map(drop)
}

/// A task as agents and operators are shown it, but for where it belongs. `prompt` is what it asks.
pub fn shown(task: &Task, prompt: Option<&str>) -> Vec<(&'static str, Value)> {
    let terms = Terms::of(&task.times).ok();
    let coming = terms.as_ref().filter(|_| task.state == State::Active).map(|terms| {
        let instants = terms.coming(task.runs, COMING);
        let both = instants.into_iter().map(|at| {
            Value::object([
                ("at", Value::from(at.to_rfc3339())),
                ("local", Value::from(terms::local(&terms.zone, at))),
            ])
        });
        both.collect::<Vec<_>>()
    });
    let time = |at: Option<Millis>| Value::from(at.map(Millis::to_rfc3339));
    vec![
        ("id", Value::from(task.id.as_str())),
        ("state", Value::from(task.state.as_str())),
        ("reason", Value::from(task.reason.clone())),
        ("schedule", Value::from(task.times.recurrence.as_str())),
        ("zone", Value::from(task.times.zone.as_str())),
        ("next", Value::from(coming.unwrap_or_default())),
        ("until", time(task.times.until)),
        ("count", Value::from(task.times.count)),
        ("misfire", Value::from(task.times.misfire.as_str())),
        ("runs", Value::from(task.runs)),
        ("last_run", time(task.last_run)),
        ("prompt", Value::from(prompt.map(str::to_owned))),
        ("created_by", Value::from(task.created_by.as_str())),
        ("created_at", time(Some(task.created_at))),
    ]
}
