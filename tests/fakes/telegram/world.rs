//! What the fake platform knows: its chats, the updates that wait, everything that was sent, and the faults that the
//! test asked for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::json::{Json, object};

/// The time of the first message, in seconds since 1970; each further one is a second later, so that runs are alike.
const FIRST_SECOND: i64 = 1_790_000_000;

/// Everything, behind one lock; the bell rings at every change.
pub(crate) struct Shared {
    world: Mutex<World>,
    bell: Condvar,
}

pub(crate) struct World {
    pub(crate) token: String,
    pub(crate) bot: i64,
    pub(crate) username: String,
    pub(crate) revoked: bool,
    pub(crate) chats: BTreeMap<i64, Chat>,
    /// Those that were not confirmed yet, oldest first.
    pub(crate) updates: VecDeque<Json>,
    pub(crate) next_update: i64,
    pub(crate) next_message: i64,
    /// Every message that was sent, edited or uploaded, in order, also when the answer was lost.
    pub(crate) sent: Vec<Json>,
    pub(crate) files: Vec<File>,
    pub(crate) faults: Vec<Fault>,
    pub(crate) webhook: Option<(String, String)>,
    /// Where requests to an `https` address really go.
    pub(crate) hook_target: Option<String>,
    /// Why the last update that was told to the webhook failed.
    pub(crate) hook_error: Option<String>,
    /// The number of the newest poll: an older one that waits gives way.
    pub(crate) poll: u64,
    /// Presses that were answered, and what the bot was seen doing.
    pub(crate) answered: Vec<Json>,
    pub(crate) actions: Vec<Json>,
}

#[derive(Default)]
pub(crate) struct Chat {
    pub(crate) kind: String,
    pub(crate) title: String,
    pub(crate) username: String,
    pub(crate) topics: Vec<i64>,
    pub(crate) blocked: bool,
    pub(crate) moved_to: Option<i64>,
}

pub(crate) struct File {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

impl File {
    /// Where it is fetched.
    pub(crate) fn path(&self) -> String {
        let extension = self.name.rsplit_once('.').map_or("", |(_, extension)| extension);
        let is_usual = !extension.is_empty() && extension.chars().all(|c| c.is_ascii_alphanumeric());
        format!(
            "documents/{}{}{}",
            self.id,
            if is_usual { "." } else { "" },
            if is_usual { extension } else { "" }
        )
    }
}

/// What goes wrong with the next requests.
#[derive(Clone)]
pub(crate) struct Fault {
    pub(crate) kind: String,
    pub(crate) left: i64,
    /// Only requests for this method.
    pub(crate) method: Option<String>,
    /// Only requests to this chat.
    pub(crate) chat: Option<i64>,
    pub(crate) code: i64,
    /// Instead of the fake's own words.
    pub(crate) words: Option<String>,
    pub(crate) retry_after: i64,
    pub(crate) millis: i64,
}

impl Shared {
    pub(crate) fn new(token: &str, username: &str) -> Shared {
        let world = World {
            token: token.to_owned(),
            bot: token.split(':').next().and_then(|id| id.parse().ok()).unwrap_or(1),
            username: username.to_owned(),
            revoked: false,
            chats: BTreeMap::new(),
            updates: VecDeque::new(),
            next_update: 1,
            next_message: 1,
            sent: Vec::new(),
            files: Vec::new(),
            faults: Vec::new(),
            webhook: None,
            hook_target: None,
            hook_error: None,
            poll: 0,
            answered: Vec::new(),
            actions: Vec::new(),
        };
        Shared { world: Mutex::new(world), bell: Condvar::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets everybody who waits look again.
    pub(crate) fn ring(&self) {
        self.bell.notify_all();
    }

    /// Waits until the bell rings or so much time is over.
    pub(crate) fn wait<'a>(
        &self,
        world: MutexGuard<'a, World>,
        time: std::time::Duration,
    ) -> MutexGuard<'a, World> {
        self.bell
            .wait_timeout(world, time)
            .map_or_else(|poisoned| poisoned.into_inner().0, |(world, _)| world)
    }
}

impl World {
    /// The fault that the next request for this method and chat has, if any. It is used up.
    pub(crate) fn fault(&mut self, method: &str, chat: Option<i64>) -> Option<Fault> {
        let fault = self.faults.iter_mut().find(|fault| {
            fault.left > 0
                && fault.method.as_deref().is_none_or(|wanted| wanted == method)
                && fault.chat.is_none_or(|wanted| chat == Some(wanted))
                && (fault.kind != "duplicate" && fault.kind != "reorder" || method == "getUpdates")
        })?;
        fault.left -= 1;
        Some(fault.clone())
    }

    pub(crate) fn message_id(&mut self) -> i64 {
        self.next_message += 1;
        self.next_message - 1
    }

    pub(crate) fn time_of(message: i64) -> i64 {
        FIRST_SECOND + message
    }

    /// Puts an update into the queue and gives its number.
    pub(crate) fn push_update(&mut self, kind: &str, content: Json) -> i64 {
        let id = self.next_update;
        self.next_update += 1;
        self.updates.push_back(object([("update_id", id.into()), (kind, content)]));
        id
    }

    pub(crate) fn bot_user(&self) -> Json {
        object([
            ("id", self.bot.into()),
            ("is_bot", true.into()),
            ("first_name", "Claw".into()),
            ("username", self.username.clone().into()),
        ])
    }

    /// The chat as messages show it; one that is not known is made.
    pub(crate) fn chat_json(&mut self, id: i64) -> Json {
        let chat = self.chats.entry(id).or_insert_with(|| Chat {
            kind: if id > 0 { "private" } else { "supergroup" }.to_owned(),
            title: format!("Chat {id}"),
            ..Chat::default()
        });
        let mut json = object([("id", id.into()), ("type", chat.kind.clone().into())]);
        let name = if chat.kind == "private" { "first_name" } else { "title" };
        json.set(name, chat.title.clone());
        if !chat.topics.is_empty() {
            json.set("is_forum", true);
        }
        json
    }

    /// What was sent, edits left out, by chat and message.
    pub(crate) fn sent_message(&self, chat: i64, message: i64) -> Option<usize> {
        self.sent
            .iter()
            .position(|sent| sent.int("chat_id") == Some(chat) && sent.int("message_id") == Some(message))
    }

    /// Keeps a file and gives its identifier.
    pub(crate) fn keep_file(&mut self, name: &str, content: Vec<u8>) -> String {
        let id = format!("file-{}", self.files.len() + 1);
        self.files.push(File { id: id.clone(), name: name.to_owned(), content });
        id
    }
}
