//! Calico's Node, which is a view of Kubernetes' Node: most of it stands in annotations.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use calico_api::{
    AsNumber, Key, Kind, NodeAddress, NodeInterface, NodeSpec, NodeStatus, ObjectMeta, OrchRef, Resource,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node as CoreNode;
use serde_json::{Map, Value, json};
use tracing::warn;

use super::codec::{Seen, metadata_of, revision_of};
use crate::{Entry, Fault};

const PREFIX: &str = "projectcalico.org/";
/// A copy of Kubernetes' labels in what is read, so that writing it back does not make them Calico's. Never stored.
const KUBE_LABELS: &str = "projectcalico.org/kube-labels";
const LABELS: &str = "projectcalico.org/labels";
const ANNOTATIONS: &str = "projectcalico.org/annotations";

/// The annotations of a node, or those to be written; `None` removes one.
type Notes = BTreeMap<&'static str, Option<String>>;

/// One annotation and the field it holds.
struct Field {
    name: &'static str,
    /// Whether a text is a value of this field.
    valid: fn(&str) -> bool,
    get: fn(&NodeSpec, &NodeStatus) -> Option<String>,
    set: fn(&mut NodeSpec, &mut NodeStatus, String),
}

fn is<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

/// An address with the length of its subnet; a bare address counts as its own subnet.
fn v4_network(text: &str) -> bool {
    is::<Ipv4Net>(text) || is::<Ipv4Addr>(text)
}

fn v6_network(text: &str) -> bool {
    is::<Ipv6Net>(text) || is::<Ipv6Addr>(text)
}

fn mac(text: &str) -> bool {
    let digits = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    text.split([':', '-']).count() == 6 && text.split([':', '-']).all(digits)
}

fn not_empty(text: &str) -> bool {
    !text.is_empty()
}

const FIELDS: &[Field] = &[
    Field {
        name: "IPv4Address",
        valid: v4_network,
        get: |spec, _| spec.bgp.as_ref()?.ipv4_address.clone(),
        set: |spec, _, text| spec.bgp.get_or_insert_default().ipv4_address = Some(text),
    },
    Field {
        name: "IPv6Address",
        valid: v6_network,
        get: |spec, _| spec.bgp.as_ref()?.ipv6_address.clone(),
        set: |spec, _, text| spec.bgp.get_or_insert_default().ipv6_address = Some(text),
    },
    Field {
        name: "IPv4IPIPTunnelAddr",
        valid: is::<Ipv4Addr>,
        get: |spec, _| spec.bgp.as_ref()?.ipv4_ipip_tunnel_addr.clone(),
        set: |spec, _, text| spec.bgp.get_or_insert_default().ipv4_ipip_tunnel_addr = Some(text),
    },
    Field {
        name: "ASNumber",
        valid: is::<AsNumber>,
        get: |spec, _| spec.bgp.as_ref()?.as_number.map(|number| number.to_string()),
        set: |spec, _, text| spec.bgp.get_or_insert_default().as_number = text.parse().ok(),
    },
    Field {
        name: "RouteReflectorClusterID",
        valid: is::<Ipv4Addr>,
        get: |spec, _| spec.bgp.as_ref()?.route_reflector_cluster_id.clone(),
        set: |spec, _, text| spec.bgp.get_or_insert_default().route_reflector_cluster_id = Some(text),
    },
    Field {
        name: "IPv4VXLANTunnelAddr",
        valid: is::<Ipv4Addr>,
        get: |spec, _| spec.ipv4_vxlan_tunnel_addr.clone(),
        set: |spec, _, text| spec.ipv4_vxlan_tunnel_addr = Some(text),
    },
    Field {
        name: "IPv6VXLANTunnelAddr",
        valid: is::<Ipv6Addr>,
        get: |spec, _| spec.ipv6_vxlan_tunnel_addr.clone(),
        set: |spec, _, text| spec.ipv6_vxlan_tunnel_addr = Some(text),
    },
    Field {
        name: "VXLANTunnelMACAddr",
        valid: mac,
        get: |spec, _| spec.vxlan_tunnel_mac_addr.clone(),
        set: |spec, _, text| spec.vxlan_tunnel_mac_addr = Some(text),
    },
    Field {
        name: "VXLANTunnelMACAddrV6",
        valid: mac,
        get: |spec, _| spec.vxlan_tunnel_mac_addr_v6.clone(),
        set: |spec, _, text| spec.vxlan_tunnel_mac_addr_v6 = Some(text),
    },
    Field {
        name: "IPv4WireguardInterfaceAddr",
        valid: is::<Ipv4Addr>,
        get: |spec, _| spec.wireguard.as_ref()?.interface_ipv4_address.clone(),
        set: |spec, _, text| spec.wireguard.get_or_insert_default().interface_ipv4_address = Some(text),
    },
    Field {
        name: "IPv6WireguardInterfaceAddr",
        valid: is::<Ipv6Addr>,
        get: |spec, _| spec.wireguard.as_ref()?.interface_ipv6_address.clone(),
        set: |spec, _, text| spec.wireguard.get_or_insert_default().interface_ipv6_address = Some(text),
    },
    Field {
        name: "WireguardPublicKey",
        valid: not_empty,
        get: |_, status| status.wireguard_public_key.clone(),
        set: |_, status, text| status.wireguard_public_key = Some(text),
    },
    Field {
        name: "WireguardPublicKeyV6",
        valid: not_empty,
        get: |_, status| status.wireguard_public_key_v6.clone(),
        set: |_, status, text| status.wireguard_public_key_v6 = Some(text),
    },
    Field {
        name: "Interfaces",
        valid: |text| serde_json::from_str::<Vec<NodeInterface>>(text).is_ok(),
        get: |spec, _| match spec.interfaces.is_empty() {
            true => None,
            false => serde_json::to_string(&spec.interfaces).ok(),
        },
        set: |spec, _, text| spec.interfaces = serde_json::from_str(&text).unwrap_or_default(),
    },
];

/// The tunnel address that follows from a pod CIDR where pods have addresses of it: the first but one.
fn second_address(cidr: &str) -> Option<Ipv4Addr> {
    let cidr: Ipv4Net = cidr.parse().ok()?;
    u32::from(cidr.network()).checked_add(1).map(Ipv4Addr::from)
}

/// The Node that a Kubernetes Node shows.
pub(super) fn decode(object: Value, use_pod_cidr: bool) -> Seen {
    let revision = revision_of(&object);
    let name = metadata_of(&object, "name").to_owned();
    let key = Key::named(Kind::Node, &*name);
    let core: CoreNode = match serde_json::from_value(object) {
        Ok(core) => core,
        Err(error) => return Seen::Fault(Fault { kind: Kind::Node, key: Some(key), name, reason: error.to_string() }),
    };
    let notes = core.metadata.annotations.clone().unwrap_or_default();
    let (mut spec, mut status) = (NodeSpec::default(), NodeStatus::default());
    for field in FIELDS {
        let Some(text) = notes.get(&format!("{PREFIX}{}", field.name)).filter(|text| !text.is_empty()) else {
            continue;
        };
        if (field.valid)(text) {
            (field.set)(&mut spec, &mut status, text.clone());
        } else {
            warn!(node = %name, annotation = field.name, value = %text, "annotation ignored: its value is not one");
        }
    }
    let core_spec = core.spec.unwrap_or_default();
    status.pod_cidrs = match core_spec.pod_cidrs {
        Some(cidrs) if !cidrs.is_empty() => cidrs,
        _ => core_spec.pod_cidr.into_iter().collect(),
    };
    if use_pod_cidr && let Some(address) = status.pod_cidrs.iter().find_map(|cidr| second_address(cidr)) {
        spec.bgp.get_or_insert_default().ipv4_ipip_tunnel_addr = Some(address.to_string());
        if status.wireguard_public_key.is_some() {
            spec.wireguard.get_or_insert_default().interface_ipv4_address = Some(address.to_string());
        }
    }
    spec.orch_refs = vec![OrchRef { node_name: Some(name.clone()), orchestrator: "k8s".to_owned() }];
    spec.addresses = addresses(&spec, core.status.and_then(|status| status.addresses).unwrap_or_default());

    let kube_labels = core.metadata.labels.unwrap_or_default();
    let mut labels: BTreeMap<String, String> = map_note(&name, &notes, LABELS);
    labels.extend(kube_labels.clone());
    let mut annotations: BTreeMap<String, String> = map_note(&name, &notes, ANNOTATIONS);
    annotations.insert(KUBE_LABELS.to_owned(), json!(kube_labels).to_string());
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        labels,
        annotations,
        uid: core.metadata.uid,
        resource_version: Some(revision.0.clone()),
        creation_timestamp: core.metadata.creation_timestamp.map(|time| time.0.to_string()),
        ..ObjectMeta::default()
    };
    let node = Resource { metadata, spec, status: Some(status) };
    match serde_json::to_value(&node) {
        Ok(value) => Seen::Entry(Entry { key, value, revision }),
        Err(error) => Seen::Fault(Fault { kind: Kind::Node, key: Some(key), name, reason: error.to_string() }),
    }
}

fn map_note(node: &str, notes: &BTreeMap<String, String>, name: &str) -> BTreeMap<String, String> {
    let Some(text) = notes.get(name).filter(|text| !text.is_empty()) else { return BTreeMap::new() };
    serde_json::from_str(text).unwrap_or_else(|error| {
        warn!(node, annotation = name, %error, "annotation ignored: it is not a JSON map of texts");
        BTreeMap::new()
    })
}

/// Calico's own addresses, then Kubernetes'.
fn addresses(spec: &NodeSpec, core: Vec<k8s_openapi::api::core::v1::NodeAddress>) -> Vec<NodeAddress> {
    let bgp = spec.bgp.clone().unwrap_or_default();
    let own = [bgp.ipv4_address, bgp.ipv6_address].into_iter().flatten();
    let own = own.map(|address| NodeAddress { address, address_type: Some("CalicoNodeIP".to_owned()) });
    let core = core.into_iter().filter(|address| matches!(&*address.type_, "InternalIP" | "ExternalIP"));
    let core = core.filter(|address| is::<IpAddr>(&address.address) || is::<IpNet>(&address.address));
    own.chain(core.map(|address| NodeAddress { address: address.address, address_type: Some(address.type_) })).collect()
}

/// The merge patch that makes `current` (a Kubernetes Node) show `value`.
///
/// # Errors
/// If `value` is not a Node; the text says why.
pub(super) fn patch(current: &Value, value: Value, use_pod_cidr: bool) -> Result<Value, String> {
    let node: calico_api::Node = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let status = node.status.unwrap_or_default();
    let mut notes: Notes = BTreeMap::new();
    for field in FIELDS {
        if use_pod_cidr && matches!(field.name, "IPv4IPIPTunnelAddr" | "IPv4WireguardInterfaceAddr") {
            continue; // derived, not stored
        }
        notes.insert(field.name, (field.get)(&node.spec, &status).filter(|text| !text.is_empty()));
    }
    let mut annotations: Map<String, Value> =
        notes.into_iter().map(|(name, text)| (format!("{PREFIX}{name}"), json!(text))).collect();

    let core: CoreNode = serde_json::from_value(current.clone()).map_err(|error| error.to_string())?;
    let kube_labels = core.metadata.labels.unwrap_or_default();
    let node_name = node.metadata.name().to_owned();
    let labels = node.metadata.labels.into_iter().filter(|(key, value)| match kube_labels.get(key) {
        None => true,
        Some(shown) => {
            if shown != value {
                warn!(node = %node_name, label = %key, kubernetes = %shown,
                    "label not set: Kubernetes sets it otherwise");
            }
            false
        }
    });
    let labels: BTreeMap<String, String> = labels.collect();
    let mut own = node.metadata.annotations;
    own.remove(KUBE_LABELS);
    annotations.insert(LABELS.to_owned(), (!labels.is_empty()).then(|| json!(labels).to_string()).into());
    annotations.insert(ANNOTATIONS.to_owned(), (!own.is_empty()).then(|| json!(own).to_string()).into());
    Ok(json!({"metadata": {"annotations": annotations, "resourceVersion": revision_of(current).0}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": "node-1", "uid": "8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17", "resourceVersion": "9",
                "labels": {"zone": "a"}, "creationTimestamp": "2026-08-22T13:00:00Z",
                "annotations": {
                    "projectcalico.org/IPv4Address": "192.0.2.1/24", "projectcalico.org/ASNumber": "64513",
                    "projectcalico.org/IPv4VXLANTunnelAddr": "fd00::1", "projectcalico.org/Interfaces": "garbage",
                    "projectcalico.org/VXLANTunnelMACAddr": "66:0b:4c:00:00:01",
                    "projectcalico.org/labels": "{\"rack\":\"r1\",\"zone\":\"shadowed\"}",
                    "projectcalico.org/annotations": "{\"note\":\"n\"}"}},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "node-1"}]},
        })
    }

    fn node(object: Value, use_pod_cidr: bool) -> calico_api::Node {
        match decode(object, use_pod_cidr) {
            Seen::Entry(entry) => serde_json::from_value(entry.value).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_kubernetes_node_is_read_and_what_is_invalid_is_as_if_absent() {
        let node = node(core(), false);
        let bgp = node.spec.bgp.as_ref().unwrap();
        assert_eq!((bgp.ipv4_address.as_deref(), bgp.as_number), (Some("192.0.2.1/24"), Some(AsNumber(64513))));
        assert_eq!(node.spec.ipv4_vxlan_tunnel_addr, None, "an address of the other family");
        assert_eq!(node.spec.vxlan_tunnel_mac_addr.as_deref(), Some("66:0b:4c:00:00:01"));
        assert!(node.spec.interfaces.is_empty());
        assert_eq!(node.metadata.labels["zone"], "a", "Kubernetes' value wins");
        assert_eq!(node.metadata.labels["rack"], "r1");
        assert_eq!(node.metadata.annotations["note"], "n");
        assert_eq!(node.metadata.annotations[KUBE_LABELS], r#"{"zone":"a"}"#);
        assert_eq!(node.metadata.uid.as_deref(), Some("8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17"), "not converted");
        assert_eq!(node.metadata.creation_timestamp.as_deref(), Some("2026-08-22T13:00:00Z"));
        assert_eq!(node.status.unwrap().pod_cidrs, ["10.244.1.0/24", "fd00:10:244::/64"]);
        let types: Vec<_> = node.spec.addresses.iter().filter_map(|address| address.address_type.as_deref()).collect();
        assert_eq!(types, ["CalicoNodeIP", "InternalIP"]);
    }

    #[test]
    fn writing_back_what_was_read_changes_no_annotation() {
        let mut core = core();
        for invalid in ["projectcalico.org/IPv4VXLANTunnelAddr", "projectcalico.org/Interfaces"] {
            core["metadata"]["annotations"].as_object_mut().unwrap().remove(invalid);
        }
        core["metadata"]["annotations"]["projectcalico.org/labels"] = json!("{\"rack\":\"r1\"}");
        let Seen::Entry(entry) = decode(core.clone(), false) else { panic!("no node") };
        let patch = patch(&core, entry.value, false).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "9");
        let mut written = patch["metadata"]["annotations"].as_object().unwrap().clone();
        written.retain(|_, value| !value.is_null());
        assert_eq!(Value::Object(written), core["metadata"]["annotations"]);
    }

    #[test]
    fn a_field_that_is_gone_removes_its_annotation() {
        let core = core();
        let Seen::Entry(mut entry) = decode(core.clone(), false) else { panic!("no node") };
        entry.value["spec"].as_object_mut().unwrap().remove("bgp");
        let patch = patch(&core, entry.value, false).unwrap();
        let annotations = &patch["metadata"]["annotations"];
        assert_eq!(annotations["projectcalico.org/IPv4Address"], Value::Null);
        assert!(annotations.as_object().unwrap().contains_key("projectcalico.org/ASNumber"));
        assert_eq!(annotations["projectcalico.org/VXLANTunnelMACAddr"], "66:0b:4c:00:00:01", "not a part of BGP");
    }

    #[test]
    fn with_pod_cidrs_the_tunnel_address_follows_from_them_and_is_not_stored() {
        let node = node(core(), true);
        let bgp = node.spec.bgp.as_ref().unwrap();
        assert_eq!(bgp.ipv4_ipip_tunnel_addr.as_deref(), Some("10.244.1.1"));
        let patch = patch(&core(), serde_json::to_value(&node).unwrap(), true).unwrap();
        assert_eq!(patch["metadata"]["annotations"].get("projectcalico.org/IPv4IPIPTunnelAddr"), None);
    }
}
