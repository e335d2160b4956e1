//! The audit chain over HTTP: its newest records, new ones as they come, the comparison of its files with the
//! ledger, and the acknowledgement that they disagreed. Touches the ledger, reading, and the exporter's handle.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, header};
use smol::Timer;
use smol::channel::Receiver;
use smol::future::FutureExt;
use smol::lock::SemaphoreGuardArc;

use super::Api;
use super::problem::Problem;
use super::router::Query;
use crate::contract::chain;
use crate::contract::json::{self, Value};
use crate::controlplane::audit::ActError;
use crate::controlplane::http::{Body, json_response, pieces};
use crate::controlplane::principals::{Principal, Scope};
use crate::controlplane::store::audit::{self as rows, Link};
use crate::controlplane::store::{Ledger, StoreError};
use crate::controlplane::telemetry::log;

/// Records in an answer unless asked otherwise, and at most.
const PAGE: u64 = 50;
const PAGE_MOST: u64 = 1000;
/// An answer with more text in its records ends early.
const PAGE_BYTES: usize = 2 << 20;
/// Rows read from the ledger at once.
const READ: usize = 50;
/// A sign of life so often keeps middle boxes and readers sure that an answer lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// `GET /v1/audit`
pub(super) async fn list(api: &Api, query: Option<&str>) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["before", "limit"])?;
    let before = query.number("before", 1, u64::MAX)?.unwrap_or(u64::MAX);
    let limit = query.number("limit", 1, PAGE_MOST)?.unwrap_or(PAGE);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let answer = api.ledger.read(move |conn| {
        let (mut records, mut bytes, mut before) = (Vec::new(), 0, before);
        'pages: loop {
            let page = rows::before(conn, before, READ.min(limit - records.len()))?;
            if page.is_empty() {
                break;
            }
            for link in page {
                before = link.seq;
                bytes += link.line.len();
                records.push(record_json(&link)?);
                if records.len() == limit || bytes > PAGE_BYTES {
                    break 'pages;
                }
            }
        }
        let next = (before > 1 && !records.is_empty()).then_some(before);
        let next = next.map_or(Value::Null, Value::from);
        Ok(Value::object([("records", Value::from(records)), ("next", next)]))
    });
    Ok(json_response(StatusCode::OK, &answer.await?))
}

/// The fields of a record, and its own hash in the place of the one before it.
fn record_json(link: &Link) -> Result<Value, StoreError> {
    let wrong = |_| StoreError::BadRow("an audit record");
    let Value::Object(mut fields) = json::parse(link.line.as_bytes()).map_err(wrong)? else {
        return Err(StoreError::BadRow("an audit record"));
    };
    fields.push(("hash".to_owned(), Value::from(chain::hex(&link.hash))));
    Ok(Value::Object(fields))
}

/// `POST /v1/audit/acknowledge`
pub(super) async fn acknowledge(api: &Api, principal: &Principal) -> Result<Response<Body>, Problem> {
    match api.audit.acknowledge(principal.by()).await {
        Ok(Some(wrong)) => {
            let document = Value::object([("acknowledged", Value::from(wrong))]);
            Ok(json_response(StatusCode::OK, &document))
        }
        Ok(None) => Err(Problem::nothing_to_acknowledge()),
        Err(ActError::Unavailable(reason)) => Err(Problem::audit_unavailable(&reason)),
        Err(ActError::Unexported { reason, .. }) => {
            Err(Problem::unexported(&reason, "audit", "acknowledged"))
        }
        Err(ActError::Store(error)) => Err(error.into()),
    }
}

/// `GET /v1/audit/verify`: spaces while it works, then the report.
pub(super) fn verify(api: &Arc<Api>) -> Result<Response<Body>, Problem> {
    let place = api.streams.try_acquire_arc().ok_or_else(Problem::too_many_streams)?;
    let audit = api.audit.clone();
    let work = Box::pin(async move {
        let _place = place;
        match audit.verify().await {
            Ok(report) => report.to_json(),
            Err(error) => {
                log::warn("audit.not_verified", &[("error", &error)]);
                let fault = Value::object([
                    ("file", Value::from("control.db")),
                    ("line", Value::from(0u64)),
                    ("what", Value::from("the comparison could not be finished; the log says why")),
                ]);
                Value::object([("ok", Value::from(false)), ("fault", fault)])
            }
        }
    });
    let answer = smol::stream::unfold(Some(work), |work| async move {
        let mut work = work?;
        let done = async { Some((&mut work).await) };
        let quiet = async {
            Timer::after(KEEP_ALIVE).await;
            None
        };
        match done.or(quiet).await {
            Some(report) => Some((Bytes::from(report.to_string()), None)),
            None => Some((Bytes::from_static(b" "), Some(work))),
        }
    });
    let mut response = Response::new(pieces(answer));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// `GET /v1/audit/events`
pub(super) async fn events(
    api: &Arc<Api>,
    principal: Principal,
    request: &Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(request.uri().query(), &["after"])?;
    let asked = match request.headers().get("last-event-id") {
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.trim().parse::<u64>().ok());
            let wrong = || Problem::invalid("Last-Event-ID must be the id of an event of this stream");
            Some(number.ok_or_else(wrong)?)
        }
        None => query.number("after", 0, u64::MAX)?,
    };
    let cursor = match asked {
        Some(cursor) => cursor,
        None => api.ledger.read(rows::tip).await?.0,
    };
    let place = api.streams.try_acquire_arc().ok_or_else(Problem::too_many_streams)?;
    let ready = VecDeque::from([Bytes::from_static(b"retry: 1000\n\n")]);
    let reader = Reader { api: api.clone(), principal, cursor, ready, _place: place };
    let events =
        smol::stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) });
    let mut response = Response::new(pieces(events));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

/// One reader's place in the chain.
struct Reader {
    api: Arc<Api>,
    principal: Principal,
    cursor: u64,
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
            let (rung, rights) = (self.api.audit.watch(), self.api.rights.watch());
            if let Err(error) = self.fill().await {
                log::warn("api.stream_failed", &[("error", &error)]);
                return None;
            }
            if !self.ready.is_empty() {
                continue;
            }
            match self.wait(rung, rights).await {
                Woken::Changed => {}
                // A token ends by itself, and nobody rings for that.
                Woken::Quiet if !self.api.tokens.holds(&self.principal) => return None,
                Woken::Quiet => return Some(Bytes::from_static(b": still here\n\n")),
                Woken::Rights => {
                    if !self.api.may_go_on(&self.principal, Scope::Read, None).await {
                        return None;
                    }
                }
                Woken::Closing => return None,
            }
        }
    }

    async fn fill(&mut self) -> Result<(), StoreError> {
        let links = page_after(&self.api.ledger, self.cursor).await?;
        for link in links {
            self.cursor = link.seq;
            // The writer leaves no raw newline in a document, so one `data` line holds it.
            let data = record_json(&link)?;
            self.ready.push_back(Bytes::from(format!("id: {}\nevent: record\ndata: {data}\n\n", link.seq)));
        }
        Ok(())
    }

    async fn wait(&self, rung: Receiver<()>, rights: Receiver<()>) -> Woken {
        let rung = async {
            if rung.recv().await.is_err() {
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

async fn page_after(ledger: &Ledger, cursor: u64) -> Result<Vec<Link>, StoreError> {
    ledger.read(move |conn| rows::after(conn, cursor, READ)).await
}
