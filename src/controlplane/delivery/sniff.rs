//! What a file is, by its bytes and never by what it is called, and a name that a stranger gave made safe to store,
//! to send on and to show. Pure.

/// What is known of a file whose content says nothing.
pub const UNKNOWN: &str = "application/octet-stream";

/// How much of a file its kind is told from, in bytes.
pub const LOOKED_AT: usize = 8 * 1024;

/// The longest name, in bytes.
pub const MOST_NAME_BYTES: usize = 120;

/// The longest extension that survives the shortening of a name, with its dot, in bytes.
const MOST_EXTENSION_BYTES: usize = 16;

/// Kinds by the bytes at an offset. What a browser would run as a page or a program is not among them: it is text.
const MAGIC: &[(usize, &[u8], &str)] = &[
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (8, b"WAVE", "audio/wav"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"PK\x05\x06", "application/zip"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
];

/// The MIME type of a file, from its first bytes ([`LOOKED_AT`] are enough). Text of any kind is `text/plain`, also
/// JSON, HTML and SVG; what is not known is [`UNKNOWN`].
pub fn mime(content: &[u8]) -> &'static str {
    let start = content.get(..LOOKED_AT).unwrap_or(content);
    let holds = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(magic));
    for (at, magic, kind) in MAGIC {
        // The two that stand at 8 are kinds of RIFF.
        if holds(*at, magic) && (*at == 0 || holds(0, b"RIFF")) {
            return kind;
        }
    }
    if holds(4, b"ftyp") {
        return match start.get(8..12) {
            Some(b"M4A " | b"M4B ") => "audio/mp4",
            Some(
                b"isom" | b"iso2" | b"iso4" | b"iso5" | b"iso6" | b"avc1" | b"mp41" | b"mp42" | b"dash"
                | b"M4V " | b"MSNV",
            ) => "video/mp4",
            _ => UNKNOWN,
        };
    }
    // Matroska begins the same way; only what names itself webm is that.
    if holds(0, b"\x1a\x45\xdf\xa3") {
        let head = start.get(..64).unwrap_or(start);
        return if head.windows(4).any(|window| window == b"webm") { "video/webm" } else { UNKNOWN };
    }
    if is_mpeg_audio(start) {
        return "audio/mpeg";
    }
    if is_text(start, start.len() < content.len()) { "text/plain" } else { UNKNOWN }
}

/// A frame of MPEG audio, layer III: eleven set bits, then a version, a bit rate and a sample rate that exist.
fn is_mpeg_audio(start: &[u8]) -> bool {
    matches!(start, [0xff, second, third, ..]
        if second & 0xe6 == 0xe2 && second & 0x18 != 0x08 && third & 0xf0 != 0xf0 && third & 0x0c != 0x0c)
}

/// UTF-8 without control characters other than those of lines. The end may be in the middle of a character.
fn is_text(start: &[u8], is_cut: bool) -> bool {
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if is_cut && error.error_len().is_none() => {
            start.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok()).unwrap_or("")
        }
        Err(_) => return false,
    };
    !text.is_empty()
        && text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t' | '\x0c' | '\x1b'))
}

/// A file name from a stranger as a plain one: the last part of a path, without what a terminal, a shell or another
/// system would take for something else. At most [`MOST_NAME_BYTES`], with the extension kept; never empty.
pub fn safe_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).find(|part| !part.trim().is_empty()).unwrap_or("");
    let mut safe = String::new();
    for c in last.chars().take(4 * MOST_NAME_BYTES) {
        if c.is_whitespace() {
            if !safe.ends_with(' ') {
                safe.push(' ');
            }
        } else if "<>:\"|?*`$;&%".contains(c) {
            safe.push('_');
        } else if !deceives(c) {
            safe.push(c);
        }
    }
    // A leading dot hides a file, a leading dash makes it an option, and some systems drop dots at the end.
    let safe = safe.trim_start_matches(['.', ' ', '-', '~']).trim_end_matches(['.', ' ']);
    let mut safe = shortened(safe);
    if is_reserved(&safe) {
        safe.insert(0, '_');
    }
    if safe.is_empty() { "file".to_owned() } else { safe }
}

fn shortened(name: &str) -> String {
    // One byte is left for what may be put before a reserved name.
    const MOST: usize = MOST_NAME_BYTES - 1;
    if name.len() <= MOST {
        return name.to_owned();
    }
    let (stem, extension) = match name.rfind('.').map(|dot| name.split_at(dot)) {
        Some((stem, extension)) if extension.len() <= MOST_EXTENSION_BYTES => (stem, extension),
        _ => (name, ""),
    };
    let most = MOST - extension.len();
    let end = (0..=most.min(stem.len())).rev().find(|end| stem.is_char_boundary(*end)).unwrap_or(0);
    let stem = stem.get(..end).unwrap_or("").trim_end_matches(['.', ' ']);
    format!("{stem}{extension}")
}

/// Names that are devices on some systems, with any extension.
fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or("").trim_end().to_ascii_lowercase();
    let numbered =
        |prefix: &str| stem.strip_prefix(prefix).is_some_and(|rest| matches!(rest.as_bytes(), [b'0'..=b'9']));
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul" | "conin$" | "conout$")
        || numbered("com")
        || numbered("lpt")
}

/// Controls, marks of direction and characters without a shape.
fn deceives(c: char) -> bool {
    crate::contract::plain::line(c.encode_utf8(&mut [0; 4])).len() != c.len_utf8()
        || matches!(c, '\u{fffd}' | '\u{e000}'..='\u{f8ff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_bytes_say() {
        let cases: &[(&[u8], &str)] = &[
            (b"\x89PNG\r\n\x1a\n....", "image/png"),
            (b"\xff\xd8\xff\xe0..JFIF", "image/jpeg"),
            (b"GIF89a...", "image/gif"),
            (b"RIFF....WEBPVP8 ", "image/webp"),
            (b"RIFF....WAVEfmt ", "audio/wav"),
            (b"RIFF....AVI ", "text/plain"),
            (b"12345678WEBP", "text/plain"),
            (b"%PDF-1.7\n", "application/pdf"),
            (b"PK\x03\x04....", "application/zip"),
            (b"OggS\0\x02", "audio/ogg"),
            (b"ID3\x04", "audio/mpeg"),
            (b"\xff\xfb\x90\x64", "audio/mpeg"),
            (b"\xff\xf3\x90\x64", "audio/mpeg"),
            (b"\xff\xf1\x50\x80", UNKNOWN),
            (b"\xff\xff\xff\xff", UNKNOWN),
            (b"\0\0\0\x20ftypisom\0\0", "video/mp4"),
            (b"\0\0\0\x20ftypM4A \0\0", "audio/mp4"),
            (b"\0\0\0\x20ftypheic\0\0", UNKNOWN),
            (b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x1f\x42\x82\x84webm", "video/webm"),
            (b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x1f\x42\x82\x88matroska", UNKNOWN),
            (b"{\"a\": 1}", "text/plain"),
            (b"<!DOCTYPE html><script>alert(1)</script>", "text/plain"),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\" onload=\"x()\"/>", "text/plain"),
            ("Grüße\n".as_bytes(), "text/plain"),
            (b"\x7fELF\x02\x01\x01\0", UNKNOWN),
            (b"#!/bin/sh\n", "text/plain"),
            (b"a\0b", UNKNOWN),
            (b"\xc3", UNKNOWN),
            (b"", UNKNOWN),
        ];
        for (content, kind) in cases {
            assert_eq!(mime(content), *kind, "{:?}", content.escape_ascii().to_string());
        }
        let long = format!("a{}", "é".repeat(LOOKED_AT));
        assert_eq!(mime(long.as_bytes()), "text/plain", "cut in the middle of a character");
    }

    #[test]
    fn a_name_is_only_a_name() {
        for (name, safe) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Windows\\system32\\cmd.exe", "cmd.exe"),
            ("a/b/", "b"),
            (".bashrc", "bashrc"),
            ("...", "file"),
            ("", "file"),
            ("///", "file"),
            ("--rf", "rf"),
            ("invoice\u{202e}fdp.exe", "invoicefdp.exe"),
            ("a\0b\nc\x1b[31m.txt", "ab c[31m.txt"),
            ("CON", "_CON"),
            ("nul.txt", "_nul.txt"),
            ("com1 .log", "_com1 .log"),
            ("com10.log", "com10.log"),
            ("what?*<x>|\"$(id)`.txt", "what___x____(id)_.txt"),
            ("two  spaces. ", "two spaces"),
            ("Überweisung 猫.png", "Überweisung 猫.png"),
        ] {
            assert_eq!(safe_name(name), safe, "{name:?}");
        }
    }

    #[test]
    fn a_long_name_keeps_its_extension() {
        let safe = safe_name(&format!("{}.tar.gz", "猫".repeat(100)));
        assert!(safe.len() <= MOST_NAME_BYTES && safe.ends_with(".gz"), "{safe}");
        let safe = safe_name(&format!("x.{}", "y".repeat(500)));
        assert!(safe.len() <= MOST_NAME_BYTES && safe.starts_with("x.yyy"), "{safe}");
        assert!(!safe_name(&".".repeat(10_000_000)).is_empty());
    }
}
