//! What an agent writes is CommonMark; what Telegram shows is a small part of HTML. Everything of the text is kept:
//! what has no tag there becomes plain text that reads the same. The result is always balanced. Pure.

use std::fmt::Write;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

/// A longer text is only escaped: no message is that long.
const MOST_BYTES: usize = 64 * 1024;

/// Lists are indented so deep and no deeper.
const MOST_INDENT: usize = 6;

/// A text for `parse_mode: HTML`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Html {
    /// With tags.
    pub html: String,
    /// How long Telegram will find it: UTF-16 units without the tags.
    pub units: usize,
}

/// A text in which every character is itself, with room for each where it is: nothing in it becomes a link, a name that
/// is called, or a command.
pub fn verbatim(text: &str) -> Html {
    Html { html: format!("<pre>{}</pre>", escaped(text)), units: text.chars().map(char::len_utf16).sum() }
}

/// Reads CommonMark, with tables, struck text and task lists.
pub fn html(text: &str) -> Html {
    let mut page = Page::default();
    if text.len() > MOST_BYTES {
        page.text(text);
        return page.done();
    }
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    for event in Parser::new_ext(text, options) {
        page.event(event);
    }
    page.done()
}

/// What the sender of a link may lead people to.
fn is_allowed(url: &str) -> bool {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    url.len() <= 2048
        && matches!(scheme.as_deref(), Some("http" | "https" | "tg" | "mailto"))
        && !url.chars().any(|c| c.is_control() || c.is_whitespace())
}

/// A tag that is open, by its name.
type Open = &'static str;

#[derive(Default)]
struct Page {
    html: String,
    units: usize,
    open: Vec<Open>,
    /// For each list that is open, the next number, or none for dots.
    lists: Vec<Option<u64>>,
    /// For each link or image that is open, what to put behind its text.
    behind: Vec<String>,
    /// Line breaks owed before the next text, none at the start and the end.
    owed: usize,
    /// A quote or an item has begun: its first block is on the same line.
    has_begun: bool,
    in_table: bool,
    is_first_cell: bool,
}

impl Page {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => self.text(&text),
            Event::Code(code) | Event::InlineMath(code) | Event::DisplayMath(code) => {
                self.open("code", "<code>");
                self.text(&code);
                self.close("code");
            }
            Event::SoftBreak | Event::HardBreak => self.text("\n"),
            Event::Rule => {
                self.owe(2);
                self.text("———");
                self.owe(2);
            }
            Event::TaskListMarker(done) => self.text(if done { "☑ " } else { "☐ " }),
            Event::FootnoteReference(name) => self.text(&name),
        }
    }

    fn start(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph | Tag::HtmlBlock => self.owe(if self.lists.is_empty() { 2 } else { 1 }),
            Tag::Heading { .. } => {
                self.owe(2);
                self.open("b", "<b>");
            }
            Tag::BlockQuote(_) => {
                self.owe(2);
                self.open("blockquote", "<blockquote>");
                self.has_begun = true;
            }
            Tag::CodeBlock(kind) => {
                self.owe(if self.lists.is_empty() { 2 } else { 1 });
                self.open("pre", "<pre>");
                if let CodeBlockKind::Fenced(info) = kind
                    && let Some(language) = language(&info)
                {
                    self.open("code", &format!("<code class=\"language-{language}\">"));
                }
            }
            Tag::List(first) => {
                self.owe(if self.lists.is_empty() { 2 } else { 1 });
                self.lists.push(first);
            }
            Tag::Item => self.item(),
            Tag::Emphasis => self.open("i", "<i>"),
            Tag::Strong => self.open("b", "<b>"),
            Tag::Strikethrough => self.open("s", "<s>"),
            Tag::Link { dest_url, .. } => self.link(&dest_url, false),
            Tag::Image { dest_url, .. } => self.link(&dest_url, true),
            Tag::Table(_) => {
                self.owe(2);
                self.in_table = true;
            }
            Tag::TableHead => {
                self.open("b", "<b>");
                self.is_first_cell = true;
            }
            Tag::TableRow => {
                self.owe(1);
                self.is_first_cell = true;
            }
            Tag::TableCell => {
                let between = if std::mem::take(&mut self.is_first_cell) { "" } else { " | " };
                self.text(between);
            }
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph | TagEnd::HtmlBlock => self.owe(if self.lists.is_empty() { 2 } else { 1 }),
            TagEnd::Heading(_) => {
                self.close("b");
                self.owe(2);
            }
            TagEnd::BlockQuote(_) => {
                self.has_begun = false;
                self.close("blockquote");
                self.owe(2);
            }
            TagEnd::CodeBlock => {
                self.trim_line_break();
                self.close("code");
                self.close("pre");
                self.owe(if self.lists.is_empty() { 2 } else { 1 });
            }
            TagEnd::List(_) => {
                self.lists.pop();
                self.owe(if self.lists.is_empty() { 2 } else { 1 });
            }
            TagEnd::Item => {
                self.has_begun = false;
                self.owe(1);
            }
            TagEnd::Emphasis => self.close("i"),
            TagEnd::Strong => self.close("b"),
            TagEnd::Strikethrough => self.close("s"),
            TagEnd::Link | TagEnd::Image => {
                self.close("a");
                let behind = self.behind.pop().unwrap_or_default();
                self.text(&behind);
            }
            TagEnd::TableHead => self.close("b"),
            TagEnd::Table => {
                self.in_table = false;
                self.owe(2);
            }
            _ => {}
        }
    }

    fn item(&mut self) {
        self.owe(1);
        let depth = self.lists.len().saturating_sub(1).min(MOST_INDENT);
        let mark = match self.lists.last_mut() {
            Some(Some(number)) => {
                *number = number.saturating_add(1);
                format!("{}. ", number.saturating_sub(1))
            }
            _ => "• ".to_owned(),
        };
        self.text(&format!("{}{mark}", "  ".repeat(depth)));
        self.has_begun = true;
    }

    /// A link that Telegram shows, else its text with the address behind it. Pictures are links: no message of text has
    /// any.
    fn link(&mut self, url: &str, is_image: bool) {
        let is_inside = self.open.contains(&"a");
        if is_allowed(url) && !is_inside {
            self.open("a", &format!("<a href=\"{}\">", escaped(url)));
            self.behind.push(String::new());
        } else {
            // It is not closed by its end tag, for it is not the one that is open.
            self.open.push("");
            self.behind.push(if url.is_empty() { String::new() } else { format!(" ({url})") });
        }
        if is_image {
            self.text("🖼 ");
        }
    }

    /// Opens a tag, unless it is open already: bold in bold is bold, and Telegram has no quote in a quote.
    fn open(&mut self, name: Open, tag: &str) {
        if self.open.contains(&name) {
            self.open.push("");
        } else {
            self.settle();
            self.open.push(name);
            self.html.push_str(tag);
        }
    }

    /// Closes the innermost tag, if it is this one or one that was not opened again.
    fn close(&mut self, name: Open) {
        match self.open.last() {
            Some(&"") => {
                self.open.pop();
            }
            Some(open) if *open == name => {
                self.open.pop();
                let _ = write!(self.html, "</{name}>");
            }
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.settle();
        self.has_begun = false;
        for c in text.chars() {
            // Nothing Telegram would keep.
            if c.is_control() && !matches!(c, '\n' | '\t') {
                continue;
            }
            self.units += c.len_utf16();
            push_escaped(&mut self.html, c);
        }
    }

    fn owe(&mut self, breaks: usize) {
        // A cell of a table stays on its line.
        if !self.has_begun && (!self.in_table || breaks == 1) {
            self.owed = self.owed.max(breaks);
        }
    }

    /// Pays the line breaks that are owed.
    fn settle(&mut self) {
        let owed = std::mem::take(&mut self.owed);
        if self.units > 0 {
            self.html.push_str(&"\n".repeat(owed));
            self.units += owed;
        }
    }

    /// A block of code ends with a line break that nobody sees.
    fn trim_line_break(&mut self) {
        if self.html.ends_with('\n') && self.units > 0 {
            self.html.pop();
            self.units -= 1;
        }
    }

    fn done(mut self) -> Html {
        while let Some(name) = self.open.pop() {
            if !name.is_empty() {
                let _ = write!(self.html, "</{name}>");
            }
        }
        Html { html: self.html, units: self.units }
    }
}

/// The first word of an info string, if it can be the name of a language.
fn language(info: &str) -> Option<&str> {
    let word = info.split_whitespace().next()?;
    let is_name = word.len() <= 32 && word.chars().all(|c| c.is_ascii_alphanumeric() || "+-_#.".contains(c));
    is_name.then_some(word)
}

/// A text for Telegram's HTML that means only itself.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    text.chars().for_each(|c| push_escaped(&mut out, c));
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '&' => out.push_str("&amp;"),
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '"' => out.push_str("&quot;"),
        _ => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_telegram_has_is_tagged() {
        for (text, expected) in [
            ("plain", "plain"),
            ("a < b & \"c\" > d", "a &lt; b &amp; &quot;c&quot; &gt; d"),
            ("**b** *i* ~~s~~ `c<d`", "<b>b</b> <i>i</i> <s>s</s> <code>c&lt;d</code>"),
            ("***both***", "<i><b>both</b></i>"),
            (
                "```rust\nlet a = 1 < 2;\n```",
                "<pre><code class=\"language-rust\">let a = 1 &lt; 2;</code></pre>",
            ),
            ("```\nx\n```\nafter", "<pre>x</pre>\n\nafter"),
            ("```\"><b>\nx\n```", "<pre>x</pre>"),
            ("> quoted\n> more\n\nafter", "<blockquote>quoted\nmore</blockquote>\n\nafter"),
            ("> a\n> > b", "<blockquote>a\n\nb</blockquote>"),
            (
                "[here](https://a.example/?a=1&b=\"2\")",
                "<a href=\"https://a.example/?a=1&amp;b=&quot;2&quot;\">here</a>",
            ),
            ("[user](tg://user?id=1)", "<a href=\"tg://user?id=1\">user</a>"),
            ("<https://a.example>", "<a href=\"https://a.example\">https://a.example</a>"),
            ("one\ntwo\n\nthree", "one\ntwo\n\nthree"),
        ] {
            assert_eq!(html(text).html, expected, "{text}");
        }
    }

    #[test]
    fn what_it_has_not_reads_the_same() {
        for (text, expected) in [
            ("# Title\ntext", "<b>Title</b>\n\ntext"),
            ("# A **b** c", "<b>A b c</b>"),
            ("- a\n- b\n  - c\n\nend", "• a\n• b\n  • c\n\nend"),
            ("3. a\n4. b", "3. a\n4. b"),
            ("- [x] done\n- [ ] open", "• ☑ done\n• ☐ open"),
            ("| A | B |\n|---|---|\n| 1 | 2 |\n| 3 | `4` |", "<b>A | B</b>\n1 | 2\n3 | <code>4</code>"),
            ("a\n\n---\n\nb", "a\n\n———\n\nb"),
            ("[x](javascript:alert(1))", "x (javascript:alert(1))"),
            ("[x](file:///etc/passwd)", "x (file:///etc/passwd)"),
            ("[x](/local)", "x (/local)"),
            ("![cat](https://a.example/c.png)", "<a href=\"https://a.example/c.png\">🖼 cat</a>"),
            (
                "[![i](https://a.example)](https://b.example)",
                "<a href=\"https://b.example\">🖼 i (https://a.example)</a>",
            ),
            ("<b>raw</b> <script>x</script>", "&lt;b&gt;raw&lt;/b&gt; &lt;script&gt;x&lt;/script&gt;"),
            ("a\u{0}b\u{1b}c", "abc"),
            ("-\n- b", "• \n• b"),
            ("- a\n\n- b\n\n  c", "• a\n• b\nc"),
            ("x\n\n> # T\n> y", "x\n\n<blockquote><b>T</b>\n\ny</blockquote>"),
            ("- ```\n  x\n  ```", "• <pre>x</pre>"),
        ] {
            assert_eq!(html(text).html, expected, "{text}");
        }
    }

    #[test]
    fn the_length_is_what_telegram_counts() {
        for (text, units) in
            [("**𝄞** &", 4), ("# T\nx", 4), ("[a](https://a.example)", 1), ("```\nx\n```", 1)]
        {
            assert_eq!(html(text).units, units, "{text}");
        }
    }

    /// Whether every tag that is opened is closed in the right order, and no other character could be one.
    fn is_balanced(html: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = html;
        while let Some(at) = rest.find(['<', '>']) {
            let Some(end) = rest[at..].find('>').filter(|end| *end > 1) else { return false };
            let tag = &rest[at + 1..at + end];
            let name = tag.split(' ').next().unwrap();
            match name.strip_prefix('/') {
                Some(name) if open.pop() == Some(name) => {}
                Some(_) => return false,
                None if ["b", "i", "s", "code", "pre", "a", "blockquote"].contains(&name) => open.push(name),
                None => return false,
            }
            rest = &rest[at + end + 1..];
        }
        open.is_empty()
    }

    #[test]
    fn hostile_texts_stay_balanced_and_bounded() {
        assert!(is_balanced("<b>x</b>") && !is_balanced("<b>x") && !is_balanced("<b><i>x</b></i>"));
        let pieces = [
            "*",
            "**",
            "_",
            "~~",
            "`",
            "```",
            "\n",
            "\n\n",
            "# ",
            "> ",
            "- ",
            "1. ",
            "[",
            "](",
            "https://a.example",
            ")",
            "![",
            "<b>",
            "</b>",
            "&",
            "<",
            ">",
            "|",
            "|-|-|",
            "word",
            " ",
            "    ",
            "\u{0}",
            "𝄞",
            "<!--",
            "-->",
            "\"",
            "[ ] ",
            "\\",
            "tg:x",
            "<a href=\"x\">",
            "&lt;",
        ];
        let mut seed: u64 = 0x1234_5678_9abc_def1;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            usize::try_from(seed % 1_000_003).unwrap() % below
        };
        for _ in 0..20_000 {
            let text: String = (0..random(40)).map(|_| pieces[random(pieces.len())]).collect();
            let made = html(&text);
            assert!(is_balanced(&made.html), "{text:?}: {:?}", made.html);
            assert!(!made.html.contains("href=\"\"") && !made.html.contains("href=\"javascript"), "{text:?}");
        }
        for piece in ["> ", "- ", "*", "[", "**a", "1. ", "|a", "`", "<b>", "![x]("] {
            let text = piece.repeat(60_000 / piece.len());
            let made = html(&text);
            assert!(
                is_balanced(&made.html) && made.html.len() < 16 * text.len(),
                "{piece:?} {}",
                made.html.len()
            );
        }
        assert_eq!(html(&"<".repeat(MOST_BYTES + 1)).units, MOST_BYTES + 1);
    }
}
