//! A conversation as a stream of server-sent events: one per entry of the history, its position as the
//! event's id, so that `Last-Event-ID` resumes without loss or repetition. Touches the ledger, reading.

use std::collections::VecDeque;
use std::sync::Arc;

use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use smol::channel::Receiver;

use super::problem::Problem;
use super::router::Query;
use super::sse::{self, Filled, Seat, Source};
use super::{Api, chat};
use crate::contract::ids::SessionId;
use crate::controlplane::http::Body;
use crate::controlplane::principals::{Principal, Scope};
use crate::controlplane::session::Watch;
use crate::controlplane::store::history::Entry;
use crate::controlplane::store::sessions::{self, Partition};
use crate::controlplane::store::{StoreError, groups, history};

/// Entries read from the ledger at once.
const PAGE: usize = 50;

/// `GET /v1/chat/{agent}/events`
pub(super) async fn stream(
    api: &Arc<Api>,
    principal: &Principal,
    agent: &str,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(request.uri().query(), &["chat", "after"])?;
    let partition = chat::partition(agent, query.text("chat"))?;
    let cursor = match sse::last_event(request, |id| id.parse().ok())? {
        Some(position) => position,
        None => query.number("after", 0, u64::MAX)?.unwrap_or(0),
    };
    let seat = Seat::take(api, principal)?;
    // Whom it does not concern is not told whether it is there.
    api.reaches(principal, Scope::Chat, &partition.group).await?;
    let group = partition.group.clone();
    let known = api.ledger.read(move |conn| Ok(groups::live(conn, &group)?.is_some())).await?;
    if !known {
        return Err(Problem::no_agent(agent));
    }
    let births = api.actors.watch_births();
    let source = Conversation { partition, births, session: None, cursor, caught_up: false };
    Ok(seat.stream(api, principal.clone(), source, ""))
}

/// One reader's place in a conversation.
struct Conversation {
    partition: Partition,
    /// Rings while it is not known whether the conversation has begun.
    births: Receiver<()>,
    session: Option<(SessionId, Watch)>,
    cursor: u64,
    /// The ledger holds nothing after the cursor that the watch will not tell of.
    caught_up: bool,
}

impl Conversation {
    fn show(&mut self, entries: &[Entry], ready: &mut VecDeque<Bytes>) {
        for entry in entries {
            self.cursor = entry.position;
            let id = entry.position.to_string();
            ready.push_back(sse::event(Some(&id), chat::direction(entry), &chat::entry_json(entry)));
        }
    }

    /// Reads the next page from the ledger.
    async fn read(&mut self, api: &Api, ready: &mut VecDeque<Bytes>) -> Result<(), StoreError> {
        if self.session.is_none() {
            let partition = self.partition.clone();
            let found = api.ledger.read(move |conn| sessions::find(conn, &partition)).await?;
            self.session = found.map(|id| (id.clone(), api.actors.watch(&id)));
        }
        let Some((session, _)) = &self.session else { return Ok(()) };
        let (session, keyring, after) = (session.clone(), api.keyring.clone(), self.cursor);
        let entries =
            api.ledger.read(move |conn| history::page(conn, &keyring, &session, after, PAGE)).await?;
        self.caught_up = entries.is_empty();
        self.show(&entries, ready);
        Ok(())
    }
}

impl Source for Conversation {
    async fn fill(&mut self, api: &Api, ready: &mut VecDeque<Bytes>) -> Result<Filled, StoreError> {
        if let (true, Some((_, watch))) = (self.caught_up, &self.session) {
            // Where the watch does not know all of it, the ledger is read next.
            match watch.since(self.cursor) {
                Some(entries) => self.show(&entries, ready),
                None => self.caught_up = false,
            }
        }
        if !self.caught_up {
            self.read(api, ready).await?;
        }
        Ok(Filled::Done)
    }

    async fn changed(&self) {
        match &self.session {
            None => sse::rung(&self.births).await,
            Some((_, watch)) => {
                if watch.rung().await.is_err() {
                    smol::future::pending::<()>().await;
                }
            }
        }
    }

    async fn may_go_on(&self, api: &Api, principal: &Principal) -> bool {
        api.may_go_on(principal, Scope::Chat, Some(self.partition.group.clone())).await
    }

    fn quiet(&mut self) -> String {
        self.caught_up = false;
        String::new()
    }
}
