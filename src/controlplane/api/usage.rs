//! What agents used of models. Touches the ledger.

use hyper::{Response, StatusCode};

use super::Api;
use super::lists::{limit, of_group};
use super::problem::Problem;
use super::router::Query;
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::http::{Body, json_response};
use crate::controlplane::principals::Principal;
use crate::controlplane::store::usage::{self, After, Day, Used};

/// Days that are shown unless asked otherwise, today among them.
const DAYS: i64 = 30;

/// `GET /v1/usage`
pub(super) async fn list(
    api: &Api,
    principal: &Principal,
    query: Option<&str>,
) -> Result<Response<Body>, Problem> {
    let query = Query::read(query, &["group", "from", "after", "limit"])?;
    let limit = limit(&query)?;
    let from = match query.text("from") {
        None => Day(Day::of(Millis::now()).0 - DAYS + 1),
        Some(text) => {
            Day::parse(text).ok_or_else(|| Problem::invalid("from must be a day such as 2026-11-23"))?
        }
    };
    let after = match query.text("after") {
        None => None,
        Some(text) => {
            let wrong = || Problem::invalid("after must be the next of the page before");
            Some(cursor(text).ok_or_else(wrong)?)
        }
    };
    let rows = of_group(api, principal, &query, move |conn, group| {
        usage::list(conn, group, from, after.as_ref(), limit)
    });
    let rows = rows.await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(shown_cursor);
    let all: Vec<Value> = rows.iter().map(shown).collect();
    Ok(json_response(
        StatusCode::OK,
        &Value::object([("usage", Value::from(all)), ("next", Value::from(next))]),
    ))
}

fn shown(used: &Used) -> Value {
    Value::object([
        ("day", Value::from(used.day.shown())),
        ("group", Value::from(used.group.as_str())),
        ("provider", Value::from(used.provider.as_str())),
        ("model", Value::from(used.model.as_str())),
        ("calls", Value::from(used.calls)),
        ("estimated_calls", Value::from(used.estimated)),
        ("input_tokens", Value::from(used.tokens.input)),
        ("cached_tokens", Value::from(used.tokens.cached)),
        ("output_tokens", Value::from(used.tokens.output)),
    ])
}

/// A model's name may have any character, and is the last.
fn shown_cursor(used: &Used) -> String {
    format!("{}/{}/{}/{}", used.day.0, used.group, used.provider, used.model)
}

fn cursor(text: &str) -> Option<After> {
    let mut parts = text.splitn(4, '/');
    let day = parts.next().filter(|day| day.bytes().all(|b| b.is_ascii_digit()))?;
    let day = Day(day.parse().ok()?);
    let mut part = || parts.next().map(str::to_owned);
    Some(After { day, of: [part()?, part()?, part()?] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controlplane::store::usage::Tokens;

    #[test]
    fn a_cursor_is_read_back() {
        let used = Used {
            day: Day::parse("2026-11-23").unwrap(),
            group: "ann".to_owned(),
            provider: "openrouter".to_owned(),
            model: "openai/gpt-4o/x".to_owned(),
            calls: 1,
            estimated: 0,
            tokens: Tokens::default(),
        };
        let after = cursor(&shown_cursor(&used)).unwrap();
        assert_eq!((after.day, after.of), (used.day, [used.group, used.provider, used.model]));
        for wrong in
            ["", "x", "20000", "20000/a/b", "2026-11-23/a/b/c", "-1/a/b/c", "99999999999999999999/a/b/c"]
        {
            assert_eq!(cursor(wrong), None, "{wrong}");
        }
    }
}
