//! Whose are which prefixes?

use std::collections::BTreeSet;
use std::net::IpAddr;

use bgp_plan::inputs::Pool;
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
    /// All pools.
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
    /// This node's IPv4 subnet, by its BGP address; without one, or with a single address, everything is beyond it.
    pub subnet_v4: Option<Ipv4Net>,
    /// Next hops whose traffic WireGuard takes.
    pub wireguard: BTreeSet<IpAddr>,
    /// Patterns of interfaces (`*`, `?`) whose subnets do not count as connected, beside `cali*` and `kube-ipvs*`.
    pub ignored_interfaces: Vec<String>,
}

/// Which classes of cluster routes this process programs; felix programs the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classes {
    /// Those of pools without encapsulation.
    pub plain: bool,
    /// Those of IPIP pools.
    pub ipip: bool,
}

impl Default for Classes {
    fn default() -> Self {
        Self { plain: true, ipip: false }
    }
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
            subnet_v4: None,
            wireguard: BTreeSet::new(),
            ignored_interfaces: Vec::new(),
        }
    }
}

impl Ownership {
    /// Who programs which class of routes, by the two `programClusterRoutes`, BGPConfiguration's and
    /// FelixConfiguration's; and what an operator should know about it.
    ///
    /// Departs from Calico, where each daemon looks at its own alone: there a class that both claim is fought over, and
    /// one that none claims is not routed. Such a class is here programmed by whom it is by default.
    pub fn classes(bgp: Option<&str>, felix: Option<&str>) -> (Classes, Option<String>) {
        let default = Classes::default();
        let (ours, mut bad) = (claims(bgp, default), Vec::new());
        let felixs = claims(felix, Classes { plain: !default.plain, ipip: !default.ipip });
        let mut owner = |ours: bool, felixs: bool, default: bool, class: &str| {
            if ours != felixs {
                return ours;
            }
            let claimed = if ours { "both of them program" } else { "neither of them programs" };
            let by = if default { "this daemon" } else { "felix" };
            bad.push(format!("{claimed} {class}, which {by} programs now"));
            default
        };
        let classes = Classes {
            plain: owner(ours.plain, felixs.plain, default.plain, "routes without encapsulation"),
            ipip: owner(ours.ipip, felixs.ipip, default.ipip, "IPIP routes"),
        };
        let warning = (!bad.is_empty()).then(|| {
            let named = |value: Option<&str>| value.unwrap_or("not set").to_owned();
            format!(
                "programClusterRoutes is {} in BGPConfiguration and {} in FelixConfiguration: by that {}; give each \
                 class to one of them, as EnabledNoEncapOnly and EnabledIPIPOnly do",
                named(bgp),
                named(felix),
                bad.join(", and ")
            )
        });
        (classes, warning)
    }

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

    /// The pool that a prefix is in, the smallest.
    pub(super) fn pool(&self, prefix: &IpNet) -> Option<&Pool> {
        let pools = self.pools.iter().filter(|pool| pool.cidr.contains(prefix));
        pools.max_by_key(|pool| pool.cidr.prefix_len())
    }

    /// Whether a prefix is inside one of this node's blocks.
    pub(super) fn is_inside_own(&self, prefix: &IpNet) -> bool {
        self.blocks.iter().any(|block| block.contains(prefix))
    }

    /// Whether a next hop is in this node's subnet, so that no router sees what is sent to it.
    pub(super) fn is_in_subnet(&self, next_hop: IpAddr) -> bool {
        let IpAddr::V4(next_hop) = next_hop else { return false };
        self.subnet_v4.is_some_and(|subnet| subnet.prefix_len() < 32 && subnet.contains(&next_hop))
    }
}

/// What a `programClusterRoutes` claims; one that is unknown counts as not set.
fn claims(value: Option<&str>, default: Classes) -> Classes {
    let (plain, ipip) = match value {
        Some("Disabled") => (false, false),
        Some("EnabledIPIPOnly") => (false, true),
        Some("EnabledNoEncapOnly") => (true, false),
        Some("Enabled") => (true, true),
        _ => return default,
    };
    Classes { plain, ipip }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_one_owner_whatever_the_two_resources_say() {
        let (none, ipip, plain, both) = ("Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly", "Enabled");
        // BGPConfiguration's, FelixConfiguration's; plain and IPIP ours; whether there is a warning.
        for (bgp, felix, expected, warned) in [
            (None, None, (true, false), false),
            (Some(plain), Some(ipip), (true, false), false),
            (Some(none), Some(both), (false, false), false),
            (Some(both), Some(none), (true, true), false),
            (Some(ipip), Some(plain), (false, true), false),
            (Some(both), None, (true, false), true),
            (None, Some(none), (true, false), true),
            (Some(none), None, (true, false), true),
            (Some(none), Some(none), (true, false), true),
            (Some(both), Some(both), (true, false), true),
            (Some(ipip), Some(ipip), (true, false), true),
            (Some("Perhaps"), Some(""), (true, false), false),
        ] {
            let (classes, warning) = Ownership::classes(bgp, felix);
            assert_eq!((classes.plain, classes.ipip), expected, "{bgp:?} {felix:?}");
            assert_eq!(warning.is_some(), warned, "{bgp:?} {felix:?}: {warning:?}");
        }
        let (_, warning) = Ownership::classes(Some(both), None);
        assert!(warning.unwrap().contains("both of them program IPIP routes, which felix programs now"));
    }

    #[test]
    fn a_lone_address_has_no_subnet() {
        let subnet = |text: Option<&str>| Ownership {
            subnet_v4: text.map(|text| text.parse().unwrap()),
            ..Ownership::default()
        };
        let hop: IpAddr = "10.0.0.9".parse().unwrap();
        assert!(subnet(Some("10.0.0.1/24")).is_in_subnet(hop));
        assert!(!subnet(Some("10.0.1.1/24")).is_in_subnet(hop));
        assert!(!subnet(Some("10.0.0.9/32")).is_in_subnet(hop));
        assert!(!subnet(None).is_in_subnet(hop));
    }
}
