//! Calls of upstreams that run: how many there may be of one session, one agent and in all, and what is written down
//! about each when it is over, however it ends. Touches nothing; what is written down goes to whoever was named.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use smol::lock::{Semaphore, SemaphoreGuardArc};

use super::providers::Provider;
use super::usage::{Meter, Usage};
use crate::contract::ids::{GroupName, SessionId};

/// Calls of one session at once: a turn makes one after the other.
const OF_A_SESSION: usize = 4;
/// Calls of one agent at once, over its conversations.
const OF_A_GROUP: usize = 32;
/// Calls at once.
const IN_ALL: usize = 256;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer went to its end.
    Complete,
    /// The upstream answered with an error status.
    Refused,
    /// There was no answer, or it broke off.
    Failed,
    /// The sandbox went away.
    Cancelled,
}

impl Outcome {
    /// The word in the audit.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What is written down about a call.
#[derive(Debug)]
pub struct Made {
    /// Whose it was.
    pub session: SessionId,
    /// The agent.
    pub group: GroupName,
    /// Who was asked.
    pub provider: Provider,
    /// For which model.
    pub model: String,
    /// The status of the answer, if there was one.
    pub status: Option<u16>,
    /// How it ended.
    pub outcome: Outcome,
    /// Bytes of the request's body.
    pub asked_bytes: u64,
    /// Bytes of the answer's body.
    pub answered_bytes: u64,
    /// Tokens.
    pub usage: Usage,
    /// From the request to the end of the answer.
    pub millis: u64,
    /// What was reserved for it, until it is written down.
    pub reserved: Option<Reserved>,
}

/// Who hears of calls that are over.
pub type Heard = Arc<dyn Fn(Made) + Send + Sync>;

/// The places of one session, or of all.
type Places = Arc<Semaphore>;

/// What one agent has running.
#[derive(Debug)]
struct Group {
    places: Places,
    /// Tokens that may still come to what it has used.
    reserved: AtomicU64,
}

/// Tokens that a call may take, held against its agent until they are written down or it is known that there are none.
#[derive(Debug)]
pub struct Reserved {
    group: Arc<Group>,
    tokens: u64,
}

impl Reserved {
    /// What is held for other calls of the same agent.
    pub fn by_others(&self) -> u64 {
        self.group.reserved.load(Ordering::SeqCst).saturating_sub(self.tokens)
    }

    /// What was used could not be written down: it counts for as long as this process runs.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.group.reserved.fetch_sub(self.tokens, Ordering::SeqCst);
    }
}

/// Gives places to calls.
pub struct Calls {
    all: Places,
    groups: Mutex<HashMap<GroupName, Weak<Group>>>,
    heard: Heard,
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Calls")
    }
}

/// What one session needs for its calls.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The session.
    pub session: SessionId,
    /// Its agent.
    pub group: GroupName,
    of_session: Places,
    of_group: Arc<Group>,
}

impl Caller {
    /// Holds so many tokens for a call.
    pub fn reserve(&self, tokens: u64) -> Reserved {
        self.of_group.reserved.fetch_add(tokens, Ordering::SeqCst);
        Reserved { group: self.of_group.clone(), tokens }
    }
}

impl Calls {
    /// `heard` is told of each call that is over.
    pub fn new(heard: Heard) -> Self {
        Self { all: Arc::new(Semaphore::new(IN_ALL)), groups: Mutex::default(), heard }
    }

    /// A session that may make calls.
    pub fn caller(&self, session: &SessionId, group: &GroupName) -> Caller {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|_, group| group.strong_count() > 0);
        let known = groups.get(group).and_then(Weak::upgrade);
        let of_group = known.unwrap_or_else(|| {
            let places = Arc::new(Semaphore::new(OF_A_GROUP));
            let made = Arc::new(Group { places, reserved: AtomicU64::new(0) });
            groups.insert(group.clone(), Arc::downgrade(&made));
            made
        });
        Caller {
            session: session.clone(),
            group: group.clone(),
            of_session: Arc::new(Semaphore::new(OF_A_SESSION)),
            of_group,
        }
    }

    /// A place for a call; without one, a sentence that says whose are taken.
    pub fn begin(
        &self,
        caller: &Caller,
        provider: Provider,
        model: &str,
        asked_bytes: usize,
        (meter, reserved): (Meter, Reserved),
    ) -> Result<Call, &'static str> {
        let places = [
            (&caller.of_session, "this conversation has too many calls of the model running"),
            (&caller.of_group.places, "this agent has too many calls of the model running"),
            (&self.all, "too many calls of models are running"),
        ];
        let held = places
            .into_iter()
            .map(|(places, full)| places.try_acquire_arc().ok_or(full))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Call {
            made: Some(Made {
                session: caller.session.clone(),
                group: caller.group.clone(),
                provider,
                model: model.to_owned(),
                status: None,
                // Until something else is known: whoever drops it early has gone away.
                outcome: Outcome::Cancelled,
                asked_bytes: asked_bytes as u64,
                answered_bytes: 0,
                usage: Usage::default(),
                millis: 0,
                reserved: Some(reserved),
            }),
            began: Instant::now(),
            meter,
            heard: self.heard.clone(),
            _places: held,
        })
    }
}

/// A call that runs. Dropping it ends it and has it written down.
pub struct Call {
    made: Option<Made>,
    began: Instant,
    meter: Meter,
    heard: Heard,
    _places: Vec<SemaphoreGuardArc>,
}

impl Call {
    /// The upstream answers with this status.
    pub fn answered(&mut self, status: u16) {
        if let Some(made) = &mut self.made {
            made.status = Some(status);
        }
    }

    /// A piece of the answer went by.
    pub fn passed(&mut self, piece: &[u8]) {
        self.meter.read(piece);
        if let Some(made) = &mut self.made {
            made.answered_bytes += piece.len() as u64;
        }
    }

    /// Whether the last event of the answer went by.
    pub fn has_last(&self) -> bool {
        self.meter.is_over()
    }

    /// It is over.
    pub fn end(&mut self, outcome: Outcome) {
        let Some(mut made) = self.made.take() else { return };
        made.outcome = outcome;
        // What was refused or never answered was not worked on.
        if matches!(outcome, Outcome::Complete | Outcome::Cancelled) || made.answered_bytes > 0 {
            made.usage = self.meter.usage(outcome == Outcome::Complete);
        }
        if outcome == Outcome::Refused {
            made.usage = Usage::default();
        }
        made.millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        (self.heard)(made);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(if self.has_last() { Outcome::Complete } else { Outcome::Cancelled });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::providers::Dialect;

    #[test]
    fn a_place_comes_back_and_each_call_is_heard_of_once() {
        let heard: Arc<Mutex<Vec<Made>>> = Arc::default();
        let ears = heard.clone();
        let calls = Calls::new(Arc::new(move |made| ears.lock().unwrap().push(made)));
        let group = GroupName::parse("g").unwrap();
        let one = calls.caller(&SessionId::mint(), &group);
        let begin = |caller: &Caller| {
            let meter = Meter::new(Dialect::Chat, 40, 100);
            calls.begin(caller, Provider::OpenAi, "m", 40, (meter, caller.reserve(110)))
        };
        let mut running: Vec<Call> = (0..OF_A_SESSION).map(|_| begin(&one).ok().unwrap()).collect();
        assert!(begin(&one).err().unwrap().contains("this conversation"));
        let others: Vec<Caller> = (0..OF_A_GROUP).map(|_| calls.caller(&SessionId::mint(), &group)).collect();
        let more: Vec<Call> = others.iter().map_while(|caller| begin(caller).ok()).collect();
        assert_eq!(running.len() + more.len(), OF_A_GROUP);
        assert_eq!(one.reserve(1).by_others(), 110 * OF_A_GROUP as u64, "what was refused holds nothing");
        assert!(begin(others.last().unwrap()).err().unwrap().contains("this agent"));
        let elsewhere = calls.caller(&SessionId::mint(), &GroupName::parse("h").unwrap());
        assert!(begin(&elsewhere).is_ok(), "another agent is not kept out");
        drop(more);
        heard.lock().unwrap().clear();
        let mut whole = running.pop().unwrap();
        whole.answered(200);
        whole.passed(b"data: {\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":6}}\n\ndata: [DONE]\n\n");
        drop(whole);
        let mut last = running.pop().unwrap();
        last.answered(200);
        last.passed(b"data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}\n\n");
        last.end(Outcome::Complete);
        drop(last);
        running[0].answered(429);
        running[0].passed(b"{\"error\":{}}");
        running[0].end(Outcome::Refused);
        drop(running);
        let mut heard = std::mem::take(&mut *heard.lock().unwrap());
        assert_eq!(one.reserve(1).by_others(), 440, "until it is written down");
        heard[0].reserved.take().unwrap().keep();
        let seen: Vec<_> =
            heard.iter().map(|made| (made.outcome, made.usage.input, made.usage.output)).collect();
        assert_eq!(
            seen,
            [
                (Outcome::Complete, 5, 6),
                (Outcome::Complete, 3, 4),
                (Outcome::Refused, 0, 0),
                (Outcome::Cancelled, 10, 0)
            ]
        );
        drop(heard);
        assert_eq!(one.reserve(1).by_others(), 110, "what could not be written down");
        assert!(begin(&one).is_ok());
    }
}
