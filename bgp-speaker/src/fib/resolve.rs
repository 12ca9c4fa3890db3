//! Where does a next hop lead?
//!
//! To the neighbour that the longest route names: another program's, one of ours to a peer, or a learned one, whose own
//! next hops are then followed. A learned prefix
//!
//! - never takes a next hop off a connected network: whoever is on the link is reached on the link;
//! - never leads to its own next hops, nor through itself (Departs from Calico's BIRD, which gives up where we go on to
//!   the next shorter route: so what is reachable without a learned prefix is reachable with it, and no two prefixes can
//!   take each other away in turns);
//! - counts only if it would itself become a route.

use std::net::IpAddr;

use ipnet::IpNet;

use super::image::covers;
use super::{Fib, Foreign};

/// How many learned prefixes are followed, one through the other.
const DEPTH: usize = 4;
/// How many routes are looked up for one next hop.
const BUDGET: u32 = 64;

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
    #[error("no route leads to the next hop")]
    NoRoute,
    /// A black hole covers it.
    #[error("a route without gateway and interface covers the next hop")]
    BlackHole,
    /// The prefix would take the next hop's own packets.
    #[error("the route would lead to its own next hop, which nothing more specific leads to")]
    CoversNextHop,
    /// The prefix would take the packets of the session that it was learned by.
    #[error("the route would lead to the peer that advertises it, which nothing more specific leads to")]
    CoversPeer,
    /// The IPIP tunnel is needed, and the node at its other end takes nothing from it yet.
    #[error("the node at the next hop does not say yet that it takes IPIP (spec.bgp.ipv4IPIPTunnelAddr of its Node)")]
    NotReady,
    /// The IPIP tunnel is needed.
    #[error("tunl0 is missing or switched off; felix makes it for pools with IPIP")]
    NoTunnel,
}

/// Where packets for a next hop go, and how long the prefix of the route is that takes them.
pub(super) type Found = Result<(Hop, u8), Unreachable>;

/// A way through the routes.
#[derive(Debug)]
pub(super) struct Walk {
    /// The learned prefixes that it goes through.
    through: Vec<IpNet>,
    budget: u32,
    /// Whether there was a learned prefix or a static route on the way: what was found holds for this way only.
    special: bool,
}

impl Walk {
    /// One that begins with the next hops of a prefix.
    pub(super) fn from(prefix: Option<&IpNet>) -> Self {
        Self { through: prefix.into_iter().copied().collect(), budget: BUDGET, special: false }
    }

    /// Whether another next hop of the prefix that it is at is to be followed: of the first prefix all are, with equal
    /// patience, and of the next ones no more than one that leads anywhere.
    pub(super) fn follows(&mut self, found: bool) -> bool {
        if self.through.len() <= 1 {
            self.budget = BUDGET;
            return true;
        }
        !found
    }
}

impl Fib {
    /// Where packets for a next hop go.
    ///
    /// # Errors
    /// If they go nowhere.
    pub fn resolve(&self, next_hop: IpAddr) -> Result<Hop, Unreachable> {
        self.follow(next_hop, &mut Walk::from(None)).map(|(hop, _)| hop)
    }

    /// Where packets for the gateway of a host route go, if it is on a link.
    ///
    /// # Errors
    /// If it is not.
    pub fn resolve_on_link(&self, gateway: IpAddr) -> Result<Hop, Unreachable> {
        if self.image.is_own(gateway) {
            return Err(Unreachable::Own);
        }
        let (_, route) = self.image.longest(gateway).ok_or(Unreachable::NoRoute)?;
        match on_link(gateway, route) {
            Some(hop) => Ok(hop),
            None if route.hops.is_empty() => Err(Unreachable::BlackHole),
            None => Err(Unreachable::NoRoute),
        }
    }

    /// Where packets for a next hop go, and how long the prefix of the route is that takes them.
    pub(super) fn follow(&self, next_hop: IpAddr, walk: &mut Walk) -> Found {
        if let Some(known) = self.resolved.borrow().get(&next_hop) {
            return *known;
        }
        walk.budget = walk.budget.saturating_sub(1);
        let special = std::mem::take(&mut walk.special);
        let found = self.look_up(next_hop, walk);
        if !walk.special {
            self.resolved.borrow_mut().insert(next_hop, found);
        }
        walk.special |= special;
        found
    }

    fn look_up(&self, next_hop: IpAddr, walk: &mut Walk) -> Found {
        if self.image.is_own(next_hop) {
            return Err(Unreachable::Own);
        }
        if let Some(gateway) = self.statics.get(&next_hop) {
            walk.special = true;
            if let Ok(hop) = self.resolve_on_link(*gateway) {
                return Ok((hop, IpNet::from(next_hop).prefix_len()));
            }
        }
        let foreign = self.image.longest(next_hop);
        if let Some((prefix, route)) = foreign
            && self.image.is_connected(route)
            && let Some(hop) = on_link(next_hop, route)
        {
            return Ok((hop, prefix.prefix_len()));
        }
        if let Some(found) = self.through_learned(next_hop, foreign, walk) {
            return Ok(found);
        }
        let (prefix, route) = foreign.ok_or(Unreachable::NoRoute)?;
        let hop = route.hops.first().ok_or(Unreachable::BlackHole)?;
        let hop = match (hop.gateway, hop.interface) {
            (None, interface) => Hop { gateway: next_hop, interface: interface.unwrap_or(0), onlink: false },
            // The kernel accepted it, so it is on the link, if need be by its word.
            (Some(gateway), Some(interface)) => Hop { gateway, interface, onlink: hop.onlink },
            (Some(gateway), None) => {
                walk.special = true;
                if walk.budget == 0 || gateway == next_hop {
                    return Err(Unreachable::NoRoute);
                }
                self.follow(gateway, walk)?.0
            }
        };
        Ok((hop, prefix.prefix_len()))
    }

    /// Where learned routes lead that the kernel would prefer to this other's.
    fn through_learned(
        &self,
        next_hop: IpAddr,
        foreign: Option<(IpNet, &Foreign)>,
        walk: &mut Walk,
    ) -> Option<(Hop, u8)> {
        let least = foreign.map_or(0, |(prefix, _)| prefix.prefix_len());
        for prefix in covers(next_hop).take_while(|prefix| prefix.prefix_len() >= least) {
            let Some(entry) = self.learned.get(&prefix) else { continue };
            let beaten = |route: &Foreign| self.ownership.metric(&prefix, entry.learned.local_pref) >= route.metric;
            if foreign.is_some_and(|(same, route)| same == prefix && beaten(route)) {
                continue;
            }
            walk.special = true;
            let own = entry.learned.next_hops.contains(&next_hop) || walk.through.contains(&prefix);
            if own
                || walk.through.len() > DEPTH
                || walk.budget == 0
                || self.elsewhere(&prefix, &entry.learned).is_some()
            {
                continue;
            }
            walk.through.push(prefix);
            let hops = self.hops(&prefix, &entry.learned, walk);
            walk.through.pop();
            if let Some(hop) = hops.ok().and_then(|hops| hops.first().copied()) {
                return Some((hop, prefix.prefix_len()));
            }
        }
        None
    }
}

fn on_link(address: IpAddr, route: &Foreign) -> Option<Hop> {
    let hop = route.hops.iter().find(|hop| hop.gateway.is_none())?;
    Some(Hop { gateway: address, interface: hop.interface?, onlink: false })
}
