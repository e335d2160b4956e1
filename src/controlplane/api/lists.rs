//! Agents and sessions, listed and released. Touches the ledger through its functions, and asks the actors
//! what runs.

use hyper::{Response, StatusCode};
use rusqlite::Connection;

use super::Api;
use super::problem::Problem;
use super::router::Query;
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::json::Value;
use crate::contract::plain;
use crate::contract::time::Millis;
use crate::controlplane::audit::ActError;
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::principals::{Principal, Scope, Standing};
use crate::controlplane::session::{EraseError, Live, ReleaseError};
use crate::controlplane::store::StoreError;
use crate::controlplane::store::groups::{self, Tools};
use crate::controlplane::store::sessions::{self, SessionRow, SessionState};
use crate::controlplane::tasks;

/// Rows in a page unless asked otherwise, and at most.
const PAGE: u64 = 50;
const PAGE_MOST: u64 = 500;

pub(super) fn limit(query: &Query) -> Result<usize, Problem> {
    let limit = query.number("limit", 1, PAGE_MOST)?.unwrap_or(PAGE);
    Ok(usize::try_from(limit).unwrap_or(usize::MAX))
}

/// What is read of one agent, or of all for those whose role reaches over all: in one look at the ledger whether it may
/// be shown, and what it is.
pub(super) async fn of_group<T: Send + 'static>(
    api: &Api,
    principal: &Principal,
    query: &Query,
    work: impl FnOnce(&Connection, Option<&GroupName>) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Problem> {
    let group = query.text("group").map(GroupName::parse).transpose();
    let group = group.map_err(|error| Problem::invalid(format!("group is {error}")))?;
    let (user, is_of_all) = (principal.user.clone(), group.is_none());
    let shown = api.ledger.read(move |conn| {
        if !Standing::of(conn, &user)?.allows(Scope::Read, group.as_ref()) {
            return Ok(None);
        }
        work(conn, group.as_ref()).map(Some)
    });
    shown.await?.ok_or_else(|| {
        Problem::forbidden(if is_of_all {
            "your role reaches over some agents only; name one of them with group"
        } else {
            "your role does not reach over this agent"
        })
    })
}

/// The tools of an agent: `"all"`, or their names. A payload may say `"none"`; an answer has one word less to know.
pub(super) fn tools_json(tools: &Tools) -> Value {
    match tools {
        Tools::All => Value::from("all"),
        Tools::None => Value::Array(Vec::new()),
        Tools::List(names) => Value::Array(names.iter().map(|name| Value::from(name.as_str())).collect()),
    }
}

/// `GET /v1/agents`
pub(super) async fn agents(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["after", "limit"])?;
    let after = query.text("after").map(GroupName::parse).transpose();
    let after = after.map_err(|error| Problem::invalid(format!("after is {error}")))?;
    let limit = limit(&query)?;
    let user = principal.user.clone();
    let rows = api.ledger.read(move |conn| {
        let reach = Standing::of(conn, &user)?.reach(Scope::Read);
        groups::list(conn, after.as_ref(), limit, reach.as_deref())
    });
    let rows = rows.await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|group| group.name.to_string())).flatten();
    let agents = rows.into_iter().map(|group| {
        Value::object([
            ("name", Value::from(group.name.as_str())),
            ("title", Value::from(group.title)),
            ("provider", Value::from(group.provider)),
            ("model", Value::from(group.model)),
            ("tools", tools_json(&group.tools)),
            ("created_at", Value::from(group.created_at.to_rfc3339())),
        ])
    });
    let agents: Vec<Value> = agents.collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("agents", Value::from(agents)), ("next", Value::from(next))]),
    ))
}

/// `GET /v1/sessions`
pub(super) async fn sessions(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["after", "limit"])?;
    let after = query.text("after").map(SessionId::parse).transpose();
    let after = after.map_err(|error| Problem::invalid(format!("after is {error}")))?;
    let limit = limit(&query)?;
    let user = principal.user.clone();
    let rows = api.ledger.read(move |conn| {
        let reach = Standing::of(conn, &user)?.reach(Scope::Read);
        sessions::list(conn, after.as_ref(), limit, reach.as_deref())
    });
    let rows = rows.await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|row| row.id.to_string())).flatten();
    let live = api.actors.live();
    let all: Vec<Value> = rows.iter().map(|row| session_json(row, &live)).collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("sessions", Value::from(all)), ("next", Value::from(next))]),
    ))
}

/// `GET /v1/sessions/{id}`
pub(super) async fn session(api: &Api, principal: &Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = SessionId::parse(name).map_err(|_| Problem::no_session(name))?;
    let row = api.ledger.read(move |conn| sessions::get(conn, &id)).await?;
    let row = row.ok_or_else(|| Problem::no_session(name))?;
    // Whom it does not concern is not told that it is there.
    let reached = api.reaches(principal, Scope::Read, &row.partition.group).await;
    reached.map_err(|_| Problem::no_session(name))?;
    Ok(json_response(StatusCode::OK, &session_json(&row, &api.actors.live())))
}

/// `POST /v1/sessions/{id}/release`
pub(super) async fn release(api: &Api, principal: &Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = SessionId::parse(name).map_err(|_| Problem::no_session(name))?;
    match api.actors.release(&id, &api.audit, principal).await {
        Ok(()) => {
            let row = api.ledger.read(move |conn| sessions::get(conn, &id)).await?;
            let row = row.ok_or_else(|| Problem::no_session(name))?;
            Ok(json_response(StatusCode::OK, &session_json(&row, &api.actors.live())))
        }
        Err(ReleaseError::NoSession) => Err(Problem::no_session(name)),
        Err(ReleaseError::Forbidden) => Err(Problem::forbidden("your roles do not allow this for its agent")),
        Err(ReleaseError::NotParked) => Err(Problem::not_parked()),
        Err(ReleaseError::Act(ActError::Unavailable(reason))) => Err(Problem::audit_unavailable(&reason)),
        Err(ReleaseError::Act(ActError::Unexported { reason, .. })) => {
            Err(Problem::unexported(&reason, id.as_str(), "ready"))
        }
        Err(ReleaseError::Act(ActError::Store(error))) => Err(error.into()),
    }
}

/// `DELETE /v1/sessions/{id}`: nothing that was said in it can be read any more.
pub(super) async fn erase(api: &Api, principal: Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = SessionId::parse(name).map_err(|_| Problem::no_session(name))?;
    let (actors, erased) = (api.actors.clone(), id.clone());
    let erasing = tasks::unbroken(async move { actors.erase(&erased, &principal).await });
    match erasing.await.ok_or_else(Problem::internal)? {
        Ok(()) | Err(EraseError::Files(_)) => {
            Ok(json_response(StatusCode::OK, &Value::object([("erased", Value::from(id.as_str()))])))
        }
        Err(EraseError::NoSession) => Err(Problem::no_session(name)),
        Err(EraseError::Forbidden) => Err(Problem::forbidden("your roles do not allow this for its agent")),
        Err(EraseError::Act(ActError::Unavailable(reason))) => Err(Problem::audit_unavailable(&reason)),
        Err(EraseError::Act(ActError::Unexported { reason, .. })) => {
            Err(Problem::unexported(&reason, id.as_str(), "erased"))
        }
        Err(EraseError::Act(ActError::Store(error))) => Err(error.into()),
    }
}

pub(super) fn session_json(row: &SessionRow, live: &[Live]) -> Value {
    let live = live.iter().find(|live| live.session == row.id);
    let (state, reason) = match &row.state {
        SessionState::Parked { reason } => ("parked", Some(reason.clone())),
        SessionState::Ready => {
            let now = live.and_then(|live| live.reason.clone());
            ("ready", now.or_else(|| row.wait_reason.clone()))
        }
    };
    Value::object([
        ("id", Value::from(row.id.as_str())),
        ("agent", Value::from(row.partition.group.as_str())),
        ("channel", Value::from(row.partition.place.channel.as_str())),
        ("instance", Value::from(row.partition.place.instance.as_str())),
        ("chat", Value::from(row.partition.place.chat.as_str())),
        ("thread", Value::from(row.partition.place.thread.clone())),
        ("state", Value::from(state)),
        ("reason", Value::from(reason)),
        ("phase", Value::from(live.map_or("asleep", |live| live.phase))),
        ("phase_since", Value::from(live.map(|live| live.since.to_rfc3339()))),
        (
            "left_out",
            Value::from(live.map_or_else(Vec::new, |live| {
                live.left_out.iter().map(|why| Value::from(plain::line(why).into_owned())).collect()
            })),
        ),
        ("deaths", Value::from(row.launch_deaths)),
        ("open_messages", Value::from(row.open_messages)),
        ("created_at", Value::from(row.created_at.to_rfc3339())),
        ("last_active", Value::from(last_active(row).to_rfc3339())),
    ])
}

fn last_active(row: &SessionRow) -> Millis {
    row.last_active.max(row.created_at)
}
