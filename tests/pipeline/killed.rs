//! Whoever is killed, and wherever: each message that was accepted is answered, and each answer comes once.

use serde_json::json;

use crate::heard::{ingress, serve, wire};
use crate::hook::Hook;
use crate::world::{Build, Home, Runtime, User, leftovers, marker};

/// The control plane dies right before and right after each thing that it writes down on the way of a message.
#[test]
fn every_crash_point_of_bringing_is_survived() {
    for point in [
        "accept.before_commit",
        "accept.after_commit",
        "finish.before_commit",
        "finish.after_commit",
        "deliver.before_commit",
        "deliver.after_commit",
    ] {
        let (home, hook, ingress) = (Home::new(Build::Faults, User::Root), Hook::start(), ingress());
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
        assert!(daemon.stop().success());
        let mut daemon =
            serve(&home, Runtime::Native, &hook, ingress).fault(format!("crash={point}")).ready();
        let (id, text) = (marker(), marker());
        let body = json!({"text": text, "chat": "ops"});
        let first = hook.try_say(ingress, "/hooks/webhook", &id, &body);
        assert!(leftovers::ended(daemon.id(), crate::world::PATIENCE), "{point}: it does not die");
        daemon.kill9();
        let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
        if !first.is_ok_and(|answer| answer.status == 202) {
            // As a sender does that got no answer.
            assert_eq!(hook.say_as(ingress, &id, &body).status, 202, "{point}");
        }
        hook.wait("ops", &text);
        hook.say(ingress, &json!({"text": "last", "chat": "ops"}));
        hook.wait("ops", "last");
        let taken = hook.taken("ops");
        assert_eq!(taken.len(), 2, "{point}: {taken:?}");
        assert!(daemon.stop().success());
    }
}
