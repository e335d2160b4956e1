//! Plain structs in and out: the derive macros of `nanoserde`, kept behind the gate. The derive would hang,
//! panic or overflow its stack on raw hostile input and accepts what is not JSON, so it only ever sees text
//! that this module wrote from a parsed [`Value`](super::Value). It touches nothing.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nanoserde::{DeJson, SerJson};

use super::error::{JsonError, Problem};
use super::{parse, write};

/// Reads a `T` from exactly one JSON value within the default limits. Unknown fields are ignored; where they
/// must not be, read a [`Value`](super::Value) and ask [`only_fields`](super::only_fields).
pub fn decode<T: DeJson>(document: &[u8]) -> Result<T, JsonError> {
    let value = parse(document)?;
    let mut text = String::with_capacity(document.len());
    write::write(&mut text, &value, &plain_number).map_err(|_| JsonError::new(0, Problem::OutOfRange))?;
    let read = catch_unwind(AssertUnwindSafe(|| T::deserialize_json(&text)));
    match read {
        Ok(Ok(decoded)) => Ok(decoded),
        Ok(Err(error)) => Err(JsonError::shape(reason(&error))),
        Err(_) => Err(JsonError::shape("it cannot be read into the expected fields")),
    }
}

/// Writes `value` as JSON, and refuses what the derive gets wrong (a number that is not finite, a trailing
/// `None` in an enum's struct variant).
pub fn encode<T: SerJson>(value: &T) -> Result<String, JsonError> {
    let text = value.serialize_json();
    parse(text.as_bytes())?;
    Ok(text)
}

/// Writes a number in the part of JSON's grammar that the derive reads: no plus sign, no capital E, and no
/// whole number outside 64 bits (as a fraction it fits a floating point field and no integer one).
fn plain_number(out: &mut String, text: &str) -> std::fmt::Result {
    let whole = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if whole {
        out.write_str(text)?;
        if text.parse::<u64>().is_err() && text.parse::<i64>().is_err() {
            finite(text)?;
            out.write_str(".0")?;
        }
        return Ok(());
    }
    finite(text)?;
    for character in text.chars().filter(|character| *character != '+') {
        out.write_char(character)?;
    }
    Ok(())
}

/// The derive would read `1e400` as infinity, which nothing behind it expects.
fn finite(text: &str) -> std::fmt::Result {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(()),
        _ => Err(std::fmt::Error),
    }
}

/// What the derive expected, without the document's own text.
fn reason(error: &nanoserde::DeJsonErr) -> String {
    use nanoserde::DeJsonErrReason as Reason;
    match &error.msg {
        Reason::MissingKey(name) => format!("the field \"{name}\" is missing"),
        Reason::UnexpectedToken(_, expected) => format!("expected {expected}"),
        Reason::OutOfRange(_) => "a number is out of range".to_owned(),
        Reason::WrongType(_) => "a field has the wrong type".to_owned(),
        Reason::NoSuchEnum(_) => "a choice is not one of those known".to_owned(),
        _ => "it cannot be read into the expected fields".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, DeJson, SerJson)]
    struct Plain {
        text: String,
        count: Option<u64>,
        ratio: Option<f64>,
    }

    #[derive(DeJson)]
    struct Nested {
        _inner: Option<Box<Nested>>,
    }

    #[derive(SerJson)]
    enum Broken {
        Variant { first: u64, second: Option<u64> },
    }

    fn plain(document: &str) -> Result<Plain, JsonError> {
        decode(document.as_bytes())
    }

    #[test]
    fn plain_structs_are_read() {
        let read =
            plain(r#" {"text":"a\u00e9\"\u0000😀","count":18446744073709551615,"ratio":1E+5,"z":[{}]} "#)
                .unwrap();
        assert_eq!(read, Plain { text: "aé\"\0😀".into(), count: Some(u64::MAX), ratio: Some(1e5) });
        let bare = plain(r#"{"text":"","count":null}"#).unwrap();
        assert_eq!(bare, Plain { text: String::new(), count: None, ratio: None });
    }

    #[test]
    fn legal_numbers_that_the_derive_cannot_read_do_not_matter_in_unknown_fields() {
        assert!(plain(r#"{"text":"","z":1e+5,"y":99999999999999999999,"x":-99999999999999999999}"#).is_ok());
        assert_eq!(plain(r#"{"text":"","ratio":99999999999999999999}"#).unwrap().ratio, Some(1e20));
        assert!(plain(r#"{"text":"","count":99999999999999999999}"#).is_err());
        assert!(plain(r#"{"text":"","count":1.0}"#).is_err());
        assert!(plain(r#"{"text":"","ratio":1e400}"#).is_err());
    }

    #[test]
    fn each_defect_of_the_derive_is_out_of_reach() {
        for hostile in [
            r#"{"zz":{"#,
            r#"{"zz":[1,2"#,
            r#"{"zz":}"#,
            r#"{"zz":,"text":"a"}"#,
            r#"{"text":"a",}"#,
            r#"{"text":"a"} // x"#,
            r#"{/* x */"text":"a"}"#,
            r#"{"text":"\q"}"#,
            "{\"text\":\"\n\"}",
            "{\"text\":\"a\"}\0",
            r#"{"text":"a"} {}"#,
            r#"{"text":"a","text":"b"}"#,
            r#"{"text":"a","count":+1}"#,
            r#"{"text":"a","count":01}"#,
        ] {
            assert!(plain(hostile).is_err(), "{hostile}");
        }
        let deep = [r#"{"_inner":"#.repeat(1_000_000), "null".into(), "}".repeat(1_000_000)].concat();
        assert!(matches!(
            decode::<Nested>(deep.as_bytes()),
            Err(JsonError { problem: Problem::TooDeep(64) | Problem::TooLong(_), .. })
        ));
    }

    #[test]
    fn errors_name_the_field_and_repeat_no_content() {
        assert_eq!(
            plain(r#"{"count":1}"#).unwrap_err().to_string(),
            "the JSON document has the wrong shape: the field \"text\" is missing"
        );
        let text = plain(r#"{"text":"a","count":"hunter2"}"#).unwrap_err().to_string();
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn what_is_written_is_json() {
        let value = Plain { text: "a\"\n".into(), count: None, ratio: Some(0.5) };
        assert_eq!(decode::<Plain>(encode(&value).unwrap().as_bytes()).unwrap(), value);
        assert!(encode(&Plain { text: String::new(), count: None, ratio: Some(f64::NAN) }).is_err());
        assert!(encode(&Broken::Variant { first: 1, second: None }).is_err());
        assert!(encode(&Broken::Variant { first: 1, second: Some(2) }).is_ok());
    }
}
