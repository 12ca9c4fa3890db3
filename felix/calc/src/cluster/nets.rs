//! Which networks cover another, and which lie inside of it? Both in ordered maps, by ranges and by the lengths that occur.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use ipnet::IpNet;

/// The prefix lengths of a collection of networks, each family's by itself, with how many have them.
#[derive(Debug, Default)]
pub(super) struct Lengths {
    v4: BTreeMap<u8, usize>,
    v6: BTreeMap<u8, usize>,
}

impl Lengths {
    fn of(&mut self, net: &IpNet) -> &mut BTreeMap<u8, usize> {
        if net.addr().is_ipv4() { &mut self.v4 } else { &mut self.v6 }
    }

    /// A network came to the collection.
    pub(super) fn add(&mut self, net: &IpNet) {
        *self.of(net).entry(net.prefix_len()).or_default() += 1;
    }

    /// A network left the collection.
    pub(super) fn remove(&mut self, net: &IpNet) {
        let lengths = self.of(net);
        if let Some(count) = lengths.get_mut(&net.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&net.prefix_len());
            }
        }
    }

    /// What could be in the collection and covers `net`, itself included, the longest first.
    pub(super) fn covering(&self, net: &IpNet) -> impl Iterator<Item = IpNet> {
        let (lengths, address) = (if net.addr().is_ipv4() { &self.v4 } else { &self.v6 }, net.addr());
        let lengths = lengths.range(..=net.prefix_len()).rev();
        lengths.filter_map(move |(length, _)| Some(IpNet::new(address, *length).ok()?.trunc()))
    }
}

/// The keys between which all networks inside `net` are, and some that cover it.
pub(super) fn around(net: &IpNet) -> RangeInclusive<IpNet> {
    let longest = net.max_prefix_len();
    let edge = |address, length| IpNet::new(address, length).unwrap_or(*net);
    edge(net.network(), 0)..=edge(net.broadcast(), longest)
}
