//! Patterns of wirings. Matching takes time in proportion to the text, whatever the pattern; both are bounded, and a
//! pattern that could not be used is refused when it is asked for. Pure.

use regex_lite::{Regex, RegexBuilder};

/// Most bytes of a text that a pattern is looked for in; what is behind is not.
pub const MOST_TEXT: usize = 64 << 10;
/// Memory of a compiled pattern, bytes; it bounds the time that matching takes as well.
const MOST_COMPILED: usize = 32 << 10;

/// Reads a pattern.
///
/// # Errors
/// What is wrong with it, for whoever wrote it.
pub fn compile(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern).size_limit(MOST_COMPILED).nest_limit(32).build().map_err(|error| {
        format!("{error}; a pattern is a regular expression without look-around and back-references")
    })
}

/// Whether a pattern is found in a text. One that this version cannot read is found nowhere.
pub fn is_found(pattern: &str, text: &str) -> bool {
    let mut end = text.len().min(MOST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    compile(pattern).is_ok_and(|pattern| pattern.is_match(text.get(..end).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_found_as_they_are_written() {
        assert!(is_found("(?i)deploy", "please DEPLOY it"));
        assert!(!is_found("deploy", "please wait"));
        assert!(is_found(".", "x"));
        assert!(is_found("", ""), "an empty pattern is everywhere");
        assert!(!is_found("(", "("));
    }

    #[test]
    fn what_could_take_long_or_much_is_refused_or_quick() {
        for bad in ["(", "[a", "(?=x)", r"(a)\1", "a{100000}", "((a{100}){100}){100}"] {
            assert!(compile(bad).is_err(), "{bad}");
        }
        let deep = "(".repeat(100) + &")".repeat(100);
        assert!(compile(&deep).is_err());
        assert!(!is_found("^(a+)+$", &("a".repeat(50_000) + "b")));
    }

    #[test]
    fn only_the_beginning_of_a_long_text_is_looked_at() {
        let text = "ü".repeat(MOST_TEXT) + "end";
        assert!(!is_found("end", &text));
        assert!(is_found("^ü", &text));
    }
}
