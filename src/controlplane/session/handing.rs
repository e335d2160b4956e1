//! Handing over while a sandbox runs: what the ledger has for the session and what the host answers travels
//! in one conveyor transaction, rung once, and the next waits for its acknowledgement. A sandbox that has not
//! finished what it holds is handed no more than it has room for.

use std::time::Instant;

use rusqlite::Transaction;

use super::actor::{Actor, Event};
use super::context::Context;
use super::held::Room;
use super::launch::{told, told_all};
use super::limits::{BYTES_A_RING, MESSAGES_A_RING};
use super::run::Ending;
use crate::contract::action::Outcome;
use crate::contract::fault;
use crate::contract::frame::ToSandbox;
use crate::contract::ids::{MessageId, SessionId};
use crate::contract::inbound::{Attachment, InboundBody, InboundKind, InboundRow, MessageIn};
use crate::contract::time::Millis;
use crate::controlplane::keys::Keyring;
use crate::controlplane::store::attachments::{self, File, MOST_OF_A_MESSAGE, State};
use crate::controlplane::store::destinations::Destination;
use crate::controlplane::store::groups::AgentGroup;
use crate::controlplane::store::inbox::{OpenMessage, Page, PageRoom};
use crate::controlplane::store::{Durability, Step, StoreError, destinations, groups, inbox, sessions};
use crate::controlplane::tasks;

/// What goes into one transaction.
struct Hand {
    /// What the agent group is now and where it may send, where that changed.
    group: Option<(AgentGroup, Vec<Destination>)>,
    open: Vec<OpenMessage>,
    /// The numbers of the configuration and the destinations, if they go along; then those of the pieces of files, then
    /// those of the messages, then those of the answers.
    seqs: Vec<u64>,
    /// The position up to which the ledger was looked through.
    handed: u64,
    /// The ledger may hold more than it gave.
    more: bool,
    /// What was decided about the agent group is not in the audit files yet: nothing is handed over.
    unrecorded: bool,
}

/// Hands over what waits, if the sandbox has acknowledged the last ring and has room. `Err` ends the run.
pub(super) async fn pump(actor: &mut Actor) -> Result<(), Ending> {
    let owed = actor.owed;
    let Some(run) = &mut actor.run else { return Ok(()) };
    // Without room what is owed stays owed, and the end of a message it holds comes back here.
    // One that is to end is handed nothing more: the next one has what was decided.
    let room = if owed && !run.outdated { run.open.room() } else { Room::Full };
    let nothing_goes = room == Room::Full && run.outcomes.is_empty();
    if nothing_goes || !run.welcomed || run.is_unacknowledged() || run.closed_at.is_some() {
        return Ok(());
    }
    let most = run.outcomes.len().min(MESSAGES_A_RING);
    let outcomes: Vec<Outcome> = run.outcomes.drain(..most).collect();
    let context = actor.sessions.context().clone();
    let (session, keyring, from) = (actor.id.clone(), context.keyring.clone(), run.handed);
    // It travels with messages, below them: a turn that runs is not disturbed, the next one begins with it.
    let changed = run.reconfigured.then(|| run.group.clone());
    let (ahead, answers) = (run.open.after(from), outcomes.len());
    // Asked before the transaction: what is decided meanwhile is not in the files.
    let exported = context.desk.audit.exported();
    // A wake that comes meanwhile waits in the actor's queue.
    actor.owed = owed && room == Room::Full;
    // A machine that loses its power loses the sandbox too, and what is not finished is handed to its successor anew.
    // That needs no sync while all of it fits into the snapshot of a launch: the successor may know a message as
    // finished, and the ledger believes that only of one that was handed over.
    let durability = if run.open.is_empty() { Durability::Ordered } else { Durability::Synced };
    let given = context.ledger.write_with(Step::Launch, durability, move |tx| {
        let group = changed.as_ref().map(|name| groups::live(tx, name)).transpose()?.flatten();
        let unrecorded = group.as_ref().is_some_and(|group| group.unrecorded(exported).is_some());
        let room = if unrecorded { Room::Full } else { room };
        let mut hand = Hand { unrecorded, ..choose(tx, &keyring, &session, from, &ahead, room)? };
        let ids: Vec<_> = hand.open.iter().map(|open| open.message.id.clone()).collect();
        if let Some(group) = group.filter(|_| !ids.is_empty()) {
            let destinations = destinations::of(tx, &group.name)?;
            hand.seqs = sessions::mint_seqs(tx, &session, 1 + destinations.len())?;
            hand.group = Some((group, destinations));
        }
        hand.seqs.extend(sessions::mint_seqs(tx, &session, pieces(&hand.open))?);
        hand.seqs.extend(inbox::hand_over(tx, &session, &ids)?);
        hand.seqs.extend(sessions::mint_seqs(tx, &session, answers)?);
        Ok(hand)
    });
    let Hand { group, open, mut seqs, handed, more, unrecorded } =
        given.await.map_err(|error| Ending::Host(error.to_string()))?;
    actor.owed |= more || unrecorded;
    if unrecorded {
        // Its successor waits for the record, and says so; this one goes as soon as it has nothing to do.
        run.outdated = true;
        let _ = actor.sender.try_send(Event::Wake);
    }
    run.handed = handed;
    let Some(last) = seqs.last().copied() else { return Ok(()) };
    let mut rows: Vec<InboundRow> = Vec::new();
    if let Some((group, destinations)) = group {
        run.reconfigured = false;
        run.model
            .grant(&group.provider, &group.model, true)
            .map_err(|error| Ending::Host(error.to_string()))?;
        run.allowed = context.allowed(&group);
        run.usage.bytes_limit = run.allowed.bytes;
        run.usage.files_limit = run.allowed.files;
        let config = told(&group, run.places.clone(), run.usage, run.allowed.turn);
        let told = told_all(config, &destinations);
        let rest = seqs.split_off(told.len().min(seqs.len()));
        rows.extend(seqs.into_iter().zip(told).map(|(seq, body)| InboundRow { seq, body }));
        seqs = rest;
    }
    let (files, of_files) = attached(&context, &open).await?;
    let messages_at = seqs.split_off(of_files.min(seqs.len()));
    let files = seqs.into_iter().zip(files);
    rows.extend(files.map(|(seq, body)| InboundRow { seq, body }));
    let seqs = messages_at;
    let answers_at = seqs.get(open.len()..).unwrap_or_default().to_vec();
    if !open.is_empty() && !run.open.owes_a_turn() {
        // Until now it had nothing to do, however long that was.
        run.waiting_since = Instant::now();
    }
    seqs.iter().zip(&open).for_each(|(seq, open)| run.open.add(*seq, open));
    let bodies = open.into_iter().map(|open| open.message).chain(outcomes.iter().map(system_row));
    let messages = seqs.into_iter().zip(bodies);
    rows.extend(messages.map(|(seq, message)| InboundRow { seq, body: InboundBody::Message(message) }));
    let Some(mut inbound) = run.inbound.take() else {
        return Err(Ending::Host("inbound.db is not open".to_owned()));
    };
    let finished = std::mem::take(&mut run.finished);
    let (inbound, written) = tasks::unblock(move || {
        let written = inbound.append(&rows, &finished);
        (inbound, written)
    })
    .await;
    run.inbound = Some(inbound);
    // Nothing is mended in place: a conveyor that fails while in use ends the sandbox.
    written.map_err(|error| Ending::Host(error.to_string()))?;
    fault::point("ring.in.written");
    run.answered = answers_at;
    run.rung = last;
    run.rung_at = Instant::now();
    if !run.doorbell.send(ToSandbox::In(last)) {
        run.stalled = true;
    }
    fault::point("ring.in.rung");
    Ok(())
}

/// What there is room for: the next messages in the order of the history, without those that went `ahead`.
fn choose(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    session: &SessionId,
    from: u64,
    ahead: &[MessageId],
    room: Room,
) -> Result<Hand, StoreError> {
    let none = Hand {
        group: None,
        open: Vec::new(),
        seqs: Vec::new(),
        handed: from,
        more: false,
        unrecorded: false,
    };
    match room {
        Room::Full => Ok(none),
        // Whether another one waits is asked again when this one is finished, and so is what it passed.
        Room::OneThatTriggers => {
            let open = inbox::open_trigger(tx, keyring, session, from)?;
            Ok(Hand { more: open.is_some(), open: open.into_iter().collect(), ..none })
        }
        Room::For(rows) => {
            // What a turn took must fit into the first ring of the sandbox that goes on with it.
            let held = inbox::attached_until(tx, session, from)?;
            let attached = MOST_OF_A_MESSAGE.saturating_sub(held);
            let room = PageRoom { rows, bytes: BYTES_A_RING, attached };
            let mut handed = from;
            loop {
                let before = handed;
                let Page { mut open, is_cut: more } =
                    inbox::open_messages(tx, keyring, session, handed, room)?;
                handed = open.last().map_or(handed, |open| open.position);
                open.retain(|open| !ahead.contains(&open.message.id));
                if !open.is_empty() || !more || handed == before {
                    return Ok(Hand { open, handed, more, ..none });
                }
            }
        }
    }
}

/// Rows that the files of messages take.
pub(super) fn pieces(open: &[OpenMessage]) -> usize {
    open.iter().flat_map(|open| &open.files).map(File::pieces).sum()
}

/// Those rows, and how many there are; read where the ledger's writer does not wait for it.
pub(super) async fn attached(
    context: &Context,
    open: &[OpenMessage],
) -> Result<(Vec<InboundBody>, usize), Ending> {
    let all = pieces(open);
    if all == 0 {
        return Ok((Vec::new(), 0));
    }
    let wanted: Vec<_> = open
        .iter()
        .filter(|open| !open.files.is_empty())
        .map(|open| (open.position, open.message.id.clone(), open.files.clone()))
        .collect();
    let keyring = context.keyring.clone();
    let read = context.ledger.read(move |conn| {
        let mut bodies = Vec::with_capacity(all);
        for (position, message, files) in &wanted {
            for file in files {
                let content = match file.state {
                    State::Here => attachments::content(conn, &keyring, *position, file)?,
                    State::Staged | State::Wanted | State::Missing => Vec::new(),
                };
                bodies.extend(rows_of(message, file, content));
            }
        }
        Ok(bodies)
    });
    let bodies = read.await.map_err(|error| Ending::Host(error.to_string()))?;
    Ok((bodies, all))
}

/// A row for each piece. What does not come is one without a type, which says so instead of a name.
fn rows_of(message: &MessageId, file: &File, content: Vec<Vec<u8>>) -> Vec<InboundBody> {
    let is_here = file.state == State::Here;
    let name = if is_here { file.name.clone() } else { format!("{}: {}", file.name, file.reason) };
    let mut content = content.into_iter();
    (0..file.pieces())
        .map(|chunk| {
            let part = Attachment {
                ordinal: file.ordinal,
                chunk: u32::try_from(chunk).unwrap_or(u32::MAX),
                name: name.clone(),
                mime: file.mime.clone(),
                bytes: content.next().unwrap_or_default(),
            };
            InboundBody::Attachment(message.clone(), part)
        })
        .collect()
}

fn system_row(outcome: &Outcome) -> MessageIn {
    MessageIn {
        id: MessageId::mint(),
        kind: InboundKind::System,
        engage: false,
        sender_id: "system:host".to_owned(),
        sender_name: "host".to_owned(),
        channel: String::new(),
        chat: String::new(),
        thread: None,
        text: outcome.encode(),
        source_session: None,
        hop: 0,
        in_reply_to: None,
        created_at: Millis::now(),
    }
}
