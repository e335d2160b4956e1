//! The other side of a signed webhook, from the description of the scheme: it signs what it sends, checks what it gets,
//! and knows a message by its name. It can be slow, refuse, and drop what it took.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::Value;

use crate::world::http::{Answer, Request};
use crate::world::{PATIENCE, marker};

/// How a chat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With this status, as often as there are more of these.
    Status(u16),
    /// The same with `Retry-After` in seconds.
    Later(u16, u64),
    /// It is taken, and the connection ends without an answer.
    Drop,
    /// Nothing for so long, and then it is taken.
    Slow(Duration),
    /// Nothing, until the fake is told to go on.
    Hang,
}

/// What was taken of one message.
#[derive(Clone, Debug)]
pub struct Taken {
    pub chat: String,
    pub thread: Option<String>,
    pub text: String,
    pub in_reply_to: Option<String>,
    /// What could be pressed under it.
    pub buttons: Vec<Value>,
    /// `message` or `approval`.
    pub kind: String,
    /// The one in whose place it is shown, by the name that was given for it.
    pub replaces: Option<String>,
    /// That name.
    pub given: String,
    /// How often it came.
    pub times: u32,
}

#[derive(Default)]
struct State {
    /// In the order in which they first came, by name.
    taken: Vec<(String, Taken)>,
    known: HashMap<String, usize>,
    /// What is done with the next requests for a chat; `""` is any chat.
    manners: BTreeMap<String, Vec<Manner>>,
    /// The same for all of them.
    always: BTreeMap<String, Manner>,
    /// Requests that were not signed as they must be.
    unsigned: u32,
    /// The signature of the body alone that each request had, if it had one.
    body_signatures: Vec<Option<String>>,
    requests: u32,
    is_released: bool,
}

/// A running one.
pub struct Hook {
    pub address: SocketAddr,
    pub secret: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Hook {
    pub fn start() -> Hook {
        Hook::with(&(marker() + &marker()))
    }

    /// With this secret.
    pub fn with(secret: &str) -> Hook {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let secret = secret.to_owned();
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let (shared, key) = (Arc::clone(&state), secret.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (shared, key) = (Arc::clone(&shared), key.clone());
                std::thread::spawn(move || {
                    let _ = serve(stream, &shared, &key);
                });
            }
        });
        Hook { address, secret, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next requests for a chat are answered so.
    pub fn next(&self, chat: &str, manners: &[Manner]) {
        self.state().manners.entry(chat.to_owned()).or_default().extend_from_slice(manners);
    }

    /// All requests for a chat are answered so, or as usual again.
    pub fn always(&self, chat: &str, manner: Option<Manner>) {
        let mut state = self.state();
        match manner {
            Some(manner) => drop(state.always.insert(chat.to_owned(), manner)),
            None => drop(state.always.remove(chat)),
        }
    }

    /// What hangs goes on.
    pub fn release(&self) {
        self.state().is_released = true;
        self.state.1.notify_all();
    }

    /// What was taken for a chat, in order.
    pub fn taken(&self, chat: &str) -> Vec<Taken> {
        self.state()
            .taken
            .iter()
            .map(|(_, taken)| taken)
            .filter(|taken| taken.chat == chat)
            .cloned()
            .collect()
    }

    pub fn all(&self) -> Vec<Taken> {
        self.state().taken.iter().map(|(_, taken)| taken.clone()).collect()
    }

    pub fn requests(&self) -> u32 {
        self.state().requests
    }

    pub fn unsigned(&self) -> u32 {
        self.state().unsigned
    }

    /// The signatures of bodies alone, of all requests, in order.
    pub fn body_signatures(&self) -> Vec<Option<String>> {
        self.state().body_signatures.clone()
    }

    /// Waits until this is so.
    #[track_caller]
    pub fn until<T>(&self, what: &str, look: impl Fn(&[Taken]) -> Option<T>) -> T {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            let taken: Vec<Taken> = state.taken.iter().map(|(_, taken)| taken.clone()).collect();
            if let Some(found) = look(&taken) {
                return found;
            }
            let left = PATIENCE.checked_sub(begun.elapsed());
            let left = left.unwrap_or_else(|| panic!("not: {what}; taken: {taken:#?}"));
            state = self.state.1.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits for a text in a chat.
    #[track_caller]
    pub fn wait(&self, chat: &str, text: &str) -> Taken {
        self.until(&format!("{text} in {chat}"), |taken| {
            taken.iter().find(|taken| taken.chat == chat && taken.text.contains(text)).cloned()
        })
    }

    /// Sends a message to the ingress, signed, under a name of its own.
    #[track_caller]
    pub fn say(&self, ingress: SocketAddr, body: &Value) -> Answer {
        self.say_as(ingress, &marker(), body)
    }

    #[track_caller]
    pub fn say_as(&self, ingress: SocketAddr, id: &str, body: &Value) -> Answer {
        self.try_say(ingress, "/hooks/webhook", id, body).expect("the ingress answers")
    }

    pub fn try_say(
        &self,
        ingress: SocketAddr,
        path: &str,
        id: &str,
        body: &Value,
    ) -> std::io::Result<Answer> {
        let at = now().to_string();
        let signature = sign(&self.secret, id, &at, body.to_string().as_bytes());
        let mut request = Request::post(path, body);
        request.headers.extend([
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", at),
            ("webhook-signature", signature),
        ]);
        request.send(ingress)
    }
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The signature of a request, as its header has it.
pub fn sign(secret: &str, id: &str, at: &str, body: &[u8]) -> String {
    let message = [id.as_bytes(), b".", at.as_bytes(), b".", body].concat();
    format!("v1,{}", STANDARD.encode(hmac::sign(&key(secret), &message)))
}

/// The signature of a body alone, as GitHub has it in `X-Hub-Signature-256`.
pub fn sign_body(secret: &str, body: &[u8]) -> String {
    let tag = hmac::sign(&key(secret), body);
    tag.as_ref().iter().fold("sha256=".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn key(secret: &str) -> hmac::Key {
    let bytes = match secret.strip_prefix("whsec_") {
        Some(encoded) => STANDARD.decode(encoded).unwrap(),
        None => secret.as_bytes().to_vec(),
    };
    hmac::Key::new(hmac::HMAC_SHA256, &bytes)
}

fn serve(stream: TcpStream, shared: &(Mutex<State>, Condvar), secret: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut headers: HashMap<String, String> = HashMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let length: usize = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        if !answer(&stream, shared, secret, &headers, &body)? {
            return Ok(());
        }
    }
}

/// Says whether the connection goes on.
fn answer(
    mut stream: &TcpStream,
    shared: &(Mutex<State>, Condvar),
    secret: &str,
    headers: &HashMap<String, String>,
    body: &[u8],
) -> std::io::Result<bool> {
    let header = |name: &str| headers.get(name).map(String::as_str).unwrap_or_default();
    let (id, at) = (header("webhook-id").to_owned(), header("webhook-timestamp"));
    let lock = || shared.0.lock().unwrap_or_else(PoisonError::into_inner);
    let age = at.parse::<u64>().map_or(u64::MAX, |at| now().abs_diff(at));
    let mut state = lock();
    state.requests += 1;
    let body_signature = headers.get("x-hub-signature-256").cloned();
    state.body_signatures.push(body_signature.clone());
    if body_signature.is_some_and(|said| said != sign_body(secret, body)) {
        state.unsigned += 1;
    }
    if sign(secret, &id, at, body) != header("webhook-signature") || age > 300 {
        state.unsigned += 1;
        drop(state);
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")?;
        return Ok(true);
    }
    let document: Value = serde_json::from_slice(body).unwrap();
    let text = |name: &str| document[name].as_str().map(str::to_owned);
    let chat = text("chat").unwrap();
    let next =
        state.manners.get_mut(&chat).filter(|manners| !manners.is_empty()).map(|manners| manners.remove(0));
    let manner = next.or_else(|| state.always.get(&chat).cloned());
    drop(state);
    if let Some(Manner::Slow(pause)) = manner {
        // What the platform does, and no order that the test waits for.
        std::thread::sleep(pause);
    }
    if manner == Some(Manner::Hang) {
        let state = lock();
        drop(shared.1.wait_while(state, |state| !state.is_released));
    }
    let status = match manner {
        Some(Manner::Status(status)) => Some((status, String::new())),
        Some(Manner::Later(status, after)) => Some((status, format!("retry-after: {after}\r\n"))),
        _ => None,
    };
    if let Some((status, more)) = status {
        let answer = format!("HTTP/1.1 {status} No\r\n{more}content-length: 0\r\n\r\n");
        stream.write_all(answer.as_bytes())?;
        return Ok(true);
    }
    let mut state = lock();
    match state.known.get(&id).copied() {
        Some(at) => state.taken[at].1.times += 1,
        None => {
            let taken = Taken {
                chat,
                thread: text("thread"),
                text: text("text").unwrap(),
                in_reply_to: text("in_reply_to"),
                buttons: document["buttons"].as_array().cloned().unwrap_or_default(),
                kind: text("kind").unwrap_or_default(),
                replaces: text("replaces"),
                given: format!("r{}", state.taken.len() + 1),
                times: 1,
            };
            let at = state.taken.len();
            state.taken.push((id.clone(), taken));
            state.known.insert(id, at);
        }
    }
    let receipt = format!(r#"{{"id":"r{}"}}"#, state.taken.len());
    drop(state);
    shared.1.notify_all();
    if manner == Some(Manner::Drop) {
        return Ok(false);
    }
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{receipt}", receipt.len());
    stream.write_all(answer.as_bytes())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn post(hook: &Hook, at: &str, signature: &str, body: &str) -> std::io::Result<Answer> {
        let mut request = Request::post("/in", &json!({}));
        request.headers.extend([
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned()),
            ("webhook-timestamp", at.to_owned()),
            ("webhook-signature", signature.to_owned()),
        ]);
        request.body = body.into();
        request.send(hook.address)
    }

    /// The examples of both descriptions: a fake that is lenient would prove nothing.
    #[test]
    fn the_receiver_believes_only_the_signature() {
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let known = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(sign(SECRET, id, "1614265330", body.as_bytes()), known);
        assert_eq!(
            sign_body("It's a Secret to Everybody", b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
        let hook = Hook::with(SECRET);
        let now = now().to_string();
        let body = r#"{"chat": "ops", "text": "x"}"#;
        let good = sign(SECRET, id, &now, body.as_bytes());
        let old = sign(SECRET, id, "1614265330", body.as_bytes());
        assert_eq!(post(&hook, "1614265330", &old, body).unwrap().status, 401);
        assert_eq!(post(&hook, &now, &good, &body.replace('x', "y")).unwrap().status, 401);
        assert_eq!((hook.unsigned(), hook.all().len()), (2, 0));
        hook.next("ops", &[Manner::Later(429, 7), Manner::Drop]);
        let refused = post(&hook, &now, &good, body).unwrap();
        assert_eq!((refused.status, refused.header("Retry-After")), (429, Some("7")));
        assert!(post(&hook, &now, &good, body).is_err());
        assert_eq!(post(&hook, &now, &good, body).unwrap().status, 200);
        let taken = hook.taken("ops");
        assert_eq!((taken.len(), taken[0].times), (1, 2), "it was taken, and only the answer was lost");
    }
}
