//! What an upstream, or the proxy before it, says when it does not answer: its status, how long to wait, and the
//! sentence of its error document, whichever shape of the dialects' it has. Pure, beside reading what is left of an
//! answer.

use std::time::Duration;

use super::ModelError;
use super::assembly::text;
use super::http::Answer;
use crate::contract::json::{self, Value};

/// Most bytes of an error document.
const ERROR_BYTES: usize = 64 << 10;
/// Most characters of it that are shown to a person.
const SAID: usize = 300;
/// An upstream that asks for more is not worth waiting for within a turn.
const LONGEST_RETRY_AFTER: u64 = 3600;

/// An error inside a stream has a name instead of a status; these are the statuses of the same names, in all dialects:
/// Messages' `type`, OpenAI's `type` and `code`, Google's `status`.
const NAMES: &[(&str, u16)] = &[
    ("invalid_request_error", 400),
    ("invalid_prompt", 400),
    ("context_length_exceeded", 400),
    ("INVALID_ARGUMENT", 400),
    ("FAILED_PRECONDITION", 400),
    ("authentication_error", 401),
    ("invalid_api_key", 401),
    ("UNAUTHENTICATED", 401),
    ("billing_error", 402),
    // A used-up account is no crowd that passes.
    ("insufficient_quota", 402),
    ("usage_not_included", 402),
    ("permission_error", 403),
    ("PERMISSION_DENIED", 403),
    ("not_found_error", 404),
    ("model_not_found", 404),
    ("NOT_FOUND", 404),
    ("request_too_large", 413),
    ("rate_limit_error", 429),
    ("rate_limit_exceeded", 429),
    ("RESOURCE_EXHAUSTED", 429),
    ("UNAVAILABLE", 503),
    ("DEADLINE_EXCEEDED", 504),
    ("overloaded_error", 529),
];

/// What an answer means whose status is not 200.
pub(super) fn refused(answer: &mut Answer) -> ModelError {
    let in_header = answer.header("retry-after").and_then(|value| value.trim().parse().ok()).map(wait);
    let body = answer.body(ERROR_BYTES).unwrap_or_default();
    let document = json::parse(&body).ok();
    let in_document = document.as_ref().and_then(retry_info);
    let said = document.as_ref().map(said).unwrap_or_default();
    ModelError::Refused { status: answer.status, retry_after: in_header.or(in_document), said }
}

/// What an error document inside a stream means.
pub(super) fn in_stream(document: &Value) -> ModelError {
    let error = inner(document).unwrap_or(document);
    let numbered = error.get("code").or_else(|| error.get("status_code")).and_then(|code| {
        let number = code.as_u64().or_else(|| code.as_str()?.parse().ok())?;
        u16::try_from(number).ok().filter(|status| (400..600).contains(status))
    });
    let named = || {
        let named = |field: &str| NAMES.iter().find(|(name, _)| *name == text(error, field));
        ["code", "type", "status"].into_iter().find_map(named).map(|(_, status)| *status)
    };
    let status = numbered.or_else(named).unwrap_or(500);
    ModelError::Refused { status, retry_after: retry_info(document), said: said(document) }
}

/// The sentence of an error document: a dialect's, or a problem document's of the proxy itself.
fn said(document: &Value) -> String {
    let words = |value: &Value| {
        let first = |field: &str| value.get(field).and_then(Value::as_str);
        first("message")
            .or_else(|| first("msg"))
            .or_else(|| first("detail"))
            .or_else(|| first("title"))
            .map(cut)
    };
    let listed = || document.get("detail").and_then(Value::as_array).and_then(|list| words(list.first()?));
    let bare = || document.get("error").and_then(Value::as_str).map(cut);
    inner(document)
        .and_then(words)
        .or_else(bare)
        .or_else(|| words(document))
        .or_else(listed)
        .unwrap_or_default()
}

/// The error object of a document; Google gives a list of one where it does not stream.
fn inner(document: &Value) -> Option<&Value> {
    let document = document.as_array().and_then(<[Value]>::first).unwrap_or(document);
    document.get("error").filter(|error| error.as_object().is_some())
}

fn cut(words: &str) -> String {
    words.chars().take(SAID).collect()
}

/// Google's `RetryInfo`: `"34.074s"`.
fn retry_info(document: &Value) -> Option<Duration> {
    let details = inner(document)?.get("details")?.as_array()?;
    let delay = details.iter().find_map(|detail| detail.get("retryDelay")?.as_str())?;
    let seconds: f64 = delay.strip_suffix('s')?.parse().ok()?;
    // A float becomes the nearest whole number that there is.
    (seconds >= 0.0).then(|| wait(seconds.ceil() as u64))
}

fn wait(seconds: u64) -> Duration {
    Duration::from_secs(seconds.min(LONGEST_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Value {
        json::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_sentence_of_every_shape_of_error() {
        for (shape, sentence) in [
            (r#"{"type":"error","error":{"type":"x","message":"busy"}}"#, "busy"),
            (r#"{"error":{"message":"no","code":null}}"#, "no"),
            (r#"{"error":"model 'x' not found"}"#, "model 'x' not found"),
            (r#"{"detail":"plan"}"#, "plan"),
            (r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#, "field required"),
            (
                r#"{"type":"about:blank","title":"Forbidden","status":403,"detail":"not granted"}"#,
                "not granted",
            ),
            (r#"{"title":"Forbidden"}"#, "Forbidden"),
            (r#"[{"error":{"code":400,"message":"list","status":"INVALID_ARGUMENT"}}]"#, "list"),
            (r#"{"object":"error","message":"top"}"#, "top"),
            (r#"{"error":{"message":7}}"#, ""),
            ("[]", ""),
            ("7", ""),
        ] {
            assert_eq!(said(&document(shape)), sentence, "{shape}");
        }
        let long = format!(r#"{{"detail":"{}"}}"#, "é".repeat(5000));
        assert_eq!(said(&document(&long)).chars().count(), SAID);
    }

    #[test]
    fn an_error_in_a_stream_has_the_status_of_its_name() {
        for (error, status, passes) in [
            (r#"{"type":"error","error":{"type":"overloaded_error","message":"busy"}}"#, 529, true),
            (r#"{"type":"error","error":{"type":"invalid_request_error"}}"#, 400, false),
            (r#"{"error":{"message":"slow down","code":429}}"#, 429, true),
            (r#"{"error":{"message":"slow down","code":"502"}}"#, 502, true),
            (r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#, 429, true),
            (r#"{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#, 402, false),
            (r#"{"type":"error","code":"server_error","message":"x","param":null}"#, 500, true),
            (r#"{"error":{"code":503,"status":"UNAVAILABLE"}}"#, 503, true),
            (r#"{"error":{"status":"INVALID_ARGUMENT"}}"#, 400, false),
            (r#"{"error":{"code":70000}}"#, 500, true),
            (r#"{"error":"words"}"#, 500, true),
        ] {
            let meant = in_stream(&document(error));
            assert_eq!(meant.is_passing(), passes, "{error}");
            assert!(matches!(meant, ModelError::Refused { status: found, .. } if found == status), "{error}");
        }
    }

    #[test]
    fn google_says_in_its_document_how_long_to_wait() {
        let with = |delay: &str| {
            let text = format!(
                r#"{{"error":{{"code":429,"details":[{{"@type":"type.googleapis.com/google.rpc.Help"}},
                {{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":{delay}}}]}}}}"#
            );
            in_stream(&document(&text)).retry_after()
        };
        assert_eq!(with(r#""34.074824224s""#), Some(Duration::from_secs(35)));
        assert_eq!(with(r#""0s""#), Some(Duration::ZERO));
        assert_eq!(with(r#""1e300s""#), Some(Duration::from_secs(LONGEST_RETRY_AFTER)));
        for none in [r#""-1s""#, r#""NaNs""#, r#""5""#, "5"] {
            assert_eq!(with(none), None, "{none}");
        }
    }
}
