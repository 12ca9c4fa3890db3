//! What has been told of the cluster, so that only differences are?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::blocks::Name;
use super::wanted::{Path, Remote, Set, Tunnels, Vtep};
use crate::notice::Notice;

/// What was told of a destination that a node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// As it was told: `None` is that nobody is to have a route.
    pub(super) remote: Option<Remote>,
    pub(super) holder: Name,
    pub(super) standing: Standing,
}

/// Whether what was told is what is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is.
    Settled,
    /// It holds until the node takes packets by what its pool wants.
    Awaited,
    /// There is none, for this should be the gateway, and is not on this node's link.
    Beyond(IpAddr),
}

impl Route {
    /// The gateway that it should have, and that is not on this node's link.
    pub(super) fn beyond(&self) -> Option<IpAddr> {
        match self.standing {
            Standing::Beyond(gateway) => Some(gateway),
            Standing::Settled | Standing::Awaited => None,
        }
    }
}

/// Everything that has been told, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) routes: BTreeMap<IpNet, Route>,
    pub(super) vteps: BTreeMap<(Name, bool), Vtep>,
    pub(super) tunnels: Tunnels,
    pub(super) members: BTreeSet<(Set, IpNet)>,
    pub(super) notices: BTreeSet<Notice>,
    /// How many routes lead into IPIP.
    ipip: usize,
    /// How many routes lead into VXLAN to a node, by family; none is not here.
    vxlan: BTreeMap<(Name, bool), usize>,
    /// How many such nodes there are, of IPv4 and of IPv6.
    vxlan_nodes: [usize; 2],
    /// How many routes would need a gateway that is not on the link, by node; none is not here.
    beyond: BTreeMap<(Name, IpAddr), usize>,
}

impl Told {
    /// Puts a route in the place of another.
    pub(super) fn set_route(&mut self, destination: IpNet, route: Option<Route>) {
        let before = match &route {
            Some(route) => self.routes.insert(destination, route.clone()),
            None => self.routes.remove(&destination),
        };
        if let Some(route) = &route {
            self.count(&destination, route, true);
        }
        if let Some(before) = &before {
            self.count(&destination, before, false);
        }
    }

    fn count(&mut self, destination: &IpNet, route: &Route, more: bool) {
        let ipv6 = destination.addr().is_ipv6();
        match route.remote {
            Some(Remote::By(Path::Ipip { .. })) => self.ipip = if more { self.ipip + 1 } else { self.ipip - 1 },
            Some(Remote::By(Path::Vxlan { .. } | Path::VxlanLink)) => {
                let nodes = &mut self.vxlan_nodes[usize::from(ipv6)];
                match change(&mut self.vxlan, (route.holder.clone(), ipv6), more) {
                    Some(true) => *nodes += 1,
                    Some(false) => *nodes -= 1,
                    None => {}
                }
            }
            _ => {}
        }
        if let Some(gateway) = route.beyond() {
            change(&mut self.beyond, (route.holder.clone(), gateway), more);
        }
    }

    /// Whether a route leads into IPIP.
    pub(super) fn uses_ipip(&self) -> bool {
        self.ipip > 0
    }

    /// Whether a route leads into VXLAN to a node.
    pub(super) fn uses_vxlan_to(&self, node: &Name, ipv6: bool) -> bool {
        !self.vxlan.is_empty() && self.vxlan.contains_key(&(node.clone(), ipv6))
    }

    /// Whether a route leads into VXLAN to any node.
    pub(super) fn uses_vxlan(&self, ipv6: bool) -> bool {
        self.vxlan_nodes[usize::from(ipv6)] > 0
    }

    /// Nodes that would be gateways and are not on the link.
    pub(super) fn beyond(&self) -> impl ExactSizeIterator<Item = &(Name, IpAddr)> {
        self.beyond.keys()
    }

    /// Destinations whose nodes do not take packets by what their pools want.
    pub(super) fn awaited(&self) -> impl Iterator<Item = &IpNet> {
        let awaited = self.routes.iter().filter(|(_, route)| route.standing == Standing::Awaited);
        awaited.map(|(destination, _)| destination)
    }
}

/// Counts one more or one less; says whether that was the first (`true`) or the last (`false`).
fn change<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, more: bool) -> Option<bool> {
    if more {
        let count = counts.entry(key).or_default();
        *count += 1;
        return (*count == 1).then_some(true);
    }
    let count = counts.get_mut(&key)?;
    *count -= 1;
    if *count > 0 {
        return None;
    }
    counts.remove(&key);
    Some(false)
}
