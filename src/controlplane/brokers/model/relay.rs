//! One call, from a checked request to the last byte of its answer: the request is built anew with nothing of the
//! sandbox's but the document, the credential comes last, and what comes back is passed on piece by piece without it.
//! Whoever drops the answer ends the call at the upstream too. Touches the upstream through [`super::upstream`].

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use ring::rand::{SecureRandom, SystemRandom};
use smol::Timer;
use smol::future::FutureExt;

use super::calls::{Call, Outcome};
use super::echo::{Echo, Ended};
use super::providers::{Provider, Shown};
use super::redact::Redactor;
use super::refusal::Refusal;
use super::upstream::{Dialer, Failure, Lane, Upstream};
use crate::controlplane::config::Secret;
use crate::controlplane::http::{Body, Cut};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// Longest silence in the middle of an answer.
const SILENCE: Duration = Duration::from_secs(180);
/// Longest answer, in time.
const WHOLE: Duration = Duration::from_secs(30 * 60);
/// Longest answer, in bytes.
const ANSWER_BYTES: u64 = 64 << 20;
/// How long the end of an answer may take that has said its last; then its connection is no use for another.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Longest document of an error.
const ERROR_BYTES: usize = 64 << 10;

/// In the place of an error that repeats the credential in a way that cannot be taken out of it.
const REPEATS: &str = r#"{"error":{"message":"the error repeats the credential and is left out"}}"#;

/// Asks an upstream; what it answers is passed on.
pub(super) async fn ask(
    dialer: &Arc<Dialer>,
    upstream: &Upstream,
    model: &str,
    document: Vec<u8>,
    mut call: Call,
) -> Result<Response<Body>, Refusal> {
    let provider = upstream.provider;
    let failed = |call: &mut Call, why: String| {
        call.end(Outcome::Failed);
        log::warn("model.upstream_failed", &[("provider", &provider.name()), ("error", &why)]);
        Refusal::upstream(&format!("{} cannot be asked: {why}", provider.name()))
    };
    let credential = match upstream.source.read().await {
        Ok(credential) => credential,
        // Its words are the operator's to know: they name files and programs of the host.
        Err(error) => {
            call.end(Outcome::Failed);
            log::error("model.no_credential", &[("provider", &provider.name()), ("error", &error)]);
            let why = format!(
                "the credential of {} is not there; its operator finds why in the log",
                provider.name()
            );
            return Err(Refusal::upstream(&why));
        }
    };
    let secrets = || credential.iter().map(Secret::expose).chain(dialer.gateways_password());
    let (mut redactor, echo) = (Redactor::new(secrets()), Echo::new(secrets()));
    let request = match request(upstream, model, document, credential.as_ref()) {
        Ok(request) => request,
        Err(why) => return Err(failed(&mut call, why)),
    };
    let (response, lane) = match dialer.send(upstream, request).await {
        Ok(answered) => answered,
        Err(Failure::NotReached(why)) => return Err(failed(&mut call, why)),
        Err(Failure::TooSlow) => return Err(failed(&mut call, "no answer in time".to_owned())),
        Err(Failure::Broken) => return Err(failed(&mut call, "the connection broke".to_owned())),
    };
    let (head, body) = response.into_parts();
    call.answered(head.status.as_u16());
    if head.status.is_redirection() || head.status.is_informational() {
        return Err(failed(
            &mut call,
            format!("it answers {}, and nothing is followed", head.status.as_u16()),
        ));
    }
    // What cannot be read cannot be searched for the credential.
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !head.headers.get_all(header::CONTENT_ENCODING).iter().all(is_plain) {
        return Err(failed(&mut call, "it answers compressed, which it was not asked for".to_owned()));
    }
    if !head.status.is_success() {
        if matches!(head.status.as_u16(), 401 | 403) {
            let about: &[log::Field<'_>] =
                &[("provider", &provider.name()), ("status", &head.status.as_u16())];
            log::error("model.credential_refused", about);
        }
        let mut said = short(body, &mut redactor, &mut call).await;
        if echo.is_in(&said) {
            said = REPEATS.into();
        }
        call.end(Outcome::Refused);
        let mut response = Response::new(crate::controlplane::http::full(said));
        *response.status_mut() = head.status;
        pass_headers(&head.headers, response.headers_mut());
        return Ok(response);
    }
    let relay = Relay {
        body: Some(body),
        lane: Some((lane, dialer.clone(), provider)),
        redactor,
        echo,
        call,
        passed: 0,
        deadline: Instant::now() + WHOLE,
        is_over: false,
    };
    let mut response = Response::new(relay.into_body());
    *response.status_mut() = StatusCode::OK;
    pass_headers(&head.headers, response.headers_mut());
    Ok(response)
}

/// The headers of an answer that a client of ours reads; no other reaches the sandbox.
fn pass_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for name in [header::CONTENT_TYPE, header::RETRY_AFTER] {
        let fits = |value: &&HeaderValue| value.len() <= 128 && value.to_str().is_ok();
        if let Some(value) = from.get(&name).filter(fits) {
            to.insert(name, value.clone());
        }
    }
}

fn request(
    upstream: &Upstream,
    model: &str,
    document: Vec<u8>,
    credential: Option<&Secret>,
) -> Result<Request<Full<Bytes>>, String> {
    let Upstream { provider, endpoint, .. } = upstream;
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("{}{}", endpoint.base, provider.operation(model)))
        .header(header::HOST, endpoint.authority())
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "text/event-stream")
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::USER_AGENT, concat!("ironclaw/", env!("CARGO_PKG_VERSION")));
    for (name, value) in provider.facts().headers {
        request = request.header(*name, *value);
    }
    if *provider == Provider::Codex {
        request = request.header("session_id", uuid()?);
    }
    if let Some(credential) = credential {
        let (name, text) = match provider.facts().shown {
            Shown::Bearer => (header::AUTHORIZATION, format!("Bearer {}", credential.expose())),
            Shown::Header(name) => (HeaderName::from_static(name), credential.expose().to_owned()),
        };
        let mut value =
            HeaderValue::from_str(&text).map_err(|_| "its credential cannot be in a header".to_owned())?;
        value.set_sensitive(true);
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from(document))).map_err(|error| error.to_string())
}

/// A random UUID, version 4 (RFC 9562 §5.4).
fn uuid() -> Result<String, String> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "there is no randomness".to_owned())?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{number:032x}");
    let part = |from, to| hex.get(from..to).unwrap_or_default();
    Ok(format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)))
}

/// The document of an error, cut where it is long, without the credential.
async fn short(body: Incoming, redactor: &mut Redactor, call: &mut Call) -> Vec<u8> {
    let mut said = Vec::new();
    let read = async {
        let mut body = pin!(Limited::new(body, ERROR_BYTES));
        while let Some(Ok(frame)) = body.frame().await {
            if let Some(piece) = frame.data_ref() {
                call.passed(piece);
                said.extend(redactor.pass(piece));
            }
        }
    };
    let late = async {
        Timer::after(SILENCE).await;
    };
    read.or(late).await;
    said.extend(redactor.rest());
    said
}

/// An answer on its way.
struct Relay {
    body: Option<Incoming>,
    lane: Option<(Lane, Arc<Dialer>, Provider)>,
    redactor: Redactor,
    echo: Echo,
    call: Call,
    passed: u64,
    deadline: Instant,
    is_over: bool,
}

impl Relay {
    fn into_body(self) -> Body {
        let stream = smol::stream::unfold(Some(self), |relay| async move {
            let mut relay = relay?;
            loop {
                match relay.next().await {
                    Ok(Some(piece)) if piece.is_empty() => {}
                    Ok(Some(piece)) => return Some((Ok(Frame::data(piece)), Some(relay))),
                    Ok(None) => return None,
                    Err(why) => {
                        relay.call.end(Outcome::Failed);
                        log::warn("model.answer_broke", &[("error", &why)]);
                        return Some((Err(Cut), None));
                    }
                }
            }
        });
        StreamBody::new(stream).boxed_unsync()
    }

    /// The next piece, which may have nothing in it yet; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, &'static str> {
        if self.is_over {
            return Ok(None);
        }
        let silence = SILENCE.min(self.deadline.saturating_duration_since(Instant::now()));
        let late = async {
            Timer::after(silence).await;
            Err("nothing came for too long")
        };
        let Some(body) = &mut self.body else { return Ok(None) };
        let frame = async { Ok(body.frame().await) }.or(late).await?;
        match frame {
            None => {
                let rest = self.redactor.rest();
                let mut last = self.watched(rest)?;
                last.extend(self.echo.rest());
                self.is_over = true;
                self.call.end(Outcome::Complete);
                if let Some((lane, dialer, provider)) = self.lane.take() {
                    dialer.keep(provider, lane);
                }
                Ok(Some(last.into()))
            }
            Some(Err(_)) => Err("the connection broke"),
            Some(Ok(frame)) => {
                let piece = frame.into_data().unwrap_or_default();
                self.passed += piece.len() as u64;
                if self.passed > ANSWER_BYTES {
                    return Err("it is too long");
                }
                self.call.passed(&piece);
                let redacted = self.redactor.pass(&piece);
                Ok(Some(self.watched(redacted)?.into()))
            }
        }
    }

    /// What of this can go on.
    fn watched(&mut self, piece: Vec<u8>) -> Result<Vec<u8>, &'static str> {
        self.echo.pass(piece).map_err(|ended| match ended {
            Ended::Echoed => "it repeats the credential",
            Ended::TooLong => "an event of it is too long",
        })
    }
}

impl Drop for Relay {
    /// Clients go away when they have read the last event. The end of the body is then on its way, and the connection
    /// good for the next call.
    fn drop(&mut self) {
        if self.is_over || !self.call.has_last() {
            return;
        }
        let (Some(mut body), Some((lane, dialer, provider))) = (self.body.take(), self.lane.take()) else {
            return;
        };
        tasks::spawn(async move {
            let end = async {
                loop {
                    match body.frame().await {
                        None => return true,
                        Some(Err(_)) => return false,
                        Some(Ok(_)) => {}
                    }
                }
            };
            let late = async {
                Timer::after(LAST_WORDS).await;
                false
            };
            if end.or(late).await {
                dialer.keep(provider, lane);
            }
        })
        .detach();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_is_a_random_uuid() {
        let (one, other) = (uuid().unwrap(), uuid().unwrap());
        assert_ne!(one, other);
        assert_eq!((one.len(), one.as_bytes()[14]), (36, b'4'));
        assert!(matches!(one.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{one}");
    }
}
