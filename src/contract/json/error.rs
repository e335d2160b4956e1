//! What the JSON gate says when it refuses: where, and why. No text of the refused document is repeated,
//! except the name of a field that a strict payload does not have, escaped and cut. It touches nothing.

use std::fmt;

/// The longest piece of a foreign field name that an error repeats, in characters: enough to find it.
const NAME_SHOWN: usize = 64;

/// Why a document was refused, and at which byte of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonError {
    /// Offset of the offending byte from the start of the document, 0-based. It is the document's length
    /// where the document ends too early, and 0 for a [`Problem::Shape`] or [`Problem::UnknownField`].
    pub offset: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// The reasons for which the gate refuses a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// Longer than the limit, in bytes.
    TooLong(usize),
    /// Nested deeper than the limit, in levels.
    TooDeep(usize),
    /// More values than the limit.
    TooMany(usize),
    /// Not UTF-8.
    NotUtf8,
    /// Starts with a byte order mark.
    ByteOrderMark,
    /// Ends before the value is complete; the text names what was expected.
    Ends(&'static str),
    /// A byte that cannot stand here; the text names what was expected.
    Unexpected(&'static str),
    /// A number that RFC 8259 does not allow, such as `01`, `+1`, `1.` or `.5`.
    BadNumber,
    /// A backslash followed by something other than `"\/bfnrt` or `u` and four hexadecimal digits.
    BadEscape,
    /// Half of a surrogate pair without its other half.
    LoneSurrogate,
    /// A control character inside a string, unescaped.
    RawControl,
    /// The key has already been used in the same object.
    DuplicateKey,
    /// Something follows the value.
    Trailing,
    /// A number too large for a floating point field.
    OutOfRange,
    /// Well-formed, but not of the shape that was asked for; the text says what was expected.
    Shape(String),
    /// A field that a strict payload does not have (escaped and cut).
    UnknownField(String),
}

impl JsonError {
    pub(super) fn new(offset: usize, problem: Problem) -> JsonError {
        JsonError { offset, problem }
    }

    /// A document that is JSON but not what was asked for; `expected` says what that was.
    pub fn shape(expected: impl Into<String>) -> JsonError {
        JsonError::new(0, Problem::Shape(expected.into()))
    }

    pub(super) fn unknown_field(name: &str) -> JsonError {
        let mut shown: String = name.chars().take(NAME_SHOWN).flat_map(char::escape_default).collect();
        if name.chars().nth(NAME_SHOWN).is_some() {
            shown.push('…');
        }
        JsonError::new(0, Problem::UnknownField(shown))
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.offset;
        match &self.problem {
            Problem::TooLong(limit) => {
                write!(f, "the JSON document is longer than {limit} bytes; send less at once")
            }
            Problem::TooDeep(limit) => {
                write!(f, "JSON nested deeper than {limit} levels at byte {at}; flatten it")
            }
            Problem::TooMany(limit) => {
                write!(f, "more than {limit} JSON values at byte {at}; send less at once")
            }
            Problem::NotUtf8 => write!(f, "byte {at} is not UTF-8; JSON is sent as UTF-8"),
            Problem::ByteOrderMark => {
                write!(f, "the JSON document starts with a byte order mark; send it without one")
            }
            Problem::Ends(expected) => write!(f, "the JSON document ends at byte {at}, expected {expected}"),
            Problem::Unexpected(expected) => write!(f, "unexpected byte {at} in JSON, expected {expected}"),
            Problem::BadNumber => {
                write!(f, "byte {at} does not continue a JSON number; write it like -12, 0.5 or 1e9")
            }
            Problem::BadEscape => {
                write!(
                    f,
                    "unknown escape in a JSON string at byte {at}; use \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX"
                )
            }
            Problem::LoneSurrogate => {
                write!(f, "half of a surrogate pair in a JSON string at byte {at}; write both halves")
            }
            Problem::RawControl => {
                write!(f, "raw control character in a JSON string at byte {at}; write it as \\uXXXX")
            }
            Problem::DuplicateKey => {
                write!(f, "the key at byte {at} occurs twice in its JSON object; send it once")
            }
            Problem::Trailing => {
                write!(f, "something follows the JSON value at byte {at}; send exactly one value")
            }
            Problem::OutOfRange => {
                write!(f, "a JSON number is too large to be represented; send a smaller one")
            }
            Problem::Shape(expected) => write!(f, "the JSON document has the wrong shape: {expected}"),
            Problem::UnknownField(name) => {
                write!(f, "unknown field \"{name}\"; remove it or correct its name")
            }
        }
    }
}

impl std::error::Error for JsonError {}
