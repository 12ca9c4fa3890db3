//! What does felix know of pools?

use std::collections::{BTreeMap, BTreeSet};

use bgp_plan::inputs::{Encap, Pool};
use calico_api::{EncapMode, IPPoolSpec, PoolUse};
use ipnet::IpNet;

use super::nets::Lengths;

/// What felix knows of one pool. That it is disabled does not matter: its pods live on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PoolFacts {
    pub(super) cidr: IpNet,
    /// How its packets travel; `None` if no version of the pool said so that can be.
    pub(super) encap: Option<Encap>,
    /// It is for load balancers alone: no node has its addresses.
    pub(super) balancers: bool,
    pub(super) masquerade: bool,
    /// Which tunnels it needs.
    pub(super) ipip: bool,
    pub(super) vxlan: bool,
}

impl PoolFacts {
    fn of(spec: &IPPoolSpec) -> (Option<Self>, Option<String>) {
        let (cidr, encap, fault) = match Pool::understand(spec) {
            Ok(pool) => (pool.cidr, Some(pool.encap), None),
            Err(fault) => match spec.cidr() {
                Some(cidr) => (cidr.trunc(), None, Some(fault)),
                None => return (None, Some(fault)),
            },
        };
        let on = |mode: Option<EncapMode>| mode.unwrap_or_default() != EncapMode::Never;
        let balancers = !spec.allows(PoolUse::Workload) && !spec.allows(PoolUse::Tunnel);
        let facts = Self {
            cidr,
            encap,
            balancers,
            masquerade: spec.nat_outgoing.unwrap_or_default(),
            // Of a pool that nobody understands whichever tunnel it names: routes through it may stand.
            ipip: !balancers && cidr.addr().is_ipv4() && on(spec.ipip_mode),
            vxlan: !balancers && on(spec.vxlan_mode),
        };
        (Some(facts), fault)
    }
}

/// All pools.
#[derive(Debug, Default)]
pub(super) struct Pools {
    by_name: BTreeMap<String, PoolFacts>,
    /// Networks to the names of the pools that have them: the lexically first counts.
    by_cidr: BTreeMap<IpNet, BTreeSet<String>>,
    lengths: Lengths,
    /// Pools that ask for what cannot be, and what is wrong.
    faults: BTreeMap<String, String>,
}

impl Pools {
    /// Takes a pool; returns the networks that it had and has, if anything is different.
    pub(super) fn put(&mut self, name: &str, spec: &IPPoolSpec) -> BTreeSet<IpNet> {
        let (facts, fault) = PoolFacts::of(spec);
        let (bad, known) = (fault.is_some(), self.by_name.contains_key(name));
        match fault {
            Some(fault) => drop(self.faults.insert(name.to_owned(), fault)),
            None => drop(self.faults.remove(name)),
        }
        // The last good version stays; of a pool that never had one counts what can be understood.
        let good = self.by_name.get(name).is_some_and(|known| known.encap.is_some());
        match facts {
            Some(facts) if !(bad && known && good) => self.set(name, Some(facts)),
            _ => BTreeSet::new(),
        }
    }

    /// Forgets a pool; returns the network that it had.
    pub(super) fn delete(&mut self, name: &str) -> BTreeSet<IpNet> {
        self.faults.remove(name);
        self.set(name, None)
    }

    fn set(&mut self, name: &str, facts: Option<PoolFacts>) -> BTreeSet<IpNet> {
        let before = match facts {
            Some(facts) => self.by_name.insert(name.to_owned(), facts),
            None => self.by_name.remove(name),
        };
        if before == facts {
            return BTreeSet::new();
        }
        if let Some(before) = before {
            let left = self.by_cidr.get_mut(&before.cidr).is_none_or(|names| {
                names.remove(name);
                names.is_empty()
            });
            if left && self.by_cidr.remove(&before.cidr).is_some() {
                self.lengths.remove(&before.cidr);
            }
        }
        if let Some(facts) = facts {
            let names = self.by_cidr.entry(facts.cidr).or_default();
            if names.is_empty() {
                self.lengths.add(&facts.cidr);
            }
            names.insert(name.to_owned());
        }
        before.iter().chain(&facts).map(|facts| facts.cidr).collect()
    }

    /// The pool that a network is in, the smallest.
    pub(super) fn of(&self, net: &IpNet) -> Option<&PoolFacts> {
        let outer = self.lengths.covering(net).find_map(|outer| self.by_cidr.get(&outer))?;
        self.by_name.get(outer.first()?)
    }

    /// The pools that have exactly this network.
    pub(super) fn at(&self, cidr: &IpNet) -> impl Iterator<Item = &PoolFacts> {
        let names = self.by_cidr.get(cidr).into_iter().flatten();
        names.filter_map(|name| self.by_name.get(name))
    }

    /// All networks of pools.
    pub(super) fn cidrs(&self) -> impl Iterator<Item = &IpNet> {
        self.by_cidr.keys()
    }

    /// All pools.
    pub(super) fn all(&self) -> impl Iterator<Item = &PoolFacts> {
        self.by_name.values()
    }

    /// Pools that ask for what cannot be, and what is wrong.
    pub(super) fn faults(&self) -> &BTreeMap<String, String> {
        &self.faults
    }
}
