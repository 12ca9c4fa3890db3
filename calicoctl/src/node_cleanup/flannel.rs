//! What flannel leaves on a node that it no longer serves. It is not ours, so it goes only when asked for by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use calico_netlink::{RouteFilter, RouteKind, Socket};
use ipnet::IpNet;

use super::Report;
use super::files::{run_folder, whole};
use super::kernel::{OF_KERNEL, describe};

/// flannel's devices, with what they are.
const DEVICES: [(&str, &str); 3] = [("flannel.1", "vxlan"), ("flannel-v6.1", "vxlan"), ("cni0", "bridge")];
/// `RTPROT_BOOT`: how flannel marks its routes, which is how everybody does who marks nothing.
const UNMARKED: u8 = 3;
/// What flannel tells its plugin, below `/run`.
const ENVIRONMENT: &str = "flannel/subnet.env";
/// Its network.
const NETWORK: &str = "etc/cni/net.d/10-flannel.conflist";

/// Removes it, and nothing else.
pub(super) fn clean(root: &Path, report: &mut Report) {
    let environment = run_folder(root).join(ENVIRONMENT);
    let networks = fs::read_to_string(&environment).map(|text| networks(&text)).unwrap_or_default();
    kernel(&networks, report);
    whole(&environment, report);
    if let Some(folder) = environment.parent().filter(|folder| folder.exists()) {
        super::files::remains(folder, "it is not known as flannel's", report);
    }
    whole(&root.join(NETWORK), report);
}

fn kernel(networks: &[IpNet], report: &mut Report) {
    let read = || -> calico_netlink::Result<_> {
        let mut socket = Socket::open()?;
        let (links, routes) = (socket.links()?, socket.routes(&RouteFilter::default())?);
        Ok((socket, links, routes))
    };
    let (mut socket, links, routes) = match read() {
        Ok(read) => read,
        Err(error) => return report.fail("routes and devices", error),
    };
    let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
    let devices: Vec<_> = links
        .iter()
        .filter(|link| DEVICES.contains(&(&*link.name, link.kind.as_deref().unwrap_or_default())))
        .collect();
    let is_flannels = |index: u32| devices.iter().any(|link| link.index == index);
    for route in routes.iter().filter(|route| route.kind == RouteKind::Unicast && route.protocol != OF_KERNEL) {
        let through = route.next_hops.iter().filter_map(|hop| hop.interface).any(is_flannels);
        // Without a tunnel (host-gw) its routes are known by where they lead alone.
        let within = route.protocol == UNMARKED
            && route.next_hops.iter().any(|hop| hop.gateway.is_some())
            && networks.iter().any(|network| network.contains(&route.destination));
        if through || within {
            report.remove(describe(route, &names), || socket.delete_route(route));
        }
    }
    for link in &links {
        if link.kind.as_deref() == Some("veth") && link.master.is_some_and(is_flannels) {
            report.leave(
                format!("device {}", link.name),
                "it is of a pod that flannel connected, which has no network any more; delete the pod",
            );
        }
    }
    for link in devices {
        report.remove(format!("device {}", link.name), || socket.delete_link(link.index));
    }
}

/// The networks in flannel's `subnet.env`.
fn networks(text: &str) -> Vec<IpNet> {
    let values = text.lines().filter_map(|line| line.split_once('='));
    let networks = values.filter(|(name, _)| matches!(*name, "FLANNEL_NETWORK" | "FLANNEL_IPV6_NETWORK"));
    networks.flat_map(|(_, value)| value.split(',')).filter_map(|network| network.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flannels_networks_are_read_and_damage_is_no_network() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_NETWORK=x\n=\n";
        let expected: Vec<IpNet> =
            ["10.244.0.0/16", "10.245.0.0/16", "fd00::/48"].map(|one| one.parse().unwrap()).into();
        assert_eq!(networks(text), expected);
    }
}
