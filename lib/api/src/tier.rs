//! Tiers: the order in which groups of policies are looked at.

use serde::{Deserialize, Serialize};

use crate::{Action, Condition, Kind, Resource, Spec};

/// A group of policies.
pub type Tier = Resource<TierSpec>;

/// Where a tier stands, and what it does with packets that no rule of it decides.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TierSpec {
    /// Lower is earlier; absent means 1000000.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "crate::order::serialize")]
    pub order: Option<f64>,
    /// `Deny` (the default) or `Pass`, for endpoints to which a policy of the tier applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_action: Option<Action>,
}

/// What controllers say of a tier.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TierStatus {
    /// Conditions as Kubernetes writes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
}

impl TierSpec {
    /// The tier of policies that name none.
    pub const DEFAULT: &'static str = "default";

    /// Order of a tier that has none.
    pub const DEFAULT_ORDER: f64 = 1_000_000.0;

    /// The tiers that every datastore has, with their order and default action: (name, order, action).
    pub const BUILT_IN: [(&'static str, f64, Action); 3] = [
        ("default", 1_000_000.0, Action::Deny),
        ("kube-admin", 1_000.0, Action::Pass),
        ("kube-baseline", 10_000_000.0, Action::Pass),
    ];
}

impl Spec for TierSpec {
    const KIND: Kind = Kind::Tier;
    type Status = TierStatus;
}
