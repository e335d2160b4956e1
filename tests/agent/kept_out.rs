//! A hostile program in the agent's place, with the model's socket in its hands: it gets answers of its agent's model and
//! nothing else, whatever it writes, and keeps nobody else from theirs.

use serde_json::{Value, json};

use crate::talk::{self, Upstream};
use crate::world::boxes::in_both_back_ends;
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Models, Runtime, User, marker};

in_both_back_ends!(
    nothing_is_asked_for_but_what_is_granted,
    whoever_holds_and_leaves_calls_keeps_nobody_else_from_theirs,
);

const MODEL: &str = "claude-opus-4-8";

/// The headers that the provider sees.
const OURS: [&str; 8] = [
    "x-api-key",
    "host",
    "content-type",
    "content-length",
    "accept",
    "accept-encoding",
    "anthropic-version",
    "user-agent",
];

/// What is taken, as a document.
fn document() -> Value {
    json!({"model": MODEL, "max_tokens": 16, "stream": true, "messages": [{"role": "user", "content": "x"}]})
}

/// A request as it goes over the socket.
fn request(line: &str, headers: &str, body: &str) -> String {
    format!(
        "{line} HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\nconnection: close\r\n{headers}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn post(path: &str) -> String {
    request(&format!("POST {path}"), "", &document().to_string())
}

fn with(headers: &str) -> String {
    request("POST /v1/messages", headers, &document().to_string())
}

fn asking(change: impl FnOnce(&mut Value)) -> String {
    let mut document = document();
    change(&mut document);
    request("POST /v1/messages", "", &document.to_string())
}

/// Every request, and the statuses that it may get.
fn cases(own: &str) -> Vec<(String, &'static [u16])> {
    const NO_ROUTE: &[u16] = &[404];
    const INVALID: &[u16] = &[400];
    let body = document().to_string();
    let hidden = "POST /v1/files HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let raw = |head: &str, body: &str| {
        format!(
            "POST /v1/messages HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\n{head}\r\n{body}"
        )
    };
    vec![
        (post("/v1/messages"), &[200]),
        // Other routes, however they are written.
        (post("/v1/messages/batches"), NO_ROUTE),
        (post("/v1/messages/count_tokens"), NO_ROUTE),
        (post("/v1/models"), NO_ROUTE),
        (post("/v1/files"), NO_ROUTE),
        (post("/v1/chat/completions"), NO_ROUTE),
        (post("/v1/messages/"), NO_ROUTE),
        (post("//v1/messages"), NO_ROUTE),
        (post("/v1//messages"), NO_ROUTE),
        (post("/v1/files/../messages"), NO_ROUTE),
        (post("/v1/%6dessages"), NO_ROUTE),
        (post("/v1/messages%2f..%2ffiles"), NO_ROUTE),
        (post("/v1/messages?beta=true"), NO_ROUTE),
        (post(&format!("/v1/messages?key={own}")), NO_ROUTE),
        (post("/V1/MESSAGES"), NO_ROUTE),
        // Other hosts.
        (post("http://127.0.0.1:22/v1/messages"), NO_ROUTE),
        (post("https://api.anthropic.com/v1/messages"), NO_ROUTE),
        (request("CONNECT 127.0.0.1:22", "", ""), &[400, 404, 405]),
        (with("host: 127.0.0.1:22\r\n"), &[200, 400]),
        (with("x-forwarded-host: evil.example\r\nforwarded: host=evil.example\r\n"), &[200]),
        // Other methods.
        (request("GET /v1/messages", "", ""), &[405]),
        (request("PUT /v1/messages", "", &body), &[405]),
        (request("DELETE /v1/messages", "", ""), &[405]),
        (with("x-http-method-override: DELETE\r\n"), &[200]),
        // Other models.
        (asking(|d| d["model"] = json!("claude-another")), &[403]),
        (asking(|d| d["model"] = json!(format!("{MODEL} "))), &[403]),
        (asking(|d| d["model"] = json!([MODEL])), INVALID),
        (asking(|d| drop(d.as_object_mut().unwrap().remove("model"))), INVALID),
        (
            request("POST /v1/messages", "", &body.replacen('{', "{\"model\":\"claude-another\",", 1)),
            &[400, 403],
        ),
        // What the provider would do for it.
        (asking(|d| d["tools"] = json!([{"type": "web_search_20250305", "name": "web_search"}])), INVALID),
        (
            asking(|d| {
                d["mcp_servers"] = json!([{"type": "url", "url": "https://evil.example", "name": "x"}])
            }),
            INVALID,
        ),
        (asking(|d| d["container"] = json!("x")), INVALID),
        (
            asking(|d| {
                let source = json!({"type": "url", "url": "http://169.254.169.254/latest"});
                d["messages"][0]["content"] = json!([{"type": "image", "source": source}]);
            }),
            INVALID,
        ),
        (asking(|d| d["max_tokens"] = json!(-1)), INVALID),
        (asking(|d| d["unheard_of"] = json!(1)), INVALID),
        // Headers of its own.
        (with(&format!("x-api-key: {own}\r\nauthorization: Bearer {own}\r\n")), &[200]),
        (with("connection: x-api-key, authorization, content-length\r\n"), &[200, 400]),
        (
            with(&format!("anthropic-beta: {own}\r\nanthropic-version: 1999-01-01\r\ncookie: {own}\r\n")),
            &[200],
        ),
        (with(&format!("proxy-authorization: Basic {own}\r\nvia: {own}\r\nx-{own}: 1\r\n")), &[200]),
        (with("accept-encoding: gzip\r\nrange: bytes=0-1\r\nupgrade: h2c\r\n"), &[200]),
        (with("content-encoding: gzip\r\n"), INVALID),
        (with("content-type: text/plain\r\n"), &[200, 400]),
        // Two requests in one, and lengths that contradict each other.
        (
            raw(
                &format!(
                    "connection: close\r\ncontent-length: {}\r\ntransfer-encoding: chunked\r\n",
                    body.len()
                ),
                &chunked,
            ),
            &[200, 400],
        ),
        (
            raw(
                &format!("connection: close\r\ncontent-length: {}\r\ncontent-length: 3\r\n", body.len()),
                &body,
            ),
            INVALID,
        ),
        (raw("transfer-encoding: chunked, identity\r\nconnection: close\r\n", &chunked), INVALID),
        (raw("transfer-encoding: xchunked\r\nconnection: close\r\n", &chunked), INVALID),
        (raw("transfer-encoding: chunked\r\nconnection: close\r\n", &chunked), &[200]),
        (raw(&format!("content-length: {}\r\n", body.len()), &format!("{body}{hidden}")), &[200]),
        (with("x-a: b\r\n c: d\r\n"), INVALID),
        (with("x-a : b\r\n"), INVALID),
        (with("x-a: b\rc: d\r\n"), INVALID),
        (format!("POST /v1/messages HTTP/0.9\r\n\r\n{body}"), &[400, 505]),
        ("\u{0}\u{1}\u{2}".repeat(1000) + "\r\n\r\n", INVALID),
        // Too much.
        (raw("content-length: 9000000\r\nconnection: close\r\n", &body), &[413]),
        (with("x-much: <<a*600000>>\r\n"), &[400, 431]),
        (with("<<x-many: 1\r\n*2000>>"), &[400, 431]),
        (post("/v1/messages?<<a*200000>>"), &[400, 404, 414, 431]),
        // It is still there.
        (post("/v1/messages"), &[200]),
    ]
}

fn nothing_is_asked_for_but_what_is_granted(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let upstreams = [Upstream::named("anthropic")];
    let [upstream] = &upstreams;
    let hostile = format!("sandbox-exe@of-anthropic={}", home.hostile().display());
    let daemon = talk::serve(&home, runtime, &upstreams).fault(hostile).ready();
    talk::agent(&daemon, upstream, &[]);
    let own = marker();
    let cases = cases(&own);
    let mut granted = 0;
    // What fits into one message.
    for some in cases.chunks(8) {
        let lines: Vec<String> = some.iter().map(|(request, _)| json!(request).to_string()).collect();
        // Each on a conversation of its own: a hostile program hears one message.
        let chat =
            daemon.chat("of-anthropic", &marker()).ask(&format!("hostile model-raw\n{}", lines.join("\n")));
        let said: Vec<&str> = chat.lines().collect();
        assert_eq!(said.len(), some.len(), "{said:?}");
        for ((request, expected), said) in some.iter().zip(said) {
            let shown: String = request.chars().take(300).collect();
            let status = said.split(' ').next().unwrap().parse::<u16>().unwrap_or(0);
            assert!(expected.contains(&status), "{said:?}, expected {expected:?}: {shown}");
            granted += usize::from(status == 200);
        }
    }
    // Each answer was asked for once, on the one route, with the operator's headers and no other's.
    let asked = upstream.models.requests();
    assert_eq!(asked.len(), granted);
    for one in &asked {
        assert_eq!(
            (&one["method"], &one["path"], &one["query"]),
            (&json!("POST"), &json!("/v1/messages"), &json!(""))
        );
        assert_eq!(one["headers"]["x-api-key"], upstream.key, "{one}");
        assert_eq!(one["headers"]["host"], upstream.models.address.to_string(), "{one}");
        let names = one["headers"].as_object().unwrap().keys();
        let foreign: Vec<_> = names.filter(|name| !OURS.contains(&name.as_str())).collect();
        assert!(foreign.is_empty(), "{foreign:?}");
        assert_eq!(one["headers"]["anthropic-version"], "2023-06-01");
        assert!(!one.to_string().contains(&own), "{one}");
        assert_eq!(one["refused"], Value::Null);
    }
    // Refusals are in the audit, one record for many; the end of the daemon brings the last of them.
    assert!(daemon.stop().success());
    let daemon = talk::serve(&home, runtime, &upstreams).ready();
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    let refused =
        records.iter().filter(|record| record["act"] == "action.refused" && record["object"] == "model");
    let mut whys: Vec<&str> = refused.map(|record| record["detail"]["why"].as_str().unwrap()).collect();
    whys.sort_unstable();
    whys.dedup();
    assert_eq!(whys, ["invalid", "method", "not_granted", "route", "too_large"]);
    assert!(daemon.stop().success());
}

fn whoever_holds_and_leaves_calls_keeps_nobody_else_from_theirs(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let upstreams = [Upstream::named("anthropic"), Upstream::named("openai")];
    let [watched, other] = &upstreams;
    let hostile = format!("sandbox-exe@of-anthropic={}", home.hostile().display());
    let daemon = talk::serve(&home, runtime, &upstreams).fault(hostile).ready();
    upstreams.iter().for_each(|upstream| talk::agent(&daemon, upstream, &[]));
    let hostile = |mode: &str| daemon.chat("of-anthropic", &marker()).ask(&format!("hostile {mode}"));
    let bystander = |text: &str| bystander(&daemon, &other.models, text);
    bystander("before");
    assert_eq!(hostile("model-slow"), "held");
    bystander("while bodies do not come");
    // Answers that never end by themselves: each is given up at the provider once the sandbox has left it.
    watched.models.will(&json!({"text": "x", "fault": "silence", "times": 100}));
    assert_eq!(hostile(&format!("model-leave 100 {MODEL}")), "100");
    bystander("while calls are left");
    watched.models.wait(100, 100);
    assert_eq!(watched.models.requests().len(), 100);
    let cancelled = || {
        let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
        let of =
            |record: &&Value| record["act"] == "model.called" && record["detail"]["outcome"] == "cancelled";
        records.iter().filter(of).count()
    };
    crate::world::eventually("each is written down", || (cancelled() == 100).then_some(()));
    assert!(daemon.stop().success());
}

/// Somebody else's agent answers.
#[track_caller]
fn bystander(daemon: &Daemon, models: &Models, text: &str) {
    models.say(text);
    assert_eq!(daemon.chat("of-openai", "main").ask("hello"), text);
    assert_eq!(daemon.send(Request::get("/healthz")).status, 200);
}
