//! Which parts of the plan may a change have touched?

use std::ops::{BitOr, BitOrAssign};

use calico_api::BGPConfigurationSpec;

use super::{Inputs, NodeFacts};
use crate::services::EXCLUDED;

/// Which parts of the plan a change may have touched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The sessions, or the warnings about them, may be others now.
    pub sessions: bool,
    /// The node's own blocks may be others now.
    pub blocks: bool,
    /// The pools may be others now.
    pub pools: bool,
    /// A BGPFilter may be another now.
    pub filters: bool,
    /// Services, their endpoints, or whether this node takes part, may be others now.
    pub services: bool,
    /// Anything else that export, import or the kernel's routes depend on: advertised communities, priorities, ranges.
    pub surroundings: bool,
    /// How much is logged (`logSeverityScreen`) may be another now.
    pub log: bool,
}

impl Touched {
    /// Whether anything is touched at all.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

impl BitOrAssign for Touched {
    fn bitor_assign(&mut self, other: Self) {
        self.sessions |= other.sessions;
        self.blocks |= other.blocks;
        self.pools |= other.pools;
        self.filters |= other.filters;
        self.services |= other.services;
        self.surroundings |= other.surroundings;
        self.log |= other.log;
    }
}

impl BitOr for Touched {
    type Output = Self;

    fn bitor(mut self, other: Self) -> Self {
        self |= other;
        self
    }
}

/// What a change of the Node `name` touches, seen from `node`.
pub(super) fn by_node(
    inputs: &Inputs,
    node: &str,
    name: &str,
    old: Option<&NodeFacts>,
    new: Option<&NodeFacts>,
) -> Touched {
    let own = name == node;
    // Nodes' readiness for IPIP matters to who programs its routes.
    let tunnels = !own && inputs.classes().0.ipip;
    let (Some(old), Some(new)) = (old, new) else {
        let facts = old.or(new);
        return Touched {
            sessions: facts.is_some(),
            blocks: own,
            services: own,
            surroundings: own || tunnels || facts.is_some_and(|facts| facts.wireguard || facts.wireguard_v6),
            ..Touched::default()
        };
    };
    let selected = |facts: &NodeFacts| {
        let labels = facts.labels.clone();
        inputs.peers.values().flat_map(|peer| peer.node_selectors()).map(move |selector| selector.matches(&labels))
    };
    let encrypts = |facts: &NodeFacts| {
        (facts.wireguard.then_some(facts.ipv4).flatten(), facts.wireguard_v6.then_some(facts.ipv6).flatten())
    };
    Touched {
        sessions: !old.peers_as(new)
            || own && (old.ipv4, old.ipv6) != (new.ipv4, new.ipv6)
            || old.labels != new.labels && !selected(old).eq(selected(new)),
        blocks: own && old.pod_cidrs != new.pod_cidrs,
        services: own && old.labels.get(EXCLUDED) != new.labels.get(EXCLUDED),
        surroundings: own
            && (old.ipv4, old.ipv6, old.cluster_id, old.as_number)
                != (new.ipv4, new.ipv6, new.cluster_id, new.as_number)
            || encrypts(old) != encrypts(new)
            || tunnels && (old.ipv4.map(|net| net.addr()), old.ipip) != (new.ipv4.map(|net| net.addr()), new.ipip)
            || own && (old.wireguard, old.wireguard_v6) != (new.wireguard, new.wireguard_v6),
        ..Touched::default()
    }
}

/// What a change of BGPConfiguration `default` touches.
pub(super) fn by_global(old: &BGPConfigurationSpec, new: &BGPConfigurationSpec) -> Touched {
    let sessions = |spec: &BGPConfigurationSpec| {
        (
            spec.node_to_node_mesh_enabled,
            spec.as_number,
            spec.listen_port,
            spec.bind_mode.clone(),
            spec.node_mesh_password.clone(),
            spec.node_mesh_max_restart_time.clone(),
            // Words of which the plan says so if they are unknown.
            spec.service_load_balancer_aggregation.clone(),
        )
    };
    let services = |spec: &BGPConfigurationSpec| {
        (
            spec.service_cluster_ips.clone(),
            spec.service_external_ips.clone(),
            spec.service_load_balancer_ips.clone(),
            spec.service_load_balancer_aggregation.clone(),
        )
    };
    let surroundings = |spec: &BGPConfigurationSpec| {
        (
            spec.communities.clone(),
            spec.prefix_advertisements.clone(),
            spec.ignored_interfaces.clone(),
            spec.ipv4_normal_route_priority,
            spec.ipv6_normal_route_priority,
        )
    };
    let services = services(old) != services(new);
    Touched {
        sessions: sessions(old) != sessions(new),
        services,
        surroundings: services || surroundings(old) != surroundings(new),
        log: old.log_severity_screen != new.log_severity_screen,
        ..Touched::default()
    }
}

/// What a change of the BGPConfiguration of one node touches; `own` if the node is ours.
pub(super) fn by_per_node(own: bool, old: &BGPConfigurationSpec, new: &BGPConfigurationSpec) -> Touched {
    Touched {
        sessions: old.listen_port != new.listen_port,
        surroundings: own
            && (&old.communities, &old.prefix_advertisements) != (&new.communities, &new.prefix_advertisements),
        log: own && old.log_severity_screen != new.log_severity_screen,
        ..Touched::default()
    }
}
