//! What came in from a platform, in the one form that the router knows. Everything in it was written by strangers:
//! [`InboundEvent::check`] bounds it and refuses what would be two things at once. Pure.

use std::fmt;

/// The longest text, in bytes: longer than a message of any platform, short enough for a prompt.
pub const MOST_TEXT: usize = 64 * 1024;

/// The longest name or title, in bytes.
pub const MOST_NAME: usize = 200;

/// The longest identifier, in bytes. An identifier is never cut: half of one is another one.
pub const MOST_ID: usize = 512;

/// The longest excerpt of a message that is answered, in bytes.
pub const MOST_EXCERPT: usize = 500;

/// Most attachments of one message.
pub const MOST_ATTACHMENTS: usize = 10;

/// What came in from a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundEvent {
    /// The platform's name for this event, the same when it is sent again.
    pub event_id: String,
    /// The chat or room.
    pub chat: String,
    /// What to give back to answer in the same thread.
    pub thread: Option<String>,
    /// The message, to quote or edit it.
    pub message_id: Option<String>,
    /// Who wrote it.
    pub sender: Sender,
    /// More than two people can be in the chat.
    pub is_group: bool,
    /// What the chat is called.
    pub title: String,
    /// The agent was spoken to: by name, by an answer to it, or alone with it.
    pub mentioned: bool,
    /// What was written, without the mention.
    pub text: String,
    /// The message that this one answers.
    pub reply_to: Option<Quoted>,
    /// Files that came with it.
    pub attachments: Vec<Incoming>,
    /// When the platform says it was written, in milliseconds since 1970.
    pub occurred_at: Option<i64>,
    /// What happened.
    pub kind: EventKind,
}

/// Who wrote a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The platform's lasting name for them, whole. Never one that they can change.
    pub handle: String,
    /// What they call themselves.
    pub name: String,
    /// What speaks, by the platform's word.
    pub voice: Voice,
}

/// What it is that speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voice {
    /// One person.
    Person,
    /// A program.
    Program,
    /// A whole chat, in whose name people and programs write and nobody is told which.
    Chat,
}

impl Voice {
    /// Two that answer each other may do so without end.
    pub fn may_be_a_program(self) -> bool {
        self != Self::Person
    }
}

/// A message that is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// Which.
    pub message_id: String,
    /// Who wrote it, as in [`Sender::handle`].
    pub handle: String,
    /// How it begins, or the part that was chosen.
    pub excerpt: String,
}

/// A file that can be fetched from the platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// What to fetch it by.
    pub id: String,
    /// How it was sent.
    pub kind: AttachmentKind,
    /// What the sender calls it; only good to show.
    pub name: String,
    /// What the sender says it is; only good to show.
    pub mime: String,
    /// Its size in bytes, if the platform says it.
    pub size: Option<u64>,
}

/// How a file was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachmentKind {
    /// A picture.
    Image,
    /// Music or another recording with a title.
    Audio,
    /// A film, also a round or a soundless one.
    Video,
    /// Any file.
    File,
    /// Speech.
    Voice,
    /// A sticker.
    Sticker,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Something was written.
    Message,
    /// What had been written was changed to this.
    Edit,
    /// A button was pressed.
    Button {
        /// What the button carries.
        data: String,
        /// What the platform wants answered.
        query: String,
    },
    /// The chat has another identifier from now on.
    Moved {
        /// Which.
        to: String,
    },
}

/// Why an event is refused. The words hold nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEvent {
    /// A part that must be there is empty.
    Missing(&'static str),
    /// An identifier that is longer than [`MOST_ID`].
    TooLong(&'static str),
    /// An identifier with a control character.
    Control(&'static str),
}

impl fmt::Display for BadEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(part) => write!(f, "the {part} is empty; the platform must give one"),
            Self::TooLong(part) => write!(f, "the {part} is longer than {MOST_ID} bytes"),
            Self::Control(part) => write!(f, "the {part} has a control character in it"),
        }
    }
}

impl std::error::Error for BadEvent {}

impl InboundEvent {
    /// Bounds what is only read, and checks what is acted on.
    ///
    /// # Errors
    /// When an identifier is missing, too long, or has a control character: it is refused whole, never cut.
    pub fn check(mut self) -> Result<InboundEvent, BadEvent> {
        needed("event id", &self.event_id)?;
        needed("chat id", &self.chat)?;
        needed("sender's handle", &self.sender.handle)?;
        optional("thread id", self.thread.as_deref())?;
        optional("message id", self.message_id.as_deref())?;
        match &self.kind {
            EventKind::Button { data, query } => {
                identifier("button's data", data)?;
                needed("button's query", query)?;
            }
            EventKind::Moved { to } => needed("new chat id", to)?,
            EventKind::Message | EventKind::Edit => {}
        }
        self.sender.name = one_line(&self.sender.name, MOST_NAME);
        self.title = one_line(&self.title, MOST_NAME);
        self.text = several_lines(&self.text, MOST_TEXT);
        if let Some(quoted) = &mut self.reply_to {
            needed("answered message's id", &quoted.message_id)?;
            identifier("answered sender's handle", &quoted.handle)?;
            quoted.excerpt = several_lines(&quoted.excerpt, MOST_EXCERPT);
        }
        self.attachments.truncate(MOST_ATTACHMENTS);
        for attachment in &mut self.attachments {
            needed("attachment's id", &attachment.id)?;
            attachment.name = one_line(&attachment.name, MOST_NAME);
            attachment.mime = one_line(&attachment.mime, MOST_NAME);
        }
        Ok(self)
    }
}

fn needed(part: &'static str, text: &str) -> Result<(), BadEvent> {
    if text.trim().is_empty() { Err(BadEvent::Missing(part)) } else { identifier(part, text) }
}

fn optional(part: &'static str, text: Option<&str>) -> Result<(), BadEvent> {
    text.map_or(Ok(()), |text| needed(part, text))
}

fn identifier(part: &'static str, text: &str) -> Result<(), BadEvent> {
    if text.len() > MOST_ID {
        Err(BadEvent::TooLong(part))
    } else if text.chars().any(char::is_control) {
        Err(BadEvent::Control(part))
    } else {
        Ok(())
    }
}

fn one_line(text: &str, most: usize) -> String {
    let text = cut(text, most);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

/// Line breaks and tabs stay; other control characters are nothing that a person writes.
fn several_lines(text: &str, most: usize) -> String {
    cut(text, most).chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect()
}

fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text.get(..end).unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> InboundEvent {
        InboundEvent {
            event_id: "1".to_owned(),
            chat: "-100".to_owned(),
            thread: None,
            message_id: Some("7".to_owned()),
            sender: Sender { handle: "42".to_owned(), name: "Ann".to_owned(), voice: Voice::Person },
            is_group: true,
            title: "Team".to_owned(),
            mentioned: false,
            text: "hello".to_owned(),
            reply_to: None,
            attachments: Vec::new(),
            occurred_at: None,
            kind: EventKind::Message,
        }
    }

    #[test]
    fn what_is_only_read_is_bounded() {
        let mut long = event();
        long.text = format!("a\u{0}b\r\nc\td{}", "é".repeat(MOST_TEXT));
        long.sender.name = format!("Ann\nsays: {}", "x".repeat(1000));
        long.title = "\u{1b}[31mTeam".to_owned();
        let incoming = Incoming {
            id: "f".to_owned(),
            kind: AttachmentKind::File,
            name: "a\nb".to_owned(),
            mime: "x".repeat(1000),
            size: None,
        };
        long.attachments = vec![incoming; 50];
        let checked = long.check().unwrap();
        assert!(checked.text.len() <= MOST_TEXT && checked.text.starts_with("ab\nc\tdé"));
        assert!(checked.sender.name.len() <= MOST_NAME && checked.sender.name.starts_with("Ann says: x"));
        assert_eq!(checked.title, "[31mTeam");
        assert_eq!(checked.attachments.len(), MOST_ATTACHMENTS);
        assert_eq!(
            (checked.attachments[0].name.as_str(), checked.attachments[0].mime.len()),
            ("a b", MOST_NAME)
        );
        assert_eq!(event().check(), Ok(event()));
    }

    #[test]
    fn an_identifier_is_whole_or_refused() {
        let refused = |change: fn(&mut InboundEvent)| {
            let mut event = event();
            change(&mut event);
            event.check().unwrap_err()
        };
        assert_eq!(refused(|e| e.event_id.clear()), BadEvent::Missing("event id"));
        assert_eq!(refused(|e| e.chat = " ".to_owned()), BadEvent::Missing("chat id"));
        assert_eq!(refused(|e| e.sender.handle = "x".repeat(513)), BadEvent::TooLong("sender's handle"));
        assert_eq!(refused(|e| e.sender.handle = "a\nb".to_owned()), BadEvent::Control("sender's handle"));
        assert_eq!(refused(|e| e.thread = Some(String::new())), BadEvent::Missing("thread id"));
        assert_eq!(refused(|e| e.message_id = Some("\u{9b}".to_owned())), BadEvent::Control("message id"));
        assert_eq!(
            refused(|e| e.kind = EventKind::Moved { to: String::new() }),
            BadEvent::Missing("new chat id")
        );
        let button = |data: &str| EventKind::Button { data: data.to_owned(), query: "q".to_owned() };
        let mut pressed = event();
        pressed.kind = button("");
        assert!(pressed.clone().check().is_ok(), "a button may carry nothing");
        pressed.kind = button("a\0");
        assert_eq!(pressed.check(), Err(BadEvent::Control("button's data")));
        let mut whole = event();
        whole.sender.handle = "@ann:example.org".repeat(32);
        assert_eq!(whole.clone().check().unwrap().sender.handle, whole.sender.handle);
    }
}
