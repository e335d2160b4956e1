//! What a sandbox is told when its request is not passed on: one shape for all dialects, whose clients read
//! `error.message`. Pure.

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use crate::contract::json::Value;
use crate::controlplane::http::{self, Body};

/// The word for what is no fault of the sandbox's: an upstream that gave no answer.
pub(super) const UPSTREAM: &str = "upstream";

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    kind: &'static str,
    pub(super) message: String,
    /// Why, in a word for the audit; none of the sandbox's.
    pub(super) why: &'static str,
}

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, why: &'static str, message: &str) -> Self {
        Self { status, kind, message: message.to_owned(), why }
    }

    /// The document is not what may be asked.
    pub(super) fn invalid(message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", "invalid", message)
    }

    /// There is no such route here.
    pub(super) fn not_found() -> Self {
        let message = "this socket serves one route, that of the agent's model";
        Self::new(StatusCode::NOT_FOUND, "not_found_error", "route", message)
    }

    /// Another model.
    pub(super) fn not_granted() -> Self {
        let message = "this agent was not granted that model";
        Self::new(StatusCode::FORBIDDEN, "permission_error", "not_granted", message)
    }

    /// Another method.
    pub(super) fn method() -> Self {
        let message = "this route takes POST only";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", "method", message)
    }

    /// The body is too long.
    pub(super) fn too_large(most: usize) -> Self {
        let message = format!("the request is larger than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", "too_large", &message)
    }

    /// Too much is going on already.
    pub(super) fn busy(message: &str) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "busy", message)
    }

    /// What the agent may use in a day is used up.
    pub(super) fn budget(message: &str) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, "billing_error", "budget", message)
    }

    /// Nobody knows what the agent has used.
    pub(super) fn unknown_budget() -> Self {
        let message = "what this agent has used today cannot be read";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "api_error", UPSTREAM, message)
    }

    /// The operator gave no way to the agent's provider.
    pub(super) fn not_configured(message: &str) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", "not_configured", message)
    }

    /// The upstream gave no answer that can be passed on.
    pub(super) fn upstream(message: &str) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, "api_error", UPSTREAM, message)
    }

    /// The answer.
    pub(super) fn into_response(self) -> Response<Body> {
        let error = Value::object([("type", Value::from(self.kind)), ("message", Value::from(self.message))]);
        let document = Value::object([("type", Value::from("error")), ("error", error)]);
        let mut response = http::json_response(self.status, &document);
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}
