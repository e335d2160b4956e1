//! A directory of its own for each test, removed with all that is in it. Tests only.

use std::path::{Path, PathBuf};

/// The directory.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a new one.
    pub(super) fn new() -> Self {
        let name = crate::contract::ids::MessageId::mint();
        let path = std::env::temp_dir().join(format!("box-{name}"));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
