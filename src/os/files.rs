//! Files and directories where the plain library is not enough: locks, free space, owners and modes, opening
//! without following links, and making and settling files. Touches only the paths that the caller names.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, ResolveFlags, StatVfsMountFlags, fstat, openat2, statat,
};

pub use super::tree::{Usage, remove_tree, usage};

/// An exclusive lock on a file, held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Takes the lock of `path` (made with mode 0600 if missing) without waiting: `None` when another process has it.
pub fn lock(path: &Path) -> io::Result<Option<Lock>> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = File::from(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?);
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The space of a file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an ordinary user may still write.
    pub free: u64,
    /// Its size.
    pub total: u64,
}

/// The space of the file system that holds `path`.
pub fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        free: stat.f_bavail.saturating_mul(stat.f_frsize),
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Whether programs can be started from where `path` is, as far as its mount tells.
pub fn runs_programs(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|stat| !stat.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// Opens `path` below `directory`; no part of it may be a link, leave the directory, or cross into `/proc`-like
/// magic. Close-on-exec is added.
pub fn open_beneath(directory: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Sets the owner of `path` itself, never of what a link points at. Does nothing when it already is.
pub fn chown(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let stat = statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_uid == uid && stat.st_gid == gid {
        return Ok(());
    }
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    Ok(rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the mode of `path`, which is not a link.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Makes reads and writes of this descriptor answer at once.
pub fn set_nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?)
}

/// Makes a directory if it is missing, then gives it this owner and mode; refuses anything else of that name,
/// links included.
pub fn directory(path: &Path, owner: Option<(u32, u32)>, mode: u32) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    settle(&fd, owner, mode)
}

/// Makes an empty file with this owner and mode in the place of whatever file had that name.
pub fn fresh_file(path: &Path, owner: Option<(u32, u32)>, mode: u32) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    settle(&fd, owner, mode)
}

fn settle(fd: &OwnedFd, owner: Option<(u32, u32)>, mode: u32) -> io::Result<()> {
    let stat = fstat(fd)?;
    if let Some((uid, gid)) = owner
        && (stat.st_uid, stat.st_gid) != (uid, gid)
    {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
    }
    if stat.st_mode & 0o7777 != mode {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("ironclaw-files-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_lock_has_one_holder() {
        let dir = scratch("lock");
        let first = lock(&dir.join("lock")).unwrap();
        assert!(first.is_some());
        assert!(lock(&dir.join("lock")).unwrap().is_none());
        drop(first);
        assert!(lock(&dir.join("lock")).unwrap().is_some());
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_directory_is_not_made_through_a_link() {
        let dir = scratch("directory");
        symlink("/tmp", dir.join("link")).unwrap();
        assert!(directory(&dir.join("link"), None, 0o700).is_err());
        directory(&dir.join("real"), None, 0o710).unwrap();
        assert_eq!(std::fs::metadata(dir.join("real")).unwrap().mode() & 0o7777, 0o710);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn free_space_is_part_of_the_total() {
        let space = space(Path::new("/")).unwrap();
        assert!(space.free > 0 && space.free <= space.total);
    }
}
