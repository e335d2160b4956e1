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
    /// Counts a try, before it is known to be wrong: of many at once no more are looked at than may be wrong. Gives how
    /// long somebody has to wait who gave too many.
    fn begin(&self, user: &UserId, now: Instant) -> Result<(), Duration> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        let (since, count) = all.entry(user.clone()).or_insert((now, 0));
        if *count >= MOST {
            return Err(WINDOW.saturating_sub(now.duration_since(*since)));
        }
        *count += 1;
        Ok(())
    }

    /// A try was not wrong.
    fn forgive(&self, user: &UserId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, count)) = all.get_mut(user) {
            *count = count.saturating_sub(1);
        }
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
    api.codes.begin(&principal.user, Instant::now()).map_err(Problem::too_many_codes)?;
    let code: String = code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_uppercase();
    let (digest, user) = (chain::hash(&code), principal.user.clone());
    let found = api.ledger.read(move |conn| {
        let Some(id) = pairings::find(conn, &digest, Millis::now())? else { return Ok(None) };
        let Some(change) = changes::get(conn, &id)? else { return Ok(None) };
        let reaches = Standing::of(conn, &user)?.allows(Scope::Approve, Some(&change.group));
        Ok(reaches.then_some(id))
    });
    let found = found.await;
    if !matches!(found, Ok(None)) {
        api.codes.forgive(&principal.user);
    }
    match found? {
        Some(id) => Ok(json_response(StatusCode::OK, &Value::object([("change", Value::from(id.as_str()))]))),
        None => Err(Problem::no_code()),
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
            assert_eq!(tries.begin(&one, now), Ok(()));
        }
        assert_eq!(tries.begin(&one, now + WINDOW / 2), Err(WINDOW / 2));
        assert_eq!(tries.begin(&other, now), Ok(()));
        assert_eq!(tries.begin(&one, now + WINDOW), Ok(()));
    }

    #[test]
    fn tries_at_once_count_before_any_of_them_is_known_to_be_wrong() {
        let (tries, now, user) = (Tries::default(), Instant::now(), UserId::parse("local:a").unwrap());
        let looked_at = (0..20).filter(|_| tries.begin(&user, now).is_ok()).count();
        assert_eq!(looked_at, MOST as usize);
        // One of them was right.
        tries.forgive(&user);
        assert_eq!(tries.begin(&user, now), Ok(()));
        assert!(tries.begin(&user, now).is_err());
    }
}
