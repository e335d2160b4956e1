//! Sending a message to an agent and reading a conversation by cursor. Touches the ledger, and wakes the
//! session's actor.

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};
use rusqlite::Transaction;

use super::problem::Problem;
use super::router::Query;
use super::{Api, body};
use crate::contract::ids::GroupName;
use crate::contract::inbound::InboundKind;
use crate::contract::json::{Value, only_fields};
use crate::controlplane::doors;
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::keys::Keyring;
use crate::controlplane::principals::{self, Principal, Scope};
use crate::controlplane::questions::{self, Choice, Person};
use crate::controlplane::session::Sessions;
use crate::controlplane::store::history::{self, Direction, Entry, News};
use crate::controlplane::store::inbox::{self, Accepted, NewInbound};
use crate::controlplane::store::sessions::{self, Partition, Place};
use crate::controlplane::store::{Step, StoreError, groups};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Longest text of one message.
const TEXT_BYTES: usize = 64 << 10;
/// Escapes take up to six bytes for one; a text of the full length must fit whatever it holds.
const BODY_BYTES: usize = 6 * TEXT_BYTES + 4096;
/// Longest name of an event.
const NAME_BYTES: usize = 128;
/// Entries in a page unless asked otherwise, and at most.
const PAGE: u64 = 50;
const PAGE_MOST: u64 = 200;
/// The chat that is meant when none is named.
const DEFAULT_CHAT: &str = "main";

/// One conversation over the API, by what makes it one.
pub(super) fn partition(agent: &str, chat: Option<&str>) -> Result<Partition, Problem> {
    let group = GroupName::parse(agent).map_err(|_| Problem::no_agent(agent))?;
    let chat = chat.unwrap_or(DEFAULT_CHAT);
    if !doors::is_api_chat(chat) {
        return Err(Problem::invalid(format!(
            "chat must have 1 to {} bytes and no control characters",
            doors::API_CHAT_BYTES
        )));
    }
    let place = Place {
        channel: doors::API.to_owned(),
        instance: String::new(),
        chat: chat.to_owned(),
        thread: None,
    };
    Ok(Partition { group, place })
}

/// `POST /v1/chat/{agent}/messages`
pub(super) async fn send(
    api: &Api,
    principal: &Principal,
    agent: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    let mut new = read(agent, &document)?;
    new.sender_id = principal.user.to_string();
    new.sender_name = principal.user.handle().to_owned();
    let talker = principal.clone();
    let (keyring, actors) = (api.keyring.clone(), api.actors.clone());
    let work = move |tx: &Transaction<'_>| {
        let group = &new.partition.group;
        // Whom it does not concern is not told whether it is there.
        if !principals::may(tx, &talker, Scope::Chat, Some(group))? {
            return Ok(None);
        }
        if groups::live(tx, group)?.is_none() {
            return Err(StoreError::NoGroup(group.clone()));
        }
        let accepted = match answered(tx, &keyring, &new)? {
            Some(accepted) => accepted,
            None => inbox::accept(tx, &keyring, &new)?,
        };
        let is_news = !accepted.duplicate && actors.is_watched(&accepted.session);
        if !is_news {
            return Ok(Some((accepted, None)));
        }
        let before = history::newest_below(tx, &accepted.session, accepted.position)?;
        let news = history::news(tx, &keyring, &accepted.session, before)?;
        Ok(Some((accepted, news)))
    };
    // Whoever says it may go meanwhile; the agent hears it all the same.
    let (ledger, actors) = (api.ledger.clone(), api.actors.clone());
    let accepting = tasks::unbroken(async move {
        let Some((accepted, news)) = ledger.write_step(Step::Accept, work).await? else { return Ok(None) };
        heard(&actors, &accepted, news);
        Ok::<_, StoreError>(Some(accepted))
    });
    let Some(accepted) = accepting.await.ok_or_else(Problem::internal)?? else {
        let detail = format!("you are no member of {agent}; an admin can make you one");
        return Err(Problem::forbidden(detail));
    };
    let answer = Value::object([
        ("message_id", Value::from(accepted.message.as_str())),
        ("session_id", Value::from(accepted.session.as_str())),
        ("position", Value::from(accepted.position)),
        ("duplicate", Value::from(accepted.duplicate)),
    ]);
    Ok(json_response(StatusCode::ACCEPTED, &answer))
}

/// Lets an agent know of what was accepted for it.
fn heard(actors: &Sessions, accepted: &Accepted, news: Option<News>) {
    if accepted.duplicate {
        METRICS.duplicates.inc();
    } else {
        METRICS.accepted.inc();
    }
    log::info(
        "api.accepted",
        &[("session", &accepted.session), ("message", &accepted.message), ("duplicate", &accepted.duplicate)],
    );
    // A duplicate wakes too: the first may have been accepted by a daemon that died before it woke anybody.
    actors.wake(&accepted.session);
    actors.ring_births();
    if !accepted.duplicate {
        actors.ring_bell(&accepted.session, news);
    }
}

/// Takes a message as the answer to a question that was asked in its conversation, if it is one.
fn answered(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    new: &NewInbound,
) -> Result<Option<Accepted>, StoreError> {
    if inbox::seen(tx, &new.place, &new.event_id)?.is_some() {
        return Ok(None);
    }
    let Some(session) = sessions::find(tx, &new.partition)? else { return Ok(None) };
    for (question, asked) in questions::open_in(tx, keyring, &new.place)? {
        let choice = asked.named(&new.text).unwrap_or_else(|| Choice::Words(new.text.clone()));
        if question.session != session || asked.words(&choice).is_none() {
            continue;
        }
        let person = Person { id: &new.sender_id, name: &new.sender_name, message: None };
        if let Ok(accepted) = questions::answer(tx, keyring, &question, &choice, person)? {
            inbox::note(tx, &new.place, &new.event_id, &accepted)?;
            return Ok(Some(accepted));
        }
    }
    Ok(None)
}

fn read(agent: &str, document: &Value) -> Result<NewInbound, Problem> {
    only_fields(document, &["text", "event_id", "chat"]).map_err(|error| {
        Problem::invalid(format!("{error}; the fields are text, event_id and, if you like, chat"))
    })?;
    let field = |name: &str| match document.get(name) {
        None => Ok(None),
        Some(value) => {
            value.as_str().map(Some).ok_or_else(|| Problem::invalid(format!("{name} must be a text")))
        }
    };
    let partition = partition(agent, field("chat")?)?;
    let text =
        field("text")?.ok_or_else(|| Problem::invalid("text is missing: what the agent is to read"))?;
    if text.trim().is_empty() || text.len() > TEXT_BYTES {
        return Err(Problem::invalid(format!("text must have 1 to {TEXT_BYTES} bytes and not only spaces")));
    }
    let event_id = field("event_id")?.ok_or_else(|| {
        Problem::invalid(
            "event_id is missing: a name of your own for this message, so that sending it again is harmless",
        )
    })?;
    let visible = event_id.bytes().all(|b| b.is_ascii_graphic());
    if event_id.is_empty() || event_id.len() > NAME_BYTES || !visible {
        return Err(Problem::invalid(format!(
            "event_id must have 1 to {NAME_BYTES} visible ASCII characters"
        )));
    }
    // A client counts its events in one conversation; the ledger tells them apart on a whole channel.
    let event_id = format!("{}\n{}\n{event_id}", partition.group, partition.place.chat);
    Ok(NewInbound {
        place: partition.place.clone(),
        partition,
        event_id,
        kind: InboundKind::Chat,
        engage: true,
        sender_id: String::new(),
        sender_name: String::new(),
        text: text.to_owned(),
        in_reply_to: None,
        source_session: None,
        hop: 0,
        platform_message: None,
    })
}

/// `GET /v1/chat/{agent}/messages`
pub(super) async fn page(
    api: &Api,
    principal: &Principal,
    agent: &str,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["chat", "after", "limit"])?;
    let partition = partition(agent, query.text("chat"))?;
    api.reaches(principal, Scope::Chat, &partition.group).await?;
    let after = query.number("after", 0, u64::MAX)?.unwrap_or(0);
    let limit = query.number("limit", 1, PAGE_MOST)?.unwrap_or(PAGE);
    let keyring = api.keyring.clone();
    let entries = api
        .ledger
        .read(move |conn| match sessions::find(conn, &partition)? {
            Some(session) => {
                history::page(conn, &keyring, &session, after, usize::try_from(limit).unwrap_or(usize::MAX))
                    .map(Some)
            }
            None => Ok(groups::get(conn, &partition.group)?.map(|_| Vec::new())),
        })
        .await?
        .ok_or_else(|| Problem::no_agent(agent))?;
    let next = entries.last().map(|entry| entry.position);
    let entries: Vec<Value> = entries.iter().map(entry_json).collect();
    let answer = Value::object([("entries", Value::from(entries)), ("next", Value::from(next))]);
    Ok(json_response(StatusCode::OK, &answer))
}

/// The word for an entry's kind, in pages and as the name of an event.
pub(super) fn direction(entry: &Entry) -> &'static str {
    match entry.direction {
        Direction::In => "in",
        Direction::Out => "out",
        Direction::Notice => "notice",
        Direction::Finished => "finished",
    }
}

/// An entry as clients see it.
pub(super) fn entry_json(entry: &Entry) -> Value {
    let state = entry.state.map(|state| state.as_str());
    let mut fields = vec![
        ("position", Value::from(entry.position)),
        ("direction", Value::from(direction(entry))),
        ("message_id", Value::from(entry.message.as_str())),
        ("in_reply_to", Value::from(entry.in_reply_to.clone())),
        ("text", Value::from(entry.text.clone())),
        ("at", Value::from(entry.at.to_rfc3339())),
        ("state", Value::from(if entry.is_unreadable { Some("unreadable") } else { state })),
    ];
    if let Some(reason) = &entry.reason {
        fields.push(("reason", Value::from(reason.as_str())));
    }
    if let Some(from) = &entry.from_session {
        fields.push(("from_session", Value::from(from.as_str())));
    }
    Value::object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json;

    fn tried(text: &str) -> Result<NewInbound, Problem> {
        read("mock-agent", &json::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn a_message_needs_a_text_and_a_name_of_its_own() {
        let new = tried(r#"{"text":"hi","event_id":"1"}"#).unwrap();
        assert_eq!((new.place.chat.as_str(), new.text.as_str()), ("main", "hi"));
        let other = tried(r#"{"text":"hi","event_id":"1","chat":"x"}"#).unwrap();
        assert_ne!(new.event_id, other.event_id, "two chats count their events apart");
        for bad in [
            r#"{"event_id":"1"}"#,
            r#"{"text":"hi"}"#,
            r#"{"text":"","event_id":"1"}"#,
            r#"{"text":" \n","event_id":"1"}"#,
            r#"{"text":1,"event_id":"1"}"#,
            r#"{"text":"hi","event_id":""}"#,
            r#"{"text":"hi","event_id":"a b"}"#,
            r#"{"text":"hi","event_id":"ü"}"#,
            r#"{"text":"hi","event_id":"1","chat":""}"#,
            r#"{"text":"hi","event_id":"1","chat":"a\nb"}"#,
            r#"{"text":"hi","event_id":"1","model":"x"}"#,
            r#"[]"#,
        ] {
            assert_eq!(tried(bad).unwrap_err().code, "invalid_request", "{bad}");
        }
        let long = |n: usize| format!(r#"{{"text":"{}","event_id":"1"}}"#, "x".repeat(n));
        assert!(tried(&long(TEXT_BYTES)).is_ok());
        assert!(tried(&long(TEXT_BYTES + 1)).is_err());
        let named = |n: usize| format!(r#"{{"text":"x","event_id":"{}"}}"#, "x".repeat(n));
        assert!(tried(&named(NAME_BYTES)).is_ok());
        assert!(tried(&named(NAME_BYTES + 1)).is_err());
    }

    #[test]
    fn an_agent_that_cannot_be_is_not_found() {
        assert_eq!(partition("../x", None).unwrap_err().code, "no_such_agent");
    }
}
