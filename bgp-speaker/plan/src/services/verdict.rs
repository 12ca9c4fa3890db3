//! Is a service advertised from this node? The table V1 to V9 of `bgp.md` §2.5.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Ranges;
use super::facts::{Endpoints, ServiceFacts, TrafficPolicy};
use crate::nets::Nets;

/// What decided about an address of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// V1.
    NodeExcluded,
    /// V2.
    NoAddresses,
    /// V3.
    Headless,
    /// V4.
    SingleLoadBalancerAddress,
    /// V5.
    SingleExternalAddress,
    /// V6.
    Aggregated,
    /// V7. Departs from Calico, which then leaves everything as it was, also if the last slice was deleted.
    NoSlices,
    /// V8, for traffic policy Local.
    AnswersHere,
    /// V8, for any other.
    AnswersAnywhere,
    /// V9, for traffic policy Local.
    SilentHere,
    /// V9, for any other.
    SilentEverywhere,
}

/// An address of a service, and why it is advertised from this node or is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The address, as a network of one.
    pub address: IpNet,
    /// What decided.
    pub step: Step,
}

impl Step {
    /// Whether the address is advertised.
    pub fn advertises(self) -> bool {
        matches!(
            self,
            Self::SingleLoadBalancerAddress | Self::SingleExternalAddress | Self::AnswersHere | Self::AnswersAnywhere
        )
    }
}

/// The step in words.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NodeExcluded => "the node's label exclude-from-external-load-balancers takes it out",
            Self::NoAddresses => "its type is not ClusterIP, NodePort or LoadBalancer",
            Self::Headless => "it is headless",
            Self::SingleLoadBalancerAddress => "its load-balancer address is an entry of serviceLoadBalancerIPs",
            Self::SingleExternalAddress => "an external address of it is an entry of serviceExternalIPs",
            Self::Aggregated => "ranges are advertised in its place: its traffic policy is not Local",
            Self::NoSlices => "no EndpointSlice of it is known",
            Self::AnswersHere => "its traffic policy is Local and an endpoint on this node answers",
            Self::AnswersAnywhere => "an endpoint answers",
            Self::SilentHere => "its traffic policy is Local and no endpoint on this node answers",
            Self::SilentEverywhere => "no endpoint of this address family answers",
        })
    }
}

/// The addresses that a service may have routes for, and what decided about each.
pub(super) fn standings(
    service: &ServiceFacts,
    endpoints: &Endpoints,
    ranges: &Ranges,
    excluded: bool,
) -> Vec<Standing> {
    let cluster = service.cluster.iter().filter(|_| !ranges.cluster.is_empty()).map(|address| IpNet::from(*address));
    let external = service.external.iter().map(|address| IpNet::from(*address));
    let ingress = service.ingress.iter().map(|address| IpNet::from(*address));
    let external = external.filter(|address| ranges.external.cover(address));
    let ingress = ingress.filter(|address| ranges.load_balancer.cover(address));
    let mut addresses: Vec<_> = cluster.chain(external).chain(ingress).collect();
    addresses.sort_unstable();
    addresses.dedup();

    let common = common(service, endpoints, ranges, excluded);
    // Departs from Calico, where an endpoint of either family is enough for the addresses of both.
    let decide = |address: IpNet| {
        let (listed, answers) =
            if address.addr().is_ipv4() { (service.v4, endpoints.v4) } else { (service.v6, endpoints.v6) };
        match service.policy {
            TrafficPolicy::Local if listed && answers.here => Step::AnswersHere,
            TrafficPolicy::Local => Step::SilentHere,
            _ if listed && answers.anywhere => Step::AnswersAnywhere,
            _ => Step::SilentEverywhere,
        }
    };
    let standing = |address| Standing { address, step: common.unwrap_or_else(|| decide(address)) };
    addresses.into_iter().map(standing).collect()
}

/// What is decided for all addresses alike: V1 to V7.
fn common(service: &ServiceFacts, endpoints: &Endpoints, ranges: &Ranges, excluded: bool) -> Option<Step> {
    let is_entry = |nets: &Nets, address: &IpAddr| nets.has(&IpNet::from(*address));
    let cluster_wide = service.policy == TrafficPolicy::Cluster;
    if excluded {
        return Some(Step::NodeExcluded);
    }
    if !service.has_addresses {
        return Some(Step::NoAddresses);
    }
    if service.is_headless {
        return Some(Step::Headless);
    }
    let mut balanced = service.wanted.iter().chain(&service.ingress);
    if cluster_wide && service.is_load_balancer && balanced.any(|ip| is_entry(&ranges.load_balancer, ip)) {
        return Some(Step::SingleLoadBalancerAddress);
    }
    if cluster_wide && service.external.iter().any(|ip| is_entry(&ranges.external, ip)) {
        return Some(Step::SingleExternalAddress);
    }
    if service.policy != TrafficPolicy::Local && ranges.aggregate {
        return Some(Step::Aggregated);
    }
    (!endpoints.known).then_some(Step::NoSlices)
}
