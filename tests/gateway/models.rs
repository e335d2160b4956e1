//! Which model an agent may call is the host's to say, at every call, whoever sits in the sandbox.

use serde_json::json;

use crate::hand::{approve, submit};
use crate::world::{Build, Home, Runtime, Serve, User, eventually};

crate::world::boxes::in_both_back_ends!(only_the_model_that_is_granted_now_is_called);

fn only_the_model_that_is_granted_now_is_called(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let hostile = format!("sandbox-exe@dev-agent={}", home.hostile().display());
    let daemon = Serve::new(&home, runtime).fault(hostile).ready();
    let model = daemon.get("/v1/agents/dev-agent")["model"].as_str().unwrap().to_owned();
    // Asked while it waits, so that it answers within one run.
    let change = submit(&daemon, "model", "dev-agent", &json!({"model": "another"})).ok();
    let said =
        daemon.chat("dev-agent", "main").ask(&format!("hostile model\n{model}\nanother\nno such model"));
    assert_eq!(said, "200\n403\n403");
    let refusals = || daemon.metric("ironclaw_model_refusals_total");
    let calls = || daemon.metric("ironclaw_model_requests_total");
    let before = calls();
    eventually("it calls on, with nothing to do", || (calls() > before + 2.0).then_some(()));
    assert_eq!(refusals(), 2.0);
    assert_eq!(approve(&daemon, &change).status, 200);
    eventually("the model that was taken away is refused at once", || (refusals() > 4.0).then_some(()));
    // Refusals are in the audit, one record for many.
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, runtime).ready();
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    let refused: Vec<_> = records
        .iter()
        .filter(|record| record["act"] == "action.refused" && record["object"] == "model")
        .collect();
    assert_eq!(refused.len(), 1, "{records:?}");
    assert_eq!(refused[0]["detail"]["why"], "not_granted");
    assert!(refused[0]["detail"]["count"].as_u64().unwrap() > 4, "{:?}", refused[0]);
    assert!(daemon.stop().success());
}
