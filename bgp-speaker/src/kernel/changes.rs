//! What does a change in the kernel mean to us?

use std::sync::PoisonError;

use calico_netlink::{Event, Link, NextHop, Route, RouteFilter, RouteKind, TABLE_MAIN};
use ipnet::IpNet;

use super::thread::{Kernel, is_ours};
use crate::fib::{Foreign, Image, LinkFacts};

impl Kernel {
    /// Learns from what anybody changed.
    pub(super) fn events(&mut self, events: Vec<Event>) {
        for event in events {
            self.table.notice(&event);
            match event {
                Event::Link(link) => {
                    if !link.up {
                        self.link_down(link.index);
                    }
                    self.link(link.index, Some(facts(link)));
                }
                Event::LinkGone(link) => {
                    self.link_down(link.index);
                    self.link(link.index, None);
                }
                Event::Address(address) => self.address(address.network, address.index, true),
                Event::AddressGone(address) => self.address(address.network, address.index, false),
                Event::Route(route) if is_ours(&route) => {
                    // The kernel says nothing of what it replaced.
                    let (prefix, metric) = (route.destination, route.key().metric);
                    if self.fib.image_of(&prefix).replaced(&prefix, metric) {
                        self.route_changed(&prefix);
                    }
                }
                Event::Route(route) => {
                    let Some(foreign) = foreign(&route) else { continue };
                    let (prefix, metric) = (route.destination, foreign.metric);
                    if self.fib.image_of(&prefix).route(prefix, foreign, true) {
                        // Whether it took the place of the other of its key or stands beside it, only the kernel knows.
                        self.stale |= self.of_metric(&prefix, metric) > 1;
                        self.route_changed(&prefix);
                    }
                }
                Event::RouteGone(route) => {
                    let Some(foreign) = foreign(&route) else { continue };
                    let (prefix, metric) = (route.destination, foreign.metric);
                    if self.fib.image_of(&prefix).route(prefix, foreign, false) {
                        self.route_changed(&prefix);
                    } else {
                        // Of one with several next hops perhaps only some are gone.
                        self.stale |= self.of_metric(&prefix, metric) > 0;
                    }
                }
                Event::Overrun => self.stale = true,
                // Not asked for.
                Event::Neighbour(_) | Event::NeighbourGone(_) | Event::Forwarding(_) | Event::ForwardingGone(_) => {}
            }
        }
    }

    /// How many routes of others there are for a prefix with a metric.
    fn of_metric(&self, prefix: &IpNet, metric: u32) -> usize {
        self.fib.image().exact(prefix).iter().filter(|other| other.metric == metric).count()
    }

    fn link(&mut self, index: u32, facts: Option<LinkFacts>) {
        let tunnel = self.fib.image().ipip_device();
        let changed = self.fib.whole_image().link(index, facts);
        self.note_tunnels();
        if changed {
            self.told.mark_all(self.fib.image());
            self.dependents.touch_all(self.fib.learned().keys());
        }
        if self.fib.image().ipip_device() != tunnel {
            self.dependents.touch_all(self.fib.learned().keys());
        }
    }

    /// The kernel drops the IPv4 routes of a link that is switched off or removed without a word.
    fn link_down(&mut self, index: u32) {
        if !self.fib.image().is_up(index) {
            return; // it has none; every pod's interface begins its life so
        }
        for prefix in self.fib.whole_image().link_down(index) {
            self.route_changed(&prefix);
        }
    }

    fn address(&mut self, network: IpNet, link: u32, present: bool) {
        let host = IpNet::from(network.addr());
        if !self.fib.image_of(&host).network(network, link, present) {
            return;
        }
        self.route_changed(&host);
        if self.fib.ownership().address_v4.is_some_and(|own| network.addr() == own.addr()) {
            self.dependents.touch_all(self.fib.learned().keys()); // this node's subnet may be another
        }
        // The kernel drops the IPv4 routes that had it as their source without a word.
        self.stale |= !present && network.addr().is_ipv4();
    }

    /// Which links are tunnels, for the routes on them that we may take the place of.
    fn note_tunnels(&mut self) {
        let mut tunnels = self.tunnels.write().unwrap_or_else(PoisonError::into_inner);
        *tunnels = self.fib.image().tunnels().collect();
    }

    fn route_changed(&mut self, prefix: &IpNet) {
        self.dependents.touch(prefix);
        self.told.mark(prefix, self.fib.image());
        self.statics.look_again();
    }

    /// Reads everything anew; returns the main table's routes.
    pub(super) fn read_all(&mut self) -> calico_netlink::Result<Vec<Route>> {
        let mut image = Image::ignoring(&self.fib.ownership().ignored_interfaces);
        for link in self.socket.links()? {
            image.link(link.index, Some(facts(link)));
        }
        for address in self.socket.addresses()? {
            image.network(address.network, address.index, true);
        }
        let filter = RouteFilter { ipv4: None, table: Some(TABLE_MAIN), protocol: None };
        let routes = self.socket.routes(&filter)?;
        for route in &routes {
            if let Some(foreign) = foreign(route) {
                image.route(route.destination, foreign, true);
            }
        }
        self.table.resync(&mut self.socket)?;
        *self.fib.whole_image() = image;
        self.note_tunnels();
        self.stale = false;
        self.dependents.touch_all(self.fib.learned().keys());
        self.told.mark_all(self.fib.image());
        self.statics.look_again();
        Ok(routes)
    }
}

fn facts(link: Link) -> LinkFacts {
    LinkFacts { name: link.name, kind: link.kind, up: link.up }
}

/// What others' route tells; `None` for ours and for those of other tables.
fn foreign(route: &Route) -> Option<Foreign> {
    // Link-local networks are on every interface alike, and no route resolves through them.
    let link_local = matches!(route.destination, IpNet::V6(net) if net.addr().is_unicast_link_local());
    if route.table != TABLE_MAIN || is_ours(route) || link_local {
        return None;
    }
    let hop = |hop: &NextHop| NextHop { weight: 1, ..*hop };
    let hops = match route.kind {
        RouteKind::Unicast => route.next_hops.iter().map(hop).collect(),
        _ => Vec::new(),
    };
    Some(Foreign { metric: route.key().metric, protocol: route.protocol, hops })
}
