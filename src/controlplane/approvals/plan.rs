//! What is to be shown to somebody next, as it follows from the ledger: which changes are put before them, and what a card
//! that they have is to say. Reads the ledger.

use std::collections::HashSet;

use rusqlite::Connection;

use super::card::{self, Face};
use crate::contract::ids::{ChangeId, GroupName, MessageId, UserId};
use crate::controlplane::gateway::Gateway;
use crate::controlplane::keys::Keyring;
use crate::controlplane::principals::{Scope, Standing};
use crate::controlplane::store::StoreError;
use crate::controlplane::store::approvals::{self, Card, Chat};
use crate::controlplane::store::changes::{self, Change, State};

/// Cards that ask one person for a decision at once: no agent floods anybody.
const MOST_OF_ONE: usize = 10;
/// Those of them that are about one agent, or asked for by one: none keeps others from being seen. An agent may ask for
/// agents of any name, so that what they are about does not bound what it asks.
const MOST_OF_GROUP: usize = 3;
/// Those of them that were not asked for by people: what agents and strangers ask never takes all the room.
const MOST_OF_PROGRAMS: usize = 8;
/// Those about one agent that strangers asked for, by writing to it.
const MOST_OF_STRANGERS: usize = 1;
/// Changes of one agent that are looked through at once.
const PAGE: usize = 200;

/// What is to be done for one person next.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    /// A card is to be made of this change.
    Make(ChangeId, Chat),
    /// A card was not sent, or is not theirs any more, and need not be there.
    Forget(Card),
    /// A card is to show something.
    Show(Box<(Card, Face)>),
}

/// Who asked for a change, as far as it matters for its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Person,
    Agent,
    Stranger,
}

impl Kind {
    fn of(requested_by: &str) -> Self {
        if requested_by.starts_with("agent:") {
            Self::Agent
        } else if requested_by.starts_with("channel:") {
            Self::Stranger
        } else {
            Self::Person
        }
    }
}

/// The changes that somebody is asked about: each with the agent that it is about and who asked.
#[derive(Debug, Default)]
struct Asking(Vec<(GroupName, String)>);

impl Asking {
    fn add(&mut self, group: &GroupName, by: &str) {
        self.0.push((group.clone(), by.to_owned()));
    }

    fn count(&self, is_one: impl Fn(&GroupName, &str) -> bool) -> usize {
        self.0.iter().filter(|(group, by)| is_one(group, by)).count()
    }

    /// Whether no further change about an agent is shown.
    fn is_full_of(&self, group: &GroupName) -> bool {
        self.0.len() >= MOST_OF_ONE || self.count(|other, _| other == group) >= MOST_OF_GROUP
    }

    /// Whether this one is not shown because of who asked for it.
    fn has_no_room_for(&self, group: &GroupName, by: &str) -> bool {
        let programs = self.count(|_, other| Kind::of(other) != Kind::Person) >= MOST_OF_PROGRAMS;
        match Kind::of(by) {
            Kind::Person => false,
            Kind::Agent => programs || self.count(|_, other| other == by) >= MOST_OF_GROUP,
            Kind::Stranger => {
                let of_strangers = self.count(|other, by| other == group && Kind::of(by) == Kind::Stranger);
                programs || of_strangers >= MOST_OF_STRANGERS
            }
        }
    }
}

/// What is to be done for somebody who is shown things in this chat, or in none. The cards of `later` wait for their time.
pub(super) fn next(
    conn: &Connection,
    gateway: &Gateway,
    keyring: &Keyring,
    user: &UserId,
    chat: Option<Chat>,
    later: &HashSet<MessageId>,
) -> Result<Next, StoreError> {
    let standing = Standing::of(conn, user)?;
    let mut asking = Asking::default();
    let mut asked: Vec<(Card, Change)> = Vec::new();
    // What is shown elsewhere comes last: its account may be gone for good.
    let mut elsewhere = None;
    for card in approvals::cards_of(conn, user)? {
        let Some(change) = changes::get(conn, &card.change)? else { return Ok(Next::Forget(card)) };
        let is_here = chat.as_ref().is_some_and(|chat| card.is_in(chat));
        let is_theirs = is_here && standing.allows(Scope::Approve, Some(&change.group));
        let face = match change.state {
            State::Pending if is_here && gateway.could_approve(conn, user, &change)? => {
                asking.add(&change.group, &change.requested_by);
                let is_up_to_date = card::asked(&card.shown) == Some(change.digest.as_str());
                if is_up_to_date || later.contains(&card.message) {
                    asked.push((card, change));
                    continue;
                }
                card::asking(keyring, &card, &change, false)
            }
            State::Pending => card::taken_away(&change),
            _ if is_theirs => card::decided(&change),
            _ => card::over(&change),
        };
        if card.shown == face.shown {
            if !is_here && change.state == State::Pending {
                // It says so, and the next one is shown elsewhere, if anywhere.
                return Ok(Next::Forget(card));
            }
            continue;
        }
        if card.shown.is_empty() && face.buttons.is_empty() {
            return Ok(Next::Forget(card));
        }
        if later.contains(&card.message) {
            continue;
        }
        if is_here {
            return Ok(Next::Show(Box::new((card, face))));
        }
        elsewhere.get_or_insert((card, face));
    }
    if let Some(chat) = chat.filter(|_| asking.0.len() < MOST_OF_ONE)
        && let Some(change) = oldest(conn, gateway, user, &standing, &asking)?
    {
        return Ok(Next::Make(change, chat));
    }
    // The last one says whether there are more.
    let more = !asked.is_empty() && waits(conn, gateway, user, &standing)?;
    let last = asked.len().saturating_sub(1);
    for (at, (card, change)) in asked.into_iter().enumerate() {
        let face = card::asking(keyring, &card, &change, more && at == last);
        if card.shown != face.shown && !later.contains(&card.message) {
            return Ok(Next::Show(Box::new((card, face))));
        }
    }
    Ok(elsewhere.map_or(Next::Nothing, |shown| Next::Show(Box::new(shown))))
}

/// The change of which a card is to be made: the oldest that a person asked for, else an agent, else a stranger.
fn oldest(
    conn: &Connection,
    gateway: &Gateway,
    user: &UserId,
    standing: &Standing,
    asking: &Asking,
) -> Result<Option<ChangeId>, StoreError> {
    let mut best: Option<(Kind, ChangeId)> = None;
    for group in theirs(conn, standing)? {
        if !asking.is_full_of(&group) {
            let first = first_of(conn, gateway, user, standing, &group, asking)?;
            best = match (best, first) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
        }
    }
    Ok(best.map(|(_, change)| change))
}

/// The agents about which changes wait, as far as somebody may decide for them.
fn theirs(conn: &Connection, standing: &Standing) -> Result<Vec<GroupName>, StoreError> {
    if !standing.allows_somewhere(Scope::Approve) {
        return Ok(Vec::new());
    }
    let all = approvals::groups_waiting(conn)?;
    Ok(all.into_iter().filter(|group| standing.allows(Scope::Approve, Some(group))).collect())
}

/// The first change about an agent that somebody could approve, has no card of, and for which there is room.
fn first_of(
    conn: &Connection,
    gateway: &Gateway,
    user: &UserId,
    standing: &Standing,
    group: &GroupName,
    asking: &Asking,
) -> Result<Option<(Kind, ChangeId)>, StoreError> {
    let mut best: Option<(Kind, ChangeId)> = None;
    let mut after = String::new();
    loop {
        let page = approvals::without_card(conn, user, group, &after, PAGE)?;
        let Some(last) = page.last() else { return Ok(best) };
        after = last.id.to_string();
        for waiting in page {
            let kind = Kind::of(&waiting.requested_by);
            if best.as_ref().is_some_and(|(found, _)| *found <= kind)
                || asking.has_no_room_for(group, &waiting.requested_by)
                || !gateway.could_approve_such(user, standing, &waiting)?
            {
                continue;
            }
            let Some(change) = changes::get(conn, &waiting.id)? else { continue };
            if gateway.could_approve(conn, user, &change)? {
                if kind == Kind::Person {
                    return Ok(Some((kind, waiting.id)));
                }
                best = Some((kind, waiting.id));
            }
        }
    }
}

/// Whether there are changes that somebody could decide and is not shown.
fn waits(
    conn: &Connection,
    gateway: &Gateway,
    user: &UserId,
    standing: &Standing,
) -> Result<bool, StoreError> {
    for group in theirs(conn, standing)? {
        for waiting in approvals::without_card(conn, user, &group, "", PAGE)? {
            if gateway.could_approve_such(user, standing, &waiting)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
