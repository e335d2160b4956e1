//! Code fences as CommonMark has them, seen line by line: which line opens one, which closes it, and which only looks
//! like one. A fence is not looked for in quotes and not behind an indentation of more than three. Pure.

/// A fence that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence<'a> {
    /// Its indentation and its marks, without the info string.
    pub marks: &'a str,
    /// The whole opening line.
    pub line: &'a str,
}

/// What a line does to a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Nothing.
    Text,
    /// Opens this one.
    Opens(Fence<'a>),
    /// Closes the open one with so many bytes at its start.
    Closes(usize),
    /// Nothing; but it would if it ended before this many bytes.
    Nearly(usize),
}

impl Fence<'_> {
    /// Its mark.
    pub fn mark(&self) -> char {
        self.marks.chars().next_back().unwrap_or('`')
    }

    /// How many marks it has.
    pub fn run(&self) -> usize {
        self.marks.trim_start_matches(' ').len()
    }
}

/// What the first line of a text does, where `open` is the fence around it.
pub fn first_line<'a>(text: &'a str, open: Option<&Fence<'_>>) -> Line<'a> {
    let Some((marks, run)) = marks(text) else { return Line::Text };
    let rest = text.get(marks.len()..).unwrap_or("");
    let line_end = || rest.find('\n').unwrap_or(rest.len());
    match open {
        Some(open) if !marks.ends_with(open.mark()) || run < open.run() => Line::Text,
        Some(_) => {
            let blank = rest.len() - rest.trim_start_matches([' ', '\t', '\r']).len();
            match rest.get(blank..).and_then(|after| after.chars().next()) {
                None | Some('\n') => Line::Closes(marks.len()),
                Some(other) => Line::Nearly(marks.len() + blank + other.len_utf8()),
            }
        }
        None => {
            let info = rest.get(..line_end()).unwrap_or("");
            match info.find('`') {
                Some(at) if marks.ends_with('`') => Line::Nearly(marks.len() + at + 1),
                _ => {
                    Line::Opens(Fence { marks, line: text.get(..marks.len() + info.len()).unwrap_or(marks) })
                }
            }
        }
    }
}

/// Whether a text begins like a fence.
pub fn begins_like_one(text: &str) -> bool {
    let body = text.get(indentation(text)..).unwrap_or("");
    body.starts_with("```") || body.starts_with("~~~")
}

/// An indentation of at most three spaces and at least three marks, and how many marks.
fn marks(text: &str) -> Option<(&str, usize)> {
    let indent = indentation(text);
    let body = text.get(indent..)?;
    let mark = body.chars().next().filter(|mark| "`~".contains(*mark))?;
    let run = body.len() - body.trim_start_matches(mark).len();
    (run >= 3).then(|| text.get(..indent + run)).flatten().map(|marks| (marks, run))
}

/// The spaces at the start of a text, no more than three: behind a fourth no mark is a fence.
fn indentation(text: &str) -> usize {
    text.bytes().take(3).take_while(|byte| *byte == b' ').count()
}

/// The fence that is still open at the end of a text.
#[cfg(test)]
pub fn open_at_end(text: &str) -> Option<Fence<'_>> {
    let mut open = None;
    for line in text.split('\n') {
        match first_line(line, open.as_ref()) {
            Line::Opens(fence) => open = Some(fence),
            Line::Closes(_) => open = None,
            Line::Text | Line::Nearly(_) => {}
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_open_and_close_as_in_commonmark() {
        let opens = |text: &str| matches!(first_line(text, None), Line::Opens(_));
        for text in ["```", "~~~", "````rust", "   ``` sh\nx", "~~~ a`b", "```\r\n"] {
            assert!(opens(text), "{text:?}");
        }
        for text in ["``", "    ```", "x```", "\t```", "``~", "", "> ```"] {
            assert_eq!(first_line(text, None), Line::Text, "{text:?}");
        }
        assert_eq!(first_line("```a`b```", None), Line::Nearly(5));
        let Line::Opens(open) = first_line("  ~~~~ info\nx", None) else { panic!("it opens") };
        assert_eq!((open.mark(), open.run(), open.line), ('~', 4, "  ~~~~ info"));
        for (text, line) in [
            ("~~~~", Line::Closes(4)),
            ("   ~~~~~ \t\nx", Line::Closes(8)),
            ("~~~", Line::Text),
            ("````", Line::Text),
            ("~~~~ x", Line::Nearly(6)),
        ] {
            assert_eq!(first_line(text, Some(&open)), line, "{text:?}");
        }
        assert!(open_at_end("```\nx\n```\n~~~\n```").is_some());
        assert!(open_at_end("```\n~~~\n````\n").is_none());
    }
}
