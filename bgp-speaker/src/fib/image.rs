//! What do others have in the kernel? Links, addresses, and the main table's routes that are not ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use calico_netlink::NextHop;
use ipnet::IpNet;

/// `RTPROT_KERNEL`: the kernel's own routes to connected networks.
pub(super) const BY_KERNEL: u8 = 2;
/// The device of the IPIP tunnel.
const IPIP_DEVICE: &str = "tunl0";
/// Tunnels by the names that felix gives them.
const TUNNELS: [&str; 5] = [IPIP_DEVICE, "vxlan.calico", "vxlan-v6.calico", "wireguard.cali", "wg-v6.cali"];
/// Kinds of links that are tunnels whatever their name.
const TUNNEL_KINDS: [&str; 2] = ["ipip", "wireguard"];
/// Interfaces whose networks never count as connected: those of workload endpoints, and the one that holds the
/// addresses of services (kube-proxy in IPVS mode).
const NEVER_CONNECTED: [&str; 2] = ["cali*", "kube-ipvs*"];

/// A main-table route that somebody else made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Foreign {
    /// Its priority; the lowest wins.
    pub metric: u32,
    /// Who made it (`RTPROT_…`).
    pub protocol: u8,
    /// Its next hops, the interface known; empty is a black hole of some kind.
    pub hops: Vec<NextHop>,
}

/// What is to be known of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// Its name.
    pub name: String,
    /// Its kind, as the kernel calls it.
    pub kind: Option<String>,
    /// Whether it is switched on.
    pub up: bool,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: Arc<str>,
    up: bool,
    /// Whether networks on it do not count as connected.
    pub(super) ignored: bool,
    /// Whether packets leave it inside of others.
    pub(super) tunnel: bool,
}

/// The image.
#[derive(Debug, Default)]
pub struct Image {
    links: HashMap<u32, Link>,
    addresses: BTreeSet<(IpAddr, u32)>,
    /// The same addresses with the lengths of their subnets, as far as they are known.
    networks: BTreeSet<(IpNet, u32)>,
    routes: BTreeMap<IpNet, Vec<Foreign>>,
    ignored: Vec<String>,
    /// The IPIP tunnel's device, if it is there.
    ipip: Option<u32>,
}

impl Image {
    /// An image without links, addresses and routes, in which these patterns of interfaces are ignored.
    pub fn ignoring(ignored: &[String]) -> Self {
        Self { ignored: ignored.to_vec(), ..Self::default() }
    }

    /// Takes over which interfaces' networks do not count as connected.
    pub(super) fn set_ignored(&mut self, ignored: &[String]) {
        self.ignored = ignored.to_vec();
        for link in self.links.values_mut() {
            link.ignored = is_ignored(ignored, &link.name);
        }
    }

    /// Takes or forgets a link; says whether routes by it may count as something else now.
    pub fn link(&mut self, index: u32, facts: Option<LinkFacts>) -> bool {
        if self.ipip == Some(index) {
            self.ipip = None;
        }
        let Some(LinkFacts { name, kind, up }) = facts else {
            return self.links.remove(&index).is_some();
        };
        if name == IPIP_DEVICE {
            self.ipip = Some(index);
        }
        let known = self.links.get(&index).map(|link| (link.name.clone(), link.tunnel));
        let tunnel = TUNNELS.contains(&name.as_str()) || kind.is_some_and(|kind| TUNNEL_KINDS.contains(&kind.as_str()));
        let name = known.as_ref().map(|(old, _)| old.clone()).filter(|old| **old == *name).unwrap_or(name.into());
        let changed = known.is_some_and(|known| known != (name.clone(), tunnel));
        let ignored = is_ignored(&self.ignored, &name);
        self.links.insert(index, Link { name, up, ignored, tunnel });
        changed
    }

    /// The IPIP tunnel's device, if it is there and switched on.
    pub fn ipip_device(&self) -> Option<u32> {
        self.ipip.filter(|index| self.is_up(*index))
    }

    /// Whether a link is there and switched on.
    pub fn is_up(&self, index: u32) -> bool {
        self.links.get(&index).is_some_and(|link| link.up)
    }

    /// The name of a link, if it is there.
    pub fn link_name(&self, index: u32) -> Option<&Arc<str>> {
        self.links.get(&index).map(|link| &link.name)
    }

    pub(super) fn link_of(&self, hop: &NextHop) -> Option<&Link> {
        self.links.get(&hop.interface?)
    }

    /// Takes or forgets an address of this node; says whether that changed anything.
    pub fn address(&mut self, address: IpAddr, link: u32, present: bool) -> bool {
        if present { self.addresses.insert((address, link)) } else { self.addresses.remove(&(address, link)) }
    }

    /// The same with the length of its subnet, of which one address may have several.
    pub fn network(&mut self, network: IpNet, link: u32, present: bool) -> bool {
        let entry = (network, link);
        let changed = if present { self.networks.insert(entry) } else { self.networks.remove(&entry) };
        let there = self.networks_of(network.addr()).any(|(_, on)| *on == link);
        self.address(network.addr(), link, there) || changed
    }

    /// An address with the lengths of its subnets, on whichever links.
    pub(super) fn held(&self, address: IpAddr) -> Vec<IpNet> {
        self.networks_of(address).map(|(network, _)| *network).collect()
    }

    fn networks_of(&self, address: IpAddr) -> impl Iterator<Item = &(IpNet, u32)> {
        let host = IpNet::from(address);
        let shortest = IpNet::new(address, 0).unwrap_or(host);
        self.networks.range((shortest, 0)..=(host, u32::MAX))
    }

    /// The links that are tunnels.
    pub fn tunnels(&self) -> impl Iterator<Item = u32> {
        self.links.iter().filter(|(_, link)| link.tunnel).map(|(index, _)| *index)
    }

    /// Forgets felix's routes to other nodes that one of ours has taken the place of; says whether there were any.
    pub fn replaced(&mut self, prefix: &IpNet, metric: u32) -> bool {
        let taken = |route: &Foreign| route.metric == metric && self.is_to_other_node(route);
        let taken: Vec<_> = self.exact(prefix).iter().filter(|route| taken(route)).cloned().collect();
        taken.into_iter().filter(|route| self.route(*prefix, route.clone(), false)).count() > 0
    }

    /// Whether this node has the address.
    pub fn is_own(&self, address: IpAddr) -> bool {
        self.links_with(address).next().is_some()
    }

    /// The links that have the address.
    pub(super) fn links_with(&self, address: IpAddr) -> impl Iterator<Item = Option<&Link>> {
        let of_it = self.addresses.range((address, 0)..=(address, u32::MAX));
        of_it.map(|(_, index)| self.links.get(index))
    }

    /// Takes or forgets a route; says whether that changed anything.
    pub fn route(&mut self, prefix: IpNet, route: Foreign, present: bool) -> bool {
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
        of_link
    }

    /// The routes for exactly this prefix, the best first.
    pub fn exact(&self, prefix: &IpNet) -> &[Foreign] {
        self.routes.get(prefix).map_or(&[], Vec::as_slice)
    }

    /// All prefixes that may be told: those of routes, and tunnels' addresses.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        let of_tunnel = |(_, index): &&(IpAddr, u32)| self.links.get(index).is_some_and(|link| link.tunnel);
        let addresses = self.addresses.iter().filter(of_tunnel).map(|(address, _)| IpNet::from(*address));
        self.routes.keys().copied().chain(addresses)
    }

    /// Whether a route is the kernel's own to a connected network.
    pub(super) fn is_connected(&self, route: &Foreign) -> bool {
        route.protocol == BY_KERNEL && route.hops.iter().any(|hop| hop.gateway.is_none())
    }

    /// Whether a route is to a network on an interface that is ignored.
    pub(super) fn is_ignored(&self, route: &Foreign) -> bool {
        self.is_connected(route) && route.hops.iter().all(|hop| self.link_of(hop).is_some_and(|link| link.ignored))
    }

    /// The best route by which packets for an address leave, but for ignored networks; and its prefix.
    pub(super) fn longest(&self, address: IpAddr) -> Option<(IpNet, &Foreign)> {
        covers(address).find_map(|prefix| {
            let route = self.routes.get(&prefix)?.iter().find(|route| !self.is_ignored(route))?;
            Some((prefix, route))
        })
    }
}

/// The prefixes that an address is in, the longest first.
pub(super) fn covers(address: IpAddr) -> impl Iterator<Item = IpNet> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (0..=longest).rev().filter_map(move |length| Some(IpNet::new(address, length).ok()?.trunc()))
}

fn is_ignored(ignored: &[String], name: &str) -> bool {
    let patterns = NEVER_CONNECTED.into_iter().chain(ignored.iter().map(String::as_str));
    patterns.into_iter().any(|pattern| crate::bird::matches(pattern, name))
}
