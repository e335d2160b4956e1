//! Whether Telegram can tell the ingress what happens: what it says of the webhook that was set. Pure.

use super::wire::Request;
use crate::contract::json::Value;
use crate::contract::plain;

/// A failure that is older than this, in seconds, is over.
const LATELY: i64 = 20 * 60;
/// The most of its words that is kept, in characters.
const MOST_WORDS: usize = 300;

/// `getWebhookInfo`.
pub fn get_webhook_info() -> Request {
    Request { method: "getWebhookInfo", body: "{}".to_owned() }
}

/// How the webhook is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Telegram tells what happens.
    Well,
    /// It tells somebody else, or nobody.
    Elsewhere,
    /// It cannot, for this reason.
    Failing(String),
}

/// What an answer to [`get_webhook_info`] says at a time, in seconds.
pub fn health(info: &Value, url: &str, now: i64) -> Health {
    if info.get("url").and_then(Value::as_str) != Some(url) {
        return Health::Elsewhere;
    }
    let number = |name: &str| info.get(name).and_then(Value::as_i64).unwrap_or(0);
    let is_recent = now.saturating_sub(number("last_error_date")) <= LATELY;
    if number("pending_update_count") == 0 || !is_recent {
        return Health::Well;
    }
    let words = info.get("last_error_message").and_then(Value::as_str).unwrap_or("without a reason");
    let words: String = words.chars().take(MOST_WORDS).collect();
    Health::Failing(plain::line(&words).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json::parse;

    #[test]
    fn what_cannot_be_told_is_known() {
        let url = "https://a.example/hooks/telegram";
        let of =
            |text: &str, now: i64| health(&parse(text.replace("URL", url).as_bytes()).unwrap(), url, now);
        let failing = r#"{"url":"URL","pending_update_count":3,"last_error_date":1000,"last_error_message":"no\u202e"}"#;
        assert_eq!(of(failing, 1000), Health::Failing("no\\u{202e}".to_owned()));
        assert_eq!(of(failing, 1000 + LATELY + 1), Health::Well);
        assert_eq!(of(&failing.replace(":3", ":0"), 1000), Health::Well, "it came through since");
        assert_eq!(of(r#"{"url":"URL","pending_update_count":3}"#, 1_700_000_000), Health::Well);
        for other in [r#"{"url":""}"#, r#"{"url":"https://b.example"}"#, "{}", "true"] {
            assert_eq!(of(other, 1000), Health::Elsewhere, "{other}");
        }
    }
}
