//! May a learned prefix become a route, and through which neighbours?

use std::collections::BTreeSet;
use std::net::IpAddr;

use bgp_plan::inputs::Encap;
use ipnet::IpNet;

use super::resolve::Walk;
use super::{Fib, Foreign, Hop, MAX_PATHS, Unreachable};

/// A prefix's best paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Learned {
    /// Their next hops.
    pub next_hops: Vec<IpAddr>,
    /// Their LOCAL_PREF.
    pub local_pref: Option<u32>,
    /// Whom the best of them was learned from.
    pub peer: Option<IpAddr>,
}

impl Learned {
    /// The addresses that it matters to where they lead.
    pub fn depends_on(&self, prefix: &IpNet) -> Vec<IpAddr> {
        self.next_hops.iter().copied().chain(self.covered_peer(prefix)).collect()
    }

    /// The peer, if the prefix takes its packets, and not for the sake of itself as the next hop.
    fn covered_peer(&self, prefix: &IpNet) -> Option<IpAddr> {
        self.peer.filter(|peer| prefix.contains(peer) && !self.next_hops.contains(peer))
    }
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

impl Verdict {
    /// Whether a route of ours that stands in the kernel is left there: whoever is to have it replaces it in one step, or we
    /// do when the new way is ready. It goes only with the path itself.
    pub fn leaves(&self) -> bool {
        match self {
            Self::Install { .. } => false,
            Self::HeldBack(reason) => reason.is_about_tunnels(),
            Self::Elsewhere(elsewhere) => matches!(elsewhere, Elsewhere::Encapsulated | Elsewhere::Felix),
        }
    }
}

impl Unreachable {
    /// Whether only the tunnel is not ready, here or at its other end.
    fn is_about_tunnels(self) -> bool {
        matches!(self, Self::NoTunnel | Self::NotReady)
    }
}

/// Who routes a learned prefix in place of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Elsewhere {
    /// Its pool is encapsulated, and felix owns such routes.
    #[error("its pool is encapsulated: felix programs its routes")]
    Encapsulated,
    /// Its pool is not encapsulated, and felix owns such routes.
    #[error("programClusterRoutes leaves routes without encapsulation to felix")]
    Felix,
    /// It is inside a range of services.
    #[error("it is an address of services, which are not routed on nodes")]
    Service,
    /// Its next hop is reached by WireGuard.
    #[error("its next hop's traffic goes through WireGuard")]
    WireGuard,
    /// It is a block of this node.
    #[error("it is this node's own block")]
    OwnBlock,
    /// It is a peer with a route of its own.
    #[error("a BGPPeer's reachableBy routes it")]
    Static,
    /// Another program holds the same route, or a better one that must not be hidden.
    #[error("another program holds a route for it")]
    Taken,
}

impl Fib {
    /// What the kernel is to do about a learned prefix.
    pub fn judge(&self, prefix: &IpNet, learned: &Learned) -> Verdict {
        if let Some(elsewhere) = self.elsewhere(prefix, learned) {
            return Verdict::Elsewhere(elsewhere);
        }
        let metric = self.ownership.metric(prefix, learned.local_pref);
        match self.hops(prefix, learned, &mut Walk::from(Some(prefix))) {
            Ok(hops) => Verdict::Install { hops: hops.into_iter().take(MAX_PATHS).collect(), metric },
            Err(reason) => Verdict::HeldBack(reason),
        }
    }

    /// Who else routes a learned prefix, if somebody does.
    pub(super) fn elsewhere(&self, prefix: &IpNet, learned: &Learned) -> Option<Elsewhere> {
        let ownership = &self.ownership;
        if ownership.blocks.contains(prefix) {
            return Some(Elsewhere::OwnBlock);
        }
        if prefix.prefix_len() == prefix.max_prefix_len() && self.statics.contains_key(&prefix.addr()) {
            return Some(Elsewhere::Static);
        }
        if ownership.services.iter().any(|services| services.contains(prefix)) {
            return Some(Elsewhere::Service);
        }
        if !learned.next_hops.is_empty() && learned.next_hops.iter().all(|hop| ownership.wireguard.contains(hop)) {
            return Some(Elsewhere::WireGuard);
        }
        let pool = ownership.pool(prefix);
        match pool.map(|pool| pool.encap) {
            Some(Encap::Vxlan { .. }) => return Some(Elsewhere::Encapsulated),
            Some(Encap::Ipip { .. }) if !ownership.ipip => return Some(Elsewhere::Encapsulated),
            Some(Encap::None) if !ownership.plain => return Some(Elsewhere::Felix),
            _ => {}
        }
        let metric = ownership.metric(prefix, learned.local_pref);
        let inside = ownership.is_inside_own(prefix);
        // In a pool that we route, felix leaves its routes to us. So it does with blocks in no pool, as when that is deleted
        // and still has pods; but single addresses there, of tunnels and borrowed ones, it routes itself.
        let single = prefix.prefix_len() == prefix.max_prefix_len();
        let ours = pool.is_some() || !(single || ownership.pool_unknown);
        let left_to_us = |route: &&Foreign| ours && self.image.is_to_other_node(route);
        let others = self.image.exact(prefix).iter().filter(|route| !left_to_us(route));
        let taken = others.into_iter().any(|route| {
            // A pod of ours beats what a peer says of its address, unless that is elevated: the pod has moved there.
            let workload = (inside || self.image.is_workload(route)) && route.metric <= metric;
            let connected = self.image.is_connected(route) && !self.image.is_ignored(route);
            // And two owners cannot hold one key.
            workload || connected || route.metric == metric
        });
        taken.then_some(Elsewhere::Taken)
    }

    /// The neighbours that take packets for a learned prefix.
    pub(super) fn hops(
        &self,
        prefix: &IpNet,
        learned: &Learned,
        walk: &mut Walk,
    ) -> Result<BTreeSet<Hop>, Unreachable> {
        if let Some(peer) = learned.covered_peer(prefix)
            && self.follow(peer, walk).is_ok_and(|(_, length)| length <= prefix.prefix_len())
        {
            return Err(Unreachable::CoversPeer);
        }
        let mut hops = BTreeSet::new();
        let mut unreachable = Unreachable::NoRoute;
        let next_hops = learned.next_hops.iter().filter(|next_hop| !self.ownership.wireguard.contains(next_hop));
        let tunnelled = matches!(self.ownership.pool(prefix), Some(pool) if matches!(pool.encap, Encap::Ipip { .. }));
        for next_hop in next_hops {
            if !walk.follows(!hops.is_empty()) {
                break;
            }
            let hop = self.follow(*next_hop, walk).and_then(|(hop, length)| {
                if prefix.contains(next_hop) && length <= prefix.prefix_len() {
                    return Err(Unreachable::CoversNextHop);
                }
                if tunnelled { self.tunnelled(prefix, *next_hop, hop) } else { Ok(hop) }
            });
            match hop {
                Ok(hop) => drop(hops.insert(hop)),
                Err(_) if unreachable.is_about_tunnels() => {}
                Err(reason) => unreachable = reason,
            }
        }
        if hops.is_empty() { Err(unreachable) } else { Ok(hops) }
    }

    /// How a next hop of an IPIP pool is reached that plain packets would reach by `plain`.
    fn tunnelled(&self, prefix: &IpNet, next_hop: IpAddr, plain: Hop) -> Result<Hop, Unreachable> {
        let cross_subnet = matches!(
            self.ownership.pool(prefix),
            Some(pool) if pool.encap == Encap::Ipip { cross_subnet: true }
        );
        let awaited = self.ownership.awaited.contains(&next_hop);
        if (cross_subnet || awaited) && self.is_in_subnet(next_hop) {
            return Ok(plain);
        }
        if awaited {
            return Err(Unreachable::NotReady);
        }
        let device = self.image.ipip_device().filter(|_| next_hop.is_ipv4()).ok_or(Unreachable::NoTunnel)?;
        if plain.interface == device {
            return Err(Unreachable::CoversNextHop); // a tunnel's own packets cannot go through it
        }
        // The kernel puts packets into others for the gateway, so it is the next hop itself and not its neighbour.
        Ok(Hop { gateway: next_hop, interface: device, onlink: true })
    }
}
