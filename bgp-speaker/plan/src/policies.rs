//! What is told to a peer, and what is believed of it? (`bgp.md` §2.3, §2.9)
//!
//! [`Surroundings`] are all that policies depend on beside filters; [`PolicyBook`] has the policies in force; `export`
//! is the pipeline that each export policy is.

mod book;
mod export;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use bgp_proto::LocalRoute;
use calico_api::{AffinityState, Kind};
use ipnet::IpNet;

pub use self::book::{Exchange, PolicyBook};
use crate::communities::Communities;
use crate::filter::BgpFilter;
use crate::inputs::{Inputs, NodeFacts, Pool};
use crate::services::{EXCLUDED, ServiceSettings, Services};
use crate::sessions::SessionConfig;

/// The largest kernel metric that a LOCAL_PREF can say.
const PRIORITY_LIMIT: u32 = 2_147_483_646;

/// What the process was told on its command line and in its environment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// `CALICO_ADVERTISE_CLUSTER_IPS`: replaces `serviceClusterIPs`.
    pub cluster_ips: Option<Vec<IpNet>>,
    /// Host-local IPAM (`USE_POD_CIDR`): the node's podCIDRs are its blocks.
    pub use_pod_cidr: bool,
    /// Only reflectors tell external peers what they have learned (`BGP_EXPORT_LEARNED=reflectors`).
    pub only_reflectors_export_learned: bool,
    /// The name under which endpoints name this node (`CALICO_K8S_NODE_REF`), if another.
    pub kubernetes_node: Option<String>,
}

/// All that policies depend on beside the session itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Surroundings {
    /// All pools.
    pub pools: Vec<Pool>,
    /// This node's own blocks whose inside is not advertised: those that are confirmed. A block that is being given
    /// up goes out as its pool's other prefixes do.
    pub blocks: BTreeSet<IpNet>,
    /// Service prefixes that this node originates.
    pub services: BTreeSet<IpNet>,
    /// This node reflects routes.
    pub reflector: bool,
    /// `serviceLoadBalancerIPs` and `serviceExternalIPs`, which a reflector passes on.
    pub reflected_services: Vec<IpNet>,
    /// Learned prefixes inside these never go to the kernel.
    pub kernel_ranges: Vec<IpNet>,
    /// Communities that prefixes get when they leave.
    pub communities: Communities,
    /// Kernel metric of a normal IPv4 route.
    pub normal_v4: u32,
    /// Kernel metric of a normal IPv6 route.
    pub normal_v6: u32,
    /// Whether felix programs IPIP routes, so that routes through `tunl0` stay from internal peers.
    pub felix_owns_ipip: bool,
    /// Only reflectors tell external peers what they have learned.
    pub only_reflectors_export_learned: bool,
    /// Names of BGPFilters of which no version was ever understood: where they are named, nothing is told or believed,
    /// since a mistake must open nothing.
    pub unknown_filters: BTreeSet<String>,
}

impl Surroundings {
    /// Those of `node`, after what follows from Services was brought up to date for the next time.
    pub fn refresh(inputs: &mut Inputs, node: &str, settings: &Settings) -> Self {
        let services = ServiceSettings::new(&inputs.global, settings.cluster_ips.as_deref());
        let excluded = excluded(inputs.nodes.get(node));
        inputs.services.refresh(&services, settings.kubernetes_node.as_deref().unwrap_or(node), excluded);
        Self::of(inputs, node, settings)
    }

    /// Those of `node`.
    pub fn of(inputs: &Inputs, node: &str, settings: &Settings) -> Self {
        let facts = inputs.nodes.get(node);
        let global = &inputs.global;
        let services = ServiceSettings::new(global, settings.cluster_ips.as_deref());
        let excluded = excluded(facts);
        let endpoint_node = settings.kubernetes_node.as_deref().unwrap_or(node);
        let blocks = match settings.use_pod_cidr {
            true => facts.iter().flat_map(|facts| &facts.pod_cidrs).map(IpNet::trunc).collect(),
            false => {
                let confirmed = inputs.blocks.iter().filter(|(_, state)| **state == AffinityState::Confirmed);
                confirmed.map(|(block, _)| *block).collect()
            }
        };
        let faulty = inputs.faults.keys().filter(|(kind, _)| *kind == Kind::BGPFilter);
        let unknown_filters = faulty.filter(|(_, name)| !inputs.filters.contains_key(name));
        let mut kernel_ranges = services.kernel_ranges();
        kernel_ranges.extend(inputs.services.strays(&services, endpoint_node, excluded));
        Self {
            pools: inputs.pools.values().copied().collect(),
            blocks,
            services: inputs.services.originated(&services, endpoint_node, excluded),
            reflector: facts.is_some_and(|facts| facts.cluster_id.is_some()),
            reflected_services: services.load_balancer.iter().chain(&services.external).copied().collect(),
            kernel_ranges,
            communities: Communities::of(global, inputs.per_node.get(node)).0,
            normal_v4: metric(global.ipv4_normal_route_priority),
            normal_v6: metric(global.ipv6_normal_route_priority),
            felix_owns_ipip: !inputs.classes().0.ipip,
            only_reflectors_export_learned: settings.only_reflectors_export_learned,
            unknown_filters: unknown_filters.map(|(_, name)| name.clone()).collect(),
        }
    }
}

/// A priority as a kernel metric; one that no LOCAL_PREF can say is not used.
fn metric(priority: Option<u32>) -> u32 {
    priority.filter(|priority| (1..=PRIORITY_LIMIT).contains(priority)).unwrap_or(LocalRoute::NORMAL_METRIC)
}

fn excluded(facts: Option<&NodeFacts>) -> bool {
    facts.is_some_and(|facts| Services::excludes(facts.labels.get(EXCLUDED)))
}

/// What an operator should know of filters, communities and service ranges that are in force for `node` and `sessions`.
pub fn warnings(inputs: &Inputs, node: &str, sessions: &[SessionConfig]) -> Vec<String> {
    let mut warnings = Communities::of(&inputs.global, inputs.per_node.get(node)).1;
    warnings.extend(ServiceSettings::faults(&inputs.global));
    let names: BTreeSet<_> = sessions.iter().flat_map(|session| &session.filters).collect();
    for name in names {
        let texts = inputs.filters.get(name).map(BgpFilter::warnings).unwrap_or_default();
        warnings.extend(texts.iter().map(|text| format!("BGPFilter {name}: {text}")));
    }
    warnings
}
