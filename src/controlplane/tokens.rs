//! Which token is whose, in memory: every request asks, and the ledger is read only when a token was made or revoked.
//! Only digests are held. Touches the ledger.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use rusqlite::Transaction;

use super::keys::ApiToken;
use super::principals::{Principal, Scope};
use super::store::roles::{self, Role};
use super::store::tokens::{self, Token};
use super::store::{Ledger, Step, StoreError, users};
use crate::contract::ids::UserId;
use crate::contract::time::Millis;

/// Whose the first token is.
pub const OWNER: &str = "local:owner";
/// The token that this machine keeps in the file `api-token`.
const FROM_FILE: &str = "first";
/// The token that the environment gave.
const FROM_ENVIRONMENT: &str = "environment";

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
}

impl Tokens {
    /// Makes the first owner and the first token known, and reads all of them.
    ///
    /// # Errors
    /// The ledger's.
    pub fn open(ledger: &Ledger, first: &ApiToken) -> Result<Self, StoreError> {
        let name = if first.path().is_some() { FROM_FILE } else { FROM_ENVIRONMENT };
        let digest = first.digest();
        let all = ledger.write_blocking(Step::Other, move |tx| {
            introduce(tx, name, &digest)?;
            tokens::valid(tx)
        })?;
        let opened = Self { ledger: ledger.clone(), known: Arc::default() };
        opened.hold(all);
        Ok(opened)
    }

    fn hold(&self, all: Vec<Token>) {
        let all = all.into_iter().map(|token| {
            let scopes = Scope::parse_all(&token.scopes).unwrap_or_default();
            let principal = Principal { user: token.user, token: token.name, scopes };
            (token.digest, Known { principal, expires_at: token.expires_at })
        });
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = all.collect();
    }

    /// Reads them again, after one was made or revoked.
    ///
    /// # Errors
    /// The ledger's.
    pub async fn reload(&self) -> Result<(), StoreError> {
        let all = self.ledger.read(tokens::valid).await?;
        self.hold(all);
        Ok(())
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
    }
    // One that the environment gives no more opens nothing any more.
    if name != FROM_ENVIRONMENT {
        tokens::revoke(tx, FROM_ENVIRONMENT)?;
    }
    match tokens::get(tx, name)? {
        // Revoked or not, it stays as the operator left it.
        Some(token) if token.digest == *digest && name == FROM_FILE => Ok(()),
        Some(_) => tokens::replace_digest(tx, name, digest),
        None => {
            users::put(tx, &owner, "owner")?;
            tokens::add(
                tx,
                &Token {
                    name: name.to_owned(),
                    user: owner,
                    scopes: Scope::write_all(&Scope::ALL),
                    digest: *digest,
                    created_at: Millis::now(),
                    expires_at: None,
                    revoked_at: None,
                },
            )
        }
    }
}
