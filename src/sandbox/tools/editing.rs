//! The tools that change what is in a file, move it or delete it. They touch files through [`super::jail`].

use super::files::{at, root};
use super::jail::Changed;
use super::{Bench, Repeat, Task, Tool, ToolError, text, texts};
use crate::contract::json::Value;

/// Adds to a file.
pub(super) const APPEND_FILE: Tool = Tool {
    name: "append_file",
    description: "Add text to the end of a text file, which is made if it is not there. Nothing is put between: begin \
        with a line break where one is needed.",
    group: "files",
    schema: || {
        texts(&[
            ("path", "The file, relative to the workspace, or below /mnt"),
            ("content", "What is added, as it is"),
        ])
    },
    repeat: Repeat::Never,
    task: Task::Here(append_file),
};

/// Replaces a piece of a file.
pub(super) const EDIT_FILE: Tool = Tool {
    name: "edit_file",
    description: "Replace one piece of a text file by another. The old text must be in the file exactly once, as it is, \
        spaces and line breaks among it; give more of what is around it where it is not.",
    group: "files",
    schema: || {
        texts(&[
            ("path", "The file, relative to the workspace, or below /mnt"),
            ("old", "The text that goes; it must be there exactly once"),
            ("new", "The text that takes its place"),
        ])
    },
    repeat: Repeat::Never,
    task: Task::Here(edit_file),
};

/// Moves a file.
pub(super) const MOVE_FILE: Tool = Tool {
    name: "move_file",
    description: "Move a file or directory to where nothing is yet: within the workspace, or within one mount.",
    group: "files",
    schema: || {
        texts(&[
            ("from", "The file or directory, relative to the workspace, or below /mnt"),
            ("to", "Its new path; the directories above it are made"),
        ])
    },
    repeat: Repeat::Never,
    task: Task::Here(move_file),
};

/// Deletes a file.
pub(super) const DELETE_FILE: Tool = Tool {
    name: DELETE,
    description: "Delete a file, or a directory that is empty. It cannot be brought back.",
    group: "files",
    schema: || texts(&[("path", "The file or directory, relative to the workspace, or below /mnt")]),
    repeat: Repeat::Never,
    task: Task::Here(delete_file),
};

/// The one tool that makes room.
pub(super) const DELETE: &str = "delete_file";

fn of_text(content: Vec<u8>) -> Result<String, ToolError> {
    String::from_utf8(content).map_err(|_| ToolError("the file is not UTF-8 text".into()))
}

fn append_file(bench: &Bench, input: &Value, stamp: &str) -> Result<String, ToolError> {
    let (shown, more) = (text(input, "path")?, text(input, "content")?);
    let change = |content: Option<Vec<u8>>| -> Result<Changed<usize>, ToolError> {
        let mut content = of_text(content.unwrap_or_default())?;
        content.push_str(more);
        Ok(Changed { told: content.len(), content: content.into_bytes() })
    };
    let bytes = at(bench, shown, |jail, path| jail.change(path, stamp, change))?;
    Ok(format!("added {} bytes to {shown}, which has {bytes} now", more.len()))
}

fn edit_file(bench: &Bench, input: &Value, stamp: &str) -> Result<String, ToolError> {
    let (shown, old, new) = (text(input, "path")?, text(input, "old")?, text(input, "new")?);
    if old.is_empty() {
        return Err(ToolError("old is empty; append_file adds to the end, write_file replaces all".into()));
    }
    let change = |content: Option<Vec<u8>>| -> Result<Changed<usize>, ToolError> {
        let content = of_text(content.ok_or(super::jail::JailError::Missing)?)?;
        let line = match content.match_indices(old).map(|(at, _)| at).collect::<Vec<_>>()[..] {
            [at] => content.get(..at).unwrap_or_default().matches('\n').count() + 1,
            [] => return Err(ToolError("the old text is not in the file; read it again".into())),
            [_, _, ..] => {
                return Err(ToolError(
                    "the old text is in the file more than once; give more of what is around it".into(),
                ));
            }
        };
        Ok(Changed { content: content.replacen(old, new, 1).into_bytes(), told: line })
    };
    let line = at(bench, shown, |jail, path| jail.change(path, stamp, change))?;
    Ok(format!("replaced it in {shown}, line {line}"))
}

fn move_file(bench: &Bench, input: &Value, _stamp: &str) -> Result<String, ToolError> {
    let (from, to) = (text(input, "from")?, text(input, "to")?);
    if root(from) != root(to) {
        return Err(ToolError(
            "it can be moved only within the workspace, or within one mount; read it there and write it here"
                .into(),
        ));
    }
    at(bench, from, |jail, path| jail.rename(path, &jail.inside(to)?))?;
    Ok(format!("moved {from} to {to}"))
}

fn delete_file(bench: &Bench, input: &Value, _stamp: &str) -> Result<String, ToolError> {
    let shown = text(input, "path")?;
    at(bench, shown, |jail, path| jail.delete(path))?;
    Ok(format!("deleted {shown}"))
}

#[cfg(test)]
mod tests {
    use super::super::Destinations;
    use super::super::jail::Jail;
    use super::*;
    use crate::sandbox::scratch::Scratch;

    fn run(tool: &Tool, bench: &Bench, fields: &[(&str, &str)]) -> Result<String, String> {
        let input = Value::object(fields.iter().map(|(name, text)| (*name, Value::from(*text))));
        let Task::Here(work) = tool.task else { panic!("it is done here") };
        work(bench, &input, "stamp").map_err(|error| error.0)
    }

    #[test]
    fn files_are_added_to_edited_moved_and_deleted() {
        let scratch = Scratch::new();
        let bench =
            Bench { files: Jail::open(scratch.path()).unwrap(), destinations: Destinations::default() };
        let append = |content| run(&APPEND_FILE, &bench, &[("path", "d/a"), ("content", content)]);
        assert_eq!(append("one\ntwo\n").unwrap(), "added 8 bytes to d/a, which has 8 now");
        assert_eq!(append("two é\n").unwrap(), "added 7 bytes to d/a, which has 15 now");
        let edit = |old, new| run(&EDIT_FILE, &bench, &[("path", "d/a"), ("old", old), ("new", new)]);
        assert_eq!(edit("two é", "three").unwrap(), "replaced it in d/a, line 3");
        assert!(edit("t", "x").unwrap_err().contains("more than once"));
        assert!(edit("four", "x").unwrap_err().contains("not in the file"));
        assert!(edit("", "x").unwrap_err().contains("old is empty"));
        assert!(edit("one", &"x".repeat(1 << 20)).unwrap_err().contains("larger than"));
        assert_eq!(std::fs::read_to_string(scratch.path().join("d/a")).unwrap(), "one\ntwo\nthree\n");
        let moved = |from, to| run(&MOVE_FILE, &bench, &[("from", from), ("to", to)]);
        assert!(moved("d/a", "/mnt/m/a").unwrap_err().contains("within one mount"));
        assert!(moved("d/a", "../a").unwrap_err().contains("`..` is not allowed"));
        assert_eq!(moved("d/a", "e/b").unwrap(), "moved d/a to e/b");
        let delete = |path| run(&DELETE_FILE, &bench, &[("path", path)]);
        assert!(delete("e").unwrap_err().contains("not empty"));
        assert_eq!(delete("e/b").unwrap(), "deleted e/b");
        assert_eq!(delete("e").unwrap(), "deleted e");
        std::fs::write(scratch.path().join("binary"), [0xff]).unwrap();
        for tool in [&APPEND_FILE, &EDIT_FILE] {
            let fields = [("path", "binary"), ("content", "x"), ("old", "x"), ("new", "y")];
            assert!(run(tool, &bench, &fields).unwrap_err().contains("UTF-8"));
        }
        assert!(
            run(&EDIT_FILE, &bench, &[("path", "no"), ("old", "x"), ("new", "y")])
                .unwrap_err()
                .contains("no such")
        );
    }
}
