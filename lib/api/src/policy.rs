//! Network policies, for a namespace or the cluster, and their staged twins.

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, PolicyType, Resource, Rule, Spec, StagedAction};

/// A policy of a namespace.
pub type NetworkPolicy = Resource<NetworkPolicySpec>;
/// A policy of the cluster.
pub type GlobalNetworkPolicy = Resource<GlobalNetworkPolicySpec>;
/// A policy of a namespace that is shown but not enforced.
pub type StagedNetworkPolicy = Resource<StagedNetworkPolicySpec>;
/// A policy of the cluster that is shown but not enforced.
pub type StagedGlobalNetworkPolicy = Resource<StagedGlobalNetworkPolicySpec>;

/// A policy's spec: the fields that all four kinds have, and before them those of the one kind.
macro_rules! policy_spec {
    ($(#[$about:meta])* $name:ident $kind:ident { $($(#[$doc:meta])* $field:ident $json:literal: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $(
                $(#[$doc])*
                #[serde(rename = $json, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$type>,
            )*
            /// The tier; absent means `default`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub tier: Option<String>,
            /// Lower is earlier; absent is last.
            #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::order::serialize")]
            pub order: Option<f64>,
            /// Rules for what comes to the endpoint.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub ingress: Option<Vec<Rule>>,
            /// Rules for what the endpoint sends.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub egress: Option<Vec<Rule>>,
            /// Which endpoints it applies to; absent or empty means `all()`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub selector: Option<String>,
            /// The directions it applies to; absent or empty means as [`policy_types`](crate::policy_types) derives.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub types: Option<Vec<PolicyType>>,
            /// Restricts it to pods of the service accounts that this selects.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub service_account_selector: Option<String>,
            /// `AssumeNeededOnEveryNode`.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub performance_hints: Option<Vec<String>>,
        }

        impl Spec for $name {
            const KIND: Kind = Kind::$kind;
            type Status = NoStatus;
        }
    };
}

policy_spec! {
    /// What a policy of a namespace allows and denies.
    NetworkPolicySpec NetworkPolicy {}
}

policy_spec! {
    /// What a policy of the cluster allows and denies.
    GlobalNetworkPolicySpec GlobalNetworkPolicy {
        /// Applied before connection tracking, statelessly.
        do_not_track "doNotTrack": bool,
        /// Applied before destination NAT; ingress only.
        pre_dnat "preDNAT": bool,
        /// Also for packets that a host endpoint's node forwards.
        apply_on_forward "applyOnForward": bool,
        /// Restricts it to pods of the namespaces that this selects.
        namespace_selector "namespaceSelector": String,
    }
}

policy_spec! {
    /// What a policy of a namespace would allow and deny.
    StagedNetworkPolicySpec StagedNetworkPolicy {
        /// What enforcing it would do; absent means `Set`.
        staged_action "stagedAction": StagedAction,
    }
}

policy_spec! {
    /// What a policy of the cluster would allow and deny.
    StagedGlobalNetworkPolicySpec StagedGlobalNetworkPolicy {
        /// What enforcing it would do; absent means `Set`.
        staged_action "stagedAction": StagedAction,
        /// Applied before connection tracking, statelessly.
        do_not_track "doNotTrack": bool,
        /// Applied before destination NAT; ingress only.
        pre_dnat "preDNAT": bool,
        /// Also for packets that a host endpoint's node forwards.
        apply_on_forward "applyOnForward": bool,
        /// Restricts it to pods of the namespaces that this selects.
        namespace_selector "namespaceSelector": String,
    }
}
