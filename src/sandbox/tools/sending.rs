//! The tool with which an agent gives people a file of its workspace, or of a package or mount that it is shown. Touches
//! those through the jail; the turn hands over what is sent.

use crate::contract::catalogue::{self, MOST_FILE};
use crate::contract::json::{Value, only_fields};

use super::files::at;
use super::messages::{Letter, Parcel};
use super::{Bench, Repeat, Task, Tool, ToolError, text};

/// Longest caption, in bytes.
const MOST_CAPTION: usize = 4 << 10;

/// Sends a file.
pub(super) const SEND_FILE: Tool = Tool {
    name: catalogue::SEND_FILE,
    description: "Send a file of the workspace, or of a package or mount that is shown to you, to the chat that you answer, \
        before your answer. All files of one turn together have 20 MiB at most.",
    group: "messages",
    schema: || {
        let word = |description: &'static str| {
            Value::object([("type", Value::from("string")), ("description", description.into())])
        };
        Value::object([
            ("type", Value::from("object")),
            (
                "properties",
                Value::object([
                    ("path", word("The file, relative to the workspace, or below /opt/packages or /mnt")),
                    ("caption", word("What is said with it")),
                ]),
            ),
            ("required", Value::Array(vec![Value::from("path")])),
            ("additionalProperties", false.into()),
        ])
    },
    // It is kept with its number before it goes, and goes once whoever goes on with it.
    repeat: Repeat::Idempotent,
    task: Task::Send(parcel),
};

fn parcel(bench: &Bench, input: &Value) -> Result<Letter, ToolError> {
    only_fields(input, &["path", "caption"]).map_err(|error| ToolError(error.to_string()))?;
    let path = text(input, "path")?;
    let caption = match input.get("caption") {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(caption)) if caption.len() <= MOST_CAPTION => caption.clone(),
        Some(Value::String(_)) => {
            return Err(ToolError(format!(
                "the caption is longer than {MOST_CAPTION} bytes; nothing was sent"
            )));
        }
        Some(_) => return Err(ToolError("\"caption\" must be a text; nothing was sent".to_owned())),
    };
    let content = at(bench, path, |jail, path| jail.read_up_to(path, MOST_FILE))?;
    if content.is_empty() {
        return Err(ToolError("the file is empty; nothing was sent".to_owned()));
    }
    let name = path.rsplit('/').next().unwrap_or(path).to_owned();
    Ok(Letter { text: caption, to: None, parcel: Some(Parcel { name, content }) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json;
    use crate::sandbox::scratch::Scratch;
    use crate::sandbox::tools::Destinations;
    use crate::sandbox::tools::jail::Jail;

    #[test]
    fn a_file_is_read_whole_and_what_cannot_be_sent_is_said() {
        let scratch = Scratch::new();
        let bench =
            Bench { files: Jail::open(scratch.path()).unwrap(), destinations: Destinations::default() };
        std::fs::create_dir(scratch.path().join("a")).unwrap();
        std::fs::write(scratch.path().join("a/b.bin"), vec![7; 3 << 20]).unwrap();
        std::fs::write(scratch.path().join("empty"), "").unwrap();
        let tried = |input: &str| parcel(&bench, &json::parse(input.as_bytes()).unwrap());
        let letter = tried(r#"{"path":"a/b.bin","caption":"look"}"#).unwrap();
        let sent = letter.parcel.unwrap();
        assert_eq!(
            (letter.text.as_str(), sent.name.as_str(), sent.content.len()),
            ("look", "b.bin", 3 << 20)
        );
        for (bad, about) in [
            (r#"{"path":"none"}"#, "no such"),
            (r#"{"path":"empty"}"#, "empty"),
            (r#"{"path":"a"}"#, "file"),
            (r#"{"path":"../x"}"#, ".."),
            (r#"{"path":"a/b.bin","caption":1}"#, "caption"),
            (r#"{"path":"a/b.bin","to":"x"}"#, "to"),
            (r#"{}"#, "path"),
        ] {
            let wrong = tried(bad).unwrap_err().0;
            assert!(wrong.contains(about), "{bad}: {wrong}");
        }
        let file = std::fs::File::create(scratch.path().join("huge")).unwrap();
        file.set_len(MOST_FILE as u64 + 1).unwrap();
        assert!(tried(r#"{"path":"huge"}"#).is_err());
    }
}
