//! Where agents may send beside the chat that they answer: listed, and asked about one by one. Who gives and takes them
//! asks for a change. Touches the ledger, reading.

use hyper::{Response, StatusCode};

use super::Api;
use super::lists::{limit, of_group};
use super::problem::Problem;
use super::router::Query;
use crate::contract::catalogue;
use crate::contract::ids::GroupName;
use crate::contract::json::Value;
use crate::controlplane::gateway::effect::target_value;
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::principals::{Principal, Scope};
use crate::controlplane::store::destinations::{self, Destination};
use crate::controlplane::store::groups;

/// Between the group and the name of a cursor; neither can hold it.
const MARK: char = '/';

/// `GET /v1/destinations`
pub(super) async fn list(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["group", "after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let rows = of_group(api, principal, &query, move |conn, group| {
        let after = after.split_once(MARK).unwrap_or((&after, ""));
        destinations::list(conn, group, after, limit)
    });
    let rows = rows.await?;
    let next = (rows.len() == limit).then(|| rows.last().map(cursor)).flatten();
    let all: Vec<Value> = rows.iter().map(|row| destination_json(api, row)).collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("destinations", Value::from(all)), ("next", Value::from(next))]),
    ))
}

/// `GET /v1/destinations/check`
pub(super) async fn check(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["group", "channel", "chat"])?;
    let required = |name: &str| {
        let missing = || Problem::invalid(format!("{name} is missing; give group, channel and chat"));
        query.text(name).map(str::to_owned).ok_or_else(missing)
    };
    let group = GroupName::parse(&required("group")?)
        .map_err(|error| Problem::invalid(format!("group is {error}")))?;
    let (channel, chat) = (required("channel")?, required("chat")?);
    api.reaches(principal, Scope::Read, &group).await?;
    let name = group.clone();
    let found = api
        .ledger
        .read(move |conn| {
            let Some(agent) = groups::live(conn, &group)? else { return Ok(None) };
            let destination = destinations::leading_to(conn, &group, &channel, &chat)?;
            Ok(Some((agent.tools.has(catalogue::SEND_MESSAGE), destination)))
        })
        .await?;
    let (tool, destination) = found.ok_or_else(|| Problem::no_agent(name.as_str()))?;
    let answer = Value::object([
        ("allowed", Value::from(tool && destination.is_some())),
        ("tool", Value::from(tool)),
        ("destination", Value::from(destination.map(|destination| destination.name))),
    ]);
    Ok(json_response(StatusCode::OK, &answer))
}

fn cursor(last: &Destination) -> String {
    format!("{}{MARK}{}", last.group, last.name)
}

fn destination_json(api: &Api, destination: &Destination) -> Value {
    let mut fields = vec![
        ("group", Value::from(destination.group.as_str())),
        ("name", Value::from(destination.name.as_str())),
    ];
    fields.extend(target_value(&destination.target));
    fields.push(("created_at", Value::from(destination.created_at.to_rfc3339())));
    let target = &destination.target;
    fields.push(("problem", Value::from(api.channels.missing(&target.channel, &target.instance))));
    Value::object(fields)
}
