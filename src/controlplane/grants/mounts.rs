//! Directories of the host that the operator allows agents to see: below a `--mount-root`, safe from everybody but
//! root and this user, and nothing of the daemon's own. Looks; touches nothing.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Host;
use crate::controlplane::state::Wall;
use crate::os::mounts::Mounts;
use crate::os::source::{self, Below, Source};

/// Longest path of a directory, in bytes.
pub const MOST_PATH: usize = 1024;

/// So many entries of a directory are looked at for sockets.
const MOST_ENTRIES: usize = 250_000;

/// Looks at a directory that is asked for, or that was granted. Blocks for as long as it takes to answer; see
/// [`Host::look`].
///
/// # Errors
/// What stands against it, and what to do; safe to show once it is escaped.
pub(super) fn look(host: &Host, path: &Path) -> Result<Source, String> {
    if host.roots.is_empty() {
        return Err(
            "this control plane allows no mounts; start it with --mount-root DIR (IRONCLAW_MOUNT_ROOT) \
                    to allow the directories below DIR"
                .to_owned(),
        );
    }
    // Judged by the words first: of what is elsewhere nothing is told. No name on the way may be a link, so they say where
    // it is.
    if !source::is_plain(path) {
        return Err(source::SourceProblem::NotPlain.to_string());
    }
    if !host.roots.iter().any(|root| path.starts_with(root)) {
        let roots: Vec<String> = host.roots.iter().map(|root| root.display().to_string()).collect();
        return Err(format!(
            "{} is not below a directory that the operator allows (--mount-root {})",
            path.display(),
            roots.join(", ")
        ));
    }
    let refused = |private: &Path| {
        format!(
            "{} holds or is held by {}, which no agent may see; choose a directory elsewhere",
            path.display(),
            private.display()
        )
    };
    if let Some(private) = host.private.iter().find(|own| is_near(path, own)) {
        return Err(refused(private));
    }
    #[cfg(feature = "faults")]
    crate::contract::fault::wait("look-waits");
    let found = source::look(path).map_err(|problem| problem.to_string())?;
    let mounts = Mounts::read().map_err(|error| format!("what is mounted cannot be read: {error}"))?;
    if let Some(private) = host.private.iter().find(|own| touches(&mounts, path, &found, own)) {
        return Err(refused(private));
    }
    if let Some(inside) = mounts.inside(path) {
        return Err(format!(
            "{} has something mounted inside it, at {}, which would be shown too; choose a directory without",
            path.display(),
            inside.display()
        ));
    }
    match source::below(path, MOST_ENTRIES) {
        Below::Files => {}
        Below::Socket(socket) => {
            return Err(format!(
                "{} holds the socket {}, and who may only read a directory can still talk to whoever listens there; \
                 choose a directory without",
                path.display(),
                socket.display()
            ));
        }
        Below::Unseen(inside) => {
            return Err(format!(
                "{} cannot be read, so that a socket may be in it, to which an agent could talk; choose a directory \
                 that can be read as a whole",
                inside.display()
            ));
        }
        Below::TooMuch => {
            return Err(format!(
                "{} holds more than {MOST_ENTRIES} entries, too many to see that no socket is among them; choose a \
                 directory inside it",
                path.display()
            ));
        }
    }
    let readable = match host.wall {
        Wall::Root { .. } => found.mode & 0o005 == 0o005,
        Wall::OrdinaryUser => {
            rustix::fs::access(path, rustix::fs::Access::READ_OK | rustix::fs::Access::EXEC_OK).is_ok()
        }
    };
    if !readable {
        return Err(format!(
            "{} has mode {:04o}, so an agent could not read it; run chmod o+rx on it",
            path.display(),
            found.mode
        ));
    }
    Ok(found)
}

/// Whether one of two names holds the other.
fn is_near(path: &Path, own: &Path) -> bool {
    path.starts_with(own) || own.starts_with(path)
}

/// Whether a directory that was looked at holds something of ours or is held by it, whatever the names: by where ours
/// leads, by what is on the way to both, or by where they are on their filesystem, for what a bind mount shows.
fn touches(mounts: &Mounts, path: &Path, found: &Source, own: &Path) -> bool {
    // What is not there is known by its name alone.
    let Ok(real) = own.canonicalize() else { return false };
    let number = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    let is_held = number(&real).is_some_and(|own| found.way.contains(&own));
    let itself = (found.which.device, found.which.inode);
    let holds = real.ancestors().any(|above| number(above) == Some(itself));
    let is_one = mounts.place(path).zip(mounts.place(&real)).is_some_and(|(place, own)| place.overlaps(&own));
    is_near(path, &real) || is_held || holds || is_one
}
