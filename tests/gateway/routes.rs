//! The interface against its own document, judged by somebody else's program: Schemathesis reads `schema/openapi.yaml`
//! and sends each operation what it allows, what it forbids and what nobody expects; every answer must be one that the
//! document describes. Streams, whose answers do not end, are walked by hand.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::hand::{approve, submit};
use crate::world::home::finish_within;
use crate::world::http::{Events, Request};
use crate::world::{Build, Home, Runtime, Serve, User, size};

/// For thousands of requests on a busy machine.
const TIME: Duration = Duration::from_secs(600);

/// How a refusal is described.
const PROBLEM: Option<&str> = Some("application/problem+json");

/// What has no end and cannot be waited for.
const STREAMS: &str = "/events$";

/// Its own token is in the list of tokens; it would find it and revoke it.
const REVOKING: &str = "/v1/tokens/{name}";

/// What it is told. Many requests with a wrong token get 429 and not 401, which is tested by itself; and what a
/// payload of each kind may hold is said in the manual and not in the document, nor can it say that a time is to come.
const SETTINGS: &str = r#"
headers = { Authorization = "Bearer ${IRONCLAW_API_TOKEN}" }

[checks]
ignored_auth.enabled = false
missing_required_header.enabled = false

[[operations]]
include-path = "/v1/changes"
include-method = "POST"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path = "/v1/tokens"
include-method = "POST"
checks.positive_data_acceptance.enabled = false
"#;

/// The program, in the environment that `tests/run` makes.
fn schemathesis() -> String {
    let python = std::env::var("IRONCLAW_TEST_PYTHON").expect("tests/run sets IRONCLAW_TEST_PYTHON");
    let program = Path::new(&python).with_file_name("st");
    assert!(program.exists(), "{} is not there; tests/run installs it", program.display());
    program.display().to_string()
}

#[test]
fn every_answer_is_one_that_the_document_describes() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    // Something of each sort that ids can name.
    daemon.chat("mock-agent", "main").ask("hello");
    daemon.send(Request::post("/v1/users", &json!({"id": "local:ann", "name": "Ann"}))).ok();
    for text in ["one", "two"] {
        let change = json!({"kind": "persona", "group": "dev-agent", "payload": {"instructions": text}});
        daemon.send(Request::post("/v1/changes", &change)).ok();
    }
    let quiet = submit(&daemon, "create_agent", "quiet", &json!({"tools": "none"})).ok();
    approve(&daemon, &quiet).ok();
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/openapi.yaml");
    // The token comes by the environment: arguments are everybody's to read.
    let settings = home.root.join("user/schemathesis.toml");
    std::fs::write(&settings, SETTINGS).unwrap();
    let mut command = Command::new(schemathesis());
    command
        .args(["--config-file", &settings.display().to_string()])
        .args(["run", document, "--url", &format!("http://{}", daemon.address)])
        .args(["--exclude-path-regex", STREAMS, "--exclude-path", REVOKING, "--max-examples"])
        .arg(size("IRONCLAW_TEST_EXAMPLES", 20).to_string())
        .args(["--seed", &size("IRONCLAW_TEST_SEED", 1).to_string()])
        .args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color"])
        .current_dir(home.root.join("user"))
        .env("IRONCLAW_API_TOKEN", daemon.token())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = finish_within(command.spawn().unwrap(), TIME);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // It is still there, and nothing in it broke.
    assert_eq!(daemon.get("/v1/audit/verify")["ok"], true);
    assert!(!daemon.log.contains("panic"), "{}", daemon.log.text());
    assert!(daemon.stop().success());
}

/// The streams: what they send at first, and what they refuse.
#[test]
fn streams_answer_as_the_document_describes() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    daemon.chat("mock-agent", "main").ask("hello");
    let document = include_str!("../../schema/openapi.yaml");
    let templates: Vec<&str> = document
        .lines()
        .filter_map(|line| line.strip_prefix("  /")?.strip_suffix(':'))
        .filter(|path| path.ends_with("/events"))
        .collect();
    assert!(templates.len() > 1, "{templates:?}");
    for template in templates {
        let path = format!("/{}", template.replace("{agent}", "mock-agent"));
        drop(Events::open(Request::get(&path).token(&daemon.token()), daemon.address));
        let long = "9".repeat(4000);
        for last in ["", "-1", "x", "1 2", "0x10", "99999999999999999999", long.as_str()] {
            let answer = daemon.send(Request::get(&path).header("Last-Event-ID", last));
            assert_eq!((answer.status, answer.header("content-type")), (400, PROBLEM), "{path} {last:?}");
        }
        for query in ["?nonsense=1", "?after=x&after=1", "?after=-1", "?token=x", "?after=%zz", "?after=%00"]
        {
            let answer = daemon.send(Request::get(&format!("{path}{query}")));
            assert_eq!((answer.status, answer.header("content-type")), (400, PROBLEM), "{path}{query}");
        }
        for method in ["POST", "DELETE", "PUT", "PATCH"] {
            let answer = daemon.send(Request { method, ..Request::post(&path, &json!({})) });
            assert_eq!((answer.status, answer.header("content-type")), (405, PROBLEM), "{method} {path}");
            assert_eq!(answer.header("allow"), Some("GET"), "{method} {path}");
        }
    }
    assert!(daemon.stop().success());
}
