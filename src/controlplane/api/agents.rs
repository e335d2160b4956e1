//! One agent: what it is, what it is called and may take, and its end; and the chats that agents are wired to. What an agent can
//! do changes through the gateway only. Touches the ledger.

use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use rusqlite::Transaction;

use super::changes::{field, known};
use super::lists::{limit, of_group, tools_json};
use super::people::note;
use super::problem::Problem;
use super::router::Query;
use super::{Api, body};
use crate::contract::catalogue::TITLE_BYTES;
use crate::contract::fault;
use crate::contract::ids::GroupName;
use crate::contract::inbound::AGENT;
use crate::contract::json::Value;
use crate::contract::plain;
use crate::contract::time::Millis;
use crate::controlplane::audit::ActError;
use crate::controlplane::gateway::effect::{READ, WRITE, terms_value};
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::principals::{self, Principal, Scope};
use crate::controlplane::store::changes;
use crate::controlplane::store::grants::{Grant, Sort, What};
use crate::controlplane::store::groups::{self, AgentGroup};
use crate::controlplane::store::limits::GroupLimits;
use crate::controlplane::store::tasks as scheduled;
use crate::controlplane::store::{
    Ledger, Step, StoreError, destinations, grants, inbox, limits, members, messaging_groups, revisions,
    roles, wirings,
};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// Largest body of a request here.
const BODY_BYTES: usize = 8 << 10;
/// Messages of a deleted agent that are failed in one transaction, so that nobody waits long for the writer.
const FAILED_AT_ONCE: usize = 100;
/// What a group's own limits may be: the least is that of the daemon's settings, the most a year and what a number in
/// JSON holds exactly.
const TURN_SECONDS: RangeInclusive<u64> = 1..=365 * 24 * 3600;
const QUOTA_BYTES: RangeInclusive<u64> = 1 << 20..=(1 << 53) - 1;
const QUOTA_FILES: RangeInclusive<u64> = 100..=100_000_000;
const TOKENS_A_DAY: RangeInclusive<u64> = 1..=(1 << 53) - 1;
/// Until a ledger that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(10);

fn agent_json(group: &AgentGroup) -> Value {
    Value::object([
        ("name", Value::from(group.name.as_str())),
        ("title", Value::from(group.title.as_str())),
        ("provider", Value::from(group.provider.as_str())),
        ("model", Value::from(group.model.as_str())),
        ("tools", tools_json(&group.tools)),
        ("identity", Value::from(group.persona.identity.as_str())),
        ("soul", Value::from(group.persona.soul.as_str())),
        ("instructions", Value::from(group.persona.instructions.as_str())),
        ("turn_seconds", Value::from(group.limits.turn_seconds)),
        ("quota_bytes", Value::from(group.limits.quota_bytes)),
        ("quota_files", Value::from(group.limits.quota_files)),
        ("tokens_a_day", Value::from(group.limits.tokens_a_day)),
        ("created_at", Value::from(group.created_at.to_rfc3339())),
    ])
}

/// What an edit asks for.
struct Edit {
    title: Option<String>,
    /// Those that it names: `None` of one is the daemon's own.
    turn_seconds: Option<Option<u64>>,
    quota_bytes: Option<Option<u64>>,
    quota_files: Option<Option<u64>>,
    tokens_a_day: Option<Option<u64>>,
}

impl Edit {
    fn read(document: &Value) -> Result<Self, Problem> {
        known(document, &["title", "turn_seconds", "quota_bytes", "quota_files", "tokens_a_day"])?;
        let title = field(document, "title")?.map(|title| title.trim().to_owned());
        if title.as_ref().is_some_and(|title| title.is_empty() || title.len() > TITLE_BYTES) {
            return Err(Problem::invalid(format!("title must have 1 to {TITLE_BYTES} bytes")));
        }
        let limit = |name: &str, range: RangeInclusive<u64>| {
            match document.get(name) {
            None => Ok(None),
            Some(Value::Null) => Ok(Some(None)),
            Some(value) => value
                .as_u64()
                .filter(|limit| range.contains(limit))
                .map(|limit| Some(Some(limit)))
                .ok_or_else(|| {
                    let (least, most) = range.into_inner();
                    Problem::invalid(format!(
                        "{name} must be a whole number from {least} to {most}, or null for no limit of its own"
                    ))
                }),
        }
        };
        let edit = Self {
            title,
            turn_seconds: limit("turn_seconds", TURN_SECONDS)?,
            quota_bytes: limit("quota_bytes", QUOTA_BYTES)?,
            quota_files: limit("quota_files", QUOTA_FILES)?,
            tokens_a_day: limit("tokens_a_day", TOKENS_A_DAY)?,
        };
        if edit.title.is_none() && !edit.limits_too() {
            return Err(Problem::invalid(
                "nothing is given: title, turn_seconds, quota_bytes, quota_files or tokens_a_day; anything else of an \
                 agent changes by `ironctl change submit`",
            ));
        }
        Ok(edit)
    }

    fn limits_too(&self) -> bool {
        [self.turn_seconds, self.quota_bytes, self.quota_files, self.tokens_a_day].iter().any(Option::is_some)
    }

    /// The limits that come of it.
    fn of(&self, now: GroupLimits) -> GroupLimits {
        GroupLimits {
            turn_seconds: self.turn_seconds.unwrap_or(now.turn_seconds),
            quota_bytes: self.quota_bytes.unwrap_or(now.quota_bytes),
            quota_files: self.quota_files.unwrap_or(now.quota_files),
            tokens_a_day: self.tokens_a_day.unwrap_or(now.tokens_a_day),
        }
    }
}

/// The limits for the audit.
fn limits_json(limits: GroupLimits) -> Value {
    Value::object([
        ("turn_seconds", Value::from(limits.turn_seconds)),
        ("quota_bytes", Value::from(limits.quota_bytes)),
        ("quota_files", Value::from(limits.quota_files)),
        ("tokens_a_day", Value::from(limits.tokens_a_day)),
    ])
}

/// A grant with what is wrong with it now.
fn grant_json(grant: &Grant, problem: Option<&str>) -> Value {
    let mut fields = vec![("name", Value::from(grant.name.as_str()))];
    match &grant.what {
        What::Package { version, digest } => fields
            .extend([("version", Value::from(version.as_str())), ("digest", Value::from(digest.as_str()))]),
        What::Directory { source, .. } => {
            fields.extend([("source", Value::from(source.as_str())), ("access", Value::from(READ))])
        }
        What::Own => fields.extend([("source", Value::Null), ("access", Value::from(WRITE))]),
    }
    fields.push(("problem", problem.map_or(Value::Null, |why| Value::from(plain::line(why).into_owned()))));
    Value::object(fields)
}

/// `GET /v1/agents/{name}`
pub(super) async fn show(api: &Api, principal: &Principal, name: &str) -> Result<Response<Body>, Problem> {
    let group = GroupName::parse(name).map_err(|_| Problem::no_agent(name))?;
    api.reaches(principal, Scope::Read, &group).await?;
    let exported = api.audit.exported();
    let found = api
        .ledger
        .read(move |conn| {
            let Some(found) = groups::live(conn, &group)? else { return Ok(None) };
            Ok(Some((grants::recorded(conn, &found.name, exported)?, found)))
        })
        .await?;
    let ((granted, unrecorded), found) = found.ok_or_else(|| Problem::no_agent(name))?;
    let group = found.name.clone();
    let mut granted = api.gateway.host().unblock(move |host| host.problems(&group, &granted)).await;
    granted.extend(unrecorded.into_iter().map(|grant| {
        let why = grant.unrecorded();
        (grant, Some(why))
    }));
    granted.sort();
    let sort = |sort: Sort| {
        let of_it = granted.iter().filter(|(grant, _)| grant.what.sort() == sort);
        Value::Array(of_it.map(|(grant, problem)| grant_json(grant, problem.as_deref())).collect())
    };
    let more = [("packages".to_owned(), sort(Sort::Package)), ("mounts".to_owned(), sort(Sort::Mount))];
    let mut agent = agent_json(&found);
    if let Value::Object(fields) = &mut agent {
        fields.extend(more);
    }
    Ok(json_response(StatusCode::OK, &agent))
}

/// `POST /v1/agents/{name}`: its title and its limits, which are no capabilities.
pub(super) async fn edit(
    api: &Api,
    principal: Principal,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let edit = Edit::read(&body(request, BODY_BYTES).await?)?;
    let group = GroupName::parse(name).map_err(|_| Problem::no_agent(name))?;
    let (audit, actors, limited) = (api.audit.clone(), api.actors.clone(), edit.limits_too());
    // Whoever asks may go away; what runs hears of it all the same.
    let editing = tasks::unbroken(async move {
        let name = group.clone();
        let edited = audit.act(Step::Other, move |tx| edit_in(tx, &principal, &group, &edit)).await;
        if limited && !matches!(edited, Err(ActError::Store(_))) {
            actors.reconfigure(&name);
        }
        edited
    });
    let edited = editing.await.ok_or_else(Problem::internal)?;
    match edited.map_err(|error| Problem::not_acted(error, name, "edited"))? {
        Some(Some(group)) => Ok(json_response(StatusCode::OK, &agent_json(&group))),
        Some(None) => Err(Problem::no_agent(name)),
        None => Err(Problem::forbidden(format!("your roles do not allow this for {name}"))),
    }
}

/// `None` without the right, `Some(None)` without the agent.
fn edit_in(
    tx: &Transaction<'_>,
    principal: &Principal,
    group: &GroupName,
    edit: &Edit,
) -> Result<Option<Option<AgentGroup>>, StoreError> {
    if !principals::may(tx, principal, Scope::Operate, Some(group))? {
        return Ok(None);
    }
    let Some(before) = groups::live(tx, group)? else { return Ok(Some(None)) };
    if let Some(title) = &edit.title {
        groups::set_title(tx, group, title)?;
        note(tx, principal, "agent.renamed", group.as_str(), Value::Null)?;
    }
    if edit.limits_too() {
        let after = edit.of(before.limits);
        limits::set(tx, group, after)?;
        let detail = Value::object([("before", limits_json(before.limits)), ("after", limits_json(after))]);
        note(tx, principal, "agent.limited", group.as_str(), detail)?;
    }
    groups::live(tx, group).map(Some)
}

/// `DELETE /v1/agents/{name}`: it answers no more.
pub(super) async fn delete(api: &Api, principal: Principal, name: &str) -> Result<Response<Body>, Problem> {
    let group = GroupName::parse(name).map_err(|_| Problem::no_agent(name))?;
    let (ledger, audit, actors) = (api.ledger.clone(), api.audit.clone(), api.actors.clone());
    let rights = api.rights.clone();
    let deleting = tasks::unbroken(async move {
        let gone = group.clone();
        let deleted = audit.act(Step::Other, move |tx| end(tx, &principal, &group)).await;
        // Also where it is only not in the audit file yet: it is deleted.
        if matches!(deleted, Ok(Some(true)) | Err(ActError::Unexported { done: Some(true), .. })) {
            actors.close_group(&gone);
            rights.ring();
            ledger.alarm().ring();
            if let Err(error) = fail_waiting(&ledger).await {
                log::warn("agent.messages_wait", &[("agent", &gone), ("error", &error)]);
                tasks::spawn(finish_deletions(ledger)).detach();
            }
        }
        deleted
    });
    let deleted = deleting.await.ok_or_else(Problem::internal)?;
    match deleted.map_err(|error| Problem::not_acted(error, name, "deleted"))? {
        Some(true) => Ok(json_response(StatusCode::OK, &Value::object([("deleted", Value::from(name))]))),
        Some(false) => Err(Problem::no_agent(name)),
        None => Err(Problem::forbidden(format!("your roles do not allow this for {name}"))),
    }
}

/// Fails what waits for deleted agents, a piece at a time. Nothing new comes for them.
async fn fail_waiting(ledger: &Ledger) -> Result<(), StoreError> {
    while ledger.write(|tx| inbox::fail_of_deleted(tx, FAILED_AT_ONCE)).await? == FAILED_AT_ONCE {
        fault::point("agent.messages_failed");
    }
    Ok(())
}

/// The same for what an earlier daemon, or a ledger that could not be written, left: again and again until nothing is.
pub(super) async fn finish_deletions(ledger: Ledger) {
    while let Err(error) = fail_waiting(&ledger).await {
        if matches!(error, StoreError::Stopped) {
            return;
        }
        log::warn("agent.messages_wait", &[("error", &error)]);
        smol::Timer::after(AGAIN).await;
    }
}

/// Ends an agent: what anybody had by it is taken away, and what waits for it is to be failed. `None` without the right.
fn end(tx: &Transaction<'_>, principal: &Principal, group: &GroupName) -> Result<Option<bool>, StoreError> {
    if !principals::may(tx, principal, Scope::Operate, Some(group))? {
        return Ok(None);
    }
    if !groups::delete(tx, group)? {
        return Ok(Some(false));
    }
    roles::forget(tx, group)?;
    members::forget(tx, group)?;
    wirings::forget(tx, group)?;
    destinations::forget(tx, group)?;
    destinations::forget_leading_to(tx, AGENT, group.as_str())?;
    scheduled::end_of_group(tx, group, "the agent was deleted")?;
    grants::forget(tx, group)?;
    changes::lapse_of(tx, group, Millis::now())?;
    revisions::bump(tx, &format!("agent/{group}"))?;
    note(tx, principal, "agent.deleted", group.as_str(), Value::Null)?;
    Ok(Some(true))
}

/// `GET /v1/wirings`
pub(super) async fn wirings(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["group", "after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let rows = of_group(api, principal, &query, move |conn, group| wirings::list(conn, group, &after, limit));
    let rows = rows.await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|wiring| wiring.id.to_string())).flatten();
    let all: Vec<Value> = rows
        .iter()
        .map(|wiring| {
            Value::object([
                ("id", Value::from(wiring.id.as_str())),
                ("group", Value::from(wiring.group.as_str())),
                ("channel", Value::from(wiring.channel.as_str())),
                ("instance", Value::from(wiring.instance.as_str())),
                ("chat", Value::from(wiring.chat.as_str())),
                ("terms", terms_value(&wiring.terms)),
                ("created_at", Value::from(wiring.created_at.to_rfc3339())),
                ("problem", Value::from(api.channels.missing(&wiring.channel, &wiring.instance))),
            ])
        })
        .collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("wirings", Value::from(all)), ("next", Value::from(next))]),
    ))
}

/// `GET /v1/messaging_groups`
pub(super) async fn messaging_groups(api: &Api, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let rows = api.ledger.read(move |conn| messaging_groups::list(conn, &after, limit)).await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|group| group.id.to_string())).flatten();
    let all: Vec<Value> = rows
        .iter()
        .map(|group| {
            Value::object([
                ("id", Value::from(group.id.as_str())),
                ("channel", Value::from(group.channel.as_str())),
                ("instance", Value::from(group.instance.as_str())),
                ("chat", Value::from(group.chat.as_str())),
                ("title", Value::from(group.title.as_str())),
                ("created_at", Value::from(group.created_at.to_rfc3339())),
            ])
        })
        .collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("messaging_groups", Value::from(all)), ("next", Value::from(next))]),
    ))
}
