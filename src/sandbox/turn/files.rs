//! Files that come with messages: their pieces are put together in the workspace before the message is told, and the model
//! is told where each is. Touches the workspace through the jail.

use std::collections::HashMap;

use crate::contract::ids::MessageId;
use crate::contract::inbound::{Attachment, MessageIn};
use crate::sandbox::prompt;
use crate::sandbox::tools::jail::Jail;

/// Where they are put in the workspace.
const TOP: &str = "attachments";

/// What came of messages that were not told yet.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// Pieces whose message has not come: they come in front of it, in one delivery.
    pieces: HashMap<MessageId, Vec<Attachment>>,
    /// What the model is told of the files of a message.
    told: HashMap<MessageId, Vec<String>>,
}

impl Files {
    /// A piece came.
    pub(super) fn take_in(&mut self, message: MessageId, piece: Attachment) {
        self.pieces.entry(message).or_default().push(piece);
    }

    /// A message came, and with it everything that belongs to it.
    pub(super) fn arrived(&mut self, message: &MessageIn, jail: &Jail, is_full: bool) {
        let Some(pieces) = self.pieces.remove(&message.id) else { return };
        let mut files: Vec<(u32, String, String, Vec<u8>)> = Vec::new();
        for piece in pieces {
            match files.last_mut().filter(|(ordinal, ..)| *ordinal == piece.ordinal) {
                Some((.., content)) => content.extend(piece.bytes),
                None => files.push((piece.ordinal, piece.name, piece.mime, piece.bytes)),
            }
        }
        let told = files.into_iter().map(|(ordinal, name, mime, content)| {
            let shown = prompt::label(&name);
            if mime.is_empty() {
                return format!("a file did not come: {shown}");
            }
            let (number, bytes) = (ordinal + 1, content.len());
            let path = format!("{TOP}/{}/{number}-{name}", message.id);
            let stored = match is_full {
                true => Err("the space for files is used up".to_owned()),
                false => store(jail, &path, &content, &format!("{}-{number}", message.id)),
            };
            match stored {
                Ok(()) => format!("file {} of {mime}, {bytes} bytes", prompt::label(&path)),
                Err(why) => format!("the file {shown} of {mime}, {bytes} bytes, could not be kept: {why}"),
            }
        });
        let told = told.collect();
        self.told.insert(message.id.clone(), told);
    }

    /// What is told of the files of a message, once.
    pub(super) fn told(&mut self, message: &MessageId) -> Vec<String> {
        self.told.remove(message).unwrap_or_default()
    }
}

fn store(jail: &Jail, path: &str, content: &[u8], stamp: &str) -> Result<(), String> {
    let at = jail.inside(path).map_err(|error| error.to_string())?;
    jail.write_whole(&at, content, stamp).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::inbound::InboundKind;
    use crate::contract::time::Millis;
    use crate::sandbox::scratch::Scratch;

    fn message() -> MessageIn {
        MessageIn {
            id: MessageId::mint(),
            kind: InboundKind::Chat,
            engage: true,
            sender_id: "telegram:1".to_owned(),
            sender_name: String::new(),
            channel: "telegram".to_owned(),
            chat: "1".to_owned(),
            thread: None,
            text: "look".to_owned(),
            source_session: None,
            hop: 0,
            in_reply_to: None,
            created_at: Millis(0),
        }
    }

    fn piece(ordinal: u32, chunk: u32, name: &str, mime: &str, bytes: &[u8]) -> Attachment {
        Attachment { ordinal, chunk, name: name.to_owned(), mime: mime.to_owned(), bytes: bytes.to_vec() }
    }

    #[test]
    fn pieces_become_files_and_the_model_is_told_where_they_are() {
        let scratch = Scratch::new();
        let jail = Jail::open(scratch.path()).unwrap();
        let (mut files, message) = (Files::default(), message());
        for one in [
            piece(0, 0, "a.txt", "text/plain", b"one "),
            piece(0, 1, "a.txt", "text/plain", b"two"),
            piece(1, 0, "b.bin: the disk is nearly full", "", b""),
            piece(2, 0, "empty", "application/octet-stream", b""),
        ] {
            files.take_in(message.id.clone(), one);
        }
        files.arrived(&message, &jail, false);
        let told = files.told(&message.id);
        let at = format!("attachments/{}", message.id);
        assert_eq!(
            told,
            [
                format!("file {at}/1-a.txt of text/plain, 7 bytes"),
                "a file did not come: b.bin: the disk is nearly full".to_owned(),
                format!("file {at}/3-empty of application/octet-stream, 0 bytes"),
            ]
        );
        assert_eq!(std::fs::read(scratch.path().join(&at).join("1-a.txt")).unwrap(), b"one two");
        assert!(files.told(&message.id).is_empty(), "once");
        // Handed over again: the same files, under the same names.
        files.take_in(message.id.clone(), piece(0, 0, "a.txt", "text/plain", b"one two"));
        files.arrived(&message, &jail, false);
        assert_eq!(files.told(&message.id), told[..1]);
    }

    #[test]
    fn what_cannot_be_kept_is_said() {
        let scratch = Scratch::new();
        let jail = Jail::open(scratch.path()).unwrap();
        let (mut files, message) = (Files::default(), message());
        files.take_in(message.id.clone(), piece(0, 0, "a\u{27e7}b", "text/plain", b"x"));
        files.arrived(&message, &jail, true);
        let told = files.told(&message.id);
        assert!(told[0].contains("a]b") && told[0].contains("used up"), "{told:?}");
        std::fs::write(scratch.path().join("attachments"), "in the way").unwrap();
        files.take_in(message.id.clone(), piece(0, 0, "a", "text/plain", b"x"));
        files.arrived(&message, &jail, false);
        assert!(files.told(&message.id)[0].contains("could not be kept"));
    }
}
