//! What an operator allows one agent and no other: how long it may take, and how much it may keep.

use std::fs;

use serde_json::json;

use crate::hand::{ctl, run};
use crate::world::http::Request;
use crate::world::{Build, Home, Runtime, Serve, User};

/// The daemon lets every agent take an hour. One may take a second, and its turn ends; the other's goes on.
#[test]
fn the_turn_of_one_agent_ends_and_that_of_another_does_not() {
    let home = Home::new(Build::Faults, User::Root);
    let gates = home.root.join("user/gates");
    fs::create_dir(&gates).unwrap();
    let serve = || {
        Serve::new(&home, Runtime::Native)
            .flag("--turn-timeout", "1h")
            .fault(format!("mock-gate={}", gates.display()))
            .ready()
    };
    let mut daemon = serve();
    let edit = |words: &[&str]| {
        let out = run(ctl(&home, &daemon, &[&["agent", "edit", "dev-agent"], words].concat()));
        (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    };
    // A sandbox that runs takes it with its next message.
    let (dev, mock) = (daemon.chat("dev-agent", "main"), daemon.chat("mock-agent", "main"));
    assert!(dev.ask("one").contains("one"));
    let (code, said, _) = edit(&["--turn-timeout", "1s", "--quota-files", "500"]);
    assert_eq!(code, Some(0));
    assert_eq!(said, "dev-agent: turn limit 1 s\ndev-agent: max files 500\n");
    for (words, expected) in [
        (&[][..], "give --title"),
        (&["--turn-timeout", "1500ms"], "whole seconds"),
        (&["--quota-bytes", "1MB"], "or `default`"),
    ] {
        let (code, _, said) = edit(words);
        assert!(code == Some(2) && said.contains(expected), "{words:?}: {said}");
    }
    let agent = daemon.get("/v1/agents/dev-agent");
    assert_eq!((&agent["turn_seconds"], &agent["quota_files"]), (&json!(1), &json!(500)));
    assert_eq!(agent["quota_bytes"], json!(null));
    let other = mock.say("hold:go three").position;
    let apologizes = |answer: &str| assert!(answer.contains("could not get an answer"), "{answer}");
    apologizes(&dev.ask("hold:go two"));
    // After the next start too.
    daemon.kill9();
    drop(daemon);
    let daemon = serve();
    apologizes(&daemon.chat("dev-agent", "main").ask("hold:go four"));
    assert!(daemon.chat("mock-agent", "main").history().iter().all(|entry| entry.direction == "in"));
    fs::write(gates.join("go"), "").unwrap();
    let answer = daemon.chat("mock-agent", "main").answer_after(other).text;
    assert!(answer.contains("three"), "{answer}");
    let without = json!({"turn_seconds": null, "quota_files": null});
    let agent = daemon.send(Request::post("/v1/agents/dev-agent", &without)).ok();
    assert_eq!((&agent["turn_seconds"], &agent["quota_files"]), (&json!(null), &json!(null)));
    assert!(daemon.stop().success());
}

/// What it may keep: its own quota is passed at once, and that of the other is the daemon's.
#[test]
fn an_agent_keeps_no_more_than_its_own_quota() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let more = |agent: &str| {
        let directory = home.state().join("workspaces").join(agent);
        for at in 0..120 {
            fs::write(directory.join(format!("f{at}")), "x").unwrap();
        }
    };
    for agent in ["dev-agent", "mock-agent"] {
        assert!(daemon.chat(agent, "main").ask("one").contains("one"));
        more(agent);
    }
    daemon.send(Request::post("/v1/agents/dev-agent", &json!({"quota_files": 100}))).ok();
    for agent in ["dev-agent", "mock-agent"] {
        // Its files are counted once more after each turn.
        daemon.chat(agent, "main").say("two");
    }
    let over = daemon.log.wait_for("the group over its quota", |line| line.contains("group.over_quota"));
    assert!(over.contains("dev-agent"), "{over}");
    let text = daemon.chat("mock-agent", "main").ask("three");
    assert!(text.contains("three"), "{text}");
    daemon.send(Request::post("/v1/agents/dev-agent", &json!({"quota_files": null}))).ok();
    let text = daemon.chat("dev-agent", "main").ask("four");
    assert!(text.contains("four"), "{text}");
    assert!(
        !daemon.log.text().lines().any(|line| line.contains("over_quota") && line.contains("mock-agent"))
    );
    assert!(daemon.stop().success());
}

/// An agent that does not keep to what it is told is ended by the host, at the time of its own group.
#[test]
fn the_host_ends_the_turn_of_an_agent_that_goes_on() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--turn-timeout", "1h")
        .fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
        .ready();
    daemon.send(Request::post("/v1/agents/dev-agent", &json!({"turn_seconds": 1}))).ok();
    let session = daemon.chat("dev-agent", "main").say("hostile busy").session_id;
    let why = daemon.log.wait_for("that it is ended", |line| line.contains("\"sandbox.ended\""));
    assert!(why.contains(&session) && why.contains("its turn took too long"), "{why}");
    assert!(daemon.stop().success());
}
