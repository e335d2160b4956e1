//! Opening an event stream, for the first time or again where it was: a control plane that restarts is away for a while,
//! and nobody who follows has to notice. Touches the network.

use std::io::Read;
use std::time::Instant;

use super::Failure;
use super::chat::{Absence, PATIENCE, Pauses};
use super::client::{Client, Refused};

/// Opens a stream from after an event on. `again` says how to go on by hand, where there is a way.
pub(super) fn open(
    client: &Client,
    path: &str,
    last: Option<&str>,
    absence: Absence,
    again: &str,
) -> Result<impl Read + use<>, Failure> {
    let mut pauses = Pauses::new(Instant::now() + PATIENCE);
    loop {
        // First a pause: a stream that ends as soon as it is opened would make this run hot.
        let more = absence == Absence::IsARestart && pauses.wait();
        match client.stream(path, last) {
            Ok(stream) => return Ok(stream),
            Err(Refused::Problem(text)) => return Err(Failure::of(text)),
            Err(_) if more => {}
            Err(refused) if again.is_empty() || absence == Absence::IsAnError => return Err(refused.into()),
            Err(refused) => return Err(Failure::of(format!("{}; {again}", refused.text()))),
        }
    }
}
