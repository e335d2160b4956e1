//! A conversation as a stream of server-sent events: one per entry of the history, its position as the
//! event's id, so that `Last-Event-ID` resumes without loss or repetition. The reader sets the pace; it is
//! dropped when it takes nothing for long. Touches the ledger, reading.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, header};
use smol::Timer;
use smol::channel::Receiver;
use smol::future::FutureExt;
use smol::lock::SemaphoreGuardArc;

use super::problem::Problem;
use super::router::Query;
use super::{Api, chat};
use crate::contract::ids::SessionId;
use crate::controlplane::http::{Body, pieces};
use crate::controlplane::principals::{Principal, Scope};
use crate::controlplane::session::Watch;
use crate::controlplane::store::history::Entry;
use crate::controlplane::store::sessions::{self, Partition};
use crate::controlplane::store::{StoreError, groups, history};
use crate::controlplane::telemetry::log;

/// A comment so often keeps middle boxes and readers sure that the stream lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
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
    let after = match request.headers().get("last-event-id") {
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
            number
                .ok_or_else(|| Problem::invalid("Last-Event-ID must be the id of an event of this stream"))?
        }
        None => query.number("after", 0, u64::MAX)?.unwrap_or(0),
    };
    let group = partition.group.clone();
    let known = api.ledger.read(move |conn| Ok(groups::live(conn, &group)?.is_some())).await?;
    if !known {
        return Err(Problem::no_agent(agent));
    }
    api.reaches(principal, Scope::Chat, &partition.group).await?;
    let place = api.streams.try_acquire_arc().ok_or_else(Problem::too_many_streams)?;
    let reader = Reader {
        api: api.clone(),
        principal: principal.clone(),
        partition,
        session: None,
        cursor: after,
        caught_up: false,
        ready: VecDeque::from([Bytes::from_static(b"retry: 1000\n\n")]),
        _place: place,
    };
    let events =
        smol::stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) });
    let mut response = Response::new(pieces(events));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

/// One reader's place in a conversation.
struct Reader {
    api: Arc<Api>,
    principal: Principal,
    partition: Partition,
    session: Option<(SessionId, Watch)>,
    cursor: u64,
    /// The ledger holds nothing after the cursor that the watch will not tell of.
    caught_up: bool,
    ready: VecDeque<Bytes>,
    _place: SemaphoreGuardArc,
}

/// Why a wait ended.
enum Woken {
    Changed,
    Quiet,
    Rights,
    Closing,
}

impl Reader {
    /// The next piece; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            // Watched before it is read, so that what comes between the two rings.
            let (births, rights) = (self.api.newcomers.watch(), self.api.rights.watch());
            if !self.caught_up {
                if let Err(error) = self.fill().await {
                    log::warn("api.stream_failed", &[("error", &error)]);
                    return None;
                }
                if !self.ready.is_empty() {
                    continue;
                }
            }
            match self.wait(births, rights).await {
                Woken::Changed => self.hear(),
                // A token ends by itself, and nobody rings for that.
                Woken::Quiet if !self.api.tokens.holds(&self.principal) => return None,
                Woken::Quiet => {
                    // A ring that was lost, with whoever was to ring, is made good at the keep-alive's pace.
                    self.caught_up = false;
                    return Some(Bytes::from_static(b": still here\n\n"));
                }
                Woken::Rights => {
                    let group = Some(self.partition.group.clone());
                    if !self.api.may_go_on(&self.principal, Scope::Chat, group).await {
                        return None;
                    }
                }
                Woken::Closing => return None,
            }
        }
    }

    /// Takes what the watch was told; where that is not all of it, the ledger is read next.
    fn hear(&mut self) {
        let Some((_, watch)) = &self.session else { return };
        match watch.since(self.cursor) {
            Some(entries) if self.caught_up => self.show(&entries),
            _ => self.caught_up = false,
        }
    }

    /// Reads the next page from the ledger.
    async fn fill(&mut self) -> Result<(), StoreError> {
        if self.session.is_none() {
            let partition = self.partition.clone();
            let found = self.api.ledger.read(move |conn| sessions::find(conn, &partition)).await?;
            self.session = found.map(|id| (id.clone(), self.api.actors.watch(&id)));
        }
        let Some((session, _)) = &self.session else { return Ok(()) };
        let (session, keyring, after) = (session.clone(), self.api.keyring.clone(), self.cursor);
        let entries =
            self.api.ledger.read(move |conn| history::page(conn, &keyring, &session, after, PAGE)).await?;
        self.caught_up = entries.is_empty();
        self.show(&entries);
        Ok(())
    }

    fn show(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.cursor = entry.position;
            // The writer leaves no raw newline in a document, so one `data` line holds it.
            let (name, data) = (chat::direction(entry), chat::entry_json(entry));
            self.ready
                .push_back(Bytes::from(format!("id: {}\nevent: {name}\ndata: {data}\n\n", entry.position)));
        }
    }

    async fn wait(&self, births: Receiver<()>, rights: Receiver<()>) -> Woken {
        let rung = async {
            let rung = match &self.session {
                Some((_, watch)) => watch.rung().await,
                None => births.recv().await,
            };
            if rung.is_err() {
                // Nobody rings any more; the keep-alive's pace remains.
                smol::future::pending::<()>().await;
            }
            Woken::Changed
        };
        let quiet = async {
            Timer::after(KEEP_ALIVE).await;
            Woken::Quiet
        };
        let closing = async {
            let _ = self.api.closing.recv().await;
            Woken::Closing
        };
        let rights = async {
            let _ = rights.recv().await;
            Woken::Rights
        };
        let rung = rung.or(rights);
        rung.or(quiet).or(closing).await
    }
}
