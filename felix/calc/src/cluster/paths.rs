//! How do packets get to a destination that another node has?

use std::net::IpAddr;

use bgp_plan::inputs::Encap;
use ipnet::IpNet;

use super::Cluster;
use super::blocks::Name;
use super::told::{Route, Standing};
use super::wanted::{Path, Remote};
use crate::inputs::Routing;

/// What follows from the present alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// There is to be no route.
    Nowhere,
    /// The route is another's.
    Others,
    /// This one.
    By(Path),
    /// The node cannot take packets yet by what its pool wants: it goes on as it was, or by what both ends understand.
    Awaited,
    /// The node is to be the gateway, and is not on this node's link.
    Beyond(IpAddr),
}

impl Way {
    /// This path, if the node takes packets by it.
    fn by(path: Option<Path>) -> Self {
        path.map_or(Self::Awaited, Self::By)
    }
}

impl Cluster {
    /// The node that has a destination, if any: by IPAM, or because it is the address of its tunnel and in no block of it.
    pub(super) fn holder(&self, destination: &IpNet) -> Option<&Name> {
        if let Some(holder) = self.blocks.holder(destination) {
            return Some(holder);
        }
        if destination.prefix_len() < destination.max_prefix_len() {
            return None;
        }
        let holder = self.nodes.tunnel_holder(destination.addr())?;
        (!self.blocks.covers(holder, destination.addr())).then_some(holder)
    }

    /// What is to be told of a destination.
    pub(super) fn route(&self, destination: &IpNet) -> Option<Route> {
        let holder = self.holder(destination).filter(|holder| **holder != self.own)?;
        let (remote, standing) = match self.way(destination, holder) {
            Way::Nowhere => return None,
            Way::Others => (Some(Remote::Leave), Standing::Settled),
            Way::By(path) => (Some(Remote::By(path)), Standing::Settled),
            // Nobody else has this class, so nobody would ever replace what is left: what stood there leads astray.
            Way::Beyond(gateway) => (None, Standing::Beyond(gateway)),
            Way::Awaited => (self.meanwhile(destination, holder), Standing::Awaited),
        };
        Some(Route { remote, holder: holder.clone(), standing })
    }

    /// What is told of a destination while its node does not take packets by what its pool wants: the way that it had, if
    /// the node still understands that; else one that both ends understand, as after a restart of this process, which
    /// knows of no way before; else the way that it had all the same.
    fn meanwhile(&self, destination: &IpNet, holder: &Name) -> Option<Remote> {
        let told = self.told.routes.get(destination);
        let before = match told.filter(|told| told.holder == *holder).and_then(|told| told.remote) {
            Some(Remote::By(path)) => Some(path),
            _ => None,
        };
        let now = before.and_then(|before| self.refreshed(before, destination, holder));
        let path = now.or_else(|| self.otherwise(destination, holder)).or(before);
        match (path, told) {
            (Some(path), _) => Some(Remote::By(path)),
            (None, None) => Some(Remote::Leave),
            // To whom it led that has it no more, nothing is to be sent.
            (None, Some(told)) => told.remote.filter(|_| told.holder == *holder),
        }
    }

    /// The way that a node is still sent to, with the addresses that it has now, if it still understands that way.
    fn refreshed(&self, before: Path, destination: &IpNet, holder: &Name) -> Option<Path> {
        match before {
            Path::Ipip { .. } => self.by_ipip(holder),
            Path::Vxlan { .. } | Path::VxlanLink => self.by_vxlan(destination, holder),
            Path::Plain { .. } => self.directly(destination, holder),
        }
    }

    /// A way that is not what the pool wants, but that both ends understand: a tunnel that both announce, since such a
    /// node is in the sets by which the other end knows who may send into it; else plain packets over the common link, as
    /// the BGP speaker sends them then.
    fn otherwise(&self, destination: &IpNet, holder: &Name) -> Option<Path> {
        let ipv6 = destination.addr().is_ipv6();
        let vxlan = self.by_vxlan(destination, holder).filter(|_| self.announced.vxlan(ipv6));
        let ipip = || self.by_ipip(holder).filter(|_| self.announced.ipip && !ipv6);
        vxlan.or_else(ipip).or_else(|| self.directly(destination, holder))
    }

    fn way(&self, destination: &IpNet, holder: &Name) -> Way {
        let ipv6 = destination.addr().is_ipv6();
        if self.routing == Routing::Off {
            return Way::Nowhere;
        }
        let near = |cross_subnet: bool| self.directly(destination, holder).filter(|_| cross_subnet);
        let Some(pool) = self.pools.of(destination) else { return self.without_pool(destination, holder) };
        match pool.encap {
            _ if pool.balancers => Way::Nowhere,
            None => Way::Others,
            Some(Encap::None) if self.speakers.plain => Way::Others,
            Some(Encap::None) => match (self.nodes.host(holder, ipv6), self.subnet(ipv6)) {
                (Some(gateway), Some(subnet)) if !subnet.contains(&gateway) => Way::Beyond(gateway),
                _ => Way::by(self.directly(destination, holder)),
            },
            Some(Encap::Ipip { .. }) if self.speakers.ipip => Way::Others,
            Some(Encap::Ipip { cross_subnet }) => Way::by(near(cross_subnet).or_else(|| self.by_ipip(holder))),
            Some(Encap::Vxlan { cross_subnet }) => {
                Way::by(near(cross_subnet).or_else(|| self.by_vxlan(destination, holder)))
            }
        }
    }

    /// Plainly, if the node is on this node's link.
    fn directly(&self, destination: &IpNet, holder: &Name) -> Option<Path> {
        let ipv6 = destination.addr().is_ipv6();
        let gateway = self.nodes.host(holder, ipv6)?;
        self.subnet(ipv6)?.contains(&gateway).then_some(Path::Plain { gateway })
    }

    /// In IPIP, if the node says that it takes it.
    fn by_ipip(&self, holder: &Name) -> Option<Path> {
        let tunnel = self.nodes.get(holder)?.v4.ipip?;
        self.nodes.held(holder, tunnel)?;
        match self.nodes.host(holder, false)? {
            IpAddr::V4(gateway) => Some(Path::Ipip { gateway }),
            IpAddr::V6(_) => None,
        }
    }

    /// In VXLAN, if the node says that it takes it.
    fn by_vxlan(&self, destination: &IpNet, holder: &Name) -> Option<Path> {
        let vtep = self.nodes.vtep(holder, destination.addr().is_ipv6())?;
        let itself = *destination == IpNet::from(vtep.tunnel);
        Some(if itself { Path::VxlanLink } else { Path::Vxlan { gateway: vtep.tunnel } })
    }

    /// The same for what lies in no pool, as when a pool is deleted that still has pods. BGP tells blocks whatever pool they
    /// are of, so the BGP speaker routes them, as those of a pool without encapsulation: it takes the place of what is left
    /// to it. Single addresses it tells of pools only, so borrowed ones are sent by what both ends understand. A tunnel's
    /// address is reached by that tunnel.
    fn without_pool(&self, destination: &IpNet, holder: &Name) -> Way {
        let address = destination.addr();
        let ipv6 = address.is_ipv6();
        let single = destination.prefix_len() == destination.max_prefix_len();
        let is_tunnel = |tunnel: Option<IpAddr>| tunnel == Some(address);
        match self.nodes.get(holder).map(|facts| facts.family(ipv6)) {
            _ if self.blocks.holder(destination).is_some() => match self.routing {
                Routing::Bgp if single => self.otherwise(destination, holder).map_or(Way::Nowhere, Way::By),
                Routing::Bgp => Way::Others,
                Routing::WithoutBgp | Routing::Off => Way::Nowhere,
            },
            Some(family) if is_tunnel(family.vxlan) && self.modes.vxlan(ipv6) => {
                Way::by(self.by_vxlan(destination, holder))
            }
            Some(family) if is_tunnel(family.ipip) && self.modes.ipip && !self.speakers.ipip => {
                Way::by(self.by_ipip(holder))
            }
            _ => Way::Nowhere,
        }
    }

    pub(super) fn subnet(&self, ipv6: bool) -> Option<&IpNet> {
        if ipv6 { self.subnets.1.as_ref() } else { self.subnets.0.as_ref() }
    }
}
