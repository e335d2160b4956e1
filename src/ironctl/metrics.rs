//! `ctl metrics`: what the control plane counts, as Prometheus reads it or as one object. Touches the network and the
//! terminal.

use std::io::{self, Write};

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::Client;
use crate::contract::json::Value;

/// What the control plane counts, as Prometheus text.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "metrics")]
pub(super) struct Metrics {
    /// print JSON: numbers by name, or by label where there are several
    #[argh(switch)]
    json: bool,
}

/// `ctl metrics`
pub(super) fn run(client: &Client, words: &Metrics) -> Result<(), Failure> {
    let text = client.get_text("/metrics")?;
    let mut out = io::stdout().lock();
    if words.json {
        writeln!(out, "{}", object(&text)?)?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// `{"name": number}`, and `{"name": {"label=\"value\"": number}}` where a metric has labels.
fn object(text: &str) -> Result<Value, Failure> {
    let wrong = || Failure::of("the metrics are not as Prometheus reads them; check --addr");
    let mut fields: Vec<(String, Value)> = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, number) = line.rsplit_once(' ').ok_or_else(wrong)?;
        let number = number_of(number).ok_or_else(wrong)?;
        let Some((name, labels)) = name.split_once('{') else {
            fields.push((name.to_owned(), number));
            continue;
        };
        let labels = labels.strip_suffix('}').ok_or_else(wrong)?.to_owned();
        match fields.last_mut() {
            Some((last, Value::Object(several))) if last == name => several.push((labels, number)),
            _ => fields.push((name.to_owned(), Value::Object(vec![(labels, number)]))),
        }
    }
    Ok(Value::Object(fields))
}

/// A number as JSON writes it.
fn number_of(text: &str) -> Option<Value> {
    let is_number = text.parse::<f64>().is_ok_and(f64::is_finite);
    is_number.then(|| crate::contract::json::parse(text.as_bytes()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_a_field_and_its_labels_are_fields_of_it() {
        let text =
            "# HELP a x\n# TYPE a counter\na 3\nb{reason=\"idle\"} 1\nb{reason=\"died\"} 2\nc_sum 0.25\n";
        let expected = r#"{"a":3,"b":{"reason=\"idle\"":1,"reason=\"died\"":2},"c_sum":0.25}"#;
        assert_eq!(object(text).unwrap().to_string(), expected);
        for bad in ["a\n", "a x\n", "a{ 1\n", "a NaN\n"] {
            assert!(object(bad).is_err(), "{bad}");
        }
    }
}
