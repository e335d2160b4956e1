//! One spelling for a document, so that two documents that say the same have the same digest: no space, fields
//! sorted by the bytes of their names, strings escaped as the writer escapes them. Numbers keep their text; what
//! is signed this way holds whole numbers only. Pure.

use super::value::Value;

/// The document with the fields of every object in order.
pub fn canonical(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> =
                fields.iter().map(|(name, value)| (name.clone(), canonical(value))).collect();
            fields.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
            Value::Object(fields)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn the_order_of_fields_says_nothing() {
        let spell = |text: &str| canonical(&parse(text.as_bytes()).unwrap()).to_string();
        let one = spell(r#"{ "b": [ {"y":1,"x":"\u00e9"} ], "a": null, "B": true }"#);
        assert_eq!(one, "{\"B\":true,\"a\":null,\"b\":[{\"x\":\"é\",\"y\":1}]}");
        assert_eq!(one, spell("{\"B\":true,\"b\":[{\"x\":\"é\",\"y\":1}],\"a\":null}"));
        assert_ne!(spell("[1,2]"), spell("[2,1]"), "a list has an order");
    }
}
