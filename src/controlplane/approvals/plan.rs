//! What is to be shown to somebody next, as it follows from the ledger: which changes are put before them, and what a card
//! that they have is to say. Reads the ledger.

use rusqlite::Connection;

use super::card::{self, Face};
use crate::contract::ids::{ChangeId, GroupName, UserId};
use crate::controlplane::gateway::Gateway;
use crate::controlplane::keys::Keyring;
use crate::controlplane::principals::{Scope, Standing};
use crate::controlplane::store::StoreError;
use crate::controlplane::store::approvals::{self, Card, Chat};
use crate::controlplane::store::changes::{self, State};

/// Cards that ask one person for a decision at once: no agent floods anybody.
const MOST_OF_ONE: usize = 10;
/// Those of them that are about one agent: none keeps others from being seen.
const MOST_OF_GROUP: usize = 3;
/// Changes of one agent that are looked through at once.
const PAGE: usize = 200;

/// What is to be done for one person next.
#[derive(Debug)]
pub(super) enum Next {
    Nothing,
    /// A card is to be made of this change.
    Make(ChangeId, Chat),
    /// A card was not sent, or is not theirs any more, and need not be there.
    Forget(u64),
    /// A card is to show something.
    Show(Box<(Card, Face)>),
}

/// What is to be done for somebody who is shown things in this chat, or in none.
pub(super) fn next(
    conn: &Connection,
    gateway: &Gateway,
    keyring: &Keyring,
    user: &UserId,
    chat: Option<Chat>,
) -> Result<Next, StoreError> {
    let mut asking: Vec<GroupName> = Vec::new();
    for card in approvals::cards_of(conn, user)? {
        let Some(change) = changes::get(conn, &card.change)? else { return Ok(Next::Forget(card.number)) };
        let is_here = chat.as_ref().is_some_and(|chat| card.is_in(chat));
        let face = match change.state {
            State::Pending if is_here && gateway.could_approve(conn, user, &change)? => {
                asking.push(change.group.clone());
                if card.shown == card::asks(&change.digest) {
                    continue;
                }
                let more = if is_full(&asking, &change.group) { waiting(conn, gateway, user)? } else { 0 };
                card::asking(keyring, &card, &change, more)
            }
            State::Pending => card::taken_away(&change),
            _ => card::decided(&change),
        };
        if card.shown == face.shown {
            if !is_here && change.state == State::Pending {
                // It says so, and the next one is shown elsewhere, if anywhere.
                return Ok(Next::Forget(card.number));
            }
            continue;
        }
        if card.shown.is_empty() && face.buttons.is_empty() {
            return Ok(Next::Forget(card.number));
        }
        return Ok(Next::Show(Box::new((card, face))));
    }
    match chat {
        Some(chat) if asking.len() < MOST_OF_ONE => make(conn, gateway, chat, &asking),
        _ => Ok(Next::Nothing),
    }
}

/// The oldest change of which a card is to be made.
fn make(conn: &Connection, gateway: &Gateway, chat: Chat, asking: &[GroupName]) -> Result<Next, StoreError> {
    let standing = Standing::of(conn, &chat.user)?;
    let mut oldest: Option<ChangeId> = None;
    for group in theirs(conn, &standing)? {
        if is_full(asking, &group) {
            continue;
        }
        let first = first_of(conn, gateway, &chat.user, &standing, &group)?;
        oldest = match (oldest, first) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    Ok(oldest.map_or(Next::Nothing, |change| Next::Make(change, chat)))
}

/// The agents about which changes wait, as far as somebody may decide for them.
fn theirs(conn: &Connection, standing: &Standing) -> Result<Vec<GroupName>, StoreError> {
    if !standing.allows_somewhere(Scope::Approve) {
        return Ok(Vec::new());
    }
    let all = approvals::groups_waiting(conn)?;
    Ok(all.into_iter().filter(|group| standing.allows(Scope::Approve, Some(group))).collect())
}

/// The oldest change about an agent that somebody could approve and has no card of.
fn first_of(
    conn: &Connection,
    gateway: &Gateway,
    user: &UserId,
    standing: &Standing,
    group: &GroupName,
) -> Result<Option<ChangeId>, StoreError> {
    let mut after = String::new();
    loop {
        let page = approvals::without_card(conn, user, group, &after, PAGE)?;
        let Some(last) = page.last() else { return Ok(None) };
        after = last.id.to_string();
        for waiting in page {
            if !gateway.could_approve_such(user, standing, &waiting)? {
                continue;
            }
            let Some(change) = changes::get(conn, &waiting.id)? else { continue };
            if gateway.could_approve(conn, user, &change)? {
                return Ok(Some(waiting.id));
            }
        }
    }
}

/// Whether no further change of an agent is shown to somebody who is asked about these.
fn is_full(asking: &[GroupName], group: &GroupName) -> bool {
    asking.len() >= MOST_OF_ONE || asking.iter().filter(|other| *other == group).count() >= MOST_OF_GROUP
}

/// How many changes somebody could decide and is not shown; of each agent no more than [`PAGE`] are counted.
fn waiting(conn: &Connection, gateway: &Gateway, user: &UserId) -> Result<usize, StoreError> {
    let standing = Standing::of(conn, user)?;
    let mut count = 0;
    for group in theirs(conn, &standing)? {
        for waiting in approvals::without_card(conn, user, &group, "", PAGE)? {
            count += usize::from(gateway.could_approve_such(user, &standing, &waiting)?);
        }
    }
    Ok(count)
}
