//! The payload of a change, from flags, a file, the input or an editor. Touches the files it is told to read and the
//! terminal.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::flags::{flags, missing};
use super::submit::Submit;
use crate::contract::json::{self, Value};
use crate::contract::plain;
use crate::ironctl::Failure;

/// Largest file that is read for a payload.
const FILE_BYTES: u64 = 512 << 10;

/// The text of a file, or of the input for `-`.
pub(super) fn read_file(name: &str) -> Result<String, Failure> {
    let failed = |error: io::Error| Failure::of(format!("{} cannot be read: {error}", plain::line(name)));
    let mut bytes = Vec::new();
    if name == "-" {
        io::stdin().lock().take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        let file = std::fs::File::open(name).map_err(failed)?;
        file.take(FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() as u64 > FILE_BYTES {
        return Err(Failure::of(format!("{} is larger than {FILE_BYTES} bytes", plain::line(name))));
    }
    String::from_utf8(bytes).map_err(|_| Failure::of(format!("{} is not UTF-8 text", plain::line(name))))
}

fn parse(text: &str, from: &str) -> Result<Value, Failure> {
    json::parse(text.as_bytes()).map_err(|error| {
        Failure::usage(format!("{} is not JSON: {}", plain::line(from), plain::line(&error.to_string())))
    })
}

/// Which document a file holds, by its name.
fn document(name: &str) -> &'static str {
    let stem = Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    match stem.to_ascii_uppercase().as_str() {
        "IDENTITY" => "identity",
        "SOUL" => "soul",
        _ => "instructions",
    }
}

/// What the words of a request come to.
pub(super) fn payload(asked: &Submit) -> Result<Value, Failure> {
    let by_flags = flags(asked)?;
    let ways = usize::from(asked.payload.is_some())
        + usize::from(asked.from.is_some())
        + usize::from(by_flags.is_some());
    if ways > 1 {
        return Err(Failure::usage(
            "--payload, --from and the flags of a kind exclude each other; use one of them",
        ));
    }
    if let Some(text) = &asked.payload {
        return parse(text, "--payload");
    }
    if let Some(name) = &asked.from {
        let text = read_file(name)?;
        if name.ends_with(".json") || asked.kind != "persona" {
            return parse(&text, name);
        }
        return Ok(Value::object([(document(name), Value::from(text))]));
    }
    if let Some(payload) = by_flags {
        return Ok(payload);
    }
    if asked.kind == "persona" && io::stdin().is_terminal() && io::stdout().is_terminal() {
        let text = edited()?;
        if text.trim().is_empty() {
            return Err(Failure::of(
                "the text is empty, so nothing was asked for; write it again, or take the instructions away with \
                 --instructions ''",
            ));
        }
        return Ok(Value::object([("instructions", Value::from(text))]));
    }
    Err(Failure::usage(missing(&asked.kind)))
}

/// What the person writes in their editor, or on the terminal when they have none.
fn edited() -> Result<String, Failure> {
    let editor =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
    let Some(editor) = editor else {
        writeln!(io::stdout(), "the instructions of the persona; end with a line that holds only a dot:")?;
        let mut text = String::new();
        for line in io::stdin().lock().lines() {
            let line = line?;
            if line == "." {
                return Ok(text);
            }
            text.push_str(&line);
            text.push('\n');
            if text.len() as u64 > FILE_BYTES {
                break;
            }
        }
        return Err(Failure::of(
            "the text has no end, so nothing was asked for; end it with a line that is a dot",
        ));
    };
    let directory = std::env::temp_dir().join(format!("ironctl-{}", std::process::id()));
    std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
    let file = directory.join("AGENTS.md");
    let result = (|| {
        std::fs::write(&file, "")?;
        // As the shell would, so that `EDITOR="code --wait"` works.
        let status = std::process::Command::new("sh")
            .args(["-c", &format!("{editor} \"$1\""), "sh"])
            .arg(&file)
            .status()?;
        if !status.success() {
            return Err(Failure::of("the editor failed, so nothing was asked for"));
        }
        read_file(&file.display().to_string())
    })();
    let _ = std::fs::remove_dir_all(&directory);
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_persona_is_known_by_its_name() {
        assert_eq!(document("/x/IDENTITY.md"), "identity");
        assert_eq!(document("soul.txt"), "soul");
        assert_eq!(document("AGENTS.md"), "instructions");
        assert_eq!(document("notes"), "instructions");
    }
}
