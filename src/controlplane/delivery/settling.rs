//! The buttons under a question: they go out with its message while it is open, and are taken from it when it ended, once
//! and best effort: a press of what is left is told that it is too late. Touches the ledger and, through their channels,
//! platforms.

use rusqlite::Connection;

use super::Courier;
use crate::controlplane::channels::SendError;
use crate::controlplane::channels::descriptor::{self, Ability};
use crate::controlplane::keys::Keyring;
use crate::controlplane::questions::{Asked, Button};
use crate::controlplane::store::deliveries::Delivery;
use crate::controlplane::store::questions::{self, Stale, State};
use crate::controlplane::store::{Step, StoreError};
use crate::controlplane::tasks;
use crate::controlplane::telemetry::log;

/// Looked at in one query.
const AT_ONCE: usize = 20;

/// The buttons of a message on its way.
pub(super) fn buttons(
    conn: &Connection,
    keyring: &Keyring,
    delivery: &Delivery,
) -> Result<Vec<Button>, StoreError> {
    if !descriptor::find(&delivery.place.channel).is_some_and(|known| known.can(Ability::Buttons)) {
        return Ok(Vec::new());
    }
    let Some(question) = questions::shown_by(conn, &delivery.message)? else { return Ok(Vec::new()) };
    if question.state != State::Open {
        return Ok(Vec::new());
    }
    Ok(Asked::of(conn, keyring, &question)?.map(|asked| asked.buttons(&question.id)).unwrap_or_default())
}

impl Courier {
    /// Takes the buttons from messages whose questions ended, beside everything else.
    pub(super) fn settle(&self) {
        let Some(alone) = self.inner.settling.try_acquire_arc() else { return };
        let courier = self.clone();
        tasks::spawn(async move {
            if let Err(error) = courier.settle_all().await {
                log::warn("delivery.not_settled", &[("error", &error)]);
            }
            drop(alone);
        })
        .detach();
    }

    async fn settle_all(&self) -> Result<(), StoreError> {
        let mut last = String::new();
        loop {
            let after = last.clone();
            let stale = self.inner.ledger.read(move |conn| questions::stale(conn, &after, AT_ONCE)).await?;
            let is_all = stale.len() < AT_ONCE;
            // What cannot be settled now keeps nothing behind it waiting.
            last = stale.last().map(|stale| stale.id.to_string()).unwrap_or_default();
            let mut settled = Vec::new();
            for Stale { id, place, receipt } in stale {
                let Some(receipt) = receipt else {
                    settled.push(id);
                    continue;
                };
                let taken =
                    self.inner.channels.unbutton(&place.channel, &place.instance, &place.chat, &receipt);
                match taken.await {
                    Ok(()) | Err(SendError::Permanent(_) | SendError::Moved(_)) => settled.push(id),
                    // At the next look.
                    Err(SendError::Retry(_, why) | SendError::Auth(why)) => {
                        log::debug("delivery.buttons_left", &[("question", &id), ("reason", &why)]);
                    }
                }
            }
            if !settled.is_empty() {
                let noted = self.inner.ledger.write_step(Step::Deliver, move |tx| {
                    settled.iter().try_for_each(|id| questions::settled(tx, id))
                });
                noted.await?;
            }
            if is_all {
                return Ok(());
            }
        }
    }
}
