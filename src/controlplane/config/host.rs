//! What the settings say of the host's files as far as agents could see them: where mounts may come from, and what no
//! agent may see. Looks where the files are.

use std::path::PathBuf;

use super::{Config, ConfigError, MasterKeySource, Protection, absolute, usage};

impl Config {
    /// Files beside the state directory that no sandbox may see.
    pub fn private_files(&self) -> Vec<PathBuf> {
        let mut files = match &self.master_key {
            MasterKeySource::StateFile => Vec::new(),
            MasterKeySource::Credential(path)
            | MasterKeySource::KeyFile(path)
            | MasterKeySource::PassphraseFile(path) => vec![path.clone()],
        };
        if let Protection::Files { key, .. } = &self.door.protection {
            files.push(key.clone());
        }
        // By the name that was given and by where it is.
        let real: Vec<PathBuf> = files.iter().filter_map(|file| file.canonicalize().ok()).collect();
        files.extend(real);
        files
    }
}

/// The directories of `--mount-root`; a comma stands between two, so none has one in its name.
pub(super) fn mount_roots(text: &str) -> Result<Vec<PathBuf>, ConfigError> {
    text.split(',')
        .filter(|root| !root.is_empty())
        .map(|root| {
            if root.starts_with('/') {
                absolute("--mount-root", root)
            } else {
                Err(usage("--mount-root", &format!("{root:?} is not an absolute path")))
            }
        })
        .collect()
}
