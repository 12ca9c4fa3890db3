//! What a cluster says of itself.

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Resource, Spec};

/// One object named `default`.
pub type ClusterInformation = Resource<ClusterInformationSpec>;

/// Identity, version and readiness of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterInformationSpec {
    /// 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none", rename = "clusterGUID")]
    pub cluster_guid: Option<String>,
    /// Comma-separated words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_type: Option<String>,
    /// The Calico release that the cluster is compatible with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calico_version: Option<String>,
    /// False while the datastore is locked: nothing new is handed out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
    /// `Calico`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Spec for ClusterInformationSpec {
    const KIND: Kind = Kind::ClusterInformation;
    type Status = NoStatus;
}
