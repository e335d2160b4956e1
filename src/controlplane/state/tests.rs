//! Tests of claiming directories and of private files.

use std::os::unix::fs::symlink;

use super::*;
use crate::contract::ids::SessionId;

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("state-{}", SessionId::mint()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn claim(path: &Path) -> Result<StateDir, StateError> {
    StateDir::claim(path, Wall::OrdinaryUser)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_new_directory_is_made_with_its_parts_and_is_ours_alone() {
    let scratch = Scratch::new();
    let path = scratch.0.join("missing/parents/state");
    let state = claim(&path).unwrap();
    assert_eq!(state.path(), path.canonicalize().unwrap());
    assert_eq!(mode(&path), 0o700);
    for (name, _) in SUBDIRECTORIES {
        assert_eq!(mode(&path.join(name)), 0o700, "{name}");
    }
    let error = claim(&path).unwrap_err();
    assert!(
        matches!(error, StateError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(error.to_string().contains(&format!("process {}", std::process::id())));
    drop(state);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    claim(&path).unwrap();
    assert_eq!(mode(&path), 0o700, "and set right when it is found again");
}

#[test]
fn a_dead_daemons_lock_is_waited_for() {
    let scratch = Scratch::new();
    let path = scratch.0.join("state");
    drop(claim(&path).unwrap());
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    fs::write(path.join(MARKER), format!("{MARKER_LINE}pid {}\n", dead.id())).unwrap();
    let lock = File::open(path.join(MARKER)).unwrap();
    flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    // What the daemon was starting when it was killed holds its lock until somebody is seen to wait for it.
    let waiter = format!(":{} 0 EOF", lock.metadata().unwrap().ino());
    let copy = std::thread::spawn(move || {
        let waits = |line: &str| line.contains("->") && line.ends_with(&waiter);
        while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
            std::thread::yield_now();
        }
        drop(lock);
    });
    claim(&path).unwrap();
    copy.join().unwrap();
}

#[test]
fn root_keeps_the_wall_in_the_group() {
    if !rustix::process::geteuid().is_root() {
        // Only root may give a directory away; an ordinary daemon never has this wall.
        return assert_eq!(Wall::of_this_process(5), Wall::OrdinaryUser);
    }
    let scratch = Scratch::new();
    let path = scratch.0.join("state");
    let state = StateDir::claim(&path, Wall::of_this_process(2_000_000_000)).unwrap();
    let run = RunDir::claim(&scratch.0.join("run"), &state).unwrap();
    for walled in [&path, &path.join("sessions"), &scratch.0.join("run"), &run.path().to_path_buf()] {
        let meta = fs::symlink_metadata(walled).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (0, 2_000_000_000, 0o710));
    }
    assert_eq!(mode(&path.join("shared")), 0o555);
}

#[test]
fn what_is_not_ours_is_refused_and_left_alone() {
    let scratch = Scratch::new();
    let theirs = scratch.0.join("theirs");
    fs::create_dir(&theirs).unwrap();
    fs::write(theirs.join("letter"), b"dear").unwrap();
    assert!(matches!(claim(&theirs), Err(StateError::NotOurs(_))));
    assert_eq!(fs::read_dir(&theirs).unwrap().count(), 1);

    fs::remove_file(theirs.join("letter")).unwrap();
    fs::write(theirs.join(MARKER), b"something else\n").unwrap();
    assert!(matches!(claim(&theirs), Err(StateError::NotOurs(_))));
    assert_eq!(fs::read(theirs.join(MARKER)).unwrap(), b"something else\n");

    symlink(&theirs, scratch.0.join("link")).unwrap();
    assert!(matches!(claim(&scratch.0.join("link")), Err(StateError::NotADirectory(_))));
    fs::write(scratch.0.join("file"), b"").unwrap();
    assert!(matches!(claim(&scratch.0.join("file")), Err(StateError::NotADirectory(_))));
    assert!(matches!(claim(&scratch.0.join("file/below")), Err(StateError::Io { .. })));

    let foreign = if rustix::process::geteuid().is_root() {
        let path = scratch.0.join("foreign");
        fs::create_dir(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        path
    } else {
        PathBuf::from("/usr")
    };
    let error = claim(&foreign).unwrap_err();
    assert!(matches!(error, StateError::Foreign { .. }), "{error}");
    assert!(!foreign.join(MARKER).exists());
}

#[test]
fn a_first_start_that_ended_early_is_taken_up() {
    let scratch = Scratch::new();
    let path = scratch.0.join("state");
    fs::create_dir(&path).unwrap();
    fs::write(path.join(MARKER), b"").unwrap();
    claim(&path).unwrap();
    let text = fs::read_to_string(path.join(MARKER)).unwrap();
    assert_eq!(text, format!("{MARKER_LINE}pid {}\n", std::process::id()));
    // A longer process id than ours leaves nothing of itself.
    fs::write(path.join(MARKER), format!("{MARKER_LINE}pid 4194304999\n")).unwrap();
    claim(&path).unwrap();
    assert_eq!(fs::read_to_string(path.join(MARKER)).unwrap(), text);
}

#[test]
fn run_directories_of_two_states_are_apart() {
    let scratch = Scratch::new();
    let one = claim(&scratch.0.join("one")).unwrap();
    let two = claim(&scratch.0.join("two")).unwrap();
    let parent = scratch.0.join("run");
    let first = RunDir::claim(&parent, &one).unwrap();
    let second = RunDir::claim(&parent, &two).unwrap();
    assert_ne!(first.path(), second.path());
    assert_eq!(one.digest().len(), 8);
    assert!(matches!(RunDir::claim(&parent, &one), Err(StateError::InUse { .. })));
    fs::write(first.path().join("doorbell.sock"), b"").unwrap();
    let path = first.path().to_path_buf();
    first.remove().unwrap();
    assert!(!path.exists() && second.path().exists());
    assert_eq!(RunDir::claim(&parent, &one).unwrap().path(), path);

    let long = scratch.0.join("x".repeat(60));
    let error = RunDir::claim(&long, &one).unwrap_err();
    assert!(matches!(error, StateError::PathTooLong { .. }), "{error}");
    assert!(!long.exists() && error.to_string().contains("shorter --model-proxy-socket"));

    let open = scratch.0.join("open");
    fs::create_dir(&open).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&open, Some(12345), None).unwrap();
        assert!(matches!(RunDir::claim(&open, &one), Err(StateError::OpenParent(_))));
    }
}

#[test]
fn a_durable_write_replaces_whole_and_leaves_nothing_beside() {
    let scratch = Scratch::new();
    let path = scratch.0.join("small");
    write_durably(&path, 0o600, b"one").unwrap();
    write_durably(&path, 0o644, b"two").unwrap();
    assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"two".to_vec(), 0o644));
    fs::create_dir(scratch.0.join("directory")).unwrap();
    assert!(write_durably(&scratch.0.join("directory"), 0o600, b"three").is_err());
    assert!(write_durably(&scratch.0.join("missing/small"), 0o600, b"three").is_err());
    assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2);
}

#[test]
fn a_private_file_is_read_only_when_it_is_private() {
    let scratch = Scratch::new();
    let path = scratch.0.join("key");
    let read = |readers| read_private(&path, 10, readers);
    assert!(matches!(read(Readers::OwnerOnly), Ok(None)));
    write_durably(&path, 0o600, b"secret").unwrap();
    assert_eq!(read(Readers::OwnerOnly).unwrap().unwrap(), b"secret");
    for (mode, owner_only, group_too, everybody) in [
        (0o640, false, true, true),
        (0o660, false, false, false),
        (0o604, false, false, true),
        (0o644, false, false, true),
        (0o602, false, false, false),
        (0o400, true, true, true),
    ] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(read(Readers::OwnerOnly).is_ok(), owner_only, "{mode:o}");
        assert_eq!(read(Readers::GroupToo).is_ok(), group_too, "{mode:o}");
        assert_eq!(read(Readers::Everybody).is_ok(), everybody, "{mode:o}");
    }
    write_durably(&path, 0o600, b"longer than ten").unwrap();
    assert!(matches!(read(Readers::OwnerOnly), Err(StateError::NotPrivate { .. })));
    let link = scratch.0.join("link");
    symlink(&path, &link).unwrap();
    assert!(matches!(read_private(&link, 100, Readers::OwnerOnly), Err(StateError::NotPrivate { .. })));
    assert!(matches!(read_private(&scratch.0, 100, Readers::OwnerOnly), Err(StateError::NotPrivate { .. })));
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert!(matches!(read_private(&path, 100, Readers::OwnerOnly), Err(StateError::NotPrivate { .. })));
    }
}

#[test]
fn only_root_s_directory_is_safe_to_share() {
    assert!(is_kept(0, 0o41777) && is_kept(0, 0o40755));
    assert!(!is_kept(0, 0o40777) && !is_kept(0, 0o40775));
    assert!(!is_kept(1000, 0o41777), "its owner may rename what others have in it");
    assert!(!is_kept(1000, 0o40755));
}
