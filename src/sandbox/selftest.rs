//! What a runtime must be able to run before a conversation is trusted to it: threads, an encrypted database, and
//! the sandbox's own seal, in the place where a real sandbox would be. Some versions of gVisor start a program
//! well and die under exactly this load. Touches `/session` and `/tmp` inside the sandbox.

use std::fmt;
use std::path::{Path, PathBuf};
use std::thread;

use super::harden;
use crate::contract::cipher::{self, ConveyorFile, Role, SessionKey};
use crate::contract::paths;

/// What it prints when everything worked.
pub const OK: &str = "ok";

/// Threads that write at the same time.
const THREADS: usize = 4;

/// Transactions of each.
const TRANSACTIONS: usize = 25;

/// Why a self-test failed.
#[derive(Debug)]
pub struct SelfTestError(String);

impl fmt::Display for SelfTestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "self-test: {}", self.0)
    }
}

impl std::error::Error for SelfTestError {}

fn failed(doing: &str) -> impl FnOnce(String) -> SelfTestError {
    let doing = doing.to_owned();
    move |error| SelfTestError(format!("{doing}: {error}"))
}

/// Runs it: before and after the seal, in several threads at once. Prints [`OK`].
pub fn run(key: &SessionKey) -> Result<(), SelfTestError> {
    load(key, &directory(paths::SESSION_DIR))?;
    harden::seal().map_err(|error| SelfTestError(error.to_string()))?;
    load(key, &directory(paths::TMP))?;
    println!("{OK}");
    Ok(())
}

fn directory(path: &str) -> PathBuf {
    Path::new(path).join("self-test")
}

fn load(key: &SessionKey, directory: &Path) -> Result<(), SelfTestError> {
    std::fs::create_dir_all(directory).map_err(|e| failed("making a directory")(e.to_string()))?;
    let results: Vec<Result<(), SelfTestError>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let path = directory.join(format!("{n}.db"));
                scope.spawn(move || write_database(key, &path))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(SelfTestError("a thread panicked".into()))))
            .collect()
    });
    results.into_iter().collect::<Result<(), _>>()?;
    std::fs::remove_dir_all(directory).map_err(|e| failed("removing a directory")(e.to_string()))
}

fn write_database(key: &SessionKey, path: &Path) -> Result<(), SelfTestError> {
    let sql = |error: rusqlite::Error| failed("writing a database")(error.to_string());
    let mut database = cipher::open(path, &key.file_key(ConveyorFile::Session), Role::SandboxSession)
        .map_err(|error| failed("opening a database")(error.to_string()))?;
    database.execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)").map_err(sql)?;
    for n in 0..TRANSACTIONS {
        let transaction = database.transaction().map_err(sql)?;
        transaction.execute("INSERT INTO t VALUES (?1, ?2)", (n as i64, "x".repeat(500))).map_err(sql)?;
        transaction.commit().map_err(sql)?;
    }
    let rows: i64 = database.query_row("SELECT count(*) FROM t", (), |row| row.get(0)).map_err(sql)?;
    if rows == TRANSACTIONS as i64 { Ok(()) } else { Err(SelfTestError(format!("{rows} rows were left"))) }
}
