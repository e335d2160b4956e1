//! Handing over while a sandbox runs: what the ledger has for the session and what the host answers travels
//! in one conveyor transaction, rung once, and the next waits for its acknowledgement.

use std::time::Instant;

use super::actor::Actor;
use super::limits::{BYTES_A_RING, MESSAGES_A_RING};
use super::run::Ending;
use crate::contract::action::Outcome;
use crate::contract::fault;
use crate::contract::frame::ToSandbox;
use crate::contract::ids::MessageId;
use crate::contract::inbound::{InboundBody, InboundKind, InboundRow, MessageIn};
use crate::contract::time::Millis;
use crate::controlplane::store::inbox::OpenMessage;
use crate::controlplane::store::{Step, inbox, sessions};

/// Hands over what waits, if the sandbox has acknowledged the last ring. `Err` ends the run.
pub(super) async fn pump(actor: &mut Actor) -> Result<(), Ending> {
    let owed = actor.owed;
    let Some(run) = &mut actor.run else { return Ok(()) };
    let nothing_waits = !owed && run.outcomes.is_empty();
    if nothing_waits || !run.welcomed || run.is_unacknowledged() || run.closed_at.is_some() {
        return Ok(());
    }
    actor.owed = false;
    let most = run.outcomes.len().min(MESSAGES_A_RING);
    let outcomes: Vec<Outcome> = run.outcomes.drain(..most).collect();
    let context = actor.sessions.context().clone();
    let (session, keyring, after, answers) =
        (actor.id.clone(), context.keyring.clone(), run.handed, outcomes.len());
    let given = context.ledger.write_step(Step::Launch, move |tx| {
        let open = inbox::open_messages(tx, &keyring, &session, after, MESSAGES_A_RING, BYTES_A_RING)?;
        let ids: Vec<_> = open.iter().map(|open| open.message.id.clone()).collect();
        let mut seqs = inbox::hand_over(tx, &session, &ids)?;
        seqs.extend(sessions::mint_seqs(tx, &session, answers)?);
        Ok((open, seqs))
    });
    let (open, seqs) = given.await.map_err(|error| Ending::Host(error.to_string()))?;
    let Some(last) = seqs.last().copied() else { return Ok(()) };
    // A full hand may not have been all.
    actor.owed = may_be_more(open.iter());
    let answers_at = seqs.get(open.len()..).unwrap_or_default().to_vec();
    let handed: Vec<(MessageId, u64)> =
        open.iter().map(|open| open.message.id.clone()).zip(seqs.iter().copied()).collect();
    let position = open.last().map(|open| open.position);
    let bodies = open.into_iter().map(|open| open.message).chain(outcomes.iter().map(system_row));
    let rows: Vec<InboundRow> = seqs
        .into_iter()
        .zip(bodies)
        .map(|(seq, message)| InboundRow { seq, body: InboundBody::Message(message) })
        .collect();
    let Some(mut inbound) = run.inbound.take() else {
        return Err(Ending::Host("inbound.db is not open".to_owned()));
    };
    let finished = std::mem::take(&mut run.finished);
    let (inbound, written) = smol::unblock(move || {
        let written = inbound.append(&rows, &finished);
        (inbound, written)
    })
    .await;
    run.inbound = Some(inbound);
    // Nothing is mended in place: a conveyor that fails while in use ends the sandbox.
    written.map_err(|error| Ending::Host(error.to_string()))?;
    fault::point("ring.in.written");
    run.open.extend(handed);
    run.answered = answers_at;
    if let Some(position) = position {
        run.handed = position;
    }
    run.rung = last;
    run.rung_at = Instant::now();
    if !run.doorbell.send(ToSandbox::In(last)) {
        run.stalled = true;
    }
    fault::point("ring.in.rung");
    Ok(())
}

/// Whether the ledger may hold more than it gave: it stops at a number of messages or bytes.
pub(super) fn may_be_more<'a>(given: impl Iterator<Item = &'a OpenMessage>) -> bool {
    let (count, bytes) =
        given.fold((0, 0), |(count, bytes), open| (count + 1, bytes + open.message.text.len()));
    count >= MESSAGES_A_RING || bytes >= BYTES_A_RING / 2
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
