//! The node's own addresses on workloads' interfaces: what BGP peers among the workloads dial (reference bgp.md §1.9).
//!
//! An address of full length (/32, /128) on the interface of a workload of ours is ours, whoever made it: a restarted Felix
//! knows them by that, and so does one that takes over from Calico. Other addresses (the link-local
//! one of [`crate::interface`] has 64 bits) are left alone.

use std::collections::{BTreeMap, BTreeSet};

use calico_netlink::{Address, Error, Link, Socket};
use ipnet::IpNet;
use tracing::info;

/// `RT_SCOPE_LINK`.
const SCOPE_LINK: u8 = 253;

/// `IFA_F_NOPREFIXROUTE`: no route in the main table beside the one in the table `local`.
const NO_PREFIX_ROUTE: u32 = 0x200;

/// What the kernel has of them, by interface.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    actual: BTreeMap<u32, BTreeSet<IpNet>>,
}

impl Addresses {
    /// Takes all addresses of the node; those on interfaces for which `ours` is true count.
    pub(crate) fn replace(&mut self, all: Vec<Address>, ours: impl Fn(u32) -> bool) {
        self.actual.clear();
        for address in all.iter().filter(|address| ours(address.index)) {
            self.put(address);
        }
    }

    /// Takes an address that is there; returns whether it is news.
    pub(crate) fn put(&mut self, address: &Address) -> bool {
        is_full(&address.network) && self.actual.entry(address.index).or_default().insert(address.network)
    }

    /// Takes an address that is gone; returns whether it is news: we did not remove it.
    pub(crate) fn remove(&mut self, address: &Address) -> bool {
        let known = self.actual.get_mut(&address.index).is_some_and(|networks| networks.remove(&address.network));
        known || !is_full(&address.network)
    }

    /// Forgets an interface.
    pub(crate) fn forget(&mut self, index: u32) {
        self.actual.remove(&index);
    }

    /// Makes the addresses of an interface those that are desired, new ones first. Returns those that were removed.
    ///
    /// # Errors
    /// The kernel's, of the first that it refuses.
    pub(crate) fn make(
        &mut self,
        socket: &mut Socket,
        link: &Link,
        desired: &BTreeSet<IpNet>,
    ) -> Result<Vec<IpNet>, Error> {
        let empty = BTreeSet::new();
        let actual = self.actual.get(&link.index).unwrap_or(&empty);
        if actual == desired {
            return Ok(Vec::new());
        }
        let add: Vec<IpNet> = desired.difference(actual).copied().collect();
        let delete: Vec<IpNet> = actual.difference(desired).copied().collect();
        for network in add {
            let address = address(link.index, network);
            match socket.add_address(&address) {
                Err(error) if !error.is_exists() => return Err(error),
                _ => {
                    info!(interface = link.name, %network, "the node has an address for a workload that is a BGP peer")
                }
            }
            self.put(&address);
        }
        for network in &delete {
            let address = address(link.index, *network);
            match socket.delete_address(&address) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => info!(interface = link.name, %network, "an address that no BGP peer dials is removed"),
            }
            self.remove(&address);
        }
        Ok(delete)
    }
}

/// The address as Calico makes it, but for the route in the main table that IPv6 would get beside it.
///
/// The kernel takes it as the source of what the node itself sends to the workload: with `route_localnet` no scope keeps
/// it from that.
fn address(index: u32, network: IpNet) -> Address {
    let mut address = Address::new(index, network).without_duplicate_detection();
    if network.addr().is_ipv4() {
        address.scope = SCOPE_LINK;
    }
    address.flags |= NO_PREFIX_ROUTE;
    address
}

fn is_full(network: &IpNet) -> bool {
    network.prefix_len() == network.max_prefix_len()
}
