//! What would become of a message, for every agent that listens in its chat: the ledger's side of the decision, which
//! changes nothing. The same is asked before a message is stored and by whoever tries a wiring out.

use std::collections::HashMap;

use rusqlite::Connection;

use super::decide::{Hearing, Manner, Reason, Speaker, Verdict, decide};
use crate::contract::ids::{GroupName, UserId, WiringId};
use crate::contract::inbound::AGENT;
use crate::contract::time::Millis;
use crate::controlplane::channels::event::Voice;
use crate::controlplane::principals::{Scope, Standing};
use crate::controlplane::store::sessions::{Partition, Place};
use crate::controlplane::store::wirings::{self, Wiring};
use crate::controlplane::store::{StoreError, attention, groups, members};

/// Most agents that listen in one chat.
pub const MOST: usize = 64;

/// A message that is or could be said.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Where.
    pub place: &'a Place,
    /// By whom.
    pub sender: &'a UserId,
    /// As what.
    pub voice: Voice,
    /// It is not the change of an earlier one.
    pub is_new: bool,
    /// It names the agent's account.
    pub is_mentioned: bool,
    /// Which patterns are found in it.
    pub matched: &'a HashMap<String, bool>,
}

/// What becomes of it for one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The agent's wiring.
    pub wiring: Wiring,
    /// The conversation that it belongs to.
    pub partition: Partition,
    /// What.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

/// For every agent that listens there, in the order in which they came. `is_loop` says whether what may be a program was answered
/// too often, and is asked of what would be answered.
///
/// # Errors
/// SQLite's, or [`StoreError::BadRow`].
pub fn plan(
    conn: &Connection,
    said: &Said<'_>,
    now: Millis,
    is_loop: impl Fn(&WiringId) -> bool,
) -> Result<Vec<Plan>, StoreError> {
    let Place { channel, instance, chat, thread } = said.place;
    let all = wirings::of_chat(conn, (channel, instance, chat), MOST)?;
    let standing = if all.is_empty() { Standing::default() } else { Standing::of(conn, said.sender)? };
    let mut plans = Vec::with_capacity(all.len());
    for wiring in all {
        let group = &wiring.group;
        // Words that another version wrote make no agent hear more than this one understands.
        let Some(manner) = Manner::of(&wiring.terms) else { continue };
        if groups::live(conn, group)?.is_none() {
            continue;
        }
        let is_known = standing.allows(Scope::Chat, Some(group)) || members::has(conn, group, said.sender)?;
        let hearing = Hearing {
            manner,
            speaker: if is_known { Speaker::Known } else { Speaker::Stranger },
            voice: said.voice,
            is_loop: false,
            is_new: said.is_new,
            is_mentioned: said.is_mentioned,
            matches: wiring.terms.pattern.as_ref().is_some_and(|one| said.matched.get(one) == Some(&true)),
            is_sticky: attention::lasts(conn, &wiring.id, thread.as_deref(), now)?,
        };
        let (verdict, reason) = match decide(&hearing) {
            (Verdict::Engage, _) if said.voice.may_be_a_program() => {
                decide(&Hearing { is_loop: is_loop(&wiring.id), ..hearing })
            }
            decided => decided,
        };
        let partition = partition(group, &wiring.terms.sessions, said.place);
        plans.push(Plan { wiring, partition, verdict, reason });
    }
    Ok(plans)
}

/// The conversation of an agent that a message belongs to.
pub fn partition(group: &GroupName, sessions: &str, place: &Place) -> Partition {
    let place = match sessions {
        "per-thread" => place.clone(),
        "agent-shared" => agent_place(group),
        _ => Place { thread: None, ..place.clone() },
    };
    Partition { group: group.clone(), place }
}

/// The place of the conversation that is the agent's own, and no chat's: all chats that are wired `agent-shared` share it.
/// No other agent has a conversation there, for none writes to itself.
pub fn agent_place(group: &GroupName) -> Place {
    Place { channel: AGENT.to_owned(), instance: String::new(), chat: group.to_string(), thread: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversations_are_cut_as_the_wiring_says() {
        let (ann, bea) = (GroupName::parse("ann").unwrap(), GroupName::parse("bea").unwrap());
        let at = |chat: &str, thread: Option<&str>| Place {
            channel: "webhook".into(),
            instance: "one".into(),
            chat: chat.into(),
            thread: thread.map(str::to_owned),
        };
        let (one, two, other) = (at("a", Some("1")), at("a", Some("2")), at("b", Some("1")));
        for (mode, threads, chats) in
            [("shared", true, false), ("per-thread", false, false), ("agent-shared", true, true)]
        {
            let of = |place: &Place| partition(&ann, mode, place);
            assert_eq!(of(&one), of(&one), "{mode}");
            assert_eq!(of(&one) == of(&two), threads, "{mode}: threads of a chat");
            assert_eq!(of(&one) == of(&other), chats, "{mode}: chats");
            assert_ne!(of(&one), partition(&bea, mode, &one), "{mode}: agents");
        }
        assert_eq!(partition(&ann, "shared", &one), partition(&ann, "per-thread", &at("a", None)));
    }
}
