//! The ledger's schema, step by step: each step is one transaction, and `user_version` counts the steps
//! taken. `schema/control.sql` is what they lead to; a test compares the two.

mod capabilities;
mod people;

use std::path::Path;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::StoreError;
use crate::controlplane::keys::LedgerState;

struct Step {
    /// For the error of a step that fails.
    name: &'static str,
    sql: &'static str,
}

/// Never edit a step that was released: add one to the last file.
fn all() -> impl Iterator<Item = &'static Step> {
    capabilities::STEPS.iter().chain(people::STEPS)
}

/// Runs the steps that are missing.
pub(super) fn bring_up_to_date(
    connection: &mut Connection,
    path: &Path,
    ledger: LedgerState,
) -> Result<(), StoreError> {
    let damaged = |wrong: &str| StoreError::Damaged { path: path.to_path_buf(), wrong: wrong.to_owned() };
    let read = |sql: &str| {
        connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(|error| {
            match error.sqlite_error_code() {
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                    damaged("it is cut short or damaged")
                }
                _ => error.into(),
            }
        })
    };
    let found = read("PRAGMA user_version")?;
    let known = i64::try_from(all().count()).unwrap_or(i64::MAX);
    if found > known {
        return Err(StoreError::Newer { path: path.to_path_buf(), found, known });
    }
    if found < 0 || (found == 0 && read("SELECT count(*) FROM sqlite_schema")? > 0) {
        return Err(damaged("it holds tables that are not a ledger's"));
    }
    if found == 0 && ledger == LedgerState::Made {
        return Err(damaged("it is empty, and was not"));
    }
    for (version, step) in (1..).zip(all()).skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        let version: i64 = version;
        let taken = (|| {
            let tx = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
            tx.execute_batch(step.sql)?;
            tx.pragma_update(None, "user_version", version)?;
            tx.commit()
        })();
        taken.map_err(|error| match StoreError::from(error) {
            StoreError::Sqlite(error) => StoreError::Sqlite(format!("step {:?}: {error}", step.name)),
            other => other,
        })?;
    }
    Ok(())
}

#[cfg(test)]
pub(super) fn steps() -> i64 {
    i64::try_from(all().count()).unwrap()
}

/// A ledger as the first so many steps made it.
#[cfg(test)]
pub(super) fn as_of(connection: &Connection, version: usize) {
    for step in all().take(version) {
        connection.execute_batch(step.sql).unwrap();
    }
    connection.pragma_update(None, "user_version", i64::try_from(version).unwrap()).unwrap();
}

/// What each step says, as SHA-256.
#[cfg(test)]
pub(super) fn digests() -> Vec<String> {
    use crate::contract::chain;
    all().map(|step| chain::hex(&chain::hash(step.sql))).collect()
}
