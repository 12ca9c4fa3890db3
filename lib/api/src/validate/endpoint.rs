//! Host endpoints and workload endpoints.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Family, Faults, filled, network};
use crate::{HostEndpointSpec, Protocol, WorkloadEndpoint, workload_endpoint_name};

pub(super) fn host(spec: &HostEndpointSpec, faults: &mut Faults) {
    faults.unless(filled(spec.node.as_ref()).is_some(), "Node", "", "must be given");
    faults.name("Node", spec.node.as_ref());
    let interface = filled(spec.interface_name.as_ref());
    let expected = spec.expected_ips.as_deref().unwrap_or_default();
    match interface {
        None if expected.is_empty() => faults.add("InterfaceName", "", "must be given, or else expectedIPs"),
        Some(name) if name != "*" && !is_interface(name) => {
            faults.add("InterfaceName", name, "must be up to 15 letters, digits, '_', '.' and '-', or *");
        }
        _ => {}
    }
    for address in expected {
        faults.address("ExpectedIPs", Some(address), Family::Any);
        faults.unless(!address.is_empty(), "ExpectedIPs", address, "must be an address");
    }
    for profile in spec.profiles.iter().flatten() {
        faults.name("Profiles", Some(profile));
    }
    for port in spec.ports.iter().flatten() {
        faults.unless(!port.name.is_empty(), "Name", &port.name, "must be given");
        faults.unless(port.port != 0, "Port", port.port, "must be from 1 to 65535");
        has_ports("EndpointPort.Protocol", &port.protocol, faults);
    }
}

fn has_ports(field: &str, protocol: &Protocol, faults: &mut Faults) {
    faults.unless(protocol.has_ports(), field, protocol, "has no ports: must be TCP, UDP or SCTP");
}

fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len()) && name.bytes().all(|octet| octet.is_ascii_alphanumeric() || b"_.-".contains(&octet))
}

pub(super) fn workload(resource: &WorkloadEndpoint, faults: &mut Faults) {
    let spec = &resource.spec;
    for (field, value) in [("Orchestrator", &spec.orchestrator), ("Node", &spec.node), ("Endpoint", &spec.endpoint)] {
        faults.unless(!value.is_empty(), field, value, "must be given");
    }
    // What stands for the workload in the name depends on who runs it.
    let workload = match spec.orchestrator.as_str() {
        "k8s" => &spec.pod,
        "cni" => &spec.container_id,
        _ => &spec.workload,
    };
    let name = workload_endpoint_name(&spec.node, &spec.orchestrator, workload, &spec.endpoint);
    if resource.name() != name {
        faults.add("Metadata.Name", resource.name(), format!("must be made of the spec: {name}"));
    }
    let networks: Vec<IpNet> = spec
        .ip_networks
        .iter()
        .filter_map(|text| {
            let read = network(text);
            let single = read.is_some_and(|network| network.prefix_len() == network.max_prefix_len());
            faults.unless(single, "IPNetworks", text, "must be a single address, as a /32 or a /128");
            read
        })
        .collect();
    for nat in &spec.ip_nats {
        let internal: Option<IpAddr> = nat.internal_ip.parse().ok();
        let external: Option<IpAddr> = nat.external_ip.parse().ok();
        faults.unless(internal.is_some(), "InternalIP", &nat.internal_ip, "must be an address");
        faults.unless(external.is_some(), "ExternalIP", &nat.external_ip, "must be an address");
        let (Some(internal), Some(external)) = (internal, external) else { continue };
        let one_family = internal.is_ipv4() == external.is_ipv4();
        faults.unless(one_family, "ExternalIP", external, "must be of the address family of internalIP");
        let own = networks.iter().any(|network| network.contains(&internal));
        faults.unless(own, "IPNATs", internal, "must be one of the endpoint's own addresses");
    }
    for text in &spec.allow_spoofed_source_prefixes {
        faults.network("AllowSpoofedSourcePrefixes", text);
    }
    if !spec.mac.is_empty() {
        faults.mac("MAC", Some(&spec.mac));
    }
    for port in &spec.ports {
        faults.unless(port.port != 0, "Port", port.port, "must be from 1 to 65535");
        has_ports("WorkloadEndpointPort.Protocol", &port.protocol, faults);
        let unnamed = port.name.is_empty() && port.host_port.unwrap_or_default() == 0;
        faults.unless(!unnamed, "WorkloadEndpointPort.Name", "", "must be given where there is no hostPort");
    }
}
