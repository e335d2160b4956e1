//! Who makes room when all places are taken: nobody has more than a share that leaves room for others, however many
//! come from one network or with one token. Pure.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

/// Who holds a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Who {
    /// Who showed nothing yet, from this network.
    Stranger(IpAddr),
    /// Who is known by this name.
    Known(Arc<str>),
}

/// One place that is taken.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    /// By whom.
    pub(super) who: Who,
    /// Something is being done there.
    pub(super) busy: bool,
}

/// Which of these, oldest first, makes room: of the strangers the oldest from the network that has most of them; where
/// there are none, the oldest of who is known and has most, one with nothing to do first.
pub(super) fn who_leaves(holders: &[Holder]) -> Option<usize> {
    let strangers = holders.iter().filter(|holder| matches!(holder.who, Who::Stranger(_)));
    if let Some((crowd, _)) = most(strangers.map(|holder| &holder.who)) {
        return holders.iter().position(|holder| holder.who == crowd);
    }
    let (greediest, _) = most(holders.iter().map(|holder| &holder.who))?;
    let of_it = |holder: &Holder| holder.who == greediest;
    let idle = holders.iter().position(|holder| of_it(holder) && !holder.busy);
    idle.or_else(|| holders.iter().position(of_it))
}

/// What is there most often, and how often; of several the one that was there first.
pub(super) fn most<'a, T: Clone + Eq + Hash + 'a>(all: impl Iterator<Item = &'a T>) -> Option<(T, usize)> {
    let mut counts: HashMap<&T, (usize, usize)> = HashMap::new();
    for (at, one) in all.enumerate() {
        counts.entry(one).or_insert((0, at)).0 += 1;
    }
    let (most, (count, _)) = counts
        .into_iter()
        .max_by(|(_, (many, at)), (_, (more, since))| many.cmp(more).then_with(|| since.cmp(at)))?;
    Some((most.clone(), count))
}

/// What counts as one peer: an address, and of IPv6 the 64 bits that one host can choose the rest of.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A word is a token, or a number of a stranger's network; `!` is for who is busy.
    fn holders(words: &str) -> Vec<Holder> {
        let holder = |word: &str| {
            let (name, busy) = word.strip_suffix('!').map_or((word, false), |name| (name, true));
            let who = match name.parse::<u8>() {
                Ok(number) => Who::Stranger(IpAddr::from([10, 0, 0, number])),
                Err(_) => Who::Known(name.into()),
            };
            Holder { who, busy }
        };
        words.split_whitespace().map(holder).collect()
    }

    #[test]
    fn strangers_go_first_then_who_has_most() {
        for (words, leaves) in [
            ("", None),
            ("a a 1", Some(2)),
            ("1 a 1", Some(0)),
            ("1 2 2 2!", Some(1)),
            ("1! 1 a 2", Some(0)),
            ("2 a a a 1", Some(0)),
            ("b a a", Some(1)),
            ("b a! a", Some(2)),
            ("b a! a! a!", Some(1)),
            ("a b", Some(0)),
            ("b a", Some(0)),
        ] {
            assert_eq!(who_leaves(&holders(words)), leaves, "{words}");
        }
        assert_eq!(most(["a", "b", "b", "a"].iter()), Some(("a", 2)));
    }

    #[test]
    fn one_host_is_one_network() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1:2:3"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }
}
