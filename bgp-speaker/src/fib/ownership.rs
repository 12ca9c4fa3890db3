//! Whose are which prefixes?

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;

use bgp_plan::inputs::Pool;
use bgp_plan::owners::Classes;
use ipnet::{IpNet, Ipv4Net};

/// LOCAL_PREF is this minus the metric of a route (Calico since v3.32).
const PRIORITY_BASE: u32 = 2_147_483_647;
/// A LOCAL_PREF below `PRIORITY_BASE` by more than this is not a metric: an old node's or another vendor's 100.
const PRIORITY_RANGE: u32 = 1 << 24;
/// Kernel metric of a normal route where none is configured.
const NORMAL_METRIC: u32 = 1024;

/// Who owns which prefixes, and what else the resources say of routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// All pools, by name.
    pub pools: Vec<Pool>,
    /// This node's blocks.
    pub blocks: BTreeSet<IpNet>,
    /// Kernel metric of a normal IPv4 route.
    pub normal_v4: u32,
    /// Kernel metric of a normal IPv6 route.
    pub normal_v6: u32,
    /// Ranges of service addresses: learned prefixes inside never become routes.
    pub services: Vec<IpNet>,
    /// Whether routes without encapsulation are ours to program.
    pub plain: bool,
    /// Whether routes of IPIP pools are ours to program.
    pub ipip: bool,
    /// There is a pool of which no version was ever understood, so that it is not known what is in no pool.
    pub pool_unknown: bool,
    /// This node's IPv4 address in BGP, by which its subnet is known.
    pub address_v4: Option<Ipv4Net>,
    /// Addresses of nodes that do not say yet that they take packets in IPIP.
    pub awaited: BTreeSet<IpAddr>,
    /// Next hops whose traffic WireGuard takes.
    pub wireguard: BTreeSet<IpAddr>,
    /// Patterns of interfaces (`*`, `?`) whose subnets do not count as connected, beside `cali*` and `kube-ipvs*`.
    pub ignored_interfaces: Vec<String>,
}

impl Default for Ownership {
    fn default() -> Self {
        let Classes { plain, ipip } = Classes::default();
        Self {
            pools: Vec::new(),
            blocks: BTreeSet::new(),
            normal_v4: NORMAL_METRIC,
            normal_v6: NORMAL_METRIC,
            services: Vec::new(),
            plain,
            ipip,
            pool_unknown: false,
            address_v4: None,
            awaited: BTreeSet::new(),
            wireguard: BTreeSet::new(),
            ignored_interfaces: Vec::new(),
        }
    }
}

impl Ownership {
    /// The kernel metric that a LOCAL_PREF stands for.
    pub(super) fn metric(&self, prefix: &IpNet, local_pref: Option<u32>) -> u32 {
        let normal = if prefix.addr().is_ipv4() { self.normal_v4 } else { self.normal_v6 };
        // Departs from Calico, which takes any LOCAL_PREF for a metric and installs 2147483547 for the default of 100.
        let metric = local_pref.and_then(|local_pref| PRIORITY_BASE.checked_sub(local_pref));
        metric.filter(|metric| *metric <= PRIORITY_RANGE).unwrap_or(normal)
    }

    /// The LOCAL_PREF of our own blocks.
    pub fn local_pref(&self, prefix: &IpNet) -> u32 {
        PRIORITY_BASE - if prefix.addr().is_ipv4() { self.normal_v4 } else { self.normal_v6 }
    }

    /// The pool that a prefix is in, the smallest; of equal ones the first by name, as for felix.
    pub(super) fn pool(&self, prefix: &IpNet) -> Option<&Pool> {
        let pools = self.pools.iter().filter(|pool| pool.cidr.contains(prefix));
        pools.min_by_key(|pool| Reverse(pool.cidr.prefix_len()))
    }

    /// Whether a prefix is inside one of this node's blocks.
    pub(super) fn is_inside_own(&self, prefix: &IpNet) -> bool {
        self.blocks.iter().any(|block| block.contains(prefix))
    }
}
