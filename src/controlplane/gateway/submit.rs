//! Asking for a change: checked at once, stored as pending, and nothing else happens. Runs inside the transaction of
//! whoever asks; touches the ledger.

use rusqlite::{Connection, Transaction};

use super::decide::{self, Outcome};
use super::effect::Effect;
use super::facts::Facts;
use super::kind::{Kind, NoKind};
use super::payload::{Refusal, Refusals, UNSUPPORTED, shown};
use super::policy::Policy;
use super::proposal::Proposal;
use crate::contract::chain;
use crate::contract::ids::{ChangeId, GroupName, SessionId};
use crate::contract::json::{Value, canonical};
use crate::contract::time::Millis;
use crate::controlplane::audit::{self, Record};
use crate::controlplane::keys::Keyring;
use crate::controlplane::principals::{self, Principal, Scope};
use crate::controlplane::store::StoreError;
use crate::controlplane::store::calls::{self, Call};
use crate::controlplane::store::changes::{self, Change, State};

/// Pending changes that one agent may have.
pub const MOST_PENDING: u64 = 100;
/// Changes that one agent may ask for in a day, decided or not: each stays in the ledger.
pub const MOST_A_DAY: u64 = 200;
/// Bytes of the payloads that one agent may ask for in a day, beside their number.
pub const MOST_BYTES_A_DAY: u64 = 4 << 20;
/// Pending changes that one person may have: scripts make mistakes too.
const MOST_PENDING_PERSON: u64 = 10_000;
/// Longest reason, in bytes.
pub const MOST_REASON: usize = 2000;
/// Longest key of a client, in bytes.
pub const MOST_KEY: usize = 128;
/// In milliseconds.
const DAY: i64 = 24 * 60 * 60 * 1000;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A person, with the token they came with and what the client calls them.
    Person {
        /// Who.
        principal: Principal,
        /// The client's own label, `--by`: shown, never believed.
        label: String,
    },
    /// An agent, known by the session whose socket it spoke on.
    Agent {
        /// The session.
        session: SessionId,
        /// Its group: an agent asks for itself only.
        group: GroupName,
    },
    /// The host itself, for somebody who spoke on a platform and is not admitted there.
    Channel {
        /// The platform.
        channel: &'static str,
    },
}

impl Origin {
    /// Who, as the ledger names them.
    pub fn name(&self) -> String {
        match self {
            Self::Person { principal, .. } => principal.user.to_string(),
            Self::Agent { group, .. } => format!("agent:{group}"),
            Self::Channel { channel } => format!("channel:{channel}"),
        }
    }

    /// How they came in.
    pub fn via(&self) -> String {
        match self {
            Self::Person { principal, .. } => principal.via(),
            Self::Agent { session, .. } => format!("session:{session}"),
            Self::Channel { .. } => String::new(),
        }
    }
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The kind, as the asker wrote it.
    pub kind: String,
    /// The group that is to change.
    pub group: GroupName,
    /// The payload.
    pub payload: Value,
    /// Why.
    pub reason: String,
    /// The asker's own key, so that a repeated request is one change: of a client, or the mark of an agent's call.
    pub key: Option<String>,
    /// What the payload names on the host, as it was found.
    pub facts: Facts,
}

impl Request {
    /// Over what was asked, as it was asked.
    fn digest(&self) -> String {
        let asked = Value::object([
            ("kind", Value::from(self.kind.as_str())),
            ("group", Value::from(self.group.as_str())),
            ("payload", self.payload.clone()),
        ]);
        chain::hex(&chain::hash(&canonical(&asked).to_string()))
    }
}

/// Why nothing was stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSubmitted {
    /// This build has no part that such a change could take effect on.
    Unsupported(String),
    /// The verifiers object.
    Invalid(Refusals),
    /// The asker may not ask for this.
    Forbidden,
    /// As many of theirs are pending as may be.
    TooMany(u64),
    /// This agent has asked as often as it may in a day.
    TooOften(u64),
    /// What this agent has asked for in a day has as many bytes as it may have.
    TooMuch(u64),
    /// The key was used for something else.
    KeyReused(ChangeId),
}

/// What was stored, or was there before.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The change, as it is now.
    pub change: Change,
    /// It had been submitted before; nothing was stored.
    pub is_repeat: bool,
    /// What a policy's approval of it did.
    pub outcome: Option<Outcome>,
}

fn invalid(field: &str, text: String) -> NotSubmitted {
    NotSubmitted::Invalid(vec![Refusal::new(field, text)])
}

fn parse_kind(word: &str) -> Result<Kind, NotSubmitted> {
    Kind::parse(word).map_err(|no| match no {
        NoKind::Absent => NotSubmitted::Unsupported(format!(
            "this build has nothing that a change of kind {word} could take effect on, so it takes none"
        )),
        NoKind::Unknown => {
            let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            invalid(
                "kind",
                format!("{} is no kind of change; expected one of: {}", shown(word), kinds.join(", ")),
            )
        }
    })
}

/// What is known of a request before anything is looked at for it: whether its asker may ask, and whether it was taken
/// before, in which case nothing needs to be looked at either.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub(super) fn known(
    conn: &Connection,
    origin: &Origin,
    request: &Request,
) -> Result<Result<bool, NotSubmitted>, StoreError> {
    let kind = match parse_kind(&request.kind) {
        Ok(kind) => kind,
        Err(refused) => return Ok(Err(refused)),
    };
    if let Err(refused) = allowed(conn, origin, kind, request)? {
        return Ok(Err(refused));
    }
    Ok(Ok(earlier(conn, origin, request.key.as_deref())?.is_some()))
}

/// Whether somebody may ask for this, in these words.
fn allowed(
    conn: &Connection,
    origin: &Origin,
    kind: Kind,
    request: &Request,
) -> Result<Result<(), NotSubmitted>, StoreError> {
    let group = &request.group;
    match origin {
        Origin::Person { principal, .. } => {
            if !principals::may(conn, principal, Scope::Operate, Some(group))? {
                return Ok(Err(NotSubmitted::Forbidden));
            }
            // Who makes agents must be able to reach all of them.
            if kind == Kind::CreateAgent && !principals::may(conn, principal, Scope::Operate, None)? {
                return Ok(Err(NotSubmitted::Forbidden));
            }
        }
        Origin::Agent { group: own, .. } if kind != Kind::CreateAgent && own != group => {
            return Ok(Err(NotSubmitted::Forbidden));
        }
        // Whoever asks learns what is on the host, by what is refused; and looking may take long.
        Origin::Agent { .. } if matches!(kind, Kind::Packages | Kind::Mounts) => {
            let why = "what an agent sees of the host is asked for by people; tell the person you talk with what you need";
            return Ok(Err(NotSubmitted::Unsupported(why.to_owned())));
        }
        Origin::Agent { .. } => {}
        Origin::Channel { .. } if kind != Kind::Permissions => return Ok(Err(NotSubmitted::Forbidden)),
        Origin::Channel { .. } => {}
    }
    for (name, text, most) in [
        ("reason", request.reason.as_str(), MOST_REASON),
        ("idempotency_key", request.key.as_deref().unwrap_or_default(), MOST_KEY),
    ] {
        if text.len() > most {
            return Ok(Err(invalid(
                name,
                format!("{name} has {} bytes, and {most} are the most", text.len()),
            )));
        }
    }
    Ok(Ok(()))
}

/// Checks a request and stores it as pending.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn submit(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    policy: &Policy,
    lifetime: i64,
    origin: &Origin,
    request: &Request,
) -> Result<Result<Submitted, NotSubmitted>, StoreError> {
    let group = &request.group;
    let kind = match parse_kind(&request.kind) {
        Ok(kind) => kind,
        Err(refused) => return Ok(Err(refused)),
    };
    if let Err(refused) = allowed(tx, origin, kind, request)? {
        return Ok(Err(refused));
    }
    let (name, via) = (origin.name(), origin.via());
    let digest = request.digest();
    // Looked at before anything else: what is sent again after it was done would change nothing, and is the same
    // request all the same.
    if let Some((change, request)) = earlier(tx, origin, request.key.as_deref())? {
        let is_same = request == digest && change.requested_by == name;
        return Ok(if is_same {
            Ok(Submitted { change, is_repeat: true, outcome: None })
        } else {
            Err(NotSubmitted::KeyReused(change.id))
        });
    }
    let now = Millis::now();
    // All that costs little goes before what costs much: working a request out is not to be had for nothing.
    let most = match origin {
        Origin::Agent { session, .. } => {
            // An agent that asks for the same again while it waits has asked once.
            if let Some(change) = changes::same_request(tx, &name, &via, &digest)? {
                remember(tx, session, request, digest, &change.id)?;
                return Ok(Ok(Submitted { change, is_repeat: true, outcome: None }));
            }
            let (asked, bytes) = changes::asked_since(tx, &name, Millis(now.0 - DAY))?;
            if asked >= MOST_A_DAY {
                return Ok(Err(NotSubmitted::TooOften(MOST_A_DAY)));
            }
            let more = request.payload.to_string().len() as u64;
            if bytes.saturating_add(more) > MOST_BYTES_A_DAY {
                return Ok(Err(NotSubmitted::TooMuch(MOST_BYTES_A_DAY)));
            }
            MOST_PENDING
        }
        // Looked at below: who is asked for already is not counted.
        Origin::Channel { .. } => u64::MAX,
        Origin::Person { .. } => MOST_PENDING_PERSON,
    };
    if changes::pending_of(tx, &name)? >= most {
        return Ok(Err(NotSubmitted::TooMany(most)));
    }
    let proposal = match Proposal::of(tx, kind, group, &request.payload, &request.facts)? {
        Ok(proposal) => proposal,
        Err(refusals) => {
            let unsupported = refusals.iter().find(|refusal| refusal.field == UNSUPPORTED);
            let unsupported = unsupported.map(|refusal| NotSubmitted::Unsupported(refusal.text.clone()));
            return Ok(Err(unsupported.unwrap_or(NotSubmitted::Invalid(refusals))));
        }
    };
    let payload = proposal.payload.to_string();
    // The same in other words.
    if let Origin::Agent { session, .. } = origin
        && let Some(change) = changes::twin(tx, group, &name, &via, kind.as_str(), &payload)?
    {
        remember(tx, session, request, digest, &change.id)?;
        return Ok(Ok(Submitted { change, is_repeat: true, outcome: None }));
    }
    if matches!(origin, Origin::Channel { .. })
        && let Some(change) = changes::twin(tx, group, &name, &via, kind.as_str(), &payload)?
    {
        return Ok(Ok(Submitted { change, is_repeat: true, outcome: None }));
    }
    if matches!(origin, Origin::Channel { .. }) && changes::pending_for(tx, group, &name)? >= MOST_PENDING {
        return Ok(Err(NotSubmitted::TooMany(MOST_PENDING)));
    }
    let id = ChangeId::mint();
    let shown = proposal.stored(&id, kind, group);
    let is_person = matches!(origin, Origin::Person { .. });
    let change = Change {
        id: id.clone(),
        kind: kind.as_str().to_owned(),
        group: group.clone(),
        state: State::Pending,
        requested_by: name,
        via,
        label: if let Origin::Person { label, .. } = origin { label.clone() } else { String::new() },
        reason: request.reason.clone(),
        payload,
        effects: shown.effects,
        diff: shown.diff,
        base: shown.base,
        digest: shown.digest,
        idempotency_key: if is_person { request.key.clone() } else { None },
        request: digest.clone(),
        submitted_at: now,
        expires_at: Millis(now.0.saturating_add(lifetime)),
        decision: None,
        note: String::new(),
        failure: None,
        finished_at: None,
    };
    changes::add(tx, &change)?;
    if let Origin::Agent { session, .. } = origin {
        remember(tx, session, request, digest, &id)?;
    }
    audit::record(
        tx,
        &Record {
            act: "change.submitted",
            actor: &change.requested_by,
            via: &change.via,
            group: Some(group),
            object: id.as_str(),
            detail: Value::object([
                ("kind", Value::from(kind.as_str())),
                ("digest", Value::from(change.digest.as_str())),
            ]),
        },
    )?;
    // Whom a stranger's own message asks to admit is for people to say.
    let is_strangers = matches!(origin, Origin::Channel { .. });
    if is_strangers || !policy.approves(kind) || proposal.effects.iter().any(Effect::is_for_humans_only) {
        return Ok(Ok(Submitted { change, is_repeat: false, outcome: None }));
    }
    let outcome = decide::by_policy(tx, keyring, &change, kind, &proposal)?;
    Ok(Ok(Submitted { change: outcome.change.clone(), is_repeat: false, outcome: Some(outcome) }))
}

/// What was made of an earlier request with this key, and the digest of that request.
fn earlier(
    conn: &Connection,
    origin: &Origin,
    key: Option<&str>,
) -> Result<Option<(Change, String)>, StoreError> {
    let Some(key) = key else { return Ok(None) };
    match origin {
        Origin::Person { .. } => {
            let change = changes::by_key(conn, &origin.via(), key)?;
            Ok(change.map(|change| {
                let request = change.request.clone();
                (change, request)
            }))
        }
        Origin::Agent { session, .. } => {
            let Some(call) = calls::find(conn, session, key)? else { return Ok(None) };
            Ok(changes::get(conn, &call.change)?.map(|change| (change, call.request)))
        }
        Origin::Channel { .. } => Ok(None),
    }
}

/// Keeps what an agent's call made, so that it makes nothing when it comes again.
fn remember(
    tx: &Transaction<'_>,
    session: &SessionId,
    request: &Request,
    digest: String,
    change: &ChangeId,
) -> Result<(), StoreError> {
    let Some(mark) = &request.key else { return Ok(()) };
    calls::add(tx, session, mark, &Call { request: digest, change: change.clone() })
}
