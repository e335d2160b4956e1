//! Room on the disk: how much of its share an agent group uses, and whether the file system has enough left.

use std::path::{Path, PathBuf};

use super::context::Quota;
use crate::contract::inbound::Usage;
use crate::controlplane::config::MinFree;
use crate::controlplane::isolation::SessionPaths;
use crate::os::files;

/// Free space below which nothing is launched, unless configured: the smaller of this and [`DEFAULT_SHARE`].
const DEFAULT_BYTES: u64 = 512 << 20;

/// One part in so many of the file system.
const DEFAULT_SHARE: u64 = 20;

/// A directory's files are counted up to so many times the quota: what grows beyond it must not be hidden, and
/// counting must end.
const COUNTED: u64 = 10;

/// What the free space allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// Everything.
    Enough,
    /// No launches.
    Low,
    /// Not even what runs.
    Critical,
}

/// Looks at the free space of the state directory's file system.
#[derive(Clone, Debug)]
pub(super) struct FreeSpace {
    path: PathBuf,
    floor: MinFree,
}

impl FreeSpace {
    pub(super) fn new(path: &Path, floor: MinFree) -> Self {
        Self { path: path.to_owned(), floor }
    }

    /// What is possible now. A file system that does not answer counts as full: writing to it would fail too.
    pub(super) fn room(&self) -> Room {
        match files::space(&self.path) {
            Ok(space) => judge(self.floor, space.free, space.total),
            Err(_) => Room::Low,
        }
    }
}

fn judge(floor: MinFree, free: u64, total: u64) -> Room {
    let floor = match floor {
        MinFree::Default => DEFAULT_BYTES.min(total / DEFAULT_SHARE),
        MinFree::Bytes(bytes) => bytes,
    };
    if free < floor / 2 {
        Room::Critical
    } else if free < floor {
        Room::Low
    } else {
        Room::Enough
    }
}

/// Counts what the group's workspace and memory and this session's directory hold. A directory that cannot be
/// counted counts as full, because the reason is something that the agent made.
pub(super) fn usage(paths: &SessionPaths, quota: Quota) -> Usage {
    let mut sum = Usage { bytes: 0, files: 0, bytes_limit: quota.bytes, files_limit: quota.files };
    for directory in [&paths.session_dir, &paths.workspace, &paths.memory] {
        match files::usage(directory, quota.files.saturating_mul(COUNTED)) {
            Ok(counted) => {
                sum.bytes = sum.bytes.saturating_add(counted.bytes);
                sum.files = sum.files.saturating_add(counted.files);
                if counted.cut_off {
                    sum.files = sum.files.max(quota.files + 1);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => sum.files = quota.files + 1,
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_floor_is_critical() {
        let gib = 1 << 30;
        assert_eq!(judge(MinFree::Default, 100 * gib, 200 * gib), Room::Enough);
        assert_eq!(judge(MinFree::Default, (512 << 20) - 1, 200 * gib), Room::Low);
        assert_eq!(judge(MinFree::Default, (256 << 20) - 1, 200 * gib), Room::Critical);
        assert_eq!(judge(MinFree::Default, 60 << 20, gib), Room::Enough, "5 % of a small disk");
        assert_eq!(judge(MinFree::Default, 40 << 20, gib), Room::Low);
        assert_eq!(judge(MinFree::Bytes(0), 0, gib), Room::Enough);
        assert_eq!(judge(MinFree::Bytes(10), 4, gib), Room::Critical);
    }
}
