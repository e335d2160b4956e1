//! Directories of the jail: what is in one, and files that are changed as they were seen, moved or deleted. As everywhere in
//! the jail, no link is followed, and nothing is opened that could hold whoever opens it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::{FILE_BYTES, Inside, Jail, JailError};

/// Most entries of a directory that are looked at.
const ENTRIES: usize = 10_000;
/// How often a change is made anew when somebody else has changed the file meanwhile.
const TRIES: usize = 8;
/// The name that one has who changes files of a directory.
const TURN: &str = ".ironclaw-turn";
/// A change takes some milliseconds; a turn that is older was left by somebody who is gone.
const ABANDONED: Duration = Duration::from_secs(20);
/// The longest wait for a turn.
const PATIENCE: Duration = Duration::from_secs(25);
const PAUSE: Duration = Duration::from_millis(3);
/// Beginning of the names under which files are written before they take their place.
const BESIDE: &str = ".ironclaw-";

/// What is under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file, and its size.
    File(u64),
    /// A directory.
    Directory,
    /// A link, a pipe, a device: nothing that can be read here.
    Other,
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name; what is not UTF-8 in it is replaced.
    pub name: String,
    /// What is there.
    pub kind: Kind,
}

/// What is in a directory, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The entries.
    pub entries: Vec<Entry>,
    /// There are more than were looked at.
    pub is_cut: bool,
}

/// What a change makes of a file: its new content, and what is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed<T> {
    /// All that the file is to hold.
    pub content: Vec<u8>,
    /// The result.
    pub told: T,
}

/// The right to change files of a directory by their content. Locks of the system do not reach from one sandbox into
/// another; a name that only one can make does.
struct Turn<'a>(&'a OwnedFd);

impl<'a> Turn<'a> {
    fn take(directory: &'a OwnedFd) -> Result<Self, JailError> {
        let begun = Instant::now();
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        loop {
            match rustix::fs::openat(directory, TURN, flags, Mode::RUSR | Mode::WUSR) {
                Ok(_) => return Ok(Self(directory)),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            // Whoever made it may have been killed; nobody holds it for long.
            let made = rustix::fs::statat(directory, TURN, AtFlags::SYMLINK_NOFOLLOW);
            let age = made.ok().and_then(|stat| age(&stat));
            if age.is_some_and(|age| age > ABANDONED) {
                super::remove(directory.as_fd(), TURN)?;
            } else if begun.elapsed() > PATIENCE {
                return Err(JailError::Busy);
            } else {
                std::thread::sleep(PAUSE);
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // What stays is taken away when it is old.
        let _ = super::remove(self.0.as_fd(), TURN);
    }
}

fn age(stat: &Stat) -> Option<Duration> {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "widths differ between machines")]
    let made = UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(stat.st_mtime as i64).ok()?))?;
    SystemTime::now().duration_since(made).ok()
}

/// What tells one state of a file from another.
type Seen = (u64, u64, i64, i64, i64);

fn seen(stat: &Stat) -> Seen {
    // The widths differ between machines.
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "they differ between machines")]
    let seen = (
        stat.st_ino as u64,
        u64::try_from(stat.st_size).unwrap_or_default(),
        stat.st_mtime as i64,
        stat.st_mtime_nsec as i64,
        stat.st_ctime_nsec as i64,
    );
    seen
}

impl Jail {
    /// What is in a directory; the empty path is the root.
    ///
    /// # Errors
    /// Says what is there instead.
    pub fn list(&self, path: &str) -> Result<Listing, JailError> {
        let (names, _) = self.names(path)?;
        let directory = self.readable(&names)?;
        let mut listing = Listing::default();
        for entry in Dir::read_from(&directory)? {
            let entry = entry?;
            let raw = entry.file_name();
            if matches!(raw.to_bytes(), b"." | b"..") || raw.to_bytes().starts_with(BESIDE.as_bytes()) {
                continue;
            }
            if listing.entries.len() == ENTRIES {
                listing.is_cut = true;
                break;
            }
            let kind = match rustix::fs::statat(&directory, raw, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => kind(&stat),
                // It went meanwhile.
                Err(Errno::NOENT) => continue,
                // gVisor does not look at devices and sockets of the host.
                Err(_) => Kind::Other,
            };
            listing.entries.push(Entry { name: raw.to_string_lossy().into_owned(), kind });
        }
        listing.entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(listing)
    }

    /// Changes a file by its content; `change` gets `None` where there is no file yet. When somebody else has changed it
    /// meanwhile, it is read again; two changes come one after the other, and none is lost.
    ///
    /// # Errors
    /// What `change` says, or why it cannot be written; then the file is what it was before.
    pub fn change<T, E: From<JailError>>(
        &self,
        path: &Inside,
        stamp: &str,
        change: impl Fn(Option<Vec<u8>>) -> Result<Changed<T>, E>,
    ) -> Result<T, E> {
        let parent = self.made(&path.parents).map_err(E::from)?;
        let _turn = Turn::take(&parent).map_err(E::from)?;
        for _ in 0..TRIES {
            let before = self.state(path).map_err(E::from)?;
            let content = match before {
                None => None,
                Some(_) => Some(self.read(path).map_err(E::from)?),
            };
            let Changed { content, told } = change(content)?;
            if content.len() > FILE_BYTES {
                return Err(JailError::TooLarge.into());
            }
            let is_as_seen = |parent: BorrowedFd<'_>| match state_at(parent, &path.name)? == before {
                true => Ok(()),
                false => Err(JailError::Taken),
            };
            match self.write_if(path, &content, stamp, &is_as_seen) {
                Err(JailError::Taken) => {}
                Err(error) => return Err(error.into()),
                Ok(()) => return Ok(told),
            }
        }
        Err(JailError::Busy.into())
    }

    /// Moves a file or directory to where nothing is yet, and makes the directories above it.
    ///
    /// # Errors
    /// Says why; then nothing was moved.
    pub fn rename(&self, from: &Inside, to: &Inside) -> Result<(), JailError> {
        let source = self.directory(&from.parents)?;
        if kind(&rustix::fs::statat(&source, &from.name, AtFlags::SYMLINK_NOFOLLOW)?) == Kind::Other {
            return Err(JailError::NotAFile);
        }
        let target = self.made(&to.parents)?;
        match rustix::fs::renameat_with(&source, &from.name, &target, &to.name, RenameFlags::NOREPLACE) {
            // gVisor of 2022 knows no flags. Then it is looked first; whoever comes between loses what was just made.
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => match state_at(target.as_fd(), &to.name)? {
                None => Ok(rustix::fs::renameat(&source, &from.name, &target, &to.name)?),
                Some(_) => Err(JailError::Taken),
            },
            moved => Ok(moved?),
        }
    }

    /// Deletes a file, a link itself, or an empty directory.
    ///
    /// # Errors
    /// Says why.
    pub fn delete(&self, path: &Inside) -> Result<(), JailError> {
        let parent = self.directory(&path.parents)?;
        match rustix::fs::unlinkat(&parent, &path.name, AtFlags::empty()) {
            Err(refused @ (Errno::ISDIR | Errno::PERM)) => {
                match rustix::fs::unlinkat(&parent, &path.name, AtFlags::REMOVEDIR) {
                    Err(Errno::NOTDIR) => Err(refused.into()),
                    removed => Ok(removed?),
                }
            }
            removed => Ok(removed?),
        }
    }

    fn readable(&self, names: &[String]) -> Result<OwnedFd, JailError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match names.split_last() {
            None => self.step(self.root.as_fd(), ".", flags, Mode::empty()),
            Some((name, parents)) => {
                let parent = self.directory(parents)?;
                self.step(parent.as_fd(), name, flags, Mode::empty())
            }
        }
    }

    fn state(&self, path: &Inside) -> Result<Option<Seen>, JailError> {
        match self.directory(&path.parents) {
            Ok(parent) => state_at(parent.as_fd(), &path.name),
            Err(JailError::Missing) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn state_at(parent: BorrowedFd<'_>, name: &str) -> Result<Option<Seen>, JailError> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(seen(&stat))),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn kind(stat: &Stat) -> Kind {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Kind::File(u64::try_from(stat.st_size).unwrap_or_default()),
        FileType::Directory => Kind::Directory,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::Steps;
    use super::*;
    use crate::sandbox::scratch::Scratch;

    fn both(scratch: &Scratch) -> (PathBuf, [Jail; 2]) {
        let root = scratch.path().join("workspace");
        std::fs::create_dir(&root).unwrap();
        let single = Jail { steps: Steps::Single, ..Jail::open(&root).unwrap() };
        (root.clone(), [Jail::open(&root).unwrap(), single])
    }

    fn odd_things(scratch: &Scratch, root: &std::path::Path) {
        std::fs::write(scratch.path().join("secret"), "secret").unwrap();
        std::fs::create_dir(scratch.path().join("outside")).unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink("../outside", root.join("up")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    }

    fn append(jail: &Jail, path: &str, more: &str, stamp: &str) -> Result<usize, JailError> {
        jail.change(&jail.inside(path)?, stamp, |content| {
            let mut content = content.unwrap_or_default();
            content.extend_from_slice(more.as_bytes());
            Ok(Changed { told: content.len(), content })
        })
    }

    #[test]
    fn a_directory_is_listed_and_nothing_in_it_opened() {
        let scratch = Scratch::new();
        let (root, jails) = both(&scratch);
        odd_things(&scratch, &root);
        std::fs::create_dir(root.join("d")).unwrap();
        std::fs::write(root.join("d/a"), "xyz").unwrap();
        std::fs::write(root.join("d/.ironclaw-left"), "x").unwrap();
        for jail in &jails {
            let names = |path: &str| {
                let listing = jail.list(path).unwrap();
                listing.entries.into_iter().map(|entry| (entry.name, entry.kind)).collect::<Vec<_>>()
            };
            let other = |name: &str| (name.to_owned(), Kind::Other);
            let top = [
                ("d".to_owned(), Kind::Directory),
                other("fifo"),
                other("link"),
                other("magic"),
                other("up"),
            ];
            for path in ["", ".", "./", root.to_str().unwrap()] {
                assert_eq!(names(path), top, "{path}");
            }
            assert_eq!(names("d/"), [("a".to_owned(), Kind::File(3))]);
            for (path, error) in [
                ("up", JailError::Link),
                ("magic/etc", JailError::Link),
                ("fifo", JailError::NotADirectory),
                ("d/a", JailError::NotADirectory),
                ("none", JailError::Missing),
            ] {
                assert_eq!(jail.list(path), Err(error), "{path}");
            }
            assert!(jail.list("..").is_err() && jail.list("/etc").is_err());
        }
    }

    #[test]
    fn what_is_moved_or_deleted_is_what_is_there_and_nothing_outside() {
        let scratch = Scratch::new();
        let (root, jails) = both(&scratch);
        odd_things(&scratch, &root);
        for jail in &jails {
            let inside = |path: &str| jail.inside(path).unwrap();
            std::fs::write(root.join("a"), "a").unwrap();
            std::fs::write(root.join("b"), "b").unwrap();
            assert_eq!(jail.rename(&inside("a"), &inside("b")), Err(JailError::Taken));
            jail.rename(&inside("a"), &inside("new/deep/a")).unwrap();
            jail.rename(&inside("new/deep"), &inside("moved")).unwrap();
            assert_eq!(std::fs::read(root.join("moved/a")).unwrap(), b"a");
            for (from, to) in [("link", "x"), ("fifo", "x"), ("b", "up/b"), ("up/x", "x"), ("magic", "x")] {
                let moved = jail.rename(&inside(from), &inside(to));
                assert!(moved.is_err(), "{from} {to}");
            }
            assert_eq!(jail.rename(&inside("none"), &inside("x")), Err(JailError::Missing));
            assert_eq!(jail.delete(&inside("moved")), Err(JailError::NotEmpty));
            assert_eq!(jail.delete(&inside("none")), Err(JailError::Missing));
            assert_eq!(jail.delete(&inside("up/x")), Err(JailError::Link));
            for path in ["moved/a", "moved", "new", "b"] {
                jail.delete(&inside(path)).unwrap();
            }
        }
        // A link goes and what it leads to stays.
        for name in ["link", "up", "fifo"] {
            jails[1].delete(&jails[1].inside(name).unwrap()).unwrap();
        }
        assert_eq!(std::fs::read(scratch.path().join("secret")).unwrap(), b"secret");
        assert!(scratch.path().join("outside").is_dir());
    }

    #[test]
    fn of_many_changes_at_once_none_is_lost() {
        let scratch = Scratch::new();
        let (root, jails) = both(&scratch);
        odd_things(&scratch, &root);
        let [whole, single] = &jails;
        assert_eq!(append(whole, "new/log", "", "s").unwrap(), 0);
        for path in ["link", "up/x", "fifo", "magic/tmp/x", "new"] {
            assert!(append(single, path, "x", "s").is_err(), "{path}");
        }
        let write = |jail: &Jail, name: &str| {
            for at in 0..60 {
                append(jail, "log", &format!("{name}{at};"), name).unwrap();
            }
        };
        std::thread::scope(|scope| {
            for name in ["a", "b", "c"] {
                scope.spawn(move || write(if name == "a" { whole } else { single }, name));
            }
        });
        let text = std::fs::read_to_string(root.join("log")).unwrap();
        assert_eq!(text.matches(';').count(), 180);
        // What somebody left who was killed holds nobody up.
        let left = std::fs::File::create(root.join(TURN)).unwrap();
        left.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
        append(whole, "log", "x", "s").unwrap();
        assert!(!root.join(TURN).exists());
        assert!(jails[0].list("").unwrap().entries.iter().all(|entry| !entry.name.starts_with(BESIDE)));
    }

    #[test]
    fn a_directory_that_becomes_a_link_leads_nowhere() {
        let scratch = Scratch::new();
        let (root, jails) = both(&scratch);
        odd_things(&scratch, &root);
        std::fs::create_dir(root.join("d")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _ = std::fs::rename(root.join("d"), root.join("kept"));
                    let _ = symlink(scratch.path().join("outside"), root.join("d"));
                    let _ = std::fs::remove_file(root.join("d"));
                    let _ = std::fs::rename(root.join("kept"), root.join("d"));
                }
            });
            for round in 0..400 {
                let jail = &jails[round % 2];
                let _ = append(jail, "d/x", "x", "s");
                let _ = jail.list("d");
                let _ = jail.rename(&jail.inside("d/x").unwrap(), &jail.inside("d/y").unwrap());
                let _ = jail.delete(&jail.inside("d/y").unwrap());
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(std::fs::read_dir(scratch.path().join("outside")).unwrap().count(), 0);
    }
}
