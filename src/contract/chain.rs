//! The audit chain as lines: each is one JSON object that carries its number and the hash of the line before it;
//! a line's hash is SHA-256 of its bytes without the newline. Whoever has the file can check that nothing was
//! changed, taken out or put in between its first line and its last. Pure.

use ring::digest::{SHA256, digest};

use super::json::{self, Value};

/// What stands before the first line.
pub const START: [u8; 32] = [0; 32];

/// A line's hash.
pub fn hash(line: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, line.as_bytes()).as_ref());
    hash
}

/// A hash as text.
pub fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a line says of its place in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 1.
    pub seq: u64,
    /// The hash of the line before it, as text.
    pub previous: String,
}

/// Reads a line's place; `None` when it is no line of a chain.
pub fn place(line: &str) -> Option<Place> {
    let value: Value = json::parse(line.as_bytes()).ok()?;
    Some(Place {
        seq: value.get("seq")?.as_u64().filter(|seq| *seq > 0)?,
        previous: value.get("previous")?.as_str().filter(|text| text.len() == 64)?.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_place() {
        let start = hex(&START);
        let line = format!(r#"{{"seq":1,"act":"x","previous":"{start}"}}"#);
        assert_eq!(place(&line), Some(Place { seq: 1, previous: start }));
        for bad in
            ["", "{}", "[]", r#"{"seq":0,"previous":""}"#, r#"{"seq":1,"previous":"00"}"#, "{\"seq\":1"]
        {
            assert_eq!(place(bad), None, "{bad}");
        }
        assert_eq!(hex(&hash("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
