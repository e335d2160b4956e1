//! Directories of the host in a sandbox: only after a decision, only the one that was shown, with its right and no
//! more, in both back ends.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::hand::{approve, ctl, refused, said, submit};
use crate::world::{Build, Chat, Daemon, Home, Runtime, Serve, User, eventually, marker};

crate::world::boxes::in_every_box!(a_mount_is_seen_with_its_right_after_a_decision);

/// A directory that an operator shares: nobody but root may write in it or above it, unlike what lies in `/tmp`. It is
/// gone with its test.
pub(super) struct Shared(PathBuf);

impl Shared {
    pub(super) fn new() -> Self {
        let path = Path::new("/var/lib").join(format!("ic-{}", marker()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    /// A directory in it with a file `note` of this text.
    pub(super) fn holding(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(path.join("note"), text).unwrap();
        path.display().to_string()
    }

    pub(super) fn root(&self) -> String {
        self.0.display().to_string()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
pub(super) fn read(chat: &Chat<'_>, path: &str) -> String {
    result(&chat.ask(&format!("tool:read_file {}", json!({ "path": path }))))
}

#[track_caller]
pub(super) fn write(chat: &Chat<'_>, path: &str) -> String {
    result(&chat.ask(&format!("tool:write_file {}", json!({"path": path, "content": "written inside"}))))
}

/// What the tool said.
#[track_caller]
fn result(answer: &str) -> String {
    let (_, result) = answer.split_once("tool result: ").unwrap_or_else(|| panic!("{answer}"));
    result.to_owned()
}

fn add(mounts: Value) -> Value {
    json!({ "add": mounts })
}

/// The problem that the agent's page shows with a mount.
pub(super) fn problem(daemon: &Daemon, name: &str) -> Value {
    let agent = daemon.get("/v1/agents/mock-agent");
    let mounts = agent["mounts"].as_array().unwrap().clone();
    mounts.into_iter().find(|mount| mount["name"] == name).unwrap()["problem"].clone()
}

fn a_mount_is_seen_with_its_right_after_a_decision(runtime: Runtime, user: User) {
    let home = Home::new(Build::Release, user);
    let shared = Shared::new();
    let source = shared.holding("data", "from the host");
    fs::write(Path::new(&source).join("secret"), "root's").unwrap();
    fs::set_permissions(Path::new(&source).join("secret"), fs::Permissions::from_mode(0o600)).unwrap();
    if user == User::Root {
        // A private parent stands in nobody's way: the directory itself is what was approved.
        fs::set_permissions(&shared.0, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let daemon = Serve::new(&home, runtime).flag("--mount-root", shared.root()).ready();
    let chat = daemon.chat("mock-agent", "main");
    let payload = add(json!([{"name": "data", "source": source}, {"name": "box"}]));
    let change = submit(&daemon, "mounts", "mock-agent", &payload).json();
    assert_eq!(change["payload"]["add"][0]["access"], "ro", "{change}");
    assert!(read(&chat, "/mnt/data/note").contains("no such file"), "nothing before the decision");
    assert_eq!(approve(&daemon, &change).status, 200);

    assert_eq!(read(&chat, "/mnt/data/note"), "from the host");
    assert_eq!(daemon.metric("ironclaw_launches_total"), 2.0, "the next message has a new sandbox");
    assert!(read(&chat, "/mnt/data/secret").contains("refused"), "modes hold");
    for path in [
        "/mnt/data/new",
        "/mnt/data/note",
        "/mnt/data/d/new",
        "/mnt/new",
        "/mnt/other/x",
        "/opt/packages/x/y",
    ] {
        let said = write(&chat, path);
        assert!(!said.contains("wrote"), "{path}: {said}");
    }
    assert_eq!(fs::read_to_string(Path::new(&source).join("note")).unwrap(), "from the host");
    assert_eq!(fs::read_dir(&source).unwrap().count(), 2);
    for path in ["/mnt/data/../../etc/passwd", "/mnt/../etc/passwd", "/etc/passwd", "/mnt/data"] {
        let said = read(&chat, path);
        assert!(said.contains("refused"), "{path}: {said}");
    }
    assert!(write(&chat, "/mnt/box/deep/kept").starts_with("wrote"));
    assert_eq!(read(&chat, "/mnt/box/deep/kept"), "written inside");
    assert_eq!(daemon.metric("ironclaw_launches_total"), 2.0);
    let kept = home.state().join("mounts/mock-agent/box/deep/kept");
    assert_eq!(fs::read_to_string(&kept).unwrap(), "written inside");

    // Another agent has none of it.
    let other = daemon.chat("dev-agent", "main");
    assert!(read(&other, "/mnt/data/note").contains("no such file"));
    let change = submit(&daemon, "mounts", "mock-agent", &json!({"remove": ["data", "box"]})).json();
    assert_eq!(approve(&daemon, &change).status, 200);
    assert!(read(&chat, "/mnt/data/note").contains("no such file"));
    let change = submit(&daemon, "mounts", "mock-agent", &add(json!([{"name": "box"}]))).json();
    assert_eq!(approve(&daemon, &change).status, 200);
    assert_eq!(read(&chat, "/mnt/box/deep/kept"), "written inside", "what was written survives");
    assert!(daemon.stop().success());
    assert!(!home.state().join("bundles/staging").read_dir().is_ok_and(|mut left| left.next().is_some()));
}

/// A turn that runs keeps what it has; the next one has what was decided.
#[test]
fn a_turn_is_not_ended_for_a_mount() {
    let home = Home::new(Build::Faults, User::Root);
    let shared = Shared::new();
    let source = shared.holding("data", "from the host");
    let gates = home.root.join("user");
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--mount-root", shared.root())
        .fault(format!("mock-gate={}", gates.display()))
        .ready();
    let chat = daemon.chat("mock-agent", "main");
    let sent = chat.say("hold:gate");
    eventually("its turn runs", || (daemon.metric("ironclaw_launches_total") == 1.0).then_some(()));
    let change =
        submit(&daemon, "mounts", "mock-agent", &add(json!([{"name": "data", "source": source}]))).json();
    assert_eq!(approve(&daemon, &change).status, 200);
    let next = chat.say(&format!("tool:read_file {}", json!({"path": "/mnt/data/note"})));
    assert_eq!(daemon.metric("ironclaw_launches_total"), 1.0);
    fs::write(gates.join("gate"), "").unwrap();
    assert!(chat.answer_after(sent.position).text.contains("hold:gate"));
    let answer = chat.wait(next.position, "the answer", |entry| {
        entry.in_reply_to.as_deref() == Some(next.message_id.as_str())
    });
    assert!(answer.text.contains("tool result: from the host"), "{answer:?}");
    assert_eq!(daemon.metric("ironclaw_launches_total"), 2.0);
    assert_eq!(daemon.metric("ironclaw_messages_failed_total"), 0.0);
    assert!(daemon.stop().success());
}

/// INV-041: what is put in the place of a source is never mounted, whatever it is and whenever it is put there; the
/// launch goes on without it, and says so.
#[test]
fn inv_041_a_source_that_was_swapped_is_left_out_and_shown() {
    let home = Home::new(Build::Release, User::Root);
    let shared = Shared::new();
    let source = shared.holding("data", "from the host");
    let daemon =
        Serve::new(&home, Runtime::Native).flag("--mount-root", shared.root()).flag("--linger", "0s").ready();
    let chat = daemon.chat("mock-agent", "main");
    let aside = shared.0.join("aside");
    let ask = || submit(&daemon, "mounts", "mock-agent", &add(json!([{"name": "data", "source": source}])));

    // Asked for through links, from outside, and where the daemon's own files are.
    symlink("/etc", shared.0.join("etc")).unwrap();
    symlink(&source, shared.0.join("link")).unwrap();
    // Who may only read it could still talk to whoever listens there.
    std::fs::create_dir_all(shared.0.join("served/deep")).unwrap();
    let _listens = std::os::unix::net::UnixListener::bind(shared.0.join("served/deep/s")).unwrap();
    for (bad, says) in [
        (format!("{}/etc", shared.root()), "symbolic link"),
        (format!("{}/etc/ssl", shared.root()), "symbolic link"),
        (format!("{}/link", shared.root()), "symbolic link"),
        (format!("{}/../../etc", shared.root()), "without . and .."),
        ("/etc".to_owned(), "not below"),
        (home.state().display().to_string(), "not below"),
        (format!("{}/served", shared.root()), "holds the socket"),
    ] {
        let payload = add(json!([{"name": "data", "source": bad}]));
        let answer = submit(&daemon, "mounts", "mock-agent", &payload);
        assert_eq!(answer.status, 422, "{bad}: {}", answer.text());
        assert!(answer.text().contains(says), "{bad}: {}", answer.text());
    }

    // Swapped between the request and the decision: for a link, and for another directory.
    let change = ask().json();
    fs::rename(&source, &aside).unwrap();
    symlink("/etc", &source).unwrap();
    let late = approve(&daemon, &change);
    assert_eq!((late.status, late.json()["type"].clone()), (409, json!("not_possible")));
    fs::remove_file(&source).unwrap();
    fs::create_dir(&source).unwrap();
    let stale = approve(&daemon, &change);
    assert_eq!((stale.status, stale.json()["type"].clone()), (409, json!("stale")));
    fs::remove_dir(&source).unwrap();
    fs::rename(&aside, &source).unwrap();
    let stale = approve(&daemon, &stale.json()["change"]).json();
    assert_eq!(approve(&daemon, &stale["change"]).status, 200);
    assert_eq!(read(&chat, "/mnt/data/note"), "from the host");
    assert_eq!(problem(&daemon, "data"), Value::Null);

    // Swapped after it: each launch goes on without it.
    fs::rename(&source, &aside).unwrap();
    let swaps: [(&str, &dyn Fn()); 4] = [
        ("is not there", &|| {}),
        ("symbolic link", &|| symlink("/etc", &source).unwrap()),
        ("not the directory that was approved", &|| drop(shared.holding("data", "another"))),
        ("others could put something else", &|| {
            fs::rename(&aside, &source).unwrap();
            fs::set_permissions(&source, fs::Permissions::from_mode(0o777)).unwrap();
        }),
    ];
    for (says, swap) in swaps {
        if fs::symlink_metadata(&source).is_ok_and(|meta| meta.is_dir()) {
            fs::remove_dir_all(&source).unwrap();
        } else {
            let _ = fs::remove_file(&source);
        }
        swap();
        eventually("the last sandbox is gone", || {
            (daemon.metric("ironclaw_sandboxes_running") == 0.0).then_some(())
        });
        let said = read(&chat, "/mnt/data/passwd");
        assert!(said.contains("no such file"), "{says}: {said}");
        let said = read(&chat, "/mnt/data/note");
        assert!(said.contains("no such file"), "{says}: {said}");
        daemon.log.wait_for(says, |line| line.contains("sandbox.left_out") && line.contains(says));
        let shown = problem(&daemon, "data");
        assert!(shown.as_str().unwrap().contains(says), "{shown}");
        let page = said_page(&home, &daemon);
        assert!(page.contains(says), "{page}");
    }
    fs::set_permissions(&source, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(read(&chat, "/mnt/data/note"), "from the host", "as it was approved, it is back");
    assert!(daemon.stop().success());
}

/// A directory shown a second time, until the test ends.
struct Bound(PathBuf);

impl Bound {
    fn new(source: &Path, at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        fs::set_permissions(&at, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Command::new("mount").arg("--bind").args([source, &at]).status().unwrap().success());
        Self(at)
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// What is the control plane's own stays so under another name, and what is mounted inside a directory is not shown with
/// it, also to the sandbox of an ordinary user, who could not leave it out.
#[test]
fn another_name_of_what_is_private_is_private_and_a_mount_inside_is_not_carried_along() {
    for user in [User::Root, User::Ordinary] {
        let home = Home::new(Build::Release, user);
        let shared = Shared::new();
        let source = shared.holding("data", "from the host");
        let serve = Serve::new(&home, Runtime::Native).flag("--mount-root", shared.root());
        let daemon = serve.flag("--linger", "1s").ready();
        let aliases = [
            Bound::new(&home.state().join("sessions"), shared.0.join("below")),
            Bound::new(home.state().parent().unwrap(), shared.0.join("above")),
        ];
        for alias in &aliases {
            let alias = alias.0.display().to_string();
            let answer =
                submit(&daemon, "mounts", "mock-agent", &add(json!([{"name": "x", "source": alias}])));
            assert_eq!(answer.status, 422, "{alias}: {}", answer.text());
            let refused = answer.text();
            assert!(
                refused.contains("which no agent may see") || refused.contains("mounted inside"),
                "{alias}: {refused}"
            );
        }
        let payload = add(json!([{"name": "data", "source": source}]));
        let change = submit(&daemon, "mounts", "mock-agent", &payload).ok();
        assert_eq!(approve(&daemon, &change).status, 200);
        let chat = daemon.chat("mock-agent", "main");
        assert_eq!(read(&chat, "/mnt/data/note"), "from the host");
        let other = shared.holding("other", "mounted later");
        let inside = Bound::new(Path::new(&other), Path::new(&source).join("inside"));
        eventually("the last sandbox is gone", || {
            (daemon.metric("ironclaw_sandboxes_running") == 0.0).then_some(())
        });
        assert!(read(&chat, "/mnt/data/inside/note").contains("no such file"));
        let shown = problem(&daemon, "data");
        assert!(shown.as_str().unwrap().contains("something mounted inside"), "{shown}");
        drop(inside);
        assert!(daemon.stop().success());
    }
}

/// A directory on a server that is gone: nobody waits for it for long, and for nothing else.
#[test]
fn a_directory_that_does_not_answer_is_left_out_and_keeps_nobody() {
    let home = Home::new(Build::Faults, User::Root);
    let shared = Shared::new();
    let source = shared.holding("data", "from the host");
    let gone = home.root.join("user/gone");
    let daemon = Serve::new(&home, Runtime::Native)
        .flag("--mount-root", shared.root())
        .fault(format!("look-waits={}", gone.display()))
        .ready();
    let payload = add(json!([{"name": "data", "source": source}]));
    let change = submit(&daemon, "mounts", "mock-agent", &payload).ok();
    fs::write(&gone, "").unwrap();
    let answer = submit(&daemon, "mounts", "mock-agent", &payload);
    assert!(answer.status == 422 && answer.text().contains("does not answer"), "{}", answer.text());
    assert_eq!(approve(&daemon, &change).status, 409);
    // What needs no look at it is not kept by it.
    let directory = home.state().join("packages/tools@1.0");
    fs::create_dir_all(&directory).unwrap();
    let package = submit(&daemon, "packages", "mock-agent", &json!({"add": ["tools@1.0"]})).ok();
    assert_eq!(approve(&daemon, &package).ok()["state"], "applied");
    fs::remove_file(&gone).unwrap();
    let change = eventually("it answers again", || {
        let answer = submit(&daemon, "mounts", "dev-agent", &payload);
        (answer.status == 201).then(|| answer.json())
    });
    assert_eq!(approve(&daemon, &change).status, 200);
    fs::write(&gone, "").unwrap();
    let chat = daemon.chat("dev-agent", "main");
    assert!(read(&chat, "/mnt/data/note").contains("no such file"));
    daemon
        .log
        .wait_for("it is said", |line| line.contains("sandbox.left_out") && line.contains("does not answer"));
    fs::remove_file(&gone).unwrap();
    eventually("the last sandbox is gone", || {
        (daemon.metric("ironclaw_sandboxes_running") == 0.0).then_some(())
    });
    assert_eq!(read(&chat, "/mnt/data/note"), "from the host");
    assert!(daemon.stop().success());
}

fn said_page(home: &Home, daemon: &Daemon) -> String {
    said(ctl(home, daemon, &["agent", "show", "mock-agent"]))
}

#[test]
fn without_a_mount_root_every_mount_of_the_host_is_refused_with_the_way_to_allow_it() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let words = ["change", "submit", "--kind", "mounts", "--group", "mock-agent", "--mount", "data=/srv"];
    refused(ctl(&home, &daemon, &words), 1, &["--mount-root DIR"]);
    let words = [
        "change",
        "submit",
        "--kind",
        "mounts",
        "--group",
        "mock-agent",
        "--mount",
        "box",
        "--approve",
        "--yes",
    ];
    let done = said(ctl(&home, &daemon, &words));
    assert!(done.contains("+ to read and write") && done.contains("in effect"), "{done}");
    let words = ["change", "submit", "--kind", "mounts", "--group", "mock-agent", "--unmount", "box"];
    assert!(said(ctl(&home, &daemon, &words)).contains("- to read and write"));
    assert!(daemon.stop().success());
}
