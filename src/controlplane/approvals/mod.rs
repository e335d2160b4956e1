//! Approvals in chats: whoever may decide a change, and is to be shown so, gets a card with what it would do and a button for
//! each verdict; when it is decided, wherever, the card says so. What is to be shown follows from what is in the ledger,
//! and is looked for anew whenever something was recorded: nothing is forgotten by a crash, and a card whose receipt was
//! lost is sent once more with the same buttons. Touches the ledger and, through their channels, platforms.

mod card;
pub mod places;
pub mod press;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::lock::Semaphore;
use smol::{Task, Timer};

use self::card::Face;
use super::audit::Audit;
use super::bell::Bell;
use super::channels::supervisor::{Channels, jittered};
use super::channels::{Part, Receipt, SendError};
use super::gateway::Gateway;
use super::keys::Keyring;
use super::principals::{Scope, Standing};
use super::store::approvals::{self, Card, Chat};
use super::store::changes::{self, State};
use super::store::{Ledger, Step, StoreError};
use super::tasks;
use super::telemetry::log;
use crate::contract::ids::{ChangeId, GroupName, UserId};

/// Cards that ask one person for a decision at once: no agent floods anybody.
const MOST_OF_ONE: usize = 10;
/// Those of them that are about one agent: none keeps others from being seen.
const MOST_OF_GROUP: usize = 3;
/// Changes looked through at once for what comes next.
const PAGE: usize = 200;
/// Changes that are counted to say how many more wait.
const COUNTED: usize = 1000;
/// Cards on their way at once, of all people.
const AT_ONCE: usize = 16;
/// Between two looks.
const BREATH: Duration = Duration::from_millis(100);
/// The slow look for what no ring told of.
const SLOW: Duration = Duration::from_secs(60);
/// When the ledger cannot be read or written, it is tried again after this time.
const LEDGER_PAUSE: Duration = Duration::from_secs(1);
/// How long what is under way is waited for when the control plane ends.
const GRACE: Duration = Duration::from_secs(5);
/// Between two tries to show a card, at first and at most.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Shows cards. Clones are handles to the same.
#[derive(Clone)]
pub struct Approvals {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    keyring: Keyring,
    gateway: Gateway,
    audit: Audit,
    channels: Channels,
    /// The people for whom something is done, and whether there may be more.
    working: Mutex<HashMap<UserId, bool>>,
    places: Semaphore,
    closing: (Sender<()>, Receiver<()>),
    looking: Mutex<Option<Task<()>>>,
    /// Rings when nothing is done for anybody any more.
    idle: Bell,
}

/// What is to be done for one person next.
#[derive(Debug)]
enum Next {
    Nothing,
    /// A card is to be made of this change.
    Make(ChangeId, Chat),
    /// A card was not sent, or is not theirs any more, and need not be there.
    Forget(u64),
    /// A card is to show something.
    Show(Box<(Card, Face)>),
}

impl Approvals {
    /// Begins: what was left by an earlier daemon comes first.
    pub fn start(
        ledger: Ledger,
        keyring: Keyring,
        gateway: Gateway,
        audit: Audit,
        channels: Channels,
    ) -> Self {
        let recorded = audit.watch();
        let approvals = Self {
            inner: Arc::new(Inner {
                ledger,
                keyring,
                gateway,
                audit,
                channels,
                working: Mutex::default(),
                places: Semaphore::new(AT_ONCE),
                closing: smol::channel::bounded(1),
                looking: Mutex::default(),
                idle: Bell::default(),
            }),
        };
        let looking = tasks::spawn(approvals.clone().look(recorded));
        *approvals.inner.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(looking);
        approvals
    }

    /// Shows nothing more, and waits a moment for what is under way: what the platform took is to be written down.
    pub async fn stop(&self) {
        drop(self.inner.looking.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.inner.closing.0.close();
        let idle = self.inner.idle.watch();
        if !self.working().is_empty() {
            let grace = async {
                Timer::after(GRACE).await;
                Ok(())
            };
            let _ = idle.recv().or(grace).await;
        }
    }

    /// Whatever changes what is to be shown is recorded in the audit.
    async fn look(self, recorded: Receiver<()>) {
        loop {
            match self.inner.ledger.read(approvals::people).await {
                Ok(people) => people.into_iter().for_each(|user| self.work_for(user)),
                Err(error) => log::warn("approvals.not_read", &[("error", &error)]),
            }
            Timer::after(BREATH).await;
            let slow = async {
                Timer::after(SLOW).await;
                Ok(())
            };
            if recorded.recv().or(slow).await.is_err() {
                return;
            }
        }
    }

    fn working(&self) -> MutexGuard<'_, HashMap<UserId, bool>> {
        self.inner.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is done for somebody any more.
    fn ended(&self, working: &mut HashMap<UserId, bool>, user: &UserId) {
        working.remove(user);
        if working.is_empty() {
            self.inner.idle.ring();
        }
    }

    fn work_for(&self, user: UserId) {
        let mut working = self.working();
        if self.inner.closing.0.is_closed() {
            return;
        }
        if let Some(has_more) = working.get_mut(&user) {
            *has_more = true;
            return;
        }
        working.insert(user.clone(), false);
        let approvals = self.clone();
        tasks::spawn(async move {
            let work = approvals.clone().work(user.clone());
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                // The next look begins anew.
                log::error("approvals.panicked", &[("user", &user)]);
                approvals.ended(&mut approvals.working(), &user);
            }
        })
        .detach();
    }

    /// Does what is to be done for one person, until nothing is.
    async fn work(self, user: UserId) {
        let mut failures = 0;
        loop {
            let pause = match self.step(&user, failures).await {
                Ok(None) if self.retires(&user) => return,
                Ok(None) => Duration::ZERO,
                Ok(Some(pause)) if pause.is_zero() => {
                    failures = 0;
                    pause
                }
                Ok(Some(pause)) => {
                    failures += 1;
                    pause
                }
                Err(error) => {
                    log::warn("approvals.not_stored", &[("error", &error)]);
                    LEDGER_PAUSE
                }
            };
            let over = async {
                let _ = self.inner.closing.1.recv().await;
                true
            };
            let wait = async {
                if !pause.is_zero() {
                    Timer::after(pause).await;
                }
                self.inner.closing.0.is_closed()
            };
            if over.or(wait).await {
                self.ended(&mut self.working(), &user);
                return;
            }
        }
    }

    /// Nothing is to be done for somebody; says whether that is still so.
    fn retires(&self, user: &UserId) -> bool {
        let mut working = self.working();
        if let Some(has_more) = working.get_mut(user).filter(|has_more| **has_more) {
            *has_more = false;
            return false;
        }
        self.ended(&mut working, user);
        true
    }

    /// Does one thing for somebody. Gives how long to wait before the next; `None` when nothing was to be done.
    async fn step(&self, user: &UserId, failures: u32) -> Result<Option<Duration>, StoreError> {
        let (who, gateway, keyring) = (user.clone(), self.inner.gateway.clone(), self.inner.keyring.clone());
        let next = self.inner.ledger.read(move |conn| next(conn, &gateway, &keyring, &who)).await?;
        if matches!(next, Next::Nothing) {
            return Ok(None);
        }
        // Nobody is told of what is not in the audit files.
        if self.inner.audit.confirm().await.is_err() {
            return Ok(Some(LEDGER_PAUSE));
        }
        let ledger = &self.inner.ledger;
        match next {
            Next::Nothing => return Ok(None),
            Next::Make(change, chat) => {
                ledger.write_step(Step::Card, move |tx| approvals::add_card(tx, &change, &chat)).await?;
            }
            Next::Forget(number) => {
                ledger.write_step(Step::Card, move |tx| approvals::forget_card(tx, number)).await?;
            }
            Next::Show(what) => {
                let (card, face) = *what;
                return self.show(card, face, failures).await.map(Some);
            }
        }
        Ok(Some(Duration::ZERO))
    }

    /// Shows a card as what it is now.
    async fn show(&self, card: Card, face: Face, failures: u32) -> Result<Duration, StoreError> {
        let part = Part {
            message: card.message.clone(),
            number: 0,
            of: 1,
            chat: card.chat.clone(),
            thread: None,
            text: face.text.clone(),
            quotes: None,
            cause: None,
            file: None,
            buttons: face.buttons.clone(),
            is_verbatim: true,
            edit: if card.shown.is_empty() { 0 } else { card.edits.saturating_add(1) },
        };
        let sent = {
            let _place = self.inner.places.acquire().await;
            let channels = &self.inner.channels;
            match &card.receipt {
                Some(receipt) => {
                    let edited = channels.edit(&card.channel, &card.instance, &part, receipt).await;
                    edited.map(|()| Receipt(receipt.clone()))
                }
                None => channels.send(&card.channel, &card.instance, &part).await,
            }
        };
        let (receipt, failure) = match sent {
            Ok(receipt) => (Some(receipt.0), None),
            Err(SendError::Auth(_)) => {
                let well = async {
                    self.inner.channels.well(&card.channel, &card.instance).await;
                };
                let over = async {
                    let _ = self.inner.closing.1.recv().await;
                };
                well.or(over).await;
                return Ok(PAUSE);
            }
            Err(SendError::Retry(hint, why)) => {
                log::warn(
                    "approvals.not_shown",
                    &[("change", &card.change), ("user", &card.user), ("reason", &why)],
                );
                let usual = PAUSE.saturating_mul(1 << failures.min(9)).min(LONGEST_PAUSE);
                return Ok(jittered(hint.unwrap_or(usual).min(LONGEST_PAUSE * 12)));
            }
            Err(SendError::Permanent(why)) => (None, Some(why)),
            Err(SendError::Moved(_)) => (None, Some("the chat has another name now".to_owned())),
        };
        if let Some(why) = &failure {
            log::warn(
                "approvals.refused",
                &[("change", &card.change), ("user", &card.user), ("reason", why)],
            );
        } else {
            log::info(
                "approvals.shown",
                &[("change", &card.change), ("user", &card.user), ("as", &face.shown)],
            );
        }
        let noted = self.inner.ledger.write_step(Step::Card, move |tx| {
            if card.receipt.is_some() && failure.is_some() {
                // It cannot be changed any more: another one asks, and where nothing is asked its buttons say what came
                // of it.
                return match face.buttons.is_empty() {
                    true => approvals::set_shown(tx, &card, &face.shown, None, true),
                    false => approvals::forget_card(tx, card.number),
                };
            }
            let is_over = face.is_over || failure.is_some();
            approvals::set_shown(tx, &card, &face.shown, receipt.as_deref(), is_over)?;
            approvals::set_failure(tx, &card.user, failure.as_deref())
        });
        noted.await?;
        Ok(Duration::ZERO)
    }
}

/// What is to be done for somebody next.
fn next(conn: &Connection, gateway: &Gateway, keyring: &Keyring, user: &UserId) -> Result<Next, StoreError> {
    let chat = approvals::chat_of(conn, user)?;
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
            if !is_here && face.buttons.is_empty() && change.state == State::Pending {
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
    let Some(chat) = chat else { return Ok(Next::Nothing) };
    make(conn, gateway, &chat, &asking)
}

/// The oldest change of which a card is to be made.
fn make(conn: &Connection, gateway: &Gateway, chat: &Chat, asking: &[GroupName]) -> Result<Next, StoreError> {
    if asking.len() >= MOST_OF_ONE {
        return Ok(Next::Nothing);
    }
    let standing = Standing::of(conn, &chat.user)?;
    if !standing.allows_somewhere(Scope::Approve) {
        return Ok(Next::Nothing);
    }
    let mut after = String::new();
    loop {
        let page = approvals::without_card(conn, &chat.user, &after, PAGE)?;
        let Some(last) = page.last() else { return Ok(Next::Nothing) };
        after = last.id.to_string();
        for waiting in page {
            if is_full(asking, &waiting.group)
                || !gateway.could_approve_such(&chat.user, &standing, &waiting)?
            {
                continue;
            }
            let Some(change) = changes::get(conn, &waiting.id)? else { continue };
            if gateway.could_approve(conn, &chat.user, &change)? {
                return Ok(Next::Make(waiting.id, chat.clone()));
            }
        }
    }
}

/// Whether no further change of an agent is shown to somebody who is asked about these.
fn is_full(asking: &[GroupName], group: &GroupName) -> bool {
    asking.len() >= MOST_OF_ONE || asking.iter().filter(|other| *other == group).count() >= MOST_OF_GROUP
}

/// How many changes somebody could decide and is not shown; no more than [`COUNTED`] are looked at.
fn waiting(conn: &Connection, gateway: &Gateway, user: &UserId) -> Result<usize, StoreError> {
    let standing = Standing::of(conn, user)?;
    let mut count = 0;
    for waiting in approvals::without_card(conn, user, "", COUNTED)? {
        count += usize::from(gateway.could_approve_such(user, &standing, &waiting)?);
    }
    Ok(count)
}
