//! `ctl usage`: what agents used of models. Touches the network and the terminal.

use argh::{ArgsInfo, FromArgs};

use super::Failure;
use super::client::{Client, encode};
use super::lists::{Output, all, of_group, print};

/// The tokens that agents used of models, by day (UTC). `ironctl agent edit` says how many one may use in a day.
#[derive(FromArgs, ArgsInfo)]
#[argh(subcommand, name = "usage")]
pub(super) struct Usage {
    /// of this agent only
    #[argh(option)]
    group: Option<String>,
    /// from this day on, as 2026-11-23 (the last 30 days)
    #[argh(option)]
    from: Option<String>,
    /// print JSON
    #[argh(switch)]
    json: bool,
}

pub(super) fn run(client: &Client, asked: &Usage) -> Result<(), Failure> {
    let mut query = of_group("/v1/usage", asked.group.as_deref());
    if let Some(from) = &asked.from {
        let mark = if query.contains('?') { '&' } else { '?' };
        query.push_str(&format!("{mark}from={}", encode(from)));
    }
    let rows = all(client, &query, "usage")?;
    let columns = [
        ("DAY", "day"),
        ("AGENT", "group"),
        ("PROVIDER", "provider"),
        ("MODEL", "model"),
        ("CALLS", "calls"),
        ("ESTIMATED", "estimated_calls"),
        ("INPUT", "input_tokens"),
        ("CACHED", "cached_tokens"),
        ("OUTPUT", "output_tokens"),
    ];
    print(
        &rows,
        Output::of(asked.json),
        &columns,
        "no model was asked; `ironctl help models` has the providers",
    )
}
