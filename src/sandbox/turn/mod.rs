//! The thread that thinks. It owns `session.db`, the model and the tools: it takes the waiting messages of
//! one chat, asks the model, runs what the model asks for, and answers; each step is journalled before
//! anything follows from it. What it hears and says goes through the channels of the mailbox.

mod commands;
mod files;
mod host;
mod letters;
mod room;
mod select;
mod words;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError, TryRecvError};
use std::time::{Duration, Instant};

use crate::contract::fault;
use crate::contract::ids::MessageId;
use crate::contract::inbound::{InboundBody, InboundKind, InboundRow, MessageIn, SessionConfig};
use crate::contract::outbound::{BYTES_A_VALUE, MessageOut, OutboundKind};
use crate::contract::providers::Dialect;
use crate::contract::time::Millis;

use super::journal::{
    Ending, Journal, JournalError, Kept, OpenTurn, Outcome, RunPlan, Step, ToolRun, plan_run,
};
use super::mailbox::{FromTurn, Outlet, ToTurn};
use super::models::{Block, Message, Model, ModelError, Request, Response, Speaker, ToolChoice, ToolInput};
use super::tools::{self, Asked, Bench, Destinations, Task, Tool};
use super::{prompt, transcript};
use commands::Command;
use files::Files;
use host::{Answers, Question};
use room::Room;
use select::{Taken, Waiting};
use words::{apology, within, words};

/// Most answers of the model in one turn that may ask for tools; the next one must be in words.
const STEPS: usize = 16;
/// Most tools that one answer may ask for.
const TOOLS_A_STEP: usize = 16;
/// What the host gives a turn where its configuration does not say.
const TURN_SECONDS: u64 = 600;
/// Most of that time that is kept for the last words, so that they are stored before the host's clock ends
/// the process; a tenth where the turn is short.
const LAST_WORDS: Duration = Duration::from_secs(15);

/// Bytes of what is asked, above which a turn is journalled before its request is made.
const LARGE: usize = 64 << 10;

const INTERRUPTED: &str = "interrupted, outcome unknown";
const TOO_MUCH: &str = "[I stopped: what I asked of the tools in this turn is more than one turn can hold. Ask me \
    to do it in smaller parts.]";
const NOT_RUN: &str = "not run: the limit of tools in one turn is reached";

/// How a failed call of the model is repeated.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// Calls in all.
    pub attempts: u32,
    /// The first wait; each further one is twice as long.
    pub first: Duration,
    /// The longest wait.
    pub longest: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Self { attempts: 6, first: Duration::from_secs(1), longest: Duration::from_secs(30) }
    }
}

/// What the turn's thread is made of.
#[derive(Debug)]
pub struct Parts<M> {
    /// The open journal.
    pub journal: Journal,
    /// The model.
    pub model: M,
    /// What tools work on.
    pub bench: Bench,
    /// The model's name, where the host's configuration gives none.
    pub model_name: String,
    /// See [`Retries`].
    pub retries: Retries,
}

/// The turn's thread.
#[derive(Debug)]
pub struct Turns<M> {
    parts: Parts<M>,
    config: SessionConfig,
    /// What holds from the next turn on; a turn that runs is not disturbed.
    next_config: Option<SessionConfig>,
    next_destinations: Option<Destinations>,
    waiting: Waiting,
    files: Files,
    /// Bytes of the files that this turn has sent.
    sent_files: usize,
    /// Finished before this launch. What is handed over may still hold them until the host has stored their
    /// ends.
    finished_before: HashSet<MessageId>,
    /// Whether a delivery brought some of them: then it may have had no room for all that is open.
    finished_came: bool,
    snapshot: Snapshot,
    /// What the host has answered and no tool has taken.
    answers: Answers,
    /// What an earlier process sent last and the host had not stored when this one began.
    put_back: Option<(u64, MessageOut)>,
    inlet: Receiver<ToTurn>,
    outlet: Outlet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Snapshot {
    Awaited,
    Read,
}

/// Why a turn's thread ended.
enum End {
    /// The mailbox is gone: the process is ending.
    Over,
    /// The journal failed.
    Failed(JournalError),
}

impl From<JournalError> for End {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Stopping => Self::Over,
            error => Self::Failed(error),
        }
    }
}

impl<M: Model> Turns<M> {
    /// `finished_before` is what the journal knew to be finished when it was opened.
    pub fn new(
        parts: Parts<M>,
        finished_before: HashSet<MessageId>,
        inlet: Receiver<ToTurn>,
        outlet: Outlet,
    ) -> Self {
        let config = SessionConfig::default();
        let waiting = Waiting::default();
        Self {
            parts,
            config,
            next_config: None,
            next_destinations: None,
            waiting,
            files: Files::default(),
            sent_files: 0,
            finished_before,
            finished_came: false,
            snapshot: Snapshot::Awaited,
            answers: Answers::default(),
            put_back: None,
            inlet,
            outlet,
        }
    }

    /// Runs until the mailbox is gone.
    pub fn run(mut self) {
        if let Err(End::Failed(error)) = self.turns() {
            self.outlet.send(FromTurn::Failed(error.to_string()));
        }
    }

    fn turns(&mut self) -> Result<(), End> {
        let mut left_open = self.parts.journal.open_turn()?;
        self.put_back = self.parts.journal.last_sent()?;
        loop {
            match self.inlet.recv() {
                Ok(word) => self.hear(word),
                Err(RecvError) => return Ok(()),
            }
            self.hear_all()?;
            if self.snapshot == Snapshot::Awaited {
                continue;
            }
            // What a snapshot holds is bounded, and so is a turn; but messages whose end the host has not
            // stored yet may have taken the room. The rest comes with the next ring, in order.
            let is_early = left_open.as_ref().is_some_and(|turn| self.may_come(turn));
            if is_early {
                continue;
            }
            if let Some(turn) = left_open.take() {
                let waiting: HashSet<&MessageId> = self.waiting.iter().map(|message| &message.id).collect();
                let taken =
                    if turn.is_owed(&waiting) { self.waiting.take_these(&turn.messages) } else { None };
                match taken {
                    Some(taken) => {
                        let started = self.parts.journal.resume(&turn)?;
                        self.outlet.send(FromTurn::Outputs(started));
                        self.answer(turn, &taken.answered)?;
                    }
                    None => self.parts.journal.abandon(&turn)?,
                }
            }
            while let Some(taken) = self.waiting.take() {
                let turn = self.next_turn(&taken)?;
                self.answer(turn, &taken.answered)?;
                self.hear_all()?;
            }
        }
    }

    /// Whether messages of an open turn that are not there may still come: nothing newer than the turn has come
    /// yet, and what was finished before stood in front of it.
    fn may_come(&self, turn: &OpenTurn) -> bool {
        let own = |message: &MessageIn| turn.messages.contains(&message.id);
        let newer = self.waiting.iter().any(|message| message.kind != InboundKind::System && !own(message));
        let all = turn.messages.iter().all(|id| self.waiting.holds(id));
        self.finished_came && !all && !newer
    }

    fn hear_all(&mut self) -> Result<(), End> {
        loop {
            match self.inlet.try_recv() {
                Ok(word) => self.hear(word),
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(End::Over),
            }
        }
    }

    fn hear(&mut self, word: ToTurn) {
        match word {
            ToTurn::Accepted(seq) => self.parts.journal.accept(seq),
            ToTurn::Delivered(rows) => {
                rows.into_iter().for_each(|row| self.take_in(row));
                self.snapshot = Snapshot::Read;
            }
        }
    }

    fn take_in(&mut self, row: InboundRow) {
        match row.body {
            // It begins the set of destinations anew; those that there are follow it.
            InboundBody::Config(config) => {
                self.next_config = Some(config);
                self.next_destinations = Some(Destinations::default());
            }
            InboundBody::Destination(destination) => {
                let now = || self.parts.bench.destinations.clone();
                self.next_destinations.get_or_insert_with(now).put(destination);
            }
            InboundBody::Message(message) => {
                if self.answers.take_in(&message) {
                    return;
                }
                if self.finished_before.contains(&message.id) {
                    self.finished_came = true;
                } else if !self.waiting.holds(&message.id) {
                    let is_full = self.config_now().usage.is_over();
                    self.files.arrived(&message, &self.parts.bench.files, is_full);
                    self.waiting.push(message);
                }
            }
            InboundBody::Attachment(message, piece) => self.files.take_in(message, piece),
        }
    }

    /// The newest configuration.
    fn config_now(&self) -> &SessionConfig {
        self.next_config.as_ref().unwrap_or(&self.config)
    }

    fn next_turn(&mut self, taken: &Taken) -> Result<OpenTurn, End> {
        let mut blocks = Vec::with_capacity(taken.told.len());
        for message in &taken.told {
            blocks.push(Block::Text(prompt::message(message)));
            blocks.extend(self.files.told(&message.id).iter().map(|words| Block::Text(prompt::file(words))));
        }
        let asked = Message { speaker: Speaker::User, blocks };
        let messages = taken.reported().map(|message| message.id.clone()).collect();
        Ok(self.parts.journal.next_turn(messages, asked)?)
    }

    /// Goes on with an open turn to its end.
    fn answer(&mut self, mut turn: OpenTurn, answered: &MessageIn) -> Result<(), End> {
        self.config = self.next_config.take().unwrap_or_else(|| std::mem::take(&mut self.config));
        if let Some(destinations) = self.next_destinations.take() {
            self.parts.bench.destinations = destinations;
        }
        self.sent_files = 0;
        let begun = Instant::now();
        if let Some(command) = Command::of(answered) {
            return self.obey(turn, command, answered);
        }
        let mut conversation = self.earlier()?;
        let own = conversation.len();
        conversation.push(Arc::new(turn.prompt.clone()));
        let mut room = Room::default();
        for step in 0..turn.steps.len() {
            turn.steps.get(step).map(|step| room.takes(&step.response));
            self.run_tools(&mut turn, step, &mut conversation, &mut room, (answered, begun))?;
        }
        let text = loop {
            let choice = if turn.steps.len() < STEPS { ToolChoice::Free } else { ToolChoice::Forbidden };
            let response = match self.ask(&mut turn, &conversation, choice, begun)? {
                Ok(response) => response,
                Err(error) => break apology(&error),
            };
            if !response.wants_tools() || choice == ToolChoice::Forbidden {
                break words(&response);
            }
            let step = turn.steps.len();
            let response = room::keepable(Message { speaker: Speaker::Assistant, blocks: response.blocks });
            if !room.takes(&response) {
                break TOO_MUCH.into();
            }
            self.parts.journal.step(&mut turn, response)?;
            self.run_tools(&mut turn, step, &mut conversation, &mut room, (answered, begun))?;
        };
        let text = within(text, BYTES_A_VALUE);
        let mut remembered = conversation.split_off(own);
        let said = Message { speaker: Speaker::Assistant, blocks: vec![Block::Text(text.clone())] };
        remembered.push(Arc::new(said));
        self.finish(&turn, answered, text, Kept::Turn(remembered))
    }

    /// Does what a person told without asking the model. None of it is part of the conversation.
    fn obey(&mut self, mut turn: OpenTurn, command: Command, answered: &MessageIn) -> Result<(), End> {
        self.ensure_begun(&mut turn)?;
        let (text, kept) = match command {
            Command::Reset => (commands::FORGOTTEN.to_owned(), Kept::Nothing),
            Command::Help => (commands::help(&self.config), Kept::AsItWas),
            Command::Status => {
                let (told, left_out) = self.parts.journal.remembered()?;
                let remembered = commands::Remembered { told, left_out };
                (
                    commands::status(
                        &self.config,
                        model_name(&self.config, &self.parts.model_name),
                        remembered,
                    ),
                    Kept::AsItWas,
                )
            }
        };
        self.finish(&turn, answered, text, kept)
    }

    /// Earlier turns, with a note of what is left out.
    fn earlier(&self) -> Result<Vec<Arc<Message>>, End> {
        let transcript::Window { mut messages, left_out } = self.parts.journal.window()?;
        if let Some(first) = messages.first_mut().filter(|_| left_out > 0) {
            let note = format!("{left_out} earlier turns of this conversation are left out");
            Arc::make_mut(first).blocks.insert(0, Block::Text(prompt::note(&note)));
        }
        Ok(messages)
    }

    /// Adds a step to the conversation, running those of its tools that have no result yet.
    fn run_tools(
        &mut self,
        turn: &mut OpenTurn,
        step: usize,
        conversation: &mut Vec<Arc<Message>>,
        room: &mut Room,
        asked: (&MessageIn, Instant),
    ) -> Result<(), End> {
        let Some(Step { response, runs }) = turn.steps.get(step).cloned() else { return Ok(()) };
        let mut results = Vec::new();
        let uses = response.blocks.iter().filter_map(|block| match block {
            Block::ToolUse { id, name, input } => Some((id, name, input)),
            Block::Text(_) | Block::ToolResult { .. } | Block::Opaque { .. } => None,
        });
        for (ordinal, (id, name, input)) in uses.enumerate() {
            let outcome = if ordinal < TOOLS_A_STEP {
                let place = Place { turn: turn.id, step: step as u64, ordinal: ordinal as u64 };
                self.run_tool(place, runs.get(ordinal), name, input, asked)?
            } else {
                Outcome { text: NOT_RUN.into(), is_error: true }
            };
            results.push(Block::ToolResult {
                id: id.clone(),
                text: room.result(outcome.text),
                is_error: outcome.is_error,
            });
        }
        conversation.push(Arc::new(response));
        conversation.push(Arc::new(Message { speaker: Speaker::User, blocks: results }));
        Ok(())
    }

    fn run_tool(
        &mut self,
        place: Place,
        journalled: Option<&ToolRun>,
        name: &str,
        input: &ToolInput,
        (answered, begun): (&MessageIn, Instant),
    ) -> Result<Outcome, End> {
        let Place { turn, step, ordinal } = place;
        let is_noted = match plan_run(journalled, tools::repeat(name)) {
            RunPlan::Tell(outcome) => return Ok(outcome),
            RunPlan::Unknown => return self.interrupted(place),
            // Begun, and switched off before it could go on: nobody knows how far it came.
            RunPlan::RunAgain if !tools::is_on(&self.config, name) && !tools::sends(name) => {
                return self.interrupted(place);
            }
            RunPlan::Run => false,
            RunPlan::RunAgain => true,
        };
        let stamp = format!("{:x}-{turn}-{step}-{ordinal}", self.parts.journal.tag()?);
        let question = Question { place, is_noted, name, stamp: &stamp, answered, begun };
        let result = match tools::find(&self.config, name, input) {
            // It is on its way or there, whatever is switched on now.
            _ if is_noted && tools::sends(name) => self.sent_before(&question)?,
            Ok(Asked { tool: Tool { task: Task::Here(work), .. }, input }) => {
                if !is_noted {
                    self.parts.journal.intend(turn, step, ordinal)?;
                }
                self.outlet.send(FromTurn::Doing("tool"));
                work(&self.parts.bench, input, &stamp)
            }
            Ok(Asked { tool: Tool { task: Task::Host { arguments, tell }, .. }, input }) => {
                match arguments(input) {
                    Ok(arguments) => self.ask_host(&question, arguments)?.and_then(|outcome| tell(&outcome)),
                    Err(error) => Err(error),
                }
            }
            Ok(Asked { tool: Tool { task: Task::Send(letter), .. }, input }) => {
                match letter(&self.parts.bench, input) {
                    Ok(letter) => self.send(&question, letter)?,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        fault::point("step.tool_ran");
        let outcome = match result {
            Ok(text) => Outcome { text: room::one_result(text), is_error: false },
            Err(error) => Outcome { text: room::one_result(error.to_string()), is_error: true },
        };
        self.parts.journal.result(turn, step, ordinal, &outcome)?;
        Ok(outcome)
    }

    /// The outcome of a run that is not known and does not go on.
    fn interrupted(&mut self, Place { turn, step, ordinal }: Place) -> Result<Outcome, End> {
        let outcome = Outcome { text: INTERRUPTED.into(), is_error: true };
        self.parts.journal.result(turn, step, ordinal, &outcome)?;
        Ok(outcome)
    }

    /// Asks the model, again and again if it is worth it. A turn that begins is journalled while its first request is
    /// on its way: that is the one thing that may go before the journal, since it has no effect but an answer, and
    /// that is read afterwards. A large one is journalled first: a process that its request kills must have begun the
    /// turn, or the death counts against no message.
    fn ask(
        &mut self,
        turn: &mut OpenTurn,
        conversation: &[Arc<Message>],
        choice: ToolChoice,
        begun: Instant,
    ) -> Result<Result<Response, ModelError>, End> {
        let mut wait = self.parts.retries.first;
        let mut attempt = 1;
        loop {
            // What the host said meanwhile: what it stored, or that the process is ending.
            self.hear_all()?;
            let within = self.time_left(begun);
            if within.is_zero() {
                self.ensure_begun(turn)?;
                return Ok(Err(ModelError::OutOfTime));
            }
            let model = model_name(&self.config, &self.parts.model_name);
            let request = Request {
                dialect: Dialect::of(&self.config.provider).unwrap_or(Dialect::Messages),
                model,
                max_tokens: self.config.max_tokens.max(1),
                system: &prompt::system(&self.config),
                tools: &tools::specs(&self.config),
                choice,
                messages: conversation,
                within,
            };
            if !turn.is_journalled && is_large(&turn.prompt) {
                announce(&mut self.parts.journal, &self.outlet, turn, "model")?;
            }
            let (journal, outlet, mut announced) = (&mut self.parts.journal, &self.outlet, Ok(()));
            let mut sent = || {
                announced = announce(journal, outlet, turn, "model");
                announced.is_ok()
            };
            let answer = self.parts.model.call(&request, &mut sent);
            announced?;
            // A request that did not go out is no reason to keep the turn to oneself.
            self.ensure_begun(turn)?;
            let error = match answer {
                Ok(response) => return Ok(Ok(response)),
                Err(error) => error,
            };
            let pause = error.retry_after().unwrap_or(wait);
            let left = self.time_left(begun);
            if error.is_passing() && left.is_zero() {
                return Ok(Err(ModelError::OutOfTime));
            }
            if !error.is_passing() || attempt >= self.parts.retries.attempts || pause >= left {
                return Ok(Err(error));
            }
            self.outlet.send(FromTurn::Doing("retry"));
            std::thread::sleep(pause);
            wait = (wait * 2).min(self.parts.retries.longest);
            attempt += 1;
        }
    }

    fn ensure_begun(&mut self, turn: &mut OpenTurn) -> Result<(), End> {
        if !turn.is_journalled {
            announce(&mut self.parts.journal, &self.outlet, turn, "model")?;
        }
        Ok(())
    }

    /// What is left of the turn, without the time for its last words. The host's clock began later than
    /// `begun`: when it heard of the turn.
    fn time_left(&self, begun: Instant) -> Duration {
        let whole = match self.config.turn_seconds {
            0 => Duration::from_secs(TURN_SECONDS),
            seconds => Duration::from_secs(seconds),
        };
        (whole - (whole / 10).min(LAST_WORDS)).saturating_sub(begun.elapsed())
    }

    fn finish(&mut self, turn: &OpenTurn, answered: &MessageIn, text: String, kept: Kept) -> Result<(), End> {
        let reply = MessageOut {
            in_reply_to: Some(answered.id.clone()),
            kind: OutboundKind::Chat,
            channel: Some(answered.channel.clone()),
            chat: Some(answered.chat.clone()),
            thread: answered.thread.clone(),
            text,
            created_at: Millis::now(),
        };
        let outputs = self.parts.journal.finish(turn, Ending { reply, kept })?;
        self.outlet.send_all([FromTurn::Outputs(outputs), FromTurn::Idle]);
        Ok(())
    }
}

/// The model that is asked.
fn model_name<'a>(config: &'a SessionConfig, otherwise: &'a str) -> &'a str {
    if config.model.is_empty() { otherwise } else { &config.model }
}

/// Whether what is asked is so much that a request made of it may be what ends the process. What is told of earlier
/// turns is bounded below that.
fn is_large(prompt: &Message) -> bool {
    let bytes = |block: &Block| if let Block::Text(text) = block { text.len() } else { 0 };
    prompt.blocks.iter().map(bytes).sum::<usize>() > LARGE
}

/// Tells the mailbox what the turn does, and begins it if it has not begun.
fn announce(
    journal: &mut Journal,
    outlet: &Outlet,
    turn: &mut OpenTurn,
    doing: &'static str,
) -> Result<(), JournalError> {
    if turn.is_journalled {
        outlet.send(FromTurn::Doing(doing));
    } else {
        let started = journal.begin(turn)?;
        outlet.send_all([FromTurn::Outputs(started), FromTurn::Doing(doing)]);
    }
    Ok(())
}

/// Which run of which tool.
#[derive(Clone, Copy, Debug)]
struct Place {
    turn: u64,
    step: u64,
    ordinal: u64,
}
