//! Nodes, and reports of their status.

use super::{Family, Faults, filled, network};
use crate::{AsNumber, CalicoNodeStatusSpec, Node, NodeBGPSpec};

/// The longest time between two reports: a day, in seconds.
const MAX_PERIOD: u32 = 86_400;

pub(super) fn node(resource: &Node, faults: &mut Faults) {
    let spec = &resource.spec;
    if let Some(bgp) = &spec.bgp {
        if *bgp == NodeBGPSpec::default() {
            faults.add("BGP", "{}", "must not be empty: leave it out, or give an address");
        }
        for (field, value, family) in
            [("IPv4Address", &bgp.ipv4_address, Family::V4), ("IPv6Address", &bgp.ipv6_address, Family::V6)]
        {
            if let Some(text) = filled(value.as_ref())
                && !network(text).is_some_and(|network| family.has(network.addr().is_ipv4()))
            {
                faults.add(field, text, format!("must be an {family} address with the length of its subnet, or alone"));
            }
        }
        let number = bgp.as_number;
        faults.unless(
            number != Some(AsNumber(0)),
            "ASNumber",
            0,
            "must be from 1 to 4294967295: 0 is no AS (RFC 7607)",
        );
        faults.address("IPv4IPIPTunnelAddr", bgp.ipv4_ipip_tunnel_addr.as_ref(), Family::V4);
        faults.address("RouteReflectorClusterID", bgp.route_reflector_cluster_id.as_ref(), Family::V4);
    }
    faults.address("IPv4VXLANTunnelAddr", spec.ipv4_vxlan_tunnel_addr.as_ref(), Family::V4);
    faults.address("IPv6VXLANTunnelAddr", spec.ipv6_vxlan_tunnel_addr.as_ref(), Family::V6);
    faults.mac("VXLANTunnelMACAddr", spec.vxlan_tunnel_mac_addr.as_ref());
    faults.mac("VXLANTunnelMACAddrV6", spec.vxlan_tunnel_mac_addr_v6.as_ref());
    if let Some(wireguard) = &spec.wireguard {
        faults.address("InterfaceIPv4Address", wireguard.interface_ipv4_address.as_ref(), Family::V4);
        faults.address("InterfaceIPv6Address", wireguard.interface_ipv6_address.as_ref(), Family::V6);
    }
    for address in &spec.addresses {
        let sound = network(&address.address).is_some();
        faults.unless(sound, "Address", &address.address, "must be an address, alone or with the length of its subnet");
        faults.one_of("Type", address.address_type.as_ref(), &["CalicoNodeIP", "InternalIP", "ExternalIP"]);
    }
    if let Some(status) = &resource.status {
        for (field, key) in [
            ("WireguardPublicKey", &status.wireguard_public_key),
            ("WireguardPublicKeyV6", &status.wireguard_public_key_v6),
        ] {
            if let Some(text) = filled(key.as_ref())
                && data_encoding::BASE64.decode(text.as_bytes()).map(|key| key.len()) != Ok(32)
            {
                faults.add(field, text, "must be a key of 32 octets in base64");
            }
        }
    }
}

pub(super) fn status(spec: &CalicoNodeStatusSpec, faults: &mut Faults) {
    faults.name("Node", spec.node.as_ref());
    for class in spec.classes.iter().flatten() {
        faults.one_of("Classes", Some(class), &["Agent", "BGP", "Routes"]);
        faults.unless(!class.is_empty(), "Classes", class, "must be one of Agent, BGP, Routes");
    }
    faults.range("UpdatePeriodSeconds", spec.update_period_seconds, 0, MAX_PERIOD);
}
