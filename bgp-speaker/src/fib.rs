//! Where would the kernel send a packet for a next hop, and may a learned prefix become a route?
//!
//! | file | question |
//! |---|---|
//! | `image.rs` | what do others have in the kernel? |
//! | `local.rs` | what are others' routes to BGP? |
//! | `ownership.rs` | whose are which prefixes? |
//! | `resolve.rs` | where does a next hop lead? |
//! | `judge.rs` | may a learned prefix become a route? |
//!
//! Everything here is computed from the present alone, so the order in which routes came or went plays no part.

mod image;
mod judge;
mod local;
mod ownership;
mod resolve;
#[cfg(test)]
mod vectors;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub use image::{Foreign, Image, LinkFacts};
pub use judge::{Elsewhere, Learned, Verdict};
pub use local::KernelRoute;
pub use ownership::Ownership;
pub use resolve::{Hop, Unreachable};

/// Most next hops of one route.
pub const MAX_PATHS: usize = 16;

/// A learned prefix and what was decided about it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its best paths.
    pub learned: Learned,
    /// What the kernel is to do about it; `None` if that was not decided yet.
    pub verdict: Option<Verdict>,
}

/// All that decides about routes.
#[derive(Debug, Default)]
pub struct Fib {
    image: Image,
    ownership: Ownership,
    /// Peers that are reached by a host route of ours, and their gateways.
    statics: BTreeMap<IpAddr, IpAddr>,
    learned: BTreeMap<IpNet, Entry>,
    /// What was found out about next hops since something that matters to them changed: thousands of prefixes have few.
    /// Only those are here on whose way there is no learned prefix.
    resolved: RefCell<BTreeMap<IpAddr, resolve::Found>>,
}

impl Fib {
    /// What others have in the kernel.
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The same, to be changed: next hops inside `prefix` may lead elsewhere then.
    pub fn image_of(&mut self, prefix: &IpNet) -> &mut Image {
        self.forget(prefix);
        &mut self.image
    }

    /// The same, to be changed all over.
    pub fn whole_image(&mut self) -> &mut Image {
        self.resolved.get_mut().clear();
        &mut self.image
    }

    /// Whose are which prefixes.
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// Takes over who owns what; returns the prefixes that this may matter to, with all that lead to them, or `None` if it
    /// may matter to any.
    pub fn set_ownership(&mut self, ownership: Ownership) -> Option<BTreeSet<IpNet>> {
        let mut old = std::mem::replace(&mut self.ownership, ownership);
        let (before, now) = (std::mem::take(&mut old.awaited), std::mem::take(&mut self.ownership.awaited));
        // Nodes that become ready are many, one by one, and each matters only to what has it as its next hop. Where a next
        // hop leads without learned prefixes, and only that is remembered, does not depend on them.
        let alone = old == self.ownership;
        let changed = alone.then(|| before.symmetric_difference(&now).copied().map(IpNet::from).collect());
        self.ownership.awaited = now;
        if changed.is_some() {
            return changed;
        }
        self.resolved.get_mut().clear();
        self.image.set_ignored(&self.ownership.ignored_interfaces);
        None
    }

    /// Peers that are reached by a host route of ours, and their gateways.
    pub fn statics(&self) -> &BTreeMap<IpAddr, IpAddr> {
        &self.statics
    }

    /// Takes over which peers are reached by host routes; returns the prefixes that this may matter to.
    pub fn set_statics(&mut self, statics: BTreeMap<IpAddr, IpAddr>) -> BTreeSet<IpNet> {
        let old = std::mem::replace(&mut self.statics, statics);
        let differs = |peer: &&IpAddr| old.get(peer) != self.statics.get(peer);
        let changed: BTreeSet<_> =
            old.keys().chain(self.statics.keys()).filter(differs).map(|peer| IpNet::from(*peer)).collect();
        changed.iter().for_each(|prefix| self.forget(prefix));
        changed
    }

    /// The learned prefixes.
    pub fn learned(&self) -> &BTreeMap<IpNet, Entry> {
        &self.learned
    }

    /// Takes or forgets the best paths of a prefix; returns what was there.
    pub fn learn(&mut self, prefix: IpNet, learned: Option<Learned>) -> Option<Entry> {
        self.forget(&prefix);
        match learned {
            Some(learned) => {
                let verdict = self.learned.get(&prefix).and_then(|entry| entry.verdict.clone());
                self.learned.insert(prefix, Entry { learned, verdict })
            }
            None => self.learned.remove(&prefix),
        }
    }

    /// Decides about a learned prefix anew; returns the old decision and the new one if they differ.
    pub fn decide(&mut self, prefix: &IpNet) -> Option<(Option<Verdict>, Verdict)> {
        let entry = self.learned.get(prefix)?;
        let verdict = self.judge(prefix, &entry.learned);
        if entry.verdict.as_ref() == Some(&verdict) {
            return None;
        }
        let entry = self.learned.get_mut(prefix)?;
        Some((entry.verdict.replace(verdict.clone()), verdict))
    }

    /// Whether a next hop is in this node's subnet, so that no router sees what is sent to it.
    fn is_in_subnet(&self, next_hop: IpAddr) -> bool {
        let Some(address) = self.ownership.address_v4 else { return false };
        let held = self.image.held(IpAddr::V4(address.addr()));
        bgp_plan::subnet::of(address.into(), &held).is_some_and(|subnet| subnet.contains(&next_hop))
    }

    /// Next hops inside a prefix may lead elsewhere now.
    fn forget(&mut self, prefix: &IpNet) {
        let resolved = self.resolved.get_mut();
        let inside = resolved.range(prefix.network()..=prefix.broadcast());
        let inside: Vec<_> = inside.map(|(next_hop, _)| *next_hop).collect();
        for next_hop in inside {
            resolved.remove(&next_hop);
        }
    }
}
