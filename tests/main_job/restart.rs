//! A control plane that is killed and started again at once on the address that its clients know: their open
//! connections and its own half-started children do not keep it from its port, and another program does.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FlockOperation, flock};

use crate::bad_input::{refused, serve};
use crate::world::daemon::lasting_port;
use crate::world::http::Request;
use crate::world::{
    Build, Home, PATIENCE, Random, Runtime, Serve, User, eventually, leftovers, marker, rounds,
};

crate::world::boxes::in_both_back_ends!(it_serves_again_on_the_same_port);

fn it_serves_again_on_the_same_port(runtime: Runtime) {
    let home = Home::new(Build::Release, User::Root);
    let port = lasting_port();
    let mut random = Random::of_run();
    let mut sessions = Vec::new();
    for round in 0..rounds() {
        let mut daemon = Serve::new(&home, runtime).port(port).ready();
        let chat = daemon.chat("mock-agent", "main");
        let kept_alive = keep_alive(daemon.address);
        let events = chat.events(0);
        let text = marker();
        sessions.push(chat.say(&text).session_id);
        // Among what it does now is starting programs: for a moment each is a copy of the daemon with its port.
        std::thread::sleep(std::time::Duration::from_millis(random.below(60)));
        daemon.kill9();
        let again = Serve::new(&home, runtime).port(port).ready();
        let chat = again.chat("mock-agent", "main");
        let told = chat.wait(0, "the answer", |entry| entry.direction == "out" && entry.text.contains(&text));
        assert_eq!(told.text, format!("mock-agent received: {text}"), "round {round}");
        // Until here the clients of the first one had not even closed their ends.
        drop((events, kept_alive));
        assert!(again.stop().success());
    }
    leftovers::none_left(&home, &sessions, &[]);
}

/// A connection that was answered and stays open for a next request.
fn keep_alive(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("GET /healthz HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).unwrap();
    let mut head = BufReader::new(&stream).lines().map(Result::unwrap);
    assert!(head.next().unwrap().contains(" 200 "));
    assert!(
        head.take_while(|line| !line.is_empty()).all(|line| !line.eq_ignore_ascii_case("connection: close"))
    );
    stream
}

/// What a killed daemon was just starting is a copy of it for a moment, with its port and the lock of its state; here
/// that moment lasts until the next start is seen to wait for it.
#[test]
fn what_a_killed_daemon_was_starting_is_outlasted() {
    let home = Home::new(Build::Release, User::Root);
    let mut daemon = Serve::new(&home, Runtime::Native).port(lasting_port()).ready();
    let address = daemon.address;
    daemon.kill9();
    let lock = File::open(home.state().join("ironclaw.state")).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let port = TcpListener::bind(address).unwrap();
    let mut again = Serve::new(&home, Runtime::Native).port(address.port()).start();
    let waiter = format!(":{} 0 EOF", lock.metadata().unwrap().ino());
    eventually("it waits for the lock", || {
        assert!(!again.has_ended(), "it gave up");
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("->") && line.ends_with(&waiter)).then_some(())
    });
    drop(port);
    drop(lock);
    again.wait_ready();
    assert!(again.chat("mock-agent", "main").ask("again").contains("again"));
}

/// The state was served before and is not in use, so this start asks twice for its port; it is not ours.
#[test]
fn another_programs_port_stays_its_own() {
    let home = Home::new(Build::Release, User::Root);
    let mut daemon = Serve::new(&home, Runtime::Native).port(lasting_port()).ready();
    let address = daemon.address;
    daemon.chat("mock-agent", "main").ask("before");
    daemon.kill9();
    let taken = TcpListener::bind(address).unwrap();
    let output = serve(&home, &["--api-addr", &address.to_string()]);
    refused(&output, &["in use"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains(&address.to_string()), "{said}");
    drop(taken);
    let daemon = Serve::new(&home, Runtime::Native).port(address.port()).ready();
    assert_eq!(Request::get("/healthz").send(address).unwrap().status, 200);
    assert!(daemon.chat("mock-agent", "main").history().iter().any(|entry| entry.text == "before"));
}
