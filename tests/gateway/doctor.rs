//! The doctor: what it says of a control plane that is well, of one that is not there, and of each thing that somebody
//! spoiled; as root and as an ordinary user.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::hand::{ctl, refused, run, said, typed};
use crate::world::{Build, Home, Runtime, Serve, User, daemon::free_port};

/// The checks that a doctor printed as JSON, and its exit code.
fn checks(output: &Output) -> (Option<i32>, Vec<Value>) {
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let checks = report["checks"].as_array().unwrap().clone();
    let is_ok = checks.iter().all(|check| check["state"] != "fail");
    assert_eq!(report["ok"], is_ok, "{report}");
    assert_eq!(output.status.success(), is_ok, "{output:?}");
    for check in &checks {
        assert!(check["state"] == "ok" || check["next"].is_string(), "no next step: {check}");
    }
    (output.status.code(), checks)
}

#[track_caller]
fn of<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {checks:?}"))
}

/// `ironclaw doctor` for this home.
fn local(home: &Home, port: u16, words: &[&str]) -> Command {
    with_runtime(home, port, "native", words)
}

fn with_runtime(home: &Home, port: u16, runtime: &str, words: &[&str]) -> Command {
    let mut command = home.command(["doctor", "--json", "--runtime", runtime, "--api-addr"]);
    command.arg(format!("127.0.0.1:{port}")).arg("--state-dir").arg(home.state()).args(words);
    command
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_control_plane_that_is_well_and_one_that_is_gone() {
    for user in [User::Root, User::Ordinary] {
        let home = Home::new(Build::Release, user);
        let daemon = Serve::new(&home, Runtime::Native).ready();
        let (state, address) = (home.state().display().to_string(), daemon.address.to_string());
        let words = ["doctor", "--state-dir", &state, "--runtime=native", "--api-addr", &address];
        let (code, found) = checks(&run(ctl(&home, &daemon, &[&words[..], &["--json"]].concat())));
        assert_eq!(code, Some(0), "{found:?}");
        for name in [
            "control plane",
            "version",
            "readiness",
            "clocks",
            "token",
            "audit",
            "keys",
            "token file",
            "disk",
        ] {
            assert_eq!(of(&found, name)["state"], "ok", "{name}: {found:?}");
        }
        for name in ["seccomp", "clock", "user namespaces"] {
            assert_eq!(of(&found, name)["state"], "ok", "{name}: {found:?}");
        }
        for name in ["landlock", "control groups"] {
            assert_ne!(of(&found, name)["state"], "fail", "{name}: {found:?}");
        }
        let held = format!("process {}", daemon.id());
        for name in ["state directory", "address"] {
            assert!(of(&found, name)["seen"].as_str().unwrap().contains(&held), "{found:?}");
        }
        let runtime = of(&found, "runtime");
        assert!(
            runtime["state"] == "warn" && runtime["seen"].as_str().unwrap().contains("weaker"),
            "{runtime}"
        );
        // For people, a line each.
        let told = run(ctl(&home, &daemon, &words));
        let told = String::from_utf8(told.stdout).unwrap();
        assert!(told.lines().any(|line| line.starts_with("ok    control plane    answers at ")), "{told}");
        assert!(told.contains("next: install gVisor"), "{told}");
        // What the child would not take fails like any check, and loses nothing of what the control plane said.
        let (code, found) = checks(&run(ctl(&home, &daemon, &["doctor", "--runtime", "x", "--json"])));
        assert_eq!((code, &of(&found, "audit")["state"]), (Some(1), &Value::from("ok")), "{found:?}");
        assert!(of(&found, "settings")["seen"].as_str().unwrap().contains("--runtime"), "{found:?}");
        // The flags of the daemon's start are taken as they are; files of the client that are not there fail.
        let with_tls = ["--api-addr", "0.0.0.0:1", "--tls=self-signed", "--api-host", "a.example", "--json"];
        let asked = [&words[..3], &["--runtime=native"], &with_tls].concat();
        let (_, found) = checks(&run(ctl(&home, &daemon, &asked)));
        assert!(found.iter().all(|check| check["name"] != "settings"), "{found:?}");
        assert_eq!(of(&found, "keys")["state"], "ok", "{found:?}");
        for flag in ["--token-file", "--ca-file"] {
            let url = format!("https://{address}");
            let mut asked = home.command(["ctl", "--addr", &url, flag, "absent"]);
            asked.args(words).arg("--json");
            let (code, found) = checks(&run(asked));
            assert_eq!((code, &of(&found, "keys")["state"]), (Some(1), &Value::from("ok")), "{found:?}");
            assert!(of(&found, "control plane")["seen"].as_str().unwrap().contains("absent"), "{found:?}");
        }

        let token = daemon.token();
        assert!(daemon.stop().success());
        let mut asked = home.command(["ctl", "--token", &token, "--addr", &format!("http://{address}")]);
        asked.args(words).arg("--json");
        let (code, found) = checks(&run(asked));
        assert_eq!(code, Some(1));
        assert_eq!(of(&found, "control plane")["state"], "fail");
        assert!(found.iter().all(|check| check["name"] != "audit"), "{found:?}");
        assert_eq!(of(&found, "keys")["state"], "ok");
        assert!(of(&found, "address")["seen"].as_str().unwrap().contains("is free"), "{found:?}");
    }
}

#[test]
fn what_somebody_spoiled_is_named_with_the_next_step() {
    let home = Home::new(Build::Release, User::Ordinary);
    let port = free_port();
    let (_, found) = checks(&run(local(&home, port, &[])));
    assert!(
        of(&found, "state directory")["seen"].as_str().unwrap().contains("first start makes it"),
        "{found:?}"
    );
    assert!(!home.state().exists(), "the doctor made something");
    assert!(Serve::new(&home, Runtime::Native).ready().stop().success());
    assert_eq!(checks(&run(local(&home, port, &[]))).0, Some(0));

    for (file, name) in [("master.key", "keys"), ("keystore", "keys"), ("api-token", "token file")] {
        let path = home.state().join(file);
        mode(&path, 0o644);
        let (code, found) = checks(&run(local(&home, port, &[])));
        let check = of(&found, name);
        assert!(code == Some(1) && check["state"] == "fail", "{file}: {found:?}");
        assert!(
            check["seen"].as_str().unwrap().contains("0644")
                && check["next"].as_str().unwrap().contains("chmod 600")
        );
        mode(&path, 0o600);
    }
    mode(&home.state(), 0o755);
    let (_, found) = checks(&run(local(&home, port, &[])));
    assert_eq!(of(&found, "state directory")["state"], "warn", "{found:?}");
    mode(&home.state(), 0o700);

    let key = home.state().join("master.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::write(&key, "0".repeat(64)).unwrap();
    let (_, found) = checks(&run(local(&home, port, &[])));
    assert!(of(&found, "keys")["seen"].as_str().unwrap().contains("another one"), "{found:?}");
    std::fs::write(&key, kept).unwrap();

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_, found) = checks(&run(local(&home, taken.local_addr().unwrap().port(), &[])));
    assert_eq!(of(&found, "address")["state"], "fail", "{found:?}");
    let (_, found) = checks(&run(local(&home, port, &["--min-free", "900000GiB"])));
    assert!(of(&found, "disk")["next"].as_str().unwrap().contains("--min-free"), "{found:?}");
    let (_, found) = checks(&run(with_runtime(&home, port, "/no/runsc", &[])));
    assert!(of(&found, "runtime")["next"].as_str().unwrap().contains("install gVisor"), "{found:?}");

    // Somebody else's directory.
    let root = Home::new(Build::Release, User::Root);
    assert!(Serve::new(&root, Runtime::Native).ready().stop().success());
    let mut other = home.command(["doctor", "--json", "--runtime", "native", "--state-dir"]);
    other.arg(root.state());
    let (code, found) = checks(&run(other));
    assert!(code == Some(1) && of(&found, "state directory")["state"] == "fail", "{found:?}");
}

#[test]
fn the_doctor_takes_every_flag_of_a_start() {
    let home = Home::new(Build::Release, User::Root);
    let flags = |words: &[&str]| -> Vec<String> {
        let help = said(home.command(words));
        // What goes on in the next line is further to the right.
        let lines =
            help.lines().filter_map(|line| line.strip_prefix("  ")).filter(|line| line.starts_with("--"));
        lines.filter_map(|line| line.split([' ', ',']).next()).map(str::to_owned).collect()
    };
    let (start, doctor) = (flags(&["serve", "--help"]), flags(&["ctl", "doctor", "--help"]));
    assert!(start.len() > 25, "{start:?}");
    for flag in start {
        assert!(doctor.contains(&flag), "ctl doctor has no {flag}");
    }
}

/// What a real bash makes of the last word of a line.
fn completed(script: &str, line: &[&str]) -> String {
    let at = line.len() - 1;
    let ask = format!(
        "{script}\nCOMP_WORDS=({})\nCOMP_CWORD={at}\n_ironctl\nprintf %s \"${{COMPREPLY[*]}}\"",
        line.join(" ")
    );
    let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn numbers_and_words_come_from_the_program_itself() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    assert!(said(ctl(&home, &daemon, &["metrics"])).contains("# TYPE ironclaw_launches_total counter"));
    daemon.chat("mock-agent", "main").ask("hello");
    let numbers = crate::hand::json(ctl(&home, &daemon, &["metrics", "--json"]));
    assert_eq!(numbers["ironclaw_launches_total"], 1);
    assert!(numbers["ironclaw_launch_seconds_bucket"]["le=\"+Inf\""].is_number(), "{numbers}");
    assert!(daemon.stop().success());
    let script = |shell: &str| home.command(["ctl", "completions", shell]);
    for shell in ["bash", "zsh", "fish"] {
        let text = said(script(shell));
        for word in ["whoami", "completions", "tls-fingerprint", "agent create"] {
            assert!(text.contains(word), "no {word} for {shell}");
        }
    }
    refused(script("tcsh"), 2, &["bash, zsh, fish"]);
    let bash = said(script("bash"));
    for (line, expected) in [
        (&["ironctl", "whoa"][..], "whoami"),
        (&["ironclaw", "ctl", "agent", "cr"], "create"),
        (&["/usr/bin/ironctl", "--addr", "agent", "change", "app"], "approve"),
        (&["ironctl", "change", "submit", "--kin"], "--kind"),
        (&["ironctl", "agent", "show", "list", "--js"], "--json"),
        (&["ironctl", "member", "re"], "remove"),
        (&["ironclaw", "serve", "--st"], ""),
    ] {
        assert_eq!(completed(&bash, line), expected, "{line:?}");
    }
}

#[test]
fn a_first_run_ends_with_an_agent_that_answers() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let steps = said(ctl(&home, &daemon, &["onboard"]));
    assert!(steps.contains("agent create NAME --template assistant --yes"), "{steps}");
    let onboard = |words: &str| typed(&ctl(&home, &daemon, &["onboard"]), words);
    // A name that is none, a new agent with what is offered, approved, greeted.
    let (code, said) = onboard("nobody\nnew\nfriend\n\n\n\n\n\n\n\n\ny\n");
    assert_eq!(code, Some(0), "{said}");
    for word in ["owner of everything", "there is no agent nobody", "friend is made", "ironctl chat friend"] {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(said.contains("mock-agent received: Hello! Who are you"), "{said}");
    // One that is there.
    let (code, said) = onboard("\n");
    assert!(code == Some(0) && said.contains("[dev-agent]") && said.contains("received: Hello!"), "{said}");
    assert!(daemon.stop().success());
}
