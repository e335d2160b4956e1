//! Figures of idle sessions: what many sandboxes use within the linger, beside as many bare ones whose guest
//! waits in `read`, and that nothing at all is left after it.

use std::io::PipeWriter;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::replies::Talk;
use crate::table::{Amount, Row};
use crate::world::{Daemon, Home, Runtime, Serve, leftovers};
use crate::{Bench, bare, processes, start};

/// What is not measurable: below it the kernel's own clock tick would not show in the window.
const NOTHING: f64 = 0.001;

/// Chats that are opened at the same time.
const AT_ONCE: usize = 4;

pub fn gvisor(bench: &Bench) -> Vec<Row> {
    idle(bench, Runtime::Gvisor, Duration::from_millis(700))
}

pub fn native(bench: &Bench) -> Vec<Row> {
    idle(bench, Runtime::Native, Duration::from_millis(100))
}

/// `launch` is how long one launch may take when several run at once.
fn idle(bench: &Bench, runtime: Runtime, launch: Duration) -> Vec<Row> {
    let (count, window) = (bench.sessions, Duration::from_secs(bench.window as u64));
    let sessions = u32::try_from(count).unwrap();
    let linger = launch * sessions + window + Duration::from_secs(5);
    let name = if runtime == Runtime::Gvisor { "gVisor" } else { "native" };
    let home = bench.home();
    let daemon = Serve::new(&home, runtime)
        .flag("--linger", format!("{}ms", linger.as_millis()))
        .flag("--max-sandboxes", (count + AT_ONCE).to_string())
        .ready();
    open_sessions(&daemon, count);
    let sandboxes = processes::descendants(daemon.id());
    let used = processes::share(&sandboxes, window);
    let still = processes::descendants(daemon.id()).len();
    let until = Instant::now() + linger + Duration::from_secs(30);

    let floor = bare_share(&home, &daemon, runtime, count, window);
    let within = Row::new(format!("{count} idle sandboxes within the linger, {name}"), Amount::Core(used))
        .note(format!("{still} processes"))
        .floor(Amount::Core(floor), "as many bare ones, blocked in read");

    while !processes::descendants(daemon.id()).is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
    }
    let left = processes::descendants(daemon.id()).len();
    let after = processes::share(&[daemon.id()], window);
    vec![
        within,
        Row::new(format!("processes after the linger of {count}, {name}"), Amount::Count(left))
            .at_most(Amount::Count(0)),
        Row::new(format!("control plane after the linger of {count}, {name}"), Amount::Core(after))
            .at_most(Amount::Core(NOTHING)),
        start::control_plane(format!("control plane, resident after {count} sessions, {name}"), &daemon),
    ]
}

/// Opens this many conversations and waits for an answer in each.
fn open_sessions(daemon: &Daemon, count: usize) {
    std::thread::scope(|scope| {
        for worker in 0..AT_ONCE {
            scope.spawn(move || {
                for number in (worker..count).step_by(AT_ONCE) {
                    Talk::open(daemon, &format!("idle-{number}")).reply("hello");
                }
            });
        }
    });
}

/// The same number of bare sandboxes, their guests blocked in `read`.
fn bare_share(home: &Home, daemon: &Daemon, runtime: Runtime, count: usize, window: Duration) -> f64 {
    let mut held: Vec<PipeWriter> = Vec::new();
    let mut cages: Vec<Child> = Vec::new();
    let mut runsc = (runtime == Runtime::Gvisor).then(|| bare::Runsc::like(home, daemon));
    for _ in 0..count {
        let (input, writer) = std::io::pipe().unwrap();
        held.push(writer);
        match &mut runsc {
            Some(runsc) => runsc.blocked(input),
            None => cages.push(bare::cage_blocked(&home.exe, input)),
        }
    }
    let of_daemon = processes::descendants(daemon.id());
    let ours = || {
        let mut all = processes::descendants(std::process::id().cast_signed());
        all.retain(|id| *id != daemon.id() && !of_daemon.contains(id));
        all
    };
    let bare = ours();
    assert!(bare.len() >= count, "only {} processes of {count} bare sandboxes live", bare.len());
    let used = processes::share(&bare, window);
    let left = ours();
    assert!(
        left.len() >= bare.len(),
        "{} of {} processes ended by themselves",
        bare.len() - left.len(),
        bare.len()
    );
    drop(held);
    left.iter().for_each(|id| leftovers::kill(*id));
    for mut cage in cages {
        let _ = cage.wait();
    }
    used
}
