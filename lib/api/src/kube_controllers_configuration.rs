//! Settings of the controllers that run once a cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{DurationText, Kind, Resource, Spec};

/// One object named `default`.
pub type KubeControllersConfiguration = Resource<KubeControllersConfigurationSpec>;

/// Settings of the controllers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeControllersConfigurationSpec {
    /// How much is logged. Default: Info.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// `Enabled` (the default) or `Disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_checks: Option<String>,
    /// How often etcd's history is compacted. Default: 10m.
    #[serde(skip_serializing_if = "Option::is_none", rename = "etcdV3CompactionPeriod")]
    pub etcd_v3_compaction_period: Option<DurationText>,
    /// Port of the metrics server; 0 is none. Default: 9094.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prometheus_metrics_port: Option<i64>,
    /// The controllers that run, each with its settings.
    pub controllers: ControllersConfig,
    /// Port of the profiling server; absent is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub debug_profile_port: Option<i64>,
}

/// The controllers; an absent one does not run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllersConfig {
    /// Nodes: labels, host endpoints, leaked addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeControllerConfig>,
    /// Kubernetes' network policies (etcd only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<ReconcilerConfig>,
    /// Workload endpoints' labels (etcd only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_endpoint: Option<ReconcilerConfig>,
    /// Service accounts' profiles (etcd only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_account: Option<ReconcilerConfig>,
    /// Namespaces' profiles (etcd only).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<ReconcilerConfig>,
    /// Addresses of services of type LoadBalancer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancerControllerConfig>,
    /// Rewriting of what older releases stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub migration: Option<MigrationControllerConfig>,
}

/// Settings of a controller that only compares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReconcilerConfig {
    /// How often it compares everything. Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconciler_period: Option<DurationText>,
}

/// Settings of the controller of nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeControllerConfig {
    /// How often it compares everything. Default: 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconciler_period: Option<DurationText>,
    /// Whether Kubernetes' labels are copied (etcd only): `Enabled` (the default) or `Disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_labels: Option<String>,
    /// Host endpoints that it makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_endpoint: Option<AutoHostEndpointConfig>,
    /// How long an address must seem leaked before it is released. Default: 15m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leak_grace_period: Option<DurationText>,
}

/// Host endpoints that are made for every node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AutoHostEndpointConfig {
    /// Whether any are made: `Enabled` or `Disabled` (the default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_create: Option<String>,
    /// Whether one for all interfaces is: `Enabled` (the default) or `Disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_default_host_endpoint: Option<String>,
    /// Others that are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub templates: Option<Vec<HostEndpointTemplate>>,
}

/// What a host endpoint is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostEndpointTemplate {
    /// Part of its name; unique among the templates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generate_name: Option<String>,
    /// Addresses of the node in these networks are its expected ones.
    #[serde(skip_serializing_if = "Option::is_none", rename = "interfaceCIDRs")]
    pub interface_cidrs: Option<Vec<String>>,
    /// An expression for the interfaces' names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_pattern: Option<String>,
    /// Labels beside the node's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Which nodes get one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<String>,
}

/// Settings of the controller of load balancers' addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancerControllerConfig {
    /// `AllServices` (the default) or `RequestedServicesOnly`.
    #[serde(skip_serializing_if = "Option::is_none", rename = "assignIPs")]
    pub assign_ips: Option<String>,
}

/// Settings of the controller that rewrites old objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MigrationControllerConfig {
    /// Stored names of policies: `Enabled` (the default) or `Disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_name_migrator: Option<String>,
}

/// What the controllers run with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubeControllersConfigurationStatus {
    /// The settings in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_config: Option<KubeControllersConfigurationSpec>,
    /// The environment variables that overrode some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub environment_vars: Option<BTreeMap<String, String>>,
}

impl Spec for KubeControllersConfigurationSpec {
    const KIND: Kind = Kind::KubeControllersConfiguration;
    type Status = KubeControllersConfigurationStatus;
}
