//! Where secrets turn up: canaries in every place that a secret belongs to, looked for in every place that it does
//! not: the log, answers, errors, the audit files, arguments and environments of all processes, and the state on disk.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::world::canaries::{Canaries, clean, look_at_answers, look_at_files, look_at_processes};
use crate::world::home::finish;
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, marker};

/// The one that an operator may give by the environment.
const TOKEN: &str = "the first token";

fn bytes_of(hex: &str) -> Vec<u8> {
    hex.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Requests that go wrong in every way that involves a secret.
fn provoke(daemon: &Daemon, canaries: &Canaries, wrong: &str) {
    let mut answers = Vec::new();
    let mut send = |request: Request<'_>| answers.push(request.send(daemon.address).unwrap());
    for path in ["/v1/whoami", "/v1/changes/pending", "/v1/audit", "/metrics", "/nowhere"] {
        send(Request::get(path).token(wrong));
        send(Request::get(path).header("Authorization", format!("Basic {wrong}")));
        send(Request::get(path).header("Authorization", format!("Bearer {wrong} {wrong}")));
        send(Request::get(&format!("{path}?token={wrong}")).token(&daemon.token()));
        send(Request::get(path).token(&daemon.token()).header("X-Api-Key", wrong));
        send(Request::get(path).token(&daemon.token()).header("Cookie", format!("session={wrong}")));
    }
    for (path, body) in [
        ("/v1/tokens", json!({"name": "ok", "token": wrong})),
        ("/v1/tokens", json!({"name": "ok", "days": wrong})),
        ("/v1/changes", json!({"kind": "persona", "group": "mock-agent", "payload": {}, "key": wrong})),
        ("/v1/chat/mock-agent/messages", json!({"text": 7, "event_id": wrong})),
    ] {
        send(Request::post(path, &body).token(&daemon.token()));
    }
    for (path, body) in
        [("/v1/changes", format!("{{\"token\": \"{wrong}\"")), ("/v1/users", wrong.to_owned())]
    {
        let mut request = Request::post(path, &json!({})).token(&daemon.token());
        request.body = body.into_bytes();
        send(request);
    }
    for answer in answers {
        let head: String = answer.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        clean(canaries, "an answer's head", head.as_bytes());
        clean(canaries, &format!("an answer: {}", answer.status), &answer.body);
    }
}

/// One life of a control plane: with keys and a token of its own making, or with those that its operator gives.
fn life(runtime: Runtime, own: bool) {
    let home = Home::new(Build::Release, User::Root);
    let (given, wrong) = (marker() + &marker(), marker() + &marker());
    let (said, passphrase) = (format!("said-{}", marker()), marker() + &marker());
    let mut serve = Serve::new(&home, runtime).flag("--log-level", "debug");
    if !own {
        let file = home.root.join("user/passphrase");
        fs::write(&file, &passphrase).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        serve = serve
            .env("IRONCLAW_API_TOKEN", &given)
            .flag("--master-passphrase-file", file.display().to_string());
    }
    let daemon = serve.ready();
    let token = daemon.token();
    let made = Request::post("/v1/tokens", &json!({"name": "made", "scopes": ["read", "chat"]}));
    let made = daemon.send(made).ok()["token"].as_str().unwrap().to_owned();
    let mut canaries: Canaries = BTreeMap::from([
        (TOKEN, token.clone().into_bytes()),
        ("a token that was made", made.clone().into_bytes()),
        ("a token that is wrong", wrong.clone().into_bytes()),
    ]);
    if own {
        let master = fs::read_to_string(home.state().join("master.key")).unwrap().trim().to_owned();
        canaries.insert("the master key", bytes_of(&master));
        canaries.insert("the master key in digits", master.into_bytes());
    } else {
        canaries.insert("the passphrase", passphrase.into_bytes());
    }
    provoke(&daemon, &canaries, &wrong);
    for held in [&token, &made] {
        assert!(look_at_answers(&daemon, held, &canaries) > 60);
    }

    // A sandbox that lives: its arguments and environment, those of its helpers, and the control plane's.
    assert!(daemon.chat("mock-agent", "main").ask(&said).contains(&said));
    assert!(look_at_processes(&home, &canaries, &[TOKEN]) > 1, "no sandbox runs");

    let address = format!("http://{}", daemon.address);
    for words in
        [&["agent", "list"][..], &["whoami"], &["status"], &["change", "show", "x"], &["token", "list"]]
    {
        for held in [&token, &made, &wrong] {
            let mut command = home.command([&["ctl", "--addr", &address], words].concat());
            let output = finish(command.env("IRONCLAW_API_TOKEN", held).spawn().unwrap());
            clean(&canaries, &format!("ctl {words:?}"), &output.stdout);
            clean(&canaries, &format!("the errors of ctl {words:?}"), &output.stderr);
        }
    }

    // What was said is theirs who talk: it is in no log, no record and, as it is, in no file.
    canaries.insert("what was said", said.into_bytes());
    clean(&canaries, "the audit over HTTP", daemon.get("/v1/audit?limit=1000").to_string().as_bytes());
    clean(&canaries, "the metrics", daemon.send(Request::get("/metrics")).text().as_bytes());
    let log = daemon.log.clone();
    assert!(daemon.stop().success());
    assert!(log.contains("api.request"), "the log holds no access: {}", log.text());
    clean(&canaries, "the log", log.text().as_bytes());
    // Where they belong.
    let own = ["lib/state/api-token", "lib/state/master.key", "user/passphrase"];
    assert!(look_at_files(&home, &canaries, &own) > 4);
}

#[test]
fn inv_101_no_secret_is_where_it_does_not_belong_gvisor() {
    life(Runtime::Gvisor, true);
    life(Runtime::Gvisor, false);
}

#[test]
fn inv_101_no_secret_is_where_it_does_not_belong_native() {
    life(Runtime::Native, true);
    life(Runtime::Native, false);
}

/// The key of a certificate of its own making is in its file and nowhere else.
#[test]
fn inv_101_the_key_of_the_certificate_stays_in_its_file() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).flag("--tls", "self-signed").start();
    daemon.log.wait_for("it listens", |line| line.contains("api.listening"));
    let line = daemon.log.wait_for("its fingerprint", |line| line.contains("api.certificate\""));
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let key = fs::read(home.state().join("tls/key.der")).unwrap();
    // PKCS #8 of a P-256 key: the secret's 32 octets follow the tag and length of the octet string that holds them.
    let at = key.windows(2).position(|window| window == [0x04, 0x20]).expect("a P-256 key");
    let canaries: Canaries = BTreeMap::from([("the certificate's key", key[at + 2..at + 34].to_vec())]);
    let address = format!("https://{}", daemon.address);
    let words =
        ["ctl", "--addr", &address, "--tls-fingerprint", line["sha256"].as_str().unwrap(), "agent", "list"];
    let output = finish(home.command(words).env("IRONCLAW_API_TOKEN", daemon.token()).spawn().unwrap());
    assert!(output.status.success(), "{output:?}");
    clean(&canaries, "ctl", &output.stdout);
    look_at_processes(&home, &canaries, &[TOKEN]);
    let log = daemon.log.clone();
    assert!(daemon.stop().success());
    clean(&canaries, "the log", log.text().as_bytes());
    look_at_files(&home, &canaries, &["lib/state/tls/key.der"]);
}
