//! Which messages a turn takes. Pure: it touches nothing.

use crate::contract::inbound::{InboundKind, MessageIn};

/// Notes that wait for a turn to carry them; the oldest go when there are more, since nobody is owed them.
const NOTES: usize = 32;

/// Messages that wait, in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Waiting(Vec<MessageIn>);

/// What a turn takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// All messages that go into the prompt, in order.
    pub(super) told: Vec<MessageIn>,
    /// The one that is answered: the last that triggers.
    pub(super) answered: MessageIn,
}

impl Taken {
    /// The messages whose processing this turn reports; notes have none.
    pub(super) fn reported(&self) -> impl Iterator<Item = &MessageIn> {
        self.told.iter().filter(|message| message.kind != InboundKind::System)
    }
}

fn triggers(message: &MessageIn) -> bool {
    message.engage && message.kind != InboundKind::System
}

fn same_place(a: &MessageIn, b: &MessageIn) -> bool {
    (&a.channel, &a.chat, &a.thread) == (&b.channel, &b.chat, &b.thread)
}

impl Waiting {
    /// Puts a message in line.
    pub(super) fn push(&mut self, message: MessageIn) {
        self.0.push(message);
        if self.0.iter().filter(|message| message.kind == InboundKind::System).count() > NOTES {
            let oldest = self.0.iter().position(|message| message.kind == InboundKind::System);
            oldest.map(|at| self.0.remove(at));
        }
    }

    /// Whether a message of this id waits.
    pub(super) fn holds(&self, id: &crate::contract::ids::MessageId) -> bool {
        self.0.iter().any(|message| &message.id == id)
    }

    /// The waiting messages.
    pub(super) fn iter(&self) -> impl Iterator<Item = &MessageIn> {
        self.0.iter()
    }

    /// Takes the chat and thread of the message that has triggered longest: all its triggering messages, what
    /// else was said there, and the notes. `None` when nothing triggers.
    pub(super) fn take(&mut self) -> Option<Taken> {
        let first = self.0.iter().find(|message| triggers(message))?.clone();
        let answered = self.0.iter().rfind(|m| triggers(m) && same_place(m, &first))?.clone();
        let told =
            self.0.extract_if(.., |m| m.kind == InboundKind::System || same_place(m, &first)).collect();
        Some(Taken { told, answered })
    }

    /// Takes exactly these messages, the last of which that triggers is answered. `None` when one is missing
    /// or none triggers; then nothing is taken.
    pub(super) fn take_these(&mut self, ids: &[crate::contract::ids::MessageId]) -> Option<Taken> {
        if !ids.iter().all(|id| self.holds(id)) {
            return None;
        }
        let answered = self.0.iter().rfind(|m| triggers(m) && ids.contains(&m.id))?.clone();
        let told = self.0.extract_if(.., |m| ids.contains(&m.id)).collect();
        Some(Taken { told, answered })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ids::MessageId;
    use crate::contract::time::Millis;

    fn message(chat: &str, thread: Option<&str>, engage: bool, kind: InboundKind) -> MessageIn {
        MessageIn {
            id: MessageId::mint(),
            kind,
            engage,
            sender_id: "local:ann".into(),
            sender_name: String::new(),
            channel: "local".into(),
            chat: chat.into(),
            thread: thread.map(str::to_owned),
            text: String::new(),
            source_session: None,
            hop: 0,
            in_reply_to: None,
            created_at: Millis(0),
        }
    }

    #[test]
    fn a_turn_takes_one_place_in_order_and_answers_its_last() {
        use InboundKind::{Chat, System};
        let ambient = message("a", None, false, Chat);
        let first = message("a", None, true, Chat);
        let other_chat = message("b", None, true, Chat);
        let other_thread = message("a", Some("t"), true, Chat);
        let note = message("a", None, true, System);
        let second = message("a", None, true, Chat);
        let after = message("a", None, false, Chat);
        let mut waiting = Waiting::default();
        for m in [&ambient, &first, &other_chat, &other_thread, &note, &second, &after] {
            waiting.push(m.clone());
        }
        let taken = waiting.take().unwrap();
        let told: Vec<_> = taken.told.iter().map(|m| m.id.clone()).collect();
        assert_eq!(told, [&ambient, &first, &note, &second, &after].map(|m| m.id.clone()));
        assert_eq!(taken.answered, second);
        assert_eq!(taken.reported().count(), 4, "a note is not reported");
        assert_eq!(waiting.take().unwrap().answered, other_chat);
        assert_eq!(waiting.take().unwrap().answered, other_thread);
        assert_eq!(waiting.take(), None);
    }

    #[test]
    fn what_does_not_trigger_waits() {
        let mut waiting = Waiting::default();
        waiting.push(message("a", None, false, InboundKind::Chat));
        waiting.push(message("a", None, true, InboundKind::System));
        assert_eq!(waiting.take(), None);
        for _ in 0..100 {
            waiting.push(message("a", None, true, InboundKind::System));
        }
        assert_eq!(waiting.iter().count(), NOTES + 1, "notes do not pile up, messages stay");
    }

    #[test]
    fn an_open_turn_takes_its_own_messages_or_none() {
        let (a, b, c) = (
            message("a", None, true, InboundKind::Chat),
            message("a", None, false, InboundKind::Chat),
            message("a", None, true, InboundKind::Chat),
        );
        let mut waiting = Waiting::default();
        waiting.push(a.clone());
        waiting.push(c.clone());
        assert_eq!(waiting.take_these(&[a.id.clone(), b.id.clone()]), None);
        waiting.push(b.clone());
        let taken = waiting.take_these(&[a.id.clone(), b.id.clone()]).unwrap();
        assert_eq!((taken.told.len(), &taken.answered), (2, &a));
        assert_eq!(waiting.iter().collect::<Vec<_>>(), [&c]);
    }
}
