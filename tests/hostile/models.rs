//! Calls models by name, one a line of the message, and answers with the status of each; then goes on calling the first
//! one, whether it has anything to do or not.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ironclaw::contract::paths;

use super::{Done, Guest, asks};

/// Between two calls nobody waits for.
const PAUSE: Duration = Duration::from_millis(20);

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

/// The status of a call.
fn call(model: &str) -> Result<String, Box<dyn std::error::Error>> {
    let body = format!(
        r#"{{"model":"{model}","max_tokens":16,"stream":true,"messages":[{{"role":"user","content":"x"}}]}}"#
    );
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
