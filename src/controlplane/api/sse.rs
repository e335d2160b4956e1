//! What all streams of server-sent events share (<https://html.spec.whatwg.org/multipage/server-sent-events.html>):
//! the reader sets the pace, a sign of life comes in silence, and a stream ends with the right to read it, with the
//! server, and when its reader takes nothing for long. What is told is its source's. Touches nothing else.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response, header};
use smol::Timer;
use smol::channel::Receiver;
use smol::future::FutureExt;

use super::Api;
use super::problem::Problem;
use crate::contract::json::Value;
use crate::controlplane::http::{Body, pieces};
use crate::controlplane::places::seats::Place;
use crate::controlplane::principals::Principal;
use crate::controlplane::store::StoreError;
use crate::controlplane::telemetry::log;

/// A comment so often keeps middle boxes and readers sure that a stream lives.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long a browser waits before it comes again.
const RETRY: &str = "retry: 1000\n";
/// For so long a reader lets others read when much was not for it.
const PAUSE: Duration = Duration::from_millis(160);

/// How far a source came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// To the end, or to something that is to be told.
    Done,
    /// Past much that was not for this reader, and there is more.
    Passed,
}

/// What a stream tells, and to whom.
pub(super) trait Source: Send + Sync + 'static {
    /// Adds what came after the reader's place, a page at most, and moves the place; adds nothing when there is no
    /// more. What comes from then on ends [`Source::changed`].
    fn fill(
        &mut self,
        api: &Api,
        ready: &mut VecDeque<Bytes>,
    ) -> impl Future<Output = Result<Filled, StoreError>> + Send;

    /// Returns when there may be more.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Whether somebody may go on reading it, after rights have changed.
    fn may_go_on(&self, api: &Api, principal: &Principal) -> impl Future<Output = bool> + Send;

    /// Lines for a sign of life; and the moment to make good a ring that was lost, with whoever was to ring.
    fn quiet(&mut self) -> String {
        String::new()
    }
}

/// One of the places for streams, and a bell for the rights to it. Taken before the rights are judged, so that one
/// that is taken away meanwhile rings.
pub(super) struct Seat {
    rights: Receiver<()>,
    place: Arc<Place>,
}

impl Seat {
    /// # Errors
    /// When all are taken.
    pub(super) fn take(api: &Api, principal: &Principal) -> Result<Self, Problem> {
        let place = api.streams.take(principal.token()).ok_or_else(Problem::too_many_streams)?;
        Ok(Self { rights: api.rights.watch(), place })
    }

    /// The answer that tells what the source has, for as long as this principal may read it. `first` are lines before
    /// the first event.
    pub(super) fn stream(
        self,
        api: &Arc<Api>,
        principal: Principal,
        source: impl Source,
        first: &str,
    ) -> Response<Body> {
        let ready = VecDeque::from([Bytes::from(format!("{RETRY}{first}\n"))]);
        let reader = Reader { api: api.clone(), principal, source, ready, pauses: false, seat: self };
        let events =
            smol::stream::unfold(reader, |mut reader| async move { Some((reader.next().await?, reader)) });
        let mut response = Response::new(pieces(events));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }
}

/// The place after which a reader resumes, by the id of the last event that it has; `None` when it names none.
///
/// # Errors
/// When it is no id of the stream's.
pub(super) fn last_event<T>(
    request: &Request<Incoming>,
    read: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Problem> {
    let Some(value) = request.headers().get("last-event-id") else { return Ok(None) };
    let place = value.to_str().ok().and_then(|text| read(text.trim()));
    let wrong = || Problem::invalid("Last-Event-ID must be the id of an event of this stream");
    place.map(Some).ok_or_else(wrong)
}

/// One event. The writer leaves no raw newline in a document, so one `data` line holds it.
pub(super) fn event(id: Option<&str>, name: &str, data: &Value) -> Bytes {
    match id {
        Some(id) => Bytes::from(format!("id: {id}\nevent: {name}\ndata: {data}\n\n")),
        None => Bytes::from(format!("event: {name}\ndata: {data}\n\n")),
    }
}

/// One reader of one source.
struct Reader<S> {
    api: Arc<Api>,
    principal: Principal,
    source: S,
    ready: VecDeque<Bytes>,
    /// Whether others read before it does.
    pauses: bool,
    seat: Seat,
}

/// Why a wait ended.
enum Woken {
    Changed,
    Quiet,
    Rights,
    Closing,
}

impl<S: Source> Reader<S> {
    /// The next piece; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Somebody to whom there is always more to tell is sent away all the same.
            if self.seat.rights.try_recv().is_ok() && !self.may_go_on().await {
                return None;
            }
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if std::mem::take(&mut self.pauses) && self.pause().await.is_none() {
                return None;
            }
            // A token ends by itself, and nobody rings for that.
            if !self.api.tokens.holds(&self.principal) {
                return None;
            }
            match self.source.fill(&self.api, &mut self.ready).await {
                Ok(Filled::Done) => {}
                Ok(Filled::Passed) => {
                    // Told, so that it is known to live, and need not begin at the same place if it breaks.
                    let sign = self.sign_of_life();
                    self.ready.push_back(sign);
                    self.pauses = true;
                }
                Err(error) => {
                    log::warn("api.stream_failed", &[("error", &error)]);
                    return None;
                }
            }
            if !self.ready.is_empty() {
                continue;
            }
            match self.wait().await {
                Woken::Changed => {}
                Woken::Rights if self.may_go_on().await => {}
                Woken::Quiet if self.may_go_on().await => {
                    return Some(self.sign_of_life());
                }
                Woken::Rights | Woken::Quiet | Woken::Closing => return None,
            }
        }
    }

    fn sign_of_life(&mut self) -> Bytes {
        Bytes::from(format!("{}: still here\n\n", self.source.quiet()))
    }

    /// `None` when the server ends meanwhile.
    async fn pause(&self) -> Option<()> {
        let closing = async {
            let _ = self.api.closing.recv().await;
            None
        };
        let paused = async {
            Timer::after(PAUSE).await;
            Some(())
        };
        closing.or(paused).await
    }

    async fn may_go_on(&self) -> bool {
        self.source.may_go_on(&self.api, &self.principal).await
    }

    async fn wait(&self) -> Woken {
        let changed = async {
            self.source.changed().await;
            Woken::Changed
        };
        let rights = async {
            rung(&self.seat.rights).await;
            Woken::Rights
        };
        let quiet = async {
            Timer::after(KEEP_ALIVE).await;
            Woken::Quiet
        };
        let closing = async {
            let _ = self.api.closing.recv().await;
            Woken::Closing
        };
        let closing = closing.or(async {
            self.seat.place.must_leave().await;
            Woken::Closing
        });
        changed.or(rights).or(quiet).or(closing).await
    }
}

/// Returns when a bell rings. Where nobody rings any more, the pace of the signs of life remains.
pub(super) async fn rung(bell: &Receiver<()>) {
    if bell.recv().await.is_err() {
        smol::future::pending::<()>().await;
    }
}
