//! A conversation with each provider, from inside a sandbox: text in pieces, a tool, two at once, and what was said
//! before is known afterwards. No key is where it does not belong.

use serde_json::json;

use crate::memory;
use crate::talk::{self, ALL, Upstream, last};
use crate::world::boxes::in_both_back_ends;
use crate::world::canaries::{Canaries, clean, look_at_answers, look_at_files, look_at_processes};
use crate::world::{Build, Home, Runtime, User, marker};

in_both_back_ends!(each_provider_is_talked_with_in_its_own_way);

fn each_provider_is_talked_with_in_its_own_way(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let upstreams: Vec<Upstream> = ALL.iter().map(Upstream::of).collect();
    let daemon = talk::serve(&home, runtime, &upstreams).flag("--log-level", "debug").ready();
    let canaries: Canaries =
        upstreams.iter().map(|one| (one.set.variable, one.key.clone().into_bytes())).collect();
    let given: Vec<&str> = canaries.keys().copied().collect();
    for upstream in &upstreams {
        let models = &upstream.models;
        talk::agent(&daemon, upstream, &["read_file", "write_file", "list_destinations"]);
        let agent = upstream.agent();
        let chat = daemon.chat(&agent, "main");
        let (first, kept) = (marker(), marker());
        models
            .will(&json!({"text": "I write it down.", "calls": [
                {"name": "write_file", "input": {"path": "a.txt", "content": kept}}], "thoughts": 1}))
            .will(&json!({"calls": [
                {"name": "read_file", "input": {"path": "a.txt"}}, {"name": "list_destinations", "input": {}}]}))
            .will(&json!({"text": format!("{agent} is done"), "usage": {"input": 70, "output": 9, "cached": 30}}));
        assert_eq!(chat.ask(&format!("Please keep {first}")), format!("{agent} is done"));
        let asked = last(models);
        let text = asked["body"].to_string();
        // Once as it was written, and once as it was read.
        assert!(text.contains(&first) && text.matches(&kept).count() == 2, "{agent}: {text}");
        assert_eq!(models.requests().len(), 3, "{agent}");
        // What was said before is part of what is asked next. An answer that spells the key is cut off, an error that
        // repeats it says something else; both are asked again.
        models
            .will(&json!({"text": format!("the key is {}, is it not?", upstream.key)}))
            .will(&json!({"fault": "status", "status": 500, "words": format!("{} is busy", upstream.key)}))
            .say("I know no key");
        assert_eq!(chat.ask("What did I say?"), "I know no key", "{agent}");
        assert!(last(models)["body"].to_string().contains(&first), "{agent}");
        models.will(&json!({"fault": "status", "status": 400, "words": format!("{} is bad", upstream.key)}));
        let said = chat.ask("And now?");
        assert!(said.contains("400: [redacted] is bad"), "{agent}: {said}");
        assert_eq!(models.refused(), Vec::<String>::new(), "{agent}");
        // The same found in memory shows that what is in there is seen.
        let guests = memory::of_guests(&home, &daemon, &[]);
        assert!(guests.find(first.as_bytes()), "{agent}: what a person said is not in the sandbox's memory");
        for one in &upstreams {
            assert!(!guests.find(one.key.as_bytes()), "{}'s key is in {agent}'s memory", one.set.provider);
        }
        assert!(look_at_processes(&home, &canaries, &given) > 1, "no sandbox runs");
    }
    assert!(look_at_answers(&daemon, &daemon.token(), &canaries) > 50);
    clean(&canaries, "the log", daemon.log.text().as_bytes());
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    for upstream in &upstreams {
        let of = |record: &&serde_json::Value| {
            record["act"] == "model.called" && record["object"] == upstream.set.provider
        };
        let calls: Vec<_> = records.iter().filter(of).collect();
        assert_eq!(calls.len(), 7, "{}", upstream.set.provider);
        let used = |record: &&&serde_json::Value| {
            let detail = &record["detail"];
            ["input_tokens", "cached_tokens", "output_tokens"].map(|name| detail[name].as_u64().unwrap())
                == [70, 30, 9]
        };
        assert_eq!(calls.iter().filter(used).count(), 1, "{}: {calls:?}", upstream.set.provider);
    }
    assert!(daemon.stop().success());
    assert!(look_at_files(&home, &canaries, &[]) > 5);
}
