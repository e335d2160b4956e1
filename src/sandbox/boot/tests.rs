//! The whole sandbox against a host of the tests' own: doorbell, both conveyors and a scripted model, in
//! one process and without the walls.

mod asking;
mod bounds;
mod sending;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::*;
use crate::contract::cipher::{self, Role, SessionSecret};
use crate::contract::frame::{FromSandbox, ToSandbox};
use crate::contract::ids::MessageId;
use crate::contract::inbound::{
    Destination, InboundBody, InboundKind, InboundRow, InboundWriter, MessageIn, SessionConfig,
};
use crate::contract::json::{self, Value};
use crate::contract::outbound::{OutboundBody, OutboundRow, Processing, read_rows};
use crate::contract::time::Millis;
use crate::sandbox::scratch::Scratch;

/// What the model does with a call.
enum Reply {
    Say(&'static str),
    Tool(&'static str, &'static str),
    Status(u16),
    Cut,
    /// Never answers; the connection stays open until the sandbox is gone.
    Hang,
}

struct Model {
    asked: Receiver<Value>,
    script: Sender<Reply>,
    held: Arc<Mutex<Vec<UnixStream>>>,
}

impl Model {
    fn start(socket: &Path) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let (ask, asked) = channel();
        let (script, replies) = channel::<Reply>();
        let held = Arc::new(Mutex::new(Vec::new()));
        let hanging = held.clone();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let Some(request) = read_request(&stream) else { continue };
                let Ok(reply) = replies.recv() else { return };
                let answer = match reply {
                    Reply::Say(text) => sse(&[block_of(0, "text", text)], "end_turn"),
                    Reply::Tool(name, input) => sse(&[block_of(0, name, input)], "tool_use"),
                    Reply::Cut => "HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\ndata: {".to_owned(),
                    Reply::Status(status) => {
                        let body = r#"{"type":"error","error":{"type":"x","message":"no\u202e"}}"#;
                        format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
                    }
                    Reply::Hang => {
                        // Before the test hears of the request, and may end the sandbox.
                        hanging.lock().unwrap().push(stream);
                        if ask.send(request).is_err() {
                            return;
                        }
                        continue;
                    }
                };
                if ask.send(request).is_err() {
                    return;
                }
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Self { asked, script, held }
    }

    fn will(&self, reply: Reply) -> &Self {
        self.script.send(reply).unwrap();
        self
    }

    /// The last message of each request so far, as JSON text.
    fn requests(&self) -> Vec<Value> {
        self.asked.try_iter().collect()
    }
}

fn read_request(stream: &UnixStream) -> Option<Value> {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if let Some(digits) = line.strip_prefix("content-length: ") {
            length = digits.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(json::parse(&body).unwrap())
}

fn block_of(index: usize, name: &str, content: &str) -> String {
    let (block, delta) = if name == "text" {
        (
            r#"{"type":"text","text":""}"#.to_owned(),
            Value::object([("type", "text_delta".into()), ("text", content.into())]),
        )
    } else {
        (
            format!(r#"{{"type":"tool_use","id":"call","name":"{name}","input":{{}}}}"#),
            Value::object([("type", "input_json_delta".into()), ("partial_json", content.into())]),
        )
    };
    format!(
        "data: {{\"type\":\"content_block_start\",\"index\":{index},\"content_block\":{block}}}\n\n\
         data: {{\"type\":\"content_block_delta\",\"index\":{index},\"delta\":{delta}}}\n\n\
         data: {{\"type\":\"content_block_stop\",\"index\":{index}}}\n\n"
    )
}

fn sse(blocks: &[String], why: &str) -> String {
    let stream = format!(
        "data: {{\"type\":\"message_start\",\"message\":{{}}}}\n\n{}data: {{\"type\":\"message_delta\",\
         \"delta\":{{\"stop_reason\":\"{why}\"}}}}\n\ndata: {{\"type\":\"message_stop\"}}\n\n",
        blocks.concat()
    );
    format!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{stream}\r\n0\r\n\r\n",
        stream.len()
    )
}

struct Host {
    scratch: Scratch,
    key: SessionKey,
    doorbell: UnixListener,
    model: Model,
    cursor: u64,
    inbound_seq: u64,
    stored: Vec<OutboundRow>,
    turn_seconds: u64,
    tools: Option<Vec<String>>,
    destinations: Vec<Destination>,
}

struct Running {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
    inbound: Option<InboundWriter>,
    ended: JoinHandle<Result<Option<JoinHandle<()>>, BootError>>,
    held: Arc<Mutex<Vec<UnixStream>>>,
}

impl Host {
    fn new() -> Self {
        let scratch = Scratch::new();
        let at = |name: &str| scratch.path().join(name);
        std::fs::create_dir(at("workspace")).unwrap();
        let doorbell = UnixListener::bind(at("doorbell")).unwrap();
        let model = Model::start(&at("model"));
        let key = SessionSecret::mint().sandbox_key();
        Self {
            scratch,
            key,
            doorbell,
            model,
            cursor: 0,
            inbound_seq: 0,
            stored: Vec::new(),
            turn_seconds: 600,
            tools: None,
            destinations: Vec::new(),
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn rows(&mut self, bodies: Vec<InboundBody>) -> Vec<InboundRow> {
        let number = |body| {
            self.inbound_seq += 2;
            InboundRow { seq: self.inbound_seq, body }
        };
        bodies.into_iter().map(number).collect()
    }

    /// Starts a sandbox and hears its greeting.
    fn start(&self) -> (Running, String) {
        std::fs::write(self.at("outbound.db"), "").unwrap();
        let places = Places {
            inbound: self.at("inbound.db"),
            outbound: self.at("outbound.db"),
            session: self.at("session.db"),
            workspace: self.at("workspace"),
            doorbell: self.at("doorbell"),
            model_socket: self.at("model"),
            model_host: "model".into(),
            model: "m".into(),
            retries: Retries {
                attempts: 3,
                first: Duration::from_millis(1),
                longest: Duration::from_millis(2),
            },
        };
        let key = self.key.clone();
        let ended = std::thread::spawn(move || live(places, key, || Ok(())));
        let (stream, _) = self.doorbell.accept().unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        let mut hello = String::new();
        lines.read_line(&mut hello).unwrap();
        (Running { stream, lines, inbound: None, ended, held: self.model.held.clone() }, hello)
    }

    /// Starts a sandbox, hands these messages over, and welcomes it.
    fn launch(&mut self, messages: &[&MessageIn]) -> Running {
        let config = SessionConfig {
            max_tokens: 99,
            persona: "P".into(),
            turn_seconds: self.turn_seconds,
            tools: self.tools.clone(),
            ..SessionConfig::default()
        };
        let mut bodies = vec![InboundBody::Config(config)];
        bodies.extend(self.destinations.iter().cloned().map(InboundBody::Destination));
        bodies.extend(messages.iter().map(|message| InboundBody::Message((*message).clone())));
        let rows = self.rows(bodies);
        let _ = std::fs::remove_file(self.at("inbound.db"));
        let key = self.key.file_key(ConveyorFile::Inbound);
        let writer = InboundWriter::create(&self.at("inbound.db"), &key, &rows).unwrap();
        let (mut running, hello) = self.start();
        assert!(hello.starts_with("hello 1 "), "{hello}");
        running.inbound = Some(writer);
        running.say(ToSandbox::Welcome(self.cursor));
        running.say(ToSandbox::In(self.inbound_seq));
        running
    }

    /// Hands over one more message on the running conveyor.
    fn deliver(&mut self, running: &mut Running, message: &MessageIn) {
        let rows = self.rows(vec![InboundBody::Message(message.clone())]);
        running.inbound.as_mut().unwrap().append(&rows, &[]).unwrap();
        running.say(ToSandbox::In(self.inbound_seq));
    }

    /// Reads what was rung, as the host does.
    fn read(&self, last: u64) -> Vec<OutboundRow> {
        let key = self.key.file_key(ConveyorFile::Outbound);
        let connection = cipher::open(&self.at("outbound.db"), &key, Role::HostOutbound).unwrap();
        read_rows(&connection, self.cursor, last).unwrap()
    }

    /// Stores and acknowledges until `message` is done.
    fn serve_until_done(&mut self, running: &mut Running, message: &MessageIn) {
        while !self.is_done(message) {
            if let FromSandbox::Out(last) = running.hear() {
                let rows = self.read(last);
                self.stored.extend(rows);
                self.cursor = last;
                running.say(ToSandbox::Ack(last));
            }
        }
    }

    fn is_done(&self, message: &MessageIn) -> bool {
        self.states(message).contains(&Processing::Done)
    }

    fn states(&self, message: &MessageIn) -> Vec<Processing> {
        let state = |row: &OutboundRow| match &row.body {
            OutboundBody::Processing(id, state) if id == &message.id => Some(*state),
            _ => None,
        };
        self.stored.iter().filter_map(state).collect()
    }

    /// What was said, and in reply to what.
    fn replies(&self) -> Vec<(MessageId, String)> {
        let reply = |row: &OutboundRow| match &row.body {
            OutboundBody::Message(out) => Some((out.in_reply_to.clone().unwrap(), out.text.clone())),
            _ => None,
        };
        self.stored.iter().filter_map(reply).collect()
    }
}

impl Running {
    fn say(&mut self, frame: ToSandbox) {
        self.stream.write_all(frame.encode().as_bytes()).unwrap();
    }

    fn hear(&mut self) -> FromSandbox {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        FromSandbox::parse(line.trim_end().as_bytes()).unwrap_or_else(|_| panic!("heard {line:?}"))
    }

    fn hear_out(&mut self) -> u64 {
        loop {
            if let FromSandbox::Out(last) = self.hear() {
                return last;
            }
        }
    }

    fn stop(mut self) {
        self.say(ToSandbox::Stop);
        self.gone();
    }

    /// Closes the doorbell, as a host that died.
    fn leave(self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
        self.gone();
    }

    /// Waits for the end. A process would be gone with it; here its second thread is waited for.
    fn gone(self) {
        let turning = self.ended.join().unwrap().unwrap();
        self.held.lock().unwrap().clear();
        turning.into_iter().for_each(|thread| thread.join().unwrap());
    }

    fn error(self) -> String {
        self.ended.join().unwrap().unwrap_err().to_string()
    }
}

fn message(text: &str) -> MessageIn {
    MessageIn {
        id: MessageId::mint(),
        kind: InboundKind::Chat,
        engage: true,
        sender_id: "local:ann".into(),
        sender_name: "Ann".into(),
        channel: "local".into(),
        chat: "main".into(),
        thread: None,
        text: text.into(),
        source_session: None,
        hop: 0,
        in_reply_to: None,
        created_at: Millis(0),
    }
}

/// The texts of the last message of a request.
fn last_texts(request: &Value) -> Vec<String> {
    let last = request.get("messages").unwrap().as_array().unwrap().last().unwrap();
    let blocks = last.get("content").unwrap().as_array().unwrap();
    let text =
        |block: &Value| block.get("text").or(block.get("content")).unwrap().as_str().unwrap().to_owned();
    blocks.iter().map(text).collect()
}

#[test]
fn messages_are_answered_together_and_remembered() {
    let mut host = Host::new();
    let (one, two, three) = (message("one"), message("two"), message("three"));
    let mut running = host.launch(&[&one, &two]);
    host.model.will(Reply::Say("both")).will(Reply::Say("third"));
    host.serve_until_done(&mut running, &two);
    assert_eq!(host.replies(), [(two.id.clone(), "both".into())]);
    assert_eq!(host.states(&one), [Processing::Started, Processing::Done]);
    host.deliver(&mut running, &three);
    host.serve_until_done(&mut running, &three);
    running.stop();
    let seqs: Vec<u64> = host.stored.iter().map(|row| row.seq).collect();
    assert_eq!(seqs, (0..8).map(|n| 2 * n + 1).collect::<Vec<_>>());
    let requests = host.model.requests();
    assert_eq!(
        last_texts(&requests[0]),
        ["one", "two"]
            .map(|text| format!("⟦message from Ann (local:ann) at {} in chat main⟧\n{text}", Millis(0)))
    );
    assert_eq!(requests[1].get("messages").unwrap().as_array().unwrap().len(), 3, "the first turn is told");
    let system = &requests[1].get("system").unwrap().as_array().unwrap()[0];
    assert!(system.get("text").unwrap().as_str().unwrap().ends_with("\n\nP"));
    assert_eq!(requests[1].get("max_tokens").unwrap().as_u64(), Some(99));
}

#[test]
fn what_was_finished_but_not_stored_is_put_back_and_not_asked_again() {
    let mut host = Host::new();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    let first = running.hear_out();
    assert_eq!(host.read(first).len(), 1, "started");
    host.model.will(Reply::Say("answer"));
    running.say(ToSandbox::Ack(first));
    let last = running.hear_out();
    // The host dies before it stores either.
    running.leave();
    let mut running = host.launch(&[&one]);
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(host.cursor, last, "numbers are kept");
    assert_eq!(host.replies(), [(one.id.clone(), "answer".into())]);
    assert_eq!(host.model.requests().len(), 1, "the model was asked once");
    // Stored now: the next launch has nothing to put back, and new numbers go on.
    let two = message("two");
    let mut running = host.launch(&[&two]);
    host.model.will(Reply::Say("second"));
    host.serve_until_done(&mut running, &two);
    running.stop();
    assert_eq!(host.stored.last().unwrap().seq, last + 6);
}

#[test]
fn a_turn_goes_on_where_it_was_interrupted() {
    let mut host = Host::new();
    let one = message("write it");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Tool("write_file", r#"{"path":"a/b.txt","content":"x"}"#)).will(Reply::Hang);
    let first = running.hear_out();
    running.say(ToSandbox::Ack(first));
    host.model.asked.recv().unwrap();
    host.model.asked.recv().unwrap();
    running.leave();
    assert_eq!(std::fs::read_to_string(host.at("workspace/a/b.txt")).unwrap(), "x");
    std::fs::remove_file(host.at("workspace/a/b.txt")).unwrap();
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Say("written"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    assert_eq!(host.replies(), [(one.id.clone(), "written".into())]);
    assert!(!host.at("workspace/a/b.txt").exists(), "the tool did not run again");
    let requests = host.model.requests();
    assert_eq!(requests.len(), 1, "the journalled answer was not asked for again");
    assert_eq!(last_texts(&requests[0]), ["wrote 1 bytes to a/b.txt"]);
    assert!(host.states(&one).ends_with(&[Processing::Started, Processing::Done]));
}

#[test]
fn a_turn_whose_message_the_host_gave_up_is_dropped() {
    let mut host = Host::new();
    let (poison, good) = (message("poison"), message("good"));
    let mut running = host.launch(&[&poison]);
    host.model.will(Reply::Hang);
    // Journalled, and so open in the next launch.
    running.hear_out();
    running.leave();
    let mut running = host.launch(&[&good]);
    host.model.will(Reply::Say("fine"));
    host.serve_until_done(&mut running, &good);
    running.stop();
    assert_eq!(host.replies(), [(good.id.clone(), "fine".into())]);
    assert!(!host.is_done(&poison));
    assert_eq!(last_texts(&host.model.requests()[0]).len(), 1);
}

#[test]
fn a_failing_model_is_tried_again_and_then_explained() {
    let mut host = Host::new();
    let (one, two, three) = (message("one"), message("two"), message("three"));
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Cut).will(Reply::Status(529)).will(Reply::Say("at last"));
    host.serve_until_done(&mut running, &one);
    host.model.will(Reply::Status(400));
    host.deliver(&mut running, &two);
    host.serve_until_done(&mut running, &two);
    host.model.will(Reply::Cut).will(Reply::Cut).will(Reply::Status(503));
    host.deliver(&mut running, &three);
    host.serve_until_done(&mut running, &three);
    running.stop();
    let replies = host.replies();
    assert_eq!(replies[0].1, "at last");
    assert!(replies[1].1.starts_with("I could not get an answer: the model answered 400: no\\u{202e}."));
    assert!(replies[2].1.contains("503") && replies[2].1.contains("several times"));
    assert_eq!(host.model.requests().len(), 7);
}

#[test]
fn a_turn_whose_request_never_went_out_has_begun_all_the_same() {
    let mut host = Host::new();
    let (one, two) = (message("one"), message("two"));
    std::fs::remove_file(host.at("model")).unwrap();
    let mut running = host.launch(&[&one]);
    host.serve_until_done(&mut running, &one);
    assert_eq!(host.states(&one), [Processing::Started, Processing::Done]);
    assert!(host.replies()[0].1.contains("does not connect"), "{:?}", host.replies());
    host.model = Model::start(&host.at("model"));
    host.model.will(Reply::Say("again"));
    host.deliver(&mut running, &two);
    host.serve_until_done(&mut running, &two);
    running.stop();
    assert_eq!(host.replies()[1], (two.id.clone(), "again".into()));
}

#[test]
fn a_model_that_only_wants_tools_must_come_to_an_end() {
    let mut host = Host::new();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    for _ in 0..16 {
        host.model.will(Reply::Tool("read_file", r#"{"path":"none"}"#));
    }
    host.model.will(Reply::Say("I give up"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    let requests = host.model.requests();
    assert_eq!(requests.len(), 17);
    assert_eq!(last_texts(&requests[1]), ["there is no such file"]);
    let forbidden = |request: &Value| request.get("tool_choice").is_some();
    assert_eq!(requests.iter().position(forbidden), Some(16));
    assert_eq!(host.replies(), [(one.id.clone(), "I give up".into())]);
}

#[test]
fn a_damaged_memory_is_said_to_be_lost_and_left_alone() {
    let mut host = Host::new();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Say("x"));
    host.serve_until_done(&mut running, &one);
    running.stop();
    let mut bytes = std::fs::read(host.at("session.db")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(host.at("session.db"), &bytes).unwrap();
    let (running, hello) = host.start();
    assert_eq!(hello, "hello 1 lost\n");
    running.stop();
    assert_eq!(std::fs::read(host.at("session.db")).unwrap(), bytes);
    assert_eq!(std::fs::metadata(host.at("outbound.db")).unwrap().len(), 0);
}

#[test]
fn nothing_is_written_before_the_welcome() {
    let mut host = Host::new();
    let one = message("one");
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Say("x"));
    let _ = running.hear_out();
    running.leave();
    let (running, hello) = host.start();
    assert!(hello == "hello 1 1\n" || hello == "hello 1 5\n", "{hello}");
    assert_eq!(std::fs::metadata(host.at("outbound.db")).unwrap().len(), 0);
    running.stop();
    assert_eq!(std::fs::metadata(host.at("outbound.db")).unwrap().len(), 0);
}

#[test]
fn a_host_that_breaks_the_protocol_ends_the_sandbox() {
    let cases: [(ToSandbox, &str); 4] = [
        (ToSandbox::Ack(77), "the host rang `ack 77` out of turn"),
        (ToSandbox::Welcome(0), "the host rang `welcome 0` out of turn"),
        (ToSandbox::In(8), "inbound: the conveyor's numbers are wrong: 8 was rung, but the last row is 2"),
        (ToSandbox::In(7), "inbound: the conveyor's numbers are wrong: 7 was rung, but the last row is 2"),
    ];
    for (frame, said) in cases {
        let mut host = Host::new();
        let mut running = host.launch(&[]);
        running.say(frame);
        assert_eq!(running.error(), said);
    }
    let host = Host::new();
    let (mut running, _) = host.start();
    running.stream.write_all(&[b'x'; 100]).unwrap();
    assert!(running.error().contains("64 bytes"));
}

#[test]
fn rings_are_served_while_an_acknowledgement_is_awaited() {
    let mut host = Host::new();
    let (one, two) = (message("one"), message("two"));
    let mut running = host.launch(&[&one]);
    host.model.will(Reply::Say("1")).will(Reply::Say("2"));
    let mut heard = VecDeque::new();
    // `started` of the first is rung and not acknowledged; the second message is read all the same.
    let out = running.hear_out();
    host.deliver(&mut running, &two);
    loop {
        match running.hear() {
            FromSandbox::Ack(seq) if seq == host.inbound_seq => break,
            FromSandbox::Out(_) => panic!("a second transaction before the acknowledgement"),
            frame => heard.push_back(frame),
        }
    }
    let rows = host.read(out);
    host.stored.extend(rows);
    host.cursor = out;
    running.say(ToSandbox::Ack(out));
    host.serve_until_done(&mut running, &two);
    running.stop();
    assert_eq!(host.replies().iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["1", "2"]);
}
