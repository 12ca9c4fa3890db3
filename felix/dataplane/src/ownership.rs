//! Whose route is it? (reference felix.md §2.2)

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use calico_netlink::{Route, RouteKey, TABLE_MAIN};

use crate::PROTOCOL;

/// `RTPROT_BOOT`: Calico's own protocol for pods' routes.
const BOOT: u8 = 3;

/// What tells our routes from others', besides the routes themselves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ownership {
    // Shared with the predicate that the route table keeps; both live in one task.
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    workload_links: BTreeSet<u32>,
    desired: BTreeSet<RouteKey>,
}

impl Ownership {
    /// Says which interfaces are workloads'.
    pub(crate) fn set_workload_links(&self, links: BTreeSet<u32>) {
        self.with(|inner| inner.workload_links = links);
    }

    /// Says which places of routes are ours.
    pub(crate) fn set_desired(&self, desired: BTreeSet<RouteKey>) {
        self.with(|inner| inner.desired = desired);
    }

    /// Whether a route of the main table is ours:
    /// - protocol 80, wherever it leads;
    /// - protocol 3 on a workload's interface: left by Calico. Departs from Calico, which by default removes every
    ///   foreign route there: ours leaves what others made, above all BGP's protocol 12;
    /// - whatever stands in the place of a route that we want: a local workload comes before all else
    ///   (§2.3), so a replaced route is replaced again.
    pub(crate) fn is_ours(&self, route: &Route) -> bool {
        let on_workload = |inner: &Inner| {
            let mut links = route.next_hops.iter().filter_map(|hop| hop.interface);
            links.any(|link| inner.workload_links.contains(&link))
        };
        route.table == TABLE_MAIN
            && (route.protocol == PROTOCOL
                || self.with(|inner| {
                    (route.protocol == BOOT && on_workload(inner)) || inner.desired.contains(&route.key())
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
    fn a_route_is_ours_by_its_protocol_its_interface_or_its_place() {
        let ownership = Ownership::default();
        ownership.set_workload_links(BTreeSet::from([7]));
        let pod = |protocol, link| Route::unicast("10.0.0.1/32".parse().unwrap(), [NextHop::dev(link)], protocol);
        assert!(ownership.is_ours(&pod(80, 2)));
        assert!(ownership.is_ours(&Route::blackhole("10.0.0.0/26".parse().unwrap(), 80)));
        assert!(ownership.is_ours(&pod(3, 7)));
        for foreign in [pod(3, 2), pod(12, 7), pod(4, 7), pod(2, 7), Route { table: 100, ..pod(80, 7) }] {
            assert!(!ownership.is_ours(&foreign), "{foreign:?}");
        }
        ownership.set_desired(BTreeSet::from([pod(80, 7).key()]));
        assert!(ownership.is_ours(&pod(12, 2)));
        assert!(!ownership.is_ours(&pod(12, 2).with_metric(5)));
    }
}
