//! The receiver of webhooks as a test has it: started for the test, told to fail, asked what came, and ended with the
//! test.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::home::{Build, executable};
use super::http::Request;

pub struct Hook {
    child: Child,
    pub address: SocketAddr,
}

impl Hook {
    /// With the secret that it checks signatures by.
    pub fn start(secret: &str) -> Hook {
        let mut child = Command::new(executable(Build::Hook))
            .args(["--secret", secret])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the receiver starts");
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let port = first.trim().strip_prefix("listening ").and_then(|port| port.parse().ok());
        let address =
            SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("the receiver says where it listens")));
        Hook { child, address }
    }

    /// What shall go wrong; see the receiver's `control`.
    #[track_caller]
    pub fn fault(&self, how: &Value) {
        Request::post("/_fake/fault", how).send(self.address).unwrap().ok();
    }

    /// Everything that was posted, in order, each with the verdict on its signature.
    #[track_caller]
    pub fn posts(&self) -> Vec<Value> {
        let answer = Request::get("/_fake/posts").send(self.address).unwrap().ok();
        answer["posts"].as_array().unwrap().clone()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
