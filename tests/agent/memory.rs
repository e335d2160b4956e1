//! The memory of what was started in a home and is not the control plane: of sandboxes and what holds them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use crate::world::{Daemon, Home};

const PAGE: u64 = 4096;

/// What their pages hold, by process.
pub(crate) struct Memory(BTreeMap<i32, Vec<u8>>);

impl Memory {
    pub(crate) fn find(&self, what: &[u8]) -> bool {
        self.0.values().any(|bytes| bytes.windows(what.len()).any(|window| window == what))
    }
}

/// All that is in memory now and can be read of every process but the control plane and these.
pub(crate) fn of_guests(home: &Home, daemon: &Daemon, others: &[u32]) -> Memory {
    let mut all = BTreeMap::new();
    let is_guest = |id: &i32| *id != daemon.id() && !others.contains(&id.cast_unsigned());
    for id in home.processes().into_iter().filter(is_guest) {
        if let Some(bytes) = of(id) {
            all.insert(id, bytes);
        }
    }
    assert!(!all.is_empty(), "no sandbox runs");
    Memory(all)
}

/// `None` for one that has ended.
fn of(id: i32) -> Option<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{id}/maps")).ok()?;
    let memory = File::open(format!("/proc/{id}/mem")).ok()?;
    let present = File::open(format!("/proc/{id}/pagemap")).ok()?;
    let mut bytes = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next()?, words.next()?);
        let (from, to) = range.split_once('-')?;
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        // The kernel's own pages, and the text of programs.
        if !rights.starts_with('r') || from >= 1 << 47 || line.ends_with("[vvar]") {
            continue;
        }
        for run in runs(&present, from, to) {
            let mut piece = vec![0; usize::try_from(run.1 - run.0).ok()?];
            if memory.read_exact_at(&mut piece, run.0).is_ok() {
                bytes.extend(piece);
            }
        }
    }
    Some(bytes)
}

/// The stretches of a mapping that are in memory or swapped out; what was never touched may be large.
fn runs(present: &File, from: u64, to: u64) -> Vec<(u64, u64)> {
    const ENTRIES: u64 = 512;
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut at = from;
    while at < to {
        let count = ((to - at) / PAGE).min(ENTRIES);
        let mut entries = vec![0; usize::try_from(count * 8).unwrap()];
        if present.read_exact_at(&mut entries, at / PAGE * 8).is_err() {
            break;
        }
        for (index, entry) in entries.chunks_exact(8).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().unwrap());
            // Bits 63 and 62: present, swapped.
            if entry >> 62 == 0 {
                continue;
            }
            let page = at + index as u64 * PAGE;
            match runs.last_mut() {
                Some((_, end)) if *end == page => *end = page + PAGE,
                _ => runs.push((page, page + PAGE)),
            }
        }
        at += count * PAGE;
    }
    runs
}
