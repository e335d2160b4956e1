//! Messages from agents to agents. An agent is reached like a chat of the channel `agent`, if a destination leads to it:
//! the chat is who writes, the thread the conversation it writes from, and the message the one that it writes about, so
//! that an answer finds its way back to there and to the person who began it. Who writes is what the host knows, whatever
//! the row says; how many agents a matter went through travels with it, and ends what goes round. Touches the ledger.

use std::time::Instant;

use rusqlite::Transaction;

use super::actions::{Refusal, refusal};
use super::letters::{Delivered, LetterRate};
use crate::contract::ids::{GroupName, MessageId, SessionId};
use crate::contract::inbound::{AGENT, InboundKind};
use crate::controlplane::gateway::desk::Desk;
use crate::controlplane::store::inbox::{self, Found, NewInbound};
use crate::controlplane::store::sessions::{self, Partition, Place};
use crate::controlplane::store::{StoreError, destinations, groups};
use crate::controlplane::telemetry::log;

/// Agents that one matter passes through, from the first that was written to on.
const MOST_HOPS: u32 = 5;
/// Messages to agents that the agents of a group send in a minute, answers too.
const MOST_A_MINUTE: u32 = 120;

/// What came of one.
type Sent = Result<Delivered, Refusal>;

/// A message of an agent to another one, or its answer.
#[derive(Debug)]
pub(super) struct Word<'a> {
    /// The conversation that it comes from.
    pub(super) session: &'a SessionId,
    /// Whose that is.
    pub(super) group: &'a GroupName,
    /// The message that it is written about.
    pub(super) cause: (&'a MessageId, &'a Found),
    pub(super) text: String,
}

/// Brings it to another agent, in a conversation of the two about what is said in this one. That a destination leads
/// there is known.
pub(super) fn write(
    tx: &Transaction<'_>,
    desk: &Desk,
    rate: &LetterRate,
    to: &GroupName,
    word: Word<'_>,
) -> Result<Sent, StoreError> {
    let place = Place {
        channel: AGENT.to_owned(),
        instance: String::new(),
        chat: word.group.to_string(),
        thread: Some(word.session.to_string()),
    };
    let there = There {
        partition: Partition { group: to.clone(), place: place.clone() },
        place,
        about: Some(word.cause.0.to_string()),
        answers: None,
    };
    bring(tx, desk, rate, there, word)
}

/// Whether a message came from an agent, so that what answers it goes to one.
pub(super) fn is_from_agent(origin: &Place) -> bool {
    origin.channel == AGENT
}

/// Brings an answer back to the conversation that asked, as a word about what was asked there.
pub(super) fn answer(
    tx: &Transaction<'_>,
    desk: &Desk,
    rate: &LetterRate,
    word: Word<'_>,
) -> Result<Sent, StoreError> {
    let gone =
        || Ok(Err(refusal("gone", "the conversation that asked is not there any more; nothing was sent")));
    let asked = word.cause.1;
    let (Some(session), Ok(asker)) = (
        asked.place.thread.as_deref().and_then(|thread| SessionId::parse(thread).ok()),
        GroupName::parse(&asked.place.chat),
    ) else {
        return gone();
    };
    let Some(row) = sessions::get(tx, &session)?.filter(|row| row.partition.group == asker) else {
        return gone();
    };
    let leads = |from: &GroupName, to: &GroupName| destinations::leading_to(tx, from, AGENT, to.as_str());
    if leads(&asker, word.group)?.is_none() && leads(word.group, &asker)?.is_none() {
        let why = "the two agents may not write to each other any more; nothing was sent";
        return Ok(Err(refusal("no_destination", why)));
    }
    // Where what it was asked about was said; if that is pruned, where that conversation is.
    let about = asked.platform_message.as_deref().and_then(|id| MessageId::parse(id).ok());
    let about = about.map(|id| inbox::find(tx, &session, &id)).transpose()?.flatten();
    let (place, about) = match about {
        Some(found) => (found.place, found.platform_message),
        None => (row.partition.place.clone(), None),
    };
    let there = There { partition: row.partition, place, about, answers: Some(word.cause.0.to_string()) };
    bring(tx, desk, rate, there, word)
}

/// Where it goes.
struct There {
    partition: Partition,
    place: Place,
    /// The name of what it is about, by which an answer is brought there.
    about: Option<String>,
    /// The message that it answers.
    answers: Option<String>,
}

fn bring(
    tx: &Transaction<'_>,
    desk: &Desk,
    rate: &LetterRate,
    there: There,
    word: Word<'_>,
) -> Result<Sent, StoreError> {
    let hop = word.cause.1.hop.saturating_add(1);
    if hop > MOST_HOPS {
        let why = format!("this went through {MOST_HOPS} agents, as many as it may; nothing was sent");
        return Ok(Err(refusal("too_many_hops", why)));
    }
    let Some(agent) = groups::live(tx, &there.partition.group)? else {
        return Ok(Err(refusal("gone", "that agent is not there any more; nothing was sent")));
    };
    if !rate.take(word.group, MOST_A_MINUTE, Instant::now()) {
        let why = format!("{MOST_A_MINUTE} messages a minute to agents are the most; nothing was sent");
        return Ok(Err(refusal("too_often", why)));
    }
    let from = groups::live(tx, word.group)?.map(|from| from.title).unwrap_or_default();
    let is_new = sessions::find(tx, &there.partition)?.is_none();
    let new = NewInbound {
        partition: there.partition,
        place: there.place,
        event_id: String::new(),
        kind: InboundKind::Agent,
        engage: true,
        sender_id: format!("{AGENT}:{}", word.group),
        sender_name: from,
        text: word.text,
        in_reply_to: there.answers,
        source_session: Some(word.session.clone()),
        hop,
        platform_message: there.about,
    };
    let added = match inbox::add(tx, &desk.keyring, &new) {
        Ok(added) => added,
        Err(StoreError::Crowded { .. }) => {
            let why = "that agent has not answered so much that nothing more is taken; nothing was sent";
            return Ok(Err(refusal("crowded", why)));
        }
        // What is damaged there must not hold up the conversation that writes.
        Err(StoreError::Key(error)) => {
            log::error("peer.not_sealed", &[("agent", &agent.name), ("error", &error)]);
            return Ok(Err(refusal(
                "unwritable",
                "nothing can be written to that agent now; nothing was sent",
            )));
        }
        Err(error) => return Err(error),
    };
    Ok(Ok(Delivered { session: added.session, is_new, message: added.message, wakes: true }))
}
