//! Every route of the document before its gates: no page of another site, no other host's name, no form and no token
//! without the scope comes through any of them, and nothing is done for who is turned away.

use serde_json::json;

use crate::hand::submit;
use crate::reach::person;
use crate::routes::all_operations;
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User};

/// The scope that each operation takes, written down once more, so that none changes by mistake. `open` takes no token,
/// `any` takes every one.
const SCOPES: &[(&str, &str)] = &[
    ("GET /healthz", "open"),
    ("GET /readyz", "open"),
    ("GET /metrics", "metrics"),
    ("GET /v1/whoami", "any"),
    ("GET /v1/events", "any"),
    ("GET /v1/agents", "read"),
    ("GET /v1/agents/{name}", "read"),
    ("POST /v1/agents/{name}", "operate"),
    ("DELETE /v1/agents/{name}", "operate"),
    ("GET /v1/agents/{name}/members", "read"),
    ("GET /v1/wirings", "read"),
    ("GET /v1/destinations", "read"),
    ("GET /v1/destinations/check", "read"),
    ("GET /v1/messaging_groups", "read"),
    ("GET /v1/channels", "read"),
    ("POST /v1/routes/test", "read"),
    ("POST /v1/pairings", "approve"),
    ("GET /v1/deliveries", "read"),
    ("POST /v1/deliveries/{id}/retry", "operate"),
    ("POST /v1/deliveries/{id}/discard", "operate"),
    ("GET /v1/tasks", "read"),
    ("POST /v1/tasks", "operate"),
    ("GET /v1/tasks/{id}", "read"),
    ("POST /v1/tasks/{id}", "operate"),
    ("DELETE /v1/tasks/{id}", "operate"),
    ("POST /v1/tasks/{id}/run", "operate"),
    ("GET /v1/usage", "read"),
    ("GET /v1/questions", "read"),
    ("GET /v1/questions/{id}", "read"),
    ("POST /v1/questions/{id}/answer", "chat"),
    ("POST /v1/questions/{id}/cancel", "operate"),
    ("POST /v1/changes", "operate"),
    ("GET /v1/changes/pending", "read"),
    ("GET /v1/changes/history", "read"),
    ("GET /v1/changes/{id}", "read"),
    ("POST /v1/changes/{id}/decision", "approve"),
    ("POST /v1/changes/{id}/withdraw", "operate"),
    ("POST /v1/changes/{id}/retry", "approve"),
    ("GET /v1/users", "read"),
    ("POST /v1/users", "admin"),
    ("DELETE /v1/users/{id}", "admin"),
    ("POST /v1/users/{id}/approvals", "admin"),
    ("DELETE /v1/users/{id}/approvals", "admin"),
    ("GET /v1/roles", "read"),
    ("GET /v1/tokens", "admin"),
    ("POST /v1/tokens", "admin"),
    ("DELETE /v1/tokens/{name}", "admin"),
    ("GET /v1/sessions", "read"),
    ("GET /v1/sessions/{id}", "read"),
    ("POST /v1/sessions/{id}/release", "operate"),
    ("DELETE /v1/sessions/{id}", "operate"),
    ("GET /v1/chat/{agent}/messages", "chat"),
    ("POST /v1/chat/{agent}/messages", "chat"),
    ("GET /v1/chat/{agent}/events", "chat"),
    ("GET /v1/audit", "read"),
    ("GET /v1/audit/events", "read"),
    ("GET /v1/audit/verify", "read"),
    ("POST /v1/audit/acknowledge", "admin"),
];

/// What belongs to no agent in particular: a role for one agent does not reach it.
const GLOBAL: &[&str] = &[
    "/metrics",
    "/v1/messaging_groups",
    "/v1/channels",
    "/v1/users",
    "/v1/roles",
    "/v1/tokens",
    "/v1/audit",
];

const ALL: [&str; 6] = ["read", "operate", "approve", "admin", "metrics", "chat"];

fn scope(operation: &str) -> &'static str {
    let found = SCOPES.iter().find(|(known, _)| *known == operation);
    found.unwrap_or_else(|| panic!("{operation} has no scope in this test")).1
}

/// The operation, on something that is there where anything of its sort is.
fn asked<'a>(daemon: &Daemon, operation: &'a str, change: &str, session: &str) -> (&'a str, String) {
    let (method, template) = operation.split_once(' ').unwrap();
    let id = if template.starts_with("/v1/changes") { change } else { session };
    let id = if template.starts_with("/v1/users") { "local:ann" } else { id };
    let name = if template.starts_with("/v1/tokens") {
        daemon.get("/v1/whoami")["token"].as_str().unwrap().to_owned()
    } else {
        "dev-agent".to_owned()
    };
    (method, template.replace("{id}", id).replace("{name}", &name).replace("{agent}", "dev-agent"))
}

/// A body that the operation would take, where it takes one.
fn body(method: &str, path: &str, digest: &str) -> Vec<u8> {
    let body = match path {
        _ if method != "POST" => return Vec::new(),
        "/v1/changes" => json!({"kind": "persona", "group": "dev-agent", "payload": {"soul": "x"}}),
        "/v1/users" => json!({"id": "local:eve"}),
        "/v1/tokens" => json!({"name": "eve"}),
        "/v1/routes/test" => json!({"channel": "webhook", "chat": "ops", "sender": "webhook:ann"}),
        "/v1/tasks" => json!({"group": "dev-agent", "prompt": "x", "every": "1h"}),
        _ if path.ends_with("/answer") => json!({"option": 1}),
        _ if path.starts_with("/v1/tasks/") && !path.ends_with("/run") => json!({"state": "paused"}),
        "/v1/pairings" => json!({"code": "AAAA-AAAA"}),
        _ if path.ends_with("/messages") => json!({"text": "x", "event_id": "e"}),
        _ if path.ends_with("/decision") => json!({"outcome": "approve", "digest": digest}),
        _ if path.starts_with("/v1/agents/") => json!({"title": "x"}),
        _ => return Vec::new(),
    };
    body.to_string().into_bytes()
}

#[test]
fn no_route_is_open_to_pages_names_forms_or_tokens_that_are_not_its_own() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).flag("--token-rate", "0").ready();
    let admin = json!({"grant": [{"user": "local:ann", "role": "admin"}]});
    let narrow = person(&daemon, "local:ann", "mock-agent", &admin);
    let chat = daemon.chat("dev-agent", "main");
    assert!(chat.ask("hello").contains("hello"));
    let session = daemon.get("/v1/sessions")["sessions"][0]["id"].as_str().unwrap().to_owned();
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": "kind"})).ok();
    let (id, digest) = (change["id"].as_str().unwrap(), change["digest"].as_str().unwrap());
    let owner = daemon.token();
    let tokens: Vec<(&str, String)> = ALL
        .iter()
        .map(|scope| {
            let body = json!({"name": format!("only-{scope}"), "scopes": [scope], "days": 1});
            let made = daemon.send(Request::post("/v1/tokens", &body)).ok();
            (*scope, made["token"].as_str().unwrap().to_owned())
        })
        .collect();
    let weight = || {
        let all = daemon.get("/v1/audit?limit=1000");
        let acts = all["records"].as_array().unwrap().iter().map(|record| record["act"].clone());
        let records = acts.filter(|act| act != "login.failed").count();
        (records, daemon.get("/v1/changes/pending"), chat.history().len(), daemon.get("/v1/agents/dev-agent"))
    };
    let before = weight();
    let operations = all_operations();
    assert_eq!(operations.len(), SCOPES.len());
    for operation in &operations {
        let (method, path) = asked(&daemon, operation, id, &session);
        let send = |token: &str, headers: &[(&'static str, &str)], body: Vec<u8>| {
            let mut request = Request { method, path: &path, headers: Vec::new(), body };
            for (name, value) in headers {
                request = request.header(name, *value);
            }
            let answer = request.token(token).send(daemon.address).unwrap();
            let document = answer.json();
            (answer.status, document["type"].as_str().unwrap_or_default().to_owned())
        };
        let json = ("Content-Type", "application/json");
        for body in [Vec::new(), body(method, &path, digest)] {
            for header in [
                ("Origin", "https://evil.example"),
                ("Origin", "null"),
                ("Sec-Fetch-Site", "cross-site"),
                ("Sec-Fetch-Site", "same-site"),
            ] {
                let refused = send(&owner, &[json, header], body.clone());
                assert_eq!(refused, (403, "cross_site".to_owned()), "{operation} {header:?}");
            }
            // A name that was bound to this address meanwhile.
            for host in ["evil.example", "localhost.evil.example:8787"] {
                let refused = send(&owner, &[json, ("Host", host)], body.clone());
                assert_eq!(refused, (421, "wrong_host".to_owned()), "{operation} {host}");
            }
        }
        if method == "POST" {
            for kind in ["application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain"]
            {
                let filled = body(method, &path, digest);
                let filled = if filled.is_empty() { b"{}".to_vec() } else { filled };
                let refused = send(&owner, &[("Content-Type", kind)], filled);
                assert_eq!(refused.0, 415, "{operation} {kind}: {refused:?}");
            }
        }
        let wanted = scope(operation);
        if wanted == "open" {
            continue;
        }
        let refused = send("nobody-s", &[json], body(method, &path, digest));
        assert!([401, 429].contains(&refused.0), "{operation}: {refused:?}");
        for (scope, token) in tokens.iter().filter(|(scope, _)| wanted != "any" && *scope != wanted) {
            let refused = send(token, &[json], body(method, &path, digest));
            assert_eq!(refused, (403, "forbidden".to_owned()), "{operation} with {scope}");
        }
        // With all scopes and a role for one agent: nothing of all agents, and nothing of another one.
        let is_global = GLOBAL.iter().any(|global| path.starts_with(global));
        if is_global {
            let refused = send(&narrow, &[json], body(method, &path, digest));
            assert_eq!(refused, (403, "forbidden".to_owned()), "{operation} with a role for one agent");
        } else if operation.contains('{') {
            let refused = send(&narrow, &[json], body(method, &path, digest));
            assert!([403, 404].contains(&refused.0), "{operation} of another agent: {refused:?}");
        }
    }
    assert_eq!(weight(), before, "something was done");
    // And who has the scope comes through.
    for operation in operations.iter().filter(|operation| !operation.ends_with("/events")) {
        let (method, path) =
            asked(&daemon, operation, "chg_01ARZ3NDEKTSV4RRFFQ69G5FAV", "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV");
        let path = path.replace("dev-agent", "nobody").replace("local:ann", "local:nobody");
        let path = if method == "DELETE" { path.replace("/v1/tokens/", "/v1/tokens/no-") } else { path };
        let token = tokens.iter().find(|(scope, _)| *scope == self::scope(operation));
        let Some((scope, token)) = token else { continue };
        let request = Request { method, path: &path, headers: Vec::new(), body: Vec::new() };
        let answer = request.token(token).send(daemon.address).unwrap();
        assert!(![401, 403].contains(&answer.status), "{operation} with {scope}: {}", answer.text());
    }
    assert!(daemon.stop().success());
}
