//! Asks the host for what it may not have: envelopes as the message gives them, one a line, messages to other chats, or
//! proposals without number. It answers the message with what it was told.

use std::collections::VecDeque;

use ironclaw::contract::action::{Action, Outcome};
use ironclaw::contract::frame::{FromSandbox, ToSandbox};
use ironclaw::contract::inbound::{InboundBody, InboundKind, InboundReader};
use ironclaw::contract::json::Value;
use ironclaw::contract::outbound::{MessageOut, OutboundBody, OutboundKind, OutboundRow, OutboundWriter};
use ironclaw::contract::paths;
use ironclaw::contract::time::Millis;

use super::bell::{self, Bell};
use super::{Done, Guest, lies};

/// What the host takes at once.
const A_RING: usize = 64;

/// Every line after the first is an envelope, whatever it is; the answer has a line for each.
pub(super) fn these(guest: &Guest) -> Done {
    let envelopes = guest.message.text.lines().skip(1);
    let bodies = envelopes.map(|text| said(guest, OutboundKind::Action, [None; 3], text)).collect();
    tell(guest, bodies, lines)
}

/// Every line after the first is `CHANNEL CHAT [THREAD]`, where a message goes; the answer has a line for each.
pub(super) fn letters(guest: &Guest) -> Done {
    let letter = |line: &str| {
        let mut words = line.split(' ');
        let place = [words.next(), words.next(), words.next()];
        said(guest, OutboundKind::Chat, place, &format!("from {}", guest.message.id))
    };
    tell(guest, guest.message.text.lines().skip(1).map(letter).collect(), lines)
}

/// Asks for nothing and answers the message.
pub(super) fn answer(guest: &Guest, text: &str) -> Done {
    tell(guest, Vec::new(), |_| text.to_owned())
}

fn lines(outcomes: &[Outcome]) -> String {
    let lines: Vec<String> = outcomes.iter().map(Outcome::encode).collect();
    lines.join("\n")
}

/// So many proposals, no two alike; the answer says how many were taken.
pub(super) fn proposals(guest: &Guest) -> Done {
    let envelope = |number: usize| {
        let payload = Value::object([("soul", Value::from(format!("{} {number}", guest.message.id)))]);
        let arguments =
            [("kind", Value::from("persona")), ("payload", payload), ("reason", Value::from("flood"))];
        let (name, call) = ("request_capability_change".to_owned(), format!("call-{number}"));
        let text = Action { name, call, arguments: Value::object(arguments) }.encode();
        said(guest, OutboundKind::Action, [None; 3], &text)
    };
    tell(guest, (0..guest.number(2)?).map(envelope).collect(), |outcomes| {
        let taken = outcomes.iter().filter(|outcome| outcome.ok).count();
        format!("{taken} taken, {} refused", outcomes.len() - taken)
    })
}

/// Puts all of it out, waits for as many answers, and answers the message.
fn tell(guest: &Guest, bodies: Vec<OutboundBody>, words: impl Fn(&[Outcome]) -> String) -> Done {
    let mut bell = Bell::greet()?;
    let mut writer = OutboundWriter::create(paths::OUTBOUND.as_ref(), &guest.outbound)?;
    let mut waiting: VecDeque<OutboundBody> = bodies.into();
    let (mut seq, mut read, mut rung, mut said) = (bell.next_number(), 0, None, false);
    let expected = waiting.len();
    let mut outcomes = Vec::new();
    loop {
        match bell.next()? {
            ToSandbox::In(last) => {
                for row in InboundReader::open(paths::INBOUND.as_ref(), &guest.inbound)?.rows(read, last)? {
                    if let InboundBody::Message(message) = row.body
                        && message.kind == InboundKind::System
                    {
                        outcomes.push(Outcome::parse(message.text.as_bytes())?);
                    }
                }
                read = last;
                bell.send(FromSandbox::Ack(last).encode().as_bytes())?;
            }
            ToSandbox::Ack(stored) if rung == Some(stored) => {
                bell.cursor = stored;
                rung = None;
            }
            ToSandbox::Stop => return Ok(()),
            _ => {}
        }
        if rung.is_some() || said {
            continue;
        }
        let rows: Vec<OutboundRow> = if !waiting.is_empty() {
            let many = waiting.len().min(A_RING);
            let row = |body| {
                let row = OutboundRow { seq, body };
                seq += 2;
                row
            };
            waiting.drain(..many).map(row).collect()
        } else if outcomes.len() == expected {
            said = true;
            let numbers = [seq, seq + 2, seq + 4];
            seq += 6;
            lies::answer_rows(&guest.message, numbers, &words(&outcomes)).into()
        } else {
            continue;
        };
        writer.append(&rows, bell.cursor)?;
        rung = Some(seq - 2);
        bell::remember(seq - 2)?;
        bell.send(FromSandbox::Out(seq - 2).encode().as_bytes())?;
    }
}

fn said(
    guest: &Guest,
    kind: OutboundKind,
    [channel, chat, thread]: [Option<&str>; 3],
    text: &str,
) -> OutboundBody {
    OutboundBody::Message(MessageOut {
        in_reply_to: Some(guest.message.id.clone()),
        kind,
        channel: channel.map(str::to_owned),
        chat: chat.map(str::to_owned),
        thread: thread.map(str::to_owned),
        text: text.to_owned(),
        created_at: Millis::now(),
    })
}
