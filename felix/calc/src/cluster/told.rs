//! What has been told of the cluster, so that only differences are?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::blocks::Name;
use super::wanted::{Path, Remote, Set, Tunnels, Vtep};
use crate::notice::Notice;

/// What was told of a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) remote: Remote,
    pub(super) holder: Name,
    /// The gateway that it should have, and that is not on this node's link.
    pub(super) beyond: Option<IpAddr>,
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
            Remote::By(Path::Ipip { .. }) => self.ipip = if more { self.ipip + 1 } else { self.ipip - 1 },
            Remote::By(Path::Vxlan { .. } | Path::VxlanLink) => {
                change(&mut self.vxlan, (route.holder.clone(), ipv6), more);
            }
            _ => {}
        }
        if let Some(gateway) = route.beyond {
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
        self.vxlan.keys().any(|(_, of)| *of == ipv6)
    }

    /// Nodes that would be gateways and are not on the link.
    pub(super) fn beyond(&self) -> impl Iterator<Item = &(Name, IpAddr)> {
        self.beyond.keys()
    }
}

fn change<K: Ord>(counts: &mut BTreeMap<K, usize>, key: K, more: bool) {
    if more {
        *counts.entry(key).or_default() += 1;
    } else if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}
