//! Kubernetes' own kinds, as far as we read them. Where there is a Kubernetes, it checks them itself.

use super::{Family, Faults};
use crate::{EndpointSliceSpec, SecretSpec, Service};

pub(super) fn service(resource: &Service, faults: &mut Faults) {
    let spec = &resource.spec;
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    faults.one_of("Spec.Type", spec.service_type.as_ref(), &types);
    faults.one_of("Spec.ExternalTrafficPolicy", spec.external_traffic_policy.as_ref(), &["Cluster", "Local"]);
    for address in spec.cluster_ip.iter().chain(&spec.cluster_ips).filter(|address| *address != "None") {
        faults.address("Spec.ClusterIPs", Some(address), Family::Any);
    }
    for address in &spec.external_ips {
        faults.address("Spec.ExternalIPs", Some(address), Family::Any);
    }
    faults.address("Spec.LoadBalancerIP", spec.load_balancer_ip.as_ref(), Family::Any);
    for family in &spec.ip_families {
        faults.one_of("Spec.IPFamilies", Some(family), &["IPv4", "IPv6"]);
    }
    for ingress in resource.status.iter().flat_map(|status| &status.load_balancer.ingress) {
        faults.address("Status.LoadBalancer.Ingress", ingress.ip.as_ref(), Family::Any);
    }
}

pub(super) fn endpoint_slice(spec: &EndpointSliceSpec, faults: &mut Faults) {
    let given = spec.address_type.as_ref().is_some_and(|text| !text.is_empty());
    faults.unless(given, "AddressType", "", "must be given: IPv4, IPv6 or FQDN");
    faults.one_of("AddressType", spec.address_type.as_ref(), &["IPv4", "IPv6", "FQDN"]);
    let family = match spec.address_type.as_deref() {
        Some("IPv4") => Family::V4,
        Some("IPv6") => Family::V6,
        _ => return,
    };
    for address in spec.endpoints.iter().flat_map(|endpoint| &endpoint.addresses) {
        faults.address("Endpoints[].Addresses", Some(address), family);
    }
}

pub(super) fn secret(spec: &SecretSpec, faults: &mut Faults) {
    for key in spec.data.keys() {
        // The value is not shown.
        let sound = spec.string_data.contains_key(key) || spec.value(key).is_ok();
        faults.unless(sound, &format!("Data[{key}]"), "…", "is not base64; encode it, or put it into stringData");
    }
}
