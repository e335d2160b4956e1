//! What models were asked and answered, in tokens, added up for each day (UTC), agent, provider and model. What an agent
//! may use in a day is held against it, also after the agent was deleted and made anew under its name.

use rusqlite::{Connection, Transaction, params};

use super::{StoreError, rows, stored};
use crate::contract::ids::GroupName;
use crate::contract::time::Millis;

const DAY: i64 = 24 * 60 * 60 * 1000;
/// How long it is kept: a year and some weeks, so that a month can be held against the same one before.
const KEPT_DAYS: i64 = 400;
/// More tokens no call has; what an upstream says is not believed beyond.
const MOST_TOKENS: u64 = 1_000_000_000;

/// A day of the calendar in UTC, counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Day(pub i64);

impl Day {
    /// The day of an instant.
    pub fn of(at: Millis) -> Self {
        Self(at.0.div_euclid(DAY))
    }

    /// When it begins.
    pub fn start(self) -> Millis {
        Millis(self.0.saturating_mul(DAY))
    }

    /// `2026-11-23`.
    pub fn shown(self) -> String {
        self.start().to_rfc3339().chars().take(10).collect()
    }

    /// Reads what [`Day::shown`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 10).then_some(())?;
        Millis::parse(&format!("{text}T00:00:00Z")).map(Self::of)
    }
}

/// The tokens of some calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// What was asked, what came from a cache among it.
    pub input: u64,
    /// What of it came from a cache.
    pub cached: u64,
    /// What was answered.
    pub output: u64,
}

/// One line of the book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The day.
    pub day: Day,
    /// The agent.
    pub group: String,
    /// Who was asked.
    pub provider: String,
    /// For which model.
    pub model: String,
    /// How many calls.
    pub calls: u64,
    /// How many of them have estimated tokens.
    pub estimated: u64,
    /// Their tokens.
    pub tokens: Tokens,
}

/// Adds one call.
///
/// # Errors
/// SQLite's.
pub fn add(
    tx: &Transaction<'_>,
    day: Day,
    group: &GroupName,
    (provider, model): (&str, &str),
    tokens: Tokens,
    is_estimate: bool,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO model_usage VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7, ?8)
               ON CONFLICT DO UPDATE SET calls = calls + 1, estimated = estimated + excluded.estimated,
                 input = input + excluded.input, cached = cached + excluded.cached, output = output + excluded.output";
    let bounded = |count: u64| stored(count.min(MOST_TOKENS));
    tx.prepare_cached(sql)?.execute(params![
        day.0,
        group.as_str(),
        provider,
        model,
        i64::from(is_estimate),
        bounded(tokens.input),
        bounded(tokens.cached),
        bounded(tokens.output)
    ])?;
    Ok(())
}

/// The tokens that an agent has used in a day.
///
/// # Errors
/// SQLite's.
pub fn of_day(conn: &Connection, day: Day, group: &GroupName) -> Result<u64, StoreError> {
    let sql = "SELECT coalesce(sum(input + output), 0) FROM model_usage WHERE day = ?1 AND agent_group = ?2";
    Ok(conn.prepare_cached(sql)?.query_row(params![day.0, group.as_str()], |row| row.get(0))?)
}

/// Where a page goes on: after this line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct After {
    /// Its day.
    pub day: Day,
    /// Its agent, provider and model.
    pub of: [String; 3],
}

/// A page of the book, the newest day first: of an agent or of all, from a day on.
///
/// # Errors
/// SQLite's.
pub fn list(
    conn: &Connection,
    group: Option<&GroupName>,
    from: Day,
    after: Option<&After>,
    limit: usize,
) -> Result<Vec<Used>, StoreError> {
    let sql =
        "SELECT day, agent_group, provider, model, calls, estimated, input, cached, output FROM model_usage
               WHERE (?1 IS NULL OR agent_group = ?1) AND day >= ?2
                 AND (day < ?3 OR (day = ?3 AND (agent_group, provider, model) > (?4, ?5, ?6)))
               ORDER BY day DESC, agent_group, provider, model LIMIT ?7";
    let begin = After { day: Day(i64::MAX), of: [String::new(), String::new(), String::new()] };
    let After { day, of: [agent, provider, model] } = after.unwrap_or(&begin);
    let mut query = conn.prepare_cached(sql)?;
    let read = |row: &rusqlite::Row<'_>| {
        Ok(Used {
            day: Day(row.get(0)?),
            group: row.get(1)?,
            provider: row.get(2)?,
            model: row.get(3)?,
            calls: row.get(4)?,
            estimated: row.get(5)?,
            tokens: Tokens { input: row.get(6)?, cached: row.get(7)?, output: row.get(8)? },
        })
    };
    let values = params![group.map(GroupName::as_str), from.0, day.0, agent, provider, model, rows(limit)];
    Ok(query.query_map(values, read)?.collect::<Result<_, _>>()?)
}

/// Deletes up to `most` lines that are old. Gives how many.
///
/// # Errors
/// SQLite's.
pub fn prune(tx: &Transaction<'_>, now: Millis, most: usize) -> Result<usize, StoreError> {
    let sql = "DELETE FROM model_usage WHERE (day, agent_group, provider, model) IN
               (SELECT day, agent_group, provider, model FROM model_usage WHERE day < ?1 ORDER BY day LIMIT ?2)";
    let oldest = Day::of(now).0.saturating_sub(KEPT_DAYS);
    Ok(tx.prepare_cached(sql)?.execute(params![oldest, rows(most)])?)
}

/// When the next line is old.
///
/// # Errors
/// SQLite's.
pub fn next_old(conn: &Connection) -> Result<Option<Millis>, StoreError> {
    let first: Option<i64> =
        conn.prepare_cached("SELECT min(day) FROM model_usage")?.query_row([], |row| row.get(0))?;
    Ok(first.map(|day| Day(day.saturating_add(KEPT_DAYS + 1)).start()))
}
