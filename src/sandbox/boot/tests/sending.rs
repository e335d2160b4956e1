//! Messages to other chats: sent once however often the process dies, told as the host answers them, and only to the
//! destinations of the newest set.

use super::*;
use crate::contract::action::Outcome;
use crate::contract::outbound::{MessageOut, OutboundKind};

const TO_OPS: &str = r#"{"text":"look","to":"OPS"}"#;

fn destination(name: &str) -> Destination {
    Destination {
        name: name.into(),
        kind: "chat".into(),
        display_name: String::new(),
        channel: Some("api".into()),
        chat: Some(format!("chat-{name}")),
        agent_group: None,
    }
}

fn host() -> Host {
    let mut host = Host::new();
    host.destinations = vec![destination("ops")];
    host
}

/// The messages of this text among the rows that are stored, with their numbers.
fn sent(rows: &[OutboundRow], text: &str) -> Vec<(u64, MessageOut)> {
    let message = |row: &OutboundRow| match &row.body {
        OutboundBody::Message(out) if out.text == text => Some((row.seq, out.clone())),
        _ => None,
    };
    rows.iter().filter_map(message).collect()
}

/// The host's answer to the message of this number.
fn answer(seq: u64, ok: bool, result: &str) -> MessageIn {
    let outcome = Outcome { name: "send_message".into(), call: seq.to_string(), ok, result: result.into() };
    let sender_id = "system:host".to_owned();
    MessageIn { kind: InboundKind::System, engage: false, sender_id, ..message(&outcome.encode()) }
}

/// Reads the next ring; it is stored and acknowledged, or left.
fn next(host: &mut Host, running: &mut Running, store: bool) -> Vec<OutboundRow> {
    let last = running.hear_out();
    let rows = host.read(last);
    if store {
        host.stored.extend(rows.clone());
        host.cursor = last;
        running.say(ToSandbox::Ack(last));
    }
    rows
}

/// Stores until a message of this text is among it.
fn until_sent(host: &mut Host, running: &mut Running, text: &str) -> (u64, MessageOut) {
    loop {
        if let Some(found) = sent(&host.stored, text).pop() {
            return found;
        }
        next(host, running, true);
    }
}

fn last_result(host: &Host) -> String {
    last_texts(host.model.requests().last().unwrap()).pop().unwrap()
}

#[test]
fn it_goes_to_the_chat_that_the_name_leads_to_and_the_hosts_word_counts() {
    for (ok, result, told) in [(true, "msg", "sent"), (false, "no_destination: no", "no_destination: no")] {
        let mut host = host();
        let one = message("one");
        let mut running = host.launch(&[&one]);
        host.model.will(Reply::Tool("send_message", TO_OPS)).will(Reply::Say("done"));
        let (seq, out) = until_sent(&mut host, &mut running, "look");
        assert_eq!((out.channel.as_deref(), out.chat.as_deref()), (Some("destination"), Some("ops")));
        assert_eq!((out.kind, &out.in_reply_to), (OutboundKind::Chat, &Some(one.id.clone())));
        host.deliver(&mut running, &answer(seq, ok, result));
        host.serve_until_done(&mut running, &one);
        running.stop();
        assert_eq!(last_result(&host), told);
        assert_eq!(sent(&host.stored, "look").len(), 1);
    }
}

#[test]
fn what_goes_to_the_chat_that_is_answered_waits_for_nobody() {
    let mut host = host();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    let here = r#"{"text":"look"}"#;
    host.model.will(Reply::Tool("send_message", here)).will(Reply::Say("done"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(host.replies(), [(one.id.clone(), "look".into()), (one.id.clone(), "done".into())]);
    assert_eq!(last_result(&host), "sent");
    assert_eq!(sent(&host.stored, "look")[0].1.chat.as_deref(), Some("main"));
}

#[test]
fn what_was_stored_and_not_answered_is_not_sent_again() {
    let mut host = host();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("send_message", TO_OPS));
    until_sent(&mut host, &mut running, "look");
    running.leave();
    // Taken away meanwhile, which says nothing about what was sent before.
    host.destinations.clear();
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Say("done"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(sent(&host.stored, "look").len(), 1);
    assert!(last_result(&host).contains("do not send it again"));
}

#[test]
fn what_was_not_stored_is_put_back_with_its_number_and_its_answer_is_told() {
    let mut host = host();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("send_message", TO_OPS));
    next(&mut host, &mut running, true);
    let rung = sent(&next(&mut host, &mut running, false), "look");
    running.leave();
    host.destinations.clear();
    let mut running = host.launch(&[&one]);
    let (seq, out) = until_sent(&mut host, &mut running, "look");
    assert_eq!(rung, [(seq, out)]);
    host.model.will(Reply::Say("done"));
    while running.hear() != FromSandbox::Ack(host.inbound_seq) {}
    host.deliver(&mut running, &answer(seq, false, "no_destination: gone"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(sent(&host.stored, "look").len(), 1);
    assert_eq!(last_result(&host), "no_destination: gone");
}

#[test]
fn the_newest_set_is_the_whole_set() {
    let mut host = host();
    let (one, two) = (message("one"), message("two"));
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("list_destinations", "{}")).will(Reply::Say("done"));
    host.serve_until_done(&mut running, &one);
    assert_eq!(last_result(&host), r#"[{"name":"ops","channel":"api"}]"#);
    let rows = host.rows(vec![
        InboundBody::Config(SessionConfig::default()),
        InboundBody::Destination(destination("news")),
        InboundBody::Message(two.clone()),
    ]);
    running.inbound.as_mut().unwrap().append(&rows, &[]).unwrap();
    running.say(ToSandbox::In(host.inbound_seq));
    host.model.will(Reply::Tool("send_message", TO_OPS)).will(Reply::Say("done"));
    host.serve_until_done(&mut running, &two);
    running.stop();
    assert_eq!(last_result(&host), "there is no such destination; those that you have: news");
    assert_eq!(sent(&host.stored, "look"), []);
}
