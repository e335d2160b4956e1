//! Which token is whose, in memory: every request asks, and the ledger is read only when a token was made or revoked.
//! Only digests are held. Touches the ledger.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rusqlite::Transaction;

use super::audit;
use super::keys::ApiToken;
use super::principals::{Principal, Scope, Way};
use super::store::roles::{self, Role};
use super::store::tokens::{self, Token};
use super::store::{Ledger, Step, StoreError, users};
use super::tasks;
use super::telemetry::log;
use crate::contract::ids::UserId;
use crate::contract::json::Value;
use crate::contract::time::Millis;

/// After so long it is tried again to read them.
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Whose the first token is.
pub const OWNER: &str = "local:owner";

#[derive(Debug)]
struct Known {
    principal: Principal,
    expires_at: Option<Millis>,
}

/// The tokens that open the door.
#[derive(Clone)]
pub struct Tokens {
    ledger: Ledger,
    known: Arc<RwLock<HashMap<[u8; 32], Known>>>,
    /// One reading at a time, so that an older one never overtakes a newer.
    reading: Arc<smol::lock::Mutex<()>>,
}

impl Tokens {
    /// Makes the first owner and the first token known, and reads all of them.
    ///
    /// # Errors
    /// The ledger's.
    pub fn open(ledger: &Ledger, first: &ApiToken) -> Result<Self, StoreError> {
        let name = if first.path().is_some() { tokens::FROM_FILE } else { tokens::FROM_ENVIRONMENT };
        let digest = first.digest();
        let all = ledger.write_blocking(Step::Other, move |tx| {
            introduce(tx, name, &digest)?;
            tokens::valid(tx)
        })?;
        let opened = Self { ledger: ledger.clone(), known: Arc::default(), reading: Arc::default() };
        opened.hold(all);
        Ok(opened)
    }

    fn hold(&self, all: Vec<Token>) {
        let all = all.into_iter().map(|token| {
            let scopes = Scope::parse_all(&token.scopes).unwrap_or_default();
            let way = Way::Token { name: token.name, digest: token.digest };
            let principal = Principal { user: token.user, way, scopes };
            (token.digest, Known { principal, expires_at: token.expires_at })
        });
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = all.collect();
    }

    /// Reads them again, after one was made or revoked. Where that fails, none opens the door until it succeeds: a
    /// token that was revoked must not.
    pub async fn reload(&self) {
        let turn = self.reading.lock_arc().await;
        let Err(error) = self.read().await else { return };
        log::error("tokens.not_read", &[("error", &error)]);
        self.hold(Vec::new());
        let tokens = self.clone();
        tasks::spawn(async move {
            let _turn = turn;
            loop {
                smol::Timer::after(READ_AGAIN).await;
                match tokens.read().await {
                    Ok(()) => return log::info("tokens.read", &[]),
                    Err(error) => log::error("tokens.not_read", &[("error", &error)]),
                }
            }
        })
        .detach();
    }

    async fn read(&self) -> Result<(), StoreError> {
        self.ledger.read(tokens::valid).await.map(|all| self.hold(all))
    }

    /// Whether the token that somebody came with still opens the door.
    pub fn holds(&self, principal: &Principal) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().any(|known| {
            known.principal == *principal && known.expires_at.is_none_or(|at| at > Millis::now())
        })
    }

    /// Who presents this token; nobody when it is unknown, revoked or over. What is looked up is a digest, so how
    /// long it takes says nothing of the token.
    pub fn find(&self, presented: &str) -> Option<Principal> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let found = known.get(&ApiToken::digest_of(presented))?;
        found.expires_at.is_none_or(|at| at > Millis::now()).then(|| found.principal.clone())
    }
}

fn introduce(tx: &Transaction<'_>, name: &str, digest: &[u8; 32]) -> Result<(), StoreError> {
    let owner = UserId::parse(OWNER).map_err(|_| StoreError::BadRow("the owner's id"))?;
    if roles::owners(tx)? == 0 {
        users::put(tx, &owner, "owner")?;
        roles::grant(tx, &owner, Role::Owner, None)?;
        audit::of_host(tx, "owner.seeded", OWNER, Value::Null)?;
    }
    // One that the environment gives no more opens nothing any more.
    if name != tokens::FROM_ENVIRONMENT && tokens::revoke(tx, tokens::FROM_ENVIRONMENT)? {
        audit::of_host(tx, "token.revoked", tokens::FROM_ENVIRONMENT, Value::Null)?;
    }
    // The same token may be in the file and in the environment.
    if tokens::valid(tx)?.iter().any(|token| token.digest == *digest) {
        return Ok(());
    }
    let scopes = Scope::write_all(&Scope::ALL);
    match tokens::get(tx, name)? {
        // Revoked or not, it stays as the operator left it.
        Some(token) if token.digest == *digest && name == tokens::FROM_FILE => return Ok(()),
        Some(_) => tokens::replace(tx, name, &owner, &scopes, digest)?,
        None => {
            users::put(tx, &owner, "owner")?;
            let new = Token {
                name: name.to_owned(),
                user: owner,
                scopes: scopes.clone(),
                digest: *digest,
                created_at: Millis::now(),
                expires_at: None,
                revoked_at: None,
            };
            tokens::add(tx, &new)?;
        }
    }
    let detail = Value::object([("user", Value::from(OWNER)), ("scopes", Value::from(scopes))]);
    audit::of_host(tx, "token.seeded", name, detail).map(drop)
}
