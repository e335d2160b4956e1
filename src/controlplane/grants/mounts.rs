//! Directories of the host that the operator allows agents to see: below a `--mount-root`, safe from everybody but
//! root and this user, and nothing of the daemon's own. Looks; touches nothing.

use std::path::Path;

use super::Host;
use crate::controlplane::state::Wall;
use crate::os::source::{self, Source};

/// Longest path of a directory, in bytes.
pub const MOST_PATH: usize = 1024;

/// So many entries of a directory are looked at for sockets.
const MOST_ENTRIES: usize = 10_000;

/// Looks at a directory that is asked for, or that was granted.
///
/// # Errors
/// What stands against it, and what to do; safe to show once it is escaped.
pub fn look(host: &Host, path: &Path) -> Result<Source, String> {
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
    if let Some(private) = host.private.iter().find(|own| path.starts_with(own) || own.starts_with(path)) {
        return Err(format!(
            "{} holds or is held by {}, which no agent may see; choose a directory elsewhere",
            path.display(),
            private.display()
        ));
    }
    let found = source::look(path).map_err(|problem| problem.to_string())?;
    if let Some(inside) = source::mounted_inside(path) {
        return Err(format!(
            "{} has something mounted inside it, at {}, which would be shown too; choose a directory without",
            path.display(),
            inside.display()
        ));
    }
    if let Some(socket) = source::socket_inside(path, MOST_ENTRIES) {
        return Err(format!(
            "{} holds the socket {}, and who may only read a directory can still talk to whoever listens there; choose a \
             directory without",
            path.display(),
            socket.display()
        ));
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
