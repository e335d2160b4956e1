//! Questions of agents: listed, answered by people who may talk to the agent, and ended by operators. What is asked is part
//! of a conversation, and shown to those only who may talk there. Touches the ledger, and wakes the sessions that asked.

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use rusqlite::{Connection, Transaction};

use super::changes::known;
use super::lists::{limit, of_group};
use super::problem::Problem;
use super::router::Query;
use super::{Api, body};
use crate::contract::ids::{GroupName, QuestionId};
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::audit::{self, ActError, By, Record};
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::keys::Keyring;
use crate::controlplane::principals::{self, Principal, Scope, Standing};
use crate::controlplane::questions::{self, Asked, Choice, Person, Refused};
use crate::controlplane::store::questions::{self as kept, Question, State};
use crate::controlplane::store::{Step, StoreError};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Longest answer in words, in bytes.
const WORDS: usize = 64 << 10;
/// Escapes take up to six bytes for one; an answer of the full length must fit whatever it holds.
const BODY_BYTES: usize = 6 * WORDS + 4096;

/// `GET /v1/questions`
pub(super) async fn list(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["group", "state", "after", "limit"])?;
    let limit = limit(&query)?;
    let after = query.text("after").unwrap_or_default().to_owned();
    let state = State::parse(query.text("state").unwrap_or("open"))
        .ok_or_else(|| Problem::invalid("state must be open, answered, expired or cancelled"))?;
    let (keyring, who) = (api.keyring.clone(), principal.clone());
    let rows = of_group(api, principal, &query, move |conn, group| {
        let among = group.map(std::slice::from_ref);
        let rows = kept::list(conn, among, state, &after, limit)?;
        rows.iter().map(|row| shown(conn, &keyring, &who, row)).collect::<Result<Vec<_>, _>>()
    });
    let rows = rows.await?;
    let last = rows.last().and_then(|row| row.get("id")).cloned();
    let next = last.filter(|_| rows.len() == limit).unwrap_or(Value::Null);
    Ok(json_response(StatusCode::OK, &Value::object([("questions", Value::from(rows)), ("next", next)])))
}

/// `GET /v1/questions/{id}`
pub(super) async fn show(api: &Api, principal: &Principal, name: &str) -> Result<Response<Body>, Problem> {
    let id = QuestionId::parse(name).map_err(|_| Problem::no_question(name))?;
    let (keyring, who) = (api.keyring.clone(), principal.clone());
    let found = api.ledger.read(move |conn| {
        let Some(question) = kept::get(conn, &id)? else { return Ok(None) };
        // Whom it does not concern is not told that it is there.
        match Standing::of(conn, &who.user)?.allows(Scope::Read, Some(&question.group)) {
            true => shown(conn, &keyring, &who, &question).map(Some),
            false => Ok(None),
        }
    });
    Ok(json_response(StatusCode::OK, &found.await?.ok_or_else(|| Problem::no_question(name))?))
}

/// `POST /v1/questions/{id}/answer`
pub(super) async fn answer(
    api: &Api,
    principal: Principal,
    name: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    known(&document, &["option", "text"])?;
    let given = |field: &str| document.get(field).filter(|value| **value != Value::Null);
    let choice = match (given("option"), given("text")) {
        (Some(option), None) => {
            let number = option.as_u64().and_then(|number| usize::try_from(number).ok());
            let at = number.and_then(|number| number.checked_sub(1));
            Choice::Option(
                at.ok_or_else(|| {
                    Problem::invalid("option must be the number of one of the options, from 1")
                })?,
            )
        }
        (None, Some(text)) => {
            let text = text.as_str().filter(|text| !text.trim().is_empty() && text.len() <= WORDS);
            let wrong = || Problem::invalid(format!("text must have 1 to {WORDS} bytes and not only spaces"));
            Choice::Words(text.ok_or_else(wrong)?.to_owned())
        }
        _ => return Err(Problem::invalid("give either option, a number from 1, or text")),
    };
    let work = work(api, principal, name, Scope::Chat, move |tx, keyring, question, principal| {
        let asked = Asked::of(tx, keyring, question)?;
        // An option may be named by its words too.
        let choice = match (choice, asked) {
            (Choice::Words(words), Some(asked)) => asked.named(&words).unwrap_or(Choice::Words(words)),
            (choice, _) => choice,
        };
        let user = principal.user.to_string();
        let person = Person { id: &user, name: principal.user.handle(), message: None };
        let answered = questions::answer(tx, keyring, question, &choice, person)?;
        Ok(answered.map(drop).map_err(refused))
    })?;
    // Whoever answered may go meanwhile; the agent hears it all the same.
    let (ledger, actors) = (api.ledger.clone(), api.actors.clone());
    let answered = tasks::unbroken(async move {
        let answered = ledger.write_step(Step::Accept, work).await;
        if let Ok(Some(Ok((question, _)))) = &answered {
            METRICS.accepted.inc();
            actors.wake(&question.session);
            actors.ring_births();
            actors.ring_bell(&question.session, None);
            log::info("question.answered", &[("question", &question.id), ("session", &question.session)]);
        }
        answered
    });
    let answered = answered.await.ok_or_else(Problem::internal)?;
    let (_, shown) = answered?.ok_or_else(|| Problem::no_question(name))??;
    Ok(json_response(StatusCode::OK, &shown))
}

/// `POST /v1/questions/{id}/cancel`
pub(super) async fn cancel(api: &Api, principal: Principal, name: &str) -> Result<Response<Body>, Problem> {
    let work = work(api, principal, name, Scope::Operate, |tx, keyring, question, principal| {
        let By { actor, via } = principal.by();
        if !questions::end(tx, keyring, question, State::Cancelled, Some(&actor))? {
            return Ok(Err(refused(Refused::Over(question.state))));
        }
        let record = Record {
            act: "question.cancelled",
            actor: &actor,
            via: &via,
            group: Some(&question.group),
            object: question.id.as_str(),
            detail: Value::Null,
        };
        audit::record(tx, &record)?;
        Ok(Ok(()))
    })?;
    let (audit, actors) = (api.audit.clone(), api.actors.clone());
    let ended = tasks::unbroken(async move {
        let ended = audit.act(Step::Other, work).await;
        if let Ok(Some(Ok((question, _)))) | Err(ActError::Unexported { done: Some(Ok((question, _))), .. }) =
            &ended
        {
            actors.ring_bell(&question.session, None);
            log::info("question.cancelled", &[("question", &question.id), ("session", &question.session)]);
        }
        ended
    });
    let ended = ended.await.ok_or_else(Problem::internal)?;
    let ended = ended.map_err(|error| Problem::not_acted(error, name, "ended"))?;
    let (_, shown) = ended.ok_or_else(|| Problem::no_question(name))??;
    Ok(json_response(StatusCode::OK, &shown))
}

/// What became of a question, for whoever may know of it.
type Done = Option<Result<(Question, Value), Problem>>;

/// Does something with a question, if the asker may. Gives it as it is then.
fn work(
    api: &Api,
    principal: Principal,
    name: &str,
    scope: Scope,
    work: impl FnOnce(
        &Transaction<'_>,
        &Keyring,
        &Question,
        &Principal,
    ) -> Result<Result<(), Problem>, StoreError>
    + Send
    + 'static,
) -> Result<impl FnOnce(&Transaction<'_>) -> Result<Done, StoreError> + Send + 'static, Problem> {
    let id = QuestionId::parse(name).map_err(|_| Problem::no_question(name))?;
    let keyring = api.keyring.clone();
    Ok(move |tx: &Transaction<'_>| {
        let Some(question) = kept::get(tx, &id)? else { return Ok(None) };
        if !principals::may(tx, &principal, scope, Some(&question.group))? {
            let may_see = Standing::of(tx, &principal.user)?.allows(Scope::Read, Some(&question.group));
            let no = Problem::forbidden("your roles do not allow this for its agent");
            return Ok(may_see.then_some(Err(no)));
        }
        if let Err(problem) = work(tx, &keyring, &question, &principal)? {
            return Ok(Some(Err(problem)));
        }
        let Some(question) = kept::get(tx, &id)? else { return Ok(None) };
        let shown = shown(tx, &keyring, &principal, &question)?;
        Ok(Some(Ok((question, shown))))
    })
}

fn refused(refused: Refused) -> Problem {
    match refused {
        Refused::NoAnswer => Problem::no_answer(),
        other => Problem::question_over(other.words()),
    }
}

/// A question as people see it: what it asks, if they may talk there.
fn shown(
    conn: &Connection,
    keyring: &Keyring,
    principal: &Principal,
    question: &Question,
) -> Result<Value, StoreError> {
    let may_talk = |group: &GroupName| -> Result<bool, StoreError> {
        Ok(principal.has(Scope::Chat)
            && Standing::of(conn, &principal.user)?.allows(Scope::Chat, Some(group)))
    };
    let asked = if may_talk(&question.group)? { Asked::of(conn, keyring, question)? } else { None };
    let options = asked
        .as_ref()
        .map(|asked| asked.options.iter().map(|option| Value::from(option.as_str())).collect::<Vec<_>>());
    let time = |at: Option<Millis>| Value::from(at.map(Millis::to_rfc3339));
    let place = &question.place;
    Ok(Value::object([
        ("id", Value::from(question.id.as_str())),
        ("group", Value::from(question.group.as_str())),
        ("session", Value::from(question.session.as_str())),
        ("message", Value::from(question.message.as_str())),
        ("channel", Value::from(place.channel.as_str())),
        ("instance", Value::from(place.instance.as_str())),
        ("chat", Value::from(place.chat.as_str())),
        ("thread", Value::from(place.thread.clone())),
        ("state", Value::from(question.state.as_str())),
        ("question", Value::from(asked.as_ref().map(|asked| asked.question.clone()))),
        ("options", options.map_or(Value::Null, Value::from)),
        ("allow_freeform", asked.as_ref().map_or(Value::Null, |asked| Value::from(asked.takes_words))),
        ("created_at", time(Some(question.created_at))),
        ("expires_at", time(Some(question.expires_at))),
        ("ended_at", time(question.ended_at)),
        ("ended_by", Value::from(question.ended_by.clone())),
        ("answer", Value::from(question.answer.as_ref().map(ToString::to_string))),
    ]))
}
