//! What a run leaves behind, looked for from outside: processes, mounts, sockets, control groups, bundles.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::{Home, eventually};

/// Living processes that name `root` in their arguments or run a file below it (a sandbox's own arguments
/// name no host path, but the file it was executed from is a copy in the home).
pub fn processes_of(root: &Path) -> Vec<i32> {
    let executables: BTreeSet<(u64, u64)> = files_below(root)
        .iter()
        .filter_map(|path| fs::symlink_metadata(path).ok())
        .filter(|found| found.is_file() && found.mode() & 0o111 != 0)
        .map(|found| (found.dev(), found.ino()))
        .collect();
    let needle = root.as_os_str().as_bytes();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if id == std::process::id().cast_signed() {
            continue;
        }
        let named = fs::read(entry.path().join("cmdline")).is_ok_and(|words| contains(&words, needle));
        let executed = fs::metadata(entry.path().join("exe"))
            .is_ok_and(|file| executables.contains(&(file.dev(), file.ino())));
        if (named || executed) && alive(id) {
            found.push(id);
        }
    }
    found
}

/// Whether a process exists and is no zombie.
pub fn alive(id: i32) -> bool {
    state(id).is_some_and(|state| state != 'Z' && state != 'X')
}

/// Waits for a process's end, whoever its parent is, for at most so long; gives whether it ended. A zombie has.
pub fn ended(id: i32, within: Duration) -> bool {
    let until = Instant::now() + within;
    let process = match pidfd_open(Pid::from_raw(id).unwrap(), PidfdFlags::empty()) {
        Ok(process) => process,
        Err(Errno::SRCH) => return true,
        Err(error) => panic!("process {id}: {error}"),
    };
    loop {
        let left = Timespec::try_from(until.saturating_duration_since(Instant::now())).unwrap();
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(ready) => return ready == 1,
            Err(Errno::INTR) => {}
            Err(error) => panic!("process {id}: {error}"),
        }
    }
}

fn state(id: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// The process's parent.
pub fn parent(id: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Its arguments, one string each.
pub fn arguments(id: i32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

pub fn kill(id: i32) {
    if let Some(id) = Pid::from_raw(id) {
        let _ = kill_process(id, Signal::KILL);
    }
}

/// Every file and directory below, without following links.
pub fn files_below(root: &Path) -> Vec<PathBuf> {
    below(root).into_iter().map(|(path, _)| path).collect()
}

/// The same, and whether each is a directory.
fn below(root: &Path) -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let (path, is_directory) = (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir()));
            if is_directory {
                open.push(path.clone());
            }
            found.push((path, is_directory));
        }
    }
    found
}

/// Mounts of this namespace below `root`.
pub fn mounts(root: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let needle = root.to_str().unwrap();
    text.lines().filter(|line| line.contains(needle)).map(str::to_owned).collect()
}

/// Socket files below `root`, and bound unix sockets that name it.
pub fn sockets(root: &Path) -> Vec<String> {
    let files = files_below(root)
        .into_iter()
        .filter(|path| fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()))
        .map(|path| path.display().to_string());
    let bound = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let needle = root.to_str().unwrap();
    let bound = bound.lines().filter(|line| line.contains(needle)).map(str::to_owned);
    files.chain(bound).collect()
}

/// Control groups whose path contains one of these words.
pub fn cgroups(words: &[String]) -> Vec<String> {
    below(Path::new("/sys/fs/cgroup"))
        .into_iter()
        .filter(|(_, is_directory)| *is_directory)
        .map(|(path, _)| path.display().to_string())
        .filter(|path| words.iter().any(|word| path.contains(word.as_str())))
        .collect()
}

/// Everything below the run directory that belongs to one of these sessions: bundles, sockets, runtime state.
pub fn run_files(home: &Home, sessions: &[String]) -> Vec<String> {
    files_below(&home.root.join("run"))
        .into_iter()
        .map(|path| path.display().to_string())
        .filter(|path| sessions.iter().any(|session| path.contains(session.as_str())))
        .collect()
}

/// What the running and ending sandboxes of a home have on the machine, and its processes: each with what tells
/// it from a later one of the same name, so that what stayed is not taken for what was made anew.
pub fn traces(home: &Home) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for id in home.processes() {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let start = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19));
        if let Some(start) = start {
            found.insert(format!("process {id} of {start}"));
        }
    }
    let groups = cgroups(&[home.cgroup()]).into_iter().map(PathBuf::from);
    let bundles = home.state().join("bundles");
    let files = ["running", "runsc"].map(|name| files_below(&bundles.join(name))).concat();
    let sockets = files_below(&home.root.join("run")).into_iter().filter(|path| {
        let sessions = path.components().filter_map(|part| part.as_os_str().to_str());
        sessions.into_iter().any(|part| part.starts_with("ses_"))
    });
    for path in groups.chain(files).chain(sockets) {
        // The parent group has no sandbox of its own, and outlives them where others run.
        if let Ok(file) = fs::symlink_metadata(&path)
            && !path.ends_with(home.cgroup())
        {
            found.insert(format!("{} {} of {:?}", path.display(), file.ino(), file.created().ok()));
        }
    }
    let bound = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let needle = format!("{}/run/", home.root.display());
    for line in bound.lines().filter(|line| line.contains(&needle)) {
        // The number of its inode, and its name.
        let words: Vec<&str> = line.split_whitespace().skip(6).collect();
        found.insert(format!("socket {}", words.join(" ")));
    }
    found.extend(mounts(&home.root).into_iter().map(|line| format!("mount {line}")));
    found
}

/// Which kinds of these traces there are, as the first word of each or what its path is in.
pub fn kinds(home: &Home, traces: &BTreeSet<String>) -> BTreeSet<&'static str> {
    let places = [
        ("/sys/fs/cgroup/".to_owned(), "group"),
        (format!("{}/", home.state().join("bundles/running").display()), "bundle"),
        (format!("{}/", home.state().join("bundles/runsc").display()), "state of runsc"),
        (format!("{}/", home.root.join("run").display()), "file"),
        ("process ".to_owned(), "process"),
        ("socket ".to_owned(), "socket"),
        ("mount ".to_owned(), "mount"),
    ];
    let kind = |trace: &String| {
        let place = places.iter().find(|(place, _)| trace.starts_with(place));
        place.unwrap_or_else(|| panic!("{trace} is of no kind")).1
    };
    traces.iter().map(kind).collect()
}

/// Waits until nothing of these sessions is left outside the state directory, except processes that `living`
/// allows; the complaint names what stayed.
#[track_caller]
pub fn none_left(home: &Home, sessions: &[String], living: &[i32]) {
    let look = || {
        let mut left = Vec::new();
        for id in home.processes().into_iter().filter(|id| !living.contains(id)) {
            left.push(format!("process {id}: {}", arguments(id).join(" ")));
        }
        left.extend(mounts(&home.root).into_iter().map(|line| format!("mount {line}")));
        left.extend(cgroups(sessions).into_iter().map(|path| format!("cgroup {path}")));
        left.extend(run_files(home, sessions).into_iter().map(|path| format!("file {path}")));
        if living.is_empty() {
            left.extend(sockets(&home.root).into_iter().map(|line| format!("socket {line}")));
        }
        left
    };
    let mut last = Vec::new();
    let begun = Instant::now();
    eventually("nothing is left behind", || {
        last = look();
        // The list of what stayed is worth more than the time that passed.
        assert!(last.is_empty() || begun.elapsed().as_secs() < 30, "left behind:\n{}", last.join("\n"));
        last.is_empty().then_some(())
    });
}

fn contains(text: &[u8], needle: &[u8]) -> bool {
    text.windows(needle.len()).any(|window| window == needle)
}
