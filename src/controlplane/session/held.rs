//! What a running sandbox holds: the messages it was handed and has not finished, and whether it may be handed
//! more. Pure: it touches nothing.

use std::collections::HashMap;

use super::limits::{BYTES_HELD, MESSAGES_A_RING, MESSAGES_HELD};
use crate::contract::ids::MessageId;
use crate::controlplane::store::inbox::OpenMessage;
use crate::controlplane::store::sessions::Place;

/// Whether a sandbox may be handed more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// So many messages.
    For(usize),
    /// None, until it finishes one of those that it has.
    Full,
    /// It is full of messages that start no turn, so it would never finish one: what starts a turn may pass
    /// the others.
    OneThatTriggers,
}

/// Messages handed over and not finished.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    messages: HashMap<MessageId, Piece>,
    bytes: usize,
    triggers: usize,
}

#[derive(Clone, Debug)]
struct Piece {
    seq: u64,
    position: u64,
    bytes: usize,
    triggers: bool,
    place: Place,
}

impl Held {
    /// It is handed a message under this number.
    pub(super) fn add(&mut self, seq: u64, open: &OpenMessage) {
        let message = &open.message;
        let (bytes, triggers) = (message.text.len(), message.engage);
        let place = Place {
            channel: message.channel.clone(),
            instance: open.instance.clone(),
            chat: message.chat.clone(),
            thread: message.thread.clone(),
        };
        let piece = Piece { seq, position: open.position, bytes, triggers, place };
        self.bytes += bytes;
        self.triggers += usize::from(triggers);
        if let Some(before) = self.messages.insert(message.id.clone(), piece) {
            self.forget(&before);
        }
    }

    /// Where a message that it has not finished was said.
    pub(super) fn place(&self, id: &MessageId) -> Option<&Place> {
        self.messages.get(id).map(|piece| &piece.place)
    }

    /// It has finished a message, whose number this gives; `None` for one that it was not handed.
    pub(super) fn finish(&mut self, id: &MessageId) -> Option<u64> {
        let piece = self.messages.remove(id)?;
        self.forget(&piece);
        Some(piece.seq)
    }

    fn forget(&mut self, piece: &Piece) {
        self.bytes = self.bytes.saturating_sub(piece.bytes);
        self.triggers = self.triggers.saturating_sub(usize::from(piece.triggers));
    }

    pub(super) fn holds(&self, id: &MessageId) -> bool {
        self.messages.contains_key(id)
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether one of them starts a turn; the others can wait for ever.
    pub(super) fn owes_a_turn(&self) -> bool {
        self.triggers > 0
    }

    /// Those that came after this position in the history: what was handed ahead of its turn.
    pub(super) fn after(&self, position: u64) -> Vec<MessageId> {
        let ahead = self.messages.iter().filter(|(_, piece)| piece.position > position);
        ahead.map(|(id, _)| id.clone()).collect()
    }

    /// The bytes are looked at before a hand is added to them, so the last hand may lie above the limit.
    pub(super) fn room(&self) -> Room {
        let left = MESSAGES_HELD.saturating_sub(self.messages.len());
        if left > 0 && self.bytes < BYTES_HELD {
            Room::For(left.min(MESSAGES_A_RING))
        } else if self.owes_a_turn() {
            Room::Full
        } else {
            Room::OneThatTriggers
        }
    }
}

impl<'a> FromIterator<(u64, &'a OpenMessage)> for Held {
    fn from_iter<I: IntoIterator<Item = (u64, &'a OpenMessage)>>(handed: I) -> Self {
        let mut held = Self::default();
        handed.into_iter().for_each(|(seq, open)| held.add(seq, open));
        held
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::inbound::{InboundKind, MessageIn};
    use crate::contract::time::Millis;

    fn open(position: u64, engage: bool, bytes: usize) -> OpenMessage {
        let message = MessageIn {
            id: MessageId::mint(),
            kind: InboundKind::Chat,
            engage,
            sender_id: "local:ann".to_owned(),
            sender_name: String::new(),
            channel: "api".to_owned(),
            chat: "main".to_owned(),
            thread: None,
            text: "x".repeat(bytes),
            source_session: None,
            hop: 0,
            in_reply_to: None,
            created_at: Millis(0),
        };
        OpenMessage {
            position,
            instance: String::new(),
            seq: None,
            deaths: 0,
            began: false,
            message,
            files: Vec::new(),
        }
    }

    fn hand(held: &mut Held, many: usize, engage: bool, bytes: usize) -> Vec<MessageId> {
        let from = held.len() as u64;
        let open: Vec<OpenMessage> = (0..many as u64).map(|n| open(from + n + 1, engage, bytes)).collect();
        open.iter().for_each(|open| held.add(2 * open.position, open));
        open.into_iter().map(|open| open.message.id).collect()
    }

    #[test]
    fn as_many_are_handed_over_as_are_finished() {
        let mut held = Held::default();
        assert_eq!(held.room(), Room::For(MESSAGES_A_RING));
        let ids = hand(&mut held, MESSAGES_HELD - 10, true, 1);
        assert_eq!(held.room(), Room::For(10));
        hand(&mut held, 10, true, 1);
        assert_eq!(held.room(), Room::Full);
        assert_eq!(held.finish(&ids[2]), Some(6));
        assert_eq!(held.finish(&ids[2]), None, "once");
        assert_eq!(held.room(), Room::For(1));
        assert!(!held.holds(&ids[2]) && held.holds(&ids[3]));
    }

    #[test]
    fn long_texts_fill_it_sooner() {
        let mut held = Held::default();
        let ids = hand(&mut held, BYTES_HELD / (64 << 10), true, 64 << 10);
        assert_eq!(held.room(), Room::Full);
        held.finish(&ids[0]);
        assert_eq!(held.room(), Room::For(MESSAGES_A_RING));
        ids.iter().skip(1).for_each(|id| assert!(held.finish(id).is_some()));
        assert_eq!((held.len(), held.bytes, held.triggers), (0, 0, 0));
    }

    #[test]
    fn what_starts_a_turn_is_never_kept_waiting_by_what_starts_none() {
        let mut held = Held::default();
        hand(&mut held, MESSAGES_HELD, false, 1);
        assert_eq!(held.room(), Room::OneThatTriggers);
        let ahead = open(9_000, true, 1);
        held.add(4_000, &ahead);
        assert_eq!(held.room(), Room::Full, "one at a time, until it is finished");
        assert_eq!(held.after(MESSAGES_HELD as u64), std::slice::from_ref(&ahead.message.id));
        assert_eq!(held.after(9_000), []);
        held.finish(&ahead.message.id);
        assert_eq!(held.room(), Room::OneThatTriggers);
    }

    #[test]
    fn a_message_handed_twice_counts_once() {
        let mut held = Held::default();
        let message = open(1, true, 5);
        held.add(2, &message);
        held.add(4, &message);
        assert_eq!((held.len(), held.bytes, held.triggers), (1, 5, 1));
        assert_eq!(held.finish(&message.message.id), Some(4));
    }
}
