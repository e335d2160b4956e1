//! What of the host an agent can be granted: directories that the operator allows, and packages that the operator put
//! into the state directory. They are judged when a change asks for them, and again before each launch. Touches
//! `packages/` in the state directory, and looks at the directories that are asked for.

pub mod mounts;
pub mod packages;

use std::path::{Path, PathBuf};

use super::config::Config;
use super::isolation::{IsolationPaths, Shown};
use super::state::Wall;
use super::store::grants::{Grant, What};
use crate::contract::ids::GroupName;
use crate::contract::paths;

/// Packages that an agent can have.
pub const MOST_PACKAGES: usize = 32;
/// Mounts that an agent can have.
pub const MOST_MOUNTS: usize = 16;
/// Longest name of a package, a version or a mount, in bytes.
const NAME_BYTES: usize = 63;

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
}

impl Host {
    /// The host of this daemon.
    pub fn new(config: &Config, paths: &IsolationPaths, wall: Wall) -> Self {
        let mut private = vec![paths.state_dir.clone(), paths.run_dir.clone(), paths.bundle_root.clone()];
        private.extend(config.private_files());
        Self { state: paths.state_dir.clone(), private, roots: config.mount_roots.clone(), wall }
    }

    /// A host with this state directory, on which mounts may come from these directories.
    #[cfg(test)]
    pub(in crate::controlplane) fn with(state: &Path, roots: &[&str]) -> Self {
        let roots = roots.iter().map(PathBuf::from).collect();
        Self { state: state.to_owned(), private: vec![state.to_owned()], roots, wall: Wall::OrdinaryUser }
    }

    /// Where the daemon keeps the packages that were approved.
    fn store(&self) -> PathBuf {
        self.state.join("packages/.store")
    }

    /// How a grant is shown in a sandbox, or why it cannot be now.
    fn shown(&self, group: &GroupName, grant: &Grant) -> Result<Shown, String> {
        let name = &grant.name;
        match &grant.what {
            What::Package { version, digest } => {
                let source = self.store().join(digest);
                if !source.is_dir() {
                    return Err(format!("package {name}@{version}: its files are not copied yet"));
                }
                Ok(Shown::Package { at: package_at(name), source })
            }
            What::Own => Ok(Shown::Own {
                at: mount_at(name),
                source: self.state.join("mounts").join(group.as_str()).join(name),
            }),
            What::Directory { source, which } => {
                let found = mounts::look(self, Path::new(source))
                    .map_err(|wrong| format!("mount {name}: {wrong}"))?;
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
        }
    }

    /// What a sandbox of the group is shown, with the grant of each, and what is left out and why. Blocks for as long
    /// as looking takes.
    pub fn show(&self, group: &GroupName, grants: &[Grant]) -> (Vec<(Grant, Shown)>, Vec<String>) {
        let (mut all, mut left_out) = (Vec::new(), Vec::new());
        for grant in grants {
            match self.shown(group, grant) {
                Ok(shown) => all.push((grant.clone(), shown)),
                Err(why) => left_out.push(why),
            }
        }
        (all, left_out)
    }

    /// What is wrong with a grant now; `None` when a sandbox would have it. Blocks.
    pub fn problem(&self, group: &GroupName, grant: &Grant) -> Option<String> {
        self.shown(group, grant).err()
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
mod tests {
    use super::*;

    /// INV-042.
    #[test]
    fn inv_042_no_name_means_anything_to_a_shell_or_a_path() {
        for good in ["a", "0", "left-pad", "lib_x.y", "1.2.3-rc.1"] {
            assert!(is_name(good), "{good}");
        }
        for bad in BAD_NAMES {
            assert!(!is_name(bad), "{bad:?}");
        }
        assert!(!is_name(&"x".repeat(NAME_BYTES + 1)) && is_name(&"x".repeat(NAME_BYTES)));
    }

    #[test]
    fn nothing_of_the_daemons_own_is_shown_nor_anything_above_it() {
        let host = Host::with(Path::new("/usr/share"), &["/usr"]);
        for path in ["/usr/share", "/usr"] {
            let said = mounts::look(&host, Path::new(path)).unwrap_err();
            assert!(said.contains("no agent may see"), "{path}: {said}");
        }
        assert!(mounts::look(&host, Path::new("/usr/lib")).is_ok());
    }

    const BAD_NAMES: &[&str] = &[
        "",
        ".",
        "..",
        "-x",
        "_x",
        ".x",
        "a..b",
        "a/b",
        "/a",
        "a/",
        "../a",
        "a b",
        " a",
        "a\n",
        "a\0",
        "a\t",
        "A",
        "a;b",
        "a&b",
        "a|b",
        "a>b",
        "a<b",
        "a$b",
        "$(a)",
        "`a`",
        "a'b",
        "a\"b",
        "a\\b",
        "a*",
        "a?",
        "a[b]",
        "a{b}",
        "a(b)",
        "a!b",
        "a#b",
        "a~b",
        "a%b",
        "a^b",
        "a=b",
        "a+b",
        "a,b",
        "a:b",
        "a@b",
        "é",
        "a\u{202e}",
        "a\u{200b}",
    ];
}
