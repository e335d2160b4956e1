//! Figures of the gateway: how long a change takes to be held and to be in effect, how many a second the door takes and
//! shows, what the audit costs, what a command costs, what many held changes weigh. A token has no rate here, so that the
//! control plane is measured and not its limit.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client::Client;
use crate::table::{Amount, Row, Samples};
use crate::world::{Daemon, Home, Runtime, Serve, marker};
use crate::{Bench, bare, processes};

/// Clients at once, where several are asked for.
const CLIENTS: usize = 8;
/// For so long a rate is taken.
const WINDOW: Duration = Duration::from_secs(5);
/// Agents that share the changes that wait.
const AGENTS: usize = 100;

fn start(home: &Home) -> Daemon {
    Serve::new(home, Runtime::Native).flag("--token-rate", "0").ready()
}

fn change(group: &str) -> String {
    json!({"kind": "persona", "group": group, "payload": {"instructions": marker()}}).to_string()
}

/// From asking until it is listed, and from the decision until the agent is shown as changed.
pub fn latency(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = start(&home);
    let mut client = Client::connect(daemon.address, &daemon.token());
    let (mut held, mut applied) = (Samples::default(), Samples::default());
    for _ in 0..bench.replies {
        let body = change("dev-agent");
        let begun = Instant::now();
        let (status, answer) = client.post("/v1/changes", &body);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(answer));
        let change: Value = serde_json::from_slice(answer).unwrap();
        let id = change["id"].as_str().unwrap();
        let (_, listed) = client.get("/v1/changes/pending");
        assert!(String::from_utf8_lossy(listed).contains(id));
        held.push(begun.elapsed());
        let decision = json!({"outcome": "approve", "digest": change["digest"]}).to_string();
        let begun = Instant::now();
        let (status, answer) = client.post(&format!("/v1/changes/{id}/decision"), &decision);
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(answer));
        let (_, agent) = client.get("/v1/agents/dev-agent");
        let said = change["payload"]["instructions"].as_str().unwrap();
        assert!(String::from_utf8_lossy(agent).contains(said));
        applied.push(begun.elapsed());
    }
    let write = Amount::Time(bare::durable_write(&home, bench.replies) * 2);
    let what = "two durable writes";
    vec![
        Row::times("change, asked for to listed as pending", &held).floor(write, what),
        Row::times("change, approved to seen in the agent", &applied).floor(write, what),
    ]
}

/// How many a second some clients get done together.
fn rate(daemon: &Daemon, clients: usize, once: impl Fn(&mut Client) + Sync) -> f64 {
    let (token, begun) = (daemon.token(), Instant::now());
    let done: usize = std::thread::scope(|scope| {
        let running: Vec<_> = (0..clients)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(daemon.address, &token);
                    let mut done = 0;
                    while begun.elapsed() < WINDOW {
                        once(&mut client);
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        running.into_iter().map(|client| client.join().unwrap()).sum()
    });
    done as f64 / begun.elapsed().as_secs_f64()
}

/// The first page of what waits, of a thousand.
pub fn pending_page(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = start(&home);
    let mut client = Client::connect(daemon.address, &daemon.token());
    for _ in 0..1000 {
        assert_eq!(client.post("/v1/changes", &change("dev-agent")).0, 201);
    }
    let pages = rate(&daemon, CLIENTS, |client| {
        let (status, _) = client.get("/v1/changes/pending");
        assert_eq!(status, 200);
    });
    let empty = rate(&daemon, CLIENTS, |client| assert_eq!(client.get("/healthz").0, 200));
    vec![
        Row::new("GET pending, 50 of 1,000, a second", Amount::Rate(pages))
            .note(format!("{CLIENTS} kept connections, no rate of the token"))
            .floor(Amount::Rate(empty), "GET /healthz")
            .at_least(Amount::Rate(3000.0)),
    ]
}

/// Changes that are stored and audited durably, from several clients at once.
pub fn submissions(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = start(&home);
    // Different agents, as different people have them; what waits at most is never reached in the window.
    let stored = rate(&daemon, CLIENTS, |client| {
        let (status, answer) = client.post("/v1/changes", &change("dev-agent"));
        assert!(matches!(status, 201 | 429), "{}", String::from_utf8_lossy(answer));
    });
    let write = bare::durable_write(&home, bench.replies).as_secs_f64();
    vec![
        Row::new("POST change with its audit line, a second", Amount::Rate(stored))
            .note(format!("{CLIENTS} kept connections, no rate of the token"))
            .floor(Amount::Rate(1.0 / write), "durable writes, one after the other")
            .at_least(Amount::Rate(2000.0)),
    ]
}

/// The newest records of a long chain. Each record is somebody's act: a person who is given a name.
pub fn audit_tail(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = start(&home);
    let token = daemon.token();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let (token, daemon) = (&token, &daemon);
            scope.spawn(move || {
                let mut connection = Client::connect(daemon.address, token);
                for number in 0..bench.records / CLIENTS {
                    let body = json!({"id": format!("local:u{client}"), "name": number.to_string()});
                    let (status, answer) = connection.post("/v1/users", &body.to_string());
                    assert!(status < 300, "{}", String::from_utf8_lossy(answer));
                }
            });
        }
    });
    let mut client = Client::connect(daemon.address, &token);
    let (_, newest) = client.get("/v1/audit?limit=1");
    let newest: Value = serde_json::from_slice(newest).unwrap();
    let length = newest["records"][0]["seq"].as_u64().unwrap();
    let tails = Samples::of(bench.replies, || {
        let begun = Instant::now();
        assert_eq!(client.get("/v1/audit").0, 200);
        begun.elapsed()
    });
    vec![Row::times(format!("audit, newest 50 of {length}"), &tails).at_most(Amount::ms(5))]
}

/// A command line, from its start to its end.
pub fn command(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = start(&home);
    let mut client = Client::connect(daemon.address, &daemon.token());
    for _ in 0..20 {
        assert_eq!(client.post("/v1/changes", &change("dev-agent")).0, 201);
    }
    let address = format!("http://{}", daemon.address);
    let trips = Samples::of(bench.replies, || {
        let mut command = home.command(["ctl", "--addr", &address, "change", "pending"]);
        command.env("IRONCLAW_API_TOKEN", daemon.token());
        let begun = Instant::now();
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        begun.elapsed()
    });
    let floor = Amount::Time(bare::plain_first_output(&home.exe));
    vec![
        Row::times("ironctl change pending", &trips).floor(floor, "exec of `version`").at_most(Amount::ms(4)),
    ]
}

/// The control plane with many changes that wait.
pub fn many_pending(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = start(&home);
    let mut client = Client::connect(daemon.address, &daemon.token());
    let before = processes::resident(daemon.id());
    let names: Vec<String> = (0..AGENTS).map(|number| format!("agent-{number}")).collect();
    for name in &names {
        let body = json!({"kind": "create_agent", "group": name, "payload": {}}).to_string();
        let (status, answer) = client.post("/v1/changes", &body);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(answer));
        let made: Value = serde_json::from_slice(answer).unwrap();
        let decision = json!({"outcome": "approve", "digest": made["digest"]}).to_string();
        let path = format!("/v1/changes/{}/decision", made["id"].as_str().unwrap());
        assert_eq!(client.post(&path, &decision).0, 200);
    }
    for _ in 0..100 {
        for name in &names {
            let (status, answer) = client.post("/v1/changes", &change(name));
            assert_eq!(status, 201, "{}", String::from_utf8_lossy(answer));
        }
    }
    let mut seen = 0;
    let mut after = String::new();
    loop {
        let (_, page) = client.get(&format!("/v1/changes/pending?limit=500{after}"));
        let page: Value = serde_json::from_slice(page).unwrap();
        seen += page["changes"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, 100 * AGENTS);
    vec![
        Row::new(
            "control plane with 10,000 pending changes of 100 agents",
            Amount::Bytes(processes::resident(daemon.id())),
        )
        .note(format!("{} KiB at its start", before >> 10))
        .at_most(Amount::mib(10)),
    ]
}
