//! A Telegram update becomes an event for the router, or is ignored for a reason that can be counted. Identifiers are
//! Telegram's numbers, never names that people can change. Pure.

use std::fmt;

use crate::contract::json::Value;

use super::super::event::{BadEvent, EventKind, InboundEvent, Quoted, Sender, Voice};
use super::media::{attachments, location};
use super::spans::spoken;

/// The updates to ask for.
pub const ALLOWED_UPDATES: &[&str] =
    &["message", "edited_message", "channel_post", "edited_channel_post", "callback_query"];

/// Who the bot is, as `getMe` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bot<'a> {
    /// Its user id.
    pub id: i64,
    /// Its name, without the `@`.
    pub username: &'a str,
}

impl Bot<'_> {
    /// Whether this is its name, in any case of letters.
    pub fn is_named(&self, name: Option<&str>) -> bool {
        !self.username.is_empty() && name.is_some_and(|name| name.eq_ignore_ascii_case(self.username))
    }
}

/// Why nothing comes of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// A kind of update that says nothing to an agent.
    Kind,
    /// Without an update id, a chat or a sender: not from Telegram.
    Malformed,
    /// The bot's own message.
    Own,
    /// Neither text nor files: someone joined, a title changed.
    Nothing,
    /// A part of it that would be acted on is unusable.
    Bad(BadEvent),
}

impl Ignored {
    /// One word for logs and counters.
    pub fn word(&self) -> &'static str {
        match self {
            Ignored::Kind => "kind",
            Ignored::Malformed => "malformed",
            Ignored::Own => "own",
            Ignored::Nothing => "nothing",
            Ignored::Bad(_) => "bad",
        }
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ignored::Bad(bad) => bad.fmt(f),
            other => f.write_str(other.word()),
        }
    }
}

/// The update's number: the next request asks from one beyond it, whatever comes of the update.
pub fn update_id(update: &Value) -> Option<i64> {
    update.get("update_id")?.as_i64()
}

/// Reads an update.
///
/// # Errors
/// The reason for which nothing comes of it. It is to be confirmed to Telegram all the same.
pub fn normalize(update: &Value, bot: &Bot<'_>) -> Result<InboundEvent, Ignored> {
    let event_id = update_id(update).ok_or(Ignored::Malformed)?.to_string();
    let field = |name: &str| update.get(name).filter(|value| !value.is_null());
    let event = if let Some(query) = field("callback_query") {
        button(query, event_id, bot)?
    } else if let Some(text) = field("message").or_else(|| field("channel_post")) {
        message(text, event_id, EventKind::Message, bot)?
    } else if let Some(text) = field("edited_message").or_else(|| field("edited_channel_post")) {
        message(text, event_id, EventKind::Edit, bot)?
    } else {
        return Err(Ignored::Kind);
    };
    event.check().map_err(Ignored::Bad)
}

fn message(
    message: &Value,
    event_id: String,
    kind: EventKind,
    bot: &Bot<'_>,
) -> Result<InboundEvent, Ignored> {
    let chat = message.get("chat").ok_or(Ignored::Malformed)?;
    let sender = sender(message).ok_or(Ignored::Malformed)?;
    if user_id(message) == Some(bot.id) {
        return Err(Ignored::Own);
    }
    let moved = number(message, "migrate_to_chat_id").map(|to| EventKind::Moved { to: to.to_string() });
    let is_moved = moved.is_some();
    let (text, entities) = match message.get("text") {
        Some(text) => (text.as_str(), message.get("entities")),
        None => (message.get("caption").and_then(Value::as_str), message.get("caption_entities")),
    };
    let mut spoken = spoken(text.unwrap_or(""), entities, bot);
    if let Some(place) = location(message) {
        spoken.text = if spoken.text.is_empty() { place } else { format!("{}\n{place}", spoken.text) };
    }
    let attachments = attachments(message);
    let is_group = chat.get("type").and_then(Value::as_str) != Some("private");
    let answered = answered(message);
    let is_answer = answered.is_some_and(|to| user_id(to) == Some(bot.id));
    let is_said = text.is_some() || !spoken.text.is_empty() || !attachments.is_empty();
    if !is_said && !is_moved {
        return Err(Ignored::Nothing);
    }
    let time = if kind == EventKind::Edit { number(message, "edit_date") } else { None };
    Ok(InboundEvent {
        event_id,
        chat: number(chat, "id").ok_or(Ignored::Malformed)?.to_string(),
        thread: thread(message),
        message_id: number(message, "message_id").map(|id| id.to_string()),
        title: title(chat, &sender),
        sender,
        is_group,
        mentioned: !is_group || spoken.mentioned || is_answer,
        text: spoken.text,
        reply_to: answered.and_then(|to| quoted(to, message.get("quote"))),
        attachments,
        occurred_at: time.or_else(|| number(message, "date")).and_then(|seconds| seconds.checked_mul(1000)),
        kind: moved.unwrap_or(kind),
    })
}

/// A press on a button under one of the bot's messages.
fn button(query: &Value, event_id: String, bot: &Bot<'_>) -> Result<InboundEvent, Ignored> {
    // Under a message that was sent into another chat by name there is no chat to answer in.
    let under = query.get("message").ok_or(Ignored::Kind)?;
    let data = query.get("data").and_then(Value::as_str).ok_or(Ignored::Kind)?;
    let chat = under.get("chat").ok_or(Ignored::Malformed)?;
    let sender = query.get("from").and_then(user).ok_or(Ignored::Malformed)?;
    if user_id(query) == Some(bot.id) {
        return Err(Ignored::Own);
    }
    Ok(InboundEvent {
        event_id,
        chat: number(chat, "id").ok_or(Ignored::Malformed)?.to_string(),
        thread: thread(under),
        message_id: number(under, "message_id").map(|id| id.to_string()),
        title: title(chat, &sender),
        sender,
        is_group: chat.get("type").and_then(Value::as_str) != Some("private"),
        mentioned: true,
        text: String::new(),
        reply_to: quoted(under, None),
        attachments: Vec::new(),
        // Telegram says when the message was sent, not when the button was pressed.
        occurred_at: None,
        kind: EventKind::Button {
            data: data.to_owned(),
            query: query.get("id").and_then(Value::as_str).unwrap_or("").to_owned(),
        },
    })
}

/// Telegram has a thread id on every answer in a group; only a topic is a thread to answer in, and the general topic,
/// which is number 1, is answered without any.
fn thread(message: &Value) -> Option<String> {
    let is_topic = message.get("is_topic_message").and_then(Value::as_bool) == Some(true);
    number(message, "message_thread_id").filter(|id| is_topic && *id > 1).map(|id| id.to_string())
}

/// The message that this one answers. The first message of a topic is what everything in the topic is said to answer.
fn answered(message: &Value) -> Option<&Value> {
    let answered = message.get("reply_to_message").filter(|value| !value.is_null())?;
    let is_root = thread(message).is_some()
        && (answered.get("forum_topic_created").is_some()
            || number(answered, "message_id") == number(message, "message_thread_id"));
    (!is_root).then_some(answered)
}

fn quoted(message: &Value, quote: Option<&Value>) -> Option<Quoted> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Quoted {
        message_id: number(message, "message_id")?.to_string(),
        handle: sender(message).map(|sender| sender.handle).unwrap_or_default(),
        excerpt: quote
            .and_then(|quote| text(quote, "text"))
            .or_else(|| text(message, "text"))
            .or_else(|| text(message, "caption"))
            .unwrap_or_default(),
    })
}

/// Who wrote it: the channel or group in whose name it was, else the user. An anonymous administrator speaks for the
/// group, and the user that Telegram gives is a bot that stands for all of them.
fn sender(message: &Value) -> Option<Sender> {
    if let Some(chat) = message.get("sender_chat").filter(|value| !value.is_null()) {
        return speaking_chat(chat);
    }
    match message.get("from").filter(|value| !value.is_null()) {
        Some(from) => user(from),
        None => speaking_chat(
            message.get("chat").filter(|chat| chat.get("type").and_then(Value::as_str) == Some("channel"))?,
        ),
    }
}

fn speaking_chat(chat: &Value) -> Option<Sender> {
    let name = chat.get("title").and_then(Value::as_str).unwrap_or("").to_owned();
    Some(Sender { handle: number(chat, "id")?.to_string(), name, voice: Voice::Chat })
}

fn user(from: &Value) -> Option<Sender> {
    let part = |name| from.get(name).and_then(Value::as_str).unwrap_or("");
    let is_bot = from.get("is_bot").and_then(Value::as_bool) == Some(true);
    Some(Sender {
        handle: number(from, "id")?.to_string(),
        name: format!("{} {}", part("first_name"), part("last_name")).trim().to_owned(),
        voice: if is_bot { Voice::Program } else { Voice::Person },
    })
}

fn user_id(message: &Value) -> Option<i64> {
    number(message.get("from")?, "id")
}

fn title(chat: &Value, sender: &Sender) -> String {
    chat.get("title").and_then(Value::as_str).unwrap_or(&sender.name).to_owned()
}

fn number(value: &Value, name: &str) -> Option<i64> {
    value.get(name)?.as_i64()
}

#[cfg(test)]
mod tests {
    use super::super::super::event::AttachmentKind;
    use super::*;
    use crate::contract::json::parse;

    const BOT: Bot<'_> = Bot { id: 99, username: "claw_bot" };
    const ANN: &str =
        r#""from":{"id":42,"is_bot":false,"first_name":"Ann","last_name":"Lee","username":"ann"}"#;
    const GROUP: &str = r#""chat":{"id":-1001,"type":"supergroup","title":"Team","is_forum":true}"#;
    const PRIVATE: &str = r#""chat":{"id":42,"type":"private","first_name":"Ann"}"#;

    /// A message with these fields beside its number and date.
    fn read_as(kind: &str, fields: &[&str]) -> Result<InboundEvent, Ignored> {
        let message = format!(r#"{{"message_id":7,"date":1700000000,{}}}"#, fields.join(","));
        read(&format!(r#"{{"update_id":1000,"{kind}":{message}}}"#))
    }

    fn read(update: &str) -> Result<InboundEvent, Ignored> {
        normalize(&parse(update.as_bytes()).unwrap(), &BOT)
    }

    fn said(fields: &[&str]) -> InboundEvent {
        read_as("message", fields).unwrap()
    }

    #[test]
    fn a_private_message() {
        let event = said(&[ANN, PRIVATE, r#""text":"hello""#]);
        assert_eq!((event.event_id.as_str(), event.chat.as_str()), ("1000", "42"));
        assert_eq!(
            event.sender,
            Sender { handle: "42".into(), name: "Ann Lee".into(), voice: Voice::Person }
        );
        assert_eq!((event.title.as_str(), event.text.as_str()), ("Ann Lee", "hello"));
        assert!(event.mentioned && !event.is_group);
        assert_eq!((event.message_id.as_deref(), event.occurred_at), (Some("7"), Some(1_700_000_000_000)));
        assert_eq!(event.kind, EventKind::Message);
    }

    #[test]
    fn a_group_message_is_for_the_bot_only_if_it_says_so() {
        let plain = said(&[ANN, GROUP, r#""text":"hello all""#]);
        assert!(plain.is_group && !plain.mentioned);
        assert_eq!((plain.chat.as_str(), plain.title.as_str()), ("-1001", "Team"));
        let named = r#""text":"@claw_bot hi","entities":[{"type":"mention","offset":0,"length":9}]"#;
        let named = said(&[ANN, GROUP, named]);
        assert!(named.mentioned);
        assert_eq!(named.text, "hi");
        let caption = r#""caption":"@claw_bot look","caption_entities":[{"type":"mention","offset":0,"length":9}],
            "photo":[{"file_id":"s","width":10,"height":10},{"file_id":"L","width":90,"height":90,"file_size":5}]"#;
        let caption = said(&[ANN, GROUP, caption]);
        assert_eq!((caption.text.as_str(), caption.mentioned), ("look", true));
        let photo = &caption.attachments[0];
        assert_eq!((photo.id.as_str(), photo.kind, photo.size), ("L", AttachmentKind::Image, Some(5)));
        let only_name = r#""text":"@claw_bot","entities":[{"type":"mention","offset":0,"length":9}]"#;
        assert!(said(&[ANN, GROUP, only_name]).mentioned, "a name alone is a call");
    }

    #[test]
    fn an_answer_to_the_bot_is_for_it() {
        let answer = |from: &str| {
            format!(
                r#""text":"yes","reply_to_message":{{"message_id":5,"text":"Shall I?","from":{{"id":{from}}}}}"#
            )
        };
        let to_bot = said(&[ANN, GROUP, &answer("99")]);
        assert!(to_bot.mentioned);
        let quoted = Quoted { message_id: "5".into(), handle: "99".into(), excerpt: "Shall I?".into() };
        assert_eq!(to_bot.reply_to, Some(quoted));
        assert!(!said(&[ANN, GROUP, &answer("43")]).mentioned);
        let part = said(&[ANN, GROUP, &answer("99"), r#""quote":{"text":"I?","position":6}"#]);
        assert_eq!(part.reply_to.unwrap().excerpt, "I?");
    }

    #[test]
    fn a_topic_is_a_thread_and_an_answer_is_none() {
        let text = r#""text":"x""#;
        let topic = |id: &str| format!(r#""is_topic_message":true,"message_thread_id":{id}"#);
        assert_eq!(said(&[ANN, GROUP, text, &topic("55")]).thread.as_deref(), Some("55"));
        assert_eq!(said(&[ANN, GROUP, text, &topic("1")]).thread, None, "the general topic");
        assert_eq!(said(&[ANN, GROUP, text, r#""message_thread_id":55"#]).thread, None);
        // Everything in a topic answers the message that opened it, here one of the bot's.
        let root =
            r#""reply_to_message":{"message_id":55,"from":{"id":99},"forum_topic_created":{"name":"T"}}"#;
        let in_topic = said(&[ANN, GROUP, text, &topic("55"), root]);
        assert_eq!((in_topic.reply_to, in_topic.mentioned), (None, false));
    }

    #[test]
    fn who_speaks_for_a_chat_is_the_chat() {
        let anonymous = r#""from":{"id":1087968824,"is_bot":true,"first_name":"Group"},
            "sender_chat":{"id":-1001,"type":"supergroup","title":"Team"}"#;
        let event = said(&[anonymous, GROUP, r#""text":"x""#]);
        assert_eq!(event.sender, Sender { handle: "-1001".into(), name: "Team".into(), voice: Voice::Chat });
        let channel = r#""chat":{"id":-1009,"type":"channel","title":"News"}"#;
        for speaker in [r#""sender_chat":{"id":-1009,"type":"channel","title":"News"}"#, r#""x":0"#] {
            let post = read_as("channel_post", &[speaker, channel, r#""text":"x""#]).unwrap();
            assert_eq!((post.sender.handle.as_str(), post.is_group, post.mentioned), ("-1009", true, false));
            assert_eq!(post.sender.voice, Voice::Chat, "a bot may have written it");
        }
    }

    #[test]
    fn bots_are_marked_and_the_bot_itself_is_ignored() {
        let other = r#""from":{"id":98,"is_bot":true,"first_name":"Other"}"#;
        assert!(said(&[other, GROUP, r#""text":"x""#]).sender.voice == Voice::Program);
        let own = r#""from":{"id":99,"is_bot":true,"first_name":"Claw"}"#;
        for kind in ["message", "edited_message"] {
            assert_eq!(read_as(kind, &[own, GROUP, r#""text":"x""#]), Err(Ignored::Own));
        }
    }

    #[test]
    fn an_edit_says_when_it_was_made() {
        let event =
            read_as("edited_message", &[ANN, PRIVATE, r#""text":"y","edit_date":1700000100"#]).unwrap();
        assert_eq!((event.kind, event.occurred_at), (EventKind::Edit, Some(1_700_000_100_000)));
    }

    #[test]
    fn a_pressed_button() {
        let press = |rest: &str| {
            read(&format!(
                r#"{{"update_id":3,"callback_query":{{"id":"q1",{ANN},"chat_instance":"1"{rest}}}}}"#
            ))
        };
        let under = format!(
            r#","message":{{"message_id":8,"date":0,{GROUP},"is_topic_message":true,"message_thread_id":55,
            "from":{{"id":99,"is_bot":true}},"text":"Approve?"}}"#
        );
        let event = press(&format!(r#","data":"ok:1"{under}"#)).unwrap();
        assert_eq!(event.kind, EventKind::Button { data: "ok:1".into(), query: "q1".into() });
        assert_eq!((event.sender.handle.as_str(), event.mentioned), ("42", true));
        assert_eq!((event.chat.as_str(), event.thread.as_deref()), ("-1001", Some("55")));
        assert_eq!(event.reply_to.unwrap().excerpt, "Approve?");
        assert_eq!(press(&under), Err(Ignored::Kind), "a game has no data");
        assert_eq!(press(r#","data":"x","inline_message_id":"i""#), Err(Ignored::Kind));
    }

    #[test]
    fn a_chat_that_moves_and_messages_that_say_nothing() {
        let moved = said(&[ANN, GROUP, r#""migrate_to_chat_id":-100200"#]);
        assert_eq!(moved.kind, EventKind::Moved { to: "-100200".into() });
        for nothing in
            [r#""new_chat_members":[{"id":1}]"#, r#""migrate_from_chat_id":-5"#, r#""dice":{"value":3}"#]
        {
            assert_eq!(read_as("message", &[ANN, GROUP, nothing]), Err(Ignored::Nothing));
        }
        let place = said(&[ANN, PRIVATE, r#""location":{"latitude":52.5,"longitude":13.4}"#]);
        assert_eq!(place.text, "Location: 52.5, 13.4");
    }

    #[test]
    fn files_of_every_kind() {
        for (field, kind, name) in [
            (r#""document":{"file_id":"d","file_name":"a.pdf"}"#, AttachmentKind::File, "a.pdf"),
            (r#""voice":{"file_id":"d"}"#, AttachmentKind::Voice, "voice.ogg"),
            (r#""audio":{"file_id":"d"}"#, AttachmentKind::Audio, "audio.mp3"),
            (r#""video":{"file_id":"d"}"#, AttachmentKind::Video, "video.mp4"),
            (r#""video_note":{"file_id":"d"}"#, AttachmentKind::Video, "video_note.mp4"),
            (r#""sticker":{"file_id":"d"}"#, AttachmentKind::Sticker, "sticker.webp"),
            (
                r#""animation":{"file_id":"d"},"document":{"file_id":"d"}"#,
                AttachmentKind::Video,
                "animation.mp4",
            ),
        ] {
            let event = said(&[ANN, PRIVATE, field]);
            assert_eq!(event.attachments.len(), 1, "{field}");
            assert_eq!((event.attachments[0].kind, event.attachments[0].name.as_str()), (kind, name));
        }
    }

    #[test]
    fn what_is_not_from_telegram_is_no_panic() {
        for (update, why) in [
            ("{}", Ignored::Malformed),
            ("[]", Ignored::Malformed),
            (r#"{"update_id":"1","message":{}}"#, Ignored::Malformed),
            (r#"{"update_id":1}"#, Ignored::Kind),
            (r#"{"update_id":1,"message":null}"#, Ignored::Kind),
            (r#"{"update_id":1,"poll":{}}"#, Ignored::Kind),
            (r#"{"update_id":1,"message":{}}"#, Ignored::Malformed),
            (r#"{"update_id":1,"message":[]}"#, Ignored::Malformed),
            (r#"{"update_id":1,"message":{"chat":{},"from":{"id":1},"text":"x"}}"#, Ignored::Malformed),
            (
                r#"{"update_id":1,"message":{"chat":{"id":1.5},"from":{"id":1},"text":"x"}}"#,
                Ignored::Malformed,
            ),
            (r#"{"update_id":1,"callback_query":{}}"#, Ignored::Kind),
        ] {
            assert_eq!(read(update), Err(why), "{update}");
        }
        let date = read(
            r#"{"update_id":1,"message":{"date":9223372036854775807,"chat":{"id":1},"from":{"id":1},"text":"x"}}"#,
        );
        assert_eq!(date.unwrap().occurred_at, None);
        let control = read(
            r#"{"update_id":1,"callback_query":{"id":"\u0000","data":"x","from":{"id":1},"message":{"chat":{"id":1}}}}"#,
        );
        assert_eq!(control.unwrap_err().word(), "bad");
    }
}
