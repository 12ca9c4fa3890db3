//! BGP filters: which routes peers are told, and which are believed.

use serde::{Deserialize, Serialize};

use crate::{AsNumber, Kind, NoStatus, Resource, Spec};

/// Rules that BGPPeers name.
pub type BGPFilter = Resource<BGPFilterSpec>;

/// Four lists of rules. In each the first that matches decides; none leaves it to the usual policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BGPFilterSpec {
    /// For IPv4 routes to the peer.
    #[serde(skip_serializing_if = "Option::is_none", rename = "exportV4")]
    pub export_v4: Option<Vec<BGPFilterRule>>,
    /// For IPv4 routes from the peer.
    #[serde(skip_serializing_if = "Option::is_none", rename = "importV4")]
    pub import_v4: Option<Vec<BGPFilterRule>>,
    /// For IPv6 routes to the peer.
    #[serde(skip_serializing_if = "Option::is_none", rename = "exportV6")]
    pub export_v6: Option<Vec<BGPFilterRule>>,
    /// For IPv6 routes from the peer.
    #[serde(skip_serializing_if = "Option::is_none", rename = "importV6")]
    pub import_v6: Option<Vec<BGPFilterRule>>,
}

/// One rule, of either family. Everything that is present must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BGPFilterRule {
    /// What `matchOperator` compares the route's destination with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cidr: Option<String>,
    /// Lengths that the destination's prefix may have; needs `cidr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<BGPFilterPrefixLength>,
    /// `RemotePeers`: only routes learnt from other peers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The interface that the route leaves by; `*` stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How the destination is compared with `cidr`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_operator: Option<BGPFilterMatchOperator>,
    /// `eBGP` or `iBGP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_type: Option<BGPFilterPeerType>,
    /// A community that the route has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<BGPFilterCommunityMatch>,
    /// What the route's AS path begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_path_prefix: Option<Vec<AsNumber>>,
    /// The metric that the route has in the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// What happens to the route.
    pub action: BGPFilterAction,
    /// What is changed on it, if it is accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<BGPFilterOperation>>,
}

/// What happens to a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BGPFilterAction {
    /// It is told or believed.
    Accept,
    /// It is not.
    Reject,
}

/// How a destination is compared with a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BGPFilterMatchOperator {
    /// It is this network.
    Equal,
    /// It is not this network.
    NotEqual,
    /// It is this network or inside it.
    In,
    /// It is neither this network nor inside it.
    NotIn,
}

/// Which kind of session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BGPFilterPeerType {
    /// With another AS.
    #[serde(rename = "eBGP")]
    External,
    /// Within our AS.
    #[serde(rename = "iBGP")]
    Internal,
}

/// Lengths of a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BGPFilterPrefixLength {
    /// The shortest; absent means the length of the rule's CIDR.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<i32>,
    /// The longest; absent means 32 or 128.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<i32>,
}

/// Communities of which a route has one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BGPFilterCommunityMatch {
    /// Exactly one, `a:b` or `a:b:c`.
    pub values: Vec<String>,
}

/// One change of a route; exactly one field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BGPFilterOperation {
    /// Adds a community.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub add_community: Option<BGPFilterAddCommunity>,
    /// Puts numbers before the AS path.
    #[serde(skip_serializing_if = "Option::is_none", rename = "prependASPath")]
    pub prepend_as_path: Option<BGPFilterPrependASPath>,
    /// Sets the metric that the route gets in the kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<BGPFilterSetPriority>,
}

/// A community to add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BGPFilterAddCommunity {
    /// `a:b` or `a:b:c`.
    pub value: String,
}

/// Numbers to put before the AS path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BGPFilterPrependASPath {
    /// One to ten, in the order in which they will stand.
    pub prefix: Vec<AsNumber>,
}

/// A metric to set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BGPFilterSetPriority {
    /// 1 to 2147483646.
    pub value: i64,
}

impl Spec for BGPFilterSpec {
    const KIND: Kind = Kind::BGPFilter;
    type Status = NoStatus;
}
