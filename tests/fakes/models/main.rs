//! The providers of models of our own for tests: one process speaks all four dialects on a loopback port, each as its
//! public documentation has it. It is a judge: what the real interfaces refuse it refuses, in their words. A test says
//! what it answers and how that goes wrong; it keeps every request for the test to read. It prints `listening PORT`
//! first and is controlled on the same port under `/_fake/`. It shares no code with the product, so that both cannot
//! be wrong in the same way.

mod chat;
mod checks;
mod control;
mod gemini;
#[path = "../http.rs"]
#[allow(dead_code, reason = "the fakes share it, and each uses its part")]
mod http;
#[path = "../json.rs"]
#[allow(dead_code, reason = "the fakes share it, and each uses its part")]
mod json;
mod messages;
mod plan;
mod responses;
mod send;
mod world;

use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;

use checks::{Dialect, Refusal};
use http::Request;
use json::Json;
use world::Shared;

fn main() -> std::io::Result<()> {
    let shared = Arc::new(Shared::default());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("listening {}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
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
        let goes_on = if request.path.starts_with("/_fake/") {
            let answered = match control::answer(shared, &request) {
                Some(answer) => {
                    http::answer(&mut writer, 200, "application/json", answer.to_string().as_bytes())
                }
                None => http::answer(&mut writer, 400, "text/plain", b"not understood"),
            };
            answered.is_ok()
        } else {
            ask(shared, &request, &mut writer)
        };
        if !goes_on || request.header("connection").eq_ignore_ascii_case("close") {
            break;
        }
    }
    let _ = writer.shutdown(std::net::Shutdown::Both);
}

/// A request for a model. Gives whether the connection goes on.
fn ask(shared: &Shared, request: &Request, writer: &mut TcpStream) -> bool {
    let Some(dialect) = Dialect::of_path(&request.path) else {
        shared.lock().keep(None, request, &Json::Null, Some("no such path"));
        shared.ring();
        return http::answer(writer, 404, "application/json", br#"{"error":{"message":"Not Found"}}"#)
            .is_ok();
    };
    let body = std::str::from_utf8(&request.body).ok().and_then(Json::parse).unwrap_or(Json::Null);
    let mut world = shared.lock();
    let model = dialect.model(request, &body);
    let judged = checks::check(dialect, request, &body, &world);
    let number = world.keep(
        Some(dialect),
        request,
        &body,
        judged.as_ref().err().map(|refusal| refusal.words.as_str()),
    );
    let plan = judged.map(|()| world.plan(dialect, &model, &body));
    drop(world);
    shared.ring();
    match plan {
        Ok(plan) => {
            let sent = send::answer(shared, dialect, &model, &body, &plan, writer);
            shared.lock().answered(number, sent);
            shared.ring();
            sent == send::Sent::Whole
        }
        Err(Refusal { status, words }) => {
            let document = dialect.error(status, &words);
            http::answer(writer, status, "application/json", document.to_string().as_bytes()).is_ok()
        }
    }
}
