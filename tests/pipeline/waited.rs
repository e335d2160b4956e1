//! Who waits for an answer in the same request: it goes to them while they are there, and else its usual way; and who
//! only keeps connections open keeps nobody from being heard.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::heard::{ingress, serve, wire};
use crate::hook::{Hook, now, sign};
use crate::world::{Build, Daemon, Home, Runtime, User, eventually, marker};

/// Sends a signed request and leaves its connection open, unread.
fn begin(hook: &Hook, ingress: SocketAddr, id: &str, body: &Value) -> TcpStream {
    let (at, body) = (now().to_string(), body.to_string());
    let signature = sign(&hook.secret, id, &at, body.as_bytes());
    let request = format!(
        "POST /hooks/webhook?wait=60 HTTP/1.1\r\nhost: x\r\nwebhook-id: {id}\r\nwebhook-timestamp: {at}\r\n\
         webhook-signature: {signature}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(ingress).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn asked(daemon: &Daemon, times: f64) {
    eventually("the model is asked", || {
        (daemon.metric("ironclaw_model_requests_total") >= times).then_some(())
    });
}

/// The line breaks while the agent is at work: the answer is posted, or kept for who asks again.
#[test]
fn an_answer_that_nobody_waits_for_any_more_is_not_lost() {
    let (home, hook, ingress) = (Home::new(Build::Faults, User::Root), Hook::start(), ingress());
    let gates = home.root.join("gates");
    std::fs::create_dir(&gates).unwrap();
    let daemon =
        serve(&home, Runtime::Native, &hook, ingress).fault(format!("mock-gate={}", gates.display())).ready();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    let gone = begin(&hook, ingress, "gone", &json!({"text": "hold:one first", "chat": "ops"}));
    asked(&daemon, 1.0);
    drop(gone);
    std::fs::write(gates.join("one"), "").unwrap();
    hook.wait("ops", "first");
    // Who is there gets it, and once more if they ask again.
    let body = json!({"text": "second", "chat": "ops"});
    let say = || hook.try_say(ingress, "/hooks/webhook?wait=60", "again", &body).unwrap();
    let (first, again) = (say(), say());
    assert_eq!((first.status, again.status), (200, 200), "{} {}", first.text(), again.text());
    assert_eq!(first.json()["reply"], again.json()["reply"]);
    assert_eq!((&first.json()["duplicate"], &again.json()["duplicate"]), (&json!(false), &json!(true)));
    // The line breaks, and the same is asked again before there is an answer.
    let body = json!({"text": "hold:three third", "chat": "ops"});
    let gone = begin(&hook, ingress, "third", &body);
    asked(&daemon, 3.0);
    drop(gone);
    std::thread::scope(|scope| {
        let again = scope.spawn(|| hook.try_say(ingress, "/hooks/webhook?wait=60", "third", &body).unwrap());
        eventually("it is asked again", || {
            (daemon.metric("ironclaw_messages_duplicate_total") >= 2.0).then_some(())
        });
        std::fs::write(gates.join("three"), "").unwrap();
        let again = again.join().unwrap();
        assert_eq!(again.status, 200, "{}", again.text());
        assert!(again.json()["reply"].as_str().unwrap().contains("third"), "{}", again.text());
    });
    hook.say(ingress, &json!({"text": "last", "chat": "ops"}));
    hook.wait("ops", "last");
    assert_eq!(hook.taken("ops").len(), 2, "each once: {:?}", hook.taken("ops"));
    assert!(daemon.stop().success());
}

/// As many connections as there are places, each in the middle of a message that does not go on: whoever comes next is
/// heard, and not after their time.
#[test]
fn who_holds_connections_open_keeps_nobody_from_being_heard() {
    let (home, hook, ingress) = (Home::new(Build::Release, User::Root), Hook::start(), ingress());
    let daemon = serve(&home, Runtime::Native, &hook, ingress).ready();
    wire(&daemon, "mock-agent", "ops", json!({"senders": "anyone"}));
    let slow = |length: usize| {
        let mut stream = TcpStream::connect(ingress).unwrap();
        let head = format!("POST /hooks/webhook HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{{");
        stream.write_all(head.as_bytes()).unwrap();
        stream
    };
    for length in [1000, 500_000] {
        let crowd: Vec<TcpStream> = (0..300).map(|_| slow(length)).collect();
        let text = marker();
        assert_eq!(hook.say(ingress, &json!({"text": text, "chat": "ops"})).status, 202);
        hook.wait("ops", &text);
        let is_open = |mut stream: &TcpStream| {
            stream.set_nonblocking(true).unwrap();
            matches!(stream.read(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
        };
        let open = crowd.iter().filter(|stream| is_open(stream)).count();
        assert!(open >= 60, "{open} are there still: nobody waited for them to end");
    }
    assert!(daemon.stop().success());
}
