//! A token or a role that ends while a request is on its way: what counts is the moment of the act.

use serde_json::{Value, json};

use crate::hand::{approve, decide, submit};
use crate::world::http::{Held, Request};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User};

/// Makes a token for somebody and gives it.
#[track_caller]
fn token(daemon: &Daemon, user: &str, name: &str) -> String {
    let scopes = ["read", "operate", "approve", "admin", "metrics", "chat"];
    let body = json!({"name": name, "user": user, "scopes": scopes, "days": 1});
    daemon.send(Request::post("/v1/tokens", &body)).ok()["token"].as_str().unwrap().to_owned()
}

/// Every act that has a body, begun with this token and judged as far as its head goes.
fn begun(daemon: &Daemon, token: &str, change: &Value) -> Vec<(&'static str, Held)> {
    let id = change["id"].as_str().unwrap();
    let decision = format!("/v1/changes/{id}/decision");
    let approval = json!({"outcome": "approve", "digest": change["digest"]});
    let asked = json!({"kind": "persona", "group": "dev-agent", "payload": {"soul": "asked"}});
    let acts = [
        ("approve", decision.as_str(), approval),
        ("reject", decision.as_str(), json!({"outcome": "reject"})),
        ("submit", "/v1/changes", asked),
        ("token", "/v1/tokens", json!({"name": "successor", "scopes": ["read"]})),
        ("user", "/v1/users", json!({"id": "local:eve"})),
        ("agent", "/v1/agents/dev-agent", json!({"title": "Eve"})),
        ("chat", "/v1/chat/dev-agent/messages", json!({"text": "hello", "event_id": "late", "chat": "late"})),
    ];
    let begin = |(name, path, body): (_, &str, Value)| {
        (name, Request::post(path, &body).token(token).hold(daemon.address))
    };
    acts.into_iter().map(begin).collect()
}

#[track_caller]
fn nothing_was_done(daemon: &Daemon, change: &Value, begun: Vec<(&'static str, Held)>) {
    for (name, held) in begun {
        let answer = held.finish();
        assert!(matches!(answer.status, 401 | 403), "{name}: {} {}", answer.status, answer.text());
    }
    let pending = daemon.get("/v1/changes/pending")["changes"].as_array().unwrap().clone();
    assert_eq!(pending.len(), 1, "{pending:?}");
    assert_eq!((&pending[0]["id"], &pending[0]["state"]), (&change["id"], &json!("pending")));
    assert_eq!(daemon.get("/v1/agents/dev-agent")["title"], "Dev Agent");
    let tokens = daemon.get("/v1/tokens")["tokens"].to_string();
    assert!(!tokens.contains("successor"), "{tokens}");
    assert!(!daemon.get("/v1/users").to_string().contains("local:eve"));
    assert_eq!(daemon.chat("dev-agent", "late").history(), []);
}

#[test]
fn inv_037_what_ends_meanwhile_ends_what_is_on_its_way() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    assert!(daemon.send(Request::post("/v1/users", &json!({"id": "local:ann"}))).status < 300);
    let role = json!({"grant": [{"user": "local:ann", "role": "owner"}]});
    assert_eq!(approve(&daemon, &submit(&daemon, "permissions", "dev-agent", &role).ok()).status, 200);
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": "waiting"})).ok();
    // The token ends.
    let held = begun(&daemon, &token(&daemon, "local:ann", "stolen"), &change);
    let revoke = Request { method: "DELETE", ..Request::get("/v1/tokens/stolen") };
    daemon.send(revoke).ok();
    nothing_was_done(&daemon, &change, held);
    // The role ends, by a change that is decided meanwhile.
    let held = begun(&daemon, &token(&daemon, "local:ann", "valid"), &change);
    let role = json!({"revoke": [{"user": "local:ann", "role": "owner"}]});
    let revoke = submit(&daemon, "permissions", "mock-agent", &role).ok();
    assert_eq!(approve(&daemon, &revoke).status, 200);
    nothing_was_done(&daemon, &change, held);
    // Whose right still holds is answered.
    let reject = decide(&daemon, change["id"].as_str().unwrap(), &json!({"outcome": "reject"}));
    assert_eq!(reject.status, 200);
    assert!(daemon.stop().success());
}
