//! Where things are on the host unless somebody says otherwise: the daemon puts them there and its command line
//! looks there. Pure: the environment is what the caller gives.

use std::path::PathBuf;

/// The state directory when none is named: `/var/lib/ironclaw` for root, else below `$XDG_STATE_HOME` or
/// `$HOME`, whichever is an absolute path. `None` when neither is.
pub fn default_state_dir(uid: u32, environment: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if uid == 0 {
        return Some(PathBuf::from("/var/lib/ironclaw"));
    }
    let absolute = |name: &str| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .map(|base| base.join("ironclaw"))
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state/ironclaw")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_paths_count() {
        let with = |state: &'static str, home: &'static str| {
            let environment = move |name: &str| {
                let value = if name == "HOME" { home } else { state };
                (!value.is_empty()).then(|| value.to_owned())
            };
            default_state_dir(1000, &environment).map(|path| path.display().to_string())
        };
        assert_eq!(with("/s", "/h").as_deref(), Some("/s/ironclaw"));
        assert_eq!(with("s", "/h").as_deref(), Some("/h/.local/state/ironclaw"));
        assert_eq!(with("", "h"), None);
        assert_eq!(default_state_dir(0, &|_| None), Some(PathBuf::from("/var/lib/ironclaw")));
    }
}
