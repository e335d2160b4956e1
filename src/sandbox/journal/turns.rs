//! The open turn in `session.db`: its messages, the model's answers and the tools' results, each written
//! before anything follows from it, so that whoever comes after a crash goes on where it happened.

use std::collections::HashSet;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};

use super::{Journal, JournalError, around, message_id, meta, mint, set_meta};
use crate::contract::fault;
use crate::contract::ids::MessageId;
use crate::contract::inbound::Attachment;
use crate::contract::json;
use crate::contract::outbound::{MessageOut, OutboundBody, OutboundRow, Processing};
use crate::sandbox::models::Message;
use crate::sandbox::tools::Repeat;
use crate::sandbox::transcript::{Transcript, Window};

/// What a tool gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result, or what went wrong.
    pub text: String,
    /// Whether it went wrong.
    pub is_error: bool,
}

/// How far a tool's run is; a run that is not in the journal was never begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolRun {
    /// It was to be run; whether it was, nobody knows.
    Intended,
    /// It was run.
    Done(Outcome),
}

/// What to do about a tool that the model asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunPlan {
    /// Note the intent and run it.
    Run,
    /// Its intent is noted already; run it again.
    RunAgain,
    /// Tell the model what it gave.
    Tell(Outcome),
    /// Tell the model that nobody knows.
    Unknown,
}

/// Decides from the journal and the tool's mark.
pub fn plan_run(journalled: Option<&ToolRun>, repeat: Repeat) -> RunPlan {
    match (journalled, repeat) {
        (None, _) => RunPlan::Run,
        (Some(ToolRun::Done(outcome)), _) => RunPlan::Tell(outcome.clone()),
        (Some(ToolRun::Intended), Repeat::ReadOnly | Repeat::Idempotent) => RunPlan::RunAgain,
        (Some(ToolRun::Intended), Repeat::Never) => RunPlan::Unknown,
    }
}

/// One answer of the model that asked for tools, and what became of each, by its place in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The answer.
    pub response: Message,
    /// The tools' runs.
    pub runs: Vec<ToolRun>,
}

/// A turn that has begun and is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTurn {
    /// Its number; never used again.
    pub id: u64,
    /// The messages it answers, the last one last.
    pub messages: Vec<MessageId>,
    /// What the model was asked.
    pub prompt: Message,
    /// The model's answers so far.
    pub steps: Vec<Step>,
    /// Whether the journal has it.
    pub is_journalled: bool,
}

impl OpenTurn {
    /// Whether the turn can go on: the host must have handed over each of its messages again. One that it
    /// did not, it has given up.
    pub fn is_owed(&self, handed_over: &HashSet<&MessageId>) -> bool {
        self.messages.iter().all(|id| handed_over.contains(id))
    }
}

/// How a turn ends.
#[derive(Clone, Debug)]
pub struct Ending {
    /// The answer to the person.
    pub reply: MessageOut,
    /// What later turns will remember.
    pub kept: Kept,
}

/// What is remembered when a turn has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// What there was, and this turn.
    Turn(Vec<Arc<Message>>),
    /// What there was.
    AsItWas,
    /// Nothing of this conversation.
    Nothing,
}

impl Journal {
    /// A turn that is about to begin; [`Journal::begin`] writes it down.
    ///
    /// # Errors
    /// When the file fails.
    pub fn next_turn(&self, messages: Vec<MessageId>, prompt: Message) -> Result<OpenTurn, JournalError> {
        let id = meta(&self.connection, "turns")? + 1;
        Ok(OpenTurn { id, messages, prompt, steps: Vec::new(), is_journalled: false })
    }

    /// Begins a turn: its messages, its prompt, and the `started` rows.
    ///
    /// # Errors
    /// When the file fails; then no turn has begun.
    pub fn begin(&mut self, turn: &mut OpenTurn) -> Result<Vec<OutboundRow>, JournalError> {
        let started = around(
            || fault::point("step.turn_opened.before"),
            || fault::point("step.turn_opened.after"),
            || {
                self.transaction(|tx| {
                    set_meta(tx, "turns", turn.id)?;
                    tx.prepare_cached("INSERT INTO turn VALUES (?1, ?2)")?
                        .execute(params![turn.id, turn.prompt.to_text()])?;
                    for (ordinal, message) in (0_u64..).zip(&turn.messages) {
                        tx.prepare_cached("INSERT INTO turn_messages VALUES (?1, ?2, ?3)")?
                            .execute(params![turn.id, ordinal, message.as_str()])?;
                    }
                    states(tx, &turn.messages, Processing::Started)
                })
            },
        )?;
        turn.is_journalled = true;
        Ok(started)
    }

    /// Announces a turn that goes on in a new process: `started` rows anew, since the host's clock for the
    /// turn and its count of deaths begin with them.
    ///
    /// # Errors
    /// When the file fails.
    pub fn resume(&mut self, turn: &OpenTurn) -> Result<Vec<OutboundRow>, JournalError> {
        around(
            || fault::point("step.turn_resumed.before"),
            || fault::point("step.turn_resumed.after"),
            || self.transaction(|tx| states(tx, &turn.messages, Processing::Started)),
        )
    }

    /// Keeps an answer of the model that asks for tools.
    ///
    /// # Errors
    /// When the file fails.
    pub fn step(&mut self, turn: &mut OpenTurn, response: Message) -> Result<(), JournalError> {
        let (id, ordinal) = (turn.id, turn.steps.len() as u64);
        around(
            || fault::point("step.response.before"),
            || fault::point("step.response.after"),
            || {
                self.transaction(|tx| {
                    tx.prepare_cached("INSERT INTO steps VALUES (?1, ?2, ?3)")?.execute(params![
                        id,
                        ordinal,
                        response.to_text()
                    ])?;
                    Ok(())
                })
            },
        )?;
        turn.steps.push(Step { response, runs: Vec::new() });
        Ok(())
    }

    /// Notes that the tool at `ordinal` of a step is about to run.
    ///
    /// # Errors
    /// When the file fails; then it must not run.
    pub fn intend(&mut self, turn: u64, step: u64, ordinal: u64) -> Result<(), JournalError> {
        around(
            || fault::point("step.tool_intent.before"),
            || fault::point("step.tool_intent.after"),
            || {
                self.transaction(|tx| {
                    tx.prepare_cached("INSERT INTO tool_runs VALUES (?1, ?2, ?3, NULL, NULL)")?
                        .execute([turn, step, ordinal])?;
                    Ok(())
                })
            },
        )
    }

    /// Notes that the host is about to be asked by the tool at `ordinal` of a step, and keeps the question with its
    /// number: both or neither, so that a crash finds it either not begun or on its way.
    ///
    /// # Errors
    /// When the file fails; then nothing may be asked.
    pub fn ask(
        &mut self,
        turn: u64,
        step: u64,
        ordinal: u64,
        question: MessageOut,
    ) -> Result<OutboundRow, JournalError> {
        around(
            || fault::point("step.asked.before"),
            || fault::point("step.asked.after"),
            || {
                self.transaction(|tx| {
                    // Noted already when the first answer was lost with an earlier process.
                    tx.prepare_cached("INSERT OR IGNORE INTO tool_runs VALUES (?1, ?2, ?3, NULL, NULL)")?
                        .execute([turn, step, ordinal])?;
                    mint(tx, OutboundBody::Message(question))
                })
            },
        )
    }

    /// Notes that the tool at `ordinal` of a step sends a message, and keeps the message with its number, behind the pieces
    /// of files that go with it: all or nothing. A run that is noted and has no result is the newest, so the number of its
    /// message is the last one sent.
    ///
    /// # Errors
    /// When the file fails; then nothing is sent.
    pub fn send(
        &mut self,
        turn: u64,
        step: u64,
        ordinal: u64,
        pieces: Vec<Attachment>,
        message: MessageOut,
    ) -> Result<Vec<OutboundRow>, JournalError> {
        around(
            || fault::point("step.sent.before"),
            || fault::point("step.sent.after"),
            || {
                self.transaction(|tx| {
                    tx.prepare_cached("INSERT INTO tool_runs VALUES (?1, ?2, ?3, NULL, NULL)")?
                        .execute([turn, step, ordinal])?;
                    let minted = meta(tx, "minted")?;
                    let first = if minted == 0 { 1 } else { minted + 2 };
                    let seq = first + 2 * pieces.len() as u64;
                    let bodies = pieces.into_iter().map(|piece| OutboundBody::Attachment(seq, piece));
                    let rows = bodies
                        .chain([OutboundBody::Message(message)])
                        .map(|body| mint(tx, body))
                        .collect::<Result<Vec<_>, _>>()?;
                    tx.prepare_cached("INSERT OR REPLACE INTO meta VALUES ('sent', ?1)")?.execute([seq])?;
                    Ok(rows)
                })
            },
        )
    }

    /// Keeps what it gave.
    ///
    /// # Errors
    /// When the file fails.
    pub fn result(
        &mut self,
        turn: u64,
        step: u64,
        ordinal: u64,
        outcome: &Outcome,
    ) -> Result<(), JournalError> {
        around(
            || fault::point("step.tool_result.before"),
            || fault::point("step.tool_result.after"),
            || {
                self.transaction(|tx| {
                    tx.prepare_cached("INSERT OR REPLACE INTO tool_runs VALUES (?1, ?2, ?3, ?4, ?5)")?
                        .execute(params![turn, step, ordinal, outcome.text, outcome.is_error])?;
                    Ok(())
                })
            },
        )
    }

    /// Ends a turn: the reply, the `done` rows of all its messages, and its place in the transcript.
    ///
    /// # Errors
    /// When the file fails; then the turn is still open.
    pub fn finish(&mut self, turn: &OpenTurn, ending: Ending) -> Result<Vec<OutboundRow>, JournalError> {
        let transcript = std::mem::take(&mut self.transcript);
        let is_forgotten = ending.kept == Kept::Nothing;
        let written = around(
            || fault::point("step.final.before"),
            || fault::point("step.final.after"),
            || {
                self.transaction(|tx| {
                    let mut outputs = vec![mint(tx, OutboundBody::Message(ending.reply))?];
                    let done = states(tx, &turn.messages, Processing::Done)?;
                    for (row, message) in done.iter().zip(&turn.messages) {
                        tx.prepare_cached("INSERT OR REPLACE INTO finished VALUES (?1, ?2)")?
                            .execute(params![message.as_str(), row.seq])?;
                    }
                    outputs.extend(done);
                    close(tx, turn.id)?;
                    let appended = match &ending.kept {
                        Kept::Turn(messages) => Some(transcript.append(tx, turn.id, messages)?),
                        Kept::AsItWas => None,
                        Kept::Nothing => {
                            tx.prepare_cached("DELETE FROM transcript")?.execute([])?;
                            set_meta(tx, "left_out", 0)?;
                            None
                        }
                    };
                    if let Some(appended) = &appended {
                        set_meta(tx, "left_out", meta(tx, "left_out")? + appended.removed as u64)?;
                    }
                    Ok((outputs, appended))
                })
            },
        );
        self.transcript = transcript;
        let (outputs, appended) = written?;
        match appended {
            Some(appended) => self.transcript.keep(appended),
            None if is_forgotten => self.transcript = Transcript::default(),
            None => {}
        }
        Ok(outputs)
    }

    /// Forgets an open turn that the host has given up.
    ///
    /// # Errors
    /// When the file fails.
    pub fn abandon(&mut self, turn: &OpenTurn) -> Result<(), JournalError> {
        fault::point("step.abandon.before");
        self.transaction(|tx| close(tx, turn.id))
    }

    /// The turn that a crash left open.
    ///
    /// # Errors
    /// When the file fails or holds what was never written to it.
    pub fn open_turn(&self) -> Result<Option<OpenTurn>, JournalError> {
        let db = &self.connection;
        let found = db
            .prepare_cached("SELECT id, prompt FROM turn")?
            .query_row([], |row| Ok((row.get::<_, u64>(0)?, row.get::<_, String>(1)?)))
            .optional()?;
        let Some((id, prompt)) = found else { return Ok(None) };
        let messages = db
            .prepare_cached("SELECT id FROM turn_messages WHERE turn = ?1 ORDER BY ordinal")?
            .query_map([id], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        let responses = db
            .prepare_cached("SELECT response FROM steps WHERE turn = ?1 ORDER BY ordinal")?
            .query_map([id], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        let mut steps = Vec::new();
        for (ordinal, response) in (0_u64..).zip(&responses) {
            let runs = db
                .prepare_cached(
                    "SELECT result, is_error FROM tool_runs WHERE turn = ?1 AND step = ?2 ORDER BY ordinal",
                )?
                .query_map([id, ordinal], |row| {
                    let result: Option<String> = row.get(0)?;
                    let is_error: Option<bool> = row.get(1)?;
                    Ok(match result {
                        None => ToolRun::Intended,
                        Some(text) => ToolRun::Done(Outcome { text, is_error: is_error.unwrap_or(true) }),
                    })
                })?
                .collect::<Result<_, _>>()?;
            steps.push(Step { response: message(response)?, runs });
        }
        Ok(Some(OpenTurn {
            id,
            messages: messages.iter().map(|id| message_id(id)).collect::<Result<_, _>>()?,
            prompt: message(&prompt)?,
            steps,
            is_journalled: true,
        }))
    }

    /// How many earlier turns the model is told of, and how many it is not.
    ///
    /// # Errors
    /// When the file fails.
    pub fn remembered(&self) -> Result<(u64, u64), JournalError> {
        Ok(self.transcript.counts(meta(&self.connection, "left_out")?))
    }

    /// The earlier turns that the model is told of.
    ///
    /// # Errors
    /// When the file fails.
    pub fn window(&self) -> Result<Window, JournalError> {
        Ok(self.transcript.window(meta(&self.connection, "left_out")?))
    }
}

fn states(
    tx: &Connection,
    messages: &[MessageId],
    state: Processing,
) -> Result<Vec<OutboundRow>, JournalError> {
    messages.iter().map(|id| mint(tx, OutboundBody::Processing(id.clone(), state))).collect()
}

fn close(tx: &Connection, turn: u64) -> Result<(), JournalError> {
    tx.prepare_cached("DELETE FROM turn WHERE id = ?1")?.execute([turn])?;
    for table in ["turn_messages", "steps", "tool_runs"] {
        tx.prepare_cached(&format!("DELETE FROM {table} WHERE turn = ?1"))?.execute([turn])?;
    }
    Ok(())
}

fn message(text: &str) -> Result<Message, JournalError> {
    json::parse(text.as_bytes())
        .ok()
        .and_then(|value| Message::from_value(&value))
        .ok_or_else(|| JournalError::Lost("a message of the open turn does not read".into()))
}
