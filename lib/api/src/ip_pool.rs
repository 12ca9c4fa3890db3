//! IP pools: where addresses come from.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::null::null_is_empty;
use crate::{Kind, Resource, Spec};

/// A range of addresses for workloads, tunnels or load balancers.
pub type IPPool = Resource<IPPoolSpec>;

/// When packets are encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EncapMode {
    /// Never.
    #[default]
    #[serde(alias = "")]
    Never,
    /// Between all nodes.
    Always,
    /// Only between nodes of different subnets.
    CrossSubnet,
}

/// What a pool's addresses may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PoolUse {
    /// Pods.
    Workload,
    /// Tunnel devices of nodes.
    Tunnel,
    /// Services of type LoadBalancer.
    LoadBalancer,
}

/// Whether a pool is used without being asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AssignmentMode {
    /// Used for every workload that it selects.
    #[default]
    Automatic,
    /// Only when a workload names it.
    Manual,
}

/// A range of addresses. Absent fields have the defaults that the methods give.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IPPoolSpec {
    /// The range; host bits zero. Kept as text so that a bad one can be named, and an absent one too; see [`Self::cidr`].
    #[serde(default)]
    pub cidr: String,
    /// Prefix length of blocks; absent or 0 means 26 (IPv4) or 122 (IPv6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u8>,
    /// IPIP; absent means `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipip_mode: Option<EncapMode>,
    /// VXLAN; absent means `Never`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_mode: Option<EncapMode>,
    /// Whether packets that leave the pools are given the node's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_outgoing: Option<bool>,
    /// Whether no new address is handed out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<bool>,
    /// Whether nothing of the pool is advertised by BGP.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "disableBGPExport")]
    pub disable_bgp_export: Option<bool>,
    /// Which nodes may use it; absent or empty means `all()`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
    /// Which namespaces may use it; absent or empty means every.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// What it may be used for; absent means workloads and tunnels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_uses: Option<Vec<PoolUse>>,
    /// Whether it is used without being asked for; absent means `Automatic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_mode: Option<AssignmentMode>,
}

/// What controllers say of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IPPoolStatus {
    /// Type `Allocatable` with a reason such as `CIDROverlap`.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A condition as Kubernetes writes it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// A word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
    /// Which generation of the spec was looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Spec for IPPoolSpec {
    const KIND: Kind = Kind::IPPool;
    type Status = IPPoolStatus;
}

impl IPPoolSpec {
    /// A pool with nothing but a range.
    pub fn new(cidr: impl Into<String>) -> Self {
        Self {
            cidr: cidr.into(),
            block_size: None,
            ipip_mode: None,
            vxlan_mode: None,
            nat_outgoing: None,
            disabled: None,
            disable_bgp_export: None,
            node_selector: None,
            namespace_selector: None,
            allowed_uses: None,
            assignment_mode: None,
        }
    }

    /// The range, or `None` if the text is not one.
    pub fn cidr(&self) -> Option<IpNet> {
        self.cidr.parse().ok()
    }

    /// Prefix length of the pool's blocks for a range of the family of `cidr`.
    pub fn block_size_for(&self, cidr: &IpNet) -> u8 {
        match (self.block_size, cidr) {
            (Some(size), _) if size != 0 => size,
            (_, IpNet::V4(_)) => 26,
            (_, IpNet::V6(_)) => 122,
        }
    }

    /// Whether its addresses may be used so.
    pub fn allows(&self, wanted: PoolUse) -> bool {
        match &self.allowed_uses {
            Some(uses) if !uses.is_empty() => uses.contains(&wanted),
            _ => matches!(wanted, PoolUse::Workload | PoolUse::Tunnel),
        }
    }
}
