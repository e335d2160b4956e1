//! Objects written straight into a text, for long lists: no tree is built of what is written once and thrown away.
//! Touches nothing.

use super::write::write_string;

/// An object that is being written.
#[derive(Debug)]
pub struct ObjectText<'a> {
    out: &'a mut String,
    is_first: bool,
}

impl<'a> ObjectText<'a> {
    /// Begins one at the end of a text.
    pub fn begin(out: &'a mut String) -> Self {
        out.push('{');
        Self { out, is_first: true }
    }

    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(',');
        }
        string(self.out, name);
        self.out.push(':');
    }

    /// A field that is a text.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.name(name);
        string(self.out, text);
        self
    }

    /// A field that is a text, or `null`.
    pub fn maybe(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(name, text),
            None => {
                self.name(name);
                self.out.push_str("null");
                self
            }
        }
    }

    /// Ends it.
    pub fn end(self) {
        self.out.push('}');
    }
}

fn string(out: &mut String, text: &str) {
    // A text takes all that it is given.
    let _ = write_string(out, text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json::{Value, parse};

    #[test]
    fn what_is_written_is_read_as_the_same_object() {
        let mut text = String::new();
        let mut object = ObjectText::begin(&mut text);
        object.text("a", "\"quoted\"\n\u{202e}").maybe("b", None).maybe("c\"", Some("é"));
        object.end();
        ObjectText::begin(&mut text).end();
        let (first, second) = text.split_at(text.len() - 2);
        let expected = Value::object([
            ("a", Value::from("\"quoted\"\n\u{202e}")),
            ("b", Value::Null),
            ("c\"", Value::from("é")),
        ]);
        assert_eq!(parse(first.as_bytes()).unwrap(), expected);
        assert_eq!(first, expected.to_string());
        assert_eq!(second, "{}");
    }
}
