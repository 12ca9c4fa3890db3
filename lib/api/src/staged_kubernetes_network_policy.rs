//! Kubernetes' own network policies, staged.
//!
//! The parts are Kubernetes' `networking.k8s.io/v1` types, written out so that unknown fields in them are found.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, PolicyType, Port, Resource, Spec, StagedAction};

/// A Kubernetes network policy that is shown but not enforced.
pub type StagedKubernetesNetworkPolicy = Resource<StagedKubernetesNetworkPolicySpec>;

/// What the policy would allow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StagedKubernetesNetworkPolicySpec {
    /// What enforcing it would do; absent means `Set`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staged_action: Option<StagedAction>,
    /// Which pods it applies to; absent or empty means all of the namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// What may come to the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<KubernetesIngressRule>>,
    /// What the pods may send.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<KubernetesEgressRule>>,
    /// The directions it applies to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_types: Option<Vec<PolicyType>>,
}

/// A set of labels as Kubernetes describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels with exactly these values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Further conditions; all must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<LabelSelectorRequirement>>,
}

/// One condition on a label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LabelSelectorRequirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// The values of `In` and `NotIn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

/// What may come to the pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubernetesIngressRule {
    /// To any of these ports; absent or empty means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<KubernetesPort>>,
    /// From any of these; absent or empty means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Vec<KubernetesPeer>>,
}

/// What the pods may send.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct KubernetesEgressRule {
    /// To any of these ports; absent or empty means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<KubernetesPort>>,
    /// To any of these; absent or empty means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Vec<KubernetesPeer>>,
}

/// A port, or a range of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesPort {
    /// `TCP` (the default), `UDP` or `SCTP`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// A port or the name of one; absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// The last port of a range that begins with `port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_port: Option<i32>,
}

/// Who may send or receive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KubernetesPeer {
    /// Pods with such labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Pods of namespaces with such labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_block: Option<IPBlock>,
}

/// A network without some of its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IPBlock {
    /// The network.
    pub cidr: String,
    /// The parts that do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<String>>,
}

impl Spec for StagedKubernetesNetworkPolicySpec {
    const KIND: Kind = Kind::StagedKubernetesNetworkPolicy;
    type Status = NoStatus;
}
