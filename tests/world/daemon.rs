//! A started control plane: its options, its log as it is written, its end by signal or `kill -9`.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::http::{Answer, Request};
use super::{Chat, Home, PATIENCE, Random, Runtime, eventually};

/// How a control plane is to be started.
pub struct Serve<'a> {
    home: &'a Home,
    runtime: String,
    port: Option<u16>,
    words: Vec<String>,
    environment: Vec<(String, String)>,
    faults: Vec<String>,
}

impl<'a> Serve<'a> {
    pub fn new(home: &'a Home, runtime: Runtime) -> Serve<'a> {
        Serve {
            home,
            runtime: runtime.flag().to_owned(),
            port: None,
            words: Vec::new(),
            environment: Vec::new(),
            faults: Vec::new(),
        }
    }

    /// Another `--runtime`.
    pub fn runtime(mut self, runtime: impl Into<String>) -> Serve<'a> {
        self.runtime = runtime.into();
        self
    }

    /// On this port of the loopback; else on one that is free.
    pub fn port(mut self, port: u16) -> Serve<'a> {
        self.port = Some(port);
        self
    }

    /// A flag and its value.
    pub fn flag(mut self, flag: &str, value: impl Into<String>) -> Serve<'a> {
        self.words.extend([flag.to_owned(), value.into()]);
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<String>) -> Serve<'a> {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// One item of the faults build's list, such as `crash=NAME`.
    pub fn fault(mut self, item: impl Into<String>) -> Serve<'a> {
        self.faults.push(item.into());
        self
    }

    /// Starts it and does not wait.
    pub fn start(self) -> Daemon {
        let port = self.port.unwrap_or_else(free_port);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut words: Vec<String> = ["serve", "--dev", "--log-format", "json"].map(str::to_owned).into();
        for (flag, value) in [
            ("--state-dir", self.home.state().display().to_string()),
            ("--model-proxy-socket", self.home.model_socket().display().to_string()),
            ("--api-addr", address.to_string()),
            ("--runtime", self.runtime),
            // Tests look at a number again and again until it changes.
            ("--token-rate", "0".to_owned()),
        ] {
            if !self.words.iter().any(|word| word == flag) {
                words.extend([flag.to_owned(), value]);
            }
        }
        words.extend(self.words);
        let mut command = self.home.command(&words);
        let given = self.environment.iter().find(|(name, _)| name == "IRONCLAW_API_TOKEN");
        let token = given.map_or_else(OnceLock::new, |(_, token)| OnceLock::from(token.clone()));
        command.envs(self.environment);
        if !self.faults.is_empty() {
            command.env("IRONCLAW_FAULTS", self.faults.join(","));
        }
        let mut child = command.spawn().expect("the executable starts");
        let log = Arc::new(Log::default());
        let stdout = child.stdout.take().unwrap();
        let stderr = child.stderr.take().unwrap();
        Log::follow(&log, stdout);
        Log::follow(&log, stderr);
        let token_path = self.home.state().join("api-token");
        Daemon { child, address, log, token_path, token, status: None }
    }

    /// Starts it and waits until it says that it is ready.
    #[track_caller]
    pub fn ready(self) -> Daemon {
        let mut daemon = self.start();
        daemon.wait_ready();
        daemon
    }
}

/// A running control plane. Dropping it kills it.
pub struct Daemon {
    child: Child,
    pub address: SocketAddr,
    pub log: Arc<Log>,
    token_path: std::path::PathBuf,
    token: OnceLock<String>,
    status: Option<ExitStatus>,
}

impl Daemon {
    pub fn id(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Looks at `/readyz` until it says so, as a service manager does; an earlier end fails the test with the log.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        eventually(&format!("the control plane is ready; log:\n{}", self.log.text()), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the control plane ended with {status}:\n{}", self.log.text());
            }
            assert!(!self.log.contains("runtime.missing"), "it will not be ready:\n{}", self.log.text());
            Request::get("/readyz").send(self.address).ok().filter(|answer| answer.status == 200)
        });
    }

    /// Waits until it is ready or has ended, and gives which.
    #[track_caller]
    pub fn is_ready(&mut self) -> bool {
        eventually("the control plane is ready or ends", || {
            if self.has_ended() {
                return Some(false);
            }
            Request::get("/readyz").send(self.address).ok().filter(|a| a.status == 200).map(|_| true)
        })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status.is_some()
    }

    /// The bearer token of the first start.
    #[track_caller]
    pub fn token(&self) -> String {
        let read = || {
            let text = std::fs::read_to_string(&self.token_path)
                .unwrap_or_else(|error| panic!("{}: {error}", self.token_path.display()));
            text.trim().to_owned()
        };
        self.token.get_or_init(read).clone()
    }

    /// Sends a request with the token.
    #[track_caller]
    pub fn send(&self, request: Request<'_>) -> Answer {
        request.token(&self.token()).send(self.address).expect("the API answers")
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        self.send(Request::get(path)).ok()
    }

    /// Waits until nothing is to be done and nothing is on its way.
    #[track_caller]
    pub fn rests(&self) {
        eventually("all is done", || {
            let sessions = self.get("/v1/sessions")["sessions"].as_array().unwrap().clone();
            sessions.iter().all(|session| session["open_messages"] == 0).then_some(())
        });
        eventually("all is brought", || {
            let waiting = self.get("/v1/deliveries?state=waiting");
            waiting["deliveries"].as_array().unwrap().is_empty().then_some(())
        });
    }

    pub fn chat<'a>(&'a self, agent: &'a str, chat: &'a str) -> Chat<'a> {
        Chat::new(self, agent, chat)
    }

    /// One number of `/metrics`, all labels added up; 0 where there is no such line.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        self.try_metric(name).expect("/metrics answers")
    }

    /// The same of a control plane that may have ended.
    pub fn try_metric(&self, name: &str) -> Option<f64> {
        let answer = Request::get("/metrics").token(&self.token()).send(self.address).ok()?;
        assert_eq!(answer.status, 200);
        let sum = answer
            .text()
            .lines()
            .filter(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ') || rest.starts_with('{'))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        Some(sum)
    }

    /// `kill -9`, and waits for the end.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        self.status = Some(self.child.wait().unwrap());
    }

    /// Asks it to stop and gives how it ended.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        if let Some(id) = Pid::from_raw(self.id()) {
            let _ = kill_process(id, Signal::TERM);
        }
        self.ended()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        assert!(super::leftovers::ended(self.id(), PATIENCE), "the control plane goes on");
        let status = self.child.wait().unwrap();
        self.status = Some(status);
        status
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.status.is_none() {
            self.kill9();
        }
        if std::thread::panicking() {
            eprintln!("---- log of the control plane\n{}", self.log.text());
        }
    }
}

/// What a process printed so far.
#[derive(Default)]
pub struct Log {
    lines: Mutex<Vec<String>>,
    changed: Condvar,
}

impl Log {
    /// Reads a stream into the log on a thread of its own.
    pub fn follow(log: &Arc<Log>, stream: impl Read + Send + 'static) {
        let log = Arc::clone(log);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                log.lines().push(String::from_utf8_lossy(&line).into_owned());
                log.changed.notify_all();
            }
        });
    }

    /// The lines, also after a test failed while it held them.
    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn text(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits for a line that fits.
    #[track_caller]
    pub fn wait_for(&self, what: &str, fits: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        let mut lines = self.lines();
        loop {
            if let Some(line) = lines.iter().find(|line| fits(line)) {
                return line.clone();
            }
            let left = PATIENCE.checked_sub(begun.elapsed());
            let left = left.unwrap_or_else(|| panic!("no log line says {what}:\n{}", lines.join("\n")));
            lines = self.changed.wait_timeout(lines, left).unwrap().0;
        }
    }

    pub fn contains(&self, text: &str) -> bool {
        self.any(|line| line.contains(text))
    }

    /// Whether a line so far fits.
    pub fn any(&self, fits: impl Fn(&str) -> bool) -> bool {
        self.lines().iter().any(|line| fits(line))
    }
}

/// A free port that the kernel gives to nobody who did not name it: what else runs here takes it neither from a
/// stopped control plane nor from one that starts again.
pub fn lasting_port() -> u16 {
    let path = "/proc/sys/net/ipv4/ip_local_port_range";
    let range = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let range: Vec<u16> = range.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [first, last] = range[..] else { panic!("{path} holds {range:?}") };
    let others: Vec<u16> = (1024..=u16::MAX).filter(|port| !(first..=last).contains(port)).collect();
    let mut random = Random::fresh();
    // Others may have asked for the same one; that many in a row is no chance.
    let mut tries = (0..1000.min(others.len())).map(|_| others[random.below(others.len() as u64) as usize]);
    tries.find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap_or_else(|| {
        panic!("no free port from 1024 on but among {first} to {last}, which {path} gives away")
    })
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}
