//! What goes wrong at a provider: what may pass is tried again, what will not is said, in one sentence, and the next
//! message is answered as if nothing had been.

use serde_json::json;

use crate::talk::{self, Upstream};
use crate::world::http::Request;
use crate::world::{Build, Home, Runtime, User, marker};

macro_rules! of_each_dialect {
    ($($name:ident: $provider:literal),+ $(,)?) => {
        $(#[test]
        fn $name() {
            what_goes_wrong_is_survived_or_said($provider);
        })+
    };
}

of_each_dialect!(faults_of_messages: "anthropic", faults_of_chat: "openai", faults_of_gemini: "gemini");

fn what_goes_wrong_is_survived_or_said(provider: &str) {
    let home = Home::new(Build::Release, User::Root);
    let upstreams = [Upstream::named(provider)];
    let [upstream] = &upstreams;
    let daemon = talk::serve(&home, Runtime::Native, &upstreams).ready();
    talk::agent(&daemon, upstream, &["list_destinations"]);
    let agent = upstream.agent();
    let (chat, models) = (daemon.chat(&agent, "main"), &upstream.models);
    let asked = |models: &crate::world::Models| models.requests().len();
    let fault = |kind: &str| {
        let mut order = json!({"text": "lost", "fault": kind});
        if kind == "error" {
            order["status"] = json!(529);
        }
        order
    };
    let passing = [
        "error",
        "cut",
        "garbage",
        "garbage_event",
        "unfinished",
        "gzip",
        "huge",
        "empty",
        "close",
        "endless",
    ];
    let status = |code: u16| json!({"fault": "status", "status": code, "words": "ordered"});
    let orders = passing.iter().map(|kind| fault(kind)).chain([status(500), status(503), status(429)]);
    for order in orders {
        let (before, text) = (asked(models), marker());
        models.will(&order).say(&text);
        let answer = chat.ask("hello");
        assert_eq!(answer, text, "{order}");
        assert_eq!(asked(models), before + 2, "{order}");
    }
    // A hint is waited for, and no longer than the turn has.
    models.will(&json!({"fault": "status", "status": 429, "retry_after": 2})).say("after the hint");
    let begun = std::time::Instant::now();
    assert_eq!(chat.ask("hello"), "after the hint");
    assert!(begun.elapsed().as_secs() >= 2, "it did not wait");
    let before = asked(models);
    models.will(&json!({"fault": "status", "status": 429, "retry_after": 5000, "words": "come back later"}));
    let answer = chat.ask("hello");
    assert!(answer.contains("429") && answer.contains("come back later"), "{answer}");
    assert_eq!(asked(models), before + 1);
    // What will not change is not tried again.
    for (code, words) in [(400, "prompt is too long"), (401, "bad key"), (403, "no"), (404, "no such model")]
    {
        let before = asked(models);
        models.will(&json!({"fault": "status", "status": code, "words": words}));
        let answer = chat.ask("hello");
        assert!(answer.contains(&code.to_string()) && answer.contains("will not help"), "{answer}");
        assert_eq!(answer.lines().count(), 1, "{answer}");
        assert_eq!(asked(models), before + 1, "{code}");
    }
    // Requests for tools: empty, cut in the middle, of a tool that there is not.
    models
        .will(&json!({"calls": [{"name": "list_destinations"}, {"name": "no_such_tool", "input": {}}]}))
        .will(&json!({"calls": [{"name": "list_destinations", "raw": "{\"a"}], "stop": "length"}))
        .say("done");
    assert_eq!(chat.ask("use tools"), "done");
    models.will(&json!({"text": "as far as it goes", "stop": "length"}));
    assert!(chat.ask("hello").starts_with("as far as it goes\n\n[The answer was cut off"));
    models.will(&json!({"text": "I will not", "stop": "refused"}));
    assert_eq!(chat.ask("hello"), "I will not");
    // Nobody answers: the turn ends in its time, and the next one is answered.
    daemon.send(Request::post(&format!("/v1/agents/{agent}"), &json!({"turn_seconds": 3}))).ok();
    models.will(&json!({"text": "x", "fault": "silence"}));
    let answer = chat.ask("hello");
    assert!(answer.contains("the time for one turn was over"), "{answer}");
    models.say("there again");
    assert_eq!(chat.ask("hello"), "there again");
    assert_eq!(models.refused(), Vec::<String>::new());
    // Without its credential the provider refuses, and people are told no more than that.
    models.tell("key", &json!({"key": marker()}));
    let answer = chat.ask("hello");
    assert!(answer.contains("401") && !answer.contains(&upstream.key), "{answer}");
    let records = daemon.get("/v1/audit?limit=1000")["records"].as_array().unwrap().clone();
    let calls = records.iter().filter(|record| record["act"] == "model.called");
    let mut outcomes: Vec<_> = calls.map(|record| record["detail"]["outcome"].as_str().unwrap()).collect();
    // One for each call that was made, however it went.
    assert_eq!(outcomes.len(), asked(models));
    outcomes.sort_unstable();
    outcomes.dedup();
    assert_eq!(outcomes, ["cancelled", "complete", "failed", "refused"]);
    assert!(daemon.stop().success());
}
