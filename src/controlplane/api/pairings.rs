//! Codes that strangers were told in a chat: each leads whoever may decide it to the change that admits its stranger.
//! Guessing is bounded. Touches the ledger, reading.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{Request, Response, StatusCode};

use super::problem::Problem;
use super::{Api, body};
use crate::contract::chain;
use crate::contract::ids::UserId;
use crate::contract::json::{Value, only_fields};
use crate::contract::time::Millis;
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::principals::{Principal, Scope, Standing};
use crate::controlplane::store::{changes, pairings};

const BODY_BYTES: usize = 1024;
/// Wrong codes of one person.
const MOST: u32 = 5;
/// Within this time; the time of a code.
const WINDOW: Duration = Duration::from_secs(600);

/// Wrong codes of late, by person.
#[derive(Debug, Default)]
pub(super) struct Tries(Mutex<HashMap<UserId, (Instant, u32)>>);

impl Tries {
    /// How long somebody has to wait who gave too many.
    fn wait(&self, user: &UserId, now: Instant) -> Option<Duration> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        let (since, count) = all.get(user)?;
        (*count >= MOST).then(|| WINDOW.saturating_sub(now.duration_since(*since)))
    }

    fn wrong(&self, user: &UserId, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, count) = all.entry(user.clone()).or_insert((now, 0));
        *count = count.saturating_add(1);
    }
}

/// `POST /v1/pairings`
pub(super) async fn find(
    api: &Api,
    principal: &Principal,
    request: Request<Incoming>,
) -> Result<Response<Body>, Problem> {
    let document = body(request, BODY_BYTES).await?;
    only_fields(&document, &["code"])
        .map_err(|error| Problem::invalid(format!("{error}; the field is code")))?;
    let code = document.get("code").and_then(Value::as_str);
    let code = code.ok_or_else(|| Problem::invalid("code is missing: the one that was shown in the chat"))?;
    let now = Instant::now();
    if let Some(wait) = api.codes.wait(&principal.user, now) {
        return Err(Problem::too_many_codes(wait));
    }
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_uppercase();
    let (digest, user) = (chain::hash(&code), principal.user.clone());
    let found = api.ledger.read(move |conn| {
        let Some(id) = pairings::find(conn, &digest, Millis::now())? else { return Ok(None) };
        let Some(change) = changes::get(conn, &id)? else { return Ok(None) };
        let reaches = Standing::of(conn, &user)?.allows(Scope::Approve, Some(&change.group));
        Ok(reaches.then_some(id))
    });
    match found.await? {
        Some(id) => Ok(json_response(StatusCode::OK, &Value::object([("change", Value::from(id.as_str()))]))),
        None => {
            api.codes.wrong(&principal.user, now);
            Err(Problem::no_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_wrong_codes_close_it_for_ten_minutes() {
        let (tries, now) = (Tries::default(), Instant::now());
        let (one, other) = (UserId::parse("local:a").unwrap(), UserId::parse("local:b").unwrap());
        for _ in 0..MOST {
            assert_eq!(tries.wait(&one, now), None);
            tries.wrong(&one, now);
        }
        assert_eq!(tries.wait(&one, now + WINDOW / 2), Some(WINDOW / 2));
        assert_eq!(tries.wait(&other, now), None);
        assert_eq!(tries.wait(&one, now + WINDOW), None);
    }
}
