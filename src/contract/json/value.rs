//! A JSON document in memory, as the gate gives it and the writer takes it, with the accessors its readers
//! use. Numbers keep the text they came with, so nothing is rounded on the way through. It touches nothing.

use super::error::JsonError;

/// Any JSON value. Objects keep the order of their fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as the text RFC 8259 allows for it.
    Number(String),
    /// A string, unescaped.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// Fields in the order they came; the gate never gives the same key twice.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// An object with these fields, in this order. The caller gives each key once.
    pub fn object<K: Into<String>>(fields: impl IntoIterator<Item = (K, Value)>) -> Value {
        Value::Object(fields.into_iter().map(|(key, value)| (key.into(), value)).collect())
    }

    /// The field of that name, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The text, if this is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The number, if this is one written as a whole number from 0 to 2^64-1 (`1.0` and `1e2` are not).
    pub fn as_u64(&self) -> Option<u64> {
        self.number()?.parse().ok()
    }

    /// The number, if this is one written as a whole number that fits (`1.0` and `1e2` are not).
    pub fn as_i64(&self) -> Option<i64> {
        self.number()?.parse().ok()
    }

    /// The nearest floating point number, if this is a number and not beyond the largest one.
    pub fn as_f64(&self) -> Option<f64> {
        self.number()?.parse().ok().filter(|number: &f64| number.is_finite())
    }

    /// The truth value, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(truth) => Some(*truth),
            _ => None,
        }
    }

    /// The elements, if this is a list.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The fields, if this is an object.
    pub fn as_object(&self) -> Option<&[(String, Value)]> {
        match self {
            Value::Object(fields) => Some(fields),
            _ => None,
        }
    }

    /// Whether this is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    fn number(&self) -> Option<&str> {
        match self {
            Value::Number(text) => Some(text),
            _ => None,
        }
    }
}

/// Checks that a strict payload is an object and has no field beside the `known` ones: what changes a
/// capability must not carry anything that its reader would overlook.
pub fn only_fields(value: &Value, known: &[&str]) -> Result<(), JsonError> {
    let fields = value.as_object().ok_or_else(|| JsonError::shape("expected an object"))?;
    match fields.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        Some((name, _)) => Err(JsonError::unknown_field(name)),
        None => Ok(()),
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text)
    }
}

impl From<bool> for Value {
    fn from(truth: bool) -> Value {
        Value::Bool(truth)
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Value {
        Value::Number(number.to_string())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Value {
        Value::Number(number.to_string())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Value {
        Value::Number(number.to_string())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Value {
        Value::Number(number.to_string())
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Value {
        Value::Array(items)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(perhaps: Option<T>) -> Value {
        perhaps.map_or(Value::Null, Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::json::parse;

    #[test]
    fn accessors_take_only_their_own_kind() {
        let value =
            parse(br#"{"u":18446744073709551615,"i":-5,"f":1.5,"s":"x","b":true,"a":[1],"n":null}"#).unwrap();
        assert_eq!(value.get("u").and_then(Value::as_u64), Some(u64::MAX));
        assert_eq!(value.get("u").and_then(Value::as_i64), None);
        assert_eq!(value.get("i").and_then(Value::as_i64), Some(-5));
        assert_eq!(value.get("i").and_then(Value::as_u64), None);
        assert_eq!(value.get("f").and_then(Value::as_f64), Some(1.5));
        assert_eq!(value.get("f").and_then(Value::as_i64), None);
        assert_eq!(value.get("s").and_then(Value::as_str), Some("x"));
        assert_eq!(value.get("s").and_then(Value::as_u64), None);
        assert_eq!(value.get("b").and_then(Value::as_bool), Some(true));
        assert_eq!(value.get("a").and_then(Value::as_array).map(<[_]>::len), Some(1));
        assert!(value.get("n").is_some_and(Value::is_null));
        assert_eq!(value.get("missing"), None);
        assert_eq!(Value::Null.get("x"), None);
    }

    #[test]
    fn numbers_beyond_floating_point_are_no_number() {
        assert_eq!(parse(b"1e400").unwrap().as_f64(), None);
        assert_eq!(parse(b"-1e400").unwrap().as_f64(), None);
        assert_eq!(parse(b"1e+5").unwrap().as_f64(), Some(1e5));
    }

    #[test]
    fn strict_payloads_name_the_field_they_do_not_know() {
        let value = parse(br#"{"kind":"x","extra":1}"#).unwrap();
        assert_eq!(only_fields(&value, &["kind", "extra"]), Ok(()));
        let refused = only_fields(&value, &["kind"]).unwrap_err();
        assert_eq!(refused.to_string(), "unknown field \"extra\"; remove it or correct its name");
        assert!(only_fields(&Value::Null, &[]).is_err());
        let hostile = Value::object([("\u{202e}\u{1b}[2J".repeat(99), Value::Null)]);
        let text = only_fields(&hostile, &[]).unwrap_err().to_string();
        assert!(text.is_ascii() || text.contains('…'));
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}') && text.len() < 1000);
    }

    #[test]
    fn values_are_built_from_plain_ones() {
        let built = Value::object([
            ("s", "x".into()),
            ("n", 7u64.into()),
            ("i", (-7i64).into()),
            ("none", None::<&str>.into()),
            ("some", Some(true).into()),
            ("list", vec![1u64.into(), Value::Null].into()),
        ]);
        assert_eq!(built.to_string(), r#"{"s":"x","n":7,"i":-7,"none":null,"some":true,"list":[1,null]}"#);
    }
}
