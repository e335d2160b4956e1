//! Owners and modes of everything a sandbox reaches: makes a session's directories, hands files over to the
//! guest's id, binds its sockets, and checks the whole list before each launch, because a runtime that cannot
//! pass one directory says only `EOF`. Touches the directories of sessions and groups, the run directory, and
//! reads the modes of what is above them.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::{Identity, LaunchError, SandboxSpec, SessionPaths, Shown, at};
use crate::controlplane::state::Wall;
use crate::os::{files, process};

/// Longest path of a unix socket, in bytes: the kernel's field has 108 with its final NUL.
pub const SOCKET_PATH_BYTES: usize = 107;

/// Connections that may wait on a session's socket before they are accepted.
const BACKLOG: i32 = 64;

/// A path that is not as the boundary needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathProblem {
    /// The path.
    pub path: PathBuf,
    /// What is wrong with it.
    pub wrong: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for PathProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.path.display(), self.wrong, self.fix)
    }
}

impl std::error::Error for PathProblem {}

/// Makes every directory and file of a session with its owner and mode, and an empty `outbound.db` in the place
/// of whatever was there. Both conveyors must be closed. Directories that exist keep their content.
pub fn prepare(spec: &SandboxSpec) -> Result<(), LaunchError> {
    let paths = &spec.paths;
    let (owner, mode) = wall_mode(spec.identity);
    for path in walls(paths) {
        let missing_parent = path.parent().is_some_and(|parent| !parent.exists());
        if missing_parent && let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(at("making", parent))?;
        }
        files::directory(path, owner, mode).map_err(at("preparing", path))?;
    }
    for path in own_mounts(spec) {
        for above in path.ancestors().skip(1).take(2).collect::<Vec<_>>().into_iter().rev() {
            files::directory(above, owner, mode).map_err(at("preparing", above))?;
        }
    }
    for path in guest_directories(paths).into_iter().chain(own_mounts(spec)) {
        files::directory(path, spec.identity.owner(), 0o700).map_err(at("preparing", path))?;
    }
    files::fresh_file(&paths.outbound, spec.identity.owner(), 0o600).map_err(at("making", &paths.outbound))
}

/// The directories of ours above what the guest touches, from the top down.
fn walls(paths: &SessionPaths) -> Vec<&Path> {
    let above = [
        paths.session_root.parent().and_then(Path::parent),
        paths.session_root.parent(),
        Some(paths.session_root.as_path()),
        paths.workspace.parent(),
        paths.memory.parent(),
        paths.sockets.parent(),
    ];
    above.into_iter().flatten().collect()
}

/// Owner and mode of a directory that the sandbox may only pass through.
pub(super) fn wall_mode(identity: Identity) -> (Option<(u32, u32)>, u32) {
    match identity {
        Identity::Mapped { wall, .. } => (Some((0, wall)), 0o710),
        Identity::OwnUser => (None, 0o700),
    }
}

/// Makes a directory of ours that sandboxes may only pass through.
///
/// # Errors
/// The system's.
pub fn wall_directory(path: &Path, wall: Wall) -> io::Result<()> {
    let (owner, mode) = match wall {
        Wall::Root { mapped_root } => wall_mode(Identity::Mapped { wall: mapped_root, group: mapped_root }),
        Wall::OrdinaryUser => wall_mode(Identity::OwnUser),
    };
    files::directory(path, owner, mode)
}

/// The directories that were made for the group's mounts.
fn own_mounts(spec: &SandboxSpec) -> impl Iterator<Item = &Path> {
    spec.shown.iter().filter_map(|shown| match shown {
        Shown::Own { source, .. } => Some(source.as_path()),
        Shown::Package { .. } | Shown::Directory { .. } => None,
    })
}

fn guest_directories(paths: &SessionPaths) -> [&Path; 5] {
    [&paths.inbound_dir, &paths.session_dir, &paths.sockets, &paths.workspace, &paths.memory]
}

/// Gives one file or socket to the guest's id, mode 0600. To be called on `inbound.db` before it is renamed
/// into place.
pub fn hand_over(path: &Path, identity: Identity) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    match identity.owner() {
        Some((uid, gid)) => files::chown(path, uid, gid),
        None => Ok(()),
    }
}

/// Binds a session's socket: whatever had the name is removed, the owner and mode 0600 are set before anybody
/// can connect, and only then it listens. Non-blocking and close-on-exec.
pub fn bind_socket(path: &Path, identity: Identity) -> io::Result<UnixListener> {
    use std::os::unix::ffi::OsStrExt;
    let length = path.as_os_str().as_bytes().len();
    if length > SOCKET_PATH_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the socket path {} has {length} bytes and a unix socket allows {SOCKET_PATH_BYTES}; choose a \
                 shorter run directory with --model-proxy-socket",
                path.display()
            ),
        ));
    }
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = crate::os::socket::bind_unix(path)?;
    hand_over(path, identity)?;
    crate::os::socket::listen(socket, BACKLOG)
}

/// Whether whoever connected is a sandbox of this daemon: its user is A or B (gVisor's gofer connects as A), or
/// root, who needs no socket to do harm; for an ordinary user's daemon, that user.
pub fn peer_is_ours(stream: impl AsFd, identity: Identity) -> bool {
    let Ok(uid) = process::peer_uid(stream) else { return false };
    match identity {
        Identity::Mapped { wall, group } => uid == 0 || uid == wall || uid == group,
        Identity::OwnUser => uid == process::own_ids().0,
    }
}

/// What a path must be.
struct Expected<'a> {
    path: &'a Path,
    kind: Kind,
    owner: Option<(u32, u32)>,
    mode: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
}

/// Checks owners and modes of everything that `spec` mounts, and that the sandbox can pass every directory above
/// it. Names the first thing wrong. A session's directory is made by [`prepare`].
pub fn check(spec: &SandboxSpec, shared: &[&Path]) -> Result<(), PathProblem> {
    let paths = &spec.paths;
    let owner = Some(spec.identity.owner().unwrap_or_else(process::own_ids));
    let directory = |path| Expected { path, kind: Kind::Directory, owner, mode: 0o700 };
    let file = |path| Expected { path, kind: Kind::File, owner, mode: 0o600 };
    let mut list: Vec<Expected<'_>> =
        guest_directories(paths).into_iter().chain(own_mounts(spec)).map(directory).collect();
    list.extend([file(&paths.inbound), file(&paths.outbound)]);
    for expected in &list {
        passable_above(expected.path, spec.identity)?;
        exactly(expected)?;
    }
    let packages = spec.shown.iter().filter_map(|shown| match shown {
        Shown::Package { source, .. } => Some(source.as_path()),
        Shown::Own { .. } | Shown::Directory { .. } => None,
    });
    for path in shared.iter().copied().chain(packages) {
        passable_above(path, spec.identity)?;
        let stat = stat(path)?;
        if stat.mode() & 0o555 != 0o555 {
            return Err(PathProblem {
                path: path.to_path_buf(),
                wrong: format!("its mode is {:04o}, so the sandbox cannot read it", stat.mode() & 0o7777),
                fix: format!("`chmod 0555 {}`, or remove it: it is made again at start", path.display()),
            });
        }
    }
    Ok(())
}

fn stat(path: &Path) -> Result<std::fs::Metadata, PathProblem> {
    std::fs::symlink_metadata(path).map_err(|error| PathProblem {
        path: path.to_path_buf(),
        wrong: format!("it cannot be looked at ({error})"),
        fix: "it is made again when the session is next prepared; check the disk and the parent's mode"
            .into(),
    })
}

fn exactly(expected: &Expected<'_>) -> Result<(), PathProblem> {
    let found = stat(expected.path)?;
    let problem =
        |wrong: String, fix: String| Err(PathProblem { path: expected.path.to_path_buf(), wrong, fix });
    let right_kind = match expected.kind {
        Kind::Directory => found.is_dir(),
        Kind::File => found.is_file(),
    };
    if !right_kind {
        let kind = if expected.kind == Kind::Directory { "a directory" } else { "a regular file" };
        return problem(
            format!("it is not {kind}"),
            "move it away: the session is then prepared anew".into(),
        );
    }
    if let Some((uid, gid)) = expected.owner
        && (found.uid(), found.gid()) != (uid, gid)
    {
        return problem(
            format!("its owner is {}:{}, and the sandbox needs {uid}:{gid}", found.uid(), found.gid()),
            format!("`chown {uid}:{gid} {}`", expected.path.display()),
        );
    }
    let mode = found.mode() & 0o7777;
    if mode != expected.mode {
        return problem(
            format!("its mode is {mode:04o}, and the sandbox needs {:04o}", expected.mode),
            format!("`chmod {:04o} {}`", expected.mode, expected.path.display()),
        );
    }
    if expected.kind == Kind::File && found.nlink() != 1 {
        return problem(
            format!("it has {} names (hard links), and only one is safe", found.nlink()),
            "remove the other names".into(),
        );
    }
    Ok(())
}

/// Every directory above `path` must let the sandbox through: a runtime under id A, or this user.
pub(super) fn passable_above(path: &Path, identity: Identity) -> Result<(), PathProblem> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    for directory in above {
        if directory.as_os_str().is_empty() {
            continue;
        }
        let passable = match identity {
            // A directory that is B's own is reached by its mount, not by walking.
            Identity::Mapped { wall, group } => {
                let found = stat(directory)?;
                passes(&found, wall) || found.uid() == group
            }
            Identity::OwnUser => process::may_traverse(directory),
        };
        if !passable {
            let mode = stat(directory)?.mode() & 0o7777;
            return Err(PathProblem {
                path: directory.to_path_buf(),
                wrong: format!("its mode is {mode:04o}, so a sandbox cannot pass through it"),
                fix: format!(
                    "`chmod o+x {}`, or choose a --state-dir elsewhere (such as /var/lib/ironclaw)",
                    directory.display()
                ),
            });
        }
    }
    Ok(())
}

/// Whether a process with user and group `id` and no other may search this directory.
fn passes(directory: &std::fs::Metadata, id: u32) -> bool {
    let mode = directory.mode();
    if directory.uid() == id {
        mode & 0o100 != 0
    } else if directory.gid() == id {
        mode & 0o010 != 0
    } else {
        mode & 0o001 != 0
    }
}
