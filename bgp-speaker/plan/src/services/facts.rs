//! What matters of a Service and of an EndpointSlice.

use std::collections::BTreeSet;
use std::net::IpAddr;

use calico_api::{EndpointSlice, Service};
use serde::Deserialize;
use serde_json::Value;

/// How traffic from outside is spread over endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TrafficPolicy {
    /// Over all: written so.
    Cluster,
    /// Over those on the node that it came to.
    Local,
    /// Over all: nothing is written, as is usual without outer addresses.
    Unset,
}

/// What matters of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceFacts {
    /// ClusterIP, NodePort or LoadBalancer.
    pub(super) has_addresses: bool,
    pub(super) is_load_balancer: bool,
    pub(super) is_headless: bool,
    pub(super) policy: TrafficPolicy,
    pub(super) cluster: Vec<IpAddr>,
    pub(super) external: Vec<IpAddr>,
    pub(super) wanted: Option<IpAddr>,
    pub(super) ingress: Vec<IpAddr>,
    pub(super) v4: bool,
    pub(super) v6: bool,
}

impl ServiceFacts {
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let service = Service::deserialize(value).map_err(|error| error.to_string())?;
        let spec = &service.spec;
        let service_type = spec.service_type.as_deref().filter(|text| !text.is_empty()).unwrap_or("ClusterIP");
        let cluster = addresses("spec.clusterIPs", spec.cluster_addresses())?;
        let listed = |family: &str, like: fn(&IpAddr) -> bool| match spec.ip_families.is_empty() {
            true => cluster.iter().any(like),
            false => spec.ip_families.iter().any(|other| other == family),
        };
        Ok(Self {
            has_addresses: matches!(service_type, "ClusterIP" | "NodePort" | "LoadBalancer"),
            is_load_balancer: service_type == "LoadBalancer",
            is_headless: spec.is_headless(),
            policy: match spec.external_traffic_policy.as_deref() {
                Some("Local") => TrafficPolicy::Local,
                Some("Cluster") => TrafficPolicy::Cluster,
                _ => TrafficPolicy::Unset,
            },
            v4: listed("IPv4", IpAddr::is_ipv4),
            v6: listed("IPv6", IpAddr::is_ipv6),
            external: addresses("spec.externalIPs", spec.external_ips.iter().map(String::as_str))?,
            wanted: addresses("spec.loadBalancerIP", spec.load_balancer_ip.iter().map(String::as_str))?.pop(),
            ingress: addresses("status.loadBalancer.ingress[].ip", service.ingress_addresses())?,
            cluster,
        })
    }

    /// All addresses that it may have routes for.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.cluster.iter().chain(&self.external).chain(&self.ingress).copied()
    }
}

fn addresses<'a>(field: &str, texts: impl Iterator<Item = &'a str>) -> Result<Vec<IpAddr>, String> {
    let texts = texts.filter(|text| !text.is_empty());
    texts.map(|text| text.parse().map_err(|_| format!("{field} is \"{text}\", expected an address"))).collect()
}

/// What matters of an EndpointSlice. A slice of names (`FQDN`) has no endpoint that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SliceFacts {
    /// The service whose it is.
    pub(super) service: Option<String>,
    is_v4: bool,
    /// Some endpoint answers.
    answers: bool,
    /// Nodes with an endpoint that answers.
    nodes: BTreeSet<String>,
}

impl SliceFacts {
    pub(super) fn read(value: &Value) -> Result<Self, String> {
        let slice = EndpointSlice::deserialize(value).map_err(|error| error.to_string())?;
        let kind = slice.spec.address_type.as_deref();
        let endpoints = slice.spec.endpoints.iter().filter(|_| matches!(kind, Some("IPv4" | "IPv6")));
        // Departs from Calico, which counts the ready only: kube-proxy still sends to endpoints that end, while there
        // are no others (ProxyTerminatingEndpoints), so the route must stay as long.
        let answering = endpoints.filter(|endpoint| {
            let conditions = endpoint.conditions;
            conditions.is_ready() || conditions.is_serving() && conditions.is_terminating()
        });
        let mut facts = Self {
            service: slice.service_name().map(str::to_owned),
            is_v4: kind == Some("IPv4"),
            answers: false,
            nodes: BTreeSet::new(),
        };
        for endpoint in answering {
            facts.answers = true;
            facts.nodes.extend(endpoint.node_name.clone());
        }
        Ok(facts)
    }
}

/// The endpoints of a service, as one node sees them.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Endpoints {
    /// There is a slice, though perhaps without endpoints.
    pub(super) known: bool,
    pub(super) v4: Answers,
    pub(super) v6: Answers,
}

/// Where endpoints of one family answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Answers {
    pub(super) here: bool,
    pub(super) anywhere: bool,
}

impl Endpoints {
    /// With those of one more slice, seen from `node`.
    pub(super) fn with(mut self, slice: &SliceFacts, node: &str) -> Self {
        self.known = true;
        let answers = if slice.is_v4 { &mut self.v4 } else { &mut self.v6 };
        answers.anywhere |= slice.answers;
        answers.here |= slice.nodes.contains(node);
        self
    }
}
