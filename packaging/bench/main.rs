//! The benchmark: starts the real release executable, speaks to it as a user does, and prints one table. Each
//! figure stands beside its floor, measured in the same run on the same machine: a bare `runsc run` of the very
//! bundle, a bare cage, a bare socket round trip, a bare durable write. It does not link the crate.
//!
//! `cargo bench --bench bench` as root, on a machine that does nothing else. Ends with 1 if a figure is over
//! its bound or could not be measured. Parameters, by environment variable:
//!
//! - `IRONCLAW_BENCH_EXE`: the executable; else the one that cargo built
//! - `IRONCLAW_BENCH_ONLY`: only the groups with this word in their name
//! - `IRONCLAW_BENCH_LAUNCHES` (10): samples of each start
//! - `IRONCLAW_BENCH_REPLIES` (100): samples of each reply and floor
//! - `IRONCLAW_BENCH_SESSIONS` (50): idle sessions
//! - `IRONCLAW_BENCH_WINDOW` (10): seconds in which idle processes are watched
//! - `IRONCLAW_TEST_FAULTS_EXE`, `IRONCLAW_TEST_HOSTILE_EXE`: the faults build and the test program that it lets
//!   attack; without them a bystander's figures are left out
//! - `IRONCLAW_BENCH_MESSAGES` (2000): messages of the endurance run; the promise is about 100000
//! - `IRONCLAW_BENCH_FLOOD` (10000): messages to a chat beside the one that is measured
//! - `IRONCLAW_BENCH_RECORDS` (10000): length of the audit chain; the promise is about 1000000
//! - `IRONCLAW_BENCH_HISTORY` (20000): messages in the ledger before a message is timed; the promise is about 1000000

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    reason = "nothing links this program; a figure that cannot be measured says so in its row"
)]

#[path = "../../tests/world/mod.rs"]
mod world;

mod bare;
mod brought;
mod bystander;
mod changes;
mod client;
mod endurance;
mod history;
mod idle;
mod processes;
mod receiver;
mod replies;
mod start;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use table::Row;
use world::{Home, User, size};

/// What is measured with, and how much of it.
struct Bench {
    exe: PathBuf,
    launches: usize,
    replies: usize,
    sessions: usize,
    window: usize,
    messages: usize,
    records: usize,
    flood: usize,
    history: usize,
}

impl Bench {
    fn from_environment() -> Bench {
        let built = PathBuf::from(env!("CARGO_BIN_EXE_ironclaw"));
        let at_least_one = |variable, default| size(variable, default).max(1);
        Bench {
            exe: std::env::var_os("IRONCLAW_BENCH_EXE").map_or(built, PathBuf::from),
            launches: at_least_one("IRONCLAW_BENCH_LAUNCHES", 10),
            replies: at_least_one("IRONCLAW_BENCH_REPLIES", 100),
            sessions: at_least_one("IRONCLAW_BENCH_SESSIONS", 50),
            window: at_least_one("IRONCLAW_BENCH_WINDOW", 10),
            messages: size("IRONCLAW_BENCH_MESSAGES", 2000).max(endurance::EARLY),
            records: at_least_one("IRONCLAW_BENCH_RECORDS", 10_000),
            flood: at_least_one("IRONCLAW_BENCH_FLOOD", 10_000),
            history: at_least_one("IRONCLAW_BENCH_HISTORY", 20_000),
        }
    }

    /// A home of its own with a copy of the executable.
    fn home(&self) -> Home {
        Home::of(&self.exe, User::Root)
    }
}

/// A group of figures that share their preparation.
type Group = (&'static str, fn(&Bench) -> Vec<Row>);

const GROUPS: [Group; 20] = [
    ("executable", start::executable),
    ("health", start::health),
    ("memory", start::memory),
    ("first reply gVisor", replies::first_gvisor),
    ("first reply native", replies::first_native),
    ("warm reply gVisor", replies::warm_gvisor),
    ("warm reply native", replies::warm_native),
    ("bystander", bystander::bystander),
    ("idle native", idle::native),
    ("idle gVisor", idle::gvisor),
    ("changes latency", changes::latency),
    ("changes pending page", changes::pending_page),
    ("changes submissions", changes::submissions),
    ("changes audit tail", changes::audit_tail),
    ("changes command line", changes::command),
    ("changes memory", changes::many_pending),
    ("brought", brought::brought),
    ("sustained", brought::sustained),
    ("history", history::history),
    ("endurance", endurance::endurance),
];

fn main() -> ExitCode {
    let bench = Bench::from_environment();
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "bench: run it as root: it compares with bare runsc, which needs the same rights as the daemon"
        );
        return ExitCode::FAILURE;
    }
    if !bench.exe.exists() {
        eprintln!("bench: {} is not there; build it, or name it in IRONCLAW_BENCH_EXE", bench.exe.display());
        return ExitCode::FAILURE;
    }
    // What a bare `runsc run --detach` leaves becomes a child of this process, to be found and collected.
    if let Err(error) = rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)) {
        eprintln!("bench: processes left by runsc cannot be collected: {error}");
    }
    let only = std::env::var("IRONCLAW_BENCH_ONLY").unwrap_or_default();
    let begun = Instant::now();
    let before = load();
    let mut rows = Vec::new();
    for (name, group) in GROUPS.into_iter().filter(|(name, _)| name.contains(only.as_str())) {
        eprintln!("bench: {name} ({} s so far)", begun.elapsed().as_secs());
        // A panic is how the test world says that something did not happen; its message is on stderr already.
        match catch_unwind(AssertUnwindSafe(|| group(&bench))) {
            Ok(measured) => rows.extend(measured),
            Err(panic) => rows.push(Row::failed(name, &said(panic.as_ref()))),
        }
    }
    println!("{}", facts(&bench, &before));
    print!("{}", table::render(&rows));
    if rows.is_empty() {
        eprintln!("bench: no group has {only:?} in its name");
    }
    if !rows.is_empty() && rows.iter().all(Row::holds) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(" | ").chars().take(400).collect()
}

/// The machine and what was measured, for the head of the table.
fn facts(bench: &Bench, load_before: &str) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let version = Command::new(&bench.exe).arg("version").output();
    let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    [
        format!("executable  {} ({})", bench.exe.display(), version.unwrap_or_default()),
        format!(
            "machine     {} cores of {}, Linux {}",
            std::thread::available_parallelism().map_or(0, usize::from),
            model.trim_start_matches([' ', '\t', ':']),
            read("/proc/sys/kernel/osrelease").trim(),
        ),
        format!("runtimes    {}", start::runtimes(bench).join(" | ")),
        format!("load        {load_before} before, {} after (1, 5, 15 minutes)", load()),
        String::new(),
    ]
    .join("\n")
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}
