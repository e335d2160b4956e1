//! Who is shown in a chat what waits for their decision, over HTTP: operated here, and audited. It gives nobody a right.
//! Touches the ledger.

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::changes::{field, known};
use super::people::{NOT_ANY_MORE, note};
use super::problem::Problem;
use super::{Api, body};
use crate::contract::ids::UserId;
use crate::contract::json::Value;
use crate::controlplane::approvals::places;
use crate::controlplane::channels::descriptor;
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::principals::{self, Principal, Scope};
use crate::controlplane::store::approvals::{self, Chat};
use crate::controlplane::store::{Step, StoreError, users};

const BODY_BYTES: usize = 1024;

/// Where somebody is shown things, and why that does not work.
pub(super) fn shown(api: &Api, chat: Option<&Chat>) -> Value {
    let Some(chat) = chat else { return Value::Null };
    let problem = api.channels.missing(&chat.channel, &chat.instance).or_else(|| chat.failure.clone());
    Value::object([
        ("channel", Value::from(chat.channel.as_str())),
        ("instance", Value::from(chat.instance.as_str())),
        ("chat", Value::from(chat.chat.as_str())),
        ("since", Value::from(chat.since.to_rfc3339())),
        ("problem", Value::from(problem)),
    ])
}

/// `POST /v1/users/{id}/approvals`
pub(super) async fn begin(
    api: &Api,
    principal: Principal,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    known(&document, &["instance", "chat"])?;
    let id = UserId::parse(name).map_err(|_| Problem::no_user(name))?;
    let place = places::place(&id, field(&document, "instance")?, field(&document, "chat")?)
        .map_err(Problem::invalid)?;
    if let Some(missing) = api.channels.missing(place.channel, &place.instance) {
        return Err(Problem::invalid(missing));
    }
    // There whoever holds the account's secret presses as anybody: a second name is no second person.
    let is_anybody = descriptor::find(place.channel).is_some_and(|known| known.names_are_the_accounts);
    if is_anybody && api.gateway.wants_four_eyes() {
        return Err(Problem::forbidden(
            "the operator's policy wants two people for a change, and on this platform whoever holds the account's secret \
             speaks for all its users; show it to somebody on a platform that knows who presses, or leave it out",
        ));
    }
    let object = id.to_string();
    let chat = api
        .audit
        .act(Step::Other, move |tx| {
            if !principals::may(tx, &principal, Scope::Admin, None)? {
                return Ok(Err(Problem::forbidden(NOT_ANY_MORE)));
            }
            if users::get(tx, &id)?.is_none() {
                return Ok(Err(Problem::no_user(&id.to_string())));
            }
            if approvals::set_chat(tx, &id, (place.channel, &place.instance, &place.chat))? {
                let detail = Value::object([
                    ("channel", Value::from(place.channel)),
                    ("instance", Value::from(place.instance)),
                    ("chat", Value::from(place.chat)),
                ]);
                note(tx, &principal, "user.shown_approvals", &id.to_string(), detail)?;
            }
            Ok(Ok(approvals::chat_of(tx, &id)?.ok_or(StoreError::BadRow("where somebody is shown things"))?))
        })
        .await
        .map_err(|error| Problem::not_acted(error, &object, "stored"))??;
    Ok(json_response(StatusCode::OK, &shown(api, Some(&chat))))
}

/// `DELETE /v1/users/{id}/approvals`
pub(super) async fn end(api: &Api, principal: Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = UserId::parse(name).map_err(|_| Problem::no_user(name))?;
    let ended = api
        .audit
        .act(Step::Other, move |tx| {
            if !principals::may(tx, &principal, Scope::Admin, None)? {
                return Ok(Err(Problem::forbidden(NOT_ANY_MORE)));
            }
            if users::get(tx, &id)?.is_none() {
                return Ok(Err(Problem::no_user(&id.to_string())));
            }
            let ended = approvals::end_chat(tx, &id)?;
            if ended {
                note(tx, &principal, "user.not_shown_approvals", &id.to_string(), Value::Null)?;
            }
            Ok(Ok(ended))
        })
        .await
        .map_err(|error| Problem::not_acted(error, name, "stored"))??;
    Ok(json_response(StatusCode::OK, &Value::object([("was_shown", Value::from(ended))])))
}
