//! Room on the disk: how much of its share an agent group uses, and whether the file system has enough left.

use std::path::{Path, PathBuf};

use super::context::{Allowed, Context};
use crate::contract::ids::{GroupName, SessionId};
use crate::contract::inbound::Usage;
use crate::controlplane::config::MinFree;
use crate::controlplane::isolation::SessionPaths;
use crate::controlplane::tasks;
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
pub enum Room {
    /// Everything.
    Enough,
    /// No launches.
    Low,
    /// Not even what runs.
    Critical,
}

/// Looks at the free space of the state directory's file system.
#[derive(Clone, Debug)]
pub struct FreeSpace {
    path: PathBuf,
    floor: MinFree,
}

impl FreeSpace {
    /// That of this path.
    pub fn new(path: &Path, floor: MinFree) -> Self {
        Self { path: path.to_owned(), floor }
    }

    /// What is possible now. A file system that does not answer counts as full: writing to it would fail too.
    pub fn room(&self) -> Room {
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

/// Counts what an agent group keeps: its workspace, memory and mounts of its own, and the directories of all its
/// sessions. Those of
/// sessions that are not running cannot change, so they are counted once and remembered.
pub(super) async fn measure(
    context: &Context,
    group: &GroupName,
    session: &SessionId,
    paths: &SessionPaths,
    quota: Allowed,
) -> Usage {
    let others = context.uncounted(group).await;
    let top = paths.session_root.parent().map(Path::to_owned).unwrap_or_default();
    let (workspace, memory, own) =
        (paths.workspace.clone(), paths.memory.clone(), paths.session_root.clone());
    let mounts = paths.mounts.clone();
    let most = quota.files.saturating_mul(COUNTED).max(quota.files.saturating_add(1));
    let (shared, own, others) = tasks::unblock(move || {
        let shared = count(&workspace, most).and(count(&memory, most)).and(count(&mounts, most));
        let others: Vec<(SessionId, Counted)> =
            others.into_iter().map(|id| (id.clone(), count(&top.join(id.as_str()), most))).collect();
        (shared, count(&own, most), others)
    })
    .await;
    let sum = shared.and(context.count_sessions(group, session, own, others));
    Usage { bytes: sum.bytes, files: sum.files, bytes_limit: quota.bytes, files_limit: quota.files }
}

/// Bytes and files of some directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

impl Counted {
    pub(super) fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }
}

/// A directory that cannot be counted counts as full, because the reason is something that the agent made.
fn count(directory: &Path, most: u64) -> Counted {
    match files::usage(directory, most) {
        Ok(counted) => Counted {
            bytes: counted.bytes,
            files: if counted.cut_off { counted.files.max(most) } else { counted.files },
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Counted::default(),
        Err(_) => Counted { bytes: 0, files: most },
    }
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
