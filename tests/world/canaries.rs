//! Secrets that a test knows, and the places where they may turn up: answers, arguments, environments, files.

use std::collections::BTreeMap;
use std::fs;

use serde_json::json;

use super::http::Request;
use super::leftovers::files_below;
use super::{Daemon, Home, marker};

/// What must not be found, by what it is.
pub type Canaries = BTreeMap<&'static str, Vec<u8>>;

#[track_caller]
pub fn clean(canaries: &Canaries, place: &str, bytes: &[u8]) {
    for (what, canary) in canaries {
        let found = bytes.windows(canary.len()).any(|window| window == canary.as_slice());
        assert!(!found, "{what} is in {place}");
    }
}

/// Arguments and environments of everything that was started in a home; of how much. What the operator puts into the
/// control plane's environment is there; its children have none of it.
#[track_caller]
pub fn look_at_processes(home: &Home, canaries: &Canaries, given: &[&str]) -> usize {
    let processes = home.processes();
    for id in &processes {
        for (file, what) in [("cmdline", "the arguments"), ("environ", "the environment")] {
            // One that has ended meanwhile shows nothing any more.
            let Ok(bytes) = fs::read(format!("/proc/{id}/{file}")) else { continue };
            let command = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let own = file == "environ" && command.contains(" serve ");
            let mut canaries = canaries.clone();
            canaries.retain(|name, _| !own || !given.contains(name));
            clean(&canaries, &format!("{what} of {command}"), &bytes);
        }
    }
    processes.len()
}

/// Every file below a home but those where they belong; of how many.
#[track_caller]
pub fn look_at_files(home: &Home, canaries: &Canaries, own: &[&str]) -> usize {
    let mut files = 0;
    for path in files_below(&home.root).into_iter().filter(|path| path.is_file()) {
        let name = path.strip_prefix(&home.root).unwrap().display().to_string();
        if own.contains(&name.as_str()) {
            continue;
        }
        files += 1;
        clean(canaries, &name, &fs::read(&path).unwrap());
    }
    files
}

/// What every documented route answers to this token, with and without a body that says something; of how many answers.
/// What would end or change something is asked for by names of nothing.
#[track_caller]
pub fn look_at_answers(daemon: &Daemon, token: &str, canaries: &Canaries) -> usize {
    let mut answers = 0;
    for (method, path) in routes() {
        // Streams have no end; what they bring is in the lists too.
        if path.ends_with("/events") {
            continue;
        }
        let there = path.replace("{agent}", "mock-agent").replace("{name}", "mock-agent");
        let nothing = path.replace("{agent}", "nobody").replace("{name}", "nobody");
        for path in if method == "GET" { vec![there, nothing] } else { vec![nothing] } {
            let path = path.replace("{id}", "ses_01ARZ3NDEKTSV4RRFFQ69G5FAV");
            for body in
                [json!({}), json!({"text": "x", "event_id": marker(), "kind": "persona", "unknown": 1})]
            {
                let request = Request { method: method.as_str(), ..Request::post(&path, &body) };
                let answer = request.token(token).send(daemon.address).unwrap();
                let head: String =
                    answer.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
                clean(canaries, &format!("the head of {method} {path}"), head.as_bytes());
                clean(canaries, &format!("{method} {path}: {}", answer.status), &answer.body);
                answers += 1;
            }
        }
    }
    answers
}

/// Method and path of every route of the document.
pub fn routes() -> Vec<(String, String)> {
    let document = include_str!("../../schema/openapi.yaml");
    let mut path = "";
    let mut routes = Vec::new();
    for line in
        document.lines().skip_while(|line| *line != "paths:").take_while(|line| *line != "components:")
    {
        match line.strip_suffix(':').map(|line| (line.len() - line.trim_start().len(), line.trim_start())) {
            Some((2, word)) => path = word,
            Some((4, word @ ("get" | "post" | "delete"))) => {
                routes.push((word.to_uppercase(), path.to_owned()))
            }
            _ => {}
        }
    }
    routes
}
