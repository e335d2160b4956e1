//! Keeps each account connected: runs its channel, runs it again after a pause when it ends, waits for an operator when the
//! platform refuses it, and tells everybody in what state it is. A channel that panics is one that ended.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use smol::future::FutureExt;
use smol::{Task, Timer};

use super::descriptor::Descriptor;
use super::settings::Account;
use super::telegram::account::Telegram;
use super::{Channel, Fault, FetchError, Hook, HookAnswer, Part, Receipt, SendError, Sink, webhook};
use crate::contract::plain;
use crate::contract::time::Millis;
use crate::controlplane::bell::Bell;
use crate::controlplane::router::Inbound;
use crate::controlplane::store::sessions::Place;
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// The first pause before it is connected again; each is twice the one before.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// After so long without a fault the first pause is short again.
const HEALTHY: Duration = Duration::from_secs(60);
/// An account that is refused is tried again after this time, for the refusal may have been a mistake.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

/// Why an account that is told of what happens by requests hears nothing.
const DEAF: &str = "nothing is heard from it, because serve has no --ingress-addr; messages are sent";

/// The state of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is not to be connected.
    Disabled,
    /// It is being connected.
    Starting,
    /// All is well.
    Connected,
    /// It is being connected again, or hears nothing.
    Degraded,
    /// The platform refuses it; an operator has to look.
    AuthFailed,
    /// The control plane is ending.
    Stopped,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Starting => "starting",
            Self::Connected => "connected",
            Self::Degraded => "degraded",
            Self::AuthFailed => "auth_failed",
            Self::Stopped => "stopped",
        }
    }
}

/// What is known of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Millis,
    /// Why, where there is a reason.
    pub reason: Option<String>,
}

/// Tells the state of one account.
pub struct Reporter {
    name: String,
    /// Why nothing is heard from it, however well it is.
    deaf: Option<&'static str>,
    status: Mutex<Status>,
    /// Rings when the account may be used again.
    well: Bell,
}

impl Reporter {
    fn new(name: String, state: State, deaf: Option<&'static str>) -> Self {
        let status = Mutex::new(Status { state, since: Millis::now(), reason: None });
        Self { name, deaf, status, well: Bell::default() }
    }

    /// What is known.
    pub fn get(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All is well.
    pub fn connected(&self) {
        match self.deaf {
            None => self.set(State::Connected, None),
            Some(why) => self.set(State::Degraded, Some(why)),
        }
        self.well.ring();
    }

    /// Nothing keeps messages from being sent.
    fn is_well(&self) -> bool {
        let status = self.get();
        match self.deaf {
            None => status.state == State::Connected,
            Some(why) => status.state == State::Degraded && status.reason.as_deref() == Some(why),
        }
    }

    /// Something is wrong, and may pass.
    pub fn degraded(&self, reason: &str) {
        self.set(State::Degraded, Some(reason));
    }

    fn set(&self, state: State, reason: Option<&str>) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.state == State::Stopped || (status.state == state && status.reason.as_deref() == reason) {
            return;
        }
        let is_other = status.state != state;
        *status = Status { state, since: Millis::now(), reason: reason.map(str::to_owned) };
        drop(status);
        if is_other {
            let shown = reason.unwrap_or_default();
            let word = state.as_str();
            log::info("channel.state", &[("channel", &self.name), ("state", &word), ("reason", &shown)]);
        }
    }
}

struct Entry {
    channel: Arc<dyn Channel>,
    sink: Sink,
    reporter: Reporter,
}

impl Entry {
    /// What came of something that was to be sent, and what it says of the account.
    fn outcome<T>(&self, sent: std::thread::Result<Result<T, SendError>>) -> Result<T, SendError> {
        let sent = sent.unwrap_or_else(|_| {
            log::error("channel.panicked", &[("channel", &self.reporter.name)]);
            Err(SendError::Permanent("the channel failed on this message".to_owned()))
        });
        match &sent {
            Err(SendError::Auth(why)) => self.reporter.set(State::AuthFailed, Some(why)),
            Ok(_) if self.reporter.get().state == State::AuthFailed => self.reporter.connected(),
            _ => {}
        }
        sent
    }
}

/// One account, for people.
#[derive(Clone, Debug)]
pub struct Shown {
    /// Its platform.
    pub platform: &'static Descriptor,
    /// Its name.
    pub instance: String,
    /// What is known of it.
    pub status: Status,
}

/// All accounts. Clones are handles to the same.
#[derive(Clone)]
pub struct Channels {
    entries: Arc<BTreeMap<(&'static str, String), Arc<Entry>>>,
    running: Arc<Mutex<Vec<Task<()>>>>,
}

impl Channels {
    /// Makes a channel of each account; none is connected yet. Without an ingress what is told by requests is not heard.
    ///
    /// # Errors
    /// What is wrong with a setting, for the operator.
    pub fn new(accounts: &[Account], ingress: Option<SocketAddr>, inbound: &Inbound) -> Result<Self, String> {
        let mut entries = BTreeMap::new();
        for account in accounts {
            let platform = account.platform.platform;
            let name = match account.instance.as_str() {
                "" => platform.to_owned(),
                instance => format!("{platform}/{instance}"),
            };
            let made: Result<Arc<dyn Channel>, String> = match platform {
                "telegram" => Telegram::new(account).map(|made| Arc::new(made) as Arc<dyn Channel>),
                "webhook" => webhook::Webhook::new(account).map(|made| Arc::new(made) as Arc<dyn Channel>),
                other => Err(format!("{other} has no door in this build")),
            };
            let channel = made.map_err(|wrong| format!("channel {name}: {wrong}"))?;
            if account.value("webhook_url").is_some() && ingress.is_none() && !account.is_disabled {
                return Err(format!(
                    "channel {name}: webhook_url is set, and nothing listens there; add --ingress-addr IP:PORT, or leave \
                     webhook_url out"
                ));
            }
            let deaf = (channel.is_only_told() && ingress.is_none()).then_some(DEAF);
            let sink =
                Sink { instance: account.instance.clone(), channel: platform, inbound: inbound.clone() };
            let state = if account.is_disabled { State::Disabled } else { State::Starting };
            let reporter = Reporter::new(name, state, deaf);
            let key = (platform, account.instance.clone());
            entries.insert(key, Arc::new(Entry { channel, sink, reporter }));
        }
        Ok(Self { entries: Arc::new(entries), running: Arc::default() })
    }

    /// Connects them all.
    pub fn start(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in self.entries.values() {
            if entry.reporter.get().state != State::Disabled {
                running.push(tasks::spawn(supervise(entry.clone())));
            }
        }
    }

    /// Disconnects them all; what is being sent is not waited for here.
    pub fn stop(&self) {
        drop(std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner)));
        for entry in self.entries.values() {
            entry.reporter.set(State::Stopped, None);
        }
    }

    /// All of them, in the order of their names.
    pub fn list(&self) -> Vec<Shown> {
        let shown = |entry: &Arc<Entry>| Shown {
            platform: entry.channel.descriptor(),
            instance: entry.sink.instance.clone(),
            status: entry.reporter.get(),
        };
        self.entries.values().map(shown).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Why nothing is heard in or brought to chats of a channel, if no account is there for it.
    pub fn missing(&self, channel: &str, instance: &str) -> Option<String> {
        let known = super::descriptor::find(channel)?;
        if self.has(channel, instance) {
            return None;
        }
        let called =
            if instance.is_empty() { String::new() } else { format!(" called {}", plain::word(instance)) };
        Some(format!(
            "no account of {}{called} is configured, so nothing is heard or brought there; `ironclaw help channels` says how \
             to give the control plane one",
            known.platform
        ))
    }

    /// Whether there is such an account.
    pub fn has(&self, channel: &str, instance: &str) -> bool {
        self.find(channel, instance).is_some()
    }

    fn find(&self, channel: &str, instance: &str) -> Option<&Arc<Entry>> {
        let known = super::descriptor::find(channel)?;
        self.entries.get(&(known.platform, instance.to_owned()))
    }

    /// Takes the buttons from a message.
    ///
    /// # Errors
    /// Why they were not taken.
    pub async fn unbutton(
        &self,
        channel: &str,
        instance: &str,
        chat: &str,
        receipt: &str,
    ) -> Result<(), SendError> {
        let Some(entry) = self.find(channel, instance) else {
            return Err(SendError::Permanent("there is no such account any more".to_owned()));
        };
        match entry.reporter.get().state {
            State::Disabled => Err(SendError::Permanent("the account is disabled".to_owned())),
            _ => entry.channel.unbutton(chat, receipt).await,
        }
    }

    /// Shows another text and other buttons in a message that was sent.
    ///
    /// # Errors
    /// Why they are not shown.
    pub async fn edit(
        &self,
        channel: &str,
        instance: &str,
        part: &Part,
        receipt: &str,
    ) -> Result<(), SendError> {
        let Some(entry) = self.find(channel, instance) else {
            return Err(SendError::Permanent("there is no such account any more".to_owned()));
        };
        if entry.reporter.get().state == State::Disabled {
            return Err(SendError::Auth("the account is disabled".to_owned()));
        }
        entry.outcome(AssertUnwindSafe(entry.channel.edit(part, receipt)).catch_unwind().await)
    }

    /// Brings a part of a message to its chat.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn send(&self, channel: &str, instance: &str, part: &Part) -> Result<Receipt, SendError> {
        let Some(entry) = self.find(channel, instance) else {
            let name = if instance.is_empty() { "" } else { " of that instance" };
            return Err(SendError::Permanent(format!("there is no account of {channel}{name} any more")));
        };
        if entry.reporter.get().state == State::Disabled {
            return Err(SendError::Auth("the account is disabled".to_owned()));
        }
        entry.outcome(AssertUnwindSafe(entry.channel.send(part)).catch_unwind().await)
    }

    /// Shows in a chat that somebody is writing, if its account is connected.
    pub async fn typing(&self, place: &Place) {
        let Some(entry) = self.find(&place.channel, &place.instance) else { return };
        if !entry.reporter.is_well() {
            return;
        }
        let shown = entry.channel.typing(&place.chat, place.thread.as_deref());
        if AssertUnwindSafe(shown).catch_unwind().await.is_err() {
            log::error("channel.panicked", &[("channel", &entry.reporter.name)]);
        }
    }

    /// Fetches a file that an event of an account named.
    ///
    /// # Errors
    /// Why it was not.
    pub async fn fetch(
        &self,
        channel: &str,
        instance: &str,
        source: &str,
        most: u64,
    ) -> Result<Vec<u8>, FetchError> {
        let Some(entry) = self.find(channel, instance) else {
            return Err(FetchError::Permanent(
                "the account that it came by is not there any more".to_owned(),
            ));
        };
        let fetched = AssertUnwindSafe(entry.channel.fetch(source, most)).catch_unwind().await;
        fetched.unwrap_or_else(|_| {
            log::error("channel.panicked", &[("channel", &entry.reporter.name)]);
            Err(FetchError::Permanent("the channel failed on this file".to_owned()))
        })
    }

    /// Returns when an account that was refused is worth another try.
    pub async fn well(&self, channel: &str, instance: &str) {
        let Some(entry) = self.find(channel, instance) else { return };
        let watch = entry.reporter.well.watch();
        if entry.reporter.is_well() {
            return;
        }
        let long = async {
            Timer::after(REFUSED_PAUSE).await;
            Ok(())
        };
        let _ = watch.recv().or(long).await;
    }

    /// A request to the place of an account at the ingress.
    pub async fn hook(&self, channel: &str, instance: &str, request: Hook) -> HookAnswer {
        let entry = self.find(channel, instance).filter(|entry| entry.channel.descriptor().has_hook);
        let Some(entry) = entry else { return HookAnswer::of(404) };
        if matches!(entry.reporter.get().state, State::Disabled | State::Stopped) {
            return HookAnswer::refused(503, "disabled");
        }
        let answer = AssertUnwindSafe(entry.channel.hook(&entry.sink, request)).catch_unwind().await;
        answer.unwrap_or_else(|_| {
            log::error("channel.panicked", &[("channel", &entry.reporter.name)]);
            HookAnswer::refused(500, "panicked")
        })
    }
}

async fn supervise(entry: Arc<Entry>) {
    let mut pause = PAUSE;
    loop {
        let began = Instant::now();
        let run = AssertUnwindSafe(entry.channel.run(&entry.sink, &entry.reporter)).catch_unwind().await;
        let fault = run.unwrap_or_else(|_| {
            log::error("channel.panicked", &[("channel", &entry.reporter.name)]);
            Fault::Lost("the channel failed".to_owned())
        });
        match fault {
            Fault::Idle => return,
            Fault::Auth(why) => {
                entry.reporter.set(State::AuthFailed, Some(&why));
                Timer::after(REFUSED_PAUSE).await;
            }
            Fault::Lost(why) => {
                if began.elapsed() >= HEALTHY {
                    pause = PAUSE;
                }
                entry.reporter.degraded(&why);
                Timer::after(jittered(pause)).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// A pause that not all take alike: between half of it and all.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let mut bytes = [0; 2];
    // Without random numbers it is as long as it can be.
    let share = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_or(u16::MAX, |_| u16::from_ne_bytes(bytes));
    pause.mul_f64(0.5 + 0.5 * f64::from(share) / f64::from(u16::MAX))
}
