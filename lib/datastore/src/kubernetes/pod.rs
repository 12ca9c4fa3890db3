//! Workload endpoints, which are views of Pods: what the CNI plugin knows stands in annotations.

use std::collections::BTreeMap;
use std::net::IpAddr;

use calico_api::{
    IPNAT, Key, Kind, ObjectMeta, QosControls, Resource, WorkloadEndpoint, WorkloadEndpointPort, WorkloadEndpointSpec,
    pod_interface_name, workload_endpoint_name,
};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tracing::warn;

use super::codec::{Seen, metadata_of, revision_of};
use crate::{Entry, Fault};

const POD_IP: &str = "cni.projectcalico.org/podIP";
const POD_IPS: &str = "cni.projectcalico.org/podIPs";
const CONTAINER_ID: &str = "cni.projectcalico.org/containerID";
const AWS_POD_IPS: &str = "vpc.amazonaws.com/pod-ips";
const FLOATING_IPS: &str = "cni.projectcalico.org/floatingIPs";
const ALLOWED_PREFIXES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// What the CNI plugin writes or is asked for.
pub(super) const OF_THE_PLUGIN: &str = "cni.projectcalico.org/";
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";
/// The orchestrator's name in endpoints.
const ORCHESTRATOR: &str = "k8s";
/// The one interface of a pod that Calico makes.
const ENDPOINT: &str = "eth0";

/// The node and the pod that a workload endpoint's name speaks of; `None` if no pod has such an endpoint.
pub(super) fn parse_name(name: &str) -> Option<(String, String)> {
    let mut parts = vec![String::new()];
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter == '-' && letters.next_if_eq(&'-').is_none() {
            parts.push(String::new());
        } else {
            parts.last_mut().expect("there is always a part").push(letter);
        }
    }
    match <[String; 4]>::try_from(parts) {
        Ok([node, orchestrator, pod, endpoint]) if orchestrator == ORCHESTRATOR && endpoint == ENDPOINT => {
            Some((node, pod))
        }
        _ => None,
    }
}

/// The endpoint that a pod shows; nothing if it is on no node or on its node's network.
pub(super) fn decode(object: Value, interface_prefix: &str) -> Seen {
    let revision = revision_of(&object);
    let (namespace, name) = (metadata_of(&object, "namespace").to_owned(), metadata_of(&object, "name").to_owned());
    let pod: Pod = match serde_json::from_value(object) {
        Ok(pod) => pod,
        Err(error) => {
            let fault = Fault {
                kind: Kind::WorkloadEndpoint,
                key: None,
                name: format!("{namespace}/{name}"),
                reason: error.to_string(),
            };
            return Seen::Fault(fault);
        }
    };
    let spec = pod.spec.clone().unwrap_or_default();
    let Some(node) = spec.node_name.clone().filter(|node| !node.is_empty() && spec.host_network != Some(true)) else {
        return Seen::Nothing;
    };
    let endpoint_name = workload_endpoint_name(&node, ORCHESTRATOR, &name, ENDPOINT);
    let key = Key::namespaced(Kind::WorkloadEndpoint, &*namespace, &*endpoint_name);
    let finished = is_finished(&pod);
    let networks = if finished { Vec::new() } else { networks(&pod) };
    let account = spec.service_account_name.clone().unwrap_or_default();
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert("projectcalico.org/namespace".to_owned(), namespace.clone());
    labels.insert("projectcalico.org/orchestrator".to_owned(), ORCHESTRATOR.to_owned());
    let mut profiles = vec![format!("kns.{namespace}")];
    if !account.is_empty() {
        profiles.push(format!("ksa.{namespace}.{account}"));
        if account.len() < 63 {
            labels.insert("projectcalico.org/serviceaccount".to_owned(), account.clone());
        }
    }
    let note = |name: &str| annotation(&pod, name).filter(|text| !text.is_empty());
    let metadata = ObjectMeta {
        name: Some(endpoint_name),
        generate_name: pod.metadata.generate_name.clone().filter(|name| !name.is_empty()),
        namespace: Some(namespace.clone()),
        labels,
        annotations: wishes(&pod)
            .chain(note(NETWORK_STATUS).map(|text| (NETWORK_STATUS.to_owned(), text.to_owned())))
            .chain(finished.then(|| (WorkloadEndpointSpec::FINISHED.to_owned(), "true".to_owned())))
            .collect(),
        uid: pod.metadata.uid.clone(),
        resource_version: Some(revision.0.clone()),
        creation_timestamp: pod.metadata.creation_timestamp.clone().map(|time| time.0.to_string()),
        ..ObjectMeta::default()
    };
    let endpoint = WorkloadEndpointSpec {
        orchestrator: ORCHESTRATOR.to_owned(),
        node,
        container_id: annotation(&pod, CONTAINER_ID).unwrap_or_default().to_owned(),
        pod: name.clone(),
        endpoint: ENDPOINT.to_owned(),
        service_account_name: account,
        ip_nats: nats(&pod, &networks),
        ip_networks: networks.iter().map(ToString::to_string).collect(),
        profiles,
        interface_name: pod_interface_name(interface_prefix, &namespace, &name),
        ports: ports(&pod),
        allow_spoofed_source_prefixes: sources(&pod),
        // What is wrong with them the agent tells once, when the pod is connected.
        qos_controls: QosControls::read(|name| annotation(&pod, name)).0.and_then(|qos| serde_json::to_value(qos).ok()),
        ..WorkloadEndpointSpec::default()
    };
    match serde_json::to_value(Resource::new(metadata, endpoint)) {
        Ok(value) => Seen::Entry(Entry { key, value, revision }),
        Err(error) => Seen::Fault(Fault {
            kind: Kind::WorkloadEndpoint,
            key: Some(key),
            name: format!("{namespace}/{name}"),
            reason: error.to_string(),
        }),
    }
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The annotations by which the pod asks something of its network; not those that the plugin writes.
fn wishes(pod: &Pod) -> impl Iterator<Item = (String, String)> + '_ {
    let annotations = pod.metadata.annotations.iter().flatten();
    let wishes = annotations.filter(|(name, _)| {
        name.starts_with(OF_THE_PLUGIN) && ![POD_IP, POD_IPS, CONTAINER_ID].contains(&name.as_str())
            || QosControls::is_annotation(name)
    });
    wishes.map(|(name, text)| (name.clone(), text.clone()))
}

/// Whether the pod's addresses are no longer its own, or about to be another's.
fn is_finished(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed" | "Completed") {
        return true;
    }
    // A terminating pod keeps its connections until the plugin has said that its network is gone.
    pod.metadata.deletion_timestamp.is_some()
        && (annotation(pod, POD_IP) == Some("") || annotation(pod, AWS_POD_IPS) == Some(""))
}

/// The pod's addresses, from the first place that has any.
fn networks(pod: &Pod) -> Vec<IpNet> {
    let status = pod.status.clone().unwrap_or_default();
    let listed: Vec<String> = status.pod_ips.unwrap_or_default().into_iter().map(|ip| ip.ip).collect();
    let single: Vec<String> = status.pod_ip.into_iter().collect();
    let noted = |name: &str| -> Vec<String> {
        annotation(pod, name).into_iter().flat_map(|text| text.split(',')).map(|text| text.trim().to_owned()).collect()
    };
    let places = [listed, single, noted(POD_IPS), noted(POD_IP), noted(AWS_POD_IPS)];
    let full = places.into_iter().map(|place| place.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>());
    let Some(texts) = full.into_iter().find(|place| !place.is_empty()) else { return Vec::new() };
    let parsed = texts.iter().filter_map(|text| {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
        if network.is_none() {
            warn!(pod = ?pod.metadata.name, address = %text, "address of a pod ignored: it is not one");
        }
        network
    });
    parsed.collect()
}

fn list_note(pod: &Pod, name: &str) -> Vec<String> {
    let Some(text) = annotation(pod, name).filter(|text| !text.is_empty()) else { return Vec::new() };
    serde_json::from_str(text).unwrap_or_else(|error| {
        warn!(pod = ?pod.metadata.name, annotation = name, %error, "annotation of a pod ignored: it is not a JSON list of texts");
        Vec::new()
    })
}

/// The networks that the pod may send from beside its own addresses; the agent refuses a pod with one that is none.
fn sources(pod: &Pod) -> Vec<String> {
    let listed = list_note(pod, ALLOWED_PREFIXES);
    let network = |text: &String| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
    listed.iter().filter_map(network).map(|network: IpNet| network.to_string()).collect()
}

/// Floating addresses, each for the pod's address of its family.
fn nats(pod: &Pod, networks: &[IpNet]) -> Vec<IPNAT> {
    let floating = list_note(pod, FLOATING_IPS);
    let pairs = floating.iter().filter_map(|text| {
        let external: IpAddr = text.parse().ok()?;
        let internal = networks.iter().map(IpNet::addr).find(|address| address.is_ipv4() == external.is_ipv4())?;
        Some(IPNAT { internal_ip: internal.to_string(), external_ip: external.to_string() })
    });
    pairs.collect()
}

/// Ports that have a name or a port on the node.
fn ports(pod: &Pod) -> Vec<WorkloadEndpointPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let wanted = ports.filter(|port| {
        port.host_port.is_some_and(|port| port != 0) || port.name.as_ref().is_some_and(|name| !name.is_empty())
    });
    let converted = wanted.filter_map(|port| {
        Some(WorkloadEndpointPort {
            name: port.name.clone().unwrap_or_default(),
            protocol: serde_json::from_value(json!(port.protocol.as_deref().unwrap_or("TCP"))).ok()?,
            port: u16::try_from(port.container_port).ok()?,
            host_port: port.host_port.filter(|port| *port != 0).and_then(|port| u16::try_from(port).ok()),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
    });
    converted.collect()
}

/// The patch of a pod's annotations that an endpoint stands for.
///
/// # Errors
/// If `value` is not a workload endpoint; the text says why.
pub(super) fn patch(value: Value) -> Result<Value, String> {
    let endpoint: WorkloadEndpoint = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let networks: Result<Vec<IpNet>, _> = endpoint
        .spec
        .ip_networks
        .iter()
        .map(|text| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| text))
        .collect();
    let networks = networks.map_err(|text| format!("spec.ipNetworks: \"{text}\" is no network"))?;
    let texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
    let notes = BTreeMap::from([
        (POD_IP, texts.first().cloned().unwrap_or_default()),
        (POD_IPS, texts.join(",")),
        (CONTAINER_ID, endpoint.spec.container_id),
    ]);
    Ok(json!({"metadata": {"annotations": notes}}))
}

/// The patch that says that the pod `object` has no network any more; it holds for exactly this version of the pod.
pub(super) fn clearing_patch(object: &Value) -> Value {
    json!({"metadata": {
        "annotations": {POD_IP: "", POD_IPS: ""},
        "uid": metadata_of(object, "uid"),
        "resourceVersion": metadata_of(object, "resourceVersion"),
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web-0", "namespace": "default", "uid": "8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17",
                "resourceVersion": "5", "labels": {"app": "web"}, "annotations": {
                    "cni.projectcalico.org/podIP": "10.244.0.2/32",
                    "cni.projectcalico.org/podIPs": "10.244.0.2/32,fd00::2/128",
                    "cni.projectcalico.org/containerID": "4f1c0e",
                    "cni.projectcalico.org/floatingIPs": "[\"198.51.100.7\"]"}},
            "spec": {"nodeName": "node-1", "serviceAccountName": "default", "containers": [
                {"name": "c", "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 81}, {"containerPort": 82, "hostPort": 8082, "protocol": "UDP"}]}]},
            "status": {"phase": "Running"},
        })
    }

    fn endpoint(pod: Value) -> WorkloadEndpoint {
        match decode(pod, "cali") {
            Seen::Entry(entry) => {
                assert_eq!(parse_name(&entry.key.name()), Some(("node-1".to_owned(), "web-0".to_owned())));
                serde_json::from_value(entry.value).unwrap()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pod_is_an_endpoint() {
        let endpoint = endpoint(pod());
        assert_eq!(endpoint.name(), "node--1-k8s-web--0-eth0");
        assert_eq!(endpoint.metadata.uid.as_deref(), Some("8f3c1d52-7a64-4e0b-9c21-0f6b2d5e9a17"), "not converted");
        let spec = &endpoint.spec;
        assert_eq!(spec.interface_name, "cali0d7763386da");
        assert_eq!(spec.ip_networks, ["10.244.0.2/32", "fd00::2/128"]);
        assert_eq!(spec.profiles, ["kns.default", "ksa.default.default"]);
        assert_eq!(
            spec.ip_nats,
            [IPNAT { internal_ip: "10.244.0.2".to_owned(), external_ip: "198.51.100.7".to_owned() }]
        );
        let ports: Vec<_> = spec.ports.iter().map(|port| (port.port, port.host_port)).collect();
        assert_eq!(ports, [(80, None), (82, Some(8082))]);
        assert_eq!(endpoint.metadata.labels["projectcalico.org/namespace"], "default");
        assert_eq!(endpoint.metadata.labels["app"], "web");
        let wishes = [("cni.projectcalico.org/floatingIPs".to_owned(), "[\"198.51.100.7\"]".to_owned())];
        assert_eq!(endpoint.metadata.annotations, wishes.into(), "not what the plugin wrote");
    }

    #[test]
    fn limits_and_foreign_sources_of_a_pod_stand_in_its_endpoint() {
        let mut pod = pod();
        let annotations = &mut pod["metadata"]["annotations"];
        annotations["qos.projectcalico.org/ingressPacketRate"] = json!("100");
        annotations["kubernetes.io/egress-bandwidth"] = json!("never");
        annotations["cni.projectcalico.org/allowedSourcePrefixes"] = json!("[\"10.9.0.0/16\", \"fd00::1\", \"x\"]");
        let endpoint = endpoint(pod);
        let limits = json!({"ingressPacketRate": 100, "ingressPacketBurst": 5});
        assert_eq!(endpoint.spec.qos_controls, Some(limits));
        assert_eq!(endpoint.spec.allow_spoofed_source_prefixes, ["10.9.0.0/16", "fd00::1/128"]);
        assert_eq!(endpoint.metadata.annotations["kubernetes.io/egress-bandwidth"], "never", "for the agent to tell");
    }

    #[test]
    fn what_kubelet_says_of_addresses_comes_before_the_annotations() {
        let mut pod = pod();
        pod["status"]["podIPs"] = json!([{"ip": "10.244.0.9"}]);
        assert_eq!(endpoint(pod).spec.ip_networks, ["10.244.0.9/32"]);
    }

    #[test]
    fn a_pod_without_a_node_or_with_its_nodes_network_is_none() {
        let mut host = pod();
        host["spec"]["hostNetwork"] = json!(true);
        assert_eq!(decode(host, "cali"), Seen::Nothing);
        let mut pending = pod();
        pending["spec"].as_object_mut().unwrap().remove("nodeName");
        assert_eq!(decode(pending, "cali"), Seen::Nothing);
    }

    #[test]
    fn a_terminating_pod_has_addresses_until_its_annotation_is_cleared() {
        let mut pod = pod();
        pod["metadata"]["deletionTimestamp"] = json!("2026-08-22T13:00:00Z");
        assert_eq!(endpoint(pod.clone()).spec.ip_networks.len(), 2);
        pod["metadata"]["annotations"]["cni.projectcalico.org/podIP"] = json!("");
        assert!(endpoint(pod.clone()).spec.ip_networks.is_empty());
        pod["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
        assert_eq!(endpoint(pod.clone()).spec.ip_networks.len(), 2, "cleared, but not terminating: podIPs still holds");
        pod["status"]["phase"] = json!("Succeeded");
        assert!(endpoint(pod).spec.ip_networks.is_empty());
    }

    #[test]
    fn an_endpoint_is_written_as_calico_writes_it() {
        let written = patch(serde_json::to_value(endpoint(pod())).unwrap()).unwrap();
        assert_eq!(
            written,
            json!({"metadata": {"annotations": {
                "cni.projectcalico.org/podIP": "10.244.0.2/32",
                "cni.projectcalico.org/podIPs": "10.244.0.2/32,fd00::2/128",
                "cni.projectcalico.org/containerID": "4f1c0e",
            }}})
        );
        let cleared = clearing_patch(&pod());
        assert_eq!(
            cleared["metadata"]["annotations"],
            json!({"cni.projectcalico.org/podIP": "", "cni.projectcalico.org/podIPs": ""})
        );
        assert_eq!(cleared["metadata"]["resourceVersion"], "5");
    }

    #[test]
    fn names_of_other_endpoints_are_no_pods() {
        for name in ["", "node--1-cni-abc-eth0", "node--1-k8s-web--0-eth1", "a-k8s-b-c-eth0", "-k8s-"] {
            assert_eq!(parse_name(name), None, "{name:?}");
        }
    }
}
