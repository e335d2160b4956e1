//! The requests of the Bot API as JSON and its answers as what to do next. A chat, a thread or a button that Telegram
//! would refuse is refused here, and no text that leaves this room holds the token. Pure.

use std::fmt;

use crate::contract::json::{Value, parse};
use crate::contract::plain;

use super::normalize::ALLOWED_UPDATES;

/// The longest text of a message, in UTF-16 units, when the tags are taken away.
pub const MOST_UNITS: usize = 4096;

/// The most that a button carries, in bytes.
pub const MOST_DATA: usize = 64;

/// How long one request for updates waits, in seconds.
pub const POLL_SECONDS: u64 = 50;

/// The longest time that Telegram is believed to ask for, in seconds.
const MOST_WAIT: u64 = 3600;

/// The most of an error's words that is kept, in characters.
const MOST_WORDS: usize = 300;

/// What to post to `/bot<token>/<method>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The method's name.
    pub method: &'static str,
    /// The JSON body; that of `setWebhook` holds a secret, and others what people say.
    pub body: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("method", &self.method).field("bytes", &self.body.len()).finish()
    }
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Post<'a> {
    /// Where to.
    pub chat: &'a str,
    /// The topic in it.
    pub thread: Option<&'a str>,
    /// What it says.
    pub text: &'a str,
    /// How it is written.
    pub style: Style,
    /// The message that it answers; if that is gone, it answers none.
    pub reply_to: Option<&'a str>,
    /// Rows of buttons.
    pub buttons: &'a [Vec<Button>],
}

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Every character is itself.
    Plain,
    /// As `markup` makes it.
    Html,
}

/// A button under a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Button {
    /// What is on it.
    pub text: String,
    /// What comes back when it is pressed, [`MOST_DATA`] bytes at most.
    pub data: String,
}

/// Why a request cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// Neither a number nor `@name`.
    Chat,
    /// Not a positive number.
    Thread,
    /// Not a positive number.
    Message,
    /// Empty.
    Text,
    /// Without a text, or with data that is empty or too long.
    Button,
    /// Not 1 to 256 of `A-Z a-z 0-9 _ -`.
    Secret,
    /// A file path that leads elsewhere.
    Path,
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chat => "the chat is no Telegram chat; write its number or @name",
            Self::Thread => "the thread is no Telegram topic; write its positive number",
            Self::Message => "the message is no Telegram message; write its positive number",
            Self::Text => "the text is empty; write at least one character",
            Self::Button => "a button needs a text, and data of 1 to 64 bytes",
            Self::Secret => "the webhook secret must be 1 to 256 of A-Z, a-z, 0-9, _ and -",
            Self::Path => "Telegram named a file by a path that leads elsewhere",
        })
    }
}

impl std::error::Error for BadRequest {}

/// `sendMessage`.
///
/// # Errors
/// When a part of it would be refused.
pub fn send_message(post: &Post<'_>) -> Result<Request, BadRequest> {
    let mut fields = vec![("chat_id", chat(post.chat)?)];
    fields.extend(thread(post.thread)?.map(|id| ("message_thread_id", id)));
    said(&mut fields, post.text, post.style, post.buttons)?;
    if let Some(id) = post.reply_to {
        let id = positive(id).ok_or(BadRequest::Message)?;
        let reply = [("message_id", id), ("allow_sending_without_reply", Value::Bool(true))];
        fields.push(("reply_parameters", Value::object(reply)));
    }
    Ok(request("sendMessage", fields))
}

/// `editMessageText`: another text and other buttons in a message of the bot's own.
///
/// # Errors
/// When a part of it would be refused.
pub fn edit_message(post: &Post<'_>, message: &str) -> Result<Request, BadRequest> {
    let id = positive(message).ok_or(BadRequest::Message)?;
    let mut fields = vec![("chat_id", chat(post.chat)?), ("message_id", id)];
    said(&mut fields, post.text, post.style, post.buttons)?;
    Ok(request("editMessageText", fields))
}

/// `editMessageReplyMarkup` without any: the buttons of a message go.
///
/// # Errors
/// When the chat or the message would be refused.
pub fn take_buttons(to: &str, message: &str) -> Result<Request, BadRequest> {
    let id = positive(message).ok_or(BadRequest::Message)?;
    Ok(request("editMessageReplyMarkup", vec![("chat_id", chat(to)?), ("message_id", id)]))
}

/// `answerCallbackQuery`: Telegram turns a wheel on the button until it comes. The text is shown for a moment, 200
/// characters of it.
pub fn answer_callback_query(query: &str, text: &str) -> Request {
    let text: String = text.chars().take(200).collect();
    request("answerCallbackQuery", vec![("callback_query_id", query.into()), ("text", text.into())])
}

/// `sendChatAction`: the bot is typing for five seconds.
///
/// # Errors
/// When the chat or the thread would be refused.
pub fn send_typing(to: &str, topic: Option<&str>) -> Result<Request, BadRequest> {
    let mut fields = vec![("chat_id", chat(to)?), ("action", "typing".into())];
    fields.extend(thread(topic)?.map(|id| ("message_thread_id", id)));
    Ok(request("sendChatAction", fields))
}

/// `getUpdates`: so many of them, from this number on, waiting up to [`POLL_SECONDS`]. It confirms all updates before that number.
pub fn get_updates(offset: Option<i64>, limit: u64) -> Request {
    let mut fields = vec![("limit", limit.into()), ("timeout", POLL_SECONDS.into()), allowed_updates()];
    fields.extend(offset.map(|offset| ("offset", offset.into())));
    request("getUpdates", fields)
}

/// `setWebhook`. Updates that wait are kept.
///
/// # Errors
/// When Telegram would refuse the secret.
pub fn set_webhook(url: &str, secret: &str) -> Result<Request, BadRequest> {
    let is_usual = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if secret.is_empty() || secret.len() > 256 || !secret.chars().all(is_usual) {
        return Err(BadRequest::Secret);
    }
    let fields = vec![
        ("url", url.into()),
        ("secret_token", secret.into()),
        ("max_connections", 10_u64.into()),
        ("drop_pending_updates", Value::Bool(false)),
        allowed_updates(),
    ];
    Ok(request("setWebhook", fields))
}

/// `deleteWebhook`. Updates that wait are kept.
pub fn delete_webhook() -> Request {
    request("deleteWebhook", vec![("drop_pending_updates", Value::Bool(false))])
}

/// `getMe`: who the bot is.
pub fn get_me() -> Request {
    request("getMe", Vec::new())
}

/// `getFile`: where a file can be fetched for the next hour.
pub fn get_file(id: &str) -> Request {
    request("getFile", vec![("file_id", id.into())])
}

/// Where a request goes.
pub fn url(base: &str, token: &str, method: &str) -> String {
    format!("{}/bot{token}/{method}", base.trim_end_matches('/'))
}

/// Where a file is, by the path that `getFile` gave.
///
/// # Errors
/// When the path is not a plain one.
pub fn file_url(base: &str, token: &str, path: &str) -> Result<String, BadRequest> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    let leads_on = path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    if path.len() > 512 || !leads_on || !path.chars().all(is_plain) {
        return Err(BadRequest::Path);
    }
    Ok(format!("{}/file/bot{token}/{path}", base.trim_end_matches('/')))
}

/// What an answer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It was done; this came of it.
    Ok(Value),
    /// Again after so many seconds.
    RetryAfter(u64),
    /// It will never be done; the code and the words.
    Permanent(u16, String),
    /// Again later.
    Transient(String),
    /// The token is not valid any more.
    AuthFailed,
    /// Another poller or a webhook has the updates.
    Conflict(String),
    /// The chat has this number now.
    Migrated(i64),
    /// The markup was refused: again as plain text.
    CannotParse,
    /// The topic is gone: again without it.
    ThreadGone,
}

/// Reads an answer: the status of HTTP and the body.
pub fn answer(status: u16, body: &[u8]) -> Answer {
    let Ok(value) = parse(body) else {
        // Not from the Bot API: something between here and there.
        return Answer::Transient(format!("status {status} without a JSON answer"));
    };
    let ok = value.get("ok").and_then(Value::as_bool);
    if let (Some(true), Some(result), 200..=299) = (ok, value.get("result"), status) {
        return Answer::Ok(result.clone());
    }
    let code = value.get("error_code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let code = code.unwrap_or(status);
    let words: String =
        value.get("description").and_then(Value::as_str).unwrap_or("").chars().take(MOST_WORDS).collect();
    let words = plain::line(&words).into_owned();
    let parameter = |name: &str| value.get("parameters").and_then(|parameters| parameters.get(name));
    if let Some(to) = parameter("migrate_to_chat_id").and_then(Value::as_i64) {
        return Answer::Migrated(to);
    }
    let lower = words.to_ascii_lowercase();
    match code {
        // An update that asks for what is there already has been made.
        400 if lower.contains("message is not modified") => Answer::Ok(Value::Bool(true)),
        400 if lower.contains("can't parse entities") => Answer::CannotParse,
        400 if lower.contains("message thread not found") => Answer::ThreadGone,
        401 | 404 if ok == Some(false) => Answer::AuthFailed,
        409 => Answer::Conflict(words),
        429 => {
            let seconds = parameter("retry_after").and_then(Value::as_u64).unwrap_or(1);
            Answer::RetryAfter(seconds.clamp(1, MOST_WAIT))
        }
        408 | 425 => Answer::Transient(words),
        400..=499 => Answer::Permanent(code, words),
        _ => Answer::Transient(format!("status {code}: {words}")),
    }
}

/// The number of the first update in an answer that does not read: 200,000 values are the most that is read at once, and
/// a hundred messages may hold more.
pub fn first_update(body: &[u8]) -> Option<i64> {
    const NAME: &[u8] = b"\"update_id\":";
    let at = body.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let rest = body.get(at..)?;
    let digits = rest.iter().take(19).take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(rest.get(..digits)?).ok()?.parse().ok()
}

/// A text without the token, in whatever form of it an address has, nor its secret half.
pub fn redacted(text: &str, token: &str) -> String {
    let mut text = text.to_owned();
    let secret = token.split_once(':').map_or("", |(_, secret)| secret);
    for form in [token, &token.replace(':', "%3A"), &token.replace(':', "%3a"), secret] {
        if form.len() >= 8 {
            text = text.replace(form, "<token>");
        }
    }
    text
}

fn request(method: &'static str, fields: Vec<(&'static str, Value)>) -> Request {
    Request { method, body: Value::object(fields).to_string() }
}

fn allowed_updates() -> (&'static str, Value) {
    ("allowed_updates", Value::Array(ALLOWED_UPDATES.iter().map(|kind| Value::from(*kind)).collect()))
}

fn said(
    fields: &mut Vec<(&'static str, Value)>,
    text: &str,
    style: Style,
    buttons: &[Vec<Button>],
) -> Result<(), BadRequest> {
    if text.trim().is_empty() {
        return Err(BadRequest::Text);
    }
    fields.push(("text", text.into()));
    if style == Style::Html {
        fields.push(("parse_mode", "HTML".into()));
    }
    fields.push(("link_preview_options", Value::object([("is_disabled", Value::Bool(true))])));
    if !buttons.is_empty() {
        let rows =
            buttons.iter().map(|row| row.iter().map(button).collect::<Result<_, _>>().map(Value::Array));
        let keyboard = [("inline_keyboard", Value::Array(rows.collect::<Result<_, _>>()?))];
        fields.push(("reply_markup", Value::object(keyboard)));
    }
    Ok(())
}

fn button(button: &Button) -> Result<Value, BadRequest> {
    if button.text.trim().is_empty() || button.data.is_empty() || button.data.len() > MOST_DATA {
        return Err(BadRequest::Button);
    }
    Ok(Value::object(
        [("text", button.text.as_str()), ("callback_data", button.data.as_str())]
            .map(|(name, text)| (name, Value::from(text))),
    ))
}

pub(super) fn chat(text: &str) -> Result<Value, BadRequest> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let is_name = text.strip_prefix('@').is_some_and(|name| {
        (5..=32).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    match text.parse::<i64>() {
        Ok(number) if is_number => Ok(number.into()),
        _ if is_name => Ok(text.into()),
        _ => Err(BadRequest::Chat),
    }
}

/// The general topic is number 1 and refuses to be named.
pub(super) fn thread(text: Option<&str>) -> Result<Option<Value>, BadRequest> {
    match text.map(positive) {
        None => Ok(None),
        Some(Some(Value::Number(number))) if number == "1" => Ok(None),
        Some(Some(id)) => Ok(Some(id)),
        Some(None) => Err(BadRequest::Thread),
    }
}

pub(super) fn positive(text: &str) -> Option<Value> {
    let number: i64 = text.parse().ok().filter(|number| *number > 0)?;
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "123456:AAE-secret_Half";

    fn post(text: &str) -> Post<'_> {
        Post { chat: "-1001", thread: None, text, style: Style::Plain, reply_to: None, buttons: &[] }
    }

    #[test]
    fn bodies_say_what_is_documented() {
        let body = send_message(&post("hi")).unwrap();
        assert_eq!(body.method, "sendMessage");
        assert_eq!(body.body, r#"{"chat_id":-1001,"text":"hi","link_preview_options":{"is_disabled":true}}"#);
        let rows = [vec![Button { text: "Yes".into(), data: "y".into() }]];
        let full = Post {
            thread: Some("55"),
            style: Style::Html,
            reply_to: Some("7"),
            buttons: &rows,
            ..post("hi")
        };
        assert_eq!(
            send_message(&full).unwrap().body,
            concat!(
                r#"{"chat_id":-1001,"message_thread_id":55,"text":"hi","parse_mode":"HTML","#,
                r#""link_preview_options":{"is_disabled":true},"#,
                r#""reply_markup":{"inline_keyboard":[[{"text":"Yes","callback_data":"y"}]]},"#,
                r#""reply_parameters":{"message_id":7,"allow_sending_without_reply":true}}"#
            )
        );
        let general = Post { thread: Some("1"), ..post("hi") };
        assert!(!send_message(&general).unwrap().body.contains("thread"), "the general topic is not named");
        let taken = take_buttons("@news_channel", "7").unwrap();
        assert_eq!(
            (taken.method, taken.body.as_str()),
            ("editMessageReplyMarkup", r#"{"chat_id":"@news_channel","message_id":7}"#)
        );
        assert_eq!(
            send_typing("5", Some("9")).unwrap().body,
            r#"{"chat_id":5,"action":"typing","message_thread_id":9}"#
        );
        assert!(get_updates(Some(8), 100).body.ends_with(r#""callback_query"],"offset":8}"#));
        assert!(!get_updates(None, 100).body.contains("offset"));
        for (body, id) in [
            (&br#"{"ok":true,"result":[{"update_id":17,"message":"#[..], Some(17)),
            (br#"{"update_id":x"#, None),
            (br#""update_id":99999999999999999999"#, None),
            (b"", None),
        ] {
            assert_eq!(first_update(body), id);
        }
        let set = set_webhook("https://a.example/h", "s-1_").unwrap();
        assert!(set.body.contains(r#""secret_token":"s-1_""#) && !format!("{set:?}").contains("s-1_"));
        assert_eq!(answer_callback_query("q", "ok").body, r#"{"callback_query_id":"q","text":"ok"}"#);
        assert_eq!(get_file("f").body, r#"{"file_id":"f"}"#);
        assert_eq!((get_me().body.as_str(), delete_webhook().method), ("{}", "deleteWebhook"));
    }

    #[test]
    fn what_telegram_would_refuse_is_refused() {
        for chat in
            ["", "-", "5x", "--5", "+5", "5/../x", "@abc", "@a b c d e", "99999999999999999999", "5\n"]
        {
            assert_eq!(send_message(&Post { chat, ..post("x") }), Err(BadRequest::Chat), "{chat:?}");
        }
        for bad in ["0", "-1", "+2", "x", "", "1e3"] {
            assert_eq!(send_message(&Post { thread: Some(bad), ..post("x") }), Err(BadRequest::Thread));
            assert_eq!(send_message(&Post { reply_to: Some(bad), ..post("x") }), Err(BadRequest::Message));
        }
        assert_eq!(send_message(&post(" \n")), Err(BadRequest::Text));
        for (text, data) in [("", "x"), ("x", ""), ("x", &"y".repeat(65))] {
            let rows = [vec![Button { text: text.into(), data: data.into() }]];
            assert_eq!(send_message(&Post { buttons: &rows, ..post("x") }), Err(BadRequest::Button));
        }
        for secret in ["", "a b", "ä", &"x".repeat(257)] {
            assert_eq!(set_webhook("https://a.example", secret), Err(BadRequest::Secret));
        }
        let file = |path| file_url("https://a.example/", TOKEN, path);
        assert_eq!(
            file("photos/file_1.jpg").unwrap(),
            format!("https://a.example/file/bot{TOKEN}/photos/file_1.jpg")
        );
        for path in ["", "/x", "a//b", "../x", "a/../b", "a?b", "a#b", "a\r\nb", "http://x", "a/.x"] {
            assert_eq!(file(path), Err(BadRequest::Path), "{path:?}");
        }
    }

    #[test]
    fn an_answer_says_what_to_do_next() {
        let error = |code: u16, words: &str, parameters: &str| {
            let body = format!(
                r#"{{"ok":false,"error_code":{code},"description":"{words}","parameters":{{{parameters}}}}}"#
            );
            answer(code, body.as_bytes())
        };
        assert_eq!(answer(200, br#"{"ok":true,"result":[]}"#), Answer::Ok(Value::Array(Vec::new())));
        assert_eq!(
            error(429, "Too Many Requests: retry after 7", r#""retry_after":7"#),
            Answer::RetryAfter(7)
        );
        assert_eq!(error(429, "x", r#""retry_after":99999999"#), Answer::RetryAfter(3600));
        assert_eq!(error(429, "x", ""), Answer::RetryAfter(1));
        assert_eq!(error(401, "Unauthorized", ""), Answer::AuthFailed);
        assert_eq!(error(404, "Not Found", ""), Answer::AuthFailed, "what a malformed token gets");
        assert_eq!(error(400, "Bad Request: can't parse entities: x", ""), Answer::CannotParse);
        assert_eq!(error(400, "Bad Request: message thread not found", ""), Answer::ThreadGone);
        assert_eq!(error(400, "Bad Request: message is not modified", ""), Answer::Ok(Value::Bool(true)));
        assert_eq!(error(400, "upgraded", r#""migrate_to_chat_id":-1002"#), Answer::Migrated(-1002));
        let forbidden = "Forbidden: bot was blocked by the user";
        assert_eq!(error(403, forbidden, ""), Answer::Permanent(403, forbidden.to_owned()));
        assert!(matches!(error(400, "Bad Request: chat not found", ""), Answer::Permanent(400, _)));
        assert!(matches!(error(409, "Conflict: terminated", ""), Answer::Conflict(_)));
        assert!(matches!(error(500, "Internal", ""), Answer::Transient(_)));
        for (status, body) in [
            (502, "<html>Bad Gateway</html>"),
            (200, ""),
            (200, r#"{"ok":true}"#),
            (200, "[]"),
            (404, "not found"),
            (301, "{}"),
        ] {
            assert!(matches!(answer(status, body.as_bytes()), Answer::Transient(_)), "{status} {body}");
        }
        let shown = error(400, &"\\u202e".repeat(1000), "");
        let Answer::Permanent(_, words) = shown else { panic!("it is permanent") };
        assert!(!words.contains('\u{202e}') && words.len() < 3000);
    }

    #[test]
    fn no_text_holds_the_token() {
        let encoded = TOKEN.replace(':', "%3A");
        let text = format!("GET https://a.example/bot{TOKEN}/getMe {encoded} AAE-secret_Half failed");
        let shown = redacted(&text, TOKEN);
        assert_eq!(shown, "GET https://a.example/bot<token>/getMe <token> <token> failed");
        assert_eq!(redacted("plain", ""), "plain");
    }
}
