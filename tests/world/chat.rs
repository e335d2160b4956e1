//! One chat with an agent over the API: sending, reading the history, waiting for answers, following events.

use std::time::Instant;

use serde_json::{Value, json};

use super::http::{Answer, Events, Request};
use super::{Daemon, PATIENCE, marker};

/// One line of a chat's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub position: u64,
    pub direction: String,
    pub message_id: String,
    pub in_reply_to: Option<String>,
    pub text: String,
    pub state: Option<String>,
}

impl Entry {
    #[track_caller]
    pub fn from_json(value: &Value) -> Entry {
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Entry {
            position: value["position"].as_u64().unwrap_or_else(|| panic!("no position in {value}")),
            direction: text("direction").unwrap_or_else(|| panic!("no direction in {value}")),
            message_id: text("message_id").unwrap_or_default(),
            in_reply_to: text("in_reply_to"),
            text: text("text").unwrap_or_default(),
            state: text("state"),
        }
    }
}

/// What the API said to a sent message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    pub session_id: String,
    pub position: u64,
    pub duplicate: bool,
}

/// A chat of an agent, by name.
pub struct Chat<'a> {
    daemon: &'a Daemon,
    agent: &'a str,
    chat: &'a str,
}

impl<'a> Chat<'a> {
    pub fn new(daemon: &'a Daemon, agent: &'a str, chat: &'a str) -> Chat<'a> {
        Chat { daemon, agent, chat }
    }

    /// Sends a text under a new event id.
    #[track_caller]
    pub fn say(&self, text: &str) -> Sent {
        self.say_as(text, &marker())
    }

    #[track_caller]
    pub fn say_as(&self, text: &str, event_id: &str) -> Sent {
        let answer = self.try_say(text, event_id).expect("the API answers");
        assert_eq!(answer.status, 202, "{}", answer.text());
        let value = answer.json();
        let word =
            |key: &str| value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned();
        Sent {
            message_id: word("message_id"),
            session_id: word("session_id"),
            position: value["position"].as_u64().unwrap(),
            duplicate: value["duplicate"].as_bool().unwrap(),
        }
    }

    /// Sends and gives whatever came of it, also a broken connection: for daemons that are being killed.
    pub fn try_say(&self, text: &str, event_id: &str) -> std::io::Result<Answer> {
        let path = format!("/v1/chat/{}/messages", self.agent);
        let body = json!({"text": text, "event_id": event_id, "chat": self.chat});
        Request::post(&path, &body).token(&self.daemon.token()).send(self.daemon.address)
    }

    /// One page of the history.
    #[track_caller]
    pub fn page(&self, after: u64, limit: usize) -> (Vec<Entry>, Option<u64>) {
        let path = format!("/v1/chat/{}/messages?chat={}&after={after}&limit={limit}", self.agent, self.chat);
        let page = self.daemon.get(&path);
        let entries = page["entries"].as_array().unwrap_or_else(|| panic!("no entries in {page}"));
        (entries.iter().map(Entry::from_json).collect(), page["next"].as_u64())
    }

    /// The whole history, page by page.
    #[track_caller]
    pub fn history(&self) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map_or(0, |entry| entry.position);
            let (entries, _) = self.page(after, 200);
            if entries.is_empty() {
                return all;
            }
            all.extend(entries);
        }
    }

    /// Follows the chat's events after a position.
    #[track_caller]
    pub fn events(&self, after: u64) -> Events {
        let path = format!("/v1/chat/{}/events?chat={}", self.agent, self.chat);
        let request =
            Request::get(&path).token(&self.daemon.token()).header("Last-Event-ID", after.to_string());
        Events::open(request, self.daemon.address)
    }

    /// Waits for the first answer of the agent after a position.
    #[track_caller]
    pub fn answer_after(&self, position: u64) -> Entry {
        self.wait(position, "an answer", |entry| entry.direction == "out")
    }

    /// Waits for the first entry after a position that fits. The stream's signs of life do not prolong it.
    #[track_caller]
    pub fn wait(&self, position: u64, what: &str, fits: impl Fn(&Entry) -> bool) -> Entry {
        let begun = Instant::now();
        let mut events = self.events(position);
        let mut last = None;
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            assert!(!left.is_zero(), "{what} did not come in chat {}; the last entry: {last:?}", self.chat);
            let event =
                events.next_within(left).unwrap_or_else(|| panic!("the stream ended before {what} came"));
            let Ok(value) = serde_json::from_str::<Value>(&event.data) else { continue };
            if value.get("position").is_none() {
                continue;
            }
            let entry = Entry::from_json(&value);
            if fits(&entry) {
                return entry;
            }
            last = Some(entry);
        }
    }

    /// Sends a text and gives the agent's answer to it.
    #[track_caller]
    pub fn ask(&self, text: &str) -> String {
        let sent = self.say(text);
        let id = sent.message_id;
        self.wait(sent.position, "the answer", |entry| {
            entry.direction == "out" && entry.in_reply_to.as_deref() == Some(id.as_str())
        })
        .text
    }
}
