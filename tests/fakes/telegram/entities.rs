//! Telegram's HTML as it reads it: the text without the tags, or the words with which it refuses. From the public
//! description of the formatting options; written apart from what makes such HTML.

/// Tags without attributes that matter.
const TAGS: &[&str] = &[
    "b",
    "strong",
    "i",
    "em",
    "u",
    "ins",
    "s",
    "strike",
    "del",
    "code",
    "pre",
    "a",
    "blockquote",
    "tg-spoiler",
    "span",
];

/// The visible text.
pub(crate) fn visible(html: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut open: Vec<String> = Vec::new();
    let mut at = 0;
    while let Some(c) = html.get(at..).and_then(|rest| rest.chars().next()) {
        let rest = html.get(at..).unwrap_or("");
        match c {
            '<' => {
                let Some(end) = rest.find('>') else {
                    return Err(format!("Unclosed start tag at byte offset {at}"));
                };
                let tag = rest.get(1..end).unwrap_or("");
                if let Some(name) = tag.strip_prefix('/') {
                    match open.pop() {
                        Some(expected) if expected == name => {}
                        Some(expected) => {
                            return Err(format!(
                                "Unmatched end tag at byte offset {at}, expected \"</{expected}>\", found \"</{name}>\""
                            ));
                        }
                        None => return Err(format!("Unexpected end tag at byte offset {at}")),
                    }
                } else {
                    let name = tag.split_whitespace().next().unwrap_or("").to_ascii_lowercase();
                    if !TAGS.contains(&name.as_str()) {
                        return Err(format!("Unsupported start tag \"{name}\" at byte offset {at}"));
                    }
                    if name == "blockquote" && open.contains(&name) {
                        return Err(format!("Nested blockquote at byte offset {at}"));
                    }
                    open.push(name);
                }
                at += end + 1;
            }
            '&' => {
                let entity = [("&lt;", '<'), ("&gt;", '>'), ("&amp;", '&'), ("&quot;", '"')];
                match entity.iter().find(|(name, _)| rest.starts_with(name)) {
                    Some((name, c)) => {
                        out.push(*c);
                        at += name.len();
                    }
                    // Any other ampersand is itself.
                    None => {
                        out.push('&');
                        at += 1;
                    }
                }
            }
            c => {
                out.push(c);
                at += c.len_utf8();
            }
        }
    }
    match open.pop() {
        Some(name) => Err(format!("Can't find end tag corresponding to start tag \"{name}\"")),
        None => Ok(out),
    }
}

/// The entities that a person's client puts on plain text: names and commands, in UTF-16 units.
pub(crate) fn typed(text: &str) -> Vec<(&'static str, usize, usize)> {
    let mut found = Vec::new();
    let mut offset = 0;
    for word in text.split_inclusive(char::is_whitespace) {
        let name: String = word
            .char_indices()
            .take_while(|(at, c)| {
                c.is_ascii_alphanumeric() || *c == '_' || *c == '@' || (*at == 0 && *c == '/')
            })
            .map(|(_, c)| c)
            .collect();
        if name.len() > 1 && name.starts_with('@') {
            found.push(("mention", offset, name.len()));
        } else if name.len() > 1 && name.starts_with('/') {
            found.push(("bot_command", offset, name.len()));
        }
        offset += word.encode_utf16().count();
    }
    found
}
