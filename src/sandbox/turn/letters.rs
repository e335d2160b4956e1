//! Messages that a turn sends before its answer. Each is kept in the journal with its number in the transaction that notes
//! the tool's run, so it goes out once, whoever goes on with the turn. One to another chat is answered by the host, by
//! that number; the turn waits for it, not longer than it can spare. Touches the journal and the mailbox's channels.

use super::host::Question;
use super::{End, Place, Turns};
use crate::contract::catalogue::MOST_FILE;
use crate::contract::inbound::{Attachment, MessageIn};
use crate::contract::outbound::{MessageOut, OutboundKind};
use crate::contract::time::Millis;
use crate::sandbox::mailbox::FromTurn;
use crate::sandbox::models::Model;
use crate::sandbox::tools::{Address, Letter, Parcel, ToolError};

/// Bytes of one piece of a file.
const CHUNK: usize = 256 << 10;

/// What the model is told of a message whose answer went with an earlier process.
const HANDED_OVER: &str = "handed over before an interruption, once; whether it was refused is not known: do not send it \
    again";

impl<M: Model> Turns<M> {
    /// Sends a letter and says what became of it.
    pub(super) fn send(
        &mut self,
        asked: &Question<'_>,
        letter: Letter,
    ) -> Result<Result<String, ToolError>, End> {
        let Place { turn, step, ordinal } = asked.place;
        let answered = asked.answered;
        let (channel, chat, thread) = match letter.to {
            None => (answered.channel.clone(), answered.chat.clone(), answered.thread.clone()),
            Some(Address { channel, chat }) if is_of(answered, &channel, &chat) => {
                (channel, chat, answered.thread.clone())
            }
            Some(Address { channel, chat }) => (channel, chat, None),
        };
        let message = MessageOut {
            in_reply_to: Some(answered.id.clone()),
            kind: OutboundKind::Chat,
            channel: Some(channel),
            chat: Some(chat),
            thread,
            text: letter.text,
            created_at: Millis::now(),
        };
        let pieces = letter.parcel.as_ref().map(pieces).unwrap_or_default();
        let bytes = letter.parcel.map_or(0, |parcel| parcel.content.len());
        if self.sent_files.saturating_add(bytes) > MOST_FILE {
            let why = format!("the files of one turn have {MOST_FILE} bytes at most; this one was not sent");
            return Ok(Err(ToolError(why)));
        }
        self.sent_files += bytes;
        let rows = self.parts.journal.send(turn, step, ordinal, pieces, message.clone())?;
        let seq = rows.last().map(|row| row.seq).unwrap_or_default();
        self.outlet.send(FromTurn::Outputs(rows));
        self.became(asked, seq, &message)
    }

    /// Says what became of a letter that an earlier process sent.
    pub(super) fn sent_before(&mut self, asked: &Question<'_>) -> Result<Result<String, ToolError>, End> {
        match self.put_back.take() {
            Some((seq, message)) => self.became(asked, seq, &message),
            None => Ok(Err(ToolError(HANDED_OVER.to_owned()))),
        }
    }

    /// The host answers what goes elsewhere, and nothing else.
    fn became(
        &mut self,
        asked: &Question<'_>,
        seq: u64,
        message: &MessageOut,
    ) -> Result<Result<String, ToolError>, End> {
        let to = |place: &Option<String>| place.clone().unwrap_or_default();
        if is_of(asked.answered, &to(&message.channel), &to(&message.chat)) {
            return Ok(Ok("sent".to_owned()));
        }
        Ok(match self.wait_for(&seq.to_string(), asked.begun)? {
            Some(outcome) if outcome.ok => Ok("sent".to_owned()),
            Some(outcome) => {
                let why = outcome.result.as_str().map_or_else(|| outcome.result.to_string(), str::to_owned);
                Err(ToolError(why))
            }
            None => {
                let why = "no answer in time: nobody knows whether this was sent; do not send it again";
                Err(ToolError(why.to_owned()))
            }
        })
    }
}

/// A file as its pieces; the host finds out what it is.
fn pieces(parcel: &Parcel) -> Vec<Attachment> {
    let piece = |(chunk, bytes): (u32, &[u8])| Attachment {
        ordinal: 0,
        chunk,
        name: parcel.name.clone(),
        mime: String::new(),
        bytes: bytes.to_vec(),
    };
    (0..).zip(parcel.content.chunks(CHUNK)).map(piece).collect()
}

/// Whether the chat is the one that is answered.
fn is_of(answered: &MessageIn, channel: &str, chat: &str) -> bool {
    answered.channel == channel && answered.chat == chat
}
