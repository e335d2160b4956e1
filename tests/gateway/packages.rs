//! Packages in a sandbox: exactly the files that were approved, to be read, whatever is killed or altered meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::changes::acts;
use crate::hand::{approve, ctl, refused, said, submit};
use crate::mounts::{read, write};
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually};

crate::world::boxes::in_every_box!(a_package_is_read_after_a_decision_and_stays_what_it_was);

/// Puts a package where an operator puts one.
pub(crate) fn put(home: &Home, package: &str, text: &str) {
    let directory = home.state().join("packages").join(package);
    fs::create_dir_all(directory.join("bin")).unwrap();
    fs::write(directory.join("readme"), text).unwrap();
    fs::write(directory.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(directory.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
}

fn ask(daemon: &Daemon, package: &str) -> Value {
    submit(daemon, "packages", "mock-agent", &json!({ "add": [package] })).ok()
}

fn retry(daemon: &Daemon, id: &str) -> (u16, Value) {
    let answer = daemon.send(Request::post(&format!("/v1/changes/{id}/retry"), &json!({})));
    (answer.status, answer.json())
}

fn a_package_is_read_after_a_decision_and_stays_what_it_was(runtime: Runtime, user: User) {
    let home = Home::new(Build::Release, user);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    put(&home, "tools@1.0", "first");
    put(&home, "tools@2.0", "second");
    let change = ask(&daemon, "tools@1.0");
    assert!(change["diff"].as_str().unwrap().contains("+ 1.0: 3 files, 15 bytes, digest "), "{change}");
    assert!(
        read(&chat, "/opt/packages/tools/readme").contains("no such file"),
        "nothing before the decision"
    );
    let done = approve(&daemon, &change).ok();
    assert_eq!((&done["state"], &done["failure"]), (&json!("applied"), &Value::Null), "{done}");

    assert_eq!(read(&chat, "/opt/packages/tools/readme"), "first");
    assert_eq!(read(&chat, "/opt/packages/tools/bin/run"), "#!/bin/sh");
    for path in ["/opt/packages/tools/readme", "/opt/packages/tools/new", "/opt/packages/new/x"] {
        let said = write(&chat, path);
        assert!(!said.contains("wrote"), "{path}: {said}");
    }
    assert!(read(&chat, "/opt/packages/tools/../../../etc/passwd").contains("refused"));
    let digest = change["effects"][0]["package"]["digest"].as_str().unwrap();
    let copy = home.state().join("packages/.store").join(digest);
    for (file, mode) in [("readme", 0o444), ("bin/run", 0o555), ("bin", 0o555), (".", 0o555)] {
        assert_eq!(fs::metadata(copy.join(file)).unwrap().permissions().mode() & 0o7777, mode, "{file}");
    }
    // What the operator does with the directory later reaches nobody.
    put(&home, "tools@1.0", "altered");
    assert_eq!(read(&chat, "/opt/packages/tools/readme"), "first");
    assert!(read(&daemon.chat("dev-agent", "main"), "/opt/packages/tools/readme").contains("no such file"));

    let change = ask(&daemon, "tools@2.0");
    assert!(change["diff"].as_str().unwrap().contains("- 1.0: digest"), "{change}");
    assert_eq!(approve(&daemon, &change).ok()["state"], "applied");
    assert_eq!(read(&chat, "/opt/packages/tools/readme"), "second");
    let page = said(ctl(&home, &daemon, &["agent", "show", "mock-agent"]));
    assert!(page.contains("tools@2.0"), "{page}");
    let change = submit(&daemon, "packages", "mock-agent", &json!({"remove": ["tools"]})).ok();
    assert_eq!(approve(&daemon, &change).ok()["state"], "applied");
    assert!(read(&chat, "/opt/packages/tools/readme").contains("no such file"));
    assert!(daemon.stop().success());
}

/// What was altered after it was shown is not what was approved: nothing of it reaches the agent, it is said, and it
/// can be tried again.
#[test]
fn an_altered_package_is_never_mounted_and_its_change_can_be_tried_again() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    put(&home, "tools@1.0", "first");
    let change = ask(&daemon, "tools@1.0");
    let id = change["id"].as_str().unwrap();
    assert_eq!(retry(&daemon, id).0, 409, "it is not approved yet");
    put(&home, "tools@1.0", "altered");
    let held = approve(&daemon, &change).ok();
    assert_eq!(held["state"], "approved", "{held}");
    assert!(held["failure"].as_str().unwrap().contains("not those that were approved"), "{held}");
    assert!(read(&chat, "/opt/packages/tools/readme").contains("no such file"));
    let page = said(ctl(&home, &daemon, &["agent", "show", "mock-agent"]));
    assert!(!page.contains("tools@1.0"), "{page}");
    let shown = said(ctl(&home, &daemon, &["change", "show", id]));
    assert!(shown.contains("not those that were approved"), "{shown}");
    refused(ctl(&home, &daemon, &["change", "retry", id]), 1, &["not those that were approved"]);

    put(&home, "tools@1.0", "first");
    let done = said(ctl(&home, &daemon, &["change", "retry", id]));
    assert!(done.contains("in effect"), "{done}");
    assert_eq!(read(&chat, "/opt/packages/tools/readme"), "first");
    let (status, problem) = retry(&daemon, id);
    assert_eq!((status, &problem["type"]), (409, &json!("not_approved")));
    let order = ["submitted", "approved", "failed", "retried", "failed", "retried", "applied"];
    assert_eq!(acts(&daemon, id), order.map(|act| format!("change.{act}")));
    assert_eq!(retry(&daemon, "chg_01ARZ3NDEKTSV4RRFFQ69G5FAV").0, 404);

    for (word, says) in
        [("../x@1", "NAME@VERSION"), ("x@1;reboot", "NAME@VERSION"), ("none@1", "there is no package none@1")]
    {
        let words = ["change", "submit", "--kind", "packages", "--group", "mock-agent", "--add", word];
        refused(ctl(&home, &daemon, &words), 1, &[says]);
    }
    assert!(daemon.stop().success());
}

/// One of a change's packages cannot be had: the agent has none of them, and keeps what the change would replace.
#[test]
fn a_change_of_which_one_package_is_missing_gives_none_of_them() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    for (package, text) in [("tools@1.0", "first"), ("tools@2.0", "second"), ("other@1.0", "other")] {
        put(&home, package, text);
    }
    assert_eq!(approve(&daemon, &ask(&daemon, "tools@1.0")).ok()["state"], "applied");
    let payload = json!({"add": ["other@1.0", "tools@2.0"]});
    let change = submit(&daemon, "packages", "mock-agent", &payload).ok();
    put(&home, "tools@2.0", "altered");
    assert_eq!(approve(&daemon, &change).ok()["state"], "approved");
    assert_eq!(read(&chat, "/opt/packages/tools/readme"), "first");
    assert!(read(&chat, "/opt/packages/other/readme").contains("no such file"));
    put(&home, "tools@2.0", "second");
    assert_eq!(retry(&daemon, change["id"].as_str().unwrap()).1["state"], "applied");
    assert_eq!(read(&chat, "/opt/packages/tools/readme"), "second");
    assert_eq!(read(&chat, "/opt/packages/other/readme"), "other");
    assert!(daemon.stop().success());
}

/// What was decided last holds: an earlier approval whose work failed cannot come back over it, and one that nobody
/// wants any more is taken back.
#[test]
fn an_approved_change_that_failed_does_not_come_back_over_a_later_one() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    put(&home, "tools@1.0", "first");
    put(&home, "tools@2.0", "second");
    let failed = |package: &str| {
        let change = ask(&daemon, package);
        put(&home, package, "altered");
        assert_eq!(approve(&daemon, &change).ok()["state"], "approved");
        change["id"].as_str().unwrap().to_owned()
    };
    let first = failed("tools@1.0");
    assert_eq!(approve(&daemon, &ask(&daemon, "tools@2.0")).ok()["state"], "applied");
    put(&home, "tools@1.0", "first");
    refused(ctl(&home, &daemon, &["change", "retry", &first]), 1, &["was replaced after it was approved"]);
    assert_eq!(daemon.get(&format!("/v1/changes/{first}"))["state"], "expired");
    assert_eq!(retry(&daemon, &first).0, 409);
    let order = ["submitted", "approved", "failed", "retried", "expired"];
    assert_eq!(acts(&daemon, &first), order.map(|act| format!("change.{act}")));
    assert_eq!(read(&chat, "/opt/packages/tools/readme"), "second");

    put(&home, "other@1.0", "other");
    let second = failed("other@1.0");
    said(ctl(&home, &daemon, &["change", "withdraw", &second]));
    let gone = daemon.get(&format!("/v1/changes/{second}"));
    assert_eq!((&gone["state"], &gone["decided_by"]), (&json!("withdrawn"), &json!("local:owner")), "{gone}");
    let (failure, note) = (gone["failure"].as_str().unwrap(), gone["note"].as_str().unwrap());
    assert!(failure.ends_with("; withdrawn by local:owner") && note.is_empty(), "{gone}");
    assert_eq!(retry(&daemon, &second).0, 409);
    assert!(read(&chat, "/opt/packages/other/readme").contains("no such file"));
    assert!(daemon.stop().success());
}

/// A copy that was altered behind the control plane's back is not shown: it is made again, or left out and said.
#[test]
fn a_copy_that_was_altered_is_left_out_until_it_can_be_made_again() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    put(&home, "tools@1.0", "first");
    let change = ask(&daemon, "tools@1.0");
    assert_eq!(approve(&daemon, &change).ok()["state"], "applied");
    assert!(daemon.stop().success());
    let store = home.state().join("packages/.store");
    let copy = store.join(change["effects"][0]["package"]["digest"].as_str().unwrap());
    let alter = || {
        fs::remove_file(copy.join("readme")).unwrap();
        fs::write(copy.join("readme"), "evil!").unwrap();
    };
    alter();
    put(&home, "tools@1.0", "other");
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    assert!(read(&chat, "/opt/packages/tools/readme").contains("no such file"));
    daemon
        .log
        .wait_for("it is said", |line| line.contains("sandbox.left_out") && line.contains("was altered"));
    let page = said(ctl(&home, &daemon, &["agent", "show", "mock-agent"]));
    assert!(page.contains("its copy is lost or was altered"), "{page}");
    put(&home, "tools@1.0", "first");
    eventually("the last sandbox is gone", || {
        (daemon.metric("ironclaw_sandboxes_running") == 0.0).then_some(())
    });
    assert_eq!(read(&chat, "/opt/packages/tools/readme"), "first");
    let page = said(ctl(&home, &daemon, &["agent", "show", "mock-agent"]));
    assert!(page.contains("tools@1.0") && !page.contains("altered"), "{page}");
    // What nobody has any more is gone with the next start.
    let change = submit(&daemon, "packages", "mock-agent", &json!({"remove": ["tools"]})).ok();
    assert_eq!(approve(&daemon, &change).ok()["state"], "applied");
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, Runtime::Native).ready();
    eventually("its copy is gone", || (fs::read_dir(&store).unwrap().count() == 0).then_some(()));
    assert!(daemon.stop().success());
}
