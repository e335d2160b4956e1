//! Tools whose work the host does: the question is journalled and handed to the mailbox, and the answer comes back as
//! an inbound row while the turn waits, not longer than it can spare. A question has the same mark whenever it is
//! asked, so the host knows one that a crash made come again. Touches the journal and the channels of the mailbox.

use std::collections::VecDeque;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use super::{End, Place, Turns};
use crate::contract::action::{Action, Outcome};
use crate::contract::inbound::{InboundKind, MessageIn};
use crate::contract::json::Value;
use crate::contract::outbound::{MessageOut, OutboundBody, OutboundKind, OutboundRow};
use crate::contract::time::Millis;
use crate::sandbox::mailbox::FromTurn;
use crate::sandbox::models::Model;
use crate::sandbox::tools::ToolError;

/// The longest wait for an answer: the host commits and syncs, and waits for nobody.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest question, as JSON; the host takes twice as much.
const QUESTION_BYTES: usize = 512 << 10;
/// Answers that are kept until somebody asks for them.
const KEPT: usize = 64;

/// What the host has answered and no tool has taken.
#[derive(Debug, Default)]
pub(super) struct Answers(VecDeque<Outcome>);

impl Answers {
    /// Takes a row in if it is an answer.
    pub(super) fn take_in(&mut self, message: &MessageIn) -> bool {
        if message.kind != InboundKind::System {
            return false;
        }
        let Ok(outcome) = Outcome::parse(message.text.as_bytes()) else { return false };
        self.0.push_back(outcome);
        if self.0.len() > KEPT {
            // One that came too late for its turn; what it was about is told of in words of its own.
            self.0.pop_front();
        }
        true
    }

    fn take(&mut self, call: &str) -> Option<Outcome> {
        let at = self.0.iter().position(|outcome| outcome.call == call)?;
        self.0.remove(at)
    }
}

/// What asks the host, in answer to a message.
fn question(action: &Action, answered: &MessageIn) -> MessageOut {
    MessageOut {
        in_reply_to: Some(answered.id.clone()),
        kind: OutboundKind::Action,
        channel: None,
        chat: None,
        thread: None,
        text: action.encode(),
        created_at: Millis::now(),
    }
}

fn asks(row: &OutboundRow, action: &Action) -> bool {
    let OutboundBody::Message(message) = &row.body else { return false };
    message.kind == OutboundKind::Action
        && Action::parse(message.text.as_bytes()).is_ok_and(|asked| asked.call == action.call)
}

/// One run of such a tool.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) place: Place,
    /// Whether an earlier process has noted that it would ask.
    pub(super) is_noted: bool,
    /// The tool.
    pub(super) name: &'a str,
    /// Names this run, the same again after a crash.
    pub(super) stamp: &'a str,
    /// The message that the turn answers.
    pub(super) answered: &'a MessageIn,
    /// When the turn began.
    pub(super) begun: Instant,
}

impl<M: Model> Turns<M> {
    /// Asks the host and waits for its answer.
    pub(super) fn ask_host(
        &mut self,
        asked: &Question<'_>,
        arguments: Value,
    ) -> Result<Result<Outcome, ToolError>, End> {
        let Place { turn, step, ordinal } = asked.place;
        let action = Action { name: asked.name.to_owned(), call: asked.stamp.to_owned(), arguments };
        let question = question(&action, asked.answered);
        if question.text.len() > QUESTION_BYTES {
            let text = format!("the input is longer than {QUESTION_BYTES} bytes; make it shorter");
            return Ok(Err(ToolError(text)));
        }
        // One that the host has not stored yet was put back at the start and is answered; else it is asked again.
        let journal = &mut self.parts.journal;
        let is_on_its_way = asked.is_noted && journal.outputs()?.iter().any(|row| asks(row, &action));
        if !is_on_its_way {
            let row = journal.ask(turn, step, ordinal, question)?;
            self.outlet.send(FromTurn::Outputs(vec![row]));
        }
        let outcome = self.wait_for(&action.call, asked.begun)?;
        Ok(outcome.ok_or_else(|| {
            let text =
                "no answer in time: nobody knows whether this was asked; do not ask again in this turn";
            ToolError(text.to_owned())
        }))
    }

    /// Waits for the host's answer of this mark, in a turn that began then; `None` when none came in time.
    pub(super) fn wait_for(&mut self, call: &str, begun: Instant) -> Result<Option<Outcome>, End> {
        self.outlet.send(FromTurn::Doing("host"));
        let until = Instant::now() + PATIENCE.min(self.time_left(begun));
        loop {
            if let Some(outcome) = self.answers.take(call) {
                return Ok(Some(outcome));
            }
            match self.inlet.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(word) => self.hear(word),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(End::Over),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ids::MessageId;

    fn row(kind: InboundKind, text: String) -> MessageIn {
        MessageIn {
            id: MessageId::mint(),
            kind,
            engage: false,
            sender_id: "system:host".to_owned(),
            sender_name: String::new(),
            channel: String::new(),
            chat: String::new(),
            thread: None,
            text,
            source_session: None,
            hop: 0,
            in_reply_to: None,
            created_at: Millis(0),
        }
    }

    fn answer(call: usize) -> String {
        let (name, call) = ("x".to_owned(), call.to_string());
        Outcome { name, call, ok: true, result: Value::Null }.encode()
    }

    #[test]
    fn only_the_hosts_own_rows_are_answers_and_few_are_kept() {
        let mut answers = Answers::default();
        assert!(!answers.take_in(&row(InboundKind::Chat, answer(1))), "anybody can write that");
        assert!(!answers.take_in(&row(InboundKind::System, "a note".to_owned())));
        for call in 0..100 {
            assert!(answers.take_in(&row(InboundKind::System, answer(call))));
        }
        assert_eq!(answers.0.len(), KEPT);
        assert!(answers.take("1").is_none() && answers.take("99").is_some());
        assert!(answers.take("99").is_none(), "once");
    }
}
