//! Messages to the configured address: one signed request each, that no redirect leads elsewhere. Touches that address.

use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use ureq::http::Uri;

use super::signature::Secret;
use crate::contract::address::is_loopback;
use crate::contract::json::{self, Value};
use crate::contract::time::Millis;
use crate::controlplane::channels::{Attached, Part, Receipt, SendError, outgoing};
use crate::controlplane::questions::Button;
use crate::controlplane::tasks;

/// More of an answer is not read.
const ANSWER_BYTES: u64 = 64 << 10;
/// Longest name that is taken from an answer, in bytes.
const NAME_BYTES: usize = 200;

/// The configured address.
pub(super) struct Target {
    url: String,
    signs: Signs,
    agent: ureq::Agent,
}

/// What a post is signed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signs {
    /// The scheme by which both sides are checked.
    Standard,
    /// That, and the body alone, for receivers that know nothing else.
    BodyToo,
}

impl Signs {
    /// Reads the setting.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(word: Option<&str>) -> Result<Self, String> {
        match word {
            None | Some("standard") => Ok(Self::Standard),
            Some("github") => Ok(Self::BodyToo),
            Some(_) => Err("signature must be standard or github".to_owned()),
        }
    }
}

impl Target {
    /// Reads an address.
    ///
    /// # Errors
    /// What is wrong with it; never the address itself, which may hold a secret.
    pub(super) fn parse(url: &str, signs: Signs) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|_| "url is no address".to_owned())?;
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let is_near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(is_loopback);
        match uri.scheme_str() {
            Some("https") if !host.is_empty() => {}
            Some("http") if is_near => {}
            Some("http") => {
                return Err("url must begin with https:// unless it is on this machine".to_owned());
            }
            _ => return Err("url must begin with https://".to_owned()),
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("url must hold no user name; the signature shows who sends".to_owned());
        }
        let agent = outgoing::agent(!is_near, outgoing::TIMEOUT);
        Ok(Self { url: url.to_owned(), signs, agent })
    }

    /// Posts one part, or what is to be shown in the place of one.
    pub(super) async fn post(
        &self,
        secret: &Secret,
        part: &Part,
        replaces: Option<&str>,
    ) -> Result<Receipt, SendError> {
        let key = part.key();
        let body = Value::object([
            ("id", Value::from(key.as_str())),
            ("message_id", Value::from(part.message.as_str())),
            ("part", Value::from(u64::from(part.number))),
            ("parts", Value::from(u64::from(part.of))),
            ("chat", Value::from(part.chat.as_str())),
            ("thread", Value::from(part.thread.clone())),
            ("in_reply_to", Value::from(part.quotes.clone())),
            ("kind", Value::from(if part.is_verbatim { "approval" } else { "message" })),
            ("replaces", Value::from(replaces)),
            ("text", Value::from(part.text.as_str())),
            ("buttons", Value::from(part.buttons.iter().map(button).collect::<Vec<_>>())),
            ("file", part.file.as_deref().map_or(Value::Null, file)),
        ])
        .to_string();
        let at = (Millis::now().0 / 1000).to_string();
        let signature = secret.sign(&key, &at, body.as_bytes());
        let of_body = match self.signs {
            Signs::Standard => None,
            Signs::BodyToo => Some(secret.sign_body(body.as_bytes())),
        };
        let (agent, url) = (self.agent.clone(), self.url.clone());
        tasks::unblock(move || {
            let mut request = agent
                .post(&url)
                .header("content-type", "application/json")
                .header("webhook-id", &key)
                .header("webhook-timestamp", &at)
                .header("webhook-signature", &signature);
            if let Some(of_body) = of_body {
                request = request.header("x-hub-signature-256", of_body);
            }
            let mut response = request
                .send(body.as_bytes())
                .map_err(|error| SendError::Retry(None, outgoing::words(&error)))?;
            let status = response.status().as_u16();
            let hint =
                response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            let mut answer = Vec::new();
            let reading = response.body_mut().as_reader().take(ANSWER_BYTES).read_to_end(&mut answer);
            match status {
                // Taken, whatever became of the rest of the answer.
                200..=299 => Ok(Receipt(name_in(&answer).unwrap_or(key))),
                408 | 425 | 429 | 500..=599 => {
                    drop(reading);
                    Err(SendError::Retry(hint.map(Duration::from_secs), format!("it answers {status}")))
                }
                300..=399 => {
                    Err(SendError::Permanent(format!("it answers {status}: no redirect is followed")))
                }
                401 => Err(SendError::Auth(format!("it answers {status}: is the secret the same there?"))),
                // Of this chat, and not of the account.
                _ => Err(SendError::Permanent(format!("it answers {status}"))),
            }
        })
        .await
    }
}

fn button(button: &Button) -> Value {
    Value::object([
        ("label", Value::from(button.label.as_str())),
        ("data", Value::from(button.data.as_str())),
    ])
}

/// A file, in base64 (RFC 4648).
fn file(file: &Attached) -> Value {
    Value::object([
        ("name", Value::from(file.name.as_str())),
        ("type", Value::from(file.mime.as_str())),
        ("size", Value::from(file.content.len() as u64)),
        ("content", Value::from(BASE64_STANDARD.encode(&file.content))),
    ])
}

/// The name that the other side gave it.
fn name_in(answer: &[u8]) -> Option<String> {
    let document = json::parse(answer).ok()?;
    let name = document.get("id")?.as_str()?;
    let is_name = !name.is_empty() && name.len() <= NAME_BYTES && !name.chars().any(char::is_control);
    is_name.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_private_on_its_way() {
        for good in ["https://x.example/a?b", "http://127.0.0.1:9/x", "http://localhost:9", "http://[::1]:9/"]
        {
            assert!(Target::parse(good, Signs::Standard).is_ok(), "{good}");
        }
        for bad in [
            "",
            "x",
            "ftp://x",
            "http://x.example",
            "http://127.0.0.1.x.example",
            "https://u:p@x.example",
            "https://",
        ] {
            let wrong = Target::parse(bad, Signs::Standard).err().unwrap();
            assert!(!wrong.contains("x.example"), "{wrong}");
        }
    }
    #[test]
    fn only_signatures_that_are_known_are_made() {
        assert_eq!(Signs::parse(None), Ok(Signs::Standard));
        assert_eq!(Signs::parse(Some("standard")), Ok(Signs::Standard));
        assert_eq!(Signs::parse(Some("github")), Ok(Signs::BodyToo));
        for bad in ["", "GitHub", "none", "sha1"] {
            assert!(Signs::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
