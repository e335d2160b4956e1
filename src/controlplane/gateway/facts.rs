//! What a payload names on the host, looked at before the transaction that judges it: a look may take long, and the
//! ledger has one writer. Looks at the host through `grants`.

use std::collections::BTreeMap;

use super::decide::effects_of;
use super::effect::{Effect, Package};
use super::kind::Kind;
use crate::contract::json::{self, Value};
use crate::controlplane::grants::packages::Tree;
use crate::controlplane::grants::{Host, MOST_MOUNTS, MOST_PACKAGES, is_name, mounts, packages};
use crate::controlplane::store::changes::Change;
use crate::os::source::Source;

/// What was found, by the words of the payload; or why it cannot be had.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    directories: BTreeMap<String, Result<Source, String>>,
    packages: BTreeMap<String, Result<Tree, String>>,
}

/// Why something was found neither to be there nor not to be.
const UNSEEN: &str = "was not looked at; ask again";

impl Facts {
    /// Looks at what a payload names. Blocks, for a package for as long as reading it takes.
    pub fn gather(host: &Host, kind: &str, payload: &Value) -> Self {
        let mut facts = Self::default();
        facts.add(host, kind, payload);
        facts
    }

    /// Whether payloads of a kind name anything on the host.
    pub(super) fn are_needed(kind: &str) -> bool {
        matches!(Kind::parse(kind), Ok(Kind::Packages | Kind::Mounts))
    }

    /// Whether that is much to read.
    pub(super) fn are_long(kind: &str) -> bool {
        matches!(Kind::parse(kind), Ok(Kind::Packages))
    }

    /// Looks at what is not among the facts.
    fn add(&mut self, host: &Host, kind: &str, payload: &Value) {
        let added = payload.get("add").and_then(Value::as_array).unwrap_or_default();
        match Kind::parse(kind) {
            Ok(Kind::Mounts) => {
                let sources = added.iter().filter_map(|item| item.get("source").and_then(Value::as_str));
                let sources = sources.filter(|source| source.len() <= mounts::MOST_PATH).take(MOST_MOUNTS);
                self.directories.extend(host.look(sources));
            }
            Ok(Kind::Packages) => {
                for word in added.iter().filter_map(Value::as_str).take(MOST_PACKAGES) {
                    if let Some((name, version)) = split(word) {
                        let look = || packages::look(host, name, version);
                        self.packages.entry(word.to_owned()).or_insert_with(look);
                    }
                }
            }
            _ => {}
        }
    }

    /// Looks again at what a pending change names. Packages are what they were when it was asked for: their copy is
    /// compared with that, and reading them twice shows nothing that the copy would not.
    pub fn again(host: &Host, change: &Change) -> Self {
        let Ok(payload) = json::parse(change.payload.as_bytes()) else { return Self::default() };
        let mut facts = Self::default();
        for effect in effects_of(change).unwrap_or_default() {
            if let Effect::SetPackage { name, package: Some(Package { version, tree }), .. } = effect {
                facts.packages.insert(format!("{name}@{version}"), Ok(tree));
            }
        }
        facts.add(host, &change.kind, &payload);
        facts
    }

    /// A directory for a mount.
    pub(super) fn directory(&self, source: &str) -> Result<Source, String> {
        self.directories.get(source).cloned().unwrap_or_else(|| Err(format!("{source} {UNSEEN}")))
    }

    /// A package, by `NAME@VERSION`.
    pub(super) fn package(&self, word: &str) -> Result<Tree, String> {
        self.packages.get(word).cloned().unwrap_or_else(|| Err(format!("the package {word} {UNSEEN}")))
    }
}

/// Name and version of a word that is `NAME@VERSION`.
pub(super) fn split(word: &str) -> Option<(&str, &str)> {
    word.split_once('@').filter(|(name, version)| is_name(name) && is_name(version))
}
