//! The text of a Telegram message with its entities applied: mentions of the bot are taken out, hidden links are shown.
//! Offsets count UTF-16 units; one that is wrong is ignored. Pure.

use crate::contract::json::Value;

use super::normalize::Bot;

/// More entities than Telegram sends.
const MOST_ENTITIES: usize = 200;

/// A text as an agent reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spoken {
    /// Without mentions of the bot.
    pub text: String,
    /// Whether there was one.
    pub mentioned: bool,
}

/// Applies the entities of a message to its text.
pub fn spoken(text: &str, entities: Option<&Value>, bot: &Bot<'_>) -> Spoken {
    let mut changes: Vec<Change> = Vec::new();
    let mut mentioned = false;
    let mut ends = Offsets::of(text);
    let list = entities.and_then(Value::as_array).unwrap_or(&[]);
    for entity in list.iter().take(MOST_ENTITIES) {
        let number = |name| entity.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
        let (Some(offset), Some(length)) = (number("offset"), number("length")) else { continue };
        let Some((from, to)) = ends.bytes(offset, offset.saturating_add(length)) else { continue };
        let span = text.get(from..to).unwrap_or("");
        let change = match entity.get("type").and_then(Value::as_str) {
            Some("mention") if bot.is_named(span.strip_prefix('@')) => {
                mentioned = true;
                Change::removal(from, to)
            }
            Some("text_mention") => {
                let user = entity.get("user").and_then(|user| user.get("id")).and_then(Value::as_i64);
                if user == Some(bot.id) {
                    mentioned = true;
                    Change::removal(from, to)
                } else {
                    let at = if span.starts_with('@') { "" } else { "@" };
                    Change { from, to: from, with: at.to_owned() }
                }
            }
            Some("bot_command") if span.contains('@') => {
                let name = span.find('@').map_or(to, |at| from + at);
                if bot.is_named(text.get(name + 1..to)) {
                    mentioned = true;
                    Change { from: name, to, with: String::new() }
                } else {
                    continue;
                }
            }
            Some("text_link") => match entity.get("url").and_then(Value::as_str) {
                Some(url) if url != span => Change { from: to, to, with: format!(" ({url})") },
                _ => continue,
            },
            _ => continue,
        };
        changes.push(change);
    }
    Spoken { text: changed(text, changes), mentioned }
}

/// The bytes between `from` and `to` are replaced.
struct Change {
    from: usize,
    to: usize,
    with: String,
}

impl Change {
    fn removal(from: usize, to: usize) -> Change {
        Change { from, to, with: String::new() }
    }
}

fn changed(text: &str, mut changes: Vec<Change>) -> String {
    changes.sort_by_key(|change| (change.from, change.to));
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for change in changes {
        // One that overlaps the last is left out.
        let Some(kept) = text.get(at..change.from) else { continue };
        out.push_str(kept);
        out.push_str(&change.with);
        at = change.to;
        let is_removed_name = change.with.is_empty() && change.to > change.from;
        if is_removed_name && (out.is_empty() || out.ends_with(char::is_whitespace)) {
            // What set the name off from the rest goes with it.
            let rest = text.get(at..).unwrap_or("");
            let rest = if out.trim().is_empty() { rest.trim_start_matches([',', ':']) } else { rest };
            let rest = rest.strip_prefix(' ').unwrap_or(rest);
            at = text.len() - rest.len();
        }
    }
    out.push_str(text.get(at..).unwrap_or(""));
    out.trim().to_owned()
}

/// From UTF-16 offsets to bytes.
struct Offsets {
    /// For each UTF-16 unit at which a character begins, its byte; `None` in the middle of one.
    starts: Vec<Option<usize>>,
}

impl Offsets {
    fn of(text: &str) -> Offsets {
        let mut starts = Vec::with_capacity(text.len() + 1);
        for (at, c) in text.char_indices() {
            starts.push(Some(at));
            if c.len_utf16() == 2 {
                starts.push(None);
            }
        }
        starts.push(Some(text.len()));
        Offsets { starts }
    }

    fn bytes(&mut self, from: usize, to: usize) -> Option<(usize, usize)> {
        let byte = |at: usize| self.starts.get(at).copied().flatten();
        Some((byte(from)?, byte(to)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json::parse;

    fn said(text: &str, entities: &str) -> (String, bool) {
        let entities = parse(entities.as_bytes()).unwrap();
        let bot = Bot { id: 99, username: "Claw_Bot" };
        let spoken = spoken(text, Some(&entities), &bot);
        (spoken.text, spoken.mentioned)
    }

    #[test]
    fn mentions_of_the_bot_are_taken_out() {
        for (text, entities, expected, mentioned) in [
            ("@claw_bot hello", r#"[{"type":"mention","offset":0,"length":9}]"#, "hello", true),
            ("@Claw_Bot, hello", r#"[{"type":"mention","offset":0,"length":9}]"#, "hello", true),
            ("hey @claw_bot do it", r#"[{"type":"mention","offset":4,"length":9}]"#, "hey do it", true),
            ("do it @claw_bot", r#"[{"type":"mention","offset":6,"length":9}]"#, "do it", true),
            ("@claw_bot", r#"[{"type":"mention","offset":0,"length":9}]"#, "", true),
            ("@claw_bot2 hello", r#"[{"type":"mention","offset":0,"length":10}]"#, "@claw_bot2 hello", false),
            ("@claw_bot hello", "[]", "@claw_bot hello", false),
            ("𝄞🎉 @claw_bot é", r#"[{"type":"mention","offset":5,"length":9}]"#, "𝄞🎉 é", true),
            ("Claw, hi", r#"[{"type":"text_mention","offset":0,"length":4,"user":{"id":99}}]"#, "hi", true),
            (
                "Ann hi",
                r#"[{"type":"text_mention","offset":0,"length":3,"user":{"id":5}}]"#,
                "@Ann hi",
                false,
            ),
            ("/reset@claw_bot now", r#"[{"type":"bot_command","offset":0,"length":15}]"#, "/reset now", true),
            ("/reset@claw_bot", r#"[{"type":"bot_command","offset":0,"length":15}]"#, "/reset", true),
            (
                "/reset@other_bot",
                r#"[{"type":"bot_command","offset":0,"length":16}]"#,
                "/reset@other_bot",
                false,
            ),
            ("/reset", r#"[{"type":"bot_command","offset":0,"length":6}]"#, "/reset", false),
            (
                "see here",
                r#"[{"type":"text_link","offset":4,"length":4,"url":"https://a.example"}]"#,
                "see here (https://a.example)",
                false,
            ),
        ] {
            assert_eq!(said(text, entities), (expected.to_owned(), mentioned), "{text}");
        }
    }

    #[test]
    fn wrong_offsets_are_ignored() {
        for entities in [
            r#"[{"type":"mention","offset":1,"length":9}]"#,
            r#"[{"type":"mention","offset":0,"length":1}]"#,
            r#"[{"type":"mention","offset":2,"length":900}]"#,
            r#"[{"type":"mention","offset":18446744073709551615,"length":18446744073709551615}]"#,
            r#"[{"type":"mention","offset":-1,"length":9}]"#,
            r#"[{"type":"mention"},1,null,{}]"#,
            r#"{"type":"mention"}"#,
            r#"[{"type":"bot_command","offset":0,"length":2}]"#,
        ] {
            assert_eq!(said("𝄞@claw_bot", entities), ("𝄞@claw_bot".to_owned(), false), "{entities}");
        }
        let twice = r#"[{"type":"mention","offset":0,"length":9},{"type":"mention","offset":0,"length":9}]"#;
        assert_eq!(said("@claw_bot hi", twice), ("hi".to_owned(), true));
    }
}
