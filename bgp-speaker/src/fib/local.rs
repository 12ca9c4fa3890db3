//! What are others' routes to BGP?

use std::net::IpAddr;
use std::sync::Arc;

use bgp_proto::LocalKind;
use ipnet::IpNet;

use super::image::BY_KERNEL;
use super::{Foreign, Image};

/// Felix's protocol number (`deviceRouteProtocol`).
pub(crate) const FELIX: u8 = 80;
/// `RTPROT_BOOT`: felix's before it had its own, and that of routes made by hand.
const BOOT: u8 = 3;
/// How felix names the interfaces of workload endpoints.
const WORKLOAD_INTERFACES: &str = "cali";

/// A route of the main table that is not ours, as far as BGP cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// Whose it is, or what it is for.
    pub kind: LocalKind,
    /// The router, if it has one.
    pub gateway: Option<IpAddr>,
    /// The interface.
    pub interface: Option<Arc<str>>,
    /// Its priority; the lowest wins, and 0 is one.
    pub metric: u32,
}

impl Image {
    /// What BGP is told of others' routes for a prefix: the one of the lowest metric that means anything to it.
    pub fn told(&self, prefix: &IpNet) -> Option<KernelRoute> {
        if !is_routed(prefix) {
            return None;
        }
        let host = prefix.prefix_len() == prefix.max_prefix_len();
        let tunnel =
            host.then(|| self.links_with(prefix.addr()).flatten().find(|link| link.tunnel)).flatten().map(|link| {
                KernelRoute { kind: LocalKind::Direct, gateway: None, interface: Some(link.name.clone()), metric: 0 }
            });
        // Sorted by metric.
        tunnel.or_else(|| self.exact(prefix).iter().find_map(|route| self.classified(prefix, route)))
    }

    /// Whether a route is felix's to a workload endpoint of this node.
    pub(super) fn is_workload(&self, route: &Foreign) -> bool {
        let Some(hop) = route.hops.first().filter(|hop| hop.gateway.is_none()) else { return false };
        let link = self.link_of(hop);
        match route.protocol {
            FELIX => !link.is_some_and(|link| link.tunnel),
            BOOT => link.is_some_and(|link| link.name.starts_with(WORKLOAD_INTERFACES)),
            _ => false,
        }
    }

    /// Whether a route is felix's to another node: one that it leaves to us when the destination is ours to route.
    pub(super) fn is_to_other_node(&self, route: &Foreign) -> bool {
        route.protocol == FELIX && !route.hops.is_empty() && !self.is_workload(route)
    }

    fn classified(&self, prefix: &IpNet, route: &Foreign) -> Option<KernelRoute> {
        let hop = route.hops.first()?; // a black hole leads nowhere that could be told
        let link = self.link_of(hop);
        let tunnel = link.is_some_and(|link| link.tunnel);
        let kind = match route.protocol {
            BY_KERNEL if hop.gateway.is_none() => {
                let own = prefix.prefix_len() == prefix.max_prefix_len() && self.is_own(prefix.addr());
                if own || self.is_ignored(route) {
                    return None;
                }
                LocalKind::Direct
            }
            _ if self.is_workload(route) => LocalKind::Workload,
            FELIX => LocalKind::Remote,
            BOOT if tunnel => LocalKind::Remote,
            _ => LocalKind::Kernel,
        };
        let interface = link.map(|link| link.name.clone());
        Some(KernelRoute { kind, gateway: hop.gateway, interface, metric: route.metric })
    }
}

/// Whether routers tell each other of such prefixes at all: neither loopback nor link-local nor multicast.
fn is_routed(prefix: &IpNet) -> bool {
    let address = prefix.addr();
    if prefix.prefix_len() == 0 {
        return true;
    }
    match address {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast()),
    }
}

#[cfg(test)]
mod tests {
    use calico_netlink::NextHop;

    use super::super::LinkFacts;
    use super::*;

    fn image() -> Image {
        let mut image = Image::ignoring(&["docker?".to_owned()]);
        let links = [(2, "eth0"), (3, "cali1"), (4, "tunl0"), (5, "docker0"), (6, "vxlan.calico"), (7, "azv1")];
        for (index, name) in links {
            image.link(index, Some(LinkFacts { name: name.to_owned(), kind: None, up: true }));
        }
        image.address("10.0.0.1".parse().unwrap(), 2, true);
        image.address("10.244.5.1".parse().unwrap(), 4, true);
        image.address("fd00:1::1".parse().unwrap(), 6, true);
        image.address("2001:db8::1".parse().unwrap(), 2, true);
        image
    }

    #[track_caller]
    fn check(prefix: &str, protocol: u8, hops: &[NextHop], expected: Option<(LocalKind, &str)>) {
        let mut image = image();
        let prefix: IpNet = prefix.parse().unwrap();
        image.route(prefix, Foreign { metric: 7, protocol, hops: hops.to_vec() }, true);
        let told = image.told(&prefix);
        let told = told.as_ref().map(|route| (route.kind, route.interface.as_deref().unwrap_or_default()));
        assert_eq!(told, expected, "{prefix} of {protocol} by {hops:?}");
    }

    #[test]
    fn routes_are_told_by_whose_they_are_and_where_they_lead() {
        let router: IpAddr = "10.0.0.254".parse().unwrap();
        check("10.0.0.0/24", 2, &[NextHop::dev(2)], Some((LocalKind::Direct, "eth0")));
        check("172.17.0.0/16", 2, &[NextHop::dev(5)], None);
        check("2001:db8::1/128", 2, &[NextHop::dev(2)], None);
        check("10.9.0.2/32", 2, &[NextHop::dev(2)], Some((LocalKind::Direct, "eth0")));
        check("10.244.5.2/32", FELIX, &[NextHop::dev(3)], Some((LocalKind::Workload, "cali1")));
        check("10.244.5.2/32", FELIX, &[NextHop::dev(7)], Some((LocalKind::Workload, "azv1")));
        check("10.244.5.2/32", BOOT, &[NextHop::dev(3)], Some((LocalKind::Workload, "cali1")));
        check("10.244.5.2/32", BOOT, &[NextHop::dev(2)], Some((LocalKind::Kernel, "eth0")));
        check("10.244.6.0/26", FELIX, &[NextHop::via(router).on(2)], Some((LocalKind::Remote, "eth0")));
        check("10.244.6.0/26", FELIX, &[NextHop::dev(4)], Some((LocalKind::Remote, "tunl0")));
        check("10.244.6.0/26", BOOT, &[NextHop::via(router).on(6)], Some((LocalKind::Remote, "vxlan.calico")));
        check("0.0.0.0/0", 16, &[NextHop::via(router).on(2)], Some((LocalKind::Kernel, "eth0")));
        check("192.0.2.0/24", 4, &[NextHop::via(router).on(5)], Some((LocalKind::Kernel, "docker0")));
        check("10.244.5.0/26", FELIX, &[], None);
        check("fe80::/64", 2, &[NextHop::dev(2)], None);
        check("169.254.0.0/16", 2, &[NextHop::dev(2)], None);
        check("::/0", 9, &[NextHop::via("fe80::1".parse().unwrap()).on(2)], Some((LocalKind::Kernel, "eth0")));
        // Of tunnels the address itself is told, and their kernel routes are not.
        check("10.244.5.1/32", FELIX, &[], Some((LocalKind::Direct, "tunl0")));
        check("fd00:1::1/128", 2, &[NextHop::dev(6)], Some((LocalKind::Direct, "vxlan.calico")));
    }

    #[test]
    fn of_several_routes_the_one_of_the_lowest_metric_that_leads_anywhere_is_told() {
        let mut image = image();
        let prefix: IpNet = "10.244.5.2/32".parse().unwrap();
        let route = |metric, protocol, hops: &[NextHop]| Foreign { metric, protocol, hops: hops.to_vec() };
        image.route(prefix, route(1024, FELIX, &[NextHop::dev(3)]), true);
        image.route(prefix, route(2000, 4, &[NextHop::dev(2)]), true);
        image.route(prefix, route(0, FELIX, &[]), true);
        let told = image.told(&prefix).unwrap();
        assert_eq!((told.kind, told.metric), (LocalKind::Workload, 1024));
        image.route(prefix, route(1024, FELIX, &[NextHop::dev(3)]), false);
        assert_eq!(image.told(&prefix).unwrap().kind, LocalKind::Kernel);
    }
}
