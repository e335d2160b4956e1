//! Killed at every named crash point that asking and deciding pass: after the next start what is pending can be decided,
//! what was applied was applied once, and the audit tells it as the ledger does. Which points are on the way is not
//! written here: each act is done once while every point that it passes is noted, and then once more for each of those.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::changes::acts;
use crate::hand::{ctl, run, said, submit};
use crate::mounts::read;
use crate::packages::put;
use crate::world::http::Request;
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, eventually, marker, points};

/// What all that is passed on these ways is called.
const AREAS: [&str; 4] = ["submit.", "decide.", "apply.", "export."];
/// Only a long chain of records passes it; it has a test of its own.
const OFF_THE_WAY: &str = "export.rotated";

/// What a person does to a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Submit,
    Approve,
    Reject,
    Withdraw,
    /// Asking and approving with one command.
    AtOnce,
}

/// What it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// One effect, done with the decision.
    Persona,
    /// Several.
    Agent,
    /// One that needs work on the host before it is in effect.
    Package,
}

impl What {
    fn kind(self) -> (&'static str, &'static str, Value) {
        match self {
            Self::Persona => ("persona", "dev-agent", json!({"soul": "once"})),
            Self::Agent => ("create_agent", "made", json!({"soul": "once", "members": ["local:ann"]})),
            Self::Package => ("packages", "mock-agent", json!({"add": ["tools@1.0"]})),
        }
    }

    /// Whether it is in effect.
    fn is_done(self, daemon: &Daemon) -> bool {
        match self {
            Self::Persona => daemon.get("/v1/agents/dev-agent")["soul"] == "once",
            Self::Agent => {
                let answer = daemon.send(Request::get("/v1/agents/made"));
                assert!(answer.status == 404 || answer.json()["soul"] == "once", "{}", answer.text());
                let members = daemon.send(Request::get("/v1/agents/made/members"));
                let is_member = members.status == 200 && members.text().contains("local:ann");
                assert_eq!(is_member, answer.status == 200, "half of it: {}", members.text());
                answer.status == 200
            }
            Self::Package => {
                let granted = daemon.get("/v1/agents/mock-agent")["packages"].as_array().unwrap().len();
                assert!(granted <= 1);
                granted == 1
            }
        }
    }
}

/// One way through the gateway.
struct Way {
    home: Home,
    act: Act,
    what: What,
    key: String,
}

impl Way {
    fn new(act: Act, what: What) -> Way {
        let home = Home::new(Build::Faults, User::Root);
        Way { home, act, what, key: marker() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.home.root.join("user").join(name)
    }

    /// With what is there before the act.
    fn start(&self, fault: &str) -> (Daemon, Option<Value>) {
        let daemon = Serve::new(&self.home, Runtime::Native)
            .flag("--sweep-interval", "1h")
            .fault(format!("armed={},{fault}", self.file("armed").display()))
            .ready();
        // Answered when it and the start before it are in the files, so that none of that is on the way.
        daemon.send(Request::post("/v1/users", &json!({"id": "local:bob"}))).ok();
        if self.what == What::Package {
            put(&self.home, "tools@1.0", "first");
        }
        let (kind, group, payload) = self.what.kind();
        let is_there = !matches!(self.act, Act::Submit | Act::AtOnce);
        let change = is_there.then(|| submit(&daemon, kind, group, &payload).ok());
        fs::write(self.file("armed"), "").unwrap();
        (daemon, change)
    }

    /// Does the act; `None` when it was not answered.
    fn act(&self, daemon: &Daemon, change: Option<&Value>) -> Option<()> {
        let (kind, group, payload) = self.what.kind();
        if self.act == Act::AtOnce {
            let file = self.file("payload.json");
            fs::write(&file, payload.to_string()).unwrap();
            let file = file.display().to_string();
            let words =
                ["change", "submit", "--kind", kind, "--group", group, "--from", &file, "--approve", "--yes"];
            return run(ctl(&self.home, daemon, &words)).status.success().then_some(());
        }
        let id = change.map(|change| change["id"].as_str().unwrap());
        let decision = || format!("/v1/changes/{}/decision", id.unwrap());
        let (path, body) = match self.act {
            Act::Submit | Act::AtOnce => {
                ("/v1/changes".to_owned(), json!({"kind": kind, "group": group, "payload": payload}))
            }
            Act::Approve => (decision(), json!({"outcome": "approve", "digest": change.unwrap()["digest"]})),
            Act::Reject => (decision(), json!({"outcome": "reject"})),
            Act::Withdraw => (format!("/v1/changes/{}/withdraw", id.unwrap()), json!({})),
        };
        let request = Request::post(&path, &body).token(&daemon.token());
        let request = request.header("Idempotency-Key", self.key.as_str());
        request.send(daemon.address).ok().filter(|answer| answer.status < 300).map(drop)
    }

    /// Every point that the act passes, with how often it was passed until then.
    fn points(self) -> Vec<(String, usize)> {
        let noted = self.file("noted");
        let (daemon, change) = self.start(&format!("passed={}", noted.display()));
        self.act(&daemon, change.as_ref()).expect("it is done");
        fs::remove_file(self.file("armed")).unwrap();
        assert!(daemon.stop().success());
        let text = fs::read_to_string(noted).unwrap();
        let names: Vec<&str> = text.lines().collect();
        let count = |at: usize| names[..=at].iter().filter(|name| **name == names[at]).count();
        names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), count(at))).collect()
    }

    /// Dies at this point of the act, and goes on after it.
    fn survives(self, point: &str, times: usize) {
        let case = format!("{:?} {:?}, {point}@{times}", self.act, self.what);
        println!("{case}");
        let (mut daemon, change) = self.start(&format!("crash={point}@{times}"));
        let answered = self.act(&daemon, change.as_ref());
        eventually(&format!("{case} is passed"), || daemon.has_ended().then_some(()));
        assert_eq!(answered, None, "{case}: it was answered before it was done");
        drop(daemon);
        let daemon = Serve::new(&self.home, Runtime::Native).ready();
        // Somebody who had no answer to the asking asks again; what was asked already is not asked twice.
        if self.act == Act::Submit {
            self.act(&daemon, None).expect("it is asked for");
        }
        let all = daemon.get("/v1/changes/history")["changes"].as_array().unwrap().clone();
        assert!(all.len() <= 1, "{case}: {all:?}");
        let Some(change) = all.first() else {
            assert_eq!(self.act, Act::AtOnce, "{case}: the change is lost");
            assert!(!self.what.is_done(&daemon), "{case}: it was done unasked");
            self.act(&daemon, None).expect("it is done");
            self.ends(&daemon, "applied", &case);
            return;
        };
        let id = change["id"].as_str().unwrap();
        let state = eventually(&format!("{case}: what was approved is done"), || {
            let state = daemon.get(&format!("/v1/changes/{id}"))["state"].as_str().unwrap().to_owned();
            (state != "approved").then_some(state)
        });
        let decided = match self.act {
            Act::Submit => "pending",
            Act::Approve | Act::AtOnce => "applied",
            Act::Reject => "rejected",
            Act::Withdraw => "withdrawn",
        };
        assert!(state == "pending" || state == decided, "{case}: {state}");
        assert_eq!(self.what.is_done(&daemon), state == "applied", "{case}: {state}");
        if state != "pending" {
            self.ends(&daemon, decided, &case);
            return;
        }
        match self.act {
            Act::Reject | Act::Withdraw => {
                self.act(&daemon, Some(change)).expect("it is decided");
                self.ends(&daemon, decided, &case);
            }
            Act::Submit | Act::Approve | Act::AtOnce => {
                said(ctl(&self.home, &daemon, &["change", "approve", id, "--yes"]));
                self.ends(&daemon, "applied", &case);
            }
        }
    }

    /// Each of its acts is recorded once, and the records, the files and the rows say the same.
    fn ends(&self, daemon: &Daemon, state: &str, case: &str) {
        let all = daemon.get("/v1/changes/history")["changes"].as_array().unwrap().clone();
        assert_eq!((all.len(), &all[0]["state"]), (1, &json!(state)), "{case}: {all:?}");
        let order: &[&str] = match state {
            "applied" => &["change.submitted", "change.approved", "change.applied"],
            "rejected" => &["change.submitted", "change.rejected"],
            _ => &["change.submitted", "change.withdrawn"],
        };
        assert_eq!(acts(daemon, all[0]["id"].as_str().unwrap()), order, "{case}");
        assert_eq!(self.what.is_done(daemon), state == "applied", "{case}");
        // What it replaces was replaced once, or never.
        if self.what == What::Persona {
            let next = submit(daemon, "persona", "dev-agent", &json!({"soul": "next"})).ok();
            let mut base = next["base"].as_array().unwrap().iter();
            let soul = base.find(|item| item["object"] == "agent/dev-agent/soul").unwrap();
            assert_eq!(soul["revision"], u64::from(state == "applied"), "{case}: {next}");
        }
        if self.what == What::Package {
            let store = self.home.state().join("packages/.store");
            assert_eq!(fs::read_dir(store).unwrap().count(), 1, "{case}");
            let chat = daemon.chat("mock-agent", "main");
            assert_eq!(read(&chat, "/opt/packages/tools/readme"), "first", "{case}");
        }
        said(ctl(&self.home, daemon, &["audit", "verify"]));
        assert_eq!(daemon.get("/v1/audit/verify")["ok"], true, "{case}");
    }
}

/// Walks some ways, and gives the points that are on them.
fn walk(ways: &[(Act, What)]) -> BTreeSet<String> {
    let mut passed = BTreeSet::new();
    for (act, what) in ways {
        let points = Way::new(*act, *what).points();
        assert!(points.len() >= 5, "{act:?} {what:?}: {points:?}");
        for (point, times) in points {
            Way::new(*act, *what).survives(&point, times);
            passed.insert(point);
        }
    }
    passed
}

/// Asking, refusing and taking back; and asking and approving with one command.
#[test]
fn inv_031_103_every_crash_point_of_asking_is_survived() {
    walk(&[
        (Act::Submit, What::Persona),
        (Act::Reject, What::Agent),
        (Act::Withdraw, What::Persona),
        (Act::AtOnce, What::Persona),
    ]);
}

/// Approving, for what is in effect with the decision and for what is not; between them these pass every point there
/// is, so that one which is added is on one of the ways.
#[test]
fn inv_032_103_every_crash_point_of_a_decision_is_survived() {
    let passed =
        walk(&[(Act::Approve, What::Persona), (Act::Approve, What::Agent), (Act::AtOnce, What::Package)]);
    let mut names = points::names();
    names.retain(|name| AREAS.iter().any(|area| name.starts_with(area)));
    assert!(names.remove(OFF_THE_WAY), "{OFF_THE_WAY} is no point any more");
    let missed: Vec<&String> = names.difference(&passed).collect();
    assert!(names.len() >= 11 && missed.is_empty(), "on none of the ways: {missed:?}");
}
