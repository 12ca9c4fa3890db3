//! What follows from pools, blocks, services, filters and priorities: own routes, policies, and whose routes are whose.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_plan::inputs::advertised;
use bgp_plan::owners::Classes;
use bgp_plan::passwords::NoPassword;
use bgp_plan::policies::{self, Surroundings};
use ipnet::IpNet;
use tracing::{debug, warn};

use super::Speaker;
use crate::fib::Ownership;
use crate::kernel::Interest;
use crate::routing::{Originated, Policies};

/// The largest kernel metric that a LOCAL_PREF can say.
const PRIORITY_LIMIT: u32 = 2_147_483_646;
/// Kernel metric of a normal route where none that can be used is configured.
const NORMAL_PRIORITY: u32 = 1024;

impl Speaker {
    /// Makes the surroundings anew and applies what differs.
    pub(super) fn apply_surroundings(&mut self) {
        let mut surroundings = Surroundings::refresh(&mut self.inputs, &self.node, &self.settings);
        for priority in [&mut surroundings.normal_v4, &mut surroundings.normal_v6] {
            if !(1..=PRIORITY_LIMIT).contains(priority) {
                *priority = NORMAL_PRIORITY;
            }
        }
        let blocks: BTreeSet<IpNet> = match self.settings.use_pod_cidr {
            true => surroundings.blocks.clone(),
            false => {
                let advertised = self.inputs.blocks.iter().filter(|(_, state)| advertised(**state));
                advertised.map(|(block, _)| *block).collect()
            }
        };
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.blocks.set(number(blocks.len()));
        self.metrics.services.set(number(surroundings.services.len()));
        let (normal_v4, normal_v6) = (surroundings.normal_v4, surroundings.normal_v6);
        let ownership = self.ownership_of(&surroundings, &blocks);
        let services = surroundings.services.clone();

        // Policies first: they must know a block before it is judged, so that nothing leaves that must not.
        let exchange = self.book.set(surroundings, &self.inputs.filters);
        if !exchange.policies.is_empty() || exchange.split {
            debug!(policies = exchange.policies.len(), within = ?exchange.within.as_ref().map(Vec::len), "policies exchanged");
            self.metrics.policy_exchanges.inc();
        }
        self.routing.exchange(&exchange);
        if exchange.split {
            for id in self.peers.keys().copied().collect::<Vec<_>>() {
                let Some(peer) = self.peers.get(&id) else { continue };
                let policies = self.policies_of(&peer.config.clone());
                self.routing.set_policies(id, policies);
            }
        }
        self.routing.originate(Originated { blocks, services, normal_v4, normal_v6 });
        if self.ownership.as_ref() != Some(&ownership) {
            self.ownership = Some(ownership.clone());
            self.pending_ownership = Some(ownership);
        }
    }

    /// The policies of a session as the book has them now.
    pub(super) fn policies_of(&mut self, session: &bgp_plan::sessions::SessionConfig) -> Policies {
        Policies { import: self.book.import(session), export: Some(self.book.export(session)) }
    }

    fn ownership_of(&self, surroundings: &Surroundings, blocks: &BTreeSet<IpNet>) -> Ownership {
        let (classes, _) = self.inputs.classes();
        let own = self.inputs.nodes.get(&self.node);
        let mut wireguard: BTreeSet<IpAddr> = BTreeSet::new();
        for facts in self.inputs.nodes.iter().filter(|(name, _)| **name != self.node).map(|(_, facts)| facts) {
            if own.is_some_and(|own| own.wireguard) && facts.wireguard {
                wireguard.extend(facts.ipv4.map(|net| IpAddr::V4(net.addr())));
            }
            if own.is_some_and(|own| own.wireguard_v6) && facts.wireguard_v6 {
                wireguard.extend(facts.ipv6.map(|net| IpAddr::V6(net.addr())));
            }
        }
        Ownership {
            pools: surroundings.pools.clone(),
            blocks: blocks.clone(),
            normal_v4: surroundings.normal_v4,
            normal_v6: surroundings.normal_v6,
            services: surroundings.kernel_ranges.clone(),
            plain: classes.plain,
            ipip: classes.ipip,
            pool_unknown: self.inputs.pool_unknown(),
            address_v4: own.and_then(|facts| facts.ipv4),
            awaited: self.awaited(classes),
            wireguard,
            ignored_interfaces: self.inputs.global.ignored_interfaces.clone().unwrap_or_default(),
        }
    }

    /// The nodes that do not say yet that they take IPIP, if its routes are ours.
    fn awaited(&self, classes: Classes) -> BTreeSet<IpAddr> {
        let others = self.inputs.nodes.iter().filter(|(name, facts)| **name != self.node && !facts.ipip);
        others.filter(|_| classes.ipip).filter_map(|(_, facts)| Some(IpAddr::V4(facts.ipv4?.addr()))).collect()
    }

    /// Asks the kernel's thread for the routes that policies may let out, if that is others than before: all of them if
    /// a session has filters, which may accept anything, else those inside pools and service ranges.
    pub(super) fn ask_for_kernel_routes(&mut self) {
        let filtered = self.inputs.peers.values().any(|peering| !peering.filters.is_empty());
        let interest = match filtered {
            true => Interest::All,
            false => {
                let global = &self.inputs.global;
                let services = super::hear::service_settings(&self.settings, global).kernel_ranges();
                let pools = self.inputs.pools.values().map(|pool| pool.cidr);
                // Blocks outlive their pool, and what is inside one with a raised priority goes out.
                let blocks = self.inputs.blocks.keys().copied();
                Interest::Inside(pools.chain(services).chain(blocks).collect::<BTreeSet<_>>().into_iter().collect())
            }
        };
        if self.interest.as_ref() != Some(&interest) {
            self.interest = Some(interest.clone());
            self.pending_interest = Some(interest);
        }
    }

    /// Tells the kernel's thread by which gateways peers are reached.
    pub(super) fn apply_statics(&mut self) {
        let sessions = self.plan.sessions.iter();
        let statics: BTreeMap<IpAddr, IpAddr> =
            sessions.filter_map(|session| Some((session.peer.ip(), session.reachable_by?))).collect();
        if self.statics != statics {
            self.statics = statics.clone();
            self.pending_statics = Some(statics);
        }
    }

    /// Collects what an operator should know, and logs what is new in it.
    pub(super) fn look_at_warnings(&mut self) {
        let mut conditions: BTreeSet<(&'static str, String)> = BTreeSet::new();
        conditions.extend(self.plan.warnings.iter().map(|warning| ("session", warning.to_string())));
        conditions.extend(self.inputs.faults.values().map(|fault| ("resource", fault.to_string())));
        let policies = policies::warnings(&self.inputs, &self.node, &self.plan.sessions);
        conditions.extend(policies.into_iter().map(|text| ("policy", text)));
        conditions.extend(self.inputs.classes().1.map(|text| ("ownership", text)));
        conditions.extend(self.datastore.services_trouble.iter().map(|reason| {
            ("services", format!("Services cannot be watched, and their addresses are not kept up to date: {reason}"))
        }));
        for peer in self.peers.values() {
            // That a Secret is not read yet is no condition; that it cannot be read will be.
            let refused = peer.refused().filter(|reason| !matches!(reason, NoPassword::Awaited { .. }));
            let reason = refused.map(ToString::to_string).or_else(|| self.key_error(peer));
            conditions.extend(reason.map(|reason| ("password", format!("{}: {reason}", peer.config.name))));
        }
        for (kind, warning) in &conditions {
            if !self.warned.contains(warning) {
                warn!(kind, %warning, "configuration");
            }
        }
        self.metrics.warnings(conditions.iter().map(|(kind, _)| *kind));
        self.warned = conditions.iter().map(|(_, text)| text.clone()).collect();
        self.conditions = conditions;
        self.warnings_stale = false;
    }
}
