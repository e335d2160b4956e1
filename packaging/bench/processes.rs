//! What `/proc` tells of running processes: who descends from whom, their processor time, their memory. Reads
//! `/proc` only.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use crate::world::leftovers::{alive, parent};

/// After so long without a message a sandbox has given back what only its work needed.
pub const REST: Duration = Duration::from_secs(2);

/// Every living process below `ancestor`, without itself.
pub fn descendants(ancestor: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        if let Some((id, parent)) = id.and_then(|id| Some((id, parent(id)?))) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut found = Vec::new();
    let mut open = vec![ancestor];
    while let Some(id) = open.pop() {
        for child in children.get(&id).into_iter().flatten() {
            open.push(*child);
            if alive(*child) {
                found.push(*child);
            }
        }
    }
    found
}

/// Processor time of all threads of these processes so far, to the nanosecond where the kernel counts it.
pub fn processor_time(ids: &[i32]) -> Duration {
    let of_thread = |path: std::path::PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    };
    let of_process = |id: &i32| -> u64 {
        let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        threads.filter_map(|thread| of_thread(thread.path())).sum()
    };
    Duration::from_nanos(ids.iter().map(of_process).sum())
}

/// The share of one core that these processes use during a window. Threads that end in it are missed.
pub fn share(ids: &[i32], window: Duration) -> f64 {
    let (begun, before) = (Instant::now(), processor_time(ids));
    std::thread::sleep(window);
    let used = processor_time(ids).saturating_sub(before);
    used.as_secs_f64() / begun.elapsed().as_secs_f64()
}

/// One number of a file of `name: N kB` lines, in bytes.
fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_else(|| panic!("{path} has no {name}")) * 1024
}

/// Resident memory.
pub fn resident(id: i32) -> u64 {
    field(&format!("/proc/{id}/status"), "VmRSS")
}

/// The part of it that belongs to no file.
pub fn anonymous(id: i32) -> u64 {
    field(&format!("/proc/{id}/status"), "RssAnon")
}

/// Resident memory, with what several processes share divided among them.
pub fn proportional(id: i32) -> u64 {
    field(&format!("/proc/{id}/smaps_rollup"), "Pss")
}
