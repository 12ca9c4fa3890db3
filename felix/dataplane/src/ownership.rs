//! Whose route is it? (reference felix.md §2.2)

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use calico_netlink::{Route, TABLE_MAIN};
use ipnet::IpNet;

use crate::PROTOCOL;

/// `RTPROT_KERNEL`.
const KERNEL: u8 = 2;
/// `RTPROT_BOOT`: Calico's own protocol for pods' routes.
const BOOT: u8 = 3;
/// `RTPROT_BIRD`: what BGP programs.
const BIRD: u8 = 12;

/// What tells our routes from others'.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ownership {
    // Shared with the predicate that the route table keeps; both live in one task.
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    workload_links: BTreeSet<u32>,
    vxlan_links: BTreeSet<u32>,
    /// Networks in which routes of BGP are leftovers.
    swept: BTreeSet<IpNet>,
}

impl Ownership {
    /// Says which interfaces are workloads'.
    pub(crate) fn set_workload_links(&self, links: BTreeSet<u32>) {
        self.with(|inner| inner.workload_links = links);
    }

    /// Says which interfaces are our VXLAN devices.
    pub(crate) fn set_vxlan_links(&self, links: BTreeSet<u32>) {
        self.with(|inner| inner.vxlan_links = links);
    }

    /// Says whether routes of BGP in a network are leftovers of a time when this node spoke it.
    pub(crate) fn set_swept(&self, network: IpNet, swept: bool) {
        self.with(|inner| match swept {
            true => inner.swept.insert(network),
            false => inner.swept.remove(&network),
        });
    }

    /// Whether a route of the main table is ours, wherever it stands (what stands in the place of a route that we
    /// want is ours besides: §2.3):
    /// - protocol 80, wherever it leads;
    /// - protocol 3 on a workload's interface: left by Calico. Departs from Calico, which by default removes every
    ///   foreign route there: ours leaves what others made, above all BGP's protocol 12;
    /// - on our VXLAN devices, all that the kernel did not make itself;
    /// - BGP's on a node that does not speak it, to destinations in our pools.
    pub(crate) fn is_ours(&self, route: &Route) -> bool {
        let on = |links: &BTreeSet<u32>| {
            !links.is_empty()
                && route.next_hops.iter().any(|hop| hop.interface.is_some_and(|link| links.contains(&link)))
        };
        route.table == TABLE_MAIN
            && (route.protocol == PROTOCOL
                || self.with(|inner| match route.protocol {
                    KERNEL => false,
                    BOOT if on(&inner.workload_links) => true,
                    BIRD if inner.swept.iter().any(|network| network.contains(&route.destination)) => true,
                    _ => on(&inner.vxlan_links),
                }))
    }

    fn with<T>(&self, f: impl FnOnce(&mut Inner) -> T) -> T {
        // Each change is one assignment, so a panic elsewhere leaves it whole.
        f(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use calico_netlink::NextHop;

    use super::*;

    #[test]
    fn a_route_is_ours_by_its_protocol_or_its_interface_and_bgps_where_nobody_speaks_it() {
        let ownership = Ownership::default();
        ownership.set_workload_links(BTreeSet::from([7]));
        ownership.set_vxlan_links(BTreeSet::from([9]));
        let pod = |protocol, link| Route::unicast("10.0.0.1/32".parse().unwrap(), [NextHop::dev(link)], protocol);
        assert!(ownership.is_ours(&Route::blackhole("10.0.0.0/26".parse().unwrap(), 80)));
        for ours in [pod(80, 2), pod(3, 7), pod(3, 9), pod(12, 9), pod(4, 9)] {
            assert!(ownership.is_ours(&ours), "{ours:?}");
        }
        for foreign in [pod(3, 2), pod(12, 7), pod(4, 7), pod(2, 7), pod(2, 9), Route { table: 100, ..pod(80, 7) }] {
            assert!(!ownership.is_ours(&foreign), "{foreign:?}");
        }
        ownership.set_swept("10.0.0.0/16".parse().unwrap(), true);
        assert!(ownership.is_ours(&pod(12, 2)) && !ownership.is_ours(&pod(4, 2)));
        assert!(!ownership.is_ours(&Route { destination: "10.0.0.0/8".parse().unwrap(), ..pod(12, 2) }));
        ownership.set_swept("10.0.0.0/16".parse().unwrap(), false);
        assert!(!ownership.is_ours(&pod(12, 2)));
    }
}
