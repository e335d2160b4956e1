//! Directories of the host put where a sandbox's user can reach them: each is opened as root, compared with what was
//! approved, and bound, by its descriptor, to a directory of the daemon's own, in a mount namespace that only this
//! stage and what it becomes have. A private parent then stands in nobody's way, and nothing is left to unmount.
//! Touches the mounts of that namespace.

use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
};
use rustix::thread::UnshareFlags;

use super::cage::root::{ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, set_attributes};
use super::source;
use super::stage::{Decoder, Encoder, Failure, Step};

/// One directory, to be read only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The host's path.
    pub source: PathBuf,
    /// Which directory that must be.
    pub device: u64,
    /// The same.
    pub inode: u64,
    /// The daemon's own directory that shows it.
    pub at: PathBuf,
}

impl Seen {
    pub(super) fn encode(&self, out: &mut Encoder) {
        use std::os::unix::ffi::OsStrExt;
        out.bytes(self.source.as_os_str().as_bytes());
        out.number(self.device);
        out.number(self.inode);
        out.bytes(self.at.as_os_str().as_bytes());
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> io::Result<Self> {
        Ok(Self { source: from.path()?, device: from.number()?, inode: from.number()?, at: from.path()? })
    }
}

/// Binds them, in a new mount namespace of this process, which has one thread. Does nothing where there are none.
pub(super) fn bind(all: &[Seen]) -> Result<(), Failure> {
    if all.is_empty() {
        return Ok(());
    }
    // SAFETY: this process has one thread, and the table of descriptors is not unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.step(|| "unshare for mounts".into())?;
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).step(|| "making the mounts private".into())?;
    for seen in all {
        let shown = seen.source.display();
        let found = source::open(&seen.source, seen.device, seen.inode)
            .step(|| format!("opening the mount {shown}"))?;
        // Not what is mounted inside it: nobody approved that.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(&found, "", flags | OpenTreeFlags::AT_EMPTY_PATH)
            .step(|| format!("taking the mount {shown}"))?;
        let quiet = ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC;
        set_attributes(tree.as_fd(), c"", quiet, libc::AT_EMPTY_PATH as u32)
            .step(|| format!("restricting the mount {shown}"))?;
        move_mount(&tree, "", CWD, &seen.at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .step(|| format!("showing the mount {shown}"))?;
    }
    Ok(())
}
