//! `ironctl` on a terminal: the wizard of a new agent, texts that are written there or in an editor, and decisions that
//! are asked for.

use std::io::{Read, Write};
use std::process::Command;

use serde_json::{Value, json};

use crate::hand::{approve, ctl, ctl_as, json, on_terminal, refused, said, submit, typed};
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, home::finish};

fn start(home: &Home) -> Daemon {
    Serve::new(home, Runtime::Native).ready()
}

fn with(mut command: Command, environment: &[(&str, &str)]) -> Command {
    command.envs(environment.iter().copied());
    command
}

#[test]
fn the_wizard_keeps_its_answers_through_a_refusal_and_a_no() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = start(&home);
    let own = |words: &[&str]| ctl(&home, &daemon, words);
    said(own(&["agent", "create", "gone", "--yes"]));
    said(own(&["agent", "delete", "gone", "--yes"]));

    // Back at the title; a template that there is not; a member that is none; then the host says no to the name.
    let first = "gone\n<\n\nFirst\nking\n\n\nDo it.\n\n\n\nnobody\nlocal:bob\n";
    // Another name, the rest kept; no to what is shown; another title, and yes.
    let again = "name\nfresh\n\n\n\n\n\n\n\n\nn\ntitle\nOther\n\n\n\n\n\n\n\ny\n";
    let (code, shown) = typed(&own(&["agent", "create"]), &format!("{first}{again}"));
    assert_eq!(code, Some(0), "{shown}");
    for word in [
        "name [gone]: ",
        "no template king",
        "nobody is no user",
        "another name",
        "withdrawn",
        "fresh is made",
    ] {
        assert!(shown.contains(word), "no {word:?} in: {shown}");
    }
    let agent = json(own(&["agent", "show", "fresh", "--json"]));
    assert_eq!((&agent["title"], &agent["instructions"]), (&json!("Other"), &json!("Do it.")), "{agent}");
    assert!(said(own(&["member", "list", "fresh"])).contains("local:bob"));
    let all = json(own(&["change", "history", "--group", "fresh", "--json"]));
    let states: Vec<&Value> = all.as_array().unwrap().iter().map(|change| &change["state"]).collect();
    assert_eq!(states, ["applied", "withdrawn"]);

    // Whoever may not look is not stopped by that, and leaves when they like.
    let body = json!({"name": "blind", "user": "local:owner", "scopes": ["operate"]});
    let made = daemon.send(Request::post("/v1/tokens", &body)).ok();
    let blind = |text: &str| {
        typed(&ctl_as(&home, &daemon, made["token"].as_str().unwrap(), &["agent", "create"]), text)
    };
    let (code, shown) = blind("held\n\n\n\n\n\n\n\n\ny\n");
    assert!(code == Some(0) && shown.contains("there is no held until"), "{shown}");
    let (code, shown) = blind("fresh\n\n\n\n\n\n\n\n\nq\n");
    assert!(
        code == Some(1) && shown.contains("another name") && shown.contains("nothing was done"),
        "{shown}"
    );
    assert!(daemon.stop().success());
}

#[test]
fn a_text_is_written_and_an_empty_one_takes_nothing_away() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = start(&home);
    let ask = || ctl(&home, &daemon, &["change", "submit", "--kind", "persona", "--group", "dev-agent"]);
    let pending = || json(ctl(&home, &daemon, &["change", "pending", "--json"])).as_array().unwrap().len();
    std::fs::write(home.root.join("user/new.md"), "Edited.\n").unwrap();
    let copy = format!("cp {}", home.root.join("user/new.md").display());

    let (code, shown) = typed(&ask(), "Line one.\nLine two.\n.\n");
    assert!(code == Some(0) && shown.contains("+ Line two.") && shown.contains("held: "), "{shown}");
    assert_eq!(pending(), 1);
    for environment in [&[("EDITOR", copy.as_str())][..], &[("VISUAL", &copy), ("EDITOR", "false")]] {
        let (code, shown) = typed(&with(ask(), environment), "");
        assert!(code == Some(0) && shown.contains("+ Edited."), "{shown}");
    }
    assert_eq!(pending(), 3);
    let nothing: [(&[(&str, &str)], &str); 4] =
        [(&[], ".\n"), (&[], " \n\n.\n"), (&[("EDITOR", "true")], ""), (&[("EDITOR", "false")], "")];
    for (environment, text) in nothing {
        let (code, shown) = typed(&with(ask(), environment), text);
        assert!(code == Some(1) && shown.contains("nothing was asked for"), "{environment:?} {shown}");
    }
    assert_eq!(pending(), 3);
    // Nowhere to write.
    refused(ask(), 2, &["--instructions", "--from"]);
    assert!(daemon.stop().success());
}

#[test]
fn a_decision_is_asked_for_and_is_of_what_was_shown() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = start(&home);
    let change = submit(&daemon, "persona", "dev-agent", &json!({"soul": "one"})).json();
    let id = change["id"].as_str().unwrap();
    let state = || daemon.get(&format!("/v1/changes/{id}"))["state"].clone();
    let decide = || ctl(&home, &daemon, &["change", "approve", id]);
    for no in ["n\n", "\n", "Y e s\n"] {
        let (code, shown) = typed(&decide(), no);
        assert!(code == Some(0) && shown.contains("nothing was decided"), "{shown}");
    }
    assert_eq!(state(), "pending");

    // While the question stands, what it is about becomes another change.
    let mut child = on_terminal(&decide());
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("[y/N]") {
        let mut piece = [0; 4096];
        let read = output.read(&mut piece).unwrap();
        assert!(read > 0, "it ended: {}", String::from_utf8_lossy(&shown));
        shown.extend_from_slice(&piece[..read]);
    }
    let other = submit(&daemon, "persona", "dev-agent", &json!({"soul": "two"})).json();
    assert_eq!(approve(&daemon, &other).status, 200);
    assert_eq!(approve(&daemon, &change).json()["type"], "stale");
    input.write_all(b"y\n").unwrap();
    output.read_to_end(&mut shown).unwrap();
    let status = finish(child).status;
    let shown = String::from_utf8(shown).unwrap();
    let now = daemon.get(&format!("/v1/changes/{id}"))["digest"].as_str().unwrap().to_owned();
    assert_ne!(change["digest"], now);
    assert!(status.code() == Some(1) && shown.contains(&now) && shown.contains("- two"), "{shown}");
    assert_eq!(state(), "pending");

    let (code, shown) = typed(&decide(), "y\n");
    assert!(code == Some(0) && shown.contains("in effect"), "{shown}");
    assert_eq!(state(), "applied");
    assert!(daemon.stop().success());
}
