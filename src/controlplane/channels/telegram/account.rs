//! One bot's account: it asks Telegram for what happened, or is told at the ingress, and sends what agents say. Touches
//! the Bot API at the configured address.

use std::io::Read;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use smol::Timer;
use smol::lock::Semaphore;
use ureq::http::Uri;

use super::markup;
use super::normalize::{Bot, normalize, update_id};
use super::told::{self, Health};
use super::upload::send_document;
use super::wire::{self, Answer, BadRequest, Button, Post, Style};
use crate::contract::address::is_loopback;
use crate::contract::json::{self, Value};
use crate::contract::time::Millis;
use crate::controlplane::channels::descriptor::Descriptor;
use crate::controlplane::channels::event::{EventKind, InboundEvent};
use crate::controlplane::channels::settings::Account;
use crate::controlplane::channels::supervisor::Reporter;
use crate::controlplane::channels::{
    Attached, Channel, Doing, Fault, FetchError, Hook, HookAnswer, Part, Receipt, SendError, Sink, outgoing,
};
use crate::controlplane::config::Secret;
use crate::controlplane::questions;
use crate::controlplane::router::Routed;
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// Where the Bot API is, unless another server is configured.
const BASE: &str = "https://api.telegram.org";
/// A poll is held open by Telegram; one that is silent for longer is given up.
const POLL: Duration = Duration::from_secs(wire::POLL_SECONDS + 15);
/// The longest that a file takes.
const FETCH: Duration = Duration::from_secs(60);
/// More of an answer is not read: a hundred updates are a few hundred kilobytes.
const ANSWER_BYTES: u64 = 8 << 20;
/// When the ledger cannot take what came, it is offered again after this time.
const AGAIN: Duration = Duration::from_secs(1);
/// How often Telegram is asked whether what happens reaches the ingress.
const LOOK: Duration = Duration::from_secs(600);
/// Updates that are asked for at once.
const MOST_UPDATES: u64 = 100;
/// Presses of buttons that are answered at once; more are not answered.
const WAVING: usize = 8;
/// The name of the cursor.
const OFFSET: &str = "offset";
/// The header that proves that a request at the ingress is Telegram's.
const SECRET_HEADER: &str = "x-telegram-bot-api-secret-token";

/// One bot.
pub struct Telegram {
    platform: &'static Descriptor,
    token: Secret,
    base: String,
    agent: ureq::Agent,
    poller: ureq::Agent,
    fetcher: ureq::Agent,
    /// Where Telegram is to tell what happens, and by what it is known.
    told_at: Option<(String, Secret)>,
    me: Mutex<Option<Me>>,
    /// Presses of buttons that are answered at once.
    waving: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
struct Me {
    id: i64,
    username: String,
}

impl Telegram {
    /// As its settings say.
    ///
    /// # Errors
    /// What is wrong with one of them.
    pub fn new(account: &Account) -> Result<Self, String> {
        let token = account.value("token").unwrap_or_default();
        let is_token = token.split_once(':').is_some_and(|(id, secret)| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
            !id.is_empty()
                && id.bytes().all(|b| b.is_ascii_digit())
                && !secret.is_empty()
                && secret.bytes().all(plain)
        });
        if !is_token {
            return Err("token must be as @BotFather gives it, NUMBER:LETTERS".to_owned());
        }
        let base = account.value("api_base").unwrap_or(BASE);
        let is_near = checked(base, "api_base")?;
        let told_at = match (account.value("webhook_url"), account.value("webhook_secret")) {
            (None, None) => None,
            (Some(url), Some(secret)) => {
                checked(url, "webhook_url")?;
                wire::set_webhook(url, secret).map_err(|wrong| wrong.to_string())?;
                Some((url.to_owned(), Secret::new(secret.to_owned())))
            }
            _ => return Err("webhook_url and webhook_secret go together".to_owned()),
        };
        Ok(Self {
            platform: account.platform,
            token: Secret::new(token.to_owned()),
            base: base.to_owned(),
            agent: outgoing::agent(!is_near, outgoing::TIMEOUT),
            poller: outgoing::agent(!is_near, POLL),
            fetcher: outgoing::agent(!is_near, FETCH),
            told_at,
            me: Mutex::default(),
            waving: Arc::new(Semaphore::new(WAVING)),
        })
    }

    /// Makes a request and reads its answer.
    async fn ask(&self, agent: &ureq::Agent, request: wire::Request) -> Answer {
        let url = wire::url(&self.base, self.token.expose(), request.method);
        self.post(agent, url, "application/json".to_owned(), request.body.into_bytes()).await
    }

    async fn post(&self, agent: &ureq::Agent, url: String, kind: String, body: Vec<u8>) -> Answer {
        self.post_and_look(agent, url, kind, body).await.0
    }

    /// The same; of an answer that does not read the number of the first update in it.
    async fn post_and_look(
        &self,
        agent: &ureq::Agent,
        url: String,
        kind: String,
        body: Vec<u8>,
    ) -> (Answer, Option<i64>) {
        let agent = agent.clone();
        let asked = tasks::unblock(move || {
            let sent = agent.post(&url).header("content-type", kind).send(&body);
            let mut response = sent.map_err(|error| outgoing::words(&error))?;
            let status = response.status().as_u16();
            let mut body = Vec::new();
            let read = response.body_mut().as_reader().take(ANSWER_BYTES).read_to_end(&mut body);
            read.map_err(|error| format!("its answer broke off: {}", error.kind()))?;
            let answer = wire::answer(status, &body);
            let first = match answer {
                Answer::Transient(_) if status == 200 => wire::first_update(&body),
                _ => None,
            };
            Ok((answer, first))
        });
        asked.await.unwrap_or_else(|why: String| (Answer::Transient(why), None))
    }

    /// Asks who the bot is.
    async fn identify(&self, state: &Reporter) -> Result<Me, Fault> {
        let found = match self.ask(&self.agent, wire::get_me()).await {
            Answer::Ok(found) => found,
            other => return Err(self.fault(other, state).await),
        };
        let id = found.get("id").and_then(Value::as_i64);
        let username = found.get("username").and_then(Value::as_str);
        let (Some(id), Some(username)) = (id, username) else {
            return Err(Fault::Lost("Telegram does not say who the bot is".to_owned()));
        };
        let me = Me { id, username: username.to_owned() };
        *self.me.lock().unwrap_or_else(PoisonError::into_inner) = Some(me.clone());
        Ok(me)
    }

    /// What an answer that is none means for the connection. Waits as long as Telegram asks for.
    async fn fault(&self, answer: Answer, state: &Reporter) -> Fault {
        match answer {
            Answer::AuthFailed => Fault::Auth("Telegram does not know the token".to_owned()),
            Answer::RetryAfter(seconds) => {
                state.degraded(&format!("it asked to come again after {seconds} seconds"));
                Timer::after(Duration::from_secs(seconds)).await;
                Fault::Lost("it asked to come later".to_owned())
            }
            Answer::Conflict(why) => {
                Fault::Lost(format!("something else takes the bot's updates: {}", self.shown(&why)))
            }
            Answer::Permanent(code, why) => Fault::Lost(format!("it answers {code}: {}", self.shown(&why))),
            Answer::Transient(why) => Fault::Lost(self.shown(&why)),
            _ => Fault::Lost("it answers what nobody asked".to_owned()),
        }
    }

    /// What Telegram says, without what it was told in confidence.
    fn shown(&self, text: &str) -> String {
        let text = wire::redacted(text, self.token.expose());
        match &self.told_at {
            Some((_, secret)) => text.replace(secret.expose(), "<webhook_secret>"),
            None => text,
        }
    }

    /// Telegram tells the ingress what happens: looks now and then whether it does, until something is wrong.
    async fn watch(&self, url: &str, state: &Reporter) -> Fault {
        loop {
            match self.ask(&self.agent, told::get_webhook_info()).await {
                Answer::Ok(info) => match told::health(&info, url, Millis::now().0 / 1000) {
                    Health::Well => state.connected(),
                    Health::Elsewhere => {
                        return Fault::Lost("something else set another webhook for the bot".to_owned());
                    }
                    Health::Failing(why) => {
                        state.degraded(&format!("Telegram cannot tell what happens: {}", self.shown(&why)))
                    }
                },
                other => return self.fault(other, state).await,
            }
            Timer::after(LOOK).await;
        }
    }

    async fn updates(&self, offset: Option<i64>, limit: u64) -> (Answer, Option<i64>) {
        let request = wire::get_updates(offset, limit);
        let url = wire::url(&self.base, self.token.expose(), request.method);
        let (kind, body) = ("application/json".to_owned(), request.body.into_bytes());
        self.post_and_look(&self.poller, url, kind, body).await
    }

    /// Asks for updates until something is wrong.
    async fn poll(&self, sink: &Sink, state: &Reporter, me: &Me) -> Fault {
        if let answer @ (Answer::AuthFailed | Answer::Transient(_) | Answer::RetryAfter(_)) =
            self.ask(&self.agent, wire::delete_webhook()).await
        {
            return self.fault(answer, state).await;
        }
        let mut offset: Option<i64> = match sink.cursor(OFFSET).await {
            Ok(text) => text.and_then(|text| text.parse().ok()),
            Err(error) => return Fault::Lost(format!("the ledger cannot be read: {error}")),
        };
        state.connected();
        let mut limit = MOST_UPDATES;
        loop {
            let asked = Instant::now();
            let updates = match self.updates(offset, limit).await {
                (Answer::Ok(Value::Array(updates)), _) => updates,
                (Answer::Transient(_), Some(_)) if limit > 1 => {
                    limit /= 2;
                    continue;
                }
                (Answer::Transient(_), Some(unreadable)) => {
                    // Whoever wrote it must not keep everybody else from being heard.
                    log::warn("telegram.skipped", &[("update", &unreadable)]);
                    offset = Some(unreadable.saturating_add(1));
                    continue;
                }
                (other, _) => return self.fault(other, state).await,
            };
            limit = MOST_UPDATES.min(limit * 2);
            let Some(last) = updates.iter().filter_map(update_id).max() else {
                if asked.elapsed() < AGAIN {
                    // It did not wait as it was asked to.
                    Timer::after(AGAIN).await;
                }
                continue;
            };
            // Whatever was thought of a number that runs out, it never goes back.
            let next = last.saturating_add(1);
            let events: Vec<InboundEvent> =
                updates.iter().filter_map(|update| self.read(update, me)).collect();
            loop {
                let cursor = Some((OFFSET, next.to_string()));
                match sink.accept(events.clone(), cursor).await {
                    Ok(routed) => {
                        self.wave(&events, &routed);
                        break;
                    }
                    Err(error) => {
                        state.degraded(&format!("what came cannot be stored: {error}"));
                        Timer::after(AGAIN).await;
                    }
                }
            }
            state.connected();
            offset = Some(next);
        }
    }

    fn read(&self, update: &Value, me: &Me) -> Option<InboundEvent> {
        match normalize(update, &Bot { id: me.id, username: &me.username }) {
            Ok(event) => Some(event),
            Err(ignored) => {
                log::debug("telegram.ignored", &[("why", &ignored)]);
                None
            }
        }
    }

    /// Tells whoever pressed a button what came of it; where that cannot be told at once, it is not.
    fn wave(&self, events: &[InboundEvent], routed: &[Routed]) {
        for (event, routed) in events.iter().zip(routed) {
            let EventKind::Button { query, .. } = &event.kind else { continue };
            let Some(place) = self.waving.try_acquire_arc() else { return };
            let request = wire::answer_callback_query(query, routed.pressed.unwrap_or_default());
            let url = wire::url(&self.base, self.token.expose(), request.method);
            let agent = self.agent.clone();
            tasks::spawn(async move {
                let post = move || {
                    let sent =
                        agent.post(&url).header("content-type", "application/json").send(&request.body);
                    drop(sent);
                    drop(place);
                };
                tasks::unblock(post).await;
            })
            .detach();
        }
    }

    /// What an answer to something that was sent means.
    fn sent(&self, answer: Answer) -> Result<Receipt, SendError> {
        match answer {
            Answer::Ok(sent) => {
                let id = sent.get("message_id").map(Value::to_string);
                Ok(Receipt(id.unwrap_or_else(|| "sent".to_owned())))
            }
            Answer::RetryAfter(seconds) => {
                let hint = Some(Duration::from_secs(seconds));
                Err(SendError::Retry(hint, "too many messages at once".to_owned()))
            }
            Answer::Permanent(code, why) => {
                Err(SendError::Permanent(format!("Telegram answers {code}: {}", self.shown(&why))))
            }
            Answer::Transient(why) | Answer::Conflict(why) => Err(SendError::Retry(None, self.shown(&why))),
            Answer::AuthFailed => Err(SendError::Auth("Telegram does not know the token".to_owned())),
            Answer::Migrated(to) => Err(SendError::Moved(to.to_string())),
            _ => Err(SendError::Permanent("Telegram refuses the message in every form".to_owned())),
        }
    }

    /// Sends a file.
    async fn bring_document(&self, part: &Part, file: Arc<Attached>) -> Result<Receipt, SendError> {
        let mut thread = part.thread.as_deref();
        loop {
            let upload = send_document(&part.chat, thread, part.quotes.as_deref(), &file.name, &file.content)
                .map_err(|wrong| SendError::Permanent(wrong.to_string()))?;
            let url = wire::url(&self.base, self.token.expose(), upload.method);
            match self.post(&self.fetcher, url, upload.kind, upload.body).await {
                Answer::ThreadGone if thread.is_some() => thread = None,
                answer => return self.sent(answer),
            }
        }
    }

    /// Sends a text, or shows it in the place of one that was sent.
    async fn bring(&self, part: &Part, edits: Option<&str>) -> Result<Receipt, SendError> {
        if let Some(file) = &part.file {
            return self.bring_document(part, file.clone()).await;
        }
        let row = |button: &questions::Button| {
            vec![Button { text: button.label.clone(), data: button.data.clone() }]
        };
        let buttons: Vec<Vec<Button>> = part.buttons.iter().map(row).collect();
        let html = if part.is_verbatim { markup::verbatim(&part.text) } else { markup::html(&part.text) };
        let mut style = if html.units <= wire::MOST_UNITS { Style::Html } else { Style::Plain };
        let mut thread = part.thread.as_deref();
        // Each of the two can be wrong once.
        for _ in 0..3 {
            let text = if style == Style::Html { html.html.as_str() } else { part.text.as_str() };
            let quotes = part.quotes.as_deref();
            let post = Post { chat: &part.chat, thread, text, style, reply_to: quotes, buttons: &buttons };
            let written = match edits {
                None => wire::send_message(&post),
                Some(message) => wire::edit_message(&post, message),
            };
            let request = match written {
                Ok(request) => request,
                Err(BadRequest::Text) => {
                    return Err(SendError::Permanent("there is nothing to show in it".into()));
                }
                Err(wrong) => return Err(SendError::Permanent(wrong.to_string())),
            };
            match self.ask(&self.agent, request).await {
                // What is to stand there as it is would be read for links and names without its frame.
                Answer::CannotParse if style == Style::Html && !part.is_verbatim => style = Style::Plain,
                Answer::ThreadGone if thread.is_some() => thread = None,
                Answer::CannotParse | Answer::ThreadGone => break,
                answer => return self.sent(answer),
            }
        }
        Err(SendError::Permanent("Telegram refuses the message in every form".to_owned()))
    }

    async fn bring_file(&self, id: &str, most: u64) -> Result<Vec<u8>, FetchError> {
        let found = match self.ask(&self.agent, wire::get_file(id)).await {
            Answer::Ok(found) => found,
            Answer::RetryAfter(seconds) => {
                let hint = Some(Duration::from_secs(seconds));
                return Err(FetchError::Retry(hint, "too many requests at once".to_owned()));
            }
            // The Bot API gives no file of more than 20 MB (core.telegram.org/bots/api#getfile).
            Answer::Permanent(_, why) if why.contains("too big") => return Err(FetchError::TooLarge),
            Answer::Permanent(code, why) => {
                return Err(FetchError::Permanent(format!("Telegram answers {code}: {}", self.shown(&why))));
            }
            Answer::AuthFailed => {
                return Err(FetchError::Retry(None, "Telegram does not know the token".to_owned()));
            }
            Answer::Transient(why) | Answer::Conflict(why) => {
                return Err(FetchError::Retry(None, self.shown(&why)));
            }
            Answer::CannotParse | Answer::ThreadGone | Answer::Migrated(_) => {
                return Err(FetchError::Permanent("Telegram answers what nobody asked".to_owned()));
            }
        };
        if found.get("file_size").and_then(Value::as_u64).is_some_and(|size| size > most) {
            return Err(FetchError::TooLarge);
        }
        let path = found.get("file_path").and_then(Value::as_str).unwrap_or_default();
        let url = wire::file_url(&self.base, self.token.expose(), path)
            .map_err(|wrong| FetchError::Permanent(wrong.to_string()))?;
        let agent = self.fetcher.clone();
        let fetched = tasks::unblock(move || {
            let mut response = agent.get(&url).call().map_err(|error| outgoing::words(&error))?;
            let status = response.status().as_u16();
            let mut content = Vec::new();
            // One byte more than it may have tells that it has more.
            let read = response.body_mut().as_reader().take(most.saturating_add(1)).read_to_end(&mut content);
            read.map_err(|error| format!("it broke off: {}", error.kind()))?;
            Ok::<_, String>((status, content))
        });
        match fetched.await {
            Ok((200, content)) if content.len() as u64 > most => Err(FetchError::TooLarge),
            Ok((200, content)) => Ok(content),
            Ok((404, _)) => Err(FetchError::Permanent("Telegram does not have it any more".to_owned())),
            Ok((status, _)) => Err(FetchError::Retry(None, format!("Telegram answers {status}"))),
            Err(why) => Err(FetchError::Retry(None, self.shown(&why))),
        }
    }

    async fn told(&self, sink: &Sink, request: Hook) -> HookAnswer {
        let Some((_, secret)) = &self.told_at else { return HookAnswer::of(404) };
        // Of digests: how long the comparison takes says nothing.
        let hashed = |text: &str| digest(&SHA256, text.as_bytes()).as_ref().to_vec();
        let is_known =
            request.header(SECRET_HEADER).is_some_and(|said| hashed(said) == hashed(secret.expose()));
        if !is_known {
            return HookAnswer::refused(401, "bad_secret");
        }
        request.is_genuine();
        let body = request.body.clone();
        let Ok(update) = tasks::unblock(move || json::parse(&body)).await else {
            return HookAnswer::refused(400, "not_json");
        };
        let me = self.me.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(me) = me else { return HookAnswer::refused(503, "starting") };
        let Some(event) = self.read(&update, &me) else { return HookAnswer::of(200) };
        let events = vec![event];
        match sink.accept(events.clone(), None).await {
            Ok(routed) => {
                self.wave(&events, &routed);
                HookAnswer::of(200)
            }
            Err(_) => HookAnswer::refused(503, "not_accepted"),
        }
    }
}

/// An address that is private on its way; says whether it is on this machine.
fn checked(url: &str, name: &str) -> Result<bool, String> {
    let uri: Uri = url.parse().map_err(|_| format!("{name} is no address"))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let is_near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(is_loopback);
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(false),
        Some("http") if is_near => Ok(true),
        _ => Err(format!("{name} must begin with https://, or with http:// on this machine")),
    }
}

impl Channel for Telegram {
    fn descriptor(&self) -> &'static Descriptor {
        self.platform
    }

    fn run<'a>(&'a self, sink: &'a Sink, state: &'a Reporter) -> Doing<'a, Fault> {
        Box::pin(async move {
            let me = match self.identify(state).await {
                Ok(me) => me,
                Err(fault) => return fault,
            };
            let Some((url, secret)) = &self.told_at else { return self.poll(sink, state, &me).await };
            let set = match wire::set_webhook(url, secret.expose()) {
                Ok(set) => set,
                Err(wrong) => return Fault::Auth(wrong.to_string()),
            };
            match self.ask(&self.agent, set).await {
                Answer::Ok(_) => self.watch(url, state).await,
                other => self.fault(other, state).await,
            }
        })
    }

    fn send<'a>(&'a self, part: &'a Part) -> Doing<'a, Result<Receipt, SendError>> {
        Box::pin(self.bring(part, None))
    }

    fn edit<'a>(&'a self, part: &'a Part, receipt: &'a str) -> Doing<'a, Result<(), SendError>> {
        Box::pin(async move { self.bring(part, Some(receipt)).await.map(drop) })
    }

    fn typing<'a>(&'a self, chat: &'a str, thread: Option<&'a str>) -> Doing<'a, ()> {
        Box::pin(async move {
            if let Ok(request) = wire::send_typing(chat, thread) {
                let _ = self.ask(&self.agent, request).await;
            }
        })
    }

    fn unbutton<'a>(&'a self, chat: &'a str, receipt: &'a str) -> Doing<'a, Result<(), SendError>> {
        Box::pin(async move {
            let request =
                wire::take_buttons(chat, receipt).map_err(|wrong| SendError::Permanent(wrong.to_string()))?;
            self.sent(self.ask(&self.agent, request).await).map(drop)
        })
    }

    fn fetch<'a>(&'a self, source: &'a str, most: u64) -> Doing<'a, Result<Vec<u8>, FetchError>> {
        Box::pin(self.bring_file(source, most))
    }

    fn hook<'a>(&'a self, sink: &'a Sink, request: Hook) -> Doing<'a, HookAnswer> {
        Box::pin(self.told(sink, request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_checked_and_never_shown() {
        let account = |values: &[(&'static str, &str)]| Telegram::new(&Account::of("telegram", "", values));
        let token = ("token", "123:abc-DEF_1");
        assert!(account(&[token]).is_ok());
        assert!(account(&[token, ("api_base", "http://127.0.0.1:1")]).is_ok());
        let hook = [token, ("webhook_url", "https://a.example/hooks/telegram"), ("webhook_secret", "s-1")];
        assert!(account(&hook).is_ok());
        for (bad, about) in [
            (&[("token", "hunter2")][..], "token must be"),
            (&[("token", "12:hunter2/../x")], "token must be"),
            (&[token, ("api_base", "http://a.example")], "https://"),
            (&[token, ("webhook_url", "https://a.example/x")], "go together"),
            (
                &[token, ("webhook_url", "https://a.example/x"), ("webhook_secret", "hunter2 !")],
                "secret must be",
            ),
        ] {
            let wrong = account(bad).err().unwrap();
            assert!(wrong.contains(about) && !wrong.contains("hunter2"), "{wrong}");
        }
    }
}
