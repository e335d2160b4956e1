//! Writes down calls of models: one record of the audit for each, however it ended, with
//! what it used in the same transaction, and the counts. Touches the audit and the ledger.

use std::sync::Arc;

use super::calls::{Heard, Made};
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::audit::{self, Audit, Record};
use crate::controlplane::store::usage::{self, Day, Tokens};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;
use crate::controlplane::telemetry::metrics::METRICS;

/// Records what is heard. Nobody waits for it: it is an outcome, and is exported soon.
pub fn heard(audit: Audit) -> Heard {
    Arc::new(move |mut made| {
        METRICS.model_calls.inc();
        METRICS.model_input_tokens.add(made.usage.input);
        METRICS.model_output_tokens.add(made.usage.output);
        METRICS.model_seconds.observe(std::time::Duration::from_millis(made.millis));
        let audit = audit.clone();
        let reserved = made.reserved.take();
        tasks::spawn(async move {
            let noted = audit.note(move |tx| {
                let tokens =
                    Tokens { input: made.usage.input, cached: made.usage.cached, output: made.usage.output };
                let of = (made.provider.name(), made.model.as_str());
                usage::add(tx, Day::of(Millis::now()), &made.group, of, tokens, made.usage.is_estimate)?;
                let (actor, via) = (format!("agent:{}", made.group), format!("session:{}", made.session));
                audit::record(
                    tx,
                    &Record {
                        act: "model.called",
                        actor: &actor,
                        via: &via,
                        group: Some(&made.group),
                        object: made.provider.name(),
                        detail: detail(&made),
                    },
                )
            });
            if let Err(error) = noted.await {
                log::error("audit.not_recorded", &[("act", &"model.called"), ("error", &error)]);
                // It was used all the same.
                if let Some(reserved) = reserved {
                    reserved.keep();
                }
            }
        })
        .detach();
    })
}

fn detail(made: &Made) -> Value {
    let number = Value::from;
    Value::object([
        ("model", Value::from(made.model.as_str())),
        ("outcome", Value::from(made.outcome.as_str())),
        ("status", made.status.map_or(Value::Null, |status| Value::from(u64::from(status)))),
        ("request_bytes", number(made.asked_bytes)),
        ("response_bytes", number(made.answered_bytes)),
        ("input_tokens", number(made.usage.input)),
        ("cached_tokens", number(made.usage.cached)),
        ("output_tokens", number(made.usage.output)),
        ("estimated", Value::from(made.usage.is_estimate)),
        ("milliseconds", number(made.millis)),
    ])
}
