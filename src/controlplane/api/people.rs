//! People, their roles and their tokens over HTTP. Roles and memberships are capabilities and change through the
//! gateway only; who exists and which tokens open the door is operated here, and audited. Touches the ledger.

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::changes::{field, known};
use super::lists::limit;
use super::problem::Problem;
use super::router::Query;
use super::{Api, approvals, body};
use crate::contract::ids::{GroupName, UserId};
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::audit::{self, Record};
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::keys::ApiToken;
use crate::controlplane::principals::{self, Principal, Scope};
use crate::controlplane::store::approvals::{Chat, chat_of};
use crate::controlplane::store::roles;
use crate::controlplane::store::tokens::{self, Token};
use crate::controlplane::store::users::{self, User};
use crate::controlplane::store::{Step, StoreError, members};
use crate::controlplane::tasks;

/// Largest body of a request here.
const BODY_BYTES: usize = 8 << 10;
/// Longest name of a person, in bytes.
const NAME_BYTES: usize = 200;
/// Longest time that a token can be made for, in days: ten years.
const MOST_DAYS: u64 = 3653;
/// Whose role or token ended while the request was on its way.
pub(super) const NOT_ANY_MORE: &str = "your roles do not allow this any more; see `ironctl whoami`";
const DAY: i64 = 24 * 60 * 60 * 1000;

fn user_id(text: &str) -> Result<UserId, Problem> {
    let user = UserId::parse(text).ok().filter(|user| user.channel() != "agent");
    user.ok_or_else(|| {
        Problem::invalid("a user is channel:handle, such as local:ann or telegram:12345, at most 512 bytes")
    })
}

fn user_json(api: &Api, user: &User, chat: Option<&Chat>) -> Value {
    Value::object([
        ("approvals", approvals::shown(api, chat)),
        ("id", Value::from(user.id.to_string())),
        ("name", Value::from(user.name.as_str())),
        ("created_at", Value::from(user.created_at.to_rfc3339())),
    ])
}

/// `GET /v1/whoami`
pub(super) async fn whoami(api: &Api, principal: &Principal) -> Result<Response<Body>, Problem> {
    let user = principal.user.clone();
    let held = api.ledger.read(move |conn| roles::of(conn, &user)).await?;
    let held: Vec<Value> = held
        .iter()
        .map(|role| {
            Value::object([
                ("role", Value::from(role.role.as_str())),
                ("scope", Value::from(role.scope.as_ref().map_or("*", GroupName::as_str))),
            ])
        })
        .collect();
    let scopes: Vec<Value> = principal.scopes.iter().map(|scope| Value::from(scope.as_str())).collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([
            ("user", Value::from(principal.user.to_string())),
            ("token", Value::from(principal.token())),
            ("scopes", Value::from(scopes)),
            ("roles", Value::from(held)),
        ]),
    ))
}

/// `GET /v1/users`
pub(super) async fn list(api: &Api, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let rows = api.ledger.read(move |conn| {
        let with_chat = |user: User| chat_of(conn, &user.id).map(|chat| (user, chat));
        users::list(conn, &after, limit)?.into_iter().map(with_chat).collect::<Result<Vec<_>, StoreError>>()
    });
    let rows = rows.await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|(user, _)| user.id.to_string())).flatten();
    let all: Vec<Value> = rows.iter().map(|(user, chat)| user_json(api, user, chat.as_ref())).collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("users", Value::from(all)), ("next", Value::from(next))]),
    ))
}

/// `POST /v1/users`
pub(super) async fn put(
    api: &Api,
    principal: Principal,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    known(&document, &["id", "name"])?;
    let id = user_id(field(&document, "id")?.ok_or_else(|| Problem::invalid("id is missing"))?)?;
    let name = field(&document, "name")?.unwrap_or_default().to_owned();
    if name.len() > NAME_BYTES {
        return Err(Problem::invalid(format!("name has more than {NAME_BYTES} bytes")));
    }
    let object = id.to_string();
    let (user, chat, new) = api
        .audit
        .act(Step::Other, move |tx| {
            if !principals::may(tx, &principal, Scope::Admin, None)? {
                return Ok(None);
            }
            let new = users::put(tx, &id, &name)?;
            note(
                tx,
                &principal,
                if new { "user.added" } else { "user.renamed" },
                &id.to_string(),
                Value::Null,
            )?;
            let user = users::get(tx, &id)?.ok_or(StoreError::BadRow("a user"))?;
            Ok(Some((user, chat_of(tx, &id)?, new)))
        })
        .await
        .map_err(|error| Problem::not_acted(error, &object, "stored"))?
        .ok_or_else(|| Problem::forbidden(NOT_ANY_MORE))?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(json_response(status, &user_json(api, &user, chat.as_ref())))
}

/// `DELETE /v1/users/{id}`
pub(super) async fn delete(api: &Api, principal: Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = UserId::parse(name).map_err(|_| Problem::no_user(name))?;
    let gone = api
        .audit
        .act(Step::Other, move |tx| {
            if !principals::may(tx, &principal, Scope::Admin, None)? {
                return Ok(None);
            }
            let gone = users::delete(tx, &id)?;
            if gone {
                note(tx, &principal, "user.deleted", &id.to_string(), Value::Null)?;
            }
            Ok(Some(gone))
        })
        .await
        .map_err(|error| Problem::not_acted(error, name, "deleted"))?
        .ok_or_else(|| Problem::forbidden(NOT_ANY_MORE))?;
    if gone {
        Ok(json_response(StatusCode::OK, &Value::object([("deleted", Value::from(name))])))
    } else {
        Err(Problem::no_user(name))
    }
}

/// `GET /v1/roles`
pub(super) async fn list_roles(api: &Api, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["after", "limit"])?;
    let limit = limit(&query)?;
    // A user's handle may hold anything, so it comes last.
    let after = query.text("after").unwrap_or_default().to_owned();
    let rows = api
        .ledger
        .read(move |conn| {
            let mut parts = after.splitn(3, ' ');
            let (role, scope) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let scope = if scope == "*" { "" } else { scope };
            roles::list(conn, (parts.next().unwrap_or_default(), role, scope), limit)
        })
        .await?;
    let word = |role: &roles::RoleGrant| role.scope.as_ref().map_or("*".to_owned(), GroupName::to_string);
    let cursor = |role: &roles::RoleGrant| format!("{} {} {}", role.role.as_str(), word(role), role.user);
    let next = (rows.len() == limit).then(|| rows.last().map(cursor)).flatten();
    let all: Vec<Value> = rows
        .iter()
        .map(|role| {
            Value::object([
                ("user", Value::from(role.user.to_string())),
                ("role", Value::from(role.role.as_str())),
                ("scope", Value::from(word(role))),
                ("since", Value::from(role.since.to_rfc3339())),
            ])
        })
        .collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("roles", Value::from(all)), ("next", Value::from(next))]),
    ))
}

/// `GET /v1/agents/{name}/members`
pub(super) async fn list_members(
    api: &Api,
    principal: &Principal,
    name: &str,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["after", "limit"])?;
    let limit = limit(&query)?;
    let group = GroupName::parse(name).map_err(|_| Problem::no_agent(name))?;
    api.reaches(principal, Scope::Read, &group).await?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let rows = api.ledger.read(move |conn| members::list(conn, &group, &after, limit)).await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|member| member.user.to_string())).flatten();
    let all: Vec<Value> = rows
        .iter()
        .map(|member| {
            Value::object([
                ("user", Value::from(member.user.to_string())),
                ("since", Value::from(member.since.to_rfc3339())),
            ])
        })
        .collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("members", Value::from(all)), ("next", Value::from(next))]),
    ))
}

fn token_json(token: &Token) -> Value {
    let scopes: Vec<Value> = token.scopes.split_whitespace().map(Value::from).collect();
    let state = match (token.revoked_at, token.expires_at) {
        (Some(_), _) => "revoked",
        (None, Some(at)) if at <= Millis::now() => "expired",
        _ => "valid",
    };
    Value::object([
        ("name", Value::from(token.name.as_str())),
        ("user", Value::from(token.user.to_string())),
        ("scopes", Value::from(scopes)),
        ("state", Value::from(state)),
        ("created_at", Value::from(token.created_at.to_rfc3339())),
        ("expires_at", Value::from(token.expires_at.map(|at| at.to_rfc3339()))),
        ("revoked_at", Value::from(token.revoked_at.map(|at| at.to_rfc3339()))),
    ])
}

/// `GET /v1/tokens`
pub(super) async fn list_tokens(api: &Api, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let rows = api.ledger.read(move |conn| tokens::list(conn, &after, limit)).await?;
    let next = (rows.len() == limit).then(|| rows.last().map(|token| token.name.clone())).flatten();
    let all: Vec<Value> = rows.iter().map(token_json).collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("tokens", Value::from(all)), ("next", Value::from(next))]),
    ))
}

/// `POST /v1/tokens`: the answer shows the token, once.
pub(super) async fn make_token(
    api: &Api,
    principal: Principal,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    known(&document, &["name", "user", "scopes", "days", "expires_at"])?;
    let name = field(&document, "name")?.ok_or_else(|| Problem::invalid("name is missing"))?.to_owned();
    if tokens::RESERVED.contains(&name.as_str()) {
        return Err(Problem::invalid("this name is that of the machine's own token; choose another"));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
        return Err(Problem::invalid("name must have 1 to 64 letters, digits and - _ ."));
    }
    let user = match field(&document, "user")? {
        Some(user) => user_id(user)?,
        None => principal.user.clone(),
    };
    let wrong = || {
        let all: Vec<&str> = Scope::ALL.iter().map(|scope| scope.as_str()).collect();
        Problem::invalid(format!("scopes must be a list with at least one of: {}", all.join(", ")))
    };
    let scopes = match document.get("scopes") {
        None => vec![Scope::Read, Scope::Chat],
        Some(Value::Array(words)) if !words.is_empty() => words
            .iter()
            .map(|word| word.as_str().and_then(Scope::parse).ok_or_else(wrong))
            .collect::<Result<Vec<Scope>, Problem>>()?,
        Some(_) => return Err(wrong()),
    };
    let now = Millis::now();
    let expires_at = ends(&document, now)?;
    if scopes.iter().any(|scope| !principal.has(*scope)) {
        return Err(Problem::forbidden("a token gives no other token more than it has itself"));
    }
    if user != principal.user && api.gateway.wants_four_eyes() && scopes.iter().any(|scope| scope.acts()) {
        return Err(Problem::forbidden(
            "the operator's policy wants two people for a change, so nobody makes a token with which another would ask or \
             decide; give it read, chat or metrics only, or have the operator start without four_eyes to make it",
        ));
    }
    let secret = ApiToken::mint().map_err(|_| Problem::internal())?;
    let token = Token {
        name: name.clone(),
        user: user.clone(),
        scopes: Scope::write_all(&scopes),
        digest: ApiToken::digest_of(&secret),
        created_at: now,
        expires_at,
        revoked_at: None,
    };
    let stored = api
        .audit
        .act(Step::Other, move |tx| {
            let standing = principal.standing(tx)?;
            let Some(own) = tokens::get(tx, principal.token())?
                .filter(|_| standing.allows_somewhere(Scope::Admin))
            else {
                return Ok(Err(Problem::forbidden(NOT_ANY_MORE)));
            };
            if let Some(own) = own.expires_at
                && expires_at.is_none_or(|at| at > own)
            {
                let detail = format!(
                    "a token gives no other token more time than it has itself; give expires_at, {} at the latest",
                    own.to_rfc3339()
                );
                return Ok(Err(Problem::forbidden(detail)));
            }
            if users::get(tx, &user)?.is_none() {
                return Ok(Err(Problem::no_user(&user.to_string())));
            }
            if principal.user != user && !standing.is_owner() {
                return Ok(Err(Problem::forbidden("only an owner makes tokens for others")));
            }
            tokens::add(tx, &token)?;
            let detail = Value::object([
                ("user", Value::from(user.to_string())),
                ("scopes", Value::from(token.scopes.as_str())),
            ]);
            note(tx, &principal, "token.made", &token.name, detail)?;
            Ok(Ok(token))
        })
        .await
        .map_err(|error| Problem::not_acted(error, &name, "made"))??;
    api.tokens.reload().await;
    let mut shown = match token_json(&stored) {
        Value::Object(fields) => fields,
        _ => Vec::new(),
    };
    shown.push(("token".to_owned(), Value::from(secret)));
    Ok(json_response(StatusCode::CREATED, &Value::Object(shown)))
}

/// When a token that is made now ends: after so many days, at an instant, or never.
fn ends(document: &Value, now: Millis) -> Result<Option<Millis>, Problem> {
    let after = |days: u64| Millis(now.0.saturating_add(i64::try_from(days).unwrap_or(0) * DAY));
    match (document.get("days"), field(document, "expires_at")?) {
        (None | Some(Value::Null), None) => Ok(None),
        (None | Some(Value::Null), Some(text)) => {
            let wrong = || {
                Problem::invalid(format!(
                    "expires_at must be a time to come within {MOST_DAYS} days, like {}",
                    after(30).to_rfc3339()
                ))
            };
            let at = Millis::parse(text).ok_or_else(wrong)?;
            if at > now && at <= after(MOST_DAYS) { Ok(Some(at)) } else { Err(wrong()) }
        }
        (Some(value), None) => {
            let days = value.as_u64().filter(|days| (1..=MOST_DAYS).contains(days));
            let wrong = || Problem::invalid(format!("days must be a number from 1 to {MOST_DAYS}"));
            Ok(Some(after(days.ok_or_else(wrong)?)))
        }
        (Some(_), Some(_)) => Err(Problem::invalid("days and expires_at exclude each other; give one")),
    }
}

/// `DELETE /v1/tokens/{name}`
pub(super) async fn revoke_token(
    api: &Api,
    principal: Principal,
    name: &str,
) -> Result<Response<Body>, Problem> {
    let (tokens, audit, rights) = (api.tokens.clone(), api.audit.clone(), api.rights.clone());
    let token = name.to_owned();
    let revoking = tasks::unbroken(async move {
        let revoked = audit
            .act(Step::Other, move |tx| {
                let standing = principal.standing(tx)?;
                if !standing.allows_somewhere(Scope::Admin) {
                    return Ok(Err(Problem::forbidden(NOT_ANY_MORE)));
                }
                let Some(found) = tokens::get(tx, &token)? else { return Ok(Ok(false)) };
                if found.user != principal.user && !standing.is_owner() {
                    return Ok(Err(Problem::forbidden("only an owner revokes tokens of others")));
                }
                let revoked = tokens::revoke(tx, &token)?;
                if revoked {
                    note(tx, &principal, "token.revoked", &token, Value::Null)?;
                }
                Ok(Ok(revoked))
            })
            .await;
        // Also where it is only not in the audit file yet: it is revoked.
        tokens.reload().await;
        rights.ring();
        revoked
    });
    let revoked = revoking.await.ok_or_else(Problem::internal)?;
    let revoked = revoked.map_err(|error| Problem::not_acted(error, name, "revoked"))??;
    if revoked {
        Ok(json_response(StatusCode::OK, &Value::object([("revoked", Value::from(name))])))
    } else {
        Err(Problem::no_token(name))
    }
}

/// One record of what an operator did.
pub(super) fn note(
    tx: &rusqlite::Transaction<'_>,
    principal: &Principal,
    act: &'static str,
    object: &str,
    detail: Value,
) -> Result<(), StoreError> {
    let (actor, via) = (principal.user.to_string(), principal.via());
    audit::record(tx, &Record { act, actor: &actor, via: &via, group: None, object, detail }).map(drop)
}
