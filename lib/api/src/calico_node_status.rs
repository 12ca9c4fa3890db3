//! Node status: what a node reports of its BGP sessions and routes when asked to.

use serde::{Deserialize, Serialize};

use crate::null::null_is_empty;
use crate::{Kind, Resource, Spec};

/// The request of a report, and the report.
pub type CalicoNodeStatus = Resource<CalicoNodeStatusSpec>;

/// What is reported, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeStatusSpec {
    /// The node that reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Any of `Agent`, `BGP` and `Routes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub classes: Option<Vec<String>>,
    /// Seconds between two reports, at most 86400; 0 is a single one. Default: 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_period_seconds: Option<u32>,
}

/// The report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeStatusStatus {
    /// When it was made (RFC 3339); null before the first time.
    pub last_updated: Option<String>,
    /// The BGP daemons.
    pub agent: CalicoNodeAgentStatus,
    /// The BGP sessions.
    pub bgp: CalicoNodeBGPStatus,
    /// The routes.
    pub routes: CalicoNodeBGPRouteStatus,
    /// What an operator must know beyond that: resources that cannot be followed, sessions that conflict. An addition
    /// of ours: Calico has no such field, and lets it pass where its definitions do.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<CalicoNodeCondition>,
}

/// One thing that is or is not so, as Kubernetes' conditions have it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeCondition {
    /// What is or is not so, a word such as `ResourcesValid`.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, as one word for programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Why, as a sentence for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when `status` is as it is (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// The BGP daemons, one a family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeAgentStatus {
    /// IPv4's.
    pub bird_v4: BGPDaemonStatus,
    /// IPv6's.
    pub bird_v6: BGPDaemonStatus,
}

/// A BGP daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPDaemonStatus {
    /// `Ready` or `NotReady`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its router id.
    #[serde(skip_serializing_if = "String::is_empty", rename = "routerID")]
    pub router_id: String,
    /// When it started.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_boot_time: String,
    /// When it last read its configuration.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_reconfiguration_time: String,
}

/// The BGP sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeBGPStatus {
    /// IPv4 sessions that are established.
    pub number_established_v4: u32,
    /// IPv4 sessions that are not.
    pub number_not_established_v4: u32,
    /// IPv6 sessions that are established.
    pub number_established_v6: u32,
    /// IPv6 sessions that are not.
    pub number_not_established_v6: u32,
    /// The IPv4 peers.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub peers_v4: Vec<CalicoNodePeer>,
    /// The IPv6 peers.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub peers_v6: Vec<CalicoNodePeer>,
}

/// A BGP peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CalicoNodePeer {
    /// Its address.
    #[serde(skip_serializing_if = "String::is_empty", rename = "peerIP")]
    pub peer_ip: String,
    /// `NodeMesh`, `NodePeer` or `GlobalPeer`.
    #[serde(skip_serializing_if = "String::is_empty", rename = "type")]
    pub peer_type: String,
    /// `Idle`, `Connect`, `Active`, `OpenSent`, `OpenConfirm`, `Established` or `Close`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub state: String,
    /// Since when.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub since: String,
}

/// The routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeBGPRouteStatus {
    /// IPv4's.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub routes_v4: Vec<CalicoNodeRoute>,
    /// IPv6's.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub routes_v6: Vec<CalicoNodeRoute>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeRoute {
    /// `FIB` or `RIB`.
    #[serde(skip_serializing_if = "String::is_empty", rename = "type")]
    pub route_type: String,
    /// Where to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination: String,
    /// The next hop.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gateway: String,
    /// The interface.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// Where it comes from.
    pub learned_from: CalicoNodeRouteLearnedFrom,
}

/// The source of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CalicoNodeRouteLearnedFrom {
    /// `Kernel`, `Static`, `Direct`, `NodeMesh` or `BGPPeer`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source_type: String,
    /// The peer, where it was one.
    #[serde(skip_serializing_if = "String::is_empty", rename = "peerIP")]
    pub peer_ip: String,
}

impl Spec for CalicoNodeStatusSpec {
    const KIND: Kind = Kind::CalicoNodeStatus;
    type Status = CalicoNodeStatusStatus;
}
