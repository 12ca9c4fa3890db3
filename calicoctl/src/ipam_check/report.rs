//! The report of a check, as `ipam release` reads it; its fields are Calico's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use calico_api::{ClusterInformationSpec, Key, Kind};
use calico_datastore::Store;
use serde::{Deserialize, Serialize};

use super::Information;
use super::scan::Findings;

/// What a check has found.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Report {
    /// Of the program that made it.
    pub(crate) version: String,
    #[serde(rename = "clusterGUID")]
    pub(crate) cluster_guid: String,
    pub(crate) datastore_locked: bool,
    pub(crate) cluster_information_revision: String,
    pub(crate) cluster_type: String,
    pub(crate) allocations: BTreeMap<IpAddr, Vec<Allocation>>,
    pub(crate) leaked_handles: Vec<LeakedHandle>,
}

/// One assignment of an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Allocation {
    pub(crate) ip: IpAddr,
    #[serde(default)]
    pub(crate) handle: Option<String>,
    #[serde(default)]
    pub(crate) sequence_number: Option<u64>,
    #[serde(default)]
    pub(crate) pod: String,
    #[serde(default)]
    pub(crate) namespace: String,
    #[serde(default)]
    pub(crate) node: String,
    #[serde(default, rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) creation_timestamp: String,
    #[serde(default)]
    pub(crate) in_use: bool,
    #[serde(default)]
    pub(crate) borrowed: bool,
    #[serde(default)]
    pub(crate) cooling_down: bool,
    /// Who uses it.
    #[serde(default)]
    pub(crate) owners: Vec<String>,
}

impl Allocation {
    /// What is known of the holder, in a line.
    pub(crate) fn attributes(&self) -> String {
        let known = [
            ("handle", self.handle.as_deref().unwrap_or_default()),
            ("namespace", &self.namespace),
            ("node", &self.node),
            ("pod", &self.pod),
            ("timestamp", &self.creation_timestamp),
            ("type", &self.kind),
        ];
        let known = known.iter().filter(|(_, value)| !value.is_empty());
        format!("attrs map[{}]", known.map(|(name, value)| format!("{name}:{value}")).collect::<Vec<_>>().join(" "))
    }

    /// Whether nobody uses it, though it is held.
    pub(crate) fn is_leaked(&self) -> bool {
        !self.in_use && !self.cooling_down
    }
}

/// A handle without addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct LeakedHandle {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    #[serde(rename = "UID", default)]
    pub(crate) uid: Option<String>,
    #[serde(rename = "Revision")]
    pub(crate) revision: String,
}

impl Report {
    pub(crate) fn new(information: &Information, findings: &Findings) -> Self {
        let spec = &information.spec;
        Self {
            version: calico_version::CALICO_COMPATIBLE.to_owned(),
            cluster_guid: spec.cluster_guid.clone().unwrap_or_default(),
            datastore_locked: spec.datastore_ready == Some(false),
            cluster_information_revision: information.metadata.resource_version.clone().unwrap_or_default(),
            cluster_type: spec.cluster_type.clone().unwrap_or_default(),
            allocations: findings.allocations.clone(),
            leaked_handles: findings.leaked_handles.clone(),
        }
    }
}

/// The cluster's ClusterInformation.
pub(crate) async fn cluster(store: &Store) -> Result<Information> {
    let key = Key::named(Kind::ClusterInformation, "default");
    store
        .get::<ClusterInformationSpec>(&key)
        .await
        .context("a report needs the ClusterInformation, by which it is told of which cluster it is")
}
