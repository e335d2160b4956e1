//! Somebody who spoke and is not admitted: a change that admits them is asked for, once, and they are told of a code by
//! which whoever may decide it finds it. Touches the gateway and the ledger.

use std::collections::HashSet;

use super::Inbound;
use crate::contract::chain;
use crate::contract::ids::{ChangeId, GroupName, UserId};
use crate::contract::json::Value;
use crate::contract::time::Millis;
use crate::controlplane::channels::descriptor;
use crate::controlplane::gateway::submit::{Origin, Request};
use crate::controlplane::store::sessions::{self, Partition, Place};
use crate::controlplane::store::{StoreError, held, history, pairings};
use crate::controlplane::telemetry::log;

/// How long a code is valid, in milliseconds.
const VALID: i64 = 10 * 60 * 1000;
/// Letters of a code: none of them looks like another.
const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// Messages looked at in one query.
const AT_ONCE: usize = 100;
/// Letters in a code.
const LENGTH: usize = 8;

/// Who waits to be admitted, and where they spoke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    pub(super) user: UserId,
    pub(super) name: String,
    pub(super) group: GroupName,
    pub(super) partition: Partition,
    pub(super) place: Place,
}

impl Inbound {
    /// Asks that somebody be admitted. What goes wrong is logged: their message waits all the same.
    pub(super) async fn ask_for(&self, channel: &'static str, stranger: Stranger) {
        let user = stranger.user.to_string();
        let reason = format!(
            "{user} ({}) wrote in the chat {}; the message waits",
            stranger.name, stranger.place.chat
        );
        let request = Request {
            kind: "permissions".to_owned(),
            group: stranger.group.clone(),
            payload: Value::object([("add_members", Value::from(vec![Value::from(user)]))]),
            reason: cut(reason),
            key: None,
            facts: Default::default(),
        };
        let submitted = match self.gateway.submit(Origin::Channel { channel }, request).await {
            Ok(Ok(submitted)) => submitted,
            Ok(Err(not)) => {
                log::warn("admission.not_asked", &[("agent", &stranger.group), ("why", &format!("{not:?}"))]);
                return;
            }
            Err(_) => {
                log::warn("admission.not_asked", &[("agent", &stranger.group), ("why", &"not recorded")]);
                return;
            }
        };
        if let Err(error) = self.tell(stranger, submitted.change.id).await {
            log::warn("admission.not_told", &[("error", &error)]);
        }
    }

    /// Asks for those who wait and of whom an earlier daemon did not ask before it ended.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn ask_again(&self) -> Result<(), StoreError> {
        let mut after = String::new();
        // Of one who waits for an agent once, however much they said.
        let mut asked = HashSet::new();
        loop {
            let since = after.clone();
            let found = self.ledger.read(move |conn| held::unasked(conn, &since, AT_ONCE)).await?;
            let Some(last) = found.last() else { return Ok(()) };
            after = last.message.to_string();
            for held::Unasked { partition, user, name, place, .. } in found {
                let Some(known) = descriptor::find(&place.channel) else { continue };
                let group = partition.group.clone();
                if asked.insert((group.clone(), user.clone())) {
                    self.ask_for(known.platform, Stranger { user, name, group, partition, place }).await;
                }
            }
        }
    }

    /// Tells them of a code, unless they have one that is valid.
    async fn tell(&self, stranger: Stranger, change: ChangeId) -> Result<(), StoreError> {
        let code = code()?;
        let digest = chain::hash(&code);
        let (keyring, partition) = (self.keyring.clone(), stranger.partition.clone());
        let told = self.ledger.write(move |tx| {
            let now = Millis::now();
            held::asked(tx, &stranger.group, &stranger.user)?;
            if pairings::has(tx, &change, now)? {
                return Ok(None);
            }
            pairings::add(tx, &digest, &change, Millis(now.0 + VALID))?;
            let session = sessions::find_or_create(tx, &partition)?;
            let text = format!(
                "You are not known here yet. Your message waits until somebody who may admit you does, with this code, \
                 which is valid for ten minutes: {}",
                shown(&code)
            );
            history::notice_at(tx, &keyring, &session, &stranger.place, &text)?;
            Ok(Some(session))
        });
        if let Some(session) = told.await? {
            self.ledger.alarm().at(Millis(Millis::now().0 + VALID));
            self.sessions.ring_bell(&session, None);
        }
        Ok(())
    }
}

/// A new code.
fn code() -> Result<String, StoreError> {
    let mut bytes = [0; LENGTH];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|_| StoreError::Conflict("the system gives no random numbers"))?;
    // 32 letters divide 256 evenly.
    let letter = |byte: u8| LETTERS.get(usize::from(byte % 32)).copied().unwrap_or(b'A');
    Ok(bytes.into_iter().map(|byte| char::from(letter(byte))).collect())
}

/// As people read it.
fn shown(code: &str) -> String {
    let (one, other) = code.split_at_checked(LENGTH / 2).unwrap_or((code, ""));
    format!("{one}-{other}")
}

/// A reason as long as one may be.
fn cut(mut reason: String) -> String {
    let mut end = reason.len().min(crate::controlplane::gateway::submit::MOST_REASON);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason.truncate(end);
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_by_people() {
        let code = code().unwrap();
        assert_eq!(code.len(), LENGTH);
        assert!(code.bytes().all(|letter| LETTERS.contains(&letter)), "{code}");
        assert_eq!(shown("ABCDEFGH"), "ABCD-EFGH");
        assert_eq!(LETTERS.len(), 32);
    }
}
