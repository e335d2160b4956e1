//! What the fake knows: the answers that were ordered, the requests that came, and what it has given out and wants to
//! see again.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::checks::Dialect;
use crate::http::Request;
use crate::json::{Json, object};
use crate::plan::Plan;
use crate::send::Sent;

#[derive(Default)]
pub(crate) struct World {
    plans: VecDeque<Plan>,
    pub(crate) requests: Vec<Json>,
    /// Credentials are asked for if there is one.
    pub(crate) key: Option<String>,
    /// Signatures and sealed thoughts that were given out.
    pub(crate) sealed: BTreeSet<String>,
    next_id: u64,
    /// Answers that are held go on.
    pub(crate) gates_open: u64,
}

impl World {
    /// An id that was not given out before.
    pub(crate) fn id(&mut self, beginning: &str) -> String {
        self.next_id += 1;
        format!("{beginning}{}", self.next_id)
    }

    /// Something that only the model can read.
    pub(crate) fn seal(&mut self) -> String {
        let sealed = format!("{}==", self.id("c2VhbGVk/+"));
        self.sealed.insert(sealed.clone());
        sealed
    }

    pub(crate) fn order(&mut self, plan: Plan) {
        self.plans.push_back(plan);
    }

    pub(crate) fn clear(&mut self) {
        self.plans.clear();
        self.requests.clear();
        self.key = None;
    }

    pub(crate) fn waiting(&self) -> usize {
        self.plans.len()
    }

    /// The first order that fits.
    pub(crate) fn plan(&mut self, dialect: Dialect, model: &str, body: &Json) -> Plan {
        let fits = |plan: &Plan| {
            plan.dialect.is_none_or(|of| of == dialect) && plan.model.as_deref().is_none_or(|of| of == model)
        };
        let Some(at) = self.plans.iter().position(fits) else { return Plan::echo(&dialect.last_text(body)) };
        let Some(plan) = self.plans.get_mut(at) else { return Plan::echo("") };
        plan.left -= 1;
        let found = plan.clone();
        if found.left <= 0 {
            self.plans.remove(at);
        }
        found
    }

    /// Keeps a request and gives its number.
    pub(crate) fn keep(
        &mut self,
        dialect: Option<Dialect>,
        request: &Request,
        body: &Json,
        refused: Option<&str>,
    ) -> usize {
        let headers = request.headers.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
        self.requests.push(object([
            ("dialect", dialect.map(Dialect::name).into()),
            ("method", request.method.as_str().into()),
            ("path", request.path.as_str().into()),
            ("query", request.query.as_str().into()),
            ("headers", Json::Object(headers.collect())),
            ("body", body.clone()),
            ("refused", refused.into()),
            ("ended", Json::Null),
        ]));
        self.requests.len() - 1
    }

    /// How the answer to a request ended.
    pub(crate) fn answered(&mut self, number: usize, sent: Sent) {
        if let Some(request) = self.requests.get_mut(number) {
            request.set("ended", sent.name());
        }
    }

    fn ended(&self, how: &str) -> usize {
        self.requests.iter().filter(|request| request.text("ended") == Some(how)).count()
    }
}

#[derive(Default)]
pub(crate) struct Shared {
    world: Mutex<World>,
    changed: Condvar,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ring(&self) {
        self.changed.notify_all();
    }

    /// Waits until there were so many requests and so many of their clients went away. Gives whether it came to that.
    pub(crate) fn wait(&self, requests: usize, gone: usize, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut world = self.lock();
        loop {
            if world.requests.len() >= requests && world.ended("gone") >= gone {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            world = self.changed.wait_timeout(world, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether a gate was opened since there were so many open ones; waits a moment for it.
    pub(crate) fn gate(&self, passed: u64, moment: Duration) -> bool {
        let world = self.lock();
        let waits = |world: &mut World| world.gates_open <= passed;
        let waited = self.changed.wait_timeout_while(world, moment, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.gates_open > passed
    }
}
