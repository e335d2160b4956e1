//! Brings what agents and the host say to the chats of platforms: in order in each chat, side by side in all. A message
//! leaves the ledger's list when the platform took it, is put off when it may take it later, and is given up, for
//! somebody to look at, when it never will. Touches the ledger and, through their channels, platforms.

pub mod chunks;
pub mod fences;
mod retries;
mod settling;
pub mod sniff;

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
#[cfg(feature = "faults")]
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::lock::Semaphore;
use smol::{Task, Timer};

use self::retries::{Next, part_of};
use super::bell::Bell;
use super::channels::supervisor::Channels;
use super::channels::{Attached, Part, SendError, descriptor, settings};
use super::keys::Keyring;
use super::questions::Button;
use super::session::Sessions;
use super::store::attachments::{self, File};
use super::store::deliveries::{self, Chat, Delivery, State};
use super::store::{Ledger, Step, StoreError, history, messaging_groups, questions};
use super::tasks;
use super::telemetry::log;
use super::telemetry::metrics::METRICS;
#[cfg(feature = "faults")]
use crate::contract::fault;
use crate::contract::time::Millis;

/// Parts under way at once, of all chats.
const AT_ONCE: usize = 48;
/// Chats of one account that are written to at once, where there are few accounts.
const AT_ONCE_OF_ONE: usize = 16;
/// However many accounts have chats that hang, there is room for every other one.
const _: () = assert!(settings::MOST <= AT_ONCE);
/// Messages on the platform that one message becomes; a longer one is nothing that anybody reads.
const MOST_PARTS: usize = 50;
/// Rows looked at in one query.
const PAGE: usize = 1000;
/// When the ledger cannot be read or written, it is tried again after this time.
const LEDGER_PAUSE: Duration = Duration::from_secs(1);
/// The slow look for what no bell told of.
const SLOW: Duration = Duration::from_secs(60);
/// How long what is under way is waited for when the control plane ends.
const GRACE: Duration = Duration::from_secs(5);

/// Brings what is said. Clones are handles to the same.
#[derive(Clone)]
pub struct Courier {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    keyring: Keyring,
    channels: Channels,
    /// The chats that have a worker.
    working: Mutex<HashMap<Chat, Working>>,
    all: Semaphore,
    of_one: Mutex<HashMap<(String, String), Arc<Semaphore>>>,
    /// Held while buttons are taken from messages.
    settling: Arc<Semaphore>,
    closing: (Sender<()>, Receiver<()>),
    looking: Mutex<Option<Task<()>>>,
    /// Rings when the last worker ended.
    idle: Bell,
}

impl Inner {
    fn working(&self) -> MutexGuard<'_, HashMap<Chat, Working>> {
        self.working.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker ended.
    fn ended(&self, working: &mut HashMap<Chat, Working>, chat: &Chat) {
        working.remove(chat);
        METRICS.delivering.dec();
        if working.is_empty() {
            self.idle.ring();
        }
    }
}

struct Working {
    has_more: bool,
    /// Wakes a worker that waits for a message's time.
    hurry: Sender<()>,
}

impl Courier {
    /// Begins: what was left by an earlier daemon is brought first.
    pub fn start(
        ledger: Ledger,
        keyring: Keyring,
        channels: Channels,
        sessions: &Sessions,
        moved: &Bell,
    ) -> Self {
        let courier = Self {
            inner: Arc::new(Inner {
                ledger,
                keyring,
                channels,
                working: Mutex::default(),
                all: Semaphore::new(AT_ONCE),
                of_one: Mutex::default(),
                settling: Arc::new(Semaphore::new(1)),
                closing: smol::channel::bounded(1),
                looking: Mutex::default(),
                idle: Bell::default(),
            }),
        };
        let looking = tasks::spawn(courier.clone().look(sessions.watch_all(), moved.watch()));
        *courier.inner.looking.lock().unwrap_or_else(PoisonError::into_inner) = Some(looking);
        courier
    }

    /// Something is to be brought to a chat, perhaps at once.
    pub fn ring(&self, chat: &Chat) {
        let mut working = self.inner.working();
        if self.inner.closing.0.is_closed() {
            return;
        }
        match working.get_mut(chat) {
            Some(worker) => {
                worker.has_more = true;
                let _ = worker.hurry.try_send(());
            }
            None => {
                let (hurry, hurried) = smol::channel::bounded(1);
                working.insert(chat.clone(), Working { has_more: false, hurry });
                METRICS.delivering.inc();
                let (courier, chat) = (self.clone(), chat.clone());
                tasks::spawn(async move {
                    let work = courier.clone().work(chat.clone(), hurried);
                    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                        log::error("delivery.panicked", &[("channel", &chat.channel)]);
                        Timer::after(LEDGER_PAUSE).await;
                        courier.inner.ended(&mut courier.inner.working(), &chat);
                        courier.ring(&chat);
                    }
                })
                .detach();
            }
        }
    }

    /// Brings no more, and waits a moment for what is under way: what the platform took is to be written down.
    pub async fn stop(&self) {
        drop(self.inner.looking.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.inner.closing.0.close();
        let idle = self.inner.idle.watch();
        if !self.inner.working().is_empty() {
            let grace = async {
                Timer::after(GRACE).await;
                Ok(())
            };
            let _ = idle.recv().or(grace).await;
        }
    }

    /// Looks for chats to which something came, whenever something was said anywhere or a chat has another name.
    async fn look(self, said: Receiver<()>, moved: Receiver<()>) {
        let mut last = 0;
        loop {
            let found = self.inner.ledger.read(move |conn| deliveries::chats_since(conn, last, PAGE)).await;
            match found {
                Ok((chats, seen)) => {
                    let is_more = seen > last;
                    last = seen;
                    for chat in &chats {
                        self.ring(chat);
                    }
                    if is_more {
                        continue;
                    }
                }
                Err(error) => {
                    log::warn("delivery.not_read", &[("error", &error)]);
                    Timer::after(LEDGER_PAUSE).await;
                    continue;
                }
            }
            self.settle();
            let slow = async {
                Timer::after(SLOW).await;
                Ok::<_, smol::channel::RecvError>(())
            };
            let slow = moved.recv().or(slow);
            // Where there is no account, nothing goes to a platform but what an earlier one left.
            let bell = async {
                if self.inner.channels.is_empty() {
                    smol::future::pending::<()>().await;
                }
                said.recv().await
            };
            let woken = async { Ok(Some(bell.await?)) }.or(async { slow.await.map(|()| None) }).await;
            match woken {
                Ok(Some(())) => {}
                // What was put back in front of the mark is found too.
                Ok(None) => last = 0,
                Err(smol::channel::RecvError) => return,
            }
        }
    }

    /// Brings what waits for one chat, until nothing does.
    async fn work(self, chat: Chat, hurried: Receiver<()>) {
        loop {
            let pause = match self.bring(&chat).await {
                Ok(Next::Nothing) if self.retires(&chat) => return,
                Ok(Next::Nothing | Next::Now) => Duration::ZERO,
                Ok(Next::After(pause)) => pause,
                Ok(Next::Well) => {
                    let well = self.inner.channels.well(&chat.channel, &chat.instance);
                    if self.is_over(well).await {
                        break;
                    }
                    continue;
                }
                Err(error) => {
                    log::warn("delivery.not_read", &[("channel", &chat.channel), ("error", &error)]);
                    LEDGER_PAUSE
                }
            };
            let wait = async {
                if !pause.is_zero() {
                    let hurry = async {
                        let _ = hurried.recv().await;
                    };
                    let wait = async {
                        Timer::after(pause).await;
                    };
                    hurry.or(wait).await;
                }
            };
            if self.is_over(wait).await {
                break;
            }
        }
        self.inner.ended(&mut self.inner.working(), &chat);
    }

    /// Waits; says whether the control plane ended meanwhile.
    async fn is_over(&self, wait: impl Future<Output = ()>) -> bool {
        let over = async {
            let _ = self.inner.closing.1.recv().await;
            true
        };
        over.or(async {
            wait.await;
            self.inner.closing.0.is_closed()
        })
        .await
    }

    /// The worker of a chat has nothing to do; says whether that is still so.
    fn retires(&self, chat: &Chat) -> bool {
        let mut working = self.inner.working();
        if let Some(worker) = working.get_mut(chat).filter(|worker| worker.has_more) {
            worker.has_more = false;
            return false;
        }
        // In the same moment: what comes next gets a worker of its own.
        self.inner.ended(&mut working, chat);
        true
    }

    /// Brings the next part of the first message that waits for a chat.
    async fn bring(&self, chat: &Chat) -> Result<Next, StoreError> {
        let (key, keyring) = (chat.clone(), self.inner.keyring.clone());
        let found = self.inner.ledger.read(move |conn| {
            let Some(delivery) = deliveries::next(conn, &key)? else { return Ok(None) };
            let text = history::words(conn, &keyring, &delivery.session, delivery.position);
            let may_go = deliveries::may_go(conn, &delivery)?;
            let files = attachments::of(conn, &keyring, delivery.position, &delivery.message)?;
            let buttons = settling::buttons(conn, &keyring, &delivery)?;
            Ok(Some((delivery, text, may_go, files, buttons)))
        });
        let Some((delivery, text, may_go, files, buttons)) = found.await? else { return Ok(Next::Nothing) };
        if !may_go {
            // Taken away since it was said; whoever was told before has it, and nobody else does.
            return self.end(&delivery, State::Discarded, "its agent was taken away from that chat").await;
        }
        let now = Millis::now();
        if delivery.due > now {
            let wait = u64::try_from(delivery.due.0.saturating_sub(now.0)).unwrap_or(0);
            // However far the clock was set back.
            return Ok(Next::After(Duration::from_millis(wait).min(retries::LONGEST_HINT)));
        }
        let part = match (text, descriptor::find(&chat.channel)) {
            (Ok(Some(text)), Some(platform)) => {
                let limit = platform.limit;
                let parts =
                    tasks::unblock(move || std::panic::catch_unwind(|| chunks::chunks(&text, limit)).ok())
                        .await;
                match parts {
                    Some(parts) if parts.len() > MOST_PARTS => Err(format!(
                        "it would be {} messages there, and {MOST_PARTS} are the most",
                        parts.len()
                    )),
                    Some(parts) => self.part(&delivery, parts, files, buttons).await?,
                    None => Err("it cannot be cut into messages".to_owned()),
                }
            }
            (Ok(Some(_)), None) => Err("this build has no such platform".to_owned()),
            (Ok(None), _) => return self.end(&delivery, State::Discarded, "its text was erased").await,
            (Err(StoreError::Key(error)), _) => Err(format!("its text cannot be read: {error}")),
            (Err(error), _) => return Err(error),
        };
        let part = match part {
            Ok(part) => part,
            Err(why) => return self.end(&delivery, State::Dead, &why).await,
        };
        let _of_one = self.of_one(chat).acquire_arc().await;
        let _all = self.inner.all.acquire().await;
        let began = Instant::now();
        let sent = self.inner.channels.send(&chat.channel, &chat.instance, &part).await;
        let took = began.elapsed().as_millis();
        match sent {
            Ok(receipt) => {
                let (message, of, has_buttons) =
                    (delivery.message.clone(), part.of, !part.buttons.is_empty());
                // It is there: until that is written down nothing else is done, least of all the same again.
                loop {
                    let (delivery, receipt) = (delivery.clone(), receipt.0.clone());
                    let noted = self.inner.ledger.write_step(Step::Deliver, move |tx| {
                        #[cfg(feature = "faults")]
                        if fault::value("noting-fails").is_some_and(|there| Path::new(there).exists()) {
                            return Err(StoreError::Conflict("told to fail"));
                        }
                        if has_buttons {
                            questions::has_buttons(tx, &delivery.message)?;
                        }
                        deliveries::brought(tx, &delivery, &receipt, of)
                    });
                    match noted.await {
                        Ok(_) => break,
                        Err(error) if self.inner.closing.0.is_closed() => return Err(error),
                        Err(error) => log::warn("delivery.not_noted", &[("error", &error)]),
                    }
                    Timer::after(LEDGER_PAUSE).await;
                }
                METRICS.deliveries.inc();
                let number = part.number + 1;
                log::info(
                    "delivery.sent",
                    &[
                        ("message", &message),
                        ("channel", &chat.channel),
                        ("part", &number),
                        ("of", &of),
                        ("ms", &took),
                    ],
                );
                Ok(Next::Now)
            }
            Err(SendError::Auth(why)) => {
                if let Some(late) = retries::too_late(delivery.failing_since, Millis::now(), &why) {
                    return self.end(&delivery, State::Dead, &late).await;
                }
                if delivery.failing_since.is_none() || delivery.error.as_deref() != Some(&why) {
                    let noted = self
                        .inner
                        .ledger
                        .write_step(Step::Deliver, move |tx| deliveries::wait(tx, &delivery, &why));
                    noted.await?;
                }
                Ok(Next::Well)
            }
            Err(SendError::Moved(to)) => {
                let (old, there) = (chat.clone(), Chat { chat: to.clone(), ..chat.clone() });
                let noted = self.inner.ledger.write_step(Step::Deliver, move |tx| {
                    messaging_groups::rename(tx, &old.channel, &old.instance, &old.chat, &to)
                });
                noted.await?;
                self.ring(&there);
                Ok(Next::Now)
            }
            Err(SendError::Permanent(why)) => self.end(&delivery, State::Dead, &why).await,
            Err(SendError::Retry(hint, why)) => {
                if let Some(late) = retries::too_late(delivery.failing_since, Millis::now(), &why) {
                    return self.end(&delivery, State::Dead, &late).await;
                }
                let Some(pause) = retries::pause(delivery.attempts, hint) else {
                    return self.end(&delivery, State::Dead, &why).await;
                };
                METRICS.delivery_retries.inc();
                let due = Millis(Millis::now().0 + i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
                log::info(
                    "delivery.put_off",
                    &[("message", &delivery.message), ("channel", &chat.channel), ("reason", &why)],
                );
                let noted = self
                    .inner
                    .ledger
                    .write_step(Step::Deliver, move |tx| deliveries::put_off(tx, &delivery, due, &why));
                noted.await?;
                Ok(Next::After(pause))
            }
        }
    }

    /// The part that is next: of the text, and after it the files.
    async fn part(
        &self,
        delivery: &Delivery,
        parts: Vec<String>,
        files: Vec<File>,
        buttons: Vec<Button>,
    ) -> Result<Result<Part, String>, StoreError> {
        let texts = parts.len();
        let mut part = match part_of(delivery, parts, files.len()) {
            Ok(part) => part,
            Err(why) => return Ok(Err(why)),
        };
        let number = usize::try_from(part.number).unwrap_or(usize::MAX);
        if number.saturating_add(1) == texts {
            part.buttons = buttons;
        }
        let at = number.checked_sub(texts);
        let Some(file) = at.and_then(|at| files.into_iter().nth(at)) else { return Ok(Ok(part)) };
        if file.state != attachments::State::Here {
            part.text = format!("{}: {}", file.name, file.reason);
            return Ok(Ok(part));
        }
        let (keyring, position, of) = (self.inner.keyring.clone(), delivery.position, file.clone());
        let read = self.inner.ledger.read(move |conn| attachments::content(conn, &keyring, position, &of));
        let content = match read.await {
            Ok(pieces) => pieces.concat(),
            Err(StoreError::Key(_) | StoreError::BadRow(_)) => {
                return Ok(Err("its file cannot be read any more".to_owned()));
            }
            Err(error) => return Err(error),
        };
        let File { name, mime, .. } = file;
        part.file = Some(Arc::new(Attached { name, mime, content }));
        Ok(Ok(part))
    }

    async fn end(&self, delivery: &Delivery, state: State, why: &str) -> Result<Next, StoreError> {
        let (message, reason) = (delivery.message.clone(), why.to_owned());
        let noted = self
            .inner
            .ledger
            .write_step(Step::Deliver, move |tx| deliveries::end(tx, &message, state, Some(&reason)));
        noted.await?;
        if state == State::Dead {
            METRICS.dead_letters.inc();
        }
        let word = state.as_str();
        log::warn(
            "delivery.ended",
            &[
                ("message", &delivery.message),
                ("channel", &delivery.place.channel),
                ("state", &word),
                ("reason", &why),
            ],
        );
        Ok(Next::Now)
    }

    fn of_one(&self, chat: &Chat) -> Arc<Semaphore> {
        let mut all = self.inner.of_one.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (chat.channel.clone(), chat.instance.clone());
        let share = share(self.inner.channels.count());
        all.entry(key).or_insert_with(|| Arc::new(Semaphore::new(share))).clone()
    }
}

/// How many chats of each of so many accounts are written to at once: all of them together never have more places than
/// there are.
fn share(accounts: usize) -> usize {
    (AT_ONCE / accounts.max(1)).clamp(1, AT_ONCE_OF_ONE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_accounts_together_take_the_place_of_another() {
        for accounts in 0..=settings::MOST {
            let share = share(accounts);
            assert!((1..=AT_ONCE_OF_ONE).contains(&share) && share * accounts <= AT_ONCE, "{accounts}");
        }
        assert_eq!((share(1), share(3), share(4)), (16, 16, 12));
    }
}
