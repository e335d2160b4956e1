//! A hostile sandbox: whatever it does at the doorbell or in `outbound.db`, bystanders are answered while it
//! does it, it is stopped, and where it broke the contract it is parked until an operator releases it, with
//! the reason in the log.

use serde_json::{Value, json};

use crate::world::http::Request;
use crate::world::{Build, Chat, Daemon, Home, Runtime, Serve, User, eventually, marker};

/// A way to misbehave and what must become of it.
struct Case {
    /// The hostile program's mode.
    mode: &'static str,
    /// Words of the reason for which its sandbox is ended, from the session's own line in the log.
    ended: &'static str,
    /// Words of the reason for which the session is parked.
    parked: &'static str,
}

/// It broke the contract: it is parked at once, and both lines give the same reason.
const fn broke(mode: &'static str, why: &'static str) -> Case {
    Case { mode, ended: why, parked: why }
}

/// It died, was silent or took too long: it is launched again after a pause, and parked after five times.
const fn wore_out(mode: &'static str, why: &'static str) -> Case {
    Case { mode, ended: why, parked: "five deaths before any turn" }
}

const GARBAGE: &[Case] = &[
    broke("garbage", NO_FRAME),
    broke("garbage-text", NO_FRAME),
    broke("garbage-long", NO_FRAME),
    broke("garbage-negative", NO_FRAME),
    broke("garbage-huge", NO_FRAME),
    broke("garbage-zero", NO_FRAME),
    broke("garbage-hello", "hello twice"),
    broke("ack-ahead", "which was not rung"),
    broke("version", "version 99 of the doorbell"),
    broke("early", "before hello"),
    broke("flood-acks", "which was not rung"),
    // Whether the next ring or the empty file is noticed first is chance.
    broke("flood-rings", ""),
];
const NO_FRAME: &str = "no doorbell frame";

const FILES: &[Case] = &[
    broke("malformed", "no database under its key"),
    broke("empty", "not a whole number of pages"),
    broke("torn", "outbound.db is damaged"),
    broke("odd-size", "not a whole number of pages"),
    broke("plain", "no database under its key"),
    broke("oversized", "larger than 32 MiB"),
    // Which page is which at the moment of reading is chance, and so are the words.
    broke("swap", ""),
];

const SCHEMAS: &[Case] = &[
    broke("trigger", SCHEMA),
    broke("view", SCHEMA),
    broke("index", SCHEMA),
    broke("extra-table", SCHEMA),
    broke("other-columns", SCHEMA),
    broke("schema-text", SCHEMA),
    broke("wrong-types", "row 1 of the conveyor is wrong"),
];
const SCHEMA: &str = "the schema of outbound.db is not ours";

const ROWS: &[Case] = &[
    broke("even", "it rang 6 after 0"),
    broke("below", "it rang 1 after 3"),
    broke("repeated", "it rang 1 after 1"),
    broke("after-the-end", "although no message was open"),
    broke("ahead", "numbers are wrong"),
    broke("behind", "numbers are wrong"),
    broke("huge-text", "too long"),
    broke("many-rows", "too much"),
    broke("foreign-reply", "this session never got"),
    broke("foreign-done", "this session never got"),
    broke("half-address", "a chat that there cannot be"),
    broke("foreign-thread", "a chat that there cannot be"),
    broke("foreign-action", "a chat that there cannot be"),
];

const FLOODS: &[Case] = &[
    wore_out("flood", "its turn took too long"),
    wore_out("busy", "its turn took too long"),
    // What it put out was stored, so a later life that begins at 0 has also lost its memory: which of the two
    // comes five times in a row first is a matter of timing.
    Case { mode: "flood-valid", ended: "its turn took too long", parked: "five" },
    // It asks, is answered, and asks again, and never says that its turn began: its time runs all the same.
    Case { mode: "flood-asks", ended: "its turn took too long", parked: "five" },
    broke("flood-rows", "more than any turn needs"),
];

const SILENCE: &[Case] = &[
    wore_out("never-ack", "it did not acknowledge in time"),
    wore_out("deaf", "it did not acknowledge in time"),
    wore_out("mute", "it did not say hello in time"),
    wore_out("exit", "it ended by itself"),
    wore_out("abort", "it ended by itself"),
    // SIGXFSZ: a file cannot grow past its limit.
    wore_out("beyond", "exit status 153"),
];

crate::world::boxes::in_both_back_ends!(
    garbage_on_the_doorbell,
    a_file_that_is_not_ours,
    a_schema_that_is_not_ours,
    rows_that_lie,
    floods,
    silence_and_death,
    further_connections_are_closed,
    a_large_file_does_no_harm,
);

fn garbage_on_the_doorbell(runtime: Runtime) {
    one_by_one(GARBAGE, runtime);
}

fn a_file_that_is_not_ours(runtime: Runtime) {
    one_by_one(FILES, runtime);
}

fn a_schema_that_is_not_ours(runtime: Runtime) {
    one_by_one(SCHEMAS, runtime);
}

fn rows_that_lie(runtime: Runtime) {
    one_by_one(ROWS, runtime);
}

fn floods(runtime: Runtime) {
    all_at_once(FLOODS, runtime, "5s");
}

fn silence_and_death(runtime: Runtime) {
    all_at_once(SILENCE, runtime, "60s");
}

fn start(home: &Home, runtime: Runtime) -> Daemon {
    with_hostile_agent(home, runtime).ready()
}

fn with_hostile_agent(home: &Home, runtime: Runtime) -> Serve<'_> {
    Serve::new(home, runtime)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .flag("--launch-timeout", "5s")
        .flag("--stall-timeout", "4s")
}

/// Each case in a chat of its own, one after the other: it is parked, and a bystander is answered before,
/// meanwhile and after. Most of these are ended within milliseconds of their first word, too soon to ask after
/// that: so the bystander asks without a pause from before the launch until after the parking, and whenever it
/// happens, a question is open. Those that go on for seconds are in `all_at_once`.
fn one_by_one(cases: &[Case], runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = start(&home, runtime);
    let bystander = daemon.chat("mock-agent", "main");
    answers(&bystander);
    let mut sessions = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        let mode = case.mode;
        println!("{mode}");
        let chat = daemon.chat("dev-agent", mode);
        let session = chat.say(&format!("hostile {mode}")).session_id;
        let said = |event: &str| {
            let event = format!("\"{event}\"");
            daemon.log.any(|line| line.contains(&event) && line.contains(&session))
        };
        eventually("it is parked", || {
            answers(&bystander);
            said("session.parked").then_some(())
        });
        // It was its program that was ended, and not a launch.
        assert!(said("sandbox.launched"), "{mode} was never launched");
        assert_why(&daemon, "sandbox.ended", &session, mode, case.ended);
        assert_why(&daemon, "session.parked", &session, mode, case.parked);
        // Parked means that mail waits, also the next message; the others go on.
        chat.say("hostile honest");
        answers(&bystander);
        assert_eq!(daemon.metric("ironclaw_sessions_parked"), (number + 1) as f64, "{mode}");
        assert!(chat.history().iter().all(|entry| entry.direction != "out" || entry.text == mode), "{mode}");
        sessions.push(session);
    }
    let all = daemon.get("/v1/sessions").to_string();
    for session in &sessions {
        assert!(all.contains(session), "no {session} in {all}");
    }
    assert!(bystander.history().iter().all(|entry| !entry.text.contains("not mine to answer")));
    assert!(daemon.stop().success());
    crate::world::leftovers::none_left(&home, &sessions, &[]);
}

/// All cases at the same time, each in a chat of its own. While they misbehave, a bystander is answered.
fn all_at_once(cases: &[Case], runtime: Runtime, turn: &str) {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = with_hostile_agent(&home, runtime).flag("--turn-timeout", turn).ready();
    let bystander = daemon.chat("mock-agent", "main");
    answers(&bystander);
    let sessions: Vec<String> = cases
        .iter()
        .map(|case| daemon.chat("dev-agent", case.mode).say(&format!("hostile {}", case.mode)).session_id)
        .collect();
    for session in &sessions {
        daemon.log.wait_for("that it was launched", |line| {
            line.contains("sandbox.launched") && line.contains(session)
        });
    }
    // Every one of these that is not stopped at once lives for seconds, and is then launched again.
    let mut answered = 0;
    eventually("all are parked", || {
        answers(&bystander);
        answered += 1;
        (daemon.metric("ironclaw_sessions_parked") as usize == cases.len()).then_some(())
    });
    assert!(answered >= 10, "the bystander was answered only {answered} times meanwhile");
    for (case, session) in cases.iter().zip(&sessions) {
        assert_why(&daemon, "sandbox.ended", session, case.mode, case.ended);
        assert_why(&daemon, "session.parked", session, case.mode, case.parked);
    }
    answers(&bystander);
    assert!(daemon.stop().success());
    crate::world::leftovers::none_left(&home, &sessions, &[]);
}

/// The bystander asks and is answered.
#[track_caller]
fn answers(bystander: &Chat<'_>) {
    let text = marker();
    assert_eq!(bystander.ask(&text), format!("mock-agent received: {text}"));
}

/// Waits for the session's own line of this event and compares its reason.
#[track_caller]
fn assert_why(daemon: &Daemon, event: &str, session: &str, mode: &str, why: &str) {
    let line = daemon.log.wait_for(&format!("{event} of {mode}"), |line| {
        line.contains(&format!("\"{event}\"")) && line.contains(session)
    });
    let line: Value = serde_json::from_str(&line).unwrap();
    let said = line["why"].as_str().unwrap_or_default();
    assert!(said.len() > 10 && said.contains(why), "{mode}: {event} because {said:?}, not {why:?}");
}

/// The test program's honest mode is answered like an agent: each lie above fails for its own reason.
#[test]
fn the_hostile_program_can_be_honest() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = start(&home, Runtime::Native);
    assert_eq!(daemon.chat("dev-agent", "main").ask("hostile honest"), "honest");
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
}

/// As large as the host takes it, full of holes, and right where it is read: that costs nobody anything. (A
/// larger one is refused, see `oversized`; past the limit of all its files the sandbox dies, see `beyond`.)
fn a_large_file_does_no_harm(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = start(&home, runtime);
    let bystander = daemon.chat("mock-agent", "main");
    for mode in ["sparse", "holes"] {
        assert_eq!(daemon.chat("dev-agent", mode).ask(&format!("hostile {mode}")), mode);
        answers(&bystander);
    }
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
}

/// Fifty more connections are closed one by one, each is in the log, and the first goes on.
fn further_connections_are_closed(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = start(&home, runtime);
    let answer = daemon.chat("dev-agent", "main").ask("hostile two");
    assert_eq!(answer, "50 of 50 further connections were closed");
    assert!(daemon.log.contains("doorbell.second_connection"), "the log does not say so");
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
}

/// A sandbox that takes everything and finishes nothing is handed what fits into it, and the rest as it goes on.
#[test]
fn a_hoarder_is_handed_no_more_than_it_can_hold() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = with_hostile_agent(&home, Runtime::Native).flag("--rings-per-second", "100000").ready();
    let chat = daemon.chat("dev-agent", "main");
    let first = chat.say(&format!("hostile hoard {MOST_HELD}"));
    daemon.log.wait_for("that it was launched", |line| line.contains("sandbox.launched"));
    for number in 1..HOARDED {
        chat.say(&number.to_string());
    }
    chat.say("all");
    chat.wait(first.position, "the last answer", |entry| {
        entry.direction == "out" && entry.text.starts_with("all ")
    });
    let answers: Vec<String> =
        chat.history().into_iter().filter(|entry| entry.direction == "out").map(|entry| entry.text).collect();
    assert_eq!(answers.len(), HOARDED + 1);
    for (number, answer) in answers.iter().enumerate() {
        let (text, held) = answer.rsplit_once(' ').unwrap();
        let is_expected = match number {
            0 => text.starts_with("hostile hoard"),
            HOARDED => text == "all",
            _ => text == number.to_string(),
        };
        assert!(is_expected, "answer {number} is {text:?}");
        let held: usize = held.parse().unwrap();
        assert!(held <= MOST_HELD, "it was given {held} messages at once");
        assert!(held == MOST_HELD || number > HOARDED - MOST_HELD, "and only {held} at {number}");
    }
}

/// Messages in the hoarder's chat: what it may hold is filled more than twice.
const HOARDED: usize = 2_500;
/// Unfinished messages that the host gives a sandbox at most.
const MOST_HELD: usize = 1_024;

#[test]
fn a_sandbox_that_ignores_stop_is_killed() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = with_hostile_agent(&home, Runtime::Native).flag("--linger", "1s").ready();
    assert_eq!(daemon.chat("dev-agent", "main").ask("hostile ignore-stop"), "ignoring");
    eventually("it is gone after the linger", || (home.processes() == [daemon.id()]).then_some(()));
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 0.0);
}

#[test]
fn a_released_session_goes_on() {
    let home = Home::new(Build::Faults, User::Root);
    let sent = {
        let daemon = start(&home, Runtime::Native);
        let sent = daemon.chat("dev-agent", "main").say("hostile garbage");
        daemon.log.wait_for("that it was parked", |line| line.contains("session.parked"));
        assert!(daemon.stop().success());
        sent
    };
    // Without the hostile program in its place, and parked still.
    let daemon = Serve::new(&home, Runtime::Native).ready();
    assert_eq!(daemon.metric("ironclaw_sessions_parked"), 1.0);
    let path = format!("/v1/sessions/{}/release", sent.session_id);
    let answer = daemon.send(Request::post(&path, &json!({})));
    assert!((200..300).contains(&answer.status), "{}", answer.text());
    let answer = daemon.chat("dev-agent", "main").answer_after(sent.position);
    assert!(answer.text.contains("hostile garbage"), "{answer:?}");
}

/// The group that fills its directories is stopped for it and its person told; others go on.
#[test]
fn a_full_disk_is_the_groups_own() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = Serve::new(&home, Runtime::Native)
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .flag("--group-quota-bytes", "16MiB")
        .ready();
    let chat = daemon.chat("dev-agent", "main");
    let sent = chat.say("hostile fill");
    let bystander = daemon.chat("mock-agent", "main");
    answers(&bystander);
    let told = chat.wait(sent.position, "a word about the quota", |entry| {
        entry.direction == "notice" && entry.in_reply_to.as_deref() == Some(sent.message_id.as_str())
    });
    assert!(told.text.contains("quota"), "{told:?}");
    assert_why(&daemon, "sandbox.ended", &sent.session_id, "fill", "over their quota");
    answers(&bystander);
}
