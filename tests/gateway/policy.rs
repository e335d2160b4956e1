//! The operator's policy and what the host does by itself: whose file it may be, what is recorded of it, and what a first
//! start makes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::process::Command;

use serde_json::{Value, json};

use crate::hand::run;
use crate::reach::{approver, person};
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User};

fn records(daemon: &Daemon, act: &str) -> Vec<Value> {
    let all = daemon.get("/v1/audit?limit=1000");
    all["records"].as_array().unwrap().iter().rev().filter(|record| record["act"] == act).cloned().collect()
}

/// Whoever may write it decides what is approved.
#[test]
fn a_policy_that_others_may_write_is_refused() {
    let home = Home::new(Build::Release, User::Root);
    let file = home.root.join("user/policy.json");
    fs::write(&file, "{}").unwrap();
    let refused = |says: &str| {
        let mut command = home.command(["serve", "--dev", "--runtime", "native"]);
        command.arg("--state-dir").arg(home.state()).arg("--policy").arg(&file);
        let output = run(command);
        let line = String::from_utf8(output.stderr).unwrap();
        let last = line.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(last.contains(says) && last.contains("policy.json"), "{line}");
    };
    for mode in [0o620, 0o602, 0o666] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        refused("other users may write it; run chmod go-w");
    }
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    chown(&file, Some(12345), None).unwrap();
    refused("belongs to user id 12345");
    // It is the file that a link leads to.
    let real = home.root.join("user/real.json");
    fs::rename(&file, &real).unwrap();
    symlink(&real, &file).unwrap();
    let mut command = home.command(["serve", "--dev", "--runtime", "native"]);
    command.arg("--state-dir").arg(home.state()).arg("--policy").arg(&file);
    assert_eq!(run(command).status.code(), Some(1));
    chown(&real, Some(0), None).unwrap();
    let daemon = Serve::new(&home, Runtime::Native).flag("--policy", file.display().to_string()).ready();
    assert!(daemon.stop().success());
}

/// What counted when is in the audit: the policy of each start, by its digest.
#[test]
fn each_start_records_the_digest_of_its_policy() {
    let home = Home::new(Build::Release, User::Root);
    let file = home.root.join("user/policy.json");
    let mut digests = Vec::new();
    for text in ["", "{}", r#"{"four_eyes":true}"#] {
        fs::write(&file, text).unwrap();
        let serve = Serve::new(&home, Runtime::Native);
        let daemon = match text {
            "" => serve.ready(),
            _ => serve.flag("--policy", file.display().to_string()).ready(),
        };
        let output = Command::new("sha256sum").arg(&file).output().unwrap();
        let digest = String::from_utf8(output.stdout).unwrap()[..64].to_owned();
        let digest = if text.is_empty() { String::new() } else { digest };
        assert!(daemon.log.contains(&digest));
        assert_eq!(daemon.log.contains("\"policy.read\""), !text.is_empty());
        digests.push(json!(digest));
        let recorded: Vec<Value> = records(&daemon, "daemon.started")
            .into_iter()
            .map(|record| record["detail"]["policy"].clone())
            .collect();
        assert_eq!(recorded, digests);
        assert!(daemon.stop().success());
    }
}

/// The agents of `--dev`, the first owner and the first token are recorded as what the host made, once.
#[test]
fn what_a_first_start_makes_is_recorded() {
    let home = Home::new(Build::Release, User::Root);
    for _ in 0..2 {
        let daemon = Serve::new(&home, Runtime::Native).ready();
        let of = |act: &str| -> Vec<Value> {
            let all = records(&daemon, act);
            assert!(all.iter().all(|record| record["actor"] == "host"), "{all:?}");
            all.iter().map(|record| record["object"].clone()).collect()
        };
        assert_eq!(of("agent.seeded"), ["dev-agent", "mock-agent"]);
        assert_eq!(of("owner.seeded"), ["local:owner"]);
        assert_eq!(of("token.seeded").len(), 1);
        let token = &records(&daemon, "token.seeded")[0]["detail"];
        assert_eq!(token["user"], "local:owner");
        assert!(token["scopes"].as_str().unwrap().contains("admin"), "{token}");
        assert_eq!(daemon.get("/v1/audit/verify")["ok"], true);
        assert!(daemon.stop().success());
    }
}

/// Nobody approves what they asked for, with whichever of their tokens; somebody else does. Rejecting takes no second
/// person, and what an agent asks for is anybody's to decide.
#[test]
fn inv_037_with_four_eyes_nobody_approves_what_they_asked_for() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let ann = person(&daemon, "local:ann", "dev-agent", &approver("local:ann"));
    let bob = {
        let admin = json!({"grant": [{"user": "local:bob", "role": "admin"}]});
        person(&daemon, "local:bob", "dev-agent", &admin)
    };
    let again =
        json!({"name": "bob-2", "user": "local:bob", "scopes": ["read", "approve", "operate"], "days": 1});
    let again = daemon.send(Request::post("/v1/tokens", &again)).ok()["token"].as_str().unwrap().to_owned();
    assert!(daemon.stop().success());
    let file = home.root.join("user/policy.json");
    fs::write(&file, r#"{"four_eyes": true, "approver_roles": {"model": ["owner"]}}"#).unwrap();
    let daemon = Serve::new(&home, Runtime::Native).flag("--policy", file.display().to_string()).ready();
    let ask = |token: &str, kind: &str, payload: Value| {
        let body = json!({"kind": kind, "group": "dev-agent", "payload": payload});
        Request::post("/v1/changes", &body).token(token).send(daemon.address).unwrap().ok()
    };
    let decide = |token: &str, change: &Value, outcome: &str| {
        let path = format!("/v1/changes/{}/decision", change["id"].as_str().unwrap());
        let body = json!({"outcome": outcome, "digest": change["digest"]});
        let answer = Request::post(&path, &body).token(token).send(daemon.address).unwrap();
        let document = answer.json();
        match answer.status {
            200 => document["state"].as_str().unwrap().to_owned(),
            403 => document["type"].as_str().unwrap().to_owned(),
            _ => panic!("{}", answer.text()),
        }
    };
    let owner = daemon.token();
    // By the owner, by an admin, with another token of the same person.
    let change = ask(&owner, "persona", json!({"soul": "one"}));
    assert_eq!(decide(&owner, &change, "approve"), "forbidden");
    assert_eq!(daemon.get(&format!("/v1/changes/{}", change["id"].as_str().unwrap()))["state"], "pending");
    assert_eq!(decide(&ann, &change, "approve"), "applied");
    let change = ask(&bob, "persona", json!({"soul": "two"}));
    for token in [&bob, &again] {
        assert_eq!(decide(token, &change, "approve"), "forbidden");
    }
    assert_eq!(decide(&owner, &change, "approve"), "applied");
    let change = ask(&bob, "persona", json!({"soul": "three"}));
    assert_eq!(decide(&again, &change, "reject"), "rejected");
    // Of a kind that only owners approve, an admin and an approver may still keep it from happening.
    let change = ask(&bob, "model", json!({"provider": "mock", "model": "other"}));
    for token in [&ann, &bob] {
        assert_eq!(decide(token, &change, "approve"), "forbidden");
    }
    assert_eq!(decide(&owner, &change, "approve"), "applied");
    let change = ask(&owner, "model", json!({"provider": "mock", "model": "mock"}));
    assert_eq!(decide(&ann, &change, "approve"), "forbidden");
    assert_eq!(decide(&ann, &change, "reject"), "rejected");
    let text = r#"tool:request_capability_change {"kind":"persona","payload":{"soul":"mine"},"reason":"x"}"#;
    daemon.chat("dev-agent", "main").ask(text);
    let change = daemon.get("/v1/changes/pending")["changes"][0].clone();
    assert_eq!(change["requested_by"], "agent:dev-agent");
    assert_eq!(decide(&owner, &change, "approve"), "applied");
    assert_eq!(daemon.get("/v1/agents/dev-agent")["soul"], "mine");
    assert!(daemon.stop().success());
}

/// Whoever could make a token of another for themselves would be two people: as long as two are wanted, nobody does,
/// an owner neither. What only looks and talks may be made for everybody.
#[test]
fn inv_037_with_four_eyes_nobody_makes_somebody_else_of_themselves() {
    let home = Home::new(Build::Release, User::Root);
    let file = home.root.join("user/policy.json");
    fs::write(&file, r#"{"four_eyes": true}"#).unwrap();
    let make = |daemon: &Daemon, token: &str, user: Option<&str>, scopes: &[&str]| {
        let name = crate::world::marker();
        let body = json!({"name": name, "user": user, "scopes": scopes, "days": 1});
        Request::post("/v1/tokens", &body).token(token).send(daemon.address).unwrap()
    };
    let serve = || Serve::new(&home, Runtime::Native).flag("--policy", file.display().to_string());
    let daemon = serve().ready();
    let owner = daemon.token();
    daemon.send(Request::post("/v1/users", &json!({"id": "local:bob"}))).ok();
    for scopes in [&["approve"][..], &["operate"], &["admin"], &["read", "chat", "approve"]] {
        let answer = make(&daemon, &owner, Some("local:bob"), scopes);
        assert_eq!(answer.status, 403, "{scopes:?}: {}", answer.text());
        assert!(
            answer.text().contains("two people") && answer.text().contains("four_eyes"),
            "{}",
            answer.text()
        );
    }
    make(&daemon, &owner, Some("local:bob"), &["read", "chat", "metrics"]).ok();
    // Their own, and what they make with that, are theirs.
    for user in [None, Some("local:owner")] {
        let own = make(&daemon, &owner, user, &["operate", "approve", "admin"]).ok();
        let own = own["token"].as_str().unwrap().to_owned();
        assert_eq!(make(&daemon, &own, Some("local:bob"), &["approve"]).status, 403);
    }
    assert!(daemon.stop().success());
    // Who decides is set up before the policy is in force.
    fs::write(&file, "{}").unwrap();
    let daemon = serve().ready();
    let admin = json!({"grant": [{"user": "local:bob", "role": "admin"}]});
    let bob = person(&daemon, "local:bob", "dev-agent", &admin);
    assert!(daemon.stop().success());
    fs::write(&file, r#"{"four_eyes": true}"#).unwrap();
    let daemon = serve().ready();
    let change = crate::hand::submit(&daemon, "persona", "dev-agent", &json!({"soul": "seen by two"})).ok();
    let path = format!("/v1/changes/{}/decision", change["id"].as_str().unwrap());
    let approval = json!({"outcome": "approve", "digest": change["digest"]});
    assert_eq!(Request::post(&path, &approval).token(&bob).send(daemon.address).unwrap().status, 200);
    assert!(daemon.stop().success());
}
