//! The side of the fake that the test talks to, under `/_fake/`: answers are ordered, requests are read, held answers are
//! let go.

use std::time::Duration;

use crate::http::{Request, fields};
use crate::json::{Json, object};
use crate::plan::Plan;
use crate::world::Shared;

/// The longest that a test waits here.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers a request of the test. `None` for one that is not understood.
pub(crate) fn answer(shared: &Shared, request: &Request) -> Option<Json> {
    let name = request.path.strip_prefix("/_fake/")?;
    let body = std::str::from_utf8(&request.body).ok()?;
    let asked = if body.trim().is_empty() { object([]) } else { Json::parse(body)? };
    if (request.method.as_str(), name) == ("GET", "wait") {
        let fields = fields(&request.query);
        let number = |wanted: &str| {
            fields
                .iter()
                .find(|(name, _)| name == wanted)
                .and_then(|(_, text)| text.parse().ok())
                .unwrap_or(0)
        };
        let came = shared.wait(number("requests"), number("gone"), PATIENCE);
        return Some(object([("came", came.into())]));
    }
    let mut world = shared.lock();
    let answer = match (request.method.as_str(), name) {
        // What is answered next; see `Plan::read`.
        ("POST", "answer") => {
            world.order(Plan::read(&asked)?);
            Some(object([]))
        }
        // The credential that every request must have from now on; none without `key`.
        ("POST", "key") => {
            world.key = asked.text("key").map(str::to_owned);
            Some(object([]))
        }
        // Lets the answers go on that are held.
        ("POST", "go") => {
            world.gates_open += 1;
            Some(object([]))
        }
        ("POST", "clear") => {
            world.clear();
            Some(object([]))
        }
        ("GET", "requests") => Some(object([
            ("count", world.requests.len().into()),
            ("waiting", world.waiting().into()),
            ("requests", world.requests.clone().into()),
        ])),
        _ => None,
    };
    drop(world);
    shared.ring();
    answer
}
