//! Fetches the files that people sent with their messages from the platforms that hold them, a few at a time, and stores
//! them; a message goes to its agent when its files are here or known not to come. Touches the ledger and, through their
//! channels, platforms.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smol::channel::Receiver;
use smol::future::FutureExt;
use smol::{Task, Timer};

use super::FetchError;
use super::supervisor::Channels;
use crate::contract::ids::MessageId;
use crate::contract::time::Millis;
use crate::controlplane::bell::Bell;
use crate::controlplane::delivery::sniff;
use crate::controlplane::keys::Keyring;
use crate::controlplane::session::{Room, Sessions};
use crate::controlplane::store::attachments::{self, CHUNK, MOST_ATTEMPTS, Wanted};
use crate::controlplane::store::{Ledger, Step, StoreError};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// Files under way at once: each is in memory as a whole.
const AT_ONCE: usize = 4;
/// Those of one account, so that a platform that hangs leaves room for others.
const AT_ONCE_OF_ONE: usize = 2;
/// Files of one account looked at in one query: some of them may be of one message.
const LOOKED_AT: usize = 16;
/// The first pause before a file is asked for again; each is twice the one before.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest that a platform's hint is heeded; the conversation waits meanwhile.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// When the ledger cannot be read or written, it is tried again after this time.
const LEDGER_PAUSE_MILLIS: u64 = 1000;
/// Pieces that are stored in one transaction, so that nobody waits long for the writer.
const PIECES_AT_ONCE: usize = 4;

/// Fetches. Clones are handles to the same.
#[derive(Clone)]
pub struct Fetcher {
    inner: Arc<Inner>,
}

struct Inner {
    ledger: Ledger,
    keyring: Keyring,
    sessions: Sessions,
    channels: Channels,
    /// Messages of which a file is under way, with its account.
    flying: Mutex<HashMap<MessageId, (String, String)>>,
    /// Rings when one is not any more.
    landed: Bell,
}

impl Inner {
    fn flying(&self) -> MutexGuard<'_, HashMap<MessageId, (String, String)>> {
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fetcher {
    /// Begins: what was left by an earlier daemon is fetched first. It ends with what this gives.
    pub fn start(
        ledger: Ledger,
        keyring: Keyring,
        channels: Channels,
        sessions: Sessions,
        wanted: &Bell,
    ) -> Task<()> {
        let fetcher = Self {
            inner: Arc::new(Inner {
                ledger,
                keyring,
                sessions,
                channels,
                flying: Mutex::default(),
                landed: Bell::default(),
            }),
        };
        tasks::spawn(fetcher.look(wanted.watch()))
    }

    async fn look(self, wanted: Receiver<()>) {
        let landed = self.inner.landed.watch();
        loop {
            let (keyring, now) = (self.inner.keyring.clone(), Millis::now());
            let found = self.inner.ledger.read(move |conn| {
                Ok((attachments::due(conn, &keyring, now, LOOKED_AT)?, attachments::next_due(conn, now)?))
            });
            let pause = match found.await {
                Ok((due, next)) => {
                    due.into_iter().for_each(|one| self.begin(one));
                    next.map(|next| u64::try_from(next.0.saturating_sub(Millis::now().0)).unwrap_or(0).max(1))
                }
                Err(error) => {
                    log::warn("attachment.not_read", &[("error", &error)]);
                    Some(LEDGER_PAUSE_MILLIS)
                }
            };
            let timer = async {
                match pause {
                    Some(pause) => Timer::after(Duration::from_millis(pause)).await,
                    None => smol::future::pending().await,
                };
                Ok(())
            };
            if wanted.recv().or(landed.recv()).or(timer).await.is_err() {
                return;
            }
        }
    }

    /// Begins to fetch a file, unless another one of its message is under way, for they share their room; or too many are.
    fn begin(&self, wanted: Wanted) {
        let mut flying = self.inner.flying();
        let account = |one: &Wanted| (one.place.channel.clone(), one.place.instance.clone());
        let of_one = flying.values().filter(|known| **known == account(&wanted)).count();
        if flying.contains_key(&wanted.message) || flying.len() >= AT_ONCE || of_one >= AT_ONCE_OF_ONE {
            return;
        }
        flying.insert(wanted.message.clone(), account(&wanted));
        let fetcher = self.clone();
        tasks::spawn(async move {
            let message = wanted.message.clone();
            if AssertUnwindSafe(fetcher.bring(wanted)).catch_unwind().await.is_err() {
                log::error("attachment.panicked", &[("message", &message)]);
                Timer::after(Duration::from_millis(LEDGER_PAUSE_MILLIS)).await;
            }
            fetcher.inner.flying().remove(&message);
            fetcher.inner.landed.ring();
        })
        .detach();
    }

    /// Fetches one file and says what came of it.
    async fn bring(&self, wanted: Wanted) {
        let settled = match self.fetch(&wanted).await {
            Ok(settled) => settled,
            Err(error) => {
                log::warn("attachment.not_stored", &[("message", &wanted.message), ("error", &error)]);
                Timer::after(Duration::from_millis(LEDGER_PAUSE_MILLIS)).await;
                return;
            }
        };
        if settled {
            self.inner.sessions.wake(&wanted.session);
            self.inner.sessions.ring_bell(&wanted.session, None);
        }
    }

    async fn fetch(&self, wanted: &Wanted) -> Result<bool, StoreError> {
        if wanted.source.is_empty() {
            return self.settle(wanted, Err("the conversation was erased")).await;
        }
        if self.inner.sessions.room() != Room::Enough {
            return self.settle(wanted, Err("the disk is nearly full")).await;
        }
        let place = &wanted.place;
        let fetched =
            self.inner.channels.fetch(&place.channel, &place.instance, &wanted.source, wanted.room).await;
        let content = match fetched {
            Ok(content) if content.len() as u64 <= wanted.room => content,
            Ok(_) | Err(FetchError::TooLarge) => {
                return self.settle(wanted, Err(attachments::TOO_LARGE)).await;
            }
            Err(FetchError::Permanent(why)) => return self.settle(wanted, Err(&why)).await,
            Err(FetchError::Retry(..)) if wanted.attempts + 1 >= MOST_ATTEMPTS => {
                return self.settle(wanted, Err("the platform does not give it")).await;
            }
            Err(FetchError::Retry(hint, why)) => {
                let pause = hint.unwrap_or(PAUSE * 2_u32.saturating_pow(wanted.attempts)).min(LONGEST_PAUSE);
                let due = Millis(Millis::now().0 + i64::try_from(pause.as_millis()).unwrap_or(0));
                log::info("attachment.put_off", &[("message", &wanted.message), ("reason", &why)]);
                let again = wanted.clone();
                let noted = self.inner.ledger.write(move |tx| attachments::put_off(tx, &again, due));
                noted.await?;
                return Ok(false);
            }
        };
        let mime = sniff::mime(&content);
        let size = content.len() as u64;
        let content = Arc::new(content);
        let step = CHUNK * PIECES_AT_ONCE;
        for (number, at) in (0..content.len()).step_by(step).enumerate() {
            let (content, keyring, wanted) = (content.clone(), self.inner.keyring.clone(), wanted.clone());
            let stored = self.inner.ledger.write_step(Step::Attach, move |tx| {
                let piece = content.get(at..content.len().min(at + step)).unwrap_or_default();
                attachments::keep(tx, &keyring, &wanted, number * PIECES_AT_ONCE, piece)
            });
            stored.await?;
        }
        self.settle(wanted, Ok((size, mime))).await
    }

    async fn settle(
        &self,
        wanted: &Wanted,
        came: Result<(u64, &'static str), &str>,
    ) -> Result<bool, StoreError> {
        let came = came.map_err(str::to_owned);
        match &came {
            Ok((size, mime)) => log::info(
                "attachment.stored",
                &[("message", &wanted.message), ("bytes", size), ("type", mime)],
            ),
            Err(why) => log::warn("attachment.missing", &[("message", &wanted.message), ("reason", why)]),
        }
        let wanted = wanted.clone();
        let settled = self.inner.ledger.write_step(Step::Attach, move |tx| {
            attachments::settle(tx, &wanted, came.as_ref().map(|came| *came).map_err(String::as_str))
        });
        settled.await
    }
}
