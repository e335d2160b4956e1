//! The model socket by itself, and before upstreams that are a thread of the test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::calls::{Made, Outcome};
use super::credential::Source;
use super::endpoint::Endpoint;
use super::upstream::{Upstream, Upstreams};
use super::*;
use crate::controlplane::config::Secret;

const CHAT: &str = "/v1/chat/completions";
const ASKED: &str = r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}]}"#;
const KEY: &str = "sk-of-the-operator";

/// A socket with its own broker, and what the broker says of it.
struct World {
    path: PathBuf,
    socket: Option<OpenSocket>,
    broker: ModelBroker,
    made: Receiver<Made>,
    refused: Receiver<&'static str>,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn unlimited() -> budget::Look {
    Arc::new(|_| Box::pin(async { Ok(budget::Standing::default()) }))
}

fn world(provider: &str, model: &str, upstreams: Upstreams, is_ours: bool) -> World {
    let path = std::env::temp_dir().join(format!("ironclaw-model-{}.sock", SessionId::mint()));
    let listener = UnixListener::bind(&path).unwrap();
    let (ears, made) = channel();
    let heard = Arc::new(move |one| {
        let _ = ears.send(one);
    });
    let broker = ModelBroker::new(Dialer::new(upstreams).unwrap(), heard, unlimited());
    let (sender, refused) = channel();
    let group = GroupName::parse("g").unwrap();
    let session = SessionId::mint();
    let told = move |why| {
        let _ = sender.send(why);
    };
    let socket = broker.open(listener, (&session, &group), (provider, model), move |_| is_ours, told);
    World { path, socket: Some(socket.unwrap()), broker, made, refused }
}

/// An upstream that is a thread with this listener.
fn openai_at(listener: &TcpListener) -> Upstreams {
    let endpoint = Endpoint::parse(&format!("http://{}/v1", listener.local_addr().unwrap())).unwrap();
    let source = Source::Given(Secret::new(KEY.to_owned()));
    let upstream = Upstream { provider: Provider::OpenAi, endpoint, source, is_by_gateway: false };
    Upstreams { all: vec![upstream], ..Upstreams::default() }
}

impl World {
    fn exchange(&self, request: &str) -> String {
        let mut stream = UnixStream::connect(&self.path).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// One request as the upstream reads it: the head in lower case, and the body.
fn request(stream: &mut BufReader<TcpStream>) -> Option<(String, String)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head).unwrap_or(0) == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head.split("content-length: ").nth(1)?.split("\r\n").next()?.parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((head, String::from_utf8(body).unwrap()))
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nset-cookie: a=b\r\nx-api-key: y\r\n\
                      transfer-encoding: chunked\r\n\r\n";

/// Answers each request of each connection with this text.
fn answering(listener: TcpListener, answer: String) -> Receiver<(String, String)> {
    let (sender, seen): (Sender<(String, String)>, _) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            while let Some(asked) = request(&mut stream) {
                let _ = sender.send(asked);
                let _ = stream.get_mut().write_all(answer.as_bytes());
            }
        }
    });
    seen
}

#[test]
fn one_socket_serves_one_route_and_closes_with_its_grant() {
    let mut world = world("mock", "m", Upstreams::default(), true);
    let hello =
        r#"{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"⟦x⟧\nhi"}]}"#;
    let answer = world.exchange(&post("/v1/messages", hello));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("event: message_stop"), "{answer}");
    for (path, why) in [
        ("/v1/files", "route"),
        ("/v1/messages?key=x", "route"),
        ("/v1/messages/", "route"),
        ("/v1/../v1/messages", "route"),
        ("//v1/messages", "route"),
        ("/V1/messages", "route"),
        ("/v1/chat/completions", "route"),
        ("http://evil.example/v1/messages", "route"),
    ] {
        let answer = world.exchange(&post(path, hello));
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert_eq!(world.refused.recv().unwrap(), why, "{path}");
    }
    let got = world.exchange("GET /v1/messages HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(got.contains("405"), "{got}");
    let connect = world
        .exchange("CONNECT evil.example:443 HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
    assert!(connect.starts_with("HTTP/1.1 404"), "{connect}");
    let bad = world.exchange(&post("/v1/messages", "{"));
    assert!(bad.starts_with("HTTP/1.1 400") && bad.contains("invalid_request_error"), "{bad}");
    let other = world.exchange(&post("/v1/messages", &hello.replace(r#""m""#, r#""other""#)));
    assert!(other.starts_with("HTTP/1.1 403"), "{other}");
    let encoded = post("/v1/messages", hello).replace("host: x", "host: x\r\ncontent-encoding: gzip");
    assert!(world.exchange(&encoded).starts_with("HTTP/1.1 400"));
    let huge = format!(
        "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        9 << 20
    );
    assert!(world.exchange(&huge).starts_with("HTTP/1.1 413"));

    let mut waiting = UnixStream::connect(&world.path).unwrap();
    drop(world.socket.take());
    assert_eq!(waiting.read(&mut [0; 1]).unwrap_or(0), 0, "the connection ends with the grant");
    assert!(!world.path.exists());
    assert!(world.made.try_recv().is_err(), "the mock is no upstream");
}

#[test]
fn a_foreign_peer_is_not_served() {
    let world = world("mock", "m", Upstreams::default(), false);
    // Nothing is written: the connection may be closed before that.
    let mut stream = UnixStream::connect(&world.path).unwrap();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
}

#[test]
fn a_model_in_the_path_is_the_granted_one() {
    let world = world("gemini", "gemini-2.5-pro", Upstreams::default(), true);
    let body = r#"{"contents":[{"role":"user","parts":[{"text":"x"}]}]}"#;
    let of = |model: &str, operation: &str| format!("/v1beta/models/{model}:{operation}");
    let granted = of("gemini-2.5-pro", "streamGenerateContent?alt=sse");
    let answer = world.exchange(&post(&granted, body));
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("GOOGLE_API_KEY"), "{answer}");
    assert_eq!(world.refused.recv().unwrap(), "not_configured");
    for other in [
        of("gemini-ultra", "streamGenerateContent?alt=sse"),
        of("gemini-2.5-pro", "streamGenerateContent?alt=sse&key=mine"),
        of("gemini-2.5-pro", "generateContent"),
        of("gemini-2.5-pro%2f..%2fother", "streamGenerateContent?alt=sse"),
    ] {
        assert!(world.exchange(&post(&other, body)).starts_with("HTTP/1.1 403"), "{other}");
        assert_eq!(world.refused.recv().unwrap(), "not_granted", "{other}");
    }
    assert!(world.exchange(&post("/v1/messages", body)).starts_with("HTTP/1.1 404"));
}

#[test]
fn refusals_are_counted_between_two_lines() {
    let broker = ModelBroker::new(Dialer::new(Upstreams::default()).unwrap(), Arc::new(|_| {}), unlimited());
    let terms = Terms { provider: Provider::Mock, model: "m".into() };
    let served = Served {
        caller: broker.calls.caller(&SessionId::mint(), &GroupName::parse("g").unwrap()),
        granted: Arc::new(Granted(Mutex::new((terms, None)))),
        requests: Pace::new(Instant::now()),
        body: Semaphore::new(1),
        broker,
        refusals: Mutex::default(),
        refused: Refused(Box::new(|_| {})),
    };
    (0..5).for_each(|_| served.note_refusal(400, "invalid"));
    assert_eq!(served.refusals.lock().unwrap().count, 4, "one line, and four that wait for the next");
}

#[test]
fn a_request_is_built_anew_and_nothing_of_the_credential_comes_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstreams = openai_at(&listener);
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;
    let (first, last) = KEY.split_at(5);
    let pieces = [&format!("data: \"{KEY} {first}"), last, &format!("\"\n\ndata: {usage}\n\n"), ""];
    let answer = format!("{STREAM}{}", pieces.map(chunk).concat());
    let seen = answering(listener, answer);
    let world = world("openai", "m", upstreams, true);
    let tricks = "host: evil.example\r\nauthorization: Bearer mine\r\nx-api-key: mine\r\ncookie: a=b\r\n\
                  connection: authorization, close\r\nopenai-organization: mine\r\nx-forwarded-for: 1.2.3.4\r\n\
                  accept-encoding: gzip\r\nproxy-authorization: Basic x";
    let asked = post(CHAT, ASKED).replace("host: x", tricks).replace("connection: close\r\n", "");
    let answer = world.exchange(&asked);
    let (head, body) = seen.recv().unwrap();
    assert!(head.starts_with("post /v1/chat/completions http/1.1\r\n"), "{head}");
    let names: Vec<&str> =
        head.lines().skip(1).filter_map(|line| line.split_once(": ").map(|(n, _)| n)).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable();
    let expected = [
        "accept",
        "accept-encoding",
        "authorization",
        "content-length",
        "content-type",
        "host",
        "user-agent",
    ];
    assert_eq!(sorted, expected, "{head}");
    assert!(head.contains(&format!("authorization: bearer {KEY}\r\n")), "{head}");
    assert!(head.contains("accept-encoding: identity\r\n") && head.contains("host: 127.0.0.1:"), "{head}");
    assert!(body.contains(r#""max_completion_tokens":9"#) && body.contains("include_usage"), "{body}");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("content-type: text/event-stream"), "{answer}");
    assert!(!answer.contains(KEY) && answer.matches("[redacted]").count() == 2, "{answer}");
    assert!(!answer.contains("set-cookie") && !answer.contains("x-api-key"), "{answer}");
    let made = world.made.recv().unwrap();
    assert_eq!((made.outcome, made.status, made.model.as_str()), (Outcome::Complete, Some(200), "m"));
    assert_eq!((made.usage.input, made.usage.output, made.usage.is_estimate), (7, 3, false));
    assert_eq!(made.asked_bytes, body.len() as u64);
}

#[test]
fn pieces_go_on_as_they_come_and_a_hang_up_ends_the_call() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let world = world("openai", "m", openai_at(&listener), true);
    let mut client = UnixStream::connect(&world.path).unwrap();
    client.write_all(post(CHAT, ASKED).as_bytes()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    request(&mut stream).unwrap();
    stream.get_mut().write_all(format!("{STREAM}{}", chunk("data: first\n\n")).as_bytes()).unwrap();
    // The answer is not over: the piece is here before the next one was written.
    let mut got = String::new();
    while !got.contains("first") {
        let mut some = [0; 512];
        let read = client.read(&mut some).unwrap();
        assert!(read > 0, "{got}");
        got.push_str(&String::from_utf8_lossy(&some[..read]));
    }
    drop(client);
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "the upstream is hung up on too");
    let made = world.made.recv().unwrap();
    assert_eq!((made.outcome, made.usage.is_estimate), (Outcome::Cancelled, true));
    assert!(made.usage.input > 0 && made.usage.output > 0, "{made:?}");
    // And before the upstream has said anything.
    let mut client = UnixStream::connect(&world.path).unwrap();
    client.write_all(post(CHAT, ASKED).as_bytes()).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let mut stream = BufReader::new(stream);
    request(&mut stream).unwrap();
    drop(client);
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(world.made.recv().unwrap().outcome, Outcome::Cancelled);
}

#[test]
fn what_cannot_be_passed_on_is_an_error_that_says_so() {
    let empty = "content-length: 2\r\n\r\n{}";
    let cases = [
        (format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n{empty}"), "502", "compressed"),
        (
            format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\n{empty}"),
            "502",
            "nothing is followed",
        ),
        ("not http\r\n\r\n".to_owned(), "502", "broke"),
        (
            format!("HTTP/1.1 429 Slow\r\nretry-after: 7\r\nset-cookie: a=b\r\n{empty}"),
            "429",
            "retry-after: 7",
        ),
        (
            format!("HTTP/1.1 401 No\r\ncontent-length: {}\r\n\r\nwrong key {KEY}", 10 + KEY.len()),
            "401",
            "wrong key [redacted]",
        ),
    ];
    for (answer, status, word) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstreams = openai_at(&listener);
        let _seen = answering(listener, answer.clone());
        let world = world("openai", "m", upstreams, true);
        let got = world.exchange(&post(CHAT, ASKED));
        assert!(got.starts_with(&format!("HTTP/1.1 {status}")) && got.contains(word), "{answer}: {got}");
        assert!(!got.contains("set-cookie") && !got.contains(KEY) && !got.contains("location"), "{got}");
        let outcome = world.made.recv().unwrap().outcome;
        assert_eq!(outcome, if status == "502" { Outcome::Failed } else { Outcome::Refused });
    }
    // Nobody listens there any more.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstreams = openai_at(&listener);
    drop(listener);
    let world = world("openai", "m", upstreams, true);
    assert!(world.exchange(&post(CHAT, ASKED)).starts_with("HTTP/1.1 502"));
}

#[test]
fn an_answer_that_breaks_off_is_cut_and_not_ended() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstreams = openai_at(&listener);
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        request(&mut stream).unwrap();
        let _ = stream.get_mut().write_all(format!("{STREAM}{}", chunk("data: half\n\n")).as_bytes());
    });
    let world = world("openai", "m", upstreams, true);
    let answer = world.exchange(&post(CHAT, ASKED));
    assert!(answer.contains("half") && !answer.ends_with("0\r\n\r\n"), "{answer}");
    assert_eq!(world.made.recv().unwrap().outcome, Outcome::Failed);
}

#[test]
fn a_connection_is_used_again_and_replaced_when_it_was_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstreams = openai_at(&listener);
    let (sender, seen) = channel();
    std::thread::spawn(move || {
        // Two calls on the first connection, which is closed then.
        for most in [2, 9] {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for at in 0..most {
                if request(&mut stream).is_none() {
                    break;
                }
                let answer = format!("{STREAM}{}{}", chunk("data: x\n\n"), chunk(""));
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
                let _ = sender.send((most, at));
            }
        }
    });
    let world = world("openai", "m", upstreams, true);
    for expected in [(2, 0), (2, 1), (9, 0), (9, 1)] {
        let answer = world.exchange(&post(CHAT, ASKED));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(seen.recv().unwrap(), expected);
        assert_eq!(world.made.recv().unwrap().outcome, Outcome::Complete);
        while expected == (2, 1) && world.broker.dialer.kept() > 0 {
            std::thread::yield_now();
        }
    }
}
