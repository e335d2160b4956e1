//! A press of a button under a card: who presses must be whom the card was made for, in the chat in which it was shown, and
//! what they carry must be what the host put there for exactly what the change is now. Everything else is decided as
//! every decision is. Touches the ledger, through the gateway.

use super::card;
use crate::contract::ids::UserId;
use crate::controlplane::audit::ActError;
use crate::controlplane::gateway::Gateway;
use crate::controlplane::gateway::decide::{Decide, NotDecided, Verdict};
use crate::controlplane::keys::Keyring;
use crate::controlplane::principals::Principal;
use crate::controlplane::store::changes::{self, State};
use crate::controlplane::store::{Ledger, StoreError, approvals};
use crate::controlplane::telemetry::log;

const NOTHING: &str = "This button does nothing any more.";
const NOT_YOU: &str = "This is for somebody else to decide.";
const CHANGED: &str = "It is not what it was: look at what it would do now.";

/// Whether a button is one of these.
pub fn is_one(data: &str) -> bool {
    data.starts_with(card::BUTTON)
}

/// Decides what the button stands for, and gives what whoever pressed it is told. The same press again decides nothing.
///
/// # Errors
/// The ledger's; the same may be tried again.
pub async fn press(
    ledger: &Ledger,
    keyring: &Keyring,
    gateway: &Gateway,
    (channel, instance, chat): (&str, &str, &str),
    user: UserId,
    data: &str,
) -> Result<&'static str, StoreError> {
    let Some((number, given)) = card::pressed(data) else { return Ok(NOTHING) };
    let found = ledger.read(move |conn| {
        let Some(card) = approvals::card(conn, number)? else { return Ok(None) };
        Ok(changes::get(conn, &card.change)?.map(|change| (card, change)))
    });
    let Some((card, change)) = found.await? else { return Ok(NOTHING) };
    // Whoever was shown it elsewhere, or made it up, is told what everybody is told of what is not there.
    if (card.channel.as_str(), card.instance.as_str(), card.chat.as_str()) != (channel, instance, chat) {
        log::warn("approvals.press_elsewhere", &[("change", &change.id), ("card", &number), ("by", &user)]);
        return Ok(NOTHING);
    }
    let of = |digest: &str| {
        let is_it = |verdict: &Verdict| is_same(&card::nonce(keyring, &card, digest, *verdict), &given);
        [Verdict::Approve, Verdict::Reject].into_iter().find(is_it)
    };
    let Some(verdict) = of(&change.digest) else {
        let shown = card::asked(&card.shown).unwrap_or_default();
        return Ok(if of(shown).is_some() { CHANGED } else { NOTHING });
    };
    if user != card.user {
        // Whoever shows a button of somebody else's has seen what was shown to them alone.
        log::warn("approvals.foreign_press", &[("change", &change.id), ("card", &number), ("by", &user)]);
        return Ok(NOT_YOU);
    }
    if change.state != State::Pending {
        return Ok(of_state(change.state));
    }
    let (who, what) = (user.clone(), change.id.clone());
    let account = if instance.is_empty() { channel.to_owned() } else { format!("{channel}/{instance}") };
    let principal = Principal::pressing(user, number, account);
    let decide = Decide { verdict, digest: Some(change.digest), note: String::new() };
    let told = match gateway.decide_soon(principal, change.id, decide).await {
        Ok(Ok(outcome)) => match outcome.change.state {
            State::Rejected => "Rejected; nothing was changed.",
            State::Applied => "Approved; it is in effect.",
            _ => "Approved; the host does its part now.",
        },
        Ok(Err(not)) => words(&not),
        Err(ActError::Unavailable(_)) => {
            "Nothing was decided, because it cannot be recorded now; try again later."
        }
        Err(ActError::Unexported { done: Ok(_), .. }) => {
            "It is decided; it takes effect when it is recorded."
        }
        // That it lapsed or is another one now is recorded too; it is not decided for that.
        Err(ActError::Unexported { done: Err(not), .. }) => words(&not),
        Err(ActError::Store(error)) => return Err(error),
    };
    log::info("approvals.pressed", &[("change", &what), ("user", &who), ("told", &told)]);
    Ok(told)
}

/// Why nothing was decided, for whoever pressed.
fn words(not: &NotDecided) -> &'static str {
    match not {
        NotDecided::Forbidden(why) => why,
        NotDecided::NotPending(change) => of_state(change.state),
        NotDecided::Stale(_) | NotDecided::WrongDigest(_) => CHANGED,
        NotDecided::Invalid(_) => "It cannot be done any more; ironctl change approve says why.",
        NotDecided::NoChange | NotDecided::NoDigest | NotDecided::NotApproved(_) | NotDecided::TooLong => {
            NOTHING
        }
    }
}

/// What came of it before.
fn of_state(state: State) -> &'static str {
    match state {
        State::Approved | State::Applied => "It was approved already.",
        State::Rejected => "It was rejected already.",
        State::Withdrawn => "It was withdrawn.",
        State::Expired | State::Pending => "It has lapsed.",
    }
}

/// Takes as long wherever they differ.
fn is_same(one: &[u8; 16], other: &[u8; 16]) -> bool {
    one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}
