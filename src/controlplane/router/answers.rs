//! What people answer to the questions of agents: a button that is pressed, or words where a question was shown. Only who
//! would be heard there as one who speaks to the agent, and in the conversation that asked, answers it. Touches the
//! ledger, in the transaction that takes the event.

use std::collections::HashMap;

use rusqlite::Transaction;

use super::decide::{Reason, Verdict};
use super::plan::{self, Said, plan};
use super::{Outcome, Routed};
use crate::contract::ids::{GroupName, UserId};
use crate::contract::time::Millis;
use crate::controlplane::channels::event::{EventKind, InboundEvent};
use crate::controlplane::keys::Keyring;
use crate::controlplane::questions::{self, Asked, Choice, Person};
use crate::controlplane::store::inbox::{self, Accepted};
use crate::controlplane::store::questions::{self as kept, Question};
use crate::controlplane::store::sessions::{self, Partition, Place};
use crate::controlplane::store::wirings::{self, Wiring};
use crate::controlplane::store::{StoreError, deliveries};

const TAKEN: &str = "Your answer is taken.";
const NOTHING: &str = "This button does nothing any more.";
const NOT_YOU: &str = "You may not answer this.";

/// What becomes of an answer for its agent.
pub(super) fn outcome(group: GroupName, answered: &Accepted) -> Outcome {
    Outcome {
        group,
        verdict: Verdict::Engage,
        reason: Reason::Answer,
        message: Some((answered.message.clone(), answered.session.clone())),
    }
}

/// Somebody pressed a button.
pub(super) fn press(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    place: &Place,
    event: &InboundEvent,
    sender: &UserId,
    data: &str,
) -> Result<Routed, StoreError> {
    let told = |words| Ok(Routed { pressed: Some(words), ..Routed::default() });
    let Some((id, at)) = questions::pressed(data) else { return told(NOTHING) };
    let Some(question) = kept::get(tx, &id)? else { return told(NOTHING) };
    let shown = &question.place;
    // Whoever was shown it elsewhere, or made it up, is told what everybody is told of what is not there.
    if (&shown.channel, &shown.instance, &shown.chat) != (&place.channel, &place.instance, &place.chat) {
        return told(NOTHING);
    }
    let Some(row) = sessions::get(tx, &question.session)? else { return told(NOTHING) };
    // Programs that answer each other would never end.
    if event.sender.voice.may_be_a_program() || !is_heard(tx, shown, sender, event, &row.partition)? {
        return told(NOT_YOU);
    }
    let sender = sender.to_string();
    let person = Person { id: &sender, name: &event.sender.name, message: None };
    match questions::answer(tx, keyring, &question, &Choice::Option(at), person)? {
        Err(refused) => told(refused.words()),
        Ok(accepted) => {
            inbox::note(tx, place, &event.event_id, &accepted)?;
            Ok(Routed {
                outcomes: vec![outcome(question.group, &accepted)],
                pressed: Some(TAKEN),
                ..Routed::default()
            })
        }
    }
}

/// Whether an agent hears somebody in a conversation, if they speak to it.
fn is_heard(
    tx: &Transaction<'_>,
    place: &Place,
    sender: &UserId,
    event: &InboundEvent,
    partition: &Partition,
) -> Result<bool, StoreError> {
    let all = wirings::of_chat(tx, (&place.channel, &place.instance, &place.chat), plan::MOST)?;
    let patterns = all.into_iter().filter_map(|wiring| wiring.terms.pattern);
    let matched: HashMap<String, bool> = patterns.map(|pattern| (pattern, true)).collect();
    let voice = event.sender.voice;
    let said = Said { place, sender, voice, is_new: true, is_mentioned: true, matched: &matched };
    let plans = plan(tx, &said, Millis::now(), |_| false)?;
    let is_theirs = |plan: &plan::Plan| plan.partition == *partition && plan.verdict == Verdict::Engage;
    Ok(plans.iter().any(is_theirs))
}

/// The questions that something said may answer.
pub(super) struct Open(Vec<(Question, Asked)>);

/// Those that are open where it was said.
pub(super) fn open(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    place: &Place,
    event: &InboundEvent,
) -> Result<Open, StoreError> {
    // What is not written, or was written before, answers nothing; nor does a program.
    if event.kind != EventKind::Message || event.sender.voice.may_be_a_program() {
        return Ok(Open(Vec::new()));
    }
    Ok(Open(questions::open_in(tx, keyring, place)?))
}

impl Open {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what was said as the answer to one of them, if it is: the option that it names, or any words, where they
    /// are spoken to the agent. A message with files is more than an answer.
    pub(super) fn take(
        &mut self,
        tx: &Transaction<'_>,
        keyring: &Keyring,
        said: &Said<'_>,
        event: &InboundEvent,
        (wiring, partition, verdict): (&Wiring, &Partition, Verdict),
    ) -> Result<Option<Accepted>, StoreError> {
        if !event.attachments.is_empty() {
            return Ok(None);
        }
        let Some(session) = sessions::find(tx, partition)? else { return Ok(None) };
        let quoted = event.reply_to.as_ref().map(|quoted| quoted.message_id.as_str());
        for (question, asked) in &self.0 {
            if question.session != session || question.group != wiring.group {
                continue;
            }
            let is_quoted = match quoted {
                Some(quoted) => deliveries::find(tx, &question.message)?
                    .is_some_and(|shown| shown.receipts.iter().any(|receipt| receipt == quoted)),
                None => false,
            };
            if quoted.is_some() && !is_quoted {
                // It is said to something else.
                continue;
            }
            let words =
                || (verdict == Verdict::Engage || is_quoted).then(|| Choice::Words(event.text.clone()));
            let Some(choice) = asked.named(&event.text).or_else(words) else { continue };
            if asked.words(&choice).is_none() || !is_heard(tx, said.place, said.sender, event, partition)? {
                continue;
            }
            let sender = said.sender.to_string();
            let person =
                Person { id: &sender, name: &event.sender.name, message: event.message_id.as_deref() };
            if let Ok(accepted) = questions::answer(tx, keyring, question, &choice, person)? {
                return Ok(Some(accepted));
            }
        }
        Ok(None)
    }
}
