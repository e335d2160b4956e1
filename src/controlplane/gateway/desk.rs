//! Where a request for a change is taken, whoever asks: the API in a transaction of its own, a sandbox in the one that
//! stores what it put out. Touches the ledger through its caller's transaction.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Transaction;

use super::facts::Facts;
use super::policy::Policy;
use super::submit::{self, NotSubmitted, Origin, Request, Submitted};
use crate::contract::json::Value;
use crate::controlplane::audit::Audit;
use crate::controlplane::grants::Host;
use crate::controlplane::grants::packages::Tree;
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
    /// Packages that agents asked for, as they were found.
    seen: Arc<Mutex<Seen>>,
}

/// Packages by `NAME@VERSION`, and when they were read.
type Seen = BTreeMap<String, (Instant, Tree)>;

/// Reading a package may take a second of the host's time; an agent that asks for the same one again and again is told
/// what it was told before for so long. What is approved is compared with the files once more in any case.
const SEEN_FOR: Duration = Duration::from_secs(60);

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

impl Desk {
    /// Puts it together; `lifetime` is that of a pending change, in milliseconds.
    pub fn new(audit: Audit, keyring: Keyring, policy: Arc<Policy>, host: Arc<Host>, lifetime: i64) -> Self {
        Self { audit, keyring, policy, host, lifetime, working: Arc::default(), seen: Arc::default() }
    }

    /// Looks at what a payload names on the host, one at a time.
    pub(super) async fn look(&self, kind: &str, payload: &Value) -> Facts {
        if !Facts::are_needed(kind) {
            return Facts::default();
        }
        let _turn = self.working.lock().await;
        let (host, kind, payload) = (self.host.clone(), kind.to_owned(), payload.clone());
        smol::unblock(move || Facts::gather(&host, &kind, &payload)).await
    }

    /// The same for what an agent asks, which may be many things at once, and again and again.
    pub async fn look_for_agent(&self, asked: Vec<(String, Value)>) -> Facts {
        if !asked.iter().any(|(kind, _)| Facts::are_needed(kind)) {
            return Facts::default();
        }
        let _turn = self.working.lock().await;
        let (host, seen) = (self.host.clone(), self.seen.clone());
        smol::unblock(move || {
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.retain(|_, (at, _)| at.elapsed() < SEEN_FOR);
            let mut facts = Facts::knowing(seen.iter().map(|(word, (_, tree))| (word.clone(), tree.clone())));
            for (kind, payload) in &asked {
                facts.add(&host, kind, payload);
            }
            for (word, tree) in facts.packages() {
                seen.entry(word.to_owned()).or_insert_with(|| (Instant::now(), tree.clone()));
            }
            facts
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
