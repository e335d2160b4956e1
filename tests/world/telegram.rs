//! The fake Telegram as a test has it: started for the test, told what people do, asked what was sent, and ended with
//! the test.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::home::{Build, executable};
use super::http::{Answer, Request};

/// The bot's token on the fake.
pub const TOKEN: &str = "1000:fake-token";

pub struct Telegram {
    child: Child,
    pub address: SocketAddr,
}

impl Telegram {
    pub fn start() -> Telegram {
        Telegram::with(TOKEN)
    }

    /// With another token for the bot.
    pub fn with(token: &str) -> Telegram {
        let mut child = Command::new(executable(Build::Telegram))
            .args(["--token", token])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the fake starts");
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let port = first.trim().strip_prefix("listening ").and_then(|port| port.parse().ok());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port.expect("the fake says where it listens")));
        Telegram { child, address }
    }

    /// What `TELEGRAM_API_BASE` is for it.
    pub fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    /// A request as the bot makes it; an error is one of the connection.
    pub fn call(&self, method: &str, asked: &Value) -> std::io::Result<Answer> {
        Request::post(&format!("/bot{TOKEN}/{method}"), asked).send(self.address)
    }

    /// What people do, or what shall go wrong; see the fake's `control`.
    #[track_caller]
    pub fn tell(&self, what: &str, how: &Value) -> Value {
        Request::post(&format!("/_fake/{what}"), how).send(self.address).unwrap().ok()
    }

    /// Everything that was sent to a chat, in order, each thing as often as it was sent.
    #[track_caller]
    pub fn sent(&self, chat: i64) -> Vec<Value> {
        let answer = Request::get(&format!("/_fake/sent?chat={chat}")).send(self.address).unwrap().ok();
        answer["messages"].as_array().unwrap().clone()
    }

    /// How many updates wait, how many polls there were, what was answered.
    #[track_caller]
    pub fn state(&self) -> Value {
        Request::get("/_fake/state").send(self.address).unwrap().ok()
    }

    /// Makes a chat that the bot may write to.
    #[track_caller]
    pub fn chat(&self, id: i64) {
        self.tell("chat", &json!({ "id": id }));
    }
}

impl Drop for Telegram {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
