//! Network sets: networks under labels, so that rules can select them.

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Resource, Spec};

/// Networks for the rules of a namespace.
pub type NetworkSet = Resource<NetworkSetSpec>;
/// Networks for the rules of the cluster.
pub type GlobalNetworkSet = Resource<GlobalNetworkSetSpec>;

/// Networks of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkSetSpec {
    /// The networks, of both families.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
}

/// Networks of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GlobalNetworkSetSpec {
    /// The networks, of both families.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
}

impl Spec for NetworkSetSpec {
    const KIND: Kind = Kind::NetworkSet;
    type Status = NoStatus;
}

impl Spec for GlobalNetworkSetSpec {
    const KIND: Kind = Kind::GlobalNetworkSet;
    type Status = NoStatus;
}
