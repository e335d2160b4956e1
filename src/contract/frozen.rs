//! The freeze: what is pinned here is a promise to files and processes of another version. A change to any
//! of it needs an entry in `schema/README.md` (date, what, why, how both sides migrate) and then the new
//! digest or bytes here.

use std::path::PathBuf;

use ring::digest::{SHA256, digest};

use super::action::{Action, Outcome};
use super::cipher::{self, ConveyorFile, Role, SessionSecret};
use super::frame::{FromSandbox, HelloSeq, ToSandbox};
use super::inbound::{self, Place, SessionConfig, Usage};
use super::json::Value;
use super::outbound;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn golden(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("schema/golden").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_schemas_have_not_changed() {
    assert_eq!(
        hex(digest(&SHA256, inbound::SCHEMA.as_bytes()).as_ref()),
        "d4e4f2e76e9f4608bce61d4de6229767deac2f25cc6a9b5f7c376e371f463a21",
        "schema/inbound.sql changed"
    );
    assert_eq!(
        hex(digest(&SHA256, outbound::SCHEMA.as_bytes()).as_ref()),
        "559027ef9ea881c396f442554405b5c25049ebf93b3ebe2f66c906753323741a",
        "schema/outbound.sql changed"
    );
}

#[test]
fn the_frames_have_not_changed() {
    let mut lines = String::new();
    for frame in [
        FromSandbox::Hello { version: 1, seq: HelloSeq::Minted(41) },
        FromSandbox::Hello { version: 1, seq: HelloSeq::Lost },
        FromSandbox::Out(43),
        FromSandbox::Ack(44),
        FromSandbox::Alive("model".to_owned()),
    ] {
        lines.push_str(&frame.encode());
    }
    for frame in [ToSandbox::Welcome(41), ToSandbox::In(44), ToSandbox::Ack(43), ToSandbox::Stop] {
        lines.push_str(&frame.encode());
    }
    assert_eq!(lines, golden("doorbell.txt"));
}

#[test]
fn the_envelopes_have_not_changed() {
    let action = Action {
        name: "list_tasks".to_owned(),
        call: "toolu_1".to_owned(),
        arguments: Value::object([("limit", Value::from(5u64))]),
    };
    let outcome = Outcome {
        name: "list_tasks".to_owned(),
        call: "toolu_1".to_owned(),
        ok: false,
        result: Value::from("unsupported_here"),
    };
    let config = SessionConfig {
        agent: "mock-agent".to_owned(),
        persona: "Plain.".to_owned(),
        provider: "mock".to_owned(),
        model: "mock".to_owned(),
        max_tokens: 4096,
        turn_seconds: 600,
        tools: Some(vec!["read_file".to_owned()]),
        usage: Usage { bytes: 1, files: 2, bytes_limit: 3, files_limit: 4 },
        places: vec![Place { at: "/mnt/notes".to_owned(), is_writable: true }],
    };
    let lines = format!("{}\n{}\n{}\n", action.encode(), outcome.encode(), config.encode());
    assert_eq!(lines, golden("envelopes.jsonl"));
    assert_eq!(Action::parse(action.encode().as_bytes()).unwrap(), action);
    assert_eq!(Outcome::parse(outcome.encode().as_bytes()).unwrap(), outcome);
    assert_eq!(SessionConfig::parse(config.encode().as_bytes()).unwrap(), config);
}

#[test]
fn the_keys_and_the_cipher_have_not_changed() {
    let secret = SessionSecret::from_bytes([7; 32]);
    let key = secret.sandbox_key();
    let mut lines = format!("sandbox {}\ntext {}\n", hex(key.as_bytes()), hex(&secret.text_key()));
    for (name, file) in [
        ("inbound.db", ConveyorFile::Inbound),
        ("outbound.db", ConveyorFile::Outbound),
        ("session.db", ConveyorFile::Session),
    ] {
        lines.push_str(&format!("{name} {}\n", hex(key.file_key(file).as_bytes())));
    }
    let path = std::env::temp_dir().join(format!("frozen-{}.db", super::ids::SessionId::mint()));
    let connection =
        cipher::open(&path, &key.file_key(ConveyorFile::Outbound), Role::SandboxOutbound).unwrap();
    let mut settings = connection.prepare("PRAGMA cipher_settings").unwrap();
    let mut rows = settings.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        lines.push_str(&row.get::<_, String>(0).unwrap());
        lines.push('\n');
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(lines, golden("cipher.txt"));
}
