//! A Telegram of our own for tests: it speaks the Bot API as its public description has it, enforces the limits that
//! are documented there, and can be told to fail in every way that a network and a platform fail. It listens on
//! loopback only, prints `listening PORT` first, and is controlled on the same port under `/_fake/`. It shares no code
//! with the product, so that both cannot be wrong in the same way.

mod control;
mod entities;
#[path = "../http.rs"]
mod http;
#[path = "../json.rs"]
mod json;
mod methods;
mod world;

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use json::{Json, object};
use methods::{Outcome, Refusal};
use world::Shared;

fn main() -> std::io::Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let option = |name: &str, usual: &str| {
        let given = words.windows(2).find(|pair| pair.first().is_some_and(|word| word == name));
        given.and_then(|pair| pair.last().cloned()).unwrap_or_else(|| usual.to_owned())
    };
    let shared =
        Arc::new(Shared::new(&option("--token", "1000:fake-token"), &option("--username", "claw_bot")));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("listening {}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    let poster = shared.clone();
    std::thread::spawn(move || post_updates(&poster));
    for stream in listener.incoming().flatten() {
        let shared = shared.clone();
        std::thread::spawn(move || converse(&shared, stream));
    }
    Ok(())
}

/// One connection, request after request.
fn converse(shared: &Shared, stream: TcpStream) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    while let Some(request) = http::read(&mut reader) {
        let answered = if request.path.starts_with("/_fake/") {
            match control::answer(shared, &request) {
                Some(answer) => {
                    http::answer(&mut writer, 200, "application/json", answer.to_string().as_bytes())
                }
                None => http::answer(&mut writer, 400, "text/plain", b"not understood"),
            }
        } else if let Some(file) = request.path.strip_prefix("/file/bot") {
            download(shared, &mut writer, file)
        } else {
            match bot(shared, &request) {
                Some((status, kind, body)) => http::answer(&mut writer, status, kind, body.as_bytes()),
                None => break,
            }
        };
        if answered.is_err() || request.header("connection").eq_ignore_ascii_case("close") {
            break;
        }
    }
    let _ = writer.shutdown(std::net::Shutdown::Both);
}

/// A request of the bot: its status, type and body. `None` when the connection ends without an answer.
fn bot(shared: &Shared, request: &Request) -> Option<(u16, &'static str, String)> {
    const KIND: &str = "application/json";
    let (token, method) = request.path.strip_prefix("/bot").and_then(|rest| rest.split_once('/'))?;
    let mut world = shared.lock();
    if token != world.token || world.revoked {
        drop(world);
        return Some(written(methods::refuse(401, "Unauthorized"), KIND));
    }
    let Some((asked, files)) = parameters(request) else {
        drop(world);
        return Some(written(methods::refuse(400, "Bad Request: can't parse the request"), KIND));
    };
    let fault = world.fault(method, asked.int("chat_id"));
    drop(world);
    let kind = fault.as_ref().map_or("", |fault| fault.kind.as_str());
    match (kind, &fault) {
        ("disconnect", _) => return None,
        ("garbage", _) => return Some((502, "text/html", "<html>Bad Gateway</html>".to_owned())),
        ("status", Some(fault)) => {
            let parameters = (fault.code == 429).then(|| object([("retry_after", fault.retry_after.into())]));
            let words = match fault.code {
                _ if fault.words.is_some() => fault.words.clone().unwrap_or_default(),
                429 => format!("Too Many Requests: retry after {}", fault.retry_after),
                code => format!("A fault that the test ordered: {code}"),
            };
            return Some(written(Err(Refusal { code: fault.code, words, parameters }), KIND));
        }
        ("hang", Some(fault)) => {
            // The fault itself, not a way to wait for something.
            std::thread::sleep(Duration::from_millis(u64::try_from(fault.millis).unwrap_or(0)));
        }
        _ => {}
    }
    let outcome = methods::call(shared, method, &asked, files, kind);
    if kind == "drop" { None } else { Some(written(outcome, KIND)) }
}

fn written(outcome: Outcome, kind: &'static str) -> (u16, &'static str, String) {
    match outcome {
        Ok(result) => (200, kind, object([("ok", true.into()), ("result", result)]).to_string()),
        Err(refusal) => {
            let mut body = object([
                ("ok", false.into()),
                ("error_code", refusal.code.into()),
                ("description", refusal.words.into()),
            ]);
            if let Some(parameters) = refusal.parameters {
                body.set("parameters", parameters);
            }
            (u16::try_from(refusal.code).unwrap_or(500), kind, body.to_string())
        }
    }
}

/// What a request asks for: from the query, and from a body of any kind that the API takes.
fn parameters(request: &Request) -> Option<(Json, Vec<http::Part>)> {
    let mut asked = object([]);
    for (name, value) in http::fields(&request.query) {
        asked.set(&name, nested(value));
    }
    let kind = request.header("content-type").to_owned();
    let mut files = Vec::new();
    if kind.starts_with("multipart/form-data") {
        for part in http::parts(&kind, &request.body)? {
            if part.file.is_some() {
                files.push(part);
            } else {
                asked.set(&part.name, nested(String::from_utf8(part.content).ok()?));
            }
        }
    } else if kind.starts_with("application/json") {
        let Json::Object(fields) = Json::parse(std::str::from_utf8(&request.body).ok()?)? else {
            return None;
        };
        fields.into_iter().for_each(|(name, value)| asked.set(&name, value));
    } else {
        for (name, value) in http::fields(std::str::from_utf8(&request.body).ok()?) {
            asked.set(&name, nested(value));
        }
    }
    Some((asked, files))
}

/// In forms, objects and lists are JSON in text.
fn nested(value: String) -> Json {
    let parsed = if value.starts_with(['{', '[']) { Json::parse(&value) } else { None };
    parsed.unwrap_or(Json::Text(value))
}

fn download(shared: &Shared, writer: &mut TcpStream, path: &str) -> std::io::Result<()> {
    let world = shared.lock();
    let path = path.strip_prefix(&format!("{}/", world.token)).filter(|_| !world.revoked);
    match world.files.iter().find(|file| path == Some(file.path().as_str())) {
        Some(file) => {
            let content = file.content.clone();
            drop(world);
            http::answer(writer, 200, "application/octet-stream", &content)
        }
        None => {
            drop(world);
            http::answer(
                writer,
                404,
                "application/json",
                br#"{"ok":false,"error_code":404,"description":"Not Found"}"#,
            )
        }
    }
}

/// While there is a webhook, updates go there, one after the other; each until it is taken.
fn post_updates(shared: &Shared) {
    /// Between two attempts at an update.
    const PAUSE: Duration = Duration::from_millis(100);
    let mut world = shared.lock();
    loop {
        let (Some((url, secret)), Some(update)) = (world.webhook.clone(), world.updates.front().cloned())
        else {
            world = shared.wait(world, Duration::from_secs(3600));
            continue;
        };
        let target = world.hook_target.clone();
        drop(world);
        let (host, path) =
            url.split_once("://").map_or("", |(_, rest)| rest).split_once('/').unwrap_or(("", ""));
        let address = target.unwrap_or_else(|| host.to_owned());
        let headers = [("X-Telegram-Bot-Api-Secret-Token", secret.as_str())];
        let status = http::post(&address, &format!("/{path}"), &headers, &update.to_string());
        world = shared.lock();
        if status.is_some_and(|status| (200..300).contains(&status)) {
            let taken = update.int("update_id");
            world.updates.retain(|waiting| waiting.int("update_id") != taken);
        } else {
            world = shared.wait(world, PAUSE);
        }
    }
}
