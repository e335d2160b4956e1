//! The listener to which platforms send what happens: apart from the interface, so that what is open to the world has
//! nothing of it. A path names an account, `/hooks/PLATFORM` or `/hooks/PLATFORM/INSTANCE`; anything else is not there.
//! A request is read whole, within limits, before its channel checks the signature over the bytes. Touches the listener.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, header};
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::lock::Semaphore;
use smol::{Async, Task, Timer};

use super::supervisor::Channels;
use super::{Hook, HookAnswer};
use crate::contract::plain;
use crate::controlplane::http::{self, Body, BodyError, Closing, full};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 256;
/// Bodies in memory at once.
const BODIES: usize = 64;
/// Longest body, in bytes: what platforms tell of one event is a fraction of it.
const BODY_BYTES: usize = 1 << 20;
/// The longest that a request waits for others to be read.
const PATIENCE: Duration = Duration::from_secs(5);
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
    bodies: Semaphore,
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
        let front = Arc::new(Front { channels, closing, bodies: Semaphore::new(BODIES) });
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
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let accepting = async {
        loop {
            let place = places.acquire_arc().await;
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    log::warn("ingress.accept_failed", &[("error", &error)]);
                    Timer::after(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let front = front.clone();
            tasks::spawn(async move {
                front.connection(stream, peer).await;
                drop(place);
            })
            .detach();
        }
    };
    let closed = async {
        let _ = front.closing.recv().await;
    };
    closed.or(accepting).await;
}

impl Front {
    async fn connection(self: Arc<Self>, stream: Async<TcpStream>, peer: SocketAddr) {
        let _ = stream.get_ref().set_nodelay(true);
        let answer = |request| self.clone().answer(request, peer);
        http::connection(stream, self.closing.clone(), answer).await;
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        METRICS.ingress_requests.inc();
        let began = Instant::now();
        let path = request.uri().path().to_owned();
        let answer = self.respond(request, &path).await;
        let took = began.elapsed().as_micros();
        let shown = plain::line(&path);
        let fields: [log::Field<'_>; 5] = [
            ("peer", &peer),
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
        let mut response = Response::new(full(answer.body.clone()));
        *response.status_mut() =
            StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
        if !answer.body.is_empty() {
            headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        }
        response
    }

    async fn respond(&self, request: Request<Incoming>, path: &str) -> HookAnswer {
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
        let busy = async {
            Timer::after(PATIENCE).await;
            None
        };
        let Some(place) = async { Some(self.bodies.acquire().await) }.or(busy).await else {
            return HookAnswer::refused(503, "busy");
        };
        let body = match http::body_bytes(request.into_body(), BODY_BYTES).await {
            Ok(body) => body,
            Err(BodyError::TooLarge(_)) => return HookAnswer::refused(413, "too_large"),
            Err(BodyError::TooSlow) => return HookAnswer::refused(408, "too_slow"),
            Err(_) => return HookAnswer::refused(400, "broken"),
        };
        drop(place);
        self.channels.hook(channel, instance, Hook { headers, query, body }).await
    }
}
