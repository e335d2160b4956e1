//! From a ring to the ledger: the rows of one ring are read by the hostile reader and stored in one
//! transaction, outputs, states and cursor together. Only after that commit may the ring be acknowledged.
//! Each row is checked against the ledger in that same transaction: the sandbox is informed, never believed.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rusqlite::Transaction;

use super::actions::{self, Answer, Asked};
use super::hostile::{self, Refused};
use super::letters::{self, Aim, Delivered, Letter, Rates};
use super::peers;
use crate::contract::action::Action;
use crate::contract::cipher::FileKey;
use crate::contract::ids::{MessageId, SessionId};
use crate::contract::outbound::{MessageOut, OutboundBody, OutboundKind, OutboundRow, Processing};
use crate::controlplane::audit::Exporting;
use crate::controlplane::delivery::sniff;
use crate::controlplane::gateway::desk::Desk;
use crate::controlplane::store::history::{NEWS_BYTES, News};
use crate::controlplane::store::inbox::{Marked, State};
use crate::controlplane::store::outbox::Output;
use crate::controlplane::store::{
    Durability, Ledger, Step, StoreError, attachments, history, inbox, outbox, sessions,
};
use crate::controlplane::tasks;

/// One ring of one sandbox.
#[derive(Debug)]
pub(super) struct Ring {
    pub(super) session: SessionId,
    pub(super) epoch: u64,
    /// Rows up to here are stored.
    pub(super) cursor: u64,
    /// The number that was rung.
    pub(super) last: u64,
    pub(super) path: PathBuf,
    pub(super) key: FileKey,
    pub(super) spent: Spent,
    /// Somebody watches the conversation.
    pub(super) watched: bool,
    /// How often may be written to other chats.
    pub(super) rate: Arc<Rates>,
}

/// What a sandbox has put out since it last finished a message. A ring at a time is bounded by the contract; this
/// bounds all of them together, so that a turn's time is not all that stands between an agent and a full disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spent {
    /// Rows of any kind.
    rows: usize,
    /// Bytes of text.
    bytes: usize,
}

impl Spent {
    /// Rows: a turn has at most some dozens of steps, each with a few outputs, and a few hundred messages.
    const MOST_ROWS: usize = 10_000;

    /// Bytes: an answer that nobody can read any more.
    const MOST_BYTES: usize = 32 << 20;

    /// With one more ring; `None` when that is too much.
    fn and(self, rows: &[OutboundRow]) -> Option<Self> {
        let all = Self {
            rows: self.rows + rows.len(),
            bytes: self.bytes + rows.iter().map(|row| row.body.weight()).sum::<usize>(),
        };
        (all.rows <= Self::MOST_ROWS && all.bytes <= Self::MOST_BYTES).then_some(all)
    }
}

/// Actions and messages elsewhere in one ring; each is answered, and the answers wait in memory.
const ACTIONS_A_RING: usize = 64;

/// What a ring brought.
#[derive(Debug, Default)]
pub(super) struct Ingested {
    /// The new cursor.
    pub(super) last: u64,
    /// The cost so far.
    pub(super) spent: Spent,
    /// Messages whose turn began.
    pub(super) began: Vec<MessageId>,
    /// Messages that are finished.
    pub(super) done: Vec<MessageId>,
    /// Whether people have something new to see.
    pub(super) spoke: bool,
    /// What that is, if somebody watches.
    pub(super) news: Option<News>,
    /// Actions that it asked for.
    pub(super) actions: u32,
    /// How long they kept the ledger's writer.
    pub(super) took: Duration,
    /// Their answers, and those to messages for other chats, to be handed back when what was recorded of them is in the
    /// audit files.
    pub(super) answers: Option<(Vec<Answer>, Option<Exporting>)>,
    /// What went to other conversations.
    pub(super) elsewhere: Vec<Delivered>,
}

impl Ingested {
    fn with(self, answers: Vec<Answer>, exporting: Option<Exporting>) -> Self {
        let actions = u32::try_from(answers.len()).unwrap_or(u32::MAX);
        Self { actions, answers: Some((answers, exporting)), ..self }
    }
}

/// Why a ring brought nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// The sandbox broke the contract.
    Violation(String),
    /// The host could not do its part.
    Host(String),
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Violation(how) => Self::Violation(how),
            Refused::Host(why) => Self::Host(why),
        }
    }
}

/// Reads, checks and stores one ring. The reading runs on the blocking pool.
pub(super) async fn ingest(ledger: &Ledger, desk: &Desk, ring: Ring) -> Result<Ingested, Failure> {
    let (path, key, cursor, last, epoch) = (ring.path, ring.key, ring.cursor, ring.last, ring.epoch);
    // Everything that its length or depth makes slow is read here, and not where all sessions wait for the ledger.
    let (rows, actions) = tasks::unblock(move || {
        let rows = hostile::read(&path, &key, cursor, last)?;
        let read = |row: &OutboundRow| {
            let (text, cause) = envelope(row)?;
            Some(Asked { number: (epoch, row.seq), cause, action: Action::parse(text.as_bytes()) })
        };
        let actions: Vec<Asked> = rows.iter().filter_map(read).collect();
        Ok::<_, Refused>((rows, actions))
    })
    .await?;
    let too_much = "it put out more than any turn needs".to_owned();
    let spent = ring.spent.and(&rows).ok_or(Failure::Violation(too_much))?;
    let asks = !actions.is_empty();
    let finishes = rows.iter().any(|row| matches!(row.body, OutboundBody::Processing(_, Processing::Done)));
    let sends =
        rows.iter().any(|row| matches!(&row.body, OutboundBody::Message(message) if message.chat.is_some()));
    let step = match () {
        () if asks => Step::Ask,
        () if finishes => Step::Finish,
        () if sends => Step::Send,
        () => Step::Ingest,
    };
    // That a turn began is announced anew by whoever goes on with it; everything else is somebody's words.
    let only_began =
        rows.iter().all(|row| matches!(row.body, OutboundBody::Processing(_, Processing::Started)));
    let durability = if only_began { Durability::Ordered } else { Durability::Synced };
    let (session, watched, taker) = (ring.session, ring.watched, desk.clone());
    let rate = ring.rate;
    let unavailable = if asks { desk.audit.unavailable() } else { None };
    let work = move |tx: &Transaction<'_>| {
        if let Some(how) = objection(tx, &session, &rows)? {
            return Ok(Err(Failure::Violation(how)));
        }
        if !sessions::advance_cursor(tx, &session, epoch, cursor, last)? {
            return Ok(Err(Failure::Host("the ledger's cursor moved meanwhile".to_owned())));
        }
        // What is read back here lies in the writer's memory; each watcher would have to decrypt it. Much of it
        // would keep the writer from others.
        let is_short = rows.iter().map(|row| row.body.weight()).sum::<usize>() <= NEWS_BYTES;
        let before = if watched && is_short { Some(history::newest(tx, &session)?) } else { None };
        let mut answers = Vec::with_capacity(actions.len());
        let asking = Asking { actions: actions.into_iter(), unavailable: unavailable.as_deref() };
        let mut stored = store(tx, &taker, &rate, (&session, epoch, last), rows, asking, &mut answers)?;
        if let Some(before) = before.filter(|_| stored.spoke) {
            stored.news = history::news(tx, &taker.keyring, &session, before)?;
        }
        Ok(Ok((Ingested { spent, ..stored }, answers)))
    };
    let failed = |error| match error {
        StoreError::TooLong { .. } => Failure::Violation(error.to_string()),
        error => Failure::Host(error.to_string()),
    };
    if !asks {
        let (ingested, answers) = ledger.write_with(step, durability, work).await.map_err(failed)??;
        return Ok(if answers.is_empty() { ingested } else { ingested.with(answers, None) });
    }
    let (stored, exporting) = desk.audit.commit(step, durability, work).await.map_err(failed)?;
    let (ingested, answers) = stored?;
    Ok(ingested.with(answers, Some(exporting)))
}

/// What an action says, and the message in answer to which it does.
fn envelope(row: &OutboundRow) -> Option<(&str, Option<MessageId>)> {
    match &row.body {
        OutboundBody::Message(MessageOut { kind: OutboundKind::Action, text, in_reply_to, .. }) => {
            Some((text, in_reply_to.clone()))
        }
        _ => None,
    }
}

/// Looks before anything is written, so that a refused ring leaves no trace.
fn objection(
    tx: &Transaction<'_>,
    session: &SessionId,
    rows: &[OutboundRow],
) -> Result<Option<String>, StoreError> {
    let mut answered = rows.iter().filter_map(envelope).count();
    for row in rows {
        let wrong = |how: &str| Ok(Some(format!("output {}: {how}", row.seq)));
        match &row.body {
            OutboundBody::Message(message) => {
                let Some(cause) = &message.in_reply_to else {
                    return wrong("it answers no message");
                };
                let Some(origin) = inbox::find(tx, session, cause)? else {
                    return wrong("it answers a message that this session never got");
                };
                match letters::aim(message, &origin) {
                    Aim::Back => {}
                    Aim::Elsewhere => answered += 1,
                    Aim::Nowhere => return wrong("it is addressed to a chat that there cannot be"),
                }
            }
            OutboundBody::Attachment(message_seq, piece) => {
                if !attachments::is_piece(*message_seq, row.seq, piece) {
                    return wrong("it is no piece of a file");
                }
            }
            OutboundBody::Processing(message, _) => {
                if inbox::find(tx, session, message)?.is_none() {
                    return wrong("it is about a message that this session never got");
                }
            }
        }
    }
    if answered > ACTIONS_A_RING {
        let how = format!("it asks for more than {ACTIONS_A_RING} actions, or messages elsewhere, at once");
        return Ok(Some(how));
    }
    Ok(None)
}

/// The actions of a ring, in the order of their rows.
struct Asking<'a> {
    actions: std::vec::IntoIter<Asked>,
    /// Why the audit files cannot be written, if that is known.
    unavailable: Option<&'a str>,
}

fn store(
    tx: &Transaction<'_>,
    desk: &Desk,
    rates: &Rates,
    (session, epoch, last): (&SessionId, u64, u64),
    rows: Vec<OutboundRow>,
    mut asking: Asking<'_>,
    answers: &mut Vec<Answer>,
) -> Result<Ingested, StoreError> {
    let mut ingested = Ingested { last, ..Ingested::default() };
    for row in rows {
        match row.body {
            OutboundBody::Message(MessageOut { kind: OutboundKind::Action, .. }) => {
                // One for each such row.
                let Some(asked) = asking.actions.next() else { continue };
                let begun = Instant::now();
                let answer = actions::execute(tx, desk, session, asking.unavailable, asked)?;
                ingested.took += begun.elapsed();
                ingested.spoke |= answer.spoke;
                answers.push(answer);
            }
            OutboundBody::Message(message) => {
                // Judged before; the answer goes where its cause came from, whatever the row says.
                let cause = message.in_reply_to.as_ref();
                let origin = cause.map(|cause| inbox::find(tx, session, cause)).transpose()?.flatten();
                let Some(origin) = origin else { continue };
                if letters::aim(&message, &origin) == Aim::Elsewhere {
                    let begun = Instant::now();
                    let letter = Letter { session, epoch, seq: row.seq, message, cause: &origin };
                    let (answer, there) = letters::take(tx, desk, rates, letter)?;
                    answers.push(answer);
                    ingested.elsewhere.extend(there);
                    ingested.took += begun.elapsed();
                    continue;
                }
                if origin.state != State::Open {
                    // The host gave the message up, and told the person, while the answer was under way.
                    continue;
                }
                if let Some(refused) = letters::unwired(tx, session, row.seq, &origin.place)? {
                    answers.push(refused);
                    continue;
                }
                if peers::is_from_agent(&origin.place) {
                    let letter =
                        Letter { session, epoch, seq: row.seq, message: message.clone(), cause: &origin };
                    let refused = letters::back_to_agent(tx, desk, rates, letter, &mut ingested.elsewhere)?;
                    if let Some(refused) = refused {
                        answers.push(refused);
                        continue;
                    }
                }
                let number = (epoch, row.seq);
                let has_files = attachments::has_staged(tx, session, epoch, row.seq)?;
                if has_files && let Some(refused) = letters::no_files(tx, session, row.seq)? {
                    answers.push(refused);
                    continue;
                }
                let stored = outbox::store(
                    tx,
                    &desk.keyring,
                    &Output {
                        session: session.clone(),
                        epoch,
                        seq: row.seq,
                        ordinal: 0,
                        in_reply_to: message.in_reply_to,
                        place: origin.place,
                        shown_in: session.clone(),
                        text: message.text,
                    },
                )?;
                if has_files {
                    attachments::send(tx, session, number, &stored.message)?;
                }
                ingested.spoke = true;
            }
            OutboundBody::Attachment(message_seq, piece) => {
                let (name, mime) = (sniff::safe_name(&piece.name), sniff::mime(&piece.bytes));
                let number = (epoch, message_seq);
                attachments::stage(tx, &desk.keyring, session, number, &piece, (&name, mime))?;
            }
            OutboundBody::Processing(message, Processing::Started) => {
                if inbox::begin(tx, session, &message)? == Marked::Changed {
                    ingested.began.push(message);
                }
            }
            OutboundBody::Processing(message, Processing::Done) => {
                if inbox::finish(tx, session, &message)? == Marked::Changed {
                    ingested.spoke = true;
                    ingested.done.push(message);
                }
            }
        }
    }
    if !ingested.done.is_empty() {
        sessions::clear_launch_deaths(tx, session)?;
        attachments::sweep(tx, session)?;
    }
    Ok(ingested)
}
