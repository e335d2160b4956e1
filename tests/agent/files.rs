//! The tools for files against what another session of the agent, or whoever else writes in its directory, may have put
//! there: nothing outside is read, listed, changed or deleted, and nothing hangs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::world::boxes::in_both_back_ends;
use crate::world::{Build, Chat, Home, Runtime, Serve, User, marker};

in_both_back_ends!(files_are_kept_found_changed_and_nothing_else_is);

/// What a tool answered.
#[track_caller]
fn tool(chat: &Chat<'_>, name: &str, input: &Value) -> String {
    let answer = chat.ask(&format!("tool:{name} {input}"));
    let said = answer.split_once("mock-agent tool result: ");
    said.unwrap_or_else(|| panic!("{name} {input}: {answer}")).1.to_owned()
}

fn files_are_kept_found_changed_and_nothing_else_is(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, runtime).ready();
    let chat = daemon.chat("mock-agent", "main");
    let run = |name: &str, input: Value| tool(&chat, name, &input);
    assert!(run("append_file", json!({"path": "notes/a.txt", "content": "one\n"})).contains("4 now"));
    assert!(run("append_file", json!({"path": "notes/a.txt", "content": "two\n"})).contains("8 now"));
    let edited = run("edit_file", json!({"path": "notes/a.txt", "old": "two", "new": "three"}));
    assert!(edited.contains("line 2"), "{edited}");
    assert!(
        run("edit_file", json!({"path": "notes/a.txt", "old": "four", "new": "x"}))
            .contains("not in the file")
    );
    assert_eq!(run("read_file", json!({"path": "notes/a.txt"})), "one\nthree");
    assert_eq!(run("list_dir", json!({"path": "notes"})), "a.txt (10 bytes)");
    assert_eq!(run("search_files", json!({"path": ".", "text": "THREE"})), "notes/a.txt:2: three");
    assert!(run("move_file", json!({"from": "notes/a.txt", "to": "old/b.txt"})).contains("moved"));
    assert!(run("write_file", json!({"path": "c.txt", "content": "c"})).contains("wrote"));
    let moved = run("move_file", json!({"from": "c.txt", "to": "old/b.txt"}));
    assert!(moved.contains("there already"), "{moved}");
    assert!(run("delete_file", json!({"path": "old"})).contains("not empty"));
    for path in ["old/b.txt", "old", "notes", "c.txt"] {
        assert!(run("delete_file", json!({ "path": path })).contains("deleted"), "{path}");
    }

    // Now somebody else has been there.
    let workspace = home.state().join("workspaces/mock-agent");
    let (outside, secret) = (home.state().join("outside"), marker());
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), &secret).unwrap();
    lay_traps(&workspace, &outside);
    let paths = [
        "link",
        "absolute",
        "up/secret",
        "up",
        "magic/etc/passwd",
        "magic",
        "fifo",
        "socket",
        "device",
        "loop",
        "loop/x",
        "dangling",
        "../outside/secret",
        "..",
        "/etc/passwd",
        "/proc/self/environ",
        "/proc/1/mem",
        "/dev/zero",
        "/workspace/../etc/passwd",
        "a/../../outside/secret",
        "",
        "/",
        "nul\u{0}l",
        "huge",
        "deep/link/secret",
    ];
    for path in paths {
        for (name, input) in [
            ("read_file", json!({"path": path})),
            ("write_file", json!({"path": path, "content": "written"})),
            ("append_file", json!({"path": path, "content": "written"})),
            ("edit_file", json!({"path": path, "old": "root", "new": "written"})),
            ("list_dir", json!({"path": path})),
            ("search_files", json!({"path": path, "text": secret})),
            ("move_file", json!({"from": path, "to": "stolen"})),
            ("move_file", json!({"from": "bait", "to": format!("{path}/bait")})),
        ] {
            // A name that is nothing but odd may be listed: the root itself.
            let is_root = matches!(path, "") && matches!(name, "list_dir" | "search_files");
            // A file of its own that is only large may go or be replaced.
            let huge = path == "huge" && matches!(name, "move_file" | "write_file");
            if is_root || huge {
                continue;
            }
            let said = run(name, input.clone());
            assert!(!said.contains(&secret) && !said.contains("root:"), "{name} {input}: {said}");
            for done in ["wrote", "added", "replaced", "moved"] {
                assert!(!said.starts_with(done), "{name} {input}: {said}");
            }
        }
    }
    // A search over all of it comes back, and follows nothing.
    let said = run("search_files", json!({"path": ".", "text": secret}));
    assert!(said.starts_with("it is nowhere there"), "{said}");
    let listed = run("list_dir", json!({"path": "."}));
    assert!(listed.contains("fifo (neither") && listed.contains("odd\\u{a}name"), "{listed}");
    // Links go themselves, and what they lead to stays.
    for path in ["link", "up", "fifo", "socket", "device", "loop"] {
        assert!(run("delete_file", json!({ "path": path })).contains("deleted"), "{path}");
    }
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), secret);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert!(!workspace.join("stolen").exists());
    assert!(daemon.stop().success());
}

fn lay_traps(workspace: &Path, outside: &Path) {
    let owner = {
        use std::os::unix::fs::MetadataExt;
        let found = fs::metadata(workspace).unwrap();
        (found.uid(), found.gid())
    };
    symlink("../outside/secret", workspace.join("link")).unwrap();
    symlink(outside.join("secret"), workspace.join("absolute")).unwrap();
    symlink(outside, workspace.join("up")).unwrap();
    symlink("/proc/self/root", workspace.join("magic")).unwrap();
    symlink("loop", workspace.join("loop")).unwrap();
    symlink("nowhere", workspace.join("dangling")).unwrap();
    fs::create_dir(workspace.join("deep")).unwrap();
    symlink(outside, workspace.join("deep/link")).unwrap();
    fs::write(workspace.join("bait"), "bait").unwrap();
    fs::write(workspace.join("odd\nname"), "odd").unwrap();
    fs::File::create(workspace.join("huge")).unwrap().set_len(1 << 40).unwrap();
    drop(std::os::unix::net::UnixListener::bind(workspace.join("socket")).unwrap());
    for (name, kind) in [("fifo", &["p"][..]), ("device", &["c", "1", "5"])] {
        let made = Command::new("mknod").arg(workspace.join(name)).args(kind).status().unwrap();
        assert!(made.success(), "{name}");
    }
    for entry in fs::read_dir(workspace).unwrap() {
        std::os::unix::fs::lchown(entry.unwrap().path(), Some(owner.0), Some(owner.1)).unwrap();
    }
}
