//! Packages: trees of files that the operator puts under `packages/NAME@VERSION`. A tree is read through no link and
//! known by the digest of everything in it; one that is approved is copied to a directory of that digest's name, and
//! only such copies are ever shown to an agent. Nothing is unpacked. Touches `packages/` in the state directory.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use ring::digest::{Context, SHA256};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use super::Host;
use crate::contract::fault;
use crate::controlplane::isolation::wall_directory;
use crate::controlplane::session::{FreeSpace, Room};
use crate::controlplane::state::sync_directory;
use crate::os::files;

/// Files and directories of a package.
const MOST_FILES: u64 = 20_000;
/// Bytes of all its files.
const MOST_BYTES: u64 = 512 << 20;
/// Directories inside one another.
const MOST_DEPTH: usize = 32;
/// Longest name in it.
const NAME_BYTES: usize = 255;
/// A copy looks at the room on the disk after so many bytes of a file.
const ROOM_EVERY: u64 = 8 << 20;
/// The first line of what the digest covers.
const FIRST_LINE: &str = "ironclaw package 1\n";

/// A tree of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// SHA-256 over a line for each directory and file, in the order of their paths: kind, whether it can be
    /// executed, size, SHA-256 of the content, path. In hexadecimal.
    pub digest: String,
    /// Files and directories.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

/// What stands against a tree.
#[derive(Debug)]
enum Wrong {
    /// Something in it is not as it must be.
    Entry(String, &'static str),
    /// It is too large.
    Large(&'static str),
    /// The disk has too little room.
    NoRoom,
    /// The system refused.
    Os(String, io::Error),
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entry(path, wrong) => write!(f, "{path:?} in it {wrong}"),
            Self::Large(what) => f.write_str(what),
            Self::NoRoom => f.write_str("the disk would have too little room left (--min-free); make room"),
            Self::Os(path, error) => write!(f, "{path:?} in it: {error}"),
        }
    }
}

/// Reads the tree of a package.
///
/// # Errors
/// What is wrong with it, and what to do; safe to show once it is escaped.
pub fn look(host: &Host, name: &str, version: &str) -> Result<Tree, String> {
    let top = open(host, name, version)?;
    walk(&top, None).map_err(|wrong| format!("the package {name}@{version} cannot be used: {wrong}"))
}

/// What is known of the copies, so that a launch need not read them: of each what was found when it was read, with what
/// its directory was then.
#[derive(Debug, Default)]
pub(super) struct Copies {
    known: Mutex<BTreeMap<String, (Stamp, Read)>>,
    /// Held by whoever reads, makes or removes copies.
    turn: Mutex<()>,
}

/// A copy's directory, as far as a look at it tells: device, number, and the time of its last change.
type Stamp = (u64, u64, i64, u64);

/// What reading a copy came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// It is what its name says.
    Whole,
    /// It is not, and is not read again while its directory is the same.
    Altered,
    /// The system refused, which may pass.
    Refused,
}

impl Copies {
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn, unless somebody has it.
    fn try_turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, (Stamp, Read)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stamp(copy: &Path) -> Option<Stamp> {
    let stat = statat(CWD, copy, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    is_directory.then_some((stat.st_dev, stat.st_ino, stat.st_ctime, stat.st_ctime_nsec))
}

/// What reading a copy came to, if it is there and nobody has touched its directory since.
fn last_read(host: &Host, digest: &str) -> Option<Read> {
    let now = stamp(&host.store().join(digest))?;
    let (then, read) = host.copies.known().get(digest).copied()?;
    (now == then).then_some(read)
}

/// Whether a copy is there and is what its name says. Reads all of it, if nothing is known of it since this daemon
/// began, or its directory is not what it was.
fn is_whole(host: &Host, digest: &str) -> bool {
    match last_read(host, digest) {
        Some(Read::Whole) => return true,
        Some(Read::Altered) => return false,
        Some(Read::Refused) | None => {}
    }
    let copy = host.store().join(digest);
    let now = stamp(&copy);
    let top = openat(CWD, &copy, DIRECTORY, Mode::empty());
    let walked = top.map_err(|error| Wrong::Os(".".into(), error.into())).and_then(|top| walk(&top, None));
    let read = match walked {
        Ok(tree) if tree.digest == digest => Read::Whole,
        Err(Wrong::Os(..)) => Read::Refused,
        Ok(_) | Err(_) => Read::Altered,
    };
    let mut known = host.copies.known();
    match now {
        Some(now) => known.insert(digest.to_owned(), (now, read)),
        None => known.remove(digest),
    };
    now.is_some() && read == Read::Whole
}

/// Copies the tree of a package to where agents are shown it, unless a whole copy is there, and makes it durable.
///
/// # Errors
/// When the tree is not the one of this digest any more, when there is too little room, and whatever else is wrong; then
/// nothing is there.
pub fn keep(host: &Host, name: &str, version: &str, digest: &str) -> Result<(), String> {
    let _turn = host.copies.turn();
    let store = host.store();
    let io = |doing: &str, error: io::Error| format!("{doing} {}: {error}", store.display());
    if !store.is_dir() {
        wall_directory(&store, host.wall).map_err(|error| io("making", error))?;
        let above = store.parent().unwrap_or(&store);
        sync_directory(above).map_err(|error| io("making", error))?;
    }
    if is_whole(host, digest) {
        return Ok(());
    }
    let top = open(host, name, version)?;
    let (there, new) = (store.join(digest), store.join(format!("{digest}.new")));
    files::remove_tree(&new).map_err(|error| io("clearing", error))?;
    let copied = copy(host, &top, &new, name, version, digest);
    if copied.is_err() {
        // The first error is the one to tell; what stays is cleared by the next try.
        let _ = files::remove_tree(&new);
    }
    copied?;
    fault::point("apply.written");
    // What is there is not what its name says.
    files::remove_tree(&there).map_err(|error| io("clearing", error))?;
    std::fs::rename(&new, &there)
        .and_then(|()| sync_directory(&store))
        .map_err(|error| io("renaming in", error))?;
    host.copies.known().extend(stamp(&there).map(|stamp| (digest.to_owned(), (stamp, Read::Whole))));
    Ok(())
}

/// Where the copy of a package is, for a launch. One that is lost or was altered is made again, if the operator's
/// directory still is what was approved.
///
/// # Errors
/// Why there is none, and what to do.
pub(super) fn copied(host: &Host, name: &str, version: &str, digest: &str) -> Result<PathBuf, String> {
    if last_read(host, digest) != Some(Read::Whole) {
        keep(host, name, version, digest).map_err(|why| lost(name, version, &why))?;
    }
    Ok(host.store().join(digest))
}

/// Where the copy of a package is, for people who ask what is wrong: as far as that is known, for it neither reads the
/// copy nor waits for whoever does. Mends nothing.
///
/// # Errors
/// What is wrong with it.
pub(super) fn known(host: &Host, name: &str, version: &str, digest: &str) -> Result<PathBuf, String> {
    let copy = host.store().join(digest);
    if last_read(host, digest) == Some(Read::Whole) {
        return Ok(copy);
    }
    let Some(_turn) = host.copies.try_turn() else {
        return Err(format!(
            "package {name}@{version}: copies are being read or made; look again in a while"
        ));
    };
    // Once more: whoever had the turn may have read it.
    let is_read = host.copies.known().contains_key(digest);
    match last_read(host, digest) {
        Some(Read::Whole) => Ok(copy),
        // Not read since the start, and the next launch does.
        None if !is_read && stamp(&copy).is_some() => Ok(copy),
        _ => {
            let next =
                format!("it is made again at a launch while packages/{name}@{version} is as it was approved");
            Err(lost(name, version, &next))
        }
    }
}

fn lost(name: &str, version: &str, why: &str) -> String {
    format!("package {name}@{version}: its copy is lost or was altered: {why}")
}

/// Removes the copies that are not used, and what a crash left of others. Who says which are used is asked while nobody
/// copies.
///
/// # Errors
/// What `used` says; what cannot be removed is left for the next time.
pub fn collect<E>(host: &Host, used: impl FnOnce() -> Result<BTreeSet<String>, E>) -> Result<u64, E> {
    let _turn = host.copies.turn();
    let Ok(copies) = std::fs::read_dir(host.store()) else { return Ok(0) };
    let (used, mut removed) = (used()?, 0);
    for copy in copies.flatten() {
        let name = copy.file_name().to_string_lossy().into_owned();
        if !used.contains(&name) && files::remove_tree(&copy.path()).is_ok() {
            host.copies.known().remove(&name);
            removed += 1;
        }
    }
    Ok(removed)
}

fn copy(
    host: &Host,
    top: &OwnedFd,
    new: &Path,
    name: &str,
    version: &str,
    digest: &str,
) -> Result<(), String> {
    let failed = |wrong: Wrong| format!("the package {name}@{version} cannot be copied: {wrong}");
    let os = |error: io::Error| failed(Wrong::Os(".".into(), error));
    files::directory(new, None, 0o700).map_err(os)?;
    let to = openat(CWD, new, DIRECTORY, Mode::empty()).map_err(|error| os(error.into()))?;
    let tree = walk(top, Some((&to, &host.space))).map_err(failed)?;
    if tree.digest != digest {
        return Err(format!(
            "the files of packages/{name}@{version} are not those that were approved (their digest is {}); put those \
             back",
            tree.digest
        ));
    }
    Ok(())
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

fn open(host: &Host, name: &str, version: &str) -> Result<OwnedFd, String> {
    // Both were checked to be plain names when they were asked for; the path is made of nothing else.
    let path = host.state.join("packages").join(format!("{name}@{version}"));
    openat(CWD, &path, DIRECTORY, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => format!(
            "there is no package {name}@{version}; put its files into the directory {}",
            path.display()
        ),
        Errno::NOTDIR | Errno::LOOP => {
            format!("{} is not a directory; put the package's files into one of that name", path.display())
        }
        error => format!("{}: {error}", path.display()),
    })
}

struct Walk<'a> {
    context: Context,
    files: u64,
    bytes: u64,
    /// Asked while a copy is made.
    space: Option<&'a FreeSpace>,
}

/// Reads a tree, and copies it where somewhere is given.
fn walk(top: &OwnedFd, to: Option<(&OwnedFd, &FreeSpace)>) -> Result<Tree, Wrong> {
    let space = to.map(|(_, space)| space);
    let mut walk = Walk { context: Context::new(&SHA256), files: 0, bytes: 0, space };
    walk.context.update(FIRST_LINE.as_bytes());
    walk.directory(top.as_fd(), to.map(|(to, _)| to.as_fd()), "", 0)?;
    Ok(Tree { digest: hex(walk.context.finish().as_ref()), files: walk.files, bytes: walk.bytes })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Walk<'_> {
    /// Sees to it that a copy leaves the room that launches need.
    fn room(&self) -> Result<(), Wrong> {
        match self.space.map(FreeSpace::room) {
            None | Some(Room::Enough) => Ok(()),
            Some(_) => Err(Wrong::NoRoom),
        }
    }

    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: Option<BorrowedFd<'_>>,
        path: &str,
        depth: usize,
    ) -> Result<(), Wrong> {
        let os = |error: io::Error| Wrong::Os(if path.is_empty() { "." } else { path }.to_owned(), error);
        for name in self.names(from, path)? {
            let below = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            let os = |error: Errno| Wrong::Os(below.clone(), error.into());
            let stat = statat(from, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(os)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    if depth + 1 >= MOST_DEPTH {
                        return Err(Wrong::Entry(below, "is deeper than 32 directories"));
                    }
                    let inner = openat(from, &name, DIRECTORY, Mode::empty()).map_err(os)?;
                    let made = match to {
                        Some(to) => {
                            rustix::fs::mkdirat(to, &name, Mode::RWXU).map_err(os)?;
                            Some(openat(to, &name, DIRECTORY, Mode::empty()).map_err(os)?)
                        }
                        None => None,
                    };
                    self.context.update(format!("d {below}\n").as_bytes());
                    self.directory(inner.as_fd(), made.as_ref().map(AsFd::as_fd), &below, depth + 1)?;
                }
                FileType::RegularFile => self.file(from, to, &name, &below)?,
                FileType::Symlink => {
                    return Err(Wrong::Entry(below, "is a symbolic link; put the file itself there"));
                }
                _ => return Err(Wrong::Entry(below, "is neither a regular file nor a directory")),
            }
        }
        if let Some(to) = to {
            // Closed only when all is in it, and durable before the copy has its name.
            rustix::fs::fchmod(to, Mode::from_raw_mode(0o555)).map_err(|error| os(error.into()))?;
            rustix::fs::fsync(to).map_err(|error| os(error.into()))?;
        }
        Ok(())
    }

    /// The names in a directory, in order; each is counted.
    fn names(&mut self, directory: BorrowedFd<'_>, path: &str) -> Result<Vec<String>, Wrong> {
        let os = |error: Errno| Wrong::Os(if path.is_empty() { "." } else { path }.to_owned(), error.into());
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(os)? {
            let entry = entry.map_err(os)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.files += 1;
            if self.files > MOST_FILES {
                return Err(Wrong::Large("it has more than 20000 files and directories"));
            }
            let shown = name.to_string_lossy().into_owned();
            match name.to_str() {
                Ok(name) if name.len() <= NAME_BYTES && !name.chars().any(char::is_control) => {
                    names.push(name.to_owned());
                }
                _ => {
                    return Err(Wrong::Entry(
                        shown,
                        "has a name that is no text, or holds control characters",
                    ));
                }
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: Option<BorrowedFd<'_>>,
        name: &str,
        path: &str,
    ) -> Result<(), Wrong> {
        let os = |error: io::Error| Wrong::Os(path.to_owned(), error);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let mut file =
            File::from(openat(from, name, flags, Mode::empty()).map_err(|error| os(error.into()))?);
        // By its descriptor: the name could be something else by now.
        let stat = fstat(&file).map_err(|error| os(error.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(Wrong::Entry(path.to_owned(), "is not a regular file"));
        }
        if stat.st_mode & 0o7000 != 0 {
            return Err(Wrong::Entry(path.to_owned(), "has a set-uid, set-gid or sticky bit; chmod it"));
        }
        let executable = stat.st_mode & 0o111 != 0;
        self.room()?;
        let mut copy = match to {
            Some(to) => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = openat(to, name, flags, Mode::RUSR | Mode::WUSR);
                Some(File::from(made.map_err(|error| os(error.into()))?))
            }
            None => None,
        };
        let (mut content, mut size) = (Context::new(&SHA256), 0u64);
        let mut part = vec![0u8; 64 << 10];
        loop {
            let count = file.read(&mut part).map_err(os)?;
            let read = part.get(..count).unwrap_or_default();
            if read.is_empty() {
                break;
            }
            size += read.len() as u64;
            self.bytes += read.len() as u64;
            if self.bytes > MOST_BYTES {
                return Err(Wrong::Large("its files have more than 512 MiB"));
            }
            content.update(read);
            if let Some(copy) = &mut copy {
                copy.write_all(read).map_err(os)?;
                if size % ROOM_EVERY < read.len() as u64 {
                    self.room()?;
                }
            }
        }
        if let Some(copy) = copy {
            let mode = Mode::from_raw_mode(if executable { 0o555 } else { 0o444 });
            rustix::fs::fchmod(&copy, mode).map_err(|error| os(error.into()))?;
            copy.sync_all().map_err(os)?;
        }
        let mark = if executable { 'x' } else { '-' };
        let digest = hex(content.finish().as_ref());
        self.context.update(format!("f {mark} {size} {digest} {path}\n").as_bytes());
        Ok(())
    }
}
