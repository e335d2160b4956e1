//! Failed logins as records: one for each source and minute, however many there were, so that whoever guesses
//! tokens fills no disk. Nothing waits for them and they keep nobody out. Touches the ledger through the exporter's
//! handle.

use std::net::IpAddr;
use std::time::Duration;

use smol::Timer;

use super::{Audit, Record, lock, record};
use crate::contract::json::Value;
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// How long failures of one source are counted together.
const WINDOW: Duration = Duration::from_secs(60);
/// Sources counted apart in a window; all others share one record.
const SOURCES: usize = 32;
/// What the others are called.
const OTHERS: &str = "others";

impl Audit {
    /// Somebody there came with a wrong token, or none: counted, and recorded within a minute.
    pub fn login_failed(&self, source: IpAddr) {
        let mut counts = lock(&self.shared.logins);
        let begins = counts.is_empty();
        let mut source = source.to_canonical().to_string();
        if counts.len() >= SOURCES && !counts.contains_key(&source) {
            source = OTHERS.to_owned();
        }
        let count = counts.entry(source).or_default();
        *count = count.saturating_add(1);
        drop(counts);
        if begins {
            let audit = self.clone();
            tasks::spawn(async move {
                Timer::after(WINDOW).await;
                audit.flush_logins().await;
            })
            .detach();
        }
    }

    /// Records the failed logins that were counted so far.
    pub async fn flush_logins(&self) {
        let counts = std::mem::take(&mut *lock(&self.shared.logins));
        if counts.is_empty() {
            return;
        }
        let noted = self.note(move |tx| {
            for (source, count) in &counts {
                let detail = Value::object([("count", Value::from(*count))]);
                let (act, actor) = ("login.failed", "unknown");
                record(tx, &Record { act, actor, via: "", group: None, object: source, detail })?;
            }
            Ok(())
        });
        if let Err(error) = noted.await {
            log::warn("audit.logins_not_recorded", &[("error", &error)]);
        }
    }
}
