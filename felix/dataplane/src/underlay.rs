//! The node's own interfaces and their addresses: by which does a packet to another node leave?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_netlink::{Address, Link};
use ipnet::IpNet;

use crate::tunnels;

/// Interfaces that are not workloads', with their addresses of global scope, as the kernel has them.
#[derive(Debug, Default)]
pub(crate) struct Underlay {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<u32, BTreeSet<IpNet>>,
}

impl Underlay {
    /// Takes all interfaces and addresses; `workload` tells which names do not count.
    pub(crate) fn replace(&mut self, links: &[Link], addresses: &[Address], workload: impl Fn(&str) -> bool) {
        let own = links.iter().filter(|link| !workload(&link.name));
        self.links = own.map(|link| (link.index, link.clone())).collect();
        self.addresses.clear();
        for address in addresses {
            self.put(address);
        }
    }

    /// Takes an interface; returns whether it is news that matters.
    pub(crate) fn put_link(&mut self, link: &Link) -> bool {
        // Counters and carriers change all the time.
        let same = |before: &Link| Link { running: link.running, ..before.clone() } == *link;
        let before = self.links.insert(link.index, link.clone());
        !before.is_some_and(|before| same(&before))
    }

    /// Forgets an interface; returns what it was.
    pub(crate) fn remove_link(&mut self, index: u32) -> Option<Link> {
        self.addresses.remove(&index);
        self.links.remove(&index)
    }

    /// Takes an address; returns whether it is news.
    pub(crate) fn put(&mut self, address: &Address) -> bool {
        /// `RT_SCOPE_UNIVERSE`.
        const GLOBAL: u8 = 0;
        address.scope == GLOBAL
            && self.links.contains_key(&address.index)
            && self.addresses.entry(address.index).or_default().insert(address.network)
    }

    /// Takes that an address is gone; returns whether it is news.
    pub(crate) fn remove(&mut self, address: &Address) -> bool {
        self.addresses.get_mut(&address.index).is_some_and(|networks| networks.remove(&address.network))
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    pub(crate) fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The addresses of an interface.
    pub(crate) fn addresses_of(&self, index: u32) -> impl Iterator<Item = &IpNet> {
        self.addresses.get(&index).into_iter().flatten()
    }

    /// The interface that holds an address: of several one that is up, and of those the oldest.
    pub(crate) fn holder(&self, address: IpAddr) -> Option<&Link> {
        let holds = |link: &&Link| self.addresses_of(link.index).any(|network| network.addr() == address);
        self.outward().filter(holds).min_by_key(|link| (!link.up, link.index))
    }

    /// The subnets that packets to other nodes may leave by, each with its interface's number, the narrowest first.
    pub(crate) fn ways(&self) -> Vec<(IpNet, u32)> {
        let up = self.outward().filter(|link| link.up && !link.loopback);
        let of = |link: &Link| {
            let index = link.index;
            self.addresses_of(index).map(move |network| (network.trunc(), index)).collect::<Vec<_>>()
        };
        let mut ways: Vec<(IpNet, u32)> = up.flat_map(of).filter(|(network, _)| !is_full(network)).collect();
        ways.sort_unstable_by_key(|(network, index)| (u8::MAX - network.prefix_len(), *index));
        ways
    }

    /// The addresses of the node with their subnets, but those of tunnels and workloads.
    pub(crate) fn subnets(&self) -> Vec<IpNet> {
        let all: BTreeSet<IpNet> = self.outward().flat_map(|link| self.addresses_of(link.index)).copied().collect();
        all.into_iter().collect()
    }

    /// The MTU that packets to other nodes have to keep, which leave by `link`. A loopback only lends its address: then it is
    /// the least of the interfaces that have one themselves.
    pub(crate) fn mtu(&self, link: &Link) -> u32 {
        if !link.loopback {
            return link.mtu;
        }
        let outward = self.outward().filter(|other| other.up && !other.loopback);
        let addressed = outward.filter(|other| self.addresses_of(other.index).next().is_some());
        addressed.map(|other| other.mtu).min().unwrap_or(link.mtu)
    }

    /// All but the tunnels that we make.
    fn outward(&self) -> impl Iterator<Item = &Link> {
        self.links.values().filter(|link| !tunnels::NAMES.contains(&link.name.as_str()))
    }
}

fn is_full(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, mtu: u32) -> Link {
        Link { index, name: name.to_owned(), mtu, up: true, loopback: name == "lo", ..Link::default() }
    }

    #[test]
    fn an_address_is_found_where_it_is_and_a_gateway_by_the_narrowest_subnet() {
        let mut underlay = Underlay::default();
        let links = [
            link(1, "lo", 65536),
            link(2, "eth0", 1500),
            Link { up: false, ..link(3, "eth1", 9000) },
            link(4, "tunl0", 1480),
            link(5, "cali1", 1480),
        ];
        let address = |index, text: &str| Address::new(index, text.parse().unwrap());
        let addresses = [
            address(1, "192.0.2.9/32"),
            address(2, "10.0.0.5/8"),
            address(2, "10.1.0.5/16"),
            address(3, "10.1.0.5/24"),
            address(4, "10.65.0.1/32"),
            address(5, "10.0.0.6/8"),
            Address { scope: 253, ..address(2, "169.254.1.1/16") },
        ];
        underlay.replace(&links, &addresses, |name| name.starts_with("cali"));
        let holder = |text: &str| underlay.holder(text.parse().unwrap()).map(|link| link.index);
        assert_eq!(["10.1.0.5", "192.0.2.9", "10.65.0.1", "10.0.0.6"].map(holder), [Some(2), Some(1), None, None]);
        let ways: Vec<String> = underlay.ways().iter().map(|(network, index)| format!("{network} {index}")).collect();
        assert_eq!(ways, ["10.1.0.0/16 2", "10.0.0.0/8 2"]);
        let subnets: Vec<String> = underlay.subnets().iter().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.0.0.5/8", "10.1.0.5/16", "10.1.0.5/24", "192.0.2.9/32"]);
        assert_eq!(underlay.mtu(&link(1, "lo", 65536)), 1500);
        assert!(!underlay.put_link(&Link { running: true, ..link(2, "eth0", 1500) }));
        assert!(underlay.put_link(&link(2, "eth0", 1400)));
    }
}
