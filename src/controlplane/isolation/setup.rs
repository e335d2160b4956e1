//! The ground that both back ends stand on, made once at start: the bundle root and its lock, a content-addressed
//! copy of this executable, the shared root, the place for cgroups, and whether user namespaces may be made. Also
//! the sweep of what an earlier daemon left. Touches the bundle root and the run directory.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest;

use super::cgroup::Cgroups;
use super::layout::wall_mode;
use super::{Claim, Identity, IsolationPaths, RuntimeProblem, Swept, launch, plan};
use crate::contract::cipher::SessionKey;
use crate::contract::fault;
use crate::contract::ids::SessionId;
use crate::os::cage::Who;
use crate::os::files::{self, Lock};
use crate::os::process::{self, Ended};
use crate::os::stage::{Plan, ROLE, Task};
use crate::os::userns::{Cause, Settings};

/// The file in a bundle that names its processes, with their start times.
const RECORD: &str = "processes";

/// How long a probe of namespaces may take. It takes a few milliseconds.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// What both back ends need.
pub(super) struct Ground {
    pub(super) executable: PathBuf,
    /// Digest of the executable, in hexadecimal.
    pub(super) digest: String,
    pub(super) rootfs: PathBuf,
    pub(super) runsc_root: PathBuf,
    pub(super) cgroups: Cgroups,
    pub(super) paths: IsolationPaths,
    pub(super) identity: Identity,
    /// Why user namespaces cannot be made, and the step that failed.
    pub(super) forbidden: Option<(Cause, String)>,
    _lock: Lock,
}

impl Ground {
    /// Makes all of it in the directories that were claimed.
    pub(super) fn make(claim: Claim) -> Result<Self, RuntimeProblem> {
        let Claim { paths, identity, lock } = claim;
        let paths = &paths;
        let (executable, digest) = copy_executable(&paths.executables(), identity)
            .map_err(setup("copying the executable below", &paths.bundle_root))?;
        let rootfs = paths.rootfs();
        make_rootfs(&rootfs).map_err(setup("making the sandbox root", &rootfs))?;
        process::become_subreaper()
            .map_err(setup("becoming the parent of orphans", Path::new("/proc/self")))?;
        let mut ground = Self {
            executable,
            digest,
            rootfs,
            runsc_root: paths.runsc_root(),
            cgroups: Cgroups::detect(&label(&paths.bundle_root)),
            paths: paths.clone(),
            identity,
            forbidden: None,
            _lock: lock,
        };
        ground.forbidden = ground.probe_namespaces()?;
        Ok(ground)
    }

    pub(super) fn user_namespaces(&self) -> bool {
        self.forbidden.is_none()
    }

    pub(super) fn rootless(&self) -> bool {
        self.identity == Identity::OwnUser
    }

    /// What neither back end can enforce here.
    pub(super) fn report(&self) -> Vec<String> {
        let mut report: Vec<String> = self.cgroups.missing().into_iter().collect();
        if self.rootless() {
            report.push(
                "without root every sandbox is this user on the host: file modes protect nothing after an escape"
                    .into(),
            );
        } else if let Some((cause, _)) = &self.forbidden {
            report.push(format!("sandboxes run without a user namespace of their own, because {cause}"));
        }
        report
    }

    /// Whether a stage can enter the namespaces of a cage; else why not.
    fn probe_namespaces(&self) -> Result<Option<(Cause, String)>, RuntimeProblem> {
        let who = match self.identity {
            Identity::OwnUser => Who::OwnUser,
            Identity::Mapped { wall, group } => Who::Mapped { group, wall },
        };
        let plan = Plan::new(Task::Probe(who));
        let key = SessionKey::from_bytes([0; 32]);
        let failed =
            |reason: String| RuntimeProblem::Unusable { runtime: "the stage process".into(), reason };
        let mut stage = launch::spawn(&self.executable, &[]).map_err(|error| failed(error.to_string()))?;
        if let Err(error) = stage.hand_over(&plan, &key) {
            stage.abandon();
            return Err(failed(error.to_string()));
        }
        let report = stage.report(PROBE_LIMIT).ok().flatten().unwrap_or_default();
        match (process::wait(stage.pidfd.as_fd(), PROBE_LIMIT), report.failure) {
            (Some(Ended::Code(0)), None) => Ok(None),
            (_, Some((errno, step))) => Ok(Some((Settings::read().cause(&step, errno), step))),
            (Some(how), None) => Err(failed(format!("it ended with {how}: {}", stage.said()))),
            (None, None) => {
                stage.abandon();
                Err(failed("it did not answer in time".into()))
            }
        }
    }

    /// Makes an empty bundle directory that only the daemon can read.
    pub(super) fn make_bundle(&self, bundle: &Path) -> io::Result<()> {
        files::remove_tree(bundle)?;
        files::directory(bundle, None, 0o700)
    }

    /// Writes down which processes belong to a bundle, for the sweep of the next daemon.
    pub(super) fn record(&self, bundle: &Path, pids: &[u32]) -> io::Result<()> {
        let mut text = format!("boot {}\n", process::boot_id()?);
        for pid in pids {
            // One that has ended already needs no record.
            if let Ok(start) = process::start_time(*pid) {
                text.push_str(&format!("{pid} {start}\n"));
            }
        }
        std::fs::write(bundle.join(RECORD), text)
    }

    /// Kills and removes what an earlier daemon with the same roots left.
    pub(super) fn sweep(&self) -> io::Result<Swept> {
        let ours = match self.identity {
            Identity::OwnUser => Ours::OwnUser,
            Identity::Mapped { wall, .. } => Ours::RootAndFrom(wall),
        };
        sweep(&self.paths, ours, &self.cgroups, self.executable.file_name())
    }
}

/// Kills and removes what a daemon left that will not start again; its directories are the caller's to remove.
///
/// # Errors
/// When something of it does not go away.
pub fn sweep_abandoned(paths: &IsolationPaths) -> io::Result<Swept> {
    let ours = if process::own_ids().0 == 0 { Ours::RootAndFrom(SANDBOX_IDS) } else { Ours::OwnUser };
    sweep(paths, ours, &Cgroups::detect(&label(&paths.bundle_root)), None)
}

/// The name of a daemon's parent control group.
fn label(bundle_root: &Path) -> String {
    format!("ironclaw-{}", short_digest(bundle_root))
}

/// Host ids of sandboxes are never below this one.
const SANDBOX_IDS: u32 = 100_000;

/// Whose processes a sweep may end. Anybody can put our directory among a program's arguments.
#[derive(Clone, Copy, Debug)]
enum Ours {
    /// This process's user.
    OwnUser,
    /// Root, and the ids of sandboxes from this one on.
    RootAndFrom(u32),
}

impl Ours {
    fn owns(self, uid: u32) -> bool {
        match self {
            Ours::OwnUser => uid == process::own_ids().0,
            Ours::RootAndFrom(first) => uid == 0 || uid >= first,
        }
    }
}

fn sweep(
    paths: &IsolationPaths,
    ours: Ours,
    cgroups: &Cgroups,
    current: Option<&OsStr>,
) -> io::Result<Swept> {
    let mut swept = Swept::default();
    let mut pids = recorded(paths);
    pids.extend(named(paths));
    pids.sort_unstable();
    pids.dedup();
    for pid in pids {
        let Ok(pidfd) = process::pidfd_open(pid) else { continue };
        if process::has_ended(pidfd.as_fd()) || !process::real_uid(pid).is_ok_and(|uid| ours.owns(uid)) {
            continue;
        }
        match process::kill(pidfd.as_fd()) {
            // Changed its user just now: not ours.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
            killed => killed?,
        }
        process::wait(pidfd.as_fd(), Duration::from_secs(5));
        swept.processes += 1;
    }
    let (processes, groups) = cgroups.sweep()?;
    swept.processes += processes;
    swept.cgroups = groups;
    swept.bundles = remove_children(&paths.bundles(), |_| true)?;
    remove_children(&paths.staging(), |_| true)?;
    remove_children(&paths.runsc_root(), |_| true)?;
    remove_children(&paths.executables(), |name| Some(name) != current)?;
    remove_children(&paths.run_dir, |name| name.to_str().is_some_and(|name| SessionId::parse(name).is_ok()))?;
    Ok(swept)
}

/// Processes that the records of bundles name and that are still the same ones.
fn recorded(paths: &IsolationPaths) -> Vec<u32> {
    let Ok(bundles) = std::fs::read_dir(paths.bundles()) else { return vec![] };
    let records =
        bundles.flatten().filter_map(|entry| std::fs::read_to_string(entry.path().join(RECORD)).ok());
    let boot = process::boot_id().unwrap_or_default();
    records.flat_map(|text| still_there(&text, &boot, |pid| process::start_time(pid).ok())).collect()
}

/// The processes of one record that are the same ones: of this boot, and started when it says.
fn still_there(record: &str, boot: &str, start_time: impl Fn(u32) -> Option<u64>) -> Vec<u32> {
    let mut lines = record.lines();
    if lines.next().and_then(|line| line.strip_prefix("boot ")) != Some(boot) {
        return vec![];
    }
    lines
        .filter_map(|line| {
            let (pid, start) = line.split_once(' ')?;
            let pid: u32 = pid.parse().ok()?;
            (start_time(pid)? == start.parse::<u64>().ok()?).then_some(pid)
        })
        .collect()
}

/// Processes whose arguments say that they are ours: `runsc` with our state directory, and stages.
fn named(paths: &IsolationPaths) -> Vec<u32> {
    let mut root = std::ffi::OsString::from("--root=");
    root.push(paths.runsc_root());
    let executables = paths.executables();
    let own = std::process::id();
    let ours = |pid: &u32| {
        let words = process::arguments(*pid).unwrap_or_default();
        let stage = words.first().is_some_and(|word| Path::new(word).starts_with(&executables))
            && words.get(1).is_some_and(|word| word == ROLE);
        *pid != own && (stage || words.contains(&root))
    };
    process::all().unwrap_or_default().into_iter().filter(ours).collect()
}

/// Names the path that could not be set up.
fn setup(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeProblem {
    let path = path.to_owned();
    move |error| RuntimeProblem::Ground { doing: format!("{doing} {}", path.display()), error }
}

/// Makes the bundle root and what is directly in it, and takes its lock.
pub(super) fn bundle_root(paths: &IsolationPaths, identity: Identity) -> Result<Lock, RuntimeProblem> {
    let root = &paths.bundle_root;
    if let Some(parent) = root.parent() {
        std::fs::create_dir_all(parent).map_err(setup("making", parent))?;
    }
    let (owner, mode) = wall_mode(identity);
    let make = |path: &Path| files::directory(path, owner, mode).map_err(setup("preparing", path));
    make(root)?;
    let lock = files::lock(&root.join("lock")).map_err(setup("locking", root))?;
    let lock = lock.ok_or_else(|| RuntimeProblem::InUse { bundle_root: root.clone() })?;
    make(&paths.executables())?;
    for private in [paths.bundles(), paths.runsc_root()] {
        files::directory(&private, None, 0o700).map_err(setup("preparing", &private))?;
    }
    Ok(lock)
}

/// Copies this executable to a name that is its digest, unless it is there and whole. A bind mount needs a file
/// that an upgrade does not replace.
fn copy_executable(directory: &Path, identity: Identity) -> io::Result<(PathBuf, String)> {
    let mut content = Vec::new();
    File::open("/proc/self/exe")?.read_to_end(&mut content)?;
    let digest = hexadecimal(digest::digest(&digest::SHA256, &content).as_ref());
    let path = directory.join(&digest);
    let whole = std::fs::read(&path).is_ok_and(|copy| copy == content);
    let owner = identity.owner().map(|_| (0, 0));
    if !whole {
        let fresh = directory.join(format!("{digest}.new"));
        files::fresh_file(&fresh, owner, 0o700)?;
        let mut file = File::options().write(true).open(&fresh)?;
        file.write_all(&content)?;
        drop(file);
        files::set_mode(&fresh, 0o555)?;
        std::fs::rename(&fresh, &path)?;
    }
    files::set_mode(&path, 0o555)?;
    Ok((path, digest))
}

/// The shared root: mount points and nothing else.
fn make_rootfs(rootfs: &Path) -> io::Result<()> {
    let top = if fault::weakened("readonly_root") { 0o777 } else { 0o555 };
    files::directory(rootfs, None, 0o755)?;
    let points =
        plan::mount_points().map(|(point, is_file)| (rootfs.join(point.trim_start_matches('/')), is_file));
    for (path, is_file) in &points {
        if path.exists() {
            continue;
        }
        let directory = if *is_file { path.parent() } else { Some(path.as_path()) };
        directory.map_or(Ok(()), std::fs::create_dir_all)?;
        if *is_file {
            files::fresh_file(path, None, 0o444)?;
        }
    }
    // Only when all are made: an ordinary user cannot make one in a directory that is closed already.
    for (path, is_file) in &points {
        files::set_mode(path, if *is_file { 0o444 } else { top })?;
        for above in path.ancestors().skip(1).take_while(|above| *above != rootfs) {
            files::set_mode(above, top)?;
        }
    }
    files::set_mode(rootfs, top)
}

/// Removes the entries of a directory that `which` picks; returns how many. A missing directory is empty.
fn remove_children(directory: &Path, which: impl Fn(&std::ffi::OsStr) -> bool) -> io::Result<usize> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        if !which(&entry.file_name()) {
            continue;
        }
        files::remove_tree(&entry.path())?;
        removed += 1;
    }
    Ok(removed)
}

fn short_digest(path: &Path) -> String {
    let digest = digest::digest(&digest::SHA256, path.as_os_str().as_encoded_bytes());
    hexadecimal(digest.as_ref()).chars().take(8).collect()
}

/// Lower-case hexadecimal.
pub(super) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_a_process_only_in_its_own_boot_and_with_its_start() {
        let start = |pid| (pid != 9).then_some(u64::from(pid) * 10);
        let record = "boot abc\n7 70\n8 81\n9 90\nx 1\n";
        assert_eq!(still_there(record, "abc", start), [7]);
        assert_eq!(still_there(record, "abd", start), [0; 0]);
        assert_eq!(still_there("7 70\n", "", start), [0; 0]);
        assert_eq!(still_there("", "", start), [0; 0]);
    }

    #[test]
    fn a_sweep_ends_processes_of_our_own_ids_only() {
        let root = Ours::RootAndFrom(2_000_000_000);
        assert!(root.owns(0) && root.owns(2_000_000_007));
        assert!(!root.owns(1000) && !root.owns(65_534));
        let own = process::own_ids().0;
        assert!(Ours::OwnUser.owns(own) && !Ours::OwnUser.owns(own + 1));
    }
}
