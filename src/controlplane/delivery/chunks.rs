//! A text that is too long for a platform becomes several: cut where a reader would pause, and never so that a code
//! fence is left open. Text comes in, parts within the limit go out. Pure, and linear in the text.

use unicode_segmentation::UnicodeSegmentation;

use super::fences::{Fence, Line, begins_like_one, first_line};

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes of UTF-8.
    Bytes,
    /// Unicode characters.
    Chars,
    /// UTF-16 code units, two for a character beyond the first plane.
    Utf16,
}

/// How long a part may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// So many units; fewer than [`Limit::SMALLEST`] count as that.
    pub size: usize,
    /// Of this kind.
    pub unit: Unit,
}

impl Limit {
    /// The longest character in any unit fits.
    pub const SMALLEST: usize = 4;

    fn cost(self, text: &str) -> usize {
        match self.unit {
            Unit::Bytes => text.len(),
            Unit::Chars => text.chars().count(),
            Unit::Utf16 => text.chars().map(char::len_utf16).sum(),
        }
    }

    fn cost_of(self, c: char) -> usize {
        match self.unit {
            Unit::Bytes => c.len_utf8(),
            Unit::Chars => 1,
            Unit::Utf16 => c.len_utf16(),
        }
    }
}

/// The parts of a text, each within the limit and none empty; a text within the limit is one part, unchanged.
///
/// A cut is made at the last paragraph break that fits, else at the last line break, sentence end, or space, else
/// between two graphemes, and within a grapheme only if it alone is too long. What is lost is white space at the cuts.
/// A fence that a cut falls into is closed and opened again with the same info string, within the limit; marks of a
/// fence that take more than a quarter of the limit are not repeated, and an opening line that does only without its
/// info string. Where the limit is so small that a line beginning like a fence is cut before it turns out to be none,
/// it becomes one.
pub fn chunks(text: &str, limit: Limit) -> Vec<String> {
    let limit = Limit { size: limit.size.max(Limit::SMALLEST), ..limit };
    if limit.cost(text) <= limit.size {
        return if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
    }
    let splitter = Splitter { text: text.trim_end_matches(is_space), limit };
    let mut parts = Vec::new();
    let mut next = splitter.settled(Place { at: 0, open: None, starts_line: true });
    while let Some(place) = next {
        let cut = splitter.cut(&place);
        parts.push(splitter.part(&place, &cut));
        next = splitter.settled(cut.next);
    }
    parts
}

struct Splitter<'a> {
    text: &'a str,
    limit: Limit,
}

/// Where a part begins: a byte of the text, and the fence it is in.
#[derive(Clone, Copy)]
struct Place<'a> {
    at: usize,
    open: Option<Fence<'a>>,
    starts_line: bool,
}

/// Where a part ends, and where the next one begins.
#[derive(Clone, Copy)]
struct Cut<'a> {
    pause: Pause,
    end: usize,
    next: Place<'a>,
}

/// Why a cut may be there, the better the later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pause {
    Grapheme,
    Space,
    Sentence,
    Line,
    Paragraph,
    End,
}

impl<'a> Splitter<'a> {
    /// The first place at or after this one where there is something to say. `None` at the end.
    fn settled(&self, mut place: Place<'a>) -> Option<Place<'a>> {
        if place.starts_line
            && let Some(open) = &place.open
            && let Line::Closes(length) = first_line(self.rest(place.at), Some(open))
        {
            // The fence was closed with the part before.
            place = Place { at: place.at + length, open: None, starts_line: false };
        }
        if place.open.is_none() {
            let run = self.space_run(place.at);
            place.starts_line |= run.lines > 0;
            place.at = if place.starts_line { run.line_start } else { run.end };
            // The indentation of a line stays, unless it would fill the part.
            let most = if self.limit.size < 16 { 0 } else { self.limit.size / 4 };
            let indent = self.slice(place.at, run.end);
            if let Some((skip, c)) = indent.char_indices().rev().nth(most) {
                place.at += skip + c.len_utf8();
            }
        }
        (place.at < self.text.len()).then_some(place)
    }

    /// Reads on from a place for as long as it fits, and remembers the best place to stop.
    fn cut(&self, place: &Place<'a>) -> Cut<'a> {
        let mut scan = Scan {
            splitter: self,
            start: place.at,
            at: place.at,
            used: place.open.map_or(0, |open| self.limit.cost(&self.opening(&open))),
            open: place.open,
            open_since: place.at,
            line_at: place.at,
            in_info: false,
            no_cut_before: 0,
            best: None,
        };
        let mut starts_line = place.starts_line;
        while scan.at < self.text.len() {
            let went_on = if starts_line { scan.fence_line() } else { Some(false) };
            let went_on = match went_on {
                Some(true) => Some(false),
                Some(false) => scan.character(),
                None => None,
            };
            match went_on {
                Some(line) => starts_line = line,
                None => return scan.best.unwrap_or_else(|| scan.hard()),
            }
        }
        Cut {
            pause: Pause::End,
            end: self.text.len(),
            next: Place { at: self.text.len(), open: scan.open, starts_line: false },
        }
    }

    fn part(&self, place: &Place<'a>, cut: &Cut<'a>) -> String {
        let mut part = place.open.map(|open| self.opening(&open)).unwrap_or_default();
        part.push_str(self.slice(place.at, cut.end));
        match cut.next.open {
            Some(open) => {
                if !part.ends_with('\n') {
                    part.push('\n');
                }
                part.push_str(open.marks);
            }
            None => part.truncate(part.trim_end_matches(is_space).len()),
        }
        part
    }

    /// The line that opens a fence again.
    fn opening(&self, fence: &Fence<'a>) -> String {
        let line = fence.line.trim_end();
        // A character has four bytes at most: a line with more is too long without counting.
        let is_short = line.len() <= self.limit.size && self.limit.cost(line) <= self.limit.size / 4;
        let line = if is_short { line } else { fence.marks };
        format!("{line}\n")
    }

    fn closing_cost(&self, open: Option<&Fence<'a>>) -> usize {
        open.map_or(0, |open| 1 + self.limit.cost(open.marks))
    }

    fn space_run(&self, at: usize) -> SpaceRun {
        let mut run = SpaceRun { lines: 0, line_start: at, end: self.text.len() };
        for (offset, c) in self.rest(at).char_indices() {
            if !is_space(c) {
                run.end = at + offset;
                break;
            }
            if c == '\n' {
                run.lines += 1;
                run.line_start = at + offset + 1;
            }
        }
        run
    }

    fn rest(&self, at: usize) -> &'a str {
        self.text.get(at..).unwrap_or("")
    }

    fn slice(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or("")
    }
}

/// White space outside a fence.
struct SpaceRun {
    lines: usize,
    /// After the last line break in it.
    line_start: usize,
    end: usize,
}

/// One part while it grows. What it holds, with the fence closed, is within the limit at every step.
struct Scan<'s, 'a> {
    splitter: &'s Splitter<'a>,
    start: usize,
    at: usize,
    used: usize,
    open: Option<Fence<'a>>,
    /// Where `open` became what it is.
    open_since: usize,
    /// Where the current line begins, as far as this part has it.
    line_at: usize,
    /// On the line that opened the fence.
    in_info: bool,
    /// An earlier end would make a fence of what is none.
    no_cut_before: usize,
    best: Option<Cut<'a>>,
}

impl<'a> Scan<'_, 'a> {
    /// At the start of a line: takes the marks of a fence at once. Gives whether there were any, `None` when they do
    /// not fit.
    fn fence_line(&mut self) -> Option<bool> {
        self.line_at = self.at;
        match first_line(self.splitter.rest(self.at), self.open.as_ref()) {
            Line::Opens(fence) if fence.marks.len() <= self.splitter.limit.size / 4 => {
                self.take(fence.marks.len(), Some(fence))?;
                (self.open, self.open_since, self.in_info) = (Some(fence), self.at, true);
                Some(true)
            }
            Line::Closes(length) => {
                self.take(length, None)?;
                (self.open, self.open_since) = (None, self.at);
                Some(true)
            }
            Line::Nearly(length) => {
                self.no_cut_before = self.at + length;
                Some(false)
            }
            Line::Opens(_) | Line::Text => Some(false),
        }
    }

    /// Takes a character, or a run of white space. Gives whether a line begins after it, `None` when it does not fit.
    fn character(&mut self) -> Option<bool> {
        let c = self.splitter.rest(self.at).chars().next()?;
        if self.open.is_none() && is_space(c) {
            return self.space();
        }
        if self.open.is_some() && !self.in_info {
            // Code keeps its white space, but for the one at which it is cut.
            match c {
                '\n' => self.may_end(Pause::Line, self.at + 1, true),
                ' ' | '\t' if self.at > self.line_at => self.may_end(Pause::Space, self.at + 1, false),
                _ => {}
            }
        }
        self.take(c.len_utf8(), self.open)?;
        if c == '\n' {
            self.in_info = false;
        } else if self.open.is_none() && "。！？".contains(c) {
            self.may_end(Pause::Sentence, self.at, false);
        }
        Some(c == '\n')
    }

    fn space(&mut self) -> Option<bool> {
        let run = self.splitter.space_run(self.at);
        let pause = match run.lines {
            0 if self.ends_sentence() => Pause::Sentence,
            0 => Pause::Space,
            1 => Pause::Line,
            _ => Pause::Paragraph,
        };
        let resume = if run.lines > 0 { run.line_start } else { run.end };
        // An indentation is no place to stop: the end of the line before it was.
        if self.at > self.line_at || run.lines > 0 {
            self.may_end(pause, resume, run.lines > 0);
        }
        self.take(resume - self.at, None)?;
        Some(run.lines > 0)
    }

    fn ends_sentence(&self) -> bool {
        let before = self.splitter.slice(self.start, self.at);
        let closers = before.chars().rev().take(3).take_while(|c| "\"')]*_»”’".contains(*c)).count();
        before.chars().rev().nth(closers).is_some_and(|c| ".!?…".contains(c))
    }

    /// Remembers that the part may end here and the next one begin at `resume`.
    fn may_end(&mut self, pause: Pause, resume: usize, starts_line: bool) {
        let is_poor = self.best.is_some_and(|best| best.pause > pause);
        // In the middle of a line, what follows must not look like a fence once it starts a part.
        if is_poor
            || self.at <= self.start
            || self.at < self.no_cut_before
            || (!starts_line && begins_like_one(self.splitter.rest(resume)))
        {
            return;
        }
        let next = Place { at: resume, open: self.open, starts_line };
        self.best = Some(Cut { pause, end: self.at, next });
    }

    /// Goes on by so many bytes, if they fit with the closing of this fence.
    fn take(&mut self, length: usize, open: Option<Fence<'a>>) -> Option<()> {
        let mut used = self.used + self.splitter.closing_cost(open.as_ref());
        let limit = self.splitter.limit;
        let taken = self.splitter.slice(self.at, self.at + length);
        for c in taken.chars() {
            used += limit.cost_of(c);
            if used > limit.size {
                return None;
            }
        }
        self.used = used - self.splitter.closing_cost(open.as_ref());
        self.at += length;
        Some(())
    }

    /// Where nobody pauses: between two graphemes.
    fn hard(&self) -> Cut<'a> {
        let following = self.splitter.rest(self.at).chars().next().map_or(0, char::len_utf8);
        let window = self.splitter.slice(self.start, self.at + following);
        let fits = self.at - self.start;
        let boundaries = || window.grapheme_indices(true).map(|(at, _)| at).filter(|at| *at > 0);
        let mut length = boundaries().take_while(|at| *at <= fits).last().unwrap_or(fits);
        let resume = if self.open.is_none() {
            self.splitter.space_run(self.start + length).end
        } else {
            self.start + length
        };
        if begins_like_one(self.splitter.rest(resume)) {
            // The marks of a fence go with what is before them, or not at all.
            let marks = ['`', '~'];
            let before =
                window.get(..length).unwrap_or("").trim_end_matches(is_space).trim_end_matches(marks).len();
            length = boundaries().take_while(|at| *at < before).last().unwrap_or(length);
        }
        if self.start + length < self.open_since {
            length = fits;
        }
        let end = self.start + length;
        let starts_line = self.splitter.slice(self.start, end).ends_with('\n');
        Cut { pause: Pause::Grapheme, end, next: Place { at: end, open: self.open, starts_line } }
    }
}

/// White space at which a line may be broken.
fn is_space(c: char) -> bool {
    c.is_whitespace() && !matches!(c, '\u{a0}' | '\u{2007}' | '\u{202f}')
}

#[cfg(test)]
mod tests {
    use super::super::fences::open_at_end;
    use super::*;

    fn cut(text: &str, size: usize) -> Vec<String> {
        chunks(text, Limit { size, unit: Unit::Chars })
    }

    #[test]
    fn a_text_within_the_limit_is_unchanged() {
        for text in ["x", " x \n", "```\nopen", "1234567890"] {
            assert_eq!(cut(text, 10), [text], "{text:?}");
        }
        assert!(cut("", 10).is_empty());
        assert!(cut(&" \n".repeat(100), 10).is_empty(), "white space is nothing to say");
    }

    #[test]
    fn each_unit_counts_its_own() {
        let text = "é𝄞".repeat(4);
        for (unit, size) in [(Unit::Bytes, 24), (Unit::Chars, 8), (Unit::Utf16, 12)] {
            assert_eq!(chunks(&text, Limit { size, unit }).len(), 1, "{unit:?}");
            assert_eq!(chunks(&text, Limit { size: size - 1, unit }).len(), 2, "{unit:?}");
        }
        assert_eq!(chunks("𝄞𝄞", Limit { size: 0, unit: Unit::Bytes }), ["𝄞", "𝄞"]);
    }

    #[test]
    fn a_cut_is_at_the_best_pause_that_fits() {
        assert_eq!(
            cut("one two\nthree. four\n\nfive six seven", 25),
            ["one two\nthree. four", "five six seven"]
        );
        assert_eq!(cut("one two\nthree. four five six", 20), ["one two", "three. four five six"]);
        assert_eq!(cut("One two. Three four five", 20), ["One two.", "Three four five"]);
        assert_eq!(cut("He said \"go.\" Then he left us", 20), ["He said \"go.\"", "Then he left us"]);
        assert_eq!(cut("one two three", 10), ["one two", "three"]);
        assert_eq!(cut("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(cut("猫がいる。犬もいる。", 7), ["猫がいる。", "犬もいる。"]);
        assert_eq!(cut("12345\n\n67890", 5), ["12345", "67890"], "a break right behind the limit");
        assert_eq!(
            cut("- one\n  - two or\n  - three", 16),
            ["- one\n  - two or", "  - three"],
            "indentation stays"
        );
        assert_eq!(cut(&format!("a{}b", " ".repeat(100)), 10), ["a", "b"]);
        assert_eq!(cut("100\u{a0}km is far", 8), ["100\u{a0}km", "is far"]);
    }

    #[test]
    fn a_grapheme_is_cut_only_if_it_alone_is_too_long() {
        let family = "👨\u{200d}👩\u{200d}👧";
        assert_eq!(cut(&family.repeat(3), 12), [family.repeat(2), family.to_owned()]);
        let stack = format!("e{}", "\u{301}".repeat(20));
        let parts = cut(&stack, 10);
        assert_eq!((parts.len(), parts.concat()), (3, stack));
    }

    #[test]
    fn a_fence_is_closed_and_opened_again() {
        let code = "Look:\n\n```rust\nfn one() {}\nfn two() {}\nfn three() {}\n```\n\nDone.";
        assert_eq!(
            cut(code, 36),
            ["Look:", "```rust\nfn one() {}\nfn two() {}\n```", "```rust\nfn three() {}\n```\n\nDone."]
        );
        // The closing line that no longer fits was already added.
        let tight = "~~~~ sh\naaaaaaaaaaaaaaaaaaaaaaaaaaa\n~~~~\nxx";
        assert_eq!(cut(tight, 40), ["~~~~ sh\naaaaaaaaaaaaaaaaaaaaaaaaaaa\n~~~~", "xx"]);
        let listed = "1. a\n   ```\n   first line of it\n   second line\n   ```";
        assert_eq!(
            cut(listed, 42),
            ["1. a\n   ```\n   first line of it\n   ```", "   ```\n   second line\n   ```"]
        );
        let open = "```\naaaa bbbb cccc dddd\neeee ffff gggg hhhh";
        assert_eq!(cut(open, 30), ["```\naaaa bbbb cccc dddd\n```", "```\neeee ffff gggg hhhh\n```"]);
    }

    #[test]
    fn no_cut_makes_a_fence_of_what_is_none() {
        for text in [
            "some words here ```not a fence``` and more words after it, and more",
            "```a b c d e f g h i j k l m n o p q r s t`u v w x y z",
            "```\nsome code with ``` in it, some code with ``` in it\n```",
            "```\ncode\n``` no end of it, this is a line of code too\nmore\n```",
            "xxxxxxxxxxxxxxxxxxxxxxxxxxxxx```yyyyyyyyyyyyyyyyy```zzzzzzzzzzzzz",
        ] {
            for size in 44..64 {
                for part in cut(text, size) {
                    assert_eq!(open_at_end(&part), None, "{size}: {part:?} of {text:?}");
                }
            }
        }
    }

    /// What a text says: its characters but white space, without the lines of fences.
    fn said(text: &str) -> String {
        let mut open: Option<Fence<'_>> = None;
        let mut said = String::new();
        for line in text.split('\n') {
            match first_line(line, open.as_ref()) {
                Line::Opens(fence) => open = Some(fence),
                Line::Closes(_) => open = None,
                _ => said.extend(line.chars().filter(|c| !is_space(*c))),
            }
        }
        said
    }

    #[test]
    fn nothing_is_lost_and_everything_fits() {
        let pieces = [
            "word",
            "a",
            " ",
            "  ",
            "\n",
            "\n\n",
            "\n    ",
            ". ",
            "! ",
            "é",
            "𝄞",
            "\u{301}",
            "👨\u{200d}👩",
            "。",
            "\t",
            "\n```\n",
            "\n```rust\n",
            "\n~~~ x y\n",
            "\n~~~\n",
            "\n````\n",
            "\n   ```\n",
            " ``` ",
            "``",
            "`",
            "~~~~",
            "\r\n",
            "\u{a0}",
            "https://example.org/a/very/long/path/without/any/pause/in/it",
            "\n> q",
            "\n- ",
        ];
        let mut seed: u64 = 0x2545_f491_4f6c_dd1d;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % 1_000_003).unwrap() % below
        };
        let mut usual = 0;
        for round in 0..10_000 {
            let text: String = (0..random(60)).map(|_| pieces[random(pieces.len())]).collect();
            let unit = [Unit::Bytes, Unit::Chars, Unit::Utf16][random(3)];
            let limit = Limit { size: [4, 9, 16, 48, 64, 100, 200][random(7)], unit };
            let parts = chunks(&text, limit);
            for part in &parts {
                assert!(limit.cost(part) <= limit.size, "{round}: {part:?} of {text:?} at {limit:?}");
                assert!(!part.is_empty(), "{round}: {text:?}");
            }
            let joined = parts.join("\n");
            // An info string that is cut becomes code, and a line may turn out to be no fence beyond the limit.
            let is_usual =
                text.split('\n').all(|line| !begins_like_one(line) || limit.cost(line) <= limit.size / 4);
            if limit.size >= 48 && is_usual {
                usual += 1;
                assert_eq!(said(&joined), said(&text), "{round}: {parts:?} of {text:?} at {limit:?}");
                if parts.len() > 1 {
                    for part in &parts {
                        assert_eq!(open_at_end(part), None, "{round}: {part:?} of {text:?} at {limit:?}");
                    }
                }
            } else if limit.size < 12 {
                let bare = |text: &str| text.chars().filter(|c| !is_space(*c)).collect::<String>();
                assert_eq!(bare(&joined), bare(&text), "{round}: {parts:?} of {text:?} at {limit:?}");
            }
        }
        assert!(usual > 1_000, "{usual}");
    }

    #[test]
    fn hostile_texts_stay_linear() {
        // What is not linear takes minutes for this, and hours for the 8 MiB that a text may have.
        const LENGTH: usize = 400_000;
        let limit = Limit { size: 100, unit: Unit::Utf16 };
        for piece in [
            "a",
            " ",
            "`",
            "~",
            "\n",
            "a\n\nb",
            "```\n",
            "```\n ",
            "\u{301}",
            "👨\u{200d}",
            "a\n\n\n",
            ". ",
            "``` ` ",
            "    ",
            "> ",
            "a\u{a0}",
        ] {
            for start in ["", "```\n", "x\n\ny\nz. w v", "```"] {
                let text = format!("{start}{}", piece.repeat(LENGTH / piece.len()));
                let parts = chunks(&text, limit);
                assert!(parts.iter().all(|part| limit.cost(part) <= limit.size), "{start:?} {piece:?}");
            }
        }
    }
}
