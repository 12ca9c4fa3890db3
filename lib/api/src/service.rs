//! Kubernetes' Services, as far as BGP advertises their addresses.

use serde::{Deserialize, Serialize};

use crate::null::null_is_empty;
use crate::{Kind, Resource, Spec};

/// A Kubernetes Service. Fields beyond these are let pass and not kept.
pub type Service = Resource<ServiceSpec>;

/// The addresses of a service and who may answer under them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP` (the default), `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub service_type: Option<String>,
    /// The first cluster address; `None` as a word, or empty, if the service is headless.
    #[serde(rename = "clusterIP", skip_serializing_if = "Option::is_none")]
    pub cluster_ip: Option<String>,
    /// All cluster addresses, one a family; old objects have only the first.
    #[serde(rename = "clusterIPs", deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub cluster_ips: Vec<String>,
    /// Addresses that users route to the nodes.
    #[serde(rename = "externalIPs", deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub external_ips: Vec<String>,
    /// The address that a user wants from the load balancer.
    #[serde(rename = "loadBalancerIP", skip_serializing_if = "Option::is_none")]
    pub load_balancer_ip: Option<String>,
    /// `Cluster` or `Local`; absent for services without outer addresses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external_traffic_policy: Option<String>,
    /// `IPv4`, `IPv6` or both, in the order of `clusterIPs`.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ip_families: Vec<String>,
}

/// What the load balancer says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStatus {
    /// Where the service is reached from outside.
    #[serde(deserialize_with = "null_is_empty")]
    pub load_balancer: LoadBalancerStatus,
}

/// Where a service is reached from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancerStatus {
    /// The points of entry.
    #[serde(deserialize_with = "null_is_empty", skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<LoadBalancerIngress>,
}

/// One point of entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LoadBalancerIngress {
    /// Its address; absent where it has only a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

impl Spec for ServiceSpec {
    const KIND: Kind = Kind::Service;
    type Status = ServiceStatus;
}

impl ServiceSpec {
    /// The cluster addresses: none if the service is headless.
    pub fn cluster_addresses(&self) -> impl Iterator<Item = &str> {
        let first = self.cluster_ip.as_slice();
        let all = if self.cluster_ips.is_empty() { first } else { self.cluster_ips.as_slice() };
        all.iter().map(String::as_str).filter(|address| !matches!(*address, "" | "None"))
    }

    /// Whether it has no cluster address: `clusterIP` is empty or `None` (vector V3 of the reference).
    pub fn is_headless(&self) -> bool {
        matches!(self.cluster_ip.as_deref(), None | Some("" | "None"))
    }
}

impl Service {
    /// The addresses that the load balancer gave.
    pub fn ingress_addresses(&self) -> impl Iterator<Item = &str> {
        let ingress = self.status.iter().flat_map(|status| &status.load_balancer.ingress);
        ingress.filter_map(|ingress| ingress.ip.as_deref()).filter(|address| !address.is_empty())
    }
}
