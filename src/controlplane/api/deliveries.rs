//! What is on its way to platforms and what was given up: listed, tried again, discarded. Touches the ledger, and tells
//! the courier.

use hyper::{Response, StatusCode};

use super::Api;
use super::lists::limit;
use super::problem::Problem;
use super::router::Query;
use crate::contract::ids::{GroupName, MessageId};
use crate::contract::json::Value;
use crate::controlplane::audit::{self, ActError, Record};
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::principals::{self, Principal, Scope, Standing};
use crate::controlplane::store::deliveries::{self, Chat, Delivery, State};
use crate::controlplane::store::sessions::Place;
use crate::controlplane::store::{Step, StoreError};
use crate::controlplane::tasks;

/// `GET /v1/deliveries`
pub(super) async fn list(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["state", "after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.number("after", 0, u64::MAX)?.unwrap_or(0);
    let state = match query.text("state") {
        None | Some("dead") => State::Dead,
        Some("waiting") => State::Waiting,
        Some(_) => return Err(Problem::invalid("state must be dead or waiting")),
    };
    let user = principal.user.clone();
    let rows = api.ledger.read(move |conn| {
        let among = Standing::of(conn, &user)?.reach(Scope::Read);
        deliveries::list(conn, state, after, limit, among.as_deref())
    });
    let rows = rows.await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|(_, delivery)| delivery.position)).flatten();
    let all: Vec<Value> = rows.iter().map(|(group, delivery)| delivery_json(group, delivery)).collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("deliveries", Value::from(all)), ("next", Value::from(next))]),
    ))
}

/// `POST /v1/deliveries/{id}/retry`
pub(super) async fn retry(api: &Api, principal: Principal, id: &str) -> Result<Response<Body>, Problem> {
    act(api, principal, id, "delivery.retried", deliveries::retry).await?;
    Ok(json_response(StatusCode::OK, &Value::object([("retried", Value::from(id))])))
}

/// `POST /v1/deliveries/{id}/discard`
pub(super) async fn discard(api: &Api, principal: Principal, id: &str) -> Result<Response<Body>, Problem> {
    act(api, principal, id, "delivery.discarded", |tx, message| {
        deliveries::end(tx, message, State::Discarded, None)
    })
    .await?;
    Ok(json_response(StatusCode::OK, &Value::object([("discarded", Value::from(id))])))
}

/// What was found, and whether it was done.
enum Found {
    Nothing,
    Forbidden,
    Over(State),
    Done(Box<Delivery>),
}

async fn act(
    api: &Api,
    principal: Principal,
    id: &str,
    act: &'static str,
    change: impl Fn(&rusqlite::Transaction<'_>, &MessageId) -> Result<bool, StoreError> + Send + 'static,
) -> Result<Delivery, Problem> {
    let none = || Problem::no_delivery(id);
    let message = MessageId::parse(id).map_err(|_| none())?;
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let Some(delivery) = deliveries::find(tx, &message)? else { return Ok(Found::Nothing) };
        let Some(group) = deliveries::group_of(tx, &message)? else { return Ok(Found::Nothing) };
        if !principals::may(tx, &principal, Scope::Operate, Some(&group))? {
            let may_see = Standing::of(tx, &principal.user)?.allows(Scope::Read, Some(&group));
            return Ok(if may_see { Found::Forbidden } else { Found::Nothing });
        }
        if !change(tx, &message)? {
            return Ok(Found::Over(delivery.state));
        }
        let by = principal.by();
        let detail = Value::object([
            ("channel", Value::from(delivery.place.channel.as_str())),
            ("was", Value::from(delivery.state.as_str())),
        ]);
        let object = message.as_str();
        let record = Record { act, actor: &by.actor, via: &by.via, group: Some(&group), object, detail };
        audit::record(tx, &record)?;
        Ok(Found::Done(Box::new(delivery)))
    };
    // Whoever asked may go meanwhile, and the record may be late: what waits again is brought all the same.
    let (courier, audit) = (api.courier.clone(), api.audit.clone());
    let acted = tasks::unbroken(async move {
        let acted = audit.act(Step::Other, work).await;
        if let Ok(Found::Done(delivery)) | Err(ActError::Unexported { done: Found::Done(delivery), .. }) =
            &acted
        {
            let Place { channel, instance, chat, .. } = delivery.place.clone();
            courier.ring(&Chat { channel, instance, chat });
        }
        acted
    });
    let acted = acted.await.ok_or_else(Problem::internal)?;
    match acted.map_err(|error| Problem::not_acted(error, id, "done"))? {
        Found::Nothing => Err(none()),
        Found::Forbidden => {
            Err(Problem::forbidden("your roles do not allow this for the agent that said it"))
        }
        Found::Over(state) => Err(Problem::not_deliverable(state.as_str())),
        Found::Done(delivery) => Ok(*delivery),
    }
}

fn delivery_json(group: &GroupName, delivery: &Delivery) -> Value {
    let place = &delivery.place;
    Value::object([
        ("id", Value::from(delivery.message.as_str())),
        ("position", Value::from(delivery.position)),
        ("group", Value::from(group.as_str())),
        ("session", Value::from(delivery.session.as_str())),
        ("channel", Value::from(place.channel.as_str())),
        ("instance", Value::from(place.instance.as_str())),
        ("chat", Value::from(place.chat.as_str())),
        ("thread", Value::from(place.thread.clone())),
        ("state", Value::from(delivery.state.as_str())),
        ("parts_sent", Value::from(u64::from(delivery.part))),
        ("attempts", Value::from(u64::from(delivery.attempts))),
        ("due", Value::from(delivery.due.to_rfc3339())),
        ("error", Value::from(delivery.error.clone())),
    ])
}
