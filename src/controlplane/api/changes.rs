//! Changes over HTTP: asked for, looked at, decided, withdrawn. Touches the gateway, and the ledger reading.

use hyper::body::Incoming;
use hyper::{HeaderMap, Request, Response, StatusCode};

use super::lists::{limit, of_group};
use super::problem::Problem;
use super::router::Query;
use super::{Api, body};
use crate::contract::ids::{ChangeId, GroupName};
use crate::contract::json::{self, ObjectText, Value, only_fields};
use crate::contract::plain;
use crate::controlplane::audit::ActError;
use crate::controlplane::gateway::decide::{Decide, NotDecided, Outcome, Verdict, effects_of};
use crate::controlplane::gateway::effect::Effect;
use crate::controlplane::gateway::facts::Facts;
use crate::controlplane::gateway::payload::Refusals;
use crate::controlplane::gateway::submit::{MOST_KEY, NotSubmitted, Origin, Request as Asked};
use crate::controlplane::http::{Body, json_response, json_text};
use crate::controlplane::principals::{Principal, Scope, Standing};
use crate::controlplane::store::StoreError;
use crate::controlplane::store::changes::{self, Change};
use crate::controlplane::store::summaries::{self, Summary};

/// Largest body of a request: three documents of a persona, escaped at their worst.
const BODY_BYTES: usize = 768 << 10;
/// Longest label of a client, in bytes.
const LABEL_BYTES: usize = 200;

/// The text of a field that may be missing.
pub(super) fn field<'a>(document: &'a Value, name: &str) -> Result<Option<&'a str>, Problem> {
    match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => {
            value.as_str().map(Some).ok_or_else(|| Problem::invalid(format!("{name} must be a text")))
        }
    }
}

/// The fields of a body, of which all are known.
pub(super) fn known(document: &Value, fields: &[&str]) -> Result<(), Problem> {
    only_fields(document, fields)
        .map_err(|error| Problem::invalid(format!("{error}; the fields are: {}", fields.join(", "))))
}

/// The client's own name for a request, by which it is known when it is sent again.
pub(super) fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().ok().map(str::trim).filter(|key| (1..=MOST_KEY).contains(&key.len()));
    let wrong =
        || Problem::invalid(format!("Idempotency-Key must be visible ASCII, {MOST_KEY} bytes at most"));
    Ok(Some(key.ok_or_else(wrong)?.to_owned()))
}

/// A change as the interface shows it, with what would keep it from coming to anything as things are.
fn change_json(api: &Api, change: &Change) -> Result<Value, StoreError> {
    let parse = |text: &str| json::parse(text.as_bytes()).map_err(|_| StoreError::BadRow("a change"));
    let decision = change.decision.as_ref();
    Ok(Value::object([
        ("id", Value::from(change.id.as_str())),
        ("kind", Value::from(change.kind.as_str())),
        ("group", Value::from(change.group.as_str())),
        ("state", Value::from(change.state.as_str())),
        ("requested_by", Value::from(change.requested_by.as_str())),
        ("via", Value::from(change.via.as_str())),
        ("by", Value::from(change.label.as_str())),
        ("reason", Value::from(change.reason.as_str())),
        ("payload", parse(&change.payload)?),
        ("effects", parse(&change.effects)?),
        ("base", parse(&change.base)?),
        ("diff", Value::from(change.diff.as_str())),
        ("digest", Value::from(change.digest.as_str())),
        ("submitted_at", Value::from(change.submitted_at.to_rfc3339())),
        ("expires_at", Value::from(change.expires_at.to_rfc3339())),
        ("decided_by", Value::from(decision.map(|decision| decision.by.clone()))),
        ("decided_at", Value::from(decision.map(|decision| decision.at.to_rfc3339()))),
        ("note", Value::from(change.note.as_str())),
        ("failure", Value::from(change.failure.clone())),
        ("finished_at", Value::from(change.finished_at.map(|at| at.to_rfc3339()))),
        ("warnings", Value::Array(warnings(api, change)?)),
    ]))
}

/// Chats that no account leads to now. They are no part of what is decided: an account may come and go.
fn warnings(api: &Api, change: &Change) -> Result<Vec<Value>, StoreError> {
    let mut found: Vec<String> = Vec::new();
    for effect in effects_of(change)? {
        let missing = match &effect {
            Effect::SetWiring { chat, terms: Some(_), .. } => {
                api.channels.missing(&chat.channel, &chat.instance)
            }
            Effect::SetDestination { target: Some(target), .. } => {
                api.channels.missing(&target.channel, &target.instance)
            }
            _ => None,
        };
        found.extend(missing.filter(|why| !found.contains(why)));
    }
    Ok(found.into_iter().map(Value::from).collect())
}

/// A page of a list, written row by row.
struct Page {
    text: String,
    rows: usize,
    last: String,
}

impl Page {
    fn new() -> Self {
        Self { text: "{\"changes\":[".to_owned(), rows: 0, last: String::new() }
    }

    fn add(&mut self, change: &Summary<'_>) {
        if self.rows > 0 {
            self.text.push(',');
        }
        let mut object = ObjectText::begin(&mut self.text);
        object
            .text("id", change.id)
            .text("kind", change.kind)
            .text("group", change.group)
            .text("state", change.state)
            .text("requested_by", change.requested_by)
            .text("by", change.label)
            .text("reason", change.reason)
            .text("digest", change.digest)
            .text("submitted_at", &change.submitted_at.to_rfc3339())
            .text("expires_at", &change.expires_at.to_rfc3339())
            .maybe("decided_by", change.decided_by)
            .maybe("decided_at", change.decided_at.map(|at| at.to_rfc3339()).as_deref())
            .maybe("failure", change.failure);
        object.end();
        self.rows += 1;
        self.last.clear();
        self.last.push_str(change.id);
    }

    fn end(mut self, limit: usize) -> String {
        let next = (self.rows == limit).then_some(self.last);
        self.text.push_str("],\"next\":");
        self.text.push_str(&Value::from(next).to_string());
        self.text.push('}');
        self.text
    }
}

fn refusals_json(refusals: &Refusals) -> Value {
    let all = refusals.iter().map(|refusal| {
        Value::object([
            ("field", Value::from(plain::line(&refusal.field).as_ref())),
            ("reason", Value::from(plain::line(&refusal.text).as_ref())),
        ])
    });
    Value::Array(all.collect())
}

fn sentence(refusals: &Refusals) -> String {
    let all: Vec<&str> = refusals.iter().map(|refusal| refusal.text.as_str()).collect();
    all.join("; ")
}

/// `POST /v1/changes`
pub(super) async fn submit(
    api: &Api,
    principal: Principal,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let key = key(request.headers())?;
    let document = body(request, BODY_BYTES).await?;
    known(&document, &["kind", "group", "payload", "reason", "by"])?;
    let kind = field(&document, "kind")?.ok_or_else(|| Problem::invalid("kind is missing"))?.to_owned();
    let name = field(&document, "group")?.ok_or_else(|| Problem::invalid("group is missing: the agent"))?;
    let group = GroupName::parse(name).map_err(|error| Problem::invalid(format!("group is {error}")))?;
    let payload = document.get("payload").cloned();
    let payload =
        payload.ok_or_else(|| Problem::invalid("payload is missing: what is to change, an object"))?;
    let label = field(&document, "by")?.unwrap_or_default().to_owned();
    if label.len() > LABEL_BYTES {
        return Err(Problem::invalid(format!("by has more than {LABEL_BYTES} bytes")));
    }
    let reason = field(&document, "reason")?.unwrap_or_default().to_owned();
    let submitted = api
        .gateway
        .submit(
            Origin::Person { principal, label },
            Asked { kind, group, payload, reason, key, facts: Facts::default() },
        )
        .await
        .map_err(|error| {
            let done = match &error {
                ActError::Unexported { done: Ok(done), .. } => Some(done.change.clone()),
                _ => None,
            };
            unanswered(error, done)
        })?;
    match submitted {
        Ok(submitted) => {
            let status = if submitted.is_repeat { StatusCode::OK } else { StatusCode::CREATED };
            Ok(json_response(status, &change_json(api, &submitted.change)?))
        }
        Err(NotSubmitted::Unsupported(why)) => Err(Problem::unsupported_here(why)),
        Err(NotSubmitted::Invalid(refusals)) => {
            Err(Problem::refused(sentence(&refusals)).with("reasons", refusals_json(&refusals)))
        }
        Err(NotSubmitted::Forbidden) => Err(Problem::forbidden(
            "your role and your token do not let you ask for this; see `ironctl whoami`",
        )),
        Err(NotSubmitted::TooMany(most) | NotSubmitted::TooOften(most) | NotSubmitted::TooMuch(most)) => {
            Err(Problem::too_many_pending(most))
        }
        Err(NotSubmitted::KeyReused(id)) => Err(Problem::key_reused(id.as_str())),
    }
}

/// `GET /v1/changes/pending`
pub(super) async fn pending(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["group", "after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.text("after").map(ChangeId::parse).transpose();
    let after = after.map_err(|error| Problem::invalid(format!("after is {error}")))?;
    let text = of_group(api, principal, &query, move |conn, group| {
        let mut page = Page::new();
        summaries::pending(conn, group, after.as_ref(), limit, |change| page.add(change))?;
        Ok(page.end(limit))
    });
    Ok(json_text(StatusCode::OK, text.await?))
}

/// `GET /v1/changes/history`
pub(super) async fn history(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["group", "before", "limit"])?;
    let limit = limit(&query)?;
    let before = query.text("before").map(ChangeId::parse).transpose();
    let before = before.map_err(|error| Problem::invalid(format!("before is {error}")))?;
    let text = of_group(api, principal, &query, move |conn, group| {
        let mut page = Page::new();
        summaries::history(conn, group, before.as_ref(), limit, |change| page.add(change))?;
        Ok(page.end(limit))
    });
    Ok(json_text(StatusCode::OK, text.await?))
}

/// `GET /v1/changes/{id}`
pub(super) async fn show(api: &Api, principal: &Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = ChangeId::parse(name).map_err(|_| Problem::no_change(name))?;
    let user = principal.user.clone();
    let found = api
        .ledger
        .read(move |conn| {
            let Some(change) = changes::get(conn, &id)? else { return Ok(None) };
            let standing = Standing::of(conn, &user)?;
            let own = change.requested_by == user.to_string();
            Ok(Some(change).filter(|change| own || standing.allows(Scope::Read, Some(&change.group))))
        })
        .await?;
    let change = found.ok_or_else(|| Problem::no_change(name))?;
    Ok(json_response(StatusCode::OK, &change_json(api, &change)?))
}

/// `POST /v1/changes/{id}/decision`
pub(super) async fn decide(
    api: &Api,
    principal: Principal,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    known(&document, &["outcome", "digest", "note", "by"])?;
    let verdict = match field(&document, "outcome")? {
        Some("approve") => Verdict::Approve,
        Some("reject") => Verdict::Reject,
        _ => return Err(Problem::invalid("outcome must be approve or reject")),
    };
    let digest = field(&document, "digest")?.map(str::to_owned);
    let note = field(&document, "note")?.unwrap_or_default().to_owned();
    // A label of the client: who decides is whose token it is.
    field(&document, "by")?;
    let id = ChangeId::parse(name).map_err(|_| Problem::no_change(name))?;
    let decided = api.gateway.decide(principal, id, Decide { verdict, digest, note }).await;
    match decided.map_err(undecided)? {
        Ok(outcome) => Ok(json_response(StatusCode::OK, &change_json(api, &outcome.change)?)),
        Err(not) => Err(not_decided(api, name, not)?),
    }
}

/// `POST /v1/changes/{id}/withdraw`
pub(super) async fn withdraw(api: &Api, principal: Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = ChangeId::parse(name).map_err(|_| Problem::no_change(name))?;
    match api.gateway.withdraw(principal, id).await.map_err(undecided)? {
        Ok(outcome) => Ok(json_response(StatusCode::OK, &change_json(api, &outcome.change)?)),
        Err(not) => Err(not_decided(api, name, not)?),
    }
}

/// `POST /v1/changes/{id}/retry`
pub(super) async fn retry(api: &Api, principal: Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = ChangeId::parse(name).map_err(|_| Problem::no_change(name))?;
    let retried = api.gateway.retry(principal, id).await.map_err(|error| {
        let done = match &error {
            ActError::Unexported { done: Ok(change), .. } => Some(change.clone()),
            _ => None,
        };
        unanswered(error, done)
    })?;
    match retried {
        Ok(change) => Ok(json_response(StatusCode::OK, &change_json(api, &change)?)),
        Err(not) => Err(not_decided(api, name, not)?),
    }
}

/// An act that was not answered as done: with what it made of the change, where it was.
fn unanswered<T>(error: ActError<T>, done: Option<Change>) -> Problem {
    let (id, state) =
        done.map_or_else(Default::default, |change| (change.id.to_string(), change.state.as_str()));
    Problem::not_acted(error, &id, state)
}

fn undecided(error: ActError<Result<Outcome, NotDecided>>) -> Problem {
    let done = match &error {
        ActError::Unexported { done: Ok(outcome), .. } => Some(outcome.change.clone()),
        _ => None,
    };
    unanswered(error, done)
}

fn not_decided(api: &Api, name: &str, not: NotDecided) -> Result<Problem, StoreError> {
    Ok(match not {
        NotDecided::NoChange => Problem::no_change(name),
        NotDecided::Forbidden(why) => Problem::forbidden(why),
        NotDecided::NotPending(change) => {
            Problem::not_pending(change.state.as_str()).with("change", change_json(api, &change)?)
        }
        NotDecided::NotApproved(change) => {
            Problem::not_approved(change.state.as_str(), change.failure.as_deref())
                .with("change", change_json(api, &change)?)
        }
        NotDecided::NoDigest => Problem::invalid(
            "an approval needs digest: the one that GET /v1/changes/{id} shows beside the difference",
        ),
        NotDecided::WrongDigest(change) => Problem::wrong_digest().with("change", change_json(api, &change)?),
        NotDecided::Stale(change) => Problem::stale().with("change", change_json(api, &change)?),
        NotDecided::Invalid(refusals) => {
            Problem::not_possible(sentence(&refusals)).with("reasons", refusals_json(&refusals))
        }
        NotDecided::TooLong => Problem::invalid("the note has more than 2000 bytes"),
    })
}
