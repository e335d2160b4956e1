//! The listener to which platforms send what happens: apart from the interface, so that what is open to the world has
//! nothing of it. A path names an account, `/hooks/PLATFORM` or `/hooks/PLATFORM/INSTANCE`; anything else is not there.
//! A request is read whole, within limits, before its channel checks the signature over the bytes. Until then its sender
//! is a stranger, and strangers make room for each other, those from the network that has most places first. Touches
//! the listener.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::{Async, Task, Timer};

use super::supervisor::Channels;
use super::written::{Noting, Slot};
use super::{Hook, HookAnswer};
use crate::contract::plain;
use crate::controlplane::http::{self, Body, BodyError, Closing, full};
use crate::controlplane::places::seats::Seats;
use crate::controlplane::places::{Places, Visitor};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Connections at once. Who comes when all are taken gets the place of somebody else.
const CONNECTIONS: usize = 256;
/// Long bodies in memory at once. When more come, the oldest of the network that sends most of them is given up.
const LONG_BODIES: usize = 64;
/// A body that says that it is no longer needs no such place: every connection may have one.
const SHORT_BYTES: u64 = 64 << 10;
/// Longest body, in bytes: what platforms tell of one event is a fraction of it.
const BODY_BYTES: usize = 1 << 20;
/// After a failed accept, mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A served ingress.
pub struct Ingress {
    address: SocketAddr,
    closer: Sender<Infallible>,
    accepting: Task<()>,
}

struct Front {
    channels: Channels,
    closing: Closing,
    long: Seats,
}

impl Ingress {
    /// Serves the listener until it is stopped.
    ///
    /// # Errors
    /// When the listener cannot be used at all.
    pub fn start(listener: TcpListener, channels: Channels) -> std::io::Result<Self> {
        let address = listener.local_addr()?;
        let listener = Async::new(listener)?;
        let (closer, closing) = smol::channel::bounded(1);
        let front = Arc::new(Front { channels, closing, long: Seats::new(LONG_BODIES) });
        Ok(Self { address, closer, accepting: tasks::spawn(accept(listener, front)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, and gives those that are open a moment.
    pub async fn stop(self) {
        self.closer.close();
        self.accepting.await;
    }
}

async fn accept(listener: Async<TcpListener>, front: Arc<Front>) {
    let places = Places::new(CONNECTIONS);
    let accepting = async {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    log::warn("ingress.accept_failed", &[("error", &error)]);
                    Timer::after(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Who is gone already needs no place.
            let Ok(local) = stream.get_ref().local_addr() else { continue };
            let visitor = places.enter(peer, local.ip()).await;
            tasks::spawn(front.clone().connection(stream, visitor)).detach();
        }
    };
    let closed = async {
        let _ = front.closing.recv().await;
    };
    closed.or(accepting).await;
}

impl Front {
    async fn connection(self: Arc<Self>, stream: Async<TcpStream>, visitor: Arc<Visitor>) {
        let _ = stream.get_ref().set_nodelay(true);
        let slot = Slot::default();
        let answer = |request| self.clone().answer(request, visitor.clone(), slot.clone());
        let stream = Noting { stream, slot: slot.clone() };
        let served = http::connection(stream, self.closing.clone(), answer);
        let sent_away = async {
            visitor.must_leave().await;
            log::debug("ingress.sent_away", &[("peer", &visitor.peer)]);
        };
        served.or(sent_away).await;
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        visitor: Arc<Visitor>,
        slot: Slot,
    ) -> Response<Body> {
        METRICS.ingress_requests.inc();
        let _work = visitor.works();
        let began = Instant::now();
        let path = request.uri().path().to_owned();
        let answer = self.respond(request, &path, &visitor).await;
        let took = began.elapsed().as_micros();
        let shown = plain::line(&path);
        let fields: [log::Field<'_>; 5] = [
            ("peer", &visitor.peer),
            ("path", &shown),
            ("status", &answer.status),
            ("reason", &answer.reason),
            ("us", &took),
        ];
        if answer.status >= 400 {
            METRICS.ingress_refusals.inc();
        }
        // Who is refused does not fill the log.
        log::debug("ingress.request", &fields);
        let is_empty = answer.body.is_empty();
        let mut response = Response::new(full(answer.body));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
        if !is_empty {
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        }
        slot.expect(answer.written);
        response
    }

    async fn respond(&self, request: Request<Incoming>, path: &str, visitor: &Arc<Visitor>) -> HookAnswer {
        let mut names = path.strip_prefix("/hooks/").unwrap_or_default().split('/');
        let (Some(channel), instance, None) =
            (names.next().filter(|name| !name.is_empty()), names.next().unwrap_or_default(), names.next())
        else {
            return HookAnswer::of(404);
        };
        if !self.channels.has(channel, instance) {
            return HookAnswer::of(404);
        }
        if request.method() != Method::POST {
            return HookAnswer::of(405);
        }
        let headers = request
            .headers()
            .iter()
            .filter_map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
        let headers = headers.collect();
        let query = request.uri().query().unwrap_or_default().to_owned();
        let is_long = request.body().size_hint().upper().is_none_or(|most| most > SHORT_BYTES);
        let seat = is_long.then(|| self.long.take_over(&visitor.network()));
        let needed = async {
            match &seat {
                Some(seat) => seat.must_leave().await,
                None => smol::future::pending().await,
            }
            None
        };
        let read = async { Some(http::body_bytes(request.into_body(), BODY_BYTES).await) };
        let body = match read.or(needed).await {
            Some(Ok(body)) => body,
            Some(Err(BodyError::TooLarge(_))) => return HookAnswer::refused(413, "too_large"),
            Some(Err(BodyError::TooSlow)) => return HookAnswer::refused(408, "too_slow"),
            Some(Err(_)) => return HookAnswer::refused(400, "broken"),
            None => return HookAnswer::refused(503, "busy"),
        };
        drop(seat);
        let name = format!("{channel}/{instance}");
        let hook = Hook { headers, query, body, sender: (visitor.clone(), name) };
        self.channels.hook(channel, instance, hook).await
    }
}
