//! How an answer goes out: as a stream in chunks, whole, or with the fault that the test has ordered.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::checks::Dialect;
use crate::http;
use crate::json::Json;
use crate::plan::Plan;
use crate::world::Shared;

/// How long a look at a client takes, to see whether it is still there.
const LOOK: Duration = Duration::from_millis(20);
const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n";

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// As HTTP has it.
    Whole,
    /// Broken off by the fake.
    Broken,
    /// The client went away before.
    Gone,
}

impl Sent {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Sent::Whole => "whole",
            Sent::Broken => "broken",
            Sent::Gone => "gone",
        }
    }
}

/// The events of an answer, and which of them are the end of it.
pub(crate) struct Events {
    pub(crate) events: Vec<String>,
    pub(crate) last: usize,
}

pub(crate) fn answer(
    shared: &Shared,
    dialect: Dialect,
    model: &str,
    body: &Json,
    plan: &Plan,
    to: &mut TcpStream,
) -> Sent {
    let mut world = shared.lock();
    let Events { events, last } = dialect.write(model, body, plan, &mut world);
    let opened = world.gates_open;
    drop(world);
    let half = last / 2 + 1;
    let begun = events.get(..half.min(last)).unwrap_or_default().concat();
    let done = match plan.fault.as_str() {
        "status" => {
            let words = plan.words.clone().unwrap_or_else(|| "ordered by the test".to_owned());
            let document = dialect.error(plan.status, &words).to_string();
            let wait = plan.retry_after.map(|seconds| ("Retry-After".to_owned(), seconds.to_string()));
            let headers: Vec<_> = wait.into_iter().collect();
            http::answer_with(to, plan.status, "application/json", &headers, document.as_bytes())
        }
        "garbage" => http::answer(to, 200, "text/html", b"<html>Bad Gateway</html>"),
        "close" => return Sent::Broken,
        "hang" => return until_gone(to),
        "silence" => {
            return match stream(to).and_then(|()| chunk(to, begun.as_bytes())) {
                Ok(()) => until_gone(to),
                Err(_) => Sent::Gone,
            };
        }
        "hold" => {
            if stream(to).and_then(|()| chunk(to, begun.as_bytes())).is_err() {
                return Sent::Gone;
            }
            while !shared.gate(opened, LOOK) {
                if is_gone(to) {
                    return Sent::Gone;
                }
            }
            let rest = events.get(half.min(last)..).unwrap_or_default().concat();
            chunk(to, rest.as_bytes()).and_then(|()| end(to))
        }
        "cut" => {
            let length = begun.len() + 64;
            let head = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{begun}");
            return if to.write_all(head.as_bytes()).is_ok() { Sent::Broken } else { Sent::Gone };
        }
        "error" => {
            let words = plan.words.clone().unwrap_or_else(|| "ordered by the test".to_owned());
            let error = dialect.error_event(plan.status, &words);
            stream(to).and_then(|()| chunk(to, format!("{begun}{error}").as_bytes())).and_then(|()| end(to))
        }
        "garbage_event" => whole(to, &[begun, "data: {\"type\":\n\n".to_owned()]),
        "unfinished" => whole(to, events.get(..last).unwrap_or_default()),
        "empty" => whole(to, &[]),
        "huge" => whole(to, &[begun, format!("data: \"{}\"\n\n", "x".repeat(plan.bytes))]),
        "endless" => {
            let piece = format!(": {}\n\n", "x".repeat(16 << 10));
            let mut sent = stream(to).and_then(|()| chunk(to, begun.as_bytes()));
            while sent.is_ok() {
                sent = chunk(to, piece.as_bytes());
            }
            sent
        }
        "gzip" => {
            let body = gzip(events.concat().as_bytes());
            let head = format!("{HEAD}Content-Encoding: gzip\r\nContent-Length: {}\r\n\r\n", body.len());
            to.write_all(head.as_bytes()).and_then(|()| to.write_all(&body))
        }
        "drip" => stream(to).and_then(|()| {
            for byte in events.concat().bytes() {
                // The fault itself, not a way to wait for something.
                std::thread::sleep(Duration::from_millis(plan.millis));
                chunk(to, &[byte])?;
            }
            end(to)
        }),
        _ => whole(to, &events),
    };
    if done.is_ok() { Sent::Whole } else { Sent::Gone }
}

fn stream(to: &mut TcpStream) -> std::io::Result<()> {
    to.write_all(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n").as_bytes())
}

fn chunk(to: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    to.write_all(&[format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())
}

fn end(to: &mut TcpStream) -> std::io::Result<()> {
    to.write_all(b"0\r\n\r\n")
}

fn whole(to: &mut TcpStream, events: &[String]) -> std::io::Result<()> {
    stream(to)?;
    for event in events {
        chunk(to, event.as_bytes())?;
    }
    end(to)
}

fn until_gone(to: &mut TcpStream) -> Sent {
    while !is_gone(to) {}
    Sent::Gone
}

/// Looks for a moment whether the client has closed.
fn is_gone(to: &mut TcpStream) -> bool {
    let _ = to.set_read_timeout(Some(LOOK));
    let seen = to.read(&mut [0; 1]);
    let _ = to.set_read_timeout(None);
    match seen {
        Ok(read) => read == 0,
        Err(error) => !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut),
    }
}

/// RFC 1952 around blocks that are only stored.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let mut blocks = bytes.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend(block);
    }
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    out.extend((!crc).to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out
}
