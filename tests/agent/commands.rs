//! What people tell an agent by a word of its own: it is done without the model, and nothing else is taken for one.

use serde_json::json;

use crate::talk::{self, Upstream, last};
use crate::world::boxes::in_both_back_ends;
use crate::world::{Build, Home, Runtime, User, marker};

in_both_back_ends!(a_conversation_is_forgotten_when_a_person_says_so);

fn a_conversation_is_forgotten_when_a_person_says_so(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let upstreams = [Upstream::named("openai")];
    let [upstream] = &upstreams;
    let models = &upstream.models;
    let mut daemon = talk::serve(&home, runtime, &upstreams).ready();
    talk::agent(&daemon, upstream, &["read_file", "write_file"]);
    let (fact, kept) = (marker(), marker());
    {
        let chat = daemon.chat("of-openai", "main");
        models
            .will(&json!({"calls": [{"name": "write_file", "input": {"path": "a.txt", "content": kept}}]}))
            .say("noted");
        assert_eq!(chat.ask(&format!("My number is {fact}")), "noted");
        let before = models.requests().len();
        let status = chat.ask("/status");
        assert!(status.contains("gpt-4o of openai") && status.contains("remember: 1, all of it"), "{status}");
        let help = chat.ask(" /HELP ");
        assert!(help.contains("/reset") && help.contains("read_file, write_file"), "{help}");
        assert_eq!(models.requests().len(), before, "the model was asked");
        // Commands are no part of the conversation, and a question about one is none.
        models.say("it forgets");
        assert_eq!(chat.ask("what does /reset do?"), "it forgets");
        let asked = last(models)["body"].to_string();
        assert!(asked.contains(&fact) && !asked.contains("/HELP") && !asked.contains("/status"), "{asked}");
        // Another conversation stays as it is.
        models.say("hello");
        assert_eq!(daemon.chat("of-openai", "other").ask(&format!("I am {kept} too")), "hello");
        assert!(chat.ask("/reset").starts_with("I have forgotten this conversation"));
        models.say("I do not know");
        assert_eq!(chat.ask("What is my number?"), "I do not know");
        let asked = last(models)["body"].to_string();
        assert!(!asked.contains(&fact) && !asked.contains("it forgets"), "{asked}");
        // Files are as they were.
        models.will(&json!({"calls": [{"name": "read_file", "input": {"path": "a.txt"}}]})).say("read");
        assert_eq!(chat.ask("Read it"), "read");
        assert!(last(models)["body"].to_string().contains(&kept));
        assert!(chat.ask("/status").contains("remember: 2, all of it"));
    }
    // It stays forgotten, and what came after it does not.
    daemon.kill9();
    drop(daemon);
    let daemon = talk::serve(&home, runtime, &upstreams).ready();
    models.say("again");
    assert_eq!(daemon.chat("of-openai", "main").ask("And now?"), "again");
    let asked = last(models)["body"].to_string();
    assert!(!asked.contains(&fact) && asked.contains("What is my number?"), "{asked}");
    models.say("other");
    assert_eq!(daemon.chat("of-openai", "other").ask("And here?"), "other");
    assert!(last(models)["body"].to_string().contains(&kept), "another conversation was forgotten too");
    assert_eq!(models.refused(), Vec::<String>::new());
    assert!(daemon.stop().success());
}
