//! Approvals in chats: whoever may decide a change, and is to be shown so, gets a card with what it would do and a button for
//! each verdict; when it is decided, wherever, the card says so. What is to be shown follows from what is in the ledger,
//! and is looked for anew whenever something was recorded: nothing is forgotten by a crash, and a card whose receipt was
//! lost is sent once more with the same buttons. Touches the ledger and, through their channels, platforms.

mod card;
pub mod places;
mod plan;
pub mod press;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Transaction;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::lock::Semaphore;
use smol::{Task, Timer};

use self::card::Face;
use self::plan::{Next, next};
use super::audit::Audit;
use super::bell::Bell;
use super::channels::supervisor::{Channels, jittered};
use super::channels::{Part, Receipt, SendError};
use super::gateway::Gateway;
use super::keys::Keyring;
use super::store::approvals::{self, Card};
use super::store::changes::{self, State};
use super::store::{Ledger, Step, StoreError};
use super::tasks;
use super::telemetry::log;
use crate::contract::ids::{MessageId, UserId};

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
/// The longest that a platform's own hint is followed.
const LONGEST_HINT: Duration = Duration::from_secs(3600);
/// What a card shows is tried to be changed so often.
const MOST_EDITS: u32 = 12;
/// After so many tries in a row that failed, it is shown that nothing is shown.
const FAILURES_TOLD: u32 = 3;

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
    /// Rings when there may be more for somebody for whom something is done already.
    more: Bell,
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
                more: Bell::default(),
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
            self.inner.more.ring();
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
        let mut waits = Waits::default();
        loop {
            let more = self.inner.more.watch();
            let pause = match self.step(&user, &mut waits).await {
                // What waits for its time is looked at then; meanwhile others may come.
                Ok(None) if !waits.0.is_empty() => waits.next().min(SLOW),
                Ok(None) if self.retires(&user) => return,
                Ok(None) => Duration::ZERO,
                Ok(Some(pause)) => pause,
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
                    let due = async {
                        Timer::after(pause).await;
                        Ok(())
                    };
                    let _ = more.recv().or(due).await;
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
    async fn step(&self, user: &UserId, waits: &mut Waits) -> Result<Option<Duration>, StoreError> {
        let (who, gateway, keyring) = (user.clone(), self.inner.gateway.clone(), self.inner.keyring.clone());
        let (channels, later) = (self.inner.channels.clone(), waits.later());
        let next = self.inner.ledger.read(move |conn| {
            // Where there is no such account now there may be one again.
            let chat = approvals::chat_of(conn, &who)?;
            let chat = chat.filter(|chat| channels.has(&chat.channel, &chat.instance));
            next(conn, &gateway, &keyring, &who, chat, &later)
        });
        let next = next.await?;
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
            Next::Forget(card) => {
                ledger.write_step(Step::Card, move |tx| approvals::forget_card(tx, &card)).await?;
            }
            Next::Show(what) => {
                let (card, face) = *what;
                self.show(card, face, waits).await?;
            }
        }
        Ok(Some(Duration::ZERO))
    }

    /// Shows a card as what it is now, or has it wait.
    async fn show(&self, card: Card, face: Face, waits: &mut Waits) -> Result<(), StoreError> {
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
            edit: version(&face.shown, card.edits),
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
            Err(SendError::Auth(why)) => return self.put_off(&card, None, why, waits).await,
            Err(SendError::Retry(hint, why)) => {
                // What is there already is not worth trying for ever.
                if card.receipt.is_none() || waits.failures(&card.message) < MOST_EDITS {
                    return self.put_off(&card, hint, why, waits).await;
                }
                (None, Some(why))
            }
            Err(SendError::Permanent(why)) => (None, Some(why)),
            Err(SendError::Moved(_)) => (None, Some("the chat has another name now".to_owned())),
        };
        let message = card.message.clone();
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
                // It cannot be changed any more: another one asks as long as somebody is to be asked, and then its
                // buttons say what came of it.
                return match changes::get(tx, &card.change)?.map(|change| change.state) {
                    Some(State::Pending) => approvals::forget_card(tx, &card),
                    _ => approvals::set_shown(tx, &card, &face.shown, None, true),
                };
            }
            let is_over = face.is_over || failure.is_some();
            approvals::set_shown(tx, &card, &face.shown, receipt.as_deref(), is_over)?;
            if card.receipt.is_none() && failure.is_none() {
                // It works again: what was refused before is tried once more.
                approvals::forget_refused(tx, &card.user)?;
            }
            approvals::set_failure(tx, &card.user, failure.as_deref())
        });
        noted.await?;
        waits.0.remove(&message);
        Ok(())
    }

    /// A card could not be shown now: others go on, and its person's operator can see why.
    async fn put_off(
        &self,
        card: &Card,
        hint: Option<Duration>,
        why: String,
        waits: &mut Waits,
    ) -> Result<(), StoreError> {
        log::warn("approvals.not_shown", &[("change", &card.change), ("user", &card.user), ("reason", &why)]);
        waits.put_off(card.message.clone(), hint);
        if waits.failures(&card.message) == FAILURES_TOLD {
            let user = card.user.clone();
            let told = move |tx: &Transaction<'_>| approvals::set_failure(tx, &user, Some(&why));
            self.inner.ledger.write_step(Step::Card, told).await?;
        }
        Ok(())
    }
}

/// Cards that could not be shown and wait for another try: until when, and how often they failed.
#[derive(Debug, Default)]
struct Waits(HashMap<MessageId, (Instant, u32)>);

impl Waits {
    fn failures(&self, card: &MessageId) -> u32 {
        self.0.get(card).map_or(0, |(_, failures)| *failures)
    }

    /// The platform's own hint is the least.
    fn put_off(&mut self, card: MessageId, hint: Option<Duration>) {
        let failures = self.failures(&card);
        let usual = jittered(PAUSE.saturating_mul(1 << failures.min(9)).min(LONGEST_PAUSE));
        let pause = hint.map_or(usual, |hint| hint.min(LONGEST_HINT).max(usual));
        self.0.insert(card, (Instant::now() + pause, failures.saturating_add(1)));
    }

    /// Those whose time is not there yet.
    fn later(&self) -> HashSet<MessageId> {
        let now = Instant::now();
        self.0.iter().filter(|(_, (due, _))| *due > now).map(|(card, _)| card.clone()).collect()
    }

    /// How long until the first one's is.
    fn next(&self) -> Duration {
        let first = self.0.values().map(|(due, _)| *due).min();
        first.map_or(PAUSE, |due| due.saturating_duration_since(Instant::now()).max(BREATH))
    }
}

/// What a card shows, and how often it showed something before, as a number: a platform that knows it from another try
/// takes it once, and takes what is something else.
fn version(shown: &str, before: u32) -> u32 {
    let text = format!("{before} {shown}");
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    let first = digest.as_ref().first_chunk::<4>().copied().unwrap_or_default();
    u32::from_be_bytes(first).max(1)
}
