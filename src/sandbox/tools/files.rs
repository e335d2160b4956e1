//! The file tools. They touch the workspace, packages and mounts through [`super::jail`] and nothing else.

use std::path::{Path, PathBuf};

use crate::contract::json::Value;
use crate::contract::paths;

use super::jail::{Inside, Jail, JailError};
use super::{Bench, Repeat, Task, Tool, ToolError, text, texts};

/// Reads a text file.
pub(super) const READ_FILE: Tool = Tool {
    name: "read_file",
    description: "Read a text file of the workspace, or of a package or mount that is shown to you, 1 MiB at most; of a \
        long one you are shown the first 256 KiB.",
    group: "files",
    schema: || texts(&[("path", "The file, relative to the workspace, or below /opt/packages or /mnt")]),
    repeat: Repeat::ReadOnly,
    task: Task::Here(read_file),
};

/// Writes a text file.
pub(super) const WRITE_FILE: Tool = Tool {
    name: "write_file",
    description: "Write a text file of the workspace, or of a mount that you may write in, 1 MiB at most. Makes the \
        directories above it; replaces what was in the file.",
    group: "files",
    schema: || {
        texts(&[
            ("path", "The file, relative to the workspace, or below /mnt"),
            ("content", "All that the file is to hold"),
        ])
    },
    repeat: Repeat::Idempotent,
    task: Task::Here(write_file),
};

impl From<JailError> for ToolError {
    fn from(error: JailError) -> Self {
        Self(error.to_string())
    }
}

fn read_file(bench: &Bench, input: &Value, _stamp: &str) -> Result<String, ToolError> {
    let content = at(bench, text(input, "path")?, |jail, path| jail.read(path))?;
    String::from_utf8(content).map_err(|_| ToolError("the file is not UTF-8 text".into()))
}

fn write_file(bench: &Bench, input: &Value, stamp: &str) -> Result<String, ToolError> {
    let shown = text(input, "path")?;
    let content = text(input, "content")?;
    at(bench, shown, |jail, path| jail.write(path, content.as_bytes(), stamp))?;
    Ok(format!("wrote {} bytes to {shown}", content.len()))
}

/// Does something with a file of the workspace, or of the package or mount that the path begins with. What may be
/// written in which is the mounts' to say.
pub(super) fn at<T, E: From<JailError>>(
    bench: &Bench,
    path: &str,
    act: impl Fn(&Jail, &Inside) -> Result<T, E>,
) -> Result<T, E> {
    match root(path) {
        None => act(&bench.files, &bench.files.inside(path)?),
        Some(root) => {
            let jail = Jail::open(&root)?;
            act(&jail, &jail.inside(path)?)
        }
    }
}

/// The package or mount that a path begins with.
pub(super) fn root(path: &str) -> Option<PathBuf> {
    [paths::PACKAGES, paths::MOUNTS].into_iter().find_map(|top| {
        let rest = path.strip_prefix(top)?.strip_prefix('/')?;
        let name = rest.split('/').next().filter(|name| !matches!(*name, "" | "." | ".."))?;
        Some(Path::new(top).join(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_begins_with_a_package_or_a_mount_or_stays_in_the_workspace() {
        for (path, expected) in [
            ("/opt/packages/p/a/b", Some("/opt/packages/p")),
            ("/opt/packages/p", Some("/opt/packages/p")),
            ("/mnt/o/../x", Some("/mnt/o")),
            ("/mnt/../etc/passwd", None),
            ("/mnt/./x", None),
            ("/mnt//x", None),
            ("/mnt/", None),
            ("/mntx/a", None),
            ("mnt/o", None),
            ("/opt/packages", None),
            ("/etc/passwd", None),
        ] {
            assert_eq!(root(path).as_deref(), expected.map(Path::new), "{path}");
        }
    }
}
