//! What an agent may use of models in a day: looked at before each call, written down after it, also across a kill.

use serde_json::json;

use crate::hand::{ctl, run, said};
use crate::talk::{self, Upstream};
use crate::world::http::Request;
use crate::world::{Build, Home, Runtime, User};

#[test]
fn an_agent_uses_what_it_may_in_a_day_and_people_are_told() {
    let home = Home::new(Build::Release, User::Root);
    let upstreams = [Upstream::named("anthropic"), Upstream::named("openai")];
    let [one, other] = &upstreams;
    let mut daemon = talk::serve(&home, Runtime::Native, &upstreams).ready();
    upstreams.iter().for_each(|upstream| talk::agent(&daemon, upstream, &[]));
    let edit = |daemon: &crate::world::Daemon, limit: &str| {
        said(ctl(&home, daemon, &["agent", "edit", "of-anthropic", "--tokens-per-day", limit]))
    };
    assert_eq!(edit(&daemon, "100"), "of-anthropic: tokens a day 100\n");
    one.models.will(&json!({"text": "one", "usage": {"input": 60, "output": 30, "cached": 20}}));
    assert_eq!(daemon.chat("of-anthropic", "main").ask("hello"), "one");
    // Some is left, and the last answer may go over.
    one.models.will(&json!({"text": "two", "usage": {"input": 90, "output": 30}}));
    assert_eq!(daemon.chat("of-anthropic", "main").ask("hello"), "two");
    let is_refused = |daemon: &crate::world::Daemon| {
        let answer = daemon.chat("of-anthropic", "main").ask("hello");
        assert!(answer.contains("used 210 of the 100 tokens") && answer.contains("00:00 UTC"), "{answer}");
        assert_eq!(one.models.requests().len(), 2, "nothing was asked");
    };
    is_refused(&daemon);
    other.models.say("mine");
    assert_eq!(daemon.chat("of-openai", "main").ask("hello"), "mine");
    // What was used is in the ledger.
    daemon.kill9();
    drop(daemon);
    let daemon = talk::serve(&home, Runtime::Native, &upstreams).ready();
    is_refused(&daemon);
    let used = daemon.get("/v1/usage?group=of-anthropic")["usage"].clone();
    let day = used[0]["day"].as_str().unwrap().to_owned();
    assert_eq!(
        used,
        json!([{"day": day, "group": "of-anthropic", "provider": "anthropic", "model": "claude-opus-4-8", "calls": 2,
            "estimated_calls": 0, "input_tokens": 150, "cached_tokens": 20, "output_tokens": 60}])
    );
    let shown = said(ctl(&home, &daemon, &["usage"]));
    assert!(shown.contains("of-anthropic") && shown.contains("gpt-4o") && shown.contains("150"), "{shown}");
    let none = said(ctl(&home, &daemon, &["usage", "--from", "2999-01-01"]));
    assert!(none.contains("no model was asked"), "{none}");
    let wrong = run(ctl(&home, &daemon, &["usage", "--from", "yesterday"]));
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("a day such as"));
    // An operator allows more, and it goes on.
    assert_eq!(edit(&daemon, "default"), "of-anthropic: tokens a day as many as it likes\n");
    one.models.say("three");
    assert_eq!(daemon.chat("of-anthropic", "main").ask("hello"), "three");
    let agent = daemon.send(Request::post("/v1/agents/of-anthropic", &json!({"tokens_a_day": 0})));
    assert_eq!(agent.status, 400, "{}", agent.text());
    assert!(said(ctl(&home, &daemon, &["agent", "show", "of-anthropic"])).contains("as many as it likes"));
    assert!(daemon.stop().success());
}
