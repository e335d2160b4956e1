//! The audit chain as an operator sees it: what is in it, that it is checked, and what becomes of it when its file is
//! changed, its disk is full, or the control plane is killed in the middle of a line.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::hand::{self, ctl, refused, said};
use crate::world::http::{Events, Request};
use crate::world::{Build, Daemon, Home, Runtime, Serve, User, daemon::free_port, eventually, leftovers};

fn file(home: &Home) -> PathBuf {
    home.state().join("audit.jsonl")
}

/// All records, the oldest first, page by page.
fn records(daemon: &Daemon) -> Vec<Value> {
    let mut all = Vec::new();
    let mut path = "/v1/audit?limit=3".to_owned();
    loop {
        let page = daemon.get(&path);
        all.extend(page["records"].as_array().unwrap().iter().cloned());
        match page["next"].as_u64() {
            Some(next) => path = format!("/v1/audit?limit=3&before={next}"),
            None => break,
        }
    }
    all.reverse();
    all
}

fn acts(daemon: &Daemon) -> Vec<String> {
    records(daemon).iter().map(|record| record["act"].as_str().unwrap().to_owned()).collect()
}

/// The comparison finds nothing wrong, and the files hold exactly what the ledger holds.
#[track_caller]
fn whole(home: &Home, daemon: &Daemon) {
    let report = daemon.get("/v1/audit/verify");
    assert_eq!(report["fault"], Value::Null, "{report}");
    let mut lines = Vec::new();
    for name in report["files"].as_array().unwrap() {
        let text = fs::read_to_string(home.state().join(name.as_str().unwrap())).unwrap();
        assert!(text.ends_with('\n'));
        lines.extend(text.lines().map(str::to_owned));
    }
    let records = records(daemon);
    assert_eq!(lines.len(), records.len());
    for (line, record) in lines.iter().zip(&records) {
        let mut record = record.clone();
        record.as_object_mut().unwrap().remove("hash").unwrap();
        assert_eq!(serde_json::from_str::<Value>(line).unwrap(), record);
    }
}

/// Waits until the control plane is held with a reason that names this; gives the reason.
#[track_caller]
fn held(daemon: &mut Daemon, named: &str) -> String {
    let reason = eventually("it is held", || {
        assert!(!daemon.has_ended(), "it ended:\n{}", daemon.log.text());
        let answer = Request::get("/readyz").send(daemon.address).ok()?;
        assert_ne!(answer.status, 200, "it is ready");
        let document = answer.json();
        (document["status"] == "held").then(|| document["reason"].as_str().unwrap().to_owned())
    });
    assert!(reason.contains(named), "no {named:?} in {reason}");
    reason
}

fn acknowledge(daemon: &Daemon) -> crate::world::http::Answer {
    daemon.send(Request::post("/v1/audit/acknowledge", &json!({})))
}

#[test]
fn a_release_is_recorded_and_the_chain_is_checked() {
    let home = Home::new(Build::Faults, User::Root);
    let hostile = format!("sandbox-exe@dev-agent={}", home.hostile().display());
    let daemon = Serve::new(&home, Runtime::Native).fault(hostile).ready();
    let session = daemon.chat("dev-agent", "main").say("hostile garbage").session_id;
    daemon
        .log
        .wait_for("that it is parked", |line| line.contains("\"session.parked\"") && line.contains(&session));
    said(ctl(&home, &daemon, &["session", "release", &session]));
    // It is there when the release is answered.
    let text = fs::read_to_string(file(&home)).unwrap();
    let line = text.lines().find(|line| line.contains("session.released")).expect("no record of it");
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["object"], &line["group"]), (&json!(session), &json!("dev-agent")));
    assert_eq!(line["actor"], "local:owner");
    assert!(line["detail"]["was_parked_for"].as_str().unwrap().contains("doorbell"), "{line}");
    whole(&home, &daemon);

    let table = said(ctl(&home, &daemon, &["audit", "--limit", "10"]));
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("TIME") && rows[0].ends_with("DETAIL"), "{table}");
    assert!(rows[1].contains("daemon.started") && rows[1].contains("version="), "{table}");
    assert!(rows[rows.len() - 3].contains(&session), "{table}");
    assert_eq!(said(ctl(&home, &daemon, &["audit", "--limit=1"])).lines().count(), 4);
    let list = hand::json(ctl(&home, &daemon, &["audit", "--json"]));
    assert_eq!(list.as_array().unwrap(), &records(&daemon));
    for limit in ["0", "1001", "x"] {
        let path = format!("/v1/audit?limit={limit}");
        assert_eq!(daemon.send(Request::get(&path)).status, 400, "{limit}");
    }

    let tip = records(&daemon).last().unwrap()["hash"].as_str().unwrap().to_owned();
    let checked = said(ctl(&home, &daemon, &["audit", "verify"]));
    assert!(checked.contains(&tip) && checked.contains("compared with the ledger"), "{checked}");

    // Offline: the chain alone, over files in any order, and without a word about the tail.
    let (first, second) = (home.root.join("user/first"), home.root.join("user/second"));
    let (start, rest) = text.split_at(text.find('\n').unwrap() + 1);
    fs::write(&first, start).unwrap();
    fs::write(&second, rest).unwrap();
    let offline = |files: &[&Path]| {
        let mut command = home.command(["ctl", "audit", "verify"]);
        for file in files {
            command.arg("--file").arg(file);
        }
        command
    };
    let checked = said(offline(&[&second, &first]));
    assert!(checked.contains(&tip) && checked.contains("not judged"), "{checked}");
    refused(offline(&[&second]), 1, &["what came before it is missing"]);
    fs::write(&first, start.replace("daemon.started", "daemon.Started")).unwrap();
    refused(offline(&[&first, &second]), 1, &["one of the two was changed"]);
    assert!(daemon.stop().success());
}

#[test]
fn starts_stops_and_failed_logins_are_recorded() {
    let home = Home::new(Build::Release, User::Root);
    let daemon = Serve::new(&home, Runtime::Native).ready();
    for token in ["wrong-1", "wrong-2", "wrong-3"] {
        assert_eq!(Request::get("/v1/agents").token(token).send(daemon.address).unwrap().status, 401);
    }
    assert!(daemon.stop().success());
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let mut events = Events::open(
        Request::get("/v1/audit/events").token(&daemon.token()).header("Last-Event-ID", "5"),
        daemon.address,
    );
    let login = events.next().unwrap();
    assert_eq!((login.id.as_str(), login.name.as_str()), ("6", "record"));
    let login: Value = serde_json::from_str(&login.data).unwrap();
    assert_eq!((&login["act"], &login["object"]), (&json!("login.failed"), &json!("127.0.0.1")));
    assert_eq!(login["detail"]["count"], 3);
    assert!(!fs::read_to_string(file(&home)).unwrap().contains("wrong-"), "a token is in the file");
    assert_eq!(events.next().unwrap().id, "7");
    assert!(events.next().unwrap().data.contains("daemon.started"));
    let seeded = ["agent.seeded", "agent.seeded", "owner.seeded", "token.seeded"];
    let acts = acts(&daemon);
    assert_eq!((acts[0].as_str(), &acts[1..5]), ("daemon.started", &seeded.map(str::to_owned)[..]));
    assert_eq!(acts[5..], ["login.failed", "daemon.stopped", "daemon.started"]);
    whole(&home, &daemon);
    // Nobody without the token reads it.
    for path in ["/v1/audit", "/v1/audit/events", "/v1/audit/verify"] {
        assert_eq!(Request::get(path).send(daemon.address).unwrap().status, 401, "{path}");
    }
    assert_eq!(acknowledge(&daemon).status, 409);
    assert!(daemon.stop().success());
}

#[test]
fn inv_100_a_file_that_was_changed_meanwhile_is_set_aside_until_somebody_says_so() {
    let home = Home::new(Build::Release, User::Root);
    for _ in 0..2 {
        assert!(Serve::new(&home, Runtime::Native).ready().stop().success());
    }
    type Spoil = fn(&str) -> String;
    let spoils: [(&str, Spoil); 5] = [
        ("record 1 of", |text| text.replacen("daemon.started", "daemon.Started", 1)),
        ("record 2 of", |text| {
            text.lines().enumerate().filter(|(at, _)| *at != 1).map(|(_, l)| format!("{l}\n")).collect()
        }),
        ("missing at its end", |text| text[..text.len() - 30].to_owned()),
        ("missing at its end", |text| text[..text.trim_end().rfind('\n').unwrap() + 1].to_owned()),
        ("no record for its line", |text| format!("{text}{}\n", text.lines().last().unwrap())),
    ];
    for (number, (wrong, spoil)) in spoils.into_iter().enumerate() {
        let spoiled = spoil(&fs::read_to_string(file(&home)).unwrap());
        fs::write(file(&home), &spoiled).unwrap();
        let mut daemon = Serve::new(&home, Runtime::Native).start();
        let reason = held(&mut daemon, wrong);
        assert!(reason.contains("audit acknowledge"), "{reason}");
        let aside: Vec<PathBuf> = leftovers::files_below(&home.state())
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("audit-disagrees-"))
            .collect();
        assert_eq!(aside.len(), number + 1);
        let is_kept = |path: &PathBuf| fs::read_to_string(path).unwrap() == spoiled;
        assert!(aside.iter().any(is_kept), "{wrong}: it is not kept as it was");
        whole(&home, &daemon);
        // Messages are answered all the same, and the two commands say what is the matter.
        let text = crate::world::marker();
        assert!(daemon.chat("mock-agent", "main").ask(&text).contains(&text));
        refused(ctl(&home, &daemon, &["status"]), 1, &["look at"]);
        refused(ctl(&home, &daemon, &["audit", "verify"]), 1, &["acknowledge"]);

        let mut follow =
            ctl(&home, &daemon, &["audit", "--follow", "--json", "--limit", "1"]).spawn().unwrap();
        let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("\"seq\""));
        assert!(said(ctl(&home, &daemon, &["audit", "acknowledge"])).contains(wrong));
        while !lines.next().expect("it ended").unwrap().contains("audit.acknowledged") {}
        follow.kill().unwrap();
        follow.wait().unwrap();

        daemon.wait_ready();
        refused(ctl(&home, &daemon, &["audit", "acknowledge"]), 1, &["acknowledged already"]);
        said(ctl(&home, &daemon, &["audit", "verify"]));
        assert!(daemon.stop().success());
    }
}

/// Each of these dies at the append of the act. It was committed before, so it is done.
#[test]
fn inv_100_killed_in_the_middle_of_an_export_nothing_is_lost() {
    for name in ["export.before_append", "export.appended", "export.synced"] {
        println!("{name}");
        let home = Home::new(Build::Faults, User::Root);
        assert!(Serve::new(&home, Runtime::Native).ready().stop().success());
        fs::write(file(&home), "{}\n").unwrap();
        let armed = home.root.join("armed");
        let crash = format!("crash={name},armed={}", armed.display());
        let mut daemon = Serve::new(&home, Runtime::Native).fault(crash).start();
        held(&mut daemon, "record 1 of");
        eventually("the start is in the file", || {
            let text = fs::read_to_string(file(&home)).unwrap();
            text.lines().last().filter(|line| line.contains("daemon.started")).map(drop)
        });
        // A line can be read before it is synced. The answer waits for the thread that writes: what comes next is alone.
        daemon.get("/v1/audit/verify");
        fs::write(&armed, "").unwrap();
        let request = Request::post("/v1/audit/acknowledge", &json!({})).token(&daemon.token());
        assert!(request.send(daemon.address).is_err(), "{name}: it was answered");
        daemon.ended();
        drop(daemon);
        let daemon = Serve::new(&home, Runtime::Native).ready();
        whole(&home, &daemon);
        let acts = acts(&daemon);
        assert_eq!(acts.iter().filter(|act| *act == "audit.acknowledged").count(), 1, "{name}: {acts:?}");
        said(ctl(&home, &daemon, &["audit", "verify"]));
        assert!(daemon.stop().success());
    }
}

#[test]
fn killed_between_two_files_the_chain_goes_on() {
    let home = Home::new(Build::Faults, User::Root);
    let serve = || Serve::new(&home, Runtime::Native).flag("--audit-file-bytes", "1KiB");
    let mut starts = 0;
    loop {
        starts += 1;
        assert!(starts < 20, "no file was ever closed");
        let mut daemon = serve().fault("crash=export.rotated").start();
        if !daemon.is_ready() {
            break;
        }
        let id = daemon.id();
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(id).unwrap(),
            rustix::process::Signal::TERM,
        )
        .unwrap();
        if !daemon.ended().success() {
            break;
        }
    }
    assert!(!file(&home).exists(), "it died between the two");
    for _ in 0..4 {
        let daemon = serve().ready();
        whole(&home, &daemon);
        assert!(daemon.stop().success());
    }
    let daemon = serve().ready();
    let report = daemon.get("/v1/audit/verify");
    assert_eq!(report["ok"], true, "{report}");
    assert!(report["files"].as_array().unwrap().len() >= 3, "{report}");
    assert!(daemon.stop().success());
}

/// The audit file alone is on a small disk of its own, in a mount namespace of the daemon's own; the ledger has room.
#[test]
fn inv_100_a_full_disk_refuses_acts_before_they_are_done() {
    let home = Home::new(Build::Release, User::Root);
    let page = 4096;
    assert!(Serve::new(&home, Runtime::Native).ready().stop().success());
    fs::write(file(&home), "{}\n").unwrap();
    // Until there is no room left in its last page for a start and an act.
    let length = loop {
        let mut daemon = Serve::new(&home, Runtime::Native).start();
        held(&mut daemon, "record 1 of");
        assert!(daemon.stop().success());
        let length = fs::metadata(file(&home)).unwrap().len();
        // Two records have more than 450 bytes, and what a start and an end add moves on in the page until it fits.
        if page - length % page < 450 {
            break length;
        }
    };
    let lib = home.root.join("lib");
    let port = free_port();
    let size = (length.div_ceil(page) + 1) * page;
    let script = format!(
        "mkdir {0}/small && mount -t tmpfs -o size={size},mode=755 small {0}/small && \
         cp -p {0}/state/audit.jsonl {0}/small/audit && mount --bind {0}/small/audit {0}/state/audit.jsonl && \
         head -c {page} /dev/zero > {0}/small/filler && exec {1} serve --dev --runtime native \
         --state-dir {0}/state --model-proxy-socket {2} --api-addr 127.0.0.1:{port}",
        lib.display(),
        home.exe.display(),
        home.model_socket().display(),
    );
    let mut child = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let inside = |name: &str| PathBuf::from(format!("/proc/{}/root{}/{name}", child.id(), lib.display()));
    let token = fs::read_to_string(home.state().join("api-token")).unwrap();
    let get = |path: &str| Request::get(path).token(token.trim()).send(address);
    let acknowledge =
        || Request::post("/v1/audit/acknowledge", &json!({})).token(token.trim()).send(address).unwrap();
    eventually("it serves", || get("/v1/agents").ok().filter(|answer| answer.status == 200));
    let mut committed = false;
    let problem = eventually("the act is refused", || {
        let answer = acknowledge();
        assert_eq!(answer.status, 503, "{}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["type"], "audit_unavailable", "{problem}");
        committed |= problem["committed"] == true;
        (problem["committed"] == false).then_some(problem)
    });
    assert!(problem["detail"].as_str().unwrap().contains("No space left"), "{problem}");
    let newest = || get("/v1/audit?limit=1").unwrap().ok()["records"][0]["seq"].as_u64().unwrap();
    let before = newest();
    for _ in 0..5 {
        assert_eq!(acknowledge().json()["committed"], false);
    }
    assert_eq!(newest(), before, "something was done");
    let reason = eventually("it is held", || {
        let document = get("/readyz").ok().filter(|answer| answer.status == 503)?.json();
        (document["status"] == "held").then(|| document["reason"].as_str().unwrap().to_owned())
    });
    assert!(reason.contains("audit_unavailable") && reason.contains("No space left"), "{reason}");
    assert_eq!(reason.contains("acknowledge"), !committed, "{reason}");
    // Nothing half-written is left at the end of the file.
    eventually("the file ends with a whole line", || {
        fs::read(inside("small/audit")).unwrap().ends_with(b"\n").then_some(())
    });
    let verified = get("/v1/audit/verify").unwrap().ok();
    assert!(verified["fault"]["what"].as_str().unwrap().contains("No space left"), "{verified}");
    // Conversations go on, and an agent that asks is told.
    let ask = r#"tool:request_capability_change {"kind":"persona","payload":{"soul":"x"},"reason":"x"}"#;
    let say = json!({"text": ask, "event_id": "e"});
    let sent = Request::post("/v1/chat/mock-agent/messages", &say).token(token.trim()).send(address).unwrap();
    assert_eq!(sent.status, 202, "{}", sent.text());
    eventually("the agent is refused", || {
        let history = get("/v1/chat/mock-agent/messages").ok()?.ok().to_string();
        history.contains("tool result: audit_unavailable").then_some(())
    });
    assert_eq!(get("/v1/changes/pending").unwrap().ok()["changes"], json!([]));

    fs::remove_file(inside("small/filler")).unwrap();
    eventually("acts are done again", || {
        let answer = acknowledge();
        let done = if committed { 409 } else { 200 };
        (answer.status == done).then_some(())
    });
    let verified = get("/v1/audit/verify").unwrap().ok();
    assert_eq!(verified["ok"], true, "{verified}");
    assert!(fs::read_to_string(inside("small/audit")).unwrap().contains("audit.acknowledged"));
    assert_eq!(get("/readyz").unwrap().status, 200);
    leftovers::kill(child.id().cast_signed());
    child.wait().unwrap();
}
