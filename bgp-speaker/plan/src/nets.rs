//! Does a prefix lie in one of many? One look-up for each length that occurs, however many there are.

use std::collections::BTreeSet;

use ipnet::IpNet;

/// A set of networks, without host bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nets {
    nets: BTreeSet<IpNet>,
    /// Lengths that occur, whatever the family, the shortest first.
    lengths: BTreeSet<u8>,
}

impl Nets {
    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.nets.is_empty()
    }

    /// Whether exactly this network is in the set.
    pub(crate) fn has(&self, net: &IpNet) -> bool {
        self.nets.contains(net)
    }

    /// Whether `net` is in the set, or inside one that is.
    pub(crate) fn cover(&self, net: &IpNet) -> bool {
        let outer = |length: &u8| IpNet::new(net.addr(), *length).is_ok_and(|outer| self.nets.contains(&outer.trunc()));
        self.lengths.iter().take_while(|length| **length <= net.prefix_len()).any(outer)
    }

    /// What is in one of the sets only.
    pub(crate) fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = IpNet> + 'a {
        self.nets.symmetric_difference(&other.nets).copied()
    }

    /// Every network.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.nets.iter().copied()
    }

    /// The same addresses in as few networks of the set as can be: those inside others are left out.
    pub(crate) fn outermost(&self) -> Vec<IpNet> {
        let mut by_length: Vec<_> = self.iter().collect();
        by_length.sort_by_key(|net| (net.prefix_len(), *net));
        let mut kept = Self::default();
        for net in by_length {
            if !kept.cover(&net) {
                kept.extend([net]);
            }
        }
        kept.nets.into_iter().collect()
    }
}

impl FromIterator<IpNet> for Nets {
    fn from_iter<I: IntoIterator<Item = IpNet>>(nets: I) -> Self {
        let nets: BTreeSet<_> = nets.into_iter().map(|net| net.trunc()).collect();
        let lengths = nets.iter().map(IpNet::prefix_len).collect();
        Self { nets, lengths }
    }
}

impl Extend<IpNet> for Nets {
    fn extend<I: IntoIterator<Item = IpNet>>(&mut self, nets: I) {
        for net in nets {
            self.lengths.insert(net.prefix_len());
            self.nets.insert(net.trunc());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_net() -> impl Strategy<Value = IpNet> {
        (0..4_u8, 0..4_u8, 6..=32_u8, any::<bool>()).prop_map(|(a, b, length, v4)| match v4 {
            true => IpNet::new([10, a, b, 0].into(), length).unwrap().trunc(),
            false => format!("fd00:{a}:{b}::/{}", length * 2).parse::<IpNet>().unwrap().trunc(),
        })
    }

    proptest! {
        #[test]
        fn cover_says_what_asking_each_network_says(nets in prop::collection::vec(any_net(), 0..12), asked in any_net()) {
            let all: Nets = nets.iter().copied().collect();
            prop_assert_eq!(all.cover(&asked), nets.iter().any(|net| net.contains(&asked)));
            prop_assert_eq!(all.has(&asked), nets.contains(&asked));
            let outermost = all.outermost();
            prop_assert_eq!(outermost.iter().any(|net| net.contains(&asked)), all.cover(&asked));
            let nested = |a: &IpNet| outermost.iter().any(|b| a != b && b.contains(a));
            prop_assert!(!outermost.iter().any(nested));
        }
    }
}
