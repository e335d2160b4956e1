//! A receiver of webhooks for tests: it checks the signature of everything that is posted to it, writes it down, and
//! can be told to fail. It listens on loopback only, prints `listening PORT` first, and is controlled on the same port
//! under `/_fake/`. Its SHA-256 is its own, so that both sides cannot be wrong in the same way.

#[path = "../http.rs"]
#[allow(dead_code, reason = "every fake uses its own part")]
mod http;
#[path = "../json.rs"]
#[allow(dead_code, reason = "every fake uses its own part")]
mod json;
mod sha256;

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::Request;
use json::{Json, object};

/// How far the time of a request may be from ours, in seconds.
const WINDOW: u64 = 300;

/// What was received, and what goes wrong next.
#[derive(Default)]
struct Seen {
    posts: Vec<Json>,
    faults: Vec<Fault>,
}

struct Fault {
    kind: String,
    left: i64,
    code: u16,
    retry_after: i64,
    millis: u64,
}

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let given = words.windows(2).find(|pair| pair.first().is_some_and(|word| word == "--secret"));
    let given =
        given.and_then(|pair| pair.last().cloned()).unwrap_or_else(|| "the secret of the fake".to_owned());
    let secret = given.strip_prefix("whsec_").map_or_else(|| given.clone().into_bytes(), sha256::unbase64);
    let shared = Arc::new((Mutex::new(Seen::default()), secret));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("listening {}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    for stream in listener.incoming().flatten() {
        let shared = shared.clone();
        std::thread::spawn(move || converse(&shared.0, &shared.1, stream));
    }
    Ok(())
}

fn converse(seen: &Mutex<Seen>, secret: &[u8], stream: TcpStream) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(request) = http::read(&mut reader) {
        let answer = match request.path.strip_prefix("/_fake/") {
            Some(name) => Some(control(seen, name, &request.body)),
            None => receive(seen, secret, &request),
        };
        let Some((status, headers, body)) = answer else { break };
        if http::answer_with(&mut writer, status, "application/json", &headers, body.as_bytes()).is_err()
            || request.header("connection").eq_ignore_ascii_case("close")
        {
            break;
        }
    }
    let _ = writer.shutdown(std::net::Shutdown::Both);
}

type Answer = (u16, Vec<(String, String)>, String);

/// `POST fault` with `kind` (`status` with `code` and `retry_after`, `hang` for `ms`, `drop`, `disconnect`) and
/// `times`; `GET posts` for everything that came, with the count.
fn control(seen: &Mutex<Seen>, name: &str, body: &[u8]) -> Answer {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let asked = std::str::from_utf8(body).ok().and_then(Json::parse).unwrap_or_else(|| object([]));
    match (name, asked.text("kind")) {
        ("posts", _) => {
            let posts = object([("count", seen.posts.len().into()), ("posts", seen.posts.clone().into())]);
            (200, Vec::new(), posts.to_string())
        }
        ("fault", Some(kind)) if ["status", "hang", "drop", "disconnect"].contains(&kind) => {
            let number = |name: &str, usual: i64| asked.int(name).unwrap_or(usual);
            seen.faults.push(Fault {
                kind: kind.to_owned(),
                left: number("times", 1),
                code: u16::try_from(number("code", 500)).unwrap_or(500),
                retry_after: number("retry_after", 0),
                millis: u64::try_from(number("ms", 0)).unwrap_or(0),
            });
            (200, Vec::new(), "{}".to_owned())
        }
        _ => (400, Vec::new(), "{}".to_owned()),
    }
}

/// A post of the product. `None` when the connection ends without an answer.
fn receive(seen: &Mutex<Seen>, secret: &[u8], request: &Request) -> Option<Answer> {
    let fault = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.faults.iter_mut().find(|fault| fault.left > 0).map(|fault| {
            fault.left -= 1;
            (fault.kind.clone(), fault.code, fault.retry_after, fault.millis)
        })
    };
    let kind = fault.as_ref().map_or("", |fault| fault.0.as_str());
    match &fault {
        Some((kind, ..)) if kind == "disconnect" => return None,
        Some((kind, code, retry_after, _)) if kind == "status" => {
            let headers = (*retry_after > 0).then(|| ("Retry-After".to_owned(), retry_after.to_string()));
            return Some((*code, headers.into_iter().collect(), "{}".to_owned()));
        }
        // The fault itself, not a way to wait for something.
        Some((kind, .., millis)) if kind == "hang" => std::thread::sleep(Duration::from_millis(*millis)),
        _ => {}
    }
    let verdict = signed(secret, request);
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    let number = seen.posts.len() + 1;
    seen.posts.push(object([
        ("method", request.method.clone().into()),
        ("path", request.path.clone().into()),
        ("id", request.header("webhook-id").into()),
        ("delivery", request.header("x-ironclaw-delivery").into()),
        ("verdict", verdict.into()),
        ("body", String::from_utf8_lossy(&request.body).into_owned().into()),
    ]));
    drop(seen);
    let status = if verdict == "good" { 200 } else { 401 };
    let answer = (status, Vec::new(), object([("id", format!("received-{number}").into())]).to_string());
    (kind != "drop").then_some(answer)
}

/// `good`, or what is wrong: the signature is judged first, the time only of what was signed.
fn signed(secret: &[u8], request: &Request) -> &'static str {
    let (id, time) = (request.header("webhook-id"), request.header("webhook-timestamp"));
    let content = [id.as_bytes(), b".", time.as_bytes(), b".", &request.body].concat();
    let tag = format!("v1,{}", sha256::base64(&sha256::hmac(secret, &content)));
    if !request.header("webhook-signature").split(' ').any(|given| given == tag) {
        return "bad";
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    match time.parse::<u64>() {
        Ok(sent) if now.abs_diff(sent) <= WINDOW => "good",
        _ => "old",
    }
}
