//! What follows an attempt to bring a message: the next part, a pause that grows, or the end. Pure but for the pauses'
//! chance.

use std::time::Duration;

use crate::contract::time::Millis;
use crate::controlplane::channels::Part;
use crate::controlplane::channels::supervisor::jittered;
use crate::controlplane::store::deliveries::Delivery;

/// A part that was not taken so often is given up: after about half an hour, if the platform names no times.
pub(super) const MOST_ATTEMPTS: u32 = 12;
/// What was not taken for so long is given up with the next attempt that fails, in milliseconds: an answer of yesterday
/// is for somebody to look at.
const MOST_AGE: i64 = 24 * 60 * 60 * 1000;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// A platform that names a longer time is asked again after this.
pub(super) const LONGEST_HINT: Duration = Duration::from_secs(60 * 60);

/// What a worker does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing waits.
    Nothing,
    /// It looks again.
    Now,
    /// It looks again after this time, or when it is told to.
    After(Duration),
    /// It looks again when the account is well.
    Well,
}

/// Why nothing more is tried after an attempt that failed for a reason.
pub(super) fn too_late(failing_since: Option<Millis>, now: Millis, why: &str) -> Option<String> {
    let is_late = failing_since.is_some_and(|since| now.0.saturating_sub(since.0) >= MOST_AGE);
    is_late.then(|| format!("it was tried for a day; at last: {why}"))
}

/// How long to wait after so many earlier attempts and one more; `None` when that was the last. What the platform says
/// is the least.
pub(super) fn pause(attempts: u32, hint: Option<Duration>) -> Option<Duration> {
    if attempts.saturating_add(1) >= MOST_ATTEMPTS {
        return None;
    }
    let grown = FIRST_PAUSE.saturating_mul(1 << attempts.min(16)).min(LONGEST_PAUSE);
    let hint = hint.unwrap_or_default().min(LONGEST_HINT);
    // The longer half of the pause is chance, so that not all come again at once.
    Some(hint.max(jittered(grown)))
}

/// The part that is next; after those of the text come so many files.
///
/// # Errors
/// Why there is none.
pub(super) fn part_of(delivery: &Delivery, mut parts: Vec<String>, files: usize) -> Result<Part, String> {
    parts.resize(parts.len() + files, String::new());
    let of = u32::try_from(parts.len()).unwrap_or(u32::MAX);
    let number = delivery.part;
    let at = usize::try_from(number).unwrap_or(usize::MAX);
    if at >= parts.len() {
        return Err(match of {
            0 => "there is nothing in it".to_owned(),
            _ => format!("it has {of} parts in this build, and {number} were brought by an earlier one"),
        });
    }
    // Cut elsewhere, what follows may say something again or leave it out: somebody is to decide that.
    if let Some(known) = delivery.parts.filter(|known| number > 0 && *known != of) {
        return Err(format!(
            "it was {known} messages, of which {number} were brought, and is {of} in this build; trying it again goes on \
             with number {}",
            number.saturating_add(1)
        ));
    }
    Ok(Part {
        message: delivery.message.clone(),
        number,
        of,
        chat: delivery.place.chat.clone(),
        thread: delivery.place.thread.clone(),
        text: parts.swap_remove(at),
        quotes: if number == 0 { delivery.quotes.clone() } else { None },
        cause: delivery.cause.clone(),
        file: None,
        buttons: Vec::new(),
        is_verbatim: false,
        edit: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::ids::{MessageId, SessionId};
    use crate::controlplane::store::deliveries::State;
    use crate::controlplane::store::sessions::Place;

    #[test]
    fn pauses_grow_heed_the_platform_and_end() {
        let mut least = Duration::ZERO;
        for attempts in 0..MOST_ATTEMPTS - 1 {
            let pause = pause(attempts, None).unwrap();
            let full = FIRST_PAUSE.saturating_mul(1 << attempts).min(LONGEST_PAUSE);
            assert!(pause >= full / 2 && pause <= full, "{attempts}: {pause:?}");
            assert!(pause >= least / 2);
            least = pause;
        }
        assert_eq!(pause(MOST_ATTEMPTS - 1, None), None);
        assert_eq!(pause(0, Some(Duration::from_secs(40))), Some(Duration::from_secs(40)));
        assert_eq!(pause(0, Some(Duration::from_secs(1 << 40))), Some(LONGEST_HINT));
        assert_eq!(pause(u32::MAX, None), None);
    }

    #[test]
    fn nothing_is_tried_for_more_than_a_day() {
        assert_eq!(too_late(None, Millis(i64::MAX), ""), None, "whatever it waited for, it is tried");
        let since = Millis(1_000);
        for (after, is_late) in [(0, false), (MOST_AGE - 1, false), (MOST_AGE, true), (-MOST_AGE, false)] {
            let told = too_late(Some(since), Millis(since.0 + after), "it answers 503");
            assert_eq!(told.is_some(), is_late, "{after}");
            assert!(told.is_none_or(|told| told.contains("it answers 503")));
        }
        assert!(too_late(Some(Millis(i64::MIN)), Millis(i64::MAX), "").is_some());
    }

    #[test]
    fn what_was_cut_otherwise_is_for_somebody_to_decide() {
        let at = |part: u32, parts: Option<u32>| {
            let delivery = delivery(part, parts);
            part_of(&delivery, vec!["one".to_owned(), "two".to_owned(), "three".to_owned()], 1)
        };
        let part = at(1, Some(4)).unwrap();
        assert_eq!((part.number, part.of, part.text.as_str()), (1, 4, "two"));
        assert_eq!(at(3, Some(4)).unwrap().text, "", "the file");
        for (part, parts) in [(1, Some(3)), (2, Some(5)), (4, Some(4))] {
            assert!(at(part, parts).is_err(), "{part} of {parts:?}");
        }
        // Before anything was brought, and where a retry was asked for, it is cut as this build does.
        assert_eq!(at(0, Some(9)).unwrap().of, 4);
        assert_eq!(at(2, None).unwrap().text, "three");
    }

    fn delivery(part: u32, parts: Option<u32>) -> Delivery {
        let place =
            Place { channel: "webhook".into(), instance: String::new(), chat: "c".into(), thread: None };
        Delivery {
            position: 1,
            message: MessageId::mint(),
            session: SessionId::mint(),
            place,
            quotes: None,
            cause: None,
            state: State::Waiting,
            part,
            parts,
            attempts: 0,
            due: Millis(0),
            failing_since: None,
            error: None,
            receipts: Vec::new(),
            finished_at: None,
        }
    }
}
