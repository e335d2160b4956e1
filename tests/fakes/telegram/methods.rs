//! The methods of the Bot API, from its public description: what they check, what they change, and the words with
//! which they refuse.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::entities::visible;
use crate::http::Part;
use crate::json::{Json, object};
use crate::world::{Shared, World};

/// The longest text in UTF-16 units, the longest caption, and the largest file and picture in bytes.
const MOST_TEXT: usize = 4096;
const MOST_CAPTION: usize = 1024;
const MOST_FILE: usize = 50 << 20;
const MOST_PHOTO: usize = 10 << 20;

/// What a method gives, or the code and words of its refusal.
pub(crate) type Outcome = Result<Json, Refusal>;

pub(crate) struct Refusal {
    pub(crate) code: i64,
    pub(crate) words: String,
    pub(crate) parameters: Option<Json>,
}

pub(crate) fn refuse<T>(code: i64, words: &str) -> Result<T, Refusal> {
    Err(Refusal { code, words: words.to_owned(), parameters: None })
}

/// Runs a method.
pub(crate) fn call(shared: &Shared, method: &str, asked: &Json, files: Vec<Part>, order: &str) -> Outcome {
    if method == "getUpdates" {
        return get_updates(shared, asked, order);
    }
    let mut world = shared.lock();
    let outcome = match method {
        "getMe" => {
            let mut me = world.bot_user();
            me.set("can_read_all_group_messages", true);
            Ok(me)
        }
        "sendMessage" => send_message(&mut world, asked),
        "editMessageText" => edit_message(&mut world, asked),
        "editMessageReplyMarkup" => edit_markup(&mut world, asked),
        "sendChatAction" => {
            place(&world, asked)?;
            world.actions.push(asked.clone());
            Ok(true.into())
        }
        "sendPhoto" => send_file(&mut world, asked, files, "photo", MOST_PHOTO),
        "sendDocument" => send_file(&mut world, asked, files, "document", MOST_FILE),
        "getFile" => {
            let wanted = asked.text("file_id").unwrap_or("");
            match world.files.iter().find(|file| file.id == wanted) {
                Some(file) => Ok(object([
                    ("file_id", file.id.clone().into()),
                    ("file_size", file.content.len().into()),
                    ("file_path", file.path().into()),
                ])),
                None => refuse(400, "Bad Request: invalid file_id"),
            }
        }
        "answerCallbackQuery" => {
            world.answered.push(asked.clone());
            Ok(true.into())
        }
        "deleteWebhook" => {
            world.webhook = None;
            if asked.is_true("drop_pending_updates") {
                world.updates.clear();
            }
            Ok(true.into())
        }
        "setWebhook" => set_webhook(&mut world, asked),
        "getWebhookInfo" => Ok(webhook_info(&world)),
        _ => refuse(404, "Not Found: method not found"),
    };
    drop(world);
    shared.ring();
    outcome
}

fn get_updates(shared: &Shared, asked: &Json, order: &str) -> Outcome {
    let mut world = shared.lock();
    if world.webhook.is_some() {
        return refuse(
            409,
            "Conflict: can't use getUpdates method while webhook is active; use deleteWebhook first",
        );
    }
    world.poll += 1;
    let own = world.poll;
    shared.ring();
    if let Some(offset) = asked.int("offset") {
        world.updates.retain(|update| update.int("update_id") >= Some(offset));
    }
    let limit = asked.int("limit").and_then(|limit| usize::try_from(limit).ok()).unwrap_or(100).clamp(1, 100);
    let wait = u64::try_from(asked.int("timeout").unwrap_or(0)).unwrap_or(0);
    let until = Instant::now() + Duration::from_secs(wait);
    while world.updates.is_empty() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        world = shared.wait(world, left);
        if world.poll != own {
            return refuse(
                409,
                "Conflict: terminated by other getUpdates request; make sure that only one bot instance is running",
            );
        }
        if world.revoked {
            return refuse(401, "Unauthorized");
        }
    }
    let mut batch: Vec<Json> = world.updates.iter().take(limit).cloned().collect();
    match order {
        "duplicate" => batch = batch.iter().flat_map(|update| [update.clone(), update.clone()]).collect(),
        "reorder" => batch.reverse(),
        _ => {}
    }
    Ok(batch.into())
}

fn set_webhook(world: &mut World, asked: &Json) -> Outcome {
    let url = asked.text("url").unwrap_or("");
    let secret = asked.text("secret_token").unwrap_or("");
    let is_usual = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if secret.len() > 256 || !secret.chars().all(is_usual) {
        return refuse(400, "Bad Request: secret token contains unallowed characters");
    }
    let is_reachable = url.starts_with("http://127.0.0.1:") || url.starts_with("http://[::1]:");
    if !is_reachable && !url.starts_with("https://") {
        return refuse(400, "Bad Request: bad webhook: An HTTPS URL must be provided for webhook");
    }
    world.webhook = Some((url.to_owned(), secret.to_owned()));
    Ok(true.into())
}

fn webhook_info(world: &World) -> Json {
    let url = world.webhook.as_ref().map_or("", |(url, _)| url);
    let mut info = object([
        ("url", url.into()),
        ("has_custom_certificate", false.into()),
        ("pending_update_count", (world.updates.len() + usize::from(world.hook_error.is_some())).into()),
    ]);
    if let Some(words) = &world.hook_error {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        info.set("last_error_date", i64::try_from(now).unwrap_or(0));
        info.set("last_error_message", words.clone());
    }
    info
}

fn send_message(world: &mut World, asked: &Json) -> Outcome {
    let (chat, thread) = place(world, asked)?;
    let text = said(asked, "text", MOST_TEXT)?;
    if text.trim().is_empty() {
        return refuse(400, "Bad Request: message text is empty");
    }
    check_buttons(asked)?;
    check_reply(world, asked, chat)?;
    Ok(keep(world, asked, "sendMessage", chat, thread, &text, &[]))
}

fn edit_message(world: &mut World, asked: &Json) -> Outcome {
    let (chat, _) = place(world, asked)?;
    let text = said(asked, "text", MOST_TEXT)?;
    check_buttons(asked)?;
    let message = asked.int("message_id").unwrap_or(0);
    let Some(at) = world.sent_message(chat, message) else {
        return refuse(400, "Bad Request: message to edit not found");
    };
    let Some(sent) = world.sent.get_mut(at) else { return refuse(500, "Internal Server Error") };
    let buttons = asked.get("reply_markup").cloned().unwrap_or(Json::Null);
    if sent.text("plain") == Some(&text) && sent.get("reply_markup") == Some(&buttons) {
        return refuse(
            400,
            "Bad Request: message is not modified: specified new message content and reply markup are exactly the same \
             as a current content and reply markup of the message",
        );
    }
    sent.set("plain", text.clone());
    sent.set("text", asked.text("text").unwrap_or(""));
    sent.set("reply_markup", buttons);
    sent.set("edits", sent.int("edits").unwrap_or(0) + 1);
    let chat_json = world.chat_json(chat);
    Ok(message_json(world, message, chat_json, None, &text))
}

fn edit_markup(world: &mut World, asked: &Json) -> Outcome {
    let (chat, _) = place(world, asked)?;
    check_buttons(asked)?;
    let message = asked.int("message_id").unwrap_or(0);
    let Some(at) = world.sent_message(chat, message) else {
        return refuse(400, "Bad Request: message to edit not found");
    };
    let Some(sent) = world.sent.get_mut(at) else { return refuse(500, "Internal Server Error") };
    let buttons = asked.get("reply_markup").cloned().unwrap_or(Json::Null);
    if sent.get("reply_markup").cloned().unwrap_or(Json::Null) == buttons {
        return refuse(400, "Bad Request: message is not modified");
    }
    sent.set("reply_markup", buttons);
    sent.set("edits", sent.int("edits").unwrap_or(0) + 1);
    let text = sent.text("plain").unwrap_or("").to_owned();
    let chat_json = world.chat_json(chat);
    Ok(message_json(world, message, chat_json, None, &text))
}

fn send_file(world: &mut World, asked: &Json, files: Vec<Part>, kind: &'static str, most: usize) -> Outcome {
    let (chat, thread) = place(world, asked)?;
    let caption = said(asked, "caption", MOST_CAPTION)?;
    check_buttons(asked)?;
    check_reply(world, asked, chat)?;
    let attached = asked.text(kind).and_then(|place| place.strip_prefix("attach://")).unwrap_or(kind);
    let Some(file) = files.into_iter().find(|part| part.name == attached && part.file.is_some()) else {
        return refuse(400, &format!("Bad Request: there is no {kind} in the request"));
    };
    if file.content.is_empty() {
        return refuse(400, "Bad Request: file must be non-empty");
    }
    if file.content.len() > most {
        return refuse(413, "Request Entity Too Large");
    }
    let name = file.file.unwrap_or_default();
    let size = file.content.len();
    let id = world.keep_file(&name, file.content);
    let method = if kind == "photo" { "sendPhoto" } else { "sendDocument" };
    let extra = [("file_id", id.into()), ("file_name", name.into()), ("file_size", size.into())];
    Ok(keep(world, asked, method, chat, thread, &caption, &extra))
}

/// The chat and the topic in it, if both can be written to.
fn place(world: &World, asked: &Json) -> Result<(i64, Option<i64>), Refusal> {
    let by_name = |name: &str| world.chats.iter().find(|(_, chat)| !name.is_empty() && chat.username == name);
    let id = match asked.text("chat_id").and_then(|text| text.strip_prefix('@')) {
        Some(name) => by_name(name).map(|(id, _)| *id),
        None => asked.int("chat_id"),
    };
    let Some((id, chat)) = id.and_then(|id| Some((id, world.chats.get(&id)?))) else {
        return refuse(400, "Bad Request: chat not found");
    };
    if let Some(to) = chat.moved_to {
        return Err(Refusal {
            code: 400,
            words: "Bad Request: group chat was upgraded to a supergroup chat".to_owned(),
            parameters: Some(object([("migrate_to_chat_id", to.into())])),
        });
    }
    if chat.blocked {
        return refuse(403, "Forbidden: bot was blocked by the user");
    }
    let thread = asked.int("message_thread_id");
    if thread.is_some_and(|thread| !chat.topics.contains(&thread)) {
        return refuse(400, "Bad Request: message thread not found");
    }
    Ok((id, thread))
}

/// The text as people see it.
fn said(asked: &Json, field: &str, most: usize) -> Result<String, Refusal> {
    let text = asked.text(field).unwrap_or("");
    let plain = match asked.text("parse_mode") {
        Some("HTML") => match visible(text) {
            Ok(plain) => plain,
            Err(why) => return refuse(400, &format!("Bad Request: can't parse entities: {why}")),
        },
        Some(_) => return refuse(400, "Bad Request: unsupported parse_mode"),
        None => text.to_owned(),
    };
    if plain.encode_utf16().count() > most {
        let what = if field == "text" { "message is too long" } else { "message caption is too long" };
        return refuse(400, &format!("Bad Request: {what}"));
    }
    Ok(plain)
}

fn check_buttons(asked: &Json) -> Result<(), Refusal> {
    let Some(markup) = asked.get("reply_markup") else { return Ok(()) };
    for row in markup.list("inline_keyboard") {
        let Json::List(row) = row else { return refuse(400, "Bad Request: can't parse inline keyboard") };
        for button in row {
            if button.text("text").unwrap_or("").is_empty() {
                return refuse(400, "Bad Request: inline keyboard button text is empty");
            }
            let data = button.text("callback_data").unwrap_or("");
            if data.is_empty() || data.len() > 64 {
                return refuse(400, "Bad Request: BUTTON_DATA_INVALID");
            }
        }
    }
    Ok(())
}

/// Messages of people are not kept, so any number that was given out can be answered.
fn check_reply(world: &World, asked: &Json, chat: i64) -> Result<(), Refusal> {
    let Some(reply) = asked.get("reply_parameters") else { return Ok(()) };
    let id = reply.int("message_id").unwrap_or(0);
    let is_there = world.sent_message(chat, id).is_some() || (1..world.next_message).contains(&id);
    if !is_there && !reply.is_true("allow_sending_without_reply") {
        return refuse(400, "Bad Request: message to be replied not found");
    }
    Ok(())
}

/// Writes down what was sent and gives the message.
fn keep(
    world: &mut World,
    asked: &Json,
    method: &str,
    chat: i64,
    thread: Option<i64>,
    plain: &str,
    extra: &[(&str, Json)],
) -> Json {
    let id = world.message_id();
    let mut sent = asked.clone();
    sent.set("method", method);
    sent.set("chat_id", chat);
    sent.set("message_id", id);
    sent.set("plain", plain);
    sent.set("reply_markup", asked.get("reply_markup").cloned().unwrap_or(Json::Null));
    for (name, value) in extra {
        sent.set(name, value.clone());
    }
    world.sent.push(sent);
    let chat_json = world.chat_json(chat);
    message_json(world, id, chat_json, thread, plain)
}

fn message_json(world: &World, id: i64, chat: Json, thread: Option<i64>, text: &str) -> Json {
    let mut message = object([
        ("message_id", id.into()),
        ("from", world.bot_user()),
        ("chat", chat),
        ("date", World::time_of(id).into()),
        ("text", text.into()),
    ]);
    if let Some(thread) = thread {
        message.set("message_thread_id", thread);
        message.set("is_topic_message", true);
    }
    message
}
