//! The file tools. They touch the workspace through [`super::jail`] and nothing else.

use crate::contract::json::Value;

use super::jail::JailError;
use super::{Bench, Repeat, Task, Tool, ToolError, text, texts};

/// Reads a text file.
pub(super) const READ_FILE: Tool = Tool {
    name: "read_file",
    description: "Read a text file of the workspace, 1 MiB at most; of a long one you are shown the first 256 KiB.",
    group: "files",
    schema: || texts(&[("path", "The file, relative to the workspace")]),
    repeat: Repeat::ReadOnly,
    task: Task::Here(read_file),
};

/// Writes a text file.
pub(super) const WRITE_FILE: Tool = Tool {
    name: "write_file",
    description: "Write a text file of the workspace, 1 MiB at most. Makes the directories above it; replaces \
        what was in the file.",
    group: "files",
    schema: || {
        texts(&[("path", "The file, relative to the workspace"), ("content", "All that the file is to hold")])
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
    let path = bench.files.inside(text(input, "path")?)?;
    String::from_utf8(bench.files.read(&path)?).map_err(|_| ToolError("the file is not UTF-8 text".into()))
}

fn write_file(bench: &Bench, input: &Value, stamp: &str) -> Result<String, ToolError> {
    let shown = text(input, "path")?;
    let content = text(input, "content")?;
    let path = bench.files.inside(shown)?;
    bench.files.write(&path, content.as_bytes(), stamp)?;
    Ok(format!("wrote {} bytes to {shown}", content.len()))
}
