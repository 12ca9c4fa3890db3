//! What is known of a prefix: its paths, the chosen ones first.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::decision::{Contender, Decision, Neighbor, decide};
use super::{Exclusion, PeerId, Reachability, RibConfig};
use crate::{Attributes, RouterId};

/// Whose path it is: a peer's number, or this for ourselves.
pub(super) const LOCAL: PeerId = PeerId(u32::MAX);

/// One path of a prefix.
#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) peer: PeerId,
    pub(super) path_id: u32,
    /// After import policy.
    pub(super) attributes: Arc<Attributes>,
    /// Before it, if it changed them.
    pub(super) received: Option<Arc<Attributes>>,
    pub(super) stale: bool,
    pub(super) excluded: Option<Exclusion>,
}

/// The paths of a prefix.
#[derive(Clone, Debug, Default)]
pub(super) struct Entry {
    /// The best first, then those used with it, then the others in no order.
    pub(super) paths: Vec<Path>,
    /// How many are used.
    pub(super) chosen: usize,
}

/// What is known of the next hops of paths.
#[derive(Debug, Default)]
pub(super) struct NextHops(pub(super) HashMap<IpAddr, NextHop>);

/// A next hop.
#[derive(Debug, Default)]
pub(super) struct NextHop {
    /// `None` until the shell tells.
    pub(super) reachability: Option<Reachability>,
    /// How many paths use it.
    pub(super) paths: usize,
    /// Prefixes with paths by it, while nothing is known: so that the first answer costs only these.
    pub(super) waiting: hashbrown::HashSet<crate::Prefix>,
}

/// What counts of peers in a decision, by number.
pub(super) trait Neighbors {
    /// The peer's part in the decision.
    fn neighbor(&self, peer: PeerId) -> Option<Neighbor>;
}

impl Entry {
    /// The best path.
    pub(super) fn best(&self) -> Option<&Path> {
        self.chosen().first()
    }

    /// The paths used, the best first.
    pub(super) fn chosen(&self) -> &[Path] {
        self.paths.get(..self.chosen).unwrap_or_default()
    }

    /// The paths that may be used, with what counts of them.
    pub(super) fn contenders<'a>(
        &'a self,
        peers: &impl Neighbors,
        next_hops: &NextHops,
        config: &RibConfig,
    ) -> Vec<Contender<'a>> {
        let contender = |(index, path): (usize, &'a Path)| {
            let metric = path.usable(next_hops, config)?;
            let peer = if path.peer == LOCAL { None } else { Some(peers.neighbor(path.peer)?) };
            Some(Contender { index, attributes: &path.attributes, peer, metric, path_id: path.path_id })
        };
        self.paths.iter().enumerate().filter_map(contender).collect()
    }

    /// Decides anew, and puts the paths in the order of the outcome.
    pub(super) fn decide(&mut self, peers: &impl Neighbors, next_hops: &NextHops, config: &RibConfig) {
        if let [only] = self.paths.as_slice() {
            self.chosen = only.usable(next_hops, config).is_some().into();
            return;
        }
        let Decision { best, equal, .. } = decide(self.contenders(peers, next_hops, config));
        let Some(best) = best else {
            self.chosen = 0;
            return;
        };
        let mut rank = vec![2_u8; self.paths.len()];
        for (index, value) in equal.into_iter().map(|index| (index, 1)).chain([(best, 0)]) {
            if let Some(rank) = rank.get_mut(index) {
                *rank = value;
            }
        }
        let mut ranked: Vec<(u8, Path)> = rank.into_iter().zip(self.paths.drain(..)).collect();
        // Among equals the order is of no consequence for who is best, but which sixteen are used must not be by chance.
        ranked.sort_by_key(|(rank, path)| (*rank, path.attributes.next_hop, path.peer, path.path_id));
        let used = ranked.iter().filter(|(rank, _)| *rank < 2).count();
        // Own routes are never mixed with learned ones: one is for ourselves, the others are not.
        let alone = ranked.first().is_some_and(|(_, path)| path.peer == LOCAL);
        self.chosen = if alone { 1 } else { used.min(config.multipath.max(1)) };
        self.paths.extend(ranked.into_iter().map(|(_, path)| path));
    }

    /// The next hops of the paths used, sorted, each once.
    pub(super) fn next_hops(&self) -> Vec<IpAddr> {
        let mut hops: Vec<_> = self.chosen().iter().map(|path| path.attributes.next_hop).collect();
        hops.retain(|hop| !hop.is_unspecified());
        hops.sort_unstable();
        hops.dedup();
        hops
    }
}

impl Path {
    /// The distance of the next hop; `None` if the path must not be used.
    pub(super) fn usable(&self, next_hops: &NextHops, config: &RibConfig) -> Option<u32> {
        if self.excluded.is_some() {
            return None;
        }
        if self.peer == LOCAL || !config.resolve_next_hops {
            return Some(0);
        }
        match next_hops.0.get(&self.attributes.next_hop)?.reachability? {
            Reachability::Unreachable => None,
            Reachability::Reachable { metric } => Some(metric),
        }
    }

    /// Whether it is the same path, in the same state, for whoever is told of it.
    pub(super) fn same(&self, other: &Self) -> bool {
        self.peer == other.peer
            && self.path_id == other.path_id
            && Arc::ptr_eq(&self.attributes, &other.attributes)
            && self.excluded == other.excluded
    }
}

/// Identifier of the speaker that brought a path into our AS: what reflection puts into ORIGINATOR_ID.
pub(super) fn originator(path: &Path, router_id: RouterId) -> RouterId {
    path.attributes.originator_id.unwrap_or(router_id)
}
