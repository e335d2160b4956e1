//! A model behind the host's proxy: one request in the dialect of its provider, posted to the model socket, and the
//! stream that comes back put together by that dialect. It touches the socket through [`super::http`]; everything that
//! comes back is bounded here and there.

use std::path::PathBuf;
use std::time::Duration;

use super::assembly::{Assembly, Progress, broken};
use super::http::{self, Patience, Target};
use super::{Model, ModelError, Request, Response, chat, errors, gemini, messages, responses};
use crate::contract::providers::Dialect;
use crate::contract::sse::Events;

/// Most bytes of the stream that carries an answer.
const STREAM_BYTES: usize = 64 << 20;

/// A model behind the host's proxy.
#[derive(Clone, Debug)]
pub struct Client {
    /// The proxy's socket.
    pub socket: PathBuf,
    /// The `host` header; the proxy knows the real upstream.
    pub host: String,
    /// How long a call may take.
    pub patience: Patience,
}

impl Client {
    /// Two minutes of silence (a model may think that long before its first word), eight in all; less where
    /// the turn has less left.
    pub fn new(socket: PathBuf, host: String) -> Self {
        let patience = Patience { idle: Duration::from_secs(120), whole: Duration::from_secs(480) };
        Self { socket, host, patience }
    }
}

impl Model for Client {
    fn call(&self, request: &Request<'_>, sent: &mut dyn FnMut() -> bool) -> Result<Response, ModelError> {
        let path = request.dialect.path(request.model);
        let target = Target { socket: &self.socket, host: &self.host, path: &path };
        let mut headers = vec![("content-type", "application/json"), ("accept", "text/event-stream")];
        if request.dialect == Dialect::Messages {
            headers.push(("anthropic-version", "2023-06-01"));
        }
        let patience = Patience { whole: self.patience.whole.min(request.within), ..self.patience };
        let body = encode(request);
        let mut answer = http::post(target, &headers, body.as_bytes(), patience, sent).map_err(broken)?;
        if answer.status != 200 {
            return Err(errors::refused(&mut answer));
        }
        if answer.header("content-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
            return Err(broken("the answer is compressed"));
        }
        read(&mut || answer.piece().map_err(broken), assembly(request).as_mut())
    }
}

/// The request document.
pub(super) fn encode(request: &Request<'_>) -> String {
    match request.dialect {
        Dialect::Messages => messages::encode(request),
        Dialect::Chat => chat::encode(request),
        Dialect::Responses => responses::encode(request),
        Dialect::Gemini => gemini::encode(request),
    }
}

/// What puts the answer together.
pub(super) fn assembly(request: &Request<'_>) -> Box<dyn Assembly> {
    match request.dialect {
        Dialect::Messages => Box::new(messages::Reading::default()),
        Dialect::Chat => Box::new(chat::Reading::new(request.messages)),
        Dialect::Responses => Box::new(responses::Reading::new(request.messages)),
        Dialect::Gemini => Box::new(gemini::Reading::new(request.messages)),
    }
}

/// Reads a stream to its last event, or to its end.
pub(super) fn read(
    pieces: &mut dyn FnMut() -> Result<Option<Vec<u8>>, ModelError>,
    assembly: &mut dyn Assembly,
) -> Result<Response, ModelError> {
    let mut events = Events::default();
    let mut received = 0;
    while let Some(piece) = pieces()? {
        received += piece.len();
        if received > STREAM_BYTES {
            return Err(broken("the stream is too long"));
        }
        for data in events.feed(&piece).map_err(|_| broken("an event is too long"))? {
            if let Progress::Complete(response) = assembly.event(&data)? {
                return Ok(response);
            }
        }
    }
    assembly.end()
}
