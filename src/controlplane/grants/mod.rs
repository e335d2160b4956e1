//! What of the host an agent can be granted: directories that the operator allows, and packages that the operator put
//! into the state directory. They are judged when a change asks for them, and again before each launch. Touches
//! `packages/` in the state directory, and looks at the directories that are asked for.

mod looks;
pub mod mounts;
pub mod packages;

use crate::controlplane::tasks;
use std::collections::BTreeMap;
#[cfg(test)]
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use smol::lock::Semaphore;

use self::looks::{Asked, Looks, Until};
use self::packages::Copies;
use super::config::Config;
#[cfg(test)]
use super::config::MinFree;
use super::isolation::{IsolationPaths, Shown};
use super::session::FreeSpace;
use super::state::Wall;
use super::store::grants::{Grant, What};
use crate::contract::ids::GroupName;
use crate::contract::paths;
use crate::os::source::Source;

/// Packages that an agent can have.
pub const MOST_PACKAGES: usize = 32;
/// Mounts that an agent can have.
pub const MOST_MOUNTS: usize = 16;
/// Longest name of a package, a version or a mount, in bytes.
const NAME_BYTES: usize = 63;
/// Requests that look at the host at once. The others wait without a thread of the blocking pool, which the ledger's
/// readers need.
const MOST_LOOKING: usize = 4;

/// The host, as far as grants are concerned.
#[derive(Clone, Debug)]
pub struct Host {
    /// The state directory.
    state: PathBuf,
    /// Directories of ours, which no sandbox sees, nor anything in them or above them.
    private: Vec<PathBuf>,
    /// Where mounts may come from.
    roots: Vec<PathBuf>,
    /// Who this daemon is.
    wall: Wall,
    /// The room on the state directory's disk.
    space: FreeSpace,
    copies: Arc<Copies>,
    looks: Looks<Source>,
    looking: Arc<Semaphore>,
}

impl Host {
    /// The host of this daemon.
    pub fn new(config: &Config, paths: &IsolationPaths, wall: Wall) -> Self {
        let mut private = vec![paths.state_dir.clone(), paths.run_dir.clone(), paths.bundle_root.clone()];
        private.extend(config.private_files());
        Self {
            state: paths.state_dir.clone(),
            private,
            roots: config.mount_roots.clone(),
            wall,
            space: FreeSpace::new(&paths.state_dir, config.min_free),
            copies: Arc::default(),
            looks: Looks::default(),
            looking: Arc::new(Semaphore::new(MOST_LOOKING)),
        }
    }

    /// A host with this state directory, on which mounts may come from these directories.
    #[cfg(test)]
    pub(in crate::controlplane) fn with(state: &Path, roots: &[&str]) -> Self {
        let roots = roots.iter().map(PathBuf::from).collect();
        Self {
            state: state.to_owned(),
            private: vec![state.to_owned()],
            roots,
            wall: Wall::OrdinaryUser,
            space: FreeSpace::new(state, MinFree::Bytes(0)),
            copies: Arc::default(),
            // A machine that builds at the same time may be slow.
            looks: Looks::waiting(std::time::Duration::from_secs(60)),
            looking: Arc::new(Semaphore::new(MOST_LOOKING)),
        }
    }

    /// Where the daemon keeps the packages that were approved.
    fn store(&self) -> PathBuf {
        self.state.join("packages/.store")
    }

    /// Does for a request what blocks on the host: waits for a turn first, and only then takes a thread. The turn is
    /// the work's, which goes on when whoever asked is gone.
    pub async fn unblock<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        let turn = self.looking.acquire_arc().await;
        let host = self.clone();
        tasks::unblock(move || {
            let _turn = turn;
            work(&host)
        })
        .await
    }

    /// Looks at directories that are asked for, or that were granted, each of which may not answer; see
    /// [`mounts`]. Blocks for some seconds at most.
    ///
    /// # Errors
    /// For each what stands against it, and what to do; safe to show once it is escaped.
    pub fn look<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a str>,
    ) -> BTreeMap<String, Result<Source, String>> {
        let until = self.looks.begin();
        // All at once, so that one that does not answer takes none of the others' time.
        let asked: BTreeMap<_, _> =
            paths.into_iter().map(|path| (path.to_owned(), self.look_at(path, until))).collect();
        asked.into_iter().map(|(path, asked)| (path, asked.answer(until))).collect()
    }

    fn look_at(&self, path: &str, until: Until) -> Asked<Source> {
        let (host, path) = (self.clone(), PathBuf::from(path));
        self.looks.start(&path.clone(), until, move || mounts::look(&host, &path))
    }

    /// Begins to look at the directories among what was granted.
    fn ask<'a>(&self, grants: &'a [Grant], until: Until) -> Vec<(&'a Grant, Option<Asked<Source>>)> {
        let asked = |grant: &Grant| match &grant.what {
            What::Directory { source, .. } => Some(self.look_at(source, until)),
            What::Package { .. } | What::Own => None,
        };
        grants.iter().map(|grant| (grant, asked(grant))).collect()
    }

    /// How something is shown in a sandbox, or why it cannot be now. `package` says it of a package.
    fn shown(
        &self,
        group: &GroupName,
        grant: &Grant,
        asked: Option<Asked<Source>>,
        until: Until,
        package: impl Fn(&Self, &str, &str, &str) -> Result<PathBuf, String>,
    ) -> Result<Shown, String> {
        let name = &grant.name;
        match (&grant.what, asked) {
            (What::Package { version, digest }, _) => package(self, name, version, digest)
                .map(|source| Shown::Package { at: package_at(name), source }),
            (What::Directory { source, which }, Some(asked)) => {
                let found = asked.answer(until).map_err(|wrong| format!("mount {name}: {wrong}"))?;
                if !found.which.is(which) {
                    return Err(format!(
                        "mount {name}: {source} is not the directory that was approved; ask for the mount again"
                    ));
                }
                Ok(Shown::Directory {
                    at: mount_at(name),
                    name: name.clone(),
                    source: source.into(),
                    device: which.device,
                    inode: which.inode,
                })
            }
            (What::Directory { source, .. }, None) => {
                Err(format!("mount {name}: {source} was not looked at"))
            }
            (What::Own, _) => Ok(Shown::Own {
                at: mount_at(name),
                source: self.state.join("mounts").join(group.as_str()).join(name),
            }),
        }
    }

    /// What a sandbox of the group is shown, with the grant of each, and what is left out and why. Blocks for as long
    /// as reading packages takes that were not read since the start, and for some seconds at most for mounts.
    pub fn show(&self, group: &GroupName, grants: &[Grant]) -> (Vec<(Grant, Shown)>, Vec<String>) {
        let until = self.looks.begin();
        let (mut all, mut left_out) = (Vec::new(), Vec::new());
        for (grant, asked) in self.ask(grants, until) {
            match self.shown(group, grant, asked, until, packages::copied) {
                Ok(shown) => all.push((grant.clone(), shown)),
                Err(why) => left_out.push(why),
            }
        }
        (all, left_out)
    }

    /// What is wrong with each grant now, as far as that can be told without reading packages; `None` where nothing
    /// is known to be. Blocks for some seconds at most.
    pub fn problems(&self, group: &GroupName, grants: &[Grant]) -> Vec<(Grant, Option<String>)> {
        let until = self.looks.begin();
        let judged = |(grant, asked): (&Grant, _)| {
            let problem = self.shown(group, grant, asked, until, packages::known).err();
            (grant.clone(), problem)
        };
        self.ask(grants, until).into_iter().map(judged).collect()
    }
}

fn package_at(name: &str) -> String {
    format!("{}/{name}", paths::PACKAGES)
}

fn mount_at(name: &str) -> String {
    format!("{}/{name}", paths::MOUNTS)
}

/// Whether a word is one name of a directory, without anything that a shell, a path or a terminal would take for
/// something else.
pub fn is_name(word: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    word.len() <= NAME_BYTES
        && word.bytes().next().is_some_and(plain)
        && word.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
        && !word.contains("..")
}

/// What a name must be, for sentences.
pub const NAME_RULE: &str = "a-z 0-9 . _ -, the first a letter or a digit, no .., 63 at most";

#[cfg(test)]
mod tests;
