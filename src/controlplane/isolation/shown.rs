//! Packages and mounts in a sandbox: where the host has each, where it appears inside, with which right, and the mount
//! points that both back ends need for it. Touches the staging directory.

use std::path::{Path, PathBuf};

use super::layout::wall_mode;
use super::{Identity, LaunchError, SandboxSpec, at};
use crate::contract::inbound::Place;
use crate::contract::paths;
use crate::os::cage::{Access, Mount};
use crate::os::files;
use crate::os::seen::Seen;

/// One thing of the host in a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// A copy of a package, the daemon's own, which every group may read.
    Package {
        /// Where it appears.
        at: String,
        /// Where the copy is.
        source: PathBuf,
    },
    /// A directory that the daemon makes for the group, which may write in it.
    Own {
        /// Where it appears.
        at: String,
        /// Where it is.
        source: PathBuf,
    },
    /// A directory of the host, to be read.
    Directory {
        /// Where it appears.
        at: String,
        /// Its name there.
        name: String,
        /// Where it is.
        source: PathBuf,
        /// Which directory that must be.
        device: u64,
        /// The same.
        inode: u64,
    },
}

impl Shown {
    /// Where it appears.
    pub fn at(&self) -> &str {
        match self {
            Self::Package { at, .. } | Self::Own { at, .. } | Self::Directory { at, .. } => at,
        }
    }

    /// As the agent is told of it.
    pub fn told(&self) -> Place {
        Place { at: self.at().to_owned(), is_writable: matches!(self, Self::Own { .. }) }
    }

    /// Whether root puts it where the sandbox's user can reach it. Any other daemon's sandbox is its own user.
    fn is_staged(&self, identity: Identity) -> bool {
        matches!((self, identity), (Self::Directory { .. }, Identity::Mapped { .. }))
    }

    fn mount(&self, spec: &SandboxSpec) -> Mount {
        let (source, access) = match self {
            Self::Package { source, .. } => (source.clone(), Access::ReadOnly),
            Self::Own { source, .. } => (source.clone(), Access::ReadWrite),
            Self::Directory { name, .. } if self.is_staged(spec.identity) => {
                (staged(&spec.paths.staging, name), Access::Foreign)
            }
            Self::Directory { source, .. } => (source.clone(), Access::Foreign),
        };
        Mount::Bind { source, at: self.at().into(), access }
    }
}

/// Where a directory of the host is put before it is mounted.
fn staged(staging: &Path, name: &str) -> PathBuf {
    staging.join("host").join(name)
}

/// The directories that hold the mount points of packages and of mounts.
fn points(staging: &Path) -> [(&'static str, PathBuf); 2] {
    [(paths::PACKAGES, staging.join("packages")), (paths::MOUNTS, staging.join("mnt"))]
}

/// The mounts of what is shown.
pub(super) fn mounts(spec: &SandboxSpec) -> impl Iterator<Item = Mount> {
    spec.shown.iter().map(|shown| shown.mount(spec))
}

/// Directories that hold the mount points, for a root that has none of its own for them.
pub(super) fn above(spec: &SandboxSpec) -> Vec<Mount> {
    let used = |inside: &str| spec.shown.iter().any(|shown| Path::new(shown.at()).starts_with(inside));
    let mount = |(inside, source): (&str, PathBuf)| Mount::Bind {
        source,
        at: inside.into(),
        access: Access::ReadOnly,
    };
    points(&spec.paths.staging).into_iter().filter(|(inside, _)| used(inside)).map(mount).collect()
}

/// What the stage has to put into the staging directory.
pub(super) fn seen(spec: &SandboxSpec) -> Vec<Seen> {
    let seen = |shown: &Shown| match shown {
        Shown::Directory { name, source, device, inode, .. } if shown.is_staged(spec.identity) => {
            Some(Seen {
                source: source.clone(),
                device: *device,
                inode: *inode,
                at: staged(&spec.paths.staging, name),
            })
        }
        _ => None,
    };
    spec.shown.iter().filter_map(seen).collect()
}

/// Makes the staging directory with its mount points, in the place of an earlier one. Nothing where nothing is shown.
pub(super) fn stage(spec: &SandboxSpec) -> Result<(), LaunchError> {
    let staging = &spec.paths.staging;
    files::remove_tree(staging).map_err(at("clearing", staging))?;
    if spec.shown.is_empty() {
        return Ok(());
    }
    let (owner, mode) = wall_mode(spec.identity);
    let make = |path: &Path| files::directory(path, owner, mode).map_err(at("making", path));
    let point = |path: &Path| files::directory(path, None, 0o555).map_err(at("making", path));
    if let Some(all) = staging.parent() {
        make(all)?;
    }
    let host = staging.join("host");
    make(staging)?;
    make(&host)?;
    for seen in seen(spec) {
        point(&seen.at)?;
    }
    for (inside, directory) in points(staging) {
        files::directory(&directory, None, 0o755).map_err(at("making", &directory))?;
        for name in spec.shown.iter().filter_map(|shown| Path::new(shown.at()).strip_prefix(inside).ok()) {
            point(&directory.join(name))?;
        }
        // Only now: an ordinary user cannot make one in a directory that is closed already.
        point(&directory)?;
    }
    Ok(())
}
