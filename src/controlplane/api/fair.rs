//! Who makes room when all places are taken: nobody has more than a share that leaves room for others, however many
//! come with one token. Pure.

use std::collections::HashMap;
use std::sync::Arc;

/// One place that is taken.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// The token that came; none yet.
    pub(super) token: Option<Arc<str>>,
    /// Something is being done there.
    pub(super) busy: bool,
}

/// Which of these, oldest first, makes room: the oldest that showed no right token; else the oldest of the token that
/// has most of them, one with nothing to do first.
pub(super) fn who_leaves(holders: &[Holder]) -> Option<usize> {
    if let Some(stranger) = holders.iter().position(|holder| holder.token.is_none()) {
        return Some(stranger);
    }
    let greediest = most(holders)?.0;
    let of_it = |holder: &Holder| holder.token.as_ref() == Some(&greediest);
    let idle = holders.iter().position(|holder| of_it(holder) && !holder.busy);
    idle.or_else(|| holders.iter().position(of_it))
}

/// The token that has most of these, and how many.
pub(super) fn most(holders: &[Holder]) -> Option<(Arc<str>, usize)> {
    let mut counts: HashMap<Arc<str>, usize> = HashMap::new();
    for token in holders.iter().filter_map(|holder| holder.token.clone()) {
        *counts.entry(token).or_default() += 1;
    }
    counts.into_iter().max_by(|(a, many), (b, more)| many.cmp(more).then_with(|| b.cmp(a)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holders(words: &str) -> Vec<Holder> {
        let holder = |word: &str| {
            let (token, busy) = word.strip_suffix('!').map_or((word, false), |token| (token, true));
            Holder { token: (token != "-").then(|| token.into()), busy }
        };
        words.split_whitespace().map(holder).collect()
    }

    #[test]
    fn strangers_go_first_then_who_has_most() {
        for (words, leaves) in [
            ("", None),
            ("a a -", Some(2)),
            ("- a -", Some(0)),
            ("b a a", Some(1)),
            ("b a! a", Some(2)),
            ("b a! a! a!", Some(1)),
            ("a b", Some(0)),
            ("b a", Some(1)),
        ] {
            assert_eq!(who_leaves(&holders(words)), leaves, "{words}");
        }
        assert_eq!(most(&holders("a b b -")).unwrap().1, 2);
    }
}
