//! Nodes as Calico sees them.

use serde::{Deserialize, Serialize};

use crate::null::null_is_empty;
use crate::{AsNumber, Kind, Resource, Spec};

/// A node of the cluster.
pub type Node = Resource<NodeSpec>;

/// What BGP, the tunnels and the orchestrator know of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Present when the node takes part in BGP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bgp: Option<NodeBGPSpec>,
    /// What the orchestrators call it.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub orch_refs: Vec<OrchRef>,
    /// Address of the VXLAN device.
    #[serde(skip_serializing_if = "Option::is_none", rename = "ipv4VXLANTunnelAddr")]
    pub ipv4_vxlan_tunnel_addr: Option<String>,
    /// MAC of the VXLAN device.
    #[serde(skip_serializing_if = "Option::is_none", rename = "vxlanTunnelMACAddr")]
    pub vxlan_tunnel_mac_addr: Option<String>,
    /// Address of the IPv6 VXLAN device.
    #[serde(skip_serializing_if = "Option::is_none", rename = "ipv6VXLANTunnelAddr")]
    pub ipv6_vxlan_tunnel_addr: Option<String>,
    /// MAC of the IPv6 VXLAN device.
    #[serde(skip_serializing_if = "Option::is_none", rename = "vxlanTunnelMACAddrV6")]
    pub vxlan_tunnel_mac_addr_v6: Option<String>,
    /// WireGuard, where it is used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wireguard: Option<NodeWireguardSpec>,
    /// All addresses of the node.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<NodeAddress>,
    /// The node's interfaces.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<NodeInterface>,
}

/// A node's place in BGP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeBGPSpec {
    /// Its own AS number; absent means the global one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Its IPv4 address with the length of its subnet, `10.0.0.1/24`.
    #[serde(skip_serializing_if = "Option::is_none", rename = "ipv4Address")]
    pub ipv4_address: Option<String>,
    /// Its IPv6 address with the length of its subnet.
    #[serde(skip_serializing_if = "Option::is_none", rename = "ipv6Address")]
    pub ipv6_address: Option<String>,
    /// Address of the IPIP device.
    #[serde(skip_serializing_if = "Option::is_none", rename = "ipv4IPIPTunnelAddr")]
    pub ipv4_ipip_tunnel_addr: Option<String>,
    /// Makes it a route reflector; written as an IPv4 address.
    #[serde(skip_serializing_if = "Option::is_none", rename = "routeReflectorClusterID")]
    pub route_reflector_cluster_id: Option<String>,
}

/// A node's name at an orchestrator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OrchRef {
    /// The name there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// `k8s`, for example.
    pub orchestrator: String,
}

/// A node's WireGuard addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeWireguardSpec {
    /// IPv4 address of the interface.
    #[serde(skip_serializing_if = "Option::is_none", rename = "interfaceIPv4Address")]
    pub interface_ipv4_address: Option<String>,
    /// IPv6 address of the interface.
    #[serde(skip_serializing_if = "Option::is_none", rename = "interfaceIPv6Address")]
    pub interface_ipv6_address: Option<String>,
}

/// One address of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAddress {
    /// The address.
    pub address: String,
    /// `CalicoNodeIP`, `InternalIP` or `ExternalIP`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub address_type: Option<String>,
}

/// One interface of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeInterface {
    /// Its name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its addresses.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// What the node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Public key, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wireguard_public_key: Option<String>,
    /// Public key of the IPv6 interface, base64.
    #[serde(skip_serializing_if = "Option::is_none", rename = "wireguardPublicKeyV6")]
    pub wireguard_public_key_v6: Option<String>,
    /// Networks that Kubernetes gave the node.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty", rename = "podCIDRs")]
    pub pod_cidrs: Vec<String>,
}

impl Spec for NodeSpec {
    const KIND: Kind = Kind::Node;
    type Status = NodeStatus;
}
