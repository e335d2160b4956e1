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
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, marker, size};

/// For thousands of requests on a busy machine.
const TIME: Duration = Duration::from_secs(600);

/// How a refusal is described.
const PROBLEM: Option<&str> = Some("application/problem+json");

/// What has no end and cannot be waited for.
const STREAMS: &str = "/events$";

/// What is walked to no success: there must be a session that is parked, a code that somebody was told in a chat, a
/// message that a platform would not take, or files that disagree with the ledger.
const UNREACHED: &[&str] = &[
    "POST /v1/sessions/{id}/release",
    "POST /v1/pairings",
    "POST /v1/deliveries/{id}/retry",
    "POST /v1/deliveries/{id}/discard",
    "POST /v1/audit/acknowledge",
];

/// What it is told. Many requests with a wrong token get 429 and not 401, which is tested by itself; nor can the
/// document say that a time is to come.
const SETTINGS: &str = r#"
headers = { Authorization = "Bearer ${IRONCLAW_API_TOKEN}" }

[checks]
ignored_auth.enabled = false
missing_required_header.enabled = false

# A body that is too large for one that says nothing is refused for that.
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, "5xx"]

# Eight kinds, and much in each of them.
[[operations]]
include-name = "POST /v1/changes"
generation.max-examples = 100

[[operations]]
include-name = "POST /v1/tokens"
checks.positive_data_acceptance.enabled = false

# A number that ends with .0 is none here.
[[operations]]
include-name = "POST /v1/agents/{name}"
checks.positive_data_acceptance.enabled = false

# When is said in a language of its own, and of that the document says little.
[[operations]]
include-name = "POST /v1/tasks"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-name = "POST /v1/tasks/{id}"
checks.positive_data_acceptance.enabled = false

# Where somebody can be shown things depends on the platform on which they are.
[[operations]]
include-name = "POST /v1/users/{id}/approvals"
checks.positive_data_acceptance.enabled = false

# Wrong codes are soon too many.
[[operations]]
include-name = "POST /v1/pairings"
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
    // An account, so that there is a chat in which people can be shown things.
    let secret = marker().repeat(3);
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--log-level", "debug")
        .env("IRONCLAW_WEBHOOK_SECRET", &secret)
        .ready();
    // Something of each sort that ids can name.
    let session = daemon.chat("mock-agent", "main").say("hello").session_id;
    daemon.send(Request::post("/v1/users", &json!({"id": "local:ann", "name": "Ann"}))).ok();
    for text in ["one", "two"] {
        let change = json!({"kind": "persona", "group": "dev-agent", "payload": {"instructions": text}});
        daemon.send(Request::post("/v1/changes", &change)).ok();
    }
    let quiet = submit(&daemon, "create_agent", "quiet", &json!({"tools": "none"})).ok();
    approve(&daemon, &quiet).ok();
    let undone = undone(&home, &daemon);
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/openapi.yaml");
    // The token comes by the environment: arguments are everybody's to read.
    let settings = home.root.join("user/schemathesis.toml");
    let walk = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/walk.py");
    std::fs::write(&settings, format!("hooks = \"{walk}\"\n{SETTINGS}")).unwrap();
    let mut command = Command::new(schemathesis());
    command
        .args(["--config-file", &settings.display().to_string()])
        .args(["run", document, "--url", &format!("http://{}", daemon.address)])
        .args(["--exclude-path-regex", STREAMS, "--max-examples"])
        .arg(size("IRONCLAW_TEST_EXAMPLES", 20).to_string())
        .args(["--seed", &size("IRONCLAW_TEST_SEED", 1).to_string()])
        .args(["--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--no-color"])
        .current_dir(home.root.join("user"))
        .env("IRONCLAW_API_TOKEN", daemon.token())
        .env("IRONCLAW_TEST_TOKEN_NAME", daemon.get("/v1/whoami")["token"].as_str().unwrap())
        .env("IRONCLAW_TEST_ADDRESS", format!("http://{}", daemon.address))
        .env("IRONCLAW_TEST_SESSION", session)
        .env("IRONCLAW_TEST_UNDONE", undone)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = finish_within(command.spawn().unwrap(), TIME);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let unreached: Vec<String> =
        operations().into_iter().filter(|operation| !succeeded(&daemon, operation)).collect();
    assert_eq!(unreached, UNREACHED, "{said}");
    // It is still there, and nothing in it broke.
    assert_eq!(daemon.get("/v1/audit/verify")["ok"], true);
    assert!(!daemon.log.contains("panic"), "{}", daemon.log.text());
    assert!(daemon.stop().success());
}

/// A change that is approved and not done, because what was approved is not there any more.
fn undone(home: &Home, daemon: &Daemon) -> String {
    let package = home.state().join("packages/tools@1.0");
    std::fs::create_dir_all(&package).unwrap();
    std::fs::write(package.join("readme"), "first").unwrap();
    let change = submit(daemon, "packages", "dev-agent", &json!({"add": ["tools@1.0"]})).ok();
    std::fs::write(package.join("readme"), "second").unwrap();
    let approved = approve(daemon, &change).ok();
    assert_eq!(approved["state"], "approved", "{approved}");
    approved["id"].as_str().unwrap().to_owned()
}

/// Method and template of every operation that has an end.
fn operations() -> Vec<String> {
    all_operations().into_iter().filter(|operation| !operation.ends_with("/events")).collect()
}

/// Method and template of every operation of the document.
pub(crate) fn all_operations() -> Vec<String> {
    let (mut path, mut found) = ("", Vec::new());
    let document = include_str!("../../schema/openapi.yaml");
    for line in document.lines().take_while(|line| *line != "components:") {
        let Some(word) = line.strip_suffix(':') else { continue };
        match (word.len() - word.trim_start().len(), word.trim_start()) {
            (2, template) => path = template,
            (4, method @ ("get" | "post" | "delete")) => {
                found.push(format!("{} {path}", method.to_uppercase()));
            }
            _ => {}
        }
    }
    assert!(found.len() > 30, "{found:?}");
    found
}

/// Whether the log has a success of an operation.
fn succeeded(daemon: &Daemon, operation: &str) -> bool {
    let (method, template) = operation.split_once(' ').unwrap();
    daemon.log.any(|line| {
        let Ok(line) = serde_json::from_str::<serde_json::Value>(line) else { return false };
        let (Some(path), Some(status)) = (line["path"].as_str(), line["status"].as_str()) else {
            return false;
        };
        let fits = |(asked, word): (&str, &str)| asked == word || word.starts_with('{');
        // One that is named itself is no name of something.
        let is_named =
            path != template && operations().iter().any(|other| other.ends_with(&format!(" {path}")));
        line["method"] == method
            && !is_named
            && status.starts_with('2')
            && path.split('/').count() == template.split('/').count()
            && path.split('/').zip(template.split('/')).all(fits)
    })
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
