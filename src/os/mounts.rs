//! What is mounted where, as this process sees it, and where on its filesystem a path is: two names of one directory, as
//! a bind mount gives them, are one place. Reads `/proc/self/mountinfo`, and looks at the paths that are asked for.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    id: u64,
    /// Its filesystem, by the numbers of its device.
    filesystem: String,
    /// What of the filesystem it shows.
    root: PathBuf,
    /// Where.
    at: PathBuf,
}

/// All mounts of this process's namespace at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounts(Vec<Mounted>);

/// Where something is on its filesystem, whatever its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    filesystem: String,
    path: PathBuf,
}

impl Place {
    /// Whether one of the two holds the other, or they are the same.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.filesystem == other.filesystem
            && (self.path.starts_with(&other.path) || other.path.starts_with(&self.path))
    }
}

impl Mounts {
    /// Those of now.
    ///
    /// # Errors
    /// The system's.
    pub fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/self/mountinfo")?))
    }

    /// The lines of proc_pid_mountinfo(5); what is not one is passed over.
    fn parse(text: &[u8]) -> Self {
        let line = |line: &[u8]| {
            let mut fields = line.split(|byte| *byte == b' ');
            let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
            let filesystem = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
            let (root, at) = (plain(fields.next()?), plain(fields.next()?));
            Some(Mounted { id, filesystem, root, at })
        };
        Self(text.split(|byte| *byte == b'\n').filter_map(line).collect())
    }

    /// What is mounted somewhere below a directory, if anything is.
    pub fn inside(&self, path: &Path) -> Option<&Path> {
        self.0.iter().map(|mount| mount.at.as_path()).find(|at| *at != path && at.starts_with(path))
    }

    /// Where a path leads to that has no link in it; `None` when the table does not say.
    pub fn place(&self, path: &Path) -> Option<Place> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(CWD, path, flags, Mode::empty()).ok()?;
        let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        self.on(stat.stx_mnt_id, path)
    }

    fn on(&self, mount: u64, path: &Path) -> Option<Place> {
        let mount = self.0.iter().find(|known| known.id == mount)?;
        let below = path.strip_prefix(&mount.at).ok()?;
        let path = if below.as_os_str().is_empty() { mount.root.clone() } else { mount.root.join(below) };
        Some(Place { filesystem: mount.filesystem.clone(), path })
    }
}

/// A path of the table, in which four characters are written in octal.
fn plain(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let (byte, after) = match after.split_first_chunk::<3>() {
            Some((b"040", after)) if *first == b'\\' => (b' ', after),
            Some((b"011", after)) if *first == b'\\' => (b'\t', after),
            Some((b"012", after)) if *first == b'\\' => (b'\n', after),
            Some((b"134", after)) if *first == b'\\' => (b'\\', after),
            _ => (*first, after),
        };
        bytes.push(byte);
        rest = after;
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 21 8:1 /var/lib/ironclaw/sessions /srv/shared\\040x rw - ext4 /dev/sda1 rw\n\
        31 21 0:40 / /srv/other/deep rw - tmpfs none rw\nno line\n";

    #[test]
    fn two_names_of_one_directory_are_one_place() {
        let mounts = Mounts::parse(TABLE);
        let on = |id, path: &str| mounts.on(id, Path::new(path)).unwrap();
        let private = on(21, "/var/lib/ironclaw");
        assert!(on(30, "/srv/shared x").overlaps(&private) && on(30, "/srv/shared x/a").overlaps(&private));
        assert!(private.overlaps(&on(21, "/var")) && private.overlaps(&on(21, "/")));
        for elsewhere in [on(21, "/var/lib/ironclaw-2"), on(21, "/srv"), on(31, "/srv/other/deep")] {
            assert!(!elsewhere.overlaps(&private), "{elsewhere:?}");
        }
        assert_eq!(mounts.on(99, Path::new("/")), None);
    }

    #[test]
    fn what_is_mounted_inside_is_seen() {
        let mounts = Mounts::parse(TABLE);
        let inside = |path: &str| mounts.inside(Path::new(path)).map(Path::to_owned);
        assert_eq!(inside("/srv/other"), Some("/srv/other/deep".into()));
        assert_eq!(inside("/srv"), Some("/srv/shared x".into()));
        assert_eq!((inside("/srv/other/deep"), inside("/srv/oth"), inside("/var")), (None, None, None));
    }

    #[test]
    fn this_process_finds_its_own_places() {
        let mounts = Mounts::read().unwrap();
        let (usr, share) = (mounts.place(Path::new("/usr")), mounts.place(Path::new("/usr/share")));
        assert!(usr.unwrap().overlaps(&share.unwrap()));
        assert!(
            !mounts.place(Path::new("/proc")).unwrap().overlaps(&mounts.place(Path::new("/usr")).unwrap())
        );
    }
}
