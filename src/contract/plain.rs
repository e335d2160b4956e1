//! Text that an agent or a stranger wrote, made safe to show: whatever a terminal would obey or hide is
//! written as `\u{…}`. Used wherever people read such text. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// Several lines: newline and tab stay.
pub fn block(text: &str) -> Cow<'_, str> {
    escape(text, |c| deceives(c) && c != '\n' && c != '\t')
}

/// One line: newline and tab are escaped too.
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, deceives)
}

/// One word or name among others in a line. What could be read as more than that, or as words of the line's own, is in
/// quotes, and no quote is inside.
pub fn word(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@/+#*^$%=~!?&".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let inside = escape(text, |c| deceives(c) || c == '"');
    Cow::Owned(format!("\"{inside}\""))
}

fn escape(text: &str, unsafe_to_show: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&unsafe_to_show) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if unsafe_to_show(c) {
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(c));
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Controls (a terminal obeys them), direction marks (they reorder what is read) and characters without a
/// shape (they hide text in text). The two emoji selectors FE0E and FE0F stay: ordinary messages are full of
/// them.
fn deceives(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0d}' | '\u{feff}' | '\u{ffa0}'
            | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_or_hides_is_escaped() {
        let cases = [
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("a\u{202e}b", "a\\u{202e}b"),
            ("a\u{200b}b\u{e0041}", "a\\u{200b}b\\u{e0041}"),
            ("\u{9b}31m\u{7f}\r", "\\u{9b}31m\\u{7f}\\u{d}"),
            ("héllo ⟦x⟧ 日本 ❤\u{fe0f}", "héllo ⟦x⟧ 日本 ❤\u{fe0f}"),
        ];
        for (text, shown) in cases {
            assert_eq!(block(text), shown);
            assert_eq!(line(text), shown);
        }
        assert_eq!(block("a\n\tb"), "a\n\tb");
        let words = [
            ("slack:U9", "slack:U9"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            (".;hears", "\".;hears\""),
            ("x\" of \"y", "\"x\\u{22} of \\u{22}y\""),
            ("\u{202e}", "\"\\u{202e}\""),
        ];
        for (text, shown) in words {
            assert_eq!(word(text), shown);
        }
        assert_eq!(line("a\n\tb"), "a\\u{a}\\u{9}b");
    }
}
