//! Host endpoints: interfaces of nodes to which policy applies.

use serde::{Deserialize, Serialize};

use crate::{Kind, NoStatus, Protocol, Resource, Spec};

/// An interface of a node.
pub type HostEndpoint = Resource<HostEndpointSpec>;

/// Which interface of which node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostEndpointSpec {
    /// The node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The interface's name, or `*` for all of the node's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface_name: Option<String>,
    /// Addresses by which the interface is found if it is not named.
    #[serde(skip_serializing_if = "Option::is_none", rename = "expectedIPs")]
    pub expected_ips: Option<Vec<String>>,
    /// Profiles whose rules and labels it takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    /// Names for ports, for rules that use them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<EndpointPort>>,
}

/// A name for a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

impl Spec for HostEndpointSpec {
    const KIND: Kind = Kind::HostEndpoint;
    type Status = NoStatus;
}
