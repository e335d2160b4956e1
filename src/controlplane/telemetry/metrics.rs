//! Metrics: one list of what is counted, from which the Prometheus text is made. A counter or gauge is one
//! atomic number; nothing here allocates or locks outside [`render`]. Touches nothing.

use std::fmt::Write;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Only rises.
#[derive(Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Several more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Rises and falls.
#[derive(Debug)]
pub struct Gauge(AtomicI64);

impl Gauge {
    const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// One less.
    pub fn dec(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets, in microseconds: from a doorbell's round trip to a slow model's turn.
const BOUNDS: [u64; 16] = [
    100,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    15_000_000,
    60_000_000,
    600_000_000,
];

/// How long something took.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    micros: AtomicU64,
}

impl Histogram {
    const fn new() -> Self {
        Self {
            buckets: [const { AtomicU64::new(0) }; BOUNDS.len()],
            count: AtomicU64::new(0),
            micros: AtomicU64::new(0),
        }
    }

    /// Records one duration.
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some((_, bucket)) = BOUNDS.iter().zip(&self.buckets).find(|(bound, _)| micros <= **bound) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// Why a sandbox was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// Nothing in flight for the linger.
    Idle,
    /// Another session needed its place.
    Evicted,
    /// The daemon shuts down or restarts.
    Shutdown,
    /// No acknowledgement for 30 s.
    Stalled,
    /// A turn took longer than it may.
    Overran,
    /// It broke the rules.
    Violation,
    /// Its group's files went over the quota.
    Quota,
    /// The disk is nearly full.
    LowDisk,
    /// It ended by itself.
    Died,
    /// It did not speak in time after its launch.
    Silent,
}

/// Every reason with its label, in the order of the enum.
const REASONS: [(KillReason, &str); 10] = [
    (KillReason::Idle, "idle"),
    (KillReason::Evicted, "evicted"),
    (KillReason::Shutdown, "shutdown"),
    (KillReason::Stalled, "stalled"),
    (KillReason::Overran, "overran"),
    (KillReason::Violation, "violation"),
    (KillReason::Quota, "quota"),
    (KillReason::LowDisk, "low_disk"),
    (KillReason::Died, "died"),
    (KillReason::Silent, "silent"),
];

/// Ends of sandboxes by reason.
#[derive(Debug)]
pub struct Kills([Counter; REASONS.len()]);

impl Kills {
    /// One more for this reason.
    pub fn inc(&self, reason: KillReason) {
        if let Some(counter) = self.0.get(reason as usize) {
            counter.inc();
        }
    }

    /// The count so far for this reason.
    pub fn get(&self, reason: KillReason) -> u64 {
        self.0.get(reason as usize).map_or(0, Counter::get)
    }
}

trait Metric {
    const KIND: &'static str;
    fn render(&self, name: &str, out: &mut String);
}

impl Metric for Counter {
    const KIND: &'static str = "counter";
    fn render(&self, name: &str, out: &mut String) {
        let _ = writeln!(out, "{name} {}", self.get());
    }
}

impl Metric for Gauge {
    const KIND: &'static str = "gauge";
    fn render(&self, name: &str, out: &mut String) {
        let _ = writeln!(out, "{name} {}", self.get());
    }
}

impl Metric for Kills {
    const KIND: &'static str = "counter";
    fn render(&self, name: &str, out: &mut String) {
        for (counter, (_, reason)) in self.0.iter().zip(REASONS) {
            let _ = writeln!(out, "{name}{{reason=\"{reason}\"}} {}", counter.get());
        }
    }
}

impl Metric for Histogram {
    const KIND: &'static str = "histogram";
    fn render(&self, name: &str, out: &mut String) {
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", seconds(*bound));
        }
        // Read after the buckets: a sum that is smaller than a bucket would be no histogram.
        let count = self.count.load(Ordering::Relaxed).max(below);
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum {}", seconds(self.micros.load(Ordering::Relaxed)));
        let _ = writeln!(out, "{name}_count {count}");
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

macro_rules! metrics {
    ($($field:ident: $kind:ty = $initial:expr, $name:literal, $help:literal;)*) => {
        /// Everything that is counted.
        #[derive(Debug)]
        pub struct Metrics {
            $(#[doc = $help] pub $field: $kind,)*
        }

        /// The counts of this process.
        pub static METRICS: Metrics = Metrics { $($field: $initial,)* };

        /// All metrics in Prometheus' text format, version 0.0.4.
        pub fn render() -> String {
            let mut out = String::with_capacity(8192);
            $(
                let _ = writeln!(out, concat!("# HELP ", $name, " ", $help));
                let _ = writeln!(out, concat!("# TYPE ", $name, " {}"), <$kind as Metric>::KIND);
                METRICS.$field.render($name, &mut out);
            )*
            out
        }

        #[cfg(test)]
        const NAMES: &[(&str, &str)] = &[$(($name, <$kind as Metric>::KIND),)*];
    };
}

metrics! {
    launches: Counter = Counter::new(), "ironclaw_launches_total", "Sandboxes launched.";
    launch_failures: Counter = Counter::new(), "ironclaw_launch_failures_total", "Launches that failed.";
    kills: Kills = Kills([const { Counter::new() }; REASONS.len()]), "ironclaw_sandbox_ends_total", "Sandboxes ended, by reason.";
    turns: Counter = Counter::new(), "ironclaw_turns_finished_total", "Turns whose answer is in the ledger.";
    task_runs: Counter = Counter::new(), "ironclaw_task_runs_total", "Runs of scheduled tasks that came due.";
    accepted: Counter = Counter::new(), "ironclaw_messages_accepted_total", "Messages accepted into the ledger, duplicates not counted.";
    duplicates: Counter = Counter::new(), "ironclaw_messages_duplicate_total", "Messages sent again with a known event id.";
    finished: Counter = Counter::new(), "ironclaw_messages_finished_total", "Messages finished.";
    failed: Counter = Counter::new(), "ironclaw_messages_failed_total", "Messages given up after five deaths.";
    deliveries: Counter = Counter::new(), "ironclaw_deliveries_total", "Parts of messages that platforms took.";
    delivery_retries: Counter = Counter::new(), "ironclaw_delivery_retries_total", "Attempts to bring a message that are to be repeated.";
    dead_letters: Counter = Counter::new(), "ironclaw_dead_letters_total", "Messages that were given up on their way to a platform.";
    delivering: Gauge = Gauge::new(), "ironclaw_chats_delivering", "Chats of platforms to which something is on its way.";
    violations: Counter = Counter::new(), "ironclaw_violations_total", "Sandboxes stopped for breaking the rules of doorbell or conveyor.";
    model_requests: Counter = Counter::new(), "ironclaw_model_requests_total", "Requests on model sockets.";
    model_refusals: Counter = Counter::new(), "ironclaw_model_refusals_total", "Requests on model sockets that were refused.";
    model_calls: Counter = Counter::new(), "ironclaw_model_calls_total", "Calls of model providers that are over.";
    model_input_tokens: Counter = Counter::new(), "ironclaw_model_input_tokens_total", "Tokens that model providers were asked with.";
    model_output_tokens: Counter = Counter::new(), "ironclaw_model_output_tokens_total", "Tokens that model providers answered with.";
    http_requests: Counter = Counter::new(), "ironclaw_http_requests_total", "Requests to the API.";
    http_errors: Counter = Counter::new(), "ironclaw_http_errors_total", "Requests to the API answered with 400 or more.";
    ingress_requests: Counter = Counter::new(), "ironclaw_ingress_requests_total", "Requests of platforms.";
    ingress_refusals: Counter = Counter::new(), "ironclaw_ingress_refusals_total", "Requests of platforms answered with 400 or more.";
    failed_logins: Counter = Counter::new(), "ironclaw_failed_logins_total", "Requests with a missing or wrong token.";
    http_connections: Gauge = Gauge::new(), "ironclaw_http_connections", "Open connections to the API.";
    open_messages: Gauge = Gauge::new(), "ironclaw_open_messages", "Messages accepted and not finished.";
    sessions_owed: Gauge = Gauge::new(), "ironclaw_sessions_owed", "Sessions that owe an answer.";
    ledger_queue: Gauge = Gauge::new(), "ironclaw_ledger_queue", "Closures waiting for the ledger's writer.";
    sandboxes: Gauge = Gauge::new(), "ironclaw_sandboxes_running", "Sandboxes running now.";
    parked: Gauge = Gauge::new(), "ironclaw_sessions_parked", "Sessions parked until an operator releases them.";
    launch_seconds: Histogram = Histogram::new(), "ironclaw_launch_seconds", "From the decision to launch to the sandbox's hello.";
    ring_seconds: Histogram = Histogram::new(), "ironclaw_ring_seconds", "From a ring of the host to its acknowledgement.";
    turn_seconds: Histogram = Histogram::new(), "ironclaw_turn_seconds", "From the start mark of a turn to its done mark.";
    model_seconds: Histogram = Histogram::new(), "ironclaw_model_seconds", "From a call of a model provider to the end of its answer.";
    ingest_seconds: Histogram = Histogram::new(), "ironclaw_ingest_seconds", "From a sandbox's ring to the host's acknowledgement.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reasons_are_in_the_order_of_the_enum() {
        for (at, (reason, _)) in REASONS.iter().enumerate() {
            assert_eq!(*reason as usize, at);
        }
    }

    #[test]
    fn every_metric_is_rendered_once_with_help_and_kind() {
        let text = render();
        for (name, kind) in NAMES {
            assert_eq!(text.matches(&format!("# TYPE {name} {kind}\n")).count(), 1, "{name}");
            assert_eq!(name.ends_with("_total"), *kind == "counter", "{name}");
        }
        for line in text.lines() {
            assert!(
                line.starts_with("# ") || line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(),
                "{line}"
            );
        }
    }

    #[test]
    fn a_histogram_counts_what_is_at_or_below_each_bound() {
        let histogram = Histogram::new();
        for micros in [50, 100, 101, 700_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let mut text = String::new();
        histogram.render("x", &mut text);
        assert!(text.contains("x_bucket{le=\"0.0001\"} 2\nx_bucket{le=\"0.0005\"} 3\n"), "{text}");
        assert!(text.contains("x_bucket{le=\"600\"} 3\nx_bucket{le=\"+Inf\"} 4\n"), "{text}");
        assert!(text.ends_with("x_count 4\n"), "{text}");
    }
}
