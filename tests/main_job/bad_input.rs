//! What can be wrong around the program: each ends with one clear line and the next step, exit code 1, and
//! nothing damaged; what can be served is served and says why it is not ready.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Output, Stdio};

use crate::demo::alone;
use crate::world::home::finish;
use crate::world::http::Request;
use crate::world::{Build, Home, Runtime, Serve, User, eventually, install};

/// `serve` with the home's directories, in text, run to its end.
pub(crate) fn serve(home: &Home, more: &[&str]) -> Output {
    finish(serve_command(home, more).spawn().unwrap())
}

fn serve_command(home: &Home, more: &[&str]) -> Command {
    let state = home.state().display().to_string();
    let socket = home.model_socket().display().to_string();
    let mut words = vec!["serve", "--dev", "--state-dir", &state, "--model-proxy-socket", &socket];
    if !more.contains(&"--runtime") {
        words.extend(["--runtime", "native"]);
    }
    if !more.contains(&"--api-addr") {
        words.extend(["--api-addr", "127.0.0.1:0"]);
    }
    words.extend(more);
    home.command(&words)
}

/// Exit 1, and a last line that says what happened and what to do.
#[track_caller]
pub(crate) fn refused(output: &Output, about: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(!said.contains("panicked"), "{said}");
    let line = said.trim_end().lines().last().unwrap_or_default().to_lowercase();
    assert!(line.len() > 40, "it says no next step: {said}");
    assert!(about.iter().any(|word| line.contains(word)), "none of {about:?} in: {said}");
}

pub(crate) fn start_and_stop(home: &Home) {
    let daemon = Serve::new(home, Runtime::Native).ready();
    daemon.chat("mock-agent", "main").ask("before");
    assert!(daemon.stop().success());
}

/// It starts as if nothing had been, with everything that was said.
#[track_caller]
fn undamaged(home: &Home) {
    let daemon = Serve::new(home, Runtime::Native).ready();
    let chat = daemon.chat("mock-agent", "main");
    assert!(chat.history().iter().any(|entry| entry.text == "before"));
    assert!(chat.ask("after").contains("after"));
}

#[test]
fn a_state_directory_that_cannot_be_read() {
    let home = Home::new(Build::Release, User::Ordinary);
    fs::create_dir(home.state()).unwrap();
    fs::set_permissions(home.state(), fs::Permissions::from_mode(0o700)).unwrap();
    refused(&serve(&home, &[]), &["state", "lib/state"]);
    assert_eq!(fs::read_dir(home.state()).unwrap().count(), 0);
}

#[test]
fn a_state_directory_that_cannot_be_made() {
    let home = Home::new(Build::Release, User::Root);
    fs::write(home.state(), b"a file").unwrap();
    refused(&serve(&home, &[]), &["state", "directory"]);
    assert_eq!(fs::read(home.state()).unwrap(), b"a file");
}

#[test]
fn a_state_directory_of_somebody_else() {
    let home = Home::new(Build::Release, User::Root);
    fs::create_dir(home.state()).unwrap();
    chown(home.state(), Some(12_345), Some(12_345)).unwrap();
    refused(&serve(&home, &[]), &["owner", "own", "belongs"]);
}

#[test]
fn a_second_daemon_on_the_same_state() {
    let home = Home::new(Build::Release, User::Root);
    let first = Serve::new(&home, Runtime::Native).ready();
    refused(&serve(&home, &[]), &["already", "another", "lock", "in use"]);
    assert!(first.chat("mock-agent", "main").ask("still here").contains("still here"));
}

#[test]
fn a_second_daemon_on_the_same_run_directory() {
    let home = Home::new(Build::Release, User::Root);
    let first = Serve::new(&home, Runtime::Native).ready();
    // Another state directory gives another run directory, so both go on.
    let other = home.root.join("lib/other").display().to_string();
    let second = Serve::new(&home, Runtime::Native).flag("--state-dir", other).start();
    let mut second = second;
    second.wait_ready();
    assert!(first.chat("mock-agent", "main").ask("first").contains("first"));
    drop(second);
    assert!(first.chat("mock-agent", "main").ask("still").contains("still"));
}

#[test]
fn a_runtime_that_is_not_there() {
    let home = Home::new(Build::Release, User::Root);
    refused(&serve(&home, &["--runtime", "/nowhere/runsc"]), &["/nowhere/runsc"]);
    // In a root that holds the executable alone there is none in any usual place either.
    let root = home.root.join("empty");
    fs::create_dir(&root).unwrap();
    let port = crate::world::daemon::free_port();
    let address = format!("127.0.0.1:{port}");
    let words = [
        "serve",
        "--state-dir",
        "/tmp/state",
        "--model-proxy-socket",
        "/tmp/run/m.sock",
        "--api-addr",
        &address,
    ];
    for choice in [&["--runtime", "runsc"][..], &["--dev", "--runtime", "runsc"]] {
        refused(&finish(alone(&root, &[&words, choice].concat()).spawn().unwrap()), &["runsc"]);
    }
    // Where nobody named it, the daemon lives and says what it waits for; the weaker cage is not taken instead.
    let mut child = alone(&root, &words).spawn().unwrap();
    let reason = alive_and_not_ready(&mut child, port, "runsc");
    assert!(reason.contains("--runtime native"), "it says no next step: {reason}");
    assert_eq!(Request::get("/healthz").send(([127, 0, 0, 1], port).into()).unwrap().status, 200);
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits until a daemon of the test's own says why it is not ready, naming this; gives the whole of it.
#[track_caller]
fn alive_and_not_ready(child: &mut std::process::Child, port: u16, named: &str) -> String {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    eventually("it is alive and not ready, with the reason", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        let answer = Request::get("/readyz").send(address).ok()?;
        assert_eq!(answer.status, 503, "{}", answer.text());
        answer.text().contains(named).then(|| answer.text())
    })
}

#[test]
fn a_runtime_that_does_not_work() {
    let home = Home::new(Build::Release, User::Root);
    let broken = home.root.join("bin/broken-runsc");
    install::script("#!/bin/sh\necho broken on purpose >&2\nexit 9\n", &broken);
    let daemon = Serve::new(&home, Runtime::Gvisor).runtime(broken.display().to_string()).start();
    let reason = eventually("it is alive and not ready, with the reason", || {
        let answer = Request::get("/readyz").send(daemon.address).ok()?;
        assert_eq!(answer.status, 503, "{}", answer.text());
        let text = answer.text();
        text.contains("broken-runsc").then_some(text)
    });
    assert!(reason.len() > 40, "{reason}");
    assert_eq!(Request::get("/healthz").send(daemon.address).unwrap().status, 200);
    // Mail is accepted and waits, and no message fails for it.
    let sent = daemon.chat("mock-agent", "main").say("waiting");
    assert!(!sent.duplicate);
    assert_eq!(daemon.metric("ironclaw_messages_failed_total"), 0.0);
    drop(daemon);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    assert!(daemon.chat("mock-agent", "main").answer_after(sent.position).text.contains("waiting"));
}

#[test]
fn a_port_in_use() {
    let home = Home::new(Build::Release, User::Root);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&serve(&home, &["--api-addr", &address]), &["in use", &address]);
}

#[test]
fn an_address_that_is_not_loopback() {
    let home = Home::new(Build::Release, User::Root);
    let output = serve(&home, &["--api-addr", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_master_key_that_is_corrupt() {
    let home = Home::new(Build::Release, User::Root);
    start_and_stop(&home);
    let keys: Vec<_> = fs::read_dir(home.state())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().contains("master"))
        .collect();
    assert!(!keys.is_empty(), "no master key in {}", home.state().display());
    for key in keys {
        let good = fs::read(&key).unwrap();
        let mode = fs::metadata(&key).unwrap().permissions();
        assert_eq!(mode.mode() & 0o777, 0o600);
        for bad in [&b""[..], b"short", &[0x5a; 32], &[0x5a; 65], &[0x5a; 4096]] {
            fs::write(&key, bad).unwrap();
            refused(&serve(&home, &[]), &["key"]);
        }
        fs::remove_file(&key).unwrap();
        refused(&serve(&home, &[]), &["key"]);
        assert!(!key.exists(), "a missing key was silently replaced");
        fs::write(&key, &good).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        refused(&serve(&home, &[]), &["key"]);
        fs::set_permissions(&key, mode).unwrap();
    }
    undamaged(&home);
}

#[test]
fn a_ledger_that_is_damaged() {
    let home = Home::new(Build::Release, User::Root);
    start_and_stop(&home);
    let ledger = home.state().join("control.db");
    let good = fs::read(&ledger).unwrap();
    let mut flipped = good.clone();
    flipped[100] ^= 1;
    let noise = [0x5a; 8192];
    for bad in [&good[..good.len() / 2 / 4096 * 4096], &good[..1000], &noise, &flipped] {
        fs::write(&ledger, bad).unwrap();
        let output = serve(&home, &[]);
        refused(&output, &["control.db", "ledger"]);
        assert!(fs::read(&ledger).unwrap() == bad, "the damaged ledger was changed");
    }
    fs::write(&ledger, &good).unwrap();
    undamaged(&home);
    // A ledger that is gone while its keys are there is not a first start.
    fs::remove_file(&ledger).unwrap();
    for name in ["control.db-wal", "control.db-shm"] {
        let _ = fs::remove_file(home.state().join(name));
    }
    refused(&serve(&home, &[]), &["control.db", "ledger"]);
}

#[test]
fn a_wrong_token() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let address = format!("http://{}", daemon.address);
    let mut command = home.command(["ctl", "--addr", &address, "chat", "mock-agent", "x"]);
    let output = finish(command.env("IRONCLAW_API_TOKEN", "wrong").spawn().unwrap());
    refused(&output, &["token"]);
}

#[test]
fn a_daemon_that_is_not_there() {
    let home = Home::new(Build::Release, User::Ordinary);
    let port = crate::world::daemon::free_port();
    let address = format!("http://127.0.0.1:{port}");
    let mut command = home.command(["ctl", "--addr", &address, "chat", "mock-agent", "x"]);
    refused(
        &finish(command.env("IRONCLAW_API_TOKEN", "x").spawn().unwrap()),
        &["127.0.0.1", "running", "reach"],
    );
}

/// The disk is a small tmpfs, in a mount namespace of the daemon's own.
#[test]
fn a_full_disk() {
    let home = Home::new(Build::Release, User::Root);
    let lib = home.root.join("lib");
    let port = crate::world::daemon::free_port();
    let script = format!(
        "mount -t tmpfs -o size=12m,mode=755 small {0} && \
         head -c 11m /dev/zero > {0}/filler; exec {1} serve --dev --runtime native --min-free 0 \
         --state-dir {0}/state --model-proxy-socket {2} --api-addr 127.0.0.1:{port}",
        lib.display(),
        home.exe.display(),
        home.model_socket().display(),
    );
    let child = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let id = child.id().cast_signed();
    // Either it cannot even start, and says why, or it serves and refuses what it cannot store.
    let waiter = std::thread::spawn(move || finish(child));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let served = eventually("it serves or ends", || {
        if waiter.is_finished() {
            return Some(false);
        }
        // `/healthz` answers before the state is open; this tells of the token only afterwards.
        let answer = Request::get("/v1/agents").send(address).ok()?;
        (answer.status != 503).then_some(true)
    });
    if served {
        let token_path = format!("/proc/{id}/root{}/state/api-token", lib.display());
        let token = fs::read_to_string(token_path).expect("it serves, so it has a token");
        let text = "x".repeat(60_000);
        let mut refused_with = None;
        for n in 0..200 {
            let body = serde_json::json!({"text": text, "event_id": format!("e{n}")});
            let answer = Request::post("/v1/chat/mock-agent/messages", &body)
                .token(token.trim())
                .send(address)
                .expect("a full disk does not end the daemon");
            if answer.status != 202 {
                refused_with = Some((answer.status, answer.text()));
                break;
            }
        }
        let (status, text) = refused_with.expect("200 messages fit on a full disk");
        assert!(status == 503 && text.contains("\"disk_failed\""), "{status}: {text}");
        assert_eq!(Request::get("/healthz").send(address).unwrap().status, 200);
        crate::world::leftovers::kill(id);
        waiter.join().unwrap();
    } else {
        refused(&waiter.join().unwrap(), &["space", "disk", "full"]);
    }
}

/// The executable in a user namespace whose own limit of further ones is 0, so that the machine's stays as it is.
fn without_namespaces(home: &Home, words: &str) -> std::process::Child {
    let script =
        format!("echo 0 > /proc/sys/user/max_user_namespaces && exec {} {words}", home.exe.display());
    Command::new("unshare")
        .args(["-U", "--map-root-user", "-m", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Who forbids them, and what there is to choose: nothing of it may be what does not work here either.
#[test]
fn forbidden_user_namespaces() {
    for (runtime, choice) in [
        ("--runtime native", "run the service as root outside a container"),
        ("--runtime runsc", "as the host's root the weaker --runtime native works"),
        ("--runtime auto", "as the host's root the weaker --runtime native works"),
        ("", "as the host's root the weaker --runtime native works"),
    ] {
        let home = Home::new(Build::Release, User::Root);
        let output = finish(without_namespaces(&home, &format!("demo --once {runtime}")));
        refused(&output, &["user.max_user_namespaces"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.trim_end().lines().last().unwrap().contains(choice), "{runtime}: {said}");

        // A service lives, so that its supervisor sees why it is not ready.
        let port = crate::world::daemon::free_port();
        let mut child = without_namespaces(
            &home,
            &format!(
                "serve --dev {runtime} --state-dir {} --model-proxy-socket {} --api-addr 127.0.0.1:{port}",
                home.state().display(),
                home.model_socket().display(),
            ),
        );
        let reason = alive_and_not_ready(&mut child, port, "user.max_user_namespaces");
        assert!(reason.contains(choice), "{runtime}: {reason}");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn a_log_that_nobody_reads() {
    let home = Home::new(Build::Release, User::Root);
    let port = crate::world::daemon::free_port();
    let mut command = serve_command(&home, &["--api-addr", &format!("127.0.0.1:{port}")]);
    let mut child = command.spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    eventually("it is ready", || {
        assert!(child.try_wait().unwrap().is_none(), "it ended because nobody reads its log");
        Request::get("/readyz").send(address).ok().filter(|answer| answer.status == 200)
    });
    let _ = child.kill();
    let _ = child.wait();
}
