//! BGP settings and peers.

use std::time::Duration;

use super::{Family, Faults, filled};
use crate::{AsNumber, BGPConfiguration, BGPConfigurationSpec, BGPPassword, BGPPeerSpec, parse_duration};

/// The largest metric of a route that leaves room for what is added to it.
pub(super) const MAX_PRIORITY: i64 = 2_147_483_646;

/// How many communities, and how many advertised prefixes, there may be.
const MAX_COMMUNITIES: usize = 500;

/// The longest restart time that a capability can say, in seconds (RFC 4724 §3: 12 bits).
const MAX_RESTART_TIME: u64 = 4095;

/// The longest time between keepalives, in seconds: that of the longest hold time (RFC 4271 §4.2).
const MAX_KEEPALIVE_TIME: u64 = 65_535;

/// How many communities one prefix may have.
const MAX_COMMUNITIES_OF_A_PREFIX: usize = 50;

pub(super) fn configuration(resource: &BGPConfiguration, faults: &mut Faults) {
    let spec = &resource.spec;
    faults.one_of_words(
        "LogSeverityScreen",
        spec.log_severity_screen.as_ref(),
        &["Trace", "Debug", "Info", "Warning", "Error", "Fatal"],
    );
    faults.one_of("BindMode", spec.bind_mode.as_ref(), &["None", "NodeIP"]);
    let aggregation = spec.service_load_balancer_aggregation.as_ref();
    faults.one_of("ServiceLoadBalancerAggregation", aggregation, &["Enabled", "Disabled"]);
    let routes = ["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"];
    faults.one_of("ProgramClusterRoutes", spec.program_cluster_routes.as_ref(), &routes);
    not_zero("ASNumber", spec.as_number, faults);
    faults.range("ListenPort", spec.listen_port, 1, u16::MAX);
    seconds("NodeMeshMaxRestartTime", spec.node_mesh_max_restart_time.as_ref(), 0, MAX_RESTART_TIME, faults);
    faults.address("LocalWorkloadPeeringIPV4", spec.local_workload_peering_ipv4.as_ref(), Family::V4);
    faults.address("LocalWorkloadPeeringIPV6", spec.local_workload_peering_ipv6.as_ref(), Family::V6);
    faults.range("IPv4NormalRoutePriority", spec.ipv4_normal_route_priority.map(i64::from), 1, MAX_PRIORITY);
    faults.range("IPv6NormalRoutePriority", spec.ipv6_normal_route_priority.map(i64::from), 1, MAX_PRIORITY);
    for name in spec.ignored_interfaces.iter().flatten() {
        let reason = "must be the name of an interface, up to 15 characters with * for any, and not * alone";
        faults.unless(is_interface_pattern(name) && name != "*", "IgnoredInterfaces", name, reason);
    }
    for (field, blocks) in [
        ("ServiceLoadBalancerIPs", &spec.service_load_balancer_ips),
        ("ServiceExternalIPs", &spec.service_external_ips),
        ("ServiceClusterIPs", &spec.service_cluster_ips),
    ] {
        for block in blocks.iter().flatten().filter(|block| !block.cidr.is_empty()) {
            faults.network(field, &block.cidr);
        }
    }
    password("NodeMeshPassword", spec.node_mesh_password.as_ref(), faults);
    communities(spec, faults);
    mesh(spec, faults);
    if resource.name() != "default" {
        default_only(spec, faults);
    }
}

fn mesh(spec: &BGPConfigurationSpec, faults: &mut Faults) {
    if spec.node_to_node_mesh_enabled != Some(false) {
        return;
    }
    let reason = "cannot be set while nodeToNodeMeshEnabled is false";
    if spec.node_mesh_password.is_some() {
        faults.add("NodeMeshPassword", "…", reason);
    }
    if let Some(time) = &spec.node_mesh_max_restart_time {
        faults.add("NodeMeshMaxRestartTime", time, reason);
    }
}

/// Fields that mean the whole cluster, on an object that is for one node.
fn default_only(spec: &BGPConfigurationSpec, faults: &mut Faults) {
    for (field, is_set) in [
        ("NodeToNodeMeshEnabled", spec.node_to_node_mesh_enabled.is_some()),
        ("ASNumber", spec.as_number.is_some()),
        ("ServiceLoadBalancerIPs", spec.service_load_balancer_ips.is_some()),
        ("ServiceExternalIPs", spec.service_external_ips.is_some()),
        ("ServiceClusterIPs", spec.service_cluster_ips.is_some()),
        ("NodeMeshPassword", spec.node_mesh_password.is_some()),
        ("NodeMeshMaxRestartTime", spec.node_mesh_max_restart_time.is_some()),
    ] {
        if is_set {
            let reason = format!("Cannot set {field} on a non default BGP Configuration.");
            faults.add(format!("BGPConfiguration.Spec.{field}"), "…", reason);
        }
    }
}

fn communities(spec: &BGPConfigurationSpec, faults: &mut Faults) {
    let named = spec.communities.as_deref().unwrap_or_default();
    let prefixes = spec.prefix_advertisements.as_deref().unwrap_or_default();
    faults.at_most("Spec.Communities", Some(named), MAX_COMMUNITIES);
    faults.at_most("Spec.PrefixAdvertisements", Some(prefixes), MAX_COMMUNITIES);
    for (index, community) in named.iter().enumerate() {
        let unique = named.iter().take(index).all(|other| other.name != community.name);
        faults.unless(unique, "Spec.Communities[].Name", &community.name, "is there more than once");
        faults.unless(!community.name.is_empty(), "Spec.Communities[].Name", &community.name, "must be given");
        let sound = is_community(&community.value);
        faults.unless(sound, "Spec.Communities[].Value", &community.value, COMMUNITY);
    }
    if !named.is_empty() && prefixes.is_empty() {
        let names: Vec<_> = named.iter().map(|community| community.name.as_str()).collect();
        faults.add("Spec.Communities", names.join(","), "are defined but not used in prefixAdvertisements");
    }
    for prefix in prefixes {
        faults.network("Spec.PrefixAdvertisement[].CIDR", &prefix.cidr);
        faults.at_most(
            "Spec.PrefixAdvertisement[].Communities",
            Some(&prefix.communities),
            MAX_COMMUNITIES_OF_A_PREFIX,
        );
        for used in &prefix.communities {
            let defined = named.iter().any(|community| community.name == *used);
            let reason = "community used is invalid or not defined";
            faults.unless(defined || is_community(used), "Spec.PrefixAdvertisement[].Communities[]", used, reason);
        }
    }
}

pub(super) const COMMUNITY: &str = "must be a:b with parts up to 65535, or a:b:c with parts up to 4294967295";

pub(super) fn is_community(text: &str) -> bool {
    let parts: Vec<_> = text.split(':').collect();
    let all_below = |most: u64| {
        parts.iter().all(|part| {
            part.bytes().all(|digit| digit.is_ascii_digit()) && part.parse::<u64>().is_ok_and(|part| part <= most)
        })
    };
    match parts.len() {
        2 => all_below(u64::from(u16::MAX)),
        3 => all_below(u64::from(u32::MAX)),
        _ => false,
    }
}

/// A name of an interface in which `*` stands for any characters.
pub(super) fn is_interface_pattern(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_.*-".contains(&octet))
}

/// An AS number that is there must be one: 0 is reserved (RFC 7607), and no peer takes it.
fn not_zero(field: &str, number: Option<AsNumber>, faults: &mut Faults) {
    faults.unless(number != Some(AsNumber(0)), field, 0, "must be from 1 to 4294967295: 0 is no AS (RFC 7607)");
}

/// A length of time that a message can say.
fn seconds(field: &str, value: Option<&String>, least: u64, most: u64, faults: &mut Faults) {
    faults.duration(field, value);
    if let Some(text) = filled(value)
        && let Some(time) = parse_duration(text)
        && !(Duration::from_secs(least) <= time && time <= Duration::from_secs(most))
    {
        faults.add(field, text, format!("must be from {least}s to {most}s"));
    }
}

/// Departs from Calico: a password without its Secret, or without the Secret's name, is refused, since there it means
/// a session that runs without one.
fn password(field: &str, password: Option<&BGPPassword>, faults: &mut Faults) {
    let Some(password) = password else { return };
    let Some(secret) = &password.secret_key_ref else {
        faults.add(format!("{field}.SecretKeyRef"), "", "must be given: it says which Secret holds the password");
        return;
    };
    if secret.name.is_empty() {
        faults.add(format!("{field}.SecretKeyRef.Name"), "", "must be given: it says which Secret holds the password");
    } else {
        faults.name(&format!("{field}.SecretKeyRef.Name"), Some(&secret.name));
    }
    if secret.key.is_empty() {
        let reason = "must be given: it says which part of the Secret holds the password";
        faults.add(format!("{field}.SecretKeyRef.Key"), "", reason);
    }
}

pub(super) fn peer(spec: &BGPPeerSpec, faults: &mut Faults) {
    faults.name("Node", spec.node.as_ref());
    faults.selector("NodeSelector", spec.node_selector.as_ref());
    faults.selector("PeerSelector", spec.peer_selector.as_ref());
    faults.selector("LocalWorkloadSelector", spec.local_workload_selector.as_ref());
    faults.one_of("NextHopMode", spec.next_hop_mode.as_ref(), &["Auto", "Self", "Keep"]);
    faults.one_of("SourceAddress", spec.source_address.as_ref(), &["UseNodeIP", "None"]);
    faults.one_of("ReversePeering", spec.reverse_peering.as_ref(), &["Auto", "Manual"]);
    seconds("MaxRestartTime", spec.max_restart_time.as_ref(), 0, MAX_RESTART_TIME, faults);
    seconds("KeepaliveTime", spec.keepalive_time.as_ref(), 1, MAX_KEEPALIVE_TIME, faults);
    faults.range("NumAllowedLocalASNumbers", spec.num_allowed_local_as_numbers, 0, i32::MAX);
    not_zero("LocalASNumber", spec.local_as_number, faults);
    faults.address("ReachableBy", spec.reachable_by.as_ref(), Family::Any);
    let filters = spec.filters.as_deref().unwrap_or_default();
    for (index, filter) in filters.iter().enumerate() {
        faults.name("Filters", Some(filter));
        faults.unless(!filter.is_empty(), "Filters", filter, "must be the name of a BGPFilter");
        let unique = filters.iter().take(index).all(|other| other != filter);
        faults.unless(unique, "Filters", filter, "is there more than once");
    }
    password("Password", spec.password.as_ref(), faults);
    let peer_ip = filled(spec.peer_ip.as_ref());
    if let Some(text) = peer_ip
        && spec.peer_address().is_none()
    {
        faults.add("PeerIP", text, "must be an address, IPv4:port or [IPv6]:port, with a port from 1 to 65535");
    }
    if let (Some(text), Some((address, _))) = (peer_ip, spec.peer_address())
        && (address.is_unspecified() || address.is_multicast())
    {
        faults.add("PeerIP", text, "must be the address of one peer");
    }
    if let Some(gateway) = filled(spec.reachable_by.as_ref()) {
        let family = gateway.parse::<std::net::IpAddr>().map(|gateway| gateway.is_ipv4());
        match (peer_ip, spec.peer_address(), family) {
            (None, _, _) => faults.add("ReachableBy", gateway, "must be empty when peerIP is empty"),
            (_, Some((peer, _)), Ok(is_ipv4)) if peer.is_ipv4() != is_ipv4 => {
                faults.add("ReachableBy", gateway, "must be of the address family of peerIP");
            }
            _ => {}
        }
    }
    exclusive(spec, faults);
}

/// Fields that go only with, or only without, others.
fn exclusive(spec: &BGPPeerSpec, faults: &mut Faults) {
    let node = filled(spec.node.as_ref());
    let node_selector = filled(spec.node_selector.as_ref());
    let peer_ip = filled(spec.peer_ip.as_ref());
    let peer_selector = filled(spec.peer_selector.as_ref());
    let workloads = filled(spec.local_workload_selector.as_ref());
    let as_number = spec.as_number.filter(|number| *number != AsNumber(0));
    if let (Some(node), Some(_)) = (node, node_selector) {
        faults.add("Node", node, "node and nodeSelector cannot both be set");
    }
    if let (Some(peer_ip), Some(_)) = (peer_ip, peer_selector) {
        faults.add("PeerIP", peer_ip, "peerIP and peerSelector cannot both be set");
    }
    if let (Some(number), Some(_)) = (as_number, peer_selector) {
        faults.add("ASNumber", number, "must be empty when peerSelector is set: the nodes have numbers themselves");
    }
    if let Some(selector) = workloads {
        if let Some(peer_ip) = peer_ip {
            faults.add("PeerIP", peer_ip, "must be empty when localWorkloadSelector is set");
        }
        if let Some(peer_selector) = peer_selector {
            faults.add("PeerSelector", peer_selector, "must be empty when localWorkloadSelector is set");
        }
        if as_number.is_none() {
            faults.add("LocalWorkloadSelector", selector, "needs asNumber");
        }
    }
    if spec.peer_address().is_some() && as_number.is_none() {
        // Departs from Calico, which takes it and then has a session that no peer accepts.
        let value = spec.as_number.map(|number| number.to_string()).unwrap_or_default();
        faults.add("ASNumber", value, "must be given when peerIP is set, from 1 to 4294967295");
    }
    if peer_ip.or(peer_selector).or(workloads).is_none() {
        // Departs from Calico, which takes it and then ignores it.
        faults.add("PeerIP", "", "must be given, or peerSelector, or localWorkloadSelector: else there is no peer");
    }
    if spec.keep_original_next_hop == Some(true) && spec.next_hop_mode.is_some() {
        faults.add("KeepOriginalNextHop", true, "is deprecated and cannot be set beside nextHopMode");
    }
}
