//! The deterministic upstream: the same request always gets the same reply, so the demo and the tests run
//! the real dialect with no key and no network. It repeats what it received; a text with `tool:NAME {json}`
//! makes it call that tool once and report the result. Pure, but for the gate of the faults build.

pub(super) mod wire;

use crate::contract::json::{self, Value};
use wire::{Block, Message, Request, Said};

/// What the mock says to this conversation.
pub(super) fn reply(asked: &Request) -> Vec<Said> {
    let texts = received(&asked.messages);
    let results = results(&asked.messages);
    if results.is_empty() {
        let known = asked.messages.iter().flat_map(|message| &message.blocks);
        let made = known.filter(|block| matches!(block, Block::ToolUse { .. })).count();
        let calls: Vec<Said> = texts
            .iter()
            .filter_map(|text| directive(text, &asked.tools))
            .enumerate()
            .map(|(at, (name, input))| Said::Call { id: format!("mocktool_{}", made + at + 1), name, input })
            .collect();
        if !calls.is_empty() {
            return calls;
        }
    }
    let mut text = format!("mock-agent received: {}", texts.join("\n"));
    for result in results {
        text.push_str("\nmock-agent tool result: ");
        text.push_str(result);
    }
    vec![Said::Text(text)]
}

/// The texts of the last message in which a person said something, without their headers.
fn received(messages: &[Message]) -> Vec<&str> {
    let said = |message: &&Message| message.blocks.iter().any(|block| matches!(block, Block::Text(_)));
    let Some(last) = messages.iter().filter(|message| message.from_user).rfind(said) else {
        return Vec::new();
    };
    last.blocks
        .iter()
        .filter_map(|block| match block {
            Block::Text(text) => without_header(text),
            _ => None,
        })
        .collect()
}

/// A header is a first line in ⟦ ⟧; a text that is nothing else is a note, which nobody said.
fn without_header(text: &str) -> Option<&str> {
    let (first, rest) = match text.split_once('\n') {
        Some((first, rest)) => (first, Some(rest)),
        None => (text, None),
    };
    if first.starts_with('⟦') && first.ends_with('⟧') { rest } else { Some(text) }
}

/// The results in the last message, if that is what it holds.
fn results(messages: &[Message]) -> Vec<&str> {
    let Some(last) = messages.last() else { return Vec::new() };
    last.blocks
        .iter()
        .filter_map(|block| match block {
            Block::ToolResult { content, .. } => Some(content.as_str()),
            _ => None,
        })
        .collect()
}

/// `tool:NAME {json}`, if NAME is offered. The arguments reach from the first `{` to the last `}`; what is
/// not an object there counts as none.
fn directive(text: &str, offered: &[String]) -> Option<(String, Value)> {
    let (_, after) = text.split_once("tool:")?;
    let end = after.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(after.len());
    let (name, rest) = after.split_at(end);
    if !offered.iter().any(|tool| tool == name) {
        return None;
    }
    let input = match (rest.find('{'), rest.rfind('}')) {
        (Some(from), Some(to)) if from < to => {
            rest.get(from..=to).and_then(|text| json::parse(text.as_bytes()).ok())
        }
        _ => None,
    };
    Some((name.to_owned(), input.unwrap_or(Value::Object(Vec::new()))))
}

/// In the faults build a text with `hold:NAME` waits here until the file NAME exists in the directory that
/// the setting `mock-gate` names; so a test keeps a turn open.
#[cfg(feature = "faults")]
pub(super) async fn hold(asked: &Request) {
    let Some(directory) = crate::contract::fault::value("mock-gate") else { return };
    for text in received(&asked.messages) {
        let Some((_, after)) = text.split_once("hold:") else { continue };
        let name: String =
            after.chars().take_while(|c| c.is_ascii_alphanumeric() || "_-".contains(*c)).collect();
        let gate = std::path::Path::new(directory).join(&name);
        while !name.is_empty() && !gate.exists() {
            smol::Timer::after(std::time::Duration::from_millis(2)).await;
        }
    }
}

/// Nothing waits in a normal build.
#[cfg(not(feature = "faults"))]
pub(super) async fn hold(_: &Request) {}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOLS: &str =
        r#""tools":[{"name":"read_file","input_schema":{}},{"name":"write_file","input_schema":{}}]"#;

    fn said(messages: &str) -> Vec<Said> {
        let text = format!(r#"{{"model":"m","max_tokens":9,{TOOLS},"messages":[{messages}]}}"#);
        reply(&Request::read(json::parse(text.as_bytes()).unwrap()).unwrap())
    }

    fn text(messages: &str) -> String {
        match &said(messages)[..] {
            [Said::Text(text)] => text.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn user(texts: &[&str]) -> String {
        let blocks = texts.iter().map(|text| {
            Value::object([
                ("type", Value::from("text")),
                ("text", Value::from(format!("⟦from ann⟧\n{text}"))),
            ])
        });
        Value::object([("role", Value::from("user")), ("content", Value::from(blocks.collect::<Vec<_>>()))])
            .to_string()
    }

    #[test]
    fn it_repeats_all_texts_of_the_turn_without_headers() {
        assert_eq!(text(&user(&["hi"])), "mock-agent received: hi");
        assert_eq!(text(&user(&["a\nb", "c"])), "mock-agent received: a\nb\nc");
        let earlier =
            format!(r#"{},{{"role":"assistant","content":"x"}},{}"#, user(&["old"]), user(&["new"]));
        assert_eq!(text(&earlier), "mock-agent received: new");
        let note = r#"{"role":"user","content":[{"type":"text","text":"⟦note: memory lost⟧"},{"type":"text","text":"⟦h⟧\nhi"}]}"#;
        assert_eq!(text(note), "mock-agent received: hi");
    }

    #[test]
    fn it_calls_an_offered_tool_once_and_reports() {
        let asked = user(&["tool:write_file {\"path\":\"a\",\"content\":\"{}\"}", "and tool:read_file"]);
        let calls = said(&asked);
        let input = json::parse(br#"{"path":"a","content":"{}"}"#).unwrap();
        assert_eq!(
            calls,
            [
                Said::Call { id: "mocktool_1".into(), name: "write_file".into(), input },
                Said::Call {
                    id: "mocktool_2".into(),
                    name: "read_file".into(),
                    input: Value::Object(vec![])
                },
            ]
        );
        let results = r#"{"role":"assistant","content":[{"type":"tool_use","id":"mocktool_1","name":"write_file","input":{}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"mocktool_1","content":"done"}]}"#;
        let first = user(&["tool:write_file {}"]);
        let reported = format!("{first},{results}");
        assert_eq!(text(&reported), "mock-agent received: tool:write_file {}\nmock-agent tool result: done");
        let next = format!("{reported},{{\"role\":\"assistant\",\"content\":\"ok\"}},{first}");
        assert!(matches!(&said(&next)[..], [Said::Call { id, .. }] if id == "mocktool_2"), "ids stay unique");
    }

    #[test]
    fn what_is_not_offered_or_not_an_object_does_no_harm() {
        assert_eq!(text(&user(&["tool:rm {}"])), "mock-agent received: tool:rm {}");
        assert_eq!(text(&user(&["tool:"])), "mock-agent received: tool:");
        for odd in ["tool:read_file {not json}", "tool:read_file }{", "tool:read_file {\"a\":"] {
            assert!(
                matches!(&said(&user(&[odd]))[..], [Said::Call { input: Value::Object(f), .. }] if f.is_empty())
            );
        }
    }
}
