//! The end of an agent for which much waits: all of it is failed, also when the control plane dies in the middle.

use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually};

/// More than two pieces.
const WAITING: usize = 250;

fn serve<'a>(home: &'a Home) -> Serve<'a> {
    // Nobody opens a gate, so the first turn goes on until its end and the others wait for it.
    let gates = home.root.join("user").display().to_string();
    Serve::new(home, Runtime::Native).fault(format!("mock-gate={gates}"))
}

fn wait_for_much(daemon: &Daemon) -> String {
    let chat = daemon.chat("dev-agent", "main");
    let session = chat.say("hold:shut").session_id;
    for _ in 1..WAITING {
        chat.say("and another");
    }
    assert_eq!(open(daemon, &session), WAITING as u64);
    session
}

fn open(daemon: &Daemon, session: &str) -> u64 {
    daemon.get(&format!("/v1/sessions/{session}"))["open_messages"].as_u64().unwrap()
}

fn delete(daemon: &Daemon) -> std::io::Result<u16> {
    let delete = Request { method: "DELETE", ..Request::get("/v1/agents/dev-agent") };
    delete.token(&daemon.token()).send(daemon.address).map(|answer| answer.status)
}

fn is_over(daemon: &Daemon, session: &str) {
    assert_eq!(daemon.send(Request::get("/v1/agents/dev-agent")).status, 404);
    eventually("nothing waits, and its sandbox is gone", || {
        let phase = daemon.get(&format!("/v1/sessions/{session}"))["phase"].clone();
        (open(daemon, session) == 0 && phase == "asleep").then_some(())
    });
    assert_eq!(daemon.metric("ironclaw_open_messages"), 0.0);
}

#[test]
fn all_that_waits_for_a_deleted_agent_is_failed() {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = serve(&home).ready();
    let session = wait_for_much(&daemon);
    assert_eq!(delete(&daemon).unwrap(), 200);
    assert_eq!(open(&daemon, &session), 0, "it was answered before all were failed");
    is_over(&daemon, &session);
    assert!(daemon.stop().success());
}

#[test]
fn killed_in_the_middle_of_an_agents_end_the_next_start_goes_on() {
    let home = Home::new(Build::Faults, User::Root);
    let mut daemon = serve(&home).fault("crash=agent.messages_failed").ready();
    let session = wait_for_much(&daemon);
    assert!(delete(&daemon).is_err(), "it was answered");
    daemon.ended();
    drop(daemon);
    let daemon = serve(&home).ready();
    is_over(&daemon, &session);
    assert!(daemon.stop().success());
}
