//! What the executable says of itself, and its door: versions, help, usage, the open routes and the closed.

use serde_json::json;

use crate::world::http::Request;
use crate::world::{Build, Home, Runtime, Serve, User, marker};

#[test]
fn version_and_help() {
    let home = Home::new(Build::Release, User::Ordinary);
    for words in [&["version"][..], &["--version"], &["ctl", "version"]] {
        let output = home.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(env!("CARGO_PKG_VERSION")), "{output:?}");
    }
    for words in [&["help"][..], &["--help"], &["serve", "--help"], &["ctl", "--help"], &["demo", "--help"]] {
        let output = home.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        assert!(output.stdout.len() > 100, "{words:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    }
}

#[test]
fn the_name_chooses_the_role() {
    let home = Home::new(Build::Release, User::Ordinary);
    for (name, words) in
        [("ironclaw-controlplane", &["--help"][..]), ("ironctl", &["--help"]), ("ironctl", &["version"])]
    {
        let link = home.root.join("bin").join(name);
        if !link.exists() {
            std::os::unix::fs::symlink("ironclaw", &link).unwrap();
        }
        let output = std::process::Command::new(&link).args(words).env_clear().output().unwrap();
        assert!(output.status.success(), "{name}: {output:?}");
    }
    let served = home.run(["serve", "--help"]).stdout;
    let linked = std::process::Command::new(home.root.join("bin/ironclaw-controlplane"))
        .arg("--help")
        .env_clear()
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&served), String::from_utf8_lossy(&linked.stdout));
}

#[test]
fn wrong_words_are_usage_errors_with_one_clear_line() {
    let home = Home::new(Build::Release, User::Ordinary);
    for words in [
        &["frobnicate"][..],
        &["serve", "--no-such-flag"],
        &["serve", "--linger", "soon"],
        &["serve", "--api-addr", "nowhere"],
        &["serve", "--runtime", ""],
        &["serve", "--sandbox-pids", "-1"],
        &["demo", "--no-such-flag"],
        &["demo", "--addr", "0.0.0.0:0"],
        &["serve", "--api-addr", "0.0.0.0:0"],
        &["serve", "--api-behind-proxy"],
        &["serve", "--tls-cert", "x"],
        &["ctl"],
        &["ctl", "frobnicate"],
        &["ctl", "chat"],
        &["sandbox", "--no-such-flag"],
        // Parts that are not in this build are refused as such.
        &["serve", "--mcp-catalog", "x"],
        &["serve", "--egress-allow", "x"],
        &["serve", "--search-backend", "duckduckgo"],
    ] {
        let output = home.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        assert!(!said.trim().is_empty() && !said.contains("panicked"), "{words:?}: {said}");
        assert!(said.trim().lines().count() <= 2, "{words:?}: {said}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let home = Home::new(Build::Release, User::Ordinary);
    let mut child = home.command(["help"]).spawn().unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    std::io::Read::read_to_string(&mut child.stderr.take().unwrap(), &mut stderr).unwrap();
    let status = child.wait().unwrap();
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(status.success(), "{status}: {stderr}");
}

#[test]
fn the_open_routes_need_no_token_and_the_others_do() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(Request::get(path).send(daemon.address).unwrap().status, 200, "{path}");
    }
    let body = json!({"text": "x", "event_id": marker()});
    for token in [None, Some("wrong".to_owned()), Some(format!("{}x", daemon.token()))] {
        let with = |request: Request<'static>| match &token {
            Some(token) => request.token(token),
            None => request,
        };
        for request in [
            Request::get("/v1/sessions"),
            Request::get("/v1/chat/mock-agent/messages"),
            Request::get("/v1/chat/mock-agent/events"),
            Request::post("/v1/chat/mock-agent/messages", &body),
            Request::post("/v1/sessions/ses_x/release", &json!({})),
        ] {
            let path = request.path;
            let answer = with(request).send(daemon.address).unwrap();
            assert_eq!(answer.status, 401, "{path} with {token:?}: {}", answer.text());
            problem(&answer);
        }
    }
    assert_eq!(daemon.send(Request::get("/v1/sessions")).status, 200);
    // The token is never taken from the address, also not beside the right header.
    let path = format!("/v1/sessions?token={}", daemon.token());
    for answer in [Request::get(&path).send(daemon.address).unwrap(), daemon.send(Request::get(&path))] {
        assert!([400, 401].contains(&answer.status), "{}", answer.text());
        problem(&answer);
    }
}

#[test]
fn the_door_refuses_what_no_client_sends() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let path = "/v1/chat/mock-agent/messages";
    let good = json!({"text": "x", "event_id": "e"}).to_string();
    let post = |body: &[u8]| {
        let mut request = Request::post(path, &json!({}));
        request.body = body.to_vec();
        daemon.send(request)
    };
    for bad in [
        &b""[..],
        b"{",
        b"[]",
        b"null",
        b"{} {}",
        b"{\"text\":\"x\",\"text\":\"y\",\"event_id\":\"e\"}",
        b"{\"event_id\":\"e\"}",
        b"{\"text\":1,\"event_id\":\"e\"}",
        b"{\"text\":\"\\ud800\",\"event_id\":\"e\"}",
        b"\xff",
    ] {
        let answer = post(bad);
        assert!((400..500).contains(&answer.status), "{}: {}", answer.status, answer.text());
        problem(&answer);
    }
    let deep = format!("{{\"text\":{}1{},\"event_id\":\"e\"}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!((400..500).contains(&post(deep.as_bytes()).status));
    let foreign_host = daemon.send(Request::get("/v1/sessions").header("Host", "evil.example"));
    assert!((400..500).contains(&foreign_host.status), "{}", foreign_host.text());
    let foreign_origin = daemon.send(Request::get("/v1/sessions").header("Origin", "https://evil.example"));
    assert_eq!(foreign_origin.status, 403, "{}", foreign_origin.text());
    let mut form = Request::post(path, &json!({}));
    form.headers.clear();
    form.body = good.clone().into_bytes();
    let form = form.header("Content-Type", "text/plain");
    assert_eq!(daemon.send(form).status, 415);
    let unknown = daemon.send(Request::get("/v1/no-such-route"));
    assert_eq!(unknown.status, 404);
    problem(&unknown);
    let mut method = Request::get("/v1/sessions");
    method.method = "DELETE";
    assert_eq!(daemon.send(method).status, 405);
    assert_eq!(post(good.as_bytes()).status, 202);
}

/// RFC 9457: a stable code and a sentence.
fn problem(answer: &crate::world::http::Answer) {
    let kind = answer.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("application/problem+json"), "{kind}: {}", answer.text());
    let value = answer.json();
    assert_eq!(value["status"].as_u64(), Some(u64::from(answer.status)), "{value}");
    assert!(value["code"].is_string() || value["type"].is_string(), "{value}");
    assert!(
        value["detail"].as_str().or(value["title"].as_str()).is_some_and(|text| text.len() > 10),
        "{value}"
    );
}
