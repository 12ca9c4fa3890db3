//! Settings of Felix.

use super::{Family, Faults, filled};
use crate::{FelixConfiguration, FelixConfigurationSpec, Port, RouteTableRange};

/// The least MTU over which IPv6 works (RFC 8200 §5): on an interface with a smaller one the kernel switches it off.
const IPV6_MTU: i64 = 1280;

/// The least MTU that every IPv4 host takes (RFC 791 §3.1).
const IPV4_MTU: i64 = 576;

/// The largest MTU that the kernel gives a tunnel device.
const LAST_MTU: i64 = 65_535;

/// The largest VXLAN network identifier (RFC 7348 §5).
const LAST_VNI: i64 = 0xff_ffff;

/// How many ranges of node ports there may be.
const MAX_NODE_PORT_RANGES: usize = 7;

/// How many routing tables all ranges together may have.
const MAX_TABLES: i64 = 0xffff;

/// The largest number of a routing table.
const LAST_TABLE: i64 = 0xffff_ffff;

/// Tables that the kernel keeps for itself: default, main and local.
const RESERVED: std::ops::RangeInclusive<i64> = 253..=255;

pub(super) fn configuration(resource: &FelixConfiguration, faults: &mut Faults) {
    let spec = &resource.spec;
    let by_name = resource.name() == "default" || resource.name().starts_with("node.");
    if let Some(selector) = filled(spec.node_selector.as_ref()) {
        faults.selector("NodeSelector", spec.node_selector.as_ref());
        let reason = "goes only with names other than default and node.<name>";
        faults.unless(!by_name, "NodeSelector", selector, reason);
    }
    words(spec, faults);
    durations(spec, faults);
    addresses(spec, faults);
    tunnels(spec, faults);
    tables(spec, faults);
    let ranges = spec.kube_node_port_ranges.as_deref().unwrap_or_default();
    faults.at_most("KubeNodePortRanges", Some(ranges), MAX_NODE_PORT_RANGES);
    let nat = spec.nat_port_range.iter().map(|port| ("NATPortRange", port));
    let psnat = spec.bpf_psnat_ports.iter().map(|port| ("BPFPSNATPorts", port));
    for (field, port) in ranges.iter().map(|port| ("KubeNodePortRanges", port)).chain(nat).chain(psnat) {
        faults.unless(!matches!(port, Port::Name(_)), field, port, "must be a number or a range");
    }
    for reporter in spec.health_timeout_overrides.iter().flatten() {
        let sound = reporter.name.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_' || octet == b'-');
        let named = sound && !reporter.name.is_empty();
        faults.unless(named, "HealthTimeoutOverride.Name", &reporter.name, "must be letters, digits, '_' and '-'");
        faults.duration("HealthTimeoutOverride.Timeout", Some(&reporter.timeout));
        let given = !reporter.timeout.is_empty();
        faults.unless(given, "HealthTimeoutOverride.Timeout", "", "must be a length of time");
    }
}

/// Fields that take one of some words, whatever their case.
fn words(spec: &FelixConfigurationSpec, faults: &mut Faults) {
    let levels = ["Trace", "Debug", "Info", "Warning", "Error", "Fatal"];
    let accept = ["Accept", "Return"];
    let deny = ["Drop", "Reject"];
    let on_off = ["Enabled", "Disabled"];
    for (field, value, allowed) in [
        ("LogSeverityFile", &spec.log_severity_file, levels.as_slice()),
        ("LogSeverityScreen", &spec.log_severity_screen, &levels),
        ("LogSeveritySys", &spec.log_severity_sys, &levels),
        ("ChainInsertMode", &spec.chain_insert_mode, &["Insert", "Append"]),
        ("DefaultEndpointToHostAction", &spec.default_endpoint_to_host_action, &["Drop", "Accept", "Return"]),
        ("IptablesFilterAllowAction", &spec.iptables_filter_allow_action, &accept),
        ("IptablesMangleAllowAction", &spec.iptables_mangle_allow_action, &accept),
        ("IptablesFilterDenyAction", &spec.iptables_filter_deny_action, &deny),
        ("NftablesFilterAllowAction", &spec.nftables_filter_allow_action, &accept),
        ("NftablesMangleAllowAction", &spec.nftables_mangle_allow_action, &accept),
        ("NftablesFilterDenyAction", &spec.nftables_filter_deny_action, &deny),
        ("IptablesBackend", &spec.iptables_backend, &["Legacy", "NFT", "Auto"]),
        ("NFTablesMode", &spec.nftables_mode, &["Enabled", "Disabled", "Auto"]),
        ("IPForwarding", &spec.ip_forwarding, &on_off),
        ("FloatingIPs", &spec.floating_ips, &on_off),
        ("RouteSource", &spec.route_source, &["WorkloadIPs", "CalicoIPAM"]),
        ("ServiceLoopPrevention", &spec.service_loop_prevention, &["Drop", "Reject", "Disabled"]),
        ("WorkloadSourceSpoofing", &spec.workload_source_spoofing, &["Disabled", "Any"]),
        ("NATOutgoingExclusions", &spec.nat_outgoing_exclusions, &["IPPoolsOnly", "IPPoolsAndHostIPs"]),
        ("AWSSrcDstCheck", &spec.aws_src_dst_check, &["DoNothing", "Enable", "Disable"]),
        (
            "ProgramClusterRoutes",
            &spec.program_cluster_routes,
            &["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"],
        ),
    ] {
        faults.one_of_words(field, value.as_ref(), allowed);
    }
}

fn durations(spec: &FelixConfigurationSpec, faults: &mut Faults) {
    for (field, value) in [
        ("DataplaneWatchdogTimeout", &spec.dataplane_watchdog_timeout),
        ("RouteRefreshInterval", &spec.route_refresh_interval),
        ("InterfaceRefreshInterval", &spec.interface_refresh_interval),
        ("IptablesRefreshInterval", &spec.iptables_refresh_interval),
        ("IptablesPostWriteCheckInterval", &spec.iptables_post_write_check_interval),
        ("IptablesLockProbeInterval", &spec.iptables_lock_probe_interval),
        ("IpsetsRefreshInterval", &spec.ipsets_refresh_interval),
        ("XDPRefreshInterval", &spec.xdp_refresh_interval),
        ("NetlinkTimeout", &spec.netlink_timeout),
        ("ReportingInterval", &spec.reporting_interval),
        ("ReportingTTL", &spec.reporting_ttl),
        ("EndpointReportingDelay", &spec.endpoint_reporting_delay),
        ("NftablesRefreshInterval", &spec.nftables_refresh_interval),
        ("FlowLogsFlushInterval", &spec.flow_logs_flush_interval),
        ("LiveMigrationRouteConvergenceTime", &spec.live_migration_route_convergence_time),
        ("WireguardPersistentKeepAlive", &spec.wireguard_keep_alive),
    ] {
        faults.duration(field, value.as_ref());
    }
}

fn addresses(spec: &FelixConfigurationSpec, faults: &mut Faults) {
    faults.address("NATOutgoingAddress", spec.nat_outgoing_address.as_ref(), Family::V4);
    faults.address("DeviceRouteSourceAddress", spec.device_route_source_address.as_ref(), Family::V4);
    faults.address("DeviceRouteSourceAddressIPv6", spec.device_route_source_address_ipv6.as_ref(), Family::V6);
    for text in spec.external_nodes_cidr_list.iter().flatten() {
        let is_ipv4 = super::network(text).is_some_and(|network| network.addr().is_ipv4());
        faults.unless(is_ipv4, "ExternalNodesCIDRList", text, "must be an IPv4 network");
    }
    let lists = [&spec.failsafe_inbound_host_ports, &spec.failsafe_outbound_host_ports];
    for port in lists.into_iter().flatten().flatten() {
        faults.one_of_words("ProtoPort.Protocol", port.protocol.as_ref(), &["TCP", "UDP", "SCTP"]);
        if let Some(net) = filled(port.net.as_ref()) {
            faults.network("ProtoPort.Net", net);
        }
    }
}

/// Tunnels' numbers: within what the protocols have room for, no port twice, and no MTU that would take pods their IPv6.
fn tunnels(spec: &FelixConfigurationSpec, faults: &mut Faults) {
    faults.range("VXLANPort", spec.vxlan_port, 1, u16::MAX.into());
    faults.range("VXLANVNI", spec.vxlan_vni, 1, LAST_VNI);
    let port = spec.vxlan_port.unwrap_or(4789);
    for (field, enabled, other) in [
        ("wireguardListeningPort", spec.wireguard_enabled, spec.wireguard_listening_port.unwrap_or(51820)),
        ("wireguardListeningPortV6", spec.wireguard_enabled_v6, spec.wireguard_listening_port_v6.unwrap_or(51821)),
    ] {
        let clash = enabled == Some(true) && port == other;
        faults.unless(!clash, "VXLANPort", port, &format!("is {field} too: both take the node's UDP port"));
    }
    // Departs from Calico, which takes any number: with an MTU below 1280 the kernel removes IPv6 from the pods' interfaces.
    let (least, why) = match spec.ipv6_support {
        Some(false) => (IPV4_MTU, ""),
        _ => (IPV6_MTU, ", the least for IPv6 (ipv6Support: false allows 576)"),
    };
    for (field, mtu, least, why) in [
        ("IPIPMTU", spec.ipip_mtu, least, why),
        ("VXLANMTU", spec.vxlan_mtu, least, why),
        ("VXLANMTUV6", spec.vxlan_mtu_v6, IPV6_MTU, ", the least for IPv6"),
    ] {
        let Some(mtu) = mtu.filter(|mtu| *mtu != 0) else { continue };
        let reason = format!("must be 0 (the node's less the encapsulation), or from {least}{why} to {LAST_MTU}");
        faults.unless((least..=LAST_MTU).contains(&mtu), field, mtu, &reason);
    }
    if let Some(name) = filled(spec.iptables_nat_outgoing_interface_filter.as_ref()) {
        let sound = |octet: u8| octet.is_ascii_alphanumeric() || b":._+-".contains(&octet);
        let named = name.len() <= 15 && name.bytes().all(sound);
        let reason = "must be an interface's name, or the beginning of some and a +";
        faults.unless(named, "IptablesNATOutgoingInterfaceFilter", name, reason);
    }
}

fn tables(spec: &FelixConfigurationSpec, faults: &mut Faults) {
    let ranges = spec.route_table_ranges.as_deref().unwrap_or_default();
    if let Some(RouteTableRange { min, max }) = spec.route_table_range {
        let value = format!("{min}-{max}");
        let sound = 1 <= min && min <= max && max <= 250;
        faults.unless(sound, "RouteTableRange", &value, "must be a range of tables from 1 to 250");
        let alone = ranges.is_empty();
        faults.unless(alone, "RouteTableRange", &value, "cannot be set beside routeTableRanges, which replaces it");
    }
    let mut tables: i64 = 0;
    for RouteTableRange { min, max } in ranges {
        let value = format!("{min}-{max}");
        if !(1 <= *min && min <= max && *max <= LAST_TABLE) {
            faults.add("RouteTableRanges", value, "must go upwards, from 1 to 4294967295");
        } else if min <= RESERVED.end() && RESERVED.start() <= max {
            faults.add("RouteTableRanges", value, "includes tables 253 to 255, which are the kernel's own");
        } else {
            tables = tables.saturating_add(max - min + 1);
        }
    }
    if tables > MAX_TABLES {
        faults.add("RouteTableRanges", format!("{tables} tables"), format!("may have {MAX_TABLES} tables at most"));
    }
}
