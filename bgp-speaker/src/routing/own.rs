//! What does this node know without a peer? Its blocks, its service prefixes, and the kernel's routes that are not ours.

use std::collections::{BTreeMap, BTreeSet};

use bgp_proto::{LocalKind, LocalRoute};
use ipnet::IpNet;

use crate::kernel::KernelRoute;

/// A prefix and the kernel's best route for it that is not ours; `None` is none any more.
pub type KernelChange = (IpNet, Option<KernelRoute>);

/// What this node originates by the datastore's word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Originated {
    /// Its blocks.
    pub blocks: BTreeSet<IpNet>,
    /// Addresses and ranges of services.
    pub services: BTreeSet<IpNet>,
    /// Kernel metric of a normal IPv4 route.
    pub normal_v4: u32,
    /// Kernel metric of a normal IPv6 route.
    pub normal_v6: u32,
}

/// All of it. A prefix has one own route, the most preferred.
#[derive(Debug, Default)]
pub(super) struct Own {
    originated: Originated,
    kernel: BTreeMap<IpNet, KernelRoute>,
}

impl Own {
    /// Takes over what is originated; returns the prefixes whose own route may be another now.
    pub(super) fn originate(&mut self, new: Originated) -> BTreeSet<IpNet> {
        let old = std::mem::replace(&mut self.originated, new);
        let new = &self.originated;
        let normal = |originated: &Originated, prefix: &IpNet| originated.normal(prefix);
        let mut changed: BTreeSet<IpNet> = old.blocks.symmetric_difference(&new.blocks).copied().collect();
        changed.extend(old.services.symmetric_difference(&new.services));
        let all = new.blocks.union(&new.services).chain(self.kernel.keys());
        changed.extend(all.filter(|prefix| normal(&old, prefix) != normal(new, prefix)));
        changed
    }

    /// Takes over changes of the kernel's routes; returns the prefixes whose own route may be another now.
    pub(super) fn kernel_routes(&mut self, changes: Vec<KernelChange>) -> BTreeSet<IpNet> {
        let mut changed = BTreeSet::new();
        for (prefix, route) in changes {
            let differs = match route {
                Some(route) => self.kernel.insert(prefix, route.clone()) != Some(route),
                None => self.kernel.remove(&prefix).is_some(),
            };
            if differs {
                changed.insert(prefix);
            }
        }
        changed
    }

    pub(super) fn originated(&self) -> &Originated {
        &self.originated
    }

    /// Metrics of normal routes, IPv4 and IPv6.
    pub(super) fn normal(&self) -> (u32, u32) {
        let or_default = |metric: u32| if metric == 0 { LocalRoute::NORMAL_METRIC } else { metric };
        (or_default(self.originated.normal_v4), or_default(self.originated.normal_v6))
    }

    /// The own route for a prefix.
    pub(super) fn route(&self, prefix: &IpNet) -> Option<LocalRoute> {
        let normal = self.originated.normal(prefix);
        let made =
            |kind: LocalKind| LocalRoute { kind, local_pref: LocalRoute::local_pref(normal), ..LocalRoute::default() };
        let block = self.originated.blocks.contains(prefix).then(|| made(LocalKind::Block));
        let service = self.originated.services.contains(prefix).then(|| made(LocalKind::Service));
        let kernel = self.kernel.get(prefix).map(|route| LocalRoute {
            kind: route.kind,
            gateway: route.gateway,
            interface: route.interface.clone(),
            local_pref: match route.kind {
                LocalKind::Direct => LocalRoute::local_pref(normal), // connected subnets have no metric of routing's
                _ => LocalRoute::local_pref(route.metric),
            },
            ..LocalRoute::default()
        });
        // The last of equals wins: the block, which is more than the route of the pod that has all of it.
        [kernel, service, block].into_iter().flatten().max_by_key(|route| route.preference(normal))
    }

    /// All own routes.
    pub(super) fn all(&self) -> impl Iterator<Item = (IpNet, LocalRoute)> {
        let prefixes: BTreeSet<&IpNet> =
            self.originated.blocks.iter().chain(&self.originated.services).chain(self.kernel.keys()).collect();
        prefixes.into_iter().filter_map(|prefix| Some((*prefix, self.route(prefix)?)))
    }
}

impl Originated {
    /// Metric of a normal route of the prefix's family.
    fn normal(&self, prefix: &IpNet) -> u32 {
        match if prefix.addr().is_ipv4() { self.normal_v4 } else { self.normal_v6 } {
            0 => LocalRoute::NORMAL_METRIC, // nothing was said yet
            metric => metric,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_has_the_most_preferred_of_its_own_routes() {
        let mut own = Own::default();
        let (block, pod) = (net("10.244.1.0/26"), net("10.244.1.64/32"));
        let blocks = BTreeSet::from([block, pod]);
        let originated = Originated { blocks, normal_v4: 1024, normal_v6: 1024, ..Originated::default() };
        assert_eq!(own.originate(originated.clone()).len(), 2);
        assert!(own.originate(originated.clone()).is_empty(), "nothing changed");
        let route = |kind, metric| KernelRoute { kind, gateway: None, interface: Some("cali1".into()), metric };
        let changed = own.kernel_routes(vec![(pod, Some(route(LocalKind::Workload, 1024)))]);
        assert_eq!(changed, BTreeSet::from([pod]));
        assert_eq!(own.route(&pod).unwrap().kind, LocalKind::Block, "a block of one address stays a block");
        own.kernel_routes(vec![(pod, Some(route(LocalKind::Workload, 512)))]);
        let elevated = own.route(&pod).unwrap();
        assert_eq!((elevated.kind, elevated.local_pref), (LocalKind::Workload, 2_147_483_135));
        assert_eq!(elevated.interface.as_deref(), Some("cali1"));

        let moved = own.originate(Originated { blocks: BTreeSet::from([block]), normal_v4: 2000, ..originated });
        assert_eq!(moved.len(), 2, "a new normal metric is another LOCAL_PREF: {moved:?}");
        assert_eq!(own.route(&block).unwrap().local_pref, 2_147_483_647 - 2000);
        own.kernel_routes(vec![(pod, None)]);
        assert_eq!(own.route(&pod), None);
    }
}
