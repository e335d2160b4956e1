//! What every answer carries, whatever it says: its number, the headers that keep browsers from making something of it,
//! and its line in the log with who asked.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::hand::{approve, submit};
use crate::world::http::{Answer, Request};
use crate::world::{Build, Daemon, Home, PATIENCE, Runtime, Serve, User};

/// The same on each.
const ALWAYS: [(&str, &str); 4] = [
    ("cache-control", "no-store"),
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
    ("referrer-policy", "no-referrer"),
];

/// The head of an answer that may have no end.
fn head(daemon: &Daemon, path: &str) -> Answer {
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (host, token) = (daemon.address, daemon.token());
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    let status = lines.next().unwrap()[9..12].parse().unwrap();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(": ").unwrap();
        (name.to_lowercase(), value.to_owned())
    });
    Answer { status, headers: headers.collect(), body: Vec::new() }
}

/// Checks an answer's headers and number; gives its line in the log.
#[track_caller]
fn line(daemon: &Daemon, answer: &Answer) -> Value {
    for (name, value) in ALWAYS {
        let found: Vec<&str> =
            answer.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect();
        assert_eq!(found, [value], "{name} of {answer:?}");
    }
    let id = answer.header("x-request-id").unwrap_or_else(|| panic!("no number: {answer:?}"));
    if answer.header("content-type") == Some("application/problem+json") {
        assert_eq!(answer.json()["request_id"], id);
    }
    let of_it = format!("\"request\":\"{id}\"");
    let line = daemon.log.wait_for("of this request", |line| line.contains(&of_it));
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&line["event"], &line["status"]), (&json!("api.request"), &json!(answer.status.to_string())));
    line
}

#[test]
fn every_answer_has_its_number_its_headers_and_a_line_with_who_asked() {
    let home = Home::new(Build::Faults, User::Root);
    let gate = home.root.join("user/no-audit");
    let daemon = Serve::new(&home, Runtime::Native)
        .fault(format!("export-fails={}", gate.display()))
        .flag("--log-level", "debug")
        .ready();
    daemon.chat("mock-agent", "main").ask("hello");
    let me = daemon.get("/v1/whoami");
    let with = |path| Request::get(path).token(&daemon.token());
    let user = json!({"id": "local:ann"});
    std::fs::write(&gate, "").unwrap();
    // Request, status, code, level, and whether it is known who asks.
    let cases = [
        (Request::get("/healthz"), 200, "ok", "debug", false),
        (with("/v1/agents"), 200, "ok", "debug", true),
        (with("/metrics"), 200, "ok", "debug", true),
        (with("/v1/agents/mock-agent"), 200, "ok", "info", true),
        (with("/v1/audit"), 200, "ok", "info", true),
        (with("/v1/audit/verify"), 200, "ok", "info", true),
        (with("/v1/chat/mock-agent/messages"), 200, "ok", "info", true),
        (with("/v1/agents?other=1"), 400, "invalid_request", "info", true),
        (Request::get("/v1/agents"), 401, "unauthorized", "info", false),
        (with("/v1/agents").header("Origin", "http://evil.example"), 403, "cross_site", "info", false),
        (with("/v1/agents/nobody"), 404, "no_such_agent", "info", true),
        (with("/nowhere"), 404, "not_found", "info", false),
        (Request { method: "PUT", ..with("/v1/agents") }, 405, "method_not_allowed", "info", false),
        (with("/v1/agents").header("Host", "evil.example"), 421, "wrong_host", "info", false),
        (Request::post("/v1/users", &user).token(&daemon.token()), 503, "audit_unavailable", "info", true),
    ];
    let mut numbers = std::collections::BTreeSet::new();
    let mut check = |answer: Answer, status, code: &str, level: &str, is_known: bool| {
        assert_eq!(answer.status, status, "{}", answer.text());
        let line = line(&daemon, &answer);
        assert_eq!((&line["code"], &line["level"]), (&json!(code), &json!(level)), "{line}");
        let who = if is_known { (&me["user"], &me["token"]) } else { (&Value::Null, &Value::Null) };
        assert_eq!((&line["user"], &line["token"]), who, "{line}");
        assert!(numbers.insert(line["request"].to_string()), "{line}");
    };
    for (request, status, code, level, is_known) in cases {
        check(request.send(daemon.address).unwrap(), status, code, level, is_known);
    }
    for path in ["/v1/events", "/v1/audit/events", "/v1/chat/mock-agent/events"] {
        let opened = head(&daemon, path);
        assert_eq!(opened.header("content-type"), Some("text/event-stream"), "{opened:?}");
        check(opened, 200, "ok", "info", true);
    }
    assert!(!daemon.log.text().contains(&daemon.token()));
    std::fs::remove_file(&gate).unwrap();
    assert!(daemon.stop().success());
}

/// One agent and the list of all say the same of its tools.
#[test]
fn tools_are_told_in_one_form() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    for (name, tools) in [("none", json!("none")), ("some", json!(["read_file"])), ("all", json!("all"))] {
        let change = submit(&daemon, "create_agent", name, &json!({"tools": tools})).ok();
        assert_eq!(approve(&daemon, &change).status, 200);
        let told = if name == "none" { json!([]) } else { tools };
        assert_eq!(daemon.get(&format!("/v1/agents/{name}"))["tools"], told);
        let list = daemon.get("/v1/agents");
        let listed = list["agents"].as_array().unwrap().iter().find(|agent| agent["name"] == name).unwrap();
        assert_eq!(listed["tools"], told);
    }
    assert!(daemon.stop().success());
}

/// A mistake in the code is a problem document like every other error, and costs nobody else anything.
#[test]
fn a_panic_is_answered_and_the_daemon_goes_on() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).fault("panic-at=/v1/whoami").ready();
    for _ in 0..3 {
        let answer = daemon.send(Request::get("/v1/whoami"));
        assert_eq!((answer.status, answer.header("content-type")), (500, Some("application/problem+json")));
        let problem = answer.json();
        assert_eq!((&problem["type"], &problem["title"]), (&json!("internal"), &json!("Internal error")));
        let id = problem["request_id"].as_str().unwrap().to_owned();
        assert_eq!(answer.header("x-request-id"), Some(id.as_str()));
        for event in ["\"api.panic\"", "\"api.request\""] {
            daemon.log.wait_for("of this request", |line| line.contains(event) && line.contains(&id));
        }
        for (name, value) in ALWAYS {
            assert_eq!(answer.header(name), Some(value));
        }
    }
    assert_eq!(daemon.send(Request::get("/v1/agents")).status, 200);
    assert!(daemon.chat("mock-agent", "main").ask("hello").contains("hello"));
    assert!(daemon.stop().success());
}
