//! The writer: a [`Value`] as compact JSON, every string escaped so that the gate reads it back unchanged.
//! It touches nothing.

use std::fmt::{self, Display, Formatter, Write};

use super::value::Value;

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write(f, self, &|f, number| f.write_str(number))
    }
}

/// Writes `value`, its numbers by `number`.
pub(super) fn write<W: Write>(
    out: &mut W,
    value: &Value,
    number: &impl Fn(&mut W, &str) -> fmt::Result,
) -> fmt::Result {
    match value {
        Value::Null => out.write_str("null"),
        Value::Bool(true) => out.write_str("true"),
        Value::Bool(false) => out.write_str("false"),
        Value::Number(text) => number(out, text),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.write_char('[')?;
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.write_char(',')?;
                }
                write(out, item, number)?;
            }
            out.write_char(']')
        }
        Value::Object(fields) => {
            out.write_char('{')?;
            for (index, (key, item)) in fields.iter().enumerate() {
                if index > 0 {
                    out.write_char(',')?;
                }
                write_string(out, key)?;
                out.write_char(':')?;
                write(out, item, number)?;
            }
            out.write_char('}')
        }
    }
}

/// Writes a string with its quotes.
///
/// # Errors
/// The writer's.
pub fn write_string<W: Write>(out: &mut W, text: &str) -> fmt::Result {
    out.write_char('"')?;
    let mut rest = text;
    while let Some(at) = first_special(rest.as_bytes()) {
        let (plain, special) = rest.split_at(at);
        out.write_str(plain)?;
        let mut chars = special.chars();
        match chars.next() {
            Some('"') => out.write_str("\\\"")?,
            Some('\\') => out.write_str("\\\\")?,
            Some('\n') => out.write_str("\\n")?,
            Some('\r') => out.write_str("\\r")?,
            Some('\t') => out.write_str("\\t")?,
            Some(other) => write!(out, "\\u{:04x}", u32::from(other))?,
            None => {}
        }
        rest = chars.as_str();
    }
    out.write_str(rest)?;
    out.write_char('"')
}

/// Where the first character starts that must be escaped: control characters, and DEL and the two line separators
/// (E2 80 A8 and E2 80 A9 in UTF-8), because terminals, event streams and old script engines stumble over them.
fn first_special(text: &[u8]) -> Option<usize> {
    text.iter().enumerate().position(|(at, byte)| {
        MAY_BE_SPECIAL.get(usize::from(*byte)) == Some(&true)
            && (*byte != 0xe2 || matches!(text.get(at + 1..at + 3), Some([0x80, 0xa8 | 0xa9])))
    })
}

/// By the first byte: one look for each byte of what is mostly plain.
#[expect(clippy::indexing_slicing, reason = "the compiler runs it")]
static MAY_BE_SPECIAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = matches!(byte, 0x22 | 0x5c | 0..=0x1f | 0x7f | 0xe2);
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json::parse;

    #[test]
    fn strings_are_escaped_and_read_back() {
        let every: String =
            ('\0'..='\u{ff}').chain("\u{2028}\u{2029}\u{202e}é漢😀\u{10ffff}".chars()).collect();
        let value = Value::object([(every.clone(), Value::String(every))]);
        let text = value.to_string();
        assert!(!text.chars().any(|c| c < ' ' || c == '\u{2028}'));
        assert_eq!(parse(text.as_bytes()).unwrap(), value);
        assert_eq!(Value::from("a\"b\\c\n\u{1}").to_string(), r#""a\"b\\c\n\u0001""#);
    }

    #[test]
    fn numbers_keep_their_text() {
        for text in ["2.50", "1e+5", "-0", "123456789012345678901234567890", "1E-400"] {
            assert_eq!(parse(text.as_bytes()).unwrap().to_string(), text);
        }
    }
}
