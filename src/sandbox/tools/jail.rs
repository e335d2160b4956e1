//! The one way to a file of the workspace, of a package or of a mount. Every step is taken by the kernel under the workspace's own
//! descriptor and follows no symbolic link (`openat2` with `RESOLVE_BENEATH`, `NO_SYMLINKS` and
//! `NO_MAGICLINKS`), so that no name, link or race leads out of it. Where the kernel has no `openat2` (gVisor
//! of 2022), the same is done name by name with `O_NOFOLLOW`. It touches that directory and nothing else.

mod tree;

pub use tree::{Changed, Entry, Kind, Listing};

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Largest file that is read or written.
pub const FILE_BYTES: usize = 1 << 20;
/// Longest path and longest name, as Linux has them.
const PATH_BYTES: usize = 4095;
const NAME_BYTES: usize = 255;
/// Deepest path: what a person can still make sense of.
const DEPTH: usize = 32;

/// Why a file was not read or written. The words are for the model.
#[derive(Debug, PartialEq, Eq)]
pub enum JailError {
    /// The path itself is refused.
    Path(&'static str),
    /// There is no such file or directory.
    Missing,
    /// A symbolic link is on the way.
    Link,
    /// Something other than a regular file is there.
    NotAFile,
    /// Something other than a directory is where one should be.
    NotADirectory,
    /// Something is there already.
    Taken,
    /// A directory that is not empty.
    NotEmpty,
    /// Others change it all the time.
    Busy,
    /// Larger than [`FILE_BYTES`].
    TooLarge,
    /// No room on the disk, or the size limit of the box.
    Full,
    /// What is there can only be read.
    ReadOnly,
    /// Anything else.
    Os(Errno),
}

impl fmt::Display for JailError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(why) => write!(f, "the path is refused: {why}; give one relative to the workspace"),
            Self::Missing => f.write_str("there is no such file"),
            Self::Link => f.write_str("the path leads through a symbolic link, which is not followed"),
            Self::NotAFile => f.write_str("that is not a regular file"),
            Self::NotADirectory => f.write_str("a part of the path is not a directory"),
            Self::Taken => f.write_str("something is there already; move or delete it first"),
            Self::Busy => f.write_str("others are changing it; try again"),
            Self::NotEmpty => f.write_str("the directory is not empty; delete what is in it first"),
            Self::TooLarge => {
                write!(f, "that is larger than {FILE_BYTES} bytes, the most that one file may have")
            }
            Self::Full => f.write_str("there is no room left for files"),
            Self::ReadOnly => f.write_str("what is there can be read, not written"),
            Self::Os(errno) => write!(f, "the system refused: {errno}"),
        }
    }
}

impl std::error::Error for JailError {}

impl From<Errno> for JailError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT => Self::Missing,
            Errno::LOOP | Errno::XDEV => Self::Link,
            Errno::NOTDIR => Self::NotADirectory,
            Errno::EXIST => Self::Taken,
            Errno::NOTEMPTY => Self::NotEmpty,
            Errno::ISDIR | Errno::NXIO => Self::NotAFile,
            Errno::NOSPC | Errno::DQUOT | Errno::FBIG => Self::Full,
            Errno::ROFS => Self::ReadOnly,
            errno => Self::Os(errno),
        }
    }
}

impl From<std::io::Error> for JailError {
    fn from(error: std::io::Error) -> Self {
        error.raw_os_error().map_or(Self::Os(Errno::IO), |code| Errno::from_raw_os_error(code).into())
    }
}

/// A path inside the jail: plain names only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inside {
    parents: Vec<String>,
    name: String,
}

/// How names are resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Steps {
    /// The kernel resolves the whole path.
    Whole,
    /// One name at a time.
    Single,
}

/// The workspace.
#[derive(Debug)]
pub struct Jail {
    root: OwnedFd,
    shown: PathBuf,
    steps: Steps,
}

impl Jail {
    /// Opens the directory and finds out whether the kernel has `openat2`.
    ///
    /// # Errors
    /// When `root` is not a directory that can be opened.
    pub fn open(root: &Path) -> Result<Self, JailError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // `open` is a system call of its own on some machines, and not among those that are allowed here.
        let fd = rustix::fs::openat(rustix::fs::CWD, root, flags, Mode::empty())?;
        let steps = match whole(fd.as_fd(), ".", flags, Mode::empty()) {
            // gVisor of 2022 does not know the call, and its filter of system calls cannot name it either:
            // what has no number there is refused as forbidden.
            Err(Errno::NOSYS | Errno::PERM) => Steps::Single,
            Err(errno) => return Err(errno.into()),
            Ok(_) => Steps::Whole,
        };
        Ok(Self { root: fd, shown: root.to_owned(), steps })
    }

    /// Accepts a relative path, or an absolute one that names the workspace itself.
    ///
    /// # Errors
    /// [`JailError::Path`] says what is wrong with it.
    pub fn inside(&self, path: &str) -> Result<Inside, JailError> {
        let (mut names, relative) = self.names(path)?;
        let name = names.pop().filter(|_| !relative.ends_with('/'));
        Ok(Inside { parents: names, name: name.ok_or(JailError::Path("it names no file"))? })
    }

    /// The plain names of a path, and what of it lies below the root.
    fn names<'a>(&self, path: &'a str) -> Result<(Vec<String>, &'a str), JailError> {
        if path.len() > PATH_BYTES {
            return Err(JailError::Path("it is too long"));
        }
        if path.contains('\0') {
            return Err(JailError::Path("it holds a zero byte"));
        }
        let relative = match Path::new(path).strip_prefix(&self.shown) {
            Ok(rest) if path.starts_with('/') => rest.to_str().unwrap_or_default(),
            _ if path.starts_with('/') => return Err(JailError::Path("it lies outside the workspace")),
            _ => path,
        };
        let mut names: Vec<String> = Vec::new();
        for name in relative.split('/').filter(|name| !matches!(*name, "" | ".")) {
            if name == ".." {
                return Err(JailError::Path("`..` is not allowed"));
            }
            if name.len() > NAME_BYTES {
                return Err(JailError::Path("a name in it is too long"));
            }
            names.push(name.to_owned());
        }
        if names.len() > DEPTH {
            return Err(JailError::Path("it is too deep"));
        }
        Ok((names, relative))
    }

    /// The content of a regular file of at most [`FILE_BYTES`].
    ///
    /// # Errors
    /// Says what is there instead.
    pub fn read(&self, path: &Inside) -> Result<Vec<u8>, JailError> {
        self.read_up_to(path, FILE_BYTES)
    }

    /// As [`Self::read`], of at most so many bytes.
    ///
    /// # Errors
    /// Says what is there instead.
    pub fn read_up_to(&self, path: &Inside, most: usize) -> Result<Vec<u8>, JailError> {
        let parent = self.directory(&path.parents)?;
        // Without NONBLOCK a pipe that nobody writes to would hold the agent for ever.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        let file = File::from(self.step(parent.as_fd(), &path.name, flags, Mode::empty())?);
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(JailError::NotAFile);
        }
        let mut content = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut content)?;
        if content.len() > most { Err(JailError::TooLarge) } else { Ok(content) }
    }

    /// Makes or replaces a regular file, and the directories above it: the new content is on the disk under
    /// another name before it takes the file's. `stamp` makes that name; the same stamp again replaces what a
    /// crash left under it.
    ///
    /// # Errors
    /// Says why; then the file is what it was before.
    pub fn write(&self, path: &Inside, content: &[u8], stamp: &str) -> Result<(), JailError> {
        if content.len() > FILE_BYTES {
            return Err(JailError::TooLarge);
        }
        self.write_whole(path, content, stamp)
    }

    /// As [`Self::write`], however long the content is: for what others have bounded.
    ///
    /// # Errors
    /// Says why; then the file is what it was before.
    pub fn write_whole(&self, path: &Inside, content: &[u8], stamp: &str) -> Result<(), JailError> {
        self.write_if(path, content, stamp, &|_| Ok(()))
    }

    /// As [`Self::write_whole`], if `may` still says so right before the new content takes its place.
    fn write_if(
        &self,
        path: &Inside,
        content: &[u8],
        stamp: &str,
        may: &dyn Fn(BorrowedFd<'_>) -> Result<(), JailError>,
    ) -> Result<(), JailError> {
        let parent = self.made(&path.parents)?;
        let parent = parent.as_fd();
        match rustix::fs::statat(parent, &path.name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
            Ok(stat) => match FileType::from_raw_mode(stat.st_mode) {
                FileType::RegularFile => {}
                FileType::Symlink => return Err(JailError::Link),
                _ => return Err(JailError::NotAFile),
            },
        }
        let beside = format!(".ironclaw-{stamp}");
        remove(parent, &beside)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(self.step(parent, &beside, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file
            .write_all(content)
            .and_then(|()| file.sync_all())
            .map_err(JailError::from)
            .and_then(|()| may(parent))
            .and_then(|()| Ok(rustix::fs::renameat(parent, &beside, parent, &path.name)?));
        if let Err(error) = written {
            // The first error is the one to tell; what cannot be removed either is replaced by the next try.
            let _ = remove(parent, &beside);
            return Err(error);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::fsync(rustix::fs::openat(parent, ".", flags, Mode::empty())?)?;
        Ok(())
    }

    fn directory(&self, parents: &[String]) -> Result<OwnedFd, JailError> {
        self.descend(parents, |_, _| Ok(()))
    }

    /// As [`Self::directory`], making what is missing.
    fn made(&self, parents: &[String]) -> Result<OwnedFd, JailError> {
        self.descend(parents, |above, name| match rustix::fs::mkdirat(above, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        })
    }

    fn descend(
        &self,
        parents: &[String],
        before: impl Fn(BorrowedFd<'_>, &str) -> Result<(), JailError>,
    ) -> Result<OwnedFd, JailError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut current = rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?;
        for name in parents {
            before(current.as_fd(), name)?;
            current = self.step(current.as_fd(), name, flags, Mode::empty())?;
        }
        Ok(current)
    }

    /// Opens one plain name in a directory. `O_NOFOLLOW` is always among the flags, so that even without
    /// `openat2` a link is never followed.
    fn step(&self, at: BorrowedFd<'_>, name: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, JailError> {
        let opened = match self.steps {
            Steps::Whole => whole(at, name, flags, mode),
            Steps::Single => rustix::fs::openat(at, name, flags | OFlags::NOFOLLOW, mode),
        };
        match opened {
            // With PATH or DIRECTORY a link is reported as "not a directory"; say what it is.
            Err(Errno::NOTDIR) if is_link(at, name) => Err(JailError::Link),
            opened => Ok(opened?),
        }
    }
}

fn whole(at: BorrowedFd<'_>, name: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(at, name, flags, mode, resolve)
}

fn is_link(at: BorrowedFd<'_>, name: &str) -> bool {
    rustix::fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn remove(at: BorrowedFd<'_>, name: &str) -> Result<(), JailError> {
    match rustix::fs::unlinkat(at, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::scratch::Scratch;
    use std::os::unix::fs::symlink;

    /// Both ways of resolving, over the same directory.
    fn both(scratch: &Scratch) -> (PathBuf, [Jail; 2]) {
        let root = scratch.path().join("workspace");
        std::fs::create_dir(&root).unwrap();
        let single = Jail { steps: Steps::Single, ..Jail::open(&root).unwrap() };
        let whole = Jail::open(&root).unwrap();
        assert_eq!(whole.steps, Steps::Whole, "this kernel has openat2");
        (root, [whole, single])
    }

    fn read(jail: &Jail, path: &str) -> Result<Vec<u8>, JailError> {
        jail.read(&jail.inside(path)?)
    }

    fn write(jail: &Jail, path: &str, content: &[u8]) -> Result<(), JailError> {
        jail.write(&jail.inside(path)?, content, "stamp")
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_is_left() {
        let scratch = Scratch::new();
        let (root, jails) = both(&scratch);
        for jail in &jails {
            std::fs::write(root.join(".ironclaw-stamp"), "left by a crash").unwrap();
            write(jail, "a/b/./c.txt", b"one").unwrap();
            write(jail, "a//b/c.txt", b"two").unwrap();
            assert_eq!(read(jail, "a/b/c.txt").unwrap(), b"two");
            assert_eq!(read(jail, &format!("{}/a/b/c.txt", root.display())).unwrap(), b"two");
            write(jail, "top", b"").unwrap();
            assert!(!root.join(".ironclaw-stamp").exists());
            assert_eq!(std::fs::read_dir(root.join("a/b")).unwrap().count(), 1);
            std::fs::remove_dir_all(root.join("a")).unwrap();
        }
    }

    #[test]
    fn no_path_leads_out() {
        let scratch = Scratch::new();
        let (root, jails) = both(&scratch);
        std::fs::write(scratch.path().join("secret"), "secret").unwrap();
        std::fs::create_dir(root.join("d")).unwrap();
        symlink("../secret", root.join("link")).unwrap();
        symlink(scratch.path().join("secret"), root.join("absolute")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        symlink("d", root.join("within")).unwrap();
        for jail in &jails {
            for path in ["link", "absolute", "up/secret", "magic/etc/passwd", "within/x", "d/../../secret"] {
                assert!(matches!(read(jail, path), Err(JailError::Link | JailError::Path(_))), "{path}");
                let written = write(jail, path, b"x");
                assert!(matches!(written, Err(JailError::Link | JailError::Path(_))), "{path}: {written:?}");
            }
            for path in ["../secret", "..", "/etc/passwd", "/", "", ".", "d/", "a\0b", "/proc/self/fd/0"] {
                assert!(matches!(jail.inside(path), Err(JailError::Path(_))), "{path:?}");
            }
            assert!(jail.inside(&"a/".repeat(3000)).is_err());
            assert!(jail.inside(&"a".repeat(256)).is_err());
            assert!(jail.inside(&format!("{}x", "a/".repeat(DEPTH + 1))).is_err());
        }
        assert_eq!(std::fs::read(scratch.path().join("secret")).unwrap(), b"secret");
        assert_eq!(std::fs::read_dir(root.join("d")).unwrap().count(), 0);
    }

    #[test]
    fn only_regular_files_of_bounded_size() {
        let scratch = Scratch::new();
        let (root, jails) = both(&scratch);
        std::fs::create_dir(root.join("d")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), FileType::Fifo, mode, 0).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        let sparse = File::create(root.join("huge")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        for jail in &jails {
            for path in ["fifo", "socket", "d"] {
                assert_eq!(read(jail, path), Err(JailError::NotAFile), "{path}");
                assert_eq!(write(jail, path, b"x"), Err(JailError::NotAFile), "{path}");
            }
            assert_eq!(read(jail, "huge"), Err(JailError::TooLarge));
            assert_eq!(read(jail, "none"), Err(JailError::Missing));
            assert_eq!(read(jail, "huge/x"), Err(JailError::NotADirectory));
            assert_eq!(write(jail, "huge/x", b""), Err(JailError::NotADirectory));
            assert_eq!(write(jail, "big", &vec![0; FILE_BYTES + 1]), Err(JailError::TooLarge));
            write(jail, "big", &vec![0; FILE_BYTES]).unwrap();
            assert_eq!(read(jail, "big").unwrap().len(), FILE_BYTES);
        }
    }
}
