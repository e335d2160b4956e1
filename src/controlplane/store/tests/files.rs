//! The file itself: what is in it, and what is said when it is not what it was.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::PathBuf;

use rusqlite::Connection;

use super::{Scratch, World, claim, keyring};
use crate::contract::cipher::{self, FileKey, Role};
use crate::contract::ids::{GroupName, MessageId};
use crate::controlplane::keys::LedgerState;
use crate::controlplane::state::StateDir;
use crate::controlplane::store::{
    Ledger, StoreError, changes, grants, groups, limits, meta, migrations, sessions,
};

/// A state directory whose ledger was made, filled, and closed.
fn made() -> (Scratch, StateDir) {
    let scratch = Scratch::new();
    let state = claim(&scratch);
    let ledger = Ledger::open(&state, &keyring(&state)).unwrap();
    for at in 0..20 {
        ledger
            .write_blocking(crate::controlplane::store::Step::Other, move |tx| {
                meta::set(tx, &format!("value {at}"), &"x".repeat(4000))
            })
            .unwrap();
    }
    ledger.stop();
    drop(ledger);
    (scratch, state)
}

fn open(state: &StateDir) -> Result<Ledger, StoreError> {
    Ledger::open(state, &keyring(state))
}

fn content(state: &StateDir) -> Vec<u8> {
    fs::read(state.join("control.db")).unwrap()
}

#[test]
fn the_golden_schema_is_what_the_steps_make() {
    let world = World::new();
    let made: Vec<String> = world.read(|conn| {
        let sql =
            "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid";
        let mut query = conn.prepare(sql)?;
        let lines: Result<Vec<String>, _> = query.query_map([], |row| row.get(0))?.collect();
        Ok(lines?)
    });
    let made = made.join(";\n") + ";\n";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema/control.sql");
    let golden = fs::read_to_string(&path).unwrap_or_default();
    assert!(made == golden, "schema/control.sql is not what the steps make, which is:\n{made}");
    let version: i64 = world.read(|conn| Ok(conn.query_row("PRAGMA user_version", [], |row| row.get(0))?));
    assert_eq!(version, migrations::steps());
}

/// From every version that ever was: the tables are those of now, and what was there is still there.
#[test]
fn an_older_ledger_is_brought_up_to_date_and_keeps_what_it_holds() {
    let schema = |conn: &Connection| -> Vec<(String, Option<String>)> {
        let mut query = conn.prepare("SELECT name, sql FROM sqlite_schema ORDER BY name").unwrap();
        let rows = query.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    let path = PathBuf::from("control.db");
    let mut now = Connection::open_in_memory().unwrap();
    migrations::bring_up_to_date(&mut now, &path, LedgerState::Making).unwrap();
    let latest = usize::try_from(migrations::steps()).unwrap();
    for version in 1..=latest {
        let mut conn = Connection::open_in_memory().unwrap();
        migrations::as_of(&conn, version);
        conn.execute_batch(
            "INSERT INTO agent_groups (name, title, provider, model, tools, host_id, created_at, revision)
                 VALUES ('a', 'A', 'mock', 'mock', 'all', 7, 1, 3);
             INSERT INTO sessions (id, agent_group, channel, instance, chat, thread, epoch, out_cursor, in_seq, parked,
                 launch_deaths, wait_reason, open_messages, open_engaging, created_at, last_active) VALUES
                 ('ses_01ARZ3NDEKTSV4RRFFQ69G5FAV', 'a', 'api', '', 'main', '', 1, 5, 6, NULL, 0, NULL, 1, 1, 1, 1);
             INSERT INTO history VALUES (1, 'ses_01ARZ3NDEKTSV4RRFFQ69G5FAV', 'in', 'm', NULL, 1);
             INSERT INTO inbox (position, id, session, seq, kind, engage, channel, instance, chat, thread, sender_id,
                 sender_name, text, source_session, hop, in_reply_to, state, reason, began, deaths, created_at)
                 VALUES (1, 'm', 'ses_01ARZ3NDEKTSV4RRFFQ69G5FAV', NULL, 'chat', 1, 'api', '', 'main',
                 NULL, 'local:owner', 'owner', x'00', NULL, 0, NULL, 'open', NULL, 0, 0, 1);",
        )
        .unwrap();
        let knows_changes = version >= 3;
        if knows_changes {
            conn.execute_batch(
                "INSERT INTO changes (id, kind, agent_group, state, requested_by, via, label, reason, payload, effects,
                     diff, base, digest, request, submitted_at, expires_at, note)
                 SELECT value, 'persona', 'a', iif(value = 'z', 'applied', 'pending'), 'agent:a', '', '', '', '{}', '[]',
                     '', '{}', '', '', 1, 2, '' FROM json_each('[\"x\", \"y\", \"z\"]')",
            )
            .unwrap();
        }
        migrations::bring_up_to_date(&mut conn, &path, LedgerState::Made).unwrap();
        assert_eq!(schema(&conn), schema(&now), "from version {version}");
        let pending = if knows_changes { 2 } else { 0 };
        assert_eq!(changes::pending_of(&conn, "agent:a").unwrap(), pending, "from version {version}");
        let group = groups::get(&conn, &GroupName::parse("a").unwrap()).unwrap().unwrap();
        assert_eq!((group.title.as_str(), group.host_id, group.revision), ("A", Some(7), 3));
        assert_eq!((group.persona, group.deleted_at), (groups::Persona::default(), None));
        assert_eq!(group.limits, limits::GroupLimits::default(), "from version {version}");
        assert_eq!(sessions::owed(&conn).unwrap().len(), 1, "from version {version}");
        let broken: i64 =
            conn.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0)).unwrap();
        assert_eq!(broken, 0);
    }
}

/// Grants of before there were records count, but for those of a change that is not done: it gives them when it is.
#[test]
fn the_grants_of_an_older_ledger_count_if_their_change_is_done() {
    let mut conn = Connection::open_in_memory().unwrap();
    migrations::as_of(&conn, 5);
    let change = |id: &str, state: &str, name: &str, digest: &str| {
        let effects = format!(
            r#"[{{"effect":"set_package","group":"a","name":"{name}","package":{{"digest":"{digest}"}}}}]"#
        );
        conn.execute(
            "INSERT INTO changes (id, kind, agent_group, state, requested_by, via, label, reason, payload, effects,
                 diff, base, digest, request, submitted_at, expires_at, note)
             VALUES (?1, 'packages', 'a', ?2, '', '', '', '', '', ?3, '', '', '', '', 1, 2, '')",
            [id, state, &effects],
        )
        .unwrap();
    };
    conn.execute_batch(
        "INSERT INTO agent_groups (name, title, provider, model, tools, host_id, created_at, revision)
             VALUES ('a', 'A', 'mock', 'mock', 'all', 7, 1, 3);
         INSERT INTO grants VALUES ('a', 'package', 'done', '1', 'x', NULL, NULL, 1);
         INSERT INTO grants VALUES ('a', 'package', 'waits', '1', 'y', NULL, NULL, 1);
         INSERT INTO grants VALUES ('a', 'package', 'newer', '2', 'z', NULL, NULL, 1);
         INSERT INTO grants VALUES ('a', 'mount', 'waits', NULL, NULL, NULL, NULL, 1);",
    )
    .unwrap();
    change("1", "applied", "done", "x");
    change("2", "approved", "waits", "y");
    change("3", "approved", "newer", "older");
    let path = PathBuf::from("control.db");
    migrations::bring_up_to_date(&mut conn, &path, LedgerState::Made).unwrap();
    let (counted, waiting) = grants::recorded(&conn, &GroupName::parse("a").unwrap(), 0).unwrap();
    assert_eq!(
        counted.iter().map(|grant| grant.name.as_str()).collect::<Vec<_>>(),
        ["waits", "done", "newer"]
    );
    assert!(waiting.is_empty());
}

#[test]
fn nothing_is_in_plain_on_disk_not_even_to_who_reads_the_ledger() {
    let world = World::new();
    let canary = format!("canary-{}", MessageId::mint());
    let accepted = world.accept("main", &format!("event {canary}"), &canary);
    let mut seen = 0;
    for entry in fs::read_dir(world.state.path()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(bytes) = fs::read(&path) else { continue };
        seen += bytes.len();
        let marker = canary.as_bytes();
        assert!(!bytes.windows(marker.len()).any(|window| window == marker), "{}", path.display());
    }
    assert!(seen > 20_000, "the log was there and read");
    let sealed: Vec<u8> =
        world.read(|conn| Ok(conn.query_row("SELECT text FROM inbox", [], |row| row.get(0))?));
    assert!(!sealed.windows(canary.len()).any(|window| window == canary.as_bytes()));
    assert!(world.page_texts(&accepted.session).contains(&canary));
    for name in ["control.db", "control.db-wal", "control.db-shm", "keystore", "master.key"] {
        let mode = fs::metadata(world.state.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
}

impl World {
    fn page_texts(&self, session: &super::SessionId) -> Vec<String> {
        let page =
            self.read(|conn| crate::controlplane::store::history::page(conn, &self.keyring, session, 0, 10));
        page.into_iter().filter_map(|entry| entry.text).collect()
    }
}

#[test]
fn it_is_found_again_as_it_was() {
    let (_scratch, state) = made();
    let ledger = open(&state).unwrap();
    assert_eq!(ledger.read_blocking(|conn| meta::get(conn, "value 7")).unwrap(), Some("x".repeat(4000)));
}

#[test]
fn a_missing_ledger_is_missed_only_after_it_was_made() {
    let (_scratch, state) = made();
    fs::remove_file(state.join("control.db")).unwrap();
    let error = open(&state).unwrap_err();
    assert!(matches!(error, StoreError::Missing(_)), "{error}");
    assert!(error.to_string().contains("restore it from a backup"));
    assert!(!state.join("control.db").exists());

    // A first start that ended between the keystore and the ledger, or in the middle of making it.
    for leave in [None, Some(""), Some("empty database")] {
        let scratch = Scratch::new();
        let state = claim(&scratch);
        let first = keyring(&state);
        match leave {
            None => {}
            Some("") => fs::write(state.join("control.db"), b"").unwrap(),
            Some(_) => drop(
                cipher::open(&state.join("control.db"), &first.ledger_key(), Role::LedgerWriter).unwrap(),
            ),
        }
        let again = keyring(&state);
        assert_eq!(again.ledger_state(), LedgerState::Making);
        open(&state).unwrap().stop();
        assert_eq!(keyring(&state).ledger_state(), LedgerState::Made);
    }
}

#[test]
fn a_ledger_cut_anywhere_is_refused_and_left_alone() {
    let (_scratch, state) = made();
    let path = state.join("control.db");
    let whole = content(&state);
    assert!(whole.len() > 100_000);
    for length in [0, 1, 100, 4095, 4096, 8192, whole.len() / 2, whole.len() - 4096, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        fs::write(state.join("control.db-wal"), b"").unwrap();
        let opened = open(&state).map(|ledger| ledger.stop());
        let Err(error) = opened else { panic!("{length} of {} bytes were taken", whole.len()) };
        assert!(matches!(error, StoreError::Damaged { .. }), "{length}: {error:?}");
        assert!(error.to_string().contains("control.db"));
        assert!(content(&state) == whole[..length], "{length}: it was written to");
    }
    fs::write(&path, &whole).unwrap();
    open(&state).unwrap();
}

#[test]
fn a_log_beside_an_emptied_ledger_is_not_deleted() {
    let (_scratch, state) = made();
    fs::write(state.join("control.db"), b"").unwrap();
    fs::write(state.join("control.db-wal"), b"the last of it").unwrap();
    assert!(matches!(open(&state), Err(StoreError::Damaged { .. })));
    assert_eq!(fs::read(state.join("control.db-wal")).unwrap(), b"the last of it");
}

#[test]
fn a_damaged_or_foreign_file_is_refused_and_left_alone() {
    let (_scratch, state) = made();
    let path = state.join("control.db");
    let whole = content(&state);
    let mut first_page = whole.clone();
    first_page[2000] ^= 1;
    let plain = b"SQLite format 3\0".repeat(1024);
    let other = {
        let path = state.join("other.db");
        let connection = cipher::open(&path, &FileKey::from_bytes([9; 32]), Role::HostInbound).unwrap();
        connection.execute_batch("CREATE TABLE t (x)").unwrap();
        fs::read(&path).unwrap()
    };
    for bytes in [first_page, plain, other, vec![0; 65536]] {
        fs::write(&path, &bytes).unwrap();
        let error = open(&state).map(|ledger| ledger.stop()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(content(&state) == bytes, "it was written to");
    }
    // A page that the start does not read fails the reader that does, and nobody else.
    let mut later_page = whole;
    let last = later_page.len() - 2000;
    later_page[last] ^= 1;
    fs::write(&path, &later_page).unwrap();
    let ledger = open(&state).unwrap();
    let all = ledger.read_blocking(|conn| {
        Ok(conn.query_row("SELECT sum(length(value)) FROM meta", [], |row| row.get::<_, i64>(0))?)
    });
    assert!(matches!(all, Err(StoreError::Sqlite(_))), "{all:?}");
}

#[test]
fn a_link_in_its_place_is_refused() {
    let (_scratch, state) = made();
    fs::rename(state.join("control.db"), state.join("moved.db")).unwrap();
    std::os::unix::fs::symlink("moved.db", state.join("control.db")).unwrap();
    assert!(matches!(open(&state), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_later_version_is_refused() {
    let (_scratch, state) = made();
    let key = keyring(&state).ledger_key();
    let connection = cipher::open(&state.join("control.db"), &key, Role::LedgerWriter).unwrap();
    connection.pragma_update(None, "user_version", 999).unwrap();
    drop(connection);
    let error = open(&state).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 999, .. }), "{error:?}");
}

#[test]
fn tables_of_something_else_are_refused() {
    let scratch = Scratch::new();
    let state = claim(&scratch);
    let key = keyring(&state).ledger_key();
    let connection = cipher::open(&state.join("control.db"), &key, Role::LedgerWriter).unwrap();
    connection.execute_batch("CREATE TABLE mine (x)").unwrap();
    drop(connection);
    assert!(matches!(open(&state), Err(StoreError::Damaged { .. })));
}

#[test]
fn a_log_that_was_not_yet_moved_is_read_after_a_crash() {
    let scratch = Scratch::new();
    let state = claim(&scratch);
    let ledger = open(&state).unwrap();
    let step = crate::controlplane::store::Step::Other;
    ledger.write_blocking(step, |tx| meta::set(tx, "kept", "yes")).unwrap();
    // What a crash leaves: both files as they are now, with nobody closing them.
    let (file, log) = (content(&state), fs::read(state.join("control.db-wal")).unwrap());
    assert!(!log.is_empty());
    ledger.stop();
    drop(ledger);
    fs::write(state.join("control.db"), file).unwrap();
    fs::write(state.join("control.db-wal"), log).unwrap();
    let _ = fs::remove_file(state.join("control.db-shm"));
    let ledger = open(&state).unwrap();
    assert_eq!(ledger.read_blocking(|conn| meta::get(conn, "kept")).unwrap().as_deref(), Some("yes"));
    drop(ledger);
    let _ = fs::File::open(state.join("control.db")).unwrap().read_at(&mut [0; 1], 0);
}
