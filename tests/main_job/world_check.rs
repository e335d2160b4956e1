//! The test world's own eyes: what it looks for when it says that nothing is left behind, it must see when it
//! is there. Each kind of leftover is planted and seen, and then gone.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::world::http::{Events, Request};
use crate::world::{Build, Home, PATIENCE, Runtime, Serve, User, eventually, install, leftovers, marker};

#[test]
fn planted_leftovers_are_seen() {
    let home = Home::new(Build::Release, User::Root);
    let session = format!("ses_{}", marker());
    assert!(home.processes().is_empty());

    // A process that names the home, and one that was executed from a file in it.
    let path = home.root.join("user/named");
    let mut named = Command::new("sleep").arg("600").arg0_of(&path).spawn().unwrap();
    let copy = home.root.join("run/program");
    install::copy(Path::new("/bin/sleep"), &copy);
    let mut executed = Command::new(&copy).arg("600").env_clear().spawn().unwrap();
    for child in [&named, &executed] {
        let id = child.id().cast_signed();
        eventually("the process is seen", || home.processes().contains(&id).then_some(()));
        assert!(leftovers::alive(id));
    }
    for child in [&mut named, &mut executed] {
        let id = child.id().cast_signed();
        child.kill().unwrap();
        // A zombie is gone already, though nobody has waited for it yet.
        assert!(leftovers::ended(id, PATIENCE));
        assert!(!home.processes().contains(&id));
        child.wait().unwrap();
    }

    // A socket.
    let socket = UnixListener::bind(home.root.join("run/left.sock")).unwrap();
    assert_eq!(leftovers::sockets(&home.root).len(), 2, "its file and its name");
    drop(socket);
    assert_eq!(leftovers::sockets(&home.root).len(), 1, "its file");
    std::fs::remove_file(home.root.join("run/left.sock")).unwrap();
    assert!(leftovers::sockets(&home.root).is_empty());

    // A mount.
    let point = home.root.join("run/mounted");
    std::fs::create_dir(&point).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "left"]).arg(&point).status().unwrap();
    assert!(mounted.success());
    assert_eq!(leftovers::mounts(&home.root).len(), 1);
    assert!(Command::new("umount").arg(&point).status().unwrap().success());
    assert!(leftovers::mounts(&home.root).is_empty());

    // A session's file in the run directory.
    let bundle = home.root.join("run").join(&session);
    std::fs::create_dir(&bundle).unwrap();
    let complaint = catch_unwind(AssertUnwindSafe(|| {
        assert_eq!(leftovers::run_files(&home, std::slice::from_ref(&session)), Vec::<String>::new());
    }));
    assert!(complaint.is_err());
    std::fs::remove_dir(&bundle).unwrap();

    // A control group.
    let group = group_in_any_hierarchy(&session);
    assert_eq!(leftovers::cgroups(std::slice::from_ref(&session)).len(), 1);
    std::fs::remove_dir(&group).unwrap();
    leftovers::none_left(&home, &[session], &[]);
}

/// A group of this name where the program may make its own.
#[track_caller]
fn group_in_any_hierarchy(name: &str) -> PathBuf {
    let parents = ["pids", "unified", ""].map(|hierarchy| Path::new("/sys/fs/cgroup").join(hierarchy));
    let mut refused = Vec::new();
    for parent in parents.iter().filter(|parent| parent.join("cgroup.procs").exists()) {
        let group = parent.join(name);
        match std::fs::create_dir(&group) {
            Ok(()) => return group,
            Err(error) => refused.push(format!("{}: {error}", parent.display())),
        }
    }
    panic!(
        "control groups are not writable here ({refused:?}), and these tests need them: run them where \
         /sys/fs/cgroup is mounted for writing, in a container with `-v /sys/fs/cgroup:/sys/fs/cgroup:rw`"
    );
}

/// What the kill tests compare before and after: each kind is planted alone, seen as that kind, and then gone.
#[test]
fn planted_traces_are_seen() {
    let home = Home::new(Build::Release, User::Root);
    let seen = || leftovers::kinds(&home, &leftovers::traces(&home)).into_iter().collect::<Vec<_>>();
    assert_eq!(seen(), Vec::<&str>::new());

    let copy = home.root.join("run/program");
    install::copy(Path::new("/bin/sleep"), &copy);
    let mut child = Command::new(&copy).arg("600").env_clear().spawn().unwrap();
    eventually("the process is seen", || (seen() == ["process"]).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen(), Vec::<&str>::new());

    // The home's own group is none of a sandbox's, one in it is.
    let parent = group_in_any_hierarchy(&home.cgroup());
    assert_eq!(seen(), Vec::<&str>::new());
    std::fs::create_dir(parent.join("one")).unwrap();
    assert_eq!(seen(), ["group"]);
    std::fs::remove_dir(parent.join("one")).unwrap();
    std::fs::remove_dir(parent).unwrap();

    for (path, kind) in [("bundles/running/one", "bundle"), ("bundles/runsc/one", "state of runsc")] {
        let path = home.state().join(path);
        std::fs::create_dir_all(&path).unwrap();
        assert_eq!(seen(), [kind]);
        std::fs::remove_dir(path).unwrap();
    }

    let sockets = home.root.join("run/ses_planted");
    std::fs::create_dir(&sockets).unwrap();
    assert_eq!(seen(), ["file"]);
    let socket = UnixListener::bind(sockets.join("doorbell.sock")).unwrap();
    assert_eq!(seen(), ["file", "socket"]);
    drop(socket);
    std::fs::remove_dir_all(sockets).unwrap();

    let point = home.root.join("user/mounted");
    std::fs::create_dir(&point).unwrap();
    assert!(Command::new("mount").args(["-t", "tmpfs", "left"]).arg(&point).status().unwrap().success());
    assert_eq!(seen(), ["mount"]);
    assert!(Command::new("umount").arg(&point).status().unwrap().success());
    assert_eq!(seen(), Vec::<&str>::new());
}

#[test]
fn an_installed_program_can_be_executed_at_once() {
    let home = Home::new(Build::Release, User::Root);
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let bin = home.root.join("bin");
            scope.spawn(move || {
                for round in 0..25 {
                    let (copy, script) =
                        (bin.join(format!("c-{thread}-{round}")), bin.join(format!("s-{thread}-{round}")));
                    install::copy(Path::new("/bin/true"), &copy);
                    assert!(Command::new(&copy).status().unwrap().success());
                    install::script("#!/bin/sh\nexit 0\n", &script);
                    assert!(Command::new(&script).status().unwrap().success());
                }
            });
        }
    });
}

#[test]
fn a_home_ends_what_was_started_in_it() {
    let home = Home::new(Build::Release, User::Root);
    let root = home.root.clone();
    let copy = root.join("run/program");
    install::copy(Path::new("/bin/sleep"), &copy);
    let mut child = Command::new(&copy).arg("600").spawn().unwrap();
    let id = child.id().cast_signed();
    eventually("it runs", || home.processes().contains(&id).then_some(()));
    drop(home);
    assert!(!leftovers::alive(id));
    assert!(!root.exists());
    child.wait().unwrap();
}

#[test]
fn a_home_removes_the_groups_of_a_killed_daemon() {
    let home = Home::new(Build::Release, User::Root);
    let name = home.cgroup();
    std::fs::remove_dir(group_in_any_hierarchy(&name)).unwrap();
    let mut daemon = Serve::new(&home, Runtime::Native).ready();
    daemon.chat("mock-agent", "main").ask("hello");
    daemon.kill9();
    drop(daemon);
    assert!(!leftovers::cgroups(std::slice::from_ref(&name)).is_empty(), "a killed daemon removes nothing");
    drop(home);
    assert_eq!(leftovers::cgroups(&[name]), Vec::<String>::new());
}

#[test]
fn the_client_reads_answers_chunks_and_events() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let chunked = |kind: &str, body: &str| {
        let mut text =
            format!("HTTP/1.1 202 Accepted\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in body.as_bytes().chunks(5) {
            text.push_str(&format!("{:x}\r\n{}\r\n", piece.len(), std::str::from_utf8(piece).unwrap()));
        }
        text + "0\r\n\r\n"
    };
    let stream = ": hello\n\nid: 7\nevent: entry\ndata: a\ndata:b\n\nid: 8\ndata: c\n\n";
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}ignored".to_owned(),
        chunked("application/json", "{\"a\": [1, 2, 3]}"),
        chunked("text/event-stream", stream).replace("202 Accepted", "200 OK"),
    ];
    let server = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    assert_eq!(Request::get("/").send(address).unwrap().text(), "{}");
    let chunked = Request::get("/").send(address).unwrap();
    assert_eq!((chunked.status, chunked.json()["a"][2].as_u64()), (202, Some(3)));
    let mut events = Events::open(Request::get("/"), address);
    let first = events.next().unwrap();
    assert_eq!((first.id.as_str(), first.name.as_str(), first.data.as_str()), ("7", "entry", "a\nb"));
    let second = events.next().unwrap();
    assert_eq!((second.id.as_str(), second.data.as_str()), ("8", "c"));
    assert_eq!(events.next(), None);
    server.join().unwrap();
}

/// `sleep` under a name in its arguments.
trait NamedAs {
    fn arg0_of(&mut self, path: &std::path::Path) -> &mut Self;
}

impl NamedAs for Command {
    fn arg0_of(&mut self, path: &std::path::Path) -> &mut Self {
        use std::os::unix::process::CommandExt;
        self.arg0(path).stdin(Stdio::null())
    }
}
