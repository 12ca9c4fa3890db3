//! What is to be said of a node's sessions, though they are made?

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::cluster::{Between, Side};
use super::super::{RemoteSide, Warning};
use super::{Entry, Planner};

impl Planner<'_> {
    /// What is to be said of explicit sessions, as long as there are no others.
    pub(super) fn check_explicit(&mut self) {
        for ((winner, loser), (addresses, differs)) in std::mem::take(&mut self.collisions) {
            let differs: Vec<_> = differs.iter().map(|field| field.as_str()).collect();
            let (winner, loser) = (self.peering_name(winner), self.peering_name(loser));
            self.warnings.push(Warning::Collision { winner, loser, addresses, differs: differs.join(", ") });
        }
        let used: BTreeSet<usize> = self.table.values().map(|entry| entry.by).collect();
        for between in used.iter().filter_map(|by| self.cluster.peerings.get(*by)) {
            let inputs = self.cluster.inputs;
            for filter in between.peering.filters.iter().filter(|filter| !inputs.filters.contains_key(*filter)) {
                let (peer, filter) = (between.name.to_owned(), filter.clone());
                self.warnings.push(match inputs.filter_unknown(&filter) {
                    true => Warning::UnknownFilter { peer, filter },
                    false => Warning::NoFilter { peer, filter },
                });
            }
        }
        self.check_as_numbers();
    }

    /// BGPPeers that give a node's address another AS number than the node's: said on both nodes.
    fn check_as_numbers(&mut self) {
        let cluster = self.cluster;
        for between in &cluster.peerings {
            let RemoteSide::Address { address, peer_as, .. } = &between.peering.remote else { continue };
            for index in cluster.remote(between) {
                let Some(there) = cluster.members.get(*index).filter(|there| there.as_number != *peer_as) else {
                    continue;
                };
                let concerned = match *index == self.index {
                    true => {
                        !matches!(cluster.local(between), Side::Some(members) if members.iter().all(|at| at == index))
                    }
                    false => self.answers_as(*index, between, *peer_as) == Some(false),
                };
                if concerned && !(*index == self.index && self.speaks_as(*peer_as)) {
                    self.warnings.push(Warning::AsMismatch {
                        peer: between.name.to_owned(),
                        address: *address,
                        node: there.name.to_owned(),
                        stated: *peer_as,
                        actual: there.as_number,
                    });
                }
            }
        }
    }

    /// Whether a BGPPeer of this node makes it speak with this AS number (`localASNumber`).
    fn speaks_as(&self, as_number: u32) -> bool {
        self.table.values().any(|entry| entry.session.local_as == as_number)
    }

    /// Whether the node `index` has a session with this one in which it speaks with the AS number that we expect;
    /// `None` if we do not use this BGPPeer.
    fn answers_as(&self, index: usize, between: &Between<'_>, peer_as: u32) -> Option<bool> {
        let session = |entry: &&Entry| entry.session.resource.as_deref() == Some(between.name);
        self.entries().find(session).filter(|_| self.cluster.is_local(between, self.index))?;
        let me = self.cluster.members.get(index)?;
        let mut there = Planner {
            cluster: self.cluster,
            index,
            me,
            table: BTreeMap::new(),
            collisions: BTreeMap::new(),
            warnings: Vec::new(),
            silent: true,
        };
        there.explicit();
        let back =
            |entry: &Entry| entry.session.remote.as_deref() == Some(self.me.name) && entry.session.local_as == peer_as;
        Some(there.entries().any(back))
    }

    /// What is to be said of the sessions as a whole.
    pub(super) fn check(&mut self) {
        let cluster = self.cluster;
        for (address, _) in &self.me.addresses {
            for other in cluster.at(*address).iter().filter(|other| **other != self.index) {
                let other = cluster.members.get(*other).map_or_else(String::new, |other| other.name.to_owned());
                self.warnings.push(Warning::OwnAddress { address: *address, other });
            }
        }
        if cluster.shares_addresses {
            self.check_shared();
        }
        let reflects = |index: &usize| cluster.reflectors.binary_search(index).is_ok();
        let leads_to_one = |entry: &Entry| {
            let node = entry.session.remote.as_deref().and_then(|name| cluster.find(name));
            node.is_some_and(|index| reflects(&index))
        };
        if self.me.facts.cluster_id.is_some() && self.table.is_empty() {
            self.warnings.push(Warning::LoneReflector(self.me.name.to_owned()));
        } else if self.meshes() && !cluster.reflectors.is_empty() && !self.entries().any(leads_to_one) {
            let names = cluster.reflectors.iter().filter_map(|index| cluster.members.get(*index));
            let reflectors = names.map(|there| there.name.to_owned()).collect();
            self.warnings.push(Warning::NoReflector { reflectors });
        }
        self.warnings.extend(cluster.inputs.unread.iter().cloned().map(Warning::UnreadConfiguration));
        self.check_configuration();
    }

    /// Peers whose address another node has too.
    fn check_shared(&mut self) {
        let addresses: BTreeSet<IpAddr> = self.table.keys().map(|(address, _)| *address).collect();
        for address in addresses {
            let there = self.cluster.at(address).iter();
            let mut names = there.filter_map(|index| self.cluster.members.get(*index)).map(|there| there.name);
            let Some(first) = names.next() else { continue };
            for second in names {
                let (first, second) = (first.to_owned(), second.to_owned());
                self.warnings.push(Warning::SharedAddress { address, first, second });
            }
        }
    }

    /// Words of BGPConfiguration `default` that mean their default because nobody knows them.
    fn check_configuration(&mut self) {
        let (global, programs) = (&self.cluster.inputs.global, &self.cluster.inputs.bgp_programs);
        for (field, text, known, default) in [
            ("bindMode", &global.bind_mode, &["None", "NodeIP"][..], "None"),
            (
                "programClusterRoutes",
                programs,
                &["Enabled", "Disabled", "EnabledIPIPOnly", "EnabledNoEncapOnly"],
                "EnabledNoEncapOnly",
            ),
            (
                "serviceLoadBalancerAggregation",
                &global.service_load_balancer_aggregation,
                &["Enabled", "Disabled"],
                "Enabled",
            ),
        ] {
            let unknown = text.as_deref().filter(|text| !text.is_empty() && !known.contains(text));
            if let Some(text) = unknown {
                self.warnings.push(Warning::Ignored {
                    object: "BGPConfiguration default".to_owned(),
                    field: field.to_owned(),
                    reason: format!("is \"{text}\", expected one of {}; {default} is used", known.join(", ")),
                });
            }
        }
    }
}
