//! Profiles: what endpoints of a namespace or a service account have in common.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Resource, Rule, Spec};

/// `kns.<namespace>`, `ksa.<namespace>.<service account>`, or one of a user.
pub type Profile = Resource<ProfileSpec>;

/// Rules that apply after every tier has passed, and labels that endpoints inherit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProfileSpec {
    /// Rules for what comes to the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Rule>>,
    /// Rules for what the endpoint sends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Rule>>,
    /// Labels that endpoints inherit, unless they have such a label themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels_to_apply: Option<BTreeMap<String, String>>,
}

impl Spec for ProfileSpec {
    const KIND: Kind = Kind::Profile;
    type Status = NoStatus;
}
