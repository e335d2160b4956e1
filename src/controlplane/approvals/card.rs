//! What a card says and which buttons are under it. All that others wrote is escaped and in quotes, and nothing of a
//! difference is left out of what can be approved by a button. Pure, but for the key of the buttons.

use crate::contract::plain;
use crate::controlplane::gateway::decide::Verdict;
use crate::controlplane::keys::Keyring;
use crate::controlplane::questions::Button;
use crate::controlplane::store::approvals::Card;
use crate::controlplane::store::changes::{Change, State};

/// What the data of these buttons begins with.
pub(super) const BUTTON: &str = "a:";
/// Longest card, in UTF-16 units: a message of every platform has room for it.
const MOST: usize = 3600;
/// Longest reason, note or name on a card, in UTF-16 units as it is shown; the rest is told by its number.
const MOST_WORDS: usize = 400;

/// What a card is to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Face {
    /// Its word in the ledger.
    pub(super) shown: String,
    /// What it says.
    pub(super) text: String,
    /// What can be pressed.
    pub(super) buttons: Vec<Button>,
    /// Nothing else will be shown after it.
    pub(super) is_over: bool,
}

/// The card of a change that its person may decide, and whether it says that more wait which are not shown.
pub(super) fn asking(keyring: &Keyring, card: &Card, change: &Change, more: bool) -> Face {
    let mut end = format!("digest {}\nlapses {}", change.digest, change.expires_at.to_rfc3339());
    if more {
        end.push_str("\nMore wait that are not shown here: ironctl change pending");
    }
    let (text, is_whole) = laid_out("A change waits for your decision.", change, &end);
    let button = |verdict: Verdict| Button {
        label: if verdict == Verdict::Approve { "Approve" } else { "Reject" }.to_owned(),
        data: data(keyring, card, &change.digest, verdict),
    };
    let mut buttons = Vec::new();
    // Nobody approves what they did not see.
    if is_whole {
        buttons.push(button(Verdict::Approve));
    }
    buttons.push(button(Verdict::Reject));
    Face { shown: asks(&change.digest, more), text, buttons, is_over: false }
}

/// The word of a card that asks for a decision on this digest.
pub(super) fn asks(digest: &str, more: bool) -> String {
    format!("ask {digest}{}", if more { " more" } else { "" })
}

/// The digest of such a word.
pub(super) fn asked(shown: &str) -> Option<&str> {
    shown.strip_prefix("ask ")?.split(' ').next()
}

/// The card of a change that its person does not decide any more. What it would do now is not for them to see.
pub(super) fn taken_away(change: &Change) -> Face {
    let text = format!("{}\n\n{}", "You are not asked about this change any more.", which(change));
    Face { shown: "off".to_owned(), text, buttons: Vec::new(), is_over: false }
}

/// The card of a change that is not pending, for somebody who could not decide it any more.
pub(super) fn over(change: &Change) -> Face {
    let Face { shown, is_over, .. } = decided(change);
    let text = format!("This change is {}.\n\n{}", change.state.as_str(), which(change));
    Face { shown, text, buttons: Vec::new(), is_over }
}

/// A change by its name.
fn which(change: &Change) -> String {
    format!("{} of {}, {}", plain::word(&change.kind), change.group, change.id)
}

/// The card of a change that is not pending.
pub(super) fn decided(change: &Change) -> Face {
    let by =
        change.decision.as_ref().map_or_else(String::new, |decision| plain::word(&decision.by).into_owned());
    let why = change.failure.as_deref().map(|why| words(why, &plain::line)).unwrap_or_default();
    let (shown, says, is_over) = match change.state {
        State::Pending => ("pending", "A change waits.".to_owned(), false),
        State::Applied => ("applied", format!("Approved by {by}; it is in effect."), true),
        State::Approved if change.failure.is_none() => {
            ("approved", format!("Approved by {by}; the host does its part now."), false)
        }
        State::Approved => (
            "failed",
            format!(
                "Approved by {by}, but the host could not do its part: {why}\nTry it again: ironctl change retry {}",
                change.id
            ),
            false,
        ),
        State::Rejected => ("rejected", format!("Rejected by {by}; nothing was changed."), true),
        State::Withdrawn => ("withdrawn", "Withdrawn; nothing was changed.".to_owned(), true),
        State::Expired if why.is_empty() => {
            ("expired", "Nobody decided in time; nothing was changed.".to_owned(), true)
        }
        State::Expired => ("expired", format!("Lapsed: {why}"), true),
    };
    let mut says = says;
    if !change.note.trim().is_empty() {
        says.push_str(&format!("\nnote: {}", words(change.note.trim(), &plain::word)));
    }
    Face { shown: shown.to_owned(), text: told(&says, change), buttons: Vec::new(), is_over }
}

/// What somebody presses to decide so about what has this digest.
pub(super) fn data(keyring: &Keyring, card: &Card, digest: &str, verdict: Verdict) -> String {
    format!("{BUTTON}{}:{}", card.number, hex(&nonce(keyring, card, digest, verdict)))
}

/// What only the host could have put on that button.
pub(super) fn nonce(keyring: &Keyring, card: &Card, digest: &str, verdict: Verdict) -> [u8; 16] {
    let verdict = if verdict == Verdict::Approve { "approve" } else { "reject" };
    let user = card.user.to_string();
    keyring.button(&[verdict, card.message.as_str(), card.change.as_str(), &user, digest])
}

/// The card and the nonce that a button names.
pub(super) fn pressed(data: &str) -> Option<(u64, [u8; 16])> {
    let (number, nonce) = data.strip_prefix(BUTTON)?.split_once(':')?;
    let is_number = !number.is_empty() && number.len() <= 19 && number.bytes().all(|b| b.is_ascii_digit());
    if !is_number || nonce.len() != 32 || !nonce.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let bytes = u128::from_str_radix(nonce, 16).ok()?.to_be_bytes();
    Some((number.parse().ok()?, bytes))
}

fn hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

fn told(says: &str, change: &Change) -> String {
    laid_out(says, change, &format!("digest {}", change.digest)).0
}

/// A card, and whether all of the difference is on it.
fn laid_out(says: &str, change: &Change, end: &str) -> (String, bool) {
    let mut head =
        format!("{says}\n\n{}\nasked by {}", which(change), words(&change.requested_by, &plain::word));
    if !change.label.is_empty() {
        head.push_str(&format!(", who says to be {}", words(&change.label, &plain::word)));
    }
    if !change.reason.trim().is_empty() {
        head.push_str(&format!("\nbecause: {}", words(change.reason.trim(), &plain::word)));
    }
    let diff = change.diff.trim_end();
    let whole = format!("{head}\n\n{diff}\n\n{end}");
    if units(&whole) <= MOST {
        return (whole, true);
    }
    let all = diff.chars().count();
    let cut = |shown: &str, left: usize| {
        format!(
            "{head}\n\n{shown}\n… {left} of {all} characters are not shown here; all of it, and the way to approve it:\n\
             ironctl change approve {}\n\n{end}",
            change.id
        )
    };
    let room = MOST.saturating_sub(units(&cut("", all)));
    let mut used = 0;
    let fits = |c: &char| {
        used += c.len_utf16();
        used <= room
    };
    let shown: String = diff.chars().take_while(fits).collect();
    let left = all - shown.chars().count();
    (cut(&shown, left), false)
}

/// Words of somebody else, escaped, and cut where they are long: what is escaped may be many times as long.
fn words<'a>(text: &'a str, escaped: &dyn Fn(&str) -> std::borrow::Cow<'_, str>) -> String {
    let whole = escaped(text);
    if units(&whole) <= MOST_WORDS {
        return whole.into_owned();
    }
    let mut used = 0;
    let fits = |c: &char| {
        used += units(&escaped(c.encode_utf8(&mut [0; 4])));
        used <= MOST_WORDS
    };
    let cut: String = text.chars().take_while(fits).collect();
    format!("{} (and {} characters more)", escaped(&cut), text.chars().count() - cut.chars().count())
}

fn units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}
