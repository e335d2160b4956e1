//! What no turn may outgrow: one ring of the host, the journal's reader, the host's clock.

use super::*;

#[test]
fn a_long_queue_is_answered_in_turns_that_one_ring_can_hold() {
    let mut host = Host::new();
    let all: Vec<MessageIn> = (0..100).map(|n| message(&format!("number {n}"))).collect();
    let refs: Vec<&MessageIn> = all.iter().collect();
    let running = host.launch(&refs);
    host.model.will(Reply::Tool("write_file", r#"{"path":"a","content":"x"}"#)).will(Reply::Hang);
    let asked = host.model.asked.recv().unwrap();
    assert_eq!(last_texts(&asked).len(), 64);
    host.model.asked.recv().unwrap();
    running.leave();
    // The next host has room for exactly the turn, and then for the rest.
    let mut running = host.launch(&refs[..64]);
    host.model.will(Reply::Say("first")).will(Reply::Say("second"));
    host.serve_until_done(&mut running, &all[63]);
    let rows = host.rows(all[64..].iter().cloned().map(InboundBody::Message).collect());
    running.inbound.as_mut().unwrap().append(&rows, &[]).unwrap();
    running.say(ToSandbox::In(host.inbound_seq));
    host.serve_until_done(&mut running, &all[99]);
    running.stop();
    let requests = host.model.requests();
    assert_eq!(last_texts(&requests[0]), ["wrote 1 bytes to a"], "the turn went on");
    assert_eq!(last_texts(&requests[1]).len(), 36);
    assert_eq!(host.replies(), [(all[63].id.clone(), "first".into()), (all[99].id.clone(), "second".into())]);
}

#[test]
fn an_open_turn_waits_for_messages_that_stand_behind_finished_ones() {
    let mut host = Host::new();
    let (one, two) = (message("one"), message("two"));
    let mut running = host.launch(&[&one]);
    let started = running.hear_out();
    running.say(ToSandbox::Ack(started));
    host.model
        .will(Reply::Say("1"))
        .will(Reply::Tool("write_file", r#"{"path":"a","content":"x"}"#))
        .will(Reply::Hang);
    // The end of the first turn is rung and never stored.
    running.hear_out();
    host.deliver(&mut running, &two);
    (0..3).for_each(|_| drop(host.model.asked.recv().unwrap()));
    running.leave();
    let mut running = host.launch(&[&one]);
    // The conveyor is written again only after it was read.
    let mut is_read = false;
    while !(is_read && host.is_done(&one)) {
        match running.hear() {
            FromSandbox::Out(last) => {
                let rows = host.read(last);
                host.stored.extend(rows);
                host.cursor = last;
                running.say(ToSandbox::Ack(last));
            }
            FromSandbox::Ack(seq) => is_read = seq == host.inbound_seq,
            _ => {}
        }
    }
    host.deliver(&mut running, &two);
    host.model.will(Reply::Say("2"));
    host.serve_until_done(&mut running, &two);
    running.stop();
    let requests = host.model.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(last_texts(&requests[0]), ["wrote 1 bytes to a"], "the turn went on");
    assert_eq!(host.replies().len(), 2);
}

#[test]
fn a_turn_ends_with_a_word_before_the_hosts_clock_does() {
    let mut host = Host::new();
    host.turn_seconds = 1;
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Hang);
    host.serve_until_done(&mut running, &one);
    running.stop();
    let said = &host.replies()[0].1;
    assert!(said.contains("the time for one turn was over"), "{said}");
}

#[test]
fn what_a_model_asks_too_deeply_can_be_read_back() {
    let mut host = Host::new();
    let one = message("one");
    let running = host.launch(&[&one]);
    let deep: &'static str = format!(r#"{{"path":{}{}}}"#, "[".repeat(61), "]".repeat(61)).leak();
    host.model.will(Reply::Tool("read_file", deep)).will(Reply::Hang);
    (0..2).for_each(|_| drop(host.model.asked.recv().unwrap()));
    running.leave();
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Say("well"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(host.replies(), [(one.id.clone(), "well".into())]);
    assert!(last_texts(&host.model.requests()[0])[0].starts_with("the input was not a complete JSON object"));
}
