//! Where would the kernel send a packet for a next hop, and may a learned prefix become a route?
//!
//! An image of the links, addresses and main-table routes that are not ours. Routes learned by BGP take no part, so a
//! next hop never resolves through what it is itself the next hop of.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use calico_netlink::NextHop;
use ipnet::IpNet;

use bgp_plan::inputs::{Encap, Pool};

/// Most next hops of one route.
pub const MAX_PATHS: usize = 16;
/// LOCAL_PREF is this minus the metric of a route (Calico since v3.32).
const PRIORITY_BASE: u32 = 2_147_483_647;
/// A LOCAL_PREF below `PRIORITY_BASE` by more than this is not a metric: an old node's or another vendor's 100.
const PRIORITY_RANGE: u32 = 1 << 24;
/// How many gateways are followed.
const DEPTH: usize = 4;

/// A main-table route that somebody else made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Foreign {
    /// Its priority; the lowest wins.
    pub metric: u32,
    /// Its next hops, the interface known; empty is a black hole of some kind.
    pub hops: Vec<NextHop>,
}

/// Where a next hop leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// The neighbour that takes the packet.
    pub gateway: IpAddr,
    /// The interface's index.
    pub interface: u32,
    /// Whether the gateway counts as on the link though no address says so.
    pub onlink: bool,
}

/// Why a next hop leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// It is this node.
    #[error("the next hop is this node's own address")]
    Own,
    /// Nothing leads there.
    #[error("no route that is not BGP's leads to the next hop")]
    NoRoute,
    /// A black hole covers it.
    #[error("a route without gateway and interface covers the next hop")]
    BlackHole,
}

/// What the kernel is to do about a learned prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Hold this route.
    Install {
        /// Sorted, without repetition.
        hops: Vec<Hop>,
        /// Its priority.
        metric: u32,
    },
    /// Nothing until a next hop can be reached.
    HeldBack(Unreachable),
    /// Nothing: somebody else routes it.
    Elsewhere(Elsewhere),
}

/// Who routes a learned prefix in place of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Elsewhere {
    /// Its pool is encapsulated, and felix owns such routes.
    #[error("its pool is encapsulated: felix programs its routes")]
    Encapsulated,
    /// It is a block of this node.
    #[error("it is this node's own block")]
    OwnBlock,
    /// Another program holds the same route.
    #[error("another program holds a route for it")]
    Taken,
}

/// A prefix's best paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    /// Their next hops.
    pub next_hops: Vec<IpAddr>,
    /// Their LOCAL_PREF.
    pub local_pref: Option<u32>,
}

/// Who owns which prefixes.
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
}

/// The image.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    links: HashMap<u32, String>,
    addresses: BTreeSet<(IpAddr, u32)>,
    routes: BTreeMap<IpNet, Vec<Foreign>>,
    /// What [`Self::resolve`] said since the last change: thousands of prefixes have few next hops.
    resolved: RefCell<HashMap<IpAddr, Result<Hop, Unreachable>>>,
}

impl Fib {
    /// Takes or forgets a link.
    pub fn link(&mut self, index: u32, name: Option<String>) {
        match name {
            Some(name) => drop(self.links.insert(index, name)),
            None => drop(self.links.remove(&index)),
        }
    }

    /// The name of a link, or its number.
    pub fn link_name(&self, index: u32) -> String {
        self.links.get(&index).cloned().unwrap_or_else(|| format!("if{index}"))
    }

    /// Takes or forgets an address of this node; says whether that changed anything.
    pub fn address(&mut self, address: IpAddr, link: u32, present: bool) -> bool {
        self.resolved.get_mut().clear();
        if present { self.addresses.insert((address, link)) } else { self.addresses.remove(&(address, link)) }
    }

    /// Takes or forgets a route; says whether that changed anything.
    pub fn route(&mut self, prefix: IpNet, route: Foreign, present: bool) -> bool {
        self.resolved.get_mut().clear();
        let routes = self.routes.entry(prefix).or_default();
        let place = routes.binary_search(&route);
        let changed = match (present, place) {
            (true, Err(place)) => {
                routes.insert(place, route);
                true
            }
            (false, Ok(place)) => {
                routes.remove(place);
                true
            }
            _ => false,
        };
        if routes.is_empty() {
            self.routes.remove(&prefix);
        }
        changed
    }

    /// Forgets the IPv4 routes that lead only through a link; returns their prefixes.
    pub fn link_down(&mut self, link: u32) -> Vec<IpNet> {
        let dead = |route: &Foreign| !route.hops.is_empty() && route.hops.iter().all(|hop| hop.interface == Some(link));
        let of_link: Vec<_> = self
            .routes
            .iter()
            .filter(|(prefix, routes)| prefix.addr().is_ipv4() && routes.iter().any(dead))
            .map(|(prefix, _)| *prefix)
            .collect();
        for prefix in &of_link {
            if let Some(routes) = self.routes.get_mut(prefix) {
                routes.retain(|route| !dead(route));
                if routes.is_empty() {
                    self.routes.remove(prefix);
                }
            }
        }
        self.resolved.get_mut().clear();
        of_link
    }

    /// Whether this node has the address.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.range((address, 0)..).next().is_some_and(|(own, _)| *own == address)
    }

    /// The routes for exactly this prefix, the best first.
    pub fn exact(&self, prefix: &IpNet) -> &[Foreign] {
        self.routes.get(prefix).map_or(&[], Vec::as_slice)
    }

    /// Where packets for a next hop go.
    ///
    /// # Errors
    /// If they go nowhere.
    pub fn resolve(&self, next_hop: IpAddr) -> Result<Hop, Unreachable> {
        *self.resolved.borrow_mut().entry(next_hop).or_insert_with(|| self.look_up(next_hop))
    }

    fn look_up(&self, next_hop: IpAddr) -> Result<Hop, Unreachable> {
        if self.is_own(next_hop) {
            return Err(Unreachable::Own);
        }
        let mut gateway = next_hop;
        for _ in 0..DEPTH {
            let route = self.longest(gateway).ok_or(Unreachable::NoRoute)?;
            let hop = route.hops.first().ok_or(Unreachable::BlackHole)?;
            match (hop.gateway, hop.interface) {
                (None, interface) => {
                    return Ok(Hop { gateway, interface: interface.unwrap_or(0), onlink: false });
                }
                // The kernel accepted it, so it is on the link, if need be by its word.
                (Some(via), Some(interface)) => return Ok(Hop { gateway: via, interface, onlink: hop.onlink }),
                (Some(via), None) => gateway = via,
            }
        }
        Err(Unreachable::NoRoute)
    }

    fn longest(&self, address: IpAddr) -> Option<&Foreign> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        (0..=longest).rev().find_map(|length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            self.routes.get(&prefix)?.first()
        })
    }

    /// What the kernel is to do about a learned prefix.
    pub fn judge(&self, prefix: &IpNet, learned: &Learned, ownership: &Ownership) -> Verdict {
        if ownership.blocks.contains(prefix) {
            return Verdict::Elsewhere(Elsewhere::OwnBlock);
        }
        let pool = ownership.pools.iter().filter(|pool| pool.cidr.contains(prefix));
        let pool = pool.max_by_key(|pool| pool.cidr.prefix_len());
        if pool.is_some_and(|pool| pool.encap != Encap::None) {
            return Verdict::Elsewhere(Elsewhere::Encapsulated);
        }
        let metric = ownership.metric(prefix, learned.local_pref);
        let inside = ownership.blocks.iter().any(|block| block.contains(prefix));
        if self.exact(prefix).iter().any(|route| inside || route.metric == metric) {
            // A pod of ours beats what a peer says of its address; and two owners cannot hold one key.
            return Verdict::Elsewhere(Elsewhere::Taken);
        }
        let mut hops = BTreeSet::new();
        let mut unreachable = Unreachable::NoRoute;
        for next_hop in &learned.next_hops {
            match self.resolve(*next_hop) {
                Ok(hop) => drop(hops.insert(hop)),
                Err(reason) => unreachable = reason,
            }
        }
        match hops.is_empty() {
            true => Verdict::HeldBack(unreachable),
            false => Verdict::Install { hops: hops.into_iter().take(MAX_PATHS).collect(), metric },
        }
    }
}

impl Ownership {
    /// The kernel metric that a LOCAL_PREF stands for.
    fn metric(&self, prefix: &IpNet, local_pref: Option<u32>) -> u32 {
        let normal = if prefix.addr().is_ipv4() { self.normal_v4 } else { self.normal_v6 };
        // Departs from Calico, which takes any LOCAL_PREF for a metric and installs 2147483547 for the default of 100.
        let metric = local_pref.and_then(|local_pref| PRIORITY_BASE.checked_sub(local_pref));
        metric.filter(|metric| *metric <= PRIORITY_RANGE).unwrap_or(normal)
    }

    /// The LOCAL_PREF of our own blocks.
    pub fn local_pref(&self, prefix: &IpNet) -> u32 {
        PRIORITY_BASE - if prefix.addr().is_ipv4() { self.normal_v4 } else { self.normal_v6 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A node 10.0.0.1/24 on link 2, with a default route via 10.0.0.254.
    fn fib() -> Fib {
        let mut fib = Fib::default();
        fib.link(2, Some("eth0".to_owned()));
        fib.address(ip("10.0.0.1"), 2, true);
        fib.route(net("10.0.0.0/24"), Foreign { metric: 0, hops: vec![NextHop::dev(2)] }, true);
        fib.route(net("0.0.0.0/0"), Foreign { metric: 100, hops: vec![NextHop::via(ip("10.0.0.254")).on(2)] }, true);
        fib
    }

    fn ownership() -> Ownership {
        let pool = |cidr, encap| Pool { cidr: net(cidr), encap, disable_bgp_export: false };
        Ownership {
            pools: vec![
                pool("10.244.0.0/16", Encap::None),
                pool("10.244.128.0/24", Encap::Vxlan),
                pool("10.245.0.0/16", Encap::Ipip { cross_subnet: false }),
            ],
            blocks: BTreeSet::from([net("10.244.0.0/26")]),
            normal_v4: 1024,
            normal_v6: 1024,
        }
    }

    #[track_caller]
    fn check(fib: &Fib, prefix: &str, next_hops: &[&str], local_pref: Option<u32>, expected: Verdict) {
        let learned = Learned { next_hops: next_hops.iter().map(|text| ip(text)).collect(), local_pref };
        assert_eq!(fib.judge(&net(prefix), &learned, &ownership()), expected, "{prefix} via {next_hops:?}");
    }

    fn install(gateways: &[&str], metric: u32) -> Verdict {
        let hops = gateways.iter().map(|text| Hop { gateway: ip(text), interface: 2, onlink: false }).collect();
        Verdict::Install { hops, metric }
    }

    #[test]
    fn next_hops_resolve_on_the_link_or_through_routes_that_are_not_bgps() {
        let mut fib = fib();
        let hop = |gateway| Ok(Hop { gateway: ip(gateway), interface: 2, onlink: false });
        assert_eq!(fib.resolve(ip("10.0.0.2")), hop("10.0.0.2"));
        assert_eq!(fib.resolve(ip("192.0.2.1")), hop("10.0.0.254"));
        assert_eq!(fib.resolve(ip("10.0.0.1")), Err(Unreachable::Own));
        assert_eq!(fib.resolve(ip("fd00::1")), Err(Unreachable::NoRoute));
        fib.route(net("192.0.2.0/24"), Foreign { metric: 0, hops: vec![] }, true);
        assert_eq!(fib.resolve(ip("192.0.2.1")), Err(Unreachable::BlackHole));
        fib.route(net("192.0.2.0/24"), Foreign { metric: 0, hops: vec![] }, false);
        assert_eq!(fib.resolve(ip("192.0.2.1")), hop("10.0.0.254"));
        assert_eq!(fib.link_down(2), [net("0.0.0.0/0"), net("10.0.0.0/24")]);
        assert_eq!(fib.resolve(ip("192.0.2.1")), Err(Unreachable::NoRoute));
        let mut fib = self::fib();
        // A lower metric wins for one prefix.
        fib.route(net("0.0.0.0/0"), Foreign { metric: 50, hops: vec![NextHop::via(ip("10.0.0.253")).on(2)] }, true);
        assert_eq!(fib.resolve(ip("192.0.2.1")), hop("10.0.0.253"));
    }

    #[test]
    fn only_a_local_pref_near_the_top_is_a_metric() {
        let fib = fib();
        check(&fib, "10.244.1.0/26", &["10.0.0.2"], Some(2_147_482_623), install(&["10.0.0.2"], 1024));
        check(&fib, "10.244.1.0/26", &["10.0.0.2"], Some(2_147_483_135), install(&["10.0.0.2"], 512));
        check(&fib, "10.244.1.0/26", &["10.0.0.2"], Some(100), install(&["10.0.0.2"], 1024));
        check(&fib, "10.244.1.0/26", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
        check(&fib, "10.244.1.0/26", &["10.0.0.2"], Some(u32::MAX), install(&["10.0.0.2"], 1024));
        assert_eq!(ownership().local_pref(&net("10.244.0.0/26")), 2_147_482_623);
    }

    #[test]
    fn encapsulated_pools_are_felixs_and_what_is_outside_of_pools_is_installed() {
        let fib = fib();
        check(&fib, "10.244.128.0/26", &["10.0.0.2"], None, Verdict::Elsewhere(Elsewhere::Encapsulated));
        check(&fib, "10.245.0.0/26", &["10.0.0.2"], None, Verdict::Elsewhere(Elsewhere::Encapsulated));
        check(&fib, "198.51.100.0/24", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
        check(&fib, "0.0.0.0/0", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    }

    #[test]
    fn own_blocks_and_own_pods_are_never_routed_to_a_peer_but_a_lent_address_is() {
        let mut fib = fib();
        fib.route(net("10.244.0.0/26"), Foreign { metric: 0, hops: vec![] }, true);
        fib.route(net("10.244.0.5/32"), Foreign { metric: 0, hops: vec![NextHop::dev(9)] }, true);
        check(&fib, "10.244.0.0/26", &["10.0.0.2"], None, Verdict::Elsewhere(Elsewhere::OwnBlock));
        check(&fib, "10.244.0.5/32", &["10.0.0.2"], None, Verdict::Elsewhere(Elsewhere::Taken));
        check(&fib, "10.244.0.6/32", &["10.0.0.2"], None, install(&["10.0.0.2"], 1024));
    }

    #[test]
    fn a_route_of_another_program_with_our_key_stays() {
        let mut fib = fib();
        fib.route(
            net("198.51.100.0/24"),
            Foreign { metric: 1024, hops: vec![NextHop::via(ip("10.0.0.7")).on(2)] },
            true,
        );
        check(&fib, "198.51.100.0/24", &["10.0.0.2"], None, Verdict::Elsewhere(Elsewhere::Taken));
        check(&fib, "198.51.100.0/24", &["10.0.0.2"], Some(2_147_483_135), install(&["10.0.0.2"], 512));
    }

    #[test]
    fn an_unreachable_next_hop_holds_the_route_back_unless_another_is_reachable() {
        let mut fib = fib();
        fib.route(net("0.0.0.0/0"), Foreign { metric: 100, hops: vec![NextHop::via(ip("10.0.0.254")).on(2)] }, false);
        check(&fib, "10.244.1.0/26", &["192.0.2.1"], None, Verdict::HeldBack(Unreachable::NoRoute));
        check(&fib, "10.244.1.0/26", &["10.0.0.1"], None, Verdict::HeldBack(Unreachable::Own));
        let both = install(&["10.0.0.2", "10.0.0.3"], 1024);
        check(&fib, "10.244.1.0/26", &["10.0.0.3", "192.0.2.1", "10.0.0.2", "10.0.0.3"], None, both);
    }
}
