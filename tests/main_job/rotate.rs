//! `ironclaw rotate-key`: a new master key in the place of the old one, never beside a running daemon, never
//! with the wrong old key, and after a crash at any step with one of the two keys.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::bad_input::{refused, serve, start_and_stop};
use crate::world::home::finish;
use crate::world::{Build, Home, Runtime, Serve, User};

/// The command, with the flags that `serve` gets.
fn rotate_command(home: &Home, new: &Path, more: &[&str]) -> Command {
    let state = home.state().display().to_string();
    let new = new.display().to_string();
    home.command([&["rotate-key", "--state-dir", &state, "--new-master-key-file", &new], more].concat())
}

fn rotate(home: &Home, new: &Path, more: &[&str]) -> Output {
    finish(rotate_command(home, new, more).spawn().unwrap())
}

fn keystore(home: &Home) -> Vec<u8> {
    fs::read(home.state().join("keystore")).unwrap()
}

/// A key file of its own, with these digits.
fn key_file(home: &Home, name: &str, digits: &str) -> PathBuf {
    let path = home.root.join("user").join(name);
    fs::write(&path, digits).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// The conversation is there and goes on with this key; `None` is the one in the state directory.
#[track_caller]
fn opens(home: &Home, key: Option<&Path>) {
    let mut start = Serve::new(home, Runtime::Native);
    if let Some(key) = key {
        start = start.flag("--master-key-file", key.display().to_string());
    }
    let daemon = start.ready();
    let chat = daemon.chat("mock-agent", "main");
    let texts: Vec<String> = chat.history().into_iter().map(|entry| entry.text).collect();
    for text in ["before", "mock-agent received: before"] {
        assert!(texts.iter().any(|found| found == text), "no {text:?} in {texts:?}");
    }
    assert!(chat.ask("after").contains("after"));
    assert!(daemon.stop().success());
}

#[track_caller]
fn stays_shut(home: &Home, key: Option<&Path>) {
    let key = key.map(|key| key.display().to_string());
    let words: Vec<&str> = key.iter().flat_map(|key| ["--master-key-file", key]).collect();
    refused(&serve(home, &words), &["master key"]);
}

#[test]
fn the_new_master_key_opens_and_the_old_one_does_not() {
    let home = Home::new(Build::Release, User::Ordinary);
    start_and_stop(&home);
    let new = home.root.join("user/new.key");
    let before = keystore(&home);
    let running = Serve::new(&home, Runtime::Native).ready();
    refused(&rotate(&home, &new, &[]), &["already", "another", "in use"]);
    assert!(keystore(&home) == before && !new.exists(), "it was changed under a running daemon");
    assert!(running.chat("mock-agent", "main").ask("still here").contains("still here"));
    assert!(running.stop().success());

    let ledger = fs::read(home.state().join("control.db")).unwrap();
    let output = rotate(&home, &new, &[]);
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("--master-key-file {}", new.display())), "no next step: {said}");
    assert_eq!(fs::metadata(&new).unwrap().mode() & 0o777, 0o600);
    let made = fs::read_to_string(&new).unwrap();
    assert!(made.trim().len() == 64 && made.trim().bytes().all(|digit| digit.is_ascii_hexdigit()));
    assert!(!said.contains(made.trim()) && output.stderr.is_empty(), "{output:?}");
    assert!(keystore(&home) != before);
    assert!(fs::read(home.state().join("control.db")).unwrap() == ledger, "the ledger was written");

    stays_shut(&home, None);
    opens(&home, Some(&new));
    // With an existing file, and from the second key to a third.
    let third = key_file(&home, "third.key", &"5a".repeat(32));
    std::os::unix::fs::chown(&third, Some(home.owner()), Some(home.owner())).unwrap();
    let old = new.display().to_string();
    let output = rotate(&home, &third, &["--master-key-file", &old]);
    assert!(output.status.success(), "{output:?}");
    stays_shut(&home, Some(&new));
    opens(&home, Some(&third));
}

#[test]
fn a_rotation_that_cannot_be_leaves_everything_as_it_was() {
    let home = Home::new(Build::Release, User::Root);
    start_and_stop(&home);
    let new = home.root.join("user/new.key");
    let before = keystore(&home);
    let wrong = key_file(&home, "wrong.key", &"5a".repeat(32)).display().to_string();
    let nowhere = home.root.join("user/nowhere.key").display().to_string();
    for old in [&wrong, &nowhere] {
        let output = rotate(&home, &new, &["--master-key-file", old]);
        refused(&output, &["master key"]);
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim().lines().count(), 1, "{output:?}");
        assert!(!new.exists(), "a key was made for nothing");
    }
    let open_to_all = key_file(&home, "open.key", &"a5".repeat(32));
    fs::set_permissions(&open_to_all, fs::Permissions::from_mode(0o644)).unwrap();
    let short = key_file(&home, "short.key", "a5a5");
    for bad in [&open_to_all, &short, &home.root.join("no/such/directory/key")] {
        refused(&rotate(&home, bad, &[]), &["key"]);
    }
    let state = home.state().display().to_string();
    for words in [&["rotate-key", "--state-dir", &state][..], &["rotate-key", "--new-master-key-file"]] {
        let output = home.run(words);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
    assert!(keystore(&home) == before);
    opens(&home, None);
}

/// The new key's file is written first, then the keystore; each is a new file that takes the old one's place.
#[test]
fn a_rotation_that_is_killed_leaves_one_of_the_two_keys() {
    let home = Home::new(Build::Faults, User::Root);
    start_and_stop(&home);
    let new = home.root.join("user/new.key");
    let steps = [
        ("written", false, false),
        ("renamed", true, false),
        ("written", true, false),
        ("renamed", true, true),
    ];
    for (crash, key_is_there, rotated) in steps {
        let before = keystore(&home);
        let mut command = rotate_command(&home, &new, &[]);
        let killed = command.env("IRONCLAW_FAULTS", format!("crash=durable.{crash}")).spawn().unwrap();
        let output = finish(killed);
        assert_eq!(output.status.signal(), Some(9), "{crash}: {output:?}");
        assert_eq!(new.exists(), key_is_there);
        assert_eq!(keystore(&home) != before, rotated, "{crash}, the new key there: {key_is_there}");
        // The kill before the keystore took its place left it beside; the next start removes it.
        assert_eq!(unfinished(&home).len(), usize::from(crash == "written" && key_is_there));
        if rotated {
            stays_shut(&home, None);
            opens(&home, Some(&new));
        } else {
            opens(&home, None);
            if key_is_there {
                stays_shut(&home, Some(&new));
            }
        }
        assert_eq!(unfinished(&home).len(), 0);
    }
}

/// New files of the state directory that never took their place.
fn unfinished(home: &Home) -> Vec<PathBuf> {
    let below = crate::world::leftovers::files_below(&home.state());
    below.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "tmp")).collect()
}
