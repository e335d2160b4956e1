//! Errors as RFC 9457 problem documents: a stable code in `type`, a sentence, and the next step. Pure.

use std::time::Duration;

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use crate::contract::json::Value;
use crate::contract::plain;
use crate::controlplane::audit::ActError;
use crate::controlplane::http::{self, Body, BodyError};
use crate::controlplane::store::StoreError;

/// A request that was not served. The code is part of the interface, the sentences are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    title: &'static str,
    pub(super) detail: String,
    /// When the same may be tried again, where there is something to say about it.
    retry_after: Option<u64>,
    /// The methods of a path that was asked for with another one.
    allow: Option<Box<HeaderValue>>,
    /// Further fields of the document.
    more: Vec<(&'static str, Value)>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, title: &'static str, detail: impl Into<String>) -> Self {
        let retry_after = match status {
            StatusCode::TOO_MANY_REQUESTS => Some(60),
            _ => None,
        };
        Self { status, code, title, detail: detail.into(), retry_after, allow: None, more: Vec::new() }
    }

    pub(super) fn invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", "The request is not valid", detail)
    }

    /// The same with a further field.
    pub(super) fn with(mut self, name: &'static str, value: Value) -> Self {
        self.more.push((name, value));
        self
    }

    pub(super) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "Not allowed", detail)
    }

    pub(super) fn no_change(name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        let detail = format!("there is no change {shown:?}; `ironctl change history` shows those there are");
        Self::new(StatusCode::NOT_FOUND, "no_such_change", "No such change", detail)
    }

    pub(super) fn no_user(name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        let detail = format!("there is no user {shown:?}; `ironctl user list` shows those there are");
        Self::new(StatusCode::NOT_FOUND, "no_such_user", "No such user", detail)
    }

    pub(super) fn no_token(name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        let detail = format!("there is no valid token {shown:?}; `ironctl token list` shows those there are");
        Self::new(StatusCode::NOT_FOUND, "no_such_token", "No such token", detail)
    }

    pub(super) fn refused(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", "The change was refused", detail)
    }

    pub(super) fn unsupported_here(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unsupported_here", "Not in this build", detail)
    }

    /// Only people ask over this interface.
    pub(super) fn too_many_pending(most: u64) -> Self {
        let detail = format!(
            "{most} changes that you asked for are pending, as many as may be; decide or withdraw some"
        );
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_pending", "Too many pending changes", detail)
    }

    pub(super) fn key_reused(id: &str) -> Self {
        let detail =
            format!("this Idempotency-Key was used for {id}, which asks for something else; use a new key");
        Self::new(StatusCode::CONFLICT, "key_reused", "The key was used before", detail)
    }

    pub(super) fn not_pending(state: &str) -> Self {
        let next = match state {
            "applied" => "what it asked for is done, and asking for another change is the way back",
            "approved" => "what is left of it can be tried again, with retry",
            _ => "who still wants it asks for it again",
        };
        let detail =
            format!("the change is {state}, and only a pending one can be decided or withdrawn; {next}");
        Self::new(StatusCode::CONFLICT, "not_pending", "The change is not pending", detail)
    }

    pub(super) fn not_approved(state: &str, failure: Option<&str>) -> Self {
        let detail = match failure {
            Some(why) => format!("the change is {state}: {why}"),
            None => format!(
                "the change is {state}; only one that is approved and not applied yet can be tried again"
            ),
        };
        Self::new(StatusCode::CONFLICT, "not_approved", "There is nothing to try again", detail)
    }

    pub(super) fn wrong_digest() -> Self {
        let detail =
            "the digest is not that of this change; look at it again, and approve the digest you then see";
        Self::new(StatusCode::CONFLICT, "wrong_digest", "The digest is another", detail)
    }

    pub(super) fn stale() -> Self {
        let detail =
            "what this change replaces was changed meanwhile; look at the new difference, and decide again";
        Self::new(StatusCode::CONFLICT, "stale", "The change is stale", detail)
    }

    pub(super) fn not_possible(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "not_possible", "The change cannot be done any more", detail)
    }

    pub(super) fn conflict(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "That contradicts what there is", detail)
    }

    pub(super) fn token_in_url() -> Self {
        let detail = "a token in a URL ends up in logs; send it as `Authorization: Bearer TOKEN`, and replace this one \
                      if others may have seen it";
        Self::new(StatusCode::BAD_REQUEST, "token_in_url", "A token was sent in the URL", detail)
    }

    pub(super) fn unauthorized() -> Self {
        let detail = "send `Authorization: Bearer TOKEN`; the token is in the file api-token of the state directory, or \
                      is what IRONCLAW_API_TOKEN held when the control plane started";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "The token is missing or wrong", detail)
    }

    pub(super) fn too_many_failures() -> Self {
        let detail = "too many requests came with a wrong token; wait a minute, then use the right one";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_failures", "Too many wrong tokens", detail)
    }

    pub(super) fn too_many_requests(wait: Duration) -> Self {
        let detail =
            "this token makes more requests than it may (--token-rate); wait as long as Retry-After says";
        let mut problem =
            Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests", detail);
        problem.retry_after = Some(wait.as_secs_f64().ceil().max(1.0) as u64);
        problem
    }

    pub(super) fn wrong_host() -> Self {
        let detail = "this control plane answers to localhost, the address it listens on, and the names given with \
                      --api-host or --api-public-url; use one of them, or add this one";
        Self::new(
            StatusCode::MISDIRECTED_REQUEST,
            "wrong_host",
            "The Host header names something else",
            detail,
        )
    }

    pub(super) fn cross_site() -> Self {
        let detail = "the request comes from a web page of another site; use ironclaw ctl or a client outside the browser";
        Self::new(StatusCode::FORBIDDEN, "cross_site", "Requests from other sites are refused", detail)
    }

    pub(super) fn no_route() -> Self {
        let detail = "there is nothing at this path; `ironclaw help api` lists the routes";
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not found", detail)
    }

    pub(super) fn no_agent(name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        let detail = format!(
            "there is no agent {shown:?}; `ironclaw ctl agent list` or GET /v1/agents shows those there are"
        );
        Self::new(StatusCode::NOT_FOUND, "no_such_agent", "No such agent", detail)
    }

    pub(super) fn no_session(name: &str) -> Self {
        let shown: String = name.chars().take(80).collect();
        let detail = format!(
            "there is no session {shown:?}; `ironclaw ctl session list` or GET /v1/sessions shows those there are"
        );
        Self::new(StatusCode::NOT_FOUND, "no_such_session", "No such session", detail)
    }

    pub(super) fn method(allowed: &[&str]) -> Self {
        let detail = format!("this path takes {}", allowed.join(" and "));
        let status = StatusCode::METHOD_NOT_ALLOWED;
        let problem = Self::new(status, "method_not_allowed", "Wrong method", detail);
        Self { allow: HeaderValue::from_str(&allowed.join(", ")).ok().map(Box::new), ..problem }
    }

    pub(super) fn not_json() -> Self {
        let detail = "send the body as JSON, with `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", "The body must be JSON", detail)
    }

    pub(super) fn no_code() -> Self {
        let detail =
            "no such code is valid now; one lasts ten minutes, and a new message of the sender gets another";
        Self::new(StatusCode::NOT_FOUND, "no_such_code", "No such code", detail)
    }

    pub(super) fn too_many_codes(wait: Duration) -> Self {
        let detail = "too many wrong codes; the change itself is in `ironctl change pending`";
        let status = StatusCode::TOO_MANY_REQUESTS;
        let problem = Self::new(status, "too_many_codes", "Too many wrong codes", detail);
        Self { retry_after: Some(wait.as_secs().max(1)), ..problem }
    }

    pub(super) fn no_delivery(name: &str) -> Self {
        let detail = format!("there is no delivery {}; see `ironctl delivery list`", plain::line(name));
        Self::new(StatusCode::NOT_FOUND, "no_such_delivery", "no such delivery", detail)
    }

    pub(super) fn not_deliverable(state: &str) -> Self {
        let detail = format!("it is {state}, so there is nothing to do");
        Self::new(StatusCode::CONFLICT, "not_deliverable", "not on its way", detail)
    }

    pub(super) fn no_task(name: &str) -> Self {
        let detail = format!("there is no task {}; see `ironctl task list`", plain::line(name));
        Self::new(StatusCode::NOT_FOUND, "no_such_task", "no such task", detail)
    }

    pub(super) fn no_question(name: &str) -> Self {
        let detail = format!("there is no question {}; see `ironctl question list`", plain::line(name));
        Self::new(StatusCode::NOT_FOUND, "no_such_question", "no such question", detail)
    }

    pub(super) fn no_answer() -> Self {
        let detail =
            "that is none of its options, and it takes no other words; `ironctl question show` has them";
        Self::new(StatusCode::CONFLICT, "not_an_answer", "The question is as it was", detail)
    }

    pub(super) fn question_over(detail: &str) -> Self {
        let detail = format!("{detail} `ironctl question show` says what became of it.");
        Self::new(StatusCode::CONFLICT, "question_over", "The question is as it was", detail)
    }

    /// `why` is a word for programs.
    pub(super) fn task_refused(why: &'static str, detail: String) -> Self {
        Self::new(StatusCode::CONFLICT, "task_refused", "The task is as it was", detail)
            .with("why", Value::from(why))
    }

    pub(super) fn not_parked() -> Self {
        let detail = "only a parked session can be released; `ironclaw ctl session list` shows the states";
        Self::new(StatusCode::CONFLICT, "not_parked", "The session is not parked", detail)
    }

    pub(super) fn too_many_streams() -> Self {
        let detail = "as many event streams are open as may be; close one and try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", "Too many event streams", detail)
    }

    pub(super) fn nothing_to_acknowledge() -> Self {
        let detail = "the audit files and the ledger did not disagree, or that was acknowledged already";
        Self::new(StatusCode::CONFLICT, "nothing_to_acknowledge", "There is nothing to acknowledge", detail)
    }

    /// Nothing was done, because it could not be recorded.
    pub(super) fn audit_unavailable(reason: &str) -> Self {
        let detail = format!(
            "nothing was done, because it could not be recorded: {reason}; make the state directory writable again \
             and try again"
        );
        let title = "The audit file cannot be written";
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", title, detail);
        problem.more.push(("committed", Value::from(false)));
        problem
    }

    /// It was done, and its record will be in the audit file later.
    pub(super) fn unexported(reason: &str, id: &str, state: &str) -> Self {
        let detail = format!(
            "it is done and stored, but its record is not in the audit file yet: {reason}; make the state directory \
             writable again, and do not repeat it"
        );
        let mut problem = Self { detail, ..Self::audit_unavailable("") };
        problem.more =
            vec![("committed", Value::from(true)), ("id", Value::from(id)), ("state", Value::from(state))];
        problem
    }

    /// Why an act was not done, or not answered as done; `id` and `state` are what it made of what.
    pub(super) fn not_acted<T>(error: ActError<T>, id: &str, state: &str) -> Self {
        match error {
            ActError::Unavailable(reason) => Self::audit_unavailable(&reason),
            ActError::Unexported { reason, .. } => Self::unexported(&reason, id, state),
            ActError::Store(error) => error.into(),
        }
    }

    pub(super) fn starting() -> Self {
        let detail = "the control plane still opens its state; try again in a moment";
        let mut problem =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "The control plane starts", detail);
        problem.retry_after = Some(1);
        problem
    }

    pub(super) fn internal() -> Self {
        let detail = "something went wrong inside; the log has the request id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error", detail)
    }

    pub(super) fn into_response(self, request_id: &str) -> Response<Body> {
        let mut fields = vec![
            ("type", Value::from(self.code)),
            ("title", Value::from(self.title)),
            ("status", Value::from(u64::from(self.status.as_u16()))),
            // It may repeat what the request said.
            ("detail", Value::from(plain::line(&self.detail).as_ref())),
            ("request_id", Value::from(request_id)),
        ];
        fields.extend(self.more);
        let mut response = http::json_response(self.status, &Value::object(fields));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(methods) = self.allow {
            headers.insert(header::ALLOW, *methods);
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge(most) => {
                let detail = format!("the body is larger than {most} bytes; send less at once");
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "The body is too large", detail)
            }
            BodyError::TooSlow => {
                let detail = "the body did not come in time; send it again";
                Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "The body did not come in time", detail)
            }
            BodyError::Broken => Self::invalid("the body ended early; send it again"),
            BodyError::NotJson(error) => Self::invalid(format!("the body is not JSON: {error}")),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        match &error {
            StoreError::NoGroup(name) => Self::no_agent(name.as_str()),
            StoreError::NoSession(id) => Self::no_session(id.as_str()),
            StoreError::Crowded { .. } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_open",
                "Too many messages wait",
                error.to_string(),
            ),
            StoreError::TooLong { .. } => Self::invalid(error.to_string()),
            StoreError::Conflict(_) => Self::conflict(error.to_string()),
            StoreError::Full | StoreError::Io(_) => {
                Self::new(unavailable, "disk_failed", "The ledger cannot write", error.to_string())
            }
            StoreError::Stopped => {
                Self::new(unavailable, "stopping", "The control plane stops", error.to_string())
            }
            // The rest is the ledger's own trouble: its words go to the log, not to the client.
            _ => Self::internal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_who_asked_too_often_is_told_of_their_own_changes() {
        let told = Problem::too_many_pending(10_000).detail;
        assert!(told.contains("10000 changes that you asked for") && told.contains("withdraw"), "{told}");
    }
}
