//! What flannel leaves on a node that it no longer serves. It is not ours, so it goes only when asked for by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use calico_netlink::RouteKind;
use calico_netlink::nftables::{self, Family, Table, delete_table, has_table};
use ipnet::IpNet;

use super::Report;
use super::files::{run_folder, whole};
use super::kernel::{OF_KERNEL, describe, read};

/// What flannel's VXLAN devices are called, before their VNI: 1, or 4096 in clusters with Windows.
const TUNNELS: [&str; 2] = ["flannel.", "flannel-v6."];
/// The bridge of its usual plugin.
const BRIDGE: &str = "cni0";
/// What flanneld's own tables are called where it is told to use nftables.
const TABLES: [(Family, &str); 2] = [(Family::Ip, "flannel-ipv4"), (Family::Ip6, "flannel-ipv6")];
/// The tables in which iptables keeps what others are told to set by it.
const SHARED_TABLES: [&str; 2] = ["nat", "filter"];
/// How flanneld's chains in them begin.
const CHAIN: &str = "FLANNEL-";
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
    packet_rules(report);
    whole(&environment, report);
    if let Some(folder) = environment.parent().filter(|folder| folder.exists()) {
        super::files::remains(folder, "it is not known as flannel's", report);
    }
    whole(&root.join(NETWORK), report);
}

fn kernel(networks: &[IpNet], report: &mut Report) {
    let (mut socket, links, routes) = match read() {
        Ok(read) => read,
        Err(error) => return report.fail("routes and devices", error),
    };
    let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
    let devices: Vec<_> =
        links.iter().filter(|link| is_device(&link.name, link.kind.as_deref().unwrap_or_default())).collect();
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

fn is_device(name: &str, kind: &str) -> bool {
    let vni = TUNNELS.iter().find_map(|prefix| name.strip_prefix(prefix));
    match kind {
        "vxlan" => vni.is_some_and(|vni| vni.parse::<u32>().is_ok_and(|number| number.to_string() == vni)),
        "bridge" => name == BRIDGE,
        _ => false,
    }
}

/// Removes flanneld's tables, and tells of its chains among those of others.
fn packet_rules(report: &mut Report) {
    for (family, name) in TABLES {
        let table = format!("nftables table {} {name}", family.as_str());
        match has_table(family, name) {
            Ok(true) => report.remove(table, || delete_table(family, name).map(drop)),
            Ok(false) => {}
            Err(error) => report.fail(table, error),
        }
    }
    for family in [Family::Ip, Family::Ip6] {
        for name in SHARED_TABLES {
            let table = Table::new(family, name);
            // A kernel without nf_tables has no table either.
            if !has_table(family, name).unwrap_or_default() {
                continue;
            }
            let chains = match nftables::Socket::open().and_then(|mut socket| socket.read(&table)) {
                Ok((_, contents)) => contents.map(|contents| contents.chains).unwrap_or_default(),
                Err(error) => {
                    report.leave(format!("what flanneld may have in table {table}"), format!("not readable: {error}"));
                    continue;
                }
            };
            for chain in chains.keys().filter(|chain| chain.starts_with(CHAIN)) {
                report.leave(
                    format!("chain {chain} of table {table}"),
                    "flanneld set it by iptables, among the rules of others, and it treats packets as long as it is there; \
                     it is gone after a reboot, or remove it and the rule that jumps to it by iptables -D, -F and -X",
                );
            }
        }
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
    fn flannels_devices_are_known_by_name_and_kind() {
        for (name, kind) in
            [("flannel.1", "vxlan"), ("flannel.4096", "vxlan"), ("flannel-v6.4096", "vxlan"), ("cni0", "bridge")]
        {
            assert!(is_device(name, kind), "{name}");
        }
        for (name, kind) in [
            ("flannel.1", "bridge"),
            ("flannel.x", "vxlan"),
            ("flannel.01", "vxlan"),
            ("flannel", "vxlan"),
            ("cni0", "vxlan"),
        ] {
            assert!(!is_device(name, kind), "{name}, {kind}");
        }
    }

    #[test]
    fn flannels_networks_are_read_and_damage_is_no_network() {
        let text = "FLANNEL_NETWORK=10.244.0.0/16,10.245.0.0/16\nFLANNEL_SUBNET=10.244.1.1/24\nFLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_NETWORK=x\n=\n";
        let expected: Vec<IpNet> =
            ["10.244.0.0/16", "10.245.0.0/16", "fd00::/48"].map(|one| one.parse().unwrap()).into();
        assert_eq!(networks(text), expected);
    }
}
