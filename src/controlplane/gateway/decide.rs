//! Deciding: a compare-and-set on pending, digest and revisions, and what the change does, in one transaction. Nobody
//! approves what they did not see. Touches the ledger.

use rusqlite::{Connection, Transaction};

use super::effect::Effect;
use super::facts::Facts;
use super::kind::{self, Kind};
use super::payload::Refusals;
use super::policy::Policy;
use super::proposal::Proposal;
use crate::contract::ids::{ChangeId, GroupName, SessionId, UserId};
use crate::contract::inbound::InboundKind;
use crate::contract::json::{self, Value};
use crate::contract::plain;
use crate::contract::time::Millis;
use crate::controlplane::audit::{self, Record};
use crate::controlplane::keys::Keyring;
use crate::controlplane::principals::{Principal, Scope, Standing};
use crate::controlplane::store::approvals::Waiting;
use crate::controlplane::store::changes::{self, Change, Decision, State};
use crate::controlplane::store::inbox::{self, NewInbound};
use crate::controlplane::store::roles::Role;
use crate::controlplane::store::{StoreError, groups, revisions, sessions};
use crate::controlplane::telemetry::log;

/// Longest note of a decider, in bytes.
pub const MOST_NOTE: usize = 2000;
/// Who decides what the operator's policy decides.
const POLICY: &str = "policy";
/// Who decides that nobody decided.
const HOST: &str = "host";
/// Why an approved change has lapsed.
const SUPERSEDED: &str =
    "something that it replaces was replaced after it was approved, so it was not done; ask for it again";

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes effect.
    Approve,
    /// It does not.
    Reject,
}

/// What somebody decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decide {
    /// Yes or no.
    pub verdict: Verdict,
    /// The digest of what they saw; an approval needs it.
    pub digest: Option<String>,
    /// What they say to whoever asked.
    pub note: String,
}

/// What a decision did.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The change, as it is now.
    pub change: Change,
    /// The session that asked and has an answer waiting.
    pub answered: Option<SessionId>,
    /// The agent groups that are not what they were.
    pub changed: Vec<GroupName>,
}

/// Why nothing was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotDecided {
    /// There is no such change.
    NoChange,
    /// The one who decides may not, and why.
    Forbidden(&'static str),
    /// It was decided, withdrawn or has lapsed.
    NotPending(Box<Change>),
    /// An approval must name what was seen.
    NoDigest,
    /// Only what was approved and is not applied is tried again.
    NotApproved(Box<Change>),
    /// The digest is not that of the change.
    WrongDigest(Box<Change>),
    /// Something that it replaces was replaced meanwhile; this is what it would do now.
    Stale(Box<Change>),
    /// It cannot be done any more.
    Invalid(Refusals),
    /// The note is too long.
    TooLong,
}

/// The change, if deciding it comes to looking at what it names on the host: an approval by somebody who may, of what is
/// pending, by the digest that it has.
///
/// # Errors
/// The ledger's.
pub(super) fn due(
    conn: &Connection,
    policy: &Policy,
    principal: &Principal,
    id: &ChangeId,
    decide: &Decide,
) -> Result<Option<Change>, StoreError> {
    if decide.verdict != Verdict::Approve {
        return Ok(None);
    }
    let Some(change) = changes::get(conn, id)? else { return Ok(None) };
    let is_named = decide.digest.as_ref() == Some(&change.digest);
    if change.state != State::Pending || !is_named {
        return Ok(None);
    }
    let (kind, effects) = (kind_of(&change)?, effects_of(&change)?);
    let objection = objection(conn, policy, principal, &change, kind, &effects, decide.verdict)?;
    Ok(objection.is_none().then_some(change))
}

/// Whether somebody with this standing could approve a change of that kind, whatever it would do.
pub(super) fn could_approve_such(
    policy: &Policy,
    user: &UserId,
    standing: &Standing,
    waiting: &Waiting,
) -> Result<bool, StoreError> {
    let kind = Kind::parse(&waiting.kind).map_err(|_| StoreError::BadRow("a kind of change"))?;
    let group = (kind != Kind::CreateAgent).then_some(&waiting.group);
    Ok(standing.allows(Scope::Approve, group)
        && left_to_others(policy, user, standing, kind, group, &waiting.requested_by).is_none())
}

/// Whether somebody could approve a change, if they came in by a way that lets them decide.
pub(super) fn could_approve(
    conn: &Connection,
    policy: &Policy,
    user: &UserId,
    change: &Change,
) -> Result<bool, StoreError> {
    let (kind, effects) = (kind_of(change)?, effects_of(change)?);
    let standing = Standing::of(conn, user)?;
    Ok(objection_of(policy, user, &standing, change, kind, &effects, Verdict::Approve).is_none())
}

/// Decides a pending change.
///
/// # Errors
/// The ledger's; the inner ones are the decider's.
pub fn decide(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    policy: &Policy,
    principal: &Principal,
    id: &ChangeId,
    decide: &Decide,
    facts: &Facts,
) -> Result<Result<Outcome, NotDecided>, StoreError> {
    if decide.note.len() > MOST_NOTE {
        return Ok(Err(NotDecided::TooLong));
    }
    let Some(change) = changes::get(tx, id)? else { return Ok(Err(NotDecided::NoChange)) };
    let kind = kind_of(&change)?;
    let effects = effects_of(&change)?;
    if let Some(why) = objection(tx, policy, principal, &change, kind, &effects, decide.verdict)? {
        return Ok(Err(NotDecided::Forbidden(why)));
    }
    let change = match if_pending(tx, keyring, change)? {
        Ok(change) => change,
        Err(change) => return Ok(Err(NotDecided::NotPending(Box::new(change)))),
    };
    let decision = Decision { by: principal.user.to_string(), via: principal.via(), at: Millis::now() };
    if decide.verdict == Verdict::Reject {
        return Ok(Ok(refuse(tx, keyring, &change, State::Rejected, &decision, &decide.note)?));
    }
    let Some(digest) = &decide.digest else { return Ok(Err(NotDecided::NoDigest)) };
    if *digest != change.digest {
        return Ok(Err(NotDecided::WrongDigest(Box::new(change))));
    }
    let payload =
        json::parse(change.payload.as_bytes()).map_err(|_| StoreError::BadRow("a change's payload"))?;
    let proposal = match Proposal::of(tx, kind, &change.group, &payload, facts)? {
        Ok(proposal) => proposal,
        Err(refusals) => return Ok(Err(NotDecided::Invalid(refusals))),
    };
    let now = proposal.stored(id, kind, &change.group);
    if now.digest != change.digest {
        changes::renew(tx, id, &now)?;
        record(tx, "change.stale", &change, &decision, Some(("digest", &now.digest)))?;
        let change = changes::get(tx, id)?.ok_or(StoreError::BadRow("a change"))?;
        return Ok(Err(NotDecided::Stale(Box::new(change))));
    }
    Ok(Ok(approve(tx, keyring, &change, &proposal, &decision, &decide.note)?))
}

/// Approves what was just submitted, because the operator's policy says so.
pub(super) fn by_policy(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    change: &Change,
    kind: Kind,
    proposal: &Proposal,
) -> Result<Outcome, StoreError> {
    debug_assert!(!kind.is_for_humans_only());
    let decision = Decision { by: POLICY.to_owned(), via: POLICY.to_owned(), at: Millis::now() };
    approve(tx, keyring, change, proposal, &decision, "")
}

/// Takes back what the same person or agent asked for, as long as it is not done.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn withdraw(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    principal: &Principal,
    id: &ChangeId,
) -> Result<Result<Outcome, NotDecided>, StoreError> {
    let Some(change) = changes::get(tx, id)? else { return Ok(Err(NotDecided::NoChange)) };
    let standing = principal.standing(tx)?;
    let own = change.requested_by == principal.user.to_string() && principal.opens(tx)?;
    if !principal.has(Scope::Operate) || !(own || standing.allows(Scope::Operate, Some(&change.group))) {
        return Ok(Err(NotDecided::Forbidden(
            "a change is withdrawn by whoever asked for it, or by an admin of its agent",
        )));
    }
    let change = match if_pending(tx, keyring, change)? {
        Ok(change) => change,
        // Its work on the host is under way, or failed; nobody has anything of it.
        Err(change) if change.state == State::Approved => change,
        Err(change) => return Ok(Err(NotDecided::NotPending(Box::new(change)))),
    };
    let decision = Decision { by: principal.user.to_string(), via: principal.via(), at: Millis::now() };
    Ok(Ok(refuse(tx, keyring, &change, State::Withdrawn, &decision, "")?))
}

/// Lets a change lapse whose time is over.
///
/// # Errors
/// The ledger's.
pub fn expire(tx: &Transaction<'_>, keyring: &Keyring, change: &Change) -> Result<Outcome, StoreError> {
    let decision = Decision { by: HOST.to_owned(), via: String::new(), at: Millis::now() };
    refuse(tx, keyring, change, State::Expired, &decision, "")
}

/// The change if it is pending; one whose time is over lapses now, whenever somebody would have looked.
fn if_pending(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    change: Change,
) -> Result<Result<Change, Change>, StoreError> {
    if change.state == State::Pending && change.expires_at <= Millis::now() {
        return Ok(Err(expire(tx, keyring, &change)?.change));
    }
    Ok(if change.state == State::Pending { Ok(change) } else { Err(change) })
}

fn kind_of(change: &Change) -> Result<Kind, StoreError> {
    Kind::parse(&change.kind).map_err(|_| StoreError::BadRow("a kind of change"))
}

/// The effects that are stored with a change: those that its approver sees.
///
/// # Errors
/// [`StoreError::BadRow`].
pub fn effects_of(change: &Change) -> Result<Vec<Effect>, StoreError> {
    let list =
        json::parse(change.effects.as_bytes()).map_err(|_| StoreError::BadRow("a change's effects"))?;
    super::effect::from_list(&list).map_err(|_| StoreError::BadRow("a change's effects"))
}

/// Why this person may not decide this change.
fn objection(
    conn: &Connection,
    policy: &Policy,
    principal: &Principal,
    change: &Change,
    kind: Kind,
    effects: &[Effect],
    verdict: Verdict,
) -> Result<Option<&'static str>, StoreError> {
    if !principal.has(Scope::Approve) {
        return Ok(Some("the token's scopes do not hold approve"));
    }
    let standing = principal.standing(conn)?;
    Ok(objection_of(policy, &principal.user, &standing, change, kind, effects, verdict))
}

/// The same, of somebody with this standing.
fn objection_of(
    policy: &Policy,
    user: &UserId,
    standing: &Standing,
    change: &Change,
    kind: Kind,
    effects: &[Effect],
    verdict: Verdict,
) -> Option<&'static str> {
    // A group that is not there yet is nobody's.
    let group = (kind != Kind::CreateAgent).then_some(&change.group);
    if !standing.allows(Scope::Approve, group) {
        return Some("your roles do not let you decide for this agent");
    }
    if verdict == Verdict::Reject {
        return None;
    }
    for effect in effects {
        if let Some(agent) = effect.agent_written_to()
            && !standing.allows(Scope::Approve, Some(&agent))
        {
            return Some("your roles do not let you decide for the agent that would be written to");
        }
        let Effect::SetRole { role, scope, .. } = effect else { continue };
        if matches!(role, Role::Owner | Role::Admin) && !standing.is_owner() {
            return Some("only an owner makes or unmakes owners and admins");
        }
        if !standing.allows(Scope::Approve, scope.as_ref()) {
            return Some("this role reaches further than your own");
        }
    }
    left_to_others(policy, user, standing, kind, group, &change.requested_by)
}

/// Why the operator's policy leaves the approval to somebody else.
fn left_to_others(
    policy: &Policy,
    user: &UserId,
    standing: &Standing,
    kind: Kind,
    group: Option<&GroupName>,
    requested_by: &str,
) -> Option<&'static str> {
    if let Some(roles) = policy.approvers(kind)
        && !standing.has_one_of(roles, group)
    {
        return Some("the operator's policy leaves changes of this kind to other roles");
    }
    if policy.wants_four_eyes() && requested_by == user.to_string() {
        return Some("the operator's policy wants somebody else to approve what you asked for");
    }
    None
}

fn approve(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    change: &Change,
    proposal: &Proposal,
    decision: &Decision,
    note: &str,
) -> Result<Outcome, StoreError> {
    if !changes::decide(tx, &change.id, (State::Pending, State::Approved), decision, note)? {
        return Err(StoreError::Conflict("the change is not pending any more"));
    }
    record(tx, "change.approved", change, decision, Some(("digest", &change.digest)))?;
    if proposal.effects.iter().any(Effect::has_host_work) {
        // Nothing of it holds before all that it needs on the host is there. Whoever decides meanwhile about the same
        // must see that this was decided.
        for effect in &proposal.effects {
            revisions::bump(tx, &effect.object())?;
        }
        let change = changes::get(tx, &change.id)?.ok_or(StoreError::BadRow("a change"))?;
        return Ok(Outcome { change, answered: None, changed: Vec::new() });
    }
    take_effect(tx, keyring, change, &proposal.effects, decision, note)
}

/// Does what a change says, and says so.
fn take_effect(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    change: &Change,
    effects: &[Effect],
    by: &Decision,
    note: &str,
) -> Result<Outcome, StoreError> {
    changes::finish(tx, &change.id, None)?;
    let recorded = record(tx, "change.applied", change, by, None)?;
    for effect in effects {
        effect.apply(tx, recorded)?;
    }
    let mut changed: Vec<GroupName> = effects.iter().filter_map(|effect| effect.group().cloned()).collect();
    changed.dedup();
    if by.by == POLICY {
        // Who asked has it as the answer to the asking.
        let change = changes::get(tx, &change.id)?.ok_or(StoreError::BadRow("a change"))?;
        return Ok(Outcome { change, answered: None, changed });
    }
    Ok(Outcome { changed, ..told(tx, keyring, change, "was approved and is in effect", note)? })
}

/// What became of the host's part of an approved change: done, or why not. Only now it takes effect, unless something
/// that it replaces was replaced since it was approved: then its approver saw something else, and it lapses. `None` when
/// it is not approved any more.
pub(super) fn finish(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    id: &ChangeId,
    failure: Option<&str>,
) -> Result<Option<Outcome>, StoreError> {
    let approved = changes::get(tx, id)?.filter(|change| change.state == State::Approved);
    let Some(change) = approved else { return Ok(None) };
    let effects = effects_of(&change)?;
    let host = Decision { by: HOST.to_owned(), via: String::new(), at: Millis::now() };
    if is_superseded(tx, &change, &effects)? {
        changes::finish(tx, id, Some(SUPERSEDED))?;
        return Ok(Some(refuse(tx, keyring, &change, State::Expired, &host, "")?));
    }
    let failure = match failure {
        Some(why) => Some(why.to_owned()),
        None => kind::too_many(tx, &change.group, &effects)?.map(|refusal| refusal.text),
    };
    let Some(why) = failure else {
        return Ok(Some(take_effect(tx, keyring, &change, &effects, &host, &change.note)?));
    };
    changes::finish(tx, id, Some(&why))?;
    record(tx, "change.failed", &change, &host, Some(("why", &why)))?;
    let change = changes::get(tx, id)?.ok_or(StoreError::BadRow("a change"))?;
    Ok(Some(Outcome { change, answered: None, changed: Vec::new() }))
}

/// Whether something that an approved change stands on was replaced since. Its approval counted as one replacement of
/// each object of its own.
pub(super) fn is_superseded(
    conn: &Connection,
    change: &Change,
    effects: &[Effect],
) -> Result<bool, StoreError> {
    const BAD: StoreError = StoreError::BadRow("a change's revisions");
    let own: Vec<String> = effects.iter().map(Effect::object).collect();
    let base = json::parse(change.base.as_bytes()).map_err(|_| BAD)?;
    for item in base.as_array().ok_or(BAD)? {
        let object = item.get("object").and_then(Value::as_str).ok_or(BAD)?;
        let seen = item.get("revision").and_then(Value::as_u64).ok_or(BAD)?;
        let approved = u64::from(own.iter().any(|own| own == object));
        if revisions::get(conn, object)? != seen + approved {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Records that somebody wants an approved change's host work tried again, if they may.
///
/// # Errors
/// The ledger's; the inner ones are the asker's.
pub fn retry(
    tx: &Transaction<'_>,
    principal: &Principal,
    id: &ChangeId,
) -> Result<Result<Change, NotDecided>, StoreError> {
    let Some(change) = changes::get(tx, id)? else { return Ok(Err(NotDecided::NoChange)) };
    let standing = principal.standing(tx)?;
    if !principal.has(Scope::Approve) || !standing.allows(Scope::Approve, Some(&change.group)) {
        return Ok(Err(NotDecided::Forbidden("your roles do not let you decide for this agent")));
    }
    if change.state != State::Approved {
        return Ok(Err(NotDecided::NotApproved(Box::new(change))));
    }
    let by = Decision { by: principal.user.to_string(), via: principal.via(), at: Millis::now() };
    record(tx, "change.retried", &change, &by, None)?;
    Ok(Ok(change))
}

fn refuse(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    change: &Change,
    state: State,
    decision: &Decision,
    note: &str,
) -> Result<Outcome, StoreError> {
    let is_decided = match change.state {
        // Who approved it stays to be seen; who took it back is in the audit.
        State::Approved => changes::undo(tx, &change.id, state, decision)?,
        from => changes::decide(tx, &change.id, (from, state), decision, note)?,
    };
    if !is_decided {
        return Err(StoreError::Conflict("the change was decided meanwhile"));
    }
    let why = (change.state == State::Approved && state == State::Expired).then_some(("why", SUPERSEDED));
    let (act, words) = match state {
        State::Rejected => ("change.rejected", "was rejected; nothing was changed"),
        State::Withdrawn => ("change.withdrawn", "was withdrawn; nothing was changed"),
        _ if why.is_some() => {
            ("change.expired", "has lapsed, because what it replaces was replaced meanwhile")
        }
        _ => ("change.expired", "was not decided in time and has lapsed; nothing was changed"),
    };
    record(tx, act, change, decision, why)?;
    told(tx, keyring, change, words, note)
}

fn record(
    tx: &Transaction<'_>,
    act: &'static str,
    change: &Change,
    decision: &Decision,
    more: Option<(&str, &str)>,
) -> Result<u64, StoreError> {
    let mut detail = vec![("kind".to_owned(), Value::from(change.kind.as_str()))];
    detail.extend(more.map(|(name, text)| (name.to_owned(), Value::from(text))));
    let record = Record {
        act,
        actor: &decision.by,
        via: &decision.via,
        group: Some(&change.group),
        object: change.id.as_str(),
        detail: Value::Object(detail),
    };
    audit::record(tx, &record)
}

/// Tells an agent that asked, in a message that starts a turn.
fn told(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    change: &Change,
    words: &str,
    note: &str,
) -> Result<Outcome, StoreError> {
    let session = change.via.strip_prefix("session:").and_then(|id| SessionId::parse(id).ok());
    let answered = match session {
        Some(session) => tell(tx, keyring, change, session, words, note)?,
        None => None,
    };
    let change = changes::get(tx, &change.id)?.ok_or(StoreError::BadRow("a change"))?;
    Ok(Outcome { change, answered, changed: Vec::new() })
}

fn tell(
    tx: &Transaction<'_>,
    keyring: &Keyring,
    change: &Change,
    session: SessionId,
    words: &str,
    note: &str,
) -> Result<Option<SessionId>, StoreError> {
    let Some(row) = sessions::get(tx, &session)? else { return Ok(None) };
    if groups::live(tx, &row.partition.group)?.is_none() {
        return Ok(None);
    }
    let mut text = format!("The change {} ({}) that you asked for {words}.", change.id, change.kind);
    if !note.trim().is_empty() {
        text.push_str(&format!("\nNote of the person who decided: {}", plain::block(note.trim())));
    }
    let message = NewInbound {
        place: row.partition.place.clone(),
        partition: row.partition,
        event_id: format!("change:{}", change.id),
        kind: InboundKind::Answer,
        engage: true,
        sender_id: "system:gateway".to_owned(),
        sender_name: "gateway".to_owned(),
        text,
        in_reply_to: None,
        source_session: None,
        hop: 0,
        platform_message: None,
    };
    match inbox::accept(tx, keyring, &message) {
        Ok(_) => Ok(Some(session)),
        Err(error) if error.is_disk() => Err(error),
        // A decision does not fail because its asker cannot listen.
        Err(error) => {
            log::warn("change.not_told", &[("change", &change.id), ("session", &session), ("error", &error)]);
            Ok(None)
        }
    }
}
