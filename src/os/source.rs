//! A directory of the host that sandboxes are to see: looked at name by name from the root, through no symbolic link,
//! with everything above it, so that nobody but root and this user can put something else in its place. Touches
//! nothing: it looks, and opens what it has looked at.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, fstat, openat, openat2, statat, statx,
};
use rustix::io::Errno;

/// Which directory it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Which {
    /// The device.
    pub device: u64,
    /// Its number there, which may be given to another one when it is deleted.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; `None` where its filesystem does not keep that. No program can set
    /// it.
    pub born: Option<u64>,
}

impl Which {
    /// Whether both are the same directory, as far as is known of them: a filesystem that keeps the time of making may
    /// be mounted by a kernel that does not tell it.
    pub fn is(&self, other: &Self) -> bool {
        let both_born = self.born.zip(other.born);
        (self.device, self.inode) == (other.device, other.inode)
            && both_born.is_none_or(|(one, other)| one == other)
    }
}

/// A directory that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which it is.
    pub which: Which,
    /// Its mode.
    pub mode: u32,
    /// Device and number of everything on the way, itself the last.
    pub way: Vec<(u64, u64)>,
}

/// Why a directory is not to be trusted.
#[derive(Debug)]
pub enum SourceProblem {
    /// It is not an absolute path of plain names.
    NotPlain,
    /// There is nothing of that name.
    Missing(PathBuf),
    /// A symbolic link is on the way.
    Link(PathBuf),
    /// Something other than a directory.
    NotADirectory(PathBuf),
    /// It belongs to somebody else.
    Foreign(PathBuf, u32),
    /// Others may write in it.
    Open(PathBuf, u32),
    /// Anything else.
    Os(PathBuf, io::Error),
}

impl fmt::Display for SourceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPlain => f.write_str("expected an absolute path without . and .."),
            Self::Missing(path) => write!(f, "{} is not there", path.display()),
            Self::Link(path) => {
                write!(f, "{} is a symbolic link; name the directory that it leads to", path.display())
            }
            Self::NotADirectory(path) => write!(f, "{} is not a directory", path.display()),
            Self::Foreign(path, owner) => write!(
                f,
                "{} belongs to user id {owner}, who could put something else there; it must be root's or the control \
                 plane's",
                path.display()
            ),
            Self::Open(path, mode) => write!(
                f,
                "{} has mode {mode:04o}, so others could put something else there; run chmod go-w on it",
                path.display()
            ),
            Self::Os(path, error) => write!(f, "{} cannot be looked at: {error}", path.display()),
        }
    }
}

impl std::error::Error for SourceProblem {}

/// Whether a path is absolute and made of plain names only.
pub fn is_plain(path: &Path) -> bool {
    names(path).is_some()
}

/// What was found below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Below {
    /// Nothing but files and directories, and all of it was seen.
    Files,
    /// A socket: a read-only mount keeps nobody from talking to it.
    Socket(PathBuf),
    /// Something that cannot be read, so that a socket may be in it.
    Unseen(PathBuf),
    /// More than was to be looked at.
    TooMuch,
}

/// Looks for sockets among everything below a directory, at up to so many entries.
pub fn below(path: &Path, most: usize) -> Below {
    use std::os::unix::fs::FileTypeExt;
    let (mut seen, mut left) = (0, vec![path.to_owned()]);
    while let Some(directory) = left.pop() {
        // Who cannot list a directory can still open what he knows to be in it.
        let Ok(entries) = std::fs::read_dir(&directory) else { return Below::Unseen(directory) };
        for entry in entries {
            let Ok(entry) = entry else { return Below::Unseen(directory) };
            seen += 1;
            if seen > most {
                return Below::TooMuch;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_socket() => return Below::Socket(entry.path()),
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                Ok(_) => {}
                Err(_) => return Below::Unseen(entry.path()),
            }
        }
    }
    Below::Files
}

/// Looks at a directory and at all that is above it.
///
/// # Errors
/// The first thing from the root down that is not as it must be.
pub fn look(path: &Path) -> Result<Source, SourceProblem> {
    let names = names(path).ok_or(SourceProblem::NotPlain)?;
    let own = rustix::process::geteuid().as_raw();
    let mut shown = PathBuf::from("/");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |shown: &Path, error: Errno| SourceProblem::Os(shown.to_owned(), error.into());
    let mut here = openat(CWD, "/", flags, Mode::empty()).map_err(|error| failed(&shown, error))?;
    let mut found = judge(&here, &shown, own)?;
    let mut way = found.way.clone();
    for name in names {
        shown.push(name);
        here = match openat(&here, name, flags, Mode::empty()) {
            Ok(below) => below,
            Err(Errno::NOENT) => return Err(SourceProblem::Missing(shown)),
            Err(Errno::NOTDIR | Errno::LOOP) if is_link(&here, name) => {
                return Err(SourceProblem::Link(shown));
            }
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(SourceProblem::NotADirectory(shown)),
            Err(error) => return Err(failed(&shown, error)),
        };
        found = judge(&here, &shown, own)?;
        way.append(&mut found.way);
    }
    Ok(Source { way, ..found })
}

/// Opens a directory that was looked at, if it is still the same one and no link leads to it.
///
/// # Errors
/// The system's; `StaleNetworkFileHandle` when something else is there.
pub(super) fn open(path: &Path, device: u64, inode: u64) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(CWD, path, flags, Mode::empty(), resolve)?;
    let stat = fstat(&found)?;
    if (stat.st_dev, stat.st_ino) == (device, inode) { Ok(found) } else { Err(Errno::STALE.into()) }
}

/// The names of an absolute path that has nothing else in it.
fn names(path: &Path) -> Option<Vec<&std::ffi::OsStr>> {
    use std::os::unix::ffi::OsStrExt;
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) || path.as_os_str().as_bytes().contains(&0) {
        return None;
    }
    let plain = |part| if let Component::Normal(name) = part { Some(name) } else { None };
    let names = parts.map(plain).collect::<Option<Vec<_>>>()?;
    // What `components` would pass over in silence: `.`, doubled and trailing slashes.
    let whole = names.iter().map(|name| name.len() + 1).sum::<usize>();
    (whole == path.as_os_str().len() || names.is_empty()).then_some(names)
}

fn is_link(above: &OwnedFd, name: &std::ffi::OsStr) -> bool {
    statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

fn judge(directory: &OwnedFd, shown: &Path, own: u32) -> Result<Source, SourceProblem> {
    let stat = fstat(directory).map_err(|error| SourceProblem::Os(shown.to_owned(), error.into()))?;
    let mode = stat.st_mode & 0o7777;
    if stat.st_uid != 0 && stat.st_uid != own {
        return Err(SourceProblem::Foreign(shown.to_owned(), stat.st_uid));
    }
    if mode & 0o022 != 0 {
        return Err(SourceProblem::Open(shown.to_owned(), mode));
    }
    let which = Which { device: stat.st_dev, inode: stat.st_ino, born: born(directory) };
    Ok(Source { which, mode, way: vec![(which.device, which.inode)] })
}

/// When it was made, in nanoseconds since 1970.
fn born(directory: &OwnedFd) -> Option<u64> {
    let stat = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    let time = stat.stx_btime;
    let is_known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
    let seconds = u64::try_from(time.tv_sec).ok().filter(|_| is_known)?;
    seconds.checked_mul(1_000_000_000)?.checked_add(time.tv_nsec.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_looked_at() {
        for bad in ["", "x", "./x", "/x/../y", "/x/./y", "/x//y", "/x/", "//x", "/..", "/x\0y"] {
            assert!(matches!(look(Path::new(bad)), Err(SourceProblem::NotPlain)), "{bad:?}");
        }
        assert!(look(Path::new("/")).is_ok());
        assert!(matches!(look(Path::new("/no-such-directory")), Err(SourceProblem::Missing(_))));
    }

    /// The number of what is deleted may be given away at once; the time of its making is not.
    #[test]
    fn another_directory_of_the_same_number_is_another_one() {
        let which = |born| Which { device: 1, inode: 2, born };
        assert!(which(Some(3)).is(&which(Some(3))) && !which(Some(3)).is(&which(Some(4))));
        assert!(which(None).is(&which(Some(3))) && which(Some(3)).is(&which(None)), "as far as is known");
        assert!(!Which { inode: 3, ..which(None) }.is(&which(None)));
        // Every filesystem that this is tested on keeps it.
        assert!(look(Path::new("/usr")).unwrap().which.born.is_some());
    }

    #[test]
    fn a_socket_is_found_and_what_was_not_seen_is_not_taken_for_none() {
        let root = std::env::temp_dir().join(format!("ironclaw-below-{}", std::process::id()));
        let deep = root.join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        assert_eq!(below(&root, 3), Below::Files);
        assert_eq!(below(&root, 2), Below::TooMuch);
        let socket = deep.join("socket");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(below(&root, 10), Below::Socket(socket));
        drop(listener);
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(below(&root, 10), Below::Unseen(root));
    }

    #[test]
    fn links_files_and_what_others_may_write_in_are_refused() {
        let free = std::env::temp_dir().join(format!("ironclaw-source-{}", std::process::id()));
        std::fs::create_dir_all(free.join("below")).unwrap();
        super::super::files::set_mode(&free, 0o777).unwrap();
        assert!(matches!(look(&free.join("below")), Err(SourceProblem::Open(..))));
        std::fs::remove_dir_all(&free).unwrap();
        assert!(matches!(look(Path::new("/proc/self/root")), Err(SourceProblem::Link(_))));
        assert!(matches!(look(Path::new("/etc/passwd")), Err(SourceProblem::NotADirectory(_))));
        assert!(matches!(look(Path::new("/etc/passwd/x")), Err(SourceProblem::NotADirectory(_))));
        let etc = look(Path::new("/etc")).unwrap().which;
        assert!(open(Path::new("/etc"), etc.device, etc.inode).is_ok());
        assert!(open(Path::new("/etc"), etc.device, etc.inode + 1).is_err());
        assert!(open(Path::new("/proc/self/root/etc"), etc.device, etc.inode).is_err());
    }
}
