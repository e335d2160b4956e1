//! Limits, driven to their ceilings: a test program in the agent's place takes memory, threads, processor time,
//! files and descriptors until something stops it. What stops it must be its own limit, and others go on.

use std::fs;
use std::path::PathBuf;

use crate::world::leftovers::{alive, cgroups};
use crate::world::{Build, Chat, Daemon, Home, Runtime, Serve, User, eventually, marker};

crate::world::boxes::in_both_back_ends!(
    a_memory_hog_dies_of_its_own_limit,
    threads_stop_at_their_ceiling,
    processor_time_stays_under_its_quota,
);
crate::world::boxes::in_every_box!(limits_of_the_process_hold);

fn serve(home: &Home, runtime: Runtime) -> Serve<'_> {
    Serve::new(home, runtime).fault(format!("sandbox-exe@dev-agent={}", home.hostile().display()))
}

/// The bystander asks and is answered.
#[track_caller]
fn answers(bystander: &Chat<'_>) {
    let text = marker();
    assert_eq!(bystander.ask(&text), format!("mock-agent received: {text}"));
}

/// The control group of this session's sandbox that has this file, in either version of the interface.
#[track_caller]
fn group_with(session: &str, file: &str) -> PathBuf {
    let session = session.to_owned();
    eventually(&format!("the sandbox has a control group with {file}"), || {
        let groups = cgroups(std::slice::from_ref(&session));
        groups.into_iter().map(PathBuf::from).find(|group| group.join(file).exists())
    })
}

/// What the program wrote down last on its way, as a number.
fn progress(home: &Home) -> u64 {
    let text = fs::read_to_string(home.state().join("workspaces/dev-agent/progress")).unwrap_or_default();
    text.lines().last().and_then(|line| line.parse().ok()).unwrap_or(0)
}

const MIB: u64 = 1024 * 1024;

fn a_memory_hog_dies_of_its_own_limit(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let daemon = serve(&home, runtime).flag("--sandbox-memory", "64MiB").ready();
    let bystander = daemon.chat("mock-agent", "main");
    answers(&bystander);
    let session = daemon.chat("dev-agent", "main").say("hostile hog-memory").session_id;
    let ended = daemon
        .log
        .wait_for("that it ended", |line| line.contains("\"sandbox.ended\"") && line.contains(&session));
    // The kernel's counters of its own group say so; whatever else kills it would not count there.
    assert!(ended.contains("out of memory (its limit is --sandbox-memory)"), "{ended}");
    answers(&bystander);
    // In gVisor the runtime has 64 MiB of its own in the same group.
    let most = if runtime == Runtime::Gvisor { 128 } else { 64 };
    let reached = progress(&home);
    assert!((16..most).contains(&reached), "it had {reached} MiB");
    assert!(!daemon.chat("dev-agent", "main").history().iter().any(|entry| entry.direction == "out"));
}

fn threads_stop_at_their_ceiling(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    // gVisor needs tasks for itself, so that its ceiling cannot be lower; its own kernel counts the threads inside
    // against the limit of the process, which is 64.
    let (ceiling, expected) = if runtime == Runtime::Gvisor { (256, 48..64) } else { (16, 8..16) };
    let daemon = serve(&home, runtime).flag("--sandbox-pids", ceiling.to_string()).ready();
    let bystander = daemon.chat("mock-agent", "main");
    answers(&bystander);
    let chat = daemon.chat("dev-agent", "main");
    let sent = chat.say("hostile hog-threads");
    let group = group_with(&sent.session_id, "pids.max");
    assert_eq!(number(&group.join("pids.max")), ceiling);
    let refused = chat.answer_after(sent.position).text;
    answers(&bystander);
    let reached = progress(&home);
    assert!(refused.contains("Resource temporarily unavailable"), "{refused}");
    assert!(expected.contains(&reached), "it had {reached} threads");
    assert!(!group.exists() || number(&group.join("pids.current")) <= ceiling);
}

fn processor_time_stays_under_its_quota(runtime: Runtime) {
    let home = Home::new(Build::Faults, User::Root);
    let percent = 40;
    let daemon = serve(&home, runtime).flag("--sandbox-cpu-percent", percent.to_string()).ready();
    let bystander = daemon.chat("mock-agent", "main");
    answers(&bystander);
    let session = daemon.chat("dev-agent", "main").say("hostile busy").session_id;
    let group = group_with(&session, "cpu.stat");
    let throttled = || counter(&group, "nr_throttled");
    let wait = |more: u64| {
        let before = throttled();
        eventually("it is throttled", || (throttled() >= before + more).then_some(()));
    };
    // Its eight busy loops are running when it has been held back twice.
    wait(2);
    let (used, periods) = (processor_ticks(&group), counter(&group, "nr_periods"));
    wait(10);
    answers(&bystander);
    let (used, periods) = (processor_ticks(&group) - used, counter(&group, "nr_periods") - periods + 1);
    // A tick is 10 ms and a period 100: so a tenth of the quota's percents in ticks for each period. What a
    // processor has taken is given back late, so half as much again; without the quota it would be 200.
    let most = periods * percent / 10 * 3 / 2;
    println!("{used} ticks in {periods} periods");
    assert!(used > 0 && used <= most, "{used} ticks in {periods} periods of {percent} %");
}

fn number(path: &std::path::Path) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    text.trim().parse().unwrap_or_else(|_| panic!("{}: {text}", path.display()))
}

/// One counter of a group's `cpu.stat`.
fn counter(group: &std::path::Path, name: &str) -> u64 {
    let text = fs::read_to_string(group.join("cpu.stat")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
}

/// Processor time of everything in the group, in clock ticks.
fn processor_ticks(group: &std::path::Path) -> u64 {
    let ids = fs::read_to_string(group.join("cgroup.procs")).unwrap();
    let of = |id: &str| {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields: Vec<u64> = stat
            .rsplit_once(')')
            .map(|(_, rest)| rest.split_whitespace().map(|word| word.parse().unwrap_or(0)).collect())
            .unwrap_or_default();
        // utime and stime
        fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0)
    };
    ids.lines().map(of).sum()
}

/// Limits of the process itself: files, descriptors, dumps, and the address space where no group bounds memory.
fn limits_of_the_process_hold(runtime: Runtime, user: User) {
    let home = Home::new(Build::Faults, user);
    let daemon: Daemon = serve(&home, runtime).ready();
    let answer = daemon.chat("dev-agent", "main").ask("hostile hog-limits");
    println!("{answer}");
    let get = |name: &str| {
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_else(|| panic!("no {name} in {answer}")).to_owned()
    };
    assert_eq!(get("core"), "0 0");
    assert_eq!(get("file_size"), format!("{0} {0}", 64 * MIB));
    assert_eq!(get("open_files"), "256 256");
    assert_eq!(get("threads"), "64 64");
    assert!(get("raise").starts_with("error:"), "{}", get("raise"));
    // One byte more than its limit, and as many descriptors as it has numbers.
    assert_eq!(get("file_at_limit"), "written");
    assert!(get("file_beyond").starts_with("error:"), "{}", get("file_beyond"));
    let opened: u64 = get("opened").parse().unwrap();
    assert!((200..=256).contains(&opened), "{opened}");
    // Memory that looks like a directory has a size of its own.
    let tmp: u64 = get("tmp_mib").parse().unwrap();
    assert!((8..=16).contains(&tmp), "/tmp held {tmp} MiB");
    let threads: u64 = get("spawned").parse().unwrap();
    assert!((48..64).contains(&threads), "{threads} threads");
    // An ordinary user has no control group to make.
    let bounded = user == User::Ordinary;
    let expected = if bounded { format!("{0} {0}", (256 + 512) * MIB) } else { "none".to_owned() };
    assert_eq!(get("address_space"), expected);
    assert_eq!(get("gigabyte").starts_with("error:"), bounded, "{}", get("gigabyte"));
    assert!(alive(daemon.id()));
}
