//! Whole trees of files that a sandbox may have written: counting and removing them. Such a tree can be a hundred
//! thousand levels deep, hold names that are no text and directories of mode 000, and change under the count.
//! Nothing here recurses, follows a link, leaves the file system, or holds more than a few descriptors. Touches
//! only the tree that the caller names.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat};
use rustix::io::Errno;

/// What a tree of files uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes allocated on disk; holes in sparse files are not counted.
    pub bytes: u64,
    /// Files and directories, the top one not included.
    pub files: u64,
    /// The count was given up: more than the caller's number of files, or directories that kept moving.
    pub cut_off: bool,
}

/// How often a count starts again because a directory was moved under it.
const ATTEMPTS: u32 = 3;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

/// A file by device and number.
type Identity = (u64, u64);

fn identity(fd: impl AsFd) -> io::Result<Identity> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Counts the tree below `top`, however deep, following no link and leaving no file system. Stops at
/// `most_files`, a bound on time and memory. What disappears while it counts is left out.
///
/// # Errors
/// When a directory cannot be read.
pub fn usage(top: &Path, most_files: u64) -> io::Result<Usage> {
    for _ in 0..ATTEMPTS {
        if let Some(counted) = count(top, most_files)? {
            return Ok(counted);
        }
    }
    Ok(Usage { bytes: 0, files: most_files, cut_off: true })
}

/// One count; `None` when a directory was moved while the count was below it.
fn count(top: &Path, most_files: u64) -> io::Result<Option<Usage>> {
    let mut here = rustix::fs::open(top, DIRECTORY, Mode::empty())?;
    let mut at = identity(&here)?;
    let device = at.0;
    let mut counted = Usage::default();
    let mut open = inside(&here, most_files, &mut counted)?;
    // One element for each level above: which directory it is, and what in it is still to be entered.
    let mut above: Vec<(Identity, Vec<CString>)> = Vec::new();
    while !counted.cut_off {
        let Some(name) = open.pop() else {
            let Some((parent, rest)) = above.pop() else { break };
            let up = openat(&here, c"..", DIRECTORY, Mode::empty())?;
            if identity(&up)? != parent {
                return Ok(None);
            }
            (here, at, open) = (up, parent, rest);
            continue;
        };
        let below = match openat(&here, name.as_c_str(), DIRECTORY, Mode::empty()) {
            Ok(below) => below,
            // Gone, or in the meantime something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
            Err(error) => return Err(error.into()),
        };
        let its = identity(&below)?;
        if its.0 == device {
            let names = inside(&below, most_files, &mut counted)?;
            above.push((at, std::mem::replace(&mut open, names)));
            (here, at) = (below, its);
        }
    }
    Ok(Some(counted))
}

/// Counts what is in one directory and returns the names of the directories among it.
fn inside(directory: &OwnedFd, most_files: u64, counted: &mut Usage) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        counted.files += 1;
        counted.bytes = counted.bytes.saturating_add((stat.st_blocks as u64).saturating_mul(512));
        if counted.files > most_files {
            counted.cut_off = true;
            break;
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Removes `path` and everything below it; nothing of that name is no error. A directory that is not empty gives
/// its own directories to the top one until it is, so that no depth matters. Modes are opened where they stand in
/// the way. Goes on after an error with the rest.
///
/// # Errors
/// The first thing that could not be removed; a mount in the tree is such a thing, and is not entered.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    let top = match enter(CWD, path) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return std::fs::remove_file(path),
        Err(error) => return Err(error.into()),
    };
    let mut next = 0u64;
    loop {
        let mut removed = false;
        let mut failed = None;
        for entry in Dir::read_from(&top)? {
            let entry = entry?;
            match empty_and_remove(&top, entry.file_name(), &mut next) {
                Ok(moved) => removed |= moved,
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        match failed {
            _ if removed => {}
            Some(error) => return Err(error.into()),
            None => break,
        }
    }
    drop(top);
    std::fs::remove_dir(path)
}

/// Removes one entry of `top`, or at least a part of it: what is in it one level down is removed, or becomes an
/// entry of `top`. Returns whether anything changed.
fn empty_and_remove(top: &OwnedFd, name: &std::ffi::CStr, next: &mut u64) -> Result<bool, Errno> {
    if name == c"." || name == c".." {
        return Ok(false);
    }
    if unlink(top, name)? {
        return Ok(true);
    }
    let directory = enter_beneath(top, name)?;
    let mut changed = false;
    let mut failed = None;
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let inner = entry.file_name();
        if inner == c"." || inner == c".." {
            continue;
        }
        match unlink(&directory, inner)
            .and_then(|gone| if gone { Ok(()) } else { lift(&directory, inner, top, next) })
        {
            Ok(()) => changed = true,
            Err(error) => _ = failed.get_or_insert(error),
        }
    }
    match (unlink(top, name), failed) {
        (Ok(true), _) => Ok(true),
        // Files that appeared meanwhile: another pass.
        _ if changed => Ok(true),
        (_, Some(error)) | (Err(error), None) => Err(error),
        (Ok(false), None) => Err(Errno::NOTEMPTY),
    }
}

/// Removes a file, a link or an empty directory; false when it is a directory with something in it.
fn unlink(directory: &OwnedFd, name: &std::ffi::CStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Moves a directory into `top` under a name that is free there.
fn lift(from: &OwnedFd, name: &std::ffi::CStr, top: &OwnedFd, next: &mut u64) -> Result<(), Errno> {
    // A directory that may not be written cannot change its parent.
    drop(enter_beneath(from, name)?);
    loop {
        *next += 1;
        match rustix::fs::renameat(from, name, top, format!(".{next}")) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Taken by something of the tree itself.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens a directory of `top` that is on the same mount, and may then be read and written by its owner.
fn enter_beneath(top: &OwnedFd, name: &std::ffi::CStr) -> Result<OwnedFd, Errno> {
    let inner = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match openat2(top, name, place, Mode::empty(), inner) {
        // Unknown to the kernel, or kept by a filter: without it a mount is found when it cannot be removed.
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => enter(top, Path::new(name_of(name))),
        Err(error) => Err(error),
    }
}

fn name_of(name: &std::ffi::CStr) -> &std::ffi::OsStr {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(name.to_bytes())
}

/// Opens a directory, not through a link, and gives its owner every right to it first where one is missing.
fn enter(directory: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let place = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let found = openat(&directory, path, place, Mode::empty())?;
    let mode = fstat(&found)?.st_mode;
    if mode & 0o700 != 0o700 {
        // By its descriptor: the name could be a link by now.
        let through = format!("/proc/self/fd/{}", found.as_raw_fd());
        // Root passes without; anybody else gets a clearer error from what follows.
        let _ = rustix::fs::chmod(through, Mode::from_raw_mode(mode & 0o7777 | 0o700));
    }
    openat(&found, c".", DIRECTORY, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn scratch(name: &str) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("ironclaw-tree-{name}-{}", std::process::id()));
        remove_tree(&path).unwrap();
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// A chain of directories, made without a path that long.
    fn deep(top: &Path, levels: usize) {
        let mut here = rustix::fs::open(top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..levels {
            rustix::fs::mkdirat(&here, c"d", Mode::from_raw_mode(0o700)).unwrap();
            here = openat(&here, c"d", DIRECTORY, Mode::empty()).unwrap();
        }
        rustix::fs::symlinkat(c"/", &here, c"root").unwrap();
    }

    #[test]
    fn usage_counts_files_and_follows_no_link() {
        let dir = scratch("usage");
        std::fs::create_dir(dir.join("sub")).unwrap();
        std::fs::write(dir.join("sub/a"), vec![1u8; 100_000]).unwrap();
        symlink("/", dir.join("sub/root")).unwrap();
        let sparse = File::create(dir.join("sparse")).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let counted = usage(&dir, 1000).unwrap();
        assert_eq!((counted.files, counted.cut_off), (4, false));
        assert!((100_000..300_000).contains(&counted.bytes), "{}", counted.bytes);
        assert!(usage(&dir, 3).unwrap().cut_off);
        remove_tree(&dir).unwrap();
    }

    #[test]
    fn what_lies_behind_a_deep_tree_is_counted_and_removed() {
        let dir = scratch("deep");
        deep(&dir, 5_000);
        std::fs::create_dir_all(dir.join("z/y")).unwrap();
        std::fs::write(dir.join("z/y/x"), "x").unwrap();
        let counted = usage(&dir, 100_000).unwrap();
        assert_eq!((counted.files, counted.cut_off), (5_004, false));
        remove_tree(&dir).unwrap();
        assert!(!dir.exists());
    }

    #[test]
    fn no_mode_name_or_link_of_a_tree_saves_it_or_what_it_points_at() {
        let outside = scratch("outside");
        std::fs::write(outside.join("kept"), "kept").unwrap();
        let dir = scratch("odd");
        let odd = dir.join(std::ffi::OsStr::from_bytes(b"\xff\xfe\n"));
        std::fs::create_dir_all(odd.join("a/b/c")).unwrap();
        // Names that the removal itself would choose.
        std::fs::create_dir_all(dir.join(".1/.2/.3/.1")).unwrap();
        std::fs::write(dir.join(".2"), "").unwrap();
        symlink(&outside, odd.join("a/link")).unwrap();
        symlink("..", odd.join("up")).unwrap();
        for closed in ["a/b/c", "a/b", "a"] {
            let mode = std::fs::Permissions::from_mode(0o000);
            std::fs::set_permissions(odd.join(closed), mode).unwrap();
        }
        remove_tree(&dir).unwrap();
        assert!(!dir.exists() && outside.join("kept").exists());
        symlink(&outside, &dir).unwrap();
        remove_tree(&dir).unwrap();
        assert!(dir.symlink_metadata().is_err() && outside.join("kept").exists());
        remove_tree(&outside).unwrap();
        remove_tree(&outside).unwrap();
    }
}
