//! HTTP/1.1 on any stream, with limits on everything a peer can hold: heads, bodies, time, connections. The
//! API and the model sockets are served by it. A request comes in, its handler's response goes out; a
//! handler that panics answers 500. Touches only the streams it is given.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncWrite};
use smol::stream::{Stream, StreamExt};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use super::tasks;
use super::telemetry::log;
use crate::contract::json::{self, JsonError, Value};

/// What every response carries.
pub type Body = UnsyncBoxBody<Bytes, Cut>;

/// A body ends before its end: its connection is closed, so that the peer knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut;

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body was cut")
    }
}

impl std::error::Error for Cut {}

/// A head is a few hundred bytes; hyper's floor for its buffer is 8 KiB.
const HEAD_BYTES: usize = 16 << 10;
/// Our clients send fewer than ten headers, browsers about twenty.
const HEADERS: usize = 64;
/// From the first moment of a connection, or the end of a request, to the end of the next head: it ends slow
/// heads and idle connections alike.
const HEAD_WAIT: Duration = Duration::from_secs(60);
/// A body of the sizes allowed here takes a moment; this is for a slow line.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// Longest silence in the middle of a body.
const BODY_IDLE: Duration = Duration::from_secs(10);
/// A peer that reads nothing for so long is gone.
const WRITE_STALL: Duration = Duration::from_secs(30);
/// What a response in flight gets after the server began to close.
const GRACE: Duration = Duration::from_secs(2);
/// Documents above this are parsed off the executor.
pub const PARSE_HERE_BYTES: usize = 64 << 10;

/// Is closed when the server ends: `recv` returns then.
pub type Closing = smol::channel::Receiver<Infallible>;

/// Serves one connection until it ends, breaks a limit, or the server closes.
pub async fn connection<S, H, F>(stream: S, closing: Closing, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    serve(stream, closing, handler, HEAD_WAIT).await;
}

async fn serve<S, H, F>(stream: S, closing: Closing, handler: H, head_wait: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Body>>,
{
    let service = service_fn(|request| {
        let answer = AssertUnwindSafe(handler(request)).catch_unwind();
        async move {
            Ok::<_, Infallible>(answer.await.unwrap_or_else(|_| {
                log::error("http.panic", &[]);
                let mut response = Response::new(full("internal error\n"));
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                response
            }))
        }
    });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(SmolTimer::new())
            .header_read_timeout(head_wait)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(FuturesIo::new(Patient { stream, most: WRITE_STALL, stall: None }), service)
    );
    let closed = async {
        let _ = closing.recv().await;
        true
    };
    let ended = async {
        // Errors here are the peer's: it went away or broke the protocol, and hyper has answered.
        let _ = connection.as_mut().await;
        false
    };
    if ended.or(closed).await {
        connection.as_mut().graceful_shutdown();
        let grace = async {
            Timer::after(GRACE).await;
        };
        let rest = async {
            let _ = connection.as_mut().await;
        };
        rest.or(grace).await;
    }
}

/// A body that is all there.
pub fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body that comes in pieces.
pub fn pieces(stream: impl Stream<Item = Bytes> + Send + 'static) -> Body {
    StreamBody::new(stream.map(|piece| Ok(Frame::data(piece)))).boxed_unsync()
}

/// A JSON response.
pub fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    json_text(status, value.to_string())
}

/// A JSON response of what is written already.
pub fn json_text(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// Why a body was not taken.
#[derive(Debug)]
pub enum BodyError {
    /// More bytes than allowed; the number is the limit.
    TooLarge(usize),
    /// It did not come in time.
    TooSlow,
    /// The connection broke.
    Broken,
    /// It is not JSON.
    NotJson(JsonError),
}

/// Reads a JSON body of at most `most` bytes.
pub async fn json_body<B>(body: B, most: usize) -> Result<Value, BodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    json_of(body_bytes(body, most).await?).await
}

/// Reads a body of at most `most` bytes. One that comes too slowly is given up, and its connection with it.
pub async fn body_bytes<B>(body: B, most: usize) -> Result<Vec<u8>, BodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    patiently(body, most, BODY_IDLE, BODY_WAIT).await
}

async fn patiently<B>(body: B, most: usize, idle: Duration, whole: Duration) -> Result<Vec<u8>, BodyError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // A length that is announced too large is refused before a byte of it is waited for.
    if body.size_hint().lower() > most as u64 {
        return Err(BodyError::TooLarge(most));
    }
    let read = async {
        let mut body = pin!(Limited::new(body, most));
        let mut bytes = Vec::new();
        loop {
            match async { Ok(body.frame().await) }.or(too_slow(idle)).await? {
                None => return Ok(bytes),
                Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(error)) if error.is::<LengthLimitError>() => return Err(BodyError::TooLarge(most)),
                Some(Err(_)) => return Err(BodyError::Broken),
            }
        }
    };
    read.or(too_slow(whole)).await
}

async fn too_slow<T>(after: Duration) -> Result<T, BodyError> {
    Timer::after(after).await;
    Err(BodyError::TooSlow)
}

/// Parses a body, a large one off the executor.
pub async fn json_of(bytes: Vec<u8>) -> Result<Value, BodyError> {
    let parsed = if bytes.len() > PARSE_HERE_BYTES {
        tasks::unblock(move || json::parse(&bytes)).await
    } else {
        json::parse(&bytes)
    };
    parsed.map_err(BodyError::NotJson)
}

/// Whether the request says that its body is JSON.
pub fn says_json(headers: &hyper::HeaderMap) -> bool {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|text| text.split(';').next().unwrap_or_default().trim());
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json"))
}

/// A stream whose writes fail when the peer takes nothing for so long; its end too, where there is something to
/// say first, as in TLS.
struct Patient<S> {
    stream: S,
    most: Duration,
    stall: Option<Timer>,
}

impl<S: Unpin> Patient<S> {
    fn judge<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stall = None;
            return result;
        }
        let most = self.most;
        let timer = self.stall.get_or_insert_with(|| Timer::after(most));
        match Pin::new(timer).poll(cx) {
            Poll::Ready(_) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, result)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_close(cx);
        self.judge(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::controlplane::tasks;

    /// What one peer gets that sends this and then nothing; it answers every whole request with its path's length.
    fn said_to(sent: &[u8], head_wait: Duration) -> String {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        // Kept open: the end must come from the server's own clock.
        let (_open, closing) = smol::channel::bounded::<Infallible>(1);
        peer.write_all(sent).unwrap();
        tasks::block_on(serve(
            smol::Async::new(ours).unwrap(),
            closing,
            |request: Request<Incoming>| async move {
                let mut response = Response::new(full(""));
                response.headers_mut().insert("x-length", request.uri().path().len().into());
                response
            },
            head_wait,
        ));
        let mut said = String::new();
        // The rest of what was too long is unread, so the end may be a reset.
        let _ = peer.read_to_string(&mut said);
        said
    }

    #[test]
    fn a_head_that_does_not_end_in_time_ends_the_connection() {
        let quick = Duration::from_millis(50);
        for never in ["", "GET / HT", "GET / HTTP/1.1\r\nhost: x\r\n"] {
            let said = said_to(never.as_bytes(), quick);
            assert!(!said.contains("x-length"), "{never:?}: {said}");
        }
        // After an answer the same clock runs for the next head.
        let said = said_to(b"GET /abc HTTP/1.1\r\nhost: x\r\n\r\nGET", quick);
        assert_eq!(said.matches("HTTP/1.1 200").count(), 1, "{said}");
        assert!(said.contains("x-length: 4"), "{said}");
    }

    /// Takes nothing, and does not end.
    struct Deaf;

    impl AsyncWrite for Deaf {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[test]
    fn who_takes_nothing_is_gone() {
        use smol::io::AsyncWriteExt;
        let most = Duration::from_millis(20);
        let patient = || Patient { stream: Deaf, most, stall: None };
        let late = |result: io::Result<()>| assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        late(tasks::block_on(async { patient().write_all(b"x").await }));
        late(tasks::block_on(async { patient().flush().await }));
        late(tasks::block_on(async { patient().close().await }));
    }

    #[test]
    fn heads_have_a_size_and_a_number_of_lines() {
        let path = |length: usize| {
            format!("GET /{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "a".repeat(length))
        };
        let lines = |count: usize| {
            let lines: String = (0..count).map(|n| format!("x-{n}: y\r\n")).collect();
            format!("GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{lines}\r\n")
        };
        let one = |length: usize| {
            format!("GET / HTTP/1.1\r\nconnection: close\r\nx: {}\r\n\r\n", "a".repeat(length))
        };
        for (head, status) in [
            (path(8000), "200"),
            (path(HEAD_BYTES), "431"),
            (path(4 * HEAD_BYTES), "431"),
            (lines(HEADERS - 2), "200"),
            (lines(HEADERS - 1), "431"),
            (one(8000), "200"),
            (one(HEAD_BYTES), "431"),
            ("\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(), "400"),
        ] {
            let said = said_to(head.as_bytes(), HEAD_WAIT);
            assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{} bytes: {said}", head.len());
        }
    }

    #[test]
    fn a_body_that_stops_coming_is_given_up() {
        let quick = Duration::from_millis(20);
        let slow = StreamBody::new(
            smol::stream::once(Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"{"))))
                .chain(smol::stream::pending()),
        );
        let read = tasks::block_on(patiently(slow, 100, quick, BODY_WAIT));
        assert!(matches!(read, Err(BodyError::TooSlow)));
        let drip = StreamBody::new(smol::stream::repeat(()).then(|()| async {
            Timer::after(Duration::from_millis(1)).await;
            Ok::<_, Infallible>(Frame::data(Bytes::new()))
        }));
        let read = tasks::block_on(patiently(Box::pin(drip), 100, BODY_WAIT, quick));
        assert!(matches!(read, Err(BodyError::TooSlow)));
        let whole = StreamBody::new(smol::stream::iter(
            [b"{\"a\"".as_slice(), b":1}"]
                .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from_static(piece)))),
        ));
        assert_eq!(tasks::block_on(body_bytes(whole, 7)).unwrap(), b"{\"a\":1}");
    }
}
