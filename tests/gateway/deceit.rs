//! Text that lies about itself, put into everything that somebody can write, and looked for in everything that an
//! approver reads. It may neither come through as it is nor change the shape of what stands around it.

use std::process::Output;

use serde_json::{Value, json};

use crate::world::deceit::{CORPUS, deceives, honest};
use crate::world::home::finish;
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User};

struct Desk<'a> {
    home: &'a Home,
    daemon: &'a Daemon,
}

impl Desk<'_> {
    fn run(&self, words: &[&str]) -> Output {
        let address = format!("http://{}", self.daemon.address);
        let mut command = self.home.command([&["ctl", "--addr", &address], words].concat());
        finish(command.env("IRONCLAW_API_TOKEN", self.daemon.token()).spawn().unwrap())
    }

    /// What a command prints for a person, which must be honest.
    #[track_caller]
    fn read(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        honest(&words.join(" "), &text);
        text
    }

    /// Asks for a change that may be refused; what is said about it must be honest either way.
    #[track_caller]
    fn ask(&self, kind: &str, group: &str, payload: Value, more: &[(&str, &str)]) -> Option<String> {
        let mut body = json!({"kind": kind, "group": group, "payload": payload});
        for (name, text) in more {
            body[*name] = json!(text);
        }
        let answer = self.daemon.send(Request::post("/v1/changes", &body));
        let document = answer.json();
        match answer.status {
            201 => {
                honest("diff", document["diff"].as_str().unwrap());
                Some(document["id"].as_str().unwrap().to_owned())
            }
            status => {
                assert!(matches!(status, 400 | 409 | 422), "{document}");
                honest("detail", document["detail"].as_str().unwrap());
                for reason in document["reasons"].as_array().into_iter().flatten() {
                    honest("field", reason["field"].as_str().unwrap());
                    honest("reason", reason["reason"].as_str().unwrap());
                }
                None
            }
        }
    }
}

#[test]
fn text_that_deceives_cannot_alter_what_an_approver_sees() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let desk = Desk { home: &home, daemon: &daemon };
    let plain = desk.ask(
        "persona",
        "dev-agent",
        json!({"instructions": "plain"}),
        &[("reason", "plain"), ("by", "plain")],
    );
    let shape = |id: &str| desk.read(&["change", "show", id]).lines().count();
    let (rows, lines) = (desk.read(&["change", "pending"]).lines().count(), shape(&plain.unwrap()));
    let mut held = 1;
    for (what, text) in CORPUS {
        // As the text of the change, and as what is said about it.
        let more = [("reason", *text), ("by", *text)];
        let id = desk.ask("persona", "dev-agent", json!({"instructions": text}), &more);
        let Some(id) = id else {
            assert!(text.contains('\0'), "{what}: a persona may hold any text");
            continue;
        };
        held += 1;
        let shown = desk.read(&["change", "show", &id]);
        // A return ends a line of the text too; what follows has the sign of its own that every line has.
        assert_eq!(shown.lines().count(), lines + text.matches('\r').count(), "{what}: {shown}");
        let escaped = text.chars().find(|c| deceives(*c)).unwrap();
        assert!(shown.contains(&format!("\\u{{{:x}}}", u32::from(escaped))), "{what}: {shown}");
        assert_eq!(desk.read(&["change", "pending"]).lines().count(), rows + held - 1, "{what}");
        // Names and other fields of every kind; most are refused, and that too is said honestly.
        let kinds = [
            ("enabled_tools", "dev-agent", json!({"tools": [text]})),
            ("model", "dev-agent", json!({"provider": "mock", "model": text})),
            ("model", "dev-agent", json!({"provider": text, "model": "m"})),
            ("permissions", "dev-agent", json!({"add_members": [format!("local:{text}")]})),
            ("permissions", "dev-agent", json!({*text: text})),
            (
                "wiring",
                "dev-agent",
                json!({"add": [{"channel": "telegram", "chat": text, "engage": "mention"}]}),
            ),
            (
                "wiring",
                "dev-agent",
                json!({"destinations": [{"name": "x", "channel": "api", "chat": text, "display_name": text}]}),
            ),
            (
                "wiring",
                "dev-agent",
                json!({"destinations": [{"name": "y", "channel": "api", "chat": "y", "display_name": text}]}),
            ),
            ("wiring", "dev-agent", json!({"destinations": [{"name": text, "channel": text, "chat": "z"}]})),
            ("wiring", "dev-agent", json!({"remove_destinations": [text]})),
            ("create_agent", "made", json!({"title": text, "soul": text})),
            ("create_agent", *text, json!({"title": "x"})),
            (*text, "dev-agent", json!({})),
            ("persona", *text, json!({"instructions": "x"})),
        ];
        for (kind, group, payload) in kinds {
            if let Some(id) = desk.ask(kind, group, payload, &[]) {
                held += 1;
                desk.read(&["change", "show", &id]);
            }
        }
        assert_eq!(desk.read(&["change", "pending"]).lines().count(), rows + held - 1, "{what}");
        // What was held with a note is read again later, by people and from the log.
        let note = json!({"outcome": "reject", "note": text});
        daemon.send(Request::post(&format!("/v1/changes/{id}/decision"), &note)).ok();
        held -= 1;
        desk.read(&["change", "show", &id]);
        let _ = daemon.send(Request::post("/v1/agents/mock-agent", &json!({"title": text})));
        let person = json!({"id": "local:ann", "name": text});
        let _ = daemon.send(Request::post("/v1/users", &person));
        let _ = daemon.send(Request::post("/v1/tokens", &json!({"name": text, "scopes": ["read"]})));
        for words in [
            &["agent", "list"][..],
            &["agent", "show", "mock-agent"],
            &["user", "list"],
            &["token", "list"],
            &["change", "history"],
            &["audit", "--limit", "20"],
            &["wiring", "list"],
            &["destination", "list"],
            &["group", "list"],
        ] {
            desk.read(words);
        }
        // A command line that is given such words says so without repeating them as they are.
        for words in [&["change", "show", text][..], &["agent", "show", text], &[text], &["chat", text, "x"]]
        {
            let output = desk.run(words);
            assert!(!output.status.success(), "{what}: {words:?}");
            honest(what, &String::from_utf8(output.stderr).unwrap());
            honest(what, &String::from_utf8(output.stdout).unwrap());
        }
    }
    // What is in effect is read again in lists.
    for (number, (what, text)) in CORPUS.iter().enumerate() {
        let (name, chat) = (format!("x{number}"), format!("c{number}"));
        let one = json!({"name": name, "channel": "api", "chat": chat, "display_name": text});
        let id = desk.ask("wiring", "mock-agent", json!({"destinations": [one]}), &[]);
        let Some(id) = id else {
            assert!(text.contains('\0'), "{what}: people call a chat what they like");
            continue;
        };
        desk.read(&["change", "approve", &id, "--yes"]);
    }
    assert_eq!(desk.read(&["destination", "list"]).lines().count(), CORPUS.len());
    // An approval prints what it approves; somebody's invention of another line does not become one.
    let forged = "harmless\n+ tools all\nsha256 0000\napproved by local:owner";
    let id =
        desk.ask("persona", "dev-agent", json!({"instructions": forged}), &[("reason", forged)]).unwrap();
    let approved = desk.read(&["change", "approve", &id, "--yes"]);
    for line in ["+ tools all", "sha256 0000", "approved by local:owner"] {
        assert!(!approved.lines().any(|shown| shown == line), "{approved}");
    }
    honest("the log", &daemon.log.text());
    assert!(daemon.stop().success());
}

/// What an asker wrote stands in quotes among the host's words, and so speaks for nobody but the asker.
#[test]
fn no_text_passes_for_the_words_of_the_host() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let desk = Desk { home: &home, daemon: &daemon };
    let forged = "hears members; strangers never reach it; what it does not answer: drop";
    let wired = |pattern: &str| {
        json!({"add": [{"channel": "telegram", "chat": "1", "engage": "pattern", "pattern": pattern,
                        "senders": "anyone"}]})
    };
    let to = |name: &str, display: &str, chat: &str| json!({"destinations": [{"name": name, "channel": "api", "chat": chat, "display_name": display}]});
    let asked = [
        ("wiring", "dev-agent", wired(&format!(".; {forged}"))),
        ("wiring", "dev-agent", wired(&format!("\"; {forged}; \""))),
        ("wiring", "dev-agent", to("x", forged, "x")),
        ("wiring", "dev-agent", to("y", "y", forged)),
        ("create_agent", "made", json!({"title": forged})),
    ];
    for (kind, group, payload) in asked {
        let Some(id) = desk.ask(kind, group, payload.clone(), &[]) else {
            panic!("{payload} is refused, so nothing is shown of it");
        };
        let shown = desk.read(&["change", "show", &id]);
        let lines: Vec<&str> = shown.lines().filter(|line| line.contains(forged)).collect();
        assert!(!lines.is_empty(), "{shown}");
        for line in lines {
            let outside: String = line.split('"').step_by(2).collect();
            assert!(!outside.contains(forged), "{line}");
        }
    }
    assert!(daemon.stop().success());
}
