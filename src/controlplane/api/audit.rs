//! The audit chain over HTTP: its newest records, new ones as they come, the comparison of its files with the
//! ledger, and the acknowledgement that they disagreed. Touches the ledger, reading, and the exporter's handle.

use std::collections::VecDeque;
use std::sync::Arc;

use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, header};
use rusqlite::Connection;
use smol::Timer;
use smol::channel::Receiver;
use smol::future::FutureExt;

use super::Api;
use super::problem::Problem;
use super::router::{Guarded, Query};
use super::sse::{self, Filled, KEEP_ALIVE, Seat, Source};
use crate::contract::chain;
use crate::contract::json::{self, Value};
use crate::controlplane::audit::ActError;
use crate::controlplane::http::{Body, json_response, pieces};
use crate::controlplane::principals::{self, Principal, Scope};
use crate::controlplane::store::StoreError;
use crate::controlplane::store::audit::{self as rows, Link};
use crate::controlplane::telemetry::log;

/// Records in an answer unless asked otherwise, and at most.
const PAGE: u64 = 50;
const PAGE_MOST: u64 = 1000;
/// An answer with more text in its records ends early.
const PAGE_BYTES: usize = 2 << 20;
/// Rows read from the ledger at once.
const READ: usize = 50;

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
pub(super) fn record_json(link: &Link) -> Result<Value, StoreError> {
    let wrong = |_| StoreError::BadRow("an audit record");
    let Value::Object(mut fields) = json::parse(link.line.as_bytes()).map_err(wrong)? else {
        return Err(StoreError::BadRow("an audit record"));
    };
    fields.push(("hash".to_owned(), Value::from(chain::hex(&link.hash))));
    Ok(Value::Object(fields))
}

/// `POST /v1/audit/acknowledge`
pub(super) async fn acknowledge(api: &Api, principal: &Principal) -> Result<Response<Body>, Problem> {
    let judged = principal.clone();
    let may = move |conn: &Connection| principals::may(conn, &judged, Scope::Admin, None);
    match api.audit.acknowledge(principal.by(), may).await {
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
pub(super) fn verify(api: &Arc<Api>, principal: &Principal) -> Result<Response<Body>, Problem> {
    let place = api.streams.take(principal.token()).ok_or_else(Problem::too_many_streams)?;
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
    let asked = match sse::last_event(request, |id| id.parse().ok())? {
        Some(number) => Some(number),
        None => query.number("after", 0, u64::MAX)?,
    };
    let seat = Seat::take(api, &principal)?;
    // Admitted before the seat was taken, so what was taken away between the two rang for nobody.
    api.admit(&principal, &Guarded::AuditEvents).await?;
    let rung = api.audit.watch();
    let cursor = match asked {
        Some(cursor) => cursor,
        None => api.ledger.read(rows::tip).await?.0,
    };
    Ok(seat.stream(api, principal, Chain { rung, cursor }, ""))
}

/// One reader's place in the chain.
struct Chain {
    rung: Receiver<()>,
    cursor: u64,
}

impl Source for Chain {
    async fn fill(&mut self, api: &Api, ready: &mut VecDeque<Bytes>) -> Result<Filled, StoreError> {
        let cursor = self.cursor;
        for link in api.ledger.read(move |conn| rows::after(conn, cursor, READ)).await? {
            self.cursor = link.seq;
            ready.push_back(sse::event(Some(&link.seq.to_string()), "record", &record_json(&link)?));
        }
        Ok(Filled::Done)
    }

    async fn changed(&self) {
        sse::rung(&self.rung).await;
    }

    async fn may_go_on(&self, api: &Api, principal: &Principal) -> bool {
        api.may_go_on(principal, Scope::Read, None).await
    }
}
