//! A message that is not for the chat that it answers. It is taken only if its agent has the tool for it and a
//! destination that leads there, in the ledger, in the transaction that stores it; else it is refused, and the agent
//! told. Either way nothing worse follows: what was granted a moment ago may have been taken away meanwhile. It appears
//! in the chat that it goes to. Touches the ledger.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Transaction;

use super::Sessions;
use super::actions::{Answer, Refusal, refusal};
use super::peers::{self, Word};
use crate::contract::action::Outcome;
use crate::contract::catalogue::{MOST_LETTER, SEND_FILE, SEND_MESSAGE};
use crate::contract::ids::{GroupName, MessageId, SessionId};
use crate::contract::inbound::{AGENT, DESTINATION};
use crate::contract::json::Value;
use crate::contract::outbound::{MessageOut, OutboundKind};
use crate::controlplane::doors;
use crate::controlplane::gateway::desk::Desk;
use crate::controlplane::store::destinations::{self, Target};
use crate::controlplane::store::inbox::{Found, State};
use crate::controlplane::store::outbox::{self, Output};
use crate::controlplane::store::sessions::{self, Partition, Place};
use crate::controlplane::store::{StoreError, groups};
use crate::controlplane::telemetry::log;

/// How an answer is called among what agents do.
const REPLY: &str = "reply";
const MINUTE: Duration = Duration::from_secs(60);
/// Messages to other chats that the agents of a group send in a minute: nobody there asked for them.
const MOST_A_MINUTE: u32 = 60;

/// Where a message says that it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// To where what it answers came from.
    Back,
    /// To another chat, named in full.
    Elsewhere,
    /// Nowhere that there could be.
    Nowhere,
}

/// Reads where a message goes from its coordinates; what is left out is that of the message that it answers. A chat whose
/// name changed since is that chat under both names: the agent may have been told the former one.
pub(super) fn aim(message: &MessageOut, cause: &Found) -> Aim {
    let MessageOut { kind, channel, chat, thread, .. } = message;
    let origin = &cause.place;
    let is_there =
        |chat: &str| chat == origin.chat || cause.former_chat.as_deref().is_some_and(|former| chat == former);
    if let (OutboundKind::Chat, Some(channel), Some(chat)) = (kind, channel, chat)
        && !(*channel == origin.channel && is_there(chat))
    {
        return Aim::Elsewhere;
    }
    let is_other = |said: &Option<String>, is: Option<&str>| said.is_some() && said.as_deref() != is;
    let is_wrong = is_other(channel, Some(&origin.channel))
        || chat.as_deref().is_some_and(|chat| !is_there(chat))
        || is_other(thread, origin.thread.as_deref());
    if is_wrong { Aim::Nowhere } else { Aim::Back }
}

/// A message for another chat, with the number that it came by.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    pub(super) session: &'a SessionId,
    pub(super) epoch: u64,
    pub(super) seq: u64,
    pub(super) message: MessageOut,
    /// What it answers.
    pub(super) cause: &'a Found,
}

/// How often the agents of a group have written elsewhere in this minute, whichever of their conversations it was.
#[derive(Debug, Default)]
pub(super) struct LetterRate(Mutex<HashMap<GroupName, (Instant, u32)>>);

impl LetterRate {
    /// Counts one; says whether it may still go where so many may.
    pub(super) fn take(&self, group: &GroupName, most: u32, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| now.duration_since(*since) < MINUTE);
        let (_, count) = all.entry(group.clone()).or_insert((now, 0));
        *count = count.saturating_add(1);
        *count <= most
    }
}

/// The counts of both kinds.
#[derive(Debug, Default)]
pub(super) struct Rates {
    /// What goes to chats: nobody there asked for it.
    pub(super) chats: LetterRate,
    /// What goes to agents.
    pub(super) agents: LetterRate,
}

/// Where a letter appeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Delivered {
    /// In this conversation.
    pub(super) session: SessionId,
    /// Which had not begun before.
    pub(super) is_new: bool,
    /// The letter.
    pub(super) message: MessageId,
    /// It is for an agent, which is to answer it.
    pub(super) wakes: bool,
}

/// Takes or refuses it. The answer goes by the message's number.
pub(super) fn take(
    tx: &Transaction<'_>,
    desk: &Desk,
    rates: &Rates,
    letter: Letter<'_>,
) -> Result<(Answer, Option<Delivered>), StoreError> {
    let row = sessions::get(tx, letter.session)?.ok_or(StoreError::BadRow("a session"))?;
    let (group, call) = (row.partition.group, letter.seq.to_string());
    let outcome = |ok: bool, result: Value| Outcome { name: SEND_MESSAGE.to_owned(), call, ok, result };
    let MessageOut { channel, chat, thread, text, in_reply_to, .. } = letter.message;
    let (channel, chat) = (channel.unwrap_or_default(), chat.unwrap_or_default());
    let agent = groups::live(tx, &group)?.filter(|agent| agent.tools.has(SEND_MESSAGE));
    let unrecorded = agent.as_ref().and_then(|agent| agent.reach_unrecorded(desk.audit.exported()));
    let found = match channel.as_str() {
        DESTINATION => destinations::find(tx, &group, &chat)?,
        _ => destinations::leading_to(tx, &group, &channel, &chat)?,
    };
    let target = found.map(|found| found.target);
    let target = target.filter(|target| thread.is_none() || thread == target.thread);
    let judged: Result<Target, Refusal> = match target {
        _ if agent.is_none() => {
            let why = format!("this agent does not have the tool {SEND_MESSAGE}; nothing was sent");
            Err(refusal("not_granted", why))
        }
        None => Err(refusal("no_destination", "that chat is no destination of this agent; nothing was sent")),
        Some(_) if letter.cause.state != State::Open => {
            Err(refusal("over", "the message that is answered is finished or was given up; nothing was sent"))
        }
        Some(_) if text.trim().is_empty() || text.len() > MOST_LETTER => {
            let why =
                format!("a message must have 1 to {MOST_LETTER} bytes and not only spaces; nothing was sent");
            Err(refusal("wrong_length", why))
        }
        Some(_) if let Some(reason) = unrecorded => {
            Err(refusal("unrecorded", format!("nothing was sent: {reason}; try again later")))
        }
        Some(target) if target.channel == AGENT => Ok(target),
        Some(_) if !rates.chats.take(&group, MOST_A_MINUTE, Instant::now()) => {
            let why =
                format!("{MOST_A_MINUTE} messages a minute to other chats are the most; nothing was sent");
            Err(refusal("too_often", why))
        }
        Some(target) => Ok(target),
    };
    let Target { channel, instance, chat, thread, .. } = match judged {
        Ok(target) => target,
        Err(why) => {
            return Ok((Answer::refused(why, group, SEND_MESSAGE, |told| outcome(false, told)), None));
        }
    };
    if channel == AGENT {
        let to = GroupName::parse(&chat).map_err(|_| StoreError::BadRow("a destination"))?;
        let Some(cause) = &in_reply_to else { return Err(StoreError::BadRow("a letter")) };
        let word = Word { session: letter.session, group: &group, cause: (cause, letter.cause), text };
        return Ok(match peers::write(tx, desk, &rates.agents, &to, word)? {
            Ok(delivered) => {
                let told = Value::object([("message", Value::from(delivered.message.as_str()))]);
                (Answer::done(outcome(true, told)), Some(delivered))
            }
            Err(why) => (Answer::refused(why, group, SEND_MESSAGE, |told| outcome(false, told)), None),
        });
    }
    if let Err(no) = doors::lead_to(&channel, &instance, &chat, thread.as_deref()) {
        // Given by another version, which had this door.
        let why = refusal("unsupported_here", format!("{no}; nothing was sent"));
        return Ok((Answer::refused(why, group, SEND_MESSAGE, |told| outcome(false, told)), None));
    }
    let place = Place { channel, instance, chat, thread };
    let partition = Partition { group, place: place.clone() };
    let is_new = sessions::find(tx, &partition)?.is_none();
    let there = sessions::find_or_create(tx, &partition)?;
    let stored = outbox::store(
        tx,
        &desk.keyring,
        &Output {
            session: letter.session.clone(),
            epoch: letter.epoch,
            seq: letter.seq,
            ordinal: 0,
            in_reply_to,
            place,
            shown_in: there.clone(),
            text,
        },
    );
    let stored = match stored {
        // What is damaged there must not hold up the conversation that writes.
        Err(StoreError::Key(error)) => {
            log::error("letter.not_sealed", &[("session", &there), ("error", &error)]);
            let why = refusal("unwritable", "nothing can be written to that chat now; nothing was sent");
            return Ok((
                Answer::refused(why, partition.group, SEND_MESSAGE, |told| outcome(false, told)),
                None,
            ));
        }
        stored => stored?,
    };
    sessions::touch(tx, &there)?;
    let told = Value::object([("message", Value::from(stored.message.as_str()))]);
    let delivered = Delivered { session: there, is_new, message: stored.message, wakes: false };
    Ok((Answer::done(outcome(true, told)), Some(delivered)))
}

/// An answer to a message of another agent goes back to where that one was asked. What it comes to is added to
/// `elsewhere`; `None` when it was taken.
pub(super) fn back_to_agent(
    tx: &Transaction<'_>,
    desk: &Desk,
    rates: &Rates,
    letter: Letter<'_>,
    elsewhere: &mut Vec<Delivered>,
) -> Result<Option<Answer>, StoreError> {
    let Some(cause) = &letter.message.in_reply_to else { return Ok(None) };
    let row = sessions::get(tx, letter.session)?.ok_or(StoreError::BadRow("a session"))?;
    let group = row.partition.group;
    let text = letter.message.text.clone();
    let word = Word { session: letter.session, group: &group, cause: (cause, letter.cause), text };
    match peers::answer(tx, desk, &rates.agents, word)? {
        Ok(delivered) => {
            elsewhere.push(delivered);
            Ok(None)
        }
        Err(why) => {
            let (name, call) = (REPLY.to_owned(), letter.seq.to_string());
            Ok(Some(Answer::refused(why, group, REPLY, |result| Outcome { name, call, ok: false, result })))
        }
    }
}

/// Files go out only of an agent that has the tool for it. `None` where it has.
pub(super) fn no_files(
    tx: &Transaction<'_>,
    session: &SessionId,
    seq: u64,
) -> Result<Option<Answer>, StoreError> {
    let row = sessions::get(tx, session)?.ok_or(StoreError::BadRow("a session"))?;
    let group = row.partition.group;
    if groups::live(tx, &group)?.is_some_and(|agent| agent.tools.has(SEND_FILE)) {
        return Ok(None);
    }
    let why =
        refusal("not_granted", format!("this agent does not have the tool {SEND_FILE}; nothing was sent"));
    let outcome =
        |told| Outcome { name: SEND_FILE.to_owned(), call: seq.to_string(), ok: false, result: told };
    Ok(Some(Answer::refused(why, group, SEND_FILE, outcome)))
}

/// An answer to a chat of a platform from which its agent was taken away meanwhile, and to which it has no destination,
/// goes nowhere. `None` where it may go.
pub(super) fn unwired(
    tx: &Transaction<'_>,
    session: &SessionId,
    seq: u64,
    place: &Place,
) -> Result<Option<Answer>, StoreError> {
    if !doors::is_platform(&place.channel) {
        return Ok(None);
    }
    let row = sessions::get(tx, session)?.ok_or(StoreError::BadRow("a session"))?;
    let group = row.partition.group;
    if destinations::reach(tx, &group, place)? {
        return Ok(None);
    }
    let why = refusal("not_wired", "the agent was taken away from that chat; nothing was sent");
    let outcome = |told| Outcome { name: REPLY.to_owned(), call: seq.to_string(), ok: false, result: told };
    Ok(Some(Answer::refused(why, group, REPLY, outcome)))
}

impl Sessions {
    /// Tells whoever watches the conversations that letters went to, and the log which one they came from. To be called
    /// after the commit.
    pub(super) fn delivered(&self, from: &SessionId, letters: Vec<Delivered>) {
        if letters.iter().any(|letter| letter.is_new) {
            self.ring_births();
        }
        let mut rung = HashSet::new();
        for letter in letters {
            let (to, message) = (&letter.session as _, &letter.message as _);
            log::info("letter.sent", &[("from", from as _), ("to", to), ("message", message)]);
            if letter.wakes {
                self.wake(&letter.session);
            }
            if rung.insert(letter.session.clone()) {
                self.context().bells.ring(&letter.session, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_writes_elsewhere_so_often_in_a_minute() {
        let (rate, now) = (LetterRate::default(), Instant::now());
        let (one, other) = (GroupName::parse("one").unwrap(), GroupName::parse("other").unwrap());
        for _ in 0..MOST_A_MINUTE {
            assert!(rate.take(&one, MOST_A_MINUTE, now));
        }
        assert!(!rate.take(&one, MOST_A_MINUTE, now + MINUTE / 2));
        assert!(rate.take(&other, MOST_A_MINUTE, now + MINUTE / 2));
        assert!(rate.take(&one, MOST_A_MINUTE, now + MINUTE));
    }
}
