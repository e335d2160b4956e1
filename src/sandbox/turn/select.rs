//! Which messages a turn takes. Pure: it touches nothing.

use super::commands::Command;
use super::room::{PROMPT_BYTES, encoded};
use crate::contract::inbound::{InboundKind, MessageIn};
use crate::sandbox::prompt;

/// Notes that wait for a turn to carry them; the oldest go when there are more, since nobody is owed them.
const NOTES: usize = 32;
/// Messages of one turn, notes besides. What a turn takes must be handed over again in one piece when it is
/// resumed: the host's first ring has room for 256 messages and 4 MiB of text, oldest first.
const MESSAGES: usize = 64;

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

fn size(message: &MessageIn) -> usize {
    encoded(&prompt::message(message))
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

    /// Takes the chat and thread of the message that has triggered longest: its triggering messages, what
    /// else was said there, and the notes, in order and as many as one turn has room for; the rest is the
    /// next turn's. `None` when nothing triggers.
    pub(super) fn take(&mut self) -> Option<Taken> {
        let first = self.0.iter().find(|message| triggers(message))?.clone();
        let mut answered = first.clone();
        // The first that triggers goes in any case, so its room is taken before that of those in front of it.
        let (mut count, mut bytes) = (1, size(&first));
        let (mut is_before, mut is_full) = (true, false);
        let is_command = Command::of(&first).is_some();
        let fits = |m: &mut MessageIn| {
            if m.id == first.id {
                is_before = false;
                // What was left behind in front of it does not close the way for what comes after it.
                is_full = false;
                return true;
            }
            // A command is a turn of its own: nothing is lost with what is forgotten by it, and nothing goes unanswered.
            if is_command || Command::of(m).is_some() && same_place(m, &first) {
                is_full = true;
                return false;
            }
            let is_note = m.kind == InboundKind::System;
            if is_full || !(is_note || same_place(m, &first)) {
                return false;
            }
            let (more, room) = (usize::from(!is_note), size(m));
            if count + more > MESSAGES || bytes + room > PROMPT_BYTES {
                is_full = true;
                return false;
            }
            (count, bytes) = (count + more, bytes + room);
            if triggers(m) && !is_before {
                answered = m.clone();
            }
            true
        };
        let told = self.0.extract_if(.., fits).collect();
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
    fn a_command_is_a_turn_of_its_own() {
        use InboundKind::{Chat, System};
        let said = |text: &str| MessageIn { text: text.to_owned(), ..message("a", None, true, Chat) };
        let (hello, reset, again) = (said("hello"), said("/reset"), said("again"));
        let (ambient, note) = (message("a", None, false, Chat), message("a", None, true, System));
        let elsewhere = message("b", None, true, Chat);
        let mut waiting = Waiting::default();
        for m in [&hello, &ambient, &reset, &note, &elsewhere, &again] {
            waiting.push(m.clone());
        }
        let takes = |waiting: &mut Waiting, expected: &[&MessageIn]| {
            let taken = waiting.take().unwrap();
            assert_eq!(taken.told.iter().collect::<Vec<_>>(), expected);
            taken.answered
        };
        assert_eq!(takes(&mut waiting, &[&hello, &ambient]), hello);
        assert_eq!(takes(&mut waiting, &[&reset]), reset);
        assert_eq!(takes(&mut waiting, &[&note, &elsewhere]), elsewhere);
        assert_eq!(takes(&mut waiting, &[&again]), again);
        assert_eq!(waiting.take(), None);
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
    fn a_turn_is_bounded_and_the_rest_is_the_next_turn_in_order() {
        let mut waiting = Waiting::default();
        let all: Vec<_> =
            (0..MESSAGES * 2 + 1).map(|_| message("a", None, true, InboundKind::Chat)).collect();
        all.iter().for_each(|m| waiting.push(m.clone()));
        for part in all.chunks(MESSAGES) {
            let taken = waiting.take().unwrap();
            assert_eq!(taken.told, part);
            assert_eq!(Some(&taken.answered), part.last());
        }
        assert_eq!(waiting.take(), None);

        // Each control character takes six bytes as JSON.
        let text = "\u{1}".repeat(64 << 10);
        let large: Vec<_> = (0..7)
            .map(|_| MessageIn { text: text.clone(), ..message("a", None, true, InboundKind::Chat) })
            .collect();
        large.iter().for_each(|m| waiting.push(m.clone()));
        for part in large.chunks(2) {
            assert_eq!(waiting.take().unwrap().told, part);
        }
        let huge = MessageIn { text: "x".repeat(PROMPT_BYTES * 2), ..large[0].clone() };
        waiting.push(huge.clone());
        assert_eq!(waiting.take().unwrap().told, [huge], "one message goes whatever it takes");
    }

    #[test]
    fn what_rides_along_leaves_room_for_what_triggers() {
        let mut waiting = Waiting::default();
        (0..MESSAGES * 2).for_each(|_| waiting.push(message("a", None, false, InboundKind::Chat)));
        let trigger = message("a", None, true, InboundKind::Chat);
        waiting.push(trigger.clone());
        let taken = waiting.take().unwrap();
        assert_eq!((taken.told.len(), taken.told.last()), (MESSAGES, Some(&trigger)));
        assert_eq!(taken.answered, trigger);
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
