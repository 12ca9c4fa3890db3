//! BGP for the whole cluster, and for single nodes.

use serde::{Deserialize, Serialize};

use crate::null::null_is_empty;
use crate::{AsNumber, Kind, NoStatus, Resource, Spec};

/// Named `default` for the cluster, `node.<name>` for one node.
pub type BGPConfiguration = Resource<BGPConfigurationSpec>;

/// Settings of BGP. The methods give the defaults of absent fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPConfigurationSpec {
    /// How much the speaker logs: Trace, Debug, Info, Warning, Error, Fatal. Default: Info.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Whether every node peers with every other. Default: true. Only on `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// AS number of nodes that have none of their own. Default: 64512. Only on `default`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Networks of load-balancer addresses to advertise.
    #[serde(skip_serializing_if = "Option::is_none", rename = "serviceLoadBalancerIPs")]
    pub service_load_balancer_ips: Option<Vec<ServiceBlock>>,
    /// Networks of external addresses to advertise.
    #[serde(skip_serializing_if = "Option::is_none", rename = "serviceExternalIPs")]
    pub service_external_ips: Option<Vec<ServiceBlock>>,
    /// Networks of cluster addresses to advertise.
    #[serde(skip_serializing_if = "Option::is_none", rename = "serviceClusterIPs")]
    pub service_cluster_ips: Option<Vec<ServiceBlock>>,
    /// `Enabled` (the default) or `Disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_load_balancer_aggregation: Option<String>,
    /// Names for community values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub communities: Option<Vec<Community>>,
    /// Communities that go with prefixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix_advertisements: Option<Vec<PrefixAdvertisement>>,
    /// TCP port that the node listens on. Default: 179.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Password of the mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<BGPPassword>,
    /// Restart time of the mesh, a duration such as `120s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<String>,
    /// `None` (listen on every address, the default) or `NodeIP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<String>,
    /// Interfaces whose networks are not looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ignored_interfaces: Option<Vec<String>>,
    /// IPv4 address that local workloads peer with.
    #[serde(skip_serializing_if = "Option::is_none", rename = "localWorkloadPeeringIPV4")]
    pub local_workload_peering_ipv4: Option<String>,
    /// IPv6 address that local workloads peer with.
    #[serde(skip_serializing_if = "Option::is_none", rename = "localWorkloadPeeringIPV6")]
    pub local_workload_peering_ipv6: Option<String>,
    /// Which classes of cluster routes the speaker programs. Default: EnabledNoEncapOnly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<String>,
    /// Kernel metric of a normal IPv4 route. Default: 1024.
    #[serde(skip_serializing_if = "Option::is_none", rename = "ipv4NormalRoutePriority")]
    pub ipv4_normal_route_priority: Option<u32>,
    /// Kernel metric of a normal IPv6 route. Default: 1024.
    #[serde(skip_serializing_if = "Option::is_none", rename = "ipv6NormalRoutePriority")]
    pub ipv6_normal_route_priority: Option<u32>,
}

/// A network of service addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceBlock {
    /// The network; an empty one is skipped.
    pub cidr: String,
}

/// A name for a community.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Community {
    /// The name.
    pub name: String,
    /// `a:b`, or `a:b:c` for a large community.
    pub value: String,
}

/// Communities for everything inside a network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PrefixAdvertisement {
    /// The network.
    pub cidr: String,
    /// Names or values.
    #[serde(deserialize_with = "null_is_empty")]
    pub communities: Vec<String>,
}

/// Where a password is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPPassword {
    /// A key of a Secret in the speaker's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKeyRef>,
}

/// A key of a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretKeyRef {
    /// The Secret's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// The key in it.
    pub key: String,
    /// Whether its absence is tolerated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

impl Spec for BGPConfigurationSpec {
    const KIND: Kind = Kind::BGPConfiguration;
    type Status = NoStatus;
}

impl BGPConfigurationSpec {
    /// AS number where none is configured.
    pub const DEFAULT_AS: AsNumber = AsNumber(64512);
    /// BGP's port.
    pub const DEFAULT_PORT: u16 = 179;
}
