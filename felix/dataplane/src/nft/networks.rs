//! Which networks of a set must be told to the kernel, whose intervals may not overlap?

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Unbounded};

use ipnet::IpNet;

/// Networks of one family. Those that lie in another of them are kept in mind, but are not elements.
#[derive(Clone, Debug, Default)]
pub(super) struct Networks {
    members: BTreeSet<IpNet>,
    /// Those of them that lie in no other.
    outer: BTreeSet<IpNet>,
}

/// What changed of the elements: gone, come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) gone: Vec<IpNet>,
    pub(super) come: Vec<IpNet>,
}

impl Networks {
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn insert(&mut self, network: IpNet) -> Changed {
        let network = network.trunc();
        if !self.members.insert(network) || self.is_covered(&network) {
            return Changed::default();
        }
        let gone: Vec<IpNet> = inside(&self.outer, network).collect();
        for inner in &gone {
            self.outer.remove(inner);
        }
        self.outer.insert(network);
        Changed { gone, come: vec![network] }
    }

    pub(super) fn remove(&mut self, network: IpNet) -> Changed {
        let network = network.trunc();
        self.members.remove(&network);
        if !self.outer.remove(&network) {
            return Changed::default();
        }
        // A network stands before those that lie in it.
        let mut come: Vec<IpNet> = Vec::new();
        for inner in inside(&self.members, network) {
            if !come.last().is_some_and(|last| last.contains(&inner)) {
                come.push(inner);
            }
        }
        self.outer.extend(&come);
        Changed { gone: vec![network], come }
    }

    /// Whether it lies in an element. Elements do not overlap, so that only the one before it can hold it.
    fn is_covered(&self, network: &IpNet) -> bool {
        self.outer.range(..network).next_back().is_some_and(|before| before.contains(network))
    }
}

/// Networks that lie in `outer`, without itself: they follow it in order, and end where its addresses do.
fn inside(networks: &BTreeSet<IpNet>, outer: IpNet) -> impl Iterator<Item = IpNet> {
    networks.range((Excluded(outer), Unbounded)).copied().take_while(move |network| outer.contains(network))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Few addresses and many lengths, so that most networks lie in others.
    fn network() -> impl Strategy<Value = IpNet> {
        (0_u32..8, 0_u8..=6)
            .prop_map(|(bits, length)| IpNet::new(std::net::Ipv4Addr::from(bits << 29).into(), length).unwrap())
    }

    proptest! {
        #[test]
        fn elements_are_the_networks_that_lie_in_no_other(steps in prop::collection::vec((network(), any::<bool>()), 0..40)) {
            let (mut networks, mut members, mut elements) = (Networks::default(), BTreeSet::new(), BTreeSet::new());
            for (network, wanted) in steps {
                let network = network.trunc();
                let changed = if wanted { networks.insert(network) } else { networks.remove(network) };
                if wanted { members.insert(network); } else { members.remove(&network); }
                for gone in changed.gone {
                    prop_assert!(elements.remove(&gone), "{gone} was no element");
                }
                for come in changed.come {
                    prop_assert!(elements.insert(come), "{come} was an element");
                }
                let outermost = |network: &&IpNet| !members.iter().any(|other| other != *network && other.contains(*network));
                let expected: BTreeSet<IpNet> = members.iter().filter(outermost).copied().collect();
                prop_assert_eq!(&elements, &expected);
            }
        }
    }
}
