//! Asking for changes at a shell: texts from files and from the input, the payload by the flags of its kind, who asks and
//! why; and looking back at what was asked.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::hand::{ctl, json, refused, run, said, submit};
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, daemon::lasting_port, home::finish};

fn start(home: &Home) -> Daemon {
    Serve::new(home, Runtime::Native).ready()
}

#[test]
fn a_payload_comes_from_a_file_or_the_input() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = start(&home);
    let file = |name: &str| home.root.join("user").join(name).display().to_string();
    let ask = |kind: &str, from: &str| {
        let words = ["change", "submit", "--group=dev-agent", "--kind", kind, "--json", "--from", from];
        ctl(&home, &daemon, &words)
    };
    for (name, field) in [
        ("IDENTITY.md", "identity"),
        ("soul.txt", "soul"),
        ("AGENTS.md", "instructions"),
        ("x", "instructions"),
    ] {
        std::fs::write(file(name), format!("From {name}.")).unwrap();
        let change = json(ask("persona", &file(name)));
        assert_eq!(change["payload"], json!({field: format!("From {name}.")}), "{name}");
    }
    std::fs::write(file("soul.json"), r#"{"identity": "Of a document."}"#).unwrap();
    assert_eq!(json(ask("persona", &file("soul.json")))["payload"]["identity"], "Of a document.");
    std::fs::write(file("tools"), r#"{"tools": ["read_file"]}"#).unwrap();
    assert_eq!(json(ask("enabled_tools", &file("tools")))["payload"]["tools"], json!(["read_file"]));
    refused(ask("enabled_tools", &file("x")), 2, &["is not JSON"]);
    refused(ask("persona", &file("absent")), 1, &["absent", "cannot be read"]);
    let mut asked = ask("persona", "-");
    let mut child = asked.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"From the input.").unwrap();
    let change: Value = serde_json::from_slice(&finish(child).stdout).unwrap();
    assert_eq!(change["payload"]["instructions"], "From the input.");

    // The token, too.
    std::fs::write(file("token"), format!("{}\n", daemon.token())).unwrap();
    let address = format!("http://{}", daemon.address);
    let who = |name: &str| home.command(["ctl", "--addr", &address, "--token-file", &file(name), "whoami"]);
    assert!(said(who("token")).contains("owner of everything"));
    refused(who("absent"), 1, &["token file", "absent"]);
    refused(who("x"), 2, &["visible ASCII"]);
    assert!(daemon.stop().success());
}

#[test]
fn a_kind_is_asked_for_in_the_words_of_its_own_command() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = start(&home);
    let own = |words: &str| ctl(&home, &daemon, &words.split(' ').collect::<Vec<_>>());
    let make = "change submit --kind create_agent --group made --title Made --tool read_file --soul Calm. \
                --provider mock --model mock --member local:bob --wire telegram:1 --engage mention \
                --destination ops=api:ops --display-name Desk --approve --yes";
    assert!(said(own(make)).contains("in effect"));
    let agent = json(own("agent show made --json"));
    assert_eq!((&agent["title"], &agent["soul"]), (&json!("Made"), &json!("Calm.")), "{agent}");
    let wired = json(own("wiring list --group made --json"));
    assert_eq!(
        (&wired[0]["chat"], &wired[0]["terms"]["engage"]),
        (&json!("1"), &json!("mention")),
        "{wired}"
    );
    let led = json(own("destination list --group made --json"));
    assert_eq!((&led[0]["name"], &led[0]["display_name"]), (&json!("ops"), &json!("Desk")), "{led}");
    said(own("change submit --kind wiring --group made --unwire telegram:1 --remove-destination ops \
              --wire telegram:2 --senders anyone --sessions per-thread --approve --yes"));
    let wired = json(own("wiring list --group made --json"));
    assert_eq!(wired.as_array().unwrap().len(), 1, "{wired}");
    assert_eq!(
        (&wired[0]["chat"], &wired[0]["terms"]["senders"], &wired[0]["terms"]["sessions"]),
        (&json!("2"), &json!("anyone"), &json!("per-thread"))
    );
    assert_eq!(json(own("destination list --group made --json")), json!([]));
    said(own("agent create other --wire telegram:3 --destination desk=api:d --reason because --by me --yes"));
    assert_eq!(json(own("wiring list --group other --json"))[0]["chat"], "3");
    assert_eq!(json(own("destination list --group other --json"))[0]["name"], "desk");

    for words in [
        "--kind model --title T",
        "--kind persona --wire telegram:1",
        "--kind create_agent --unwire telegram:1",
        "--kind wiring --engage all --unwire telegram:1",
        "--kind create_agent",
    ] {
        refused(own(&format!("change submit --group made {words}")), 2, &["--"]);
    }

    // Who asks and why is said by every command that asks; a role over all of them belongs to no agent.
    for words in [
        "role grant local:bob approver --everywhere",
        "role grant local:bob owner",
        "role grant local:bob admin --group made",
        "member add local:ann --group made",
        "wiring remove telegram 2 --group made",
        "destination add x api y --group made",
        "agent create third --no-approve",
    ] {
        let change = json(own(&format!("{words} --reason because --by me --json")));
        assert_eq!(
            (&change["reason"], &change["by"]),
            (&json!("because"), &json!("me")),
            "{words}: {change}"
        );
    }
    refused(own("role grant local:bob approver"), 2, &["--group", "--everywhere"]);
    assert_eq!(json(own("user add local:eve --json"))["id"], "local:eve");
    assert!(json(own("user delete local:eve --json")).is_object());
    assert_eq!(json(own("agent edit made --title=New --json"))["title"], "New");
    assert!(json(own("agent delete made --yes --json")).is_object());
    said(own("token create t"));
    assert!(json(own("token revoke t --json")).is_object());
    assert!(daemon.stop().success());
}

#[test]
fn all_that_was_asked_for_is_listed_page_by_page() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = start(&home);
    let history = |limit: &str| ctl(&home, &daemon, &["change", "history", "--json", "--limit", limit]);
    let count = |limit: &str| json(history(limit)).as_array().unwrap().len();
    for number in 0..501 {
        assert!(submit(&daemon, "persona", "dev-agent", &json!({"soul": number.to_string()})).status < 300);
    }
    assert_eq!((count("1"), count("500"), count("501"), count("9000")), (1, 500, 501, 501));
    refused(history("0"), 2, &["--limit 0", "1 to"]);
    assert!(daemon.stop().success());
}

#[test]
fn following_the_audit_outlives_a_control_plane() {
    let home = Home::new(Build::Release, User::Root);
    let port = lasting_port();
    let serve = || Serve::new(&home, Runtime::Native).port(port).ready();
    let mut daemon = serve();
    assert_eq!(json(ctl(&home, &daemon, &["audit", "--json", "verify"]))["ok"], true);
    for words in [&["audit", "--follow", "verify"][..], &["audit", "--limit=5", "acknowledge"]] {
        refused(ctl(&home, &daemon, words), 2, &["leave it out"]);
    }
    let mut child = ctl(&home, &daemon, &["audit", "--follow", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |act: &str| {
        let mut numbers = Vec::new();
        loop {
            let line = lines.next().expect("it ended").unwrap();
            let record: Value = serde_json::from_str(&line).unwrap();
            numbers.push(record["seq"].as_u64().unwrap());
            if record["act"] == act {
                return numbers;
            }
        }
    };
    let mut numbers = until("daemon.started");
    // What comes after the list comes by the stream, so that it is open.
    daemon.send(Request::post("/v1/users", &json!({"id": "local:ann"}))).ok();
    numbers.extend(until("user.added"));
    daemon.kill9();
    drop(daemon);
    let daemon = serve();
    numbers.extend(until("daemon.started"));
    daemon.send(Request::post("/v1/users", &json!({"id": "local:eve"}))).ok();
    numbers.extend(until("user.added"));
    let whole: Vec<u64> = (numbers[0]..=*numbers.last().unwrap()).collect();
    assert_eq!(numbers, whole, "one is missing, or came twice");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(run(ctl(&home, &daemon, &["status"])).status.success());
    assert!(daemon.stop().success());
}
