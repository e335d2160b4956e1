//! The words of `ironctl` for agents, people, tokens and chats, as somebody at a shell uses them: what each prints,
//! what each refuses in one line, and what needs no control plane.

use serde_json::Value;

use crate::hand::{ctl, ctl_as, json, refused, said};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User};

fn start(home: &Home) -> Daemon {
    Serve::new(home, Runtime::Native).ready()
}

#[test]
fn an_agent_is_made_shown_renamed_and_ended() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = start(&home);
    let ctl = |words: &[&str]| ctl(&home, &daemon, words);

    let made = said(ctl(&["agent", "create", "ann", "--template=assistant", "--title", "Ann's", "--yes"]));
    for shown in ["create_agent", "personal assistant", "write_file", "ann is made"] {
        assert!(made.contains(shown), "no {shown:?} in: {made}");
    }
    assert!(said(ctl(&["chat", "ann", "hello"])).contains("hello"));
    let page = said(ctl(&["agent", "show", "ann"]));
    for shown in ["Ann's", "IDENTITY\n  You are a personal assistant.", "SOUL\n", "INSTRUCTIONS\n  Keep what"]
    {
        assert!(page.contains(shown), "no {shown:?} in: {page}");
    }
    let agent = json(ctl(&["agent", "show", "ann", "--json"]));
    let tools = agent["tools"].as_array().unwrap();
    assert!(tools.len() == 8 && tools.contains(&serde_json::json!("read_file")), "{tools:?}");
    assert!(said(ctl(&["agent", "edit", "ann", "--title=Anna"])).contains("Anna"));
    assert!(said(ctl(&["agent", "list"])).contains("Anna"));
    refused(ctl(&["agent", "create", "ann", "--yes"]), 1, &["ann", "another name"]);

    // Nobody can be asked here, so nothing is done; held, it waits; a file's text goes before the template's.
    refused(ctl(&["agent", "delete", "ann"]), 2, &["--yes"]);
    refused(ctl(&["agent", "create", "bob"]), 2, &["--yes"]);
    refused(ctl(&["agent", "create"]), 2, &["a name is missing"]);
    assert_eq!(json(ctl(&["change", "pending", "--json"])), serde_json::json!([]));
    std::fs::write(home.root.join("user/SOUL.md"), "Be \u{1b}[2J odd.").unwrap();
    let directory = home.root.join("user").display().to_string();
    let held = ["agent", "create", "--name", "bob", "--template", "blank", "--persona-dir", &directory];
    let held = said(ctl(&[&held[..], &["--no-approve"]].concat()));
    assert!(
        held.contains("held: nothing changes") && held.contains("odd") && !held.contains('\u{1b}'),
        "{held}"
    );
    refused(ctl(&["agent", "show", "bob"]), 1, &["no agent"]);
    let pending = json(ctl(&["change", "pending", "--json"]));
    let id = pending[0]["id"].as_str().unwrap();
    said(ctl(&["change", "approve", id, "--yes"]));
    let page = said(ctl(&["agent", "show", "bob"]));
    assert!(page.contains("SOUL\n  Be \\u{1b}[2J odd.") && page.contains("IDENTITY\n  (none)"), "{page}");

    assert!(said(ctl(&["agent", "delete", "ann", "--yes"])).contains("deleted"));
    refused(ctl(&["chat", "ann", "hello"]), 1, &["no agent", "ann"]);
    refused(ctl(&["agent", "show", "ann"]), 1, &["no agent", "ann"]);
    refused(ctl(&["agent", "delete", "ann", "--yes"]), 1, &["no agent", "ann"]);
    assert!(daemon.stop().success());
}

#[test]
fn a_member_talks_to_one_agent_and_a_token_only_narrows() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = start(&home);
    let own = |words: &[&str]| ctl(&home, &daemon, words);

    assert!(said(own(&["whoami"])).contains("owner of everything"));
    assert!(said(own(&["user", "add", "local:bob", "--name=Bob"])).contains("local:bob is added"));
    refused(own(&["user", "add", "bob"]), 1, &["channel:handle"]);
    said(own(&["agent", "create", "friend", "--template", "blank", "--member", "local:bob", "--yes"]));
    assert!(said(own(&["member", "list", "friend"])).contains("local:bob"));
    refused(own(&["token", "create", "b", "--user", "local:bob", "--scope", "everything"]), 1, &["scopes"]);
    let made =
        said(own(&["token", "create", "bob", "--user", "local:bob", "--scope", "chat", "--days", "1"]));
    assert!(made.contains("not shown again"), "{made}");
    let line = made.lines().find(|line| line.starts_with("token ")).unwrap();
    let token = line.split_whitespace().nth(1).unwrap();
    let bob = |words: &[&str]| ctl_as(&home, &daemon, token, words);
    assert!(said(bob(&["chat", "friend", "hello"])).contains("hello"));
    refused(bob(&["chat", "mock-agent", "hello"]), 1, &["member of mock-agent"]);
    refused(bob(&["token", "list"]), 1, &["scope"]);
    refused(bob(&["agent", "create", "mine", "--yes"]), 1, &["scope"]);

    // Asked for, held, listed; approved at once where that is said.
    let held = said(own(&["role", "grant", "local:bob", "approver", "--group", "friend"]));
    assert!(held.contains("held: nothing changes"), "{held}");
    let pending = json(own(&["change", "pending", "--json"]));
    assert_eq!((&pending[0]["kind"], pending.as_array().unwrap().len()), (&Value::from("permissions"), 1));
    assert!(!said(own(&["role", "list"])).contains("local:bob"));
    let given = ["role", "grant", "local:bob", "admin", "--group", "friend", "--approve", "--yes"];
    assert!(said(own(&given)).contains("in effect"));
    let roles = json(own(&["role", "list", "--json"]));
    assert!(
        roles.as_array().unwrap().iter().any(|role| {
            role["user"] == "local:bob" && role["role"] == "admin" && role["scope"] == "friend"
        })
    );
    // An operator who may not approve: asked for, and held.
    said(own(&[
        "role",
        "grant",
        "local:bob",
        "admin",
        "--group=friend",
        "--everywhere",
        "--approve",
        "--yes",
    ]));
    let made = json(own(&["token", "create", "op", "--user=local:bob", "--scope=operate", "--json"]));
    let operator = made["token"].as_str().unwrap();
    let held = said(ctl_as(&home, &daemon, operator, &["agent", "create", "mine", "--yes"]));
    assert!(held.contains("held: ") && held.contains("approve"), "{held}");
    refused(own(&["agent", "show", "mine"]), 1, &["no agent"]);

    let wired = ["wiring", "add", "telegram", "12", "--group", "friend", "--engage", "mention"];
    said(own(&[&wired[..], &["--approve", "--yes"]].concat()));
    let listed = said(own(&["wiring", "list", "--group=friend"]));
    assert!(listed.contains("no account of telegram is configured"), "{listed}");
    assert!(listed.contains("telegram") && listed.contains("mention"), "{listed}");
    assert!(said(own(&["group", "list"])).contains("telegram"));
    said(own(&["wiring", "remove", "telegram", "12", "--group", "friend", "--approve", "--yes"]));
    // A group has a number below zero. What no account leads to is said before it is approved, and no more than said.
    let below = |verb: &str| {
        said(own(&["wiring", verb, "telegram", "-1001", "--group", "friend", "--approve", "--yes"]))
    };
    let shown = below("add");
    assert!(shown.contains("warning    no account of telegram is configured"), "{shown}");
    assert!(said(own(&["wiring", "list"])).contains("-1001"));
    assert!(!below("remove").contains("warning"));
    let to = ["destination", "add", "far", "telegram", "-1001", "--group", "friend", "--approve", "--yes"];
    let shown = said(own(&to));
    assert!(shown.contains("warning    no account of telegram is configured"), "{shown}");
    assert!(said(own(&["destination", "list"])).contains("no account of telegram is configured"));
    said(own(&["destination", "remove", "far", "--group", "friend", "--approve", "--yes"]));
    for (channel, why) in [("pigeon", "brings messages to no channel but api"), ("api", "are not wired")] {
        refused(own(&["wiring", "add", channel, "1", "--group", "friend"]), 1, &[why]);
    }
    assert!(said(own(&["wiring", "list"])).contains("no chat is wired"));

    said(own(&["member", "remove", "local:bob", "--group", "friend", "--approve", "--yes"]));
    assert!(said(own(&["token", "list"])).contains("valid"));
    said(own(&["token", "revoke", "bob"]));
    refused(bob(&["chat", "friend", "hello"]), 1, &["token"]);
    refused(own(&["token", "revoke", "bob"]), 1, &["no valid token"]);
    refused(own(&["user", "delete", "local:bob"]), 1, &["role"]);
    said(own(&["user", "add", "local:eve"]));
    said(own(&["user", "delete", "local:eve"]));
    assert!(!said(own(&["user", "list"])).contains("local:eve"));
    assert!(daemon.stop().success());
}

#[test]
fn what_the_build_holds_is_told_without_a_control_plane() {
    let home = Home::new(Build::Release, User::Ordinary);
    let run = |words: &[&str]| home.command([&["ctl", "--addr", "http://127.0.0.1:1"], words].concat());
    let tools = said(run(&["tools"]));
    assert!(
        tools.contains("files") && tools.contains("write_file") && tools.contains("assistant"),
        "{tools}"
    );
    let tools = json(run(&["tools", "--json"]));
    assert!(tools.as_array().unwrap().iter().all(|tool| tool["category"].is_string()));
    assert!(said(run(&["agent", "templates"])).contains("researcher"));
    let templates = json(run(&["agent", "templates", "--json"]));
    assert!(templates.as_array().unwrap().iter().any(|one| one["id"] == "assistant" && one["soul"] != ""));
    refused(
        run(&["agent", "create", "x", "--yes", "--template", "king"]),
        2,
        &["no template king", "assistant"],
    );
    refused(run(&["whoami"]), 1, &["ironclaw serve"]);
    for topic in ["changes", "agents"] {
        assert!(said(home.command(["help", topic])).contains("agent create"), "{topic}");
    }
}
