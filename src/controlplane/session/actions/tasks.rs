//! Tasks that an agent schedules: in the conversation in which it is asked, for the chat and thread that it answers. It
//! sees those of that conversation only, since what is scheduled elsewhere, by the same agent for somebody else, is no
//! business of this one; and it changes of them what it made itself. Touches the ledger.

use rusqlite::Transaction;

use super::{Asker, Done, Entry, Granted, Refusal, known, refusal, text};
use crate::contract::action::Action;
use crate::contract::catalogue::{self, SCHEDULE_TASK};
use crate::contract::chain;
use crate::contract::ids::TaskId;
use crate::contract::json::{Value, canonical};
use crate::contract::time::Millis;
use crate::controlplane::audit::By;
use crate::controlplane::schedule::tasks::{self, MOST_OF_AGENT, Refused};
use crate::controlplane::schedule::terms::{self, Terms};
use crate::controlplane::store::tasks::{self as kept, NewTask, Task};
use crate::controlplane::store::{StoreError, inbox};

/// What an agent may ask about tasks.
pub(super) const SCHEDULE: Entry = Entry { action: SCHEDULE_TASK, tool: SCHEDULE_TASK, run: schedule };
pub(super) const LIST: Entry =
    Entry { action: catalogue::LIST_TASKS, tool: catalogue::LIST_TASKS, run: list };
pub(super) const UPDATE: Entry =
    Entry { action: catalogue::UPDATE_TASK, tool: catalogue::UPDATE_TASK, run: update };
pub(super) const PAUSE: Entry =
    Entry { action: catalogue::PAUSE_TASK, tool: catalogue::PAUSE_TASK, run: pause };
pub(super) const RESUME: Entry =
    Entry { action: catalogue::RESUME_TASK, tool: catalogue::RESUME_TASK, run: resume };
pub(super) const CANCEL: Entry =
    Entry { action: catalogue::CANCEL_TASK, tool: catalogue::CANCEL_TASK, run: cancel };

/// Between two runs of a task whose time an agent changes, in milliseconds: as between those of an interval.
const SHORTEST: i64 = 60_000;

/// Bytes of a prompt in a list; the whole of it comes with each run.
const SHOWN_PROMPT: usize = 400;

/// A file of the audit that cannot be written keeps nothing from being looked at, and everything from being done.
fn unavailable(asker: &Asker<'_>) -> Option<Refusal> {
    let reason = asker.unavailable?;
    let text = format!("nothing was done, because it could not be recorded: {reason}; try again later");
    Some(refusal("audit_unavailable", text))
}

fn done(result: Value, is_repeat: bool) -> Done {
    Ok(Granted { result, decided: None, is_repeat, spoke: false })
}

fn by(asker: &Asker<'_>) -> By {
    By { actor: format!("agent:{}", asker.group), via: format!("session:{}", asker.session) }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        refusal(refused.why(), refused.to_string())
    }
}

fn schedule(asker: &Asker<'_>, tx: &Transaction<'_>, action: &Action) -> Result<Done, StoreError> {
    let now = Millis::now();
    let read = (|| {
        known(action, &[&["prompt"], terms::FIELDS].concat())?;
        let prompt = tasks::prompt(text(action, "prompt")?).map_err(Refused::from)?.to_owned();
        Ok::<_, Refusal>((prompt, Terms::read(&action.arguments, now).map_err(Refused::from)))
    })();
    let (prompt, terms) = match read {
        Ok(read) => read,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let request = chain::hex(&chain::hash(&canonical(&action.arguments).to_string()));
    // A call that comes again has scheduled already, also when its time is over by now.
    let earlier = kept::of_call(tx, asker.session, &action.call)?;
    let is_repeat = earlier.is_some();
    if let Some((task, asked)) = earlier {
        return match asked == request {
            true => Ok(done(shown(asker, tx, &task)?, true)),
            false => Ok(Err(Refused::CallReused.into())),
        };
    }
    let terms = match terms {
        Ok(terms) => terms,
        Err(refused) => return Ok(Err(refused.into())),
    };
    if let Some(refusal) = unavailable(asker) {
        return Ok(Err(refusal));
    }
    let cause = match asker.cause {
        Some(cause) => inbox::find(tx, asker.session, cause)?,
        None => None,
    };
    let Some(cause) = cause else {
        return Ok(Err(refusal("no_chat", "nobody knows which chat this is for; nothing was scheduled")));
    };
    let by = by(asker);
    let new = NewTask {
        group: asker.group.clone(),
        session: asker.session.clone(),
        place: cause.place,
        prompt,
        times: terms.kept(),
        created_by: by.actor.clone(),
        call: Some((action.call.clone(), request)),
    };
    match tasks::create(tx, &asker.desk.keyring, &new, &by)? {
        Ok(task) => Ok(done(shown(asker, tx, &task)?, is_repeat)),
        Err(refused) => Ok(Err(refused.into())),
    }
}

fn list(asker: &Asker<'_>, tx: &Transaction<'_>, action: &Action) -> Result<Done, StoreError> {
    if let Err(refusal) = known(action, &[]) {
        return Ok(Err(refusal));
    }
    let most = usize::try_from(MOST_OF_AGENT).unwrap_or(usize::MAX);
    let all = kept::of_session(tx, asker.session, most)?;
    let all = all.iter().map(|task| shown(asker, tx, task)).collect::<Result<Vec<_>, _>>()?;
    Ok(done(Value::object([("tasks", Value::from(all))]), false))
}

/// The task that an action names, if it is one of this conversation.
fn named(
    asker: &Asker<'_>,
    tx: &Transaction<'_>,
    action: &Action,
    fields: &[&str],
) -> Result<Result<Task, Refusal>, StoreError> {
    let id = known(action, fields).and_then(|()| text(action, "task"));
    let id = match id {
        Ok(id) => TaskId::parse(id).ok(),
        Err(refusal) => return Ok(Err(refusal)),
    };
    let found = id.map(|id| kept::get(tx, &id)).transpose()?.flatten();
    let own = found.filter(|task| task.session == *asker.session && task.group == asker.group);
    let none = || refusal("no_task", "this conversation has no such task; list_tasks names them");
    Ok(own.ok_or_else(none))
}

/// Does something with a task that the action names.
fn change(
    asker: &Asker<'_>,
    tx: &Transaction<'_>,
    action: &Action,
    fields: &[&str],
    work: impl FnOnce(&Task) -> tasks::Outcome<Task>,
) -> Result<Done, StoreError> {
    let task = match named(asker, tx, action, fields)? {
        Ok(task) => task,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if !task.is_agents() {
        let text = "a person made this task; tell them what you think of it";
        return Ok(Err(refusal("not_yours", text)));
    }
    if let Some(refusal) = unavailable(asker) {
        return Ok(Err(refusal));
    }
    match work(&task)? {
        Ok(task) => Ok(done(shown(asker, tx, &task)?, false)),
        Err(refused) => Ok(Err(refused.into())),
    }
}

fn update(asker: &Asker<'_>, tx: &Transaction<'_>, action: &Action) -> Result<Done, StoreError> {
    let fields = [&["task", "prompt"], terms::FIELDS].concat();
    change(asker, tx, action, &fields, |task| {
        let prompt = action.arguments.get("prompt").filter(|prompt| **prompt != Value::Null);
        let prompt = match prompt.map(|prompt| prompt.as_str().unwrap_or_default()) {
            Some(prompt) => match tasks::prompt(prompt) {
                Ok(prompt) => Some(prompt),
                Err(wrong) => return Ok(Err(wrong.into())),
            },
            None => None,
        };
        // Else a run could make the next one come at once, and that the next.
        let earliest = task.last_run.map(|last| Millis(last.0.saturating_add(SHORTEST)));
        tasks::update(tx, &asker.desk.keyring, task, prompt, &action.arguments, earliest)
    })
}

fn pause(asker: &Asker<'_>, tx: &Transaction<'_>, action: &Action) -> Result<Done, StoreError> {
    change(asker, tx, action, &["task"], |task| tasks::pause(tx, task))
}

fn resume(asker: &Asker<'_>, tx: &Transaction<'_>, action: &Action) -> Result<Done, StoreError> {
    change(asker, tx, action, &["task"], |task| tasks::resume(tx, task))
}

fn cancel(asker: &Asker<'_>, tx: &Transaction<'_>, action: &Action) -> Result<Done, StoreError> {
    change(asker, tx, action, &["task"], |task| tasks::cancel(tx, task, &by(asker)))
}

/// A task as its agent is told of it. One whose text cannot be read is told of without it.
fn shown(asker: &Asker<'_>, tx: &Transaction<'_>, task: &Task) -> Result<Value, StoreError> {
    let prompt = match task.prompt(tx, &asker.desk.keyring) {
        Ok(prompt) => prompt,
        Err(StoreError::Key(_)) => None,
        Err(error) => return Err(error),
    };
    let prompt = prompt.map(|prompt| match prompt.char_indices().nth(SHOWN_PROMPT) {
        Some((end, _)) => format!("{}… ({} bytes)", prompt.get(..end).unwrap_or_default(), prompt.len()),
        None => prompt,
    });
    let mut fields = tasks::shown(task, prompt.as_deref());
    fields.push(("chat", Value::from(task.place.chat.as_str())));
    fields.push(("thread", Value::from(task.place.thread.clone())));
    Ok(Value::object(fields))
}
