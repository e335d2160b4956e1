//! The fake providers of models as a test has them: started for the test, told what to answer and what goes wrong, asked
//! what they were asked, and ended with the test.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::home::{Build, executable};
use super::http::Request;

pub struct Models {
    child: Child,
    pub address: SocketAddr,
}

impl Models {
    pub fn start() -> Models {
        let mut child = Command::new(executable(Build::Models))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the fake starts");
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let port = first.trim().strip_prefix("listening ").and_then(|port| port.parse().ok());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("the fake says where it listens")));
        Models { child, address }
    }

    /// Where a provider is, for the host's configuration.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What is answered next; see the fake's `plan`. What is not ordered is answered with
    /// `fake-models received: TEXT`.
    #[track_caller]
    pub fn will(&self, answer: &Value) -> &Models {
        self.tell("answer", answer);
        self
    }

    /// The next answer is these words.
    #[track_caller]
    pub fn say(&self, text: &str) -> &Models {
        self.will(&json!({ "text": text }))
    }

    /// See the fake's `control`: `key`, `go`, `clear`.
    #[track_caller]
    pub fn tell(&self, what: &str, how: &Value) -> Value {
        Request::post(&format!("/_fake/{what}"), how).send(self.address).unwrap().ok()
    }

    /// Every request for a model so far: `dialect`, `path`, `query`, `headers`, `body`, why it was `refused`, and how its
    /// answer `ended`: `whole`, `broken` or `gone`, when the client went away before.
    #[track_caller]
    pub fn requests(&self) -> Vec<Value> {
        let answer = Request::get("/_fake/requests").send(self.address).unwrap().ok();
        answer["requests"].as_array().unwrap().clone()
    }

    /// What it found wrong with requests, as the real interfaces would.
    #[track_caller]
    pub fn refused(&self) -> Vec<String> {
        let words = |request: &Value| request["refused"].as_str().map(str::to_owned);
        self.requests().iter().filter_map(words).collect()
    }

    /// Waits until there were so many requests, and so many whose client went away before the end of its answer.
    #[track_caller]
    pub fn wait(&self, requests: usize, gone: usize) {
        let path = format!("/_fake/wait?requests={requests}&gone={gone}");
        let answer = Request::get(&path).send(self.address).unwrap().ok();
        assert_eq!(answer["came"], true, "{requests} requests and {gone} gone: {:?}", self.requests());
    }
}

impl Drop for Models {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
