//! Control groups: bounds the memory, tasks and processor time of a sandbox where their controllers can be
//! written, in either version of the interface, and says which cannot. The parent group of this daemon exists
//! only while a sandbox does. Touches only groups below that parent.

use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Limits;
use crate::os::process;

/// What a group can bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    const ALL: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];

    fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Cpu => "cpu",
        }
    }
}

/// The two interfaces of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// One place where groups are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) version: Version,
    /// The group that belongs to this daemon; made when needed.
    pub(super) directory: PathBuf,
    pub(super) controllers: Vec<Controller>,
}

/// Where this daemon can bound its sandboxes.
#[derive(Clone, Debug, Default)]
pub(super) struct Cgroups {
    parents: Vec<Parent>,
}

/// How long a group may stay busy after its processes were killed.
const EMPTY_LIMIT: Duration = Duration::from_secs(5);

/// Length of the period over which processor time is counted, in microseconds: the kernel's own default.
const CPU_PERIOD_US: u64 = 100_000;

impl Cgroups {
    /// Finds, for each controller, the interface that carries it and a place below this process's own group where
    /// groups can be made. `label` names the daemon's parent group.
    pub(super) fn detect(label: &str) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let found = own_groups(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup"));
        let mut parents = Vec::new();
        for controller in Controller::ALL {
            let v1 =
                found.iter().find(|group| group.controllers.iter().any(|name| name == controller.name()));
            if let Some(group) = v1 {
                let directory = group.directory.join(label);
                if can_make(&directory) {
                    parents.push(Parent { version: Version::V1, directory, controllers: vec![controller] });
                }
            }
        }
        if parents.is_empty()
            && let Some(group) = found.iter().find(|group| group.controllers.is_empty())
        {
            parents.extend(v2_parent(group, label));
        }
        Self { parents }
    }

    /// The given places, for tests.
    #[cfg(test)]
    fn at(parents: Vec<Parent>) -> Self {
        Self { parents }
    }

    /// Whether this controller is in force.
    pub(super) fn has(&self, controller: Controller) -> bool {
        self.parents.iter().any(|parent| parent.controllers.contains(&controller))
    }

    /// One sentence when something is not bounded by a group.
    pub(super) fn missing(&self) -> Option<String> {
        let missing: Vec<&str> =
            Controller::ALL.into_iter().filter(|c| !self.has(*c)).map(Controller::name).collect();
        if missing.is_empty() {
            return None;
        }
        Some(format!(
            "no writable cgroup for {}: only the limits of each process apply (as a systemd unit, set \
             Delegate=yes)",
            missing.join(", ")
        ))
    }

    /// Makes the groups of one sandbox and sets their limits, `overhead` bytes of memory added for the runtime
    /// itself. Returns the directories.
    pub(super) fn make(&self, name: &str, limits: &Limits, overhead: u64) -> io::Result<Vec<PathBuf>> {
        let mut made = Vec::new();
        for parent in &self.parents {
            let directory = parent.directory.join(name);
            let result =
                make_group(parent, &directory).map_err(|error| named(&directory, error)).and_then(|()| {
                    made.push(directory.clone());
                    set_limits(parent, &directory, limits, overhead)
                });
            if let Err(error) = result {
                let _ = remove_all(&made);
                return Err(error);
            }
        }
        Ok(made)
    }

    /// Kills and removes every group that an earlier daemon left. Returns how many processes and groups.
    pub(super) fn sweep(&self) -> io::Result<(usize, usize)> {
        let (mut processes, mut groups) = (0, 0);
        for parent in &self.parents {
            let Ok(entries) = std::fs::read_dir(&parent.directory) else { continue };
            let left: Vec<PathBuf> =
                entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
            for group in &left {
                processes += members(group).len();
            }
            groups += left.len();
            remove_all(&left)?;
            let _ = std::fs::remove_dir(&parent.directory);
        }
        Ok((processes, groups))
    }
}

/// The file that lists the processes of a group.
fn procs(group: &Path) -> PathBuf {
    group.join("cgroup.procs")
}

/// The file through which a process of one thread joins a group by itself. Version 1 has one for single threads,
/// where the kernel takes no lock for that; for the list of processes it waits 5 to 15 ms until nobody forks.
pub(super) fn joining(group: &Path) -> PathBuf {
    let tasks = group.join("tasks");
    if tasks.exists() { tasks } else { procs(group) }
}

/// Kills whatever is in these groups and removes them, and the daemon's parent group with the last of them.
pub(super) fn remove_all(groups: &[PathBuf]) -> io::Result<()> {
    let mut result = Ok(());
    for group in groups {
        result = result.and(remove(group).map_err(|error| named(group, error)));
        if let Some(parent) = group.parent() {
            // Fails while other sandboxes run, which is what keeps it.
            let _ = std::fs::remove_dir(parent);
        }
    }
    result
}

fn remove(group: &Path) -> io::Result<()> {
    let until = Instant::now() + EMPTY_LIMIT;
    let mut pause = Duration::from_micros(200);
    loop {
        match std::fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error),
            Err(_) => {}
        }
        // The kernel tells nobody when a group of version 1 becomes empty.
        if std::fs::write(group.join("cgroup.kill"), "1").is_err() {
            for pid in members(group) {
                if let Ok(pidfd) = process::pidfd_open(pid) {
                    let _ = process::kill(pidfd.as_fd());
                }
            }
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Whether the kernel killed anything in these groups when they had reached their own limit of memory. Version 1 counts
/// a kill for want of memory in the whole machine too, and files that were read as memory that was had: there a group
/// that had once filled its limit with them is taken for one without memory.
pub(super) fn ran_out_of_memory(groups: &[PathBuf]) -> bool {
    let read = |group: &Path, file: &str| std::fs::read_to_string(group.join(file)).unwrap_or_default();
    let counter = |text: &str, name: &str| -> u64 {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or(0)
    };
    groups.iter().any(|group| {
        let events = read(group, "memory.events");
        if !events.is_empty() {
            return counter(&events, "oom") > 0 && counter(&events, "oom_kill") > 0;
        }
        // Version 1 does not say why it killed, but how much the group had: it is given memory by the batch, and
        // so may end a little below its limit.
        let bytes = |file| read(group, file).trim().parse::<u64>().unwrap_or(0);
        let (most, limit) = (bytes("memory.max_usage_in_bytes"), bytes("memory.limit_in_bytes"));
        most > limit - limit / 16 && counter(&read(group, "memory.oom_control"), "oom_kill") > 0
    })
}

fn members(group: &Path) -> Vec<u32> {
    let list = std::fs::read_to_string(procs(group)).unwrap_or_default();
    list.lines().filter_map(|pid| pid.parse().ok()).collect()
}

fn make_group(parent: &Parent, directory: &Path) -> io::Result<()> {
    // Another sandbox's end may remove the empty parent in between: so more than one attempt.
    for _ in 0..10 {
        match std::fs::create_dir(&parent.directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if parent.version == Version::V2 {
            let mut wanted = String::new();
            for controller in &parent.controllers {
                let _ = write!(wanted, "+{} ", controller.name());
            }
            match std::fs::write(parent.directory.join("cgroup.subtree_control"), wanted.trim_end()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            }
        }
        match std::fs::create_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => remove(directory)?,
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("the group's parent keeps disappearing"))
}

fn set_limits(parent: &Parent, directory: &Path, limits: &Limits, overhead: u64) -> io::Result<()> {
    let memory = limits.memory_bytes.saturating_add(overhead).to_string();
    let quota = u64::from(limits.cpu_percent).saturating_mul(CPU_PERIOD_US) / 100;
    for controller in &parent.controllers {
        let files: Vec<(&str, String, Needed)> = match (parent.version, controller) {
            (Version::V1, Controller::Memory) => vec![
                ("memory.limit_in_bytes", memory.clone(), Needed::Yes),
                ("memory.memsw.limit_in_bytes", memory.clone(), Needed::IfThere),
            ],
            (Version::V2, Controller::Memory) => vec![
                ("memory.max", memory.clone(), Needed::Yes),
                ("memory.swap.max", "0".into(), Needed::IfThere),
                ("memory.oom.group", "1".into(), Needed::IfThere),
            ],
            (_, Controller::Pids) => vec![("pids.max", limits.pids.to_string(), Needed::Yes)],
            (Version::V1, Controller::Cpu) => vec![
                ("cpu.cfs_period_us", CPU_PERIOD_US.to_string(), Needed::Yes),
                ("cpu.cfs_quota_us", quota.to_string(), Needed::Yes),
            ],
            (Version::V2, Controller::Cpu) => {
                vec![("cpu.max", format!("{quota} {CPU_PERIOD_US}"), Needed::Yes)]
            }
        };
        for (file, value, needed) in files {
            let path = directory.join(file);
            match std::fs::write(&path, value) {
                Err(error) if needed == Needed::Yes => return Err(named(&path, error)),
                _ => {}
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Needed {
    Yes,
    /// Kernels without swap accounting do not have the file.
    IfThere,
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("the cgroup {}: {error}", path.display()))
}

/// A hierarchy and this process's place in it. Version 2 has no controllers in its name.
#[derive(Debug, PartialEq, Eq)]
struct OwnGroup {
    controllers: Vec<String>,
    /// The top of the hierarchy as far as it is visible.
    top: PathBuf,
    directory: PathBuf,
}

/// Reads where this process is, from `/proc/self/mountinfo` and `/proc/self/cgroup`.
fn own_groups(mountinfo: &str, cgroup: &str) -> Vec<OwnGroup> {
    let mut found = Vec::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount)) = (left.next(), left.next()) else { continue };
        let mut right = right.split(' ');
        let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
        let own = match kind {
            Some("cgroup2") => {
                cgroup.lines().find_map(|line| line.strip_prefix("0::")).map(|path| (vec![], path))
            }
            Some("cgroup") => cgroup.lines().find_map(|line| {
                let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
                let named: Vec<String> = controllers.split(',').map(str::to_owned).collect();
                let mounted = named.iter().all(|name| options.split(',').any(|option| option == name));
                (mounted && !controllers.is_empty()).then_some((named, path))
            }),
            _ => None,
        };
        let Some((controllers, path)) = own else { continue };
        // In a container only a part of the hierarchy is mounted; what lies above it is not in the path.
        let below = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("/");
        let top = PathBuf::from(mount);
        found.push(OwnGroup { controllers, directory: top.join(below.trim_start_matches('/')), top });
    }
    found
}

fn can_make(directory: &Path) -> bool {
    match std::fs::create_dir(directory) {
        Ok(()) => {
            let _ = std::fs::remove_dir(directory);
            true
        }
        Err(error) => error.kind() == io::ErrorKind::AlreadyExists,
    }
}

/// A place in version 2. A group that hands out controllers may hold no process of its own, so the daemon moves
/// into a leaf when it is alone in its group; root falls back to the top of the hierarchy.
fn v2_parent(own: &OwnGroup, label: &str) -> Option<Parent> {
    let available = |directory: &Path| {
        let list = std::fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
        let words: Vec<&str> = list.split_whitespace().collect();
        Controller::ALL.into_iter().filter(|c| words.contains(&c.name())).collect::<Vec<_>>()
    };
    let enable = |directory: &Path| {
        let controllers = available(directory);
        if controllers.is_empty() {
            return None;
        }
        let words: Vec<String> = controllers.iter().map(|c| format!("+{}", c.name())).collect();
        std::fs::write(directory.join("cgroup.subtree_control"), words.join(" ")).ok()?;
        let parent = directory.join(label);
        can_make(&parent).then_some(Parent { version: Version::V2, directory: parent, controllers })
    };
    if own.directory != own.top {
        if own.directory.ends_with("daemon")
            && let Some(delegated) = own.directory.parent()
        {
            // A restart within the same delegated unit finds itself in the leaf already.
            return enable(delegated);
        }
        if members(&own.directory) == [std::process::id()] {
            let leaf = own.directory.join("daemon");
            let moved = can_make(&leaf)
                && std::fs::create_dir(&leaf).is_ok()
                && std::fs::write(procs(&leaf), std::process::id().to_string()).is_ok();
            if moved {
                return enable(&own.directory);
            }
        }
    }
    if process::own_ids().0 == 0 { enable(&own.top) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ironclaw-cgroup-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn content(directory: &Path) -> Vec<(String, String)> {
        let mut files: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().is_file())
            .map(|entry| {
                let text = std::fs::read_to_string(entry.path()).unwrap();
                (entry.file_name().into_string().unwrap(), text)
            })
            .collect();
        files.sort();
        files
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn version_2_writes_one_group_with_every_limit() {
        let top = scratch("v2");
        let parent = top.join("ironclaw-1");
        let groups = Cgroups::at(vec![Parent {
            version: Version::V2,
            directory: parent.clone(),
            controllers: Controller::ALL.to_vec(),
        }]);
        let limits = Limits { memory_bytes: 100 << 20, cpu_percent: 35, pids: 17, ..Limits::default() };
        let made = groups.make("ses_x", &limits, 64 << 20).unwrap();
        assert_eq!(made, [parent.join("ses_x")]);
        assert_eq!(content(&parent), pairs(&[("cgroup.subtree_control", "+memory +pids +cpu")]));
        assert_eq!(
            content(&made[0]),
            pairs(&[
                ("cpu.max", "35000 100000"),
                ("memory.max", "171966464"),
                ("memory.oom.group", "1"),
                ("memory.swap.max", "0"),
                ("pids.max", "17"),
            ])
        );
        std::fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn version_1_writes_one_group_for_each_controller() {
        let top = scratch("v1");
        let place = |controller: Controller| Parent {
            version: Version::V1,
            directory: top.join(controller.name()),
            controllers: vec![controller],
        };
        let groups = Cgroups::at(Controller::ALL.into_iter().map(place).collect());
        assert_eq!(groups.missing(), None);
        let made = groups.make("ses_x", &Limits::default(), 0).unwrap();
        assert_eq!(made.len(), 3);
        assert_eq!(
            content(&made[2]),
            pairs(&[("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "200000")])
        );
        assert_eq!(content(&made[1]), pairs(&[("pids.max", "256")]));
        std::fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn a_groups_own_limit_is_told_from_a_machine_without_memory() {
        let top = scratch("memory");
        let v1 = |most: &'static str, kills: &'static str| {
            vec![
                ("memory.limit_in_bytes", "67108864\n"),
                ("memory.max_usage_in_bytes", most),
                ("memory.oom_control", kills),
            ]
        };
        let cases = [
            (vec![("memory.events", "max 9\noom 1\noom_kill 1\noom_group_kill 1\n")], true),
            (vec![("memory.events", "max 9\noom 0\noom_kill 1\noom_group_kill 0\n")], false),
            (vec![("memory.events", "max 9\noom 0\noom_kill 0\noom_group_kill 0\n")], false),
            (v1("67104768\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), true),
            (v1("67104768\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n"), false),
            (v1("33554432\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"), false),
            (vec![("pids.max", "17\n")], false),
        ];
        for (number, (files, expected)) in cases.into_iter().enumerate() {
            let group = top.join(number.to_string());
            std::fs::create_dir(&group).unwrap();
            for (file, text) in &files {
                std::fs::write(group.join(file), text).unwrap();
            }
            assert_eq!(ran_out_of_memory(&[top.join("nowhere"), group]), expected, "{files:?}");
        }
        std::fs::remove_dir_all(top).unwrap();
    }

    #[test]
    fn the_place_is_found_below_what_is_mounted() {
        let mountinfo = "30 23 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            31 23 0:27 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 23 0:36 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
            41 23 0:37 / /tmp rw - tmpfs tmpfs rw\n";
        let cgroup = "3:cpu:/a\n2:memory:/docker/abc/b\n0::/c\n";
        let found = own_groups(mountinfo, cgroup);
        let directories: Vec<_> = found.iter().map(|group| group.directory.to_str().unwrap()).collect();
        assert_eq!(
            directories,
            ["/sys/fs/cgroup/cpu/a", "/sys/fs/cgroup/memory/b", "/sys/fs/cgroup/unified/c"]
        );
        assert_eq!(found[2].controllers, Vec::<String>::new());
    }

    #[test]
    fn a_missing_controller_is_named() {
        let sentence = Cgroups::default().missing().unwrap();
        assert!(sentence.contains("memory, pids, cpu"), "{sentence}");
    }
}
