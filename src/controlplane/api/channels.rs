//! The accounts on platforms and their state; and what would become of a message, for whoever tries a wiring out. Touches
//! the ledger, reading.

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::problem::Problem;
use super::{Api, body};
use crate::contract::ids::UserId;
use crate::contract::json::{Value, only_fields};
use crate::controlplane::channels::descriptor;
use crate::controlplane::channels::event::Voice;
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::principals::{Principal, Scope, Standing};
use crate::controlplane::store::sessions::Place;

/// Longest text that is tried, in bytes.
const TEXT_BYTES: usize = 64 << 10;
const BODY_BYTES: usize = 6 * TEXT_BYTES + 4096;
/// Longest name of anything on a platform, in bytes.
const NAME_BYTES: usize = 512;

/// `GET /v1/channels`
pub(super) fn list(api: &Api) -> Response<Body> {
    let accounts: Vec<Value> = api
        .channels
        .list()
        .into_iter()
        .map(|account| {
            let status = account.status;
            Value::object([
                ("channel", Value::from(account.platform.platform)),
                ("instance", Value::from(account.instance)),
                ("state", Value::from(status.state.as_str())),
                ("since", Value::from(status.since.to_rfc3339())),
                ("reason", Value::from(status.reason)),
            ])
        })
        .collect();
    let platforms: Vec<Value> = descriptor::ALL
        .iter()
        .map(|known| {
            let keys = known.keys.iter().map(|key| {
                Value::object([
                    ("name", Value::from(key.name)),
                    ("variable", Value::from(key.variable)),
                    ("required", Value::from(key.is_required)),
                    ("secret", Value::from(key.is_secret)),
                    ("help", Value::from(key.help)),
                ])
            });
            let abilities = known.abilities.iter().map(|ability| Value::from(ability.as_str()));
            Value::object([
                ("channel", Value::from(known.platform)),
                ("title", Value::from(known.title)),
                ("keys", Value::Array(keys.collect())),
                ("abilities", Value::Array(abilities.collect())),
                ("chat_form", Value::from(known.chat_form)),
            ])
        })
        .collect();
    json_response(
        StatusCode::OK,
        &Value::object([("channels", Value::from(accounts)), ("platforms", Value::from(platforms))]),
    )
}

/// `POST /v1/routes/test`
pub(super) async fn try_route(
    api: &Api,
    principal: &Principal,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    let fields = ["channel", "instance", "chat", "thread", "sender", "text", "mentioned", "bot"];
    only_fields(&document, &fields)
        .map_err(|error| Problem::invalid(format!("{error}; the fields are {}", fields.join(", "))))?;
    let text_of = |name: &str, most: usize| match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_str() {
            Some(text) if text.len() <= most => Ok(Some(text.to_owned())),
            _ => Err(Problem::invalid(format!("{name} must be a text of at most {most} bytes"))),
        },
    };
    let required = |name: &str| {
        let missing = || Problem::invalid(format!("{name} is missing; give channel, chat and sender"));
        text_of(name, NAME_BYTES)?.filter(|text| !text.is_empty()).ok_or_else(missing)
    };
    let flag = |name: &str| match document.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(Problem::invalid(format!("{name} must be true or false"))),
    };
    let place = Place {
        channel: required("channel")?,
        instance: text_of("instance", NAME_BYTES)?.unwrap_or_default(),
        chat: required("chat")?,
        thread: text_of("thread", NAME_BYTES)?.filter(|thread| !thread.is_empty()),
    };
    let sender = required("sender")?;
    let sender = UserId::parse(&sender).map_err(|error| {
        Problem::invalid(format!("sender is {error}; expected CHANNEL:HANDLE, as in telegram:12345"))
    })?;
    let text = text_of("text", TEXT_BYTES)?.unwrap_or_default();
    let mentioned = flag("mentioned")?;
    let voice = if flag("bot")? { Voice::Program } else { Voice::Person };
    let plans = api.inbound.try_out(place, sender, text, mentioned, voice).await?;
    let user = principal.user.clone();
    let standing = api.ledger.read(move |conn| Standing::of(conn, &user)).await?;
    // Of agents that the asker does not reach it is not told that they are there.
    let outcomes: Vec<Value> = plans
        .into_iter()
        .filter(|plan| standing.allows(Scope::Read, Some(&plan.wiring.group)))
        .map(|plan| {
            let place = &plan.partition.place;
            Value::object([
                ("agent", Value::from(plan.wiring.group.as_str())),
                ("wiring", Value::from(plan.wiring.id.as_str())),
                ("verdict", Value::from(plan.verdict.as_str())),
                ("reason", Value::from(plan.reason.as_str())),
                ("because", Value::from(plan.reason.to_string())),
                ("session_channel", Value::from(place.channel.as_str())),
                ("session_chat", Value::from(place.chat.as_str())),
                ("session_thread", Value::from(place.thread.clone())),
            ])
        })
        .collect();
    Ok(json_response(StatusCode::OK, &Value::object([("outcomes", Value::from(outcomes))])))
}
