//! The state directory and the run directory: claiming them for this daemon alone, their modes, and the one
//! way to write a small file durably or to read a private one. Touches the file system below the two
//! directories (and makes missing parents), nothing else.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use crate::contract::fault;
use crate::os::process;

/// Marks a directory as ours and carries the lock; its second line names the process that holds it.
const MARKER: &str = "ironclaw.state";
/// First line of the marker.
const MARKER_LINE: &str = "ironclaw state 1\n";
/// How long a dead daemon's lock may last; it lasts milliseconds.
const OUTLAST: Duration = Duration::from_secs(5);
/// More than the two lines of a marker ever take.
const MARKER_BYTES: u64 = 128;
/// `sun_path` holds 108 bytes with its final zero.
const SOCKET_PATH_BYTES: usize = 107;
/// What the longest socket adds to the run directory: `/ses_` + 26 characters + `/doorbell.sock`.
const SOCKET_TAIL_BYTES: usize = 1 + 30 + "/doorbell.sock".len();

/// Who the daemon is, which decides what modes can protect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wall {
    /// An ordinary user: directories are 0700 and modes protect nothing against an escape.
    OrdinaryUser,
    /// Root: directories are root's, their group is the host id that maps a sandbox's root, mode 0710.
    Root {
        /// That host id (`--sandbox-uid-base`).
        mapped_root: u32,
    },
}

impl Wall {
    /// The wall of this process. Root of a user namespace that does not hold the ids for sandboxes is no more
    /// than an ordinary user here.
    pub fn of_this_process(sandbox_uid_base: u32) -> Self {
        let maps = ["/proc/self/uid_map", "/proc/self/gid_map"];
        let holds_ids =
            || maps.iter().all(|map| fs::read_to_string(map).is_ok_and(|map| holds(&map, sandbox_uid_base)));
        if rustix::process::geteuid().is_root() && holds_ids() {
            Self::Root { mapped_root: sandbox_uid_base }
        } else {
            Self::OrdinaryUser
        }
    }
}

/// Whether a namespace's id map (lines of inner first id, outer first id, count; user_namespaces(7)) holds the
/// wall's id and room for agent groups after it.
fn holds(map: &str, base: u32) -> bool {
    const GROUPS: u64 = 1_000;
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
        let (first, _, count) = (numbers.next().unwrap_or(0), numbers.next(), numbers.next().unwrap_or(0));
        first <= u64::from(base) && u64::from(base) + GROUPS < first + count
    })
}

/// Why a directory could not be claimed, or a file in it not be read or written. Each message ends with
/// the next step.
#[derive(Debug)]
pub enum StateError {
    /// It is a symbolic link or no directory.
    NotADirectory(PathBuf),
    /// It belongs to another user.
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// It holds something and no marker of ours.
    NotOurs(PathBuf),
    /// Another daemon holds the lock.
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other daemon, when it could be read.
        pid: Option<u32>,
    },
    /// A parent lets other users replace what is inside it.
    OpenParent(PathBuf),
    /// Socket paths below it would be too long.
    PathTooLong {
        /// The run directory.
        path: PathBuf,
        /// Bytes too many.
        over: usize,
    },
    /// A file that must be private is not: the text says what is wrong.
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        wrong: String,
    },
    /// The system refused.
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotADirectory(path) => write!(
                f,
                "{} is a symbolic link or no directory; name the real directory with --state-dir \
                 (or the socket's with --model-proxy-socket)",
                path.display()
            ),
            Self::Foreign { path, owner } => write!(
                f,
                "{} belongs to user id {owner}, not to this user ({}); start ironclaw as its owner, \
                 or choose another directory with --state-dir",
                path.display(),
                rustix::process::geteuid().as_raw()
            ),
            Self::NotOurs(path) => write!(
                f,
                "{} is not empty and not an ironclaw state directory (it has no {MARKER}); choose an empty or \
                 new directory with --state-dir",
                path.display()
            ),
            Self::InUse { path, pid } => {
                write!(f, "{} is in use by another ironclaw", path.display())?;
                if let Some(pid) = pid {
                    write!(f, " (process {pid})")?;
                }
                f.write_str("; stop that one first, or choose another directory with --state-dir")
            }
            Self::OpenParent(path) => write!(
                f,
                "{} can be written by other users, who could replace what ironclaw keeps in it; take that \
                 right away (chmod go-w), or choose another directory",
                path.display()
            ),
            Self::PathTooLong { path, over } => write!(
                f,
                "socket paths below {} would be {over} bytes longer than a unix socket allows \
                 ({SOCKET_PATH_BYTES}); choose a shorter --model-proxy-socket",
                path.display()
            ),
            Self::NotPrivate { path, wrong } => write!(f, "{} {wrong}", path.display()),
            Self::Io { doing, path, error } => {
                write!(f, "cannot {doing} {}: {error}", path.display())?;
                match error.kind() {
                    io::ErrorKind::PermissionDenied => f.write_str(
                        "; give this user access to it, or choose another directory with --state-dir",
                    ),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                        f.write_str("; free some space and start again")
                    }
                    io::ErrorKind::ReadOnlyFilesystem => {
                        f.write_str("; choose a writable directory with --state-dir")
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for StateError {}

/// Puts what was being done, and to what, beside the system's word.
fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StateError {
    let path = path.to_path_buf();
    move |error| StateError::Io { doing, path: path.clone(), error }
}

/// The state directory, ours while this value lives.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    wall: Wall,
    _lock: Held,
}

impl StateDir {
    /// Makes or takes over the state directory, sets its modes, and locks it until the value is dropped.
    ///
    /// # Errors
    /// Refuses a symbolic link, another user's directory, one that holds something else, and one that
    /// another daemon holds.
    pub fn claim(path: &Path, wall: Wall) -> Result<Self, StateError> {
        make_directory(path, wall)?;
        let lock = lock(path, wall)?;
        let path = path.canonicalize().map_err(failed("resolve", path))?;
        set_directory(&path, wall, TOP_MODE)?;
        sweep_unfinished(&path).map_err(failed("sweep", &path))?;
        for (name, mode) in SUBDIRECTORIES {
            let below = path.join(name);
            make_directory(&below, wall)?;
            set_directory(&below, wall, mode)?;
        }
        Ok(Self { path, wall, _lock: lock })
    }

    /// Whether a daemon has run on this directory before.
    pub fn was_claimed(path: &Path) -> bool {
        fs::symlink_metadata(path.join(MARKER)).is_ok()
    }

    /// The process that holds the lock of this directory now, if the kernel's list of locks shows one. Nothing is
    /// locked to find out, so nobody who starts meanwhile is kept from it.
    pub fn holder(path: &Path) -> Option<u32> {
        let marker = path.join(MARKER);
        let found = fs::symlink_metadata(&marker).ok()?;
        let inode = format!(":{}", found.ino());
        let is_same = |file: &Path, found: &fs::Metadata| {
            file.metadata().is_ok_and(|file| (file.dev(), file.ino()) == (found.dev(), found.ino()))
        };
        let locks = fs::read_to_string("/proc/locks").ok()?;
        // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF` (proc_locks(5))
        locks.lines().find_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, "FLOCK", _, "WRITE", pid, file, ..] = words[..] else { return None };
            let pid = file.ends_with(&inode).then(|| pid.parse().ok()).flatten()?;
            // Another filesystem's file may have the same number; where its files cannot be seen it counts.
            process::has_open(pid, |file| is_same(file, &found)).unwrap_or(true).then_some(pid)
        })
    }

    /// Its canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who may pass through it.
    pub fn wall(&self) -> Wall {
        self.wall
    }

    /// Something in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The first 8 hexadecimal digits of the SHA-256 of its canonical path: tells daemons of one machine apart.
    pub fn digest(&self) -> String {
        let digest = digest(&SHA256, self.path.as_os_str().as_bytes());
        digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The directory of this daemon's sockets, ours while this value lives.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Held,
}

impl RunDir {
    /// Makes or takes over `parent/DIGEST`, where `parent` is the directory of `--model-proxy-socket` and
    /// DIGEST is [`StateDir::digest`], and locks it. What an earlier run left in it is not touched.
    ///
    /// # Errors
    /// As [`StateDir::claim`], and when socket paths below it would not fit.
    pub fn claim(parent: &Path, state: &StateDir) -> Result<Self, StateError> {
        let mut path = parent.join(state.digest());
        let over = |path: &Path| {
            (path.as_os_str().len() + SOCKET_TAIL_BYTES)
                .checked_sub(SOCKET_PATH_BYTES)
                .filter(|&over| over > 0)
        };
        if let Some(over) = over(&path) {
            return Err(StateError::PathTooLong { path, over });
        }
        let parent_is_new = fs::symlink_metadata(parent).is_err();
        make_parent(parent, state.wall)?;
        if parent_is_new {
            set_directory(parent, state.wall, TOP_MODE)?;
        }
        make_directory(&path, state.wall)?;
        let lock = lock(&path, state.wall)?;
        path = path.canonicalize().map_err(failed("resolve", &path))?;
        if let Some(over) = over(&path) {
            return Err(StateError::PathTooLong { path, over });
        }
        set_directory(&path, state.wall, TOP_MODE)?;
        Ok(Self { path, _lock: lock })
    }

    /// Its canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Deletes it with everything in it. The lock is held until the end, so nobody else can be inside.
    ///
    /// # Errors
    /// When something in it cannot be deleted.
    pub fn remove(self) -> Result<(), StateError> {
        fs::remove_dir_all(&self.path).map_err(failed("delete", &self.path))
    }
}

/// Mode of a directory that sandboxes pass through: (root, ordinary user).
const TOP_MODE: (u32, u32) = (0o710, 0o700);

/// What a state directory holds. `shared` is mounted itself, so the sandboxes' users must be able to read it;
/// of the others only what is below is mounted.
const SUBDIRECTORIES: [(&str, (u32, u32)); 7] = [
    ("sessions", TOP_MODE),
    ("workspaces", TOP_MODE),
    ("memory", TOP_MODE),
    ("packages", TOP_MODE),
    ("skills", TOP_MODE),
    ("shared", (0o555, 0o700)),
    ("mounts", TOP_MODE),
];

/// Makes the directory and missing parents, and checks that it is a directory of ours.
fn make_directory(path: &Path, wall: Wall) -> Result<(), StateError> {
    let meta = make_missing(path, wall)?;
    if is_mine(&meta) {
        Ok(())
    } else {
        Err(StateError::Foreign { path: path.to_path_buf(), owner: meta.uid() })
    }
}

/// Makes the directory and missing parents. One that is not ours must be root's, because a directory's owner can
/// rename whatever is in it; and others must not be able to write in it, or be kept to their own by the sticky bit.
fn make_parent(path: &Path, wall: Wall) -> Result<(), StateError> {
    let meta = make_missing(path, wall)?;
    if is_mine(&meta) || is_kept(meta.uid(), meta.mode()) {
        Ok(())
    } else {
        Err(StateError::OpenParent(path.to_path_buf()))
    }
}

fn is_kept(owner: u32, mode: u32) -> bool {
    owner == 0 && (mode & 0o1000 != 0 || mode & 0o022 == 0)
}

fn is_mine(meta: &fs::Metadata) -> bool {
    meta.uid() == rustix::process::geteuid().as_raw()
}

fn make_missing(path: &Path, wall: Wall) -> Result<fs::Metadata, StateError> {
    let mode = match wall {
        Wall::OrdinaryUser => 0o700,
        Wall::Root { .. } => 0o711,
    };
    if let Err(error) = fs::symlink_metadata(path) {
        if error.kind() != io::ErrorKind::NotFound {
            return Err(failed("look at", path)(error));
        }
        fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(failed("make", path))?;
    }
    let meta = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    if meta.is_dir() { Ok(meta) } else { Err(StateError::NotADirectory(path.to_path_buf())) }
}

/// Sets owner, group and mode where they differ.
fn set_directory(path: &Path, wall: Wall, modes: (u32, u32)) -> Result<(), StateError> {
    let meta = fs::symlink_metadata(path).map_err(failed("look at", path))?;
    let mode = match wall {
        Wall::OrdinaryUser => modes.1,
        Wall::Root { mapped_root } => {
            let group = if modes == TOP_MODE { mapped_root } else { 0 };
            if meta.gid() != group {
                std::os::unix::fs::lchown(path, None, Some(group))
                    .map_err(failed("set the group of", path))?;
            }
            modes.0
        }
    };
    if meta.mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
            .map_err(failed("set the mode of", path))?;
    }
    Ok(())
}

/// The file of the accounts on platforms, in a state directory.
pub const CHANNELS: &str = "channels.toml";

/// Finds or makes the marker, and locks it. The marker of an empty directory is made and locked before it is
/// filled, so that of two first starts one wins and the other sees a lock, not a foreign directory.
fn lock(path: &Path, wall: Wall) -> Result<Held, StateError> {
    let marker = path.join(MARKER);
    if fs::symlink_metadata(&marker).is_err() {
        let mut entries = fs::read_dir(path).map_err(failed("read", path))?;
        // Who writes down the accounts before the first start has done nothing wrong.
        let is_known = |name: &OsStr| name == MARKER || name == CHANNELS;
        if !entries.all(|entry| entry.is_ok_and(|entry| is_known(&entry.file_name()))) {
            return Err(StateError::NotOurs(path.to_path_buf()));
        }
    }
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed() | OFlags::NONBLOCK.bits().cast_signed())
        .open(&marker)
        .map_err(failed("open", &marker))?;
    let mut locked = flock(&file, FlockOperation::NonBlockingLockExclusive);
    let mut found = String::new();
    let read = Read::take(&file, MARKER_BYTES).read_to_string(&mut found);
    let pid = found.lines().nth(1).and_then(|line| line.strip_prefix("pid ")?.parse().ok());
    if locked == Err(Errno::WOULDBLOCK) && pid.is_some_and(has_ended) {
        locked = outlast(&file);
    }
    if let Err(error) = locked {
        return Err(match error {
            Errno::WOULDBLOCK => StateError::InUse { path: path.to_path_buf(), pid },
            other => failed("lock", &marker)(other.into()),
        });
    }
    // An empty marker is a first start that ended before it wrote one.
    if read.is_err() || !(found.is_empty() || found.starts_with(MARKER_LINE)) {
        return Err(StateError::NotOurs(path.to_path_buf()));
    }
    // A run directory may have been removed by its owner between our open and our lock.
    let same = |a: &fs::Metadata, b: &fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    let ours = file.metadata().map_err(failed("look at", &marker))?;
    if !fs::symlink_metadata(&marker).is_ok_and(|there| same(&there, &ours)) {
        make_directory(path, wall)?;
        return lock(path, wall);
    }
    let text = format!("{MARKER_LINE}pid {}\n", std::process::id());
    file.write_all_at(text.as_bytes(), 0)
        .and_then(|()| file.set_len(text.len() as u64))
        .and_then(|()| if found.is_empty() { file.sync_all() } else { Ok(()) })
        .map_err(failed("write", &marker))?;
    Ok(Held(file))
}

/// A held lock. It ends with the value and not with the last copy of the descriptor: a child that is being made has
/// one until it becomes its program.
#[derive(Debug)]
struct Held(File);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Waits for a lock whose owner is dead. A daemon that was killed while it started another program leaves a copy
/// of itself, which holds the lock until the moment it becomes that program.
fn outlast(file: &File) -> Result<(), Errno> {
    let file = file.try_clone().map_err(|_| Errno::WOULDBLOCK)?;
    let (sender, locked) = std::sync::mpsc::channel();
    // A blocking lock has no time limit. Who gives up here ends, and the thread with it.
    std::thread::spawn(move || sender.send(flock(&file, FlockOperation::LockExclusive)));
    locked.recv_timeout(OUTLAST).unwrap_or(Err(Errno::WOULDBLOCK))
}

/// Writes a small file so that after a crash either the old or the new content is there, whole: a temporary
/// file of its own name, fsync, rename, fsync of the directory.
///
/// # Errors
/// When the system refuses any step; the old file is then still there.
pub fn write_durably(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), StateError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let unique = crate::contract::ids::MessageId::mint();
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{unique}.tmp"));
    let temporary = directory.join(name);
    let written = (|| {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        // The umask took bits away; the mode asked for is the mode meant.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fault::point("durable.written");
        fs::rename(&temporary, path)?;
        fault::point("durable.renamed");
        sync_directory(directory)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(failed("write", path))
}

/// Removes what [`write_durably`] left when it was killed: half a secret, or a whole one that nobody will look for.
fn sweep_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let stem = name.to_str().and_then(|name| name.strip_suffix(".tmp")?.rsplit_once('.'));
        if stem.is_some_and(|(_, unique)| crate::contract::ids::MessageId::parse(unique).is_ok()) {
            fs::remove_file(directory.join(&name))?;
        }
    }
    Ok(())
}

/// Makes renames and new names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(rustix::fs::fsync(directory)?)
}

/// Who else may read a file that nobody else may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Nobody but its owner.
    OwnerOnly,
    /// Its group too: systemd hands credentials to a service user by an access list, which shows as group bits.
    GroupToo,
    /// Everybody: it is no secret, but nobody else may write it.
    Everybody,
}

/// Reads a small file that must be this user's own: a regular file, no symbolic link, owned by this user or root,
/// with no right for others but that of its `readers`. `None` when there is none.
///
/// # Errors
/// [`StateError::NotPrivate`] with what is wrong and how to mend it, or what the system said.
pub fn read_private(path: &Path, most_bytes: usize, readers: Readers) -> Result<Option<Vec<u8>>, StateError> {
    let wrong = |wrong: String| StateError::NotPrivate { path: path.to_path_buf(), wrong };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP) => {
            return Err(wrong("is a symbolic link; put the file itself there".to_owned()));
        }
        Err(error) => return Err(failed("open", path)(error.into())),
    };
    let meta = file.metadata().map_err(failed("look at", path))?;
    let me = rustix::process::geteuid().as_raw();
    let forbidden = match readers {
        Readers::OwnerOnly => 0o077,
        Readers::GroupToo => 0o027,
        Readers::Everybody => 0o022,
    };
    if !meta.is_file() {
        return Err(wrong("is not a regular file; put a regular file there".to_owned()));
    }
    if meta.uid() != me && meta.uid() != 0 {
        let owner = meta.uid();
        return Err(wrong(format!("belongs to user id {owner}; it must be this user's ({me}): chown it")));
    }
    if meta.mode() & forbidden != 0 {
        let mode = meta.mode() & 0o777;
        return Err(wrong(match readers {
            Readers::Everybody => {
                format!("has mode {mode:04o}, so other users may write it; run chmod go-w on it")
            }
            _ => format!("has mode {mode:04o}, so other users may use it; run chmod 600 on it"),
        }));
    }
    let mut bytes = Vec::with_capacity(most_bytes.min(4096));
    let most = u64::try_from(most_bytes).unwrap_or(u64::MAX);
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if bytes.len() > most_bytes {
        return Err(wrong(format!("is longer than {most_bytes} bytes; it cannot be what is expected there")));
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
