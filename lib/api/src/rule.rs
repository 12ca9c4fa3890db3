//! The rules of policies and profiles: what a packet must be like, and what is done with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Port, Protocol};

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Lets it through and looks no further.
    Allow,
    /// Drops it.
    Deny,
    /// Logs it and looks further.
    Log,
    /// Skips the rest of the tier.
    Pass,
}

impl Action {
    /// As users spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Log => "Log",
            Self::Pass => "Pass",
        }
    }
}

/// A direction of traffic, seen from the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyType {
    /// Towards the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl PolicyType {
    /// As users spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }
}

/// The directions of a policy that names none: of the rules that it has, and ingress if it has none.
pub fn policy_types(ingress: Option<&[Rule]>, egress: Option<&[Rule]>) -> Vec<PolicyType> {
    let has = |rules: Option<&[Rule]>| rules.is_some_and(|rules| !rules.is_empty());
    match (has(ingress), has(egress)) {
        (true, true) => vec![PolicyType::Ingress, PolicyType::Egress],
        (false, true) => vec![PolicyType::Egress],
        (_, false) => vec![PolicyType::Ingress],
    }
}

/// What enforcing a staged policy would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StagedAction {
    /// Create or replace the policy of that name.
    #[default]
    #[serde(alias = "")]
    Set,
    /// Delete the policy of that name.
    Delete,
    /// Nothing; the policy is being learnt.
    Learn,
    /// Nothing; the policy is not looked at.
    Ignore,
}

/// One rule. Everything that is present must match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// What is done with a packet that matches.
    pub action: Action,
    /// 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<u8>,
    /// The protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Type and code of ICMP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<ICMPFields>,
    /// Any protocol but this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_protocol: Option<Protocol>,
    /// Any type and code of ICMP but these.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "notICMP")]
    pub not_icmp: Option<ICMPFields>,
    /// Where the packet comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<EntityRule>,
    /// Where the packet goes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<EntityRule>,
    /// The HTTP request; needs a proxy that understands it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HTTPMatch>,
    /// Notes on the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<RuleMetadata>,
}

impl Rule {
    /// A rule that every packet matches.
    pub fn all(action: Action) -> Self {
        Self {
            action,
            ip_version: None,
            protocol: None,
            icmp: None,
            not_protocol: None,
            not_icmp: None,
            source: None,
            destination: None,
            http: None,
            metadata: None,
        }
    }
}

/// One side of a packet. Everything that is present must match.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EntityRule {
    /// The address is in one of these networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
    /// The address is of an endpoint or network set with such labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// In which namespaces `selector` looks; `global()` for what is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// The address and port are of a Kubernetes service's endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services: Option<ServiceMatch>,
    /// The port is one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<Port>>,
    /// The address is in none of these networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_nets: Option<Vec<String>>,
    /// The address is not of an endpoint or network set with such labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_selector: Option<String>,
    /// The port is none of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_ports: Option<Vec<Port>>,
    /// The pod runs as one of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_accounts: Option<ServiceAccountMatch>,
}

/// Type and code of ICMP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ICMPFields {
    /// 0 to 254.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub icmp_type: Option<i64>,
    /// 0 to 255; needs the type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
}

/// A Kubernetes service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceMatch {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its namespace; absent means the policy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// Service accounts by name or by label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceAccountMatch {
    /// Any of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<Vec<String>>,
    /// Any with such labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
}

/// A set of HTTP requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HTTPMatch {
    /// Any of these methods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Any of these paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<HTTPPath>>,
}

/// A set of HTTP paths; one of the two fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HTTPPath {
    /// This path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
    /// All paths that begin so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
}

/// Notes on a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleMetadata {
    /// Free text by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}
