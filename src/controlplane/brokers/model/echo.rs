//! Looks for a credential in what the events of an answer say, where looking at the bytes finds none: spelled over
//! several events, as text is, or with escapes. What may become one is held back until it is none; what is one ends the
//! answer. An upstream knows its credential and could say it in a thousand ways: this is for those that repeat what they
//! were sent, not for one that means harm. Pure.

use std::collections::HashMap;

use super::redact::{LEAST, begun};
use crate::contract::json::{self, Value};
use crate::contract::sse::{EventTooLong, Events};

/// Most places of an event in which something stands that may go on in the next.
const PLACES: usize = 256;

/// Why an answer does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// It says a credential.
    Echoed,
    /// An event is longer than any that is read.
    TooLong,
}

/// The watch over one answer.
#[derive(Debug)]
pub(super) struct Echo {
    secrets: Vec<Vec<u8>>,
    events: Events,
    /// The event that comes, as bytes.
    coming: Vec<u8>,
    /// Whole events that wait for the next.
    held: Vec<u8>,
    /// What the last texts ended with that a secret begins with, by the place of the text in its event.
    ends: HashMap<String, Vec<u8>>,
}

impl Echo {
    /// For these secrets; those that are too short to be told from words are not looked for.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let long = secrets.into_iter().filter(|secret| secret.len() >= LEAST);
        Self {
            secrets: long.map(|secret| secret.as_bytes().to_vec()).collect(),
            events: Events::default(),
            coming: Vec::new(),
            held: Vec::new(),
            ends: HashMap::new(),
        }
    }

    /// What can go on when this piece has come: whole events.
    pub(super) fn pass(&mut self, piece: Vec<u8>) -> Result<Vec<u8>, Ended> {
        if self.secrets.is_empty() {
            return Ok(piece);
        }
        let mut out = Vec::new();
        for byte in piece {
            self.coming.push(byte);
            let complete = self.events.feed(&[byte]).map_err(|EventTooLong| Ended::TooLong)?;
            let Some(data) = complete.first() else { continue };
            self.look(data)?;
            self.held.append(&mut self.coming);
            if self.ends.values().all(|end| end.len() < LEAST) {
                out.append(&mut self.held);
            }
        }
        Ok(out)
    }

    /// What was held back, when nothing more comes.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.held);
        out.append(&mut self.coming);
        out
    }

    /// Whether a document says a secret.
    pub(super) fn is_in(&self, document: &[u8]) -> bool {
        let Ok(value) = json::parse(document) else { return false };
        let mut found = false;
        each_text(&value, &mut String::new(), &mut |_, text| found |= self.says(text.as_bytes()));
        found
    }

    fn says(&self, text: &[u8]) -> bool {
        self.secrets.iter().any(|secret| text.windows(secret.len()).any(|window| window == secret))
    }

    fn look(&mut self, data: &[u8]) -> Result<(), Ended> {
        // What is no JSON has no escapes, and no text that goes on: its bytes were looked at.
        let Ok(event) = json::parse(data) else { return Ok(()) };
        let mut ends = std::mem::take(&mut self.ends);
        let mut found = false;
        each_text(&event, &mut String::new(), &mut |place, text| {
            let mut whole = ends.remove(place).unwrap_or_default();
            whole.extend_from_slice(text.as_bytes());
            found |= self.says(&whole);
            let kept = self.secrets.iter().map(|secret| begun(&whole, secret)).max().unwrap_or_default();
            if kept > 0 {
                ends.insert(place.to_owned(), whole.split_off(whole.len() - kept));
            }
            found |= ends.len() > PLACES;
        });
        self.ends = ends;
        if found { Err(Ended::Echoed) } else { Ok(()) }
    }
}

/// Every text of a document with its place: the names on the way to it. Those of a list have one place.
fn each_text(value: &Value, place: &mut String, heard: &mut dyn FnMut(&str, &str)) {
    if let Some(text) = value.as_str() {
        heard(place, text);
    }
    for one in value.as_array().unwrap_or_default() {
        each_text(one, place, heard);
    }
    for (name, one) in value.as_object().unwrap_or_default() {
        let above = place.len();
        place.push('/');
        place.push_str(name);
        each_text(one, place, heard);
        place.truncate(above);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "sk-ant-0123456789";

    fn event(text: &str) -> Vec<u8> {
        format!("event: delta\ndata: {{\"n\":[{{\"text\":\"{text}\"}}],\"id\":\"x\"}}\n\n").into_bytes()
    }

    fn texts(texts: &[&str]) -> Result<Vec<u8>, Ended> {
        let mut echo = Echo::new([SECRET]);
        let mut out = Vec::new();
        for text in texts {
            out.extend(echo.pass(event(text))?);
        }
        out.extend(echo.rest());
        Ok(out)
    }

    #[test]
    fn a_secret_is_found_however_its_text_is_cut() {
        for cut in 1..SECRET.len() {
            let mut pieces = vec!["the key is "];
            let (one, other) = SECRET.split_at(cut);
            pieces.extend([one, other, ", is it not?"]);
            assert_eq!(texts(&pieces), Err(Ended::Echoed), "{cut}");
        }
        let letters: Vec<String> = SECRET.chars().map(String::from).collect();
        let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
        assert_eq!(texts(&letters), Err(Ended::Echoed));
        assert_eq!(texts(&["\\u0073k-ant-012345678\\u0039"]), Err(Ended::Echoed));
        assert!(Echo::new([SECRET]).is_in(b"{\"error\":[\"\\u0073k-ant-0123456789\"]}"));
        assert!(!Echo::new([SECRET]).is_in(b"{\"error\":[\"sk-ant\"]}"));
    }

    #[test]
    fn what_is_none_comes_whole_in_order_and_at_once() {
        let mut echo = Echo::new([SECRET]);
        assert_eq!(echo.pass(event("hello")).unwrap(), event("hello"));
        // The beginning that many keys have is no reason to wait.
        assert_eq!(echo.pass(event("an sk-ant-")).unwrap(), event("an sk-ant-"));
        assert_eq!(echo.pass(event("0")).unwrap(), b"");
        assert_eq!(echo.pass(event("?")).unwrap(), [event("0"), event("?")].concat());
        assert_eq!(echo.pass(b"data: {\"a\":".to_vec()).unwrap(), b"");
        assert_eq!(echo.pass(b"1}\r\n\r\nda".to_vec()).unwrap(), b"data: {\"a\":1}\r\n\r");
        assert_eq!(echo.rest(), b"\nda");
        let held = ["sk-ant-0", "12345678"];
        assert_eq!(texts(&held).unwrap(), held.map(event).concat(), "at the end all comes");
        let none = Echo::new(["short"]).pass(b"no event".to_vec());
        assert_eq!(none.unwrap(), b"no event");
    }

    #[test]
    fn what_never_ends_is_given_up() {
        let mut echo = Echo::new([SECRET]);
        let piece = vec![b'x'; 1 << 20];
        assert!((0..8).any(|_| echo.pass(piece.clone()) == Err(Ended::TooLong)));
        let many: Vec<String> = (0..300).map(|n| format!("\"k{n}\":\"s\"")).collect();
        let many = format!("data: {{{}}}\n\n", many.join(","));
        assert_eq!(Echo::new([SECRET]).pass(many.into_bytes()), Err(Ended::Echoed));
    }
}
