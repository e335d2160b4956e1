//! A ledger of every version that ever was, with a row in each of its tables, is brought up to date and keeps them all;
//! and a step that was released stays as it was.

use std::path::PathBuf;

use rusqlite::Connection;
use rusqlite::types::Value;

use crate::controlplane::keys::LedgerState;
use crate::controlplane::store::migrations;

/// The steps that were released. Add the digest of a new one; never change one that is here: the ledgers that took that
/// step do not take it again.
const RELEASED: [&str; 21] = [
    "041d6b8241d5f57d6780272a2632c6f4bb34ff16fedfc7795b02179b53e97bc1",
    "35c83d459cd3d493c3e8e6be691e27fe894776a8942971ec998f47a17acc5c0f",
    "42c4e62bdc3fb36b99e5229de5140d638e19dae0237a2b14a3066fd9d3df0879",
    "197b54cc18382afd32708c9f8a74d0f865e0c28eaad6197a61b071add9b8178a",
    "70c231a46d75156ba4fc6bafcfa821fc654ff8cb8b46f86066790ff88647dcce",
    "aa5bf8397da98dfa9528387e9dbaeccfe30ce46d6105389c7d0165ea9858dd24",
    "51d24a3e7e4a97f13cfe7460a916cd7dd82f530c2577bc5defaf60763da7c311",
    "d9f3cd4a0160c3e8d07dcd12bc5ed3ecaa67cd1d9d27deb679f5271351a7c643",
    "af4e29ed7a26499aab908637b302ac50a08104ff0e72c44d57420fe0fd062497",
    "061e9cd51e970febf4eb3823a0f8e260aaec8864294054ee74f2b07f1e0832c4",
    "6b80d6cc098a2c24b2410f568cc01f82b648cfe595b265bb35e5a796d2372039",
    "0bd66feefb5c5ed1a389d253d927ace70c858028c31510e2bef1465e9f94d6bc",
    "46b2b648511ec24dd2be0cab3523e1e7a25c4cc7ffd17c913edfe0a1490cf488",
    "3fb7ca60d2a0ad3ffd3f4222489e3d45eef5db92c1618dff7fe347a1bece76e2",
    "d3524310405d5c4f8515cd435727fda90c900d62b805900afab542800c1fbea2",
    "ed0f314a76152992f6d5a1143decf244f4445463db5348999bc4d5bb4da11c99",
    "d720f41cdcadf76690cf1fc879079818327b4241d63e84366a9271efe206747d",
    "d7f265c0d2e18a9b4cde3d93e96bea4a6cf1ef55bc33aea1346020b5ab1e199e",
    "66af173458e6a2d472cf54e9bfe344971745bf0259f241bd72864ec26d1a97b5",
    "af98d3ee3d4f7e9caf7951dcb4c3892ad21ad91db2f8c29c3a80c188bee10d9b",
    "b4664663b2a6a5ab04b86252516b10660e7712c663a512fd99551856756d2ed2",
];

#[test]
fn a_step_that_was_released_is_never_edited() {
    assert_eq!(migrations::digests(), RELEASED);
}

const SESSION: &str = "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV";

/// The version from which a table is there, its name, and a row of it in the columns of that version.
const ROWS: [(usize, &str, &str); 34] = [
    (1, "meta", "(name, value) VALUES ('n', 'v')"),
    (1, "agent_groups", "(name, title, provider, model, tools, host_id, created_at, revision)
        VALUES ('a', 'A', 'mock', 'mock', 'all', 7, 1, 3)"),
    (1, "sessions", "(id, agent_group, channel, instance, chat, thread, epoch, out_cursor, in_seq, parked,
        launch_deaths, wait_reason, open_messages, open_engaging, created_at, last_active)
        VALUES ('SES', 'a', 'api', '', 'main', '', 1, 5, 6, 'p', 2, 'w', 1, 1, 1, 1)"),
    (1, "session_secrets", "(session, sealed, since) VALUES ('SES', x'01', 4)"),
    (1, "history", "(position, session, kind, message, in_reply_to, at) VALUES
        (1, 'SES', 'in', 'm', NULL, 1), (2, 'SES', 'out', 'o', 'm', 2), (3, 'SES', 'notice', 'n', 'm', 3)"),
    (1, "inbox", "(position, id, session, seq, kind, engage, channel, instance, chat, thread, sender_id, sender_name,
        text, source_session, hop, in_reply_to, state, reason, began, deaths, created_at)
        VALUES (1, 'm', 'SES', 2, 'chat', 1, 'api', '', 'main', 't', 'local:owner', 'owner', x'00', 's', 1, 'r', 'open',
        'why', 1, 1, 1)"),
    (1, "events", "(channel, instance, event_id, message, session, position, at)
        VALUES ('api', '', 'e', 'm', 'SES', 1, 1)"),
    (1, "outbox", "(position, id, session, epoch, seq, ordinal, in_reply_to, channel, instance, chat, thread, text,
        created_at) VALUES (2, 'o', 'SES', 1, 3, 0, 'm', 'api', '', 'main', NULL, x'02', 2)"),
    (1, "notices", "(position, id, session, text) VALUES (3, 'n', 'SES', x'03')"),
    (3, "revisions", "(object, revision) VALUES ('agent/a', 3)"),
    (3, "users", "(id, name, created_at) VALUES ('local:owner', 'owner', 1)"),
    (3, "roles", "(user, role, scope, since) VALUES ('local:owner', 'owner', '', 1)"),
    (3, "members", "(agent_group, user, since) VALUES ('a', 'local:owner', 1)"),
    (3, "messaging_groups", "(id, channel, instance, chat, title, created_at) VALUES ('mg', 'api', '', 'c', 't', 1)"),
    (3, "wirings", "(id, agent_group, messaging_group, engage, pattern, senders, ignored, sessions, created_at)
        VALUES ('wr', 'a', 'mg', 'pattern', 'p', 'anyone', 'drop', 'shared', 1)"),
    (3, "changes", "(id, kind, agent_group, state, requested_by, via, label, reason, payload, effects, diff, base, digest,
        idempotency_key, request, submitted_at, expires_at, decided_by, decided_via, decided_at, note, failure, finished_at)
        VALUES ('chg', 'persona', 'a', 'pending', 'agent:a', 'v', 'l', 'r', '{}', '[]', 'd', '{}', 'dg', 'k', 'rq', 1, 2,
        'by', 'dv', 3, 'n', 'f', NULL), ('old', 'persona', 'a', 'applied', 'agent:a', 'v', 'l', 'r', '{}', '[]', 'd', '{}',
        'dg', 'k2', 'rq', 1, 2, 'by', 'dv', 3, 'n', NULL, 4)"),
    (3, "tokens", "(name, user, scopes, digest, created_at, expires_at, revoked_at)
        VALUES ('t', 'local:owner', 'read', x'04', 1, 2, 3)"),
    (3, "audit", "(seq, previous, hash, line) VALUES (1, x'05', x'06', '{}')"),
    (4, "calls", "(session, call, request, change) VALUES ('SES', 'c', 'r', 'chg')"),
    (5, "grants", "(agent_group, kind, name, source, digest, device, inode, since)
        VALUES ('a', 'package', 'p', '1', 'd', NULL, NULL, 1), ('a', 'mount', 'm', '/m', NULL, 1, 2, 1)"),
    (8, "destinations", "(agent_group, name, display_name, messaging_group, thread, created_at)
        VALUES ('a', 'ops', 'Ops', 'mg', 't', 1)"),
    (10, "channel_state", "(channel, instance, name, value) VALUES ('telegram', '', 'offset', '7')"),
    (10, "attention", "(wiring, thread, until) VALUES ('wr', '', 9)"),
    (10, "deliveries", "(position, message, session, channel, instance, chat, thread, quotes, cause, state, part, attempts,
        due, error, receipts, finished_at)
        VALUES (2, 'o', 'SES', 'api', '', 'main', NULL, 'q', 'm', 'waiting', 0, 1, 5, 'e', '', NULL)"),
    (10, "held", "(id, wiring, agent_group, session, channel, instance, chat, thread, sender_id, sender_name, text,
        platform_message, created_at)
        VALUES ('h', 'wr', 'a', 'SES', 'telegram', '', 'c', NULL, 'telegram:1', 'n', x'07', 'p', 1)"),
    (10, "pairings", "(code, change, expires_at) VALUES (x'08', 'chg', 9)"),
    (12, "tasks", "(id, agent_group, session, channel, instance, chat, thread, prompt, recurrence, zone, due, until, count,
        misfire, state, reason, runs, last_run, last_message, created_by, created_at, revision, call, request)
        VALUES ('tsk', 'a', 'SES', 'api', '', 'main', 't', x'09', 'hourly', 'UTC', 9, 10, 3, 'skip', 'active', 'w', 1, 2,
        'm', 'agent:a', 1, 1, 'c', 'r')"),
    (13, "attachments", "(message, ordinal, session, content, name, source, mime, size, state, reason, attempts, due)
        VALUES ('m', 0, 'SES', 'm/0', x'09', x'0a', 'text/plain', 1, 'here', '', 1, 2)"),
    (13, "attachment_chunks", "(content, chunk, bytes) VALUES ('m/0', 0, x'0b')"),
    (17, "questions", "(id, session, message, channel, instance, chat, thread, content, state, created_at, expires_at,
        ended_at, ended_by, answer, has_buttons, call, request) VALUES ('q', 'SES', 'o', 'telegram', '', 'c', 't', x'01',
        'answered', 1, 2, 3, 'telegram:1', 'msg', 1, 'k', 'rq')"),
    (18, "approval_chats", "(user, channel, instance, chat, failure, since) VALUES ('telegram:1', 'telegram', '', '1', 'f', 1)"),
    (18, "approval_cards", "(number, change, user, channel, instance, chat, message, shown, edits, receipt, is_over)
        VALUES (1, 'chg', 'telegram:1', 'telegram', '', '1', 'm', 's', 2, 'r', 0)"),
    (19, "happenings", "(kind, object, agent_group, session, channel, instance, chat, thread, what, detail, at)
        VALUES ('question', 'q', 'a', 'SES', 'telegram', '', 'c', 't', 'answered', 'telegram:1', 3)"),
    (21, "model_usage", "(day, agent_group, provider, model, calls, estimated, input, cached, output)
        VALUES (20780, 'a', 'openai', 'm', 2, 1, 30, 4, 5)"),
];

fn tables(conn: &Connection) -> Vec<String> {
    let sql =
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
    let mut query = conn.prepare(sql).unwrap();
    query.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn columns(conn: &Connection, table: &str) -> Vec<String> {
    let mut query = conn.prepare("SELECT name FROM pragma_table_info(?1)").unwrap();
    query.query_map([table], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

fn rows(conn: &Connection, table: &str, columns: &[String]) -> Vec<Vec<Value>> {
    let sql = format!("SELECT {} FROM {table} ORDER BY 1, 2", columns.join(", "));
    let mut query = conn.prepare(&sql).unwrap();
    let rows = query.query_map([], |row| (0..columns.len()).map(|at| row.get(at)).collect()).unwrap();
    rows.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_row_in_every_table_of_every_version_is_kept() {
    let path = PathBuf::from("control.db");
    let latest = usize::try_from(migrations::steps()).unwrap();
    for version in 1..=latest {
        let mut conn = Connection::open_in_memory().unwrap();
        conn.pragma_update(None, "foreign_keys", true).unwrap();
        migrations::as_of(&conn, version);
        for (_, table, row) in ROWS.iter().filter(|(since, ..)| *since <= version) {
            let row = row.replace("SES", SESSION);
            conn.execute_batch(&format!("INSERT INTO {table} {row}")).unwrap();
        }
        let before: Vec<_> = tables(&conn)
            .into_iter()
            .map(|table| {
                let columns = columns(&conn, &table);
                let rows = rows(&conn, &table, &columns);
                assert!(!rows.is_empty(), "version {version}: no row for {table}");
                (table, columns, rows)
            })
            .collect();
        migrations::bring_up_to_date(&mut conn, &path, LedgerState::Made).unwrap();
        for (table, columns, expected) in before {
            assert_eq!(rows(&conn, &table, &columns), expected, "{table} of version {version}");
        }
        let broken: i64 =
            conn.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |row| row.get(0)).unwrap();
        assert_eq!(broken, 0, "version {version}");
    }
}
