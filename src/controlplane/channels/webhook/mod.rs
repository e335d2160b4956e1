//! A signed webhook: messages come as requests to `/hooks/webhook/INSTANCE`, and go as requests to one address, both
//! signed by the scheme of <https://www.standardwebhooks.com>. Who sends may wait for the answer in the same request.
//! Touches the configured address.

mod outbound;
pub mod signature;
mod waiting;

use std::time::Duration;

use smol::Timer;
use smol::future::FutureExt;

use self::outbound::{Signs, Target};
use self::signature::Secret;
use self::waiting::Waiting;
use super::descriptor::{self, Descriptor};
use super::event::{EventKind, InboundEvent, MOST_TEXT, Sender, Voice};
use super::settings::Account;
use super::supervisor::Reporter;
use super::{Channel, Doing, Fault, Hook, HookAnswer, Part, Receipt, SendError, Sink};
use crate::contract::json::{self, Value, only_fields};
use crate::contract::time::Millis;
use crate::controlplane::tasks;

/// The longest request: the longest text, with room for what it takes in JSON.
const BODY_BYTES: usize = 512 << 10;
/// What is looked at at once.
const SHORT: usize = 64 << 10;
/// The longest that a sender may wait for an answer, in seconds.
const MOST_WAIT: u64 = 60;
/// The chat that is meant when none is named.
const DEFAULT_CHAT: &str = "main";
/// Whom a message is from when nobody is named.
const DEFAULT_SENDER: &str = "anonymous";

/// One account.
pub struct Webhook {
    platform: &'static Descriptor,
    secret: Secret,
    target: Option<Target>,
    waiting: Waiting,
}

impl Webhook {
    /// As its settings say.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn new(account: &Account) -> Result<Self, String> {
        let secret = Secret::parse(account.value("secret").unwrap_or_default())?;
        let signs = Signs::parse(account.value("signature"))?;
        let target = account.value("url").map(|url| Target::parse(url, signs)).transpose()?;
        Ok(Self { platform: account.platform, secret, target, waiting: Waiting::default() })
    }

    async fn take(&self, sink: &Sink, request: Hook) -> HookAnswer {
        let (Some(id), Some(at), Some(signature)) = (
            request.header("webhook-id"),
            request.header("webhook-timestamp"),
            request.header("webhook-signature"),
        ) else {
            return HookAnswer::refused(401, "unsigned");
        };
        if request.body.len() > BODY_BYTES {
            return HookAnswer::refused(413, "too_large");
        }
        let (secret, id, at) = (self.secret.clone(), id.to_owned(), at.to_owned());
        let (signature, body) = (signature.to_owned(), request.body.clone());
        let look = move || {
            secret.check(&id, &at, &body, &signature, Millis::now())?;
            Ok::<_, &'static str>(read(&id, &body))
        };
        // What anybody may send must not keep others waiting.
        let looked = if request.body.len() > SHORT { tasks::unblock(look).await } else { look() };
        let event = match looked {
            Err(why) => return HookAnswer::refused(401, why),
            Ok(Err(wrong)) => return bad(&wrong),
            Ok(Ok(event)) => event,
        };
        let seconds = match wait_of(&request.query) {
            Ok(seconds) => seconds,
            Err(wrong) => return bad(&wrong),
        };
        let event_id = event.event_id.clone();
        request.is_genuine();
        // Before it is accepted: the answer may be quicker than what follows.
        let answers = (seconds > 0).then(|| self.waiting.watch());
        let routed = match sink.accept(vec![event], None).await {
            Ok(mut routed) => routed.pop().unwrap_or_default(),
            Err(_) => return HookAnswer::refused(503, "not_accepted"),
        };
        let outcomes: Vec<Value> = routed
            .outcomes
            .iter()
            .map(|outcome| {
                Value::object([
                    ("agent", Value::from(outcome.group.as_str())),
                    ("verdict", Value::from(outcome.verdict.as_str())),
                    ("reason", Value::from(outcome.reason.as_str())),
                    ("message_id", Value::from(outcome.message.as_ref().map(|(id, _)| id.to_string()))),
                ])
            })
            .collect();
        let mut fields = vec![
            ("id", Value::from(event_id)),
            ("duplicate", Value::from(routed.is_duplicate)),
            ("outcomes", Value::from(outcomes)),
            ("pressed", Value::from(routed.pressed)),
        ];
        let (mut status, mut written) = (202, None);
        if let Some(mut answers) = answers {
            let asked: Vec<_> = routed
                .outcomes
                .iter()
                .filter(|outcome| outcome.verdict == crate::controlplane::router::decide::Verdict::Engage)
                .filter_map(|outcome| outcome.message.as_ref().map(|(id, _)| id.clone()))
                .collect();
            let long = async {
                Timer::after(Duration::from_secs(seconds)).await;
                None
            };
            let answer = async {
                if asked.is_empty() {
                    return None;
                }
                answers.first_of(asked).await
            };
            if let Some(answer) = answer.or(long).await {
                fields.push(("reply", Value::from(&*answer.text)));
                (status, written) = (200, answer.written);
            }
        }
        HookAnswer { status, body: Value::object(fields).to_string(), reason: "", written }
    }
}

impl Channel for Webhook {
    fn descriptor(&self) -> &'static Descriptor {
        self.platform
    }

    fn is_only_told(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, _: &'a Sink, state: &'a Reporter) -> Doing<'a, Fault> {
        state.connected();
        Box::pin(async { Fault::Idle })
    }

    fn send<'a>(&'a self, part: &'a Part) -> Doing<'a, Result<Receipt, SendError>> {
        Box::pin(async move {
            let inline = part.cause.as_ref().filter(|_| part.of == 1 && part.file.is_none());
            if let Some(cause) = inline
                && self.waiting.answer(cause, &part.text).await
            {
                return Ok(Receipt("inline".to_owned()));
            }
            match &self.target {
                Some(target) => {
                    if let Some(cause) = inline {
                        self.waiting.forget(cause);
                    }
                    target.post(&self.secret, part, None).await
                }
                None => Err(SendError::Permanent(
                    "nobody waits for the answer, and the account has no url to post it to".to_owned(),
                )),
            }
        })
    }

    fn edit<'a>(&'a self, part: &'a Part, receipt: &'a str) -> Doing<'a, Result<(), SendError>> {
        Box::pin(async move {
            match &self.target {
                Some(target) => target.post(&self.secret, part, Some(receipt)).await.map(drop),
                None => Err(SendError::Permanent("the account has no url to post it to".to_owned())),
            }
        })
    }

    fn hook<'a>(&'a self, sink: &'a Sink, request: Hook) -> Doing<'a, HookAnswer> {
        Box::pin(self.take(sink, request))
    }
}

fn bad(wrong: &str) -> HookAnswer {
    let body = Value::object([("error", Value::from(wrong))]).to_string();
    HookAnswer { body, ..HookAnswer::refused(400, "bad_request") }
}

/// How long the sender waits for an answer, in seconds.
fn wait_of(query: &str) -> Result<u64, String> {
    if query.is_empty() {
        return Ok(0);
    }
    let seconds = query.strip_prefix("wait=").and_then(|seconds| seconds.parse().ok());
    seconds
        .filter(|seconds| *seconds <= MOST_WAIT)
        .ok_or_else(|| format!("the query may be wait=SECONDS, at most {MOST_WAIT}"))
}

/// Longest data of a button, in bytes.
const MOST_DATA: usize = 64;

/// Reads a message. Its own name is that of the request, so that sending it again is harmless.
fn read(id: &str, body: &[u8]) -> Result<InboundEvent, String> {
    let document = json::parse(body).map_err(|error| format!("the body is no JSON: {error}"))?;
    let fields = ["text", "chat", "thread", "message", "sender", "name", "mentioned", "bot", "button"];
    only_fields(&document, &fields)
        .map_err(|error| format!("{error}; the fields are {}", fields.join(", ")))?;
    let text_of = |name: &str| match document.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("{name} must be a text")),
    };
    let flag = |name: &str, usual: bool| match document.get(name) {
        None | Some(Value::Null) => Ok(usual),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(format!("{name} must be true or false")),
    };
    let platform = descriptor::find("webhook").ok_or("this build has no webhooks")?;
    let named = |name: &str| -> Result<Option<String>, String> {
        match text_of(name)? {
            Some(given) if !(platform.is_chat)(given) => {
                Err(format!("{name} must be {}", platform.chat_form))
            }
            given => Ok(given.map(str::to_owned)),
        }
    };
    let button = text_of("button")?;
    if button.is_some() && text_of("text")?.is_some() {
        return Err("a button says nothing beside itself: leave text out".to_owned());
    }
    if button.is_some_and(|button| button.is_empty() || button.len() > MOST_DATA) {
        return Err(format!("button must have 1 to {MOST_DATA} bytes: the data of one that was sent"));
    }
    let text = text_of("text")?.or(button.map(|_| "")).ok_or("text is missing")?;
    if button.is_some() {
        // What is pressed has no words.
    } else if text.trim().is_empty() || text.len() > MOST_TEXT {
        return Err(format!("text must have 1 to {MOST_TEXT} bytes and not only spaces"));
    }
    let handle = named("sender")?.unwrap_or_else(|| DEFAULT_SENDER.to_owned());
    let name = text_of("name")?.unwrap_or(&handle).to_owned();
    if name.len() > 128 || name.chars().any(char::is_control) {
        return Err("name must have at most 128 bytes and no control characters".to_owned());
    }
    let voice = if flag("bot", false)? { Voice::Program } else { Voice::Person };
    Ok(InboundEvent {
        event_id: id.to_owned(),
        chat: named("chat")?.unwrap_or_else(|| DEFAULT_CHAT.to_owned()),
        thread: named("thread")?,
        message_id: named("message")?,
        sender: Sender { handle, name, voice },
        is_group: false,
        title: String::new(),
        mentioned: flag("mentioned", true)?,
        text: text.to_owned(),
        reply_to: None,
        attachments: Vec::new(),
        occurred_at: None,
        kind: match button {
            Some(data) => EventKind::Button { data: data.to_owned(), query: id.to_owned() },
            None => EventKind::Message,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_strictly() {
        let event = read("id1", br#"{"text":"hi","chat":"ops","sender":"ann","thread":"t1"}"#).unwrap();
        assert_eq!((event.chat.as_str(), event.sender.handle.as_str()), ("ops", "ann"));
        assert_eq!((event.event_id.as_str(), event.thread.as_deref()), ("id1", Some("t1")));
        let usual = read("id1", br#"{"text":"hi"}"#).unwrap();
        assert_eq!(
            (usual.chat.as_str(), usual.sender.handle.as_str(), usual.mentioned),
            ("main", "anonymous", true)
        );
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"text":""}"#,
            r#"{"text":" "}"#,
            r#"{"text":1}"#,
            r#"{"text":"x","chat":"a b"}"#,
            r#"{"text":"x","sender":""}"#,
            r#"{"text":"x","thread":5}"#,
            r#"{"text":"x","bot":"yes"}"#,
            r#"{"text":"x","name":"a\nb"}"#,
            r#"{"text":"x","model":"y"}"#,
            r#"{"text":"x","text":"y"}"#,
        ] {
            assert!(read("id1", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn waiting_is_bounded() {
        assert_eq!(wait_of(""), Ok(0));
        assert_eq!(wait_of("wait=60"), Ok(60));
        for bad in ["wait=61", "wait=", "wait=-1", "wait=1&x", "x"] {
            assert!(wait_of(bad).is_err(), "{bad}");
        }
    }
}
