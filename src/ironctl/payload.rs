//! The payload of a change, from flags, a file, the input or an editor. Touches the files it is told to read and the
//! terminal.

use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

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
        return Ok(Value::object([("instructions", Value::from(text))]));
    }
    Err(Failure::usage(missing(&asked.kind)))
}

/// What a kind wants, where nothing was given.
fn missing(kind: &str) -> String {
    let how = match kind {
        "persona" => {
            "the text of the persona: --instructions TEXT, --identity TEXT, --soul TEXT, or --from FILE"
        }
        "enabled_tools" => {
            "the tools: --tool NAME for each, --all-tools or --no-tools (`ironctl tools` lists them)"
        }
        "model" => "the model: --model NAME, and --provider NAME to change that too",
        "permissions" => {
            "who: --grant USER:ROLE, --revoke USER:ROLE, --add-member USER or --remove-member USER"
        }
        "wiring" => "the chats: --wire CHANNEL:CHAT or --unwire CHANNEL:CHAT",
        "packages" => "the packages: --add NAME@VERSION or --remove NAME",
        "mounts" => "the mounts: --mount NAME=DIR to read, --mount NAME to write, or --unmount NAME",
        _ => "the payload: --from FILE.json or --payload JSON",
    };
    format!("what is to change is missing; give {how}")
}

/// The payload that the flags of a kind make; a flag of another kind is wrong usage.
fn flags(asked: &Submit) -> Result<Option<Value>, Failure> {
    let given = [
        ("persona", "--identity", asked.identity.is_some()),
        ("persona", "--soul", asked.soul.is_some()),
        ("persona", "--instructions", asked.instructions.is_some()),
        ("enabled_tools", "--tool", !asked.tool.is_empty()),
        ("enabled_tools", "--all-tools", asked.all_tools),
        ("enabled_tools", "--no-tools", asked.no_tools),
        ("model", "--provider", asked.provider.is_some()),
        ("model", "--model", asked.model.is_some()),
        ("permissions", "--grant", !asked.grant.is_empty()),
        ("permissions", "--revoke", !asked.revoke.is_empty()),
        ("permissions", "--add-member", !asked.add_member.is_empty()),
        ("permissions", "--remove-member", !asked.remove_member.is_empty()),
        ("wiring", "--wire", !asked.wire.is_empty()),
        ("wiring", "--unwire", !asked.unwire.is_empty()),
        ("packages", "--add", !asked.add.is_empty()),
        ("packages", "--remove", !asked.remove.is_empty()),
        ("mounts", "--mount", !asked.mount.is_empty()),
        ("mounts", "--unmount", !asked.unmount.is_empty()),
    ];
    let mut any = false;
    for (kind, flag, is_given) in given {
        if is_given && kind != asked.kind {
            let kind = plain::line(&asked.kind).into_owned();
            return Err(Failure::usage(format!("{flag} is no flag of --kind {kind}; leave it out")));
        }
        any |= is_given;
    }
    if !any {
        return Ok(None);
    }
    let texts = |all: &[(&'static str, &Option<String>)]| {
        let there = all
            .iter()
            .filter_map(|(name, text)| text.as_ref().map(|text| (*name, Value::from(text.as_str()))));
        Value::object(there)
    };
    let words =
        |all: &[String]| Value::from(all.iter().map(|word| Value::from(word.as_str())).collect::<Vec<_>>());
    Ok(Some(match asked.kind.as_str() {
        "persona" => texts(&[
            ("identity", &asked.identity),
            ("soul", &asked.soul),
            ("instructions", &asked.instructions),
        ]),
        "model" => texts(&[("provider", &asked.provider), ("model", &asked.model)]),
        "enabled_tools" => {
            let tools = match (asked.tool.is_empty(), asked.all_tools, asked.no_tools) {
                (false, false, false) => words(&asked.tool),
                (true, true, false) => Value::from("all"),
                (true, false, true) => Value::from("none"),
                _ => {
                    return Err(Failure::usage("--tool, --all-tools and --no-tools exclude each other"));
                }
            };
            Value::object([("tools", tools)])
        }
        "permissions" => Value::object([
            ("grant", roles("--grant", &asked.grant)?),
            ("revoke", roles("--revoke", &asked.revoke)?),
            ("add_members", words(&asked.add_member)),
            ("remove_members", words(&asked.remove_member)),
        ]),
        "packages" => Value::object([("add", words(&asked.add)), ("remove", words(&asked.remove))]),
        "mounts" => Value::object([("add", mounts(&asked.mount)), ("remove", words(&asked.unmount))]),
        _ => Value::object([
            ("add", chats("--wire", &asked.wire)?),
            ("remove", chats("--unwire", &asked.unwire)?),
        ]),
    }))
}

/// `USER:ROLE`, with `@*` after it for all agents.
fn roles(flag: &str, all: &[String]) -> Result<Value, Failure> {
    let mut found = Vec::new();
    for text in all {
        let (rest, everywhere) = match text.strip_suffix("@*") {
            Some(rest) => (rest, true),
            None => (text.as_str(), false),
        };
        let Some((user, role)) = rest.rsplit_once(':').filter(|(user, _)| user.contains(':')) else {
            return Err(Failure::usage(format!(
                "{flag} {} is not CHANNEL:HANDLE:ROLE, such as telegram:12:approver",
                plain::line(text)
            )));
        };
        let mut fields = vec![("user", Value::from(user)), ("role", Value::from(role))];
        if everywhere {
            fields.push(("scope", Value::from("*")));
        }
        found.push(Value::object(fields));
    }
    Ok(Value::from(found))
}

/// `NAME=DIR`, a directory of the host to read, or `NAME`, one that is made for the agent.
fn mounts(all: &[String]) -> Value {
    let mount = |text: &String| match text.split_once('=') {
        Some((name, source)) => Value::object([("name", Value::from(name)), ("source", Value::from(source))]),
        None => Value::object([("name", Value::from(text.as_str()))]),
    };
    Value::from(all.iter().map(mount).collect::<Vec<_>>())
}

fn chats(flag: &str, all: &[String]) -> Result<Value, Failure> {
    let mut found = Vec::new();
    for text in all {
        let Some((channel, chat)) = text.split_once(':') else {
            return Err(Failure::usage(format!("{flag} {} is not CHANNEL:CHAT", plain::line(text))));
        };
        found.push(Value::object([("channel", Value::from(channel)), ("chat", Value::from(chat))]));
    }
    Ok(Value::from(found))
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
    let text = result?;
    if text.trim().is_empty() {
        return Err(Failure::of("the text is empty, so nothing was asked for"));
    }
    Ok(text)
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

    #[test]
    fn a_mount_is_split_at_the_first_equals_sign() {
        let found = mounts(&["data=/srv/a=b".into(), "box".into()]);
        assert_eq!(found.to_string(), r#"[{"name":"data","source":"/srv/a=b"},{"name":"box"}]"#);
    }

    #[test]
    fn roles_are_split_at_the_last_colon() {
        let found =
            roles("--grant", &["matrix:@ann:example.org:approver".into(), "local:b:admin@*".into()]).unwrap();
        assert_eq!(
            found.to_string(),
            "[{\"user\":\"matrix:@ann:example.org\",\"role\":\"approver\"},\
             {\"user\":\"local:b\",\"role\":\"admin\",\"scope\":\"*\"}]"
        );
        assert_eq!(roles("--grant", &["ann:approver".into()]).unwrap_err().code, 2);
    }
}
