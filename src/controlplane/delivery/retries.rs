//! What follows an attempt to bring a message: the next part, a pause that grows, or the end. Pure but for the pauses'
//! chance.

use std::time::Duration;

use crate::controlplane::channels::Part;
use crate::controlplane::channels::supervisor::jittered;
use crate::controlplane::store::deliveries::Delivery;

/// A part that was not taken so often is given up: after about half an hour, if the platform names no times.
pub(super) const MOST_ATTEMPTS: u32 = 12;
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

/// How long to wait after so many earlier attempts and one more; `None` when that was the last. What the platform says
/// is the least.
pub(super) fn pause(attempts: u32, hint: Option<Duration>) -> Option<Duration> {
    if attempts + 1 >= MOST_ATTEMPTS {
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
