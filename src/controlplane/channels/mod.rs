//! The platforms on which people talk to agents. Each is a [`Channel`]: it brings what happens there to the router, and
//! what agents say to its chats. The supervisor keeps each account connected. Touches platforms; knows the ledger only
//! through the router's sink.

pub mod descriptor;
pub mod event;
pub mod fetching;
pub mod ingress;
pub mod outgoing;
pub mod settings;
pub mod supervisor;
pub mod telegram;
pub mod typing;
pub mod webhook;
mod written;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use self::descriptor::Descriptor;
use self::event::InboundEvent;
use self::supervisor::Reporter;
use self::written::Written;
use crate::contract::ids::MessageId;
use crate::controlplane::places::Visitor;
use crate::controlplane::questions::Button;
use crate::controlplane::router::{Inbound, NotAccepted, Routed};

/// What a channel does, until it is dropped.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One connected account.
pub trait Channel: Send + Sync {
    /// Which platform it is of.
    fn descriptor(&self) -> &'static Descriptor;

    /// What happens there comes by requests only.
    fn is_only_told(&self) -> bool {
        false
    }

    /// Brings what happens there to the sink, until something is wrong. A channel that is told by requests only has
    /// nothing to do here.
    fn run<'a>(&'a self, sink: &'a Sink, state: &'a Reporter) -> Doing<'a, Fault>;

    /// Brings one part of a message to a chat.
    fn send<'a>(&'a self, part: &'a Part) -> Doing<'a, Result<Receipt, SendError>>;

    /// Shows in a chat that somebody is writing, where that can be shown. Nobody is told whether it was.
    fn typing<'a>(&'a self, chat: &'a str, thread: Option<&'a str>) -> Doing<'a, ()> {
        let _ = (chat, thread);
        Box::pin(async {})
    }

    /// Takes the buttons from a message that was sent, where there are buttons.
    fn unbutton<'a>(&'a self, chat: &'a str, receipt: &'a str) -> Doing<'a, Result<(), SendError>> {
        let _ = (chat, receipt);
        Box::pin(async { Ok(()) })
    }

    /// Shows another text and other buttons in a message that was sent.
    fn edit<'a>(&'a self, part: &'a Part, receipt: &'a str) -> Doing<'a, Result<(), SendError>> {
        let _ = (part, receipt);
        Box::pin(async { Err(SendError::Permanent("what was sent here cannot be changed".to_owned())) })
    }

    /// Fetches a file by the name that an event gave for it, if it has no more bytes than this.
    fn fetch<'a>(&'a self, source: &'a str, most: u64) -> Doing<'a, Result<Vec<u8>, FetchError>> {
        let _ = (source, most);
        Box::pin(async { Err(FetchError::Permanent("this platform gives no files".to_owned())) })
    }

    /// A request that came to its place at the ingress.
    fn hook<'a>(&'a self, sink: &'a Sink, request: Hook) -> Doing<'a, HookAnswer> {
        let _ = (sink, request);
        Box::pin(async { HookAnswer::of(404) })
    }
}

/// Where a channel brings what happens: accepted means that it is in the ledger.
pub struct Sink {
    /// The account's name.
    pub(super) instance: String,
    /// The platform's name.
    pub(super) channel: &'static str,
    /// What accepts.
    pub(super) inbound: Inbound,
}

impl Sink {
    /// Accepts events in order, all or none, and with them how far the channel has read.
    ///
    /// # Errors
    /// When the ledger cannot take them now; the same may be tried again.
    pub async fn accept(
        &self,
        events: Vec<InboundEvent>,
        cursor: Option<(&'static str, String)>,
    ) -> Result<Vec<Routed>, NotAccepted> {
        self.inbound.accept(self.channel, &self.instance, events, cursor).await
    }

    /// How far the channel had read.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn cursor(&self, name: &'static str) -> Result<Option<String>, NotAccepted> {
        self.inbound.cursor(self.channel, &self.instance, name).await
    }
}

/// One platform message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The message that it is a part of.
    pub message: MessageId,
    /// Which part, from 0, and of how many.
    pub number: u32,
    /// How many there are.
    pub of: u32,
    /// The chat.
    pub chat: String,
    /// The thread in it.
    pub thread: Option<String>,
    /// What is said.
    pub text: String,
    /// The platform's own name of the message that is answered; of the first part only.
    pub quotes: Option<String>,
    /// The ledger's.
    pub cause: Option<MessageId>,
    /// The part is this file, and the text is empty.
    pub file: Option<Arc<Attached>>,
    /// What can be pressed under it; of the last part of the text only.
    pub buttons: Vec<Button>,
    /// The host's own words about something that it holds for a decision: every character is itself, and nothing in it
    /// becomes a link or a name that is called.
    pub is_verbatim: bool,
    /// How many texts were shown in its place before this one.
    pub edit: u32,
}

/// A file that is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Attached {
    /// What it is called; safe to show.
    pub name: String,
    /// What it is.
    pub mime: String,
    /// The content.
    pub content: Vec<u8>,
}

impl std::fmt::Debug for Attached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attached").field("mime", &self.mime).field("bytes", &self.content.len()).finish()
    }
}

impl Part {
    /// The name under which the platform is to know it, the same however often it is sent.
    pub fn key(&self) -> String {
        match (self.of, self.edit) {
            (1, 0) => self.message.to_string(),
            (_, 0) => format!("{}-{}", self.message, self.number),
            (_, edit) => format!("{}-e{edit}", self.message),
        }
    }
}

/// The platform's own name of a message that it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt(pub String);

/// Why a message was not taken. The text is for the operator and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// It may be taken later; not before so long, if the platform says so.
    Retry(Option<Duration>, String),
    /// It never will be.
    Permanent(String),
    /// The platform does not know the account any more; nothing is tried until it does.
    Auth(String),
    /// The chat has another name now.
    Moved(String),
}

/// Why a file was not fetched. The text holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchError {
    /// It may be fetched later; not before so long, if the platform says so.
    Retry(Option<Duration>, String),
    /// It never will be.
    Permanent(String),
    /// It has more bytes than it may.
    TooLarge,
}

/// Why a channel does not go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is worth trying again.
    Lost(String),
    /// The platform refuses the account.
    Auth(String),
    /// There is nothing to run: what happens comes by requests.
    Idle,
}

/// A request to the place of an account at the ingress, read whole. Its headers may hold a secret.
pub struct Hook {
    /// Headers, with lower-case names; those that are no text are left out.
    pub headers: Vec<(String, String)>,
    /// What follows the question mark.
    pub query: String,
    /// The body as it came: signatures are over these bytes.
    pub body: Vec<u8>,
    /// Who sent it, and as what they are known if it is genuine.
    sender: (Arc<Visitor>, String),
}

impl Hook {
    /// It is from the platform, as its signature or secret shows: its sender's place is not the first to be needed for
    /// somebody else.
    pub fn is_genuine(&self) {
        let (visitor, name) = &self.sender;
        visitor.showed(Some(name));
    }

    /// The one header of this name; `None` when there is none or more than one.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        match (found.next(), found.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }
}

/// What such a request is answered with.
#[derive(Debug)]
pub struct HookAnswer {
    /// The status.
    pub status: u16,
    /// JSON, or nothing.
    pub body: String,
    /// Why it was refused, for the log.
    pub reason: &'static str,
    /// Somebody waits for whether it was written.
    written: Option<Written>,
}

impl HookAnswer {
    /// Only a status.
    pub fn of(status: u16) -> Self {
        Self::refused(status, "")
    }

    /// A refusal.
    pub fn refused(status: u16, reason: &'static str) -> Self {
        Self { status, body: String::new(), reason, written: None }
    }
}
