//! Kubernetes' EndpointSlices: where the endpoints of a service are, and whether they answer.

use serde::{Deserialize, Serialize};

use crate::null::null_is_empty;
use crate::{Kind, NoStatus, Resource, Spec};

/// A part of a service's endpoints. Fields beyond these are let pass and not kept.
pub type EndpointSlice = Resource<EndpointSliceSpec>;

/// The label that names the service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints of one address family. Its fields stand beside `metadata`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSliceSpec {
    /// `IPv4`, `IPv6` or `FQDN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address_type: Option<String>,
    /// The endpoints.
    #[serde(deserialize_with = "null_is_empty")]
    pub endpoints: Vec<ServiceEndpoint>,
}

/// One endpoint of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceEndpoint {
    /// Its addresses, all of them the same endpoint.
    #[serde(deserialize_with = "null_is_empty")]
    pub addresses: Vec<String>,
    /// Whether it answers.
    #[serde(deserialize_with = "null_is_empty")]
    pub conditions: ServiceEndpointConditions,
    /// The node that it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
}

/// Whether an endpoint answers. The methods give the meaning of absent fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceEndpointConditions {
    /// It takes new connections and is not about to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// It answers, though it may be about to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// It is about to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

impl ServiceEndpointConditions {
    /// Unknown counts as ready.
    pub fn is_ready(self) -> bool {
        self.ready.unwrap_or(true)
    }

    /// Unknown is the same as ready.
    pub fn is_serving(self) -> bool {
        self.serving.unwrap_or_else(|| self.is_ready())
    }

    /// Unknown is no.
    pub fn is_terminating(self) -> bool {
        self.terminating.unwrap_or(false)
    }
}

impl Spec for EndpointSliceSpec {
    const KIND: Kind = Kind::EndpointSlice;
    const FLAT: bool = true;
    type Status = NoStatus;
}

impl EndpointSlice {
    /// The service whose endpoints these are, in the slice's own namespace.
    pub fn service_name(&self) -> Option<&str> {
        self.metadata.labels.get(SERVICE_NAME).map(String::as_str).filter(|name| !name.is_empty())
    }
}
