//! From something that happened on a platform to the sessions of the agents that it concerns: what becomes of it is
//! decided by [`decide`], and one ledger transaction stores the event's name, a message for each agent, and how far the
//! channel has read. Touches the ledger, and wakes sessions after the commit.

mod admission;
mod answers;
pub mod decide;
mod decisions;
pub mod pattern;
pub mod plan;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Transaction;

use self::admission::Stranger;
use self::decide::{Reason, Verdict};
use self::plan::{Plan, Said, plan};
use super::bell::Bell;
use super::channels::descriptor;
use super::channels::event::{EventKind, InboundEvent, Incoming, Voice};
use super::delivery::sniff;
use super::gateway::Gateway;
use super::keys::Keyring;
use super::session::Sessions;
use super::store::attachments::{self, NewFile};
use super::store::inbox::{self, Accepted, NewInbound};
use super::store::sessions::Place;
use super::store::{
    Ledger, Step, StoreError, approvals, attention, channel_state, held, messaging_groups, wirings,
};
use super::tasks;
use super::telemetry::log;
use super::telemetry::metrics::METRICS;
use crate::contract::ids::{GroupName, MessageId, SessionId, UserId, WiringId};
use crate::contract::inbound::InboundKind;
use crate::contract::plain;
use crate::contract::time::Millis;

/// How long an agent that was named goes on answering in that thread, in milliseconds.
const ATTENTION_MILLIS: i64 = 30 * 60 * 1000;
/// Messages of one program that one agent answers within [`BOT_WINDOW`].
const BOT_MOST: u32 = 5;
const BOT_WINDOW: Duration = Duration::from_secs(10 * 60);
/// Programs that are counted at once; more are as if they spoke too often.
const BOTS: usize = 10_000;

/// Takes what channels bring. Clones are handles to the same.
#[derive(Clone)]
pub struct Inbound {
    ledger: Ledger,
    keyring: Keyring,
    sessions: Sessions,
    gateway: Gateway,
    bots: Arc<Bots>,
    /// Rings when a message came with files.
    wanted: Arc<Bell>,
    /// Rings when a chat has another name.
    moved: Arc<Bell>,
}

/// Why nothing was accepted; the same may be brought again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAccepted(String);

impl fmt::Display for NotAccepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<StoreError> for NotAccepted {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// What became of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routed {
    /// It had been accepted before.
    pub is_duplicate: bool,
    /// One for each agent that listens in its chat.
    pub outcomes: Vec<Outcome>,
    /// For whoever pressed a button: what came of it.
    pub pressed: Option<&'static str>,
    /// Who waits to be admitted.
    strangers: Vec<Stranger>,
}

/// What became of it for one agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The agent.
    pub group: GroupName,
    /// What.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
    /// The message that was made of it.
    pub message: Option<(MessageId, SessionId)>,
}

impl Inbound {
    /// Takes what is brought into this ledger and wakes these sessions.
    pub fn new(ledger: Ledger, keyring: Keyring, sessions: Sessions, gateway: Gateway) -> Self {
        Self {
            ledger,
            keyring,
            sessions,
            gateway,
            bots: Arc::default(),
            wanted: Arc::default(),
            moved: Arc::default(),
        }
    }

    /// Rings when a message came with files that are to be fetched.
    pub fn wanted(&self) -> &Bell {
        &self.wanted
    }

    /// Rings when a chat has another name, and what waits to be brought to it with it.
    pub fn moved(&self) -> &Bell {
        &self.moved
    }

    /// How far a channel had read.
    pub(super) async fn cursor(
        &self,
        channel: &'static str,
        instance: &str,
        name: &'static str,
    ) -> Result<Option<String>, NotAccepted> {
        let instance = instance.to_owned();
        Ok(self.ledger.read(move |conn| channel_state::get(conn, channel, &instance, name)).await?)
    }

    /// Accepts events in order, all or none.
    pub(super) async fn accept(
        &self,
        channel: &'static str,
        instance: &str,
        events: Vec<InboundEvent>,
        cursor: Option<(&'static str, String)>,
    ) -> Result<Vec<Routed>, NotAccepted> {
        let matched = self.matched(channel, instance, &events).await?;
        let decided = self.decide(channel, instance, &events).await?;
        let (keyring, bots, instance) = (self.keyring.clone(), self.bots.clone(), instance.to_owned());
        let all = events.len();
        let has_moved = events.iter().any(|event| matches!(event.kind, EventKind::Moved { .. }));
        let has_files = events.iter().any(|event| !event.attachments.is_empty());
        let routed = self.ledger.write_step(Step::Accept, move |tx| {
            let mut routed = Vec::with_capacity(events.len());
            for (event, matched) in events.into_iter().zip(matched) {
                routed.push(take(tx, &keyring, &bots, channel, &instance, event, &matched)?);
            }
            if let Some((name, value)) = cursor {
                channel_state::set(tx, channel, &instance, name, &value)?;
            }
            Ok(routed)
        });
        let mut routed = routed.await?;
        for (event, told) in routed.iter_mut().zip(decided) {
            event.pressed = told.or(event.pressed);
        }
        let is_timed = |outcome: &Outcome| {
            outcome.verdict == Verdict::Hold || matches!(outcome.reason, Reason::Mentioned | Reason::Sticky)
        };
        if routed.iter().flat_map(|event| &event.outcomes).any(is_timed) {
            self.ledger.alarm().at(Millis(Millis::now().0.saturating_add(ATTENTION_MILLIS)));
        }
        let mut woken = HashSet::new();
        for event in &routed {
            if event.is_duplicate {
                METRICS.duplicates.inc();
            }
            for outcome in &event.outcomes {
                let Some((message, session)) = &outcome.message else { continue };
                if !event.is_duplicate {
                    METRICS.accepted.inc();
                }
                let duplicate = event.is_duplicate;
                log::info(
                    "channel.accepted",
                    &[
                        ("channel", &channel),
                        ("session", session),
                        ("message", message),
                        ("duplicate", &duplicate),
                    ],
                );
                // A repetition wakes too: the first may have been accepted by a daemon that died before it woke anybody.
                if woken.insert(session.clone()) {
                    self.sessions.wake(session);
                    self.sessions.ring_bell(session, None);
                }
            }
        }
        if !woken.is_empty() {
            self.sessions.ring_births();
        }
        if has_files {
            self.wanted.ring();
        }
        if has_moved {
            self.moved.ring();
        }
        let strangers: Vec<_> = routed.iter_mut().flat_map(|event| event.strangers.drain(..)).collect();
        if !strangers.is_empty() {
            // Asking takes the gateway's time; the platform is answered before.
            let inbound = self.clone();
            tasks::spawn(async move {
                for stranger in strangers {
                    inbound.ask_for(channel, stranger).await;
                }
            })
            .detach();
        }
        log::debug("channel.events", &[("channel", &channel), ("events", &all)]);
        Ok(routed)
    }

    /// What would become of a message. Nothing is changed, and a program is as if it had not spoken before.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn try_out(
        &self,
        place: Place,
        sender: UserId,
        text: String,
        is_mentioned: bool,
        voice: Voice,
    ) -> Result<Vec<Plan>, StoreError> {
        let at = place.clone();
        let patterns = self.ledger.read(move |conn| {
            let all = wirings::of_chat(conn, (&at.channel, &at.instance, &at.chat), plan::MOST)?;
            Ok(all.into_iter().filter_map(|wiring| wiring.terms.pattern).collect::<Vec<_>>())
        });
        let patterns = patterns.await?;
        let look =
            move || patterns.into_iter().map(|one| (one.clone(), pattern::is_found(&one, &text))).collect();
        let matched: HashMap<String, bool> = tasks::unblock(look).await;
        let tried = self.ledger.read(move |conn| {
            let said =
                Said { place: &place, sender: &sender, voice, is_new: true, is_mentioned, matched: &matched };
            plan(conn, &said, Millis::now(), |_| false)
        });
        tried.await
    }

    /// Which patterns are found in each event. Looked for here and not where the ledger is written: a long text and an
    /// unlucky pattern take their time.
    async fn matched(
        &self,
        channel: &'static str,
        instance: &str,
        events: &[InboundEvent],
    ) -> Result<Vec<HashMap<String, bool>>, NotAccepted> {
        let chats: Vec<(String, String)> =
            events.iter().map(|event| (event.chat.clone(), event.text.clone())).collect();
        let instance = instance.to_owned();
        let asked = self.ledger.read(move |conn| {
            let of = |(chat, text): (String, String)| {
                let all = wirings::of_chat(conn, (channel, &instance, &chat), plan::MOST)?;
                let patterns: Vec<String> =
                    all.into_iter().filter_map(|wiring| wiring.terms.pattern).collect();
                Ok::<_, StoreError>((patterns, text))
            };
            chats.into_iter().map(of).collect::<Result<Vec<_>, _>>()
        });
        let asked = asked.await?;
        if asked.iter().all(|(patterns, _)| patterns.is_empty()) {
            return Ok(asked.into_iter().map(|_| HashMap::new()).collect());
        }
        let look = |(patterns, text): (Vec<String>, String)| {
            patterns.into_iter().map(|one| (one.clone(), pattern::is_found(&one, &text))).collect()
        };
        Ok(tasks::unblock(move || asked.into_iter().map(look).collect()).await)
    }
}

/// Stores what becomes of one event.
fn take(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    bots: &Bots,
    channel: &'static str,
    instance: &str,
    event: InboundEvent,
    matched: &HashMap<String, bool>,
) -> Result<Routed, StoreError> {
    let event = match event.check() {
        Ok(event) => event,
        Err(wrong) => {
            log::warn("channel.bad_event", &[("channel", &channel), ("wrong", &wrong)]);
            return Ok(Routed::default());
        }
    };
    let place = Place {
        channel: channel.to_owned(),
        instance: instance.to_owned(),
        chat: event.chat.clone(),
        thread: event.thread.clone(),
    };
    if let Some(accepted) = inbox::seen(tx, &place, &event.event_id)? {
        return Ok(Routed { is_duplicate: true, outcomes: again(tx, accepted)?, ..Routed::default() });
    }
    if let EventKind::Moved { to } = &event.kind {
        messaging_groups::rename(tx, channel, instance, &event.chat, to)?;
        return Ok(Routed::default());
    }
    let named = descriptor::find(channel).map(|known| known.user(instance, &event.sender.handle));
    let Some(sender) = named.and_then(|name| UserId::parse(&name).ok()) else {
        log::warn("channel.bad_event", &[("channel", &channel), ("wrong", &"the name of its sender")]);
        return Ok(Routed::default());
    };
    if let EventKind::Button { data, .. } = &event.kind {
        return answers::press(tx, keyring, &place, &event, &sender, data);
    }
    let now = Millis::now();
    let said = Said {
        place: &place,
        sender: &sender,
        voice: event.sender.voice,
        is_new: event.kind == EventKind::Message,
        is_mentioned: event.mentioned,
        matched,
    };
    let mut first: Option<Accepted> = None;
    let (mut outcomes, mut strangers) = (Vec::new(), Vec::new());
    let mut holding: Option<Accepted> = None;
    let files = files(&event);
    // What is on a card is for whoever decides it, and not for the agent of that chat.
    let answers_a_card = match &event.reply_to {
        Some(answered) => approvals::is_card(tx, &place, &answered.message_id)?,
        None => false,
    };
    let text = match answers_a_card {
        true => event.text.clone(),
        false => with_what_it_answers(&event, channel, instance),
    };
    let mut open = answers::open(tx, keyring, &place, &event)?;
    for Plan { wiring, partition, mut verdict, mut reason } in
        plan(tx, &said, now, |wiring| bots.speaks(wiring, &sender, Instant::now()))?
    {
        if !open.is_empty()
            && let Some(answered) = open.take(tx, keyring, &said, &event, (&wiring, &partition, verdict))?
        {
            if first.is_none() {
                first = Some(answered.clone());
            }
            outcomes.push(answers::outcome(wiring.group, &answered));
            continue;
        }
        let engage = verdict == Verdict::Engage;
        let mut message = None;
        if verdict != Verdict::Drop {
            let new = NewInbound {
                partition: partition.clone(),
                place: place.clone(),
                event_id: event.event_id.clone(),
                kind: InboundKind::Chat,
                engage,
                sender_id: sender.to_string(),
                sender_name: event.sender.name.clone(),
                text: match verdict {
                    Verdict::Hold if !files.is_empty() => {
                        format!(
                            "{text}\n(files left out, because the sender was not admitted yet: {})",
                            files.len()
                        )
                    }
                    _ => text.clone(),
                },
                in_reply_to: None,
                source_session: None,
                hop: 0,
                platform_message: event.message_id.clone(),
            };
            let added = match verdict {
                Verdict::Hold => held::keep(tx, keyring, &wiring.id, &new).map(|kept| {
                    // Also when nothing more is kept: their code may be over.
                    strangers.push(Stranger {
                        user: sender.clone(),
                        name: event.sender.name.clone(),
                        group: wiring.group.clone(),
                        partition,
                        place: place.clone(),
                    });
                    match kept {
                        Some(kept) => holding = holding.take().or(Some(kept)),
                        None => (verdict, reason) = (Verdict::Drop, Reason::Full),
                    }
                    None
                }),
                _ => with_files(tx, keyring, &new, &files).map(Some),
            };
            match added {
                Ok(None) => {}
                Ok(Some(accepted)) => {
                    message = Some((accepted.message.clone(), accepted.session.clone()));
                    if first.is_none() {
                        first = Some(accepted);
                    }
                }
                // A full or broken conversation of one agent keeps nothing from the others, nor from what comes after.
                Err(error) if error.is_disk() => return Err(error),
                Err(error) => {
                    let group = &wiring.group;
                    log::warn("channel.not_accepted", &[("agent", group), ("error", &error)]);
                    (verdict, reason) = (Verdict::Drop, Reason::Full);
                }
            }
        }
        if engage
            && matches!(reason, Reason::Mentioned | Reason::Sticky)
            && wiring.terms.engage == "mention-sticky"
        {
            let until = Millis(now.0.saturating_add(ATTENTION_MILLIS));
            attention::pay(tx, &wiring.id, place.thread.as_deref(), until)?;
        }
        outcomes.push(Outcome { group: wiring.group, verdict, reason, message });
    }
    // What is held only is known too, so that it is not held twice.
    if let Some(first) = first.or(holding) {
        inbox::note(tx, &place, &event.event_id, &first)?;
    }
    Ok(Routed { is_duplicate: false, outcomes, pressed: None, strangers })
}

/// What was said, and in a line before it the beginning of what it answers: without that it may mean nothing. The line
/// is no more than the sender could write.
fn with_what_it_answers(event: &InboundEvent, channel: &str, instance: &str) -> String {
    let answered = event.reply_to.as_ref().filter(|answered| !answered.excerpt.trim().is_empty());
    let (Some(answered), EventKind::Message | EventKind::Edit) = (answered, &event.kind) else {
        return event.text.clone();
    };
    let by = descriptor::find(channel)
        .filter(|_| !answered.handle.is_empty())
        .map(|known| format!(" by {}", plain::line(&known.user(instance, &answered.handle))))
        .unwrap_or_default();
    let excerpt = plain::line(answered.excerpt.trim());
    format!("(answers a message{by}: \u{201c}{excerpt}\u{201d})\n{}", event.text)
}

/// Adds a message and notes its files: both or neither.
fn with_files(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    new: &NewInbound,
    files: &[NewFile],
) -> Result<Accepted, StoreError> {
    if files.is_empty() {
        return inbox::add(tx, keyring, new);
    }
    tx.execute_batch("SAVEPOINT files")?;
    let added = inbox::add(tx, keyring, new).and_then(|added| {
        attachments::want(tx, keyring, &added.session, &added.message, files)?;
        Ok(added)
    });
    tx.execute_batch(if added.is_ok() { "RELEASE files" } else { "ROLLBACK TO files; RELEASE files" })?;
    added
}

/// The files of an event, under names that are safe to store.
fn files(event: &InboundEvent) -> Vec<NewFile> {
    let file = |file: &Incoming| NewFile {
        name: sniff::safe_name(&file.name),
        source: file.id.clone(),
        size: file.size,
    };
    event.attachments.iter().map(file).collect()
}

/// What a repetition is answered with: the first message that the event was made into.
fn again(tx: &Transaction<'_>, accepted: Accepted) -> Result<Vec<Outcome>, StoreError> {
    let Some(row) = super::store::sessions::get(tx, &accepted.session)? else { return Ok(Vec::new()) };
    let group = row.partition.group;
    Ok(vec![match inbox::find(tx, &accepted.session, &accepted.message)? {
        Some(_) => Outcome {
            group,
            verdict: Verdict::Engage,
            reason: Reason::Everything,
            message: Some((accepted.message, accepted.session)),
        },
        // Held, or gone meanwhile.
        None => Outcome { group, verdict: Verdict::Hold, reason: Reason::NotAdmitted, message: None },
    }])
}

/// How often programs have spoken to each agent of late.
#[derive(Debug, Default)]
struct Bots(Mutex<HashMap<(WiringId, UserId), (Instant, u32)>>);

impl Bots {
    /// Counts one message of a program; says whether the agent has answered it too often.
    fn speaks(&self, wiring: &WiringId, bot: &UserId, now: Instant) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= BOTS {
            all.retain(|_, (since, _)| now.duration_since(*since) < BOT_WINDOW);
            if all.len() >= BOTS {
                return true;
            }
        }
        let (since, count) = all.entry((wiring.clone(), bot.clone())).or_insert((now, 0));
        if now.duration_since(*since) >= BOT_WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count > BOT_MOST
    }
}

#[cfg(test)]
mod tests {
    use super::super::channels::event::{Quoted, Sender};
    use super::*;

    #[test]
    fn an_answer_comes_with_the_beginning_of_what_it_answers() {
        let event = |kind: EventKind, handle: &str, excerpt: &str| InboundEvent {
            event_id: "1".into(),
            chat: "5".into(),
            thread: None,
            message_id: None,
            sender: Sender { handle: "42".into(), name: "Ann".into(), voice: Voice::Person },
            is_group: true,
            title: String::new(),
            mentioned: true,
            text: "yes".into(),
            reply_to: Some(Quoted { message_id: "4".into(), handle: handle.into(), excerpt: excerpt.into() }),
            attachments: Vec::new(),
            occurred_at: None,
            kind,
        };
        let of = |kind, handle: &str, excerpt: &str| {
            with_what_it_answers(&event(kind, handle, excerpt), "telegram", "")
        };
        assert_eq!(
            of(EventKind::Message, "99", "Shall I?"),
            "(answers a message by telegram:99: \u{201c}Shall I?\u{201d})\nyes"
        );
        let shown = of(EventKind::Edit, "", "one\ntwo\u{202e}");
        assert!(shown.starts_with("(answers a message: ") && shown.contains("\\u{202e}"), "{shown}");
        assert_eq!(shown.lines().count(), 2, "{shown}");
        assert_eq!(of(EventKind::Message, "99", " "), "yes");
        let press = EventKind::Button { data: "d".into(), query: "q".into() };
        assert_eq!(of(press, "99", "Shall I?"), "yes");
    }

    #[test]
    fn a_program_is_answered_so_often_and_then_again() {
        let (bots, now) = (Bots::default(), Instant::now());
        let (wiring, bot) = (WiringId::mint(), UserId::parse("webhook:robot").unwrap());
        for _ in 0..BOT_MOST {
            assert!(!bots.speaks(&wiring, &bot, now));
        }
        assert!(bots.speaks(&wiring, &bot, now + BOT_WINDOW / 2));
        assert!(!bots.speaks(&WiringId::mint(), &bot, now), "another agent has answered nothing");
        assert!(!bots.speaks(&wiring, &bot, now + BOT_WINDOW));
    }
}
