//! A corpus of text that lies about itself: what terminals obey, hide or turn around; and whether some is in what
//! people read.

/// What was tried, and the text.
pub const CORPUS: &[(&str, &str)] = &[
    ("clears the screen", "\u{1b}[2J\u{1b}[H nothing to see"),
    ("climbs over what stands above", "\u{1b}[5A\u{1b}[2K- tools none"),
    ("colours itself away", "\u{1b}[8mhidden\u{1b}[0m"),
    ("a link to elsewhere", "\u{1b}]8;;http://elsewhere\u{1b}\\approved\u{1b}]8;;\u{1b}\\"),
    ("a title of the window", "\u{1b}]0;approved\u{7}"),
    ("answers in the reader's name", "\u{1b}[6n\u{1b}]52;c;eQ==\u{7}"),
    ("eight-bit controls", "\u{9b}31m\u{90}q\u{9c}\u{85}"),
    ("overwrites its line", "harmless\r+ everything"),
    ("takes characters back", "rm\u{8}\u{8}ls\u{7f}"),
    ("turns around", "user\u{202e}nimda\u{202c} \u{2066}x\u{2069} \u{200f}y \u{61c}z"),
    ("nothing to see at all", "a\u{200b}b\u{200c}c\u{200d}d\u{2060}e\u{feff}f\u{ad}g\u{180e}h"),
    ("tags", "ok\u{e0041}\u{e0042}\u{e007f}"),
    ("selectors", "ok\u{fe00}\u{e0100}\u{e01ef}"),
    ("fillers", "\u{3164}\u{ffa0}\u{115f}\u{1160}\u{17b4}"),
    ("lines of its own kind", "one\u{2028}two\u{2029}three\u{b}four\u{c}five"),
    ("marks between the lines", "\u{fff9}a\u{fffa}b\u{fffb}"),
    ("nothing", "a\u{0}b"),
];

/// Whether a terminal, or an eye, would take it for something else. Written from Unicode's lists of format controls and
/// default ignorables, and not from the program's own list.
pub fn deceives(c: char) -> bool {
    let code = u32::from(c);
    (code < 0x20 && c != '\n')
        || (0x7f..=0x9f).contains(&code)
        || [0xad, 0x34f, 0x61c, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x3164, 0xfeff, 0xffa0].contains(&code)
        || [(0x180b, 0x180f), (0x200b, 0x200f), (0x2028, 0x202e), (0x2060, 0x206f), (0xfe00, 0xfe0d)]
            .iter()
            .chain(&[(0xfff0, 0xfffb), (0x1bca0, 0x1bca3), (0x1d173, 0x1d17a), (0xe0000, 0xe0fff)])
            .any(|(low, high)| (*low..=*high).contains(&code))
}

/// No character of a text may deceive.
#[track_caller]
pub fn honest(what: &str, text: &str) {
    if let Some(at) = text.find(deceives) {
        let around: String =
            text.chars().skip(text[..at].chars().count().saturating_sub(40)).take(80).collect();
        panic!("{what}: {around:?}");
    }
}

/// The same for what was shown on a terminal, whose lines end as those of terminals do.
#[track_caller]
pub fn honest_on_terminal(what: &str, text: &str) {
    honest(what, &text.replace("\r\n", "\n"));
}
