//! A JSON value for the fakes: enough to read what the product under test sends and to answer it. Written apart from
//! the product's own decoder, so that a mistake in that is seen.

use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        let Json::Object(fields) = self else { return None };
        fields.iter().find(|(field, _)| field == name).map(|(_, value)| value)
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Json::Text(text) => Some(text),
            _ => None,
        }
    }

    /// A whole number, also one that was sent as text, as forms do.
    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        match self.get(name)? {
            Json::Int(number) => Some(*number),
            Json::Text(text) => text.parse().ok(),
            _ => None,
        }
    }

    pub(crate) fn is_true(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Json::Bool(truth)) => *truth,
            Some(Json::Text(text)) => text == "true",
            _ => false,
        }
    }

    pub(crate) fn list(&self, name: &str) -> &[Json] {
        match self.get(name) {
            Some(Json::List(items)) => items,
            _ => &[],
        }
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<Json>) {
        let Json::Object(fields) = self else { return };
        fields.retain(|(field, _)| field != name);
        fields.push((name.to_owned(), value.into()));
    }

    pub(crate) fn parse(text: &str) -> Option<Json> {
        let mut reader = Reader { rest: text.trim_start() };
        let value = reader.value(0)?;
        reader.rest.is_empty().then_some(value)
    }
}

/// An object with these fields.
pub(crate) fn object<const N: usize>(fields: [(&str, Json); N]) -> Json {
    Json::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

impl From<&str> for Json {
    fn from(text: &str) -> Json {
        Json::Text(text.to_owned())
    }
}

impl From<String> for Json {
    fn from(text: String) -> Json {
        Json::Text(text)
    }
}

impl From<i64> for Json {
    fn from(number: i64) -> Json {
        Json::Int(number)
    }
}

impl From<usize> for Json {
    fn from(number: usize) -> Json {
        Json::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<bool> for Json {
    fn from(truth: bool) -> Json {
        Json::Bool(truth)
    }
}

impl From<Vec<Json>> for Json {
    fn from(items: Vec<Json>) -> Json {
        Json::List(items)
    }
}

impl<T: Into<Json>> From<Option<T>> for Json {
    fn from(value: Option<T>) -> Json {
        value.map_or(Json::Null, Into::into)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(truth) => truth.fmt(f),
            Json::Int(number) => number.fmt(f),
            Json::Float(number) => number.fmt(f),
            Json::Text(text) => quoted(f, text),
            Json::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Json::Object(fields) => {
                f.write_str("{")?;
                for (index, (name, value)) in fields.iter().enumerate() {
                    f.write_str(if index > 0 { "," } else { "" })?;
                    quoted(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quoted(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if u32::from(c) < 0x20 => write!(f, "\\u{:04x}", u32::from(c))?,
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

struct Reader<'a> {
    rest: &'a str,
}

impl Reader<'_> {
    /// The text has no white space before it, here and after every step.
    fn eat(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest.trim_start();
        true
    }

    fn value(&mut self, depth: usize) -> Option<Json> {
        if depth > 64 {
            return None;
        }
        for (token, value) in [("null", Json::Null), ("true", Json::Bool(true)), ("false", Json::Bool(false))]
        {
            if self.eat(token) {
                return Some(value);
            }
        }
        match self.rest.chars().next()? {
            '"' => self.string().map(Json::Text),
            '[' => {
                self.eat("[");
                let mut items = Vec::new();
                while !self.eat("]") {
                    if !items.is_empty() && !self.eat(",") {
                        return None;
                    }
                    items.push(self.value(depth + 1)?);
                }
                Some(Json::List(items))
            }
            '{' => {
                self.eat("{");
                let mut fields = Vec::new();
                while !self.eat("}") {
                    if !fields.is_empty() && !self.eat(",") {
                        return None;
                    }
                    let name = self.string()?;
                    if !self.eat(":") {
                        return None;
                    }
                    fields.push((name, self.value(depth + 1)?));
                }
                Some(Json::Object(fields))
            }
            _ => self.number(),
        }
    }

    fn number(&mut self) -> Option<Json> {
        let end = self.rest.find(|c: char| !c.is_ascii_digit() && !"+-.eE".contains(c));
        let (number, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        let whole = number.parse().ok().map(Json::Int);
        let value = whole.or_else(|| number.parse().ok().map(Json::Float))?;
        self.rest = rest.trim_start();
        Some(value)
    }

    fn string(&mut self) -> Option<String> {
        let mut out = String::new();
        let mut rest = self.rest.strip_prefix('"')?.chars();
        loop {
            match rest.next()? {
                '"' => break,
                '\\' => match rest.next()? {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    'b' => out.push('\u{8}'),
                    'f' => out.push('\u{c}'),
                    'u' => {
                        let mut unit =
                            || u16::from_str_radix(&rest.by_ref().take(4).collect::<String>(), 16).ok();
                        let first = unit()?;
                        let mut units = vec![first];
                        if (0xd800..0xdc00).contains(&first) {
                            if (rest.next()?, rest.next()?) != ('\\', 'u') {
                                return None;
                            }
                            let four: String = rest.by_ref().take(4).collect();
                            units.push(u16::from_str_radix(&four, 16).ok()?);
                        }
                        out.push_str(&String::from_utf16(&units).ok()?);
                    }
                    other => out.push(other),
                },
                other => out.push(other),
            }
        }
        self.rest = rest.as_str().trim_start();
        Some(out)
    }
}
