//! Which routes lead to other nodes, given what is wanted and which ways there are?
//!
//! There may be sixty thousand of them, so only those are looked at that changed, or whose way did.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use calico_delta::pack;
use calico_netlink::{NextHop, Route};
use felix_calc::{Path, Remote};
use ipnet::IpNet;

use crate::{PROTOCOL, Settings};

/// A tunnel device that takes packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The interface's number.
    pub(crate) index: u32,
    /// The largest packet that it takes, in octets.
    pub(crate) mtu: u32,
}

/// By what other nodes can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    pub(crate) ipip: Option<Way>,
    pub(crate) vxlan: Option<Way>,
    pub(crate) vxlan_v6: Option<Way>,
    /// Subnets of the node's own interfaces, the narrowest first.
    pub(crate) plain: Vec<(IpNet, u32)>,
    /// The interfaces that hold the node's own addresses: packets for nodes that are said to be on our link, though
    /// no interface has a subnet that says so, leave there.
    pub(crate) own: Vec<(IpAddr, u32)>,
}

/// What is to be done at a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// This route is to stand there.
    Want(Box<Route>),
    /// What stands there stays.
    Leave,
    /// Nothing of ours is to stand there.
    Empty,
}

/// What is wanted for other nodes' destinations.
#[derive(Debug, Default)]
pub(crate) struct Remotes {
    wanted: BTreeMap<IpNet, Remote>,
    /// The far ends of IPv6 tunnels, each as a destination, and how many others lead to it.
    ///
    /// The kernel takes a gateway in IPv6 only if what it knows of that address leads through the same interface, `onlink` or
    /// not (`ip6_route_check_nh_onlink`). A far end's address lies in the block that is to be reached by it, whose route leads
    /// elsewhere until then: so each has a route of its own, written before, as those without gateway are.
    far_ends: BTreeMap<IpNet, u32>,
    ways: Ways,
    dirty: BTreeSet<IpNet>,
}

impl Remotes {
    /// Takes what is wanted at a destination.
    pub(crate) fn change(&mut self, destination: IpNet, wanted: Option<Remote>) {
        let destination = destination.trunc();
        let far_end = wanted.as_ref().and_then(far_end);
        let before = match wanted {
            Some(remote) => self.wanted.insert(destination, remote),
            None => self.wanted.remove(&destination),
        };
        self.dirty.insert(destination);
        let before = before.as_ref().and_then(self::far_end);
        if before == far_end {
            return;
        }
        if let Some(far_end) = far_end {
            *self.far_ends.entry(far_end).or_default() += 1;
            self.dirty.insert(far_end);
        }
        if let Some(before) = before
            && let Entry::Occupied(mut count) = self.far_ends.entry(before)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
                self.dirty.insert(before);
            }
        }
    }

    /// Takes as little room as it can, after much has come in order.
    pub(crate) fn pack(&mut self) {
        pack(&mut self.wanted);
    }

    /// Looks at a destination again.
    pub(crate) fn touch(&mut self, destination: IpNet) {
        if self.wanted.contains_key(&destination) || self.far_ends.contains_key(&destination) {
            self.dirty.insert(destination);
        }
    }

    /// Takes the ways that there are.
    pub(crate) fn set_ways(&mut self, ways: Ways) {
        if self.ways == ways {
            return;
        }
        let old = std::mem::replace(&mut self.ways, ways);
        let new = &self.ways;
        let plain = (&old.plain, &old.own) != (&new.plain, &new.own);
        let (ipip, vxlan, vxlan_v6) = (old.ipip != new.ipip, old.vxlan != new.vxlan, old.vxlan_v6 != new.vxlan_v6);
        let concerned = |(destination, remote): &(&IpNet, &Remote)| match remote {
            Remote::Leave => false,
            Remote::By(Path::Plain { gateway }) => plain && old.towards(*gateway) != new.towards(*gateway),
            Remote::By(Path::Ipip { .. }) => ipip,
            Remote::By(Path::Vxlan { gateway }) => {
                if gateway.is_ipv4() {
                    vxlan
                } else {
                    vxlan_v6
                }
            }
            Remote::By(Path::VxlanLink) => {
                if destination.addr().is_ipv4() {
                    vxlan
                } else {
                    vxlan_v6
                }
            }
        };
        self.dirty.extend(self.wanted.iter().filter(concerned).map(|(destination, _)| *destination));
        self.dirty.extend(self.far_ends.keys().filter(|_| vxlan_v6));
    }

    /// Where something changed since the last call.
    pub(crate) fn drain(&mut self) -> BTreeSet<IpNet> {
        std::mem::take(&mut self.dirty)
    }

    /// What is to be done at a destination.
    pub(crate) fn place(&self, destination: IpNet, settings: &Settings) -> Place {
        let implied = || self.far_ends.contains_key(&destination).then_some(&Remote::By(Path::VxlanLink));
        match self.wanted.get(&destination).or_else(implied) {
            None => Place::Empty,
            // A path that cannot be provided yet is not ready: the old one stays.
            Some(Remote::By(path)) => {
                self.ways.route(destination, *path, settings).map_or(Place::Leave, |route| Place::Want(Box::new(route)))
            }
            Some(Remote::Leave) => Place::Leave,
        }
    }
}

/// The far end that an IPv6 destination is reached by.
fn far_end(remote: &Remote) -> Option<IpNet> {
    match remote {
        Remote::By(Path::Vxlan { gateway }) if gateway.is_ipv6() => Some(IpNet::from(*gateway)),
        _ => None,
    }
}

impl Ways {
    fn route(&self, destination: IpNet, path: Path, settings: &Settings) -> Option<Route> {
        let (hop, mtu) = match path {
            Path::Plain { gateway } => (NextHop::via(gateway).on(self.towards(gateway)?).onlink(), None),
            Path::Ipip { gateway } => {
                let way = self.ipip?;
                (NextHop::via(gateway.into()).on(way.index).onlink(), Some(way.mtu))
            }
            Path::Vxlan { gateway } => {
                let way = if gateway.is_ipv4() { self.vxlan? } else { self.vxlan_v6? };
                (NextHop::via(gateway).on(way.index).onlink(), Some(way.mtu))
            }
            Path::VxlanLink => {
                let way = if destination.addr().is_ipv4() { self.vxlan? } else { self.vxlan_v6? };
                (NextHop::dev(way.index), Some(way.mtu))
            }
        };
        Some(Route { mtu, ..Route::unicast(destination, [hop], PROTOCOL) }.with_metric(metric(settings, &destination)))
    }

    fn towards(&self, gateway: IpAddr) -> Option<u32> {
        let subnet = self.plain.iter().find(|(network, _)| network.contains(&gateway));
        let own =
            || self.own.iter().find(|(address, _)| address.is_ipv4() == gateway.is_ipv4()).map(|(_, index)| *index);
        subnet.map(|(_, index)| *index).or_else(own)
    }
}

/// The metric of routes to a destination's family.
pub(crate) fn metric(settings: &Settings, destination: &IpNet) -> u32 {
    if destination.addr().is_ipv4() { settings.metric_ipv4 } else { settings.metric_ipv6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_a_route_as_soon_as_there_is_a_way_and_a_change_of_a_way_concerns_those_that_go_by_it() {
        let drained = |remotes: &mut Remotes| {
            let all = remotes.drain().into_iter();
            all.map(|to| (to, remotes.place(to, &Settings::default()))).collect::<Vec<_>>()
        };
        let mut remotes = Remotes::default();
        let [a, b, c]: [IpNet; 3] = ["10.1.0.0/26", "10.2.0.0/26", "fd00::/122"].map(|text| text.parse().unwrap());
        remotes.change(a, Some(Remote::By(Path::Ipip { gateway: [192, 0, 2, 1].into() })));
        remotes.change(b, Some(Remote::By(Path::Plain { gateway: [192, 0, 2, 2].into() })));
        remotes.change(c, Some(Remote::Leave));
        let all_left = [(a, Place::Leave), (b, Place::Leave), (c, Place::Leave)];
        assert_eq!(drained(&mut remotes), all_left);
        assert_eq!(drained(&mut remotes), []);

        let plain = vec![("192.0.2.0/24".parse().unwrap(), 3)];
        remotes.set_ways(Ways { ipip: Some(Way { index: 4, mtu: 1480 }), plain, ..Ways::default() });
        let gateway = |last| NextHop::via([192, 0, 2, last].into()).onlink();
        let ipip = Route::unicast(a, [gateway(1).on(4)], 80).with_metric(1024).with_mtu(1480);
        let direct = Route::unicast(b, [gateway(2).on(3)], 80).with_metric(1024);
        let expected = [(a, Place::Want(Box::new(ipip))), (b, Place::Want(Box::new(direct.clone())))];
        assert_eq!(drained(&mut remotes), expected);
        // An interface more, by which no gateway is reached, and then one by which it is.
        let mut ways = remotes.ways.clone();
        ways.plain.push(("172.17.0.0/16".parse().unwrap(), 9));
        remotes.set_ways(ways.clone());
        assert_eq!(drained(&mut remotes), []);
        ways.plain.insert(0, ("192.0.2.0/25".parse().unwrap(), 9));
        remotes.set_ways(ways.clone());
        let moved = Route { next_hops: vec![gateway(2).on(9)], ..direct };
        assert_eq!(drained(&mut remotes), [(b, Place::Want(Box::new(moved)))]);
        remotes.set_ways(Ways { ipip: None, ..ways });
        assert_eq!(drained(&mut remotes), [(a, Place::Leave)]);

        remotes.change(a, None);
        remotes.touch(a);
        assert_eq!(drained(&mut remotes), [(a, Place::Empty)]);
    }
    #[test]
    fn a_far_end_in_ipv6_has_a_route_of_its_own_as_long_as_any_destination_is_reached_by_it() {
        let places = |remotes: &mut Remotes| {
            let all = remotes.drain().into_iter();
            all.map(|to| (to, remotes.place(to, &Settings::default()))).collect::<Vec<_>>()
        };
        let vxlan_v6 = Some(Way { index: 4, mtu: 1430 });
        let mut remotes = Remotes { ways: Ways { vxlan_v6, ..Ways::default() }, ..Remotes::default() };
        let [a, b, far]: [IpNet; 3] =
            ["fd00:1::/122", "fd00:2::/122", "fd00:1::/128"].map(|text| text.parse().unwrap());
        let by = Some(Remote::By(Path::Vxlan { gateway: far.addr() }));
        let link = Route::unicast(far, [NextHop::dev(4)], PROTOCOL).with_metric(1024).with_mtu(1430);
        remotes.change(a, by);
        assert_eq!(places(&mut remotes)[1], (far, Place::Want(Box::new(link))));
        remotes.change(b, by);
        remotes.change(a, by);
        remotes.drain();
        remotes.change(a, Some(Remote::Leave));
        assert_eq!(places(&mut remotes), [(a, Place::Leave)]);
        remotes.change(b, None);
        assert_eq!(places(&mut remotes), [(far, Place::Empty), (b, Place::Empty)]);
        // In IPv4 the kernel does not ask.
        remotes.change(a, Some(Remote::By(Path::Vxlan { gateway: [192, 0, 2, 1].into() })));
        assert_eq!(places(&mut remotes).len(), 1);
    }
}
