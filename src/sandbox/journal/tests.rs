//! The journal on a real file, closed and opened as a crash would.

use super::*;
use crate::contract::cipher::{ConveyorFile, SessionSecret};
use crate::contract::json::Value;
use crate::contract::outbound::{MessageOut, OutboundKind, Processing};
use crate::contract::time::Millis;
use crate::sandbox::models::{Block, Message, Speaker, ToolInput};
use crate::sandbox::scratch::Scratch;
use crate::sandbox::tools::Repeat;

struct File {
    scratch: Scratch,
    key: FileKey,
}

impl File {
    fn new() -> Self {
        let key = SessionSecret::mint().sandbox_key().file_key(ConveyorFile::Session);
        Self { scratch: Scratch::new(), key }
    }

    fn path(&self) -> std::path::PathBuf {
        self.scratch.path().join("session.db")
    }

    fn open(&self) -> Result<Journal, JournalError> {
        Journal::open(&self.path(), &self.key)
    }
}

fn said(speaker: Speaker, text: &str) -> Message {
    Message { speaker, blocks: vec![Block::Text(text.into())] }
}

fn ending(to: &MessageId, text: &str) -> Ending {
    let reply = MessageOut {
        in_reply_to: Some(to.clone()),
        kind: OutboundKind::Chat,
        channel: None,
        chat: None,
        thread: None,
        text: text.into(),
        created_at: Millis(1),
    };
    let turn = vec![said(Speaker::User, "q").into(), said(Speaker::Assistant, text).into()];
    Ending { reply, kept: Kept::Turn(turn) }
}

fn begin(
    journal: &mut Journal,
    messages: Vec<MessageId>,
    prompt: Message,
) -> Result<(OpenTurn, Vec<OutboundRow>), JournalError> {
    let mut turn = journal.next_turn(messages, prompt)?;
    let started = journal.begin(&mut turn)?;
    Ok((turn, started))
}

fn seqs(rows: &[OutboundRow]) -> Vec<u64> {
    rows.iter().map(|row| row.seq).collect()
}

#[test]
fn what_a_turn_wrote_is_there_after_a_crash_at_any_step() {
    let file = File::new();
    let ids = vec![MessageId::mint(), MessageId::mint()];
    let prompt = said(Speaker::User, "prompt");
    let (mut turn, started) = begin(&mut file.open().unwrap(), ids.clone(), prompt).unwrap();
    assert_eq!(seqs(&started), [1, 3]);
    assert_eq!(file.open().unwrap().open_turn().unwrap(), Some(turn.clone()));

    let ask = |id: &str| Block::ToolUse {
        id: id.into(),
        name: "t".into(),
        input: ToolInput::Object(Value::object([("x", 1u64.into())])),
    };
    let response = Message { speaker: Speaker::Assistant, blocks: vec![ask("a"), ask("b"), ask("c")] };
    file.open().unwrap().step(&mut turn, response).unwrap();
    file.open().unwrap().intend(turn.id, 0, 0).unwrap();
    let outcome = Outcome { text: "done".into(), is_error: false };
    file.open().unwrap().result(turn.id, 0, 0, &outcome).unwrap();
    file.open().unwrap().intend(turn.id, 0, 1).unwrap();
    let found = file.open().unwrap().open_turn().unwrap().unwrap();
    assert_eq!(found.steps[0].runs, [ToolRun::Done(outcome), ToolRun::Intended]);
    assert_eq!(found.steps[0].response, turn.steps[0].response);

    let outputs = file.open().unwrap().finish(&found, ending(&ids[1], "answer")).unwrap();
    assert_eq!(seqs(&outputs), [5, 7, 9]);
    let journal = file.open().unwrap();
    assert_eq!(journal.open_turn().unwrap(), None);
    assert_eq!(journal.minted().unwrap(), 9);
    assert_eq!(journal.finished().unwrap(), ids.iter().cloned().collect());
    assert_eq!(journal.outputs().unwrap(), [started, outputs].concat());
    assert_eq!(journal.window().unwrap().messages.len(), 2);
}

#[test]
fn a_run_with_an_unknown_end_is_repeated_only_when_that_is_harmless() {
    let done = ToolRun::Done(Outcome { text: "x".into(), is_error: true });
    let told = RunPlan::Tell(Outcome { text: "x".into(), is_error: true });
    for repeat in [Repeat::ReadOnly, Repeat::Idempotent, Repeat::Never] {
        assert_eq!(plan_run(None, repeat), RunPlan::Run);
        assert_eq!(plan_run(Some(&done), repeat), told);
    }
    assert_eq!(plan_run(Some(&ToolRun::Intended), Repeat::ReadOnly), RunPlan::RunAgain);
    assert_eq!(plan_run(Some(&ToolRun::Intended), Repeat::Idempotent), RunPlan::RunAgain);
    assert_eq!(plan_run(Some(&ToolRun::Intended), Repeat::Never), RunPlan::Unknown);
}

#[test]
fn what_the_host_accepted_is_forgotten_and_its_numbers_are_not_used_again() {
    let file = File::new();
    let mut journal = file.open().unwrap();
    let first = MessageId::mint();
    let (turn, _) = begin(&mut journal, vec![first.clone()], said(Speaker::User, "1")).unwrap();
    let outputs = journal.finish(&turn, ending(&first, "1")).unwrap();
    assert_eq!(seqs(&outputs), [3, 5]);
    journal.accept(3);
    assert_eq!(seqs(&journal.outputs().unwrap()), [5]);
    let second = MessageId::mint();
    let (turn, started) = begin(&mut journal, vec![second.clone()], said(Speaker::User, "2")).unwrap();
    assert_eq!(seqs(&started), [7]);
    assert_eq!(journal.finished().unwrap(), [first].into(), "its done row is not accepted");
    journal.accept(7);
    journal.abandon(&turn).unwrap();
    drop(journal);
    let journal = file.open().unwrap();
    assert_eq!((journal.minted().unwrap(), journal.finished().unwrap().len()), (7, 0));
    assert_eq!(journal.open_turn().unwrap(), None);
    assert!(journal.outputs().unwrap().is_empty());
}

#[test]
fn a_resumed_turn_is_announced_anew() {
    let file = File::new();
    let id = MessageId::mint();
    let (turn, _) = begin(&mut file.open().unwrap(), vec![id.clone()], said(Speaker::User, "1")).unwrap();
    let again = file.open().unwrap().resume(&turn).unwrap();
    assert_eq!(again, [OutboundRow { seq: 3, body: OutboundBody::Processing(id, Processing::Started) }]);
    let other = MessageId::mint();
    assert!(turn.is_owed(&turn.messages.iter().chain([&other]).collect()));
    assert!(!turn.is_owed(&[&other].into()));
}

#[test]
fn nothing_is_written_behind_a_closed_gate() {
    let file = File::new();
    let mut journal = file.open().unwrap();
    journal.gate().close();
    let begun = begin(&mut journal, vec![MessageId::mint()], said(Speaker::User, "1"));
    assert!(matches!(begun, Err(JournalError::Stopping)));
    assert_eq!(journal.minted().unwrap(), 0);
}

#[test]
fn a_file_that_is_not_a_journal_is_lost_and_stays_as_it_is() {
    let file = File::new();
    drop(file.open().unwrap());
    let whole = std::fs::read(file.path()).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() - 100] ^= 1;
    let other_key = SessionSecret::mint().sandbox_key().file_key(ConveyorFile::Session);
    assert!(matches!(Journal::open(&file.path(), &other_key), Err(JournalError::Lost(_))));
    for damaged in [&whole[..100], &whole[..whole.len() / 2], b"plain text", &flipped] {
        std::fs::write(file.path(), damaged).unwrap();
        let opened = file.open();
        assert!(matches!(opened, Err(JournalError::Lost(_))), "{opened:?}");
        assert_eq!(std::fs::read(file.path()).unwrap(), damaged);
    }
    std::fs::write(file.path(), &whole).unwrap();
    file.open().unwrap().connection.execute_batch("PRAGMA user_version = 2").unwrap();
    assert!(matches!(file.open(), Err(JournalError::Version(2))));
    std::fs::write(file.path(), b"").unwrap();
    assert_eq!(file.open().unwrap().minted().unwrap(), 0, "an empty file is a new one");
}

#[test]
fn a_conversation_is_forgotten_with_the_end_of_a_turn_and_not_before() {
    let file = File::new();
    let mut journal = file.open().unwrap();
    let turn = |journal: &mut Journal, kept: Option<Kept>| {
        let id = MessageId::mint();
        let (turn, _) = begin(journal, vec![id.clone()], said(Speaker::User, "q")).unwrap();
        let ending = ending(&id, "a");
        let kept = kept.unwrap_or_else(|| ending.kept.clone());
        journal.finish(&turn, Ending { kept, ..ending }).unwrap();
    };
    let long = Kept::Turn(vec![said(Speaker::User, &"x".repeat(19_000)).into()]);
    for _ in 0..20 {
        turn(&mut journal, Some(long.clone()));
    }
    let (told, left_out) = journal.remembered().unwrap();
    assert!(told > 1 && left_out > 1 && told + left_out == 20, "{told} {left_out}");
    turn(&mut journal, Some(Kept::AsItWas));
    assert_eq!(journal.remembered().unwrap(), (told, left_out));
    turn(&mut journal, Some(Kept::Nothing));
    assert_eq!(journal.remembered().unwrap(), (0, 0));
    assert!(journal.window().unwrap().messages.is_empty());
    turn(&mut journal, None);
    drop(journal);
    let journal = file.open().unwrap();
    assert_eq!(journal.remembered().unwrap(), (1, 0));
    assert_eq!(journal.window().unwrap().messages.len(), 2);
}
