//! Workload endpoints: the interfaces of pods.

use serde::{Deserialize, Serialize};

use crate::null::null_is_empty;
use crate::{Kind, NoStatus, Protocol, Resource, Spec};

/// A workload's interface.
pub type WorkloadEndpoint = Resource<WorkloadEndpointSpec>;

/// A workload's interface, where it is and what addresses it has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEndpointSpec {
    /// `k8s`, or `cni` for containers of no orchestrator.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub orchestrator: String,
    /// The workload, where it is not a pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// The node it runs on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The container's id at the runtime.
    #[serde(skip_serializing_if = "String::is_empty", rename = "containerID")]
    pub container_id: String,
    /// The pod's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub pod: String,
    /// The interface inside, `eth0`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// The pod's service account.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub service_account_name: String,
    /// Its addresses, `10.244.0.2/32`.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ip_networks: Vec<String>,
    /// Floating addresses.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty", rename = "ipNATs")]
    pub ip_nats: Vec<IPNAT>,
    /// Gateway for IPv4; unused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv4_gateway: String,
    /// Gateway for IPv6; unused.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ipv6_gateway: String,
    /// Profiles whose rules and labels it takes.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// The node's side of the interface, `cali…`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// The workload's MAC.
    #[serde(skip_serializing_if = "String::is_empty", rename = "mac")]
    pub mac: String,
    /// Named ports and host ports.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<WorkloadEndpointPort>,
    /// Networks that the workload may send from although they are not its own.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub allow_spoofed_source_prefixes: Vec<String>,
    /// Limits of bandwidth, packets and connections ([`QosControls`](crate::QosControls)); kept as they are written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qos_controls: Option<serde_json::Value>,
}

impl WorkloadEndpointSpec {
    /// The annotation of an endpoint whose pod has run to its end, by which it differs from one that has no address yet.
    /// A view has it; it is never stored.
    pub const FINISHED: &'static str = "projectcalico.org/finished";
}

/// A floating address and the address it stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IPNAT {
    /// One of the endpoint's addresses.
    #[serde(rename = "internalIP")]
    pub internal_ip: String,
    /// The address that others use.
    #[serde(rename = "externalIP")]
    pub external_ip: String,
}

/// A port of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadEndpointPort {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `TCP`, `UDP`, `SCTP` or a number.
    pub protocol: Protocol,
    /// The port inside.
    pub port: u16,
    /// The port on the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_port: Option<u16>,
    /// The address on the node.
    #[serde(skip_serializing_if = "String::is_empty", rename = "hostIP")]
    pub host_ip: String,
}

impl Spec for WorkloadEndpointSpec {
    const KIND: Kind = Kind::WorkloadEndpoint;
    type Status = NoStatus;
}
