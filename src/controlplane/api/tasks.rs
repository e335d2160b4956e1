//! Scheduled tasks: listed, made, changed, run now and ended by operators. What a task asks is part of a conversation,
//! and shown to those only who may operate its agent. Touches the ledger, and wakes the sessions that it asks.

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use rusqlite::{Connection, Transaction};

use super::changes::{field, known};
use super::lists::{limit, of_group};
use super::problem::Problem;
use super::router::Query;
use super::{Api, body, chat};
use crate::contract::ids::{GroupName, TaskId};
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::audit::{ActError, By};
use crate::controlplane::doors;
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::keys::Keyring;
use crate::controlplane::principals::{self, Principal, Scope, Standing};
use crate::controlplane::router::plan;
use crate::controlplane::schedule::tasks::{self, Outcome, Refused, record};
use crate::controlplane::schedule::terms::{self, Terms};
use crate::controlplane::store::sessions::{self, Partition, Place};
use crate::controlplane::store::tasks::{self as kept, NewTask, State, Task};
use crate::controlplane::store::{Step, StoreError, groups, wirings};
use crate::controlplane::tasks::unbroken;

/// Escapes take up to six bytes for one; a prompt of the full length must fit whatever it holds.
const BODY_BYTES: usize = 6 * tasks::MOST_PROMPT + 4096;

/// `GET /v1/tasks`
pub(super) async fn list(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["group", "state", "after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let state = match query.text("state") {
        None | Some("live") => None,
        Some(word) => Some(State::parse(word).ok_or_else(|| {
            Problem::invalid(
                "state must be live, which is active or paused, or one of active, paused, done, cancelled",
            )
        })?),
    };
    let rows =
        of_group(api, principal, &query, move |conn, group| kept::list(conn, group, state, &after, limit));
    let rows = rows.await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|task| task.id.to_string())).flatten();
    let all: Vec<Value> = rows.iter().map(|task| task_json(task, None)).collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("tasks", Value::from(all)), ("next", Value::from(next))]),
    ))
}

/// `GET /v1/tasks/{id}`
pub(super) async fn show(api: &Api, principal: &Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = TaskId::parse(name).map_err(|_| Problem::no_task(name))?;
    let (keyring, user, may_operate) =
        (api.keyring.clone(), principal.user.clone(), principal.has(Scope::Operate));
    let found = api.ledger.read(move |conn| {
        let Some(task) = kept::get(conn, &id)? else { return Ok(None) };
        let standing = Standing::of(conn, &user)?;
        // Whom it does not concern is not told that it is there.
        if !standing.allows(Scope::Read, Some(&task.group)) {
            return Ok(None);
        }
        let shows = may_operate && standing.allows(Scope::Operate, Some(&task.group));
        let prompt = if shows { prompt(conn, &keyring, &task)? } else { None };
        Ok(Some(task_json(&task, prompt.as_deref())))
    });
    let shown = found.await?.ok_or_else(|| Problem::no_task(name))?;
    Ok(json_response(StatusCode::OK, &shown))
}

/// What a task asks, if that can be read.
fn prompt(conn: &Connection, keyring: &Keyring, task: &Task) -> Result<Option<String>, StoreError> {
    match task.prompt(conn, keyring) {
        Err(StoreError::Key(_)) => Ok(None),
        prompt => prompt,
    }
}

/// `POST /v1/tasks`
pub(super) async fn create(
    api: &Api,
    principal: Principal,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    let own = ["group", "channel", "instance", "chat", "thread", "prompt"];
    known(&document, &[&own, terms::FIELDS].concat())?;
    let name = field(&document, "group")?.ok_or_else(|| Problem::invalid("group is missing: the agent"))?;
    let channel = field(&document, "channel")?.unwrap_or(doors::API);
    let partition = if channel == doors::API {
        let Partition { group, place } = chat::partition(name, field(&document, "chat")?)?;
        let instance = field(&document, "instance")?.unwrap_or_default().to_owned();
        let thread = field(&document, "thread")?.map(str::to_owned);
        Partition { group, place: Place { instance, thread, ..place } }
    } else {
        let missing = || Problem::invalid("chat is missing: the chat of the platform");
        let place = Place {
            channel: channel.to_owned(),
            instance: field(&document, "instance")?.unwrap_or_default().to_owned(),
            chat: field(&document, "chat")?.ok_or_else(missing)?.to_owned(),
            thread: field(&document, "thread")?.map(str::to_owned),
        };
        let group = GroupName::parse(name).map_err(|_| Problem::no_agent(name))?;
        Partition { group, place }
    };
    let Partition { group, place } = partition;
    doors::lead_to(&place.channel, &place.instance, &place.chat, place.thread.as_deref())
        .map_err(|no| Problem::invalid(no.to_string()))?;
    let prompt = field(&document, "prompt")?.unwrap_or_default();
    let prompt = tasks::prompt(prompt).map_err(Refused::from).map_err(|no| refused(&no))?.to_owned();
    let terms = Terms::read(&document, Millis::now()).map_err(|no| refused(&no.into()))?;
    let (keyring, agent) = (api.keyring.clone(), group.clone());
    let work = move |tx: &Transaction<'_>| {
        if !principals::may(tx, &principal, Scope::Operate, Some(&group))? {
            return Ok(Err(Problem::forbidden(format!("your roles do not allow this for {group}"))));
        }
        if groups::live(tx, &group)?.is_none() {
            return Ok(Err(Problem::no_agent(group.as_str())));
        }
        let Some(partition) = conversation(tx, &group, &place)? else {
            return Ok(Err(Problem::invalid(
                "the agent is not wired to that chat; see `ironctl wiring list`",
            )));
        };
        if let Err(no) = tasks::room(tx, &group, tasks::MOST_OF_PEOPLE)? {
            return Ok(Err(refused(&no)));
        }
        let by = principal.by();
        let new = NewTask {
            session: sessions::find_or_create(tx, &partition)?,
            group,
            place,
            prompt,
            times: terms.kept(),
            created_by: by.actor.clone(),
            call: None,
        };
        Ok(match tasks::create(tx, &keyring, &new, &by)? {
            Ok(task) => Ok(task_json(&task, Some(&new.prompt))),
            Err(no) => Err(refused(&no)),
        })
    };
    // Whoever asked may go meanwhile, and the record may be late: it is due all the same.
    let (audit, ledger, actors) = (api.audit.clone(), api.ledger.clone(), api.actors.clone());
    let made = unbroken(async move {
        let made = audit.act(Step::Other, work).await;
        ledger.alarm().ring();
        actors.ring_births();
        made
    });
    let made = made.await.ok_or_else(Problem::internal)?;
    let made = made.map_err(|error| Problem::not_acted(error, agent.as_str(), "scheduled"))??;
    Ok(json_response(StatusCode::CREATED, &made))
}

/// The conversation in which an agent is asked for this place, if it is asked there at all.
fn conversation(
    conn: &Connection,
    group: &GroupName,
    place: &Place,
) -> Result<Option<Partition>, StoreError> {
    if !doors::is_platform(&place.channel) {
        return Ok(Some(Partition { group: group.clone(), place: place.clone() }));
    }
    let wiring = wirings::find(conn, group, (&place.channel, &place.instance, &place.chat))?;
    Ok(wiring.map(|wiring| plan::partition(group, &wiring.terms.sessions, place)))
}

/// `POST /v1/tasks/{id}`
pub(super) async fn edit(
    api: &Api,
    principal: Principal,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    known(&document, &[&["prompt", "state", "revision"], terms::FIELDS].concat())?;
    let text = field(&document, "prompt")?.map(str::to_owned);
    let state = match field(&document, "state")? {
        None => None,
        Some("active") => Some(State::Active),
        Some("paused") => Some(State::Paused),
        Some(_) => return Err(Problem::invalid("state must be active or paused; DELETE ends a task")),
    };
    let revision = match document.get("revision") {
        None | Some(Value::Null) => None,
        Some(value) => {
            Some(value.as_u64().ok_or_else(|| Problem::invalid("revision must be a whole number"))?)
        }
    };
    let changes = text.is_some() || terms::FIELDS.iter().any(|field| document.get(field).is_some());
    if state.is_some() == changes {
        return Err(Problem::invalid(
            "give either a state, or what is to be different; not both, not neither",
        ));
    }
    let (keyring, ledger) = (api.keyring.clone(), api.ledger.clone());
    let work = move |tx: &Transaction<'_>, task: &Task, by: &By| {
        if revision.is_some_and(|revision| revision != task.revision) {
            return Ok(Ok(Err(Problem::conflict(
                "the task was changed meanwhile; look at it again and give its revision",
            ))));
        }
        let (verb, done) = match state {
            None => ("task.updated", tasks::update(tx, &keyring, task, text.as_deref(), &document, None)?),
            Some(State::Paused) => ("task.paused", tasks::pause(tx, task)?),
            Some(_) => ("task.resumed", tasks::resume(tx, task)?),
        };
        if done.as_ref().is_ok_and(|done| done != task) {
            record(tx, verb, task, by, Value::Null)?;
        }
        Ok(done.map(Ok))
    };
    let shown = act(api, principal, name, work, move |_| ledger.alarm().ring()).await?;
    Ok(json_response(StatusCode::OK, &shown))
}

/// `DELETE /v1/tasks/{id}`
pub(super) async fn cancel(api: &Api, principal: Principal, name: &str) -> Result<Response<Body>, Problem> {
    let work = |tx: &Transaction<'_>, task: &Task, by: &By| Ok(tasks::cancel(tx, task, by)?.map(Ok));
    let shown = act(api, principal, name, work, |_| ()).await?;
    Ok(json_response(StatusCode::OK, &shown))
}

/// `POST /v1/tasks/{id}/run`
pub(super) async fn run(
    api: &Api,
    principal: Principal,
    name: &str,
    key: Option<String>,
) -> Result<Response<Body>, Problem> {
    let (keyring, actors) = (api.keyring.clone(), api.actors.clone());
    let work = move |tx: &Transaction<'_>, task: &Task, by: &By| {
        let key = key.map(|key| format!("{}\n{key}", by.via));
        if let Some(key) = &key
            && tasks::was_run_for(tx, task, key)?
        {
            return Ok(Ok(Ok(task.clone())));
        }
        let done = tasks::run_now(tx, &keyring, task, key.as_deref())?;
        if done.is_ok() {
            record(tx, "task.run", task, by, Value::Null)?;
        }
        Ok(done.map(Ok))
    };
    let after = move |task: &Task| {
        actors.wake(&task.session);
        actors.ring_bell(&task.session, None);
    };
    let shown = act(api, principal, name, work, after).await?;
    Ok(json_response(StatusCode::ACCEPTED, &shown))
}

/// Does something with a task that the asker may operate, and what follows from it. Gives it as it is then.
async fn act(
    api: &Api,
    principal: Principal,
    name: &str,
    work: impl FnOnce(&Transaction<'_>, &Task, &By) -> Outcome<Result<Task, Problem>> + Send + 'static,
    after: impl FnOnce(&Task) + Send + 'static,
) -> Result<Value, Problem> {
    let none = || Problem::no_task(name);
    let id = TaskId::parse(name).map_err(|_| none())?;
    let keyring = api.keyring.clone();
    let work = move |tx: &Transaction<'_>| {
        let Some(task) = kept::get(tx, &id)? else { return Ok(None) };
        if !principals::may(tx, &principal, Scope::Operate, Some(&task.group))? {
            let may_see = Standing::of(tx, &principal.user)?.allows(Scope::Read, Some(&task.group));
            let no = Problem::forbidden("your roles do not allow this for its agent");
            return Ok(may_see.then_some(Err(no)));
        }
        let task = match work(tx, &task, &principal.by())? {
            Ok(Ok(task)) => task,
            Ok(Err(problem)) => return Ok(Some(Err(problem))),
            Err(no) => return Ok(Some(Err(refused(&no)))),
        };
        let shown = task_json(&task, prompt(tx, &keyring, &task)?.as_deref());
        Ok(Some(Ok((task, shown))))
    };
    // Whoever asked may go meanwhile, and the record may be late: what follows, follows all the same.
    let audit = api.audit.clone();
    let acted = unbroken(async move {
        let acted = audit.act(Step::Other, work).await;
        if let Ok(Some(Ok((task, _)))) | Err(ActError::Unexported { done: Some(Ok((task, _))), .. }) = &acted
        {
            after(task);
        }
        acted
    });
    let acted = acted.await.ok_or_else(Problem::internal)?;
    let done = acted.map_err(|error| Problem::not_acted(error, name, "done"))?.ok_or_else(none)?;
    Ok(done?.1)
}

fn refused(refused: &Refused) -> Problem {
    match refused {
        Refused::Wrong(wrong) => Problem::invalid(wrong.to_string()),
        other => Problem::task_refused(other.why(), other.to_string()),
    }
}

fn task_json(task: &Task, prompt: Option<&str>) -> Value {
    let place = &task.place;
    let mut fields = tasks::shown(task, prompt);
    fields.extend([
        ("group", Value::from(task.group.as_str())),
        ("session", Value::from(task.session.as_str())),
        ("channel", Value::from(place.channel.as_str())),
        ("instance", Value::from(place.instance.as_str())),
        ("chat", Value::from(place.chat.as_str())),
        ("thread", Value::from(place.thread.clone())),
        ("last_message", Value::from(task.last_message.as_ref().map(ToString::to_string))),
        ("revision", Value::from(task.revision)),
    ]);
    Value::object(fields)
}
