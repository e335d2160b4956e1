//! The side of the fake that the test talks to, under `/_fake/`: people write, press buttons and send files, what the
//! bot sent is read, and faults are ordered.

use crate::entities::typed;
use crate::http::{Request, fields};
use crate::json::{Json, object};
use crate::world::{Chat, Fault, Shared, World};

/// Answers a request of the test. `None` for one that is not understood.
pub(crate) fn answer(shared: &Shared, request: &Request) -> Option<Json> {
    let name = request.path.strip_prefix("/_fake/")?;
    let body = std::str::from_utf8(&request.body).ok()?;
    let asked = if body.trim().is_empty() { object([]) } else { Json::parse(body)? };
    let mut world = shared.lock();
    let answer = match (request.method.as_str(), name) {
        ("POST", "chat") => chat(&mut world, &asked),
        ("POST", "text") => text(&mut world, &asked),
        ("POST", "edit") => edit(&mut world, &asked),
        ("POST", "photo") => file(&mut world, &asked, "photo"),
        ("POST", "document") => file(&mut world, &asked, "document"),
        ("POST", "click") => click(&mut world, &asked),
        ("POST", "update") => {
            // Whatever the test has written: `{"message": {…}}`.
            let Json::Object(fields) = asked else { return None };
            let (kind, content) = fields.into_iter().next()?;
            Some(object([("update_id", world.push_update(&kind, content).into())]))
        }
        ("POST", "fault") => fault(&mut world, &asked),
        ("POST", "heal") => {
            world.faults.clear();
            world.revoked = false;
            Some(object([]))
        }
        ("POST", "hook_target") => {
            world.hook_target = asked.text("address").map(str::to_owned);
            Some(object([]))
        }
        ("POST", "hook_error") => {
            // What the webhook's last update failed with, if it did.
            world.hook_error = asked.text("words").map(str::to_owned);
            Some(object([]))
        }
        ("GET", "sent") => Some(sent(&world, &request.query)),
        ("GET", "state") => Some(state(&world)),
        _ => None,
    };
    drop(world);
    shared.ring();
    answer
}

/// Makes or changes a chat: `id`, `type`, `title`, `username`, `topics`, `blocked`, `moved_to`.
fn chat(world: &mut World, asked: &Json) -> Option<Json> {
    let id = asked.int("id")?;
    let kind = if id > 0 { "private" } else { "supergroup" };
    let topics = asked.list("topics").iter().filter_map(|topic| match topic {
        Json::Int(topic) => Some(*topic),
        _ => None,
    });
    let chat = Chat {
        kind: asked.text("type").unwrap_or(kind).to_owned(),
        title: asked.text("title").unwrap_or("A chat").to_owned(),
        username: asked.text("username").unwrap_or("").to_owned(),
        topics: topics.collect(),
        blocked: asked.is_true("blocked"),
        moved_to: asked.int("moved_to"),
    };
    world.chats.insert(id, chat);
    Some(world.chat_json(id))
}

/// Someone writes: `chat`, `from` (a user, or only its number), `text`, and perhaps `thread`, `reply_to` and `mention`,
/// which puts the bot's name before the text.
fn text(world: &mut World, asked: &Json) -> Option<Json> {
    let mut message = begun(world, asked)?;
    let said = asked.text("text").unwrap_or("");
    let said = if asked.is_true("mention") { format!("@{} {said}", world.username) } else { said.to_owned() };
    speak(&mut message, "text", "entities", &said);
    Some(queued(world, "message", message))
}

/// Someone changes what they wrote: as `text`, with the `message_id` of before.
fn edit(world: &mut World, asked: &Json) -> Option<Json> {
    let mut message = begun(world, asked)?;
    let id = asked.int("message_id")?;
    message.set("message_id", id);
    message.set("edit_date", World::time_of(id) + 60);
    speak(&mut message, "text", "entities", asked.text("text").unwrap_or(""));
    Some(queued(world, "edited_message", message))
}

/// Someone sends a file: as `text`, with `caption`, `name`, `mime`, and `content` or a `size` in bytes.
fn file(world: &mut World, asked: &Json, kind: &str) -> Option<Json> {
    let mut message = begun(world, asked)?;
    let size = asked.int("size").and_then(|size| usize::try_from(size).ok()).unwrap_or(0).min(64 << 20);
    let content =
        asked.text("content").map_or_else(|| vec![b'x'; size], |content| content.as_bytes().to_vec());
    let name = asked.text("name").unwrap_or("file.bin");
    let length = content.len();
    let id = world.keep_file(name, content);
    let one =
        object([("file_id", id.clone().into()), ("file_unique_id", id.into()), ("file_size", length.into())]);
    if kind == "photo" {
        let mut large = one.clone();
        large.set("width", 800_i64);
        large.set("height", 600_i64);
        let mut small = one;
        small.set("width", 80_i64);
        small.set("height", 60_i64);
        small.set("file_id", "no-such-thumbnail");
        message.set("photo", vec![small, large]);
    } else {
        let mut document = one;
        document.set("file_name", name);
        document.set("mime_type", asked.text("mime").unwrap_or("application/octet-stream"));
        message.set("document", document);
    }
    if let Some(caption) = asked.text("caption") {
        speak(&mut message, "caption", "caption_entities", caption);
    }
    Some(queued(world, "message", message))
}

/// Someone presses a button under a message of the bot: `chat`, `message_id`, `from`, and the `data` or the `text` of
/// the button. It must be there, as on a screen.
fn click(world: &mut World, asked: &Json) -> Option<Json> {
    let (chat, id) = (asked.int("chat")?, asked.int("message_id")?);
    let sent = world.sent.get(world.sent_message(chat, id)?)?.clone();
    let rows = sent.get("reply_markup")?.list("inline_keyboard");
    let mut buttons = rows.iter().flat_map(|row| match row {
        Json::List(row) => row.as_slice(),
        _ => &[],
    });
    let button = buttons.find(|button| {
        let is =
            |field: &str, shown: &str| asked.text(field).is_some() && asked.text(field) == button.text(shown);
        is("data", "callback_data") || is("text", "text")
    })?;
    let mut under = object([
        ("message_id", id.into()),
        ("from", world.bot_user()),
        ("chat", world.chat_json(chat)),
        ("date", World::time_of(id).into()),
        ("text", sent.text("plain").unwrap_or("").into()),
    ]);
    if let Some(thread) = sent.int("message_thread_id") {
        under.set("message_thread_id", thread);
        under.set("is_topic_message", true);
    }
    let query = object([
        ("id", format!("query-{}", world.next_update).into()),
        ("from", person(asked.get("from")?)),
        ("message", under),
        ("chat_instance", "1".into()),
        ("data", button.text("callback_data")?.into()),
    ]);
    Some(queued(world, "callback_query", query))
}

/// Orders a fault: `kind` is `status` (with `code`, `words` and `retry_after`), `garbage` (no JSON comes back), `hang` (for
/// `ms`), `drop` (done, but the answer is lost), `disconnect` (not done), `duplicate`, `reorder`, or `revoked`, which
/// stays. It holds for `times` requests, of one `method` and `chat` if they are given.
fn fault(world: &mut World, asked: &Json) -> Option<Json> {
    let kind = asked.text("kind")?;
    if kind == "revoked" {
        world.revoked = true;
        return Some(object([]));
    }
    if !["status", "garbage", "hang", "drop", "disconnect", "duplicate", "reorder"].contains(&kind) {
        return None;
    }
    world.faults.push(Fault {
        kind: kind.to_owned(),
        left: asked.int("times").unwrap_or(1),
        method: asked.text("method").map(str::to_owned),
        chat: asked.int("chat"),
        code: asked.int("code").unwrap_or(429),
        words: asked.text("words").map(str::to_owned),
        retry_after: asked.int("retry_after").unwrap_or(1),
        millis: asked.int("ms").unwrap_or(0),
    });
    Some(object([]))
}

/// Everything that was sent, of one chat with `?chat=`, in order, with the count.
fn sent(world: &World, query: &str) -> Json {
    let wanted =
        fields(query).into_iter().find(|(name, _)| name == "chat").and_then(|(_, id)| id.parse().ok());
    let of_chat = |sent: &&Json| wanted.is_none_or(|id: i64| sent.int("chat_id") == Some(id));
    let found: Vec<Json> = world.sent.iter().filter(of_chat).cloned().collect();
    object([("count", found.len().into()), ("messages", found.into())])
}

fn state(world: &World) -> Json {
    let polls = i64::try_from(world.poll).unwrap_or(i64::MAX);
    let left: i64 = world.faults.iter().map(|fault| fault.left).sum();
    object([
        ("waiting", world.updates.len().into()),
        ("next_update", world.next_update.into()),
        ("polls", polls.into()),
        ("faults", left.into()),
        ("webhook", world.webhook.as_ref().map(|(url, _)| url.clone()).into()),
        ("answered", world.answered.clone().into()),
        ("actions", world.actions.clone().into()),
    ])
}

/// A message with its place and its writer, without content.
fn begun(world: &mut World, asked: &Json) -> Option<Json> {
    let chat = asked.int("chat")?;
    let id = world.message_id();
    let mut message = object([
        ("message_id", id.into()),
        ("from", person(asked.get("from")?)),
        ("chat", world.chat_json(chat)),
        ("date", World::time_of(id).into()),
    ]);
    if let Some(thread) = asked.int("thread") {
        let topics = world.chats.get_mut(&chat).map(|chat| &mut chat.topics)?;
        if !topics.contains(&thread) {
            topics.push(thread);
        }
        message.set("message_thread_id", thread);
        message.set("is_topic_message", true);
    }
    if let Some(to) = asked.int("reply_to") {
        let text = world.sent_message(chat, to).and_then(|at| world.sent.get(at)?.text("plain"));
        let from = if text.is_some() { world.bot_user() } else { person(&Json::Int(1)) };
        let answered = object([
            ("message_id", to.into()),
            ("from", from),
            ("date", World::time_of(to).into()),
            ("text", text.unwrap_or("what someone wrote").into()),
        ]);
        message.set("reply_to_message", answered);
    }
    Some(message)
}

/// A user as given, or one made of a number.
fn person(from: &Json) -> Json {
    let Json::Int(id) = from else { return from.clone() };
    object([("id", (*id).into()), ("is_bot", false.into()), ("first_name", format!("User{id}").into())])
}

fn speak(message: &mut Json, text: &str, entities: &str, said: &str) {
    let list: Vec<Json> = typed(said)
        .into_iter()
        .map(|(kind, offset, length)| {
            object([("type", kind.into()), ("offset", offset.into()), ("length", length.into())])
        })
        .collect();
    message.set(text, said);
    if !list.is_empty() {
        message.set(entities, list);
    }
}

fn queued(world: &mut World, kind: &str, content: Json) -> Json {
    let message = content.int("message_id");
    let update = world.push_update(kind, content);
    object([("update_id", update.into()), ("message_id", message.into())])
}
