//! Presses of buttons under cards: a person decides a change. It is decided before what came with it is accepted, in the
//! gateway's own way; the same press again, after a crash, decides nothing. Touches the ledger, through the gateway.

use super::{Inbound, NotAccepted};
use crate::contract::ids::UserId;
use crate::controlplane::approvals::press;
use crate::controlplane::channels::descriptor;
use crate::controlplane::channels::event::{EventKind, InboundEvent};
use crate::controlplane::store::StoreError;

const NOT_YOU: &str = "Only a person decides this.";

impl Inbound {
    /// Decides what was pressed, and gives for each event what whoever pressed is told.
    pub(super) async fn decide(
        &self,
        channel: &'static str,
        instance: &str,
        events: &[InboundEvent],
    ) -> Result<Vec<Option<&'static str>>, NotAccepted> {
        let mut told = Vec::with_capacity(events.len());
        for event in events {
            told.push(match &event.kind {
                EventKind::Button { data, .. } if press::is_one(data) => {
                    self.press(channel, instance, event, data).await?
                }
                _ => None,
            });
        }
        Ok(told)
    }

    async fn press(
        &self,
        channel: &'static str,
        instance: &str,
        event: &InboundEvent,
        data: &str,
    ) -> Result<Option<&'static str>, StoreError> {
        if event.sender.voice.may_be_a_program() {
            return Ok(Some(NOT_YOU));
        }
        let name = descriptor::find(channel).map(|known| known.user(instance, &event.sender.handle));
        // What is no name is told in the log where the event is taken.
        let Some(user) = name.and_then(|name| UserId::parse(&name).ok()) else { return Ok(None) };
        let place = (channel, instance, event.chat.as_str());
        let pressed = press::press(&self.ledger, &self.keyring, &self.gateway, place, user, data);
        pressed.await.map(Some)
    }
}
