//! Figures of the control plane by itself: the executable's size, the time from its start to `/healthz`, its
//! memory when nothing happens, and the memory of one native sandbox beside it.

use std::time::{Duration, Instant};

use crate::table::{Amount, Row, Samples};
use crate::world::http::Request;
use crate::world::{Daemon, Home, PATIENCE, Runtime, Serve};
use crate::{Bench, bare, processes};

/// Pause between two looks for an answer: short beside what is measured, and not a busy loop.
const LOOK: Duration = Duration::from_micros(200);

pub fn executable(bench: &Bench) -> Vec<Row> {
    let bytes = std::fs::metadata(&bench.exe).unwrap().len();
    vec![Row::new("executable, size", Amount::Bytes(bytes)).at_most(Amount::mib(10))]
}

/// From starting the control plane to the first answer of `/healthz`, on a new state and on its own.
pub fn health(bench: &Bench) -> Vec<Row> {
    let (mut first, mut again, mut floor) = (Samples::default(), Samples::default(), Samples::default());
    for _ in 0..bench.launches {
        let home = bench.home();
        floor.push(bare::plain_first_output(&home.exe));
        first.push(healthy(&home));
        again.push(healthy(&home));
    }
    let floor = Amount::Time(floor.median());
    let what = "exec of `version`";
    vec![
        Row::times("start to /healthz, new state", &first).floor(floor, what).at_most(Amount::ms(15)),
        Row::times("start to /healthz, restart", &again).floor(floor, what).at_most(Amount::ms(15)),
    ]
}

fn healthy(home: &Home) -> Duration {
    let begun = Instant::now();
    let daemon = Serve::new(home, Runtime::Gvisor).runtime("auto").start();
    loop {
        if Request::get("/healthz").send(daemon.address).is_ok_and(|answer| answer.status == 200) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "no answer from /healthz; log:\n{}", daemon.log.text());
        std::thread::sleep(LOOK);
    }
    let took = begun.elapsed();
    let status = daemon.stop();
    assert!(status.success(), "the control plane ended with {status}");
    took
}

/// Resident memory of the control plane, and of the processes of one native sandbox.
pub fn memory(bench: &Bench) -> Vec<Row> {
    let home = bench.home();
    let daemon = Serve::new(&home, Runtime::Native).ready();
    let start = control_plane("control plane, resident after its start", &daemon);
    daemon.chat("mock-agent", "memory").ask("hello");
    let below = processes::descendants(daemon.id());
    // A cage is a stage outside, a reaping first process inside, and the agent, which was started last.
    let agent = *below.iter().max().expect("a native sandbox is a process");
    let look = |figure: &str| {
        let all: u64 = below.iter().map(|id| processes::proportional(*id)).sum();
        [
            Row::new(
                format!("native sandbox, {figure} (agent process)"),
                Amount::Bytes(processes::resident(agent)),
            )
            .note(format!("{} without files", mib(processes::anonymous(agent)))),
            Row::new(format!("native sandbox, {figure} (all its processes)"), Amount::Bytes(all))
                .note(format!("{} processes, shared pages divided", below.len())),
        ]
    };
    let mut rows = vec![start];
    rows.extend(look("resident after a reply"));
    std::thread::sleep(processes::REST);
    rows.extend(look("resident, waiting").map(|row| row.at_most(Amount::mib(5))));
    rows
}

/// The row of a control plane's memory now.
pub fn control_plane(figure: impl Into<String>, daemon: &Daemon) -> Row {
    Row::new(figure, Amount::Bytes(processes::resident(daemon.id())))
        .note(format!("{} without files", mib(processes::anonymous(daemon.id()))))
        .at_most(Amount::mib(10))
}

fn mib(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20))
}

/// How the executable describes its two back ends here.
pub fn runtimes(bench: &Bench) -> Vec<String> {
    let describe = |runtime: Runtime| {
        let home = bench.home();
        let mut daemon = Serve::new(&home, runtime).start();
        if daemon.is_ready() {
            daemon.get("/readyz")["description"].as_str().unwrap_or_default().to_owned()
        } else {
            format!("{} is not there", runtime.flag())
        }
    };
    vec![describe(Runtime::Gvisor), describe(Runtime::Native)]
}
