//! The root of a cage: memory for some dozen mount points, each thing of the plan attached with the fewest rights that
//! serve it, then the host's tree let go and the whole made read-only. Touches the mounts of the cage's own new
//! namespace and no file of the host.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat};
use rustix::mount::{
    MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, move_mount, open_tree, unmount,
};

use super::{Access, Cage, Mount, Who};
use crate::contract::fault;
use crate::os::stage::{Failure, Step};

/// Where the new root is put together, under a file system of its own: the one directory that every host has, and
/// which is no longer needed by then.
const ASSEMBLY: &str = "/proc";

/// Memory for the root itself, which holds empty mount points: a dozen, and one for each package and mount.
const ROOT_OPTIONS: &str = "size=256k,nr_inodes=128,mode=0555";

/// The mount flags of memory.
fn quiet() -> MountFlags {
    let flags =
        [("nosuid", MountFlags::NOSUID), ("nodev", MountFlags::NODEV), ("noexec", MountFlags::NOEXEC)];
    flags.into_iter().filter(|(name, _)| !fault::weakened(name)).map(|(_, flag)| flag).collect()
}

/// Puts the root together and makes it this process's own; nothing of the host's tree can be reached after.
pub(super) fn build(cage: &Cage) -> Result<(), Failure> {
    // Every source is opened first: the host's tree is out of reach once the new root covers the assembly point.
    let mut opened = Vec::new();
    for item in &cage.mounts {
        opened.push(match item {
            Mount::Bind { source, access, .. } => Some(detach(source, *access)?),
            Mount::Memory { .. } | Mount::Directory { .. } => None,
        });
    }
    let all = quiet();
    let options = if fault::weakened("readonly_root") {
        let owner = match cage.who {
            Who::NoUserNamespace { group } => format!(",uid={group},gid={group}"),
            Who::OwnUser | Who::Mapped { .. } => String::new(),
        };
        format!("{ROOT_OPTIONS},mode=0755{owner}")
    } else {
        ROOT_OPTIONS.to_owned()
    };
    let options = CString::new(options).step(|| "the root's options".into())?;
    mount("root", ASSEMBLY, "tmpfs", all, options.as_c_str()).step(|| "mounting the new root".into())?;
    rustix::process::chdir(ASSEMBLY).step(|| "entering the new root".into())?;
    for (item, source) in cage.mounts.iter().zip(opened) {
        match (item, source) {
            (Mount::Directory { at }, _) => make_directory(&below(at))?,
            (Mount::Memory { at, bytes, mode }, _) => {
                let at = below(at);
                make_directory(&at)?;
                let owner = match cage.who {
                    Who::NoUserNamespace { group } => format!(",uid={group},gid={group}"),
                    Who::OwnUser | Who::Mapped { .. } => String::new(),
                };
                let options = format!("size={bytes},nr_inodes=4096,mode={mode:o}{owner}");
                let options = CString::new(options).step(|| "tmpfs options".into())?;
                mount("memory", &at, "tmpfs", all, options.as_c_str())
                    .step(|| format!("mounting memory at {}", at.display()))?;
            }
            (Mount::Bind { at, access, .. }, Some(source)) => attach(&source, &below(at), *access)?,
            (Mount::Bind { .. }, None) => {}
        }
    }
    rustix::process::pivot_root(".", ".").step(|| "pivot_root".into())?;
    unmount(".", UnmountFlags::DETACH).step(|| "leaving the host's tree".into())?;
    rustix::process::chdir("/").step(|| "entering /".into())?;
    if fault::weakened("readonly_root") {
        return Ok(());
    }
    set_attributes(CWD, c"/", ATTR_RDONLY, 0).step(|| "making the root read-only".into())
}

/// A copy of the host's mount of `source`, in no place yet. Of a foreign directory what is mounted inside does not come
/// along; an ordinary user's kernel refuses to leave that out, and then there is no sandbox.
fn detach(source: &Path, access: Access) -> Result<OwnedFd, Failure> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if access != Access::Foreign {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(CWD, source, flags).step(|| format!("opening {}", source.display()))
}

fn attach(source: &OwnedFd, at: &Path, access: Access) -> Result<(), Failure> {
    let is_directory = fstat(source)
        .map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
        .step(|| format!("looking at the source of {}", at.display()))?;
    if is_directory {
        make_directory(at)?;
    } else {
        if let Some(parent) = at.parent() {
            make_directory(parent)?;
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        rustix::fs::open(at, flags, Mode::from_raw_mode(0o600))
            .step(|| format!("making {}", at.display()))?;
    }
    let set = match access {
        Access::ReadOnly | Access::Foreign => ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC,
        Access::ReadWrite => ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC,
        Access::Program => ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV,
        Access::Device => ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC,
    };
    let set = [("nosuid", ATTR_NOSUID), ("nodev", ATTR_NODEV), ("noexec", ATTR_NOEXEC)]
        .into_iter()
        .filter(|(name, _)| fault::weakened(name))
        .fold(set, |set, (_, flag)| set & !flag);
    set_attributes(source.as_fd(), c"", set, libc::AT_EMPTY_PATH as u32 | libc::AT_RECURSIVE as u32)
        .step(|| format!("restricting {}", at.display()))?;
    move_mount(source, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .step(|| format!("mounting {}", at.display()))
}

fn make_directory(at: &Path) -> Result<(), Failure> {
    std::fs::create_dir_all(at).step(|| format!("making {}", at.display()))
}

/// An absolute path inside, as seen from the assembly point.
fn below(at: &Path) -> PathBuf {
    Path::new(".").join(at.strip_prefix("/").unwrap_or(at))
}

pub(in crate::os) const ATTR_RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub(in crate::os) const ATTR_NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub(in crate::os) const ATTR_NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub(in crate::os) const ATTR_NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;

/// Adds attributes to a mount. Only adding never collides with the flags that a user namespace locks.
pub(in crate::os) fn set_attributes(
    fd: BorrowedFd<'_>,
    path: &std::ffi::CStr,
    set: u64,
    flags: u32,
) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    // SAFETY: the path and the structure, whose size is given, outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
