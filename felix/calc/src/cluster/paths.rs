//! How do packets get to a destination that another node has?

use std::net::IpAddr;

use bgp_plan::inputs::Encap;
use ipnet::IpNet;

use super::Cluster;
use super::blocks::Name;
use super::told::Route;
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
    /// The node cannot take packets yet by what its pool wants: it goes on as it was.
    Awaited,
    /// The node is to be the gateway, and is not on this node's link.
    Beyond(IpAddr),
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
        let told = |remote, beyond| Some(Route { remote, holder: holder.clone(), beyond });
        match self.way(destination, holder) {
            Way::Nowhere => None,
            Way::Others => told(Remote::Leave, None),
            Way::By(path) => told(Remote::By(path), None),
            Way::Beyond(gateway) => told(Remote::Leave, Some(gateway)),
            Way::Awaited => {
                let before = self.told.routes.get(destination).filter(|before| before.holder == *holder);
                told(before.map_or(Remote::Leave, |before| self.refreshed(before.remote, destination, holder)), None)
            }
        }
    }

    /// The way that a node is still sent to, with the addresses that it has now, if they are known.
    fn refreshed(&self, remote: Remote, destination: &IpNet, holder: &Name) -> Remote {
        let ipv6 = destination.addr().is_ipv6();
        let now = match remote {
            Remote::Leave => return remote,
            Remote::By(Path::Ipip { .. }) => self.by_ipip(holder),
            Remote::By(Path::Vxlan { .. } | Path::VxlanLink) => self.by_vxlan(destination, holder),
            Remote::By(Path::Plain { .. }) => {
                let near = |host: &IpAddr| self.subnet(ipv6).is_some_and(|subnet| subnet.contains(host));
                let host = self.nodes.host(holder, ipv6).filter(near);
                host.map_or(Way::Awaited, |gateway| Way::By(Path::Plain { gateway }))
            }
        };
        if let Way::By(path) = now { Remote::By(path) } else { remote }
    }

    fn way(&self, destination: &IpNet, holder: &Name) -> Way {
        let ipv6 = destination.addr().is_ipv6();
        if self.routing == Routing::Off {
            return Way::Nowhere;
        }
        let host = self.nodes.host(holder, ipv6);
        let is_near = |host: IpAddr| self.subnet(ipv6).is_some_and(|subnet| subnet.contains(&host));
        let near = |cross_subnet: bool| {
            host.filter(|host| cross_subnet && is_near(*host)).map(|gateway| Way::By(Path::Plain { gateway }))
        };
        let Some(pool) = self.pools.of(destination) else { return self.without_pool(destination, holder) };
        match pool.encap {
            _ if pool.balancers => Way::Nowhere,
            None => Way::Others,
            Some(Encap::None) if self.speakers.plain => Way::Others,
            Some(Encap::None) => match (host, self.subnet(ipv6)) {
                (Some(gateway), Some(_)) if is_near(gateway) => Way::By(Path::Plain { gateway }),
                (Some(gateway), Some(_)) => Way::Beyond(gateway),
                _ => Way::Awaited,
            },
            Some(Encap::Ipip { .. }) if self.speakers.ipip => Way::Others,
            Some(Encap::Ipip { cross_subnet }) => near(cross_subnet).unwrap_or_else(|| self.by_ipip(holder)),
            Some(Encap::Vxlan { cross_subnet }) => {
                near(cross_subnet).unwrap_or_else(|| self.by_vxlan(destination, holder))
            }
        }
    }

    fn by_ipip(&self, holder: &Name) -> Way {
        let tunnel = self.nodes.get(holder).and_then(|facts| self.nodes.held(holder, facts.v4.ipip?));
        match (self.nodes.host(holder, false), tunnel) {
            (Some(IpAddr::V4(gateway)), Some(_)) => Way::By(Path::Ipip { gateway }),
            _ => Way::Awaited,
        }
    }

    fn by_vxlan(&self, destination: &IpNet, holder: &Name) -> Way {
        match self.nodes.vtep(holder, destination.addr().is_ipv6()) {
            Some(vtep) if *destination == IpNet::from(vtep.tunnel) => Way::By(Path::VxlanLink),
            Some(vtep) => Way::By(Path::Vxlan { gateway: vtep.tunnel }),
            None => Way::Awaited,
        }
    }

    /// The same for what lies in no pool: the BGP speaker routes it. A tunnel's address is reached by that tunnel.
    fn without_pool(&self, destination: &IpNet, holder: &Name) -> Way {
        let address = destination.addr();
        let ipv6 = address.is_ipv6();
        let of_ipam = self.blocks.holder(destination).is_some();
        let family = self.nodes.get(holder).map(|facts| facts.family(ipv6)).filter(|_| !of_ipam);
        let others = if self.routing == Routing::Bgp { Way::Others } else { Way::Nowhere };
        match family {
            Some(family) if family.vxlan == Some(address) && self.modes.vxlan(ipv6) => {
                self.by_vxlan(destination, holder)
            }
            Some(family) if family.ipip == Some(address) && self.modes.ipip && !self.speakers.ipip => {
                self.by_ipip(holder)
            }
            _ => others,
        }
    }

    pub(super) fn subnet(&self, ipv6: bool) -> Option<&IpNet> {
        if ipv6 { self.subnets.1.as_ref() } else { self.subnets.0.as_ref() }
    }
}
