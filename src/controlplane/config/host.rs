//! What the settings say of the host's files as far as agents could see them: where mounts may come from, and what no
//! agent may see. Looks where the files are.

use std::path::PathBuf;

use super::flags::Flags;
use super::{Config, ConfigError, MasterKeySource, Protection, absolute, usage};

impl Config {
    /// Files beside the state directory that no sandbox may see: keys and tokens, and what the operator decided.
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
        files.extend(self.models.files.clone());
        files.extend(self.policy.clone());
        files.extend(self.read_from.clone());
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

/// The files that settings and tokens came from.
pub(super) fn read_from(flags: &Flags, environment: &dyn Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let token = environment("IRONCLAW_API_TOKEN_FILE").filter(|path| !path.is_empty());
    let given = flags.config.iter().cloned().chain(token);
    given.filter_map(|path| std::path::absolute(path).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_settings_and_tokens_were_read_from_is_private() {
        let flags = Flags::from_words(&["--config", "/etc/ironclaw.json"]).unwrap();
        let token = |name: &str| (name == "IRONCLAW_API_TOKEN_FILE").then(|| "/run/token".to_owned());
        assert_eq!(read_from(&flags, &token), ["/etc/ironclaw.json", "/run/token"].map(PathBuf::from));
        let flags = Flags::from_words(&["--policy", "/etc/policy.json"]).unwrap();
        let home = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let config = Config::resolve(flags, 0, &home).unwrap();
        assert!(config.private_files().contains(&PathBuf::from("/etc/policy.json")));
    }
}
