//! What is known of a prefix: its paths, the chosen ones first.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::books::Books;
use super::decision::{Contender, Decision, decide};
use super::import::Admission;
use super::{Exclusion, PeerId, Reachability, RibConfig};
use crate::{Attributes, Prefix, RouterId};

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
    /// An import rule accepted it by name.
    pub(super) explicit: bool,
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
    pub(super) waiting: hashbrown::HashSet<Prefix>,
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
    pub(super) fn contenders<'a>(&'a self, prefix: Prefix, books: &Books, config: &RibConfig) -> Vec<Contender<'a>> {
        let contender = |(index, path): (usize, &'a Path)| {
            let metric = path.usable(&books.next_hops, config)?;
            let peer = if path.peer == LOCAL { None } else { Some(books.neighbor(path.peer)?) };
            let preference = books.preference(prefix, path, config);
            Some(Contender { index, attributes: &path.attributes, preference, peer, metric, path_id: path.path_id })
        };
        self.paths.iter().enumerate().filter_map(contender).collect()
    }

    /// Decides anew, and puts the paths in the order of the outcome.
    pub(super) fn decide(&mut self, prefix: Prefix, books: &Books, config: &RibConfig) {
        if let [only] = self.paths.as_slice() {
            self.chosen = only.usable(&books.next_hops, config).is_some().into();
            return;
        }
        let Decision { best, equal, fell } = decide(self.contenders(prefix, books, config));
        // 0 the best, 1 those as good, then who fell late before who fell early, last who does not take part.
        let mut rank = vec![u8::MAX; self.paths.len()];
        let others = fell.into_iter().map(|(index, step)| (index, u8::MAX - 1 - step as u8));
        for (index, value) in
            others.chain(equal.into_iter().map(|index| (index, 1))).chain(best.map(|index| (index, 0)))
        {
            if let Some(rank) = rank.get_mut(index) {
                *rank = value;
            }
        }
        let mut ranked: Vec<(u8, Path)> = rank.into_iter().zip(self.paths.drain(..)).collect();
        // Among equals the order is of no consequence for who is best, but which are used must not be by chance.
        ranked.sort_by_key(|(rank, path)| (*rank, path.attributes.next_hop, path.peer, path.path_id));
        // Two reflectors tell the same next hop twice: what is limited is where packets go.
        let hop = |at: usize| ranked.get(at).map(|(_, path): &(u8, Path)| path.attributes.next_hop);
        let as_good = ranked.iter().take_while(|(rank, _)| *rank < 2).count();
        let (mut hops, mut chosen) = (0, 0);
        while chosen < as_good {
            // Behind the best, equal ones stand side by side.
            let seen = chosen > 0 && (hop(chosen) == hop(chosen - 1) || hop(chosen) == hop(0));
            if !seen && hops >= config.multipath.max(1) {
                break;
            }
            hops += usize::from(!seen);
            chosen += 1;
        }
        self.chosen = chosen;
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

impl NextHop {
    /// The interface by which packets leave, if known.
    pub(super) fn interface(&self) -> Option<&Arc<str>> {
        self.reachability.as_ref().and_then(Reachability::interface)
    }
}

impl Path {
    /// A path of `peer`, or of ourselves, fresh.
    pub(super) fn new(peer: PeerId, path_id: u32, admission: Admission) -> Self {
        let Admission { attributes, received, excluded, explicit } = admission;
        Self { peer, path_id, attributes, received, stale: false, excluded, explicit }
    }

    /// The attributes before import policy.
    pub(super) fn as_received(&self) -> &Arc<Attributes> {
        self.received.as_ref().unwrap_or(&self.attributes)
    }

    /// The distance of the next hop; `None` if the path must not be used.
    pub(super) fn usable(&self, next_hops: &NextHops, config: &RibConfig) -> Option<u32> {
        if self.excluded.is_some() {
            return None;
        }
        if self.peer == LOCAL || !config.resolve_next_hops {
            return Some(0);
        }
        match next_hops.0.get(&self.attributes.next_hop)?.reachability.as_ref()? {
            Reachability::Unreachable => None,
            Reachability::Reachable { metric, .. } => Some(*metric),
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
