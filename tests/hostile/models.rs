//! Asks on the model's socket for what it should not, or in a way that it should not: other models, requests that are
//! written by the test, bodies that do not come, calls that are given up.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ironclaw::contract::json;
use ironclaw::contract::paths;

use super::{Done, Guest, asks, forever};

/// Between two calls nobody waits for.
const PAUSE: Duration = Duration::from_millis(20);

/// Calls models by name, one a line of the message, and answers with the status of each; then goes on calling the first
/// one, whether it has anything to do or not.
pub(super) fn ask(guest: &Guest) -> Done {
    let names: Vec<String> = guest.message.text.lines().skip(1).map(str::to_owned).collect();
    let mut said = Vec::new();
    for name in &names {
        said.push(call(name)?);
    }
    let first = names.into_iter().next().ok_or("no model is named")?;
    std::thread::spawn(move || {
        loop {
            let _ = call(&first);
            std::thread::sleep(PAUSE);
        }
    });
    asks::answer(guest, &said.join("\n"))
}

fn body(model: &str) -> String {
    format!(
        r#"{{"model":"{model}","max_tokens":16,"stream":true,"messages":[{{"role":"user","content":"x"}}]}}"#
    )
}

/// The status of a call.
fn call(model: &str) -> Result<String, Box<dyn std::error::Error>> {
    let body = body(model);
    let mut stream = UnixStream::connect(paths::MODEL)?;
    write!(
        stream,
        "POST /v1/messages HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
}

/// Sends each further line of the message, a JSON string, on a connection of its own, and answers with what came back:
/// a line for each, its status and the beginning of its body. `<<TEXT*N>>` in it stands for a text N times.
pub(super) fn raw(guest: &Guest) -> Done {
    let mut said = Vec::new();
    for line in guest.message.text.lines().skip(1) {
        let request = json::parse(line.as_bytes()).map_err(|error| format!("{line}: {error}"))?;
        let request = expanded(request.as_str().ok_or("a line is no string")?);
        said.push(exchange(&request).unwrap_or_else(|error| format!("no answer: {error}")));
    }
    asks::answer(guest, &said.join("\n"))
}

fn expanded(text: &str) -> String {
    let repeated = || {
        let (before, rest) = text.split_once("<<")?;
        let (inner, after) = rest.split_once(">>")?;
        let (text, times) = inner.rsplit_once('*')?;
        Some(format!("{before}{}{after}", text.repeat(times.parse().ok()?)))
    };
    repeated().unwrap_or_else(|| text.to_owned())
}

fn exchange(request: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut stream = UnixStream::connect(paths::MODEL)?;
    stream.set_read_timeout(Some(Duration::from_secs(40)))?;
    let mut writer = stream.try_clone()?;
    let request = request.to_owned();
    // A refusal may come while there is more to send, which is then lost.
    let sending = std::thread::spawn(move || {
        let _ = writer.write_all(request.as_bytes());
    });
    let mut answer = Vec::new();
    // Whoever refuses may cut the connection off.
    let _ = stream.read_to_end(&mut answer);
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = sending.join();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).unwrap_or("closed");
    let body: String = body.chars().filter(|c| !c.is_control()).take(300).collect();
    Ok(format!("{status} {body}"))
}

/// Takes every connection that it gets and sends the beginning of a body on each; then waits.
pub(super) fn slow(guest: &Guest) -> Done {
    let mut held = Vec::new();
    for _ in 0..32 {
        let Ok(mut stream) = UnixStream::connect(paths::MODEL) else { break };
        let _ = stream.write_all(
            b"POST /v1/messages HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n{",
        );
        held.push(stream);
    }
    asks::answer(guest, "held")?;
    forever()
}

/// Makes so many calls of the model that the second word names, one after the other, and goes away from each before its
/// end; then answers how many.
pub(super) fn leave(guest: &Guest) -> Done {
    let count = guest.number(2)?;
    let model = guest.message.text.split_whitespace().nth(3).ok_or("no model is named")?;
    let body = body(model);
    for _ in 0..count {
        let mut stream = UnixStream::connect(paths::MODEL)?;
        write!(
            stream,
            "POST /v1/messages HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        // The beginning of an answer: the call runs.
        stream.read_exact(&mut [0; 12])?;
    }
    asks::answer(guest, &count.to_string())
}
