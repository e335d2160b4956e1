//! Where a request for a change is taken, whoever asks: the API in a transaction of its own, a sandbox in the one that
//! stores what it put out. Touches the ledger through its caller's transaction.

use std::fmt;
use std::sync::Arc;

use rusqlite::Transaction;

use super::facts::Facts;
use super::policy::Policy;
use super::submit::{self, NotSubmitted, Origin, Request, Submitted};
use crate::contract::json::Value;
use crate::controlplane::audit::Audit;
use crate::controlplane::grants::Host;
use crate::controlplane::keys::Keyring;
use crate::controlplane::store::StoreError;

/// The rules that hold for every request, and where it is recorded. Clones are the same one.
#[derive(Clone)]
pub struct Desk {
    /// The chain.
    pub audit: Audit,
    /// Seals what the asker is told.
    pub keyring: Keyring,
    /// The operator's policy.
    pub(super) policy: Arc<Policy>,
    /// The host, as far as grants are concerned.
    pub host: Arc<Host>,
    lifetime: i64,
    /// Held by whoever reads or copies packages.
    pub(super) working: Arc<smol::lock::Mutex<()>>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

impl Desk {
    /// Puts it together; `lifetime` is that of a pending change, in milliseconds.
    pub fn new(audit: Audit, keyring: Keyring, policy: Arc<Policy>, host: Arc<Host>, lifetime: i64) -> Self {
        Self { audit, keyring, policy, host, lifetime, working: Arc::default() }
    }

    /// Looks at what a payload names on the host; at packages one at a time.
    pub(super) async fn look(&self, kind: &str, payload: &Value) -> Facts {
        if !Facts::are_needed(kind) {
            return Facts::default();
        }
        // Held by the look itself, which goes on when whoever asked is gone.
        let turn = if Facts::are_long(kind) { Some(self.working.lock_arc().await) } else { None };
        let (kind, payload) = (kind.to_owned(), payload.clone());
        self.host
            .unblock(move |host| {
                let _turn = turn;
                Facts::gather(host, &kind, &payload)
            })
            .await
    }

    /// Takes a request in the caller's transaction. Nobody may be told of it, and nothing may follow from it, before
    /// its record is in the audit files.
    ///
    /// # Errors
    /// The ledger's; the inner ones are the asker's.
    pub fn submit(
        &self,
        tx: &Transaction<'_>,
        origin: &Origin,
        request: &Request,
    ) -> Result<Result<Submitted, NotSubmitted>, StoreError> {
        submit::submit(tx, &self.keyring, &self.policy, self.lifetime, origin, request)
    }
}
