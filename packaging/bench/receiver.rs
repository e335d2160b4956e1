//! The other side of a signed webhook, as cheap as it can be: it signs what it sends, and tells of what it gets as soon as
//! it has it. Chats whose name says so refuse everything, or answer after fifteen seconds.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver as Queue, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::Value;

use crate::client::Client;
use crate::world::{PATIENCE, marker};

/// A chat that refuses.
pub const REFUSES: &str = "refuses";
/// A chat that hangs.
pub const HANGS: &str = "hangs";

/// What came for a chat, and when.
type Heard = (String, Instant);

pub struct Receiver {
    pub address: SocketAddr,
    pub secret: String,
    chats: Arc<Mutex<HashMap<String, Sender<Heard>>>>,
}

impl Receiver {
    pub fn start() -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let chats: Arc<Mutex<HashMap<String, Sender<Heard>>>> = Arc::default();
        let told = Arc::clone(&chats);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let told = Arc::clone(&told);
                std::thread::spawn(move || drop(serve(&stream, &told)));
            }
        });
        Receiver { address, secret: format!("{}{}", marker(), marker()), chats }
    }

    /// Tells what comes for a chat from now on.
    pub fn watch(&self, chat: &str) -> Queue<Heard> {
        let (sender, queue) = channel();
        self.chats.lock().unwrap().insert(chat.to_owned(), sender);
        queue
    }

    /// Somebody who writes in a chat.
    pub fn person(&self, ingress: SocketAddr, chat: &str) -> Person {
        Person { to: Client::connect(ingress, ""), secret: self.secret.clone(), chat: chat.to_owned() }
    }
}

/// Somebody who writes in a chat, over a connection that is kept.
pub struct Person {
    to: Client,
    secret: String,
    chat: String,
}

impl Person {
    /// Sends a message; it is accepted when this returns.
    pub fn say(&mut self, text: &str) {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let id = format!("bench-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().to_string();
        let body = serde_json::json!({"text": text, "chat": self.chat, "sender": "ann"}).to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let message = [id.as_bytes(), b".", at.as_bytes(), b".", body.as_bytes()].concat();
        let signature = format!("v1,{}", STANDARD.encode(hmac::sign(&key, &message)));
        let headers = [("webhook-id", id), ("webhook-timestamp", at), ("webhook-signature", signature)];
        let (status, answer) = self.to.post_with("/hooks/webhook", &headers, &body);
        assert_eq!(status, 202, "{}", String::from_utf8_lossy(answer));
    }
}

/// When a text came.
pub fn wait(queue: &Queue<Heard>, text: &str) -> Instant {
    loop {
        let (heard, at) = queue.recv_timeout(PATIENCE).expect("the answer comes");
        if heard.contains(text) {
            return at;
        }
    }
}

fn serve(mut stream: &TcpStream, chats: &Mutex<HashMap<String, Sender<Heard>>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line)? > 2 {
            if let Some(value) = line.to_lowercase().strip_prefix("content-length: ") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        if length == 0 {
            return Ok(());
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let at = Instant::now();
        let document: Value = serde_json::from_slice(&body).unwrap();
        let chat = document["chat"].as_str().unwrap_or_default();
        if chat == HANGS {
            std::thread::sleep(Duration::from_secs(15));
        }
        let status = if chat == REFUSES { "500 Internal Server Error" } else { "200 OK" };
        stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes())?;
        if let Some(told) = chats.lock().unwrap().get(chat) {
            let _ = told.send((document["text"].as_str().unwrap_or_default().to_owned(), at));
        }
    }
}
