//! Takes credentials out of what an upstream answers, piece by piece: an echo of one must not reach a sandbox, and may
//! lie across two pieces. Pure.

/// What stands in the place of a credential.
const REDACTED: &[u8] = b"[redacted]";
/// What is shorter is not looked for: it would be found in words.
pub(super) const LEAST: usize = 8;

/// The filter of one answer.
#[derive(Debug)]
pub(super) struct Redactor {
    secrets: Vec<Vec<u8>>,
    /// The end of what came, which may be the beginning of a secret.
    held: Vec<u8>,
}

impl Redactor {
    /// For these secrets.
    pub(super) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut secrets: Vec<Vec<u8>> = secrets
            .into_iter()
            .filter(|secret| secret.len() >= LEAST)
            .map(|secret| secret.as_bytes().to_vec())
            .collect();
        // One that holds another is looked for first.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        Self { secrets, held: Vec::new() }
    }

    /// What of this piece, and of what was held back before it, can go on.
    pub(super) fn pass(&mut self, piece: &[u8]) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.held);
        bytes.extend_from_slice(piece);
        let mut out = Vec::with_capacity(bytes.len());
        let mut rest = bytes.as_slice();
        while let Some((at, length)) = self.first(rest) {
            out.extend_from_slice(rest.get(..at).unwrap_or_default());
            out.extend_from_slice(REDACTED);
            rest = rest.get(at + length..).unwrap_or_default();
        }
        let keep = self.secrets.iter().map(|secret| begun(rest, secret)).max().unwrap_or_default();
        let (go, keep) = rest.split_at(rest.len() - keep);
        out.extend_from_slice(go);
        self.held = keep.to_vec();
        out
    }

    /// What was held back, when nothing more comes.
    pub(super) fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// The first secret in these bytes, and the longest of those that begin there.
    fn first(&self, bytes: &[u8]) -> Option<(usize, usize)> {
        let found = self.secrets.iter().filter_map(|secret| {
            let at = bytes.windows(secret.len()).position(|window| window == secret)?;
            Some((at, secret.len()))
        });
        found.min_by_key(|(at, length)| (*at, std::cmp::Reverse(*length)))
    }
}

/// How many of the last bytes are the beginning of `secret`, all of it excepted.
pub(super) fn begun(bytes: &[u8], secret: &[u8]) -> usize {
    let most = bytes.len().min(secret.len().saturating_sub(1));
    (1..=most).rev().find(|length| bytes.ends_with(secret.get(..*length).unwrap_or_default())).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(secrets: &[&str], text: &str, cut: usize) -> String {
        let mut redactor = Redactor::new(secrets.iter().copied());
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(cut) {
            out.extend(redactor.pass(piece));
        }
        out.extend(redactor.rest());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_secret_is_taken_out_wherever_the_pieces_end() {
        let secrets = ["sk-abcabcabd-1", "sk-abcabcabd-1-longer"];
        let text = "x sk-abcabcabd-1 y sk-abcabcabcabd-1sk-abcabcabd-1-longer sk-abcabcab";
        let expected = "x [redacted] y sk-abcabcabcabd-1[redacted] sk-abcabcab";
        for cut in 1..=text.len() {
            let out = through(&secrets, text, cut);
            assert!(!out.contains("sk-abcabcabd-1"), "{cut}: {out}");
            // Of a longer one whose beginning is another one, the rest may have come too late.
            assert_eq!(out.replace("[redacted]-longer", "[redacted]"), expected, "{cut}");
        }
    }

    #[test]
    fn what_is_no_secret_is_not_delayed() {
        let mut redactor = Redactor::new(["secret-of-ann"]);
        assert_eq!(redactor.pass(b"data: hello\n\n"), b"data: hello\n\n");
        assert_eq!(redactor.pass(b"data: sec"), b"data: ");
        assert_eq!(redactor.pass(b"ond\n\n"), b"second\n\n");
        assert_eq!(redactor.rest(), b"");
        assert_eq!(through(&["short"], "short", 1), "short");
        assert_eq!(through(&[], "anything", 3), "anything");
    }
}
