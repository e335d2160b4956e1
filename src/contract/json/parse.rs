//! The strict reader: RFC 8259 and nothing else, without recursion, within limits that hold before memory
//! is spent. Bytes come in, a [`Value`] or an error goes out. It touches nothing.

use super::error::{JsonError, Problem};
use super::value::Value;

/// How large a document may be. The defaults are what a trust boundary accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest document, in bytes.
    pub bytes: usize,
    /// Deepest nesting of arrays and objects; more than [`Limits::DEEPEST`] counts as that.
    pub depth: usize,
    /// Most values, counting every element, every field's value, and the containers themselves.
    pub values: usize,
}

impl Limits {
    /// Values are printed and dropped by recursion, so no caller may allow more levels than this.
    pub const DEEPEST: usize = 512;
}

impl Default for Limits {
    fn default() -> Limits {
        // 8 MiB holds the largest model request; 200,000 values are about 16 MiB of memory at most beside
        // their text; no honest document of ours nests deeper than a dozen levels.
        Limits { bytes: 8 * 1024 * 1024, depth: 64, values: 200_000 }
    }
}

/// Reads exactly one value within the default [`Limits`].
pub fn parse(document: &[u8]) -> Result<Value, JsonError> {
    parse_within(document, &Limits::default())
}

/// Reads exactly one value within `limits`.
pub fn parse_within(document: &[u8], limits: &Limits) -> Result<Value, JsonError> {
    if document.len() > limits.bytes {
        return Err(JsonError::new(limits.bytes, Problem::TooLong(limits.bytes)));
    }
    if document.starts_with(b"\xef\xbb\xbf") {
        return Err(JsonError::new(0, Problem::ByteOrderMark));
    }
    let text = std::str::from_utf8(document)
        .map_err(|error| JsonError::new(error.valid_up_to(), Problem::NotUtf8))?;
    let mut reader = Reader { text, at: 0, values: 0, limits };
    let value = reader.document()?;
    reader.whitespace();
    match reader.peek() {
        None => Ok(value),
        Some(_) => Err(reader.error(Problem::Trailing)),
    }
}

/// A container that is still open.
enum Open {
    Array(Vec<Value>),
    Object {
        fields: Vec<(String, Value)>,
        /// Where each key starts, for the message about a duplicate one.
        offsets: Vec<usize>,
        /// The key whose value comes next.
        key: String,
    },
}

/// What reading one value's first token gave.
enum Begun {
    Whole(Value),
    Container(Open),
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    values: usize,
    limits: &'a Limits,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Value, JsonError> {
        let mut open: Vec<Open> = Vec::new();
        loop {
            let mut finished = match self.begin(open.len())? {
                Begun::Whole(value) => value,
                Begun::Container(container) => {
                    open.push(container);
                    continue;
                }
            };
            // A finished value goes into the container around it, which may be finished by that too.
            loop {
                match open.pop() {
                    None => return Ok(finished),
                    Some(Open::Array(mut items)) => {
                        items.push(finished);
                        self.whitespace();
                        match self.take() {
                            Some(b',') => {
                                open.push(Open::Array(items));
                                break;
                            }
                            Some(b']') => finished = Value::Array(items),
                            other => return Err(self.wrong(other, "a comma or the end of the array")),
                        }
                    }
                    Some(Open::Object { mut fields, mut offsets, key }) => {
                        fields.push((key, finished));
                        self.whitespace();
                        match self.take() {
                            Some(b',') => {
                                self.whitespace();
                                let key = self.key(&mut offsets)?;
                                open.push(Open::Object { fields, offsets, key });
                                break;
                            }
                            Some(b'}') => {
                                refuse_duplicates(&fields, &offsets)?;
                                finished = Value::Object(fields);
                            }
                            other => return Err(self.wrong(other, "a comma or the end of the object")),
                        }
                    }
                }
            }
        }
    }

    /// Reads a scalar, an empty container, or the opening of one up to its first value.
    fn begin(&mut self, depth: usize) -> Result<Begun, JsonError> {
        self.whitespace();
        let start = self.at;
        self.values += 1;
        if self.values > self.limits.values {
            return Err(self.error(Problem::TooMany(self.limits.values)));
        }
        let value = match self.take() {
            Some(b'{') => {
                self.check_depth(start, depth)?;
                self.whitespace();
                if self.peek() != Some(b'}') {
                    let mut offsets = Vec::new();
                    let key = self.key(&mut offsets)?;
                    return Ok(Begun::Container(Open::Object { fields: Vec::new(), offsets, key }));
                }
                self.at += 1;
                Value::Object(Vec::new())
            }
            Some(b'[') => {
                self.check_depth(start, depth)?;
                self.whitespace();
                if self.peek() != Some(b']') {
                    return Ok(Begun::Container(Open::Array(Vec::new())));
                }
                self.at += 1;
                Value::Array(Vec::new())
            }
            Some(b'"') => Value::String(self.string()?),
            Some(b'n') => self.word(start, "null", Value::Null)?,
            Some(b't') => self.word(start, "true", Value::Bool(true))?,
            Some(b'f') => self.word(start, "false", Value::Bool(false))?,
            Some(b'-' | b'0'..=b'9') => self.number(start)?,
            other => return Err(self.wrong(other, "a value")),
        };
        Ok(Begun::Whole(value))
    }

    fn check_depth(&self, start: usize, depth: usize) -> Result<(), JsonError> {
        let limit = self.limits.depth.min(Limits::DEEPEST);
        if depth < limit { Ok(()) } else { Err(JsonError::new(start, Problem::TooDeep(limit))) }
    }

    /// Reads a key and its colon; remembers where the key starts.
    fn key(&mut self, offsets: &mut Vec<usize>) -> Result<String, JsonError> {
        offsets.push(self.at);
        match self.take() {
            Some(b'"') => {}
            other => return Err(self.wrong(other, "a key in double quotes")),
        }
        let key = self.string()?;
        self.whitespace();
        match self.take() {
            Some(b':') => Ok(key),
            other => Err(self.wrong(other, "a colon")),
        }
    }

    fn word(&mut self, start: usize, word: &'static str, value: Value) -> Result<Value, JsonError> {
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let same = rest.iter().zip(word.as_bytes()).take_while(|(a, b)| a == b).count();
        self.at = start + same;
        if same == word.len() {
            Ok(value)
        } else if same == rest.len() {
            Err(self.error(Problem::Ends(word)))
        } else {
            Err(self.error(Problem::Unexpected(word)))
        }
    }

    fn number(&mut self, start: usize) -> Result<Value, JsonError> {
        self.at = start;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        // `01`, `1x` and `1.2.3` are refused here, and not as a missing comma.
        if let Some(b'0'..=b'9' | b'.' | b'+' | b'-' | b'a'..=b'z' | b'A'..=b'Z' | b'_') = self.peek() {
            return Err(self.error(Problem::BadNumber));
        }
        Ok(Value::Number(self.since(start).to_owned()))
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'0'..=b'9') => {}
            Some(_) => return Err(self.error(Problem::BadNumber)),
            None => return Err(self.error(Problem::Ends("a digit"))),
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    /// Reads the rest of a string whose opening quote has been taken.
    fn string(&mut self) -> Result<String, JsonError> {
        let mut out = String::new();
        loop {
            let start = self.at;
            while let Some(byte) = self.peek() {
                if byte == b'"' || byte == b'\\' || byte < 0x20 {
                    break;
                }
                self.at += 1;
            }
            out.push_str(self.since(start));
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(out);
                }
                Some(b'\\') => out.push(self.escape()?),
                Some(_) => return Err(self.error(Problem::RawControl)),
                None => return Err(self.error(Problem::Ends("the closing quote of a string"))),
            }
        }
    }

    /// Reads one escape, a whole surrogate pair where it is one.
    fn escape(&mut self) -> Result<char, JsonError> {
        let start = self.at;
        self.at += 1;
        let plain = match self.take() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => return self.unicode_escape(start),
            Some(_) => return Err(JsonError::new(start, Problem::BadEscape)),
            None => return Err(self.error(Problem::Ends("the rest of an escape"))),
        };
        Ok(plain)
    }

    fn unicode_escape(&mut self, start: usize) -> Result<char, JsonError> {
        let lone = JsonError::new(start, Problem::LoneSurrogate);
        let first = self.four_digits(start)?;
        let code = match first {
            0xd800..=0xdbff => {
                let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
                if !rest.starts_with(b"\\u") {
                    return Err(lone);
                }
                let second_start = self.at;
                self.at += 2;
                let second = self.four_digits(second_start)?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(lone);
                }
                0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            _ => first,
        };
        char::from_u32(code).ok_or(lone)
    }

    fn four_digits(&mut self, start: usize) -> Result<u32, JsonError> {
        let mut code = 0;
        for _ in 0..4 {
            let byte = self.take().ok_or_else(|| self.error(Problem::Ends("four hexadecimal digits")))?;
            let digit = char::from(byte).to_digit(16).ok_or(JsonError::new(start, Problem::BadEscape))?;
            code = code * 16 + digit;
        }
        Ok(code)
    }

    fn whitespace(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    /// The text from `start` up to here. Both ends always lie beside an ASCII byte.
    fn since(&self, start: usize) -> &str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn error(&self, problem: Problem) -> JsonError {
        JsonError::new(self.at, problem)
    }

    /// The error for a token that has been taken (or the end, where there was none).
    fn wrong(&self, token: Option<u8>, expected: &'static str) -> JsonError {
        match token {
            Some(_) => JsonError::new(self.at - 1, Problem::Unexpected(expected)),
            None => self.error(Problem::Ends(expected)),
        }
    }
}

/// Small objects are compared pairwise; larger ones are sorted, so that a hostile one costs n log n.
fn refuse_duplicates(fields: &[(String, Value)], offsets: &[usize]) -> Result<(), JsonError> {
    const SMALL: usize = 8;
    let duplicate = if fields.len() <= SMALL {
        fields
            .iter()
            .zip(offsets)
            .enumerate()
            .find(|(index, ((key, _), _))| fields.iter().take(*index).any(|(earlier, _)| earlier == key))
            .map(|(_, (_, offset))| *offset)
    } else {
        let mut keys: Vec<(&str, usize)> =
            fields.iter().zip(offsets).map(|((key, _), offset)| (key.as_str(), *offset)).collect();
        keys.sort_unstable();
        keys.iter()
            .zip(keys.iter().skip(1))
            .filter(|((one, _), (other, _))| one == other)
            .map(|(_, (_, offset))| *offset)
            .min()
    };
    match duplicate {
        Some(offset) => Err(JsonError::new(offset, Problem::DuplicateKey)),
        None => Ok(()),
    }
}
