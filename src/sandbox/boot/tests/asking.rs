//! Tools whose work the host does: asked within the turn, answered by a row, and asked once however often the process
//! dies.

use super::*;
use crate::contract::action::{Action, Outcome};
use crate::contract::outbound::OutboundKind;

const WISH: &str = r#"{"kind":"persona","payload":{"soul":"x"},"reason":"why"}"#;

/// The actions among the rows that are stored.
fn actions(rows: &[OutboundRow]) -> Vec<(u64, Action)> {
    let action = |row: &OutboundRow| match &row.body {
        OutboundBody::Message(out) if out.kind == OutboundKind::Action => {
            Some((row.seq, Action::parse(out.text.as_bytes()).unwrap()))
        }
        _ => None,
    };
    rows.iter().filter_map(action).collect()
}

/// The host's answer to it.
fn answer(action: &Action) -> MessageIn {
    let result = Value::object([("change", Value::from("chg_1")), ("state", Value::from("pending"))]);
    let outcome = Outcome { name: action.name.clone(), call: action.call.clone(), ok: true, result };
    let sender_id = "system:host".to_owned();
    MessageIn { kind: InboundKind::System, engage: false, sender_id, ..message(&outcome.encode()) }
}

/// Stores and acknowledges until an action is among it.
fn serve_until_asked(host: &mut Host, running: &mut Running) -> (u64, Action) {
    let known = actions(&host.stored).len();
    loop {
        if let Some(asked) = actions(&host.stored).get(known) {
            return asked.clone();
        }
        let last = running.hear_out();
        let rows = host.read(last);
        host.stored.extend(rows);
        host.cursor = last;
        running.say(ToSandbox::Ack(last));
    }
}

fn replies(host: &Host) -> Vec<String> {
    host.replies().into_iter().map(|(_, text)| text).filter(|text| !text.starts_with("{\"action\"")).collect()
}

#[test]
fn the_host_is_asked_within_the_turn() {
    let mut host = Host::new();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("request_capability_change", WISH)).will(Reply::Say("asked"));
    let (_, action) = serve_until_asked(&mut host, &mut running);
    assert_eq!(action.name, "request_capability_change");
    assert_eq!(action.arguments, json::parse(WISH.as_bytes()).unwrap());
    // Neither a stranger's words nor the answer to something else end the wait.
    let mut other = answer(&Action { call: "other".to_owned(), ..action.clone() });
    host.deliver(&mut running, &other);
    other = MessageIn { kind: InboundKind::Chat, engage: false, ..answer(&action) };
    wait_read(&host, &mut running);
    host.deliver(&mut running, &other);
    wait_read(&host, &mut running);
    host.deliver(&mut running, &answer(&action));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(replies(&host), ["asked"]);
    let requests = host.model.requests();
    assert_eq!(
        last_texts(&requests[1]),
        ["asked, chg_1: pending; you will be told when it is decided"],
        "no note was made of it"
    );
}

/// Waits until the sandbox has read what was rung: the conveyor is written again only then.
fn wait_read(host: &Host, running: &mut Running) {
    while running.hear() != FromSandbox::Ack(host.inbound_seq) {}
}

#[test]
fn what_was_asked_and_not_answered_is_asked_again_by_the_same_name() {
    let mut host = Host::new();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("request_capability_change", WISH));
    let (seq, action) = serve_until_asked(&mut host, &mut running);
    running.leave();
    let mut running = host.launch(&[&one]);
    let (again, same) = serve_until_asked(&mut host, &mut running);
    assert_eq!(same, action);
    assert!(again > seq);
    host.model.will(Reply::Say("asked"));
    host.deliver(&mut running, &answer(&action));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(replies(&host), ["asked"]);
    assert_eq!(host.model.requests().len(), 2);
}

/// Whoever may not ask any more is told that nobody knows what became of the question, not that there is no such tool.
#[test]
fn what_was_begun_by_a_tool_that_is_switched_off_meanwhile_has_an_unknown_outcome() {
    let mut host = Host::new();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("request_capability_change", WISH));
    serve_until_asked(&mut host, &mut running);
    running.leave();
    host.tools = Some(vec!["read_file".to_owned()]);
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("request_capability_change", WISH)).will(Reply::Say("so be it"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(actions(&host.stored).len(), 1, "it is not asked again");
    let requests = host.model.requests();
    assert_eq!(last_texts(&requests[1]), ["interrupted, outcome unknown"]);
    // What is asked for anew is refused for what it is.
    assert_eq!(
        last_texts(&requests[2]),
        ["this tool is switched off; those that are switched on: read_file"]
    );
}

#[test]
fn what_was_asked_and_not_stored_is_put_back_and_is_one_call() {
    let mut host = Host::new();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("request_capability_change", WISH));
    let started = running.hear_out();
    let rows = host.read(started);
    host.stored.extend(rows);
    host.cursor = started;
    running.say(ToSandbox::Ack(started));
    let rung = running.hear_out();
    let (seq, action) = actions(&host.read(rung)).remove(0);
    running.leave();
    let mut running = host.launch(&[&one]);
    assert_eq!(serve_until_asked(&mut host, &mut running), (seq, action.clone()), "with its number");
    host.model.will(Reply::Say("asked"));
    wait_read(&host, &mut running);
    host.deliver(&mut running, &answer(&action));
    host.serve_until_done(&mut running, &one);
    running.stop();
    // Where the host has stored it before the turn goes on it is asked again, and the host knows the call.
    let stored = actions(&host.stored);
    assert!(!stored.is_empty() && stored.iter().all(|(_, asked)| asked.call == action.call), "once");
    assert_eq!(replies(&host), ["asked"]);
}

#[test]
fn a_host_that_does_not_answer_takes_no_more_than_the_turns_time() {
    let mut host = Host::new();
    host.turn_seconds = 2;
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("request_capability_change", WISH)).will(Reply::Say("never mind"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert!(replies(&host)[0].contains("the time for one turn was over"), "{:?}", replies(&host));
}
