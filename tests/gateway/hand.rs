//! `ironctl` in the hand of somebody at a shell, and the few requests that most tests of changes begin with.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::world::http::{Answer, Request};
use crate::world::{Daemon, Home, home::finish};

/// `ironclaw ctl` with the daemon's address and the owner's token.
pub(crate) fn ctl(home: &Home, daemon: &Daemon, words: &[&str]) -> Command {
    ctl_as(home, daemon, &daemon.token(), words)
}

/// [`ctl`] with another token.
pub(crate) fn ctl_as(home: &Home, daemon: &Daemon, token: &str, words: &[&str]) -> Command {
    let address = format!("http://{}", daemon.address);
    let mut command = home.command(["ctl", "--addr", &address, "--token", token]);
    command.args(words);
    command
}

#[track_caller]
pub(crate) fn run(mut command: Command) -> Output {
    finish(command.spawn().unwrap())
}

/// What a command printed; anything but success fails the test.
#[track_caller]
pub(crate) fn said(command: Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The same, as the JSON that it is.
#[track_caller]
pub(crate) fn json(command: Command) -> Value {
    serde_json::from_str(&said(command)).unwrap()
}

/// Why a command failed with this code, in one line that holds these words and more.
#[track_caller]
pub(crate) fn refused(command: Command, code: i32, about: &[&str]) -> String {
    let output = run(command);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.trim_end().lines().count() == 1 && line.len() > 40, "{line}");
    for word in about {
        assert!(line.contains(word), "no {word:?} in: {line}");
    }
    line
}

/// Asks for a change as the owner.
pub(crate) fn submit(daemon: &Daemon, kind: &str, group: &str, payload: &Value) -> Answer {
    daemon.send(Request::post("/v1/changes", &json!({"kind": kind, "group": group, "payload": payload})))
}

/// Decides one as the owner.
pub(crate) fn decide(daemon: &Daemon, id: &str, body: &Value) -> Answer {
    daemon.send(Request::post(&format!("/v1/changes/{id}/decision"), body))
}

/// Approves one as it was shown.
pub(crate) fn approve(daemon: &Daemon, change: &Value) -> Answer {
    let id = change["id"].as_str().unwrap();
    decide(daemon, id, &json!({"outcome": "approve", "digest": change["digest"]}))
}

/// A terminal: what comes in is typed, and read when it is asked for.
const TERMINAL: &str = r#"
import os, pty, sys, threading
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
def type():
    while piece := os.read(0, 65536):
        os.write(terminal, piece)
threading.Thread(target=type, daemon=True).start()
try:
    while piece := os.read(terminal, 65536):
        os.write(1, piece)
except OSError:
    pass
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"#;

/// A command on a terminal of its own; its input is what is typed there, its output what is shown.
pub(crate) fn on_terminal(asked: &Command) -> Child {
    let mut command = Command::new("python3");
    command.args(["-c", TERMINAL]).arg(asked.get_program()).args(asked.get_args()).env_clear();
    command.envs(asked.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// How a command ended in which all this was typed, and what was shown.
pub(crate) fn typed(asked: &Command, text: &str) -> (Option<i32>, String) {
    let mut child = on_terminal(asked);
    // Kept open: the end of it would end nothing, and a terminal has none.
    let mut input = child.stdin.take().unwrap();
    input.write_all(text.as_bytes()).unwrap();
    let output = finish(child);
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}
