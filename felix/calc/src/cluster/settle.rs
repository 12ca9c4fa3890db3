//! What is different now?

use std::collections::BTreeSet;
use std::net::IpAddr;

use bgp_plan::inputs::Encap;
use ipnet::IpNet;

use super::told::{Route, Told};
use super::wanted::{Ipip, Remote, Set, Tunnels, Vtep, Vxlan};
use super::{Cluster, Touched};
use crate::changes::Change;
use crate::inputs::Routing;
use crate::notice::Notice;

/// How many nodes out of reach are named.
const NAMED: usize = 3;

impl Told {
    /// Whether it was told that two nodes have one address.
    pub(super) fn has_same_address(&self) -> bool {
        self.notices.iter().any(|notice| matches!(notice, Notice::SameAddress { .. }))
    }
}

impl Cluster {
    /// Tells the differences in what was touched, in an order in which everything finds what it needs: devices, who may
    /// send, far ends, routes; and then what those did need.
    pub(super) fn settle(&mut self, touched: Touched) -> Vec<Change> {
        if !self.in_sync {
            return Vec::new();
        }
        let Touched { destinations, mut nodes, members, mut notices } = touched;
        // At the start these are tens of thousands, and as changes they are large.
        let mut routes: Vec<(IpNet, Option<Remote>)> = Vec::new();
        for destination in destinations {
            let route = self.route(&destination);
            let before = self.told.routes.get(&destination);
            if before == route.as_ref() {
                continue;
            }
            // Who was sent to, or is now, may need an entry for that, or need it no more.
            nodes.extend(before.iter().copied().chain(&route).map(|route| route.holder.clone()));
            let wanted = route.as_ref().and_then(|route| route.remote);
            let told = before.and_then(|before| before.remote) != wanted;
            notices |= before.and_then(Route::beyond) != route.as_ref().and_then(Route::beyond);
            self.told.set_route(destination, route);
            if told {
                routes.push((destination, wanted));
            }
        }

        let mut changes = Vec::new();
        let tunnels = self.tunnels();
        if tunnels != self.told.tunnels {
            self.told.tunnels = tunnels.clone();
            changes.push(Change::Tunnels(tunnels));
        }
        let mut last = Vec::new();
        for (set, member) in members {
            let wanted = self.is_member(set, &member);
            let changed = match wanted {
                true => self.told.members.insert((set, member)),
                false => self.told.members.remove(&(set, member)),
            };
            if changed {
                if wanted { &mut changes } else { &mut last }.push(Change::Member { set, member, wanted });
            }
        }
        for node in nodes.into_iter().filter(|node| *node != self.own) {
            for ipv6 in [false, true] {
                let key = (node.clone(), ipv6);
                let wanted = self.vtep(&key);
                if wanted.as_ref() == self.told.vteps.get(&key) {
                    continue;
                }
                let change = Change::Vtep { node: node.to_string(), ipv6, wanted };
                match wanted {
                    Some(vtep) => {
                        self.told.vteps.insert(key, vtep);
                        changes.push(change);
                    }
                    None => {
                        self.told.vteps.remove(&key);
                        last.push(change);
                    }
                }
            }
        }
        changes.reserve_exact(routes.len() + last.len());
        changes.extend(routes.into_iter().map(|(destination, wanted)| Change::Remote { destination, wanted }));
        changes.append(&mut last);
        if notices {
            let now = self.present_notices();
            changes.extend(now.difference(&self.told.notices).cloned().map(Change::Notice));
            self.told.notices = now;
        }
        changes
    }

    fn vtep(&self, key: &(super::blocks::Name, bool)) -> Option<Vtep> {
        let (node, ipv6) = (&key.0, key.1);
        let used = self.told.uses_vxlan_to(node, ipv6);
        if self.routing == Routing::Off || !(used || self.modes.vxlan(ipv6)) {
            return None;
        }
        let known = self.nodes.vtep(node, ipv6);
        // What a route goes by stays as long as the route does.
        known.or_else(|| self.told.vteps.get(key).copied().filter(|_| used))
    }

    fn tunnels(&self) -> Tunnels {
        if self.routing == Routing::Off {
            return Tunnels::default();
        }
        let (own, told) = (self.nodes.own(), &self.told);
        let ipip = (self.modes.ipip || told.uses_ipip()).then(|| {
            let v4 = |address: Option<IpAddr>| match address {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            };
            let address = v4(own.and_then(|own| own.v4.ipip));
            Ipip { address, local: v4(own.and_then(|own| own.v4.host).map(|host| host.addr())) }
        });
        let vxlan = |ipv6: bool, before: &Option<Vxlan>| {
            if !(self.modes.vxlan(ipv6) || told.uses_vxlan(ipv6)) {
                return None;
            }
            let family = own.map(|own| own.family(ipv6));
            let now = family
                .and_then(|family| Some(Vxlan { local: family.host?.addr(), mac: family.mac, address: family.vxlan }));
            now.or_else(|| before.clone())
        };
        Tunnels { ipip, vxlan: vxlan(false, &told.tunnels.vxlan), vxlan_v6: vxlan(true, &told.tunnels.vxlan_v6) }
    }

    fn is_member(&self, set: Set, member: &IpNet) -> bool {
        let address = (member.prefix_len() == member.max_prefix_len()).then(|| member.addr());
        let host = |is: &dyn Fn(IpAddr) -> bool| self.external.contains(member) || address.is_some_and(is);
        match set {
            Set::Pools => self.pools.at(member).any(|pool| !pool.balancers),
            Set::MasqueradedPools => self.pools.at(member).any(|pool| pool.masquerade),
            Set::Hosts => host(&|address| self.nodes.is_host(address)),
            Set::VxlanHosts => host(&|address| self.nodes.is_sender(address, self.modes.vxlan(address.is_ipv6()))),
        }
    }

    /// What the operator should know at present.
    fn present_notices(&self) -> BTreeSet<Notice> {
        let mut notices = BTreeSet::new();
        notices.extend(self.classes().1.map(|warning| Notice::Owners { warning }));
        let bad = |(pool, fault): (&String, &String)| Notice::BadPool { pool: pool.clone(), fault: fault.clone() };
        notices.extend(self.pools.faults().iter().map(bad));
        for (address, node, all) in self.nodes.contested() {
            let others = all.iter().filter(|other| *other != node);
            notices.extend(others.map(|other| Notice::SameAddress {
                address,
                node: node.to_string(),
                other: other.to_string(),
            }));
        }
        // One for all: there may be thousands, with one cause and one remedy.
        let count = self.told.beyond().len();
        if count > 0 {
            let first = self.told.beyond().take(NAMED).map(|(node, gateway)| (node.to_string(), *gateway)).collect();
            notices.insert(Notice::NotOnLink { node: self.own.to_string(), count, first });
        }
        for ipv6 in [false, true] {
            let host = self.nodes.own().and_then(|own| own.family(ipv6).host);
            let matters = self.routing != Routing::Off
                && self.pools.all().any(|pool| {
                    pool.cidr.addr().is_ipv6() == ipv6
                        && !pool.balancers
                        && match pool.encap {
                            Some(Encap::None) => !self.speakers.plain,
                            Some(Encap::Ipip { cross_subnet }) => cross_subnet && !self.speakers.ipip,
                            Some(Encap::Vxlan { cross_subnet }) => cross_subnet,
                            None => false,
                        }
                });
            if let Some(host) = host.filter(|_| matters && self.subnet(ipv6).is_none()) {
                notices.insert(Notice::NoSubnet { node: self.own.to_string(), address: host.addr() });
            }
        }
        notices
    }
}
