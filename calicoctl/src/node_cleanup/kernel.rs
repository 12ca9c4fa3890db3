//! What is ours in the kernel: routes by their protocol, devices and tables by their names.

use std::collections::BTreeMap;

use calico_netlink::nftables::{Family, delete_table, has_table};
use calico_netlink::{Link, LinkChange, Route, RouteFilter, RouteKind, Socket};

use super::Report;

/// felix' routes, and the speaker's (those of BIRD, in Calico's hands as in ours).
const PROTOCOLS: [u8; 2] = [80, 12];
/// `RTPROT_KERNEL`: what the kernel makes itself, and removes itself.
pub(super) const OF_KERNEL: u8 = 2;
/// Tunnels, with what they are.
const TUNNELS: [(&str, &str); 4] = [
    ("vxlan.calico", "vxlan"),
    ("vxlan-v6.calico", "vxlan"),
    ("wireguard.cali", "wireguard"),
    ("wg-v6.cali", "wireguard"),
];
/// The kernel's own IPIP device, which exists as long as its module.
const IPIP: &str = "tunl0";
/// The tables that hold our packet rules.
const TABLE: &str = "calico";

pub(super) fn clean(prefixes: &[&str], report: &mut Report) {
    let (mut socket, links, routes) = match read() {
        Ok(read) => read,
        Err(error) => return report.fail("routes and devices", error),
    };
    let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
    let is_pods = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix)) && !is_tunnel(name);
    for route in &routes {
        let to_pod = route.next_hops.iter().filter_map(|hop| names.get(&hop.interface?)).any(|name| is_pods(name));
        let ours = PROTOCOLS.contains(&route.protocol) || to_pod && route.protocol != OF_KERNEL;
        if ours && route.kind != RouteKind::Local {
            report.remove(describe(route, &names), || socket.delete_route(route));
        }
    }
    for link in &links {
        if TUNNELS.contains(&(&*link.name, link.kind.as_deref().unwrap_or_default())) {
            report.remove(format!("device {}", link.name), || socket.delete_link(link.index));
        } else if link.name == IPIP && link.up {
            ipip(&mut socket, link.index, report);
        } else if link.kind.as_deref() == Some("veth") && is_pods(&link.name) {
            report.leave(
                format!("device {}", link.name),
                "it is a pod's, which has no network any more; it goes when the pod is deleted",
            );
        }
    }
    for family in [Family::Ip, Family::Ip6] {
        let table = format!("nftables table {} {TABLE}", family.as_str());
        match has_table(family, TABLE) {
            Ok(true) => report.remove(table, || delete_table(family, TABLE).map(drop)),
            Ok(false) => {}
            Err(error) => report.fail(table, error),
        }
    }
}

/// What is there, and the socket to change it by.
pub(super) fn read() -> calico_netlink::Result<(Socket, Vec<Link>, Vec<Route>)> {
    let mut socket = Socket::open()?;
    let (links, routes) = (socket.links()?, socket.routes(&RouteFilter::default())?);
    Ok((socket, links, routes))
}

fn is_tunnel(name: &str) -> bool {
    name == IPIP || TUNNELS.iter().any(|(tunnel, _)| *tunnel == name)
}

/// The device cannot be deleted, but it need have no address and not be on.
fn ipip(socket: &mut Socket, index: u32, report: &mut Report) {
    let addresses = match socket.addresses() {
        Ok(addresses) => addresses,
        Err(error) => return report.fail(format!("addresses of {IPIP}"), error),
    };
    // A node's tunnel address stands for itself alone; a network there is somebody else's tunnel.
    let (single, networks): (Vec<_>, Vec<_>) = addresses
        .iter()
        .filter(|address| address.index == index && address.network.addr().is_ipv4())
        .partition(|address| address.network.prefix_len() == 32);
    for address in single {
        report.remove(format!("address {} of {IPIP}", address.network), || socket.delete_address(address));
    }
    if networks.is_empty() {
        let off = LinkChange { up: Some(false), ..LinkChange::default() };
        report.remove(format!("the \"up\" of {IPIP}"), || socket.change_link(index, &off));
    } else {
        report.leave(format!("device {IPIP}"), "it has a network's address, which is not ours");
    }
}

pub(super) fn describe(route: &Route, names: &BTreeMap<u32, &str>) -> String {
    let kind = match route.kind {
        RouteKind::Unicast => "route".to_owned(),
        kind => format!("{kind:?} route").to_lowercase(),
    };
    let hops: Vec<_> = route
        .next_hops
        .iter()
        .map(|hop| {
            let via = hop.gateway.map(|gateway| format!(" via {gateway}")).unwrap_or_default();
            let name = hop.interface.and_then(|index| names.get(&index)).map(|name| format!(" dev {name}"));
            via + &name.unwrap_or_default()
        })
        .collect();
    format!("{kind} {}{} proto {}", route.destination, hops.join(" nexthop"), route.protocol)
}
